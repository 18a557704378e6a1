//! What only the daemon writes, and what may be a moment old: copied once.

use std::fmt::Debug;
use std::mem::MaybeUninit;
use std::path::Path;

use aya::Pod;
use enforcer_common::abi::{self, before};
use zeroize::Zeroize as _;

use super::super::error::DatapathError;
use super::super::maps::Maps;
use super::super::rows::Rows;
use super::super::table::Table;

/// Copies all but flows, half-open connections, counters and shares, which are counted anew. Nonces are not copied:
/// every start has a new secret, and those of connections under way stand in their attempts.
pub(super) fn copy(old: &Path, new: &Path, maps: &mut Maps) -> Result<(), DatapathError> {
    table::<u32, before::InterfaceValue, u32, abi::InterfaceValue>(old, new, "INTERFACES")?;
    workloads::<before::WorkloadValue>(old, maps)?;
    table::<before::AddressKey, u32, abi::AddressKey, u32>(old, new, "ADDRESSES")?;
    table::<before::Handle, before::CredentialValue, abi::Handle, abi::CredentialValue>(
        old,
        new,
        "CREDENTIALS",
    )?;
    table::<before::PeerKey, before::PeerValue, abi::PeerKey, abi::PeerValue>(old, new, "PEERS")?;
    table::<before::VerdictKey, before::VerdictValue, abi::VerdictKey, abi::VerdictValue>(
        old, new, "VERDICTS",
    )?;
    table::<before::AddressKey, before::BucketValue, abi::AddressKey, abi::BucketValue>(
        old, new, "STANDING",
    )?;
    table::<before::BucketKey, before::BucketValue, abi::BucketKey, abi::BucketValue>(
        old, new, "BUCKETS",
    )?;
    maps.copy_networks(old)
}

fn workloads<W: Pod + Into<abi::WorkloadValue>>(
    old: &Path,
    maps: &mut Maps,
) -> Result<(), DatapathError> {
    let mut copied = Ok(());
    Rows::<W>::open(old, "WORKLOADS")?.for_each(|id, value| {
        let value: abi::WorkloadValue = (*value).into();
        if copied.is_ok() && value.is_present() {
            copied = maps.workloads.write(id, &value);
        }
    })?;
    copied
}

fn table<B, W, K, V>(old: &Path, new: &Path, name: &'static str) -> Result<(), DatapathError>
where
    B: Pod + Debug + Default,
    W: Pod,
    K: Pod + Debug + Default + From<B>,
    V: Pod + From<W>,
{
    let mut to = Table::<K, V>::open(new, name)?;
    Table::<B, W>::open(old, name)?.try_for_each(|key, value| {
        let mut value = [MaybeUninit::new(V::from(*value))];
        // SAFETY: it was made of a value.
        let copied = to.insert(&K::from(*key), unsafe { value[0].assume_init_ref() });
        // Some values are keys.
        value.zeroize();
        copied
    })
}
