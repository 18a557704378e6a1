//! Options that do not parse, or only resemble ours.

use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::segment::Segment;
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{Family, Side, World};

use crate::expect;

/// Ours, but not last.
pub(crate) const OURS_FIRST: [u8; 24] =
    [253, 20, 0x45, 0x4e, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1, 1, 1];
/// Ours in number, but of another length.
pub(crate) const OURS_SHORT: [u8; 4] = [253, 4, 0x45, 0x4e];
/// Of another experiment.
pub(crate) const OTHER_EXID: [u8; 20] =
    [253, 20, 0x45, 0x4f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
/// An MPTCP join (RFC 8684 3.2).
pub(crate) const JOIN: [u8; 12] = [30, 12, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Lengths that do not fit.
const MALFORMED: [[u8; 4]; 4] = [[2, 0, 5, 0xb4], [2, 1, 5, 0xb4], [1, 1, 1, 2], [2, 8, 5, 0xb4]];

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
                    (Side::Client, Hook::To | Hook::Guard) => {
                        w.after_s1_out();
                        w.syn_ack_in()
                    }
                    (Side::Server, Hook::From) => {
                        w.after_s1_in();
                        w.syn_ack_out()
                    }
                    (Side::Server, Hook::To | Hook::Guard) => w.syn_in(),
                };
                let seen = w.run(hook, &segment.options(&bad).frame());
                compare(&seen, Action::Drop, None, &["malformed_option"])
                    .unwrap_or_else(|error| panic!("{bad:?} {side:?} {hook:?}: {error}"));
            }
        }
    }
}

#[test]
fn ipv4_source_routes_and_malformed_ip_options_are_dropped() {
    let route = [131, 7, 4, 203, 0, 113, 1, 0];
    let strict = [1, 137, 7, 4, 203, 0, 113, 1];
    let bad = [148, 0, 0, 0];
    let alert = [148, 4, 0, 0];
    // A length that leaves the header, and one that would wrap to its own middle.
    let (long, wrapping) = ([148, 5, 0, 0], [148, 66, 0, 0]);
    for (options, reason) in [
        (&route[..], "source_route"),
        (&strict, "source_route"),
        (&bad, "malformed_header"),
        (&long, "malformed_header"),
        (&wrapping, "malformed_header"),
    ] {
        let mut w = World::new(Family::V4, Side::Server);
        let s1 = Segment { ip_options: options.to_vec(), ..w.s1_in() };
        compare(&w.run(Hook::To, &s1.frame()), Action::Drop, None, &[reason]).unwrap();
        w.after_s1_in();
        let out = Segment { ip_options: options.to_vec(), ..w.syn_ack_out() };
        compare(&w.run(Hook::From, &out.frame()), Action::Drop, None, &[reason]).unwrap();
    }
    // One, as many as are read, and more, of which the list's end hides all but one.
    for options in [&alert[..], &[1; 12], &[[1; 4], [0; 4], [9; 4], [9; 4]].concat()] {
        let mut w = World::new(Family::V4, Side::Server);
        let with = |segment: Segment| Segment { ip_options: options.to_vec(), ..segment }.frame();
        let (s1, syn) = (with(w.s1_in()), with(w.syn_in()));
        expect(&mut w, Hook::To, &s1, &syn, &["s1_accepted"]);
    }
    let mut w = World::new(Family::V4, Side::Server);
    let s1 = Segment { ip_options: vec![1; 16], ..w.s1_in() };
    compare(&w.run(Hook::To, &s1.frame()), Action::Drop, None, &["malformed_header"]).unwrap();
}
