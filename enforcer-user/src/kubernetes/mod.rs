//! Kubernetes network policies, with the semantics of upstream: what a set of manifests says about who reaches whom.
//!
//! NetworkPolicy is `networking.k8s.io/v1` (k8s.io/api/networking/v1), ClusterNetworkPolicy is
//! `policy.networking.k8s.io/v1alpha2` (sigs.k8s.io/network-policy-api). What either says that cannot be honoured is an
//! error where it is read; nothing of a policy is passed over.

mod block;
mod cedar;
mod cluster;
mod cluster_policy;
mod condition;
mod decide;
mod enforced;
mod error;
mod label;
mod manifest;
mod network_policy;
mod networks;
mod object;
mod port;
mod selector;
mod text;

#[cfg(test)]
mod enforced_tests;
#[cfg(test)]
mod tests;

pub use cluster::{Cluster, Host, MAX_PEERS, Peer, Pod};
pub use decide::{Because, Decision, Judge, Tier};
pub use enforced::{Enforced, EnforcedError};
pub use error::ManifestError;
pub use port::{Port, Protocol};
