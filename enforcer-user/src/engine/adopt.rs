//! What an earlier daemon left in the kernel becomes this one's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use enforcer_common::abi::{Handle, WorkloadValue};

use super::Engine;
use super::change::parity;
use super::clock::Now;
use super::io::{Adopted, Output, Question, Sweep};
use super::peers::{Ends, Peer, Vetted};
use super::verdicts::Verdict;
use super::workloads::MAX_CREDENTIALS;
use crate::identity::{VerifiedCredential, Verifier, VerifyError};

/// How long an attempt may be under way, in seconds: as long as a stack repeats its SYN by itself
/// (`tcp_syn_retries` of 6, tcp(7)).
const ATTEMPT_SECONDS: u64 = 130;

/// Verifies a credential that was verified before and that may be outside its time by a wall clock
/// that went on or was set: connections may stand on its identity's lease, which has ends of its own.
pub(super) fn verify_again(
    verifier: &Verifier,
    bytes: &[u8],
    now: Now,
) -> Option<VerifiedCredential> {
    let mut unix_seconds = now.unix_seconds();
    // At most its node's certificate and it itself are outside their time.
    for _ in 0..2 {
        match verifier.verify(bytes, unix_seconds) {
            Err(
                VerifyError::Expired { validity, .. } | VerifyError::NotYetValid { validity, .. },
            ) => unix_seconds = validity.not_after.saturating_sub(1),
            judged => return judged.ok(),
        }
    }
    verifier.verify(bytes, unix_seconds).ok()
}

impl Engine {
    pub(super) fn on_adopt(&mut self, adopted: Adopted, now: Now, out: &mut Vec<Output>) {
        self.epoch = adopted.epoch;
        let spare = self.adopt_credentials(adopted.credentials, &adopted.workloads, now);
        self.workloads.adopt(adopted.workloads);
        self.hosts.adopt(adopted.hosts, now);
        for (bits, key) in adopted.networks {
            self.installed[parity(key.rule_set)].insert((bits, key));
        }
        let mut pinned: HashMap<[u8; 32], u64> = HashMap::new();
        for peer in &adopted.peers {
            let end = pinned.entry(peer.hash).or_default();
            *end = peer.deadline_ns.max(*end);
        }
        let remembered = self.remember(adopted.remembered, &pinned, now);
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
        for handle in spare {
            self.remove_credential(handle, out);
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

    /// Takes over the credentials of earlier daemons: those that workloads show, to their end; the others,
    /// on which only attempts under way are frozen, for as long as an attempt may take. Returns those that are
    /// too many: a daemon that is restarted again and again must not fill the kernel's map.
    fn adopt_credentials(
        &mut self,
        credentials: Vec<(Handle, u64)>,
        workloads: &[(u16, WorkloadValue)],
        now: Now,
    ) -> Vec<Handle> {
        let shown: HashSet<Handle> = workloads.iter().map(|(_, value)| value.credential).collect();
        let (shown, mut others): (Vec<_>, Vec<_>) =
            credentials.into_iter().partition(|(handle, _)| shown.contains(handle));
        // Those that end last were issued last.
        others.sort_unstable_by_key(|(_, end)| std::cmp::Reverse(*end));
        let room = others.len().min(workloads.len().saturating_mul(MAX_CREDENTIALS - 1));
        let spare = others.split_off(room);
        let until = now.after(ATTEMPT_SECONDS);
        let others = others.into_iter().map(|(handle, end)| (handle, end.min(until)));
        self.adopted_credentials = shown.into_iter().chain(others).collect();
        spare.into_iter().map(|(handle, _)| handle).collect()
    }

    /// Credentials that an earlier daemon verified and that verify again, by their hash. They end as
    /// if they were verified now, and not before the deadline that is pinned.
    fn remember(
        &mut self,
        remembered: Vec<Vec<u8>>,
        pinned: &HashMap<[u8; 32], u64>,
        now: Now,
    ) -> HashMap<[u8; 32], Arc<Vetted>> {
        let mut by_hash = HashMap::new();
        for bytes in remembered {
            let Some(credential) = verify_again(&self.verifier, &bytes, now) else { continue };
            let mut ends = Ends::of(&credential, now);
            let deadline_ns = pinned.get(&credential.hash).copied().unwrap_or_default();
            ends.credential_ns = ends.credential_ns.max(deadline_ns);
            let vetted = Arc::new(Vetted::new(credential, bytes, ends));
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
