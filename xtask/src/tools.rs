//! The programs that tasks need beside the eBPF toolchain, in one list: one line each, with why.

use std::path::Path;

use clap::ValueEnum;

use crate::process;

/// Which tasks need a tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Group {
    /// The eBPF toolchain and nothing else
    Build,
    /// Tests without a kernel
    Unit,
    /// Program tests, end-to-end tests, and the demo
    E2e,
    /// The benchmark
    Bench,
    /// Formatting, lints and dependency checks
    Check,
    /// Fuzzing
    Fuzz,
    /// Booting other kernels
    Vm,
    /// Packages
    Dist,
    /// Packages for arm64
    Arm64,
}

/// A program or file, and the Debian package that brings it.
pub struct Tool {
    groups: &'static [Group],
    /// A program's name, or a file's absolute path.
    probe: &'static str,
    /// The Debian package.
    pub package: &'static str,
    /// Why the group needs it.
    pub why: &'static str,
}

use Group::{Arm64, Bench, Check, Dist, E2e, Fuzz, Unit, Vm};

const TOOLS: [Tool; 35] = [
    tool(&[Unit], "python3", "python3", "runs the solver for proofs about policies"),
    tool(&[Unit], "pip3", "python3-pip", "downloads it"),
    tool(&[E2e, Bench, Vm], "ip", "iproute2", "namespaces, veth pairs, addresses, routes"),
    tool(&[E2e, Vm], "ss", "iproute2", "states of sockets, and their end"),
    tool(&[E2e, Bench, Vm], "tc", "iproute2", "loss and delay on links; what is attached where"),
    tool(&[E2e, Bench, Vm], "nft", "nftables", "NAT between hosts; the firewall baseline"),
    tool(&[E2e], "tcpdump", "tcpdump", "captures at the server's side"),
    tool(&[E2e, Bench, Vm], "ethtool", "ethtool", "offloads on and off"),
    tool(&[E2e, Bench], "iperf3", "iperf3", "bulk transfer"),
    tool(&[E2e, Bench, Check, Vm], "bpftool", "bpftool", "map dumps and program statistics"),
    tool(&[E2e], "openssl", "openssl", "reads our certificates as a second implementation"),
    tool(&[E2e], "socat", "socat", "clients and servers that are not ours, IPv6 and UDP included"),
    tool(&[E2e, Vm], "curl", "curl", "HTTP clients that are not ours"),
    tool(&[E2e, Vm], "dnsmasq", "dnsmasq-base", "a name server that is not ours"),
    tool(&[E2e, Vm], "getent", "libc-bin", "asks it as programs do"),
    tool(&[E2e, Vm], "systemd-analyze", "systemd", "the unit is well-formed and closed"),
    tool(&[E2e], "ping", "iputils-ping", "ICMP through the datapath"),
    tool(&[Fuzz], "c++", "g++", "compiles libFuzzer"),
    tool(&[Fuzz], "ip", "iproute2", "a network namespace for the programs"),
    tool(&[Vm], "qemu-system-x86_64", "qemu-system-x86", "boots other kernels"),
    tool(&[Vm], "/usr/share/doc/busybox-static", "busybox-static", "the guest's userland"),
    tool(&[Vm], "cpio", "cpio", "packs the guest's root file system"),
    tool(&[Vm], "depmod", "kmod", "tells which module needs which, and loads them in the guest"),
    tool(&[Vm], "mmdebstrap", "mmdebstrap", "makes the distribution that boots with systemd"),
    tool(&[Vm, Dist], "strip", "binutils", "takes from programs what only debuggers read"),
    tool(&[Arm64], "/usr/bin/rustc", "rustc-web", "the compiler of Debian's library for arm64"),
    tool(&[Arm64], "/usr/bin/cargo", "cargo-web", "calls it"),
    tool(&[Arm64], "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "links for arm64"),
    tool(&[Arm64], "/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross", "its C library"),
    tool(&[Arm64], "qemu-system-aarch64", "qemu-system-arm", "boots what was built for arm64"),
    tool(&[Arm64], "cpio", "cpio", "packs the guest's root file system"),
    tool(&[Arm64], "depmod", "kmod", "indexes the guest's kernel modules"),
    tool(&[Dist], "dpkg-deb", "dpkg", "makes packages"),
    tool(&[Dist], "gzip", "gzip", "packs manual pages, as packages want them"),
    tool(&[Dist], "/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev", "the C library to link in"),
];

const fn tool(
    groups: &'static [Group],
    probe: &'static str,
    package: &'static str,
    why: &'static str,
) -> Tool {
    Tool { groups, probe, package, why }
}

/// The tools of `group` that this machine lacks.
pub fn missing(group: Group) -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| tool.groups.contains(&group) && !tool.is_present()).collect()
}

impl Tool {
    fn is_present(&self) -> bool {
        if self.probe.starts_with('/') {
            Path::new(self.probe).exists()
        } else {
            process::find(self.probe).is_some()
        }
    }
}
