//! What to verify, what to decide and what to install: the daemon's mind, without hands.
//!
//! `input -> read -> verify -> decide -> install -> release`. [`Engine::handle`] takes what
//! happened and the time, and gives what is to be done, in order. It does no I/O, reads no clock
//! and waits for nothing; slow computations leave as [`Job`]s and come back as results.
//!
//! # Leases
//! A verdict ends with the credentials it rests on. While this daemon lives, it renews verdicts
//! that flows stand on before they end, as long as the policy allows the connection, the identity
//! is not revoked, and the certificate of the node that signed for it counts: at most for one
//! credential lifetime at a time. So a connection outlives rotations, and with the daemon away
//! nothing outlives its deadline.
//!
//! # Clocks
//! What a credential says in wall time becomes a deadline in boot time once, when it is verified or
//! issued. A wall clock that is set later neither ends it nor prolongs it. What is new is judged by
//! the wall clock: credentials, leases, and windows of time in the policy.
//!
//! # Restarts
//! The kernel's maps hold no claims. A memory file beside them does ([`Engine::remembered`]), so
//! that a new daemon can judge adopted verdicts again and pair its new credentials with the peers
//! it finds, before they are used. A peer that is not remembered is verified again when it comes;
//! a verdict of one holds to its deadline or to the next policy change, whichever is first.
//! Secrets are never written: attempts that are frozen on a credential of the earlier daemon
//! succeed with known peers only.
//!
//! # Bounds
//! Jobs, waiters, refusals, peers and verdicts are bounded; what overflows displaces only what
//! belongs to the same node (peers) or workload (verdicts).

mod adopt;
mod change;
mod clock;
mod counters;
pub mod dns;
mod ended;
mod guard;
mod held;
mod hosts;
mod install;
mod io;
mod jobs;
mod judge;
mod learning;
mod names;
mod negative;
mod networks;
mod observed;
mod peers;
mod questions;
mod rehearsal;
mod report;
mod rotation;
pub mod segment;
mod shares;
mod step;
mod upkeep;
mod verdicts;
mod workloads;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use enforcer_common::abi::{Handle, NetworkKey};

pub use clock::{Now, SECOND_NS};
pub use counters::{Counters, Done, Refused};
pub use hosts::HostRecord;
pub use io::{
    Adopted, AdoptedPeer, Denial, HeldFrame, Input, LiveFlow, Network, Output, OwnCredential,
    PeerSecrets, Question, Refusal, Sweep, WorkloadSpec,
};
pub use jobs::{Job, JobId, JobResult, MAX_JOBS, MAX_JOBS_A_SOURCE, MAX_WAITERS};
pub use networks::{Mesh, ip_address};
pub use observed::{Denials, Seen};
pub use peers::Vetted;
pub use report::{IdentityView, Status, WorkloadView};

use crate::identity::{Issuer, Limits, Verifier};
use crate::learn::Learned;
use crate::policy::Policy;

/// What the engine is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most peers in the kernel's map.
    pub peers: usize,
    /// The most verdicts of one epoch; the kernel's map holds twice as many, for a change.
    pub verdicts: usize,
    /// How long and how large credentials are.
    pub credential: Limits,
    /// Where the mesh is.
    pub mesh: Mesh,
}

/// The engine of one instance.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    issuer: Arc<Issuer>,
    verifier: Arc<Verifier>,
    policy: Option<Arc<Policy>>,
    policy_generation: u64,
    epoch: u32,
    workloads: workloads::Workloads,
    adopted_credentials: HashMap<Handle, u64>,
    peers: peers::Peers,
    verdicts: verdicts::Verdicts,
    networks: networks::Networks,
    questions: questions::Questions,
    hosts: hosts::Hosts,
    /// Boot time at which it is told again that an address of a host stays closed.
    tells_closed_ns: u64,
    /// Prefixes in the kernel's trie, of even and of odd epochs.
    installed: [HashSet<(u32, NetworkKey)>; 2],
    previous: Option<change::Previous>,
    jobs: jobs::Jobs,
    negative: negative::Negative,
    ended: ended::Ended,
    guard: guard::Guard,
    denials: Denials,
    learned: Learned,
    /// Boot time at which it is noted again who is watched.
    watched_ns: u64,
    counters: Counters,
    peers_swept_ns: u64,
    /// Difference of the clocks when the wall clock was last seen to be set.
    offset_ns: Option<i128>,
}

impl Engine {
    /// An engine without workloads and without a policy: it allows nothing.
    #[must_use]
    pub fn new(settings: Settings, issuer: Arc<Issuer>, verifier: Arc<Verifier>) -> Self {
        Self {
            peers: peers::Peers::new(settings.peers),
            verdicts: verdicts::Verdicts::new(settings.verdicts),
            settings,
            issuer,
            verifier,
            policy: None,
            policy_generation: 0,
            epoch: 0,
            workloads: workloads::Workloads::default(),
            adopted_credentials: HashMap::new(),
            networks: networks::Networks::default(),
            questions: questions::Questions::default(),
            hosts: hosts::Hosts::default(),
            tells_closed_ns: 0,
            installed: Default::default(),
            previous: None,
            jobs: jobs::Jobs::default(),
            negative: negative::Negative::default(),
            ended: ended::Ended::default(),
            guard: guard::Guard::default(),
            denials: Denials::default(),
            learned: Learned::default(),
            watched_ns: 0,
            counters: Counters::default(),
            peers_swept_ns: 0,
            offset_ns: None,
        }
    }

    /// Takes what happened and says what is to be done, in this order.
    #[must_use = "outputs that are not applied leave the kernel behind the engine"]
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        if !matches!(input, Input::ChangeFailed) {
            self.settle();
        }
        match input {
            Input::Held(held) => self.on_held(held, now, &mut out),
            Input::Names(held) => self.on_names(held, now, &mut out),
            Input::Verified(result) => self.on_result(result, now, &mut out),
            Input::AddWorkload(spec) => self.on_add_workload(spec, now, &mut out),
            Input::RemoveWorkload(name) => self.on_remove_workload(&name, now, &mut out),
            Input::SetPolicy { policy, live } => {
                self.on_set_policy(&policy, &live, now, &mut out);
            }
            Input::SetMesh(mesh) => self.settings.mesh = mesh,
            Input::ChangeFailed => self.on_change_failed(&mut out),
            Input::PeerLost(key) => drop(self.peers.remove(&key)),
            Input::VerdictLost(key) => drop(self.verdicts.remove(&Question::from(&key))),
            Input::SetVerifier(verifier) => self.on_set_verifier(verifier, now, &mut out),
            Input::SetIssuer(issuer) => self.on_set_issuer(issuer),
            Input::Adopt(adopted) => self.on_adopt(*adopted, now, &mut out),
            Input::Opened(flow) => self.on_opened(&flow, now),
            Input::InUse(questions) => self.on_in_use(&questions, now),
            Input::HostsInUse(used) => self.on_hosts_in_use(&used, now),
            Input::PlainInUse(flows) => flows.iter().for_each(|flow| self.on_opened(flow, now)),
            Input::Unjudged(questions) => self.on_unjudged(questions, now, &mut out),
            Input::Tick => self.on_tick(now, &mut out),
        }
        out
    }
}
