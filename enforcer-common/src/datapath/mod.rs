//! The datapath's decisions as pure functions over the map values; the kernel programs wire them.

pub mod attempt;
pub mod bucket;
pub mod flow;
pub mod network;
pub mod opaque;
pub mod sequence;
pub mod share;
