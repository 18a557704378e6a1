//! Credentials of this node's workloads: issued, replaced at half of their life, and ended.
//!
//! A new credential is written first, then the pair keys with every recent peer, and only then
//! does the workload's value name it: no known peer becomes a stranger by a rotation. The old one
//! stays until it ends, because attempts under way are frozen on it.

use std::sync::Arc;

use enforcer_common::abi::Handle;

use super::Engine;
use super::change::set_asks_names;
use super::clock::Now;
use super::counters::Done;
use super::io::{Output, Sweep, WorkloadSpec};
use super::jobs::{About, Job, MAX_PEERS_A_JOB, Work};
use super::workloads::{MAX_CREDENTIALS, Own, Rotation, kernel_form};
use crate::identity::Issuer;

/// How long the kernel waits for pair keys before it uses the new credential without them, in seconds.
const PAIRING_SECONDS: u64 = 5;
/// The most jobs of pairing in one rotation; peers beyond them meet the new credential as strangers.
const MAX_ROUNDS: u8 = 255;
/// How long to wait after a credential could not be issued, in seconds.
const RETRY_SECONDS: u64 = 5;

impl Engine {
    pub(super) fn on_add_workload(&mut self, spec: WorkloadSpec, now: Now, out: &mut Vec<Output>) {
        let name = spec.identity.path();
        if self.workloads.named(&name).is_some() {
            return out.push(Output::Problem(format!("workload {name:?} is here already")));
        }
        let Some(id) = self.workloads.add(spec) else {
            let problem = format!("workload {name:?}: 65535 workloads are served, no id is free");
            return out.push(Output::Problem(problem));
        };
        self.claim_credentials(id, now);
        let rules = self.rule_set_for(id, out);
        if let Some(workload) = self.workloads.get_mut(id) {
            if let Some(rule_set) = rules {
                workload.value.rule_sets = [rule_set; 2];
                set_asks_names(&mut workload.value, self.networks.name_hosts(rule_set));
            }
            if workload.current().is_some() {
                // The adopted credential is used until the new one is paired.
                self.write_workload(id, out);
            }
        }
        self.rotate(id, now, out);
    }

    pub(super) fn on_remove_workload(&mut self, name: &str, now: Now, out: &mut Vec<Output>) {
        let Some(gone) = self.workloads.remove(name) else {
            return out.push(Output::Problem(format!("workload {name:?} is not here")));
        };
        out.push(Output::RemoveWorkload(gone.id));
        self.forget_hosts(&gone, now, out);
        for own in &gone.credentials {
            self.remove_credential(own.handle, out);
        }
        for asked in self.verdicts.keys_where(|asked| asked.workload == gone.id) {
            self.verdicts.remove(&asked);
            out.push(Output::RemoveVerdict(asked.key(self.epoch)));
        }
        out.push(Output::SweepFlows(Sweep { workloads: [gone.id].into(), ..Sweep::default() }));
    }

    /// Issues the next credential of a workload and begins to pair it.
    pub(super) fn rotate(&mut self, id: u16, now: Now, out: &mut Vec<Output>) {
        match self.issue(id, now) {
            Ok((own, output)) => {
                let handle = own.handle;
                self.workloads.add_credential(id, own);
                out.push(output);
                let switch_ns = now.after(PAIRING_SECONDS);
                if let Some(workload) = self.workloads.get_mut(id) {
                    workload.rotation = Some(Rotation { handle, switch_ns, rounds: 0 });
                }
                self.counters.add(Done::Issued, 1);
                self.pair_or_switch(id, now, out);
            }
            Err(problem) => {
                self.counters.add(Done::IssueFailed, 1);
                out.push(Output::Problem(problem));
                if let Some(workload) = self.workloads.get_mut(id) {
                    workload.rotate_ns = now.after(RETRY_SECONDS);
                }
                self.write_workload(id, out);
            }
        }
    }

    pub(super) fn on_rotation_paired(
        &mut self,
        id: u16,
        handle: Handle,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let rotation = self.workloads.get(id).and_then(|workload| workload.rotation);
        if rotation.is_some_and(|rotation| rotation.handle == handle) {
            self.pair_or_switch(id, now, out);
        }
    }

    /// The node certificate changed: every workload gets a credential under the new one.
    pub(super) fn on_set_issuer(&mut self, issuer: Arc<Issuer>) {
        self.issuer = issuer;
        let ids: Vec<u16> = self.workloads.iter().map(|workload| workload.id).collect();
        for id in ids {
            if let Some(workload) = self.workloads.get_mut(id) {
                workload.rotate_ns = 0;
            }
        }
    }

    /// Ends what is over and begins what is due, for every workload.
    pub(super) fn tend_credentials(&mut self, now: Now, out: &mut Vec<Output>) {
        self.end_adopted(now, out);
        let ids: Vec<u16> = self.workloads.iter().map(|workload| workload.id).collect();
        for id in ids {
            self.end_credentials(id, now, out);
            let Some(workload) = self.workloads.get(id) else { continue };
            match workload.rotation {
                Some(rotation) if rotation.switch_ns <= now.boot_ns => self.switch(id, now, out),
                None if workload.rotate_ns <= now.boot_ns => self.rotate(id, now, out),
                Some(_) | None => {}
            }
        }
    }

    /// Credentials of an earlier daemon that nobody has any more: attempts may be frozen on them.
    fn end_adopted(&mut self, now: Now, out: &mut Vec<Output>) {
        let ended = self.adopted_credentials.extract_if(|_, end| *end <= now.boot_ns);
        for (handle, _) in ended.collect::<Vec<_>>() {
            self.remove_credential(handle, out);
        }
    }

    /// Credentials of an earlier daemon that the kernel still stamps, or stamped not long ago.
    fn claim_credentials(&mut self, id: u16, now: Now) {
        let Some(workload) = self.workloads.get_mut(id) else { return };
        let handle = workload.value.credential;
        match self.adopted_credentials.remove(&handle) {
            Some(deadline_ns) if deadline_ns > now.boot_ns => {
                self.workloads.add_credential(id, Own { handle, deadline_ns, secret: None });
            }
            _ => workload.value.credential = Handle::default(),
        }
    }

    fn issue(&self, id: u16, now: Now) -> Result<(Own, Output), String> {
        let workload = self.workloads.get(id).ok_or("the workload is gone")?;
        let limits = self.settings.credential;
        let issued = self.issuer.issue(workload.identity(), now.unix_seconds(), limits);
        let local = issued.map_err(|error| error.to_string())?;
        let (handle, deadline_ns) = (local.handle(), now.boot_deadline(local.not_after()));
        if self.workloads.by_handle(handle).is_some() {
            return Err(format!("workload {}: two handles are equal", workload.identity()));
        }
        let form = kernel_form(&local, now).ok_or("a credential is longer than a segment")?;
        let own = Own { handle, deadline_ns, secret: Some(Arc::new(local)) };
        Ok((own, Output::InstallCredential(handle, form)))
    }

    /// Pairs the new credential with recent peers of the old ones, or puts it in force.
    fn pair_or_switch(&mut self, id: u16, now: Now, out: &mut Vec<Output>) {
        let Some(workload) = self.workloads.get(id) else { return };
        let Some(rotation) = workload.rotation else { return };
        let older: Vec<Handle> = workload.credentials.iter().map(|own| own.handle).collect();
        let unpaired = self.peers.unpaired(
            rotation.handle,
            |handle| older.contains(handle),
            now,
            MAX_PEERS_A_JOB,
        );
        let overdue = rotation.rounds == MAX_ROUNDS || rotation.switch_ns <= now.boot_ns;
        let secret = self.secret(rotation.handle, now).ok();
        let (false, false, Some(local)) = (unpaired.is_empty(), overdue, secret) else {
            return self.switch(id, now, out);
        };
        let about = About::Rotation(id, rotation.handle);
        if let Some(job) = self.jobs.start(about, rotation.handle, now) {
            let work = Work::Pair { local, peers: unpaired };
            out.push(Output::Verify(Job { id: job, work }));
            if let Some(workload) = self.workloads.get_mut(id) {
                workload.rotation = Some(Rotation { rounds: rotation.rounds + 1, ..rotation });
            }
        }
    }

    /// Lets the kernel stamp the new credential.
    pub(super) fn switch(&mut self, id: u16, now: Now, out: &mut Vec<Output>) {
        let Some(workload) = self.workloads.get_mut(id) else { return };
        let Some(rotation) = workload.rotation.take() else { return };
        let deadline = workload.credential(rotation.handle).map(|own| own.deadline_ns);
        workload.value.credential = rotation.handle;
        let life = deadline.unwrap_or(now.boot_ns).saturating_sub(now.boot_ns);
        workload.rotate_ns = now.boot_ns.saturating_add(life / 2);
        self.write_workload(id, out);
    }

    fn end_credentials(&mut self, id: u16, now: Now, out: &mut Vec<Output>) {
        let Some(workload) = self.workloads.get_mut(id) else { return };
        let surplus = workload.credentials.len().saturating_sub(MAX_CREDENTIALS);
        let ended: Vec<Handle> = workload
            .credentials
            .iter()
            .enumerate()
            .filter(|(n, own)| *n < surplus || own.deadline_ns <= now.boot_ns)
            .map(|(_, own)| own.handle)
            .collect();
        let bare = ended.contains(&workload.value.credential);
        for handle in &ended {
            self.workloads.remove_credential(id, *handle);
            self.remove_credential(*handle, out);
        }
        if bare {
            if let Some(workload) = self.workloads.get_mut(id) {
                workload.value.credential = Handle::default();
            }
            self.write_workload(id, out);
        }
    }

    /// Removes a credential from the kernel, and every peer paired with it.
    pub(super) fn remove_credential(&mut self, handle: Handle, out: &mut Vec<Output>) {
        for key in self.peers.keys_where(|key, _| key.local == handle) {
            self.peers.remove(&key);
            out.push(Output::RemovePeer(key));
        }
        out.push(Output::RemoveCredential(handle));
    }

    pub(super) fn write_workload(&self, id: u16, out: &mut Vec<Output>) {
        if let Some(workload) = self.workloads.get(id) {
            out.push(Output::InstallWorkload(id, Box::new(workload.value)));
        }
    }
}
