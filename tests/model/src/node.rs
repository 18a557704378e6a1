//! One enforcer with one workload: its tables, and which function judges a segment.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use enforcer_common::abi::{
    Address, AttemptValue, DropReason, FlowValue, Handle, Nonce, verdict_action,
};
use enforcer_common::crypto::KEY_WORDS;
use enforcer_common::wire::frame::tcp_flags;

use super::{Segment, Tuple, Weakening};

/// What is known of a peer, under the pair of handles.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Pair key when the workload is the initiator.
    pub as_initiator: [u32; KEY_WORDS],
    /// Pair key when the workload is the responder.
    pub as_responder: [u32; KEY_WORDS],
    /// Identity id.
    pub identity: u64,
    /// Boot-time nanoseconds at which either credential expires.
    pub deadline_ns: u64,
}

/// What a verdict is about: identity, epoch, server's port, direction.
pub type Asked = (u64, u32, u16, u8);

/// A verdict: one of [`verdict_action`], and boot-time nanoseconds until which it holds.
pub type Said = (u8, u64);

/// The cached answer.
pub(super) enum Verdict {
    Allow(u64),
    Deny,
    Unknown,
}

/// What became of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, perhaps changed.
    Passes(Segment),
    /// It goes on, and the first one ahead of it.
    Led(Segment, Segment),
    /// It is dropped, or held.
    Dropped(DropReason),
    /// The workload gets a reset in its place.
    Refused(DropReason),
    /// Both ends are reset.
    BothReset(DropReason),
}

/// An enforcer. Times are boot time.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// What is left out of the protocol.
    pub weakening: Weakening,
    /// The workload's address.
    pub address: Address,
    /// Now.
    pub now_ns: u64,
    /// The policy's epoch.
    pub epoch: u32,
    /// Handle of the workload's current credential.
    pub credential: Handle,
    /// Boot-time nanoseconds at which it expires.
    pub deadline_ns: u64,
    /// The nonce that is drawn next.
    pub nonce: Nonce,
    /// How many were drawn.
    pub drawn: u8,
    /// Whether the far side may answer from elsewhere.
    pub is_virtual: bool,
    /// Whether network rules allow calls without identity to the workload.
    pub plain_in: bool,
    /// The same of the workload.
    pub plain_out: bool,
    /// Peers by own and peer's handle.
    pub peers: BTreeMap<(Handle, Handle), Peer>,
    /// Verdicts.
    pub verdicts: BTreeMap<Asked, Said>,
    /// Half-open connections.
    pub attempts: BTreeMap<Tuple, AttemptValue>,
    /// Flows.
    pub flows: BTreeMap<Tuple, FlowValue>,
}

impl Node {
    /// An enforcer with empty tables. `now_ns` is later than any interval of the protocol, as boot time is.
    #[must_use]
    pub fn new(address: Address, credential: Handle, now_ns: u64) -> Self {
        Self {
            weakening: Weakening::None,
            address,
            now_ns,
            epoch: 1,
            credential,
            deadline_ns: u64::MAX,
            nonce: [0; 8],
            drawn: 0,
            is_virtual: false,
            plain_in: false,
            plain_out: false,
            peers: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            attempts: BTreeMap::new(),
            flows: BTreeMap::new(),
        }
    }

    /// Judges a segment that the workload sends.
    pub fn from_workload(&mut self, segment: Segment) -> Outcome {
        let tuple = Tuple { local: segment.from, remote: segment.to };
        let judged = match (segment.has(tcp_flags::SYN), segment.has(tcp_flags::ACK)) {
            (true, false) => self.open(tuple, segment),
            (true, true) => self.answer(tuple, segment),
            (false, _) => self.segment(tuple, segment, true),
        };
        judged.unwrap_or_else(Outcome::Dropped)
    }

    /// Judges a segment for the workload.
    pub fn to_workload(&mut self, segment: Segment) -> Outcome {
        let tuple = Tuple { local: segment.to, remote: segment.from };
        let judged = match (segment.has(tcp_flags::SYN), segment.has(tcp_flags::ACK)) {
            (true, false) => self.accept(tuple, segment),
            (true, true) => self.answered(tuple, segment),
            (false, _) => self.segment(tuple, segment, false),
        };
        judged.unwrap_or_else(Outcome::Dropped)
    }

    /// The daemon's sweep behind a policy change: flows that lost their permit are gone, both ends reset. The engine
    /// has asked the policy for all flows, so every verdict is there.
    pub fn sweep(&mut self) {
        if self.weakening == Weakening::NoSweep {
            return;
        }
        let mut kept = std::mem::take(&mut self.flows);
        kept.retain(|_, flow| !matches!(self.refresh(flow), Err(DropReason::FlowCut)));
        self.flows = kept;
    }

    /// Asks the verdicts under the current epoch, for the port and then for all ports.
    pub(super) fn ask(&self, peer: u64, port: u16, asked: u8) -> Verdict {
        match self.look_up(peer, port, asked) {
            Verdict::Unknown => self.look_up(peer, 0, asked),
            known => known,
        }
    }

    fn look_up(&self, peer: u64, port: u16, asked: u8) -> Verdict {
        match self.verdicts.get(&(peer, self.epoch, port, asked)) {
            Some((_, deadline_ns)) if *deadline_ns <= self.now_ns => Verdict::Unknown,
            Some((verdict_action::ALLOW | verdict_action::WOULD_DENY, deadline_ns)) => {
                Verdict::Allow(*deadline_ns)
            }
            Some(_) => Verdict::Deny,
            None => Verdict::Unknown,
        }
    }

    /// The peer, if its credential counts and is there.
    pub(super) fn check_peer(&self, peer: &Peer, segment: &Segment) -> Result<(), DropReason> {
        if peer.deadline_ns <= self.now_ns {
            return Err(DropReason::Expired);
        }
        if segment.credential.is_none() {
            return Err(DropReason::CredentialLength);
        }
        Ok(())
    }

    pub(super) fn find_peer(&self, local: Handle, remote: Handle) -> Option<Peer> {
        self.peers.get(&(local, remote)).copied()
    }

    pub(super) fn draw(&mut self) -> Nonce {
        self.drawn += 1;
        self.nonce
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.address, self.now_ns, self.epoch, self.credential, self.nonce, self.drawn)
            .hash(state);
        // Keys follow from the handles.
        self.peers.keys().for_each(|key| key.hash(state));
        self.verdicts.hash(state);
        for (tuple, a) in &self.attempts {
            tuple.hash(state);
            (a.created_ns, a.proof_ns, a.peer, a.deadline_ns).hash(state);
            (a.local_handle, a.remote_handle, a.local_nonce, a.remote_nonce).hash(state);
            (a.answer, a.proof, a.local_isn, a.remote_isn, a.port).hash(state);
            (a.role, a.syn_acks, a.flags, a.answered).hash(state);
        }
        for (tuple, f) in &self.flows {
            tuple.hash(state);
            (f.peer, f.deadline_ns, f.epoch, f.port, f.state, f.flags, f.handle).hash(state);
            (f.local_next, f.local_ack, f.remote_next, f.remote_ack, f.remote_end).hash(state);
            (f.seen_ns, f.packets_in, f.packets_out, f.bytes_in, f.bytes_out).hash(state);
        }
    }
}

/// Pair keys are secrets also where they are made up: only the tables that have none are shown.
impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("epoch", &self.epoch)
            .field("verdicts", &self.verdicts)
            .field("attempts", &self.attempts)
            .field("flows", &self.flows)
            .finish_non_exhaustive()
    }
}
