//! Which capabilities the kernel asks for, each attempt in a process of its own: what the loader finds out about the
//! kernel it finds out once a process.

use std::process::{Command, Output};

use anyhow::Result;
use caps::CapSet;
use enforcer_user::datapath::{Datapath, Health, Mechanism, mount_bpf};
use enforcer_user::sandbox::NEEDED;

use crate::place::{WORKLOAD, WORKLOAD_ID, config, isolated, mechanisms, pair, workload_value};

/// Set in the process that a test starts of itself: the capability that is left out, or `none`.
const CHILD: &str = "ENFORCER_CAPABILITY_TEST_CHILD";
const TEST: &str = "capabilities::the_kernel_refuses_without_any_one_of_the_needed_capabilities_and_asks_for_no_more";
/// What a child prints that was refused, and one that was not.
const REFUSED: &str = "refused: ";
const DONE: &str = "done: ";

#[test]
fn the_kernel_refuses_without_any_one_of_the_needed_capabilities_and_asks_for_no_more() {
    if let Ok(missing) = std::env::var(CHILD) {
        return attempt(&missing);
    }
    for missing in NEEDED {
        let said = child(&missing.to_string());
        assert!(said.contains(REFUSED), "{missing} is not needed: {said}");
    }
    let said = child("none");
    for mechanism in mechanisms() {
        assert!(said.contains(&format!("{DONE}{mechanism:?}")), "{said}");
    }
}

fn child(missing: &str) -> String {
    let Output { status, stdout, stderr } = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, missing)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{said}");
    said
}

fn attempt(missing: &str) {
    isolated(|root, _| {
        pair();
        let kept = NEEDED.into_iter().filter(|one| one.to_string() != missing).collect();
        // As the daemon does: mounting comes before.
        mount_bpf(&config(root, WORKLOAD)).unwrap();
        caps::set(None, CapSet::Effective, &kept).unwrap();
        caps::set(None, CapSet::Permitted, &kept).unwrap();
        for mechanism in mechanisms() {
            match enforce(root, *mechanism) {
                Ok(()) => println!("{DONE}{mechanism:?}"),
                Err(error) => println!("{REFUSED}{error:#}"),
            }
        }
    });
}

/// The life of a datapath: made, attached, watched, read, adopted by the next, taken off.
fn enforce(root: &std::path::Path, mechanism: Mechanism) -> Result<()> {
    let config = config(root, WORKLOAD);
    for _ in 0..2 {
        let (mut datapath, _events) = Datapath::open_by(&config, mechanism)?;
        datapath.maps.insert_workload(WORKLOAD_ID, &workload_value(0))?;
        datapath.add_workload(WORKLOAD_ID, &config.workloads[0])?;
        datapath.finish_start()?;
        anyhow::ensure!(datapath.watch()?.remove(0).1 == Health::InPlace, "not in place");
        datapath.live_flows()?;
    }
    enforcer_user::datapath::detach(&config).map(drop)
}
