//! What workloads that learn did: whom they called, who called them, at which ports, in which hours of the week.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::policy::{Action, Protocol};

/// The most that is remembered; more is counted as lost.
pub const MAX_FLOWS: usize = 16_384;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The first day of Unix time was a Thursday.
const FIRST_WEEKDAY: u64 = 3;

/// Hours of the week, in UTC: a word for each day from Monday on, of which bit `n` is the hour from `n` o'clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours([u32; 7]);

impl Hours {
    /// Notes the hour of this second (Unix time).
    pub fn note(&mut self, unix: u64) {
        let day = usize::try_from((unix / DAY + FIRST_WEEKDAY) % 7).unwrap_or_default();
        if let Some(hours) = self.0.get_mut(day) {
            *hours |= 1 << (unix % DAY / HOUR);
        }
    }

    /// How many of the 168.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.iter().map(|hours| hours.count_ones()).sum()
    }

    /// Those of either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let mut both = self;
        both.0.iter_mut().zip(other.0).for_each(|(hours, more)| *hours |= more);
        both
    }
}

/// A workload that learns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedWorkload {
    /// Who it is.
    pub spiffe_id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Since when it learns.
    pub since_unix: u64,
    /// When it was watched, whether or not it did something.
    pub watched: Hours,
}

/// The other end of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedPeer {
    /// Who it is.
    pub spiffe_id: String,
    /// Its labels, as last seen.
    pub labels: BTreeMap<String, String>,
}

/// Connections of one pair to one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedFlow {
    /// Who called.
    pub from: String,
    /// Who was called.
    pub to: String,
    /// Which end learned it: `connect` for the caller's, `accept` for the callee's.
    pub action: String,
    /// The callee's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// When it was first seen.
    pub first_unix: u64,
    /// When it was last seen.
    pub last_unix: u64,
    /// Of how many hours it was seen in, each counted once.
    pub times: u64,
    /// The hours of the week in which it was seen.
    pub hours: Hours,
}

/// All of it, for a file and for whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedReport {
    /// Who learns, or did.
    pub workloads: Vec<LearnedWorkload>,
    /// Whom they met.
    pub peers: Vec<LearnedPeer>,
    /// What was seen.
    pub flows: Vec<LearnedFlow>,
    /// Times that something was seen for which there was no room.
    pub lost: u64,
}

/// Caller, callee, whether the callee's end learned it, port, protocol.
type Key = (String, String, bool, u16, u8);

/// What was learned so far.
#[derive(Debug, Default)]
pub struct Learned {
    workloads: BTreeMap<String, LearnedWorkload>,
    peers: BTreeMap<String, BTreeMap<String, String>>,
    flows: BTreeMap<Key, LearnedFlow>,
    lost: u64,
    changes: u64,
}

impl Learned {
    /// Notes a connection of a workload that learns, at its own end, at this second (Unix time).
    pub fn note(
        &mut self,
        (own, peer): (&Identity, &Identity),
        action: Action,
        (port, protocol): (u16, Protocol),
        unix: u64,
    ) {
        let (own_id, peer_id) = (own.spiffe_id(), peer.spiffe_id());
        let (from, to) = match action {
            Action::Connect => (own_id, peer_id.clone()),
            Action::Accept => (peer_id.clone(), own_id),
        };
        let key = (from, to, action == Action::Accept, port, protocol.number());
        if let Some(flow) = self.flows.get_mut(&key) {
            if flow.last_unix / HOUR != unix / HOUR {
                flow.times += 1;
            }
            (flow.last_unix, self.changes) = (unix, self.changes + 1);
            flow.hours.note(unix);
        } else if self.flows.len() < MAX_FLOWS {
            let mut hours = Hours::default();
            hours.note(unix);
            let (from, to) = (key.0.clone(), key.1.clone());
            let (action, protocol) = (action.to_string(), protocol.to_string());
            let (first_unix, last_unix, times) = (unix, unix, 1);
            let flow = LearnedFlow {
                from,
                to,
                action,
                port,
                protocol,
                first_unix,
                last_unix,
                times,
                hours,
            };
            self.flows.insert(key, flow);
            self.changes += 1;
        } else {
            self.lost += 1;
            return;
        }
        self.peers.insert(peer_id, peer.labels().clone());
    }

    /// Notes that these workloads are watched at this second (Unix time).
    pub fn watch<'a>(&mut self, learning: impl Iterator<Item = &'a Identity>, unix: u64) {
        for own in learning {
            let id = own.spiffe_id();
            let workload = self.workloads.entry(id.clone()).or_insert_with(|| LearnedWorkload {
                spiffe_id: id,
                labels: BTreeMap::new(),
                since_unix: unix,
                watched: Hours::default(),
            });
            workload.labels.clone_from(own.labels());
            workload.watched.note(unix);
            self.changes += 1;
        }
    }

    /// A number that grows with every change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// All of it.
    #[must_use]
    pub fn report(&self) -> LearnedReport {
        let peer = |(id, labels): (&String, &BTreeMap<String, String>)| LearnedPeer {
            spiffe_id: id.clone(),
            labels: labels.clone(),
        };
        LearnedReport {
            workloads: self.workloads.values().cloned().collect(),
            peers: self.peers.iter().map(peer).collect(),
            flows: self.flows.values().cloned().collect(),
            lost: self.lost,
        }
    }

    /// What a report says that is well formed and that there is room for.
    #[must_use]
    pub fn of(report: LearnedReport) -> Self {
        let key = |flow: &LearnedFlow| {
            let protocol: Protocol = flow.protocol.parse().ok()?;
            let accepts = match flow.action.as_str() {
                "connect" => false,
                "accept" => true,
                _ => return None,
            };
            Some((flow.from.clone(), flow.to.clone(), accepts, flow.port, protocol.number()))
        };
        let flows = report.flows.into_iter().filter_map(|flow| Some((key(&flow)?, flow)));
        let flows: BTreeMap<Key, LearnedFlow> = flows.take(MAX_FLOWS).collect();
        let ends: BTreeSet<&str> =
            flows.keys().flat_map(|key| [key.0.as_str(), key.1.as_str()]).collect();
        let peers = report.peers.into_iter().filter(|peer| ends.contains(peer.spiffe_id.as_str()));
        let peers = peers.map(|peer| (peer.spiffe_id, peer.labels)).collect();
        let workloads = report.workloads.into_iter().take(MAX_FLOWS);
        let workloads = workloads.map(|one| (one.spiffe_id.clone(), one)).collect();
        Self { workloads, peers, flows, lost: report.lost, changes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str) -> Identity {
        Identity::from_spiffe_id(id, BTreeMap::new()).unwrap()
    }

    #[test]
    fn hours_are_those_of_the_week() {
        let mut hours = Hours::default();
        // Thursday 1970-01-01 00:00, and 23:59:59; Monday 1970-01-05 13:00.
        for unix in [0, DAY - 1, 4 * DAY + 13 * HOUR] {
            hours.note(unix);
        }
        assert_eq!(hours.0, [1 << 13, 0, 0, 1 | 1 << 23, 0, 0, 0]);
        assert_eq!((hours.count(), hours.or(hours)), (3, hours));
    }

    #[test]
    fn what_was_learned_is_the_same_behind_a_restart() {
        let mut learned = Learned::default();
        let (web, db) = (of("spiffe://example.org/a/web"), of("spiffe://example.org/a/db"));
        learned.watch([&web].into_iter(), 10);
        for unix in [10, 20, HOUR + 5] {
            learned.note((&web, &db), Action::Connect, (5432, Protocol::TCP), unix);
        }
        learned.note((&web, &db), Action::Accept, (80, Protocol::TCP), 30);
        let report = learned.report();
        let calls = &report.flows[1];
        assert_eq!((calls.action.as_str(), calls.port, calls.times), ("connect", 5432, 2));
        assert_eq!((calls.first_unix, calls.last_unix, calls.hours.count()), (10, HOUR + 5, 2));
        assert_eq!(report.flows[0].from, "spiffe://example.org/a/db");
        assert_eq!(Learned::of(report.clone()).report(), report);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let mut learned = Learned::default();
        let (web, db) = (of("spiffe://example.org/a/web"), of("spiffe://example.org/a/db"));
        for port in 0..u16::try_from(MAX_FLOWS).unwrap() + 3 {
            learned.note((&web, &db), Action::Connect, (port, Protocol::TCP), 10);
        }
        let report = learned.report();
        assert_eq!((report.flows.len(), report.lost), (MAX_FLOWS, 3));
    }
}
