//! From what workloads did to a policy that permits it.

mod group;
mod network;
mod propose;
mod record;

pub use network::network_rules;
pub use propose::{Proposal, propose};
pub use record::{
    Configured, Hours, Learned, LearnedAddress, LearnedFlow, LearnedPeer, LearnedReport,
    LearnedWorkload, MAX_ADDRESSES, MAX_ADDRESSES_A_WORKLOAD, MAX_FLOWS, When,
};
