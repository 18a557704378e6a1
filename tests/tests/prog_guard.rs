//! The guard: what it drops by itself, what it leaves to the program behind it, and that both are of one mind. The
//! last is looked at by every run of [`Hook::To`], here over states and frames that are drawn.

use std::collections::BTreeSet;

use enforcer_common::abi::{
    FlowKey, FlowValue, InterfaceValue, WorkloadValue, direction, interface_flags, verdict_action,
    workload_flags,
};
use enforcer_tests::program::kernel::{Action, Hook, IFINDEX, Seen, shortest};
use enforcer_tests::program::packet::{arp, icmp, ip, udp, unreachable};
use enforcer_tests::program::random::Random;
use enforcer_tests::program::segment::{ACK, FIN, PSH, RST, SYN, Segment};
use enforcer_tests::program::table::{Row, check, check_families, drops, passes};
use enforcer_tests::program::world::{
    Credential, DATA, EPOCH, Family, PEER_NONCE, SERVICE, Side, WORKLOAD, World,
};

const UDP: u8 = 17;
const TCP: u8 = 6;
const GRE: u8 = 47;

/// Changes what the maps know.
type Change = fn(&mut World);

/// What is dropped by the guard, and would be by the program behind it.
fn dropped(families: &[Family], side: Side, rows: &[Row]) {
    for hook in [Hook::Guard, Hook::To] {
        check_families(families, side, hook, rows);
    }
}

fn changed(mut frame: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    frame[at] = to;
    frame
}

fn from_outside(w: &World, segment: &Segment) -> Segment {
    Segment { from: w.outside, ..segment.clone() }
}

fn unknown(w: &World) -> Segment {
    let other = Credential::new("nobody's", 200);
    w.syn_in().hello(other.handle, PEER_NONCE).payload(&other.bytes)
}

#[test]
fn syns_that_nobody_lets_in() {
    let rows = [
        drops("without our option", |w| w.syn_in().frame(), &["peer_without_identity"]),
        drops(
            "of a port that no rule opens",
            |w| {
                let far = w.remote;
                w.allow_network(&far, direction::INGRESS, TCP, (SERVICE + 1, SERVICE + 1));
                w.syn_in().frame()
            },
            &["peer_without_identity"],
        ),
        drops(
            "without options",
            |w| from_outside(w, &w.syn_in()).options(&[]).frame(),
            &["peer_without_identity"],
        ),
        drops(
            "with options that do not parse",
            |w| w.syn_in().options(&[2, 1, 0, 0]).frame(),
            &["malformed_option"],
        ),
        drops(
            "with something like our option",
            |w| w.syn_in().options(&[253, 4, 0x45, 0x4e]).frame(),
            &["wrong_version"],
        ),
        drops(
            "of a multipath join",
            |w| w.syn_in().options(&[30, 12, 0x10, 1, 0, 0, 0, 1, 0, 0, 0, 2]).frame(),
            &["multipath_join"],
        ),
        drops("with FIN", |w| w.syn_in().flags(SYN | FIN).frame(), &["malformed_header"]),
        drops("with RST", |w| w.syn_in().flags(SYN | RST).frame(), &["malformed_header"]),
    ];
    dropped(&Family::BOTH, Side::Server, &rows);
}

#[test]
fn s1_of_who_is_known_and_may_not() {
    let rows = [
        drops("without its credential", |w| w.s1_in().payload(b"").frame(), &["credential_length"]),
        drops(
            "with half of it",
            |w| {
                let half = w.theirs.bytes.len() / 2;
                w.s1_in().payload(&w.theirs.bytes[..half]).frame()
            },
            &["credential_length"],
        ),
        drops(
            "with one that has ended",
            |w| {
                let past = w.past();
                w.set_peer(|peer| peer.deadline_ns = past);
                w.s1_in().frame()
            },
            &["expired"],
        ),
        drops(
            "with one that the policy denies",
            |w| {
                let later = w.later();
                w.set_verdict(direction::INGRESS, EPOCH, verdict_action::DENY, later);
                w.s1_in().frame()
            },
            &["policy_denied"],
        ),
    ];
    dropped(&Family::BOTH, Side::Server, &rows);
}

#[test]
fn unknown_credentials_beyond_each_limit() {
    let rows = [
        drops(
            "of the source",
            |w| {
                w.set_config(|config| config.cold_per_source = 0);
                unknown(w).frame()
            },
            &["cold_rate_limited"],
        ),
        drops(
            "of the workload and of all",
            |w| {
                w.set_config(|config| config.cold_per_second = 1);
                let first = unknown(w).frame();
                assert_eq!(w.run(Hook::To, &first).action, Action::Drop);
                Segment { sequence: 7, ..from_outside(w, &unknown(w)) }.frame()
            },
            &["cold_rate_limited"],
        ),
    ];
    dropped(&Family::BOTH, Side::Server, &rows);
}

#[test]
fn segments_of_no_connection() {
    let rows = [
        drops("an ACK", |w| w.ack_in().frame(), &["no_flow"]),
        drops("data", |w| w.data_in().frame(), &["no_flow"]),
        drops("a FIN", |w| w.ack_in().flags(FIN | ACK).frame(), &["no_flow"]),
        drops("a RST", |w| w.ack_in().flags(RST).frame(), &["no_flow"]),
        drops("no flags", |w| w.ack_in().flags(0).frame(), &["no_flow"]),
        drops("a proof", |w| w.ack_in().proof([7; 16]).frame(), &["no_flow"]),
        drops(
            "options that do not parse",
            |w| {
                w.ack_in()
                    .options(&[8, 1, 8, 1, 8, 1, 8, 1, 8, 1, 8, 1, 8, 1, 8, 1, 8, 1, 8, 1])
                    .frame()
            },
            &["malformed_option"],
        ),
        drops(
            "something like a proof",
            |w| w.ack_in().options(&NOT_LAST).frame(),
            &["wrong_version"],
        ),
        drops("a SYN-ACK", |w| w.syn_ack_in().frame(), &["no_attempt"]),
        drops(
            "a SYN-ACK of another SYN",
            |w| {
                w.after_s1_out();
                Segment { acknowledgement: 9, ..w.syn_ack_in() }.frame()
            },
            &["no_attempt"],
        ),
    ];
    dropped(&Family::BOTH, Side::Client, &rows);
}

/// Our option in front of others.
const NOT_LAST: [u8; 24] =
    [253, 20, 0x45, 0x4e, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];

#[test]
fn datagrams_that_no_rule_lets_in() {
    let rows = [
        drops("UDP", |w| udp(&w.outside, &w.local, DATA), &["network_denied"]),
        drops("an echo request", |w| icmp(&w.outside, &w.local, 8, 0, DATA), &["network_denied"]),
        drops("another protocol", |w| ip(&w.outside, &w.local, GRE, &[0; 16]), &["network_denied"]),
        drops(
            "UDP of another port",
            |w| {
                let far = w.outside;
                w.allow_network(&far, direction::INGRESS, UDP, (SERVICE + 1, SERVICE + 1));
                udp(&w.outside, &w.local, DATA)
            },
            &["network_denied"],
        ),
    ];
    dropped(&Family::BOTH, Side::Server, &rows);
}

#[test]
fn what_does_not_parse() {
    let rows = [
        drops(
            "a version of neither",
            |w| changed(w.syn_in().frame(), 14, 0x55),
            &["malformed_header"],
        ),
        drops(
            "a data offset behind the packet",
            |w| {
                let frame = w.syn_in().frame();
                let at = frame.len() - 40 + 12;
                changed(frame, at, 0xb0)
            },
            &["malformed_header"],
        ),
        drops(
            "a frame that ends early",
            |w| {
                let mut frame = w.data_in().frame();
                frame.truncate(frame.len() - 1);
                frame
            },
            &["truncated"],
        ),
    ];
    dropped(&Family::BOTH, Side::Server, &rows);
    let first = drops("a fragment", |w| changed(w.syn_in().frame(), 20, 0x20), &["fragment"]);
    dropped(&[Family::V4], Side::Server, &[first]);
    let rows = [
        drops("a fragment header", |w| changed(w.syn_in().frame(), 20, 44), &["fragment"]),
        drops("another header", |w| changed(w.syn_in().frame(), 20, 60), &["extension_header"]),
    ];
    dropped(&[Family::V6], Side::Server, &rows);
}

#[test]
fn what_a_server_is_sent_with_reason_passes() {
    let rows = [
        passes("S1", |w| w.s1_in().frame(), &[]),
        passes("S1 whose peer is unknown", |w| unknown(w).frame(), &[]),
        passes(
            "S1 without a verdict",
            |w| {
                w.forget_verdict(direction::INGRESS);
                w.s1_in().frame()
            },
            &[],
        ),
        passes(
            "S1 once more, though denied by now",
            |w| {
                w.after_s1_in();
                let later = w.later();
                w.set_verdict(direction::INGRESS, EPOCH, verdict_action::DENY, later);
                w.s1_in().frame()
            },
            &[],
        ),
        passes(
            "S3",
            |w| {
                w.after_s2_out();
                w.s3_in().frame()
            },
            &[],
        ),
        passes(
            "data behind it",
            |w| {
                w.established();
                w.data_in().frame()
            },
            &[],
        ),
        passes(
            "a SYN that a rule lets in",
            |w| {
                let far = w.outside;
                w.allow_network(&far, direction::INGRESS, TCP, (SERVICE, SERVICE));
                from_outside(w, &w.syn_in()).frame()
            },
            &[],
        ),
        passes(
            "UDP that a rule lets in",
            |w| {
                let far = w.outside;
                w.allow_network(&far, direction::INGRESS, UDP, (SERVICE, SERVICE));
                udp(&w.outside, &w.local, DATA)
            },
            &[],
        ),
        passes(
            "a segment older than the attachment",
            |w| {
                let later = w.later();
                w.set_workload(|workload| workload.adopt_until_ns = later);
                w.data_in().frame()
            },
            &[],
        ),
        passes("an ICMP error", |w| unreachable(&w.outside, &w.local, &w.data_out().frame()), &[]),
        passes(
            "a tagged frame",
            |w| {
                let mut frame = w.syn_in().frame();
                frame.splice(12..12, [0x81, 0, 0, 5]);
                frame
            },
            &[],
        ),
        passes("LLDP", |_| [&[2; 12][..], &[0x88, 0xcc], &[0; 46]].concat(), &[]),
    ];
    check(Side::Server, Hook::Guard, &rows);
    let rows = [
        passes(
            "IPv4 options",
            |w| Segment { ip_options: vec![1, 1, 1, 1], ..w.syn_in() }.frame(),
            &[],
        ),
        passes("ARP", |w| arp(&w.remote, ([2; 6], [192, 0, 2, 9].into()), 1), &[]),
    ];
    check_families(&[Family::V4], Side::Server, Hook::Guard, &rows);
    let neighbour =
        passes("neighbour discovery", |w| icmp(&w.remote, &w.local, 135, 0, &[0; 20]), &[]);
    check_families(&[Family::V6], Side::Server, Hook::Guard, &[neighbour]);
}

#[test]
fn what_a_client_is_sent_with_reason_passes() {
    let rows = [
        passes(
            "S2",
            |w| {
                w.after_s1_out();
                w.s2_in().frame()
            },
            &[],
        ),
        passes(
            "a RST that refuses the call",
            |w| {
                w.after_s1_out();
                w.syn_ack_in().flags(RST | ACK).frame()
            },
            &[],
        ),
        passes(
            "a SYN-ACK that comes again",
            |w| {
                w.established();
                w.syn_ack_in().frame()
            },
            &[],
        ),
        passes(
            "a segment of a flow that was cut",
            |w| {
                w.established();
                w.change_flow(|flow| flow.deadline_ns = 1);
                w.data_in().frame()
            },
            &[],
        ),
    ];
    check(Side::Client, Hook::Guard, &rows);
}

#[test]
fn nothing_is_dropped_where_nothing_is_enforced_or_ready() {
    let cases: [(&str, Change); 5] = [
        ("observed", |w| w.set_workload(|workload| workload.flags |= workload_flags::OBSERVE)),
        ("the host side", |w| w.set_interface(WORKLOAD, interface_flags::HOST_SIDE)),
        ("no interface", |w| w.kernel.remove::<u32, InterfaceValue>("INTERFACES", &IFINDEX)),
        ("no workload", |w| {
            w.kernel.put_row("WORKLOADS", WORKLOAD.into(), WorkloadValue::NOBODY);
        }),
        ("another workload", |w| w.set_interface(WORKLOAD + 1, 0)),
    ];
    for (name, change) in cases {
        for family in Family::BOTH {
            let mut w = World::new(family, Side::Server);
            let frames = flood(&w);
            for frame in &frames {
                assert_eq!(w.run(Hook::Guard, frame).action, Action::Drop, "{name}: the twin");
            }
            change(&mut w);
            for frame in &frames {
                let seen = w.run(Hook::Guard, frame);
                assert_eq!((seen.action, seen.counters.len()), (Action::Pass, 0), "{name}");
            }
        }
    }
}

/// A frame of each kind that is dropped.
fn flood(w: &World) -> Vec<Vec<u8>> {
    vec![
        w.syn_in().frame(),
        w.syn_ack_in().frame(),
        w.data_in().frame(),
        w.s1_in().payload(b"").frame(),
        udp(&w.remote, &w.local, DATA),
        changed(w.syn_in().frame(), 14, 0x55),
    ]
}

#[test]
fn a_look_at_the_limits_takes_nothing_of_them() {
    let mut w = World::new(Family::V4, Side::Server);
    w.set_config(|config| config.cold_per_second = 1);
    let frame = unknown(&w).frame();
    for _ in 0..20 {
        assert_eq!(w.run(Hook::Guard, &frame).action, Action::Pass);
    }
    assert_eq!(w.run(Hook::To, &frame).counters, Seen::counted(&["held", "cold_segments"]));
    assert_eq!(w.run(Hook::Guard, &frame).action, Action::Drop);
}

#[test]
fn drops_are_sampled_as_those_of_the_program_behind() {
    let mut w = World::new(Family::V4, Side::Server);
    w.set_config(|config| config.samples_per_second = 2);
    let frame = w.syn_in().frame();
    let [of_guard, of_program] = [Hook::Guard, Hook::To].map(|hook| {
        w.run(hook, &frame);
        let mut records = w.kernel.rejected();
        assert_eq!(records.len(), 1, "{hook:?}");
        let record = records.remove(0);
        (record.key, record.reason, record.from_workload, record.tcp_flags, record.peer)
    });
    assert_eq!(of_guard, of_program);
    w.run(Hook::Guard, &frame);
    assert!(w.kernel.rejected().is_empty(), "two a second, whoever takes them");
}

/// What the maps know before a frame comes.
const STATES: [Change; 13] = [
    |_| {},
    |w| walk(w, 1),
    |w| walk(w, 2),
    World::established,
    |w| {
        walk(w, 2);
        w.evict_attempt();
    },
    |w| {
        w.established();
        w.set_config(|config| config.epoch += 2);
    },
    |w| {
        w.established();
        w.change_flow(|flow| flow.deadline_ns = 1);
    },
    |w| {
        let far = w.remote;
        w.allow_network(&far, direction::INGRESS, 255, (SERVICE, SERVICE));
    },
    World::forget_peer,
    |w| {
        w.forget_peer();
        w.set_config(|config| config.cold_per_second = 0);
    },
    |w| {
        let later = w.later();
        w.set_verdict(direction::INGRESS, EPOCH, verdict_action::DENY, later);
    },
    |w| {
        let later = w.later();
        w.set_workload(|workload| workload.adopt_until_ns = later);
    },
    |w| {
        let later = w.later();
        w.set_workload(|workload| {
            workload.adopt_until_ns = later;
            workload.flags |= workload_flags::RESET_UNKNOWN;
        });
    },
];

/// One or both segments of the handshake before the proof, whichever side the workload is.
fn walk(w: &mut World, steps: usize) {
    match (w.side, steps) {
        (Side::Client, 1) => w.after_s1_out(),
        (Side::Client, _) => w.after_s2_in(),
        (Side::Server, 1) => w.after_s1_in(),
        (Side::Server, _) => w.after_s2_out(),
    }
}

#[test]
fn whatever_the_guard_drops_the_program_behind_it_drops_for_the_same_reason() {
    const FRAMES_A_STATE: usize = 120;
    let mut random = Random::new(0x0dd0_cafe_1234_5678);
    let (mut dropped, mut passed) = (0, 0);
    let mut reasons = BTreeSet::new();
    for family in Family::BOTH {
        for side in [Side::Client, Side::Server] {
            for state in STATES {
                let mut w = World::new(family, side);
                state(&mut w);
                for _ in 0..FRAMES_A_STATE {
                    let frame = drawn(&w, &mut random);
                    let before = w.kernel.guarded();
                    // Compares both.
                    let seen = w.run(Hook::To, &frame);
                    if w.kernel.guarded() > before {
                        dropped += 1;
                        reasons.extend(seen.counters.into_keys());
                    } else {
                        passed += 1;
                    }
                }
            }
        }
    }
    // Of both there were many and of many kinds, or nothing was compared.
    assert!(dropped > 1000 && passed > 1000, "{dropped} dropped, {passed} passed");
    assert!(reasons.len() > 9, "{reasons:?}");
}

/// Any frame towards the workload: of any kind, with any flags, now and then broken.
fn drawn(w: &World, random: &mut Random) -> Vec<u8> {
    let segments = [w.syn_in(), w.s1_in(), w.syn_ack_in(), w.ack_in(), w.data_in(), unknown(w)];
    let mut segment = segments[random.below(segments.len())].clone();
    if random.below(4) == 0 {
        segment.flags = random.one_of(&[0, FIN, SYN, RST, ACK, SYN | ACK, RST | ACK, PSH | ACK]);
    }
    if random.below(4) == 0 {
        segment.from = w.outside;
    }
    if random.below(8) == 0 {
        segment.payload.truncate(random.below(400));
    }
    if random.below(8) == 0 && segment.options.len() <= 20 {
        segment = segment.proof([random.byte(); 16]);
    }
    if random.below(6) == 0 {
        segment.sequence = u32::from(random.byte());
    }
    let mut frame = match random.below(9) {
        0 => udp(&segment.from, &segment.to, DATA),
        1 => icmp(&segment.from, &segment.to, random.byte(), 0, DATA),
        _ => segment.frame(),
    };
    broken(&mut frame, random);
    frame
}

fn broken(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(3) {
        let at = 12 + random.below((frame.len() - 12).min(100));
        frame[at] = random.byte();
    }
    if random.below(10) == 0 {
        let least = shortest(frame);
        frame.truncate(least + random.below(frame.len() - least));
    }
}

#[test]
fn a_flow_of_another_workload_is_none() {
    let mut w = World::new(Family::V4, Side::Server);
    w.established();
    let (key, flow) = (w.key(), w.flow().expect("a flow"));
    let frame = w.data_in().frame();
    assert_eq!(w.run(Hook::Guard, &frame).action, Action::Pass);
    w.kernel.remove::<_, FlowValue>("FLOWS4", &key.to_v4());
    w.put_flow(FlowKey { workload: WORKLOAD + 1, ..key }, flow);
    assert_eq!(w.run(Hook::Guard, &frame).action, Action::Drop);
}
