//! What a server's hooks must refuse: S1 and S3 that must not be accepted, S2 that must not leave.

// A table is long, not complicated.
#![allow(clippy::too_many_lines)]

use enforcer_common::abi::{CredentialValue, Handle, direction, role, verdict_action};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::segment::{ACK, FIN, RST, is_intact};
use enforcer_tests::program::table::{becomes, check, compare, drops, passes};
use enforcer_tests::program::world::{
    Credential, DATA, EPOCH, Family, KEY_AS_RESPONDER, LOCAL_ISN, PEER_NONCE, REMOTE_ISN, Side,
    World,
};

use crate::expect;
use crate::options::{JOIN, OTHER_EXID, OURS_FIRST, OURS_SHORT};

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

/// Until an S1 that comes again pays for credentials.
#[test]
fn behind_three_s2_short_ones_leave() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.after_s2_out();
        let (syn_ack, s2) = (w.syn_ack_out().frame(), w.s2_out());
        for _ in 1..3 {
            expect(&mut w, Hook::From, &syn_ack, &s2.frame(), &["s2_sent"]);
        }
        let short = s2.clone().payload(&[]).frame();
        for _ in 3..8 {
            expect(&mut w, Hook::From, &syn_ack, &short, &["s2_short"]);
        }
        let s1 = w.s1_in().frame();
        w.pass(Hook::To, &s1);
        expect(&mut w, Hook::From, &syn_ack, &s2.frame(), &["s2_sent"]);
        // Where both call, the far end repeats no S1.
        w.change_attempt(|attempt| (attempt.role, attempt.syn_acks) = (role::BOTH, 3));
        expect(&mut w, Hook::From, &syn_ack, &s2.frame(), &["s2_sent"]);
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
                "the ninth SYN-ACK",
                |w| {
                    w.after_s2_out();
                    let frame = w.syn_ack_out().frame();
                    for _ in 0..7 {
                        w.pass(Hook::From, &frame);
                    }
                    frame
                },
                &["syn_ack_limit"],
            ),
            becomes(
                "again, and nobody has judged it under the new policy",
                |w| {
                    w.after_s2_out();
                    w.set_config(|config| config.epoch = EPOCH + 2);
                    w.syn_ack_out().frame()
                },
                |w| w.s2_out().frame(),
                &["s2_sent"],
            ),
            becomes(
                "again, to whom a policy that is only observed would deny: counted with S1 and proof",
                |w| {
                    w.after_s2_out();
                    let later = w.later();
                    w.set_verdict(direction::INGRESS, EPOCH, verdict_action::WOULD_DENY, later);
                    w.syn_ack_out().frame()
                },
                |w| w.s2_out().frame(),
                &["s2_sent"],
            ),
            becomes(
                "short, and the credential is gone, which it does not carry",
                |w| {
                    w.after_s2_out();
                    w.change_attempt(|attempt| attempt.syn_acks = 3);
                    let handle = w.own.handle;
                    w.kernel.remove::<Handle, CredentialValue>("CREDENTIALS", &handle);
                    w.syn_ack_out().frame()
                },
                |w| w.s2_out().payload(&[]).frame(),
                &["s2_short"],
            ),
            drops(
                "again, denied meanwhile",
                |w| {
                    w.after_s2_out();
                    let later = w.later();
                    w.set_verdict(direction::INGRESS, EPOCH + 2, verdict_action::DENY, later);
                    w.set_config(|config| config.epoch = EPOCH + 2);
                    w.syn_ack_out().frame()
                },
                &["policy_denied"],
            ),
            drops(
                "again, behind the end of the caller's credential",
                |w| {
                    w.after_s2_out();
                    w.change_attempt(|attempt| attempt.deadline_ns = 1);
                    w.syn_ack_out().frame()
                },
                &["expired"],
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

/// What may not leave whole does not become short by being repeated.
#[test]
fn a_refused_s2_is_none_of_the_three() {
    let mut w = World::new(Family::V4, Side::Server);
    w.theirs = Credential::new("short", 100);
    w.set_peer(|_| {});
    w.after_s1_in();
    let syn_ack = w.syn_ack_out().frame();
    for _ in 0..5 {
        let seen = w.run(Hook::From, &syn_ack);
        compare(&seen, Action::Drop, None, &["amplification"]).unwrap();
    }
    assert_eq!(w.attempt().unwrap().syn_acks, 0);
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
                "no proof, where an older connection of the tuple left a flow",
                |w| {
                    w.established();
                    w.after_s2_out();
                    w.ack_in().frame()
                },
                &["awaiting_proof"],
            ),
            drops(
                "data, where an older connection of the tuple left a flow",
                |w| {
                    w.established();
                    w.after_s2_out();
                    w.data_in().frame()
                },
                &["awaiting_proof"],
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
                    w.fill_flows();
                    w.s3_in().frame()
                },
                &["flow_table_full"],
            ),
        ],
    );
}

/// Whoever replays S1 must not end a connection: only the workload's own answer shows that its stack has forgotten it.
#[test]
fn an_s1_beside_a_flow_leaves_it_alone() {
    check(
        Side::Server,
        Hook::To,
        &[passes(
            "data of the flow",
            |w| {
                w.established();
                w.after_s1_in();
                w.data_in().frame()
            },
            &[],
        )],
    );
}
