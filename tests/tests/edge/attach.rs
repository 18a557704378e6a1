//! Programs on interfaces: attached first, swapped in place, watched, taken off.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use enforcer_tests::need;
use enforcer_user::datapath::{
    Datapath, DatapathError, Health, Mechanism, address, detach, object,
};

use crate::place::{
    PATIENCE, WORKLOAD, WORKLOAD_ID, config, health, ifindex, ip, isolated, pair, start, start_by,
};

/// The programs on one hook of `near`, the first in front.
fn program_ids(hook: TcAttachType) -> Vec<u32> {
    let (_, chain) = SchedClassifier::query_tcx("near", hook).unwrap();
    chain.iter().map(ProgramInfo::id).collect()
}

fn all_program_ids() -> Vec<u32> {
    [program_ids(TcAttachType::Ingress), program_ids(TcAttachType::Egress)].concat()
}

#[test]
fn a_restart_swaps_the_programs_and_detach_leaves_nothing() {
    isolated(|root, _| {
        let config = config(root, WORKLOAD);
        pair();
        let (first, events) = start(&config);
        assert_eq!(first.mechanism(), Mechanism::Tcx);
        assert_eq!(health(&first), Health::InPlace);
        let old = all_program_ids();
        assert_eq!(old.len(), 2);
        assert!(detach(&config).unwrap_err().to_string().contains("another process"));
        drop((first, events));
        assert_eq!(all_program_ids(), old, "the programs stay while no daemon runs");

        let (second, events) = start(&config);
        assert_eq!(health(&second), Health::InPlace);
        let new = all_program_ids();
        assert_eq!(new.len(), 2);
        assert!(new.iter().all(|id| !old.contains(id)), "{old:?} {new:?}");
        drop((second, events));

        let report = detach(&config).unwrap();
        assert_eq!(report.removed.iter().filter(|line| line.starts_with("link")).count(), 2);
        assert!(all_program_ids().is_empty());
        assert!(!config.pin_dir().exists());
        assert!(detach(&config).unwrap().removed.is_empty());
    });
}

#[test]
fn what_no_workload_claims_any_more_is_taken_off() {
    isolated(|root, _| {
        pair();
        drop(start(&config(root, WORKLOAD)));
        let (mut datapath, _events) = Datapath::open(&config(root, "")).unwrap();
        assert_eq!(all_program_ids().len(), 2);
        let removed = datapath.finish_start().unwrap();
        assert_eq!(removed.len(), 2, "{removed:?}");
        assert!(all_program_ids().is_empty());
        assert!(datapath.maps.interfaces.entries().unwrap().is_empty());
    });
}

#[test]
fn the_watchdog_tells_what_happened_to_the_programs() {
    isolated(|root, _| {
        let config = config(root, WORKLOAD);
        pair();
        let (mut datapath, _events) = start(&config);
        let (other, by) = another_program_in_front();
        assert_eq!(health(&datapath), Health::Displaced { program: "from_workload", by });
        let again = datapath.add_workload(WORKLOAD_ID, &config.workloads[0]);
        assert!(matches!(again, Err(DatapathError::Displaced { .. })), "not ready: {again:?}");
        drop(other);
        assert_eq!(health(&datapath), Health::InPlace);

        let link = format!("link_{}_to", ifindex("near"));
        enforcer_tests::stranger::detach_link(&config.pin_dir().join(link)).unwrap();
        wait_until(&datapath, &Health::Detached { program: "to_workload" });

        ip("link delete near");
        assert_eq!(health(&datapath), Health::InterfaceGone);
        pair();
        let recreated = ifindex("near");
        assert_eq!(health(&datapath), Health::InterfaceRecreated { ifindex: recreated });
    });
}

/// The kernel lets go of a link some time after its last pin is removed (an RCU grace period and a work queue).
fn wait_until(datapath: &Datapath, expected: &Health) {
    let end = Instant::now() + PATIENCE;
    while health(datapath) != *expected {
        assert!(Instant::now() < end, "{:?} instead of {expected:?}", health(datapath));
        thread::sleep(Duration::from_millis(10));
    }
}

/// Puts a program in front of what leaves by `near`, for as long as the first of what is returned lives; the second
/// is what it is called by.
fn another_program_in_front() -> (Ebpf, String) {
    let name = "reinject";
    let mut loader = EbpfLoader::new();
    for table in ["FLOWS4", "FLOWS6", "PEERS", "VERDICTS"] {
        loader.map_max_entries(table, 64);
    }
    let mut other = loader.load(object()).unwrap();
    let program: &mut SchedClassifier = other.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap();
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    program.attach_with_options("near", TcAttachType::Egress, first).unwrap();
    let by = format!("number {}", program.info().unwrap().id());
    (other, by)
}

#[test]
fn filters_of_a_clsact_qdisc_do_the_same_on_older_kernels() {
    isolated(|root, _| {
        let config = config(root, WORKLOAD);
        pair();
        let (datapath, events) = start_by(&config, Mechanism::Clsact, 0);
        let attachment = datapath.attachments()[&WORKLOAD_ID].clone();
        assert_eq!(attachment.check_first().unwrap(), Health::InPlace);
        drop((datapath, events));
        assert_eq!(attachment.check_first().unwrap(), Health::InPlace, "they stay");
        let old = filters();

        let (datapath, events) = start_by(&config, Mechanism::Clsact, 0);
        let swapped = datapath.attachments()[&WORKLOAD_ID].clone();
        assert_eq!(swapped.check_first().unwrap(), Health::InPlace);
        let new = filters();
        assert_eq!((old.len(), new.len()), (2, 2), "one for each hook: {old:?} {new:?}");
        assert!(new.iter().all(|filter| !old.contains(filter)), "{old:?} {new:?}");
        drop((datapath, events));

        detach(&config).unwrap();
        assert_eq!(swapped.check_first().unwrap(), Health::Detached { program: "from_workload" });
        let left = tc("qdisc show dev near");
        assert!(!left.contains("clsact"), "{left}");
    });
}

/// The filters on both hooks of `near`, as `tc` prints them, with the programs' numbers.
fn filters() -> Vec<String> {
    let shown = ["ingress", "egress"].map(|hook| tc(&format!("filter show dev near {hook}")));
    let lines = shown.iter().flat_map(|text| text.lines());
    lines.filter(|line| line.contains(" id ")).map(str::to_owned).collect()
}

fn tc(arguments: &str) -> String {
    need::run(Command::new("tc").args(arguments.split(' '))).unwrap()
}

#[test]
fn unfit_interfaces_are_refused_by_name() {
    isolated(|root, _| {
        pair();
        ip("link add slave link near type macvlan");
        let (mut datapath, _events) = start(&config(root, WORKLOAD));
        let unfit = config(root, &WORKLOAD.replace("near", "slave"));
        let refused = datapath.add_workload(WORKLOAD_ID, &unfit.workloads[0]);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("slave") && error.contains("macvlan"), "{error}");
    });
}

#[test]
fn a_workload_may_use_the_addresses_of_its_interface() {
    isolated(|root, _| {
        pair();
        let (datapath, _events) = start(&config(root, WORKLOAD));
        let allowed = datapath.maps.addresses.entries().unwrap();
        let allowed: BTreeSet<_> =
            allowed.iter().map(|(key, _)| (key.workload, key.address)).collect();
        for own in ["192.0.2.1", "2001:db8::1"] {
            let own = (WORKLOAD_ID, address(own.parse().unwrap()));
            assert!(allowed.contains(&own), "{allowed:?}");
        }
        let other = (WORKLOAD_ID, address("192.0.2.2".parse().unwrap()));
        assert!(!allowed.contains(&other), "{allowed:?}");
    });
}
