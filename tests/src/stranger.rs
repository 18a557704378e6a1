//! What other people's tools do to the enforcer's programs.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya_obj::generated::{
    BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type,
};
use enforcer_user::datapath::Mechanism;
use nix::net::if_::if_nametoindex;

use crate::enforcer::Enforcer;
use crate::host::Host;
use crate::{need, pins};

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

    /// Puts it in front of all others that see what arrives at an interface, for as long as what is returned is held.
    pub fn stand_in_front(&self, host: &Host, interface: &str) -> Result<InFront> {
        Ok(match Mechanism::probe() {
            Mechanism::Tcx => {
                let hook = bpf_attach_type::BPF_TCX_INGRESS;
                InFront::Link(host.run(|| self.attach(interface, hook, BPF_F_BEFORE))?)
            }
            Mechanism::Clsact => {
                // Within a priority, the filter that comes last stands first.
                let filter = Filter {
                    host: host.clone(),
                    interface: interface.to_owned(),
                    hook: "ingress",
                    handle: 77,
                };
                filter.make("add", self)?;
                InFront::Filter(filter)
            }
        })
    }

    /// Takes the only place for XDP of an interface of the calling thread's network namespace, for as long as what
    /// is returned is held.
    pub fn take_xdp(&self, interface: &str) -> Result<OwnedFd> {
        self.attach(interface, bpf_attach_type::BPF_XDP, XDP_FLAGS_DRV_MODE)
    }

    fn pin(&self, path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = empty();
        attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
        attr.__bindgen_anon_4.bpf_fd = number(&self.0);
        let pinned = bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr);
        pinned.map(drop).with_context(|| format!("cannot pin {}", path.display()))
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

/// What stands in front, until it is dropped.
#[derive(Debug)]
pub enum InFront {
    /// In a link.
    Link(OwnedFd),
    /// In a filter.
    Filter(Filter),
}

impl Drop for InFront {
    fn drop(&mut self) {
        if let Self::Filter(filter) = self
            && let Err(error) = filter.delete()
        {
            eprintln!("the filter in front stays: {error:#}");
        }
    }
}

/// Where a program of the enforcer stands, as far as other people's tools reach it.
#[derive(Debug)]
pub enum Stand {
    /// In a link with this pin.
    Link(PathBuf),
    /// In a filter.
    Filter(Filter),
}

impl Stand {
    /// Both of the only workload of an enforcer, at an interface of its host.
    pub fn both(enforcer: &Enforcer, host: &Host, interface: &str) -> Result<Vec<Self>> {
        let stands: Vec<Self> = match Mechanism::probe() {
            Mechanism::Tcx => links(&enforcer.pins())?.into_iter().map(Self::Link).collect(),
            Mechanism::Clsact => ["ingress", "egress"]
                .map(|hook| {
                    let (host, interface) = (host.clone(), interface.to_owned());
                    // The first that is made there.
                    Self::Filter(Filter { host, interface, hook, handle: 1 })
                })
                .into(),
        };
        ensure!(stands.len() == 2, "{} stands of an enforcer's programs: {stands:?}", stands.len());
        Ok(stands)
    }

    /// Puts a program in place of the enforcer's, as `bpftool link update` or `tc filter replace` would.
    pub fn replace(&self, by: &Passing) -> Result<()> {
        match self {
            Self::Link(pin) => with_link(pin, |link| {
                let mut attr = empty();
                attr.link_update.link_fd = link;
                attr.link_update.__bindgen_anon_1.new_prog_fd = number(&by.0);
                bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr)
            })
            .context("the kernel does not replace"),
            Self::Filter(filter) => filter.make("replace", by),
        }
    }

    /// Takes the enforcer's program off, as `bpftool link detach` or `tc filter delete` would.
    pub fn detach(&self) -> Result<()> {
        match self {
            Self::Link(pin) => detach_link(pin),
            Self::Filter(filter) => filter.delete(),
        }
    }
}

fn links(pins: &Path) -> Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(pins)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("link_")) {
            links.push(path);
        }
    }
    Ok(links)
}

/// A filter of the first priority.
#[derive(Debug)]
pub struct Filter {
    host: Host,
    interface: String,
    hook: &'static str,
    handle: u32,
}

impl Filter {
    /// Adds it, or replaces what is there, with a program.
    fn make(&self, verb: &str, program: &Passing) -> Result<()> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let pin = pins::root().join(format!("t{}-passing-{count}", std::process::id()));
        program.pin(&pin)?;
        let pinned = format!("bpf object-pinned {} direct-action", pin.display());
        let made = self.tc(verb, &pinned);
        fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
        made
    }

    fn delete(&self) -> Result<()> {
        self.tc("delete", "bpf")
    }

    fn tc(&self, verb: &str, what: &str) -> Result<()> {
        let Self { interface, hook, handle, .. } = self;
        let words = format!("filter {verb} dev {interface} {hook} pref 1 handle {handle} {what}");
        let mut tc = self.host.command(need::tool("tc")?);
        need::run(tc.args(words.split(' '))).map(drop)
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
