//! A restart: what is pinned goes on, known or not.

use enforcer_common::abi::{PeerKey, WorkloadValue};

use super::*;

/// The kernel's maps as far as an engine writes them.
#[derive(Default)]
struct Kernel {
    epoch: u32,
    workloads: BTreeMap<u16, WorkloadValue>,
    credentials: BTreeMap<Handle, u64>,
    peers: Vec<AdoptedPeer>,
    verdicts: Vec<(VerdictKey, VerdictValue)>,
}

impl Kernel {
    fn apply(&mut self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::InstallCredential(handle, value) => {
                    self.credentials.insert(*handle, value.0.deadline_ns);
                }
                Output::RemoveCredential(handle) => drop(self.credentials.remove(handle)),
                Output::InstallWorkload(id, value) => {
                    self.workloads.insert(*id, **value);
                }
                Output::InstallPeer(key, value) => self.peers.push(AdoptedPeer {
                    key: *key,
                    hash: value.hash,
                    identity: value.identity,
                    deadline_ns: value.deadline_ns,
                }),
                Output::RemovePeer(key) => self.peers.retain(|peer| peer.key != *key),
                Output::InstallVerdict(key, value) => {
                    self.verdicts.retain(|(one, _)| one != key);
                    self.verdicts.push((*key, *value));
                }
                Output::RemoveVerdict(key) => self.verdicts.retain(|(one, _)| one != key),
                Output::FlipEpoch(epoch) => self.epoch = *epoch,
                _ => {}
            }
        }
    }

    fn adopted(&self, remembered: Vec<Vec<u8>>) -> Input {
        Input::Adopt(Box::new(Adopted {
            epoch: self.epoch,
            workloads: self.workloads.iter().map(|(id, value)| (*id, *value)).collect(),
            credentials: self.credentials.iter().map(|(handle, end)| (*handle, *end)).collect(),
            peers: self.peers.clone(),
            verdicts: self.verdicts.clone(),
            networks: Vec::new(),
            remembered,
            hosts: Vec::new(),
        }))
    }
}

/// A first daemon that met `cli`, its kernel, and what it remembered.
fn before() -> (Bench, Kernel, LocalCredential, Vec<Vec<u8>>) {
    let mut kernel = Kernel::default();
    let trusted = trusted(DAY);
    let verifier = Arc::new(Verifier::new(trusted.trust.clone()));
    let engine = Engine::new(settings(), Arc::clone(&trusted.ours), verifier);
    let mut bench = Bench { engine, trusted };
    kernel.apply(&bench.add("other", at(0)));
    kernel.apply(&bench.add("web", at(0)));
    kernel.apply(&bench.set_policy(&permit("cli"), Vec::new(), at(0)));
    let (cli, outputs) = bench.meet("cli", at(1));
    kernel.apply(&outputs);
    let remembered = bench.engine.remembered().iter().map(|one| one.bytes()).collect();
    (bench, kernel, cli, remembered)
}

fn restart(old: Bench) -> Bench {
    let verifier = Arc::new(Verifier::new(old.trusted.trust.clone()));
    let engine = Engine::new(settings(), Arc::clone(&old.trusted.ours), verifier);
    Bench { engine, trusted: old.trusted }
}

#[test]
fn a_restart_with_a_policy_change_loses_no_unchanged_verdict_and_no_known_peer() {
    let (old, mut kernel, cli, remembered) = before();
    let id = old.engine.workload_id("web").unwrap();
    let mut bench = restart(old);
    let held_before = kernel.workloads[&id].credential;
    kernel.apply(&bench.engine.handle(kernel.adopted(remembered), at(10)));
    let added = bench.add("web", at(10));
    assert_eq!(bench.engine.workload_id("web"), Some(id), "the id of before");
    assert_eq!(kinds(&added), ["workload", "credential", "verify"], "paired before it is used");
    let Output::InstallWorkload(_, value) = &added[0] else { panic!() };
    assert_eq!(value.credential, held_before);
    let added = bench.run(added, at(10));
    kernel.apply(&added);
    let now_used = kernel.workloads[&id].credential;
    assert_ne!(now_used, held_before);
    assert!(kernel.peers.iter().any(|p| (p.key.local, p.key.remote) == (now_used, cli.handle())));
    let outputs = bench.set_policy(&permit("cli"), vec![flow(cli.identity_id(), 80, id)], at(10));
    assert!(!kinds(&outputs).contains(&"sweep"));
    kernel.apply(&outputs);
    assert_eq!(kernel.epoch, 2);
    assert_eq!(kernel.verdicts.len(), 1);
    assert_eq!((kernel.verdicts[0].0.epoch, kernel.verdicts[0].0.peer), (2, cli.identity_id()));
    let gone = bench.engine.finish_adoption();
    let other = gone.iter().find_map(|output| match output {
        Output::RemoveWorkload(id) => Some(*id),
        _ => None,
    });
    assert!(other.is_some_and(|other| other != id), "the workload nobody claimed");
}

#[test]
fn who_is_not_remembered_is_asked_again_and_its_flows_end_with_the_next_policy() {
    let (old, mut kernel, cli, _) = before();
    let id = old.engine.workload_id("web").unwrap();
    let mut bench = restart(old);
    let adopted = bench.engine.handle(kernel.adopted(Vec::new()), at(10));
    assert_eq!(kinds(&adopted), ["-peer"]);
    kernel.apply(&adopted);
    assert_eq!(kernel.verdicts.len(), 1, "the verdict holds until then");
    bench.add("web", at(10));
    let outputs = bench.set_policy(&permit("cli"), vec![flow(cli.identity_id(), 80, id)], at(10));
    let Some(Output::SweepFlows(sweep)) = outputs.last() else { panic!("{:?}", kinds(&outputs)) };
    assert_eq!(sweep.flows.len(), 1);
    let again = bench.give(&Sent::call(cli.bytes()), at(11));
    assert_eq!(kinds(&bench.run(again, at(11))), ["peer", "verdict", "reinject"]);
}

#[test]
fn restarts_without_end_leave_a_bounded_number_of_credentials_and_pairs() {
    let (mut bench, mut kernel, cli, remembered) = before();
    for second in 10..60 {
        let shown = bench.local_handle("web");
        bench = restart(bench);
        kernel.apply(&bench.engine.handle(kernel.adopted(remembered.clone()), at(second)));
        for name in ["other", "web"] {
            let added = bench.add(name, at(second));
            kernel.apply(&bench.run(added, at(second)));
        }
        kernel.apply(&bench.set_policy(&permit("cli"), Vec::new(), at(second)));
        // Attempts may be frozen on what was shown a moment ago.
        assert!(kernel.credentials.contains_key(&shown), "at {second}");
        // For each workload: those of earlier daemons, the one shown last, and the new one.
        assert!(
            kernel.credentials.len() <= 2 * (3 + 2),
            "{} at {second}",
            kernel.credentials.len()
        );
        assert!(
            kernel.peers.len() <= kernel.credentials.len(),
            "{} at {second}",
            kernel.peers.len()
        );
        let key = PeerKey { local: bench.local_handle("web"), remote: cli.handle() };
        assert!(kernel.peers.iter().any(|peer| peer.key == key), "at {second}");
    }
    for second in [60, 200] {
        kernel.apply(&bench.engine.handle(Input::Tick, at(second)));
    }
    assert_eq!(kernel.credentials.len(), 4, "no attempt takes longer");
}

#[test]
fn what_was_revoked_meanwhile_is_not_adopted() {
    let (old, kernel, cli, remembered) = before();
    let mut revocations = crate::identity::Revocations::default();
    revocations.credentials.insert(cli.hash());
    let trust = old.trusted.trust.clone().revoking(revocations).unwrap();
    let issuer = Arc::clone(&old.trusted.ours);
    let mut engine = Engine::new(settings(), issuer, Arc::new(Verifier::new(trust)));
    assert_eq!(kinds(&engine.handle(kernel.adopted(remembered), at(10))), ["-peer"]);
}

#[test]
fn a_verdict_of_an_aborted_change_is_cleared_away() {
    let (old, mut kernel, _, remembered) = before();
    let (key, value) = kernel.verdicts[0];
    kernel.verdicts.push((VerdictKey { epoch: 7, ..key }, value));
    let mut bench = restart(old);
    let outputs = bench.engine.handle(kernel.adopted(remembered), at(10));
    let [Output::RemoveVerdict(gone)] = &outputs[..] else { panic!("{:?}", kinds(&outputs)) };
    assert_eq!(gone.epoch, 7);
}

#[test]
fn a_call_to_an_adopted_credential_is_answered_with_the_next_one() {
    let (old, mut kernel, _, remembered) = before();
    let id = old.engine.workload_id("web").unwrap();
    let mut bench = restart(old);
    kernel.apply(&bench.engine.handle(kernel.adopted(remembered), at(10)));
    let _pairing = bench.add("web", at(10));
    bench.set_policy(&permit("cli"), Vec::new(), at(10));
    let adopted = kernel.workloads[&id].credential;
    let stranger = bench.issue("cli", at(10));
    let held = Sent::call(stranger.bytes()).held(id, adopted, at(10));
    let outputs = bench.engine.handle(Input::Held(held), at(10));
    assert_eq!(kinds(&outputs), ["workload", "verify"], "put in force at once");
    let outputs = bench.run(outputs, at(10));
    let peer = outputs.iter().find_map(|output| match output {
        Output::InstallPeer(key, _) => Some(*key),
        _ => None,
    });
    assert_ne!(peer.unwrap().local, adopted);
    assert_eq!(peer.unwrap().local, bench.local_handle("web"));
    assert_eq!(kinds(&outputs).last(), Some(&"reinject"));
}

#[test]
fn an_answer_to_a_call_of_an_adopted_credential_has_the_call_begin_anew() {
    let (old, mut kernel, _, remembered) = before();
    let id = old.engine.workload_id("web").unwrap();
    let mut bench = restart(old);
    kernel.apply(&bench.engine.handle(kernel.adopted(remembered), at(10)));
    let _pairing = bench.add("web", at(10));
    let adopted = kernel.workloads[&id].credential;
    let stranger = bench.issue("cli", at(10));
    let held = Sent::answer(stranger.bytes()).held(id, adopted, at(10));
    let key = held.key;
    let outputs = bench.engine.handle(Input::Held(held.clone()), at(10));
    assert_eq!(kinds(&outputs), ["workload", "-attempt"], "the next credential is in force before");
    assert!(matches!(outputs[1], Output::ForgetAttempt(gone) if gone == key));
    // One of the current credential is bound to what can be paired, and stays.
    let current = bench.local_handle("web");
    let held = HeldFrame { local_handle: current, ..held };
    let outputs = bench.engine.handle(Input::Held(held), at(10));
    assert_eq!(kinds(&outputs), ["verify"]);
}
