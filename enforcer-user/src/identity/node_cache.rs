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

    /// Each change is whole before the next statement, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
