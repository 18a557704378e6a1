//! The bpf(2) commands that aya does not offer.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// Looks up many entries at once (`BPF_MAP_LOOKUP_BATCH`); returns how many the kernel wrote and
/// whether it reached the end of the map.
///
/// # Safety
/// `keys` and `values` must be writable for `count` keys and values of the map's sizes.
pub(super) unsafe fn lookup_batch(
    map: BorrowedFd<'_>,
    start: Option<u32>,
    next: &mut u32,
    keys: *mut u8,
    values: *mut u8,
    count: u32,
) -> io::Result<(usize, bool)> {
    let mut attr = empty();
    attr.batch.in_batch = start.as_ref().map_or(0, |at| std::ptr::from_ref(at) as u64);
    attr.batch.out_batch = std::ptr::from_mut(next) as u64;
    attr.batch.keys = keys as u64;
    attr.batch.values = values as u64;
    attr.batch.count = count;
    attr.batch.map_fd = number(map);
    // SAFETY: the kernel reads `start` and writes `next`, which outlive the call; the caller
    // answers for `keys` and `values`.
    let at_end = match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    // SAFETY: the kernel set `count`, also with ENOENT.
    Ok((unsafe { attr.batch.count } as usize, at_end))
}

/// Detaches a link at once (`BPF_LINK_DETACH`), whoever else holds it. Removing its last pin does
/// the same, but only some time later.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_detach.link_fd = number(link);
    // SAFETY: the command reads nothing but the descriptor's number.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }
}

fn empty() -> bpf_attr {
    // SAFETY: all-zero bytes are a value of this union of integers and byte arrays.
    unsafe { std::mem::zeroed() }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor's number is never negative.
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
/// Pointers in `attr` must be what the command asks for.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    let (attr, size) = (std::ptr::from_mut(attr), size_of::<bpf_attr>());
    // SAFETY: `attr` is valid for `size` bytes; the caller answers for what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
