//! SYN-ACKs that come again behind the proof, because the server's stack did not take the client's ACK.

// A table is long, not complicated.
#![allow(clippy::too_many_lines)]

use enforcer_common::abi::{direction, flow_state, verdict_action};
use enforcer_tests::program::kernel::Hook;
use enforcer_tests::program::segment::{ACK, RST, Segment};
use enforcer_tests::program::table::{becomes, check, drops, passes};
use enforcer_tests::program::world::{DATA, EPOCH, Family, PEER_NONCE, SERVICE, Side, World};

use crate::expect;
use crate::options::OURS_SHORT;

/// The client's ACK is lost behind both hooks: it acknowledges once more, with the proof.
#[test]
fn a_syn_ack_that_comes_again_behind_the_proof_is_answered_with_the_proof() {
    for family in Family::BOTH {
        let mut server = World::new(family, Side::Server);
        server.established();
        let (again, s3) = (server.syn_ack_out().frame(), server.ack_in().proof([3; 16]).frame());
        let before = server.flow();
        for _ in 0..5 {
            expect(&mut server, Hook::From, &again, &again, &[]);
        }
        assert_eq!((server.flow(), server.attempt()), (before, None));
        let stripped = server.ack_in().frame();
        expect(&mut server, Hook::To, &s3, &stripped, &[]);
        // The programs' maps are there once.
        drop(server);

        let mut client = World::new(family, Side::Client);
        client.after_s2_in();
        let (again, before) = (client.syn_ack_in().frame(), client.flow());
        for _ in 0..5 {
            expect(&mut client, Hook::To, &again, &again, &[]);
            let (ack, s3) =
                (client.ack_out().frame(), client.ack_out().proof(client.proof()).frame());
            expect(&mut client, Hook::From, &ack, &s3, &["proof_sent"]);
        }
        assert_eq!(client.flow().unwrap().state, before.unwrap().state);
    }
}

#[test]
fn syn_acks_that_leave_again() {
    check(
        Side::Server,
        Hook::From,
        &[
            passes(
                "the client's data was dropped by the stack",
                |w| {
                    w.established();
                    let data = w.data_in().frame();
                    w.pass(Hook::To, &data);
                    w.syn_ack_out().frame()
                },
                &[],
            ),
            passes(
                "beside an attempt of another call of the tuple",
                |w| {
                    w.established();
                    let other = Segment { sequence: 5, ..w.s1_in() }.frame();
                    w.pass(Hook::To, &other);
                    w.syn_ack_out().frame()
                },
                &[],
            ),
            passes(
                "without identity",
                |w| {
                    let far = w.remote;
                    w.allow_network(&far, direction::INGRESS, 6, (SERVICE, SERVICE));
                    for (hook, segment) in [
                        (Hook::To, w.syn_in()),
                        (Hook::From, w.syn_ack_out()),
                        (Hook::To, w.ack_in()),
                    ] {
                        w.pass(hook, &segment.frame());
                    }
                    w.syn_ack_out().frame()
                },
                &[],
            ),
            passes(
                "allowed under another policy",
                |w| {
                    w.established();
                    another_policy(w, direction::INGRESS, verdict_action::ALLOW);
                    w.syn_ack_out().frame()
                },
                &["rejudged"],
            ),
            drops(
                "denied under another policy",
                |w| {
                    w.established();
                    another_policy(w, direction::INGRESS, verdict_action::DENY);
                    w.syn_ack_out().frame()
                },
                &["flow_cut"],
            ),
            drops(
                "of a flow that was cut",
                |w| {
                    w.established();
                    w.change_flow(|flow| flow.state = flow_state::CUT);
                    w.syn_ack_out().frame()
                },
                &["flow_cut"],
            ),
            drops(
                "another sequence number",
                |w| {
                    w.established();
                    let again = w.syn_ack_out();
                    Segment { sequence: again.sequence.wrapping_add(1), ..again }.frame()
                },
                &["no_attempt"],
            ),
            drops(
                "another acknowledgement",
                |w| {
                    w.established();
                    let again = w.syn_ack_out();
                    Segment { acknowledgement: again.acknowledgement + 1, ..again }.frame()
                },
                &["no_attempt"],
            ),
            drops(
                "the server has spoken",
                |w| {
                    w.established();
                    let data = w.data_out().frame();
                    w.pass(Hook::From, &data);
                    w.syn_ack_out().frame()
                },
                &["no_attempt"],
            ),
            drops(
                "data",
                |w| {
                    w.established();
                    w.syn_ack_out().payload(DATA).frame()
                },
                &["no_attempt"],
            ),
            drops(
                "a forged option",
                |w| {
                    w.established();
                    w.syn_ack_out().hello(w.own.handle, [1; 8]).frame()
                },
                &["forged_option"],
            ),
        ],
    );
}

#[test]
fn who_called_answers_nothing_again() {
    let no_answer = |w: &mut World| {
        w.established();
        w.syn_ack_out().frame()
    };
    check(Side::Client, Hook::From, &[drops("a client's", no_answer, &["no_attempt"])]);
    let no_call = |w: &mut World| {
        w.established();
        w.syn_ack_in().frame()
    };
    check(Side::Server, Hook::To, &[drops("towards a server", no_call, &["no_attempt"])]);
}

#[test]
fn syn_acks_that_arrive_again() {
    check(
        Side::Client,
        Hook::To,
        &[
            passes(
                "the flow is confirmed",
                |w| {
                    w.established();
                    w.syn_ack_in().frame()
                },
                &[],
            ),
            passes(
                "the client has spoken",
                |w| {
                    w.established();
                    let data = w.data_out().frame();
                    w.pass(Hook::From, &data);
                    w.syn_ack_in().frame()
                },
                &[],
            ),
            drops(
                "another sequence number",
                |w| {
                    w.established();
                    let again = w.syn_ack_in();
                    Segment { sequence: again.sequence + 1, ..again }.frame()
                },
                &["no_attempt"],
            ),
            drops(
                "another acknowledgement",
                |w| {
                    w.established();
                    let again = w.syn_ack_in();
                    let acknowledgement = again.acknowledgement.wrapping_add(1);
                    Segment { acknowledgement, ..again }.frame()
                },
                &["no_attempt"],
            ),
            drops(
                "another acknowledgement, before the flow is confirmed",
                |w| {
                    w.after_s2_in();
                    let again = w.syn_ack_in();
                    let acknowledgement = again.acknowledgement.wrapping_add(1);
                    Segment { acknowledgement, ..again }.frame()
                },
                &["no_attempt"],
            ),
            becomes(
                "another sequence number, before the flow is confirmed",
                |w| {
                    w.after_s2_in();
                    let again = w.syn_ack_in();
                    Segment { sequence: again.sequence + 1, ..again }.frame()
                },
                |w| {
                    let again = w.syn_ack_in().options(&[]).flags(RST | ACK);
                    Segment { sequence: again.sequence + 1, ..again }.frame()
                },
                &["peer_without_identity", "reset_local", "reset_remote"],
            ),
            becomes(
                "short, while the proof may be lost",
                |w| {
                    w.after_s2_in();
                    short_s2(w)
                },
                |w| w.syn_ack_in().frame(),
                &[],
            ),
            becomes(
                "short, and the flow is confirmed",
                |w| {
                    w.established();
                    short_s2(w)
                },
                |w| w.syn_ack_in().frame(),
                &[],
            ),
            passes(
                "without identity, whatever its options are",
                |w| {
                    let far = w.remote;
                    w.allow_network(&far, direction::EGRESS, 6, (SERVICE, SERVICE));
                    let again = w.syn_ack_in();
                    let options = [&again.options[..], &OURS_SHORT].concat();
                    for (hook, segment) in [
                        (Hook::From, w.syn_out()),
                        (Hook::To, w.syn_ack_in()),
                        (Hook::From, w.ack_out()),
                    ] {
                        w.pass(hook, &segment.frame());
                    }
                    again.options(&options).frame()
                },
                &[],
            ),
            drops(
                "short, and none came before",
                |w| {
                    w.after_s1_out();
                    short_s2(w)
                },
                &["credential_length"],
            ),
            drops(
                "short, with an option of no known version",
                |w| {
                    w.after_s2_in();
                    let again = w.syn_ack_in();
                    let options = [&again.options[..], &OURS_SHORT].concat();
                    again.options(&options).frame()
                },
                &["wrong_version"],
            ),
            drops(
                "an identity",
                |w| {
                    w.established();
                    w.syn_ack_in().hello(w.theirs.handle, PEER_NONCE).payload(&[1; 367]).frame()
                },
                &["no_attempt"],
            ),
            drops(
                "the server has spoken",
                |w| {
                    w.established();
                    let data = w.data_in().frame();
                    w.pass(Hook::To, &data);
                    w.syn_ack_in().frame()
                },
                &["no_attempt"],
            ),
            drops(
                "a new call waits for its answer",
                |w| {
                    w.established();
                    let call = Segment { sequence: 5, ..w.syn_out() }.frame();
                    w.pass(Hook::From, &call);
                    w.syn_ack_in().frame()
                },
                &["no_attempt"],
            ),
            drops(
                "denied under another policy",
                |w| {
                    w.after_s2_in();
                    another_policy(w, direction::EGRESS, verdict_action::DENY);
                    w.syn_ack_in().frame()
                },
                &["flow_cut"],
            ),
        ],
    );
}

/// S2 without prefix and credential.
fn short_s2(w: &World) -> Vec<u8> {
    w.syn_ack_in().hello(w.theirs.handle, PEER_NONCE).frame()
}

fn another_policy(w: &mut World, asked: u8, action: u8) {
    let later = w.later();
    w.set_verdict(asked, EPOCH + 2, action, later);
    w.set_config(|config| config.epoch = EPOCH + 2);
}
