//! Frames by hand, as somebody on the link of an enforced host makes them: tags, IP options, extension headers and
//! fragments are no way around enforcement. Each frame is shown to be worth something: without enforcement the
//! server's stack answers those that the test says it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enforcer_tests::capture::{Capture, Direction, Flags};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::frame::{self, Link};
use enforcer_tests::host::Family;
use enforcer_tests::raw::Forged;
use enforcer_tests::scenario::{PORT, Setup, contact};
use enforcer_tests::tcp::{Got, PATIENCE, Server, Service};
use enforcer_tests::topology::{INTERFACE, TwoHosts};
use enforcer_tests::twin::Enforcement;
use enforcer_tests::wire::{Fate, Rule, Wire};

const FIRST_PORT: u16 = 20_000;
/// How long a server is watched for answers that must not come.
const GRACE: Duration = Duration::from_millis(300);

const C_TAG: [u8; 2] = [0x81, 0x00];
const S_TAG: [u8; 2] = [0x88, 0xA8];
/// Not in any standard, but seen: some switches stack tags with it.
const OLD_TAG: [u8; 2] = [0x91, 0x00];

/// Extension headers (RFC 8200, RFC 4302, RFC 4303, RFC 6275, RFC 7401, RFC 5533, RFC 4727).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const OTHERS: [u8; 7] = [50, 51, 135, 139, 140, 253, 254];

/// Whether a stack without enforcement answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    Answers,
    IsSilent,
}

/// A SYN without identity in one or more frames.
struct Probe {
    name: String,
    source: SocketAddr,
    tags: Vec<[u8; 4]>,
    packets: Vec<Vec<u8>>,
    /// What each of its frames is dropped for.
    reason: &'static str,
    plain: Plain,
}

/// Makes probes, each from a port of its own.
struct Probes {
    net: TwoHosts,
    made: Vec<Probe>,
}

impl Probes {
    fn new() -> Self {
        Self { net: TwoHosts::new().unwrap(), made: Vec::new() }
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        family: Family,
        (reason, plain): (&'static str, Plain),
        tags: &[[u8; 4]],
        packets: impl FnOnce(&Forged) -> Vec<Vec<u8>>,
    ) {
        let port = FIRST_PORT + u16::try_from(self.made.len()).unwrap();
        let source = self.net.client.at(family, port);
        let syn = Forged::syn(source, self.net.server.at(family, PORT));
        let packets = packets(&syn);
        self.made.push(Probe {
            name: name.into(),
            source,
            tags: tags.to_vec(),
            packets,
            reason,
            plain,
        });
    }

    /// Sends them without and with enforcement, and compares with what was expected of each.
    fn verify(self) {
        let plain = self.answered(|probe| probe.plain == Plain::Answers);
        let expected: BTreeSet<_> =
            self.made.iter().filter(|p| p.plain == Plain::Answers).map(|p| &p.name).collect();
        assert!(!expected.is_empty(), "the network could be down and nobody would notice");
        assert_eq!(plain, expected, "answered by a stack without enforcement");

        let setup = Setup::psk().unwrap();
        let enforcer = Enforcer::start(&self.net.server, &setup.server).unwrap();
        let before = enforcer.counters().unwrap();
        assert_eq!(self.answered(|_| false), BTreeSet::new(), "answered by an enforced host");
        let drops = enforcer.counters().unwrap().since(&before).drops;
        let mut expected = BTreeMap::new();
        for probe in &self.made {
            *expected.entry(probe.reason.to_owned()).or_insert(0) += probe.packets.len() as u64;
        }
        let drops: BTreeMap<_, _> =
            drops.into_iter().filter(|(reason, _)| expected.contains_key(reason)).collect();
        assert_eq!(drops, expected, "frames dropped, by reason");
    }

    /// The names of those that the server answers. Waits for those picked.
    fn answered(&self, awaited: impl Fn(&Probe) -> bool) -> BTreeSet<&String> {
        self.net.client.drop_arriving_tcp().unwrap();
        let server = Server::start(&self.net.server, PORT, &Service::Echo).unwrap();
        let link = Link::between(&self.net.client, &self.net.server).unwrap();
        let capture = Capture::start(&self.net.server, INTERFACE).unwrap();
        for probe in &self.made {
            for packet in &probe.packets {
                link.send(&probe.tags, packet).unwrap();
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let least = Instant::now() + GRACE;
        loop {
            let answers: BTreeSet<SocketAddr> = capture
                .segments()
                .unwrap()
                .into_iter()
                .filter(|s| s.direction == Direction::Out && s.flags.has(Flags::SYN_ACK))
                .map(|s| s.destination)
                .collect();
            let missing = self.made.iter().any(|p| awaited(p) && !answers.contains(&p.source));
            if Instant::now() > least && (!missing || Instant::now() > deadline) {
                assert_eq!(server.accepted(), 0, "a SYN alone opens nothing");
                let answered = self.made.iter().filter(|p| answers.contains(&p.source));
                return answered.map(|p| &p.name).collect();
            }
        }
    }
}

fn tag(kind: [u8; 2], priority: u8, network: u16) -> [u8; 4] {
    let [high, low] = network.to_be_bytes();
    [kind[0], kind[1], (priority << 5) | high, low]
}

#[test]
fn tagged_syns_without_identity_hear_nothing() {
    const UNKNOWN: (&str, Plain) = ("peer_without_identity", Plain::Answers);
    let mut probes = Probes::new();
    let cases = [
        ("priority tag", UNKNOWN, vec![tag(C_TAG, 0, 0)]),
        ("priority tag, priority 7", UNKNOWN, vec![tag(C_TAG, 7, 0)]),
        ("priority S-tag", UNKNOWN, vec![tag(S_TAG, 0, 0)]),
        // The stack takes further tags off behind the hook.
        ("two priority tags", ("not_ip", Plain::Answers), vec![tag(C_TAG, 0, 0); 2]),
        ("three priority tags", ("not_ip", Plain::Answers), vec![tag(C_TAG, 0, 0); 3]),
        (
            "priority S-tag and priority tag",
            ("not_ip", Plain::Answers),
            vec![tag(S_TAG, 0, 0), tag(C_TAG, 0, 0)],
        ),
        ("tag of network 5", ("not_ip", Plain::IsSilent), vec![tag(C_TAG, 0, 5)]),
        ("tag of network 4095", ("not_ip", Plain::IsSilent), vec![tag(C_TAG, 0, 4095)]),
        ("S-tag of network 5", ("not_ip", Plain::IsSilent), vec![tag(S_TAG, 0, 5)]),
        (
            "priority tag, network 5 inside",
            ("not_ip", Plain::IsSilent),
            vec![tag(C_TAG, 0, 0), tag(C_TAG, 0, 5)],
        ),
        (
            "network 5, priority tag inside",
            ("not_ip", Plain::IsSilent),
            vec![tag(S_TAG, 0, 5), tag(C_TAG, 0, 0)],
        ),
        ("tag of another make", ("not_ip", Plain::IsSilent), vec![tag(OLD_TAG, 0, 0)]),
    ];
    for (name, expected, tags) in cases {
        for family in Family::BOTH {
            probes.add(format!("{name}, {family:?}"), family, expected, &tags, |syn| {
                vec![frame::packet(syn).unwrap()]
            });
        }
    }
    probes.verify();
}

#[test]
fn syns_without_identity_behind_ipv4_options_hear_nothing() {
    const UNKNOWN: &str = "peer_without_identity";
    const MALFORMED: &str = "malformed_header";
    let mut probes = Probes::new();
    let mut add = |name: String, expected: (&'static str, Plain), options: &[u8]| {
        probes.add(name, Family::V4, expected, &[], |syn| vec![frame::ipv4(syn, options).unwrap()]);
    };
    for words in 1..=10u8 {
        let length = words * 4;
        let mut unknown = vec![222, length];
        unknown.resize(length.into(), 0);
        add(format!("unknown option of {length}"), (UNKNOWN, Plain::Answers), &unknown);
        let nothing = vec![1; length.into()];
        // More than twelve options are not followed.
        let reason = if length > 12 { MALFORMED } else { UNKNOWN };
        add(format!("{length} times no operation"), (reason, Plain::Answers), &nothing);
        add(format!("end and {length} bytes"), (UNKNOWN, Plain::Answers), &vec![0; length.into()]);
    }
    let mut record_route = vec![7, 39, 4];
    record_route.resize(39, 0);
    add("record route".into(), (UNKNOWN, Plain::Answers), &record_route);
    let mut time_stamps = vec![68, 40, 5, 0];
    time_stamps.resize(40, 0);
    add("time stamps".into(), (UNKNOWN, Plain::Answers), &time_stamps);
    add("router alert".into(), (UNKNOWN, Plain::Answers), &[148, 4, 0, 0]);
    for (name, kind) in [("loose source route", 131), ("strict source route", 137)] {
        let options = [kind, 7, 8, 192, 0, 2, 1];
        add(name.into(), ("source_route", Plain::IsSilent), &options);
        let behind = [&[1, 1][..], &options].concat();
        add(format!("{name} behind others"), ("source_route", Plain::IsSilent), &behind);
    }
    for length in [0, 1, 5, 255] {
        let options = [222, length, 0, 0];
        add(format!("length {length} of 4"), (MALFORMED, Plain::IsSilent), &options);
    }
    probes.verify();
}

#[test]
fn syns_without_identity_behind_extension_headers_hear_nothing() {
    const REASON: &str = "extension_header";
    let mut probes = Probes::new();
    let mut add = |name: String, plain: Plain, headers: &[(u8, Vec<u8>)]| {
        probes.add(name, Family::V6, (REASON, plain), &[], |syn| {
            vec![frame::ipv6(syn, headers).unwrap()]
        });
    };
    for words in (1..=33).chain([64, 128, 170]) {
        let bytes = || frame::extension(words);
        add(format!("hop by hop of {words}"), Plain::Answers, &[(HOP_BY_HOP, bytes())]);
        add(format!("destination of {words}"), Plain::Answers, &[(DESTINATION, bytes())]);
        let routing = frame::routing(words);
        add(format!("routing of {words}"), Plain::Answers, &[(ROUTING, routing)]);
    }
    let all = [
        (HOP_BY_HOP, frame::extension(1)),
        (DESTINATION, frame::extension(2)),
        (ROUTING, frame::routing(3)),
        (DESTINATION, frame::extension(4)),
    ];
    add("four headers".into(), Plain::Answers, &all);
    for number in OTHERS {
        add(format!("header {number}"), Plain::IsSilent, &[(number, frame::extension(2))]);
    }
    probes.verify();
}

#[test]
fn syns_without_identity_in_fragments_hear_nothing() {
    const REASON: &str = "fragment";
    let mut probes = Probes::new();
    for family in Family::BOTH {
        // The whole segment in one piece, with the last word apart, and in the shortest pieces that there are. IPv6
        // wants the TCP header in the first.
        for (bytes, plain) in [(64, Plain::Answers), (24, Plain::Answers), (8, Plain::Answers)] {
            let plain = if family == Family::V6 && bytes == 8 { Plain::IsSilent } else { plain };
            // A single piece of IPv4 is no fragment.
            if family == Family::V4 && bytes == 64 {
                continue;
            }
            let pieces = |syn: &Forged| {
                // An option that nobody knows makes the header longer than the shortest pieces are.
                let syn = syn.clone().option(222, &[0; 10]);
                frame::fragments(&frame::packet(&syn).unwrap(), bytes).unwrap()
            };
            let name = format!("pieces of {bytes}, {family:?}");
            probes.add(format!("{name}, in order"), family, (REASON, plain), &[], pieces);
            // The first of several is late.
            probes.add(format!("{name}, reversed"), family, (REASON, plain), &[], |syn| {
                pieces(syn).into_iter().rev().collect()
            });
            probes.add(format!("{name}, first last"), family, (REASON, plain), &[], |syn| {
                let mut pieces = pieces(syn);
                pieces.rotate_left(1);
                pieces
            });
        }
    }
    probes.verify();
}

/// A priority tag names no other network: the handshake behind it counts, and so does everything that follows.
#[test]
fn enforced_hosts_connect_over_a_link_that_puts_priority_tags_on() {
    assert_eq!(tagging(tag(C_TAG, 3, 0)), (Got::Connection, 0));
}

#[test]
fn a_handshake_with_the_tag_of_another_network_is_dropped() {
    let (got, dropped) = tagging(tag(C_TAG, 0, 5));
    assert_eq!(got, Got::Silence);
    assert!(dropped > 0, "not counted");
}

/// A call over a wire that tags every segment towards the server; what the caller got, and what the server's host
/// dropped as `not_ip`.
fn tagging(tag: [u8; 4]) -> (Got, u64) {
    let (net, wire) = Wire::new().unwrap();
    let mut pair = Setup::psk().unwrap().start_on(net, Enforcement::Enforced).unwrap();
    let server = Server::start(&pair.net.server, PORT, &Service::Echo).unwrap();
    let to_server = |s: &enforcer_tests::capture::Segment| s.destination.port() == PORT;
    wire.rule(Rule::every(Fate::Tag(vec![tag]), to_server));
    let to = pair.net.server.at(Family::V4, PORT);
    let contact = contact(&pair.net.client, to, &server).unwrap();
    assert_eq!(contact.seen_by_server, contact.got == Got::Connection);
    assert!(wire.applied()[0] > 0, "no segment was tagged");
    (contact.got, pair.daemons.server().unwrap().counters().unwrap().drop("not_ip"))
}

/// What a workload writes past its stack is judged as what its stack sends.
#[test]
fn a_workloads_own_handmade_frames_do_not_leave() {
    let net = TwoHosts::new().unwrap();
    let setup = Setup::psk().unwrap();
    let enforcer = Enforcer::start(&net.client, &setup.client).unwrap();
    let link = Link::between(&net.client, &net.server).unwrap();
    let capture = Capture::start(&net.server, INTERFACE).unwrap();
    let before = enforcer.counters().unwrap();
    let syn = |family| Forged::syn(net.client.at(family, FIRST_PORT), net.server.at(family, PORT));
    for family in Family::BOTH {
        let packet = frame::packet(&syn(family)).unwrap();
        for tags in [vec![tag(C_TAG, 0, 0)], vec![tag(C_TAG, 0, 5)], vec![tag(S_TAG, 0, 0); 2]] {
            link.send(&tags, &packet).unwrap();
        }
        for piece in frame::fragments(&packet, 8).unwrap() {
            link.send(&[], &piece).unwrap();
        }
    }
    let hidden = frame::ipv6(&syn(Family::V6), &[(DESTINATION, frame::extension(1))]).unwrap();
    link.send(&[], &hidden).unwrap();
    let routed = frame::ipv4(&syn(Family::V4), &[131, 7, 4, 192, 0, 2, 2]).unwrap();
    link.send(&[], &routed).unwrap();
    std::thread::sleep(GRACE);
    let arrived = capture.packets().unwrap();
    let arrived: Vec<_> = arrived.iter().filter(|p| !p.is_neighbour_discovery()).collect();
    assert!(arrived.is_empty(), "these left the host: {arrived:#?}");
    let drops = enforcer.counters().unwrap().since(&before);
    let counted = ["not_ip", "fragment", "source_route"].map(|name| drops.drop(name));
    assert_eq!(counted, [6, 6, 1], "{drops:?}");
    // The stack's own reports of multicast groups (MLD) carry such a header too, whenever they come.
    assert!(drops.drop("extension_header") >= 1, "{drops:?}");
}
