//! The guest's kernel modules: what the datapath and the tests need, with what that needs in turn, laid out so that
//! the guest's kernel loads them itself when they are asked for, as on an installed system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::process;

/// What may be asked for: by the enforcer (the clsact qdisc and its filters, the diagnosis of sockets, by which they
/// are closed), by the harness (links, bridges, NAT and filters between hosts).
const MODULES: [&str; 26] = [
    "act_bpf",
    "bridge",
    "cls_bpf",
    "dummy",
    "inet_diag",
    "macvlan",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_limit",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_queue",
    "nft_quota",
    "nft_redir",
    "nft_reject_inet",
    "nft_synproxy",
    "sch_fq",
    "sch_ingress",
    "sch_netem",
    "tcp_diag",
    "tun",
    "udp_diag",
    "veth",
    "8021q",
];

/// Copies the modules into `tree` and indexes them there. One that the kernel neither has as a file nor built in is an
/// error: a test would fail without it, and hardly by that name.
pub fn copy(kernel: &Kernel, tree: &Path) -> Result<()> {
    for module in MODULES {
        for file in files(kernel, module)? {
            let inside = file.strip_prefix(&kernel.root).with_context(|| {
                format!("module {module}: {} lies outside the unpacked kernel", file.display())
            })?;
            copy_file(&file, &tree.join(inside))?;
        }
    }
    let folder = kernel.modules();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        // Which names are built in; `depmod` writes the rest from the files that were copied.
        if name.to_string_lossy().starts_with("modules.builtin") {
            copy_file(&path, &tree.join("lib/modules").join(&kernel.release).join(name))?;
        }
    }
    process::run_quietly(Command::new("depmod").arg("--basedir").arg(tree).arg(&kernel.release))
}

/// The files of a module and of all it needs; none of what is built in.
fn files(kernel: &Kernel, module: &str) -> Result<Vec<PathBuf>> {
    let mut modprobe = Command::new(process::find("modprobe").context("kmod has no modprobe")?);
    modprobe.args(["--ignore-install", "--show-depends"]);
    modprobe.arg("--dirname").arg(&kernel.root).arg("--set-version").arg(&kernel.release);
    let Some(shown) = process::probe(modprobe.arg(module)) else {
        bail!("kernel {} has no module {module}, neither as a file nor built in", kernel.release);
    };
    Ok(shown.lines().filter_map(file).collect())
}

/// The file in a line `insmod FILE [PARAMETERS]`; a module that is built in has `builtin NAME` instead.
fn file(line: &str) -> Option<PathBuf> {
    line.strip_prefix("insmod ")?.split_whitespace().next().map(PathBuf::from)
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::file;

    #[test]
    fn only_what_is_not_built_in_has_a_file() {
        let line = "insmod /k/lib/modules/6.1/kernel/net/sched/cls_bpf.ko.xz ";
        assert_eq!(file(line).unwrap().to_str(), line.split_whitespace().nth(1));
        assert_eq!(file("builtin sch_ingress"), None);
    }
}
