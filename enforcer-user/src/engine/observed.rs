//! What was denied, and what would have been and passed: for whoever asks why, or is about to enforce it.

use std::collections::HashMap;

use super::clock::Now;
use super::io::Denial;

/// The most that is remembered; what was not seen for longest goes first.
pub const MAX_OBSERVED: usize = 4096;

/// Denials, each once, with when they were asked about.
#[derive(Debug, Default)]
pub struct Denials {
    table: HashMap<Denial, Seen>,
    last: u64,
}

/// When something was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// By which it can be asked for; unique among those remembered.
    pub number: u64,
    /// Unix time, seconds, of the first.
    pub first: u64,
    /// Unix time, seconds, of the last.
    pub last: u64,
    /// How often the policy was asked; connections on a cached answer do not ask.
    pub times: u64,
}

impl Denials {
    /// Notes a denial.
    pub fn note(&mut self, denial: &Denial, now: Now) {
        let at = now.unix_seconds();
        if let Some(seen) = self.table.get_mut(denial) {
            (seen.last, seen.times) = (at, seen.times + 1);
            return;
        }
        if self.table.len() >= MAX_OBSERVED {
            let oldest =
                self.table.iter().min_by_key(|(_, seen)| seen.last).map(|(one, _)| one.clone());
            oldest.map(|one| self.table.remove(&one));
        }
        self.last += 1;
        let seen = Seen { number: self.last, first: at, last: at, times: 1 };
        self.table.insert(denial.clone(), seen);
    }

    /// One by its number.
    #[must_use]
    pub fn numbered(&self, number: u64) -> Option<(&Denial, Seen)> {
        let found = self.table.iter().find(|(_, seen)| seen.number == number);
        found.map(|(denial, seen)| (denial, *seen))
    }

    /// All of it, in the order of workloads, directions, peers and ports.
    #[must_use]
    pub fn list(&self) -> Vec<(&Denial, Seen)> {
        let mut all: Vec<(&Denial, Seen)> =
            self.table.iter().map(|(one, seen)| (one, *seen)).collect();
        all.sort_by_key(|(one, _)| {
            (&one.workload, one.direction, &one.peer, one.port, &one.because)
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::io::Question;
    use super::super::tests::{at, identity};
    use super::*;

    fn denial(port: u16) -> Denial {
        let (workload, peer, because) = ("web".to_owned(), "cli".to_owned(), "r".to_owned());
        let asked = Question { peer: 1, workload: 1, port, protocol: 6, direction: 2 };
        let (peer_identity, observed) = (identity("cli"), false);
        let direction = "ingress";
        Denial { asked, peer_identity, workload, peer, port, direction, observed, because }
    }

    #[test]
    fn each_is_told_once_with_its_times() {
        let mut denials = Denials::default();
        for second in [1, 5, 9] {
            denials.note(&denial(80), at(second));
        }
        denials.note(&denial(81), at(9));
        let list = denials.list();
        assert_eq!(list.len(), 2);
        let (first, last) = (at(1).unix_seconds(), at(9).unix_seconds());
        assert_eq!(list[0].1, Seen { number: 1, first, last, times: 3 });
        assert_eq!(denials.numbered(2).unwrap().0.port, 81);
        assert!(denials.numbered(3).is_none());
    }

    #[test]
    fn what_was_not_seen_for_longest_goes_first() {
        let mut denials = Denials::default();
        for port in 0..u16::try_from(MAX_OBSERVED).unwrap() {
            denials.note(&denial(port), at(u64::from(port)));
        }
        denials.note(&denial(0), at(10_000));
        denials.note(&denial(50_000), at(10_001));
        let ports: Vec<u16> = denials.list().iter().map(|(one, _)| one.port).collect();
        assert_eq!(ports.len(), MAX_OBSERVED);
        assert!(ports.contains(&0) && !ports.contains(&1) && ports.contains(&50_000));
    }
}
