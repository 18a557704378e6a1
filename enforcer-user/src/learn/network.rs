//! The network rules that permit what was seen of peers without an identity, and as little else as few tables can say.

mod fit;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use self::fit::{fitted, widened};
use self::table::rules;
use self::text::write_rule;
use super::record::{LearnedAddress, LearnedReport};
use crate::identity::Identity;

/// The text of `[[network_rule]]` tables; empty if nothing was seen that needs one.
///
/// Each is for one workload. They stand beside the rules in force: what those allow is not in them.
#[must_use]
pub fn network_rules(report: &LearnedReport) -> String {
    let mut of: BTreeMap<&str, Vec<&LearnedAddress>> = BTreeMap::new();
    for one in &report.addresses {
        of.entry(&one.workload).or_default().push(one);
    }
    let in_force = report.configured.iter().flat_map(|all| all.network_rules.iter().cloned());
    let (mut names, mut text): (BTreeSet<String>, _) = (in_force.collect(), String::new());
    if let Some(configured) = &report.configured {
        let gone = of.extract_if(.., |id, _| !configured.workloads.iter().any(|one| one == id));
        let gone: Vec<&str> = gone.map(|(id, _)| id).collect();
        if !gone.is_empty() {
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "# Left out, not in the configuration any more: {}\n",
                gone.join(", ")
            );
        }
    }
    for (workload, seen) in of {
        let Ok(identity) = Identity::from_spiffe_id(workload, BTreeMap::new()) else { continue };
        let below = namesakes(&identity, report);
        for (kind, rules) in rules(&fitted(widened(&seen))) {
            for rule in rules {
                write_rule(&mut text, &identity, &below, kind, &rule, &mut names);
            }
        }
    }
    text
}

/// Others that have the workload's name and lie below its namespace: a rule for it is for them too.
fn namesakes(own: &Identity, report: &LearnedReport) -> Vec<String> {
    let all: Vec<&String> = match &report.configured {
        Some(configured) => configured.workloads.iter().collect(),
        None => report.workloads.iter().map(|one| &one.spiffe_id).collect(),
    };
    let all = all.into_iter().filter_map(|id| Identity::from_spiffe_id(id, BTreeMap::new()).ok());
    let is_below = |other: &Identity| {
        other.name() == own.name()
            && other.namespace() != own.namespace()
            && own.namespace().contains(other.namespace())
    };
    all.filter(is_below).map(|other| other.spiffe_id()).collect()
}
