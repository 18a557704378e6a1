//! The pinned maps, typed, with the operations that the daemon needs. Every error names map and key.

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display, Formatter};
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData, MapError};
use enforcer_common::abi::{
    Address, AddressKey, AttemptValue, Config, CredentialValue, FlowKey, FlowKey4, FlowKey6,
    FlowValue, Handle, NetworkKey, NetworkValue, PeerKey, PeerValue, ShareValue, VerdictKey,
    VerdictValue, WorkloadValue, before, flow_state, mapped, workload_flags,
};
use enforcer_common::datapath::attempt;

use super::counters::Counters;
use super::error::DatapathError;
use super::interfaces::Interfaces;
use super::rows::Rows;
use super::sys;
use super::table::{Position, Table};
use crate::engine::Network;
use crate::fault::{self, KillPoint};

/// The bits of the rule set in front of every prefix length of the trie.
const RULE_SET_BITS: u32 = 32;

/// Prefixes that one listing may return; a bound on the loop, far above the map's size.
const MAX_NETWORKS: usize = 1 << 22;

/// Typed handles of the pinned maps.
pub struct Maps {
    config: Array<MapData, Config>,
    networks: LpmTrie<MapData, NetworkKey, NetworkValue>,
    /// What programs count.
    pub counters: Counters,
    /// ifindex to workload.
    pub interfaces: Interfaces,
    /// Workloads by id.
    pub workloads: Rows<WorkloadValue>,
    /// Addresses that workloads may use; the value is 1.
    pub addresses: Table<AddressKey, u32>,
    /// Local credentials by handle.
    pub credentials: Table<Handle, CredentialValue>,
    /// Pair keys and identities of peers. Holds secrets.
    pub peers: Table<PeerKey, PeerValue>,
    /// Cached verdicts.
    pub verdicts: Table<VerdictKey, VerdictValue>,
    /// Half-open connections.
    pub attempts: Table<FlowKey, AttemptValue>,
    /// Those of them that have no place of their own.
    pub crowd: Table<FlowKey, AttemptValue>,
    /// Flows ever opened, by workload; row 0 of all together.
    pub shares_opened: Rows<ShareValue>,
    /// Those of them that are gone.
    pub shares_gone: Rows<ShareValue>,
    /// Flows of IPv4.
    pub(super) flows4: Table<FlowKey4, FlowValue>,
    /// Flows of IPv6.
    pub(super) flows6: Table<FlowKey6, FlowValue>,
}

impl Debug for Maps {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    /// Opens the maps pinned in `folder`.
    pub fn open(folder: &Path) -> Result<Self, DatapathError> {
        Ok(Self {
            config: typed(folder, "CONFIG")?,
            networks: typed(folder, "NETWORKS")?,
            counters: Counters::open(folder)?,
            interfaces: Interfaces::open(folder)?,
            workloads: Rows::open(folder, "WORKLOADS")?,
            addresses: Table::open(folder, "ADDRESSES")?,
            credentials: Table::open(folder, "CREDENTIALS")?,
            peers: Table::open(folder, "PEERS")?,
            verdicts: Table::open(folder, "VERDICTS")?,
            attempts: Table::open(folder, "ATTEMPTS")?,
            crowd: Table::open(folder, "CROWD")?,
            shares_opened: Rows::open(folder, "SHARES_OPENED")?,
            shares_gone: Rows::open(folder, "SHARES_GONE")?,
            flows4: Table::open(folder, "FLOWS4")?,
            flows6: Table::open(folder, "FLOWS6")?,
        })
    }

    /// What holds for the whole datapath.
    pub fn config(&self) -> Result<Config, DatapathError> {
        self.config.get(&0, 0).map_err(map_error("CONFIG", "read", 0))
    }

    /// Makes a policy hold: one store of the configuration in which nothing but the epoch differs.
    pub fn flip_epoch(&mut self, epoch: u32) -> Result<(), DatapathError> {
        let config = Config { epoch, ..self.config()? };
        self.config.set(0, config, 0).map_err(map_error("CONFIG", "write epoch", epoch))
    }

    /// Writes prefixes of the trie.
    pub fn insert_networks(&mut self, networks: &[Network]) -> Result<(), DatapathError> {
        for (prefix_length, key, value) in networks {
            self.networks.insert(&Key::new(*prefix_length, *key), value, 0).map_err(map_error(
                "NETWORKS",
                "write",
                prefix_text(*prefix_length, key),
            ))?;
        }
        Ok(())
    }

    /// Removes prefixes of the trie; those that are not there do not matter.
    pub fn remove_networks(&mut self, networks: &[(u32, NetworkKey)]) -> Result<(), DatapathError> {
        for (prefix_length, key) in networks {
            match self.networks.remove(&Key::new(*prefix_length, *key)) {
                Err(e) if !is_missing(&e) => {
                    let prefix = prefix_text(*prefix_length, key);
                    return Err(map_error("NETWORKS", "remove", prefix)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every prefix of the trie.
    pub fn network_keys(&self) -> Result<Vec<(u32, NetworkKey)>, DatapathError> {
        let keys = self.networks.keys();
        keys.map(|key| key.map(|key| (key.prefix_len(), key.data())))
            .take(MAX_NETWORKS)
            .collect::<Result<_, _>>()
            .map_err(map_error("NETWORKS", "list", "all"))
    }

    /// Makes `wanted` the addresses of a workload: new ones are written before old ones go.
    ///
    /// Meanwhile no set of addresses is named, and programs that had begun have ended before the set changes and
    /// before the new one is named: what a program finds in a set that it saw named is of that set.
    pub fn set_addresses(
        &mut self,
        workload: u16,
        wanted: &[Address],
    ) -> Result<(), DatapathError> {
        let wanted: BTreeSet<Address> = wanted.iter().copied().collect();
        let (mut present, mut stale) = (BTreeSet::new(), Vec::new());
        self.addresses.for_each(|key, _| {
            if key.workload == workload {
                if wanted.contains(&key.address) {
                    present.insert(key.address);
                } else {
                    stale.push(*key);
                }
            }
        })?;
        if present == wanted && stale.is_empty() {
            return self.name_address_set(workload, address_set(&wanted)).map(drop);
        }
        if self.name_address_set(workload, 0)? {
            sys::wait_for_programs();
        }
        fault::reached(KillPoint::AddressSetUnnamed);
        let mut write = |address: &Address| {
            self.addresses.insert(&AddressKey { address: *address, workload, zero: [0; 6] }, &1)
        };
        let written = wanted.difference(&present).try_for_each(&mut write);
        for key in &stale {
            self.addresses.remove(key)?;
        }
        fault::reached(KillPoint::AddressesChanged);
        written?;
        if !stale.is_empty() && !wanted.is_empty() {
            sys::wait_for_programs();
        }
        self.name_address_set(workload, address_set(&wanted)).map(drop)
    }

    /// Says which set of addresses a workload has, if it is there. Whether that was another before.
    fn name_address_set(&mut self, id: u16, address_set: u32) -> Result<bool, DatapathError> {
        match self.workload(id)? {
            Some(value) if value.address_set != address_set => {
                self.workloads.write(id.into(), &WorkloadValue { address_set, ..value })?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Writes a workload; its addresses stay as they are.
    pub fn insert_workload(&mut self, id: u16, value: &WorkloadValue) -> Result<(), DatapathError> {
        let flags = value.flags | workload_flags::PRESENT;
        let address_set = self.workload(id)?.map_or(0, |before| before.address_set);
        self.workloads.write(id.into(), &WorkloadValue { flags, address_set, ..*value })
    }

    /// A workload.
    pub fn workload(&self, id: u16) -> Result<Option<WorkloadValue>, DatapathError> {
        let value = self.workloads.read(id.into())?;
        Ok(value.is_present().then_some(value))
    }

    /// Removes a workload. What its flows are counted in stays, as they do until the sweeper removes them:
    /// a workload that gets the id after it begins with what is in the tables under it.
    pub(super) fn remove_workload(&mut self, id: u16) -> Result<(), DatapathError> {
        self.workloads.write(id.into(), &WorkloadValue::NOBODY)
    }

    /// Writes the networks of the layout before, whose maps are in `folder`.
    pub(super) fn copy_networks(&mut self, folder: &Path) -> Result<(), DatapathError> {
        let before: LpmTrie<MapData, before::NetworkKey, before::NetworkValue> =
            typed(folder, "NETWORKS")?;
        for entry in before.iter().take(MAX_NETWORKS) {
            let (key, value) = entry.map_err(map_error("NETWORKS", "read", "all"))?;
            self.insert_networks(&[(key.prefix_len(), key.data(), value)])?;
        }
        Ok(())
    }

    /// A flow.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<FlowValue>, DatapathError> {
        if is_v4(key) { self.flows4.lookup(&key.to_v4()) } else { self.flows6.lookup(key) }
    }

    /// Replaces a flow that is there; `false` if it is gone.
    pub fn replace_flow(
        &mut self,
        key: &FlowKey,
        value: &FlowValue,
    ) -> Result<bool, DatapathError> {
        if is_v4(key) {
            self.flows4.replace(&key.to_v4(), value)
        } else {
            self.flows6.replace(key, value)
        }
    }

    /// Removes a flow; `false` if it is gone already.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<bool, DatapathError> {
        if is_v4(key) { self.flows4.remove(&key.to_v4()) } else { self.flows6.remove(key) }
    }

    /// Removes half-open connections that nothing can come of any more, of some behind `position`, which moves
    /// on. Returns how many, and whether both tables' end was reached: then the next call starts anew. `now_ns` is boot
    /// time.
    ///
    /// Each is read again before it is removed by its key. Should another of the tuple begin within the
    /// microseconds between, it is lost: then its SYN comes again, as after any loss, and begins anew.
    pub(super) fn remove_some_attempts(
        &mut self,
        position: &mut AttemptPosition,
        now_ns: u64,
    ) -> Result<(u64, bool), DatapathError> {
        let mut old = Vec::new();
        let table = if position.in_crowd { &self.crowd } else { &self.attempts };
        let done = table.visit_some(&mut position.at, |key, attempt| {
            if attempt::is_over(attempt, false, now_ns) {
                old.push(*key);
            }
        })?;
        let in_crowd = position.in_crowd;
        position.in_crowd ^= done;
        let mut removed = 0;
        for key in old {
            let unconfirmed =
                self.flow(&key)?.is_some_and(|flow| flow.state == flow_state::UNCONFIRMED);
            let table = if in_crowd { &mut self.crowd } else { &mut self.attempts };
            let attempt = table.lookup(&key)?;
            if attempt.is_some_and(|attempt| attempt::is_over(&attempt, unconfirmed, now_ns)) {
                removed += u64::from(table.remove(&key)?);
            }
        }
        Ok((removed, done && in_crowd))
    }

    /// Deletes a half-open connection, whichever table holds it.
    pub fn forget_attempt(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        for table in [&mut self.attempts, &mut self.crowd] {
            table.remove(key)?;
        }
        Ok(())
    }

    /// Visits every flow, holding a few hundred in memory. Flows that come or go meanwhile may be
    /// missed or seen twice.
    pub fn for_each_flow(
        &self,
        mut visit: impl FnMut(&FlowKey, &FlowValue),
    ) -> Result<(), DatapathError> {
        self.flows4.for_each(|key, value| visit(&FlowKey::from(*key), value))?;
        self.flows6.for_each(visit)
    }

    /// Visits some flows behind `position` and moves it on; `true` when the end was reached, and
    /// the next call starts anew.
    pub(super) fn visit_some_flows(
        &self,
        position: &mut FlowPosition,
        mut visit: impl FnMut(&FlowKey, &FlowValue),
    ) -> Result<bool, DatapathError> {
        if position.in_v6 {
            let done = self.flows6.visit_some(&mut position.at, visit)?;
            position.in_v6 = !done;
            return Ok(done);
        }
        let mut widened = |key: &FlowKey4, value: &FlowValue| visit(&FlowKey::from(*key), value);
        position.in_v6 = self.flows4.visit_some(&mut position.at, &mut widened)?;
        Ok(false)
    }
}

/// Where a walk over both tables of half-open connections stands.
#[derive(Debug, Default)]
pub(super) struct AttemptPosition {
    at: Position,
    in_crowd: bool,
}

/// Where a walk over both flow tables stands.
#[derive(Debug, Default)]
pub(super) struct FlowPosition {
    at: Position,
    in_v6: bool,
}

impl FlowPosition {
    /// Whether the next visit begins anew.
    pub(super) fn is_start(&self) -> bool {
        !self.in_v6 && self.at.is_start()
    }
}

/// Number of a set of addresses, in the order of their bytes: the first bytes of its hash; 0, which names none, only
/// where there are no addresses. It is made of nothing else, so that what a flow noted holds over restarts, and for
/// whoever has the workload's id next. That two sets have one number happens once in four thousand million changes.
fn address_set(addresses: &BTreeSet<Address>) -> u32 {
    if addresses.is_empty() {
        return 0;
    }
    let mut hasher = blake3::Hasher::new();
    for address in addresses {
        hasher.update(address);
    }
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u32::from_ne_bytes([a, b, c, d]).max(1)
}

/// IPv4 flows have mapped addresses on both sides.
pub(super) fn is_v4(key: &FlowKey) -> bool {
    let prefix = &mapped([0; 4])[..12];
    key.local.starts_with(prefix) && key.remote.starts_with(prefix)
}

pub(super) fn typed<T>(folder: &Path, name: &'static str) -> Result<T, DatapathError>
where
    T: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(folder.join(name))
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(map_error(name, "open", "its pin"))
}

fn prefix_text(prefix_length: u32, key: &NetworkKey) -> String {
    let bits = prefix_length.saturating_sub(RULE_SET_BITS);
    let address = std::net::Ipv6Addr::from(key.address);
    format!("{address}/{bits} of rule set {}", key.rule_set)
}

pub(super) fn map_error(
    map: &'static str,
    action: &'static str,
    key: impl Display,
) -> impl FnOnce(MapError) -> DatapathError {
    let key = key.to_string();
    move |source| DatapathError::Map { map, action, key, source: Box::new(source) }
}

/// Whether the kernel said that the key is not there.
pub(super) fn is_missing(error: &MapError) -> bool {
    errno(error) == Some(libc::ENOENT) || matches!(error, MapError::KeyNotFound)
}

/// The errno of a failed call.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}

/// How a key is written in an error.
pub(super) fn key_text<K: Pod + Debug>(key: &K) -> String {
    format!("{key:?}")
}
