//! Short runs of the whole.

use clap::Parser as _;

use super::*;

fn report(arguments: &[&str]) -> Report {
    let base = ["simulate", "--rules", "100", "--certificate-days", "1"];
    run(&Options::parse_from([&base, arguments].concat()), |_| {}).unwrap()
}

/// That it adds up is checked at the end of each minute, by [`run`] itself.
#[test]
fn a_small_cluster_loses_no_connection_and_nothing_is_left_over() {
    let report = report(&["--nodes", "20", "--workloads", "5", "--calls", "4", "--minutes", "6"]);
    let figures = report.figures;
    assert!(figures.called > 1000 && figures.answered > 1000, "{figures:?}");
    assert!(figures.replaced_here > 0 && figures.replaced_elsewhere > 0, "{figures:?}");
    // Only who was revoked is not answered, and only until another takes the place.
    let refused: Vec<&str> = report.refused.keys().copied().collect();
    assert_eq!(refused, ["credential", "refused_before"]);
    assert_eq!((figures.denied, figures.problems), (0, 0), "{figures:?}");
    assert_eq!((figures.peers_displaced, figures.verdicts_displaced), (0, 0), "{figures:?}");
    let cold = figures.cold();
    assert!(figures.verified >= cold / 2 && cold >= figures.replaced_elsewhere, "{figures:?}");
    for level in report.maps.values() {
        assert_eq!(level.added - level.removed, level.entries as u64);
        assert!(level.peak <= level.capacity && level.refused == 0, "{level:?}");
    }
    let workloads = &report.maps["WORKLOADS"];
    assert_eq!((workloads.entries as u64, workloads.removed), (5, figures.replaced_here));
}

#[test]
fn what_there_is_no_room_for_is_told() {
    let report = report(&[
        "--nodes",
        "20",
        "--workloads",
        "10",
        "--calls",
        "9",
        "--minutes",
        "3",
        "--peers",
        "64",
    ]);
    assert!(report.figures.peers_displaced > 0);
    assert_eq!(report.maps["PEERS"].peak, 64, "as many as there is room for, and no more");
    let met: Vec<&str> = report.met().map(|room| room.name.as_str()).collect();
    assert!(met.contains(&"PEERS"), "{met:?}");
    assert!(summary(&report).contains("the bottleneck is PEERS"));
}

#[test]
fn a_seed_repeats_all_that_is_counted() {
    let figures = |seed| {
        report(&["--nodes", "9", "--workloads", "4", "--minutes", "3", "--seed", seed]).figures
    };
    assert_eq!(figures("3"), figures("3"));
    assert_ne!(figures("3"), figures("4"));
}

/// Credentials last an hour and are replaced after half of it. Who connects then is a stranger once; what stays
/// open is renewed, and nothing of it is lost but what was revoked.
#[test]
fn without_churn_connections_that_stay_open_outlive_credentials() {
    let report = report(&[
        "--nodes",
        "9",
        "--workloads",
        "2",
        "--calls",
        "3",
        "--rate",
        "0",
        "--churn",
        "0",
        "--minutes",
        "50",
    ]);
    let figures = report.figures;
    assert_eq!((figures.replaced_here, figures.replaced_elsewhere), (0, 0));
    assert!(figures.issued >= 2 * 2, "the first, and one after half an hour: {figures:?}");
    assert!(figures.renewed > 0, "{figures:?}");
    let lines = report.neighbourhood.outgoing + report.neighbourhood.incoming;
    let (cut, left) = (figures.cut, report.maps["FLOWS4"].entries as u64);
    assert!(cut <= 2 && left >= lines as u64 - 2, "{left} of {lines}, {figures:?}");
}
