//! A host is a network namespace: made by `ip netns add` under a unique name, deleted when dropped.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use crate::need;

const NAMESPACES: &str = "/run/netns";
/// Starts the name of every namespace of this harness; the process id of its maker follows.
const PREFIX: &str = "enftest-";

/// An address family, for tests that must hold in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// The addresses of a host's (first) interface.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// The address in one family.
    #[must_use]
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }
}

/// A network namespace and the addresses its topology gave it. Clones are the same host; the namespace is
/// deleted with the last.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    label: String,
    namespace: Arc<File>,
    addresses: OnceLock<Addresses>,
}

impl Host {
    /// Makes a namespace with `lo` up. `label` (letters and digits) ends its name, so that `ip netns` tells
    /// what it is.
    pub fn new(label: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        need::environment()?;
        remove_stale_once();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{label}", std::process::id());
        ip(&["netns", "add", &name])?;
        let path = Path::new(NAMESPACES).join(&name);
        let namespace = File::open(&path)
            .with_context(|| format!("namespace {} cannot be opened", path.display()))?;
        let host = Self(Arc::new(Inner {
            name,
            label: label.to_owned(),
            namespace: Arc::new(namespace),
            addresses: OnceLock::new(),
        }));
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// The namespace's name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The short name given by the test.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// Notes the addresses that [`Host::address`] answers with; it does not configure them. Those of the first
    /// call stay.
    pub fn note_addresses(&self, addresses: Addresses) {
        self.0.addresses.get_or_init(|| addresses);
    }

    /// The host's address in a family.
    ///
    /// # Panics
    /// When the topology gave the host none.
    #[must_use]
    pub fn address(&self, family: Family) -> IpAddr {
        let addresses = self.0.addresses.get();
        addresses
            .unwrap_or_else(|| panic!("host {} has no address in this topology", self.label()))
            .of(family)
    }

    /// The host's address in a family, with a port.
    ///
    /// # Panics
    /// When the topology gave the host none.
    #[must_use]
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// Runs `ip -n NAME` with these words and returns what it printed.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut args = vec!["-n", self.name()];
        args.extend(words.split_whitespace());
        ip(&args)
    }

    /// Loads rules into this host's nftables.
    pub fn nft(&self, rules: &str) -> Result<()> {
        need::run(self.command(need::tool("nft")?).arg(rules)).map(drop)
    }

    /// Drops all TCP before the host's own stack, which must not answer for what is forged in its name.
    pub fn drop_arriving_tcp(&self) -> Result<()> {
        self.nft(
            "add table inet mute; add chain inet mute in { type filter hook input priority 0; }; \
             add rule inet mute in meta l4proto tcp drop",
        )
    }

    /// Writes `value` to `/proc/sys/net/<key>` of this host.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys/net").join(key);
        self.run(|| {
            std::fs::write(&path, value)
                .with_context(|| format!("cannot write {value} to {}", path.display()))
        })
    }

    /// Turns checksum and segmentation offloads of an interface on or off, receive and transmit alike.
    pub fn set_offloads(&self, interface: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        let mut command = self.command(need::tool("ethtool")?);
        command.args(["-K", interface]);
        for feature in ["tx", "rx", "sg", "tso", "gso", "gro"] {
            command.args([feature, state]);
        }
        need::run(&mut command).map(drop)
    }

    /// Frames that an XDP program dropped in the driver of a veth, which no capture of this host sees.
    pub fn dropped_by_xdp(&self, interface: &str) -> Result<u64> {
        let mut command = self.command(need::tool("ethtool")?);
        let figures = need::run(command.args(["-S", interface]))?;
        let of_queue = |line: &str| {
            let (name, value) = line.trim().split_once(':')?;
            let value = name.ends_with("_xdp_drops").then_some(value)?;
            value.trim().parse::<u64>().ok()
        };
        Ok(figures.lines().filter_map(of_queue).sum())
    }

    /// Whether the host has an interface of this name.
    pub fn has_interface(&self, interface: &str) -> Result<bool> {
        let name = interface.to_owned();
        self.run(move || match if_nametoindex(name.as_str()) {
            Ok(_) => Ok(true),
            Err(Errno::ENODEV) => Ok(false),
            Err(error) => Err(error).context(name),
        })
    }

    /// Whether an XDP program is on an interface.
    pub fn has_xdp(&self, interface: &str) -> Result<bool> {
        Ok(self.ip(&format!("-details link show {interface}"))?.contains("prog/xdp"))
    }

    /// Runs code on a thread inside the namespace and waits for it. Sockets made there stay in the namespace
    /// and can be used from anywhere afterwards. A panic of `work` is passed on.
    pub fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce() -> Result<T> + Send,
    {
        let inside = || {
            self.enter()?;
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside the namespace.
    pub fn spawn<T, F>(&self, work: F) -> JoinHandle<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let namespace = Arc::clone(&self.0.namespace);
        std::thread::spawn(move || {
            enter(&namespace)?;
            work()
        })
    }

    /// A command whose process runs in this network namespace, and in the mount namespace of the tests.
    ///
    /// Not `ip netns exec`: that gives each process a mount namespace of its own, and a BPF file system
    /// mounted there, with all that is pinned in it, would vanish with the process. The process dies with
    /// the thread that started it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = Arc::clone(&self.0.namespace);
        let mut command = Command::new(program);
        let prepare = move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            // SAFETY: PR_SET_PDEATHSIG takes one signal number and touches no memory.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: after fork only setns and prctl are called, plain system calls that neither allocate nor
        // lock; the namespace's descriptor is owned by the closure.
        unsafe { command.pre_exec(prepare) };
        command
    }

    fn enter(&self) -> Result<()> {
        enter(&self.0.namespace)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("namespace {} was left behind: {error:#}", self.name);
        }
    }
}

fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
}

fn ip(args: &[&str]) -> Result<String> {
    need::run(Command::new(need::tool("ip")?).args(args))
}

/// Deletes namespaces of test processes that were killed before they could tidy up.
fn remove_stale_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in stale_namespaces() {
            if let Err(error) = ip(&["netns", "del", &name]) {
                eprintln!("stale namespace {name} could not be removed: {error:#}");
            }
        }
    });
}

fn stale_namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| maker_of(name).is_some_and(|pid| !is_alive(pid))).collect()
}

fn maker_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether a process of this id exists.
pub(crate) fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
