//! From what workloads did to a policy that permits it.

mod group;
mod propose;
mod record;

pub use propose::{Proposal, propose};
pub use record::{
    Hours, Learned, LearnedFlow, LearnedPeer, LearnedReport, LearnedWorkload, MAX_FLOWS,
};
