//! What an earlier daemon left in the kernel becomes this one's.

use std::collections::HashMap;
use std::sync::Arc;

use super::Engine;
use super::change::parity;
use super::clock::Now;
use super::io::{Adopted, Output, Question, Sweep};
use super::peers::{Peer, Vetted};
use super::verdicts::Verdict;
use crate::identity::{Part, VerifiedCredential, Verifier, VerifyError};

/// Verifies a credential that may have ended by now: connections may stand on its identity's lease.
pub(super) fn verify_again(
    verifier: &Verifier,
    bytes: &[u8],
    now: Now,
) -> Option<VerifiedCredential> {
    match verifier.verify(bytes, now.unix_seconds()) {
        Ok(credential) => Some(credential),
        Err(VerifyError::Expired { part: Part::Credential, validity, .. }) => {
            verifier.verify(bytes, validity.not_after.saturating_sub(1)).ok()
        }
        Err(_) => None,
    }
}

impl Engine {
    pub(super) fn on_adopt(&mut self, adopted: Adopted, now: Now, out: &mut Vec<Output>) {
        self.epoch = adopted.epoch;
        self.workloads.adopt(adopted.workloads);
        self.adopted_credentials = adopted.credentials.into_iter().collect();
        for (bits, key) in adopted.networks {
            self.installed[parity(key.rule_set)].insert((bits, key));
        }
        let remembered = self.remember(adopted.remembered, now);
        for peer in adopted.peers {
            let verified = remembered.get(&peer.hash);
            let mirrored = Peer {
                hash: peer.hash,
                identity: peer.identity,
                deadline_ns: peer.deadline_ns,
                installed_ns: now.boot_ns,
            };
            let known = verified.is_some_and(|one| one.identity_id == peer.identity);
            let displaced = if known && peer.deadline_ns > now.boot_ns {
                self.peers.insert(peer.key, mirrored, verified)
            } else {
                // Nobody can say who this is: it is verified again when it comes.
                Some(peer.key)
            };
            out.extend(displaced.map(Output::RemovePeer));
        }
        for (key, value) in adopted.verdicts {
            let live = key.epoch == self.epoch && value.deadline_ns > now.boot_ns;
            let verdict = Verdict { value, installed_ns: now.boot_ns, used_ns: now.boot_ns };
            let displaced =
                if live { self.verdicts.insert(Question::from(&key), verdict) } else { None };
            out.extend(displaced.map(|asked| Output::RemoveVerdict(asked.key(self.epoch))));
            if !live {
                out.push(Output::RemoveVerdict(key));
            }
        }
    }

    /// Credentials that an earlier daemon verified and that verify again, by their hash.
    fn remember(&mut self, remembered: Vec<Vec<u8>>, now: Now) -> HashMap<[u8; 32], Arc<Vetted>> {
        let mut by_hash = HashMap::new();
        for bytes in remembered {
            let Some(credential) = verify_again(&self.verifier, &bytes, now) else { continue };
            let vetted = Arc::new(Vetted { credential, bytes: bytes.into_boxed_slice() });
            if self.peers.learn(&vetted).is_ok() {
                by_hash.insert(vetted.hash, vetted);
            }
        }
        by_hash
    }

    /// Clears away what nobody claimed; once every workload was added.
    pub fn finish_adoption(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        for id in self.workloads.unclaimed() {
            out.push(Output::RemoveWorkload(id));
            for asked in self.verdicts.keys_where(|asked| asked.workload == id) {
                self.verdicts.remove(&asked);
                out.push(Output::RemoveVerdict(asked.key(self.epoch)));
            }
            out.push(Output::SweepFlows(Sweep { workloads: [id].into(), ..Sweep::default() }));
        }
        out
    }
}
