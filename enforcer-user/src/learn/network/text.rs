//! A table as text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ipnet::IpNet;

use super::fit::Kind;
use super::table::{Rule, Span};
use crate::identity::Identity;
use crate::learn::propose::when;
use crate::learn::record::ADDRESSES_MAX;

/// Bytes of a rule's name.
pub(super) const NAME_MAX: usize = 64;
/// Networks in one line.
const CIDRS_A_LINE: usize = 4;

/// Writes a table, with what it opens beyond what was seen in comments.
pub(super) fn write_rule(
    text: &mut String,
    workload: &Identity,
    below: &[String],
    kind: Kind<'_>,
    rule: &Rule<'_>,
    names: &mut BTreeSet<String>,
) {
    let seen = || rule.spans.iter().flat_map(|span| &span.seen);
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!("# {}", when(seen().map(|one| &one.when))));
    if !below.is_empty() {
        line(&format!("# Wider than seen: also for {}", below.join(", ")));
    }
    for net in rule.prefixes.iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
        line(&format!("# Wider than seen: more than {ADDRESSES_MAX} addresses of {net} were seen"));
    }
    for Span { ports: (first, last), used, .. } in &rule.spans {
        if *used <= usize::from(last - first) {
            line(&format!("# Wider than seen: {used} ports of {first}-{last} were used"));
        }
    }
    if kind.protocol.is_none() {
        let used: BTreeSet<&str> = seen().map(|one| one.protocol.as_str()).collect();
        line(&format!("# Wider than seen: {} protocols were used", used.len()));
    }
    line("[[network_rule]]");
    line(&format!("name = {:?}", name(workload, kind, rule, names)));
    line(&format!("namespace = {:?}", workload.namespace().as_str()));
    line(&format!("workload = {:?}", workload.name()));
    line(&format!("direction = \"{}\"", kind.direction));
    line(&format!("cidr = {}", list(&rule.prefixes)));
    line(&format!("protocol = {}", protocol(kind)));
    let ports = ports(rule);
    if !ports.is_empty() {
        line(&format!("ports = {ports:?}"));
    }
    line("");
}

/// Unique among those of the report and those in force: what it is for, shortened, with a number if there are more of it.
pub(super) fn name(
    workload: &Identity,
    kind: Kind<'_>,
    rule: &Rule<'_>,
    names: &mut BTreeSet<String>,
) -> String {
    let mut told = format!("-{}-{}", kind.direction, kind.protocol.unwrap_or("any"));
    if let Some((first, _)) = rule.spans.first().map(|span| span.ports).filter(|ports| ports.0 > 0)
    {
        // Writing to a text cannot fail.
        let _ = write!(told, "-{first}");
    }
    let mut number = 1_u32;
    loop {
        let suffix = if number == 1 { told.clone() } else { format!("{told}-{number}") };
        let room = NAME_MAX.saturating_sub("learned-".len() + suffix.len());
        // Names of workloads are of letters, digits, '.', '-' and '_', as those of rules.
        let own: String = workload.name().chars().take(room).collect();
        let name = format!("learned-{own}{suffix}");
        if names.insert(name.clone()) {
            return name;
        }
        number += 1;
    }
}

fn list(prefixes: &[IpNet]) -> String {
    let quoted: Vec<String> = prefixes.iter().map(|net| format!("\"{net}\"")).collect();
    if quoted.len() <= CIDRS_A_LINE {
        return format!("[{}]", quoted.join(", "));
    }
    let lines: Vec<String> =
        quoted.chunks(CIDRS_A_LINE).map(|line| format!("    {},\n", line.join(", "))).collect();
    format!("[\n{}]", lines.concat())
}

/// As the configuration takes it: a word, or a number that has none.
fn protocol(kind: Kind<'_>) -> String {
    let word = kind.protocol.unwrap_or("any");
    if word.parse::<u8>().is_ok() { word.to_owned() } else { format!("\"{word}\"") }
}

/// Ports and spans; none of protocols without.
fn ports(rule: &Rule<'_>) -> Vec<String> {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for (first, last) in rule.spans.iter().map(|span| span.ports).filter(|ports| ports.0 > 0) {
        match spans.last_mut() {
            Some(before) if u32::from(before.1) + 1 == u32::from(first) => before.1 = last,
            _ => spans.push((first, last)),
        }
    }
    let text = |(first, last): (u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    spans.into_iter().map(text).collect()
}
