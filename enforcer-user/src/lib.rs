//! The userspace half of the enforcer: identities, policy, the sans-IO engine, and the edges that
//! load the datapath, answer its questions and show its state.

pub mod identity;
pub mod policy;
