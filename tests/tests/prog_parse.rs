//! What of a frame does not parse: the reasons, at every length, and that the kernel reads as the host does.

use enforcer_common::abi::{DropReason, flow_state};
use enforcer_common::datapath::opaque::Opaque;
use enforcer_common::wire::Cursor as _;
use enforcer_common::wire::frame::{
    Frame, IPV4_OPTIONS_MAX, Packet, check_ipv4_options, parse, protocol, tcp_flags,
};
use enforcer_tests::program::kernel::{Action, Hook, Seen, shortest};
use enforcer_tests::program::packet::{arp, icmp, ip, udp, unreachable};
use enforcer_tests::program::random::Random;
use enforcer_tests::program::segment::Segment;
use enforcer_tests::program::table::{becomes, check, check_families, compare, drops, passes};
use enforcer_tests::program::world::{DATA, Family, Side, WORKLOAD, World};

/// Where the headers of a frame begin.
const IP: usize = 14;

fn changed(mut frame: Vec<u8>, at: usize, to: &[u8]) -> Vec<u8> {
    frame[at..at + to.len()].copy_from_slice(to);
    frame
}

#[test]
fn a_frame_cut_at_any_length_is_dropped() {
    for family in Family::BOTH {
        for hook in [Hook::From, Hook::To] {
            let mut w = World::new(family, Side::Server);
            let frames = [
                w.syn_out().frame(),
                w.data_out().frame(),
                udp(&w.local, &w.outside, DATA),
                icmp(&w.local, &w.outside, 1, 0, DATA),
            ];
            for frame in frames {
                for length in shortest(&frame)..frame.len() {
                    let seen = w.run(hook, &frame[..length]);
                    compare(&seen, Action::Drop, None, &["truncated"])
                        .unwrap_or_else(|error| panic!("{length} of {}: {error}", frame.len()));
                }
            }
        }
    }
}

#[test]
fn a_packet_cut_inside_its_headers_is_dropped() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let whole = w.syn_in().frame();
        let tcp = &whole[whole.len() - 40..];
        for length in 0..40 {
            let reason = if length < 20 { "truncated" } else { "malformed_header" };
            let frame = ip(&w.remote, &w.local, protocol::TCP, &tcp[..length]);
            compare(&w.run(Hook::To, &frame), Action::Drop, None, &[reason])
                .unwrap_or_else(|error| panic!("{length}: {error}"));
        }
        for (number, reason) in [
            (protocol::UDP, "truncated"),
            (protocol::SCTP, "truncated"),
            (protocol::ICMP, "truncated"),
            (protocol::ICMPV6, "truncated"),
        ] {
            let frame = ip(&w.remote, &w.local, number, &[0; 7]);
            compare(&w.run(Hook::To, &frame), Action::Drop, None, &[reason]).unwrap();
        }
    }
}

#[test]
fn headers_that_must_not_pass() {
    for hook in [Hook::From, Hook::To] {
        check(
            Side::Client,
            hook,
            &[
                drops("LLDP", |w| changed(w.syn_out().frame(), 12, &[0x88, 0xcc]), &["not_ip"]),
                drops("VLAN", |w| tagged(w, [0x81, 0, 0, 5]), &["not_ip"]),
                drops("QinQ", |w| tagged(w, [0x88, 0xa8, 0, 5]), &["not_ip"]),
                drops("802.3", |w| changed(w.syn_out().frame(), 12, &[0, 60]), &["not_ip"]),
                drops(
                    "a version of neither",
                    |w| changed(w.syn_out().frame(), IP, &[0x55]),
                    &["malformed_header"],
                ),
                drops(
                    "a data offset below the header",
                    |w| {
                        let frame = w.syn_out().frame();
                        let at = frame.len() - 40 + 12;
                        changed(frame, at, &[0x40])
                    },
                    &["malformed_header"],
                ),
                drops(
                    "a data offset behind the packet",
                    |w| {
                        let frame = w.syn_out().frame();
                        let at = frame.len() - 40 + 12;
                        changed(frame, at, &[0xb0])
                    },
                    &["malformed_header"],
                ),
            ],
        );
        check_families(
            &[Family::V4],
            Side::Client,
            hook,
            &[
                drops(
                    "a short IPv4 header",
                    |w| changed(w.syn_out().frame(), IP, &[0x44]),
                    &["malformed_header"],
                ),
                drops(
                    "a total length below the header",
                    |w| changed(w.syn_out().frame(), IP + 2, &[0, 19]),
                    &["malformed_header"],
                ),
                drops(
                    "a total length behind the frame",
                    |w| {
                        let frame = w.syn_out().frame();
                        let total = u16::try_from(frame.len() - IP + 1).unwrap();
                        changed(frame, IP + 2, &total.to_be_bytes())
                    },
                    &["truncated"],
                ),
                drops(
                    "a first fragment",
                    |w| changed(w.syn_out().frame(), IP + 6, &[0x20, 0]),
                    &["fragment"],
                ),
                drops(
                    "a later fragment",
                    |w| changed(w.syn_out().frame(), IP + 6, &[0, 1]),
                    &["fragment"],
                ),
            ],
        );
        check_families(
            &[Family::V6],
            Side::Client,
            hook,
            &[
                drops(
                    "a payload length behind the frame",
                    |w| {
                        let frame = w.syn_out().frame();
                        let payload = u16::try_from(frame.len() - IP - 40 + 1).unwrap();
                        changed(frame, IP + 4, &payload.to_be_bytes())
                    },
                    &["truncated"],
                ),
                drops(
                    "a fragment header",
                    |w| changed(w.syn_out().frame(), IP + 6, &[44]),
                    &["fragment"],
                ),
            ],
        );
    }
}

fn tagged(w: &World, tag: [u8; 4]) -> Vec<u8> {
    let mut frame = w.syn_out().frame();
    frame.splice(12..12, tag);
    frame
}

#[test]
fn no_extension_header_passes() {
    for hook in [Hook::From, Hook::To] {
        for header in [0, 43, 50, 51, 60, 135, 139, 140, 253, 254] {
            let mut w = World::new(Family::V6, Side::Client);
            let frame = changed(w.syn_out().frame(), IP + 6, &[header]);
            let seen = w.run(hook, &frame);
            compare(&seen, Action::Drop, None, &["extension_header"])
                .unwrap_or_else(|error| panic!("{header}: {error}"));
        }
    }
}

#[test]
fn padding_behind_the_packet_is_not_part_of_it() {
    check(
        Side::Server,
        Hook::To,
        &[
            becomes("S1", |w| padded(&w.s1_in()), |w| w.syn_in().frame(), &["s1_accepted"]),
            becomes(
                "S3",
                |w| {
                    w.after_s2_out();
                    padded(&w.s3_in())
                },
                |w| w.ack_in().frame(),
                &["proof_accepted"],
            ),
            passes(
                "an established flow's",
                |w| {
                    w.established();
                    padded(&w.ack_in())
                },
                &[],
            ),
        ],
    );
    let row =
        becomes("S1 that leaves", |w| padded(&w.syn_out()), |w| w.s1_out().frame(), &["s1_sent"]);
    check(Side::Client, Hook::From, &[row]);
}

fn padded(segment: &Segment) -> Vec<u8> {
    [segment.frame(), vec![0xee; 7]].concat()
}

#[test]
fn the_kernel_reads_frames_as_the_host_does() {
    const FRAMES_A_FAMILY: usize = 2000;
    let mut random = Random::new(0x1234_5678_9abc_def0);
    let mut refused = 0;
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.set_config(|config| config.cold_per_second = 0);
        let bases = bases(&w);
        for _ in 0..FRAMES_A_FAMILY {
            let frame = mutated(&bases[random.below(bases.len())], &mut random);
            let mut packet = Packet::default();
            let read = parse(&frame[..], &mut packet);
            refused += usize::from(read.is_err());
            let seen = w.run(Hook::To, &frame);
            agree(read, &packet, &frame, &seen);
        }
    }
    // Of both kinds there were many, or nothing was compared.
    assert!(refused > FRAMES_A_FAMILY / 4, "{refused} refused");
    assert!(refused < FRAMES_A_FAMILY * 2 - FRAMES_A_FAMILY / 4, "{refused} refused");
}

fn bases(w: &World) -> Vec<Vec<u8>> {
    let mut bases = vec![
        w.s1_in().frame(),
        w.syn_in().frame(),
        w.data_in().frame(),
        udp(&w.remote, &w.local, DATA),
        icmp(&w.remote, &w.local, 8, 0, DATA),
        unreachable(&w.remote, &w.local, &w.data_out().frame()),
        ip(&w.remote, &w.local, protocol::SCTP, &[0; 16]),
        ip(&w.remote, &w.local, 47, &[0; 16]),
    ];
    if w.family == Family::V4 {
        let options = vec![148, 4, 0, 0, 1, 1, 1, 0];
        bases.push(Segment { ip_options: options, ..w.syn_in() }.frame());
        bases.push(arp(&w.remote, ([2; 6], [192, 0, 2, 9].into()), 1));
    }
    bases
}

/// Up to three bytes of the headers changed, now and then cut.
fn mutated(base: &[u8], random: &mut Random) -> Vec<u8> {
    let mut frame = base.to_vec();
    for _ in 0..random.below(4) {
        let at = 12 + random.below((frame.len() - 12).min(70));
        frame[at] = random.byte();
    }
    // The bytes that decide most: version, protocol, fragment, TCP's data offset.
    let telling = [IP, IP + 6, IP + 7, IP + 9, IP + 20, IP + 32, IP + 52];
    if random.below(2) == 0 {
        let at = telling[random.below(telling.len())];
        if at < frame.len() {
            frame[at] = random.byte();
        }
    }
    if random.below(4) == 0 {
        let least = shortest(&frame);
        frame.truncate(least + random.below(frame.len() - least));
    }
    frame
}

fn agree(read: Result<Frame, DropReason>, packet: &Packet, frame: &[u8], seen: &Seen) {
    let context = || format!("{read:?}, {packet:?}, {seen:?}\n{frame:02x?}");
    let counted =
        |reason: DropReason| seen.counters.contains_key(&format!("{WORKLOAD}:{}", reason.name()));
    match read {
        Err(reason) => {
            compare(seen, Action::Drop, None, &[reason.name()])
                .unwrap_or_else(|error| panic!("{error}: {}", context()));
        }
        Ok(Frame::Arp) => assert_eq!(seen.action, Action::Pass, "{}", context()),
        Ok(Frame::Ip) => {
            for reason in [DropReason::NotIp, DropReason::Fragment, DropReason::ExtensionHeader] {
                assert!(!counted(reason), "{}", context());
            }
            let malformed = is_malformed_later(packet, frame);
            assert_eq!(counted(DropReason::MalformedHeader), malformed, "{}", context());
            if counted(DropReason::Truncated) {
                assert!(quotes(packet), "{}", context());
            }
        }
    }
}

/// What the steps behind the parser call malformed: IPv4 options, SYN with FIN or RST.
fn is_malformed_later(packet: &Packet, frame: &[u8]) -> bool {
    let length = packet.ipv4_options();
    if length > 0 {
        let mut options = [0; IPV4_OPTIONS_MAX];
        for (at, byte) in options[..length].iter_mut().enumerate() {
            *byte = frame.u8(IP + 20 + at).expect("parsed");
        }
        if let Err(reason) = check_ipv4_options(&options, length, &mut Opaque::default()) {
            return reason == DropReason::MalformedHeader;
        }
    }
    packet.protocol == protocol::TCP
        && packet.has(tcp_flags::SYN)
        && packet.flags & (tcp_flags::FIN | tcp_flags::RST) != 0
}

/// Whether it is ICMP, which may end inside what it quotes.
fn quotes(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMP || packet.protocol == protocol::ICMPV6
}

#[test]
fn what_does_not_parse_touches_no_flow() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.established();
        let before = w.flow();
        let frame = w.data_in().frame();
        for length in shortest(&frame)..frame.len() {
            w.run(Hook::To, &frame[..length]);
        }
        assert_eq!(w.flow(), before);
        assert_eq!(before.map(|flow| flow.state), Some(flow_state::ESTABLISHED));
    }
}
