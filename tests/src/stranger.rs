//! What other people's tools do to the enforcer's programs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya_obj::generated::{
    BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type,
};
use nix::net::if_::if_nametoindex;

/// A program of somebody's that lets everything pass.
#[derive(Debug)]
pub struct Passing(OwnedFd);

impl Passing {
    /// Loads it: `r0 = 0; exit`, which is `TC_ACT_OK`, past whatever stands behind it.
    pub fn load() -> Result<Self> {
        Self::load_as(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, [0xb7, 0x95])
    }

    /// Loads one for XDP: `r0 = 2; exit`, which is `XDP_PASS`.
    pub fn load_xdp() -> Result<Self> {
        Self::load_as(bpf_prog_type::BPF_PROG_TYPE_XDP, [0x2_0000_00b7, 0x95])
    }

    fn load_as(kind: bpf_prog_type, code: [u64; 2]) -> Result<Self> {
        let mut attr = empty();
        // SAFETY: this variant of the union is the one that the command reads.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = kind as u32;
        load.insns = code.as_ptr() as u64;
        load.insn_cnt = 2;
        load.license = c"GPL".as_ptr() as u64;
        let number = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).context("the kernel does not load")?;
        Ok(Self(owned(number)))
    }

    /// Puts it in place of what a pinned link holds, as `bpftool link update` would.
    pub fn replace(&self, pin: &Path) -> Result<()> {
        let mut attr = empty();
        with_link(pin, |link| {
            attr.link_update.link_fd = link;
            attr.link_update.__bindgen_anon_1.new_prog_fd = number(&self.0);
            bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr)
        })
        .context("the kernel does not replace")
    }

    /// Puts it in front of all others that see what arrives at an interface of the calling thread's network
    /// namespace, for as long as what is returned is held.
    pub fn stand_in_front(&self, interface: &str) -> Result<OwnedFd> {
        self.attach(interface, bpf_attach_type::BPF_TCX_INGRESS, BPF_F_BEFORE)
    }

    /// Takes the only place for XDP of an interface, as [`Self::stand_in_front`].
    pub fn take_xdp(&self, interface: &str) -> Result<OwnedFd> {
        self.attach(interface, bpf_attach_type::BPF_XDP, XDP_FLAGS_DRV_MODE)
    }

    fn attach(&self, interface: &str, hook: bpf_attach_type, flags: u32) -> Result<OwnedFd> {
        let mut attr = empty();
        attr.link_create.__bindgen_anon_1.prog_fd = number(&self.0);
        attr.link_create.__bindgen_anon_2.target_ifindex = if_nametoindex(interface)?;
        attr.link_create.attach_type = hook as u32;
        attr.link_create.flags = flags;
        let number =
            bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).context("the kernel does not attach")?;
        Ok(owned(number))
    }
}

/// Detaches a pinned link, as `bpftool link detach` does; the pin stays.
pub fn detach_link(pin: &Path) -> Result<()> {
    let mut attr = empty();
    with_link(pin, |link| {
        attr.link_detach.link_fd = link;
        bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr)
    })
    .context("the kernel does not detach")
}

fn with_link(pin: &Path, mut act: impl FnMut(u32) -> io::Result<i32>) -> Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let opened = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr);
    let link = owned(opened.with_context(|| format!("opening {}", pin.display()))?);
    act(number(&link)).map(drop).context("bpf(2)")
}

fn empty() -> bpf_attr {
    // SAFETY: all-zero bytes are a value of this union of integers and byte arrays.
    unsafe { std::mem::zeroed() }
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(number: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    let (attr, size) = (std::ptr::from_mut(attr), size_of::<bpf_attr>());
    // SAFETY: `attr` is valid for `size` bytes, and what it points to outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        i32::try_from(done).map_err(io::Error::other)
    }
}
