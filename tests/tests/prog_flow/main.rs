//! Flows once they are open, and segments that have none.

// A table is long, not complicated.
#![allow(clippy::too_many_lines)]

mod closing;
mod datagram;
mod names;
mod neighbour;
mod opened;
mod share;

use enforcer_common::abi::{
    COUNTER_BLOCKS, INTERFACE_SLOTS, InterfaceSlot, InterfaceValue, direction, flow_state,
    interface_flags, workload_flags,
};
use enforcer_tests::program::kernel::{Action, Hook, IFINDEX};
use enforcer_tests::program::segment::{ACK, FIN, RST, Segment, TCP};
use enforcer_tests::program::table::{answers, becomes, check, compare, drops, passes};
use enforcer_tests::program::world::{
    DATA, Family, LOCAL_ISN, REMOTE_ISN, SERVICE, Side, WORKLOAD, World,
};

/// A workload that the maps do not know.
pub(crate) const OTHER: u16 = WORKLOAD + 1;

#[test]
fn a_flow_of_another_workload_is_not_found() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        // Opened by the programs alone: the test writes and reads no key of its own.
        let far = w.remote;
        w.allow_network(&far, direction::INGRESS, TCP, (SERVICE, SERVICE));
        for (hook, segment) in
            [(Hook::To, w.syn_in()), (Hook::From, w.syn_ack_out()), (Hook::To, w.ack_in())]
        {
            w.pass(hook, &segment.frame());
        }
        let (back, out) = (w.data_in().frame(), w.data_out().frame());
        w.pass(Hook::To, &back);
        w.pass(Hook::From, &out);
        w.set_interface(OTHER, interface_flags::CHECK_MAC);
        // The other workload is not in the maps: it does not even get a reset.
        for (hook, frame) in [(Hook::To, &back), (Hook::From, &out)] {
            compare(&w.run(hook, frame), Action::Drop, None, &["8:no_workload"]).unwrap();
        }
    }
}

#[test]
fn established_flows() {
    check(
        Side::Server,
        Hook::To,
        &[
            drops(
                "the state says cut",
                |w| {
                    w.established();
                    w.change_flow(|flow| flow.state = flow_state::CUT);
                    w.data_in().frame()
                },
                &["flow_cut"],
            ),
            passes(
                "a reset of a cut flow",
                |w| {
                    w.established();
                    w.change_flow(|flow| flow.state = flow_state::CUT);
                    w.ack_in().flags(RST | ACK).frame()
                },
                &[],
            ),
            drops(
                "a reset far from the window",
                |w| {
                    w.established();
                    let mut reset = w.ack_in().flags(RST);
                    reset.sequence = reset.sequence.wrapping_add(0x6000_0000);
                    reset.frame()
                },
                &["spoofed_reset"],
            ),
            drops(
                "a duplicate proof with data",
                |w| {
                    w.after_s2_out();
                    let s3 = w.s3_in();
                    w.pass(Hook::To, &s3.frame());
                    s3.payload(DATA).frame()
                },
                &["proof_with_data"],
            ),
            drops(
                "malformed options",
                |w| {
                    w.established();
                    w.data_in().options(&[&[8, 3][..], &[1; 17], &[8]].concat()).frame()
                },
                &["malformed_option"],
            ),
            drops(
                "our option in another place",
                |w| {
                    w.established();
                    w.data_in().options(&[&[253, 4, 0x45, 0x4e][..], &[1; 16]].concat()).frame()
                },
                &["wrong_version"],
            ),
            passes(
                "SACK blocks",
                |w| {
                    w.established();
                    let sack = [1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
                    w.data_in().options(&sack).frame()
                },
                &[],
            ),
            passes(
                "URG and ECN",
                |w| {
                    w.established();
                    w.data_in().flags(0xf8).frame()
                },
                &[],
            ),
            passes(
                "a keepalive, one below the next byte",
                |w| {
                    w.established();
                    let mut probe = w.ack_in();
                    probe.sequence -= 1;
                    probe.frame()
                },
                &[],
            ),
            drops("no flow", |w| w.data_in().frame(), &["no_flow"]),
            drops("a reset without flow", |w| w.ack_in().flags(RST).frame(), &["no_flow"]),
            drops(
                "another port of the same peer",
                |w| {
                    w.established();
                    w.remote.port += 1;
                    w.data_in().frame()
                },
                &["no_flow"],
            ),
            drops(
                "another address",
                |w| {
                    w.established();
                    w.remote.address = w.outside.address;
                    w.data_in().frame()
                },
                &["no_flow"],
            ),
        ],
    );
}

#[test]
fn segments_that_must_not_leave() {
    check(
        Side::Server,
        Hook::From,
        &[
            drops(
                "a forged proof on an established flow",
                |w| {
                    w.established();
                    w.ack_out().proof([9; 16]).frame()
                },
                &["forged_option"],
            ),
            drops(
                "a forged option of another length",
                |w| {
                    w.established();
                    w.ack_out().options(&[&[253, 4, 0x45, 0x4e][..], &[1; 16]].concat()).frame()
                },
                &["forged_option"],
            ),
            drops(
                "another link address on an established flow",
                |w| {
                    w.established();
                    w.local.mac[5] ^= 1;
                    w.data_out().frame()
                },
                &["spoofed_source"],
            ),
            answers(
                "no flow",
                |w| w.data_out().frame(),
                |w| Segment::new(w.remote, w.local, RST, REMOTE_ISN + 1, 0).frame(),
                &["no_flow", "reset_local"],
            ),
        ],
    );
}

#[test]
fn an_exact_reset_marks_a_flow_and_valid_traffic_revives_it() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.established();
        let reset = w.ack_in().flags(RST).frame();
        w.pass(Hook::To, &reset);
        assert_eq!(w.flow().unwrap().state, flow_state::RESET);
        let data = w.data_in().frame();
        w.pass(Hook::To, &data);
        assert_eq!(w.flow().unwrap().state, flow_state::ESTABLISHED);
        let fin = w.ack_in().flags(FIN | ACK).frame();
        w.pass(Hook::To, &fin);
        assert_eq!(w.flow().unwrap().state, flow_state::CLOSING);
    }
}

/// Stacks refuse it: the flow goes on, also when nothing is said for long.
#[test]
fn a_reset_with_a_wrong_checksum_marks_no_flow() {
    for family in Family::BOTH {
        for side in [Side::Client, Side::Server] {
            let mut w = World::new(family, side);
            w.established();
            let right = w.ack_in().flags(RST | ACK);
            let header = right.frame().len() - right.options.len() - 20;
            // Ports would make another connection of it, data offset and flags another segment, and a
            // wrong sequence number is not what is tried here.
            for at in (8..12).chain(14..20).chain(20..20 + right.options.len()) {
                let mut frame = right.frame();
                frame[header + at] ^= 0x10;
                let seen = w.run(Hook::To, &frame);
                compare(&seen, Action::Pass, Some(&frame), &["reset_unverified"]).unwrap();
                assert_eq!(w.flow().unwrap().state, flow_state::ESTABLISHED, "{family:?}: {at}");
            }
            w.pass(Hook::To, &right.frame());
            assert_eq!(w.flow().unwrap().state, flow_state::RESET, "{family:?}");
        }
    }
}

/// Data behind a reset says why it was sent (RFC 9293 3.5.3). Of more than 511 bytes nothing is verified.
#[test]
fn a_reset_marks_a_flow_if_it_is_short_enough_to_be_verified() {
    const HEADER: usize = 20;
    for family in Family::BOTH {
        for length in [HEADER, HEADER + 1, HEADER + 2, HEADER + 3, 100, 510, 511, 512, 513, 1400] {
            let mut w = World::new(family, Side::Server);
            w.established();
            let told: Vec<u8> = (0..=255).cycle().take(length - HEADER).collect();
            let reset = w.ack_in().flags(RST | ACK).options(&[]).payload(&told).frame();
            let mut wrong = reset.clone();
            *wrong.last_mut().unwrap() ^= 1;
            w.pass(Hook::To, &wrong);
            assert_eq!(w.flow().unwrap().state, flow_state::ESTABLISHED, "{length}");
            let counted: &[_] = if length <= 511 { &[] } else { &["reset_unverified"] };
            compare(&w.run(Hook::To, &reset), Action::Pass, Some(&reset), counted).unwrap();
            let marked = w.flow().unwrap().state == flow_state::RESET;
            assert_eq!(marked, length <= 511, "{family:?}: {length}");
        }
    }
}

#[test]
fn resets_of_attempts() {
    check(
        Side::Client,
        Hook::To,
        &[
            passes(
                "a closed port",
                |w| {
                    w.after_s1_out();
                    let next = LOCAL_ISN.wrapping_add(1);
                    Segment::new(w.remote, w.local, RST | ACK, 0, next).frame()
                },
                &[],
            ),
            drops(
                "a reset that acknowledges something else",
                |w| {
                    w.after_s1_out();
                    Segment::new(w.remote, w.local, RST | ACK, 0, 77).frame()
                },
                &["spoofed_reset"],
            ),
            drops(
                "data before the SYN-ACK",
                |w| {
                    w.after_s1_out();
                    w.data_in().frame()
                },
                &["no_flow"],
            ),
        ],
    );
}

fn reset_of_data_out(w: &World) -> Vec<u8> {
    let data = w.data_out();
    Segment::new(w.local, w.remote, RST | ACK, data.sequence, data.acknowledgement).frame()
}

#[test]
fn connections_older_than_the_attachment() {
    check(
        Side::Server,
        Hook::To,
        &[
            passes(
                "adopted",
                |w| {
                    let later = w.later();
                    w.set_workload(|workload| workload.adopt_until_ns = later);
                    w.data_in().frame()
                },
                &["plain_opened", "adopted"],
            ),
            drops(
                "a stranger's, where the workload's own are reset",
                |w| {
                    let later = w.later();
                    w.set_workload(|workload| {
                        workload.adopt_until_ns = later;
                        workload.flags |= workload_flags::RESET_UNKNOWN;
                    });
                    w.data_in().frame()
                },
                &["no_flow"],
            ),
            drops(
                "too late",
                |w| {
                    let past = w.past();
                    w.set_workload(|workload| workload.adopt_until_ns = past);
                    w.data_in().frame()
                },
                &["no_flow"],
            ),
        ],
    );
    check(
        Side::Server,
        Hook::From,
        &[becomes(
            "reset",
            |w| {
                let later = w.later();
                w.set_workload(|workload| {
                    workload.adopt_until_ns = later;
                    workload.flags |= workload_flags::RESET_UNKNOWN;
                });
                w.data_out().frame()
            },
            reset_of_data_out,
            &["not_adopted", "reset_local", "reset_remote"],
        )],
    );
    check(
        Side::Server,
        Hook::From,
        &[
            drops(
                "not from a spoofed address",
                |w| {
                    let later = w.later();
                    w.set_workload(|workload| workload.adopt_until_ns = later);
                    w.local.address = w.outside.address;
                    w.data_out().frame()
                },
                &["spoofed_source"],
            ),
            drops(
                "nobody is reset in another's name",
                |w| {
                    let later = w.later();
                    w.set_workload(|workload| {
                        workload.adopt_until_ns = later;
                        workload.flags |= workload_flags::RESET_UNKNOWN;
                    });
                    w.local.address = w.outside.address;
                    w.data_out().frame()
                },
                &["spoofed_source"],
            ),
            drops(
                "nor later",
                |w| {
                    w.local.address = w.outside.address;
                    w.data_out().frame()
                },
                &["spoofed_source"],
            ),
        ],
    );
}

#[test]
fn an_unknown_interface_passes_nothing() {
    for hook in [Hook::From, Hook::To] {
        check(
            Side::Client,
            hook,
            &[drops(
                "a SYN",
                |w| {
                    w.kernel.remove::<u32, InterfaceValue>("INTERFACES", &IFINDEX);
                    w.syn_out().frame()
                },
                &["0:no_workload"],
            )],
        );
    }
}

#[test]
fn workloads_whose_ids_share_a_block_of_counters_are_counted_apart() {
    let beside = WORKLOAD + u16::try_from(COUNTER_BLOCKS).unwrap();
    let mut w = World::new(Family::V4, Side::Server);
    let frame = w.data_in().frame();
    for _ in 0..2 {
        for (workload, reason) in [(WORKLOAD, "no_flow"), (beside, "no_workload")] {
            w.set_interface(workload, 0);
            let seen = w.run(Hook::To, &frame);
            compare(&seen, Action::Drop, None, &[&format!("{workload}:{reason}")]).unwrap();
        }
    }
}

#[test]
fn an_interface_is_told_by_a_slot_of_its_own_number_only() {
    let value = InterfaceValue { workload: WORKLOAD, ..InterfaceValue::default() };
    let own = InterfaceSlot { ifindex: IFINDEX, value, zero: [0; 4] };
    let others = InterfaceSlot { ifindex: IFINDEX + INTERFACE_SLOTS, ..own };
    let half_written = InterfaceSlot { value: InterfaceValue::default(), ..own };
    for (slot, is_known) in [(own, true), (others, false), (half_written, false)] {
        let mut w = World::new(Family::V4, Side::Server);
        w.established();
        w.kernel.remove::<u32, InterfaceValue>("INTERFACES", &IFINDEX);
        w.kernel.put_slot(slot);
        for (hook, segment) in [(Hook::To, w.data_in()), (Hook::From, w.data_out())] {
            let seen = w.run(hook, &segment.frame());
            let (action, counters): (_, &[&str]) =
                if is_known { (Action::Pass, &[]) } else { (Action::Drop, &["0:no_workload"]) };
            compare(&seen, action, None, counters).unwrap();
        }
    }
}
