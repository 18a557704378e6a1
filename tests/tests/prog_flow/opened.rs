//! Connections without identity of a workload that is only observed: each is told once a second.

use std::net::Ipv6Addr;

use enforcer_common::abi::{FlowKey, FlowValue, direction, record_kind, workload_flags};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::packet::{End, UDP, udp};
use enforcer_tests::program::segment::{Segment, TCP};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{DATA, Family, Side, World};

const NAME_SERVER: u16 = 53;

fn observed(family: Family, side: Side) -> World {
    let mut w = World::new(family, side);
    w.set_workload(|workload| workload.flags |= workload_flags::OBSERVE);
    w
}

/// What was told: the tuple, and whether the workload opened it.
fn told(w: &mut World) -> Vec<(FlowKey, u8)> {
    let records = w.kernel.rejected();
    assert!(
        records.iter().all(|one| (one.kind, one.peer, one.reason) == (record_kind::OPENED, 0, 0))
    );
    records.iter().map(|one| (one.key, one.from_workload)).collect()
}

/// Opens a connection without identity from one end's port; who opens it is the world's side.
fn open(w: &mut World, port: u16) {
    let [local, remote, outside] = [w.local, w.remote, w.outside];
    let opener = if w.side == Side::Client { local } else { remote };
    let far = if w.side == Side::Client { outside } else { remote };
    let end = |end: End| {
        let end = if end == remote { End { port: end.port, ..far } } else { end };
        if end.address == opener.address { End { port, ..end } } else { end }
    };
    let at = |s: Segment| Segment { from: end(s.from), to: end(s.to), ..s }.frame();
    let steps = if w.side == Side::Client {
        [(Hook::From, w.syn_out()), (Hook::To, w.syn_ack_in()), (Hook::From, w.ack_out())]
    } else {
        [(Hook::To, w.syn_in()), (Hook::From, w.syn_ack_out()), (Hook::To, w.ack_in())]
    };
    let [syn, syn_ack, ack] = steps;
    w.pass(syn.0, &at(syn.1));
    w.pass(syn_ack.0, &at(syn_ack.1));
    assert!(w.kernel.rejected().is_empty(), "it is not open yet");
    w.pass(ack.0, &at(ack.1));
}

#[test]
fn a_connection_is_told_from_the_workload_s_side_whoever_opens_it() {
    for family in Family::BOTH {
        let mut w = observed(family, Side::Client);
        open(&mut w, 40_001);
        let far = End { port: w.remote.port, ..w.outside };
        let key = FlowKey { local_port: 40_001, ..w.key_with(&far) };
        assert_eq!(told(&mut w), [(key, 1)]);
        // The same server and port again within a second.
        open(&mut w, 40_002);
        assert_eq!(told(&mut w), []);
        drop(w);

        let mut w = observed(family, Side::Server);
        open(&mut w, 40_001);
        let key = FlowKey { remote_port: 40_001, ..w.key() };
        assert_eq!(told(&mut w), [(key, 0)]);
        open(&mut w, 40_002);
        assert_eq!(told(&mut w), []);
    }
}

#[test]
fn a_datagram_is_told_with_its_first() {
    for family in Family::BOTH {
        let mut w = observed(family, Side::Client);
        let far = End { port: NAME_SERVER, ..w.outside };
        let (query, answer) = (udp(&w.local, &far, DATA), udp(&far, &w.local, DATA));
        let counters = ["would_deny", "plain_opened", "reported"];
        compare(&w.run(Hook::From, &query), Action::Pass, Some(&query), &counters).unwrap();
        w.pass(Hook::To, &answer);
        w.pass(Hook::From, &query);
        let key = FlowKey { protocol: UDP, ..w.key_with(&far) };
        assert_eq!(told(&mut w), [(key, 1)]);

        // From another port it is another flow to the same server and port.
        let other = End { port: w.local.port + 1, ..w.local };
        let again = udp(&other, &far, DATA);
        let counters = ["would_deny", "plain_opened"];
        compare(&w.run(Hook::From, &again), Action::Pass, Some(&again), &counters).unwrap();
        assert_eq!(told(&mut w), []);

        // The server calls the workload: the other direction is told for itself.
        let call = udp(&far, &End { port: 9, ..w.local }, DATA);
        w.pass(Hook::To, &call);
        let key = FlowKey { local_port: 9, ..key };
        assert_eq!(told(&mut w), [(key, 0)]);
    }
}

#[test]
fn far_ends_that_differ_are_each_told() {
    let mut w = observed(Family::V6, Side::Client);
    // The words of each have the same sum.
    for number in 1..=3 {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, number).into();
        let far = End { port: NAME_SERVER, address, ..w.outside };
        w.pass(Hook::From, &udp(&w.local, &far, DATA));
    }
    assert_eq!(told(&mut w).len(), 3);
}

#[test]
fn an_enforced_workload_tells_nothing() {
    let mut w = World::new(Family::V4, Side::Server);
    let far = w.remote;
    for protocol in [TCP, UDP] {
        w.allow_network(&far, direction::INGRESS, protocol, (1, u16::MAX));
        if protocol == TCP {
            open(&mut w, 40_001);
        } else {
            let frame = udp(&w.remote, &w.local, DATA);
            w.pass(Hook::To, &frame);
        }
        assert_eq!(told(&mut w), []);
    }
}

#[test]
fn what_is_older_than_the_attachment_is_not_told() {
    let mut w = observed(Family::V4, Side::Server);
    let later = w.later();
    w.set_workload(|workload| workload.adopt_until_ns = later);
    let frame = w.data_in().frame();
    let counters = ["plain_opened", "adopted"];
    compare(&w.run(Hook::To, &frame), Action::Pass, Some(&frame), &counters).unwrap();
    assert_eq!(told(&mut w), []);
}

#[test]
fn of_many_at_once_some_are_told_and_the_others_counted() {
    const MANY: u16 = 400;
    let mut w = observed(Family::V4, Side::Server);
    // The workload's share has room for all of them.
    w.set_config(|config| config.flows = 16 * u32::from(MANY));
    let mut counted = [0; 2];
    for port in 1..=MANY {
        let to = End { port, ..w.local };
        let seen = w.run(Hook::To, &udp(&w.remote, &to, DATA));
        // The tests' table is small.
        let key = FlowKey { protocol: UDP, local_port: port, ..w.key() };
        w.kernel.remove::<_, FlowValue>("FLOWS4", &key.to_v4());
        for (counter, name) in counted.iter_mut().zip(["reported", "unreported"]) {
            *counter +=
                u16::from(seen.counters.keys().any(|one| one.ends_with(&format!(":{name}"))));
        }
    }
    let [reported, unreported] = counted;
    assert_eq!((told(&mut w).len(), reported + unreported), (usize::from(reported), MANY));
    assert!(reported >= 100, "a second's worth is told: {reported}");
}
