//! What other people's tools do to the enforcer's programs.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::MultiProgLink as _;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use aya_obj::generated::{bpf_attr, bpf_cmd};

/// Detaches a pinned link, as `bpftool link detach` does; the pin stays.
pub fn detach_link(pin: &Path) -> Result<()> {
    let pinned = PinnedLink::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
    let link =
        SchedClassifierLink::try_from(FdLink::from(pinned)).context("no link of programs")?;
    let fd = link.fd().context("a link without a descriptor")?;
    // SAFETY: all-zero bytes are a value of this union of integers and byte arrays.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_detach.link_fd = fd.as_fd().as_raw_fd().cast_unsigned();
    let size = size_of::<bpf_attr>();
    // SAFETY: the command reads nothing but the descriptor's number from `attr`, which is valid for `size` bytes.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_LINK_DETACH as libc::c_long, &raw mut attr, size)
    };
    if done < 0 {
        Err(io::Error::last_os_error()).context("the kernel does not detach")
    } else {
        Ok(())
    }
}
