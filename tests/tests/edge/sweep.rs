//! The walk through the flow tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::abi::{
    FlowKey, FlowValue, VerdictKey, VerdictValue, direction, flow_flags, flow_state, verdict_action,
};
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
        let kinds = kinds(now);
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

/// A live flow, one that was reset long ago, one past its deadline, and one past it whose verdict was renewed.
fn kinds(now: u64) -> [FlowValue; 4] {
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

/// Every third is of IPv6.
fn tuple(remote_port: u16) -> FlowKey {
    let host = |last: u8| {
        let (v4, v6) = (Ipv4Addr::new(192, 0, 2, last), Ipv6Addr::from([last; 16]));
        address(if remote_port.is_multiple_of(3) { IpAddr::V6(v6) } else { IpAddr::V4(v4) })
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
