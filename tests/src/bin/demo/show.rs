//! What the demo prints of the enforcers: tables of the command line, maps as bpftool reads them, drop reasons.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use enforcer_tests::enforcer::Enforcer;
use enforcer_tests::host::Family;
use enforcer_tests::need;
use enforcer_tests::topology::ThreeHosts;

/// The maps that are shown, with a field that their dump must name.
const MAPS: [(&str, &str); 2] = [("FLOWS4", "\"remote_port\""), ("VERDICTS", "\"action\"")];
/// Lines of a map that are shown: enough for an entry of each.
const MAP_LINES: usize = 42;

/// Who is there.
pub fn stage(net: &ThreeHosts) {
    println!("The beer of the day\n");
    for (host, role) in [
        (&net.server, "spiffe://example.org/acme/prod/server, pours a beer for each connection"),
        (&net.client, "spiffe://example.org/acme/prod/client, approved"),
        (&net.other, "spiffe://example.org/acme/street/other, not approved"),
    ] {
        println!("  {:<8} {:<12} {role}", host.label(), host.address(Family::V4));
    }
}

/// The flows and identities of an enforcer; both must name the peer.
pub fn tables(side: &str, enforcer: &Enforcer, peer: &str) -> Result<()> {
    for table in ["flows", "identities"] {
        heading(&format!("enforcer {table}, on the {side}"));
        let text = enforcer.cli(&[table])?;
        println!("{}", indented(text.trim_end()));
        ensure!(text.contains(peer), "the {table} of the {side} do not name {peer}");
    }
    Ok(())
}

/// The first entries of the flow and the verdict map of an enforcer.
pub fn maps(enforcer: &Enforcer) -> Result<()> {
    for (map, field) in MAPS {
        let pin = enforcer.pins().join(map);
        heading(&format!("bpftool map dump pinned {}", pin.display()));
        let dump = need::run(
            Command::new(need::tool("bpftool")?).args(["map", "dump", "pinned"]).arg(&pin),
        )?;
        println!("{}", indented(&shortened(&dump)));
        ensure!(dump.contains(field), "map {map} has no entry with a field {field}");
    }
    Ok(())
}

/// What an enforcer dropped, by reason; these reasons must be among them.
pub fn drops(side: &str, enforcer: &Enforcer, expected: &[&str]) -> Result<()> {
    heading(&format!("dropped on the {side}, by reason"));
    let counters = enforcer.counters()?;
    for (reason, count) in counters.drops.iter().filter(|(_, count)| **count > 0) {
        println!("  {reason:<24} {count:>6}");
    }
    for reason in expected {
        ensure!(counters.drop(reason) > 0, "nothing was dropped as {reason} on the {side}");
    }
    Ok(())
}

/// A title with a line under it.
pub fn heading(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.chars().count()));
}

/// A time in microseconds.
pub fn micros(time: Duration) -> String {
    format!("{} us", time.as_micros())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn shortened(dump: &str) -> String {
    let lines: Vec<&str> = dump.trim_end().lines().collect();
    let mut text = lines[..lines.len().min(MAP_LINES)].join("\n");
    if lines.len() > MAP_LINES {
        text.push_str("\n...");
    }
    text
}
