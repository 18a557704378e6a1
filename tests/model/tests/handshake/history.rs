//! What happened, and what must never have: the properties of docs/PROTOCOL.md.

use std::collections::BTreeSet;

use enforcer_common::abi::{AttemptValue, Handle, Nonce, flow_state};
use enforcer_model::{End, Node};
use stateright::Property;

use crate::cast::{HOSTS, owner};
use crate::system::{State, System};

/// Handles and nonces, initiator first.
pub type Agreed = ([Handle; 2], [Nonce; 2]);

/// A flow that was opened, or an S2 that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub host: usize,
    pub agreed: Agreed,
    /// The server's end: the client's view of it is the one it dialled.
    pub server: End,
    /// The host's own initial sequence number: tells its attempts apart.
    pub isn: u32,
}

/// What no segment may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wrong {
    /// A SYN, SYN-ACK or data of someone who may not passed to a stack.
    HeardUnauthorised,
    /// Data passed towards someone who may not have it.
    SpokeToUnauthorised,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct History {
    /// S1 that left.
    pub called: BTreeSet<Called>,
    /// S2 that left.
    pub answered: BTreeSet<Event>,
    /// Flows that clients opened.
    pub client: BTreeSet<Event>,
    /// Flows that servers opened, in order: the same one twice is two.
    pub server: Vec<Event>,
    pub wrong: BTreeSet<Wrong>,
}

/// An S1: its initiator's handle and nonce, and whom it dialled.
pub type Called = (usize, Handle, Nonce, End);

/// As the responder of `attempt`.
pub fn as_responder(a: &AttemptValue) -> Agreed {
    ([a.remote_handle, a.local_handle], [a.remote_nonce, a.local_nonce])
}

/// As the initiator of `attempt`.
pub fn as_initiator(a: &AttemptValue) -> Agreed {
    ([a.local_handle, a.remote_handle], [a.local_nonce, a.remote_nonce])
}

pub const ONLY_ALLOWED: &str = "applications hear and are heard by allowed identities only";
pub const SERVER_AGREES: &str = "a server's flow is the very attempt of a client that wanted it";
pub const CLIENT_AGREES: &str = "a client's flow is the very answer of the server it names";
pub const NO_REPLAY: &str = "no attempt opens two flows";
pub const NO_RELAY: &str = "a flow leads where the client dialled";
pub const SWEPT: &str = "a denial leaves no open flow";
pub const ESTABLISHED: &str = "an allowed connection is established at both ends";

pub fn properties(system: &System) -> Vec<Property<System>> {
    let mut all = vec![
        Property::always(ONLY_ALLOWED, |_, s: &State| s.history.wrong.is_empty()),
        Property::always(SERVER_AGREES, |_, s: &State| {
            s.history.server.iter().all(|e| wanted(s, e))
        }),
        Property::always(CLIENT_AGREES, |_, s: &State| {
            s.history.client.iter().all(|e| answered(s, e))
        }),
        Property::always(NO_REPLAY, |_, s: &State| opened_once(&s.history)),
        Property::always(NO_RELAY, |_, s: &State| {
            s.history.client.iter().all(|e| leads_there(s, e))
        }),
        Property::always(SWEPT, |_, s: &State| {
            HOSTS.iter().all(|h| !s.swept[*h] || s.nodes[*h].flows.values().all(is_closed))
        }),
    ];
    if system.connects {
        all.push(Property::sometimes(ESTABLISHED, |_, s: &State| s.is_established()));
    }
    all
}

/// A client of that identity called this very end, with this handle and nonce, and took this very answer. What the
/// attacker does under its own name is its own business.
fn wanted(s: &State, e: &Event) -> bool {
    let ([handle_a, _], [nonce_a, _]) = e.agreed;
    let Some(client) = owner(handle_a) else { return true };
    s.history.called.contains(&(client, handle_a, nonce_a, e.server))
        && s.history.client.iter().any(|c| c.host == client && c.agreed == e.agreed)
}

/// A server of that identity sent this very answer.
fn answered(s: &State, e: &Event) -> bool {
    let ([_, handle_b], _) = e.agreed;
    let Some(server) = owner(handle_b) else { return true };
    s.history.answered.iter().any(|a| a.host == server && a.agreed == e.agreed)
}

/// And it stands where the client dialled.
fn leads_there(s: &State, e: &Event) -> bool {
    let at = |a: &&Event| a.agreed == e.agreed;
    s.history.answered.iter().filter(at).all(|a| a.server == e.server)
}

fn opened_once(history: &History) -> bool {
    let mut seen = BTreeSet::new();
    let servers = history.server.iter().all(|e| seen.insert((e.host, e.agreed)));
    let mut seen = BTreeSet::new();
    servers && history.client.iter().all(|e| seen.insert((e.host, e.agreed)))
}

/// Under a policy that denies everybody.
fn is_closed(flow: &enforcer_common::abi::FlowValue) -> bool {
    flow.state == flow_state::CUT
}

/// Whether the workload of `node` may speak with `identity` now.
pub fn may(system: &System, node: &Node, identity: u64) -> bool {
    node.epoch == 1 && system.allowed.contains(&identity)
}
