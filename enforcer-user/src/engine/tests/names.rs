//! Answers of name servers: what they open, to whom, for how long.

use std::net::IpAddr;

use enforcer_common::abi::{NetworkKey, NetworkValue, READ_MARK, workload_flags};

use super::*;
use crate::engine::hosts::{MAX_OF_ONE, MAX_SECONDS, MIN_SECONDS};
use crate::policy::{NetworkRule, NetworkRuleSpec};

const SERVER: [u8; 4] = [203, 0, 113, 53];
const API: &str = "api.example.com";
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
/// No error, an answer, recursion desired and available (RFC 1035 4.1.1).
const ANSWER: u16 = 0x8180;

/// A name on the wire, without compression.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// A resource record.
fn record(owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = name(owner);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

/// A message that answers one question.
fn message(flags: u16, host: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![7, 7];
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(name(host));
    bytes.extend([0, 1, 0, 1]);
    bytes.extend(records.concat());
    bytes
}

fn told(host: &str, address: [u8; 4], ttl: u32) -> Vec<u8> {
    message(ANSWER, host, &[record(host, TYPE_A, ttl, &address)])
}

fn rules(text: &str) -> Arc<Policy> {
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<NetworkRuleSpec>,
    }
    let file: File = toml::from_str(text).unwrap();
    let rules = file.rule.into_iter().map(|spec| NetworkRule::try_from(spec).unwrap()).collect();
    Arc::new(Policy::from_sources(&[SourceFile::new("test.cedar", "")], rules).unwrap())
}

const HTTPS: &str = r#"
[[rule]]
name = "https"
direction = "egress"
hosts = ["api.example.com", "*.cdn.example"]
protocol = "tcp"
ports = ["443"]
"#;

/// An engine that serves `web` under these rules.
fn bench(text: &str) -> Bench {
    let mut bench = Bench::new("");
    put(&mut bench, text, Vec::new(), at(1));
    bench
}

fn put(bench: &mut Bench, text: &str, live: Vec<LiveFlow>, now: Now) -> Vec<Output> {
    bench.engine.handle(Input::SetPolicy { policy: rules(text), live }, now)
}

/// A held datagram from the name server with this message.
fn datagram(bench: &Bench, workload: &str, message: &[u8]) -> HeldFrame {
    exchanged(bench, workload, message, ((SERVER, 53), (LOCAL, 40_000)))
}

/// The question that a message answers, as the workload asks it.
fn question(bench: &Bench, workload: &str, message: &[u8]) -> HeldFrame {
    let end = 12 + message[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut asked = message[..end].to_vec();
    asked[2..8].copy_from_slice(&[1, 0, 0, 1, 0, 0]);
    exchanged(bench, workload, &asked, ((LOCAL, 40_000), (SERVER, 53)))
}

type Socket = ([u8; 4], u16);

/// A datagram with this message from one to the other.
fn exchanged(
    bench: &Bench,
    workload: &str,
    message: &[u8],
    ((source, from), (destination, to)): (Socket, Socket),
) -> HeldFrame {
    let workload = bench.engine.workload_id(workload).unwrap();
    let mut udp = Vec::new();
    udp.extend(from.to_be_bytes());
    udp.extend(to.to_be_bytes());
    udp.extend(u16::try_from(8 + message.len()).unwrap().to_be_bytes());
    udp.extend([0; 2]);
    udp.extend(message);
    let sum = transport(&source, &destination, 17, &udp);
    udp[6..8].copy_from_slice(&sum);
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(u16::try_from(20 + udp.len()).unwrap().to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(udp);
    HeldFrame {
        ifindex: 3,
        host_side: false,
        time_ns: 0,
        key: FlowKey {
            workload,
            protocol: 17,
            zero: 0,
            local_port: 40_000,
            remote_port: 53,
            local: mapped(LOCAL),
            remote: mapped(SERVER),
        },
        local_handle: [0; 8],
        peer: 0,
        port: 53,
        direction: direction::EGRESS,
        transport_offset: 34,
        frame,
    }
}

/// Asks and answers.
fn tell(bench: &mut Bench, message: &[u8], now: Now) -> Vec<Output> {
    tell_one(bench, "web", message, now)
}

fn tell_one(bench: &mut Bench, workload: &str, message: &[u8], now: Now) -> Vec<Output> {
    if message.len() > 12 {
        let asked = question(bench, workload, message);
        assert!(bench.engine.handle(Input::Names(asked), now).is_empty());
    }
    let held = datagram(bench, workload, message);
    bench.engine.handle(Input::Names(held), now)
}

fn installed(outputs: &[Output]) -> Vec<(NetworkKey, NetworkValue)> {
    let networks = outputs.iter().filter_map(|output| match output {
        Output::InstallNetworks(networks) => Some(networks),
        _ => None,
    });
    networks.flatten().map(|(_, key, value)| (*key, *value)).collect()
}

fn removed(outputs: &[Output]) -> Vec<NetworkKey> {
    let networks = outputs.iter().filter_map(|output| match output {
        Output::RemoveNetworks(keys) => Some(keys),
        _ => None,
    });
    networks.flatten().map(|(_, key)| *key).collect()
}

fn flags(outputs: &[Output]) -> Option<u32> {
    outputs.iter().rev().find_map(|output| match output {
        Output::InstallWorkload(_, value) => Some(value.flags),
        _ => None,
    })
}

#[test]
fn an_address_is_open_before_the_workload_is_told_it() {
    let mut bench = bench(HTTPS);
    let message = told(API, [198, 51, 100, 7], 60);
    let outputs = tell(&mut bench, &message, at(2));
    assert_eq!(kinds(&outputs), ["networks", "remember host", "reinject"]);
    let [(key, value)] = installed(&outputs)[..] else { panic!() };
    assert_eq!((key.rule_set, key.address), (2, mapped([198, 51, 100, 7])));
    assert_eq!((value.entries[0].protocol, value.entries[0].port_low), (6, 443));
    assert_eq!(value.entries[1].direction, 0);
    let Output::Reinject { to, frame } = &outputs[2] else { panic!() };
    assert_eq!((to.ifindex, to.ingress, to.mark), (3, 1, READ_MARK));
    assert_eq!(*frame, datagram(&bench, "web", &message).frame);
    // Once more it is only sent on.
    let again = tell(&mut bench, &told(API, [198, 51, 100, 7], 61), at(3));
    assert_eq!(kinds(&again), ["reinject"]);
}

#[test]
fn what_no_rule_names_and_what_is_no_answer_only_passes() {
    let mut bench = bench(HTTPS);
    let address = [198, 51, 100, 7];
    for (n, message) in [
        told("other.example.com", address, 60),
        told("cdn.example", address, 60),
        message(0x0100, API, &[record(API, TYPE_A, 60, &address)]),
        message(ANSWER | 3, API, &[record(API, TYPE_A, 60, &address)]),
        message(ANSWER, API, &[record("evil.example", TYPE_A, 60, &address)]),
        message(ANSWER, API, &[]),
        vec![1, 2, 3],
        Vec::new(),
    ]
    .iter()
    .enumerate()
    {
        let outputs = tell(&mut bench, message, at(2));
        assert_eq!(kinds(&outputs), ["reinject"], "{n}");
    }
    assert_eq!(bench.done(Done::HostsOpened), 0);
}

#[test]
fn aliases_case_and_both_families_are_followed() {
    let mut bench = bench(HTTPS);
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let records = [
        record("API.example.COM", TYPE_CNAME, 60, &name("edge.elsewhere.example")),
        record("edge.elsewhere.example", TYPE_CNAME, 60, &name("node.elsewhere.example")),
        record("node.elsewhere.example", TYPE_A, 60, &[198, 51, 100, 8]),
        record("node.elsewhere.example", TYPE_AAAA, 60, &v6),
        record("stray.elsewhere.example", TYPE_A, 60, &[198, 51, 100, 9]),
    ];
    let outputs = tell(&mut bench, &message(ANSWER, "API.example.COM", &records), at(2));
    let addresses: Vec<_> = installed(&outputs).iter().map(|(key, _)| key.address).collect();
    assert_eq!(addresses, [mapped([198, 51, 100, 8]), v6]);
    // The name that was asked for counts, not the one that it leads to.
    let outputs = tell(&mut bench, &told("node.elsewhere.example", [198, 51, 100, 10], 60), at(2));
    assert!(installed(&outputs).is_empty());
    let outputs = tell(&mut bench, &told("a.b.cdn.example", [198, 51, 100, 11], 60), at(2));
    assert_eq!(installed(&outputs).len(), 1);
}

#[test]
fn a_frame_that_is_not_what_the_kernel_says_is_dropped() {
    let mut bench = bench(HTTPS);
    let good = datagram(&bench, "web", &told(API, [198, 51, 100, 7], 60));
    let mut damaged = good.clone();
    *damaged.frame.last_mut().unwrap() ^= 1;
    let other = FlowKey { remote: mapped([203, 0, 113, 54]), ..good.key };
    let tcp = FlowKey { protocol: 6, ..good.key };
    for held in [
        damaged,
        HeldFrame { key: other, ..good.clone() },
        HeldFrame { key: tcp, ..good.clone() },
        HeldFrame { frame: good.frame[..20].to_vec(), ..good.clone() },
    ] {
        assert!(bench.engine.handle(Input::Names(held), at(2)).is_empty());
    }
    assert_eq!(bench.refused(Refused::Malformed) + bench.refused(Refused::Inconsistent), 4);
    // One that comes back and back is not sent on for ever.
    let sent = |bench: &mut Bench| {
        let outputs = bench.engine.handle(Input::Names(good.clone()), at(2));
        kinds(&outputs).contains(&"reinject")
    };
    let times = (0..5).filter(|_| sent(&mut bench)).count();
    assert_eq!((times, bench.refused(Refused::Loop)), (2, 3));
}

#[test]
fn an_answer_that_nobody_asked_for_passes_and_opens_nothing() {
    let mut bench = bench(HTTPS);
    let answer = told(API, [198, 51, 100, 7], 60);
    let mut give = |bytes: &[u8]| {
        let held = datagram(&bench, "web", bytes);
        kinds(&bench.engine.handle(Input::Names(held), at(2))).join(" ")
    };
    assert_eq!(give(&answer), "reinject");
    let mut other_id = answer.clone();
    other_id[0] ^= 1;
    let asked = question(&bench, "web", &answer);
    assert!(bench.engine.handle(Input::Names(asked), at(2)).is_empty());
    let mut give = |bytes: &[u8]| {
        let held = datagram(&bench, "web", bytes);
        kinds(&bench.engine.handle(Input::Names(held), at(2))).join(" ")
    };
    assert_eq!(give(&other_id), "reinject");
    assert_eq!(give(&told("x.cdn.example", [198, 51, 100, 7], 60)), "reinject");
    assert_eq!(give(&answer), "networks remember host reinject");
    assert_eq!(bench.done(Done::NamesUnasked), 3);
}

#[test]
fn what_one_workload_is_told_opens_nothing_to_another() {
    let mut bench = bench(HTTPS);
    bench.add("db", at(1));
    put(&mut bench, HTTPS, Vec::new(), at(1));
    let sets: Vec<u32> = ["web", "db"]
        .map(|name| bench.engine.workloads.named(name).unwrap().value.rule_sets[1])
        .to_vec();
    assert_ne!(sets[0], sets[1]);
    let outputs = tell(&mut bench, &told(API, [198, 51, 100, 7], 60), at(2));
    let [(key, _)] = installed(&outputs)[..] else { panic!() };
    assert_eq!(key.rule_set, sets[0]);
    let outputs = tell_one(&mut bench, "db", &told(API, [198, 51, 100, 8], 60), at(2));
    let [(key, _)] = installed(&outputs)[..] else { panic!() };
    assert_eq!((key.rule_set, key.address), (sets[1], mapped([198, 51, 100, 8])));
    assert_eq!(bench.engine.hosts(at(2)).count(), 2);
    // Who is gone leaves nothing.
    let outputs = bench.engine.handle(Input::RemoveWorkload("db".to_owned()), at(3));
    assert!(removed(&outputs).iter().any(|key| key.address == mapped([198, 51, 100, 8])));
    assert_eq!(bench.engine.hosts(at(3)).count(), 1);
}

#[test]
fn an_address_ends_with_its_record_unless_a_connection_stands_on_it() {
    let mut bench = bench(HTTPS);
    let mut told_at = |address, ttl| {
        let outputs = tell(&mut bench, &told(API, address, ttl), at(2));
        assert_eq!(installed(&outputs).len(), 1);
    };
    told_at([198, 51, 100, 1], 0);
    told_at([198, 51, 100, 2], 600);
    told_at([198, 51, 100, 3], u32::MAX);
    let ended = |bench: &mut Bench, seconds| -> Vec<u8> {
        let outputs = bench.engine.handle(Input::Tick, at(seconds));
        removed(&outputs).iter().map(|key| key.address[15]).collect()
    };
    assert!(ended(&mut bench, 1 + MIN_SECONDS).is_empty());
    assert_eq!(ended(&mut bench, 2 + MIN_SECONDS), [1]);
    assert!(ended(&mut bench, 601).is_empty());
    let id = bench.engine.workload_id("web").unwrap();
    let used = vec![(id, IpAddr::from([198, 51, 100, 2])), (id, IpAddr::from([192, 0, 2, 9]))];
    let _ = bench.engine.handle(Input::HostsInUse(used), at(601));
    assert!(ended(&mut bench, 602).is_empty());
    assert_eq!(ended(&mut bench, 700), [2]);
    assert_eq!(ended(&mut bench, 2 + MAX_SECONDS), [3]);
}

#[test]
fn a_policy_change_keeps_what_still_has_a_name_and_cuts_the_rest() {
    let mut bench = bench(HTTPS);
    let id = bench.engine.workload_id("web").unwrap();
    for host in [API, "x.cdn.example"] {
        let last = if host == API { 1 } else { 2 };
        let _ = tell(&mut bench, &told(host, [198, 51, 100, last], 60), at(2));
    }
    let flow = |last, port| LiveFlow {
        key: FlowKey {
            workload: id,
            protocol: 6,
            zero: 0,
            local_port: 50_000,
            remote_port: port,
            local: mapped(LOCAL),
            remote: mapped([198, 51, 100, last]),
        },
        peer: 0,
        port,
        direction: direction::EGRESS,
        flags: enforcer_common::abi::flow_flags::PLAIN,
    };
    let live = vec![flow(1, 443), flow(2, 443), flow(1, 80)];
    let changed = HTTPS.replace("\"*.cdn.example\"", "\"other.example\"");
    let outputs = put(&mut bench, &changed, live.clone(), at(3));
    let opened: Vec<u8> = installed(&outputs)
        .iter()
        .map(|(key, _)| key.address[15])
        .filter(|last| *last > 0)
        .collect();
    assert_eq!(opened, [1]);
    let cut = outputs.iter().find_map(|output| match output {
        Output::SweepFlows(sweep) => Some(sweep.flows.clone()),
        _ => None,
    });
    assert_eq!(cut.unwrap(), [live[1].key, live[2].key]);
    assert_eq!(flags(&outputs), Some(workload_flags::ASKS_NAMES));
    // Without such rules nobody reads answers any more, and what they opened ends.
    let plain = HTTPS
        .replace("hosts = [\"api.example.com\", \"*.cdn.example\"]", "cidr = [\"192.0.2.0/24\"]");
    let outputs = put(&mut bench, &plain, vec![live[0]], at(4));
    assert_eq!(flags(&outputs), Some(0));
    assert!(kinds(&outputs).contains(&"sweep"));
    // A change that fails goes back to the flag of before.
    let _ = put(&mut bench, HTTPS, Vec::new(), at(5));
    let outputs = bench.engine.handle(Input::ChangeFailed, at(5));
    assert_eq!(flags(&outputs), Some(0));
}

#[test]
fn a_network_of_the_same_address_is_left_as_it_was() {
    let text = format!(
        "{HTTPS}[[rule]]\nname = \"ssh\"\ndirection = \"egress\"\ncidr = [\"198.51.100.7/32\"]\nprotocol = \"tcp\"\nports = [\"22\"]\n"
    );
    let mut bench = bench(&text);
    let ports = |outputs: &[Output]| -> Vec<u16> {
        let [(_, value)] = installed(outputs)[..] else { panic!("{outputs:?}") };
        value.entries.iter().take_while(|one| one.direction != 0).map(|one| one.port_low).collect()
    };
    let outputs = tell(&mut bench, &told(API, [198, 51, 100, 7], 60), at(2));
    assert_eq!(ports(&outputs), [22, 443]);
    let outputs = bench.engine.handle(Input::Tick, at(3 + MIN_SECONDS));
    assert_eq!(ports(&outputs), [22]);
    assert!(removed(&outputs).is_empty());
}

#[test]
fn too_many_addresses_are_told_and_stay_closed() {
    let mut bench = bench(HTTPS);
    for n in 0..MAX_OF_ONE {
        let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
        let _ = tell(&mut bench, &told(API, [198, 51, high, low], 60), at(2));
    }
    let outputs = tell(&mut bench, &told(API, [203, 0, 113, 1], 60), at(2));
    assert_eq!(kinds(&outputs), ["problem", "reinject"]);
    let outputs = tell(&mut bench, &told(API, [203, 0, 113, 2], 60), at(3));
    assert_eq!(kinds(&outputs), ["reinject"], "told once");
    assert_eq!(bench.done(Done::HostsRefused), 2);
}

#[test]
fn a_name_opens_nothing_of_this_node_or_link() {
    let mut bench = bench(HTTPS);
    let mapped_loopback = mapped([127, 0, 0, 1]);
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for address in [[127, 0, 0, 1], [0; 4], [169, 254, 169, 254], [224, 0, 0, 1], [255; 4]] {
        let outputs = tell(&mut bench, &told(API, address, 60), at(2));
        assert_eq!(kinds(&outputs), ["reinject"], "{address:?}");
    }
    for address in [mapped_loopback, link_local, [0; 16]] {
        let answer = message(ANSWER, API, &[record(API, TYPE_AAAA, 60, &address)]);
        assert_eq!(kinds(&tell(&mut bench, &answer, at(2))), ["reinject"], "{address:?}");
    }
}

#[test]
fn a_workload_that_is_added_again_finds_what_an_earlier_daemon_was_told() {
    let mut first = bench(HTTPS);
    let _ = tell(&mut first, &told(API, [198, 51, 100, 7], 60), at(2));
    let hosts: Vec<_> = first.engine.hosts(at(2)).collect();
    let mut second = Bench::new("");
    let adopted = Adopted { epoch: 4, hosts, ..Adopted::default() };
    let _ = second.engine.handle(Input::Adopt(Box::new(adopted)), at(3));
    let outputs = put(&mut second, HTTPS, Vec::new(), at(3));
    assert_eq!(installed(&outputs).last().unwrap().0.address, mapped([198, 51, 100, 7]));
    second.add("late", at(3));
    assert_eq!(second.engine.asking_names().len(), 2);
}
