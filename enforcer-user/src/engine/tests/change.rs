//! A policy change: what stays allowed never misses a verdict, what is taken away is cut.

use std::net::Ipv4Addr;

use enforcer_common::abi::{flow_flags, network_flags, verdict_action, workload_flags};

use super::*;
use crate::policy::{NetworkRule, NetworkRuleSpec};

const DNS: [u8; 4] = [203, 0, 113, 53];

fn rule(name: &str) -> NetworkRule {
    let text = format!(
        "name = {name:?}\ndirection = \"egress\"\ncidr = [\"{}/32\"]\nprotocol = \"udp\"\nports = [\"53\"]",
        Ipv4Addr::from(DNS)
    );
    NetworkRule::try_from(toml::from_str::<NetworkRuleSpec>(&text).unwrap()).unwrap()
}

fn with_network(text: &str, rules: Vec<NetworkRule>) -> Arc<Policy> {
    Arc::new(Policy::from_sources(&[SourceFile::new("test.cedar", text)], rules).unwrap())
}

fn position(outputs: &[Output], kind: &str) -> usize {
    kinds(outputs).iter().position(|one| *one == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn last(outputs: &[Output], kind: &str) -> usize {
    kinds(outputs).iter().rposition(|one| *one == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn new_verdicts_and_networks_stand_before_the_flip_and_old_ones_go_after_it() {
    let mut bench = Bench::new(&permit("cli"));
    bench.meet("cli", at(1));
    let changed = with_network(&permit("cli"), vec![rule("dns")]);
    let outputs =
        bench.engine.handle(Input::SetPolicy { policy: changed, live: Vec::new() }, at(2));
    let flip = position(&outputs, "flip");
    for before in ["verdict", "networks", "workload"] {
        assert!(last(&outputs, before) < flip, "{before}: {:?}", kinds(&outputs));
    }
    assert!(position(&outputs, "-verdict") > flip);
    assert!(last(&outputs, "-networks") > flip);
    let Output::FlipEpoch(2) = outputs[flip] else { panic!("{:?}", outputs[flip]) };
    assert_eq!(verdicts(&outputs)[0].0.epoch, 2);
    let Output::InstallNetworks(prefixes) = &outputs[position(&outputs, "networks")] else {
        panic!()
    };
    let (bits, key, value) = prefixes[0];
    assert_eq!((bits, key.rule_set), (32 + 128, 2), "an even epoch's first table");
    assert_eq!(key.address, mapped(DNS));
    let entry = value.entries[0];
    assert_eq!((entry.protocol, entry.port_low, entry.port_high), (17, 53, 53));
    let workload = outputs.iter().find_map(|output| match output {
        Output::InstallWorkload(_, value) => Some(value.rule_sets),
        _ => None,
    });
    assert_eq!(workload.unwrap()[0], 2);
}

#[test]
fn an_unchanged_verdict_is_written_under_the_new_epoch_with_its_deadline() {
    let mut bench = Bench::new(&permit("cli"));
    let (_, met) = bench.meet("cli", at(1));
    let (before, value) = verdicts(&met)[0];
    let outputs = bench.set_policy(&permit("cli"), Vec::new(), at(2));
    let (after, again) = verdicts(&outputs)[0];
    assert_eq!(VerdictKey { epoch: 2, ..before }, after);
    assert_eq!((again.action, again.deadline_ns), (value.action, value.deadline_ns));
    assert!(!kinds(&outputs).contains(&"sweep"));
}

#[test]
fn what_lost_its_rule_is_cut_at_once() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    let id = bench.engine.workload_id("web").unwrap();
    let live = vec![flow(cli.identity_id(), 80, id)];
    let outputs = bench.set_policy(&permit("other"), live.clone(), at(2));
    assert_eq!(verdicts(&outputs)[0].1.action, verdict_action::DENY);
    let Output::SweepFlows(sweep) = &outputs[last(&outputs, "sweep")] else { panic!() };
    assert_eq!(sweep.flows, [live[0].key]);
    assert!(last(&outputs, "sweep") > position(&outputs, "flip"));
}

#[test]
fn a_live_flow_keeps_its_verdict_when_ports_begin_to_matter() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    let id = bench.engine.workload_id("web").unwrap();
    let text = r#"permit (principal, action, resource)
        when { principal.name == "cli" && context.port == 80 };"#;
    let live = vec![flow(cli.identity_id(), 80, id), flow(cli.identity_id(), 81, id)];
    let outputs = bench.set_policy(text, live.clone(), at(2));
    let mut written: Vec<(u16, u8)> =
        verdicts(&outputs).iter().map(|(key, value)| (key.port, value.action)).collect();
    written.sort_unstable();
    assert_eq!(written, [(80, verdict_action::ALLOW), (81, verdict_action::DENY)]);
    let Output::SweepFlows(sweep) = &outputs[last(&outputs, "sweep")] else { panic!() };
    assert_eq!(sweep.flows, [live[1].key]);
}

#[test]
fn flows_that_were_opened_during_the_change_are_judged_behind_it() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    let id = bench.engine.workload_id("web").unwrap();
    let text = r#"permit (principal, action, resource)
        when { principal.name == "cli" && context.port == 80 };"#;
    bench.set_policy(text, vec![flow(cli.identity_id(), 80, id)], at(2));
    let late = |port| flow(cli.identity_id(), port, id).question();
    // The first was judged by the change itself.
    let questions = vec![late(80), late(81)];
    let outputs = bench.engine.handle(Input::Unjudged(questions), at(2));
    assert_eq!(kinds(&outputs), ["sweep"]);
    let Output::SweepFlows(sweep) = &outputs[0] else { panic!() };
    assert!(sweep.questions.contains(&late(81)) && !sweep.questions.contains(&late(80)));
    let outputs = bench.set_policy(&permit("cli"), Vec::new(), at(3));
    assert!(!kinds(&outputs).contains(&"sweep"));
}

#[test]
fn flows_of_network_rules_are_judged_and_adopted_ones_left_alone() {
    let mut bench = Bench::new(&permit("cli"));
    let id = bench.engine.workload_id("web").unwrap();
    let mut dns = flow(0, 53, id);
    dns.key.protocol = 17;
    dns.key.remote = mapped(DNS);
    dns.direction = direction::EGRESS;
    let other = LiveFlow { key: FlowKey { remote: mapped(REMOTE), ..dns.key }, ..dns };
    let adopted = LiveFlow { flags: flow_flags::ADOPTED, ..other };
    let policy = with_network(&permit("cli"), vec![rule("dns")]);
    let live = vec![dns, other, adopted];
    let outputs = bench.engine.handle(Input::SetPolicy { policy, live }, at(2));
    let Output::SweepFlows(sweep) = &outputs[last(&outputs, "sweep")] else { panic!() };
    assert_eq!(sweep.flows, [other.key]);
}

#[test]
fn a_change_leaves_alone_what_only_observe_mode_lets_pass() {
    let mut bench = Bench::new(&permit("cli"));
    let flags = workload_flags::OBSERVE;
    let spec = WorkloadSpec { identity: identity("seen"), flags, adopt_until_ns: 0, learns: false };
    let _ = bench.engine.handle(Input::AddWorkload(spec), at(0));
    let ids = ["seen", "web"].map(|name| bench.engine.workload_id(name).unwrap());
    let live = ids.map(|id| flow(0, 80, id)).to_vec();
    let outputs = bench.set_policy(&permit("other"), live.clone(), at(2));
    let Output::SweepFlows(sweep) = &outputs[last(&outputs, "sweep")] else { panic!() };
    assert_eq!(sweep.flows, [live[1].key]);
}

#[test]
fn a_failed_change_goes_back_to_the_old_epoch_whole() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    bench.set_policy(&permit("other"), Vec::new(), at(2));
    let undo = bench.engine.handle(Input::ChangeFailed, at(2));
    assert_eq!(kinds(&undo), ["workload", "-verdict", "-networks"]);
    let Output::RemoveVerdict(key) = &undo[1] else { panic!() };
    assert_eq!(key.epoch, 2);
    assert_eq!(bench.engine.status().epoch, 1);
    let again = Sent { local_port: 81, ..Sent::call(cli.bytes()) };
    let held = HeldFrame { time_ns: 0, ..bench.held(&again, at(3)) };
    let outputs = bench.engine.handle(Input::Held(held), at(3));
    assert_eq!(verdicts(&outputs)[0].1.action, verdict_action::ALLOW, "the old policy holds");
    assert_eq!(verdicts(&outputs)[0].0.epoch, 1);
    assert!(bench.engine.handle(Input::ChangeFailed, at(4)).is_empty(), "nothing to undo twice");
}

#[test]
fn observe_mode_lets_a_denied_peer_pass_and_says_so() {
    let mut bench = Bench::new(&permit("other"));
    let spec = WorkloadSpec {
        identity: identity("seen"),
        flags: workload_flags::OBSERVE,
        adopt_until_ns: 0,
        learns: false,
    };
    let _ = bench.engine.handle(Input::AddWorkload(spec), at(0));
    let credential = bench.issue("cli", at(1));
    let id = bench.engine.workload_id("seen").unwrap();
    let held = Sent::call(credential.bytes()).held(id, bench.local_handle("seen"), at(1));
    let outputs = bench.engine.handle(Input::Held(held), at(1));
    let outputs = bench.run(outputs, at(1));
    assert_eq!(verdicts(&outputs)[0].1.action, verdict_action::WOULD_DENY);
    assert!(outputs.iter().any(|output| matches!(output, Output::Log(d) if d.observed)));
}

#[test]
fn who_learns_is_asked_for_every_port_and_seen_while_flows_live() {
    let mut bench = Bench::new("permit (principal, action, resource);");
    let spec = WorkloadSpec {
        identity: identity("seen"),
        flags: workload_flags::OBSERVE,
        adopt_until_ns: 0,
        learns: true,
    };
    let _ = bench.engine.handle(Input::AddWorkload(spec), at(0));
    let credential = bench.issue("cli", at(1));
    let id = bench.engine.workload_id("seen").unwrap();
    let held = Sent::call(credential.bytes()).held(id, bench.local_handle("seen"), at(1));
    let outputs = bench.engine.handle(Input::Held(held), at(1));
    let outputs = bench.run(outputs, at(1));
    let (key, _) = verdicts(&outputs)[0];
    assert_eq!(key.port, 80, "the answer is for this port alone");
    let report = bench.engine.learned().report();
    assert_eq!((report.flows[0].port, report.flows[0].action.as_str()), (80, "accept"));
    assert!(report.flows[0].to.ends_with("/seen"));
    let _ = bench.engine.handle(Input::Tick, at(2));
    assert_eq!(bench.engine.learned().report().workloads.len(), 1, "only one of the two learns");

    // A flow that lives on is seen in the next hour too, though nobody asks.
    let asked = Question::from(&key);
    let _ = bench.engine.handle(Input::InUse(vec![asked]), at(1 + 3600));
    assert_eq!(bench.engine.learned().report().flows[0].when.hours.count(), 2);
}

#[test]
fn who_learns_is_told_of_peers_without_identity_that_no_rule_allows() {
    let mut bench = Bench::new("permit (principal, action, resource);");
    let flags = workload_flags::OBSERVE;
    let spec = WorkloadSpec { identity: identity("seen"), flags, adopt_until_ns: 0, learns: true };
    let _ = bench.engine.handle(Input::AddWorkload(spec), at(0));
    let [seen, web] = ["seen", "web"].map(|name| bench.engine.workload_id(name).unwrap());
    let opened = |bench: &mut Bench, workload, protocol, port, now| {
        let key =
            FlowKey { workload, protocol, remote: mapped(DNS), ..flow(0, port, workload).key };
        let flow = LiveFlow { key, direction: direction::EGRESS, ..flow(0, port, workload) };
        assert!(bench.engine.handle(Input::Opened(flow), now).is_empty());
    };
    let told = |bench: &Bench| -> Vec<(String, u16)> {
        let report = bench.engine.learned().report();
        report.addresses.iter().map(|one| (one.direction.to_string(), one.port)).collect()
    };
    for workload in [web, 999] {
        opened(&mut bench, workload, 17, 53, at(1));
    }
    assert_eq!(told(&bench), [], "neither learns");
    opened(&mut bench, seen, 17, 53, at(1));
    opened(&mut bench, seen, 47, 9, at(1));
    assert_eq!(told(&bench), [("egress".to_owned(), 0), ("egress".to_owned(), 53)]);

    bench.engine.set_learned(Learned::default());
    let changed = with_network(&permit("cli"), vec![rule("dns")]);
    let _ = bench.engine.handle(Input::SetPolicy { policy: changed, live: Vec::new() }, at(2));
    opened(&mut bench, seen, 17, 53, at(3));
    opened(&mut bench, seen, 17, 54, at(3));
    assert_eq!(told(&bench), [("egress".to_owned(), 54)], "a rule allows the other");

    // What is open already is found by looking; who does not learn is not looked at.
    let live = |workload, port| {
        let key =
            FlowKey { workload, protocol: 17, remote: mapped(DNS), ..flow(0, port, workload).key };
        LiveFlow { key, direction: direction::EGRESS, ..flow(0, port, workload) }
    };
    let flows = vec![live(seen, 53), live(seen, 55), live(web, 56)];
    assert_eq!(bench.engine.learning(), [seen].into());
    assert!(bench.engine.handle(Input::PlainInUse(flows), at(4)).is_empty());
    assert_eq!(told(&bench), [54, 55].map(|port| ("egress".to_owned(), port)));
}

#[test]
fn what_was_learned_is_told_with_what_is_configured() {
    let mut bench = Bench::new(&permit("cli"));
    let flags = workload_flags::OBSERVE;
    let spec = WorkloadSpec { identity: identity("seen"), flags, adopt_until_ns: 0, learns: true };
    let _ = bench.engine.handle(Input::AddWorkload(spec), at(0));
    let seen = bench.engine.workload_id("seen").unwrap();
    for port in [53, 54] {
        let key =
            FlowKey { workload: seen, protocol: 17, remote: mapped(DNS), ..flow(0, 1, seen).key };
        let flow = LiveFlow { key, direction: direction::EGRESS, ..flow(0, port, seen) };
        let _ = bench.engine.handle(Input::Opened(flow), at(1));
    }
    let told = |bench: &Bench| {
        let report = bench.engine.learned_report();
        let allowed: Vec<bool> = report.addresses.iter().map(|one| one.allowed).collect();
        (allowed, report.configured.unwrap())
    };
    let (allowed, configured) = told(&bench);
    assert_eq!((allowed, configured.workloads.len()), (vec![false, false], 2));
    let changed = with_network(&permit("cli"), vec![rule("dns")]);
    let _ = bench.engine.handle(Input::SetPolicy { policy: changed, live: Vec::new() }, at(2));
    let (allowed, configured) = told(&bench);
    assert_eq!((allowed, configured.network_rules), (vec![true, false], vec!["dns".to_owned()]));
    let kept = bench.engine.learned().report();
    assert!(kept.configured.is_none() && kept.addresses.iter().all(|one| !one.allowed));
}

#[test]
fn who_is_watched_is_noted_anew_when_everything_is_forgotten() {
    let mut bench = Bench::new(&permit("cli"));
    let flags = workload_flags::OBSERVE;
    let spec = WorkloadSpec { identity: identity("seen"), flags, adopt_until_ns: 0, learns: true };
    let _ = bench.engine.handle(Input::AddWorkload(spec), at(0));
    let _ = bench.engine.handle(Input::Tick, at(1));
    bench.engine.set_learned(Learned::default());
    let _ = bench.engine.handle(Input::Tick, at(2));
    assert_eq!(bench.engine.learned().report().workloads.len(), 1);
}

#[test]
fn the_mesh_is_written_for_each_parity() {
    let mesh = Mesh {
        networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        virtual_addresses: vec!["10.96.0.0/12".parse().unwrap()],
    };
    let mut bench = Bench::with(&permit("cli"), trusted(DAY), Settings { mesh, ..settings() });
    let outputs = bench.set_policy(&permit("cli"), Vec::new(), at(1));
    let Output::InstallNetworks(prefixes) = &outputs[position(&outputs, "networks")] else {
        panic!()
    };
    let seen: Vec<(u32, u32, u32)> =
        prefixes.iter().map(|(bits, key, value)| (*bits, key.rule_set, value.flags)).collect();
    let (mesh, both) = (network_flags::MESH, network_flags::MESH | network_flags::VIRTUAL);
    assert_eq!(seen, [(32 + 96 + 8, 0, mesh), (32 + 96 + 12, 0, both), (32 + 8, 0, mesh)]);
}

#[test]
fn a_held_proof_is_answered_for_the_peer_that_the_kernel_names() {
    let mut bench = Bench::new(&permit("cli"));
    let (cli, _) = bench.meet("cli", at(1));
    bench.meet("other", at(1));
    let text = r#"permit (principal, action, resource)
        when { principal.name == "cli" && context.port == 80 };"#;
    bench.set_policy(text, Vec::new(), at(2));
    let proof = Sent { flags: 0x10, payload: Vec::new(), ..Sent::call(&[]) };
    let peer = verified(&bench, &cli, at(2)).identity_id;
    let held = HeldFrame { peer, ..bench.held(&proof, at(2)) };
    let outputs = bench.engine.handle(Input::Held(held), at(2));
    assert_eq!(kinds(&outputs), ["verdict", "reinject"]);
    assert_eq!((verdicts(&outputs)[0].0.port, verdicts(&outputs)[0].0.peer), (80, peer));
    assert!(bench.give(&proof, at(3)).is_empty(), "the kernel knew no peer");
    assert_eq!(bench.refused(Refused::UnknownPeer), 1);
}
