//! Flows once they are open, what has none, and what is not TCP.

use std::net::{IpAddr, Ipv4Addr};

use enforcer_common::abi::{
    FlowValue, InterfaceValue, direction, flow_flags, flow_state, interface_flags, workload_flags,
};
use enforcer_tests::program::kernel::{Action, Hook, IFINDEX};
use enforcer_tests::program::packet::{End, ICMP, ICMPV6, UDP, arp, icmp, ip, udp, unreachable};
use enforcer_tests::program::segment::{ACK, FIN, RST, Segment};
use enforcer_tests::program::table::{
    answers, becomes, check, check_families, compare, drops, passes,
};
use enforcer_tests::program::world::{DATA, Family, LOCAL_ISN, REMOTE_ISN, Side, WORKLOAD, World};

const OTHER: u16 = WORKLOAD + 1;
const DNS: u16 = 53;

#[test]
fn a_flow_of_another_workload_is_not_found() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.established();
        let (back, out) = (w.data_in().frame(), w.data_out().frame());
        w.pass(Hook::To, &back);
        w.set_interface(OTHER, interface_flags::CHECK_MAC);
        // The other workload has none of its own: not even a reset.
        for (hook, frame) in [(Hook::To, &back), (Hook::From, &out)] {
            compare(&w.run(hook, frame), Action::Drop, None, &["8:no_workload"]).unwrap();
        }
        assert_eq!(w.flow().unwrap().packets_in, 1);
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

fn reset_of_data_in(w: &World) -> Vec<u8> {
    let data = w.data_in();
    Segment::new(w.remote, w.local, RST | ACK, data.sequence, data.acknowledgement).frame()
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
            becomes(
                "reset",
                |w| {
                    let later = w.later();
                    w.set_workload(|workload| {
                        workload.adopt_until_ns = later;
                        workload.flags |= workload_flags::RESET_UNKNOWN;
                    });
                    w.data_in().frame()
                },
                reset_of_data_in,
                &["not_adopted", "reset_local", "reset_remote"],
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
        &[drops(
            "not from a spoofed address",
            |w| {
                let later = w.later();
                w.set_workload(|workload| workload.adopt_until_ns = later);
                w.local.address = w.outside.address;
                w.data_out().frame()
            },
            &["spoofed_source"],
        )],
    );
}

fn dns(w: &World) -> End {
    End { port: DNS, ..w.outside }
}

#[test]
fn datagrams_need_a_rule() {
    check(
        Side::Client,
        Hook::From,
        &[
            drops("UDP without a rule", |w| udp(&w.local, &dns(w), DATA), &["network_denied"]),
            passes(
                "UDP with a rule",
                |w| {
                    let far = dns(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (DNS, DNS));
                    udp(&w.local, &dns(w), DATA)
                },
                &["plain_opened"],
            ),
            passes(
                "UDP of an open flow",
                |w| {
                    let far = dns(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (DNS, DNS));
                    let frame = udp(&w.local, &dns(w), DATA);
                    w.pass(Hook::From, &frame);
                    frame
                },
                &[],
            ),
            drops(
                "UDP with a rule for another port",
                |w| {
                    let far = dns(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (DNS + 1, DNS + 1));
                    udp(&w.local, &dns(w), DATA)
                },
                &["network_denied"],
            ),
            drops(
                "UDP with a rule for another direction",
                |w| {
                    let far = dns(w);
                    w.allow_network(&far, direction::INGRESS, UDP, (DNS, DNS));
                    udp(&w.local, &dns(w), DATA)
                },
                &["network_denied"],
            ),
            drops(
                "UDP with a rule for another protocol",
                |w| {
                    let far = dns(w);
                    w.allow_network(&far, direction::EGRESS, 6, (DNS, DNS));
                    udp(&w.local, &dns(w), DATA)
                },
                &["network_denied"],
            ),
            passes(
                "UDP of a workload that is only observed",
                |w| {
                    w.set_workload(|workload| workload.flags |= workload_flags::OBSERVE);
                    udp(&w.local, &dns(w), DATA)
                },
                &["would_deny", "plain_opened"],
            ),
            drops(
                "UDP from a spoofed address",
                |w| {
                    let far = dns(w);
                    w.allow_network(&far, direction::EGRESS, UDP, (DNS, DNS));
                    let spoofed = End { address: w.remote.address, ..w.local };
                    udp(&spoofed, &dns(w), DATA)
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
        let far = dns(&w);
        w.allow_network(&far, direction::EGRESS, UDP, (DNS, DNS));
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

fn v4(end: &End) -> Ipv4Addr {
    match end.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is not IPv4"),
    }
}

#[test]
fn a_workload_answers_arp_only_for_itself() {
    let rows = [
        passes("asking", |w| arp(&w.local, (w.local.mac, v4(&w.local)), 1), &[]),
        passes("answering", |w| arp(&w.local, (w.local.mac, v4(&w.local)), 2), &[]),
        passes("a probe", |w| arp(&w.local, (w.local.mac, Ipv4Addr::UNSPECIFIED), 1), &[]),
        drops(
            "another's address",
            |w| arp(&w.local, (w.local.mac, v4(&w.remote)), 2),
            &["spoofed_source"],
        ),
        drops(
            "another's link address inside",
            |w| arp(&w.local, (w.remote.mac, v4(&w.local)), 2),
            &["spoofed_source"],
        ),
        drops(
            "another's link address outside",
            |w| arp(&w.remote, (w.local.mac, v4(&w.local)), 2),
            &["spoofed_source"],
        ),
        drops(
            "cut short",
            |w| arp(&w.local, (w.local.mac, v4(&w.local)), 2)[..30].to_vec(),
            &["truncated"],
        ),
    ];
    check_families(&[Family::V4], Side::Client, Hook::From, &rows);
    let row = passes("from others", |w| arp(&w.remote, (w.remote.mac, v4(&w.remote)), 2), &[]);
    check_families(&[Family::V4], Side::Client, Hook::To, &[row]);
}

/// A neighbour advertisement or solicitation from the workload; `target` is what it speaks of.
fn neighbour(w: &World, kind: u8, target: &End) -> Vec<u8> {
    icmp(&w.local, &w.remote, kind, 0, &target.octets())
}

#[test]
fn a_workload_advertises_only_itself() {
    let rows = [
        passes("a solicitation", |w| neighbour(w, 135, &w.remote), &[]),
        passes("a router solicitation", |w| neighbour(w, 133, &w.remote), &[]),
        passes("its own address", |w| neighbour(w, 136, &w.local), &[]),
        drops("another's address", |w| neighbour(w, 136, &w.remote), &["spoofed_source"]),
        drops("a router advertisement", |w| neighbour(w, 134, &w.local), &["spoofed_source"]),
        drops("a redirect", |w| neighbour(w, 137, &w.local), &["spoofed_source"]),
        drops(
            "from another address",
            |w| {
                w.local.address = w.remote.address;
                neighbour(w, 135, &w.remote)
            },
            &["spoofed_source"],
        ),
        drops("without target", |w| icmp(&w.local, &w.remote, 136, 0, &[]), &["truncated"]),
    ];
    check_families(&[Family::V6], Side::Client, Hook::From, &rows);
    let row = passes("from others", |w| icmp(&w.remote, &w.local, 136, 0, &w.remote.octets()), &[]);
    check_families(&[Family::V6], Side::Client, Hook::To, &[row]);
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
    let far = dns(&w);
    w.allow_network(&far, direction::EGRESS, UDP, (DNS, DNS));
    let frame = udp(&w.local, &dns(&w), DATA);
    w.pass(Hook::From, &frame);
    let mut key = w.key_with(&dns(&w));
    key.protocol = UDP;
    let flow: FlowValue = w.kernel.read("FLOWS4", &key.to_v4()).expect("a flow");
    assert_eq!((flow.state, flow.port), (flow_state::DATAGRAM, DNS));
    assert_eq!(flow.flags, flow_flags::PLAIN | flow_flags::INITIATOR);
}
