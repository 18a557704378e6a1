//! The system call bpf(2), as far as the library at hand has no function for what a measurement needs.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{fs, io, mem};

use anyhow::{Context, Result, bail};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_map_type, bpf_prog_type};

/// Loads a program without maps of its own.
pub(super) fn load(kind: bpf_prog_type, text: &[bpf_insn]) -> Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this is the union's member for BPF_PROG_LOAD, and all of it is zeroed.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind as u32;
    load.insns = text.as_ptr() as u64;
    load.insn_cnt = u32::try_from(text.len())?;
    load.license = c"GPL".as_ptr() as u64;
    Ok(owned(bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).context("a program of the benchmark")?))
}

/// Makes a map of keys and values of these sizes.
pub(super) fn make_map(kind: bpf_map_type, sizes: [u32; 2], entries: u32) -> Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this is the union's member for BPF_MAP_CREATE, and all of it is zeroed.
    let make = unsafe { &mut attr.__bindgen_anon_1 };
    make.map_type = kind as u32;
    [make.key_size, make.value_size] = sizes;
    make.max_entries = entries;
    Ok(owned(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr).context("a map of the benchmark")?))
}

/// Writes an entry; key and value must be as large as the map's.
pub(super) fn write_entry(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> Result<()> {
    let mut attr = zeroed();
    // SAFETY: this is the union's member for BPF_MAP_UPDATE_ELEM, and all of it is zeroed.
    let entry = unsafe { &mut attr.__bindgen_anon_2 };
    entry.map_fd = u32::try_from(map.as_raw_fd())?;
    entry.key = key.as_ptr() as u64;
    entry.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).context("an entry of the benchmark").map(drop)
}

/// Bytes that the kernel says a map takes (`memlock` of its descriptor; the map's own account since Linux 6.4, commit
/// 90a5527d7686).
pub(super) fn map_bytes(map: BorrowedFd<'_>) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok())
        .with_context(|| format!("{path} has no memlock"))
}

/// All zero.
pub(super) fn zeroed() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain integers, for which zero is a valid value.
    unsafe { mem::zeroed() }
}

/// The call. Pointers and lengths of the attribute must describe buffers that outlive it.
pub(super) fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> Result<RawFd> {
    // SAFETY: the attribute's pointers and lengths describe buffers that outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    if result < 0 {
        bail!("bpf command {} failed: {}", command as u32, io::Error::last_os_error());
    }
    Ok(RawFd::try_from(result)?)
}

fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// An instruction (RFC 9669 3).
pub(super) fn insn(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
    let registers = bpf_insn::new_bitfield_1(to, from);
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off, imm }
}
