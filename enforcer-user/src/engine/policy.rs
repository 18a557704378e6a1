//! The whole policy: rules on identities, network rules, and where the mesh is.

use ipnet::IpNet;

use crate::policy::{NetworkRule, PolicySet};

/// One generation of the policy. It never changes; a reload makes a new one.
#[derive(Debug)]
pub struct Policy {
    /// Rules on identities.
    pub identities: PolicySet,
    /// Rules for what has no identity, in the order of the configuration.
    pub network: Vec<NetworkRule>,
    /// Destinations where peers are expected to speak the protocol.
    pub mesh: Vec<IpNet>,
    /// Destinations that may answer from another address.
    pub virtual_addresses: Vec<IpNet>,
}
