//! What a verdict obliges to: a connection that is reported for the log, once, and what cannot be done, which denies.

use enforcer_common::abi::{direction, obligation, record_kind, verdict_action};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{Family, PEER, Side, World};

use crate::expect;

#[test]
fn a_connection_is_reported_once_at_either_end() {
    for family in Family::BOTH {
        let mut server = World::new(family, Side::Server);
        server.oblige(direction::INGRESS, verdict_action::ALLOW, obligation::LOG);
        let (s1, syn) = (server.s1_in().frame(), server.syn_in().frame());
        expect(&mut server, Hook::To, &s1, &syn, &["s1_accepted"]);
        let syn_ack = server.syn_ack_out().frame();
        server.pass(Hook::From, &syn_ack);
        assert!(server.kernel.rejected().is_empty(), "it is not open yet");
        let (s3, ack) = (server.s3_in().frame(), server.ack_in().frame());
        expect(&mut server, Hook::To, &s3, &ack, &["proof_accepted", "reported"]);
        expect(&mut server, Hook::To, &s3, &ack, &[]);
        is_reported_once(&mut server);
        // The programs' maps are there once.
        drop(server);

        let mut client = World::new(family, Side::Client);
        client.oblige(direction::EGRESS, verdict_action::ALLOW, obligation::LOG);
        client.after_s1_out();
        let (s2, syn_ack) = (client.s2_in().frame(), client.syn_ack_in().frame());
        expect(&mut client, Hook::To, &s2, &syn_ack, &["s2_accepted", "reported"]);
        expect(&mut client, Hook::To, &s2, &syn_ack, &["s2_accepted"]);
        is_reported_once(&mut client);
    }
}

fn is_reported_once(w: &mut World) {
    let records = w.kernel.rejected();
    let told: Vec<_> =
        records.iter().map(|one| (one.kind, one.reason, one.peer, one.key)).collect();
    assert_eq!(told, [(record_kind::CONNECTED, 0, PEER, w.key())]);
}

#[test]
fn what_nobody_asked_for_is_not_reported() {
    let mut w = World::new(Family::V4, Side::Server);
    w.established();
    assert!(w.kernel.rejected().is_empty());
}

#[test]
fn what_cannot_be_done_denies_whatever_the_answer() {
    for obligations in [obligation::ENCRYPT, obligation::ENCRYPT | obligation::LOG, 4, 128] {
        for action in [verdict_action::ALLOW, verdict_action::WOULD_DENY] {
            let mut server = World::new(Family::V6, Side::Server);
            server.oblige(direction::INGRESS, action, obligations);
            let s1 = server.s1_in().frame();
            let seen = server.run(Hook::To, &s1);
            compare(&seen, Action::Drop, None, &["policy_denied"]).unwrap();
            drop(server);

            let mut client = World::new(Family::V6, Side::Client);
            client.oblige(direction::EGRESS, action, obligations);
            client.after_s1_out();
            let s2 = client.s2_in().frame();
            client.run(Hook::To, &s2);
            assert_eq!(client.flow(), None, "{obligations}");
        }
    }
}
