//! The engine with real credentials and hand-made frames, and no kernel.

mod adoption;
mod change;
mod clock;
mod cold;
mod names;
mod rotation;

use std::collections::BTreeMap;
use std::sync::Arc;

use enforcer_common::abi::{FlowKey, Handle, direction, mapped};
use enforcer_common::wire::checksum::transport;
use enforcer_common::wire::option::HandshakeOption;
use enforcer_common::wire::prefix::PREFIX_BYTES;

use super::*;
use crate::identity::{
    Authority, Identity, LocalCredential, NodeRequest, SigningKey, Trust, VerifiedCredential,
};
use crate::policy::SourceFile;

const UNIX: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const TRUST_DOMAIN: &str = "example.org";
const LIMITS: Limits = Limits { lifetime_seconds: 3600, max_bytes: 1120 };
/// Addresses for documentation (RFC 5737, RFC 3849).
const LOCAL: [u8; 4] = [192, 0, 2, 1];
const REMOTE: [u8; 4] = [198, 51, 100, 2];

/// `seconds` into the test.
pub(super) fn at(seconds: u64) -> Now {
    Now { boot_ns: (1000 + seconds) * SECOND_NS, unix_ns: (UNIX + seconds) * SECOND_NS }
}

pub(super) fn identity(name: &str) -> Identity {
    Identity::new(TRUST_DOMAIN, "/acme".parse().unwrap(), name, BTreeMap::new()).unwrap()
}

fn permit(caller: &str) -> String {
    format!("permit (principal, action, resource) when {{ principal.name == {caller:?} }};")
}

fn policy(text: &str) -> Arc<Policy> {
    Arc::new(Policy::from_sources(&[SourceFile::new("test.cedar", text)], Vec::new()).unwrap())
}

/// An authority, and the issuers of two nodes.
struct Trusted {
    ours: Arc<Issuer>,
    theirs: Issuer,
    trust: Trust,
}

fn trusted(node_seconds: u64) -> Trusted {
    let authority = Authority::init(TRUST_DOMAIN, UNIX - DAY, 30 * DAY).unwrap();
    let node = |name: &str| {
        let key = SigningKey::generate().unwrap();
        let request = NodeRequest::new(name, &key).unwrap();
        let namespaces = ["/acme".parse().unwrap()];
        let certificate = authority.issue_node(&request, &namespaces, UNIX, node_seconds).unwrap();
        Issuer::node(key, certificate).unwrap()
    };
    let trust = Trust::pki(TRUST_DOMAIN, vec![authority.certificate().clone()]).unwrap();
    Trusted { ours: Arc::new(node("ours")), theirs: node("theirs"), trust }
}

/// An engine with one workload, `web`, and what it did so far.
struct Bench {
    engine: Engine,
    trusted: Trusted,
}

fn settings() -> Settings {
    Settings { peers: 64, verdicts: 64, credential: LIMITS, mesh: Mesh::default() }
}

impl Bench {
    fn new(text: &str) -> Self {
        Self::with(text, trusted(DAY), settings())
    }

    fn with(text: &str, trusted: Trusted, settings: Settings) -> Self {
        let verifier = Arc::new(Verifier::new(trusted.trust.clone()));
        let engine = Engine::new(settings, Arc::clone(&trusted.ours), verifier);
        let mut bench = Self { engine, trusted };
        bench.add("web", at(0));
        bench.set_policy(text, Vec::new(), at(0));
        bench
    }

    fn add(&mut self, name: &str, now: Now) -> Vec<Output> {
        let spec =
            WorkloadSpec { identity: identity(name), flags: 0, adopt_until_ns: 0, learns: false };
        self.engine.handle(Input::AddWorkload(spec), now)
    }

    fn set_policy(&mut self, text: &str, live: Vec<LiveFlow>, now: Now) -> Vec<Output> {
        self.engine.handle(Input::SetPolicy { policy: policy(text), live }, now)
    }

    fn issue(&self, name: &str, now: Now) -> LocalCredential {
        self.trusted.theirs.issue(&identity(name), now.unix_seconds(), LIMITS).unwrap()
    }

    fn local_handle(&self, name: &str) -> Handle {
        self.engine.workloads.named(name).unwrap().value.credential
    }

    fn held(&self, segment: &Sent, now: Now) -> HeldFrame {
        let workload = self.engine.workloads.named("web").unwrap();
        segment.held(workload.id, workload.value.credential, now)
    }

    fn give(&mut self, segment: &Sent, now: Now) -> Vec<Output> {
        let held = self.held(segment, now);
        self.engine.handle(Input::Held(held), now)
    }

    /// Runs every job among the outputs, and those that come of them.
    fn run(&mut self, outputs: Vec<Output>, now: Now) -> Vec<Output> {
        let mut done = Vec::new();
        let mut queue: std::collections::VecDeque<Output> = outputs.into();
        while let Some(output) = queue.pop_front() {
            match output {
                Output::Verify(job) => {
                    queue.extend(self.engine.handle(Input::Verified(job.run()), now));
                }
                Output::Remember(_) => {}
                other => done.push(other),
            }
        }
        done
    }

    /// First contact of a peer, from SYN to re-injection.
    fn meet(&mut self, name: &str, now: Now) -> (LocalCredential, Vec<Output>) {
        let credential = self.issue(name, now);
        let outputs = self.give(&Sent::call(credential.bytes()), now);
        (credential, self.run(outputs, now))
    }

    fn refused(&self, why: Refused) -> u64 {
        self.engine.counters().refused(why)
    }

    fn done(&self, what: Done) -> u64 {
        self.engine.counters().done(what)
    }
}

/// A handshake segment towards the workload.
#[derive(Clone)]
struct Sent {
    flags: u8,
    handle: Handle,
    prefix: usize,
    payload: Vec<u8>,
    sequence: u32,
    remote_port: u16,
    local_port: u16,
    source: [u8; 4],
    /// The server's port as it sees it, in S2.
    own_port: u16,
}

impl Sent {
    /// S1 with this credential.
    fn call(credential: &[u8]) -> Self {
        let handle = *blake3::hash(credential).as_bytes().first_chunk().unwrap();
        Self {
            flags: 2,
            handle,
            prefix: 0,
            payload: credential.to_vec(),
            sequence: 7,
            remote_port: 40_000,
            local_port: 80,
            source: REMOTE,
            own_port: 8443,
        }
    }

    /// S2 with this credential.
    fn answer(credential: &[u8]) -> Self {
        Self {
            flags: 0x12,
            prefix: PREFIX_BYTES,
            remote_port: 443,
            local_port: 50_000,
            ..Self::call(credential)
        }
    }

    fn frame(&self) -> Vec<u8> {
        let option = HandshakeOption::hello(self.handle, [9; 8]);
        let mut tcp = Vec::new();
        tcp.extend(self.remote_port.to_be_bytes());
        tcp.extend(self.local_port.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend([0, 0, 0, 0, 10 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(option.head);
        tcp.extend(option.body);
        if self.prefix > 0 {
            tcp.extend(vec![0xaa; self.prefix - 2]);
            tcp.extend(self.own_port.to_be_bytes());
        }
        tcp.extend(&self.payload);
        let sum = transport(&self.source, &LOCAL, 6, &tcp);
        tcp[16..18].copy_from_slice(&sum);
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(20 + tcp.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(self.source);
        frame.extend(LOCAL);
        frame.extend(tcp);
        frame
    }

    fn held(&self, workload: u16, local_handle: Handle, now: Now) -> HeldFrame {
        let answer = self.flags == 0x12;
        HeldFrame {
            ifindex: 3,
            host_side: true,
            time_ns: now.boot_ns,
            key: FlowKey {
                workload,
                protocol: 6,
                zero: 0,
                local_port: self.local_port,
                remote_port: self.remote_port,
                local: mapped(LOCAL),
                remote: mapped(self.source),
            },
            local_handle,
            peer: 0,
            port: if answer { self.own_port } else { self.local_port },
            direction: if answer { direction::EGRESS } else { direction::INGRESS },
            transport_offset: 34,
            frame: self.frame(),
        }
    }
}

/// What kinds of output there are, in order.
fn kinds(outputs: &[Output]) -> Vec<&'static str> {
    outputs.iter().map(kind).collect()
}

fn kind(output: &Output) -> &'static str {
    match output {
        Output::Verify(_) => "verify",
        Output::InstallCredential(..) => "credential",
        Output::RemoveCredential(_) => "-credential",
        Output::InstallWorkload(..) => "workload",
        Output::RemoveWorkload(_) => "-workload",
        Output::InstallPeer(..) => "peer",
        Output::RemovePeer(_) => "-peer",
        Output::InstallVerdict(..) => "verdict",
        Output::RemoveVerdict(_) => "-verdict",
        Output::InstallNetworks(_) => "networks",
        Output::RemoveNetworks(_) => "-networks",
        Output::FlipEpoch(_) => "flip",
        Output::SweepFlows(_) => "sweep",
        Output::ForgetAttempt(_) => "-attempt",
        Output::Reinject { .. } => "reinject",
        Output::Remember(_) => "remember",
        Output::RememberHost(_) => "remember host",
        Output::Log(_) => "log",
        Output::LogRefusal(_) => "refusal",
        Output::Problem(_) => "problem",
    }
}

fn verdicts(outputs: &[Output]) -> Vec<(VerdictKey, VerdictValue)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::InstallVerdict(key, value) => Some((*key, *value)),
            _ => None,
        })
        .collect()
}

use enforcer_common::abi::{VerdictKey, VerdictValue};

/// Whether a peer with this credential may call port 80 of the workload `web`.
fn question(bench: &Bench, credential: &LocalCredential) -> Question {
    Question {
        peer: credential.identity_id(),
        workload: bench.engine.workload_id("web").unwrap(),
        port: 80,
        protocol: 6,
        direction: direction::INGRESS,
    }
}

fn flow(peer: u64, port: u16, workload: u16) -> LiveFlow {
    let key = FlowKey {
        workload,
        protocol: 6,
        zero: 0,
        local_port: port,
        remote_port: 40_000,
        local: mapped(LOCAL),
        remote: mapped(REMOTE),
    };
    LiveFlow { key, peer, port, direction: direction::INGRESS, flags: 0 }
}

fn verified(bench: &Bench, credential: &LocalCredential, now: Now) -> VerifiedCredential {
    let verifier = Verifier::new(bench.trusted.trust.clone());
    verifier.verify(credential.bytes(), now.unix_seconds()).unwrap()
}
