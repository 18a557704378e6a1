//! This node's workloads and their credentials.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use enforcer_common::abi::{
    CredentialValue, Handle, MAX_CREDENTIAL_BYTES, WORKLOAD_ID_MAX, WORKLOAD_NAME_BYTES,
    WorkloadValue,
};
use enforcer_common::wire::checksum::sum_bytes;

use super::clock::Now;
use super::io::{OwnCredential, WorkloadSpec};
use super::networks::NO_RULES;
use crate::identity::{Identity, LocalCredential, identity_id};

/// The most credentials of one workload: the current one, the next, and those that run out.
pub const MAX_CREDENTIALS: usize = 4;

/// A credential of a workload.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its handle.
    pub handle: Handle,
    /// Boot time at which it ends, nanoseconds.
    pub deadline_ns: u64,
    /// The secret behind it; none for one of an earlier daemon.
    pub secret: Option<Arc<LocalCredential>>,
}

/// A new credential whose pair keys are being computed; the kernel does not use it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// The new credential.
    pub handle: Handle,
    /// Boot time at which the kernel uses it even if keys are missing.
    pub switch_ns: u64,
    /// Rounds of pairing so far.
    pub rounds: u8,
}

/// A workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its id in every map.
    pub id: u16,
    /// What it was added as.
    pub spec: WorkloadSpec,
    /// What the kernel has.
    pub value: WorkloadValue,
    /// Its credentials, the newest last.
    pub credentials: Vec<Own>,
    /// A rotation under way.
    pub rotation: Option<Rotation>,
    /// Boot time before which no credential is issued, nanoseconds.
    pub rotate_ns: u64,
}

impl Workload {
    /// The credential that the kernel stamps.
    pub fn current(&self) -> Option<&Own> {
        self.credentials.iter().find(|own| own.handle == self.value.credential)
    }

    /// A credential by its handle.
    pub fn credential(&self, handle: Handle) -> Option<&Own> {
        self.credentials.iter().find(|own| own.handle == handle)
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.spec.identity
    }
}

/// Workloads by id.
#[derive(Debug, Default)]
pub struct Workloads {
    by_id: BTreeMap<u16, Workload>,
    by_handle: HashMap<Handle, u16>,
    /// How many have a name.
    names: HashMap<String, u32>,
    /// What an earlier daemon left and nobody has claimed yet.
    adopted: BTreeMap<u16, WorkloadValue>,
}

impl Workloads {
    /// Keeps the workloads of an earlier daemon, so that ids stay what they were.
    pub fn adopt(&mut self, workloads: Vec<(u16, WorkloadValue)>) {
        self.adopted = workloads.into_iter().collect();
    }

    /// Ids that an earlier daemon served and nobody claimed.
    pub fn unclaimed(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.adopted).into_keys().collect()
    }

    /// Number of workloads.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Workload> {
        self.by_id.values()
    }

    /// One by its id.
    pub fn get(&self, id: u16) -> Option<&Workload> {
        self.by_id.get(&id)
    }

    /// One by its id, to change.
    pub fn get_mut(&mut self, id: u16) -> Option<&mut Workload> {
        self.by_id.get_mut(&id)
    }

    /// One by its path or SPIFFE ID, or by its name if only one has that.
    pub fn named(&self, text: &str) -> Option<&Workload> {
        let mut called = self.by_id.values().filter(|one| one.identity().is_called(text));
        called.next().filter(|_| called.next().is_none())
    }

    /// What a workload is called here: its name, or its path if another has that name too.
    pub fn name_of(&self, identity: &Identity) -> String {
        let name = identity.name();
        if self.names.get(name) == Some(&1) { name.to_owned() } else { identity.path() }
    }

    /// The workload that has a credential of this handle.
    pub fn by_handle(&self, handle: Handle) -> Option<&Workload> {
        self.by_id.get(self.by_handle.get(&handle)?)
    }

    /// Adds a workload under the id it had before, or a free one; none if all ids are taken.
    pub fn add(&mut self, spec: WorkloadSpec) -> Option<u16> {
        let claimed = self.claim(&spec.identity);
        let id = claimed.map(|(id, _)| id).or_else(|| self.free_id())?;
        let mut value = claimed.map_or_else(blank, |(_, value)| value);
        value.identity = identity_id(&spec.identity);
        value.name = name_bytes(spec.identity.name());
        value.flags = spec.flags;
        if claimed.is_none() {
            value.adopt_until_ns = spec.adopt_until_ns;
        }
        let (credentials, rotation) = (Vec::new(), None);
        *self.names.entry(spec.identity.name().to_owned()).or_default() += 1;
        let workload = Workload { id, spec, value, credentials, rotation, rotate_ns: 0 };
        self.by_id.insert(id, workload);
        Some(id)
    }

    /// Removes the workload of this path.
    pub fn remove(&mut self, path: &str) -> Option<Workload> {
        let id = self.named(path)?.id;
        let gone = self.by_id.remove(&id)?;
        if let Some(count) = self.names.get_mut(gone.identity().name()) {
            *count -= 1;
        }
        self.names.retain(|_, count| *count > 0);
        for own in &gone.credentials {
            self.by_handle.remove(&own.handle);
        }
        Some(gone)
    }

    /// Gives a workload one more credential.
    pub fn add_credential(&mut self, id: u16, own: Own) {
        if let Some(workload) = self.by_id.get_mut(&id) {
            self.by_handle.insert(own.handle, id);
            workload.credentials.push(own);
        }
    }

    /// Takes a credential away.
    pub fn remove_credential(&mut self, id: u16, handle: Handle) {
        if let Some(workload) = self.by_id.get_mut(&id) {
            workload.credentials.retain(|own| own.handle != handle);
            self.by_handle.remove(&handle);
        }
    }

    /// The adopted workload of this identity; or if its claims changed the one of this name, if there is one only.
    fn claim(&mut self, identity: &Identity) -> Option<(u16, WorkloadValue)> {
        let number = identity_id(identity);
        let name = name_bytes(identity.name());
        // A name that fills its field may have been cut: then it tells too little.
        let whole = identity.name().len() < WORKLOAD_NAME_BYTES;
        let same = self.adopted.iter().find(|(_, value)| value.identity == number);
        let named = || {
            let mut named = self.adopted.iter().filter(|(_, value)| whole && value.name == name);
            named.next().filter(|_| named.next().is_none())
        };
        let id = *same.or_else(named)?.0;
        self.adopted.remove_entry(&id)
    }

    fn free_id(&self) -> Option<u16> {
        (1..=WORKLOAD_ID_MAX)
            .find(|id| !self.by_id.contains_key(id) && !self.adopted.contains_key(id))
    }
}

/// A credential as the kernel's map holds it; none if it is too long for a segment.
pub fn kernel_form(local: &LocalCredential, now: Now) -> Option<OwnCredential> {
    let bytes = local.bytes();
    let mut value = Box::new(CredentialValue {
        deadline_ns: now.boot_deadline(local.not_after()),
        length: u16::try_from(bytes.len()).ok()?,
        sum: sum_bytes(bytes),
        zero: [0; 4],
        bytes: [0; MAX_CREDENTIAL_BYTES],
    });
    value.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(OwnCredential(value))
}

fn blank() -> WorkloadValue {
    WorkloadValue {
        identity: 0,
        credential: Handle::default(),
        adopt_until_ns: 0,
        rule_sets: [NO_RULES; 2],
        flags: 0,
        address_set: 0,
        name: [0; WORKLOAD_NAME_BYTES],
    }
}

fn name_bytes(name: &str) -> [u8; WORKLOAD_NAME_BYTES] {
    let mut bytes = [0; WORKLOAD_NAME_BYTES];
    for (slot, byte) in bytes.iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    bytes
}
