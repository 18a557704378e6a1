//! Shares of the flow table: nobody keeps all others from opening flows.

use enforcer_common::abi::{
    DropReason, SHARE_OF_ALL, ShareValue, direction, flow_flags, flow_state,
};
use enforcer_common::datapath::share;
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::packet::End;
use enforcer_tests::program::segment::{Segment, TCP};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{Family, SERVICE, Side, WORKLOAD, World};

/// Strangers alone get three quarters of it.
const ENTRIES: u32 = 8;

fn opened(w: &World, id: u32) -> [u64; 10] {
    w.kernel.row::<ShareValue>("SHARES_OPENED", id).flows
}

/// What the workload has of flows of TCP with these flags.
pub(super) fn held(w: &World, flags: u8) -> u64 {
    opened(w, u32::from(WORKLOAD))[index(w, flags)]
}

fn index(w: &World, flags: u8) -> usize {
    share::index(TCP, flags, if w.family == Family::V4 { 4 } else { 6 })
}

/// What all workloads have in the table of the world's family.
pub(super) fn held_by_all(w: &World) -> u64 {
    opened(w, SHARE_OF_ALL)[share::table(index(w, 0))]
}

/// Tells the programs that a flow of these flags is gone.
fn one_is_gone(w: &mut World, flags: u8) {
    let index = index(w, flags);
    for (id, index) in [(u32::from(WORKLOAD), index), (SHARE_OF_ALL, share::table(index))] {
        let mut gone = ShareValue::default();
        gone.flows[index] = 1;
        w.kernel.put_row("SHARES_GONE", id, gone);
    }
}

/// A server that a network rule opens to strangers.
fn open_server(family: Family) -> World {
    let mut w = World::new(family, Side::Server);
    w.set_config(|config| config.flows = ENTRIES);
    let far = w.remote;
    w.allow_network(&far, direction::INGRESS, TCP, (SERVICE, SERVICE));
    w
}

/// Opens a connection without identity from a port of the far side; what the last segment met.
fn stranger(w: &mut World, port: u16) -> Result<(), String> {
    let end = |end: End| if end == w.remote { End { port, ..end } } else { end };
    let at = |s: Segment| Segment { from: end(s.from), to: end(s.to), ..s }.frame();
    let (syn, syn_ack, ack) = (at(w.syn_in()), at(w.syn_ack_out()), at(w.ack_in()));
    w.pass(Hook::To, &syn);
    w.pass(Hook::From, &syn_ack);
    let seen = w.run(Hook::To, &ack);
    compare(&seen, Action::Pass, Some(&ack), &["plain_opened"]).or_else(|_| {
        compare(&seen, Action::Drop, None, &["flow_share_full"]).and(Err("full".to_owned()))
    })
}

#[test]
fn strangers_leave_proven_peers_and_the_workload_s_own_calls_their_parts() {
    for family in Family::BOTH {
        let mut w = open_server(family);
        for port in 1..=6 {
            stranger(&mut w, port).unwrap();
        }
        assert_eq!(stranger(&mut w, 7), Err("full".to_owned()));
        assert_eq!(
            (held(&w, flow_flags::PLAIN), held_by_all(&w)),
            (6, 6),
            "what is refused is not counted"
        );
        // The daemon found one gone.
        one_is_gone(&mut w, flow_flags::PLAIN);
        stranger(&mut w, 7).unwrap();
        assert_eq!(stranger(&mut w, 8), Err("full".to_owned()));

        w.established();
        assert_eq!(w.flow().map(|flow| flow.state), Some(flow_state::ESTABLISHED));
        assert_eq!((held(&w, 0), held_by_all(&w)), (1, 8));
    }
}

#[test]
fn the_last_place_is_nobody_s_who_has_a_part_already() {
    for (side, flags) in [(Side::Server, 0), (Side::Client, flow_flags::INITIATOR)] {
        for family in Family::BOTH {
            let mut w = World::new(family, side);
            // Half the table is another workload's.
            w.set_config(|config| config.flows = 32);
            let mut all = ShareValue::default();
            all.flows[share::table(index(&w, 0))] = 31;
            w.kernel.put_row("SHARES_OPENED", SHARE_OF_ALL, all);
            w.established();
            assert_eq!(held(&w, flags), 1, "who has nothing gets the last");
            drop(w);

            let mut w = World::new(family, side);
            w.set_config(|config| config.flows = 32);
            w.kernel.put_row("SHARES_OPENED", SHARE_OF_ALL, all);
            let mut own = ShareValue::default();
            own.flows[index(&w, flags)] = 15;
            w.kernel.put_row("SHARES_OPENED", u32::from(WORKLOAD), own);
            let frame = match side {
                Side::Server => {
                    w.after_s2_out();
                    w.s3_in().frame()
                }
                Side::Client => {
                    w.after_s1_out();
                    w.s2_in().frame()
                }
            };
            compare(&w.run(Hook::To, &frame), Action::Drop, None, &["flow_share_full"]).unwrap();
            assert_eq!(w.flow(), None);
        }
    }
}

#[test]
fn a_flow_in_the_place_of_an_older_one_of_its_tuple_needs_no_other() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        w.set_config(|config| config.flows = ENTRIES);
        w.established();
        let mut full = ShareValue::default();
        full.flows[share::table(index(&w, 0))] = u64::from(ENTRIES);
        w.kernel.put_row("SHARES_OPENED", SHARE_OF_ALL, full);
        // The port is used again before anybody looked at the old connection.
        w.after_s2_in();
        assert_eq!(w.flow().map(|flow| flow.state), Some(flow_state::UNCONFIRMED));
        assert_eq!((held(&w, flow_flags::INITIATOR), held_by_all(&w)), (1, 8));

        w.kernel.put_row("SHARES_OPENED", SHARE_OF_ALL, ShareValue::default());
        w.after_s2_in();
        assert_eq!(held(&w, flow_flags::INITIATOR), 1, "counted once, when it came");
        assert_eq!(held_by_all(&w), 0);
    }
}

#[test]
fn a_flow_that_a_new_answer_ends_is_given_back() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        for _ in 0..3 {
            w.established();
            assert_eq!((held(&w, 0), held_by_all(&w)), (1, 1));
        }
        drop(w);

        let mut w = open_server(family);
        for _ in 0..3 {
            stranger(&mut w, 9).unwrap();
            assert_eq!((held(&w, flow_flags::PLAIN), held_by_all(&w)), (1, 1));
        }
    }
}

#[test]
fn a_table_that_is_full_although_shares_have_room_takes_nothing_of_them() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.fill_flows();
        w.after_s2_out();
        let frame = w.s3_in().frame();
        compare(&w.run(Hook::To, &frame), Action::Drop, None, &["flow_table_full"]).unwrap();
        assert_eq!((held(&w, 0), held_by_all(&w)), (0, 0));
    }
}

#[test]
fn what_is_refused_is_reported_with_its_reason() {
    let mut w = open_server(Family::V4);
    w.set_config(|config| (config.flows, config.samples_per_second) = (1, 10));
    stranger(&mut w, 1).unwrap();
    w.kernel.rejected();
    stranger(&mut w, 2).unwrap_err();
    let reasons: Vec<_> = w.kernel.rejected().iter().map(|segment| segment.reason).collect();
    assert_eq!(reasons, [DropReason::FlowShare as u16]);
}
