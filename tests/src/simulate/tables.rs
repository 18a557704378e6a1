//! The kernel's maps, as far as the engine fills them: what is in them, and how much room there is.
//!
//! Capacities are those of the eBPF object that this build embeds, and those that the daemon sets when it loads
//! it. A full table refuses, as the kernel's hash maps do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use anyhow::{Context, Result, ensure};
use aya_obj::Object;
use enforcer_common::abi::{
    Handle, NetworkKey, PeerKey, PeerValue, VerdictKey, VerdictValue, WorkloadValue,
};
use enforcer_user::config::Limits;
use enforcer_user::datapath;
use enforcer_user::engine::{Output, Question};
use serde::Serialize;

/// Room in each map.
#[derive(Debug, Clone)]
pub struct Capacities(BTreeMap<String, u32>);

impl Capacities {
    /// Those of this build under these limits of the configuration.
    pub fn new(limits: &Limits) -> Result<Self> {
        let object = Object::parse(datapath::object()).context("the embedded object")?;
        let mut rooms: BTreeMap<String, u32> =
            object.maps.iter().map(|(name, map)| (name.clone(), map.max_entries())).collect();
        for (name, entries) in [
            ("FLOWS4", limits.flows),
            ("FLOWS6", limits.flows),
            ("PEERS", limits.peers),
            ("ATTEMPTS", limits.attempts),
            // A policy change writes the new epoch's verdicts beside the old ones.
            ("VERDICTS", limits.verdicts.saturating_mul(2)),
        ] {
            *rooms.get_mut(name).with_context(|| format!("there is no map {name}"))? = entries;
        }
        Ok(Self(rooms))
    }

    /// The room of a map.
    pub fn of(&self, name: &str) -> Result<usize> {
        let room = self.0.get(name).with_context(|| format!("there is no map {name}"))?;
        Ok(usize::try_from(*room)?)
    }
}

/// How full a map is and was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Its room.
    pub capacity: usize,
    /// Entries now.
    pub entries: usize,
    /// The most there were.
    pub peak: usize,
    /// Ever written anew.
    pub added: u64,
    /// Ever removed.
    pub removed: u64,
    /// Refused for want of room.
    pub refused: u64,
}

impl Level {
    /// An empty map of this room.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// One more; `false` if there is no room.
    pub fn add(&mut self) -> bool {
        if self.entries >= self.capacity {
            self.refused += 1;
            return false;
        }
        self.added += 1;
        self.entries += 1;
        self.peak = self.peak.max(self.entries);
        true
    }

    /// So many less.
    pub fn remove(&mut self, count: usize) {
        self.removed += count as u64;
        self.entries -= count;
    }
}

/// A hash map of the kernel.
#[derive(Debug)]
struct Table<K, V> {
    rows: HashMap<K, V>,
    level: Level,
}

impl<K: Eq + Hash, V> Table<K, V> {
    fn new(capacity: usize) -> Self {
        Self { rows: HashMap::new(), level: Level::new(capacity) }
    }

    fn insert(&mut self, key: K, value: V) -> bool {
        if !self.rows.contains_key(&key) && !self.level.add() {
            return false;
        }
        self.rows.insert(key, value);
        true
    }

    fn remove(&mut self, key: &K) {
        if self.rows.remove(key).is_some() {
            self.level.remove(1);
        }
    }
}

/// What the kernel says of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It goes on.
    Passes,
    /// The policy denies it.
    Denied,
    /// The daemon is asked, with the identity id of the peer, if it is known.
    Held(u64),
}

/// The maps.
#[derive(Debug)]
pub struct Tables {
    epoch: u32,
    credentials: Table<Handle, usize>,
    workloads: Table<u16, WorkloadValue>,
    peers: Table<PeerKey, (u64, u64)>,
    verdicts: Table<VerdictKey, VerdictValue>,
    networks: Table<(u32, NetworkKey), ()>,
}

impl Tables {
    /// Empty ones.
    pub fn new(capacities: &Capacities) -> Result<Self> {
        Ok(Self {
            epoch: 0,
            credentials: Table::new(capacities.of("CREDENTIALS")?),
            workloads: Table::new(capacities.of("WORKLOADS")?),
            peers: Table::new(capacities.of("PEERS")?),
            verdicts: Table::new(capacities.of("VERDICTS")?),
            networks: Table::new(capacities.of("NETWORKS")?),
        })
    }

    /// Does what the engine says; `false` if there is no room for it. What is not for the maps changes nothing.
    #[must_use]
    pub fn apply(&mut self, output: &Output) -> bool {
        match output {
            Output::InstallCredential(handle, credential) => {
                return self.credentials.insert(*handle, usize::from(credential.0.length));
            }
            Output::RemoveCredential(handle) => self.credentials.remove(handle),
            Output::InstallWorkload(id, value) => return self.workloads.insert(*id, **value),
            Output::RemoveWorkload(id) => self.workloads.remove(id),
            Output::InstallPeer(key, secrets) => {
                let PeerValue { identity, deadline_ns, .. } = **secrets;
                return self.peers.insert(*key, (identity, deadline_ns));
            }
            Output::RemovePeer(key) => self.peers.remove(key),
            Output::InstallVerdict(key, value) => return self.verdicts.insert(*key, *value),
            Output::RemoveVerdict(key) => self.verdicts.remove(key),
            Output::InstallNetworks(networks) => {
                let mut networks = networks.iter();
                return networks.all(|(bits, key, _)| self.networks.insert((*bits, *key), ()));
            }
            Output::RemoveNetworks(keys) => keys.iter().for_each(|key| self.networks.remove(key)),
            Output::FlipEpoch(epoch) => self.epoch = *epoch,
            Output::Verify(_)
            | Output::SweepFlows(_)
            | Output::ForgetAttempt(_)
            | Output::Reinject { .. }
            | Output::Remember(_)
            | Output::RememberHost(_)
            | Output::Log(_)
            | Output::LogRefusal(_)
            | Output::Problem(_) => {}
        }
        true
    }

    /// The handle that a workload shows and the bytes of its credential; none if it has none.
    pub fn shown(&self, workload: u16) -> Option<(Handle, usize)> {
        let handle = self.workloads.rows.get(&workload)?.credential;
        Some((handle, *self.credentials.rows.get(&handle)?))
    }

    /// Judges a handshake of these credentials as the programs do: the peer, then its verdict for the port, then
    /// that for all ports. The peer that is asked about is filled in.
    pub fn judge(&self, pair: &PeerKey, mut asked: Question, now_ns: u64) -> Judged {
        let Some((peer, _)) = self.peers.rows.get(pair).filter(|(_, end)| *end > now_ns) else {
            return Judged::Held(0);
        };
        asked.peer = *peer;
        let verdict = |asked: Question| {
            let verdict = self.verdicts.rows.get(&asked.key(self.epoch));
            verdict.filter(|verdict| verdict.deadline_ns > now_ns)
        };
        match verdict(asked).or_else(|| verdict(asked.any_port())) {
            Some(verdict) if passes(verdict) => Judged::Passes,
            Some(_) => Judged::Denied,
            None => Judged::Held(*peer),
        }
    }

    /// The identity of a peer, if it is there.
    pub fn identity(&self, pair: &PeerKey) -> Option<u64> {
        self.peers.rows.get(pair).map(|(identity, _)| *identity)
    }

    /// How full each map is.
    pub fn levels(&self) -> BTreeMap<&'static str, Level> {
        [
            ("CREDENTIALS", &self.credentials.level),
            ("NETWORKS", &self.networks.level),
            ("PEERS", &self.peers.level),
            ("VERDICTS", &self.verdicts.level),
            ("WORKLOADS", &self.workloads.level),
        ]
        .map(|(name, level)| (name, level.clone()))
        .into()
    }

    /// What was added less what was removed is what is there, and every peer and verdict is one of a credential
    /// or workload that is there.
    pub fn check(&self, peers: usize, verdicts: usize) -> Result<()> {
        for (name, level) in self.levels() {
            let there = level.added - level.removed;
            ensure!(there == level.entries as u64, "{name}: {level:?} does not add up");
            ensure!(level.peak <= level.capacity, "{name}: {level:?} is beyond its room");
        }
        let rows = (self.peers.rows.len(), self.verdicts.rows.len());
        let counted = (self.peers.level.entries, self.verdicts.level.entries);
        ensure!(rows == counted, "{rows:?} peers and verdicts, {counted:?} counted");
        ensure!(rows == (peers, verdicts), "{rows:?} in the maps, {peers} and {verdicts} known");
        let locals: HashSet<Handle> = self.peers.rows.keys().map(|key| key.local).collect();
        let stray = locals.iter().find(|local| !self.credentials.rows.contains_key(*local));
        ensure!(stray.is_none(), "a peer of credential {stray:?}, which is gone");
        let stray = self.verdicts.rows.keys().find(|key| {
            !self.workloads.rows.contains_key(&key.workload) || key.epoch != self.epoch
        });
        ensure!(stray.is_none(), "{stray:?} is of a workload or epoch that is gone");
        Ok(())
    }
}

fn passes(verdict: &VerdictValue) -> bool {
    use enforcer_common::abi::verdict_action::{ALLOW, WOULD_DENY};
    matches!(verdict.action, ALLOW | WOULD_DENY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_those_of_the_object_and_of_the_configuration() {
        let capacities = Capacities::new(&Limits { peers: 77, ..Limits::default() }).unwrap();
        assert_eq!(capacities.of("PEERS").unwrap(), 77);
        let verdicts = usize::try_from(Limits::default().verdicts).unwrap();
        assert_eq!(capacities.of("VERDICTS").unwrap(), 2 * verdicts);
        let rows = usize::try_from(enforcer_common::abi::WORKLOAD_ROWS).unwrap();
        assert_eq!(capacities.of("WORKLOADS").unwrap(), rows);
        assert!(capacities.of("CREDENTIALS").unwrap() > 0);
        assert!(capacities.of("NOTHING").is_err());
    }

    #[test]
    fn a_full_table_refuses_what_is_new_and_says_so() {
        let mut table = Table::new(2);
        assert!(table.insert(1, ()) && table.insert(2, ()) && table.insert(1, ()));
        assert!(!table.insert(3, ()));
        table.remove(&1);
        table.remove(&1);
        assert!(table.insert(3, ()));
        let expected = Level { capacity: 2, entries: 2, peak: 2, added: 3, removed: 1, refused: 1 };
        assert_eq!(table.level, expected);
    }
}
