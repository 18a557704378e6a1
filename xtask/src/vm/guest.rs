//! The guest: an initramfs with busybox, the kernel modules the datapath and the tests need, the tools that tests call,
//! the enforcer and the test programs with the libraries they are linked with, and an init that runs them.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use super::modules;
use super::plan::{GATE, Step};
use crate::process;

/// Programs of the system that the tests call, as the tools of the end-to-end tests say; the guest's busybox has other
/// programs of the same names.
const TOOLS: [&str; 9] =
    ["ip", "tc", "ss", "nft", "ethtool", "bpftool", "curl", "dnsmasq", "getent"];
/// The users and groups that tests name, with the numbers that Debian gives them.
const USERS: [(&str, &str); 2] = [
    ("passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
    ("group", "root:x:0:\nnogroup:x:65534:\n"),
];
/// What of the kernel's log is told behind each program: calls that a filter refused, and the kernel's own faults.
const TOLD: &str = "type=1326|BUG|WARNING|Oops|Out of memory";
/// Stands before the exit status of each program on the console.
pub const STATUS: &str = "guest: status ";
/// Stands on the console when the init got to its end.
pub const DONE: &str = "guest: done";

/// Packs the initramfs, with the enforcers under the names they have, and returns its path.
pub fn pack(
    kernel: &Kernel,
    object: &Path,
    enforcers: &[&Path],
    steps: &[Step],
) -> Result<PathBuf> {
    let tree = kernel.root.with_file_name("guest");
    start_tree(&tree)?;
    modules::copy(kernel, &tree)?;
    for tool in TOOLS {
        let found = process::find(tool).with_context(|| format!("{tool} is not installed"))?;
        copy_program(&found, &tree.join("tools").join(tool), &tree)?;
    }
    let modprobe = process::find("modprobe").context("kmod has no modprobe")?;
    copy_program(&modprobe, &tree.join("sbin/modprobe"), &tree)?;
    fs::copy(object, tree.join("programs/object"))?;
    for enforcer in enforcers {
        let name = enforcer.file_name().context("an enforcer without a name")?;
        copy_stripped(enforcer, &tree.join("programs").join(name), &tree)?;
    }
    for step in steps {
        copy_stripped(&step.program, &tree.join("programs").join(&step.name), &tree)?;
    }
    fs::create_dir_all(tree.join("etc"))?;
    // Tests put others in its place.
    fs::write(tree.join("etc/resolv.conf"), "")?;
    for (file, text) in USERS {
        fs::write(tree.join("etc").join(file), text)?;
    }
    write_init(&tree, &init(steps)?)?;
    archive(&tree)
}

/// Packs an initramfs that boots, says so and ends, at `tree`; returns its path.
pub fn pack_empty(tree: &Path) -> Result<PathBuf> {
    start_tree(tree)?;
    write_init(tree, &format!("#!/bin/busybox sh\necho '{DONE}'\n/bin/busybox poweroff -f\n"))?;
    archive(tree)
}

fn start_tree(tree: &Path) -> Result<()> {
    empty_tree(tree, Path::new("/bin/busybox"))
}

/// Makes the folders of a guest, with a busybox for its architecture and nothing else.
pub fn empty_tree(tree: &Path, busybox: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("cannot empty {}", tree.display()))?;
    }
    for folder in ["bin", "sbin", "tools", "proc", "sys", "dev", "run", "tmp", "programs"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy(busybox, tree.join("bin/busybox")).context("busybox-static has no program")?;
    Ok(())
}

/// Copies a program without what only debuggers read, which is most of it: the guest holds all of its files in memory.
fn copy_stripped(program: &Path, to: &Path, tree: &Path) -> Result<()> {
    copy_libraries(program, tree)?;
    process::run_quietly(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(program))
}

fn copy_program(program: &Path, to: &Path, tree: &Path) -> Result<()> {
    copy_libraries(program, tree)?;
    fs::copy(program, to).with_context(|| format!("cannot copy {}", program.display())).map(drop)
}

/// Copies the libraries of a program to where its loader looks for them.
fn copy_libraries(program: &Path, tree: &Path) -> Result<()> {
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

/// No module is loaded here but the one that nothing asks for by itself (a TUN device is opened by its file).
fn init(steps: &[Step]) -> Result<String> {
    let mut init = String::from(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/tools:/sbin:/bin RUST_BACKTRACE=1 RUST_TEST_THREADS=2 TMPDIR=/tmp\n\
         export ENFORCER_BIN=/programs/enforcer ENFORCER_NEXT_BIN=/programs/enforcer-next\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t tmpfs tmpfs /run\n\
         mount -t tmpfs -o mode=1777 tmpfs /tmp\n\
         ip link set lo up\n\
         modprobe tun\n\
         uname -r\n",
    );
    for step in steps {
        let name = &step.name;
        let arguments = if name == GATE {
            " /programs/object".to_owned()
        } else if let Some(test) = step.but {
            format!(" --skip {test}")
        } else if step.tests.is_empty() {
            String::new()
        } else {
            format!(" --exact {}", step.tests.join(" "))
        };
        writeln!(init, "/programs/{name}{arguments}; echo \"{STATUS}$? {name}\"")?;
        writeln!(init, "dmesg -c | grep -E '{TOLD}'")?;
    }
    writeln!(init, "echo '{DONE}'\npoweroff -f")?;
    Ok(init)
}

/// Writes the guest's first program.
pub fn write_init(tree: &Path, text: &str) -> Result<()> {
    let path = tree.join("init");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Packs `tree` as the kernel wants it: cpio, "newc", not compressed.
pub fn archive(tree: &Path) -> Result<PathBuf> {
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
    use std::path::PathBuf;

    use super::{Step, init};

    #[test]
    fn the_gate_gets_the_object_and_named_tests_are_run_alone() {
        let step = |name: &str, tests: &[&'static str]| Step {
            name: name.to_owned(),
            program: PathBuf::new(),
            tests: tests.to_vec(),
            but: None,
        };
        let guard = Step { but: Some("long"), ..step("prog_guard", &[]) };
        let steps = [
            step("verifier_gate", &[]),
            step("edge", &[]),
            guard,
            step("e2e_paths", &["one", "two"]),
        ];
        let text = init(&steps).unwrap();
        for line in [
            "/programs/verifier_gate /programs/object; echo \"guest: status $? verifier_gate\"",
            "/programs/prog_guard --skip long; echo \"guest: status $? prog_guard\"",
            "/programs/edge; echo \"guest: status $? edge\"",
            "/programs/e2e_paths --exact one two; echo \"guest: status $? e2e_paths\"",
        ] {
            assert!(text.lines().any(|present| present == line), "{line}\n{text}");
        }
    }
}
