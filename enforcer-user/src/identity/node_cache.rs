//! Node certificates whose signature has been checked, so that a known node's next credential costs one signature.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::certificate::NodeCertificate;

/// The most certificates kept; only what an authority signed gets in, the oldest goes first.
const MAX_NODES: usize = 4096;

/// Certificates by the BLAKE3 hash of their bytes. Their times are judged at each use, not here.
#[derive(Debug, Default)]
pub struct NodeCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_hash: HashMap<[u8; 32], Arc<NodeCertificate>>,
    oldest_first: VecDeque<[u8; 32]>,
}

impl NodeCache {
    /// The certificate with this hash, if its signature has been checked before.
    pub fn find(&self, hash: &[u8; 32]) -> Option<Arc<NodeCertificate>> {
        self.lock().by_hash.get(hash).cloned()
    }

    /// Keeps a certificate whose signature has just been checked.
    pub fn insert(&self, certificate: Arc<NodeCertificate>) {
        let mut entries = self.lock();
        let hash = certificate.hash();
        if entries.by_hash.insert(hash, certificate).is_some() {
            return;
        }
        entries.oldest_first.push_back(hash);
        if entries.oldest_first.len() > MAX_NODES
            && let Some(oldest) = entries.oldest_first.pop_front()
        {
            entries.by_hash.remove(&oldest);
        }
    }

    /// Keeps a certificate that another verifier had, unless it is there; nothing makes room for it.
    pub fn learn(&self, certificate: &Arc<NodeCertificate>) {
        let hash = certificate.hash();
        let has_room = {
            let entries = self.lock();
            entries.by_hash.len() < MAX_NODES && !entries.by_hash.contains_key(&hash)
        };
        if has_room {
            self.insert(Arc::clone(certificate));
        }
    }

    /// Each change is whole before the next statement, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::{DAY, authority, certificate};

    #[test]
    fn a_full_cache_forgets_the_oldest_and_nothing_else() {
        let cache = NodeCache::default();
        let authority = authority(1);
        let first = Arc::new(certificate(&authority, &[2; 32], ("/a", &[]), DAY));
        cache.insert(Arc::clone(&first));
        for n in 1..MAX_NODES {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            cache.insert(Arc::new(certificate_with_hash(&first, hash)));
        }
        assert!(cache.find(&first.hash()).is_some());
        cache.insert(Arc::clone(&first));
        assert!(cache.find(&first.hash()).is_some(), "the same one again takes no room");
        let last = Arc::new(certificate(&authority, &[2; 32], ("/b", &[]), DAY));
        cache.insert(Arc::clone(&last));
        assert!(cache.find(&first.hash()).is_none() && cache.find(&last.hash()).is_some());
        assert_eq!(cache.lock().by_hash.len(), MAX_NODES);
        assert_eq!(cache.lock().oldest_first.len(), MAX_NODES);
    }

    fn certificate_with_hash(of: &NodeCertificate, hash: [u8; 32]) -> NodeCertificate {
        let mut copy = of.clone();
        copy.set_hash(hash);
        copy
    }
}
