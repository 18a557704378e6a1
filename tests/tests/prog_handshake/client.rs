//! What a client's hooks must refuse: S1 that must not leave, S2 that must not be accepted.

// A table is long, not complicated.
#![allow(clippy::too_many_lines)]

use enforcer_common::abi::{WorkloadValue, direction};
use enforcer_tests::program::kernel::Hook;
use enforcer_tests::program::segment::{ACK, FIN, RST, SYN, Segment, is_intact};
use enforcer_tests::program::table::{answers, becomes, check, drops, passes};
use enforcer_tests::program::world::{
    DATA, Family, LOCAL_ISN, PEER_NONCE, SERVICE, Side, WORKLOAD, World,
};

use crate::options::{JOIN, OURS_FIRST, OURS_SHORT};

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
                    let other = [35, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
                    w.syn_out().options(&[&[2, 4, 5, 0xb4, 1, 1][..], &other].concat()).frame()
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
                    w.kernel.put_row("WORKLOADS", u32::from(WORKLOAD), WorkloadValue::NOBODY);
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
                World::reset_of_syn_ack,
                &["relayed", "reset_local"],
            ),
            becomes(
                "no identity",
                |w| {
                    w.after_s1_out();
                    w.syn_ack_in().frame()
                },
                World::reset_of_syn_ack,
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
                    w.fill_flows();
                    w.s2_in().frame()
                },
                &["flow_table_full"],
            ),
        ],
    );
}

/// What is known is stripped by its sum: behind another credential the checksum is wrong, and the stack drops the
/// segment. It has frozen nothing that S2 itself does not say as well, so that one is taken behind it.
#[test]
fn s2_is_accepted_behind_one_with_another_credential() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s1_out();
        let s2 = w.s2_in();
        let mut swapped = s2.clone();
        *swapped.payload.last_mut().unwrap() ^= 1;
        for (segment, is_right) in [(&swapped, false), (&s2, true), (&swapped, false)] {
            let passed = w.pass(Hook::To, &segment.frame());
            assert_eq!(is_intact(&passed, &w.remote, &w.local), is_right, "{family:?}");
        }
        let proven = w.ack_out().proof(w.proof()).frame();
        let ack = w.ack_out().frame();
        assert_eq!(w.pass(Hook::From, &ack), proven);
    }
}
