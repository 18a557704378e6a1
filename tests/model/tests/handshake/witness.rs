//! What is written down of segments: for the attacker, and for the properties.

use enforcer_common::abi::{AttemptValue, role};
use enforcer_common::wire::frame::tcp_flags::{ACK, SYN};
use enforcer_common::wire::option::HandshakeOption;
use enforcer_model::{Segment, Tuple};

use crate::history::{Event, as_initiator, as_responder};
use crate::system::State;

/// A segment is on the wire.
pub fn leaves(state: &mut State, host: usize, tuple: Tuple, segment: &Segment) {
    let Some(body) = segment.option else { return };
    let option = HandshakeOption::proof(body);
    if !segment.has(SYN) {
        state.macs.insert(body);
        return;
    }
    state.nonces.insert(option.nonce());
    if !segment.has(ACK) {
        let called = (host, option.handle(), option.nonce(), tuple.remote);
        state.history.called.insert(called);
    }
    if let Some(prefix) = segment.prefix {
        state.macs.insert(prefix.mac);
        let attempt = &state.nodes[host].attempts[&tuple];
        let (agreed, isn) = (as_responder(attempt), attempt.local_isn);
        state.history.answered.insert(Event { host, agreed, server: tuple.local, isn });
    }
}

/// Whether the segment that passed opened a flow: S2 at a client, S3 at a server.
pub fn note_opened(state: &mut State, host: usize, segment: &Segment, before: &AttemptValue) {
    let tuple = Tuple { local: segment.to, remote: segment.from };
    let Some(body) = segment.option else { return };
    let isn = before.local_isn;
    if segment.has(SYN | ACK) {
        // A plain attempt is answered without a flow.
        let node = &state.nodes[host];
        if node.attempts.get(&tuple).is_none_or(|a| a.role != role::CLIENT) {
            return;
        }
        let option = HandshakeOption::proof(body);
        let mut a = *before;
        (a.remote_handle, a.remote_nonce) = (option.handle(), option.nonce());
        let event = Event { host, agreed: as_initiator(&a), server: tuple.remote, isn };
        state.history.client.insert(event);
    } else if !segment.has(SYN)
        && before.answered != 0
        && (before.role == role::SERVER || before.role == role::BOTH)
    {
        let event = Event { host, agreed: as_responder(before), server: tuple.local, isn };
        state.history.server.push(event);
    }
}
