//! A bounded table whose entries belong to groups: who fills it up displaces only their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// A table of at most `limit` entries. When it is full, the least recently used entry of the
/// largest group goes: a group never loses an entry while another one holds more than it does.
#[derive(Debug)]
pub struct Shares<K, V, G> {
    limit: usize,
    stamp: u64,
    entries: HashMap<K, Slot<V, G>>,
    /// Each group's keys, the least recently used first.
    groups: HashMap<G, BTreeMap<u64, K>>,
    /// Sizes of the groups, for finding the largest.
    sizes: BTreeSet<(usize, G)>,
}

#[derive(Debug)]
struct Slot<V, G> {
    value: V,
    group: G,
    stamp: u64,
}

impl<K: Copy + Eq + Hash, V, G: Clone + Ord + Hash> Shares<K, V, G> {
    /// An empty table. A limit of 0 counts as 1.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            stamp: 0,
            entries: HashMap::new(),
            groups: HashMap::new(),
            sizes: BTreeSet::new(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value, without counting as a use.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|slot| &slot.value)
    }

    /// The value; the entry becomes the most recently used of its group.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        let stamp = self.next_stamp();
        let slot = self.entries.get_mut(key)?;
        if let Some(order) = self.groups.get_mut(&slot.group) {
            order.remove(&slot.stamp);
            order.insert(stamp, *key);
        }
        slot.stamp = stamp;
        Some(&mut slot.value)
    }

    /// Writes an entry, which becomes the most recently used; returns what had to go for it.
    pub fn insert(&mut self, key: K, value: V, group: G) -> Option<(K, V)> {
        self.remove(&key);
        let stamp = self.next_stamp();
        self.entries.insert(key, Slot { value, group: group.clone(), stamp });
        let order = self.groups.entry(group.clone()).or_default();
        order.insert(stamp, key);
        let size = order.len();
        self.sizes.remove(&(size - 1, group.clone()));
        self.sizes.insert((size, group));
        if self.entries.len() > self.limit { self.displace(&key) } else { None }
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.entries.remove(key)?;
        if let Some(order) = self.groups.get_mut(&slot.group) {
            let size = order.len();
            order.remove(&slot.stamp);
            self.sizes.remove(&(size, slot.group.clone()));
            if size > 1 {
                self.sizes.insert((size - 1, slot.group));
            } else {
                self.groups.remove(&slot.group);
            }
        }
        Some(slot.value)
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, slot)| (key, &slot.value))
    }

    /// The keys for which `wanted` holds.
    pub fn keys_where(&self, wanted: impl Fn(&K, &V) -> bool) -> Vec<K> {
        self.iter().filter(|(key, value)| wanted(key, value)).map(|(key, _)| *key).collect()
    }

    /// Keys by their last use, the latest first, over all groups.
    pub fn recent(&self) -> Vec<K> {
        let mut keys: Vec<(u64, K)> =
            self.entries.iter().map(|(key, slot)| (slot.stamp, *key)).collect();
        keys.sort_unstable_by_key(|(stamp, _)| std::cmp::Reverse(*stamp));
        keys.into_iter().map(|(_, key)| key).collect()
    }

    fn displace(&mut self, newest: &K) -> Option<(K, V)> {
        let (_, largest) = self.sizes.last()?;
        let order = self.groups.get(largest)?;
        // Where all groups have one entry, the newest itself may stand in the largest one.
        let victim = order.values().find(|key| *key != newest).or_else(|| order.values().next());
        let victim = *victim?;
        self.remove(&victim).map(|value| (victim, value))
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_displaces_only_its_own() {
        let mut table = Shares::new(8);
        for key in 0..4 {
            assert_eq!(table.insert(key, (), "quiet"), None);
        }
        for key in 100..1000 {
            let gone = table.insert(key, (), "flood");
            assert!(gone.is_none_or(|(key, ())| key >= 100), "{gone:?}");
        }
        assert_eq!((0..4).filter(|key| table.peek(key).is_some()).count(), 4);
        assert_eq!(table.len(), 8);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut table = Shares::new(2);
        table.insert(1, (), 0);
        table.insert(2, (), 0);
        table.touch(&1);
        assert_eq!(table.insert(3, (), 0), Some((2, ())));
        assert_eq!(table.recent(), [3, 1]);
    }

    #[test]
    fn rewriting_an_entry_takes_no_more_room() {
        let mut table = Shares::new(2);
        for value in 0..10 {
            assert_eq!(table.insert(1, value, "a"), None);
        }
        assert_eq!((table.len(), table.peek(&1)), (1, Some(&9)));
    }

    proptest! {
        #[test]
        fn stays_bounded_and_consistent(steps in prop::collection::vec((any::<bool>(), 0u8..20, 0u8..4), 0..200)) {
            let mut table = Shares::new(6);
            for (insert, key, group) in steps {
                if insert { table.insert(key, key, group); } else { table.remove(&key); }
                prop_assert!(table.len() <= 6);
                let listed: usize = table.groups.values().map(BTreeMap::len).sum();
                prop_assert_eq!(listed, table.len());
                let sized: usize = table.sizes.iter().map(|(size, _)| size).sum();
                prop_assert_eq!(sized, table.len());
            }
        }
    }
}
