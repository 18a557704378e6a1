//! The rules of one workload as a longest-prefix table: one lookup finds every rule that applies.
//!
//! Every prefix that some rule names carries the entries of all rules whose networks hold it, so
//! the most specific match is the whole answer. Prefixes that say the same as the one around them
//! are left out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::rule::{Direction, NetworkRule, NetworkRuleError};
use crate::identity::Identity;
use crate::policy::protocol::Protocol;

/// The most entries of one prefix: the kernel looks through them one by one.
pub const MAX_ENTRIES_A_PREFIX: usize = 16;
/// The most different tables; workloads with equal rules share one.
pub const MAX_TABLES: u32 = 65_536;

/// What one rule lets through at one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NetworkEntry {
    /// Egress or ingress, from the workload's side.
    pub direction: Direction,
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    /// Lowest server port, host byte order; 0 where ports do not matter.
    pub port_low: u16,
    /// Highest server port, inclusive; 65535 where ports do not matter.
    pub port_high: u16,
    /// Index of the rule in the list it was compiled from.
    pub rule: u16,
}

/// A network and everything that applies inside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct NetworkPrefix {
    /// The network; its address has no bits set behind the prefix length.
    pub prefix: IpNet,
    /// At most [`MAX_ENTRIES_A_PREFIX`] entries, ascending; none where a wider network is open and this one is not.
    pub entries: Vec<NetworkEntry>,
}

/// The compiled rules of one workload: IPv4 first, then by address and length.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
pub struct NetworkTable {
    prefixes: Vec<NetworkPrefix>,
}

/// Compiles the rules that apply to a workload, and beside them what `others` opens: networks each with all that is open
/// in it, whatever is around it. The same rules give the same table.
pub fn compile(
    rules: &[NetworkRule],
    workload: &Identity,
    others: Vec<NetworkPrefix>,
) -> Result<NetworkTable, NetworkRuleError> {
    let mut open: Vec<Open> = Vec::new();
    let mut table = NetworkTable::default();
    for (prefix, named) in named(rules, workload, others) {
        while open.last().is_some_and(|around| !around.prefix.contains(&prefix)) {
            open.pop();
        }
        let around = open.last();
        let own = [around.map_or(&[][..], |around| &around.own), &named.own].concat();
        let other = named.other.or_else(|| around.map(|around| around.other.clone()));
        let other = other.unwrap_or_default();
        let entries = reduce([own.as_slice(), &other].concat());
        if entries.len() > MAX_ENTRIES_A_PREFIX {
            return Err(too_many(rules, prefix, &entries));
        }
        if around.map_or(&[][..], |around| &around.entries) != entries.as_slice() {
            table.prefixes.push(NetworkPrefix { prefix, entries: entries.clone() });
        }
        open.push(Open { prefix, own, other, entries });
    }
    Ok(table)
}

/// A network that holds the next ones, with all that is open in it.
struct Open {
    prefix: IpNet,
    own: Vec<NetworkEntry>,
    other: Vec<NetworkEntry>,
    entries: Vec<NetworkEntry>,
}

/// What is said of one network by its name.
#[derive(Default)]
struct Named {
    /// Added to what the rules say of the network around it.
    own: Vec<NetworkEntry>,
    /// Instead of what others say of the network around it.
    other: Option<Vec<NetworkEntry>>,
}

/// Every network that somebody names; it comes before what it holds.
fn named(
    rules: &[NetworkRule],
    workload: &Identity,
    others: Vec<NetworkPrefix>,
) -> BTreeMap<IpNet, Named> {
    let mut named: BTreeMap<IpNet, Named> = BTreeMap::new();
    for (prefix, own) in own_entries(rules, workload) {
        named.entry(prefix).or_default().own = own;
    }
    for NetworkPrefix { prefix, entries } in others {
        named.entry(prefix).or_default().other = Some(entries);
    }
    named
}

/// Every prefix that a rule names, with those rules' entries.
fn own_entries(rules: &[NetworkRule], workload: &Identity) -> HashMap<IpNet, Vec<NetworkEntry>> {
    let mut by_prefix: HashMap<IpNet, Vec<NetworkEntry>> = HashMap::new();
    for (number, rule) in (0_u16..).zip(rules).filter(|(_, rule)| rule.applies_to(workload)) {
        for cidr in rule.cidrs() {
            let entries = rule.ports().iter().map(|&(port_low, port_high)| NetworkEntry {
                direction: rule.direction(),
                protocol: rule.protocol(),
                port_low,
                port_high,
                rule: number,
            });
            by_prefix.entry(*cidr).or_default().extend(entries);
        }
    }
    by_prefix
}

/// Leaves out entries that another covers; of two equal ones the earlier rule's stays.
fn reduce(mut entries: Vec<NetworkEntry>) -> Vec<NetworkEntry> {
    entries.sort_unstable();
    entries.dedup_by(|later, earlier| covers(*earlier, *later) && covers(*later, *earlier));
    let all = entries.clone();
    entries.retain(|entry| !all.iter().any(|other| other != entry && covers(*other, *entry)));
    entries
}

fn covers(wide: NetworkEntry, narrow: NetworkEntry) -> bool {
    wide.direction == narrow.direction
        && [0, narrow.protocol].contains(&wide.protocol)
        && wide.port_low <= narrow.port_low
        && wide.port_high >= narrow.port_high
}

fn too_many(rules: &[NetworkRule], prefix: IpNet, entries: &[NetworkEntry]) -> NetworkRuleError {
    let mut numbers: Vec<u16> = entries.iter().map(|entry| entry.rule).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let of = |n: &u16| rules.get(usize::from(*n)).map_or("the manifests", NetworkRule::name);
    let mut names: Vec<&str> = numbers.iter().map(of).collect();
    names.dedup();
    NetworkRuleError {
        rule: (*names.last().unwrap_or(&"")).to_owned(),
        problem: format!(
            "{} entries apply at {prefix}, at most {MAX_ENTRIES_A_PREFIX} are possible; join the port ranges of {}",
            entries.len(),
            names.join(", ")
        ),
    }
}

impl NetworkTable {
    /// The prefixes: IPv4 first, then by address and length.
    #[must_use]
    pub fn prefixes(&self) -> &[NetworkPrefix] {
        &self.prefixes
    }

    /// What the kernel finds: the entry that lets this through, at the longest prefix.
    ///
    /// `port` is the server's, host byte order; protocols without ports pass 0.
    #[must_use]
    pub fn lookup(
        &self,
        direction: Direction,
        address: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> Option<&NetworkEntry> {
        let holding = self.prefixes.iter().filter(|found| found.prefix.contains(&address));
        let longest = holding.max_by_key(|found| found.prefix.prefix_len())?;
        longest.entries.iter().find(|entry| {
            entry.direction == direction
                && [0, protocol.number()].contains(&entry.protocol)
                && (entry.port_low..=entry.port_high).contains(&port)
        })
    }
}

/// Tables under numbers, so that workloads with equal rules share one.
#[derive(Debug, Default)]
pub struct NetworkTables {
    tables: Vec<NetworkTable>,
    numbers: HashMap<NetworkTable, u32>,
}

impl NetworkTables {
    /// The number of this table, from 0, in the order of first appearance.
    ///
    /// None when there are [`MAX_TABLES`] others already.
    pub fn number_of(&mut self, table: NetworkTable) -> Option<u32> {
        if let Some(number) = self.numbers.get(&table) {
            return Some(*number);
        }
        let number = u32::try_from(self.tables.len()).ok().filter(|n| *n < MAX_TABLES)?;
        self.tables.push(table.clone());
        self.numbers.insert(table, number);
        Some(number)
    }

    /// The tables, each at the place of its number.
    #[must_use]
    pub fn tables(&self) -> &[NetworkTable] {
        &self.tables
    }
}
