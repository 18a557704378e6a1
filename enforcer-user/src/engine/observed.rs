//! What would have been denied and passed: for whoever is about to enforce it.

use std::collections::HashMap;

use super::clock::Now;
use super::io::Denial;

/// The most that is remembered; what was not seen for longest goes first.
pub const MAX_OBSERVED: usize = 4096;

/// What would have been denied, each once, with when it was asked about.
#[derive(Debug, Default)]
pub struct Observed {
    table: HashMap<Denial, Seen>,
}

/// When something was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Unix time, seconds, of the first.
    pub first: u64,
    /// Unix time, seconds, of the last.
    pub last: u64,
    /// How often the policy was asked; connections on a cached answer do not ask.
    pub times: u64,
}

impl Observed {
    /// Notes a denial that was let pass; any other is none of these.
    pub fn note(&mut self, denial: &Denial, now: Now) {
        if !denial.observed {
            return;
        }
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
        self.table.insert(denial.clone(), Seen { first: at, last: at, times: 1 });
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
    use super::super::tests::at;
    use super::*;

    fn denial(port: u16, observed: bool) -> Denial {
        let (workload, peer, because) = ("web".to_owned(), "cli".to_owned(), "r".to_owned());
        Denial { workload, peer, port, direction: "ingress", observed, because }
    }

    #[test]
    fn each_is_told_once_with_its_times() {
        let mut observed = Observed::default();
        for second in [1, 5, 9] {
            observed.note(&denial(80, true), at(second));
        }
        observed.note(&denial(81, false), at(9));
        let list = observed.list();
        assert_eq!(list.len(), 1);
        let (first, last) = (at(1).unix_seconds(), at(9).unix_seconds());
        assert_eq!(list[0].1, Seen { first, last, times: 3 });
    }

    #[test]
    fn what_was_not_seen_for_longest_goes_first() {
        let mut observed = Observed::default();
        for port in 0..u16::try_from(MAX_OBSERVED).unwrap() {
            observed.note(&denial(port, true), at(u64::from(port)));
        }
        observed.note(&denial(0, true), at(10_000));
        observed.note(&denial(50_000, true), at(10_001));
        let ports: Vec<u16> = observed.list().iter().map(|(one, _)| one.port).collect();
        assert_eq!(ports.len(), MAX_OBSERVED);
        assert!(ports.contains(&0) && !ports.contains(&1) && ports.contains(&50_000));
    }
}
