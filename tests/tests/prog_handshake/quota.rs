//! What floods may take of the table of half-open connections, and what they cannot.

use enforcer_common::abi::{AddressKey, AttemptValue, BucketValue, FlowKey, direction};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::packet::End;
use enforcer_tests::program::segment::{Segment, TCP};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{Family, SERVICE, Side, WORKLOAD, World};

/// S1 of the known credential from another port.
fn s1_from(w: &World, port: u16) -> Segment {
    let s1 = w.s1_in();
    Segment { from: End { port, ..w.remote }, ..s1 }
}

fn standing(w: &World, address: [u8; 16]) -> Option<BucketValue> {
    w.kernel.read("STANDING", &AddressKey { address, workload: WORKLOAD, zero: [0; 6] })
}

#[test]
fn only_who_has_proven_itself_gets_a_place_that_strangers_cannot_take() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let s1 = w.s1_in().frame();
        w.pass(Hook::To, &s1);
        assert!(w.is_in_crowd(), "anybody can send an S1 that was seen");
        assert_eq!(standing(&w, w.remote.mapped()), None);
        drop(w);

        let mut w = World::new(family, Side::Server);
        w.established();
        assert!(standing(&w, w.remote.mapped()).is_some(), "a proof came from there");
        let again = Segment { sequence: 0x7100_0000, ..w.s1_in() }.frame();
        w.pass(Hook::To, &again);
        assert!(w.attempt().is_some() && !w.is_in_crowd());
        let elsewhere = Segment { from: w.outside, ..w.s1_in() }.frame();
        w.pass(Hook::To, &elsewhere);
        let key = w.key_with(&w.outside);
        assert!(w.kernel.read::<FlowKey, AttemptValue>("CROWD", &key).is_some());
    }
}

#[test]
fn a_workload_s_own_call_has_a_place_from_the_start() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.after_s1_out();
        assert!(w.attempt().is_some() && !w.is_in_crowd());
    }
}

#[test]
fn a_source_that_begins_and_never_finishes_is_refused_and_others_are_not() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.set_config(|config| config.attempts_per_source = 2);
        for port in [1, 2] {
            let s1 = s1_from(&w, port).frame();
            w.pass(Hook::To, &s1);
        }
        let s1 = s1_from(&w, 3).frame();
        compare(&w.run(Hook::To, &s1), Action::Drop, None, &["attempt_rate_limited"]).unwrap();
        let repeated = s1_from(&w, 1).frame();
        w.pass(Hook::To, &repeated);
        let other = Segment { from: w.outside, ..w.s1_in() }.frame();
        w.pass(Hook::To, &other);
    }
}

#[test]
fn plain_calls_from_outside_are_limited_by_source_unless_they_are_finished() {
    let mut w = World::new(Family::V4, Side::Server);
    w.set_config(|config| config.attempts_per_source = 2);
    let far = w.remote;
    w.allow_network(&far, direction::INGRESS, TCP, (SERVICE, SERVICE));
    for port in 1..20 {
        let far = End { port, ..w.remote };
        let (syn, ack) = (w.syn_in(), w.ack_in());
        w.pass(Hook::To, &Segment { from: far, ..syn }.frame());
        let answer = Segment { to: far, ..w.syn_ack_out() }.frame();
        w.pass(Hook::From, &answer);
        w.pass(Hook::To, &Segment { from: far, ..ack }.frame());
    }
    for port in [101, 102, 103] {
        let syn = Segment { from: End { port, ..w.remote }, ..w.syn_in() }.frame();
        let seen = w.run(Hook::To, &syn);
        if port < 103 {
            compare(&seen, Action::Pass, Some(&syn), &[]).unwrap();
            let key = w.key_with(&End { port, ..w.remote });
            assert!(w.kernel.read::<FlowKey, AttemptValue>("CROWD", &key).is_some());
        } else {
            compare(&seen, Action::Drop, None, &["attempt_rate_limited"]).unwrap();
        }
    }
}

#[test]
fn finished_handshakes_do_not_count_against_their_source() {
    let mut w = World::new(Family::V4, Side::Server);
    w.set_config(|config| config.attempts_per_source = 1);
    w.established();
    for _ in 0..20 {
        w.established();
        assert!(w.attempt().is_none() && w.flow().is_some());
    }
}

#[test]
fn a_workload_that_calls_into_the_void_is_held_to_its_rate() {
    let mut w = World::new(Family::V4, Side::Client);
    w.set_config(|config| config.attempts_per_source = 1);
    let mut passed = 0;
    let last = loop {
        let syn = Segment { from: End { port: 1000 + passed, ..w.local }, ..w.syn_out() };
        let seen = w.run(Hook::From, &syn.frame());
        if seen.action == Action::Drop {
            break seen;
        }
        passed += 1;
        assert!(passed < 100, "four a second, one more that takes its place, and one in the crowd");
    };
    assert!(passed >= 5, "{passed}");
    compare(&last, Action::Drop, None, &["attempt_rate_limited"]).unwrap();
}
