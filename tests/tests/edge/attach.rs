//! Programs on interfaces: attached first, swapped in place, watched, taken off.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use enforcer_tests::need;
use enforcer_user::config::Config;
use enforcer_user::datapath::{
    Datapath, DatapathError, Health, Mechanism, address, detach, object,
};

use crate::place::{
    PATIENCE, WORKLOAD, WORKLOAD_ID, config, health, ifindex, ip, isolated, own_mechanism, pair,
    start, start_by, when_free, workload_value,
};

/// The programs on one hook of `near`, in links and in filters, the first in front.
fn program_ids(hook: TcAttachType) -> Vec<u32> {
    let links = if own_mechanism() == Mechanism::Tcx {
        SchedClassifier::query_tcx("near", hook).unwrap().1
    } else {
        Vec::new()
    };
    links.iter().map(ProgramInfo::id).chain(filter_ids(hook)).collect()
}

fn all_program_ids() -> Vec<u32> {
    [program_ids(TcAttachType::Ingress), program_ids(TcAttachType::Egress)].concat()
}

#[test]
fn the_mechanism_is_what_the_kernels_version_has() {
    assert_eq!(Mechanism::probe(), own_mechanism());
}

#[test]
fn a_restart_swaps_the_programs_and_detach_leaves_nothing() {
    isolated(|root, _| {
        let config = config(root, WORKLOAD);
        pair();
        let (first, events) = start(&config);
        assert_eq!(first.mechanism(), own_mechanism());
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

        let report = when_free(|| detach(&config));
        let kind = if own_mechanism() == Mechanism::Tcx { "link" } else { "filter" };
        let ours = report.removed.iter().filter(|line| line.contains(kind)).count();
        assert_eq!(ours, 2, "{:?}", report.removed);
        assert!(all_program_ids().is_empty());
        assert!(!config.pin_dir().exists());
        assert!(when_free(|| detach(&config)).removed.is_empty());
    });
}

#[test]
fn what_no_workload_claims_any_more_is_taken_off() {
    isolated(|root, _| {
        pair();
        drop(start(&config(root, WORKLOAD)));
        let (mut datapath, _events) = when_free(|| Datapath::open(&config(root, "")));
        assert_eq!(all_program_ids().len(), 2);
        let removed = datapath.finish_start().unwrap();
        // With the filters goes the qdisc that holds them.
        let expected = if own_mechanism() == Mechanism::Tcx { 2 } else { 3 };
        assert_eq!(removed.len(), expected, "{removed:?}");
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

        take_off_what_leads_to_the_workload(&config);
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
    // Within a priority, the filter that comes last stands first.
    let filter = NlOptions { priority: 1, handle: TcHandle::new(0, 2), classid: None };
    let first = match own_mechanism() {
        Mechanism::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
        Mechanism::Clsact => TcAttachOptions::Netlink(filter),
    };
    program.attach_with_options("near", TcAttachType::Egress, first).unwrap();
    let by = match own_mechanism() {
        Mechanism::Tcx => format!("number {}", program.info().unwrap().id()),
        Mechanism::Clsact => name.to_owned(),
    };
    (other, by)
}

/// As somebody would who does not know whose it is: the link is detached, or the filter deleted.
fn take_off_what_leads_to_the_workload(config: &Config) {
    match own_mechanism() {
        Mechanism::Tcx => {
            let link = format!("link_{}_to", ifindex("near"));
            enforcer_tests::stranger::detach_link(&config.pin_dir().join(link)).unwrap();
        }
        Mechanism::Clsact => drop(tc("filter delete dev near ingress")),
    }
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

        when_free(|| detach(&config));
        assert_eq!(swapped.check_first().unwrap(), Health::Detached { program: "from_workload" });
        let left = tc("qdisc show dev near");
        assert!(!left.contains("clsact"), "{left}");
    });
}

/// The programs in the filters of both hooks of `near`.
fn filters() -> Vec<u32> {
    [filter_ids(TcAttachType::Ingress), filter_ids(TcAttachType::Egress)].concat()
}

/// The programs in the filters of a hook of `near`, as `tc` numbers them (`... direct-action ... id 42 ...`).
fn filter_ids(hook: TcAttachType) -> Vec<u32> {
    let hook = if hook == TcAttachType::Ingress { "ingress" } else { "egress" };
    let shown = tc(&format!("filter show dev near {hook}"));
    let id = |line: &str| line.split_once(" id ")?.1.split_whitespace().next()?.parse().ok();
    shown.lines().filter_map(id).collect()
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

/// By its number the programs tell which addresses a flow's source was looked for in.
#[test]
fn a_set_of_addresses_has_a_number_that_changes_with_it() {
    isolated(|root, _| {
        pair();
        let config = config(root, WORKLOAD);
        let workload = &config.workloads[0];
        let (mut datapath, _events) = start(&config);
        let number = |datapath: &Datapath| {
            datapath.maps.workload(WORKLOAD_ID).unwrap().expect("a workload").address_set
        };
        let first = number(&datapath);
        assert_ne!(first, 0);
        datapath.write_addresses(WORKLOAD_ID, workload).unwrap();
        datapath.maps.insert_workload(WORKLOAD_ID, &workload_value(0)).unwrap();
        assert_eq!(number(&datapath), first, "the addresses are the same");

        ip("address add 192.0.2.77/24 dev near");
        datapath.write_addresses(WORKLOAD_ID, workload).unwrap();
        let more = number(&datapath);
        assert!(more != first && more != 0, "{more}");
        ip("address del 192.0.2.77/24 dev near");
        datapath.write_addresses(WORKLOAD_ID, workload).unwrap();
        assert_eq!(number(&datapath), first);
        ip("address del 192.0.2.1/24 dev near");
        datapath.write_addresses(WORKLOAD_ID, workload).unwrap();
        let fewer = number(&datapath);
        assert!(![0, first, more].contains(&fewer), "{fewer}");
    });
}

/// Fails closed: what it had is another host's as soon as that one takes it.
#[test]
fn a_workload_whose_interface_loses_its_last_address_may_use_none() {
    isolated(|root, _| {
        pair();
        let config = config(root, WORKLOAD);
        let (mut datapath, _events) = start(&config);
        assert!(!datapath.maps.addresses.entries().unwrap().is_empty());
        ip("address flush dev near");
        let refused = datapath.write_addresses(WORKLOAD_ID, &config.workloads[0]);
        assert!(matches!(refused, Err(DatapathError::NoAddress(_))), "{refused:?}");
        assert!(datapath.maps.addresses.entries().unwrap().is_empty());
        let row = datapath.maps.workload(WORKLOAD_ID).unwrap().expect("a workload");
        assert_eq!(row.address_set, 0);
        ip("address add 192.0.2.1/24 dev near");
        datapath.write_addresses(WORKLOAD_ID, &config.workloads[0]).unwrap();
        let row = datapath.maps.workload(WORKLOAD_ID).unwrap().expect("a workload");
        assert_ne!(row.address_set, 0);
    });
}
