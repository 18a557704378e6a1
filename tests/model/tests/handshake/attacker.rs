//! What the network may bring: every segment that can be put together from the terms that were ever on the wire, by
//! someone with an identity of its own. Delivery, loss, repetition and reordering are among them.
//!
//! A MAC is only ever compared. So for each input that a host would check, the attacker brings the one that is right, if
//! it has it or its own keys make it; and one that is wrong.

use enforcer_common::abi::{AttemptValue, Handle, Mac, Nonce, role};
use enforcer_common::crypto::Transcript;
use enforcer_common::wire::frame::tcp_flags::{ACK, RST, SYN};
use enforcer_common::wire::option::HandshakeOption;
use enforcer_model::{End, Prefix, Segment, Tuple, mac};

use crate::cast::{
    CALLEE, CALLER, MALLORY, MALLORYS, OTHER_SERVICE, SERVICE, handle, identity, pair_key,
};
use crate::system::{Action, State, System};

/// The attacker's nonce and initial sequence number.
const OWN_NONCE: Nonce = [0xee; 8];
const OWN_ISN: u32 = 7;
const WRONG_MAC: Mac = [0xbb; 16];
const PSH: u8 = 8;

pub fn actions(system: &System, state: &State, host: usize, actions: &mut Vec<Action>) {
    let mut found = Vec::new();
    for tuple in &system.tuples[host] {
        let attempt = state.nodes[host].attempts.get(tuple);
        if system.reverses || host == CALLEE {
            s1(system, state, handle(identity(host)), *tuple, &mut found);
        }
        if let Some(attempt) = attempt {
            s2(system, state, host, *tuple, attempt, &mut found);
            s3(system, state, host, *tuple, attempt, &mut found);
        }
        behind(state, host, *tuple, &mut found);
    }
    actions.extend(found.into_iter().map(|segment| Action::Inject(host, segment)));
}

const IDENTITIES: [u64; 3] = [1, 2, MALLORY];

fn ends(tuple: Tuple) -> [End; 2] {
    [tuple.remote, tuple.local]
}

fn nonces(state: &State) -> impl Iterator<Item = Nonce> {
    state.nonces.iter().copied().chain([OWN_NONCE])
}

/// Initial sequence numbers that a host behind `tuple` may have, and the attacker's own.
fn remote_isns(state: &State, tuple: Tuple, renumbers: bool) -> Vec<u32> {
    let back = Tuple { local: tuple.remote, remote: tuple.local };
    let stacks = state.stacks.iter().flatten();
    let mut isns: Vec<u32> =
        stacks.filter(|(t, _)| *t == back).map(|(_, tcp)| tcp.local_isn).collect();
    if isns.is_empty() || renumbers {
        isns.push(OWN_ISN);
    }
    isns
}

fn hello(segment: Segment, named: Handle, nonce: Nonce, credential: Handle) -> Segment {
    let option = Some(HandshakeOption::hello(named, nonce).body);
    Segment { option, credential: Some(credential), ..segment }
}

fn s1(system: &System, state: &State, own: Handle, tuple: Tuple, found: &mut Vec<Segment>) {
    for isn in remote_isns(state, tuple, system.renumbers) {
        let syn = Segment::new(ends(tuple), SYN, isn, 0);
        found.push(syn);
        for nonce in nonces(state) {
            // Whoever knows all peers holds nobody's S1, and its own handle is no peer's.
            let peers = IDENTITIES.into_iter();
            for peer in peers.filter(|p| !system.warm || handle(*p) != own) {
                found.push(hello(syn, handle(peer), nonce, handle(peer)));
            }
        }
        // Somebody else's credential behind the handle.
        let mixed = hello(syn, handle(identity(CALLER)), OWN_NONCE, handle(MALLORY));
        found.push(mixed);
    }
}

fn s2(
    system: &System,
    state: &State,
    host: usize,
    tuple: Tuple,
    attempt: &AttemptValue,
    found: &mut Vec<Segment>,
) {
    if attempt.role == role::SERVER {
        return;
    }
    let own = pair_key(system.weakening, identity(host), MALLORY);
    for isn in remote_isns(state, tuple, false) {
        let ack = attempt.local_isn.wrapping_add(1);
        let syn_ack = Segment::new(ends(tuple), SYN | ACK, isn, ack);
        found.push(syn_ack);
        for nonce in nonces(state) {
            for peer in IDENTITIES {
                let transcript = Transcript {
                    handle_a: attempt.local_handle,
                    handle_b: handle(peer),
                    nonce_a: attempt.local_nonce,
                    nonce_b: nonce,
                };
                let key = pair_key(system.weakening, identity(host), peer);
                for end in [SERVICE, OTHER_SERVICE, MALLORYS, tuple.remote] {
                    let right = mac::both(system.weakening, &key, &transcript, end).answer;
                    let made = mac::both(system.weakening, &own, &transcript, end).answer;
                    let mut macs = vec![];
                    if state.macs.contains(&right) || right == made {
                        macs.push(right);
                    }
                    if nonce == OWN_NONCE && end == tuple.remote {
                        macs.push(WRONG_MAC);
                    }
                    let segment = hello(syn_ack, handle(peer), nonce, handle(peer));
                    found.extend(macs.into_iter().map(|mac| {
                        let prefix = Some(Prefix { mac, end });
                        Segment { prefix, ..segment }
                    }));
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
}

fn s3(
    system: &System,
    state: &State,
    host: usize,
    tuple: Tuple,
    attempt: &AttemptValue,
    found: &mut Vec<Segment>,
) {
    if attempt.role == role::CLIENT {
        return;
    }
    let (next, ack) = (attempt.remote_isn.wrapping_add(1), attempt.local_isn.wrapping_add(1));
    let bare = Segment::new(ends(tuple), ACK, next, ack);
    let transcript = Transcript {
        handle_a: attempt.remote_handle,
        handle_b: attempt.local_handle,
        nonce_a: attempt.remote_nonce,
        nonce_b: attempt.local_nonce,
    };
    let own = pair_key(system.weakening, MALLORY, identity(host));
    let made = mac::both(system.weakening, &own, &transcript, tuple.local).proof;
    let known = state.macs.contains(&attempt.proof).then_some(attempt.proof);
    for mac in known.into_iter().chain([made, WRONG_MAC]) {
        found.push(Segment { option: Some(HandshakeOption::proof(mac).body), ..bare });
    }
}

/// Segments behind the handshake, in sequence: with and without data, and a reset. Anybody may spoof them.
fn behind(state: &State, host: usize, tuple: Tuple, found: &mut Vec<Segment>) {
    let Some((_, tcp)) = state.stacks[host].iter().find(|(t, _)| *t == tuple) else { return };
    let (next, ack) = (tcp.remote_isn.wrapping_add(1), tcp.local_isn.wrapping_add(1));
    let bare = Segment::new(ends(tuple), ACK, next, ack);
    found.push(bare);
    found.push(Segment { flags: ACK | PSH, data: 1, ..bare });
    found.push(Segment { flags: RST | ACK, ..bare });
}
