//! Verdicts, epochs and deadlines: what a cached answer decides, and when it no longer does.

use enforcer_common::abi::{direction, flow_flags, flow_state, verdict_action};
use enforcer_tests::program::kernel::{Action, Hook, Seen};
use enforcer_tests::program::table::{check, compare, drops, passes};
use enforcer_tests::program::world::{EPOCH, Family, SERVICE, Side, WORKLOAD, World};

const NEXT: u32 = EPOCH + 1;

fn flip(w: &mut World) {
    w.set_config(|config| config.epoch = NEXT);
}

#[test]
fn a_verdict_of_an_older_epoch_is_a_miss() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.established();
        flip(&mut w);
        let data = w.data_in().frame();
        compare(&w.run(Hook::To, &data), Action::Drop, None, &["unjudged"]).unwrap();
        let back = w.data_out().frame();
        compare(&w.run(Hook::From, &back), Action::Drop, None, &["unjudged"]).unwrap();
        // The daemon's answer comes late, and the flow goes on.
        let later = w.later();
        w.set_verdict(direction::INGRESS, NEXT, verdict_action::ALLOW, later);
        compare(&w.run(Hook::To, &data), Action::Pass, Some(&data), &["rejudged"]).unwrap();
    }
}

#[test]
fn a_flow_that_the_new_policy_denies_is_cut() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.established();
        let later = w.later();
        w.set_verdict(direction::INGRESS, NEXT, verdict_action::DENY, later);
        flip(&mut w);
        let data = w.data_in().frame();
        compare(&w.run(Hook::To, &data), Action::Drop, None, &["flow_cut"]).unwrap();
        assert_eq!(w.flow().expect("kept for the sweeper").state, flow_state::CUT);
        let back = w.data_out().frame();
        compare(&w.run(Hook::From, &back), Action::Drop, None, &["flow_cut"]).unwrap();
    }
}

#[test]
fn a_handshake_asks_under_the_current_epoch() {
    check(
        Side::Server,
        Hook::To,
        &[
            drops(
                "S1",
                |w| {
                    flip(w);
                    w.s1_in().frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "S3",
                |w| {
                    w.after_s2_out();
                    flip(w);
                    w.s3_in().frame()
                },
                &["held", "cold_segments"],
            ),
        ],
    );
    check(
        Side::Client,
        Hook::To,
        &[drops(
            "S2",
            |w| {
                w.after_s1_out();
                flip(w);
                w.s2_in().frame()
            },
            &["held", "cold_segments"],
        )],
    );
}

#[test]
fn a_flow_whose_verdict_stays_passes_a_flip() {
    for (family, action, more) in [
        (Family::V4, verdict_action::ALLOW, &["rejudged"][..]),
        (Family::V6, verdict_action::WOULD_DENY, &["would_deny", "rejudged"]),
    ] {
        let mut w = World::new(family, Side::Server);
        w.established();
        let later = w.later();
        w.set_verdict(direction::INGRESS, NEXT, action, later);
        flip(&mut w);
        let data = w.data_in().frame();
        compare(&w.run(Hook::To, &data), Action::Pass, Some(&data), more).unwrap();
        compare(&w.run(Hook::To, &data), Action::Pass, Some(&data), &[]).unwrap();
        let flow = w.flow().unwrap();
        assert_eq!((flow.epoch, flow.deadline_ns), (NEXT, later));
    }
}

#[test]
fn a_client_s_flow_is_judged_by_the_egress_verdict() {
    let mut w = World::new(Family::V4, Side::Client);
    w.established();
    let later = w.later();
    w.set_verdict(direction::INGRESS, NEXT, verdict_action::ALLOW, later);
    w.set_verdict(direction::EGRESS, NEXT, verdict_action::DENY, later);
    flip(&mut w);
    let data = w.data_out().frame();
    compare(&w.run(Hook::From, &data), Action::Drop, None, &["flow_cut"]).unwrap();
}

#[test]
fn deadlines_hold_and_are_extended() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        w.established();
        let (past, later) = (w.past(), w.later());
        w.change_flow(|flow| flow.deadline_ns = past);
        let data = w.data_in().frame();
        // The verdict still holds: the flow is renewed.
        compare(&w.run(Hook::To, &data), Action::Pass, Some(&data), &["rejudged"]).unwrap();
        assert_eq!(w.flow().unwrap().deadline_ns, later);
        // Both have run out.
        w.change_flow(|flow| flow.deadline_ns = past);
        w.set_verdict(direction::INGRESS, EPOCH, verdict_action::ALLOW, past);
        compare(&w.run(Hook::To, &data), Action::Drop, None, &["expired"]).unwrap();
        let out = w.data_out().frame();
        compare(&w.run(Hook::From, &out), Action::Drop, None, &["expired"]).unwrap();
    }
}

#[test]
fn a_flow_lives_no_longer_than_the_verdict_it_was_opened_under() {
    let mut w = World::new(Family::V4, Side::Server);
    let soon = w.now_ns + 60_000_000_000;
    w.set_verdict(direction::INGRESS, EPOCH, verdict_action::ALLOW, soon);
    w.established();
    assert_eq!(w.flow().unwrap().deadline_ns, soon);
}

#[test]
fn what_is_missing_or_denied() {
    check(
        Side::Server,
        Hook::To,
        &[
            drops(
                "no verdict at S1",
                |w| {
                    w.forget_verdict(direction::INGRESS);
                    w.s1_in().frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "a verdict past its deadline at S1",
                |w| {
                    let past = w.past();
                    w.set_verdict(direction::INGRESS, EPOCH, verdict_action::ALLOW, past);
                    w.s1_in().frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "no verdict at S3",
                |w| {
                    w.after_s2_out();
                    w.forget_verdict(direction::INGRESS);
                    w.s3_in().frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "denied at S3",
                |w| {
                    w.after_s2_out();
                    let later = w.later();
                    w.set_verdict(direction::INGRESS, EPOCH, verdict_action::DENY, later);
                    w.s3_in().frame()
                },
                &["policy_denied"],
            ),
            drops(
                "the egress verdict does not speak for ingress",
                |w| {
                    w.forget_verdict(direction::INGRESS);
                    let later = w.later();
                    w.set_verdict(direction::EGRESS, EPOCH, verdict_action::ALLOW, later);
                    w.s1_in().frame()
                },
                &["held", "cold_segments"],
            ),
            drops(
                "a verdict for another port",
                |w| {
                    w.local.port = SERVICE + 1;
                    w.s1_in().frame()
                },
                &["held", "cold_segments"],
            ),
        ],
    );
}

#[test]
fn a_verdict_for_every_port_holds_where_none_is_for_this_one() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        let later = w.later();
        let value = enforcer_common::abi::VerdictValue {
            deadline_ns: later,
            rule: 1,
            action: verdict_action::ALLOW,
            obligations: 0,
            zero: [0; 2],
        };
        let mut key = World::verdict_key(direction::INGRESS, EPOCH);
        key.port = 0;
        w.kernel.put("VERDICTS", key, value);
        w.set_verdict(direction::INGRESS, EPOCH, verdict_action::DENY, later);
        let s1 = w.s1_in().frame();
        let seen = w.run(Hook::To, &s1);
        compare(&seen, Action::Drop, None, &["policy_denied"]).unwrap();
        w.local.port = SERVICE + 1;
        let (s1, syn) = (w.s1_in().frame(), w.syn_in().frame());
        let seen = w.run(Hook::To, &s1);
        compare(&seen, Action::Pass, Some(&syn), &["s1_accepted"]).unwrap();
    }
}

#[test]
fn a_plain_flow_is_judged_again_by_the_network_rules() {
    check(
        Side::Server,
        Hook::To,
        &[
            passes(
                "the rule is still there",
                |w| {
                    let far = w.remote;
                    w.allow_network(&far, direction::INGRESS, 6, (SERVICE, SERVICE));
                    plain(w);
                    flip(w);
                    w.data_in().frame()
                },
                &["rejudged"],
            ),
            drops(
                "the rule is gone",
                |w| {
                    let far = w.remote;
                    w.allow_network(&far, direction::INGRESS, 6, (SERVICE, SERVICE));
                    plain(w);
                    w.allow_network(&far, direction::INGRESS, 6, (SERVICE + 1, SERVICE + 1));
                    flip(w);
                    w.data_in().frame()
                },
                &["flow_cut"],
            ),
        ],
    );
}

fn plain(w: &mut World) {
    for (hook, segment) in
        [(Hook::To, w.syn_in()), (Hook::From, w.syn_ack_out()), (Hook::To, w.ack_in())]
    {
        w.pass(hook, &segment.frame());
    }
    assert_eq!(w.flow().expect("a flow").flags, flow_flags::PLAIN);
}

#[test]
fn drops_are_sampled_within_their_limit() {
    let mut w = World::new(Family::V4, Side::Server);
    w.set_config(|config| config.samples_per_second = 2);
    let syn = w.syn_in().frame();
    for expected in [
        &["peer_without_identity", "sampled"][..],
        &["peer_without_identity", "sampled"],
        &["peer_without_identity"],
    ] {
        compare(&w.run(Hook::To, &syn), Action::Drop, None, expected).unwrap();
    }
    let records = w.kernel.rejected();
    assert_eq!(records.len(), 2);
    let first = records[0];
    assert_eq!((first.key, first.reason), (w.key(), 14));
    assert_eq!((first.from_workload, first.tcp_flags, first.key.workload), (0, 2, WORKLOAD));
}

#[test]
fn verdicts_decide_s1_and_s2() {
    for family in Family::BOTH {
        for (action, counters) in [
            (verdict_action::DENY, &["policy_denied"][..]),
            (77, &["policy_denied"]),
            (verdict_action::WOULD_DENY, &["would_deny"]),
        ] {
            let passing = action == verdict_action::WOULD_DENY;
            let mut w = World::new(family, Side::Server);
            let later = w.later();
            w.set_verdict(direction::INGRESS, EPOCH, action, later);
            let (s1, syn) = (w.s1_in().frame(), w.syn_in().frame());
            let seen = w.run(Hook::To, &s1);
            let more = if passing { "s1_accepted" } else { "" };
            judged(&seen, passing.then_some(&syn), counters, more);
            drop(w);

            let mut w = World::new(family, Side::Client);
            w.set_verdict(direction::EGRESS, EPOCH, action, later);
            w.after_s1_out();
            let s2 = w.s2_in().frame();
            let seen = w.run(Hook::To, &s2);
            let out = if passing { w.syn_ack_in().frame() } else { w.reset_of_syn_ack() };
            let more = if passing { "s2_accepted" } else { "reset_local" };
            judged(&seen, Some(&out), counters, more);
        }
    }
}

fn judged(seen: &Seen, out: Option<&Vec<u8>>, counters: &[&str], more: &str) {
    let all: Vec<&str> = counters.iter().copied().chain([more]).filter(|c| !c.is_empty()).collect();
    let action = if out.is_some() { Action::Pass } else { Action::Drop };
    compare(seen, action, out.map(Vec::as_slice), &all).unwrap();
}
