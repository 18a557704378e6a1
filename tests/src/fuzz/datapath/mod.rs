//! The pure functions of the datapath against the loaded programs: the same frame, with the same
//! flow and network rule at hand, must come to the same action, reason, bytes and flow.
//!
//! `model` joins the pure functions (parsing, options, the life of a flow, network rules, checksums)
//! as `enforcer-ebpf` does, but over a byte slice. Where the way of a segment depends on more than
//! it knows, it says so, and what must hold of every frame is checked alone: a drop is counted and a
//! pass is not, and a frame that passes is whole, of the same connection, and as right as it came.
//!
//! Needs root: the programs run by `BPF_PROG_TEST_RUN`.

mod bytes;
mod case;
mod model;

use std::collections::BTreeMap;

use enforcer_common::abi::{DropReason, FlowValue};
use enforcer_common::wire::frame::{Frame, Packet, parse};

use self::bytes::residues;
use self::case::Case;
use self::model::Expected;
use super::feed::Feed;
use crate::program::kernel::{Action, Seen, shortest};
use crate::program::world::{WORKLOAD, World};

/// More does not fit into a test run's page.
const FRAME_MAX: usize = 2048;

/// `data` is made into a case: see `case`.
pub fn run(data: &[u8]) {
    let (case, mut world) = Case::new(Feed::new(data));
    if case.frame.len() < shortest(&case.frame) || case.frame.len() > FRAME_MAX {
        return;
    }
    let (expected, flow) = model::expect(&case, &world);
    let seen = world.run(case.hook, &case.frame);
    let told = format!("{case:?}\nexpected {expected:?}\nfound {seen:?}");
    always(&case, &seen, &told);
    compare(&expected, &seen, &told);
    if !matches!(expected, Expected::Undecided(_)) {
        same_flow(&case, &world, flow, &told);
    }
}

/// What holds whatever became of the frame.
fn always(case: &Case, seen: &Seen, told: &str) {
    let reasons = reasons(&seen.counters);
    match seen.action {
        Action::Pass => assert!(reasons.is_empty(), "passed and counted as dropped: {told}"),
        Action::Drop => assert!(!reasons.is_empty(), "dropped uncounted: {told}"),
        Action::Redirect => {}
    }
    let (mut before, mut after) = (Packet::default(), Packet::default());
    if seen.action != Action::Pass || parse(&case.frame[..], &mut before) != Ok(Frame::Ip) {
        return;
    }
    assert_eq!(parse(&seen.frame[..], &mut after), Ok(Frame::Ip), "{told}");
    let connection = |p: &Packet| {
        (p.source, p.destination, p.protocol, p.source_port, p.destination_port, p.sequence)
    };
    assert_eq!(connection(&after), connection(&before), "{told}");
}

fn reasons(counters: &BTreeMap<String, u64>) -> Vec<&str> {
    let is_reason = |name: &&str| DropReason::ALL.iter().any(|reason| reason.name() == *name);
    let names = counters.keys().filter_map(|counter| Some(counter.split_once(':')?.1));
    names.filter(is_reason).collect()
}

fn compare(expected: &Expected, seen: &Seen, told: &str) {
    match expected {
        Expected::Pass(frame, counted) => {
            assert_eq!(seen.action, Action::Pass, "{told}");
            same_frame(frame, &seen.frame, told);
            let counted = counted.map(|event| (format!("{WORKLOAD}:{}", event.name()), 1));
            assert_eq!(seen.counters, counted.into_iter().collect(), "{told}");
        }
        Expected::Drop(reason) => {
            assert_eq!(seen.action, Action::Drop, "{told}");
            let counted = BTreeMap::from([(format!("{WORKLOAD}:{}", reason.name()), 1)]);
            assert_eq!(seen.counters, counted, "{told}");
        }
        Expected::Refused(reason) => {
            assert_ne!(seen.action, Action::Pass, "{told}");
            assert!(reasons(&seen.counters).contains(&reason.name()), "{told}");
        }
        Expected::Undecided(Some(frame)) if seen.action == Action::Pass => {
            same_frame(frame, &seen.frame, told);
        }
        Expected::Undecided(_) => {}
    }
}

/// Equal but for the checksums, which are as far from right as they were, and a nonce.
fn same_frame(expected: &bytes::Rewritten, found: &[u8], told: &str) {
    assert!(bytes::is_same(expected, found), "other bytes: {told}");
    if let Some(expected) = expected.residues {
        assert_eq!(expected, residues(found), "a checksum drifted: {told}");
    }
}

fn same_flow(case: &Case, world: &World, expected: Option<FlowValue>, told: &str) {
    let found = world.flow_of(case.flow.map_or(world.key(), |(key, _)| key));
    // The kernel's own clock stands in there.
    let timed = |flow: FlowValue| FlowValue { seen_ns: 0, ..flow };
    assert_eq!(found.map(timed), expected.map(timed), "{told}");
}
