//! What many credentials say alike, held once: trust domain, namespace, the set of labels, what runs and where.
//! Replicas of a workload differ in their name alone, and a node knows thousands of them.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use super::claims::{Identity, Namespace};
use super::provenance::Provenance;

/// The most values kept of each kind.
const MAX_VALUES: usize = 1024;

/// Values that were seen in verified credentials. Whoever was given one keeps it, also when it is
/// forgotten here.
#[derive(Debug, Default)]
pub(super) struct HeldOnce(Mutex<Values>);

#[derive(Debug, Default)]
struct Values {
    trust_domains: HashSet<Arc<str>>,
    namespaces: HashSet<Namespace>,
    labels: HashSet<Arc<BTreeMap<String, String>>>,
    provenances: HashSet<Arc<Provenance>>,
}

impl HeldOnce {
    /// The same identity, with the parts that others have too shared with them.
    pub(super) fn share(&self, identity: &mut Identity) {
        // Each change is whole before the next, so a panic elsewhere leaves nothing half done.
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        share(&mut values.trust_domains, &mut identity.trust_domain);
        share(&mut values.namespaces, &mut identity.namespace);
        share(&mut values.labels, &mut identity.labels);
        if let Some(provenance) = &mut identity.provenance {
            share(&mut values.provenances, provenance);
        }
    }
}

fn share<T: Clone + Eq + Hash>(known: &mut HashSet<T>, value: &mut T) {
    if let Some(earlier) = known.get(value) {
        value.clone_from(earlier);
        return;
    }
    // Begun anew when full: what is in use comes again with the next credentials.
    if known.len() >= MAX_VALUES {
        known.clear();
    }
    known.insert(value.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(namespace: &str, name: &str, tier: &str) -> Identity {
        let labels = [("tier".to_owned(), tier.to_owned())].into();
        Identity::new("example.org", namespace.parse().unwrap(), name, labels).unwrap()
    }

    #[test]
    fn equal_parts_are_held_once_and_say_the_same() {
        let held = HeldOnce::default();
        let (mut a, mut b) = (identity("/acme", "a", "front"), identity("/acme", "b", "front"));
        let mut c = identity("/acme", "c", "back");
        let before = (a.clone(), b.clone(), c.clone());
        for one in [&mut a, &mut b, &mut c] {
            held.share(one);
        }
        assert_eq!((a.clone(), b.clone(), c.clone()), before);
        assert!(Arc::ptr_eq(&a.labels, &b.labels) && !Arc::ptr_eq(&a.labels, &c.labels));
        assert!(Arc::ptr_eq(&a.trust_domain, &c.trust_domain));
        assert!(std::ptr::eq(a.namespace().as_str(), c.namespace().as_str()));
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let held = HeldOnce::default();
        for n in 0..=2 * MAX_VALUES {
            let mut one = identity("/acme", "a", &n.to_string());
            held.share(&mut one);
            assert_eq!(one.labels()["tier"], n.to_string());
            assert!(held.0.lock().unwrap().labels.len() <= MAX_VALUES);
        }
    }
}
