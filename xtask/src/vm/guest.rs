//! The guest: an initramfs with busybox, the kernel modules the datapath and the tests need, the
//! programs with the libraries they are linked with, and an init that runs them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::process;

/// Kernel modules beside what is built in; a kernel that has one built in lacks the file.
const MODULES: [&str; 9] = [
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "veth",
    "dummy",
    "bridge",
    "tun",
    "nft_chain_nat",
    "sch_netem",
];
/// Stands before the exit status of each program on the console.
pub const STATUS: &str = "guest: status ";
/// Stands on the console when the init got to its end.
pub const DONE: &str = "guest: done";

/// Packs the initramfs and returns its path.
pub fn pack(kernel: &Kernel, object: &Path, programs: &[PathBuf]) -> Result<PathBuf> {
    let tree = kernel.root.with_file_name("guest");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot empty {}", tree.display()))?;
    }
    for folder in ["bin", "proc", "sys", "dev", "run", "tmp", "modules", "programs"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("busybox-static has no program")?;
    fs::copy(object, tree.join("programs/object"))?;
    let modules = copy_modules(kernel, &tree)?;
    for program in programs {
        copy_program(program, &tree)?;
    }
    write_init(&tree, &modules, programs)?;
    archive(&tree)
}

/// Copies the modules and what they need; returns their file names in the order to load them.
fn copy_modules(kernel: &Kernel, tree: &Path) -> Result<Vec<String>> {
    let folder = kernel.root.join("lib/modules").join(&kernel.release);
    let dependencies = fs::read_to_string(folder.join("modules.dep"))
        .with_context(|| format!("depmod left no modules.dep in {}", folder.display()))?;
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for path in MODULES.iter().flat_map(|module| load_order(&dependencies, module)) {
        if seen.insert(path) {
            names.push(copy_module(&folder.join(path), tree)?);
        }
    }
    Ok(names)
}

/// The files to load for `module`, itself last. `modules.dep` lists what a module needs so that
/// the last is to be loaded first. Empty if the module is built in.
fn load_order<'a>(dependencies: &'a str, module: &str) -> Vec<&'a str> {
    let line = dependencies.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next() == Some(module)
    });
    line.map_or_else(Vec::new, |(path, needed)| {
        needed.split_whitespace().rev().chain([path]).collect()
    })
}

fn copy_module(from: &Path, tree: &Path) -> Result<String> {
    let name = from.file_name().and_then(|name| name.to_str()).context("a module has no name")?;
    let (plain, packed) = name.strip_suffix(".xz").map_or((name, false), |plain| (plain, true));
    let to = tree.join("modules").join(plain);
    if packed {
        let unpacked = Command::new("xz").arg("--decompress").arg("--stdout").arg(from).output()?;
        if !unpacked.status.success() {
            bail!("xz cannot unpack {}", from.display());
        }
        fs::write(to, unpacked.stdout)?;
    } else {
        fs::copy(from, to)?;
    }
    Ok(plain.to_owned())
}

/// Copies a program to `/programs`, and its libraries to where its loader looks for them.
fn copy_program(program: &Path, tree: &Path) -> Result<()> {
    fs::copy(program, tree.join("programs").join(file_name(program)?))?;
    let libraries = process::probe(Command::new("ldd").arg(program))
        .with_context(|| format!("ldd cannot read {}", program.display()))?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = tree.join(library.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(library, &to).with_context(|| format!("cannot copy {library}"))?;
    }
    Ok(())
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no plain file name", path.display()))
}

fn write_init(tree: &Path, modules: &[String], programs: &[PathBuf]) -> Result<()> {
    let mut init = String::from(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin RUST_BACKTRACE=1 RUST_TEST_THREADS=2 TMPDIR=/tmp\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t tmpfs tmpfs /run\n\
         ip link set lo up\n\
         uname -r\n",
    );
    for module in modules {
        writeln!(init, "insmod /modules/{module} || echo 'module {module} does not load'")?;
    }
    for program in programs {
        let name = file_name(program)?;
        // The load gate wants the object's path; test programs take it for a filter, so they get
        // none.
        let argument = if name == "verifier_gate" { " /programs/object" } else { "" };
        writeln!(init, "/programs/{name}{argument}; echo \"{STATUS}$? {name}\"")?;
    }
    writeln!(init, "echo '{DONE}'\npoweroff -f")?;
    let path = tree.join("init");
    fs::write(&path, init)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Packs `tree` as the kernel wants it: cpio, "newc", not compressed.
fn archive(tree: &Path) -> Result<PathBuf> {
    let archive = tree.with_extension("cpio");
    let mut find = Command::new("find")
        .args([".", "-print0"])
        .current_dir(tree)
        .stdout(Stdio::piped())
        .spawn()
        .context("find does not start")?;
    let names = find.stdout.take().context("find's output was asked for as a pipe")?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--null", "--create", "--format=newc", "--owner=0:0", "--quiet"]);
    cpio.current_dir(tree).stdin(names).stdout(fs::File::create(&archive)?);
    process::run(&mut cpio)?;
    if !find.wait()?.success() {
        bail!("find failed in {}", tree.display());
    }
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::load_order;

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let dependencies = "kernel/net/sched/cls_bpf.ko.xz:\n\
                            kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n";
        assert_eq!(load_order(dependencies, "cls_bpf"), ["kernel/net/sched/cls_bpf.ko.xz"]);
        assert_eq!(
            load_order(dependencies, "bridge"),
            [
                "kernel/net/llc/llc.ko.xz",
                "kernel/net/802/stp.ko.xz",
                "kernel/net/bridge/bridge.ko.xz"
            ]
        );
        assert!(load_order(dependencies, "bpf").is_empty());
    }
}
