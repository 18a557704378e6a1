//! What names of hosts stand for, as name servers told each workload of this node.
//!
//! Only what a network rule of the workload names is kept, and only for that workload: what another one's name server
//! says of a host opens nothing to it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Now;

/// An address is kept for what its record says (TTL), and for no less than this: programs keep addresses for longer
/// than they should. In seconds.
pub const MIN_SECONDS: u64 = 300;
/// And for no longer than this, in seconds.
pub const MAX_SECONDS: u64 = 86_400;
/// For how long an address is kept beyond the last look at the flows that found one to it, in seconds: longer than two
/// looks.
pub const USED_SECONDS: u64 = 60;
/// The most addresses of one workload.
pub const MAX_OF_ONE: usize = 1024;
/// The most addresses of all workloads.
pub const MAX_OF_ALL: usize = 16_384;

/// An address that a host has for a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The workload's path.
    pub workload: String,
    /// The host's name.
    pub host: String,
    /// The address.
    pub address: IpAddr,
    /// Until when it counts, in Unix seconds.
    pub until: u64,
}

/// Names of an address, and until when each holds (boot time, nanoseconds).
type HostsOfOne = BTreeMap<Arc<str>, u64>;

/// The addresses of every workload.
#[derive(Debug, Default)]
pub struct Hosts {
    by_workload: HashMap<String, BTreeMap<IpAddr, HostsOfOne>>,
    /// Addresses of all.
    addresses: usize,
    /// How often anything changed.
    changes: u64,
}

/// What became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It has a name more.
    New,
    /// It was known by this name.
    Known,
    /// There are too many.
    Full,
}

impl Hosts {
    /// How often anything changed: what is kept for a later daemon is old once this is another number.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Notes that a host has this address for a workload, until then.
    pub fn learn(&mut self, workload: &str, host: &str, address: IpAddr, until_ns: u64) -> Learned {
        self.changes += 1;
        let known = self.by_workload.get_mut(workload).and_then(|all| all.get_mut(&address));
        if let Some(hosts) = known {
            if let Some(until) = hosts.get_mut(host) {
                *until = until_ns.max(*until);
                return Learned::Known;
            }
            hosts.insert(host.into(), until_ns);
            return Learned::New;
        }
        let of_one = self.by_workload.get(workload).map_or(0, BTreeMap::len);
        if of_one >= MAX_OF_ONE || self.addresses >= MAX_OF_ALL {
            return Learned::Full;
        }
        self.addresses += 1;
        let all = self.by_workload.entry(workload.to_owned()).or_default();
        all.entry(address).or_default().insert(host.into(), until_ns);
        Learned::New
    }

    /// The names of an address of a workload.
    pub fn at(&self, workload: &str, address: IpAddr) -> impl Iterator<Item = &str> {
        let hosts = self.by_workload.get(workload).and_then(|all| all.get(&address));
        hosts.into_iter().flat_map(|hosts| hosts.keys().map(|host| &**host))
    }

    /// The addresses of a workload.
    pub fn addresses(&self, workload: &str) -> impl Iterator<Item = IpAddr> {
        self.by_workload.get(workload).into_iter().flat_map(|all| all.keys().copied())
    }

    /// Keeps an address, with all its names, for at least so long.
    pub fn keep(&mut self, workload: &str, address: IpAddr, until_ns: u64) {
        let known = self.by_workload.get_mut(workload).and_then(|all| all.get_mut(&address));
        for until in known.into_iter().flat_map(BTreeMap::values_mut) {
            self.changes += u64::from(*until < until_ns);
            *until = until_ns.max(*until);
        }
    }

    /// Forgets what is over; says which addresses of whom lost a name.
    pub fn expire(&mut self, now_ns: u64) -> Vec<(String, IpAddr)> {
        let mut lost = Vec::new();
        for (workload, all) in &mut self.by_workload {
            all.retain(|address, hosts| {
                let before = hosts.len();
                hosts.retain(|_, until| *until > now_ns);
                if hosts.len() < before {
                    lost.push((workload.clone(), *address));
                }
                !hosts.is_empty()
            });
        }
        self.changes += lost.len() as u64;
        self.by_workload.retain(|_, all| !all.is_empty());
        self.addresses = self.by_workload.values().map(BTreeMap::len).sum();
        lost
    }

    /// Forgets a workload.
    pub fn forget(&mut self, workload: &str) {
        let gone = self.by_workload.remove(workload).map_or(0, |all| all.len());
        self.addresses -= gone;
        self.changes += 1;
    }

    /// Everything, to be kept for a later daemon.
    pub fn records(&self, now: Now) -> impl Iterator<Item = HostRecord> {
        let all = self.by_workload.iter();
        let each = all.flat_map(|(workload, all)| all.iter().map(move |one| (workload, one)));
        each.flat_map(move |(workload, (address, hosts))| {
            hosts.iter().map(move |(host, until_ns)| HostRecord {
                workload: workload.clone(),
                host: host.to_string(),
                address: *address,
                until: now.unix_at(*until_ns),
            })
        })
    }

    /// Takes over what still counted when an earlier daemon ended. All of it stayed open since, so it stays for as long
    /// as it takes to see which of it connections stand on.
    pub fn adopt(&mut self, records: Vec<HostRecord>, now: Now) {
        let (earliest, latest) = (now.after(USED_SECONDS), now.after(MAX_SECONDS));
        for HostRecord { workload, host, address, until } in records {
            let until_ns = now.boot_deadline(until).clamp(earliest, latest);
            self.learn(&workload, &host, address, until_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { boot_ns: 1_000, unix_ns: 5_000_000_000_000 };

    fn ip(last: u16) -> IpAddr {
        std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into()
    }

    #[test]
    fn an_address_lives_as_long_as_one_of_its_names() {
        let mut hosts = Hosts::default();
        assert_eq!(hosts.learn("/a", "x.example", ip(1), 10), Learned::New);
        assert_eq!(hosts.learn("/a", "y.example", ip(1), 20), Learned::New);
        assert_eq!(hosts.learn("/a", "x.example", ip(1), 12), Learned::Known);
        assert_eq!(hosts.learn("/a", "x.example", ip(1), 11), Learned::Known);
        assert_eq!(hosts.at("/a", ip(1)).collect::<Vec<_>>(), ["x.example", "y.example"]);
        assert_eq!(hosts.at("/b", ip(1)).count(), 0);
        assert!(hosts.expire(11).is_empty());
        assert_eq!(hosts.expire(12), [("/a".to_owned(), ip(1))]);
        assert_eq!(hosts.at("/a", ip(1)).collect::<Vec<_>>(), ["y.example"]);
        hosts.keep("/a", ip(1), 30);
        assert!(hosts.expire(29).is_empty());
        assert_eq!(hosts.expire(30).len(), 1);
        assert!(hosts.by_workload.is_empty());
    }

    #[test]
    fn one_workload_leaves_room_to_others_and_what_is_forgotten_makes_room() {
        let mut hosts = Hosts::default();
        let most = u16::try_from(MAX_OF_ONE).unwrap();
        for n in 0..most {
            assert_eq!(hosts.learn("/a", "x.example", ip(n), 10), Learned::New);
        }
        assert_eq!(hosts.learn("/a", "x.example", ip(most), 10), Learned::Full);
        assert_eq!(hosts.learn("/a", "x.example", ip(0), 20), Learned::Known);
        for of in 1..MAX_OF_ALL / MAX_OF_ONE {
            for n in 0..most {
                assert_eq!(hosts.learn(&of.to_string(), "x", ip(n), 10), Learned::New);
            }
        }
        assert_eq!(hosts.learn("/b", "x.example", ip(0), 10), Learned::Full);
        hosts.forget("/a");
        assert_eq!(hosts.learn("/b", "x.example", ip(0), 30), Learned::New);
        hosts.expire(10);
        assert_eq!(hosts.addresses, 1);
    }

    #[test]
    fn a_later_daemon_takes_over_what_stayed_open_for_a_while_at_least() {
        let mut hosts = Hosts::default();
        hosts.learn("/a", "x.example", ip(1), NOW.after(100));
        hosts.learn("/a", "y.example", ip(2), NOW.after(10 * MAX_SECONDS));
        let records: Vec<_> = hosts.records(NOW).collect();
        let later = Now { boot_ns: 7, unix_ns: NOW.unix_ns + 200_000_000_000 };
        let mut adopted = Hosts::default();
        adopted.adopt(records, later);
        let at = |seconds| later.after(seconds);
        assert!(adopted.expire(at(USED_SECONDS - 1)).is_empty());
        assert_eq!(adopted.expire(at(USED_SECONDS)), [("/a".to_owned(), ip(1))]);
        assert!(adopted.expire(at(MAX_SECONDS - 1)).is_empty());
        assert_eq!(adopted.expire(at(MAX_SECONDS)), [("/a".to_owned(), ip(2))]);
    }
}
