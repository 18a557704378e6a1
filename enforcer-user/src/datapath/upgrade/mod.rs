//! Takes over from a datapath of the layout before, which goes on enforcing meanwhile: no hook is ever
//! without a program, no flow is lost, and a daemon that dies at any step leaves something that enforces.
//!
//! The new maps stand in a folder of their own beside the old ones, and its name says how far it went:
//!
//! 1. [`NEXT`]: maps and programs are made, everything is copied, and the new `to_workload` takes its
//!    places. Old and new know the same flows then but for those that one of them opens from now on, and
//!    of these the old `from_workload` has the attempt: it drops what it does not know yet, and resets
//!    nothing. What the old `to_workload` had opened is copied. A start that finds this folder removes it,
//!    be it of the old or of the new version.
//! 2. [`TAKEOVER`]: the new `from_workload` takes its places, and what the old programs wrote last is
//!    brought over. The old version cannot know flows that are opened from now on, so only the new one
//!    starts, and repeats this step whole.
//! 3. [`TAKEN`]: nothing reads the old maps any more; the pins of the new ones take the places of the old
//!    one by one.
//!
//! A folder goes from one name to the next by renaming, which is one step of the kernel.

mod flows;
mod state;

use std::time::Instant;

use enforcer_common::abi::{ABI_VERSION, before};

use super::attach;
use super::error::DatapathError;
use super::folder::PinFolder;
use super::guard;
use super::load::{self, Loaded, Settings};
use super::maps::Maps;
use super::{shares, sys};
use crate::fault::{self, KillPoint};

use flows::Pass;

/// What may be removed and begun anew.
const NEXT: &str = "next";
/// What must be brought to its end by its own version.
const TAKEOVER: &str = "takeover";
/// What is in force, and only has to move.
const TAKEN: &str = "taken";

/// The folders that an upgrade makes within that of the instance.
pub(super) const FOLDERS: [&str; 3] = [NEXT, TAKEOVER, TAKEN];

/// Takes over from the layout before, or ends an upgrade that was begun; `None` if there is nothing to
/// take over, and what is pinned is this version's or nobody's.
///
/// # Errors
/// [`DatapathError::UpgradeBegun`] if another version has to end its upgrade.
pub(super) fn run(
    folder: &PinFolder,
    settings: &Settings,
) -> Result<Option<Loaded>, DatapathError> {
    if folder.has(TAKEN) {
        check_ours(folder, TAKEN)?;
        move_pins(folder)?;
    }
    if folder.has(TAKEOVER) {
        check_ours(folder, TAKEOVER)?;
        return resume(folder, settings).map(Some);
    }
    let version = load::pinned_version(folder)?;
    // The folder of a version that this one does not follow is not its to remove.
    if version.is_none_or(|version| version <= ABI_VERSION) {
        folder.remove_inner(NEXT)?;
    }
    if version.is_some() && version == before::VERSION {
        return begin(folder, settings).map(Some);
    }
    Ok(None)
}

fn check_ours(folder: &PinFolder, name: &str) -> Result<(), DatapathError> {
    let version = load::pinned_version(&folder.inner(name)?)?;
    // Its own may have moved already.
    let version = if version.is_some() { version } else { load::pinned_version(folder)? };
    match version {
        None | Some(ABI_VERSION) => Ok(()),
        Some(found) => {
            let folder = folder.path().to_owned();
            Err(DatapathError::UpgradeBegun { folder, found, ours: ABI_VERSION })
        }
    }
}

fn begin(folder: &PinFolder, settings: &Settings) -> Result<Loaded, DatapathError> {
    tracing::info!(from = before::VERSION, to = ABI_VERSION, "taking over from another layout");
    let beside = folder.inner(NEXT)?;
    let mut loaded = Loaded::load(&beside, settings)?;
    let mut maps = Maps::open(beside.path())?;
    maps.flip_epoch(load::pinned_epoch(folder)?)?;
    fault::reached(KillPoint::BesideMade);
    state::copy(folder.path(), beside.path(), &mut maps)?;
    flows::carry(folder.path(), &mut maps, Pass::First)?;
    // Later passes bring over few, which the first walk of the sweeper finds.
    shares::recount(&mut maps)?;
    // Its lock goes with it: the folder is about to have other names.
    drop(beside);
    fault::reached(KillPoint::StateCopied);
    let since = Instant::now();
    take_places(folder, &mut loaded, &maps, "to_workload")?;
    flows::carry(folder.path(), &mut maps, Pass::Again)?;
    // The guard knows what `to_workload` knows: no more than before is lost of a connection that is being opened.
    guard::replace_everywhere(folder, &mut loaded)?;
    fault::reached(KillPoint::FlowsCopiedAgain);
    folder.rename(NEXT, TAKEOVER)?;
    fault::reached(KillPoint::TakeoverBegun);
    let loaded = finish(folder, loaded, maps)?;
    // As long, connections that were being opened may have waited for a retransmission.
    tracing::info!(to = ABI_VERSION, changing = ?since.elapsed(), "taken over");
    Ok(loaded)
}

fn resume(folder: &PinFolder, settings: &Settings) -> Result<Loaded, DatapathError> {
    tracing::info!(to = ABI_VERSION, "ending an upgrade that was begun");
    let beside = folder.inner(TAKEOVER)?;
    let mut loaded = Loaded::load(&beside, settings)?;
    let maps = Maps::open(beside.path())?;
    drop(beside);
    take_places(folder, &mut loaded, &maps, "to_workload")?;
    guard::replace_everywhere(folder, &mut loaded)?;
    finish(folder, loaded, maps)
}

fn finish(folder: &PinFolder, mut loaded: Loaded, mut maps: Maps) -> Result<Loaded, DatapathError> {
    take_places(folder, &mut loaded, &maps, "from_workload")?;
    fault::reached(KillPoint::PlacesTaken);
    flows::carry(folder.path(), &mut maps, Pass::Last)?;
    maps.counters.add_before(folder.path())?;
    fault::reached(KillPoint::FlowsCarried);
    folder.rename(TAKEOVER, TAKEN)?;
    fault::reached(KillPoint::TakeoverEnded);
    move_pins(folder)?;
    loaded.adopted = true;
    Ok(loaded)
}

/// Puts a program where the old one of its name stands, and waits until that one has ended everywhere.
fn take_places(
    folder: &PinFolder,
    loaded: &mut Loaded,
    maps: &Maps,
    program: &'static str,
) -> Result<(), DatapathError> {
    let mut interfaces = Vec::new();
    maps.interfaces.for_each(|ifindex, _| interfaces.push(*ifindex))?;
    attach::replace_everywhere(folder, loaded, program, &interfaces)?;
    sys::wait_for_programs();
    Ok(())
}

/// Moves the pins of the new maps over those of the old ones. May be repeated.
fn move_pins(folder: &PinFolder) -> Result<(), DatapathError> {
    let names = folder.inner(TAKEN)?.names()?;
    for (moved, name) in names.iter().enumerate() {
        if moved == names.len() / 2 {
            fault::reached(KillPoint::PinsHalfMoved);
        }
        folder.rename(&format!("{TAKEN}/{name}"), name)?;
    }
    // Maps that the new layout does not have any more.
    let ours = load::pinned_maps()?;
    for name in folder.names()? {
        if load::is_map_pin(&name) && !FOLDERS.contains(&name.as_str()) && !ours.contains(&name) {
            folder.remove(&name)?;
        }
    }
    folder.remove_inner(TAKEN)?;
    fault::reached(KillPoint::PinsMoved);
    Ok(())
}
