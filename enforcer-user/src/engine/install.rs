//! Results of jobs, and everything that is written because of them.

use std::sync::Arc;

use enforcer_common::abi::{PeerKey, PeerValue, VerdictValue};
use enforcer_common::wire::checksum::sum_bytes;

use super::Engine;
use super::clock::Now;
use super::counters::{Done, Refused};
use super::io::{HeldFrame, Output, PeerSecrets, Question, Refusal};
use super::jobs::{About, Job, JobResult, Outcome, Pending, Work};
use super::peers::{Peer, Vetted};
use super::verdicts::Verdict;
use crate::identity::{PairError, PairKey, PairKeys, VerifyError};

impl Engine {
    pub(super) fn on_result(&mut self, result: JobResult, now: Now, out: &mut Vec<Output>) {
        let Some(pending) = self.jobs.finish(result.id) else { return };
        match result.outcome {
            Outcome::Refused(error) => self.on_refused(&pending, &error, now, out),
            Outcome::Verified(peer, keys) => self.on_verified(pending, &peer, keys, now, out),
            Outcome::Paired(pairs) => self.on_paired(pending, pairs, now, out),
        }
    }

    fn on_refused(
        &mut self,
        pending: &Pending,
        error: &VerifyError,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        if let About::Credential(hash) = pending.about {
            self.negative.insert(hash, now);
        }
        self.counters.refuse_credential(error.reason());
        for _ in &pending.waiters {
            self.counters.refuse(Refused::Credential);
        }
        // One line a credential, however many segments carried it.
        let because = error.to_string();
        out.extend(
            pending
                .waiters
                .first()
                .map(|held| Output::LogRefusal(Refusal { key: held.key, because })),
        );
    }

    fn on_verified(
        &mut self,
        pending: Pending,
        peer: &Arc<Vetted>,
        keys: Result<PairKeys, PairError>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        self.counters.add(Done::Verified, 1);
        let key = PeerKey { local: pending.local, remote: peer.handle };
        let installed = self
            .peers
            .check_handle(peer.handle, &peer.hash, now)
            .and_then(|()| self.peers.learn(peer))
            .and_then(|()| self.install_peer(key, peer, keys, now, out));
        match (installed, pending.about) {
            // The peer is not to blame for a credential of ours that ended meanwhile.
            (Err(Refused::NoLocalCredential), _) => {}
            (Err(_), About::Credential(hash)) => self.negative.insert(hash, now),
            // Before the release: a daemon that is killed in between leaves no flow of a peer that the next one does
            // not remember, and would reset.
            _ => out.push(Output::Remember(Arc::clone(peer))),
        }
        self.release(pending.waiters, key, peer, installed, now, out);
    }

    fn on_paired(
        &mut self,
        pending: Pending,
        pairs: Vec<(Arc<Vetted>, Result<PairKeys, PairError>)>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let mut waiters = pending.waiters;
        for (peer, keys) in pairs {
            let key = PeerKey { local: pending.local, remote: peer.handle };
            let known = self.peers.check_handle(peer.handle, &peer.hash, now);
            let installed = known
                .and_then(|()| self.peers.learn(&peer))
                .and_then(|()| self.install_peer(key, &peer, keys, now, out));
            self.release(std::mem::take(&mut waiters), key, &peer, installed, now, out);
        }
        if let About::Rotation(id, handle) = pending.about {
            self.on_rotation_paired(id, handle, now, out);
        }
    }

    /// Answers those who waited. Who waits at another credential of this node needs its own key.
    fn release(
        &mut self,
        waiters: Vec<HeldFrame>,
        key: PeerKey,
        peer: &Arc<Vetted>,
        installed: Result<(), Refused>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        for held in waiters {
            let answered = match installed {
                Err(why) => Err(why),
                Ok(()) if held.local_handle == key.local => {
                    self.answer(held, peer.identity_id, now, out)
                }
                Ok(()) => self.pair_waiter(held, peer, now, out),
            };
            if let Err(why) = answered {
                self.counters.refuse(why);
            }
        }
    }

    fn pair_waiter(
        &mut self,
        held: HeldFrame,
        peer: &Arc<Vetted>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        let local = self.secret(held.local_handle, now)?;
        let (about, handle) = (About::Pair(peer.hash, held.local_handle), held.local_handle);
        if let super::jobs::Queued::Started(id) = self.jobs.wait(about, handle, held, now)? {
            let work = Work::Pair { local, peers: vec![Arc::clone(peer)] };
            out.push(Output::Verify(Job { id, work }));
        }
        Ok(())
    }

    fn install_peer(
        &mut self,
        key: PeerKey,
        peer: &Arc<Vetted>,
        keys: Result<PairKeys, PairError>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        let keys = keys.map_err(|_| Refused::NoPairKey)?;
        let own = self.workloads.by_handle(key.local).and_then(|w| w.credential(key.local));
        let own_end = own.ok_or(Refused::NoLocalCredential)?.deadline_ns;
        let deadline_ns = peer.ends.credential_ns.min(own_end);
        if deadline_ns <= now.boot_ns {
            return Err(Refused::Expired);
        }
        let bytes = peer.bytes();
        let value = PeerSecrets::new(PeerValue {
            as_initiator: key_words(&keys.as_initiator),
            as_responder: key_words(&keys.as_responder),
            hash: peer.hash,
            identity: peer.identity_id,
            deadline_ns,
            length: u16::try_from(bytes.len()).map_err(|_| Refused::CredentialLength)?,
            sum: sum_bytes(&bytes),
            zero: [0; 4],
        });
        let (hash, identity, installed_ns) = (peer.hash, peer.identity_id, now.boot_ns);
        let mirrored = Peer { hash, identity, deadline_ns, installed_ns };
        if let Some(displaced) = self.peers.insert(key, mirrored, Some(peer)) {
            self.counters.add(Done::PeersDisplaced, 1);
            out.push(Output::RemovePeer(displaced));
        }
        self.counters.add(Done::PeersInstalled, 1);
        out.push(Output::InstallPeer(key, value));
        Ok(())
    }

    /// Writes a verdict under the current epoch.
    pub(super) fn install_verdict(
        &mut self,
        asked: Question,
        value: VerdictValue,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let used_ns = self.verdicts.peek(&asked).map_or(0, |verdict| verdict.used_ns);
        let verdict = Verdict { value, installed_ns: now.boot_ns, used_ns };
        if let Some(displaced) = self.verdicts.insert(asked, verdict) {
            self.counters.add(Done::VerdictsDisplaced, 1);
            out.push(Output::RemoveVerdict(displaced.key(self.epoch)));
        }
        self.counters.add(Done::VerdictsInstalled, 1);
        out.push(Output::InstallVerdict(asked.key(self.epoch), value));
    }
}

/// A key as the words of BLAKE3, little endian.
fn key_words(key: &PairKey) -> [u32; 8] {
    let (words, _) = key.as_bytes().as_chunks::<4>();
    std::array::from_fn(|n| words.get(n).map_or(0, |word| u32::from_le_bytes(*word)))
}
