//! What can go wrong at the edge to the kernel.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// An operation on the kernel that failed, with what it was about.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A file or folder could not be used.
    #[error("{path}: {action}: {source}{hint}", path = path.display(), hint = hint(source))]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process uses the instance.
    #[error(
        "{path}: another process holds this instance; stop that enforcer first, or choose another \
         `instance`",
        path = .0.display()
    )]
    Busy(PathBuf),
    /// What is pinned was made by a different version of the enforcer.
    #[error(
        "{path}: map {map}: {what} is {found}, this version expects {expected}; `enforcer detach` \
         removes what the other version left, after which its connections are not enforced until \
         the next start",
        path = folder.display()
    )]
    Abi {
        /// The instance's pin folder.
        folder: PathBuf,
        /// The map.
        map: String,
        /// The property that differs.
        what: &'static str,
        /// What the pinned map has.
        found: u64,
        /// What this version has.
        expected: u64,
    },
    /// What is pinned was made by a later version of the enforcer.
    #[error(
        "{path}: the maps have layout {found}, made by a later version of the enforcer; this one knows \
         layout {ours} and cannot take them over; what is attached goes on enforcing: start the later \
         version, or remove everything with `enforcer detach`, after which nothing is enforced until the \
         next start",
        path = folder.display()
    )]
    Newer {
        /// The instance's pin folder.
        folder: PathBuf,
        /// The layout of the maps.
        found: u32,
        /// The layout of this version.
        ours: u32,
    },
    /// Another version of the enforcer began to take over and did not end.
    #[error(
        "{path}: an upgrade to layout {found} was begun and not ended; this version has layout {ours}; \
         what is attached goes on enforcing: start the version with layout {found} once more, which ends \
         it, or remove everything with `enforcer detach`, after which nothing is enforced until the next \
         start",
        path = folder.display()
    )]
    UpgradeBegun {
        /// The instance's pin folder.
        folder: PathBuf,
        /// The layout that is being changed to.
        found: u32,
        /// The layout of this version.
        ours: u32,
    },
    /// A folder of pins that nothing whole can be made of.
    #[error(
        "{path}: map {map} is not pinned though programs are attached; `enforcer detach` removes \
         what is left",
        path = folder.display()
    )]
    Incomplete {
        /// The instance's pin folder.
        folder: PathBuf,
        /// The map.
        map: &'static str,
    },
    /// Somebody unmounted the bpf file system under a running daemon.
    #[error(
        "{path}: the bpf file system is gone; what is attached is enforced as long as this daemon \
         runs, and ends with it; mount one again (`mount -t bpf bpf {mount}`), and everything is \
         pinned there within seconds",
        path = .0.display(),
        mount = super::folder::STANDARD_MOUNT
    )]
    PinsGone(PathBuf),
    /// The object could not be read or its maps could not be made.
    #[error("eBPF object: {0}")]
    Object(#[from] Box<EbpfError>),
    /// The embedded object lacks something or does not parse.
    #[error("eBPF object: {0}")]
    Malformed(String),
    /// A program could not be loaded or attached.
    #[error("program {program}: {action}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// What was tried.
        action: String,
        /// Why it failed.
        source: Box<ProgramError>,
    },
    /// A map operation failed.
    #[error("map {map}: {action} {key}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What was tried.
        action: &'static str,
        /// The key it was about, or what stands for it.
        key: String,
        /// Why it failed.
        source: Box<MapError>,
    },
    /// A map has no room left.
    #[error(
        "map {map}: full at {entries} entries, {key} is not written; raise its limit in [limits]"
    )]
    Full {
        /// The map.
        map: &'static str,
        /// Its size.
        entries: u32,
        /// The key.
        key: String,
    },
    /// The interface is not there.
    #[error(
        "interface {0} not found in this network namespace; `ip -br link` lists those that are"
    )]
    NoInterface(String),
    /// Traffic of such an interface can pass beside the hooks.
    #[error(
        "interface {name} is of kind {kind}, whose traffic can pass beside the hooks; use a veth, a \
         tap or a physical interface"
    )]
    UnfitInterface {
        /// The interface.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// The interface has no address to enforce.
    #[error(
        "interface {0} has no address; give it one, or list `addresses` of its workload in the \
         configuration"
    )]
    NoAddress(String),
    /// Somebody's program stands before ours, where it may let packets pass.
    #[error(
        "program {by:?} stands before {program} on {interface} and may let packets pass; take it \
         off, or attach it behind (`bpftool net show dev {interface}` lists the chain)"
    )]
    Displaced {
        /// The interface.
        interface: String,
        /// Our program.
        program: &'static str,
        /// Name of the program in front, or `number` and its number.
        by: String,
    },
    /// Another XDP program is where the guard was to be.
    #[error(
        "XDP program number {by} is on {interface}, where there is room for one: the guard is not \
         attached, and everything is enforced without it; take that one off (`bpftool net show dev \
         {interface}` names it, `ip link set {interface} xdp off` removes it), or say `guard = false`"
    )]
    Guarded {
        /// The interface.
        interface: String,
        /// Number of the program that is there; 0 if it went meanwhile.
        by: u32,
    },
    /// A workload was to be attached before its state was written.
    #[error("workload {0} is not in the map WORKLOADS; it must be written before it is attached")]
    UnknownWorkload(u16),
    /// A request to the kernel's routing socket failed.
    #[error("netlink: {action}: {source}{hint}", hint = hint(source))]
    Netlink {
        /// What was asked.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The helper interface for re-injection could not be made or written to.
    #[error("helper interface {name}: {action}: {source}{hint}", hint = hint(source))]
    Helper {
        /// The interface.
        name: String,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A frame that cannot be re-injected.
    #[error("frame of {length} bytes: {reason}")]
    Frame {
        /// Its length.
        length: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system's random number generator failed.
    #[error("system random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl DatapathError {
    pub(super) fn file(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), action, source }
    }
}

/// The next step where the kernel says no for lack of rights.
fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; the enforcer must run as root with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and with \
         CAP_SYS_ADMIN where it has to mount the bpf file system"
    } else {
        ""
    }
}
