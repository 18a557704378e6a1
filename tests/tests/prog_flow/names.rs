//! Name servers of a workload whose rules name hosts: the daemon is told of questions, and reads answers first.

use std::time::{Duration, Instant};

use enforcer_common::abi::{
    FlowValue, HELD_FRAME_MAX, READ_MARK, direction, flow_state, record_kind, workload_flags,
};
use enforcer_tests::program::kernel::{Action, HELD_RING_BYTES, Hook, held_segment};
use enforcer_tests::program::packet::{End, UDP, udp};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{DATA, Family, Side, WORKLOAD, World};

const DNS: u16 = 53;
/// As long as the programs wait for a daemon to read (`READS_WITHIN_NS`), and a tick.
const READS_WITHIN: Duration = Duration::from_millis(1020);

/// A workload that asks names, with its name server.
fn world(family: Family) -> (World, End) {
    let mut w = World::new(family, Side::Client);
    w.set_workload(|workload| workload.flags |= workload_flags::ASKS_NAMES);
    let far = End { port: DNS, ..w.outside };
    w.allow_network(&far, direction::EGRESS, UDP, (DNS, DNS));
    (w, far)
}

fn flow(w: &World, far: &End, family: Family) -> FlowValue {
    let mut key = w.key_with(far);
    key.protocol = UDP;
    match family {
        Family::V4 => w.kernel.read("FLOWS4", &key.to_v4()).expect("a flow"),
        Family::V6 => w.kernel.read("FLOWS6", &key).expect("a flow"),
    }
}

#[test]
fn questions_pass_and_are_told_answers_are_held_until_they_were_read() {
    for family in Family::BOTH {
        let (mut w, far) = world(family);
        let (query, answer) = (udp(&w.local, &far, DATA), udp(&far, &w.local, b"answer"));
        let opened: &[&str] = &["plain_opened"];
        for counters in [opened, &[]] {
            compare(&w.run(Hook::From, &query), Action::Pass, Some(&query), counters).unwrap();
        }
        assert_eq!(flow(&w, &far, family).state, flow_state::NAME_SERVER);
        let held = w.run(Hook::To, &answer);
        compare(&held, Action::Drop, None, &["answer_held", "held"]).unwrap();
        let told: Vec<Vec<u8>> = w.kernel.names();
        let frames: Vec<Vec<u8>> = told.iter().map(|record| held_segment(record).1).collect();
        assert_eq!(frames, [query.clone(), query, answer.clone()]);
        let (record, _) = held_segment(&told[2]);
        assert_eq!((record.kind, record.direction), (record_kind::NAMES, direction::EGRESS));
        assert_eq!((record.key.workload, record.key.local_port), (WORKLOAD, w.local.port));
        assert_eq!((record.key.remote_port, record.port), (DNS, DNS));
        // What comes back from the daemon passes, and is not told again.
        let read = w.kernel.run_marked(Hook::To, &answer, READ_MARK);
        compare(&read, Action::Pass, Some(&answer), &[]).unwrap();
        let other = w.kernel.run_marked(Hook::To, &answer, READ_MARK ^ 1);
        compare(&other, Action::Drop, None, &["answer_held", "held"]).unwrap();
        assert_eq!(w.kernel.names().len(), 1);
        assert_eq!(flow(&w, &far, family).packets_in, 1);
    }
}

#[test]
fn the_mark_is_no_way_around_a_rule() {
    let (mut w, far) = world(Family::V4);
    let stranger = End { port: DNS + 1, ..far };
    for frame in [udp(&far, &w.local, b"unasked"), udp(&stranger, &w.local, b"unasked")] {
        let seen = w.kernel.run_marked(Hook::To, &frame, READ_MARK);
        compare(&seen, Action::Drop, None, &["network_denied"]).unwrap();
    }
}

#[test]
fn whoever_names_no_hosts_and_other_ports_are_not_read() {
    for (asks, port) in [(false, DNS), (true, DNS + 1)] {
        let mut w = World::new(Family::V4, Side::Client);
        if asks {
            w.set_workload(|workload| workload.flags |= workload_flags::ASKS_NAMES);
        }
        let far = End { port, ..w.outside };
        w.allow_network(&far, direction::EGRESS, UDP, (port, port));
        let (query, answer) = (udp(&w.local, &far, DATA), udp(&far, &w.local, b"answer"));
        w.pass(Hook::From, &query);
        w.pass(Hook::To, &answer);
        assert_eq!(flow(&w, &far, Family::V4).state, flow_state::DATAGRAM);
        assert!(w.kernel.names().is_empty());
    }
}

#[test]
fn a_name_server_that_the_workload_itself_is_is_not_read() {
    let (mut w, _) = world(Family::V4);
    let asker = End { port: DNS, ..w.outside };
    w.allow_network(&asker, direction::INGRESS, UDP, (0, u16::MAX));
    let query = udp(&asker, &w.local, DATA);
    w.pass(Hook::To, &query);
    w.pass(Hook::From, &udp(&w.local, &asker, b"answer"));
    assert!(w.kernel.names().is_empty());
}

#[test]
fn a_flow_of_before_is_read_once_a_rule_names_hosts_and_no_longer_after_the_last_one() {
    let (mut w, far) = world(Family::V4);
    w.set_workload(|_| {});
    let (query, answer) = (udp(&w.local, &far, DATA), udp(&far, &w.local, b"answer"));
    w.pass(Hook::From, &query);
    w.pass(Hook::To, &answer);
    assert!(w.kernel.names().is_empty());
    w.set_workload(|workload| workload.flags |= workload_flags::ASKS_NAMES);
    w.pass(Hook::From, &query);
    let held = w.run(Hook::To, &answer);
    compare(&held, Action::Drop, None, &["answer_held", "held"]).unwrap();
    w.set_workload(|_| {});
    w.pass(Hook::From, &query);
    w.pass(Hook::To, &answer);
}

#[test]
fn where_nobody_reads_answers_pass_after_a_moment_and_what_is_too_long_at_once() {
    let (mut w, far) = world(Family::V4);
    let (query, answer) = (udp(&w.local, &far, DATA), udp(&far, &w.local, b"answer"));
    w.pass(Hook::From, &query);
    let held = w.run(Hook::To, &answer);
    compare(&held, Action::Drop, None, &["answer_held", "held"]).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < READS_WITHIN {
        std::thread::sleep(READS_WITHIN / 10);
    }
    let unread = w.run(Hook::To, &answer);
    compare(&unread, Action::Pass, Some(&answer), &["answer_unread"]).unwrap();
    // A daemon is back.
    assert_eq!(w.kernel.names().len(), 2);
    let held = w.run(Hook::To, &answer);
    compare(&held, Action::Drop, None, &["answer_held", "held"]).unwrap();
    let long = udp(&far, &w.local, &[1; HELD_FRAME_MAX]);
    let unread = w.run(Hook::To, &long);
    compare(&unread, Action::Pass, Some(&long), &["answer_unread"]).unwrap();
    assert_eq!(w.kernel.names().len(), 1);
}

#[test]
fn a_full_ring_lets_answers_pass() {
    let (mut w, far) = world(Family::V4);
    let (query, answer) = (udp(&w.local, &far, DATA), udp(&far, &w.local, &[1; 1000]));
    w.pass(Hook::From, &query);
    let most = HELD_RING_BYTES as usize / answer.len();
    let passed = (0..=most).position(|_| w.run(Hook::To, &answer).action == Action::Pass);
    assert!(passed.is_some_and(|held| held > 0), "{passed:?}");
}
