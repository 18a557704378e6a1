//! A held segment: read it, find out who speaks, decide, send it on its way again.

use std::sync::Arc;

use enforcer_common::abi::{Handle, PeerKey, ReinjectTrailer, address};

use super::Engine;
use super::clock::Now;
use super::counters::{Done, Refused};
use super::guard::SegmentId;
use super::io::{HeldFrame, Output, Question};
use super::jobs::{About, Job, Queued, Work};
use super::judge::Term;
use super::segment::{self, Segment, Step};
use crate::identity::LocalCredential;

/// A held segment that was read and whose credential is what its handle says.
struct Claim {
    key: PeerKey,
    hash: [u8; 32],
    credential: Vec<u8>,
}

impl Engine {
    pub(super) fn on_held(&mut self, held: HeldFrame, now: Now, out: &mut Vec<Output>) {
        self.counters.add(Done::Held, 1);
        if let Err(why) = self.try_held(held, now, out) {
            self.counters.refuse(why);
        }
    }

    fn try_held(
        &mut self,
        mut held: HeldFrame,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        let segment = segment::read(&held.frame)?;
        check_consistent(&held, &segment)?;
        self.check_workload(&held)?;
        if segment.step == Step::Proof {
            // A proof names nobody, but its attempt passed S1: the kernel knows whose it is.
            let peer = held.peer;
            return self.answer(held, peer, now, out);
        }
        if segment.step == Step::Call {
            self.replace_adopted(&mut held, now, out);
        }
        let claim = claim(&held, &segment)?;
        self.peers.check_handle(claim.key.remote, &claim.hash, now)?;
        match self.peers.find(&claim.key, &claim.hash, now) {
            Some(peer) if self.is_lost(&held, peer.identity, peer.installed_ns) => {
                self.pair(claim, held, now, out)
            }
            Some(peer) => self.answer(held, peer.identity, now, out),
            None => {
                if segment.step == Step::Answer {
                    self.begin_anew(&held, now, out);
                }
                self.pair(claim, held, now, out)
            }
        }
    }

    /// An answer is bound to the credential of the call. That of an earlier daemon can be paired with nobody any more,
    /// and every retransmission would carry it: without an attempt, the next carries the current one.
    fn begin_anew(&mut self, held: &HeldFrame, now: Now, out: &mut Vec<Output>) {
        let Some(workload) = self.workloads.by_handle(held.local_handle) else { return };
        let (id, current) = (workload.id, workload.value.credential);
        if workload.credential(held.local_handle).is_none_or(|own| own.secret.is_some()) {
            return;
        }
        if current == held.local_handle {
            self.switch(id, now, out);
        }
        out.push(Output::ForgetAttempt(held.key));
    }

    /// Nothing can be paired with a credential of an earlier daemon. A call is not bound to it yet:
    /// the next credential answers it, and is put in force for that at once.
    fn replace_adopted(&mut self, held: &mut HeldFrame, now: Now, out: &mut Vec<Output>) {
        let Some(workload) = self.workloads.by_handle(held.local_handle) else { return };
        let (id, current) = (workload.id, workload.value.credential);
        let adopted =
            workload.credential(held.local_handle).is_some_and(|own| own.secret.is_none());
        if !adopted {
            return;
        }
        if current == held.local_handle {
            self.switch(id, now, out);
        }
        if let Some(workload) = self.workloads.get(id) {
            held.local_handle = workload.value.credential;
        }
    }

    /// Whether the kernel has an answer under the current epoch.
    pub(super) fn has_answer(&self, asked: &Question, now: Now) -> bool {
        let live = |asked: &Question| {
            self.verdicts.peek(asked).is_some_and(|v| v.value.deadline_ns > now.boot_ns)
        };
        live(asked) || live(&asked.any_port())
    }

    /// Whether the kernel lacks what was written before the segment was held: the peer is then
    /// computed again. A segment held before the write merely came late.
    fn is_lost(&self, held: &HeldFrame, peer: u64, installed_ns: u64) -> bool {
        let asked = question(held, peer);
        let live = |asked: &Question| {
            self.verdicts.peek(asked).is_some_and(|verdict| {
                verdict.installed_ns < held.time_ns && held.time_ns < verdict.value.deadline_ns
            })
        };
        installed_ns < held.time_ns && (live(&asked) || live(&asked.any_port()))
    }

    /// Waits for the pair key, and for the verification of a credential that is not known.
    fn pair(
        &mut self,
        claim: Claim,
        held: HeldFrame,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        let Claim { key, hash, credential } = claim;
        let local = self.secret(key.local, now)?;
        if let Some(peer) = self.peers.verified(key.remote, &hash, now) {
            let work = Work::Pair { local, peers: vec![peer] };
            return self.queue(About::Pair(hash, key.local), held, work, now, out);
        }
        if self.negative.holds(&hash, now) {
            return Err(Refused::Negative);
        }
        let known = self.peers.vetted(key.remote).filter(|vetted| vetted.hash == hash);
        if known.is_some_and(|vetted| vetted.ends.credential_ns <= now.boot_ns)
            || self.ended.holds(&hash)
        {
            // A wall clock that was set back would let it begin again.
            return Err(Refused::Expired);
        }
        let verifier = Arc::clone(&self.verifier);
        let work = Work::Verify { verifier, credential, local, now };
        self.queue(About::Credential(hash), held, work, now, out)
    }

    fn queue(
        &mut self,
        about: About,
        held: HeldFrame,
        work: Work,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        match self.jobs.wait(about, held.local_handle, held, now)? {
            Queued::Coalesced => self.counters.add(Done::Coalesced, 1),
            Queued::Started(id) => {
                self.counters.add(Done::Verifications, 1);
                out.push(Output::Verify(Job { id, work }));
            }
        }
        Ok(())
    }

    /// Decides for a known peer, and lets the kernel judge the segment again: it refuses what is
    /// denied, and tells the caller so.
    pub(super) fn answer(
        &mut self,
        held: HeldFrame,
        peer: u64,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        self.decide(&held, peer, now, out)?;
        self.reinject(held, now, out)
    }

    fn decide(
        &mut self,
        held: &HeldFrame,
        peer: u64,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        let asked = question(held, peer);
        let policy = self.policy.clone();
        let judged = self
            .judge(policy.as_deref(), &asked, now.unix_seconds())
            .ok_or(Refused::UnknownPeer)?;
        let value = self.verdict(&asked, &judged, Term::Credentials, now);
        if judged.passes() && value.deadline_ns <= now.boot_ns {
            return Err(Refused::Expired);
        }
        self.install_verdict(judged.answered(asked), value, now, out);
        self.learn(&asked, now);
        if let Some(denial) = judged.denial {
            self.denials.note(&denial, now);
            out.push(Output::Log(denial));
        }
        Ok(())
    }

    fn reinject(
        &mut self,
        held: HeldFrame,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        let packet = segment::read(&held.frame)?.packet;
        let id = SegmentId { key: held.key, sequence: packet.sequence, flags: packet.flags };
        if !self.guard.admits(id, now) {
            return Err(Refused::Loop);
        }
        let to = held.trailer();
        let mut frame = held.frame;
        segment::complete_checksum(&mut frame, &packet);
        self.counters.add(Done::Reinjected, 1);
        out.push(Output::Reinject { to, frame });
        Ok(())
    }

    fn check_workload(&self, held: &HeldFrame) -> Result<(), Refused> {
        let workload = self.workloads.by_handle(held.local_handle);
        let workload = workload.ok_or(Refused::NoLocalCredential)?;
        if workload.id == held.key.workload { Ok(()) } else { Err(Refused::Inconsistent) }
    }

    /// The local credential with its secret, if it still counts.
    pub(super) fn secret(&self, handle: Handle, now: Now) -> Result<Arc<LocalCredential>, Refused> {
        let workload = self.workloads.by_handle(handle);
        let own = workload.and_then(|workload| workload.credential(handle));
        own.filter(|own| own.deadline_ns > now.boot_ns)
            .and_then(|own| own.secret.clone())
            .ok_or(Refused::NoLocalCredential)
    }
}

impl HeldFrame {
    /// Back to where it was held. What is held on the host side of a veth was on its way out of that interface.
    pub(super) fn trailer(&self) -> ReinjectTrailer {
        ReinjectTrailer { ifindex: self.ifindex, ingress: (!self.host_side).into(), mark: 0 }
    }
}

/// What the policy is asked for a held segment.
fn question(held: &HeldFrame, peer: u64) -> Question {
    Question {
        peer,
        workload: held.key.workload,
        port: held.port,
        protocol: held.key.protocol,
        direction: held.direction,
    }
}

/// The kernel's words about a frame must be what the frame says.
fn check_consistent(held: &HeldFrame, segment: &Segment) -> Result<(), Refused> {
    let (packet, key) = (&segment.packet, &held.key);
    let consistent = held.direction == segment.step.direction()
        && held.transport_offset == packet.transport
        && held.port == segment.port
        && key.protocol == packet.protocol
        && (key.local, key.local_port) == (address(packet.destination), packet.destination_port)
        && (key.remote, key.remote_port) == (address(packet.source), packet.source_port);
    if consistent { Ok(()) } else { Err(Refused::Inconsistent) }
}

/// The credential behind the handle; refused if the handle is another's.
fn claim(held: &HeldFrame, segment: &Segment) -> Result<Claim, Refused> {
    let credential = held.frame.get(segment.credential.clone()).ok_or(Refused::CredentialLength)?;
    let hash: [u8; 32] = blake3::hash(credential).into();
    if hash[..8] != segment.handle && !cfg!(feature = "mutate-handle") {
        return Err(Refused::HandleMismatch);
    }
    let key = PeerKey { local: held.local_handle, remote: segment.handle };
    Ok(Claim { key, hash, credential: credential.to_vec() })
}
