//! Credentials that ended by boot time while the wall clock, set back meanwhile, still takes them for
//! valid: they must not begin again.

use std::collections::{BTreeSet, HashMap};

use super::clock::Now;
use super::peers::Vetted;

/// The most that are remembered; of more, those that end first by their own word go.
pub const MAX_ENDED: usize = 16_384;

/// Full hashes of ended credentials. Empty as long as nobody sets the wall clock back.
#[derive(Debug, Default)]
pub struct Ended {
    /// The second (Unix time) from which the wall clock refuses it too.
    not_after: HashMap<[u8; 32], u64>,
    order: BTreeSet<(u64, [u8; 32])>,
}

impl Ended {
    /// Whether this credential has ended.
    pub fn holds(&self, hash: &[u8; 32]) -> bool {
        self.not_after.contains_key(hash)
    }

    /// Remembers a credential if it has ended and the wall clock does not know.
    pub fn note(&mut self, vetted: &Vetted, now: Now) {
        if vetted.ends.credential_ns > now.boot_ns || vetted.not_after <= now.unix_seconds() {
            return;
        }
        if self.not_after.insert(vetted.hash, vetted.not_after).is_none() {
            self.order.insert((vetted.not_after, vetted.hash));
        }
        if self.order.len() > MAX_ENDED {
            self.drop_first();
        }
    }

    /// Forgets those that the wall clock refuses.
    pub fn forget(&mut self, now: Now) {
        while self.order.first().is_some_and(|(not_after, _)| *not_after <= now.unix_seconds()) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, hash)) = self.order.pop_first() {
            self.not_after.remove(&hash);
        }
    }
}
