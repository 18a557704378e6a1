//! Other protocols than TCP: network rules, their flows, ICMP errors.

use enforcer_common::abi::{
    FlowValue, SHARE_OF_ALL, ShareValue, direction, flow_flags, flow_state, workload_flags,
};
use enforcer_common::datapath::share;
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::packet::{End, ICMP, ICMPV6, UDP, icmp, ip, udp, unreachable};
use enforcer_tests::program::table::{check, compare, drops, passes};
use enforcer_tests::program::world::{DATA, Family, Side, WORKLOAD, World};

use crate::OTHER;

/// Of HTTP over QUIC: any but that of name servers.
const QUIC: u16 = 443;

fn server(w: &World) -> End {
    End { port: QUIC, ..w.outside }
}

#[test]
fn datagrams_need_a_rule() {
    check(
        Side::Client,
        Hook::From,
        &[
            drops("UDP without a rule", |w| udp(&w.local, &server(w), DATA), &["network_denied"]),
            passes(
                "UDP with a rule",
                |w| {
                    let far = server(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
                    udp(&w.local, &server(w), DATA)
                },
                &["plain_opened"],
            ),
            passes(
                "UDP of an open flow",
                |w| {
                    let far = server(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
                    let frame = udp(&w.local, &server(w), DATA);
                    w.pass(Hook::From, &frame);
                    frame
                },
                &[],
            ),
            drops(
                "UDP with a rule for another port",
                |w| {
                    let far = server(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (QUIC + 1, QUIC + 1));
                    udp(&w.local, &server(w), DATA)
                },
                &["network_denied"],
            ),
            drops(
                "UDP with a rule for another direction",
                |w| {
                    let far = server(w);
                    w.allow_network(&far, direction::INGRESS, UDP, (QUIC, QUIC));
                    udp(&w.local, &server(w), DATA)
                },
                &["network_denied"],
            ),
            drops(
                "UDP with a rule for another protocol",
                |w| {
                    let far = server(w);
                    w.allow_network(&far, direction::EGRESS, 6, (QUIC, QUIC));
                    udp(&w.local, &server(w), DATA)
                },
                &["network_denied"],
            ),
            passes(
                "UDP of a workload that is only observed",
                |w| {
                    w.set_workload(|workload| workload.flags |= workload_flags::OBSERVE);
                    udp(&w.local, &server(w), DATA)
                },
                &["would_deny", "plain_opened", "reported"],
            ),
            drops(
                "UDP from a spoofed address",
                |w| {
                    let far = server(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
                    let spoofed = End { address: w.remote.address, ..w.local };
                    udp(&spoofed, &server(w), DATA)
                },
                &["spoofed_source"],
            ),
            drops("SCTP", |w| ip(&w.local, &w.outside, 132, &[0; 12]), &["network_denied"]),
            drops("GRE", |w| ip(&w.local, &w.outside, 47, &[0; 8]), &["network_denied"]),
            passes(
                "GRE with a rule for every protocol",
                |w| {
                    let far = w.outside;
                    w.allow_network(&far, direction::EGRESS, 255, (0, u16::MAX));
                    ip(&w.local, &w.outside, 47, &[0; 8])
                },
                &["plain_opened"],
            ),
            drops(
                "an echo request",
                |w| {
                    let kind = if w.family == Family::V4 { 8 } else { 128 };
                    icmp(&w.local, &w.outside, kind, 0, DATA)
                },
                &["network_denied"],
            ),
        ],
    );
}

#[test]
fn answers_of_datagrams_pass_by_their_flow() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let far = server(&w);
        w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
        let answer = udp(&far, &w.local, DATA);
        compare(&w.run(Hook::To, &answer), Action::Drop, None, &["network_denied"]).unwrap();
        let query = udp(&w.local, &far, DATA);
        w.pass(Hook::From, &query);
        compare(&w.run(Hook::To, &answer), Action::Pass, Some(&answer), &[]).unwrap();
        let stranger = udp(&w.remote, &w.local, DATA);
        compare(&w.run(Hook::To, &stranger), Action::Drop, None, &["network_denied"]).unwrap();
    }
}

#[test]
fn icmp_errors_must_quote_a_live_flow() {
    check(
        Side::Client,
        Hook::To,
        &[
            passes(
                "a flow",
                |w| {
                    w.established();
                    unreachable(&w.outside, &w.local, &w.data_out().frame())
                },
                &[],
            ),
            passes(
                "an attempt",
                |w| {
                    w.after_s1_out();
                    unreachable(&w.outside, &w.local, &w.syn_out().frame())
                },
                &[],
            ),
            drops(
                "no flow",
                |w| unreachable(&w.outside, &w.local, &w.data_out().frame()),
                &["icmp_unrelated"],
            ),
            drops(
                "a flow in the wrong direction",
                |w| {
                    w.established();
                    unreachable(&w.outside, &w.local, &w.data_in().frame())
                },
                &["icmp_unrelated"],
            ),
            drops(
                "a quotation that ends in its IP header",
                |w| {
                    w.established();
                    let quoted = &w.data_out().frame()[14..24];
                    let kind = if w.family == Family::V4 { 3 } else { 1 };
                    icmp(&w.outside, &w.local, kind, 0, quoted)
                },
                &["truncated"],
            ),
            drops(
                "a flow of another workload",
                |w| {
                    w.established();
                    w.set_interface(OTHER, 0);
                    unreachable(&w.outside, &w.local, &w.data_out().frame())
                },
                &["8:icmp_unrelated"],
            ),
        ],
    );
    check(
        Side::Client,
        Hook::From,
        &[
            passes(
                "from the workload, a flow",
                |w| {
                    w.established();
                    unreachable(&w.local, &w.remote, &w.data_in().frame())
                },
                &[],
            ),
            drops(
                "from the workload, no flow",
                |w| unreachable(&w.local, &w.remote, &w.data_in().frame()),
                &["icmp_unrelated"],
            ),
        ],
    );
}

#[test]
fn the_other_icmp_family_s_number_is_no_icmp() {
    for (family, protocol) in [(Family::V4, ICMPV6), (Family::V6, ICMP)] {
        let mut w = World::new(family, Side::Client);
        let frame = ip(&w.local, &w.outside, protocol, &[136, 0, 0, 0, 0, 0, 0, 0]);
        compare(&w.run(Hook::From, &frame), Action::Drop, None, &["network_denied"]).unwrap();
    }
}

#[test]
fn an_open_datagram_flow_is_written_as_such() {
    let mut w = World::new(Family::V4, Side::Client);
    let far = server(&w);
    w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
    let frame = udp(&w.local, &server(&w), DATA);
    w.pass(Hook::From, &frame);
    let mut key = w.key_with(&server(&w));
    key.protocol = UDP;
    let flow: FlowValue = w.kernel.read("FLOWS4", &key.to_v4()).expect("a flow");
    assert_eq!((flow.state, flow.port), (flow_state::DATAGRAM, QUIC));
    assert_eq!(flow.flags, flow_flags::PLAIN | flow_flags::INITIATOR);
}

#[test]
fn datagrams_of_an_open_flow_are_counted_and_pass_until_the_policy_changes() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let far = server(&w);
        w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
        let (query, answer) = (udp(&w.local, &far, DATA), udp(&far, &w.local, DATA));
        for _ in 0..4 {
            compare_pass(&mut w, Hook::From, &query);
            compare_pass(&mut w, Hook::To, &answer);
        }
        let mut key = w.key_with(&far);
        key.protocol = UDP;
        let flow: FlowValue = match family {
            Family::V4 => w.kernel.read("FLOWS4", &key.to_v4()).expect("a flow"),
            Family::V6 => w.kernel.read("FLOWS6", &key).expect("a flow"),
        };
        // The one that opened the flow is not counted in it.
        assert_eq!((flow.packets_out, flow.packets_in), (3, 4));
        assert_eq!(flow.state, flow_state::DATAGRAM);
        // The rules of the next epoch allow something else.
        w.allow_network(&far, direction::EGRESS, UDP, (QUIC + 1, QUIC + 1));
        w.set_config(|config| config.epoch += 1);
        for (hook, frame) in [(Hook::To, &answer), (Hook::From, &query)] {
            compare(&w.run(hook, frame), Action::Drop, None, &["flow_cut"]).unwrap();
        }
    }
}

fn compare_pass(w: &mut World, hook: Hook, frame: &[u8]) {
    let seen = w.run(hook, frame);
    let opened = seen.counters.keys().any(|counter| counter.ends_with("plain_opened"));
    let counters: &[&str] = if opened { &["plain_opened"] } else { &[] };
    compare(&seen, Action::Pass, Some(frame), counters).unwrap();
}

/// What arrives says nothing of whose address it was sent to.
#[test]
fn a_flow_that_the_far_side_opened_lends_the_workload_no_address() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let far = server(&w);
        w.allow_network(&far, direction::INGRESS, UDP, (0, u16::MAX));
        let other = End { address: w.remote.address, ..w.local };
        w.pass(Hook::To, &udp(&far, &other, DATA));
        let spoofed = udp(&other, &far, DATA);
        for _ in 0..3 {
            compare(&w.run(Hook::From, &spoofed), Action::Drop, None, &["spoofed_source"]).unwrap();
            compare_pass(&mut w, Hook::To, &udp(&far, &other, DATA));
        }
    }
}

/// However long it has spoken from it: another set of addresses holds, none while they change, or the
/// daemon names none.
#[test]
fn an_address_that_the_workload_has_lost_is_refused_to_its_open_flows() {
    for (before, behind) in [(7, 8), (7, 0), (0, 0)] {
        for family in Family::BOTH {
            let (mut w, query) = world_that_spoke(family, before);
            w.lose_address();
            w.name_address_set(behind);
            for _ in 0..2 {
                let seen = w.run(Hook::From, &query);
                compare(&seen, Action::Drop, None, &["spoofed_source"]).unwrap();
            }
        }
    }
}

/// The daemon names another set whenever one goes, so the table need not be asked for each datagram.
#[test]
fn the_source_of_a_flow_is_looked_for_once_in_each_set_of_addresses() {
    for family in Family::BOTH {
        let (mut w, query) = world_that_spoke(family, 7);
        // It got another one: looked for again, found, and noted.
        w.name_address_set(8);
        compare_pass(&mut w, Hook::From, &query);
        w.lose_address();
        compare_pass(&mut w, Hook::From, &query);
        w.name_address_set(9);
        compare(&w.run(Hook::From, &query), Action::Drop, None, &["spoofed_source"]).unwrap();
    }
}

/// An open flow that the workload has sent datagrams of, and one of them.
fn world_that_spoke(family: Family, address_set: u32) -> (World, Vec<u8>) {
    let mut w = World::new(family, Side::Client);
    w.name_address_set(address_set);
    let far = server(&w);
    w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
    let query = udp(&w.local, &far, DATA);
    for _ in 0..3 {
        compare_pass(&mut w, Hook::From, &query);
    }
    (w, query)
}

#[test]
fn a_workload_has_a_share_of_datagram_flows_in_each_direction() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        // A quarter of the table.
        w.set_config(|config| config.flows = 12);
        let far = server(&w);
        w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
        let from = |w: &World, port| udp(&End { port, ..w.local }, &server(w), DATA);
        for port in [1, 2, 3] {
            let frame = from(&w, port);
            w.pass(Hook::From, &frame);
        }
        let frame = from(&w, 4);
        compare(&w.run(Hook::From, &frame), Action::Drop, None, &["datagram_share_full"]).unwrap();
        let open = from(&w, 1);
        compare(&w.run(Hook::From, &open), Action::Pass, Some(&open), &[]).unwrap();
        // The daemon found one of them gone.
        let flags = flow_flags::PLAIN | flow_flags::INITIATOR;
        let index = share::index(UDP, flags, if family == Family::V4 { 4 } else { 6 });
        for (id, index) in [(u32::from(WORKLOAD), index), (SHARE_OF_ALL, share::table(index))] {
            let mut gone = ShareValue::default();
            gone.flows[index] = 1;
            w.kernel.put_row("SHARES_GONE", id, gone);
        }
        compare(&w.run(Hook::From, &frame), Action::Pass, Some(&frame), &["plain_opened"]).unwrap();
        let frame = from(&w, 5);
        compare(&w.run(Hook::From, &frame), Action::Drop, None, &["datagram_share_full"]).unwrap();
    }
}

#[test]
fn what_outsiders_send_takes_nothing_of_the_workload_s_own_share() {
    let mut w = World::new(Family::V4, Side::Client);
    w.set_config(|config| config.flows = 3);
    let far = server(&w);
    w.allow_network(&far, direction::INGRESS, UDP, (0, u16::MAX));
    for (port, counter) in [(1, "plain_opened"), (2, "datagram_share_full")] {
        let seen = w.run(Hook::To, &udp(&server(&w), &End { port, ..w.local }, DATA));
        assert!(seen.counters.contains_key(&format!("{WORKLOAD}:{counter}")), "{seen:?}");
    }
    w.allow_network(&far, direction::EGRESS, UDP, (QUIC, QUIC));
    let own = udp(&End { port: 3, ..w.local }, &server(&w), DATA);
    compare(&w.run(Hook::From, &own), Action::Pass, Some(&own), &["plain_opened"]).unwrap();
}
