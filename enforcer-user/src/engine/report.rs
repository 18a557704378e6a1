//! What the control socket tells of the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use enforcer_common::abi::Handle;

use super::Engine;
use super::clock::Now;
use super::counters::Counters;
use super::observed::Denials;
use super::peers::Vetted;
use crate::identity::Identity;
use crate::learn::Learned;
use crate::policy::Policy;

/// A few numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Epoch in force.
    pub epoch: u32,
    /// How often a policy was put in force.
    pub policy_generation: u64,
    /// Workloads served.
    pub workloads: usize,
    /// Peers in the kernel.
    pub peers: usize,
    /// Verdicts in the kernel.
    pub verdicts: usize,
    /// Jobs under way.
    pub jobs: usize,
    /// Refused credentials that are remembered.
    pub refused: usize,
}

/// A workload, for a report.
#[derive(Debug, Clone)]
pub struct WorkloadView {
    /// Its id.
    pub id: u16,
    /// Who it is.
    pub identity: Identity,
    /// Bits of [`enforcer_common::abi::workload_flags`].
    pub flags: u32,
    /// Handle of the credential that the kernel stamps, and the second (Unix time) it ends.
    pub credential: Option<(Handle, u64)>,
}

/// A peer, for a report.
#[derive(Debug, Clone)]
pub struct IdentityView {
    /// Handle of the peer's credential.
    pub handle: Handle,
    /// The local workload of the pair.
    pub workload: Option<u16>,
    /// Identity id.
    pub id: u64,
    /// Who it is, if that is known.
    pub identity: Option<Identity>,
    /// The second (Unix time) at which the pair ends.
    pub expires_unix: u64,
}

impl Engine {
    /// A few numbers.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            epoch: self.epoch,
            policy_generation: self.policy_generation,
            workloads: self.workloads.len(),
            peers: self.peers.len(),
            verdicts: self.verdicts.len(),
            jobs: self.jobs.len(),
            refused: self.negative.len(),
        }
    }

    /// What would have been denied and passed.
    #[must_use]
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// What workloads that learn did.
    #[must_use]
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Goes on from what was learned before, or begins anew.
    pub fn set_learned(&mut self, learned: Learned) {
        self.learned = learned;
        // It must be noted anew who is watched.
        self.watched_ns = 0;
    }

    /// Every counter of the engine.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        self.policy.as_ref()
    }

    /// All workloads, by id.
    #[must_use]
    pub fn workloads(&self, now: Now) -> Vec<WorkloadView> {
        let view = |workload: &super::workloads::Workload| WorkloadView {
            id: workload.id,
            identity: workload.identity().clone(),
            flags: workload.value.flags,
            credential: workload.current().map(|own| (own.handle, now.unix_at(own.deadline_ns))),
        };
        self.workloads.iter().map(view).collect()
    }

    /// What a workload is called here: its name, or its path if another has that name too.
    #[must_use]
    pub fn name_of(&self, workload: &Identity) -> String {
        self.workloads.name_of(workload)
    }

    /// The id of the workload of this path or SPIFFE ID, or of this name if only one has it.
    #[must_use]
    pub fn workload_id(&self, name: &str) -> Option<u16> {
        self.workloads.named(name).map(|workload| workload.id)
    }

    /// The workload of this id.
    #[must_use]
    pub fn workload_identity(&self, id: u16) -> Option<&Identity> {
        self.workloads.get(id).map(super::workloads::Workload::identity)
    }

    /// Who has this identity id: a peer or a workload of this node.
    #[must_use]
    pub fn identity(&self, id: u64) -> Option<&Identity> {
        let own = || self.workloads.iter().find(|workload| workload.value.identity == id);
        self.peers
            .known(id)
            .map(super::peers::identity_of)
            .or_else(|| own().map(super::workloads::Workload::identity))
    }

    /// Every identity of a peer that is known.
    pub fn known_peers(&self) -> impl Iterator<Item = &Identity> {
        self.peers.identities().map(|(_, known)| super::peers::identity_of(known))
    }

    /// The second (Unix time) at which this node's certificate ends; none with a pre-shared key.
    #[must_use]
    pub fn node_certificate_end(&self) -> Option<u64> {
        self.issuer.certificate().map(|certificate| certificate.validity().not_after)
    }

    /// All peers, once for each workload: with whichever of its credentials ends last.
    #[must_use]
    pub fn identities(&self, now: Now) -> Vec<IdentityView> {
        let view = |key: &enforcer_common::abi::PeerKey, peer: &super::peers::Peer| IdentityView {
            handle: key.remote,
            workload: self.workloads.by_handle(key.local).map(|workload| workload.id),
            id: peer.identity,
            identity: self.identity(peer.identity).cloned(),
            expires_unix: now.unix_at(peer.deadline_ns),
        };
        let mut views: BTreeMap<(Option<u16>, Handle), IdentityView> = BTreeMap::new();
        for (key, peer) in self.peers.iter() {
            let view = view(key, peer);
            let kept = views.entry((view.workload, view.handle)).or_insert_with(|| view.clone());
            kept.expires_unix = kept.expires_unix.max(view.expires_unix);
        }
        views.into_values().collect()
    }

    /// At least as many as [`Self::remembered`] gives, without the work.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.peers.memory()
    }

    /// What was verified and should be known again after a restart. No secrets.
    #[must_use]
    pub fn remembered(&self) -> Vec<Arc<Vetted>> {
        self.peers.remembered()
    }
}
