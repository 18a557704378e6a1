//! A run in words.

use std::fmt::Write as _;

use super::node::Spent;
use super::report::{Report, as_f64, kilobytes_a_second};
use super::tables::Level;

/// The end of a run in words.
#[must_use]
pub fn summary(report: &Report) -> String {
    let Report { options, neighbourhood, figures, .. } = report;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "\nnode {} of {}: {} workloads, which call {} and are called by {}, {} different ones on {} nodes",
        neighbourhood.node,
        options.nodes,
        options.workloads,
        neighbourhood.outgoing,
        neighbourhood.incoming,
        neighbourhood.workloads,
        neighbourhood.nodes,
    );
    let seconds = 60.0 * f64::from(options.minutes);
    let each = |count: u64| as_f64(count) / seconds;
    let _ = writeln!(
        text,
        "a second: {:.0} connections, {:.2} with strangers called and {:.2} answered, {:.2} verdicts asked for; \
         handshakes add {:.1} kB sent and {:.1} kB received, {:.0} bytes a connection",
        each(figures.connections()),
        each(figures.cold_called),
        each(figures.cold_answered),
        each(figures.asked),
        kilobytes_a_second(figures.sent_bytes, seconds),
        kilobytes_a_second(figures.received_bytes, seconds),
        as_f64(figures.sent_bytes + figures.received_bytes) / as_f64(figures.connections().max(1)),
    );
    let _ = writeln!(
        text,
        "in all: {} workloads replaced here and {} elsewhere, {} credentials issued, {} verified, {} verdicts \
         renewed, {} flows cut, {} denied, {} not answered",
        figures.replaced_here,
        figures.replaced_elsewhere,
        figures.issued,
        figures.verified,
        figures.renewed,
        figures.cut,
        figures.denied,
        figures.unanswered,
    );
    for (why, count) in &report.refused {
        let _ = writeln!(text, "refused: {count} {why}");
    }
    if let Some(problem) = &report.problem {
        let _ = writeln!(text, "the engine complained {} times: {problem}", figures.problems);
    }
    if let (Some(heap), Some(policy)) = (report.heap_bytes, report.policy_bytes) {
        let _ = writeln!(
            text,
            "heap: {} KiB in all, {} of them the policy",
            heap / 1024,
            policy / 1024
        );
    }
    let _ = writeln!(text, "\nprocessor time       |    calls |   total ms |  longest ms");
    for (kind, spent) in &report.costs {
        let Spent { calls, millis, longest_millis } = spent;
        let _ = writeln!(text, "{kind:20} | {calls:8} | {millis:10.1} | {longest_millis:11.2}");
    }
    let _ = writeln!(
        text,
        "\nmap         |  entries |     peak |     room |    added |  removed |  refused"
    );
    for (name, level) in &report.maps {
        let Level { capacity, entries, peak, added, removed, refused } = level;
        let _ = writeln!(
            text,
            "{name:11} | {entries:8} | {peak:8} | {capacity:8} | {added:8} | {removed:8} | {refused:8}"
        );
    }
    let _ = writeln!(text, "\nwhat there is only so much of, the scarcest first:");
    for room in &report.rooms {
        let met = if room.met > 0 {
            format!("MET {} times: {}", room.met, room.meaning)
        } else {
            "not met".to_owned()
        };
        let (name, used, of, share) = (&room.name, room.used, room.available, 100.0 * room.share());
        let _ = writeln!(text, "{name:42} {used:12.3} of {of:9.0} = {share:6.2} %  {met}");
    }
    text.push_str(&verdict(report));
    text
}

/// What is the bottleneck.
fn verdict(report: &Report) -> String {
    let met: Vec<&str> = report.met().map(|room| room.name.as_str()).collect();
    let Some(first) = report.rooms.first() else { return String::new() };
    if met.is_empty() {
        let (name, share) = (&first.name, 100.0 * first.share());
        format!(
            "\nverdict: no limit is met; the scarcest is {name}, of which {share:.1} % was used\n"
        )
    } else {
        format!("\nverdict: met: {}; the bottleneck is {}\n", met.join("; "), first.name)
    }
}
