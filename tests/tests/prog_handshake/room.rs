//! Stacks whose own options leave no room for ours: what is an offer goes, what is signed stays and does not leave.

use enforcer_common::abi::{NonceState, direction};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::segment::{SYN_OPTIONS, Segment};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{DATA, Family, SERVICE, Side, World};

use crate::expect;
use crate::options::JOIN;

/// [`SYN_OPTIONS`] without padding between.
const PACKED: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 1, 2, 0, 0, 0, 0, 3, 3, 7, 1];
const COOKIE: [u8; 12] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
const LONG_COOKIE: [u8; 20] = [1, 1, 34, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const COOKIE_REQUEST: [u8; 4] = [34, 2, 1, 1];
const EXPERIMENT: [u8; 12] = [254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8];
const EXPERIMENT_REQUEST: [u8; 4] = [254, 4, 0xf9, 0x89];
/// MP_CAPABLE of a SYN (RFC 6824 3.1), and of a SYN-ACK in both versions.
const CAPABLE_WITH_KEY: [u8; 12] = [30, 12, 0x01, 0x81, 1, 2, 3, 4, 5, 6, 7, 8];
/// MP_CAPABLE of a SYN (RFC 8684 3.1).
const CAPABLE: [u8; 4] = [30, 4, 0x01, 0x01];

const OFFERS: [&[&[u8]]; 10] = [
    &[&COOKIE],
    &[&LONG_COOKIE],
    &[&COOKIE_REQUEST],
    &[&EXPERIMENT],
    &[&EXPERIMENT_REQUEST],
    &[&CAPABLE_WITH_KEY],
    &[&CAPABLE],
    &[&COOKIE, &CAPABLE],
    &[&COOKIE_REQUEST, &CAPABLE],
    &[&CAPABLE_WITH_KEY, &COOKIE_REQUEST],
];

/// A signature (RFC 2385), and an authentication (RFC 5925).
const MD5: [u8; 20] = [19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1];
const AUTHENTICATED: [u8; 16] = [29, 16, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const MSS: [u8; 4] = [2, 4, 5, 0xb4];

fn behind(ordinary: &[u8], offers: &[&[u8]]) -> Vec<u8> {
    [ordinary, &offers.concat()].concat()
}

/// S1 of a SYN with these options.
fn s1(w: &World, options: &[u8]) -> Vec<u8> {
    let nonce = w.attempt().expect("an attempt").local_nonce;
    w.syn_out().options(options).hello(w.own.handle, nonce).payload(&w.own.bytes).frame()
}

/// S2 of a SYN-ACK with these options.
fn s2(w: &World, options: &[u8]) -> Vec<u8> {
    Segment { options: options.to_vec(), ..w.syn_ack_out() }
        .hello(w.own.handle, w.attempt().expect("an attempt").local_nonce)
        .payload(&w.s2_out().payload)
        .frame()
}

#[test]
fn offers_make_room_in_s1_and_again_in_its_repetition() {
    for family in Family::BOTH {
        for offers in OFFERS {
            let mut w = World::new(family, Side::Client);
            let syn = w.syn_out().options(&behind(&SYN_OPTIONS, offers)).frame();
            let seen = w.run(Hook::From, &syn);
            let expected = s1(&w, &PACKED);
            compare(&seen, Action::Pass, Some(&expected), &["s1_sent"])
                .unwrap_or_else(|error| panic!("{offers:?} {family:?}: {error}"));
            expect(&mut w, Hook::From, &syn, &expected, &["s1_sent"]);
            assert_eq!(w.kernel.single::<NonceState>("NONCES").counter, 1);
        }
    }
}

#[test]
fn a_cookie_goes_together_with_its_data() {
    for family in Family::BOTH {
        for data in [DATA, &DATA[..1], &[0xa5; 1200]] {
            let mut w = World::new(family, Side::Client);
            let options = behind(&SYN_OPTIONS, &[&COOKIE, &CAPABLE]);
            let seen = w.run(Hook::From, &w.syn_out().options(&options).payload(data).frame());
            compare(&seen, Action::Pass, Some(&s1(&w, &PACKED)), &["s1_sent"]).unwrap();
        }
    }
}

#[test]
fn the_handshake_goes_on_behind_a_s1_that_lost_its_offers() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.pass(Hook::From, &w.syn_out().options(&behind(&SYN_OPTIONS, &[&COOKIE])).frame());
        let (s2, syn_ack) = (w.s2_in().frame(), w.syn_ack_in().frame());
        expect(&mut w, Hook::To, &s2, &syn_ack, &["s2_accepted"]);
    }
}

#[test]
fn offers_make_room_in_s2_and_again_in_its_repetition() {
    for family in Family::BOTH {
        for offers in OFFERS {
            let mut w = World::new(family, Side::Server);
            w.after_s1_in();
            let syn_ack = w.syn_ack_out().options(&behind(&SYN_OPTIONS, offers)).frame();
            let seen = w.run(Hook::From, &syn_ack);
            let expected = s2(&w, &PACKED);
            compare(&seen, Action::Pass, Some(&expected), &["s2_sent"])
                .unwrap_or_else(|error| panic!("{offers:?} {family:?}: {error}"));
            expect(&mut w, Hook::From, &syn_ack, &expected, &["s2_sent"]);
            let (s3, ack) = (w.s3_in().frame(), w.ack_in().frame());
            expect(&mut w, Hook::To, &s3, &ack, &["proof_accepted"]);
        }
    }
}

#[test]
fn padding_makes_room() {
    // As macOS sends them: 24 bytes, of which 19 say something, with an end of options.
    let theirs = [2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 4, 2, 0, 0];
    let packed = [2, 4, 5, 0xb4, 3, 3, 6, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 4, 2, 1];
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let seen = w.run(Hook::From, &w.syn_out().options(&theirs).frame());
        compare(&seen, Action::Pass, Some(&s1(&w, &packed)), &["s1_sent"]).unwrap();
    }
}

#[test]
fn an_end_of_options_does_not_hide_ours() {
    let ended: [(&[u8], &[u8]); 3] = [
        (&[2, 4, 5, 0xb4, 1, 3, 3, 6, 4, 2, 0, 0], &[2, 4, 5, 0xb4, 3, 3, 6, 4, 2, 1, 1, 1]),
        (&[2, 4, 5, 0xb4, 1, 0, 34, 2], &MSS),
        (&[0; 4], &[]),
    ];
    for family in Family::BOTH {
        for (options, kept) in ended {
            let mut w = World::new(family, Side::Client);
            let seen = w.run(Hook::From, &w.syn_out().options(options).frame());
            compare(&seen, Action::Pass, Some(&s1(&w, kept)), &["s1_sent"]).unwrap();
            drop(w);
            let mut w = World::new(family, Side::Server);
            w.after_s1_in();
            let seen = w.run(Hook::From, &w.syn_ack_out().options(options).frame());
            compare(&seen, Action::Pass, Some(&s2(&w, kept)), &["s2_sent"]).unwrap();
        }
    }
}

#[test]
fn offers_stay_where_there_is_room() {
    for family in Family::BOTH {
        for offer in [&COOKIE[..], &CAPABLE, &EXPERIMENT_REQUEST] {
            let mut w = World::new(family, Side::Client);
            let options = behind(&MSS, &[offer]);
            let seen = w.run(Hook::From, &w.syn_out().options(&options).frame());
            compare(&seen, Action::Pass, Some(&s1(&w, &options)), &["s1_sent"]).unwrap();
        }
    }
}

#[test]
fn what_is_signed_is_not_touched_and_does_not_leave() {
    let signed: [&[&[u8]]; 5] = [
        &[&MSS, &MD5],
        &[&MD5, &CAPABLE],
        &[&COOKIE, &MD5],
        &[&AUTHENTICATED, &COOKIE],
        &[&SYN_OPTIONS, &AUTHENTICATED],
    ];
    for family in Family::BOTH {
        for options in signed {
            let options = options.concat();
            let mut w = World::new(family, Side::Client);
            let seen = w.run(Hook::From, &w.syn_out().options(&options).frame());
            compare(&seen, Action::Drop, None, &["no_option_room"])
                .unwrap_or_else(|error| panic!("{options:?} {family:?}: {error}"));
            assert_eq!(w.attempt(), None, "a segment that does not leave changes nothing");
            drop(w);
            let mut w = World::new(family, Side::Server);
            w.after_s1_in();
            let seen = w.run(Hook::From, &w.syn_ack_out().options(&options).frame());
            compare(&seen, Action::Drop, None, &["no_option_room"])
                .unwrap_or_else(|error| panic!("{options:?} {family:?}: {error}"));
        }
    }
}

#[test]
fn a_join_is_refused_with_and_without_room() {
    let options = behind(&SYN_OPTIONS, &[&JOIN, &COOKIE_REQUEST]);
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let seen = w.run(Hook::From, &w.syn_out().options(&options).frame());
        compare(&seen, Action::Drop, None, &["multipath_join"]).unwrap();
    }
}

#[test]
fn without_identity_offers_pass() {
    let options = behind(&SYN_OPTIONS, &[&COOKIE, &CAPABLE]);
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let far = w.outside;
        w.allow_network(&far, direction::EGRESS, 6, (SERVICE, SERVICE));
        let syn = w.syn_to_outside().options(&options).payload(DATA).frame();
        expect(&mut w, Hook::From, &syn, &syn, &[]);
        drop(w);
        let mut w = World::new(family, Side::Server);
        let far = w.remote;
        w.allow_network(&far, direction::INGRESS, 6, (SERVICE, SERVICE));
        w.pass(Hook::To, &w.syn_in().frame());
        let syn_ack = w.syn_ack_out().options(&options).frame();
        expect(&mut w, Hook::From, &syn_ack, &syn_ack, &[]);
    }
}
