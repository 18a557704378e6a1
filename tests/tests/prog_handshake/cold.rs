//! Segments of unknown peers: what the daemon is handed, and how much of it.

use enforcer_common::abi::{HeldSegment, direction};
use enforcer_tests::program::kernel::{Action, Hook, held_segment};
use enforcer_tests::program::segment::Segment;
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{EPOCH, Family, PEER, SERVICE, Side, WORKLOAD, World};

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

#[test]
fn a_held_proof_names_the_peer_of_its_attempt_and_a_cold_hello_nobody() {
    let mut w = World::new(Family::V4, Side::Server);
    w.after_s2_out();
    w.forget_verdict(direction::INGRESS);
    let s3 = w.s3_in().frame();
    compare(&w.run(Hook::To, &s3), Action::Drop, None, &["held", "cold_segments"]).unwrap();
    assert_eq!(only_held(&mut w).0.peer, PEER);
    w.forget_peer();
    let elsewhere = Segment { from: w.outside, ..w.s1_in() }.frame();
    w.run(Hook::To, &elsewhere);
    let records = w.kernel.held();
    assert_eq!(records.len(), 1);
    assert_eq!(held_segment(&records[0].1).0.peer, 0);
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
