//! What is open, gathered into as few tables as say it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::fit::{Kind, Open};
use crate::learn::record::LearnedAddress;
use crate::policy::network::MAX_CIDRS;

/// What becomes one table: all ports that the same networks are open at.
#[derive(Debug, Default)]
pub(super) struct Rule<'a> {
    pub(super) prefixes: Vec<IpNet>,
    /// Ascending.
    pub(super) spans: Vec<Span<'a>>,
}

/// Ports that follow each other, or that were joined.
#[derive(Debug)]
pub(super) struct Span<'a> {
    pub(super) ports: (u16, u16),
    /// How many of them were seen, at the network where it was fewest.
    pub(super) used: usize,
    pub(super) seen: Vec<&'a LearnedAddress>,
}

type Spans<'o, 'a> = BTreeMap<(u16, u16), Vec<&'o Open<'a>>>;

/// The tables of each direction and protocol.
pub(super) fn rules<'a>(opens: &[Open<'a>]) -> BTreeMap<Kind<'a>, Vec<Rule<'a>>> {
    let mut kinds: BTreeMap<Kind<'a>, Spans<'_, 'a>> = BTreeMap::new();
    for open in opens {
        let at = kinds.entry(open.kind).or_default().entry(open.ports).or_default();
        at.push(open);
    }
    kinds.into_iter().map(|(kind, spans)| (kind, joined(spans))).collect()
}

fn joined<'a>(spans: Spans<'_, 'a>) -> Vec<Rule<'a>> {
    let mut all: BTreeMap<Vec<IpNet>, Rule<'a>> = BTreeMap::new();
    for (ports, opens) in spans {
        let seen: Vec<&LearnedAddress> = opens.iter().flat_map(|open| open.seen.clone()).collect();
        let used = opens.iter().map(|open| open.ports_used()).min().unwrap_or_default();
        // No network of a rule may hold another.
        let mut prefixes: Vec<IpNet> = Vec::new();
        let sorted: BTreeSet<IpNet> = opens.iter().map(|open| open.prefix).collect();
        for prefix in sorted {
            if prefixes.last().is_none_or(|last| !last.contains(&prefix)) {
                prefixes.push(prefix);
            }
        }
        for part in prefixes.chunks(MAX_CIDRS) {
            let inside = |one: &&LearnedAddress| part.iter().any(|net| net.contains(&one.address));
            let rule = all.entry(part.to_vec()).or_default();
            rule.prefixes = part.to_vec();
            let seen = seen.iter().copied().filter(inside).collect();
            rule.spans.push(Span { ports, used, seen });
        }
    }
    let mut rules: Vec<Rule<'a>> = all.into_values().collect();
    rules.sort_by_key(|rule| rule.spans.first().map(|span| span.ports));
    rules
}
