//! Two hosts with an enforcer each, and a network that is the attacker.

use std::collections::BTreeSet;

use enforcer_common::abi::{Mac, Nonce, direction, flow_state, role, verdict_action};
use enforcer_common::wire::frame::tcp_flags::{ACK, SYN};
use enforcer_common::wire::option::HandshakeOption;
use enforcer_model::{Node, Outcome, Peer, Segment, Tuple, Weakening};
use stateright::{Model, Property};

use crate::attacker;
use crate::cast::{CALLER_END, HOSTS, MALLORY, SERVICE, handle, identity, pair_key};
use crate::history::{self, History, Wrong, may};
use crate::stack::{Stage, Tcp};
use crate::witness::{leaves, note_opened};

const SECOND_NS: u64 = 1_000_000_000;
const START_NS: u64 = 1000 * SECOND_NS;

/// What may happen how often, and who may do what.
#[derive(Debug, Clone)]
// Each switch is an axis of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct System {
    pub weakening: Weakening,
    /// Whom both hosts allow, until their policy denies everybody.
    pub allowed: Vec<u64>,
    /// Whom each host may call.
    pub calls: [Vec<Tuple>; 2],
    /// Connections on which the attacker sends to each host.
    pub tuples: [Vec<Tuple>; 2],
    pub calls_max: [u8; 2],
    /// Nonces that a host may draw.
    pub draws_max: u8,
    pub flips: u8,
    pub restarts: u8,
    pub evictions: u8,
    /// Spans of three seconds that pass.
    pub ticks: u8,
    /// Whether peers are known from the start.
    pub warm: bool,
    pub plain: bool,
    /// Whether the attacker's S1 also have a sequence number of its own.
    pub renumbers: bool,
    /// Whether the attacker calls the caller, too.
    pub reverses: bool,
    /// Whether a connection can succeed at all.
    pub connects: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: [Node; 2],
    pub stacks: [Vec<(Tuple, Tcp)>; 2],
    /// Terms the attacker has seen.
    pub nonces: BTreeSet<Nonce>,
    pub macs: BTreeSet<Mac>,
    /// Segments that wait for the daemon.
    pub held: [Option<Segment>; 2],
    pub swept: [bool; 2],
    pub generation: [u8; 2],
    pub called: [u8; 2],
    pub flips: u8,
    pub restarts: u8,
    pub evictions: u8,
    pub ticks: u8,
    pub history: History,
}

impl State {
    /// Whether a connection is open at both stacks and both enforcers, under the identities of both hosts.
    pub fn is_established(&self) -> bool {
        HOSTS.iter().all(|host| {
            self.stacks[*host].iter().any(|(tuple, tcp)| {
                let flow = self.nodes[*host].flows.get(tuple);
                let proven = flow.is_some_and(|flow| {
                    flow.state == flow_state::ESTABLISHED && flow.peer == identity(1 - host)
                });
                proven && tcp.stage == Stage::Established
            })
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The application calls.
    Call(usize, Tuple),
    /// The stack sends, or sends again, what its connection is at.
    Send(usize, Tuple),
    /// The application's data.
    Data(usize, Tuple),
    /// The network, which is the attacker, brings this.
    Inject(usize, Segment),
    /// The daemon judges the segment it holds, and puts it back.
    Release(usize),
    /// The policy denies everybody from now on.
    Flip(usize),
    /// The daemon cuts what lost its permit.
    Sweep(usize),
    /// The daemon is gone and another comes; the tables stay.
    Restart(usize),
    /// The table of attempts gives the place to another.
    Evict(usize, Tuple),
    /// Three seconds pass.
    Tick,
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = HOSTS.map(|host| self.node(host));
        vec![State {
            nodes,
            stacks: Default::default(),
            nonces: BTreeSet::new(),
            macs: BTreeSet::new(),
            held: [None; 2],
            swept: [false; 2],
            generation: [0; 2],
            called: [0; 2],
            flips: 0,
            restarts: 0,
            evictions: 0,
            ticks: 0,
            history: History::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for host in HOSTS {
            self.host_actions(state, host, actions);
            attacker::actions(self, state, host, actions);
        }
        if state.ticks < self.ticks {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Call(host, tuple) => self.call(&mut state, host, tuple),
            Action::Send(host, tuple) => self.send(&mut state, host, tuple, false),
            Action::Data(host, tuple) => self.send(&mut state, host, tuple, true),
            Action::Inject(host, segment) => self.deliver(&mut state, host, segment),
            Action::Release(host) => self.release(&mut state, host),
            Action::Flip(host) => self.flip(&mut state, host),
            Action::Sweep(host) => self.sweep(&mut state, host),
            Action::Restart(host) => self.restart(&mut state, host),
            Action::Evict(host, tuple) => {
                state.nodes[host].attempts.remove(&tuple);
                state.evictions += 1;
            }
            Action::Tick => {
                state.nodes.iter_mut().for_each(|node| node.now_ns += 3 * SECOND_NS);
                state.ticks += 1;
            }
        }
        for host in HOSTS {
            settle(&mut state.nodes[host], &state.stacks[host]);
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        history::properties(self)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.nodes.iter().all(|node| node.drawn <= self.draws_max)
    }
}

/// Forgets what tells no state apart: counters, and the numbers of the data, of which there is one octet that is sent
/// again and again.
fn settle(node: &mut Node, stack: &[(Tuple, Tcp)]) {
    for (tuple, flow) in &mut node.flows {
        flow.seen_ns = 0;
        (flow.packets_in, flow.packets_out, flow.bytes_in, flow.bytes_out) = (0, 0, 0, 0);
        if let Some((_, tcp)) = stack.iter().find(|(t, _)| t == tuple) {
            let (ours, theirs) = (tcp.local_isn.wrapping_add(1), tcp.remote_isn.wrapping_add(1));
            (flow.local_next, flow.remote_ack) = (ours, ours);
            (flow.remote_next, flow.local_ack) = (theirs, theirs);
        }
    }
    for attempt in node.attempts.values_mut() {
        attempt.proof_ns = 0;
    }
}

impl System {
    fn node(&self, host: usize) -> Node {
        let address = [CALLER_END, SERVICE][host].address;
        let mut node = Node::new(address, handle(identity(host)), START_NS);
        node.weakening = self.weakening;
        (node.plain_in, node.plain_out) = (self.plain, self.plain);
        if self.warm {
            for peer in [identity(1 - host), MALLORY] {
                self.learn(&mut node, host, peer);
            }
        }
        node
    }

    /// What the daemon writes about a credential that it has verified.
    fn learn(&self, node: &mut Node, host: usize, peer: u64) {
        let own = identity(host);
        let value = Peer {
            as_initiator: pair_key(self.weakening, own, peer),
            as_responder: pair_key(self.weakening, peer, own),
            identity: peer,
            deadline_ns: u64::MAX,
        };
        node.peers.insert((node.credential, handle(peer)), value);
        self.judge(node, peer);
    }

    fn judge(&self, node: &mut Node, peer: u64) {
        let action =
            if may(self, node, peer) { verdict_action::ALLOW } else { verdict_action::DENY };
        for asked in [direction::EGRESS, direction::INGRESS] {
            node.verdicts.insert((peer, node.epoch, 0, asked), (action, u64::MAX));
        }
    }

    fn host_actions(&self, state: &State, host: usize, actions: &mut Vec<Action>) {
        if state.called[host] < self.calls_max[host] {
            actions.extend(self.calls[host].iter().map(|tuple| Action::Call(host, *tuple)));
        }
        for (tuple, tcp) in &state.stacks[host] {
            actions.push(Action::Send(host, *tuple));
            if tcp.stage == Stage::Established {
                actions.push(Action::Data(host, *tuple));
            }
        }
        if state.held[host].is_some() {
            actions.push(Action::Release(host));
        }
        if state.flips < self.flips && state.nodes[host].epoch == 1 {
            actions.push(Action::Flip(host));
        }
        if state.nodes[host].epoch == 2 && !state.swept[host] {
            actions.push(Action::Sweep(host));
        }
        if state.restarts < self.restarts {
            actions.push(Action::Restart(host));
        }
        if state.evictions < self.evictions {
            let tuples = state.nodes[host].attempts.keys();
            actions.extend(tuples.map(|tuple| Action::Evict(host, *tuple)));
        }
    }

    fn call(&self, state: &mut State, host: usize, tuple: Tuple) {
        state.called[host] += 1;
        let isn = initial(host, state.called[host]);
        state.stacks[host].retain(|(t, _)| *t != tuple);
        state.stacks[host].push((tuple, Tcp::calling(isn)));
        state.stacks[host].sort_by_key(|(t, _)| *t);
        self.send(state, host, tuple, false);
    }

    /// A segment of the stack passes the hook; what leaves, the attacker has.
    fn send(&self, state: &mut State, host: usize, tuple: Tuple, data: bool) {
        let Some((_, tcp)) = state.stacks[host].iter().find(|(t, _)| *t == tuple) else { return };
        let segment = if data { tcp.data(tuple) } else { tcp.segment(tuple) };
        Self::prepare(state, host);
        let node = &mut state.nodes[host];
        let outcome = node.from_workload(segment);
        let peer = node.flows.get(&tuple).map_or(0, |flow| flow.peer);
        if data && matches!(outcome, Outcome::Passes(_) | Outcome::Led(..)) {
            let plain = self.plain && peer == 0;
            if !plain && !may(self, node, peer) {
                state.history.wrong.insert(Wrong::SpokeToUnauthorised);
            }
        }
        match outcome {
            Outcome::Passes(sent) => leaves(state, host, tuple, &sent),
            Outcome::Led(proof, sent) => {
                leaves(state, host, tuple, &proof);
                leaves(state, host, tuple, &sent);
            }
            Outcome::Refused(_) => state.stacks[host].retain(|(t, _)| *t != tuple),
            Outcome::Dropped(_) | Outcome::BothReset(_) => {}
        }
    }

    /// A segment comes to the hook, and behind it to the stack.
    pub fn deliver(&self, state: &mut State, host: usize, segment: Segment) {
        let tuple = Tuple { local: segment.to, remote: segment.from };
        Self::prepare(state, host);
        let node = &mut state.nodes[host];
        let before = node.attempts.get(&tuple).copied();
        match node.to_workload(segment) {
            Outcome::Passes(passed) => {
                self.note_passed(state, host, &segment);
                if let Some(attempt) = before {
                    note_opened(state, host, &segment, &attempt);
                }
                if passed.is_intact {
                    receive(state, host, tuple, &passed);
                }
            }
            Outcome::Dropped(enforcer_common::abi::DropReason::Held) => {
                // Who knows everybody learns nothing from a segment that is held, but a verdict.
                if !self.warm || !segment.has(SYN) {
                    state.held[host].get_or_insert(segment);
                }
            }
            Outcome::Refused(_) | Outcome::BothReset(_) => {
                state.stacks[host].retain(|(t, _)| *t != tuple);
            }
            Outcome::Led(..) | Outcome::Dropped(_) => {}
        }
    }

    /// Who was heard, and whether that one may be.
    fn note_passed(&self, state: &mut State, host: usize, segment: &Segment) {
        let node = &state.nodes[host];
        let tuple = Tuple { local: segment.to, remote: segment.from };
        let is_plain = node.attempts.get(&tuple).is_some_and(|a| a.role == role::PLAIN);
        let of_flow = node.flows.get(&tuple).map_or(0, |flow| flow.peer);
        let heard = if segment.has(SYN) && is_plain {
            0
        } else if segment.has(SYN) {
            // A SYN-ACK that names nobody is the flow's own, once more.
            let unnamed = if segment.has(ACK) { of_flow } else { 0 };
            segment.option.map_or(unnamed, |body| {
                let named = HandshakeOption::proof(body).handle();
                node.peers.get(&(node.credential, named)).map_or(0, |peer| peer.identity)
            })
        } else if segment.data > 0 {
            of_flow
        } else {
            return;
        };
        let plain = self.plain && heard == 0 && node.plain_in;
        if !plain && !may(self, node, heard) {
            state.history.wrong.insert(Wrong::HeardUnauthorised);
        }
    }

    /// The nonce that the generator would give now.
    pub fn prepare(state: &mut State, host: usize) {
        let number = state.nodes[host].drawn + 1;
        state.nodes[host].nonce =
            [host as u8 + 1, state.generation[host], number, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a];
    }

    fn release(&self, state: &mut State, host: usize) {
        let Some(segment) = state.held[host].take() else { return };
        let node = &mut state.nodes[host];
        let tuple = Tuple { local: segment.to, remote: segment.from };
        match segment.option {
            // S1 and S2: the hash of what travels must begin with the handle.
            Some(body) if segment.has(SYN) => {
                let named = HandshakeOption::proof(body).handle();
                if segment.credential != Some(named) {
                    return;
                }
                let known = [1, 2, MALLORY].into_iter().find(|peer| handle(*peer) == named);
                if let Some(peer) = known {
                    self.learn(node, host, peer);
                }
            }
            // S3 lacks a verdict alone.
            _ => {
                if let Some(attempt) = node.attempts.get(&tuple) {
                    let peer = attempt.peer;
                    self.judge(node, peer);
                }
            }
        }
        self.deliver(state, host, segment);
    }

    fn flip(&self, state: &mut State, host: usize) {
        state.flips += 1;
        let node = &mut state.nodes[host];
        node.epoch = 2;
        // Beside those of the old epoch, verdicts about whoever has a flow.
        let peers: Vec<u64> = node.flows.values().map(|flow| flow.peer).collect();
        for peer in peers {
            self.judge(node, peer);
        }
    }

    fn sweep(&self, state: &mut State, host: usize) {
        let node = &mut state.nodes[host];
        let peers: Vec<u64> = node.flows.values().map(|flow| flow.peer).collect();
        for peer in peers {
            self.judge(node, peer);
        }
        node.plain_in = false;
        node.plain_out = false;
        node.sweep();
        state.swept[host] = true;
    }

    fn restart(&self, state: &mut State, host: usize) {
        state.restarts += 1;
        state.held[host] = None;
        if self.weakening == Weakening::NoncesRepeat {
            state.nodes[host].drawn = 0;
        } else {
            state.generation[host] += 1;
        }
    }
}

/// The initial sequence number of a host's call. A listening stack's is number 0: the same each time, which is the worst
/// for a replay.
fn initial(host: usize, call: u8) -> u32 {
    (host as u32 + 1) * 1_000_000 + u32::from(call) * 10_000
}

/// The segment reaches the stack.
fn receive(state: &mut State, host: usize, tuple: Tuple, segment: &Segment) {
    let stack = &mut state.stacks[host];
    match stack.iter().position(|(t, _)| *t == tuple) {
        Some(at) => {
            if !stack[at].1.receive(segment) {
                stack.remove(at);
            } else if segment.flags == SYN && stack[at].1.stage == Stage::Established {
                // A caller that starts anew: the old connection is over (RFC 9293 3.5.1).
                stack[at].1 = Tcp::called(initial(host, 0), segment.sequence);
            }
        }
        // Both hosts listen.
        None if segment.flags == SYN => {
            stack.push((tuple, Tcp::called(initial(host, 0), segment.sequence)));
            stack.sort_by_key(|(t, _)| *t);
        }
        None => {}
    }
}
