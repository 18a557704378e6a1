//! One enforcer's handshake as a function: tables, a segment in; tables, an outcome out. What the model checker explores
//! (`tests/handshake`), and what the loaded programs are compared with, step by step (`tests/tests/prog_model.rs`).
//!
//! **Real** is what is pure: the map values, the option, the inputs of all MACs and their hash, the comparison of MACs,
//! and the life of a flow are those of `enforcer-common`. **By hand** is the wiring that exists only as eBPF, function by
//! function under the same names: which table is asked in which order, and what is written. The comparison holds it to the
//! programs.
//!
//! Left out, and tested elsewhere: bytes (parsing, checksums, room for the option), rates and sizes, network rules beyond
//! yes and no, older connections, protocols other than TCP.

mod answer;
mod flow;
pub mod mac;
mod node;
mod open;
mod segment;
mod weakening;

pub use node::{Asked, Node, Outcome, Peer, Said};
pub use segment::{End, Prefix, Segment, Tuple};
pub use weakening::Weakening;
