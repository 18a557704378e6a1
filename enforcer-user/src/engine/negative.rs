//! Credentials that were refused a moment ago, so that the same garbage is not verified twice.

use std::collections::{HashMap, VecDeque};

use super::clock::{Now, SECOND_NS};

/// The most refused credentials that are remembered.
pub const MAX_REFUSED: usize = 4096;
/// How long one is remembered, in seconds: a node whose certificate was just renewed, or whose
/// clock was just set, is heard again after that.
pub const REFUSED_SECONDS: u64 = 30;

/// Full hashes of refused credentials. The oldest goes when it is full.
#[derive(Debug, Default)]
pub struct Negative {
    until_ns: HashMap<[u8; 32], u64>,
    order: VecDeque<[u8; 32]>,
}

impl Negative {
    /// Whether this credential was refused and the time is not over.
    pub fn holds(&self, hash: &[u8; 32], now: Now) -> bool {
        self.until_ns.get(hash).is_some_and(|until| now.boot_ns < *until)
    }

    /// Remembers a refusal.
    pub fn insert(&mut self, hash: [u8; 32], now: Now) {
        let until = now.boot_ns.saturating_add(REFUSED_SECONDS * SECOND_NS);
        if self.until_ns.insert(hash, until).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > MAX_REFUSED {
            if let Some(oldest) = self.order.pop_front() {
                self.until_ns.remove(&oldest);
            }
        }
    }

    /// Forgets everything: what is trusted has changed.
    pub fn clear(&mut self) {
        self.until_ns.clear();
        self.order.clear();
    }

    /// Number of refusals remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { boot_ns: seconds * SECOND_NS, unix_ns: 0 }
    }

    #[test]
    fn a_refusal_is_forgotten_in_time() {
        let mut negative = Negative::default();
        negative.insert([1; 32], at(0));
        assert!(negative.holds(&[1; 32], at(REFUSED_SECONDS - 1)));
        assert!(!negative.holds(&[1; 32], at(REFUSED_SECONDS)));
        assert!(!negative.holds(&[2; 32], at(0)));
    }

    #[test]
    fn a_flood_of_refusals_is_bounded() {
        let mut negative = Negative::default();
        for number in 0..MAX_REFUSED as u64 + 10 {
            negative.insert(*blake3::hash(&number.to_le_bytes()).as_bytes(), at(0));
        }
        assert_eq!(negative.len(), MAX_REFUSED);
        assert_eq!(negative.until_ns.len(), MAX_REFUSED);
    }
}
