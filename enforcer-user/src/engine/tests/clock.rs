//! A wall clock that is set: it neither ends nor prolongs what was verified before, and judges what
//! is new.

use super::*;

/// `seconds` into the test, by a wall clock that is off by `ahead`.
fn off(seconds: u64, ahead: i64) -> Now {
    let unix_seconds = (UNIX + seconds).saturating_add_signed(ahead);
    Now { unix_ns: unix_seconds * SECOND_NS, ..at(seconds) }
}

const HOUR: i64 = 3600;

/// Ticks once, with a flow on the verdict.
fn tick(bench: &mut Bench, asked: Question, now: Now) -> Vec<Output> {
    let mut all = bench.engine.handle(Input::InUse(vec![asked]), now);
    let outputs = bench.engine.handle(Input::Tick, now);
    all.extend(bench.run(outputs, now));
    all
}

fn sweeps(outputs: &[Output], asked: Question) -> bool {
    outputs.iter().any(|output| match output {
        Output::SweepFlows(sweep) => sweep.covers(&flow(asked.peer, 80, asked.workload)),
        _ => false,
    })
}

fn peer_deadline(bench: &Bench, credential: &LocalCredential) -> Option<u64> {
    let mut peers = bench.engine.peers.iter().filter(|(key, _)| key.remote == credential.handle());
    peers.next().map(|(_, peer)| peer.deadline_ns)
}

#[test]
fn a_step_ahead_ends_no_flow_and_an_end_by_boot_time_stays() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    let asked = question(&bench, &cli);
    tick(&mut bench, asked, at(2));
    let before = bench.local_handle("web");
    for second in (3..7000).step_by(10) {
        let outputs = tick(&mut bench, asked, off(second, 5 * HOUR));
        assert!(!sweeps(&outputs, asked), "at {second}");
        let end = peer_deadline(&bench, &cli);
        assert!(end.is_none_or(|end| end <= at(3601).boot_ns), "at {second}: {end:?}");
    }
    assert_ne!(bench.local_handle("web"), before, "what this node shows follows the clock");
    // The twin: who is new is judged by the wall clock.
    let late = bench.issue("late", at(7000));
    let outputs = bench.give(&Sent::call(late.bytes()), off(7000, 5 * HOUR));
    assert_eq!(kinds(&bench.run(outputs, off(7000, 5 * HOUR))), ["refusal"]);
}

#[test]
fn a_lease_is_bounded_by_the_certificate_by_either_clock() {
    let lease_end = |seconds: u64, ahead: i64| {
        let mut bench = Bench::with(&permit("cli"), trusted(20_000), settings());
        let (cli, _) = bench.meet("cli", at(1));
        let asked = question(&bench, &cli);
        tick(&mut bench, asked, at(2));
        (3..seconds).step_by(10).for_each(|s| drop(tick(&mut bench, asked, off(s, ahead))));
        bench.engine.verdicts.iter().next().map(|(_, verdict)| verdict.value.deadline_ns)
    };
    // Set back, it ends when it would have ended.
    assert_eq!(lease_end(19_900, -HOUR), Some(at(20_000).boot_ns));
    // Set ahead beyond the certificate, what was granted holds, and nothing is granted after it.
    assert_eq!(lease_end(3500, 10 * HOUR), Some(at(3600).boot_ns));
    assert_eq!(lease_end(3700, 10 * HOUR), None);
}

#[test]
fn a_step_back_prolongs_nothing_and_what_has_ended_does_not_begin_again() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    bench.engine.handle(Input::Tick, at(2)).clear();
    let met = peer_deadline(&bench, &cli);
    assert!(met.is_some());
    for second in (3..3600).step_by(10) {
        let outputs = bench.engine.handle(Input::Tick, off(second, -20));
        bench.run(outputs, off(second, -20));
        assert!(peer_deadline(&bench, &cli).is_none_or(|end| end <= at(3601).boot_ns));
    }
    // By the wall clock it lives for 20 s more.
    let now = off(3602, -20);
    assert!(cli.not_after() > now.unix_seconds());
    let before = bench.refused(Refused::Expired);
    assert!(bench.give(&Sent::call(cli.bytes()), now).is_empty(), "before it was swept");
    let now = off(3612, -20);
    assert!(cli.not_after() > now.unix_seconds());
    bench.engine.handle(Input::Tick, now).clear();
    assert_eq!(peer_deadline(&bench, &cli), None);
    assert!(bench.give(&Sent::call(cli.bytes()), now).is_empty(), "after it was swept");
    assert_eq!(bench.refused(Refused::Expired), before + 2);
    // Once the wall clock knows too, it is not remembered any more.
    bench.engine.handle(Input::Tick, off(3700, -20)).clear();
    assert!(!bench.engine.ended.holds(&cli.hash()));
}

#[test]
fn a_window_of_time_follows_the_wall_clock() {
    let text = format!(
        r#"permit (principal, action, resource) when {{ principal.name == "cli" &&
            context.time < datetime("1970-01-01T00:00:00Z").offset(duration("{}000ms")) }};"#,
        UNIX + 7200
    );
    let mut bench = Bench::new(&text);
    let (cli, _) = bench.meet("cli", at(1));
    let asked = question(&bench, &cli);
    assert!(!sweeps(&tick(&mut bench, asked, at(2)), asked));
    assert!(!sweeps(&tick(&mut bench, asked, off(3, HOUR)), asked));
    assert!(sweeps(&tick(&mut bench, asked, off(4, 3 * HOUR)), asked));
}

#[test]
fn trust_that_is_loaded_anew_after_a_step_keeps_who_is_still_trusted() {
    for ahead in [5 * HOUR, -5 * HOUR] {
        let mut bench = Bench::new(&permit("cli"));
        let (cli, _) = bench.meet("cli", at(1));
        let asked = question(&bench, &cli);
        tick(&mut bench, asked, at(2));
        let now = off(3, ahead);
        let verifier = Arc::new(Verifier::new(bench.trusted.trust.clone()));
        let outputs = bench.engine.handle(Input::SetVerifier(verifier), now);
        assert!(!sweeps(&outputs, asked), "{ahead}");
        // The twin: another authority's trust takes it away.
        let other = Arc::new(Verifier::new(trusted(DAY).trust));
        assert!(sweeps(&bench.engine.handle(Input::SetVerifier(other), now), asked), "{ahead}");
    }
}
