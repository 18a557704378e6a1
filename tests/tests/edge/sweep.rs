//! The walk through the flow tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::abi::{
    AttemptValue, FlowKey, FlowValue, SHARE_OF_ALL, ShareValue, VerdictKey, VerdictValue,
    direction, flow_flags, flow_state, role, verdict_action,
};
use enforcer_common::datapath::attempt::CALL_LASTS_NS;
use enforcer_common::datapath::share;
use enforcer_user::datapath::{Datapath, address, boot_ns};

use crate::place::{WORKLOAD_ID, config, isolated, write_flows};

/// Flows of the test, told apart by their remote port.
const FLOWS: u16 = 4000;

#[test]
fn a_walk_sees_every_flow_once_and_only_what_is_over_goes() {
    isolated(|root, _| {
        let config = config(root, "");
        let (mut datapath, _events) = Datapath::open(&config).unwrap();
        let now = boot_ns();
        let kinds = flows_of(now);
        let flow = |port: u16| (tuple(port), kinds[usize::from(port) % 4]);
        write_flows(&config, &(0..FLOWS).map(flow).collect::<Vec<_>>());
        allow(&mut datapath, kinds[3].peer);
        assert_eq!(ports(&datapath), (0..FLOWS).collect::<Vec<_>>());

        let mut garbage = 0;
        let mut cut = 0;
        for _ in 0..8 {
            let swept = datapath.sweep(now).unwrap();
            garbage += swept.garbage;
            cut += swept.cut;
        }
        assert_eq!((garbage, cut), (1000, 1000));
        datapath.sweep(now + 1_000_000_000).unwrap();
        let stays = (0..FLOWS).filter(|port| matches!(port % 4, 0 | 3));
        assert_eq!(ports(&datapath), stays.collect::<Vec<_>>());
    });
}

/// Nobody has counted what is in the tables: a walk does, and from then on each step says what it removed.
#[test]
fn shares_hold_what_is_in_the_tables() {
    isolated(|root, _| {
        let config = config(root, "");
        let (mut datapath, _events) = Datapath::open(&config).unwrap();
        let now = boot_ns();
        let live = flows_of(now)[0];
        let ending = FlowValue { state: flow_state::RESET, ..live };
        let stranger = FlowValue { flags: flow_flags::PLAIN, ..live };
        let flow = |port| (tuple(port), if is_ending(port) { ending } else { stranger });
        write_flows(&config, &(0..FLOWS).map(flow).collect::<Vec<_>>());
        for _ in 0..8 {
            assert_eq!(datapath.sweep(now).unwrap().garbage, 0);
        }
        assert_counts(&datapath, |_| true);

        // What is opened and removed is known at once, also by a walk that is not at its end.
        let opened = datapath.maps.shares_opened.read(SHARE_OF_ALL).unwrap();
        assert_eq!(opened, ShareValue::default(), "only programs count what is opened");
        let mut garbage = 0;
        for _ in 0..8 {
            garbage += datapath.sweep(now + 3_000_000_000).unwrap().garbage;
            let there = ports(&datapath);
            assert_counts(&datapath, |port| there.binary_search(&port).is_ok());
        }
        assert_eq!(garbage, u64::from(FLOWS) / 2);
    });
}

/// Every other flow of each family.
fn is_ending(port: u16) -> bool {
    port.is_multiple_of(2)
}

/// Compares what the shares hold with the flows of the test that are there.
fn assert_counts(datapath: &Datapath, is_there: impl Fn(u16) -> bool) {
    let read = |id: u32| {
        let opened = datapath.maps.shares_opened.read(id).unwrap();
        let gone = datapath.maps.shares_gone.read(id).unwrap();
        move |index: usize| share::held(opened.flows[index], gone.flows[index])
    };
    let (own, all) = (read(WORKLOAD_ID.into()), read(SHARE_OF_ALL));
    for family in [4, 6] {
        let ports = || (0..FLOWS).filter(|port| is_v6(*port) == (family == 6) && is_there(*port));
        let count = |ports: &mut dyn Iterator<Item = u16>| ports.count() as u64;
        let calls = share::index(6, flow_flags::INITIATOR, family);
        let strangers = share::index(6, flow_flags::PLAIN, family);
        assert_eq!(own(calls), count(&mut ports().filter(|port| is_ending(*port))));
        assert_eq!(own(strangers), count(&mut ports().filter(|port| !is_ending(*port))));
        assert_eq!(all(share::table(calls)), count(&mut ports()));
    }
}

/// Calls that came to nothing go, in both tables; young ones stay, and the proof of one that is not confirmed.
#[test]
fn half_open_connections_go_when_their_time_is_over() {
    isolated(|root, _| {
        let config = config(root, "");
        let (mut datapath, _events) = Datapath::open(&config).unwrap();
        let begun = boot_ns();
        let now = begun + CALL_LASTS_NS;
        let proof = AttemptValue {
            created_ns: begun,
            role: role::CLIENT,
            answered: 1,
            ..AttemptValue::default()
        };
        let young = AttemptValue { created_ns: begun + 1, role: role::SERVER, ..proof };
        let kinds = [
            AttemptValue { role: role::SERVER, ..proof },
            AttemptValue { role: role::PLAIN, ..proof },
            young,
            proof,
        ];
        for port in 0..FLOWS {
            let maps = &mut datapath.maps;
            let table = if port % 8 < 4 { &mut maps.attempts } else { &mut maps.crowd };
            table.insert(&tuple(port), &kinds[usize::from(port) % 4]).unwrap();
        }
        let unconfirmed = FlowValue { state: flow_state::UNCONFIRMED, ..flows_of(now)[0] };
        let waits = |port: &u16| port % 4 == 3 && !port.is_multiple_of(3);
        let flows: Vec<_> =
            (0..FLOWS).filter(waits).map(|port| (tuple(port), unconfirmed)).collect();
        write_flows(&config, &flows);

        let mut removed = 0;
        for _ in 0..8 {
            removed += datapath.sweep(now).unwrap().half_open;
        }
        let stays: Vec<u16> = (0..FLOWS).filter(|port| port % 4 == 2 || waits(port)).collect();
        assert_eq!(half_open(&datapath), stays);
        assert_eq!(removed, u64::from(FLOWS) - stays.len() as u64);
        // Behind the rest that a walk over few of them is followed by.
        for _ in 0..8 {
            datapath.sweep(now + 3_000_000_000).unwrap();
        }
        assert_eq!(half_open(&datapath), (0..FLOWS).filter(waits).collect::<Vec<_>>());
    });
}

/// The remote ports of all half-open connections, sorted.
fn half_open(datapath: &Datapath) -> Vec<u16> {
    let mut ports = Vec::new();
    for table in [&datapath.maps.attempts, &datapath.maps.crowd] {
        table.for_each(|key, _| ports.push(key.remote_port)).unwrap();
    }
    ports.sort_unstable();
    ports
}

/// A live flow, one that was reset long ago, one past its deadline, and one past it whose verdict was renewed.
fn flows_of(now: u64) -> [FlowValue; 4] {
    let live = FlowValue {
        peer: 7,
        deadline_ns: u64::MAX,
        seen_ns: now,
        state: flow_state::ESTABLISHED,
        flags: flow_flags::INITIATOR,
        port: 80,
        ..FlowValue::default()
    };
    let over = FlowValue { state: flow_state::RESET, seen_ns: 0, ..live };
    let expired = FlowValue { deadline_ns: 1, ..live };
    let renewed = FlowValue { peer: 8, ..expired };
    [live, over, expired, renewed]
}

fn is_v6(remote_port: u16) -> bool {
    remote_port.is_multiple_of(3)
}

/// Every third is of IPv6.
fn tuple(remote_port: u16) -> FlowKey {
    let host = |last: u8| {
        let (v4, v6) = (Ipv4Addr::new(192, 0, 2, last), Ipv6Addr::from([last; 16]));
        address(if is_v6(remote_port) { IpAddr::V6(v6) } else { IpAddr::V4(v4) })
    };
    FlowKey {
        workload: WORKLOAD_ID,
        protocol: 6,
        zero: 0,
        local_port: 9,
        remote_port,
        local: host(1),
        remote: host(2),
    }
}

fn allow(datapath: &mut Datapath, peer: u64) {
    let key = VerdictKey {
        peer,
        epoch: 0,
        workload: WORKLOAD_ID,
        port: 0,
        protocol: 6,
        direction: direction::EGRESS,
        zero: [0; 6],
    };
    let action = verdict_action::ALLOW;
    let value = VerdictValue { deadline_ns: u64::MAX, action, ..VerdictValue::default() };
    datapath.maps.verdicts.insert(&key, &value).unwrap();
}

/// The remote ports of all flows, sorted.
fn ports(datapath: &Datapath) -> Vec<u16> {
    let mut ports = Vec::new();
    datapath.maps.for_each_flow(|key, _| ports.push(key.remote_port)).unwrap();
    ports.sort_unstable();
    ports
}
