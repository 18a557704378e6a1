//! The handshake, step by step: what is stamped and accepted, and which MACs are not. What else must be refused
//! stands in the modules.

mod again;
mod client;
mod cold;
mod obligation;
mod options;
mod quota;
mod room;
mod server;
mod vectors;

use enforcer_common::abi::{
    NonceState, direction, flow_flags, flow_state, interface_flags, network_flags, role,
    verdict_action,
};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::segment::{ACK, RST, Segment};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{
    DATA, EPOCH, Family, KEY_AS_INITIATOR, KEY_AS_RESPONDER, LOCAL_ISN, PEER, SERVICE, Side,
    WORKLOAD, World,
};

#[track_caller]
pub(crate) fn expect(world: &mut World, hook: Hook, frame: &[u8], out: &[u8], counters: &[&str]) {
    let seen = world.run(hook, frame);
    compare(&seen, Action::Pass, Some(out), counters).unwrap();
}

#[test]
fn s1_leaves_with_option_and_credential_and_again_the_same() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let syn = w.syn_out().frame();
        let seen = w.run(Hook::From, &syn);
        let attempt = w.attempt().expect("an attempt");
        assert_ne!(attempt.local_nonce, [0; 8]);
        assert_eq!((attempt.local_handle, attempt.local_isn), (w.own.handle, LOCAL_ISN));
        let s1 = w.s1_out().frame();
        compare(&seen, Action::Pass, Some(&s1), &["s1_sent"]).unwrap();
        assert_eq!(w.kernel.single::<NonceState>("NONCES").counter, 1);
        expect(&mut w, Hook::From, &syn, &s1, &["s1_sent"]);
        let counter = w.kernel.single::<NonceState>("NONCES").counter;
        assert_eq!(counter, 1, "a repetition takes no nonce");
    }
}

/// The stack's timer may fire between the program that accepts S2 and the stack that reads it. The flow's proof
/// stands on the first nonce.
#[test]
fn s1_leaves_again_the_same_behind_an_accepted_s2() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let (before, s1) = ((w.attempt(), w.flow()), w.s1_out().frame());
        let syn = w.syn_out().frame();
        expect(&mut w, Hook::From, &syn, &s1, &["s1_sent"]);
        assert_eq!((w.attempt(), w.flow()), before);
        let (ack, s3) = (w.ack_out().frame(), w.ack_out().proof(w.proof()).frame());
        expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
    }
}

#[test]
fn s1_of_another_sequence_number_has_another_nonce() {
    let mut w = World::new(Family::V4, Side::Client);
    w.after_s1_out();
    let first = w.attempt().unwrap().local_nonce;
    let mut syn = w.syn_out();
    syn.sequence = 5;
    w.pass(Hook::From, &syn.frame());
    assert_ne!(w.attempt().unwrap().local_nonce, first);
}

#[test]
fn a_client_proves_itself_and_its_flow_passes_both_ways() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s1_out();
        let (s2, syn_ack) = (w.s2_in().frame(), w.syn_ack_in().frame());
        expect(&mut w, Hook::To, &s2, &syn_ack, &["s2_accepted"]);
        let flow = w.flow().expect("a flow");
        assert_eq!((flow.state, flow.flags), (flow_state::UNCONFIRMED, flow_flags::INITIATOR));
        assert_eq!((flow.peer, flow.epoch, flow.port), (PEER, EPOCH, SERVICE));
        assert_eq!((flow.local_mac, flow.remote_mac), (w.local.mac, w.remote.mac));
        let (ack, s3) = (w.ack_out().frame(), w.ack_out().proof(w.proof()).frame());
        expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
        expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
        let answer = w.ack_in().frame();
        expect(&mut w, Hook::To, &answer, &answer, &["confirmed"]);
        assert_eq!(w.attempt(), None);
        both_ways(&mut w);
    }
}

#[test]
fn a_server_accepts_a_proof_and_its_flow_passes_both_ways() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let (s1, syn) = (w.s1_in().frame(), w.syn_in().frame());
        expect(&mut w, Hook::To, &s1, &syn, &["s1_accepted"]);
        assert_eq!(w.flow(), None, "nothing enters the flow table before the proof");
        let syn_ack = w.syn_ack_out().frame();
        let seen = w.run(Hook::From, &syn_ack);
        let s2 = w.s2_out().frame();
        compare(&seen, Action::Pass, Some(&s2), &["s2_sent"]).unwrap();
        expect(&mut w, Hook::From, &syn_ack, &s2, &["s2_sent"]);
        expect(&mut w, Hook::To, &s1, &syn, &["s1_accepted"]);
        expect(&mut w, Hook::From, &syn_ack, &s2, &["s2_sent"]);
        let (s3, ack) = (w.s3_in().frame(), w.ack_in().frame());
        expect(&mut w, Hook::To, &s3, &ack, &["proof_accepted"]);
        assert_eq!(w.attempt(), None);
        let flow = w.flow().expect("a flow");
        assert_eq!((flow.state, flow.flags), (flow_state::ESTABLISHED, 0));
        assert_eq!((flow.peer, flow.epoch, flow.port), (PEER, EPOCH, SERVICE));
        assert_eq!((flow.local_mac, flow.remote_mac), (w.local.mac, w.remote.mac));
        // A duplicate of the proof is stripped and passed.
        expect(&mut w, Hook::To, &s3, &ack, &[]);
        both_ways(&mut w);
    }
}

fn both_ways(w: &mut World) {
    let before = w.flow().expect("a flow");
    assert_eq!(before.state, flow_state::ESTABLISHED);
    let (out, back) = (w.data_out().frame(), w.data_in().frame());
    expect(w, Hook::From, &out, &out, &[]);
    expect(w, Hook::To, &back, &back, &[]);
    let after = w.flow().expect("a flow");
    assert_eq!(after.packets_out, before.packets_out + 1);
    assert_eq!(after.packets_in, before.packets_in + 1);
    assert_eq!(after.bytes_out, before.bytes_out + out.len() as u64 - 14);
    assert_eq!(after.bytes_in, before.bytes_in + back.len() as u64 - 14);
    let sent = LOCAL_ISN.wrapping_add(1 + u32::try_from(DATA.len()).unwrap());
    assert_eq!(after.local_next, sent);
}

#[test]
fn a_proof_goes_ahead_of_data() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let data = w.data_out().frame();
        expect(&mut w, Hook::From, &data, &data, &["proof_cloned"]);
        prove_again(&mut w, false);
        expect(&mut w, Hook::From, &data, &data, &[]);
        prove_again(&mut w, true);
        expect(&mut w, Hook::From, &data, &data, &["proof_cloned"]);
        // Its clone comes to the same program and becomes the bare proof.
        let s3 = w.ack_out().proof(w.proof()).frame();
        w.kernel.set_cloning(1);
        expect(&mut w, Hook::From, &data, &s3, &[]);
    }
}

/// What a client acknowledges a repeated SYN-ACK with, and the copy of a segment further on, say of a FIN that the stack
/// probes with.
#[test]
fn a_proof_has_the_number_of_the_handshake_whatever_was_sent_behind_it() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let s3 = w.ack_out().proof(w.proof()).frame();
        let data = w.data_out();
        w.pass(Hook::From, &data.frame());
        for ahead in [1, u32::try_from(DATA.len()).unwrap(), 1 << 20] {
            let later = |segment: Segment| {
                Segment { sequence: segment.sequence.wrapping_add(ahead), ..segment }.frame()
            };
            let (ack, data) = (later(w.ack_out()), later(w.data_out()));
            expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
            prove_again(&mut w, true);
            expect(&mut w, Hook::From, &data, &data, &["proof_cloned"]);
            w.kernel.set_cloning(1);
            expect(&mut w, Hook::From, &data, &s3, &[]);
            w.kernel.set_cloning(0);
        }
    }
}

/// A keepalive, or a probe of a closed window, is answered for standing one below; the proof goes ahead of it.
#[test]
fn a_probe_of_a_client_that_has_heard_nothing_stays_one() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let s3 = w.ack_out().proof(w.proof()).frame();
        let probe = Segment { sequence: LOCAL_ISN, ..w.ack_out() }.frame();
        expect(&mut w, Hook::From, &probe, &probe, &["proof_cloned"]);
        w.kernel.set_cloning(1);
        expect(&mut w, Hook::From, &probe, &s3, &[]);
        w.kernel.set_cloning(0);
        prove_again(&mut w, false);
        expect(&mut w, Hook::From, &probe, &probe, &[]);
        let answer = w.ack_in().frame();
        expect(&mut w, Hook::To, &answer, &answer, &["confirmed"]);
    }
}

/// The workload has sent data when S2 comes again; what the server says to it may come right behind.
#[test]
fn an_s2_that_comes_again_leaves_the_flow_as_it_is() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let data = w.data_out().frame();
        w.pass(Hook::From, &data);
        let before = w.flow();
        let (s2, syn_ack) = (w.s2_in().frame(), w.syn_ack_in().frame());
        expect(&mut w, Hook::To, &s2, &syn_ack, &["s2_accepted"]);
        assert_eq!(w.flow(), before);
        let ack = w.ack_in();
        let acknowledgement = ack.acknowledgement.wrapping_add(u32::try_from(DATA.len()).unwrap());
        let answer = Segment { acknowledgement, ..ack }.frame();
        expect(&mut w, Hook::To, &answer, &answer, &["confirmed"]);
    }
}

/// Once the workload has acknowledged a SYN-ACK, its stack takes no other: not one of another number with everything
/// else as in the genuine one, which mac_B does not tell apart, and not one without identity.
#[test]
fn a_syn_ack_with_another_number_than_was_acknowledged_moves_nothing() {
    for family in Family::BOTH {
        for ahead in [1, 1 << 31] {
            let mut w = World::new(family, Side::Client);
            w.after_s2_in();
            let (ack, s3) = (w.ack_out().frame(), w.ack_out().proof(w.proof()).frame());
            expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
            let before = (w.flow(), w.attempt());
            for segment in [w.s2_in(), w.syn_ack_in()] {
                let sequence = segment.sequence.wrapping_add(ahead);
                let other = Segment { sequence, ..segment }.frame();
                compare(&w.run(Hook::To, &other), Action::Drop, None, &["no_attempt"]).unwrap();
            }
            assert_eq!((w.flow(), w.attempt()), before);
            let data = w.data_in().frame();
            expect(&mut w, Hook::To, &data, &data, &["confirmed"]);
        }
    }
}

/// The one before was forged, say, and its checksum wrong: the workload has acknowledged none.
#[test]
fn an_s2_with_another_number_is_taken_while_none_is_acknowledged() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s1_out();
        let (s2, syn_ack) = (w.s2_in(), w.syn_ack_in().frame());
        let forged = Segment { sequence: s2.sequence.wrapping_add(9), ..s2.clone() }.frame();
        w.pass(Hook::To, &forged);
        expect(&mut w, Hook::To, &s2.frame(), &syn_ack, &["s2_accepted"]);
        let (ack, s3) = (w.ack_out().frame(), w.ack_out().proof(w.proof()).frame());
        expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
        let data = w.data_in().frame();
        expect(&mut w, Hook::To, &data, &data, &["confirmed"]);
    }
}

/// Its verdict is asked for again, and the flow that it finds with its next segment.
#[test]
fn an_s2_that_comes_again_under_another_policy_is_judged_by_it() {
    for family in Family::BOTH {
        for action in [verdict_action::ALLOW, verdict_action::DENY] {
            let mut w = World::new(family, Side::Client);
            w.after_s2_in();
            let later = w.later();
            w.set_verdict(direction::EGRESS, EPOCH + 2, action, later);
            w.set_config(|config| config.epoch = EPOCH + 2);
            let (s2, syn_ack) = (w.s2_in().frame(), w.syn_ack_in().frame());
            let (data, s3) = (w.data_in().frame(), w.ack_out().proof(w.proof()).frame());
            if action == verdict_action::ALLOW {
                expect(&mut w, Hook::To, &s2, &syn_ack, &["s2_accepted"]);
                let ack = w.ack_out().frame();
                expect(&mut w, Hook::From, &ack, &s3, &["rejudged", "proof_sent"]);
                expect(&mut w, Hook::To, &data, &data, &["confirmed"]);
            } else {
                let reset = w.syn_ack_in().options(&[]).flags(RST | ACK).frame();
                expect(&mut w, Hook::To, &s2, &reset, &["policy_denied", "reset_local"]);
                compare(&w.run(Hook::To, &data), Action::Drop, None, &["flow_cut"]).unwrap();
            }
        }
    }
}

#[test]
fn behind_a_veth_the_segment_becomes_the_proof_and_its_clone_follows() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.set_interface(WORKLOAD, interface_flags::HOST_SIDE);
        w.after_s2_in();
        let s3 = w.ack_out().proof(w.proof()).frame();
        let probe = Segment { sequence: LOCAL_ISN, ..w.ack_out() };
        for segment in [probe, w.data_out()] {
            prove_again(&mut w, true);
            let segment = segment.frame();
            expect(&mut w, Hook::From, &segment, &s3, &["proof_cloned"]);
            prove_again(&mut w, false);
            expect(&mut w, Hook::From, &segment, &segment, &[]);
        }
    }
}

/// Whether the last proof is so old that the next segment brings another: a time that no pause
/// between two runs of a program can reach.
fn prove_again(w: &mut World, again: bool) {
    w.change_attempt(|attempt| attempt.proof_ns = if again { 0 } else { u64::MAX / 2 });
}

#[test]
fn a_spoofed_segment_does_not_silence_the_proof() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let mut early = w.ack_in();
        early.acknowledgement = LOCAL_ISN;
        let frame = early.frame();
        compare(&w.run(Hook::To, &frame), Action::Drop, None, &["awaiting_proof"]).unwrap();
        let (ack, s3) = (w.ack_out().frame(), w.ack_out().proof(w.proof()).frame());
        expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
    }
}

/// A server's stack probes a connection that nobody has used (RFC 9293 3.8.4).
#[test]
fn a_keepalive_ahead_of_all_data_confirms() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let mut probe = w.ack_in();
        probe.sequence -= 2;
        let below = probe.frame();
        compare(&w.run(Hook::To, &below), Action::Drop, None, &["awaiting_proof"]).unwrap();
        probe.sequence += 1;
        let frame = probe.frame();
        expect(&mut w, Hook::To, &frame, &frame, &["confirmed"]);
        assert_eq!(w.flow().unwrap().state, flow_state::ESTABLISHED);
        both_ways(&mut w);
    }
}

#[test]
fn a_wrong_mac_is_dropped() {
    for family in Family::BOTH {
        for at in 0..16 {
            let mut w = World::new(family, Side::Client);
            w.after_s1_out();
            let mut s2 = w.s2_in();
            s2.payload[at] ^= 1;
            let seen = w.run(Hook::To, &s2.frame());
            compare(&seen, Action::Drop, None, &["bad_mac"]).unwrap();
            assert_eq!(w.flow(), None);
            drop(w);

            let mut w = World::new(family, Side::Server);
            w.after_s2_out();
            let mut proof = w.proof();
            proof[at] ^= 1;
            let before = w.attempt();
            let seen = w.run(Hook::To, &w.ack_in().proof(proof).frame());
            compare(&seen, Action::Drop, None, &["bad_mac"]).unwrap();
            assert_eq!((w.flow(), w.attempt()), (None, before), "a bad mac changes no state");
        }
    }
}

#[test]
fn a_mac_of_another_role_is_dropped() {
    let mut w = World::new(Family::V4, Side::Client);
    w.after_s1_out();
    let mac = w.covered().answer(&KEY_AS_RESPONDER);
    let mut s2 = w.s2_in();
    s2.payload[..16].copy_from_slice(&mac);
    let seen = w.run(Hook::To, &s2.frame());
    compare(&seen, Action::Drop, None, &["bad_mac"]).unwrap();
    drop(w);
    let mut w = World::new(Family::V4, Side::Server);
    w.after_s2_out();
    let proof = w.covered().proof(&KEY_AS_INITIATOR);
    let seen = w.run(Hook::To, &w.ack_in().proof(proof).frame());
    compare(&seen, Action::Drop, None, &["bad_mac"]).unwrap();
}

#[test]
fn a_mac_of_another_step_is_dropped() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.after_s2_out();
        let proof = w.covered().answer(&KEY_AS_RESPONDER);
        let seen = w.run(Hook::To, &w.ack_in().proof(proof).frame());
        compare(&seen, Action::Drop, None, &["bad_mac"]).unwrap();
    }
}

#[test]
fn a_peer_past_its_deadline_is_unknown() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let past = w.past();
        w.set_peer(|peer| peer.deadline_ns = past);
        let s1 = w.s1_in().frame();
        compare(&w.run(Hook::To, &s1), Action::Drop, None, &["expired"]).unwrap();
        drop(w);
        let mut w = World::new(family, Side::Client);
        w.after_s1_out();
        w.set_peer(|peer| peer.deadline_ns = past);
        let s2 = w.s2_in().frame();
        compare(&w.run(Hook::To, &s2), Action::Drop, None, &["expired"]).unwrap();
    }
}

#[test]
fn an_answer_from_another_address_is_dropped() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s1_out();
        let payload = w.answer_payload(w.outside.mapped(), w.remote.port);
        let seen = w.run(Hook::To, &w.s2_in().payload(&payload).frame());
        let reset = w.reset_of_syn_ack();
        compare(&seen, Action::Pass, Some(&reset), &["relayed", "reset_local"]).unwrap();
        assert_eq!((w.flow(), w.attempt()), (None, None));
    }
}

#[test]
fn a_service_answers_from_another_address() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.set_mesh(network_flags::MESH | network_flags::VIRTUAL);
        w.after_s1_out();
        let payload = w.answer_payload(w.outside.mapped(), w.remote.port);
        let (s2, syn_ack) = (w.s2_in().payload(&payload).frame(), w.syn_ack_in().frame());
        expect(&mut w, Hook::To, &s2, &syn_ack, &["s2_accepted"]);
    }
}

#[test]
fn a_network_rule_opens_a_plain_connection() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let far = w.remote;
        w.allow_network(&far, direction::INGRESS, 6, (SERVICE, SERVICE));
        let (syn, syn_ack, ack) = (w.syn_in().frame(), w.syn_ack_out().frame(), w.ack_in().frame());
        expect(&mut w, Hook::To, &syn, &syn, &[]);
        assert_eq!(w.attempt().expect("an attempt").role, role::PLAIN);
        expect(&mut w, Hook::From, &syn_ack, &syn_ack, &[]);
        expect(&mut w, Hook::To, &ack, &ack, &["plain_opened"]);
        both_ways(&mut w);
        assert_eq!(w.flow().unwrap().flags, flow_flags::PLAIN);
    }
}

/// Two spoofed segments must not end, and three not open, a connection that the far side opened.
#[test]
fn who_opened_a_plain_connection_does_not_answer_it() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let far = w.remote;
        w.allow_network(&far, direction::INGRESS, 6, (SERVICE, SERVICE));
        w.pass(Hook::To, &w.syn_in().frame());
        let mut spoofed = w.syn_ack_in();
        spoofed.acknowledgement = 1;
        let frame = spoofed.frame();
        compare(&w.run(Hook::To, &frame), Action::Drop, None, &["no_attempt"]).unwrap();
        let mut ack = w.ack_in();
        (ack.sequence, ack.acknowledgement) = (spoofed.sequence.wrapping_add(1), 1);
        w.run(Hook::To, &ack.frame());
        assert!(w.flow().is_none());
    }
}
