//! The rules of one workload as a longest-prefix table: one lookup finds every rule that applies.
//!
//! Every prefix that some rule names carries the entries of all rules whose networks hold it, so
//! the most specific match is the whole answer. Prefixes that say the same as the one around them
//! are left out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::host::HostPattern;
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

/// What a rule lets through to hosts that are named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct HostEntries {
    /// Which hosts.
    pub hosts: Vec<HostPattern>,
    /// At every address of theirs.
    pub entries: Vec<NetworkEntry>,
}

/// The compiled rules of one workload: IPv4 first, then by address and length.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
pub struct NetworkTable {
    prefixes: Vec<NetworkPrefix>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostEntries>,
}

/// Compiles the rules that apply to a workload, and beside them what `others` opens: networks each with all that is open
/// in it, whatever is around it. The same rules give the same table.
pub fn compile(
    rules: &[NetworkRule],
    workload: &Identity,
    others: Vec<NetworkPrefix>,
) -> Result<NetworkTable, NetworkRuleError> {
    let mut open: Vec<Open> = Vec::new();
    let mut table =
        NetworkTable { hosts: host_entries(rules, workload), ..NetworkTable::default() };
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
            by_prefix.entry(*cidr).or_default().extend(entries_of(number, rule));
        }
    }
    by_prefix
}

fn host_entries(rules: &[NetworkRule], workload: &Identity) -> Vec<HostEntries> {
    let numbered = (0_u16..).zip(rules);
    let naming = numbered.filter(|(_, rule)| !rule.hosts().is_empty() && rule.applies_to(workload));
    let one = |(number, rule): (u16, &NetworkRule)| HostEntries {
        hosts: rule.hosts().to_vec(),
        entries: entries_of(number, rule).collect(),
    };
    naming.map(one).collect()
}

fn entries_of(number: u16, rule: &NetworkRule) -> impl Iterator<Item = NetworkEntry> {
    rule.ports().iter().map(move |&(port_low, port_high)| NetworkEntry {
        direction: rule.direction(),
        protocol: rule.protocol(),
        port_low,
        port_high,
        rule: number,
    })
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

    /// What is open to hosts that are named.
    #[must_use]
    pub fn hosts(&self) -> &[HostEntries] {
        &self.hosts
    }

    /// Whether any rule names this host, whose name is as [`super::host_name`] gives it.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|named| named.names(host))
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
        let found = self.around(address)?.entries.iter();
        found.into_iter().find(|entry| entry.speaks_for(direction, protocol, port))
    }

    /// Everything that is open at one address which has these names: the entries of its own prefix. An error says what
    /// is too much.
    pub fn at<'a>(
        &self,
        address: IpAddr,
        hosts: impl IntoIterator<Item = &'a str>,
    ) -> Result<NetworkPrefix, String> {
        let mut entries =
            self.around(address).map(|found| found.entries.clone()).unwrap_or_default();
        for host in hosts {
            let named = self.hosts.iter().filter(|named| named.names(host));
            entries.extend(named.flat_map(|named| &named.entries));
        }
        let entries = reduce(entries);
        if entries.len() > MAX_ENTRIES_A_PREFIX {
            return Err(format!(
                "{} entries would apply at {address}, at most {MAX_ENTRIES_A_PREFIX} are possible; join the port ranges of the rules that name its hosts",
                entries.len()
            ));
        }
        Ok(NetworkPrefix { prefix: address.into(), entries })
    }

    /// The entries of this very prefix, if it has any of its own.
    #[must_use]
    pub fn exactly(&self, prefix: IpNet) -> Option<&NetworkPrefix> {
        self.prefixes.iter().find(|found| found.prefix == prefix)
    }

    fn around(&self, address: IpAddr) -> Option<&NetworkPrefix> {
        let holding = self.prefixes.iter().filter(|found| found.prefix.contains(&address));
        holding.max_by_key(|found| found.prefix.prefix_len())
    }
}

impl HostEntries {
    fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

impl NetworkEntry {
    /// Whether it lets this through; `port` is the server's, host byte order, 0 for protocols without ports.
    #[must_use]
    pub fn speaks_for(&self, direction: Direction, protocol: Protocol, port: u16) -> bool {
        self.direction == direction
            && [0, protocol.number()].contains(&self.protocol)
            && (self.port_low..=self.port_high).contains(&port)
    }
}

/// Tables under numbers, so that workloads with equal rules share one, unless they name hosts: what a name stands for
/// is what name servers told the workload itself.
#[derive(Debug, Default)]
pub struct NetworkTables {
    tables: Vec<NetworkTable>,
    /// By whose they are: 0 for tables that may be shared.
    numbers: HashMap<(u16, NetworkTable), u32>,
}

impl NetworkTables {
    /// The number of the table of a workload (its id), from 0, in the order of first appearance.
    ///
    /// None when there are [`MAX_TABLES`] others already.
    pub fn number_of(&mut self, table: NetworkTable, workload: u16) -> Option<u32> {
        let owner = if table.hosts.is_empty() { 0 } else { workload };
        let key = (owner, table);
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        let number = u32::try_from(self.tables.len()).ok().filter(|n| *n < MAX_TABLES)?;
        self.tables.push(key.1.clone());
        self.numbers.insert(key, number);
        Some(number)
    }

    /// The tables, each at the place of its number.
    #[must_use]
    pub fn tables(&self) -> &[NetworkTable] {
        &self.tables
    }
}
