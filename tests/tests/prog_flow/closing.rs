//! The end of a connection: with the last acknowledgement, where the workload closed second; else its flow waits for a
//! FIN that comes again.

use enforcer_common::abi::{flow_flags, flow_state};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::segment::{ACK, FIN, Segment};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{Family, LOCAL_ISN, REMOTE_ISN, Side, World};

use super::share::{held, held_by_all};

/// Behind the FINs.
const LOCAL_END: u32 = LOCAL_ISN.wrapping_add(2);
const REMOTE_END: u32 = REMOTE_ISN.wrapping_add(2);

fn fin_in(w: &World) -> Segment {
    w.ack_in().flags(FIN | ACK)
}

fn fin_out(w: &World, acknowledgement: u32) -> Segment {
    Segment { acknowledgement, ..w.ack_out().flags(FIN | ACK) }
}

/// The far side's acknowledgement of everything, the FIN included.
fn last_in(w: &World) -> Segment {
    Segment { sequence: REMOTE_END, acknowledgement: LOCAL_END, ..w.ack_in() }
}

/// The far side has closed, then the workload.
fn closed_second(family: Family, side: Side) -> World {
    let mut w = World::new(family, side);
    w.established();
    close_second(&mut w);
    w
}

fn close_second(w: &mut World) {
    let (theirs, own) = (fin_in(w).frame(), fin_out(w, REMOTE_END).frame());
    w.pass(Hook::To, &theirs);
    w.pass(Hook::From, &own);
}

fn each() -> impl Iterator<Item = (Family, Side)> {
    Family::BOTH.into_iter().flat_map(|family| [(family, Side::Client), (family, Side::Server)])
}

#[test]
fn the_last_acknowledgement_ends_the_flow_of_who_closed_second() {
    for (family, side) in each() {
        // On the fast path, and with as many options as only the slow one reads.
        let mut unknown = [0; 20];
        unknown[..2].copy_from_slice(&[222, 20]);
        for options in [&[][..], &unknown] {
            let mut w = closed_second(family, side);
            let last = last_in(&w).options(options).frame();
            compare(&w.run(Hook::To, &last), Action::Pass, Some(&last), &[]).unwrap();
            assert_eq!(w.flow(), None, "{family:?} {side:?}");
            compare(&w.run(Hook::To, &last), Action::Drop, None, &["no_flow"]).unwrap();
        }
    }
}

#[test]
fn a_flow_that_has_ended_is_given_back() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Server);
        for _ in 0..3 {
            w.established();
            assert_eq!((held(&w, 0), held_by_all(&w)), (1, 1));
            close_second(&mut w);
            let last = last_in(&w).frame();
            w.pass(Hook::To, &last);
            assert_eq!((held(&w, 0), held_by_all(&w)), (0, 0));
        }
    }
}

/// What may be followed by more, or is none of the connection's, ends nothing; the right one still does.
#[test]
fn nothing_else_ends_it() {
    for (family, side) in each() {
        let mut w = closed_second(family, side);
        let last = last_in(&w);
        let (sequence, acknowledgement) = (last.sequence, last.acknowledgement);
        let others = [
            Segment { acknowledgement: acknowledgement.wrapping_sub(1), ..last.clone() },
            Segment { acknowledgement: acknowledgement.wrapping_add(1), ..last.clone() },
            Segment { sequence: sequence.wrapping_sub(1), ..last.clone() },
            Segment { sequence: sequence.wrapping_add(1), ..last.clone() },
            Segment { sequence: sequence.wrapping_sub(1), ..last.clone() }.flags(FIN | ACK),
            last.clone().flags(FIN | ACK),
            last.clone().payload(b"x"),
            last.clone().flags(0),
        ];
        for other in others {
            w.pass(Hook::To, &other.frame());
            assert!(w.flow().is_some(), "{family:?} {side:?} {other:?}");
        }
        let mut wrong = last.frame();
        *wrong.last_mut().unwrap() ^= 1;
        w.pass(Hook::To, &wrong);
        assert!(w.flow().is_some(), "{family:?} {side:?}: a wrong checksum");
        w.pass(Hook::To, &last.frame());
        assert_eq!(w.flow(), None);
    }
}

/// The far side may have lost what acknowledged its FIN: it sends that again.
#[test]
fn who_closed_first_or_at_once_keeps_the_flow() {
    for (family, side) in each() {
        let mut first = World::new(family, side);
        first.established();
        let (own, theirs) = (fin_out(&first, REMOTE_ISN.wrapping_add(1)), fin_in(&first));
        let heard = Segment { acknowledgement: LOCAL_END, ..first.ack_in() };
        let theirs_late = Segment { acknowledgement: LOCAL_END, ..theirs.clone() };
        let done = Segment { sequence: LOCAL_END, acknowledgement: REMOTE_END, ..first.ack_out() };
        for (hook, segment) in [
            (Hook::From, &own),
            (Hook::To, &heard),
            (Hook::To, &theirs_late),
            (Hook::From, &done),
            (Hook::To, &last_in(&first)),
            (Hook::To, &theirs_late),
        ] {
            first.pass(hook, &segment.frame());
        }
        assert_eq!(first.flow().unwrap().state, flow_state::CLOSING, "{family:?} {side:?}");
        // There is one kernel for all worlds.
        drop(first);

        let mut at_once = World::new(family, side);
        at_once.established();
        // The workload's FIN goes out again behind the far side's, and acknowledges it then.
        for (hook, segment) in [
            (Hook::From, &own),
            (Hook::To, &theirs),
            (Hook::From, &done),
            (Hook::From, &fin_out(&at_once, REMOTE_END)),
            (Hook::To, &last_in(&at_once)),
        ] {
            at_once.pass(hook, &segment.frame());
        }
        let flow = at_once.flow().unwrap();
        assert_eq!(flow.flags & flow_flags::CLOSED_SECOND, 0, "{family:?} {side:?}");
    }
}
