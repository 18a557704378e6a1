//! Removes everything that an instance made in the kernel.

use std::collections::BTreeSet;
use std::path::Path;

use enforcer_common::abi::InterfaceValue;

use super::attach::{self, ifindex_of_pin};
use super::error::DatapathError;
use super::folder::PinFolder;
use super::load::CLSACT_PREFIX;
use super::table::Table;
use super::upgrade;

/// What was removed, a line each; empty if there was nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Links, filters, qdiscs and pins.
    pub removed: Vec<String>,
}

/// Takes the programs off every interface and removes the pins. May be repeated.
pub(super) fn detach(path: &Path) -> Result<Report, DatapathError> {
    let mut report = Report::default();
    let Some(folder) = PinFolder::open_existing(path)? else {
        return Ok(report);
    };
    for ifindex in interfaces(&folder)? {
        report.removed.extend(attach::detach(&folder, ifindex)?);
    }
    for name in folder.names()? {
        let inner = upgrade::FOLDERS.contains(&name.as_str());
        if if inner { folder.remove_inner(&name)? } else { folder.remove(&name)? } {
            report.removed.push(format!("pin {name}"));
        }
    }
    report.removed.push(format!("folder {}", path.display()));
    folder.discard()?;
    Ok(report)
}

/// Every interface that programs may be attached to: those with pins, those with notes, and those
/// in the map, whose filters have no pins.
fn interfaces(folder: &PinFolder) -> Result<BTreeSet<u32>, DatapathError> {
    let mut all = BTreeSet::new();
    for name in folder.names()? {
        let marked = || name.strip_prefix(CLSACT_PREFIX)?.parse().ok();
        all.extend(ifindex_of_pin(&name).or_else(marked));
    }
    // Maps of another version may not open; their links are known by their pins.
    if let Ok(interfaces) = Table::<u32, InterfaceValue>::open(folder.path(), "INTERFACES") {
        interfaces.for_each(|ifindex, _| {
            all.insert(*ifindex);
        })?;
    }
    Ok(all)
}
