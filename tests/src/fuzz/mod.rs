//! What the fuzz targets check, one module a target: `run` takes any bytes and panics when a
//! property does not hold. `tests/fuzz` links each to libFuzzer; `cargo xtask fuzz` and the layer
//! `fuzz` of `cargo xtask test` run them, docs/TESTING.md says how.
//!
//! A target that takes a frame, a text or a file as it comes checks that reading it neither panics
//! nor leaves its bounds, that what is accepted encodes to the same bytes again, and that a second
//! reading, written down plainly and without regard to the kernel's needs, agrees. A target that
//! makes something of its input with a [`feed::Feed`] checks that it reads back as it was made.

// A property that does not hold is a panic; a section on each function would say the same.
#![allow(clippy::missing_panics_doc)]

pub mod armor;
pub mod certificate;
pub mod config;
pub mod control;
pub mod credential;
pub mod datapath;
pub mod envelope;
pub mod feed;
pub mod frame;
pub mod memory;
pub mod names;
pub mod network_rule;
pub mod option;
pub mod pki;
pub mod policy;
pub mod record;

#[cfg(test)]
mod corpus;
