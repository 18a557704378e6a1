//! The userspace half of the enforcer: identities, policy, the sans-IO engine, and the edges that
//! load the datapath, answer its questions and show its state.

// A panic that input could reach would be a way to end the daemon. Each exception says why it is none.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod checksum;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
#[allow(
    clippy::indexing_slicing,
    reason = "pairs are indexed by the parity of an epoch, addresses have 16 bytes, and a segment is cut where it was \
              found long enough"
)]
pub mod engine;
pub mod explain;
pub mod fault;
pub mod heap;
pub mod identity;
pub mod kubernetes;
pub mod learn;
pub mod logging;
pub mod materials;
pub mod metrics;
pub mod policy;
pub mod sandbox;
pub mod service;
