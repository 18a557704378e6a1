//! Keys must not reach a disk: no core dumps, and nobody but a tracer with `CAP_SYS_PTRACE` reads the
//! memory (prctl(2), `PR_SET_DUMPABLE`; getrlimit(2), `RLIMIT_CORE`).
//!
//! Memory is not locked: `mlock` of single keys is undone by the copies that arithmetic makes on the
//! stack, and of everything it would take hundreds of megabytes from hosts that have them to spare
//! for something else. The systemd unit forbids swap for the daemon instead.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Switches core dumps off, soft and hard limit alike.
pub(super) fn forbid() -> nix::Result<()> {
    set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}
