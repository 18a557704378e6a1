//! The mirror of the kernel's peers, and what was verified of the identities behind them.
//!
//! The secrets stand in the kernel only; here is what tells whether a handle is known, who it is,
//! and what a new local credential must be paired with.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use enforcer_common::abi::{Handle, PeerKey};

use super::clock::Now;
use super::counters::Refused;
use super::shares::Shares;
use crate::identity::{Identity, Proof, VerifiedCredential};

/// A credential that was verified, with its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vetted {
    /// What it says.
    pub credential: VerifiedCredential,
    /// Its bytes up to the certificate of its node, which stands in the proof, once for all of that node.
    own_bytes: Box<[u8]>,
    /// When it ends, by a clock that nobody sets.
    pub ends: Ends,
}

impl Vetted {
    /// A credential that was verified from these bytes.
    #[must_use]
    pub fn new(credential: VerifiedCredential, mut bytes: Vec<u8>, ends: Ends) -> Self {
        // It was verified that they end with it.
        bytes.truncate(bytes.len() - certificate(&credential).len().min(bytes.len()));
        Self { credential, own_bytes: bytes.into_boxed_slice(), ends }
    }

    /// What was verified: a later daemon verifies it again.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [&self.own_bytes, certificate(&self.credential)].concat()
    }
}

/// The certificate that a credential ends with; empty with a pre-shared key.
fn certificate(credential: &VerifiedCredential) -> &[u8] {
    match &credential.proof {
        Proof::Pki { node, .. } => node.bytes(),
        Proof::Psk => &[],
    }
}

/// The ends of a credential in boot time, nanoseconds: converted once, when it was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Of the credential.
    pub credential_ns: u64,
    /// Of its node's certificate, the bound of leases. A pre-shared key has no end.
    pub node_ns: u64,
}

impl Ends {
    /// The ends of a credential that was verified at `now`. By no clock does it live longer than it
    /// says itself, also when its time is read by a clock that was set back before it began.
    pub fn of(credential: &VerifiedCredential, now: Now) -> Self {
        let life = credential.not_after.saturating_sub(credential.not_before);
        Self {
            credential_ns: now.boot_deadline(credential.not_after).min(now.after(life)),
            node_ns: now.boot_deadline(lease_limit(credential)),
        }
    }
}

impl Deref for Vetted {
    type Target = VerifiedCredential;

    fn deref(&self) -> &VerifiedCredential {
        &self.credential
    }
}

/// A peer in the kernel's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Full hash of its credential.
    pub hash: [u8; 32],
    /// Its identity id.
    pub identity: u64,
    /// Boot time at which it ends.
    pub deadline_ns: u64,
    /// Boot time at which it was written.
    pub installed_ns: u64,
}

/// What is known of an identity.
#[derive(Debug, Clone)]
pub struct Known {
    /// The credential of it that ends last.
    pub latest: Arc<Vetted>,
}

/// Peers, the credentials behind them, and their identities.
#[derive(Debug)]
pub struct Peers {
    table: Shares<PeerKey, Peer, Arc<str>>,
    /// Verified credentials by handle, as long as some peer has it.
    remotes: HashMap<Handle, Remote>,
    identities: HashMap<u64, Known>,
    limit: usize,
}

#[derive(Debug)]
struct Remote {
    credential: Credential,
    deadline_ns: u64,
    peers: usize,
}

/// What is known of a peer's credential. There is one for each identity that is met, so it is small.
#[derive(Debug)]
enum Credential {
    /// All of it.
    Verified(Arc<Vetted>),
    /// The full hash alone, of a peer whose credential this daemon has not verified.
    Hash(Box<[u8; 32]>),
}

impl Credential {
    fn of(hash: &[u8; 32], verified: Option<&Arc<Vetted>>) -> Self {
        match verified {
            Some(verified) => Self::Verified(Arc::clone(verified)),
            None => Self::Hash(Box::new(*hash)),
        }
    }

    fn hash(&self) -> &[u8; 32] {
        match self {
            Self::Verified(verified) => &verified.hash,
            Self::Hash(hash) => hash,
        }
    }

    fn verified(&self) -> Option<&Arc<Vetted>> {
        match self {
            Self::Verified(verified) => Some(verified),
            Self::Hash(_) => None,
        }
    }
}

impl Peers {
    /// Room for `limit` peers.
    pub fn new(limit: usize) -> Self {
        let table = Shares::new(limit);
        Self { table, remotes: HashMap::new(), identities: HashMap::new(), limit }
    }

    /// Number of peers.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// All peers.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerKey, &Peer)> {
        self.table.iter()
    }

    /// The live peer of this key and hash.
    pub fn find(&mut self, key: &PeerKey, hash: &[u8; 32], now: Now) -> Option<Peer> {
        let live = |peer: &&mut Peer| peer.hash == *hash && peer.deadline_ns > now.boot_ns;
        self.table.touch(key).filter(live).map(|peer| *peer)
    }

    /// Refuses a live handle that belongs to another credential.
    pub fn check_handle(&self, handle: Handle, hash: &[u8; 32], now: Now) -> Result<(), Refused> {
        match self.remotes.get(&handle) {
            Some(remote)
                if remote.credential.hash() != hash && remote.deadline_ns > now.boot_ns =>
            {
                Err(Refused::HandleCollision)
            }
            _ => Ok(()),
        }
    }

    /// A credential that was verified before and is still good.
    pub fn verified(&self, handle: Handle, hash: &[u8; 32], now: Now) -> Option<Arc<Vetted>> {
        let remote = self.remotes.get(&handle)?;
        let live = remote.credential.hash() == hash && remote.deadline_ns > now.boot_ns;
        remote.credential.verified().filter(|_| live).cloned()
    }

    /// A credential that was verified before, whether or not its time is over.
    pub fn vetted(&self, handle: Handle) -> Option<Arc<Vetted>> {
        self.remotes.get(&handle)?.credential.verified().cloned()
    }

    /// Who has this id.
    pub fn known(&self, identity: u64) -> Option<&Known> {
        self.identities.get(&identity)
    }

    /// Every identity that is known, by its id.
    pub fn identities(&self) -> impl Iterator<Item = (&u64, &Known)> {
        self.identities.iter()
    }

    /// Learns who stands behind a credential; refuses an id that another identity has.
    pub fn learn(&mut self, verified: &Arc<Vetted>) -> Result<(), Refused> {
        let id = verified.identity_id;
        match self.identities.get_mut(&id) {
            Some(known) if known.latest.identity != verified.identity => {
                Err(Refused::IdentityCollision)
            }
            Some(known) => {
                if known.latest.ends.credential_ns < verified.ends.credential_ns {
                    known.latest = Arc::clone(verified);
                }
                Ok(())
            }
            None => {
                self.identities.insert(id, Known { latest: Arc::clone(verified) });
                Ok(())
            }
        }
    }

    /// Records a peer that is being written; returns the peer that had to go for it.
    pub fn insert(
        &mut self,
        key: PeerKey,
        peer: Peer,
        verified: Option<&Arc<Vetted>>,
    ) -> Option<PeerKey> {
        self.remove(&key);
        let remote = self.remotes.entry(key.remote).or_insert_with(|| Remote {
            credential: Credential::of(&peer.hash, verified),
            deadline_ns: 0,
            peers: 0,
        });
        remote.peers += 1;
        remote.deadline_ns = remote.deadline_ns.max(peer.deadline_ns);
        if verified.is_some() || *remote.credential.hash() != peer.hash {
            remote.credential = Credential::of(&peer.hash, verified);
        }
        let group = verified.map_or_else(|| Arc::from("adopted"), |verified| group(verified));
        let (displaced, _) = self.table.insert(key, peer, group)?;
        self.forget_remote(&displaced);
        Some(displaced)
    }

    /// Removes a peer.
    pub fn remove(&mut self, key: &PeerKey) -> Option<Peer> {
        let peer = self.table.remove(key)?;
        self.forget_remote(key);
        Some(peer)
    }

    /// Keys of the peers for which `wanted` holds.
    pub fn keys_where(&self, wanted: impl Fn(&PeerKey, &Peer) -> bool) -> Vec<PeerKey> {
        self.table.keys_where(wanted)
    }

    /// Up to `most` credentials of live peers of the local credentials `among` that `local` is not
    /// paired with, those used last first.
    pub fn unpaired(
        &self,
        local: Handle,
        among: impl Fn(&Handle) -> bool,
        now: Now,
        most: usize,
    ) -> Vec<Arc<Vetted>> {
        let mut found: Vec<Arc<Vetted>> = Vec::new();
        for key in self.table.recent() {
            if found.len() == most {
                break;
            }
            let paired = self.table.peek(&PeerKey { local, remote: key.remote });
            let listed = found.iter().any(|one| one.handle == key.remote);
            if !among(&key.local) || paired.is_some() || listed {
                continue;
            }
            let remote = self.remotes.get(&key.remote);
            let live = remote.filter(|remote| remote.deadline_ns > now.boot_ns);
            found.extend(live.and_then(|remote| remote.credential.verified().cloned()));
        }
        found
    }

    /// At most so many credentials are of use to a restart.
    pub fn memory(&self) -> usize {
        self.remotes.len() + self.identities.len()
    }

    /// Every credential and identity that a restart should find again.
    pub fn remembered(&self) -> Vec<Arc<Vetted>> {
        let remotes =
            self.remotes.values().filter_map(|remote| remote.credential.verified().cloned());
        let latest = self.identities.values().map(|known| Arc::clone(&known.latest));
        let mut all: HashMap<[u8; 32], Arc<Vetted>> = HashMap::new();
        all.extend(remotes.chain(latest).map(|verified| (verified.hash, verified)));
        all.into_values().collect()
    }

    /// Forgets identities that nothing refers to any more, if there are many.
    pub fn forget_identities(&mut self, in_use: impl Fn(u64) -> bool) {
        let remotes = &self.remotes;
        let held = |known: &Known| remotes.contains_key(&known.latest.handle);
        self.identities.retain(|id, known| held(known) || in_use(*id));
    }

    /// Whether more identities are known than peers may be.
    pub fn crowded(&self) -> bool {
        self.identities.len() > self.limit
    }

    /// Forgets an identity, whose peers were removed.
    pub fn forget_identity(&mut self, identity: u64) {
        self.identities.remove(&identity);
    }

    fn forget_remote(&mut self, key: &PeerKey) {
        if let Some(remote) = self.remotes.get_mut(&key.remote) {
            remote.peers = remote.peers.saturating_sub(1);
            if remote.peers == 0 {
                self.remotes.remove(&key.remote);
            }
        }
    }
}

/// The share that a credential counts to: that of the node that signed it.
fn group(verified: &Vetted) -> Arc<str> {
    match &verified.proof {
        Proof::Pki { node, .. } => Arc::clone(node.shared_node()),
        Proof::Psk => Arc::from("preshared key"),
    }
}

/// The second (Unix time) up to which a lease may be granted on this credential's word: the end of
/// its node's certificate. A pre-shared key has no end.
pub fn lease_limit(verified: &VerifiedCredential) -> u64 {
    match &verified.proof {
        Proof::Pki { node, .. } => node.validity().not_after,
        Proof::Psk => u64::MAX,
    }
}

/// Whom a credential speaks for.
pub fn identity_of(known: &Known) -> &Identity {
    &known.latest.identity
}
