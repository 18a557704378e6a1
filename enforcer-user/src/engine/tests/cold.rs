//! First contact: from a held segment to a verdict, or to nothing at all.

use enforcer_common::abi::{ReinjectTrailer, verdict_action};
use proptest::prelude::*;

use super::*;
use crate::engine::negative::REFUSED_SECONDS;
use crate::identity::pair_keys;

#[test]
fn a_first_call_is_verified_installed_and_sent_on() {
    let mut bench = Bench::new(&permit("cli"));
    let credential = bench.issue("cli", at(1));
    let sent = Sent::call(credential.bytes());
    let first = bench.give(&sent, at(1));
    assert_eq!(kinds(&first), ["verify"]);
    let outputs = bench.run(first, at(1));
    assert_eq!(kinds(&outputs), ["peer", "verdict", "reinject"]);
    let Output::Reinject { to, frame } = &outputs[2] else { panic!() };
    assert_eq!((*to, frame), (ReinjectTrailer { ifindex: 3, ingress: 0, mark: 0 }, &sent.frame()));
    let (key, value) = verdicts(&outputs)[0];
    assert_eq!((key.port, key.direction, key.epoch), (0, direction::INGRESS, 1));
    assert_eq!(value.action, verdict_action::ALLOW);
    assert_eq!(value.deadline_ns, at(3600).boot_ns, "the workload's own credential ends first");
}

#[test]
fn both_sides_compute_one_pair_key() {
    let mut bench = Bench::new(&permit("cli"));
    let (credential, outputs) = bench.meet("cli", at(1));
    let Output::InstallPeer(key, value) = &outputs[0] else { panic!() };
    let web = bench.engine.workloads.named("web").unwrap();
    let own = web.current().unwrap().secret.clone().unwrap();
    let seen = verified(&bench, &own, at(1));
    let theirs = pair_keys(&credential, &seen).unwrap();
    let words = |bytes: &[u8; 32]| -> Vec<u32> {
        bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
    };
    assert_eq!(value.as_responder.to_vec(), words(theirs.as_initiator.as_bytes()));
    assert_eq!(value.as_initiator.to_vec(), words(theirs.as_responder.as_bytes()));
    assert_eq!((key.local, key.remote), (own.handle(), credential.handle()));
    assert_eq!(usize::from(value.length), credential.bytes().len());
    assert_eq!(value.sum, enforcer_common::wire::checksum::sum_bytes(credential.bytes()));
    assert_eq!((value.hash, value.identity), (credential.hash(), credential.identity_id()));
}

#[test]
fn an_answer_is_judged_as_egress_with_its_port() {
    let text = r#"permit (principal, action, resource)
        when { principal.name == "web" && resource.name == "db" && context.port == 8443 };"#;
    let mut bench = Bench::new(text);
    let credential = bench.issue("db", at(1));
    let outputs = bench.give(&Sent::answer(credential.bytes()), at(1));
    let outputs = bench.run(outputs, at(1));
    assert_eq!(kinds(&outputs), ["peer", "verdict", "reinject"]);
    let (key, value) = verdicts(&outputs)[0];
    assert_eq!(
        (key.port, key.direction),
        (8443, direction::EGRESS),
        "the port that the server sees"
    );
    assert_eq!(value.action, verdict_action::ALLOW);
}

#[test]
fn a_denied_caller_gets_a_short_denial_and_the_kernel_refuses_it() {
    let mut bench = Bench::new(&permit("other"));
    let (_, outputs) = bench.meet("cli", at(1));
    assert_eq!(kinds(&outputs), ["peer", "verdict", "log", "reinject"]);
    let (_, value) = verdicts(&outputs)[0];
    assert_eq!(value.action, verdict_action::DENY);
    assert!(value.deadline_ns <= at(1 + 10).boot_ns);
    let Output::Log(denial) = &outputs[2] else { panic!() };
    assert_eq!(denial.peer, "spiffe://example.org/acme/cli");
    assert_eq!((denial.direction, denial.port), ("ingress", 80));
}

#[test]
fn a_known_peer_needs_no_second_verification() {
    let mut bench = Bench::new(&permit("cli"));
    let (credential, _) = bench.meet("cli", at(1));
    let again = Sent { local_port: 81, ..Sent::call(credential.bytes()) };
    let mut held = bench.held(&again, at(2));
    held.time_ns = at(0).boot_ns;
    let outputs = bench.engine.handle(Input::Held(held), at(2));
    assert_eq!(kinds(&outputs), ["verdict", "reinject"]);
    assert_eq!(bench.done(Done::Verifications), 1);
}

#[test]
fn what_the_kernel_lost_is_computed_again() {
    let mut bench = Bench::new(&permit("cli"));
    let (credential, _) = bench.meet("cli", at(1));
    let outputs = bench.give(&Sent::call(credential.bytes()), at(2));
    assert_eq!(kinds(&outputs), ["verify"]);
    assert_eq!(kinds(&bench.run(outputs, at(2))), ["peer", "verdict", "reinject"]);
    assert_eq!(bench.done(Done::Verified), 1, "paired again, not verified again");
}

#[test]
fn segments_of_one_credential_share_one_verification() {
    let mut bench = Bench::new(&permit("cli"));
    let credential = bench.issue("cli", at(1));
    let mut jobs = Vec::new();
    for n in 0..20u16 {
        let sent = Sent { remote_port: 40_000 + n, ..Sent::call(credential.bytes()) };
        jobs.extend(bench.give(&sent, at(1)));
    }
    assert_eq!(kinds(&jobs), ["verify"]);
    assert_eq!(bench.done(Done::Coalesced), MAX_WAITERS as u64 - 1);
    assert_eq!(bench.refused(Refused::WaiterLimit), 20 - MAX_WAITERS as u64);
    let outputs = bench.run(jobs, at(1));
    assert_eq!(kinds(&outputs).iter().filter(|kind| **kind == "reinject").count(), MAX_WAITERS);
    assert_eq!(kinds(&outputs).iter().filter(|kind| **kind == "peer").count(), 1);
}

#[test]
fn two_workloads_that_wait_for_one_credential_get_a_key_each() {
    let mut bench = Bench::new(&permit("cli"));
    bench.add("api", at(0));
    let credential = bench.issue("cli", at(1));
    let sent = Sent::call(credential.bytes());
    let mut jobs = bench.give(&sent, at(1));
    let api = bench.engine.workload_id("api").unwrap();
    let held = sent.held(api, bench.local_handle("api"), at(1));
    jobs.extend(bench.engine.handle(Input::Held(held), at(1)));
    assert_eq!(kinds(&jobs), ["verify"]);
    let outputs = bench.run(jobs, at(1));
    assert_eq!(kinds(&outputs), ["peer", "verdict", "reinject", "peer", "verdict", "reinject"]);
    assert_eq!(bench.done(Done::Verified), 1);
}

#[test]
fn garbage_is_verified_once_and_then_remembered_for_a_while() {
    let mut bench = Bench::new(&permit("cli"));
    let sent = Sent::call(&[0xd2; 300]);
    let jobs = bench.give(&sent, at(1));
    assert_eq!(kinds(&jobs), ["verify"]);
    assert_eq!(kinds(&bench.run(jobs, at(1))), ["refusal"]);
    assert!(bench.give(&sent, at(2)).is_empty());
    assert_eq!(bench.refused(Refused::Negative), 1);
    assert_eq!(kinds(&bench.give(&sent, at(1 + REFUSED_SECONDS))), ["verify"]);
}

#[test]
fn a_handle_of_another_credential_is_refused_before_any_work() {
    let mut bench = Bench::new(&permit("cli"));
    let credential = bench.issue("cli", at(1));
    let sent = Sent { handle: [1; 8], ..Sent::call(credential.bytes()) };
    assert!(bench.give(&sent, at(1)).is_empty());
    assert_eq!(bench.refused(Refused::HandleMismatch), 1);
}

#[test]
fn a_credential_of_another_authority_never_yields_an_install() {
    let mut bench = Bench::new(&permit("cli"));
    let stranger = trusted(DAY).theirs;
    let credential = stranger.issue(&identity("cli"), UNIX, LIMITS).unwrap();
    let jobs = bench.give(&Sent::call(credential.bytes()), at(1));
    let outputs = bench.run(jobs, at(1));
    let [Output::LogRefusal(refusal)] = &outputs[..] else { panic!("{:?}", kinds(&outputs)) };
    assert!(refusal.because.contains("authority that is not trusted"), "{}", refusal.because);
    assert_eq!(bench.refused(Refused::Credential), 1);
    let names: Vec<String> = bench.engine.counters().all().map(|(name, _)| name).collect();
    assert!(names.contains(&"credential_refused_wrong_authority".to_owned()), "{names:?}");
}

#[test]
fn jobs_are_bounded_and_one_source_takes_only_its_share() {
    let mut bench = Bench::new(&permit("cli"));
    for n in 0..u16::try_from(MAX_JOBS_A_SOURCE).unwrap() + 5 {
        let mut garbage = vec![0xd2; 300];
        garbage[10..12].copy_from_slice(&n.to_be_bytes());
        bench.give(&Sent::call(&garbage), at(1));
    }
    assert_eq!(bench.engine.status().jobs, MAX_JOBS_A_SOURCE);
    assert_eq!(bench.refused(Refused::SourceLimit), 5);
    let credential = bench.issue("cli", at(1));
    let other = Sent { source: [203, 0, 113, 9], ..Sent::call(credential.bytes()) };
    assert_eq!(kinds(&bench.give(&other, at(1))), ["verify"]);
    for n in 0..2 * u16::try_from(MAX_JOBS).unwrap() {
        let mut garbage = vec![0xd2; 300];
        garbage[20..22].copy_from_slice(&n.to_be_bytes());
        let [_, net] = n.to_be_bytes();
        bench.give(&Sent { source: [203, 0, net, 9], ..Sent::call(&garbage) }, at(1));
    }
    assert_eq!(bench.engine.status().jobs, MAX_JOBS);
    assert!(bench.refused(Refused::JobLimit) > 0);
}

#[test]
fn one_segment_comes_back_twice_a_second_at_most() {
    let mut bench = Bench::new(&permit("cli"));
    let (credential, _) = bench.meet("cli", at(1));
    let sent = Sent::call(credential.bytes());
    let mut held = bench.held(&sent, at(1));
    held.time_ns = 0;
    let counts: Vec<usize> = (0..3)
        .map(|_| bench.engine.handle(Input::Held(held.clone()), at(1)))
        .map(|outputs| kinds(&outputs).iter().filter(|kind| **kind == "reinject").count())
        .collect();
    assert_eq!(counts, [1, 0, 0]);
    assert_eq!(bench.refused(Refused::Loop), 2);
}

#[test]
fn what_the_kernel_says_must_be_what_the_frame_says() {
    let mut bench = Bench::new(&permit("cli"));
    let credential = bench.issue("cli", at(1));
    let good = bench.held(&Sent::call(credential.bytes()), at(1));
    for bad in [
        HeldFrame { direction: direction::EGRESS, ..good.clone() },
        HeldFrame { port: 81, ..good.clone() },
        HeldFrame { transport_offset: 54, ..good.clone() },
        HeldFrame { key: FlowKey { remote: mapped(LOCAL), ..good.key }, ..good.clone() },
        HeldFrame { key: FlowKey { workload: 9, ..good.key }, ..good.clone() },
    ] {
        assert!(bench.engine.handle(Input::Held(bad), at(1)).is_empty());
    }
    assert_eq!(bench.refused(Refused::Inconsistent), 5);
    let stranger = HeldFrame { local_handle: [7; 8], ..good };
    assert!(bench.engine.handle(Input::Held(stranger), at(1)).is_empty());
    assert_eq!(bench.refused(Refused::NoLocalCredential), 1);
}

#[test]
fn a_partial_checksum_is_completed_and_a_wrong_one_stays_wrong() {
    let sent = Sent::call(&[1; 100]);
    let whole = sent.frame();
    let packet = segment::read(&whole).unwrap().packet;
    let segment_bytes = u16::try_from(whole.len() - 34).unwrap();
    let mut pseudo = Vec::from(REMOTE);
    pseudo.extend(LOCAL);
    pseudo.extend([0, 6]);
    pseudo.extend(segment_bytes.to_be_bytes());
    let partial_sum = enforcer_common::wire::checksum::sum_bytes(&pseudo).to_ne_bytes();
    let mut partial = whole.clone();
    partial[50..52].copy_from_slice(&partial_sum);
    segment::complete_checksum(&mut partial, &packet);
    assert_eq!(partial, whole);
    let mut damaged = whole;
    damaged[60] ^= 1;
    let before = damaged.clone();
    segment::complete_checksum(&mut damaged, &packet);
    assert_eq!(damaged, before);
}

#[test]
fn a_flood_of_one_node_displaces_only_its_own_peers() {
    let mut bench = Bench::with(&permit("cli"), trusted(DAY), Settings { peers: 8, ..settings() });
    let other = bench.trusted.ours.issue(&identity("cli"), UNIX, LIMITS).unwrap();
    let outputs = bench.give(&Sent::call(other.bytes()), at(1));
    bench.run(outputs, at(1));
    for _ in 0..20 {
        let (_, outputs) = bench.meet("cli", at(2));
        let gone = outputs.iter().find_map(|output| match output {
            Output::RemovePeer(key) => Some(key.remote),
            _ => None,
        });
        assert_ne!(gone, Some(other.handle()));
    }
    assert_eq!(bench.engine.status().peers, 8);
    assert_eq!(bench.done(Done::PeersDisplaced), 13);
}

fn install(output: &Output) -> bool {
    matches!(kind(output), "peer" | "verdict" | "reinject")
}

proptest! {
    #[test]
    fn arbitrary_frames_never_panic_and_never_install(
        bytes in prop::collection::vec(any::<u8>(), 0..1600),
        flags in prop_oneof![Just(2u8), Just(0x12), Just(0x10), any::<u8>()],
        whole: bool,
    ) {
        let mut bench = Bench::new(&permit("cli"));
        let mut sent = Sent::call(&bytes[..bytes.len().min(1200)]);
        sent.flags = flags;
        let mut held = bench.held(&sent, at(1));
        if !whole { held.frame = bytes; }
        let outputs = bench.engine.handle(Input::Held(held), at(1));
        let outputs = bench.run(outputs, at(1));
        prop_assert!(!outputs.iter().any(install), "{:?}", kinds(&outputs));
    }

    #[test]
    fn a_damaged_credential_never_installs(at_byte in 0usize..2000, bit in 0u8..8) {
        let mut bench = Bench::new(&permit("cli"));
        let mut bytes = bench.issue("cli", at(1)).bytes().to_vec();
        let place = at_byte % bytes.len();
        bytes[place] ^= 1 << bit;
        let outputs = bench.give(&Sent::call(&bytes), at(1));
        let outputs = bench.run(outputs, at(1));
        prop_assert!(!outputs.iter().any(install), "{:?}", kinds(&outputs));
    }
}

#[test]
fn a_rehearsal_is_a_verification_that_nothing_follows_from() {
    let mut bench = Bench::new(&permit("cli"));
    let job = bench.engine.rehearse(at(1)).expect("a workload with a credential");
    let result = job.run();
    assert!(format!("{result:?}").contains("Verified"), "{result:?}");
    assert!(bench.engine.handle(Input::Verified(result), at(1)).is_empty());
    assert_eq!(bench.done(Done::Verified), 0);
    // The next job has a number of its own.
    bench.meet("cli", at(1));
}
