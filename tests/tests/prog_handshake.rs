//! The handshake, step by step: what is stamped, what is accepted, and what must not be.

use enforcer_common::abi::{
    CredentialValue, FlowValue, Handle, HeldSegment, NonceState, WorkloadValue, direction,
    flow_flags, flow_state, network_flags, role, verdict_action,
};
use enforcer_tests::program::kernel::{Action, FLOWS_MAX, Hook, held_segment};
use enforcer_tests::program::segment::{ACK, FIN, RST, SYN, Segment, is_intact};
use enforcer_tests::program::table::{answers, becomes, check, compare, drops, passes};
use enforcer_tests::program::world::{
    Credential, DATA, EPOCH, Family, KEY_AS_INITIATOR, KEY_AS_RESPONDER, LOCAL_ISN, PEER,
    PEER_NONCE, REMOTE_ISN, SERVICE, Side, WORKLOAD, World,
};

/// Options that resemble ours, or do not parse.
const OURS_FIRST: [u8; 24] =
    [253, 20, 0x45, 0x4e, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1, 1, 1];
const OURS_SHORT: [u8; 4] = [253, 4, 0x45, 0x4e];
const OTHER_EXID: [u8; 20] =
    [253, 20, 0x45, 0x4f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const JOIN: [u8; 12] = [30, 12, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const MALFORMED: [[u8; 4]; 4] = [[2, 0, 5, 0xb4], [2, 1, 5, 0xb4], [1, 1, 1, 2], [2, 8, 5, 0xb4]];

#[track_caller]
fn expect(world: &mut World, hook: Hook, frame: &[u8], out: &[u8], counters: &[&str]) {
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
        expect(&mut w, Hook::From, &data, &data, &[]);
        // Its clone comes to the same program and becomes the bare proof.
        let s3 = w.ack_out().proof(w.proof()).frame();
        w.kernel.set_cloning(1);
        expect(&mut w, Hook::From, &data, &s3, &[]);
    }
}

#[test]
fn behind_a_veth_the_segment_becomes_the_proof_and_its_clone_follows() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.set_interface(WORKLOAD, enforcer_common::abi::interface_flags::HOST_SIDE);
        w.after_s2_in();
        let (data, s3) = (w.data_out().frame(), w.ack_out().proof(w.proof()).frame());
        expect(&mut w, Hook::From, &data, &s3, &["proof_cloned"]);
        expect(&mut w, Hook::From, &data, &data, &[]);
    }
}

#[test]
fn a_spoofed_segment_does_not_silence_the_proof() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s2_in();
        let mut early = w.ack_in();
        early.acknowledgement = LOCAL_ISN;
        let frame = early.frame();
        expect(&mut w, Hook::To, &frame, &frame, &[]);
        let (ack, s3) = (w.ack_out().frame(), w.ack_out().proof(w.proof()).frame());
        expect(&mut w, Hook::From, &ack, &s3, &["proof_sent"]);
    }
}

#[test]
fn s1_that_must_not_leave() {
    check(
        Side::Client,
        Hook::From,
        &[
            drops(
                "a forged option",
                |w| w.syn_out().hello(w.own.handle, [7; 8]).frame(),
                &["forged_option"],
            ),
            drops(
                "a forged option of another length",
                |w| w.syn_out().options(&OURS_SHORT).frame(),
                &["forged_option"],
            ),
            drops(
                "a forged option in another place",
                |w| w.syn_out().options(&OURS_FIRST).frame(),
                &["forged_option"],
            ),
            drops(
                "another link address",
                |w| {
                    let mut syn = w.syn_out();
                    syn.from.mac = w.remote.mac;
                    syn.frame()
                },
                &["spoofed_source"],
            ),
            drops(
                "another address",
                |w| {
                    let mut syn = w.syn_out();
                    syn.from.address = w.outside.address;
                    syn.frame()
                },
                &["spoofed_source"],
            ),
            drops(
                "more options than are read",
                |w| w.syn_out().options(&[1; 24]).frame(),
                &["malformed_option"],
            ),
            drops(
                "no room behind other options",
                |w| {
                    let cookie = [34, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
                    w.syn_out().options(&[&[2, 4, 5, 0xb4, 1, 1][..], &cookie].concat()).frame()
                },
                &["no_option_room"],
            ),
            drops(
                "a workload without credential",
                |w| {
                    w.set_workload(|workload| workload.credential = [0; 8]);
                    w.syn_out().frame()
                },
                &["no_credential"],
            ),
            drops(
                "an expired credential",
                |w| {
                    let (handle, value) = (w.own.handle, w.own.value(w.past()));
                    w.kernel.put("CREDENTIALS", handle, value);
                    w.syn_out().frame()
                },
                &["no_credential"],
            ),
            drops(
                "an interface of a workload that is gone",
                |w| {
                    w.kernel.remove::<u32, WorkloadValue>("WORKLOADS", &u32::from(WORKLOAD));
                    w.syn_out().frame()
                },
                &["no_workload"],
            ),
            drops("a multipath join", |w| w.syn_out().options(&JOIN).frame(), &["multipath_join"]),
            drops("SYN and FIN", |w| w.syn_out().flags(SYN | FIN).frame(), &["malformed_header"]),
            drops("SYN and RST", |w| w.syn_out().flags(SYN | RST).frame(), &["malformed_header"]),
            becomes(
                "data in a SYN is cut",
                |w| w.syn_out().payload(DATA).frame(),
                |w| w.s1_out().frame(),
                &["s1_sent"],
            ),
            answers(
                "outside the mesh without a rule",
                |w| w.syn_to_outside().frame(),
                |w| {
                    let next = LOCAL_ISN.wrapping_add(1);
                    Segment::new(w.outside, w.local, RST | ACK, 0, next).frame()
                },
                &["network_denied", "reset_local"],
            ),
            passes(
                "outside the mesh with a rule",
                |w| {
                    let far = w.outside;
                    w.allow_network(&far, direction::EGRESS, 6, (SERVICE, SERVICE));
                    w.syn_to_outside().frame()
                },
                &[],
            ),
        ],
    );
}

#[test]
fn malformed_options_are_dropped_on_every_step() {
    for family in Family::BOTH {
        for bad in MALFORMED {
            for (side, hook) in [
                (Side::Client, Hook::From),
                (Side::Client, Hook::To),
                (Side::Server, Hook::From),
                (Side::Server, Hook::To),
            ] {
                let mut w = World::new(family, side);
                let segment = match (side, hook) {
                    (Side::Client, Hook::From) => w.syn_out(),
                    (Side::Client, Hook::To) => {
                        w.after_s1_out();
                        w.syn_ack_in()
                    }
                    (Side::Server, Hook::From) => {
                        w.after_s1_in();
                        w.syn_ack_out()
                    }
                    (Side::Server, Hook::To) => w.syn_in(),
                };
                let seen = w.run(hook, &segment.options(&bad).frame());
                compare(&seen, Action::Drop, None, &["malformed_option"])
                    .unwrap_or_else(|error| panic!("{bad:?} {side:?} {hook:?}: {error}"));
            }
        }
    }
}

#[test]
fn s1_that_must_not_be_accepted() {
    check(
        Side::Server,
        Hook::To,
        &[
            drops("no credential", |w| w.s1_in().payload(&[]).frame(), &["credential_length"]),
            drops(
                "a credential one byte short",
                |w| w.s1_in().payload(&w.theirs.bytes[1..]).frame(),
                &["credential_length"],
            ),
            drops(
                "a credential one byte long",
                |w| w.s1_in().payload(&[&w.theirs.bytes[..], &[0]].concat()).frame(),
                &["credential_length"],
            ),
            drops(
                "an S2 replayed as S1",
                |w| w.s1_in().payload(&[&[9; 34], &w.theirs.bytes[..]].concat()).frame(),
                &["credential_length"],
            ),
            drops(
                "an unknown handle",
                |w| {
                    w.forget_peer();
                    w.s1_in().frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "our own S1 mirrored",
                |w| w.syn_in().hello(w.own.handle, PEER_NONCE).payload(&w.own.bytes).frame(),
                &["held", "cold_segments"],
            ),
            drops(
                "an unknown handle, too long to be held",
                |w| w.syn_in().hello([6; 8], PEER_NONCE).payload(&[5; 1460]).frame(),
                &["oversized"],
            ),
            drops(
                "an unknown handle over the limit",
                |w| {
                    w.set_config(|config| config.cold_per_source = 0);
                    w.forget_peer();
                    w.s1_in().frame()
                },
                &["cold_rate_limited"],
            ),
            drops(
                "a workload without credential",
                |w| {
                    w.set_workload(|workload| workload.credential = [0; 8]);
                    w.s1_in().frame()
                },
                &["no_credential"],
            ),
            drops("a SYN without identity", |w| w.syn_in().frame(), &["peer_without_identity"]),
            drops(
                "an experiment of someone else is no identity",
                |w| w.syn_in().options(&OTHER_EXID).payload(&w.theirs.bytes).frame(),
                &["peer_without_identity"],
            ),
            drops(
                "our option of another length",
                |w| w.syn_in().options(&OURS_SHORT).frame(),
                &["wrong_version"],
            ),
            drops(
                "our option in another place",
                |w| w.syn_in().options(&OURS_FIRST).frame(),
                &["wrong_version"],
            ),
            drops(
                "our option twice",
                |w| w.s1_in().options(&[]).hello([1; 8], [2; 8]).hello([1; 8], [2; 8]).frame(),
                &["wrong_version"],
            ),
            drops("a multipath join", |w| w.syn_in().options(&JOIN).frame(), &["multipath_join"]),
            drops(
                "another nonce while an attempt lives",
                |w| {
                    w.after_s1_in();
                    let again = w.syn_in().hello(w.theirs.handle, [7; 8]);
                    again.payload(&w.theirs.bytes).frame()
                },
                &["attempt_conflict"],
            ),
            becomes(
                "another nonce when the attempt is old",
                |w| {
                    w.after_s1_in();
                    w.change_attempt(|attempt| attempt.created_ns = 0);
                    let again = w.syn_in().hello(w.theirs.handle, [7; 8]);
                    again.payload(&w.theirs.bytes).frame()
                },
                |w| w.syn_in().frame(),
                &["s1_accepted"],
            ),
        ],
    );
}

#[test]
fn a_credential_that_only_looks_known_breaks_the_checksum() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let mut s1 = w.s1_in();
        s1.payload[100] ^= 1;
        let frame = s1.frame();
        assert!(is_intact(&frame, &w.remote, &w.local));
        let seen = w.run(Hook::To, &frame);
        assert_eq!(seen.action, Action::Pass);
        assert!(!is_intact(&seen.frame, &w.remote, &w.local), "the stack must refuse it");
    }
}

#[test]
fn s2_that_must_not_leave() {
    check(
        Side::Server,
        Hook::From,
        &[
            drops("no S1", |w| w.syn_ack_out().frame(), &["no_attempt"]),
            drops(
                "another acknowledgement",
                |w| {
                    w.after_s1_in();
                    let mut syn_ack = w.syn_ack_out();
                    syn_ack.acknowledgement += 1;
                    syn_ack.frame()
                },
                &["no_attempt"],
            ),
            drops(
                "data",
                |w| {
                    w.after_s1_in();
                    w.syn_ack_out().payload(DATA).frame()
                },
                &["data_in_handshake"],
            ),
            drops(
                "a forged option",
                |w| {
                    w.after_s1_in();
                    w.syn_ack_out().hello(w.own.handle, [1; 8]).frame()
                },
                &["forged_option"],
            ),
            drops(
                "no room for the option",
                |w| {
                    w.after_s1_in();
                    let full =
                        [2, 4, 5, 0xb4, 5, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
                    w.syn_ack_out().options(&[&full[..], &[15, 16, 1, 1]].concat()).frame()
                },
                &["no_option_room"],
            ),
            drops(
                "the fourth SYN-ACK",
                |w| {
                    w.after_s2_out();
                    let frame = w.syn_ack_out().frame();
                    w.pass(Hook::From, &frame);
                    w.pass(Hook::From, &frame);
                    frame
                },
                &["syn_ack_limit"],
            ),
            drops(
                "more than twice as long as its S1",
                |w| {
                    w.theirs = Credential::new("short", 100);
                    w.set_peer(|_| {});
                    w.after_s1_in();
                    w.syn_ack_out().frame()
                },
                &["amplification"],
            ),
            drops(
                "a peer that was forgotten",
                |w| {
                    w.after_s1_in();
                    w.forget_peer();
                    w.syn_ack_out().frame()
                },
                &["expired"],
            ),
            drops(
                "a credential that is gone",
                |w| {
                    w.after_s1_in();
                    let handle = w.own.handle;
                    w.kernel.remove::<Handle, CredentialValue>("CREDENTIALS", &handle);
                    w.syn_ack_out().frame()
                },
                &["no_credential"],
            ),
            drops(
                "data before the proof",
                |w| {
                    w.after_s2_out();
                    w.data_out().frame()
                },
                &["awaiting_proof"],
            ),
            passes(
                "a reset before the proof",
                |w| {
                    w.after_s2_out();
                    w.ack_out().flags(RST | ACK).frame()
                },
                &[],
            ),
        ],
    );
}

/// What the client's stack gets instead of a SYN-ACK that it must not have.
fn reset_of_syn_ack(w: &World) -> Vec<u8> {
    let (sequence, acknowledgement) = (REMOTE_ISN, LOCAL_ISN.wrapping_add(1));
    Segment::new(w.remote, w.local, RST | ACK, sequence, acknowledgement).frame()
}

#[test]
fn s2_that_must_not_be_accepted() {
    check(
        Side::Client,
        Hook::To,
        &[
            drops(
                "no S1",
                |w| {
                    let segment = w.syn_ack_in().hello(w.theirs.handle, PEER_NONCE);
                    segment.payload(&[&[1; 34], &w.theirs.bytes[..]].concat()).frame()
                },
                &["no_attempt"],
            ),
            drops(
                "another acknowledgement",
                |w| {
                    w.after_s1_out();
                    let mut s2 = w.s2_in();
                    s2.acknowledgement += 1;
                    s2.frame()
                },
                &["no_attempt"],
            ),
            drops(
                "an unknown handle",
                |w| {
                    w.after_s1_out();
                    w.forget_peer();
                    w.s2_in().frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "our own S1 mirrored",
                |w| {
                    w.after_s1_out();
                    let nonce = w.attempt().unwrap().local_nonce;
                    w.syn_ack_in().hello(w.own.handle, nonce).payload(&w.own.bytes).frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "only the prefix",
                |w| {
                    w.after_s1_out();
                    let mut s2 = w.s2_in();
                    s2.payload.truncate(34);
                    s2.frame()
                },
                &["credential_length"],
            ),
            drops(
                "a credential one byte short",
                |w| {
                    w.after_s1_out();
                    let mut s2 = w.s2_in();
                    s2.payload.pop();
                    s2.frame()
                },
                &["credential_length"],
            ),
            drops(
                "a credential one byte long",
                |w| {
                    w.after_s1_out();
                    let mut s2 = w.s2_in();
                    s2.payload.push(0);
                    s2.frame()
                },
                &["credential_length"],
            ),
            drops(
                "our option in another place",
                |w| {
                    w.after_s1_out();
                    w.s2_in().options(&OURS_FIRST).frame()
                },
                &["wrong_version"],
            ),
            becomes(
                "another port than the one that was dialled",
                |w| {
                    w.after_s1_out();
                    let payload = w.answer_payload(w.remote.mapped(), SERVICE + 1);
                    w.s2_in().payload(&payload).frame()
                },
                reset_of_syn_ack,
                &["relayed", "reset_local"],
            ),
            becomes(
                "no identity",
                |w| {
                    w.after_s1_out();
                    w.syn_ack_in().frame()
                },
                reset_of_syn_ack,
                &["peer_without_identity", "reset_local", "reset_remote"],
            ),
            drops(
                "once more no identity",
                |w| {
                    w.after_s1_out();
                    let frame = w.syn_ack_in().frame();
                    w.pass(Hook::To, &frame);
                    frame
                },
                &["refused"],
            ),
            passes(
                "no identity, with a network rule",
                |w| {
                    let far = w.remote;
                    w.allow_network(&far, direction::EGRESS, 6, (SERVICE, SERVICE));
                    w.after_s1_out();
                    w.syn_ack_in().frame()
                },
                &[],
            ),
            drops(
                "a full flow table",
                |w| {
                    w.after_s1_out();
                    fill_flows(w);
                    w.s2_in().frame()
                },
                &["flow_table_full"],
            ),
        ],
    );
}

fn fill_flows(w: &mut World) {
    for port in 0..FLOWS_MAX {
        let mut key = w.key();
        key.remote_port = u16::try_from(port + 1).unwrap();
        w.put_flow(key, FlowValue { deadline_ns: u64::MAX, ..FlowValue::default() });
    }
}

#[test]
fn s3_that_must_not_be_accepted() {
    check(
        Side::Server,
        Hook::To,
        &[
            drops(
                "before S2",
                |w| {
                    w.after_s1_in();
                    w.ack_in().proof([0; 16]).frame()
                },
                &["awaiting_proof"],
            ),
            drops(
                "no option",
                |w| {
                    w.after_s2_out();
                    w.ack_in().frame()
                },
                &["awaiting_proof"],
            ),
            drops(
                "data without option",
                |w| {
                    w.after_s2_out();
                    w.data_in().frame()
                },
                &["awaiting_proof"],
            ),
            drops(
                "a proof with data",
                |w| {
                    w.after_s2_out();
                    w.s3_in().payload(DATA).frame()
                },
                &["proof_with_data"],
            ),
            drops(
                "a proof on a FIN",
                |w| {
                    w.after_s2_out();
                    w.s3_in().flags(FIN | ACK).frame()
                },
                &["proof_with_data"],
            ),
            drops(
                "the proof of another attempt",
                |w| {
                    w.after_s2_out();
                    let mut covered = w.covered();
                    covered.nonces[1][0] ^= 1;
                    w.ack_in().proof(covered.proof(&KEY_AS_RESPONDER)).frame()
                },
                &["bad_mac"],
            ),
            drops(
                "our own mac mirrored",
                |w| {
                    w.after_s2_out();
                    let mac = w.attempt().unwrap().answer;
                    w.ack_in().proof(mac).frame()
                },
                &["bad_mac"],
            ),
            drops(
                "our own S2 mirrored",
                |w| {
                    w.after_s2_out();
                    let mut s2 = w.s2_out();
                    (s2.from, s2.to) = (w.remote, w.local);
                    (s2.sequence, s2.acknowledgement) = (REMOTE_ISN, LOCAL_ISN.wrapping_add(1));
                    s2.frame()
                },
                &["no_attempt"],
            ),
            drops(
                "another sequence number",
                |w| {
                    w.after_s2_out();
                    let mut s3 = w.s3_in();
                    s3.sequence += 1;
                    s3.frame()
                },
                &["awaiting_proof"],
            ),
            drops(
                "another acknowledgement",
                |w| {
                    w.after_s2_out();
                    let mut s3 = w.s3_in();
                    s3.acknowledgement += 1;
                    s3.frame()
                },
                &["awaiting_proof"],
            ),
            drops(
                "our option of another length",
                |w| {
                    w.after_s2_out();
                    w.ack_in().options(&[&OURS_SHORT[..], &[1; 16]].concat()).frame()
                },
                &["wrong_version"],
            ),
            drops(
                "a full flow table",
                |w| {
                    w.after_s2_out();
                    fill_flows(w);
                    w.s3_in().frame()
                },
                &["flow_table_full"],
            ),
        ],
    );
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
    let (address, port) = (w.remote.mapped(), w.remote.port);
    let mac = w.covered().answer(&KEY_AS_RESPONDER, &address, port);
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
        let proof = w.covered().proof_of_another_step(&KEY_AS_RESPONDER);
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
        let reset = reset_of_syn_ack(&w);
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
fn a_held_segment_travels_whole_to_the_ring_of_its_source() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.forget_peer();
        let s1 = w.s1_in().frame();
        let seen = w.run(Hook::To, &s1);
        compare(&seen, Action::Drop, None, &["held", "cold_segments"]).unwrap();
        let (held, frame) = only_held(&mut w);
        assert_eq!(frame, s1);
        assert_eq!((held.key, held.local_handle, held.port), (w.key(), w.own.handle, SERVICE));
        assert_eq!((held.direction, held.epoch), (direction::INGRESS, EPOCH));
        drop(w);

        let mut w = World::new(family, Side::Client);
        w.after_s1_out();
        w.forget_peer();
        let payload = w.answer_payload(w.remote.mapped(), 9090);
        let s2 = w.s2_in().payload(&payload).frame();
        w.run(Hook::To, &s2);
        let (held, frame) = only_held(&mut w);
        assert_eq!((frame, held.port, held.direction), (s2, 9090, direction::EGRESS));
    }
}

/// The one held segment, in the ring that the source's network chooses.
fn only_held(w: &mut World) -> (HeldSegment, Vec<u8>) {
    let records = w.kernel.held();
    let [(ring, record)] = &records[..] else { panic!("{} held segments", records.len()) };
    let a = w.remote.mapped();
    let expected = match w.family {
        Family::V4 => a[14] ^ a[12] ^ a[13],
        Family::V6 => a[7] ^ a[5] ^ a[6],
    };
    assert_eq!(*ring, usize::from(expected & 3));
    held_segment(record)
}

#[test]
fn a_full_ring_drops_and_says_so() {
    let mut w = World::new(Family::V4, Side::Server);
    w.forget_peer();
    let s1 = w.s1_in().frame();
    let mut held = 0;
    let last = loop {
        let seen = w.run(Hook::To, &s1);
        if !seen.counters.contains_key(&format!("{WORKLOAD}:held")) {
            break seen;
        }
        held += 1;
        assert!(held < 100, "a page holds a few");
    };
    assert!(held > 0);
    compare(&last, Action::Drop, None, &["ring_full"]).unwrap();
    assert_eq!(w.kernel.held().len(), held);
}

#[test]
fn a_source_over_its_limit_leaves_others_theirs() {
    let mut w = World::new(Family::V4, Side::Server);
    w.set_config(|config| config.cold_per_source = 2);
    w.forget_peer();
    let s1 = w.s1_in();
    for expected in
        [&["held", "cold_segments"][..], &["held", "cold_segments"], &["cold_rate_limited"]]
    {
        compare(&w.run(Hook::To, &s1.frame()), Action::Drop, None, expected).unwrap();
    }
    let other = Segment { from: w.outside, ..s1 };
    let seen = w.run(Hook::To, &other.frame());
    compare(&seen, Action::Drop, None, &["held", "cold_segments"]).unwrap();
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

#[test]
fn ipv4_source_routes_and_malformed_ip_options_are_dropped() {
    let route = [131, 7, 4, 203, 0, 113, 1, 0];
    let strict = [1, 137, 7, 4, 203, 0, 113, 1];
    let bad = [148, 0, 0, 0];
    let alert = [148, 4, 0, 0];
    for (options, reason) in
        [(&route[..], "source_route"), (&strict, "source_route"), (&bad, "malformed_header")]
    {
        let mut w = World::new(Family::V4, Side::Server);
        let s1 = Segment { ip_options: options.to_vec(), ..w.s1_in() };
        compare(&w.run(Hook::To, &s1.frame()), Action::Drop, None, &[reason]).unwrap();
        w.after_s1_in();
        let out = Segment { ip_options: options.to_vec(), ..w.syn_ack_out() };
        compare(&w.run(Hook::From, &out.frame()), Action::Drop, None, &[reason]).unwrap();
    }
    let mut w = World::new(Family::V4, Side::Server);
    let with = |segment: Segment| Segment { ip_options: alert.to_vec(), ..segment }.frame();
    let (s1, syn) = (with(w.s1_in()), with(w.syn_in()));
    expect(&mut w, Hook::To, &s1, &syn, &["s1_accepted"]);
}

#[test]
fn verdicts_decide_s1_and_s2() {
    for family in Family::BOTH {
        for (action, counters) in [
            (verdict_action::DENY, &["policy_denied"][..]),
            (77, &["policy_denied"]),
            (verdict_action::WOULD_DENY, &["would_deny"]),
        ] {
            let passing = action == verdict_action::WOULD_DENY;
            let mut w = World::new(family, Side::Server);
            let later = w.later();
            w.set_verdict(direction::INGRESS, EPOCH, action, later);
            let (s1, syn) = (w.s1_in().frame(), w.syn_in().frame());
            let seen = w.run(Hook::To, &s1);
            let more = if passing { "s1_accepted" } else { "" };
            judged(&seen, passing.then_some(&syn), counters, more);
            drop(w);

            let mut w = World::new(family, Side::Client);
            w.set_verdict(direction::EGRESS, EPOCH, action, later);
            w.after_s1_out();
            let s2 = w.s2_in().frame();
            let seen = w.run(Hook::To, &s2);
            let out = if passing { w.syn_ack_in().frame() } else { reset_of_syn_ack(&w) };
            let more = if passing { "s2_accepted" } else { "reset_local" };
            judged(&seen, Some(&out), counters, more);
        }
    }
}

fn judged(
    seen: &enforcer_tests::program::kernel::Seen,
    out: Option<&Vec<u8>>,
    counters: &[&str],
    more: &str,
) {
    let all: Vec<&str> = counters.iter().copied().chain([more]).filter(|c| !c.is_empty()).collect();
    let action = if out.is_some() { Action::Pass } else { Action::Drop };
    compare(seen, action, out.map(Vec::as_slice), &all).unwrap();
}
