//! Credentials follow each other without a stranger in between; leases end when they must.

use enforcer_common::abi::verdict_action;

use super::*;
use crate::identity::Revocations;

/// Ticks through a span, with a flow that stands on the verdict; returns all outputs.
fn live_through(bench: &mut Bench, asked: Question, seconds: std::ops::Range<u64>) -> Vec<Output> {
    let mut all = Vec::new();
    for second in seconds.step_by(10) {
        let now = at(second);
        all.extend(bench.engine.handle(Input::InUse(vec![asked]), now));
        let outputs = bench.engine.handle(Input::Tick, now);
        all.extend(bench.run(outputs, now));
    }
    all
}

#[test]
fn a_workload_has_its_credential_before_its_name_is_written() {
    let mut bench = Bench::new(&permit("cli"));
    let outputs = bench.add("api", at(0));
    assert_eq!(kinds(&outputs), ["networks", "credential", "workload"]);
    let Output::InstallCredential(handle, value) = &outputs[1] else { panic!() };
    let Output::InstallWorkload(_, workload) = &outputs[2] else { panic!() };
    assert_eq!((workload.credential, workload.identity), (*handle, identity_number("api")));
    let bytes = &value.0.bytes[..usize::from(value.0.length)];
    assert_eq!(blake3::hash(bytes).as_bytes()[..8], *handle);
    assert_eq!(value.0.sum, enforcer_common::wire::checksum::sum_bytes(bytes));
    assert_eq!(value.0.deadline_ns, at(3600).boot_ns);
}

fn identity_number(name: &str) -> u64 {
    crate::identity::identity_id(&identity(name))
}

#[test]
fn known_peers_are_paired_before_the_new_credential_is_used() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    let before = bench.local_handle("web");
    assert!(bench.engine.handle(Input::Tick, at(1799)).is_empty());
    let first = bench.engine.handle(Input::Tick, at(1801));
    assert_eq!(kinds(&first), ["credential", "verify"]);
    assert_eq!(bench.local_handle("web"), before);
    let outputs = bench.run(first, at(1801));
    assert_eq!(kinds(&outputs), ["credential", "peer", "workload"]);
    let Output::InstallPeer(key, _) = &outputs[1] else { panic!() };
    let Output::InstallWorkload(_, workload) = &outputs[2] else { panic!() };
    assert_eq!((key.local, key.remote), (workload.credential, cli.handle()));
    assert_ne!(workload.credential, before);
    let ended = bench.engine.handle(Input::Tick, at(3600));
    assert!(kinds(&ended).contains(&"-credential"), "{:?}", kinds(&ended));
    assert!(ended.iter().any(|o| matches!(o, Output::RemovePeer(key) if key.local == before)));
}

#[test]
fn a_rotation_does_not_wait_for_keys_for_ever() {
    let mut bench = Bench::new(&permit("cli"));
    bench.meet("cli", at(1));
    assert_eq!(kinds(&bench.engine.handle(Input::Tick, at(1801))), ["credential", "verify"]);
    assert!(kinds(&bench.engine.handle(Input::Tick, at(1807))).contains(&"workload"));
}

#[test]
fn a_verdict_in_use_outlives_the_peers_credential_and_not_the_nodes_certificate() {
    let mut bench = Bench::with(&permit("cli"), trusted(5000), settings());
    let (cli, _) = bench.meet("cli", at(1));
    let asked = question(&bench, &cli);
    let outputs = live_through(&mut bench, asked, 10..4990);
    let ends: Vec<u64> = verdicts(&outputs).iter().map(|(_, value)| value.deadline_ns).collect();
    assert!(!ends.is_empty(), "renewed");
    assert!(!kinds(&outputs).contains(&"sweep"));
    assert_eq!(ends.iter().max(), Some(&at(5000).boot_ns), "the certificate's end and no more");
    let outputs = live_through(&mut bench, asked, 4990..5011);
    assert!(verdicts(&outputs).is_empty());
    let swept = outputs.iter().any(|output| {
        matches!(output, Output::SweepFlows(sweep) if sweep.covers(&flow(asked.peer, 80, asked.workload)))
    });
    assert!(swept);
}

#[test]
fn a_verdict_that_nobody_uses_ends_with_the_credential() {
    let mut bench = Bench::new(&permit("cli"));
    bench.meet("cli", at(1));
    for second in (10..9000).step_by(10) {
        let outputs = bench.engine.handle(Input::Tick, at(second));
        bench.run(outputs, at(second));
    }
    assert_eq!((bench.engine.status().verdicts, bench.engine.status().peers), (0, 0));
}

#[test]
fn a_window_of_time_ends_a_flow_and_is_renewed_while_it_is_open() {
    let open_until = UNIX + 150;
    let text = format!(
        r#"permit (principal, action, resource) when {{ principal.name == "cli" &&
            context.time < datetime("1970-01-01T00:00:00Z").offset(duration("{open_until}000ms")) }};"#
    );
    let mut bench = Bench::new(&text);
    let (cli, met) = bench.meet("cli", at(1));
    assert_eq!(verdicts(&met)[0].1.deadline_ns, at(60).boot_ns, "the next full minute");
    let asked = question(&bench, &cli);
    let outputs = live_through(&mut bench, asked, 10..151);
    assert!(!kinds(&outputs).contains(&"sweep"), "{:?}", kinds(&outputs));
    let outputs = live_through(&mut bench, asked, 160..200);
    assert!(kinds(&outputs).contains(&"sweep"));
    let (again, _) = bench.meet("cli", at(200));
    assert_eq!(again.identity_id(), cli.identity_id());
}

#[test]
fn a_revoked_namespace_loses_peers_verdicts_and_flows_at_once() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    let mut revocations = Revocations::default();
    revocations.namespaces.insert("/acme".parse().unwrap());
    let trust = bench.trusted.trust.clone().revoking(revocations).unwrap();
    let input = Input::SetVerifier(Arc::new(Verifier::new(trust)));
    let outputs = bench.engine.handle(input, at(2));
    assert_eq!(kinds(&outputs), ["-peer", "-verdict", "sweep"]);
    let Output::SweepFlows(sweep) = &outputs[2] else { panic!() };
    let id = bench.engine.workload_id("web").unwrap();
    assert!(sweep.covers(&flow(cli.identity_id(), 80, id)));
    assert!(!sweep.covers(&flow(0, 80, id)));
    let again = bench.give(&Sent::call(cli.bytes()), at(2));
    assert_eq!(kinds(&bench.run(again, at(2))), ["refusal"]);
}

#[test]
fn a_job_of_the_old_trust_installs_nothing_under_the_new_one() {
    let mut bench = Bench::new(&permit("cli"));
    let cli = bench.issue("cli", at(1));
    let jobs = bench.give(&Sent::call(cli.bytes()), at(1));
    let mut revocations = Revocations::default();
    revocations.credentials.insert(cli.hash());
    let trust = bench.trusted.trust.clone().revoking(revocations).unwrap();
    let verifier = Arc::new(Verifier::new(trust));
    assert!(bench.engine.handle(Input::SetVerifier(verifier), at(1)).is_empty());
    assert!(bench.run(jobs, at(1)).is_empty());
}

#[test]
fn a_removed_workload_leaves_nothing_behind() {
    let mut bench = Bench::new(&permit("cli"));
    let (_, met) = bench.meet("cli", at(1));
    assert_eq!(verdicts(&met)[0].1.action, verdict_action::ALLOW);
    let outputs = bench.engine.handle(Input::RemoveWorkload("web".to_owned()), at(2));
    assert_eq!(kinds(&outputs), ["-workload", "-peer", "-credential", "-verdict", "sweep"]);
    let status = bench.engine.status();
    assert_eq!((status.workloads, status.peers, status.verdicts), (0, 0, 0));
}

#[test]
fn a_renewed_node_certificate_is_used_at_once() {
    let mut bench = Bench::new(&permit("cli"));
    let before = bench.local_handle("web");
    let issuer = Arc::new(trusted(DAY).theirs);
    assert!(bench.engine.handle(Input::SetIssuer(issuer), at(5)).is_empty());
    let outputs = bench.engine.handle(Input::Tick, at(6));
    assert_eq!(kinds(&outputs), ["credential", "workload"]);
    assert_ne!(bench.local_handle("web"), before);
}
