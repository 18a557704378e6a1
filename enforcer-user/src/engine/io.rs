//! What goes into the engine and what comes out.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use enforcer_common::abi::{
    CredentialValue, FlowKey, Handle, NetworkKey, NetworkValue, PeerKey, PeerValue,
    ReinjectTrailer, VerdictKey, VerdictValue, WorkloadValue, direction,
};
use zeroize::Zeroize;

use super::hosts::HostRecord;
use super::jobs::{Job, JobResult};
use super::networks::{Mesh, ip_address};
use super::peers::Vetted;
use crate::identity::{Identity, Issuer, Verifier};
use crate::policy::{Direction, Policy, Protocol};

/// A segment that the kernel could not judge alone, as its ring record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFrame {
    /// Interface it arrived on.
    pub ifindex: u32,
    /// Whether that is the host side of the workload's veth.
    pub host_side: bool,
    /// Boot time at which it was held, nanoseconds.
    pub time_ns: u64,
    /// Tuple of the segment, from the workload's side.
    pub key: FlowKey,
    /// Handle of the local credential that the attempt uses.
    pub local_handle: Handle,
    /// Identity id of the peer; 0 while the kernel does not know it.
    pub peer: u64,
    /// Port the verdict is asked for, host byte order.
    pub port: u16,
    /// One of [`enforcer_common::abi::direction`].
    pub direction: u8,
    /// Offset of the transport header in the frame.
    pub transport_offset: u16,
    /// The frame, from its Ethernet header on.
    pub frame: Vec<u8>,
}

/// A flow of the kernel's table, as far as a policy change must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveFlow {
    /// Its tuple.
    pub key: FlowKey,
    /// Identity id of the peer; 0 for one that a network rule allows.
    pub peer: u64,
    /// The server's port, host byte order.
    pub port: u16,
    /// One of [`enforcer_common::abi::direction`].
    pub direction: u8,
    /// Bits of [`enforcer_common::abi::flow_flags`].
    pub flags: u8,
}

impl LiveFlow {
    /// What the policy is asked for this flow.
    #[must_use]
    pub fn question(&self) -> Question {
        Question {
            peer: self.peer,
            workload: self.key.workload,
            port: self.port,
            protocol: self.key.protocol,
            direction: self.direction,
        }
    }

    /// The other end, and which of them opened it.
    #[must_use]
    pub fn far(&self) -> (Direction, IpAddr) {
        let outbound = self.direction == direction::EGRESS;
        let direction = if outbound { Direction::Egress } else { Direction::Ingress };
        (direction, ip_address(&self.key.remote))
    }

    /// The server's port and the protocol.
    #[must_use]
    pub fn service(&self) -> (u16, Protocol) {
        (self.port, Protocol::from_number(self.key.protocol))
    }
}

/// What a verdict answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// Identity id of the peer.
    pub peer: u64,
    /// Workload id.
    pub workload: u16,
    /// The server's port, host byte order; 0 for every port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`enforcer_common::abi::direction`].
    pub direction: u8,
}

impl Question {
    /// The key of the answer under an epoch.
    #[must_use]
    pub fn key(&self, epoch: u32) -> VerdictKey {
        VerdictKey {
            peer: self.peer,
            epoch,
            workload: self.workload,
            port: self.port,
            protocol: self.protocol,
            direction: self.direction,
            zero: [0; 6],
        }
    }

    /// The same for every port.
    #[must_use]
    pub fn any_port(self) -> Self {
        Self { port: 0, ..self }
    }
}

impl From<&VerdictKey> for Question {
    fn from(key: &VerdictKey) -> Self {
        Self {
            peer: key.peer,
            workload: key.workload,
            port: key.port,
            protocol: key.protocol,
            direction: key.direction,
        }
    }
}

/// A workload of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSpec {
    /// Who it is. The identity's path is unique on the node.
    pub identity: Identity,
    /// Bits of [`enforcer_common::abi::workload_flags`].
    pub flags: u32,
    /// Boot time until which connections older than the attachment are adopted; 0 for never.
    pub adopt_until_ns: u64,
    /// Whether what it does is remembered, for a policy that permits it.
    pub learns: bool,
}

/// A peer as a pinned map tells it, without its secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdoptedPeer {
    /// Its key in the map.
    pub key: PeerKey,
    /// Full hash of the peer's credential.
    pub hash: [u8; 32],
    /// Identity id of the peer.
    pub identity: u64,
    /// Boot time at which it ends.
    pub deadline_ns: u64,
}

/// What an earlier daemon left behind in pinned maps and in its memory file.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Epoch in force.
    pub epoch: u32,
    /// Workloads by id.
    pub workloads: Vec<(u16, WorkloadValue)>,
    /// Local credentials and their deadlines (boot time, nanoseconds).
    pub credentials: Vec<(Handle, u64)>,
    /// Peers.
    pub peers: Vec<AdoptedPeer>,
    /// Verdicts of every epoch.
    pub verdicts: Vec<(VerdictKey, VerdictValue)>,
    /// Prefix length and key of every network.
    pub networks: Vec<(u32, NetworkKey)>,
    /// The credentials that the earlier daemon had verified, in their bytes; no secrets, and
    /// nothing is believed of them that they do not prove again.
    pub remembered: Vec<Vec<u8>>,
    /// What it had been told of hosts.
    pub hosts: Vec<HostRecord>,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The kernel held a segment.
    Held(HeldFrame),
    /// A workload asks a name server, or the kernel held an answer.
    Names(HeldFrame),
    /// A job of [`Output::Verify`] is done.
    Verified(JobResult),
    /// A workload is to be served. Its interface is attached after the outputs are applied.
    AddWorkload(WorkloadSpec),
    /// A workload is gone; the name is its identity's.
    RemoveWorkload(String),
    /// A policy is to be put in force.
    SetPolicy {
        /// The policy.
        policy: Arc<Policy>,
        /// Every flow of the kernel's tables.
        live: Vec<LiveFlow>,
    },
    /// The mesh of the next policy change.
    SetMesh(Mesh),
    /// Applying a policy change failed before its flip: everything stays as it was.
    ChangeFailed,
    /// Applying [`Output::InstallPeer`] failed.
    PeerLost(PeerKey),
    /// Applying [`Output::InstallVerdict`] failed.
    VerdictLost(VerdictKey),
    /// Trust or revocations changed.
    SetVerifier(Arc<Verifier>),
    /// The node certificate changed.
    SetIssuer(Arc<Issuer>),
    /// What the kernel still holds from an earlier daemon; before every other input.
    Adopt(Box<Adopted>),
    /// A connection without identity was opened, of a workload that is only observed.
    Opened(LiveFlow),
    /// Questions for whose answer a live flow stands, found by scanning the flow tables.
    InUse(Vec<Question>),
    /// Far ends of flows of workloads that ask for names, found likewise: the workload's id and the address.
    HostsInUse(Vec<(u16, IpAddr)>),
    /// Flows without identity of workloads that learn, found likewise: of those that are alike in all but the
    /// workload's own end one is enough.
    PlainInUse(Vec<LiveFlow>),
    /// Questions of flows that the policy change just made has not judged: they were opened while it
    /// was computed.
    Unjudged(Vec<Question>),
    /// Time went on; about once a second.
    Tick,
}

/// A peer's value, wiped when dropped.
pub struct PeerSecrets(Box<PeerValue>);

impl PeerSecrets {
    /// Takes over the value.
    #[must_use]
    pub fn new(value: PeerValue) -> Self {
        Self(Box::new(value))
    }
}

impl Deref for PeerSecrets {
    type Target = PeerValue;

    fn deref(&self) -> &PeerValue {
        &self.0
    }
}

impl Drop for PeerSecrets {
    fn drop(&mut self) {
        self.0.as_initiator.zeroize();
        self.0.as_responder.zeroize();
    }
}

impl fmt::Debug for PeerSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerSecrets(identity {:016x}, keys redacted)", self.0.identity)
    }
}

/// A credential for the kernel's map.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnCredential(pub Box<CredentialValue>);

impl fmt::Debug for OwnCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnCredential({} bytes until {} ns)", self.0.length, self.0.deadline_ns)
    }
}

/// A connection that the policy denies, for the log and whoever asks later.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Denial {
    /// What was asked.
    pub asked: Question,
    /// Who its peer is, with the labels that it had.
    pub peer_identity: Identity,
    /// The local workload's SPIFFE ID.
    pub workload: String,
    /// The peer's SPIFFE ID.
    pub peer: String,
    /// The server's port.
    pub port: u16,
    /// `egress` or `ingress`, from the workload's side.
    pub direction: &'static str,
    /// Whether it passes all the same: its workload or what denies it is only observed.
    pub observed: bool,
    /// The rules that deny, or what is missing.
    pub because: String,
}

/// A peer's credential that does not verify, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The flow of the segment that carried it.
    pub key: FlowKey,
    /// What is wrong with it; quotes what the credential claims.
    pub because: String,
}

/// Flows to be reset at both ends and deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// These.
    pub flows: Vec<FlowKey>,
    /// All with these peers.
    pub peers: HashSet<u64>,
    /// All of these workloads.
    pub workloads: HashSet<u16>,
    /// All that these questions ask for; port 0 stands for every port.
    pub questions: HashSet<Question>,
}

impl Sweep {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
            && self.peers.is_empty()
            && self.workloads.is_empty()
            && self.questions.is_empty()
    }

    /// Whether this flow, which is not among [`Sweep::flows`], is asked for.
    #[must_use]
    pub fn covers(&self, flow: &LiveFlow) -> bool {
        let question = flow.question();
        self.workloads.contains(&flow.key.workload)
            || (flow.peer != 0
                && (self.peers.contains(&flow.peer)
                    || self.questions.contains(&question)
                    || self.questions.contains(&question.any_port())))
    }
}

/// A prefix of the network trie.
pub type Network = (u32, NetworkKey, NetworkValue);

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Run the job off the thread that moves packets and hand back its result.
    Verify(Job),
    /// Write a local credential.
    InstallCredential(Handle, OwnCredential),
    /// Delete a local credential.
    RemoveCredential(Handle),
    /// Write a workload.
    InstallWorkload(u16, Box<WorkloadValue>),
    /// Delete a workload.
    RemoveWorkload(u16),
    /// Write a peer.
    InstallPeer(PeerKey, PeerSecrets),
    /// Delete a peer.
    RemovePeer(PeerKey),
    /// Write a verdict.
    InstallVerdict(VerdictKey, VerdictValue),
    /// Delete a verdict.
    RemoveVerdict(VerdictKey),
    /// Write prefixes of the network trie: prefix length in bits, key, value.
    InstallNetworks(Vec<Network>),
    /// Delete prefixes of the network trie.
    RemoveNetworks(Vec<(u32, NetworkKey)>),
    /// Put this epoch in force in one store. Everything before it must have been applied; if
    /// anything failed, this and the rest is left out and [`Input::ChangeFailed`] said.
    FlipEpoch(u32),
    /// Reset and delete flows.
    SweepFlows(Sweep),
    /// Delete a half-open connection; the workload's next SYN begins another.
    ForgetAttempt(FlowKey),
    /// Send a held frame on its way again.
    Reinject {
        /// Where to.
        to: ReinjectTrailer,
        /// The frame, from its Ethernet header on.
        frame: Vec<u8>,
    },
    /// Keep this for a later daemon, see [`Adopted::remembered`].
    Remember(Arc<Vetted>),
    /// Keep this for a later daemon, see [`Adopted::hosts`].
    RememberHost(HostRecord),
    /// A line for the log, to be sampled.
    Log(Denial),
    /// As [`Output::Log`], of a credential that does not verify.
    LogRefusal(Refusal),
    /// Something did not work; for the log and the status.
    Problem(String),
}
