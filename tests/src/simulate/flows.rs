//! Open connections: how many, what verdicts they stand on, and which end when.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::abi::FlowKey;
use enforcer_user::engine::{LiveFlow, Question, Sweep};

use super::tables::Level;

/// How long a flow stays whose both sides have closed, in seconds (PROTOCOL.md, the life of a flow).
const LINGER_SECONDS: u64 = 5;

/// A connection that stays open until it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    asked: Question,
    group: u64,
}

/// All flows, by what they stand on.
#[derive(Debug)]
pub struct Flows {
    level: Level,
    groups: HashMap<Question, Group>,
    ending: BTreeMap<u64, Vec<(Question, u64)>>,
    next: u64,
}

/// Flows that stand on one verdict; told from others that stood on the same before by its number.
#[derive(Debug)]
struct Group {
    number: u64,
    flows: usize,
    example: FlowKey,
}

impl Flows {
    /// None, and room for so many.
    pub fn new(capacity: usize) -> Self {
        Self {
            level: Level::new(capacity),
            groups: HashMap::new(),
            ending: BTreeMap::new(),
            next: 0,
        }
    }

    /// Opens one that ends some seconds after `at`; `false` if there is no room.
    pub fn open(&mut self, key: FlowKey, asked: Question, at: u64, seconds: u64) -> bool {
        let Some(group) = self.enter(key, asked) else { return false };
        self.ending.entry(at + seconds + LINGER_SECONDS).or_default().push((asked, group));
        true
    }

    /// Opens one that stays.
    pub fn stand(&mut self, key: FlowKey, asked: Question) -> Option<Standing> {
        self.enter(key, asked).map(|group| Standing { asked, group })
    }

    /// Whether it is still there.
    pub fn stands(&self, standing: &Standing) -> bool {
        self.groups.get(&standing.asked).is_some_and(|group| group.number == standing.group)
    }

    /// Closes one that stayed.
    pub fn close(&mut self, standing: &Standing) {
        self.leave(standing.asked, standing.group);
    }

    /// Removes those that ended by `at`.
    pub fn end(&mut self, at: u64) {
        let later = self.ending.split_off(&(at + 1));
        let ended = std::mem::replace(&mut self.ending, later);
        for (asked, group) in ended.into_values().flatten() {
            self.leave(asked, group);
        }
    }

    /// Resets those that a sweep names; returns how many.
    pub fn sweep(&mut self, sweep: &Sweep) -> usize {
        let swept: Vec<Question> = self
            .groups
            .iter()
            .filter(|(asked, group)| sweep.covers(&live(asked, group)) || named(sweep, group))
            .map(|(asked, _)| *asked)
            .collect();
        let mut count = 0;
        for asked in swept {
            count += self.groups.remove(&asked).map_or(0, |group| group.flows);
        }
        self.level.remove(count);
        count
    }

    /// What flows stand on.
    pub fn in_use(&self) -> Vec<Question> {
        self.groups.keys().copied().collect()
    }

    /// Every flow, as a policy change reads the tables.
    pub fn live(&self) -> Vec<LiveFlow> {
        let groups = self.groups.iter();
        groups.flat_map(|(asked, group)| vec![live(asked, group); group.flows]).collect()
    }

    /// How full the table is.
    pub fn level(&self) -> &Level {
        &self.level
    }

    /// Flows there are, counted anew.
    pub fn count(&self) -> usize {
        self.groups.values().map(|group| group.flows).sum()
    }

    fn enter(&mut self, key: FlowKey, asked: Question) -> Option<u64> {
        if !self.level.add() {
            return None;
        }
        self.next += 1;
        let fresh = Group { number: self.next, flows: 0, example: key };
        let group = self.groups.entry(asked).or_insert(fresh);
        group.flows += 1;
        Some(group.number)
    }

    fn leave(&mut self, asked: Question, number: u64) {
        let Some(group) = self.groups.get_mut(&asked).filter(|group| group.number == number) else {
            return;
        };
        group.flows -= 1;
        self.level.remove(1);
        if group.flows == 0 {
            self.groups.remove(&asked);
        }
    }
}

fn live(asked: &Question, group: &Group) -> LiveFlow {
    let Question { peer, port, direction, .. } = *asked;
    LiveFlow { key: group.example, peer, port, direction, flags: 0 }
}

fn named(sweep: &Sweep, group: &Group) -> bool {
    sweep.flows.contains(&group.example)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Question = Question { peer: 9, workload: 1, port: 80, protocol: 6, direction: 1 };

    #[test]
    fn what_was_swept_does_not_end_again() {
        let mut flows = Flows::new(3);
        let key = FlowKey { workload: 1, ..FlowKey::default() };
        let standing = flows.stand(key, ASKED).unwrap();
        assert!(flows.open(key, ASKED, 100, 10) && flows.open(key, ASKED, 100, 20));
        assert!(!flows.open(key, ASKED, 100, 20), "three are all there is room for");
        let sweep = Sweep { peers: [9].into(), ..Sweep::default() };
        assert_eq!(flows.sweep(&sweep), 3);
        assert!(!flows.stands(&standing));
        // Others on the same verdict, which those that were swept must not take along.
        let standing = flows.stand(key, ASKED).unwrap();
        flows.end(200);
        assert!(flows.stands(&standing));
        assert_eq!((flows.count(), flows.level().entries), (1, 1));
        flows.close(&standing);
        assert_eq!((flows.count(), flows.level().entries), (0, 0));
        assert_eq!(flows.level().refused, 1);
    }

    #[test]
    fn flows_stay_for_a_while_after_their_end() {
        let mut flows = Flows::new(3);
        assert!(flows.open(FlowKey::default(), ASKED, 100, 10));
        flows.end(110 + LINGER_SECONDS - 1);
        assert_eq!(flows.in_use(), [ASKED]);
        flows.end(110 + LINGER_SECONDS);
        assert_eq!(flows.count(), 0);
    }
}
