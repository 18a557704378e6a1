//! From what workloads did to a policy that permits it.

mod group;
mod network;
mod propose;
mod record;

pub use network::network_rules;
pub use propose::{Proposal, propose};
pub use record::{
    Hours, Learned, LearnedAddress, LearnedFlow, LearnedPeer, LearnedReport, LearnedWorkload,
    MAX_ADDRESSES, MAX_FLOWS, When,
};
