//! Faults on demand, in debug builds only: a test says at which step the daemon dies, and how far its
//! wall clock is off.
//!
//! `ENFORCER_FAULTS` names a folder. Its file `kill` holds the name of a [`KillPoint`] and which time
//! of reaching it, counted from the moment the file was written: `link_made 2`. There the daemon
//! raises SIGKILL on itself, as abruptly as the kernel's memory killer would. Its file `clock` holds
//! seconds that are added to the wall clock. While there is a file `no_ticks`, attachments are not
//! looked at by the tick. All are looked at whenever they matter, so a test may write them while the
//! daemon runs.
//!
//! In a release build nothing here reads the environment, and [`reached`] is empty.

use crate::datapath::Mechanism;

/// When a daemon passes a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A start where nothing is pinned.
    Start,
    /// A start over a live datapath.
    Adoption,
    /// A start over a live datapath of the layout before, up to where it goes on as an adoption.
    Upgrade,
    /// A policy change of a running daemon that also cuts a flow.
    Change,
    /// A new credential of a running daemon.
    Rotation,
    /// An interface of a running daemon's workload gets an address.
    Addresses,
}

macro_rules! kill_points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal in [$($phase:ident $times:literal),+]
        $(where $mechanism:ident)?;)+) => {
        /// Every step at which a daemon's death is tested, in the order of a start.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum KillPoint {
            $($(#[doc = $doc])+ $point,)+
        }

        impl KillPoint {
            /// All, in the order of a start.
            pub const ALL: &'static [Self] = &[$(Self::$point,)+];

            /// Its name in the file `kill`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }

            /// How often a daemon with one workload passes it in a phase, where programs are attached so.
            #[must_use]
            pub fn times(self, phase: Phase, attached: Mechanism) -> u32 {
                let only: Option<Mechanism> = match self {
                    $(Self::$point => None$(.or(Some(Mechanism::$mechanism)))?,)+
                };
                if only.is_some_and(|only| only != attached) {
                    return 0;
                }
                let all: &[(Phase, u32)] = match self {
                    $(Self::$point => &[$((Phase::$phase, $times)),+],)+
                };
                all.iter().find(|(one, _)| *one == phase).map_or(0, |(_, times)| *times)
            }
        }
    };
}

kill_points! {
    /// The instance's lock is taken and its control socket listens.
    SocketBound = "socket_bound" in [Start 1, Adoption 1];
    /// The memory file is read and written anew.
    MemoryOpened = "memory_opened" in [Start 1, Adoption 1];
    /// The pin folder is there and locked.
    FolderTaken = "folder_taken" in [Start 1, Adoption 1];
    /// The maps are pinned; at a first start they hold nothing yet.
    MapsPinned = "maps_pinned" in [Start 1, Adoption 1];
    /// The secret of the nonces is new.
    NoncesRenewed = "nonces_renewed" in [Start 1, Adoption 1];
    /// The configuration is written, with the version that says that the maps are whole.
    StateWritten = "state_written" in [Start 1, Adoption 1];
    /// A program is loaded.
    ProgramLoaded = "program_loaded" in [Start 3, Adoption 3];
    /// Maps and programs of this layout are there, beside those of the layout before.
    BesideMade = "beside_made" in [Upgrade 1];
    /// Everything is copied into the maps of this layout.
    StateCopied = "state_copied" in [Upgrade 1];
    /// A program of this layout took the place of one of the layout before.
    PlaceTaken = "place_taken" in [Upgrade 2];
    /// One program of each interface is of this layout, and knows every flow that the old one opened.
    FlowsCopiedAgain = "flows_copied_again" in [Upgrade 1];
    /// From here on only this layout's daemon can start.
    TakeoverBegun = "takeover_begun" in [Upgrade 1];
    /// Every program is of this layout.
    PlacesTaken = "places_taken" in [Upgrade 1];
    /// Flows and counters hold what programs of both layouts saw.
    FlowsCarried = "flows_carried" in [Upgrade 1];
    /// The maps of the layout before are read by nobody.
    TakeoverEnded = "takeover_ended" in [Upgrade 1];
    /// Half of the maps are pinned where those of the layout before were.
    PinsHalfMoved = "pins_half_moved" in [Upgrade 1];
    /// All are.
    PinsMoved = "pins_moved" in [Upgrade 1];
    /// The event rings are read.
    RingsOpened = "rings_opened" in [Start 1, Adoption 1];
    /// The helper interface is there.
    HelperMade = "helper_made" in [Start 1, Adoption 1];
    /// What an earlier daemon left is read from the maps.
    PinsRead = "pins_read" in [Adoption 1];
    /// A credential is written.
    CredentialInstalled = "credential_installed" in [Start 1, Adoption 1, Rotation 1];
    /// A workload's value is written.
    WorkloadInstalled = "workload_installed" in [Start 2, Adoption 2, Change 1, Rotation 1];
    /// A verdict is written.
    VerdictInstalled = "verdict_installed" in [Adoption 1, Change 2];
    /// Prefixes that an earlier change left under this parity are removed; then, those of the old epoch.
    NetworksRemoved = "networks_removed" in [Start 2, Adoption 2, Change 2];
    /// The new epoch's prefixes are written.
    NetworksInstalled = "networks_installed" in [Start 1, Adoption 1, Change 1];
    /// Everything of the new epoch is written, and the old one holds.
    BeforeFlip = "before_flip" in [Start 1, Adoption 1, Change 1];
    /// The new epoch holds, and nothing of the old one is removed.
    EpochFlipped = "epoch_flipped" in [Start 1, Adoption 1, Change 1];
    /// A verdict of the old epoch is removed.
    VerdictRemoved = "verdict_removed" in [Adoption 1, Change 1];
    /// Flows that the new policy denies are noted, and none of them is cut.
    FlowsListed = "flows_listed" in [Change 1];
    /// A flow is cut, and neither end is told.
    FlowCut = "flow_cut" in [Change 1];
    /// Both ends of a flow that is cut are told.
    FlowReset = "flow_reset" in [Change 1];
    /// No set of addresses of the workload is named, and the set is as it was.
    AddressSetUnnamed = "address_set_unnamed" in [Start 1, Addresses 1];
    /// The set of addresses is another, and not yet named.
    AddressesChanged = "addresses_changed" in [Start 1, Addresses 1];
    /// The addresses of a workload are written.
    AddressesWritten = "addresses_written" in [Start 1, Adoption 1];
    /// The entry of a workload's interface is written.
    InterfaceWritten = "interface_written" in [Start 1, Adoption 1];
    /// A program took the place of an earlier daemon's.
    LinkSwapped = "link_swapped" in [Adoption 2] where Tcx;
    /// A program is attached by a link that only this process holds.
    LinkMade = "link_made" in [Start 2] where Tcx;
    /// The link is pinned under the name of one that waits.
    LinkPinned = "link_pinned" in [Start 2] where Tcx;
    /// The link has its own name.
    LinkRenamed = "link_renamed" in [Start 2] where Tcx;
    /// An interface has the qdisc that holds filters.
    QdiscMade = "qdisc_made" in [Start 1] where Clsact;
    /// A program is attached by a filter.
    FilterMade = "filter_made" in [Start 2] where Clsact;
    /// A program took the place of an earlier daemon's in its filter.
    FilterSwapped = "filter_swapped" in [Adoption 2] where Clsact;
    /// What nobody has any more is taken off.
    StaleTakenOff = "stale_taken_off" in [Start 1, Adoption 1];
    /// The programs are pinned for inspection.
    ProgramsPinned = "programs_pinned" in [Start 1, Adoption 1];
    /// The daemon said that it is ready.
    Ready = "ready" in [Start 1, Adoption 1];
    /// A pair key is written.
    PeerInstalled = "peer_installed" in [Adoption 1, Rotation 1];
}

pub use armed::{clock_offset_seconds, reached, without_ticks};

/// Debug builds.
#[cfg(debug_assertions)]
mod armed {
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::KillPoint;

    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("ENFORCER_FAULTS").map(PathBuf::from));

    /// The file as it was read last, and how often its point was reached since.
    static COUNT: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

    /// Dies here if a test wants it.
    pub fn reached(point: KillPoint) {
        let Some(text) = file("kill") else { return };
        let mut words = text.split_whitespace();
        if words.next() != Some(point.name()) {
            return;
        }
        let wanted = words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
        let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
        if count.0 != text {
            *count = (text, 0);
        }
        count.1 += 1;
        if count.1 == wanted {
            // It does not return; were the signal refused, the daemon must not go on either.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            std::process::abort();
        }
    }

    /// Seconds to add to the wall clock.
    #[must_use]
    pub fn clock_offset_seconds() -> i64 {
        file("clock").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether what ticks would notice must be noticed without them.
    #[must_use]
    pub fn without_ticks() -> bool {
        file("no_ticks").is_some()
    }

    fn file(name: &str) -> Option<String> {
        std::fs::read_to_string(FOLDER.as_ref()?.join(name)).ok()
    }
}

/// Release builds.
#[cfg(not(debug_assertions))]
mod armed {
    use super::KillPoint;

    /// Does nothing.
    #[inline]
    pub const fn reached(_: KillPoint) {}

    /// None.
    #[inline]
    #[must_use]
    pub const fn clock_offset_seconds() -> i64 {
        0
    }

    /// Never.
    #[inline]
    #[must_use]
    pub const fn without_ticks() -> bool {
        false
    }
}
