//! The userspace half of the enforcer: identities, policy, the sans-IO engine, and the edges that
//! load the datapath, answer its questions and show its state.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod engine;
pub mod explain;
pub mod heap;
pub mod identity;
pub mod logging;
pub mod materials;
pub mod metrics;
pub mod policy;
pub mod service;
