//! The bpf(2) commands that aya does not offer.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type};

/// The most programs of one chain (`BPF_MPROG_MAX`, kernel commit 053c8e1f235d).
const MAX_CHAIN: usize = 64;

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
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    // SAFETY: the kernel set `count`, also with ENOENT.
    Ok((unsafe { attr.batch.count } as usize, at_end))
}

/// Reads the one value of an array of one entry, whatever its layout is (`BPF_MAP_LOOKUP_ELEM`).
pub(super) fn lookup_single(map: BorrowedFd<'_>, value_size: u32) -> io::Result<Vec<u8>> {
    let key = 0u32;
    let mut value = vec![0; value_size as usize];
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(&key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    // SAFETY: the key of an array has four bytes, and `value` has those of the map's value.
    unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(value)
}

/// Reads what each processor has of an element of a per-CPU array (`BPF_MAP_LOOKUP_ELEM`). `V` must be the map's
/// value, and `processors` the number of possible ones.
pub(super) fn lookup_each_cpu<V: aya::Pod>(
    map: BorrowedFd<'_>,
    key: u32,
    processors: usize,
) -> io::Result<Vec<V>> {
    // The kernel rounds each value up to eight bytes.
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let mut values = vec![std::mem::MaybeUninit::<V>::zeroed(); processors];
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = number(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(&key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = values.as_mut_ptr() as u64;
    // SAFETY: the key of an array has four bytes, and the kernel writes one value for each possible processor.
    unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
    // SAFETY: `Pod` types are valid for every bit pattern, and these were zeroed at least.
    Ok(values.into_iter().map(|value| unsafe { value.assume_init() }).collect())
}

/// Returns once no program runs any more that had begun before: what it wrote is in the maps.
pub(super) fn wait_for_programs() {
    /// `MEMBARRIER_CMD_GLOBAL` (`<linux/membarrier.h>`): the kernel waits for a grace period.
    const GLOBAL: libc::c_int = 1;
    /// Where the kernel has no such command: programs run for microseconds.
    const LONG: Duration = Duration::from_millis(50);
    // SAFETY: the call takes three integers and touches no memory.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } < 0 {
        std::thread::sleep(LONG);
    }
}

/// Detaches a link at once (`BPF_LINK_DETACH`), whoever else holds it. Removing its last pin does
/// the same, but only some time later.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_detach.link_fd = number(link);
    // SAFETY: the command reads nothing but the descriptor's number.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Opens whatever is pinned at a path (`BPF_OBJ_GET`).
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path is ended by a zero and outlives the call.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the command returns a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a hash map whose entries take memory only when there are any (`BPF_MAP_CREATE`).
pub(super) fn create_hash(
    name: &str,
    key_bytes: usize,
    value_bytes: usize,
    entries: u32,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
    attr.__bindgen_anon_1.key_size = u32::try_from(key_bytes).map_err(io::Error::other)?;
    attr.__bindgen_anon_1.value_size = u32::try_from(value_bytes).map_err(io::Error::other)?;
    attr.__bindgen_anon_1.max_entries = entries;
    attr.__bindgen_anon_1.map_flags = BPF_F_NO_PREALLOC;
    // SAFETY: this variant of the union is the one that was just filled.
    let field = unsafe { &mut attr.__bindgen_anon_1.map_name };
    let last = field.len() - 1;
    for (slot, byte) in field.iter_mut().take(last).zip(name.bytes()) {
        // Signed on some processors, unsigned on others.
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    // SAFETY: the command reads nothing but what stands in `attr`.
    let fd = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: the command returns a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, program or link (`BPF_OBJ_PIN`).
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = number(object);
    // SAFETY: the path is ended by a zero and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// The numbers of the programs in the TCX chain of a hook, in the order in which they run
/// (`BPF_PROG_QUERY`). aya's query also opens every program, which takes `CAP_SYS_ADMIN`.
pub(super) fn query_chain(ifindex: u32, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MAX_CHAIN];
    let mut attr = empty();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = hook as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = 64;
    // SAFETY: the kernel writes at most `count` numbers to `ids`, which outlives the call.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: the kernel set `count`.
    let count = unsafe { attr.query.__bindgen_anon_2.count } as usize;
    Ok(ids.iter().take(count).copied().collect())
}

fn empty() -> bpf_attr {
    // SAFETY: all-zero bytes are a value of this union of integers and byte arrays.
    unsafe { std::mem::zeroed() }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor's number is never negative.
    fd.as_raw_fd().cast_unsigned()
}

/// What the command returns: a new descriptor, or nothing of use.
///
/// # Safety
/// Pointers in `attr` must be what the command asks for.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    let (attr, size) = (std::ptr::from_mut(attr), size_of::<bpf_attr>());
    // SAFETY: `attr` is valid for `size` bytes; the caller answers for what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Descriptors, and the zero of the other commands, are small.
    i32::try_from(result).map_err(io::Error::other)
}
