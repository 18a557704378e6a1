//! What a run found: minute by minute, in all, and which limits were met.

use std::collections::BTreeMap;

use anyhow::Result;
use enforcer_user::config::Limits;
use enforcer_user::engine::Refused;
use serde::Serialize;

use super::frames::Added;
use super::heap;
use super::node::{Costs, Node, Spent, kind};
use super::options::Options;
use super::tables::{Capacities, Level};

/// What the node has to do with.
#[derive(Debug, Clone, Serialize)]
pub struct Neighbourhood {
    /// The node's number.
    pub node: u32,
    /// Workloads that its workloads call, once for each caller.
    pub outgoing: usize,
    /// Workloads that call its workloads, once for each callee.
    pub incoming: usize,
    /// Different workloads among them.
    pub workloads: usize,
    /// Their nodes.
    pub nodes: usize,
}

/// What was counted; of a minute the difference, but for what a single second had at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Connections that the node's workloads opened.
    pub called: u64,
    /// Connections that others opened to them.
    pub answered: u64,
    /// Of those opened here, calls whose answer came with a credential that was not known.
    pub cold_called: u64,
    /// Of those opened elsewhere, with a credential that was not known.
    pub cold_answered: u64,
    /// Known peers whose connection had no verdict.
    pub asked: u64,
    /// Denied by the policy.
    pub denied: u64,
    /// Not answered: the engine did not let the segment go on.
    pub unanswered: u64,
    /// Bytes that the handshake added to what the node sent.
    pub sent_bytes: u64,
    /// And to what it received.
    pub received_bytes: u64,
    /// Workloads of the node replaced.
    pub replaced_here: u64,
    /// Workloads elsewhere replaced, of those that the node has to do with.
    pub replaced_elsewhere: u64,
    /// Credentials issued by the node.
    pub issued: u64,
    /// Credentials verified.
    pub verified: u64,
    /// Verdicts put off for flows that stand on them.
    pub renewed: u64,
    /// Peers that had to go for others.
    pub peers_displaced: u64,
    /// Verdicts that had to go for others.
    pub verdicts_displaced: u64,
    /// Flows reset by a sweep.
    pub cut: u64,
    /// Complaints of the engine.
    pub problems: u64,
    /// The most connections of a second.
    pub most_a_second: u64,
    /// The most contacts of strangers in a second.
    pub most_cold_a_second: u64,
}

impl Figures {
    /// All connections.
    pub fn connections(&self) -> u64 {
        self.called + self.answered
    }

    /// All contacts with credentials that were not known.
    pub fn cold(&self) -> u64 {
        self.cold_called + self.cold_answered
    }

    /// A handshake with what it adds to the segments.
    pub fn shake(&mut self, outgoing: bool, added: Added) {
        let (caller, callee) = (added.caller as u64, added.callee as u64);
        if outgoing {
            self.called += 1;
            self.sent_bytes += caller;
            self.received_bytes += callee;
        } else {
            self.answered += 1;
            self.sent_bytes += callee;
            self.received_bytes += caller;
        }
    }

    /// A connection of which the daemon is asked.
    pub fn hold(&mut self, outgoing: bool, stranger: bool) {
        let count = match (stranger, outgoing) {
            (true, true) => &mut self.cold_called,
            (true, false) => &mut self.cold_answered,
            (false, _) => &mut self.asked,
        };
        *count += 1;
    }

    /// What was counted since.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            called: self.called - before.called,
            answered: self.answered - before.answered,
            cold_called: self.cold_called - before.cold_called,
            cold_answered: self.cold_answered - before.cold_answered,
            asked: self.asked - before.asked,
            denied: self.denied - before.denied,
            unanswered: self.unanswered - before.unanswered,
            sent_bytes: self.sent_bytes - before.sent_bytes,
            received_bytes: self.received_bytes - before.received_bytes,
            replaced_here: self.replaced_here - before.replaced_here,
            replaced_elsewhere: self.replaced_elsewhere - before.replaced_elsewhere,
            issued: self.issued - before.issued,
            verified: self.verified - before.verified,
            renewed: self.renewed - before.renewed,
            peers_displaced: self.peers_displaced - before.peers_displaced,
            verdicts_displaced: self.verdicts_displaced - before.verdicts_displaced,
            cut: self.cut - before.cut,
            problems: self.problems - before.problems,
            ..*self
        }
    }
}

/// One minute; what is held is what is held at its end.
#[derive(Debug, Clone, Serialize)]
pub struct Minute {
    /// Its number, from 1.
    pub minute: u32,
    /// What was counted.
    pub figures: Figures,
    /// What was spent. The longest of each is of the whole run so far.
    pub costs: Costs,
    /// What engine and policy hold of the heap more than a minute before, bytes.
    pub grown_bytes: Option<i64>,
    /// Identities of peers that are known.
    pub identities: usize,
    /// Entries of each map.
    pub maps: BTreeMap<&'static str, usize>,
}

impl Minute {
    /// The minute that just ended; `before` is what had been spent when it began.
    #[must_use]
    pub fn new(
        minute: u32,
        figures: Figures,
        before: &Costs,
        node: &Node,
        grown_bytes: Option<i64>,
    ) -> Self {
        let spent = |(kind, now): (&&'static str, &Spent)| {
            let before = before.get(kind).copied().unwrap_or_default();
            let calls = now.calls - before.calls;
            (*kind, Spent { calls, millis: now.millis - before.millis, ..*now })
        };
        Self {
            minute,
            figures,
            costs: node.costs.iter().map(spent).collect(),
            grown_bytes,
            identities: node.engine().known_peers().count(),
            maps: levels(node).into_iter().map(|(name, level)| (name, level.entries)).collect(),
        }
    }

    /// One line of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let Figures { cold_called, cold_answered, .. } = self.figures;
        let map = |name| self.maps.get(name).copied().unwrap_or_default();
        format!(
            "{:6} | {:9.1} {:9.1} | {:8} | {:6} {:6} {:6} {:5} {:7} | {:7} {:6} {:6} | {:8.1} {:8.1} | {:5} {:5}",
            self.minute,
            millis(&self.costs, &kind::ENGINE),
            millis(&self.costs, &[kind::JOBS]),
            self.grown_bytes.map_or_else(|| "?".to_owned(), |bytes| (bytes / 1024).to_string()),
            self.identities,
            map("PEERS"),
            map("VERDICTS"),
            map("CREDENTIALS"),
            map("FLOWS4"),
            self.figures.connections(),
            cold_called,
            cold_answered,
            kilobytes_a_second(self.figures.sent_bytes, 60.0),
            kilobytes_a_second(self.figures.received_bytes, 60.0),
            self.figures.peers_displaced + self.figures.verdicts_displaced,
            self.figures.unanswered,
        )
    }
}

/// The heads of the columns of [`Minute::line`].
pub const HEADS: &str = "       |   processor ms      | heap     | held                                | connections           | handshakes, kB/s  | dis-  un-
minute |    engine verifying | + KiB    | identi peers  verdic creds   flows  |     all cold out  in  |     sent received | placd answd";

/// Something that there is so much of.
#[derive(Debug, Clone, Serialize)]
pub struct Room {
    /// What it is.
    pub name: String,
    /// The most of it that was used.
    pub used: f64,
    /// How much there is.
    pub available: f64,
    /// How often it did not suffice.
    pub met: u64,
    /// What not sufficing means.
    pub meaning: &'static str,
}

impl Room {
    /// The part that was used.
    pub fn share(&self) -> f64 {
        self.used / self.available
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was simulated.
    pub options: Options,
    /// Which node.
    pub neighbourhood: Neighbourhood,
    /// Minute by minute.
    pub minutes: Vec<Minute>,
    /// What was counted in all.
    pub figures: Figures,
    /// What was spent in all.
    pub costs: Costs,
    /// What engine and policy hold of the heap at the end, bytes.
    pub heap_bytes: Option<i64>,
    /// What the first policy took of it, bytes.
    pub policy_bytes: Option<i64>,
    /// How full each map is and was.
    pub maps: BTreeMap<&'static str, Level>,
    /// What the engine refused, by its reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// What there is only so much of, the scarcest first.
    pub rooms: Vec<Room>,
    /// The last complaint of the engine.
    pub problem: Option<String>,
}

impl Report {
    /// Of a run that begins.
    #[must_use]
    pub fn new(options: &Options, neighbourhood: Neighbourhood) -> Self {
        Self {
            options: options.clone(),
            neighbourhood,
            minutes: Vec::new(),
            figures: Figures::default(),
            costs: Costs::new(),
            heap_bytes: None,
            policy_bytes: None,
            maps: BTreeMap::new(),
            refused: BTreeMap::new(),
            rooms: Vec::new(),
            problem: None,
        }
    }

    /// The run is over.
    pub fn finish(
        &mut self,
        node: &Node,
        limits: &Limits,
        figures: Figures,
        policy_bytes: Option<i64>,
    ) -> Result<()> {
        let counters = node.engine().counters();
        let refused = Refused::ALL.iter().map(|why| (why.name(), counters.refused(*why)));
        self.refused = refused.filter(|(_, count)| *count > 0).collect();
        self.figures = figures;
        self.costs = node.costs.clone();
        self.heap_bytes = heap::held();
        self.policy_bytes = policy_bytes;
        self.maps = levels(node);
        self.problem.clone_from(&node.problems.1);
        self.rooms = self.scarce(limits)?;
        Ok(())
    }

    /// The limits that were met.
    pub fn met(&self) -> impl Iterator<Item = &Room> {
        self.rooms.iter().filter(|room| room.met > 0)
    }

    /// Minutes behind the first, in which everybody is a stranger.
    fn steady(&self) -> &[Minute] {
        self.minutes.get(1..).unwrap_or_default()
    }

    fn scarce(&self, limits: &Limits) -> Result<Vec<Room>> {
        let mut rooms = Vec::new();
        let mut room = |name: &str, used: f64, available: f64, met: u64, meaning| {
            rooms.push(Room { name: name.to_owned(), used, available, met, meaning });
        };
        for (name, level) in &self.maps {
            let (displaced, meaning) = match *name {
                "PEERS" => (self.figures.peers_displaced, "known peers become strangers"),
                "VERDICTS" => (self.figures.verdicts_displaced, "answers are asked for again"),
                "FLOWS4" => (0, "connections are refused"),
                _ => (0, "workloads are refused"),
            };
            let (used, capacity) = (as_f64(level.peak as u64), as_f64(level.capacity as u64));
            room(name, used, capacity, level.refused + displaced, meaning);
        }
        let attempts = as_f64(Capacities::new(limits)?.of("ATTEMPTS")? as u64);
        let begun = self.figures.most_a_second;
        let met = u64::from(as_f64(begun) > attempts);
        room("ATTEMPTS, begun in a second", as_f64(begun), attempts, met, "half-open ones go");
        let (cold, most) = (self.figures.most_cold_a_second, u64::from(limits.cold_per_second));
        let met = u64::from(cold > most);
        room("first contacts a second", as_f64(cold), as_f64(most), met, "they are dropped");
        let seconds = 60.0 * as_f64(self.steady().len().max(1) as u64);
        for (name, kinds) in [
            ("engine's thread", &kind::ENGINE[..]),
            ("verifying threads, of one core", &[kind::JOBS]),
        ] {
            let spent: f64 = self.steady().iter().map(|one| millis(&one.costs, kinds)).sum();
            let used = spent / 1e3 / seconds;
            room(name, used, 1.0, u64::from(used > 1.0), "contacts wait and are dropped");
        }
        for kind in kind::ENGINE {
            let longest = self.costs.get(kind).map_or(0.0, |spent| spent.longest_millis / 1e3);
            let name = format!("longest call of the engine, {kind}, s");
            // The daemon's ticks come once a second.
            room(&name, longest, 1.0, u64::from(longest > 1.0), "first contacts wait meanwhile");
        }
        rooms.sort_by(|a, b| {
            (b.met > 0, b.share())
                .partial_cmp(&(a.met > 0, a.share()))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        Ok(rooms)
    }
}

fn levels(node: &Node) -> BTreeMap<&'static str, Level> {
    let mut levels = node.tables.levels();
    levels.insert("FLOWS4", node.flows.level().clone());
    levels
}

pub(super) fn millis(costs: &Costs, kinds: &[&str]) -> f64 {
    kinds.iter().filter_map(|kind| costs.get(kind)).map(|spent| spent.millis).sum()
}

pub(super) fn kilobytes_a_second(bytes: u64, seconds: f64) -> f64 {
    as_f64(bytes) / 1e3 / seconds
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}
