//! `cargo xtask dist`: static binaries and Debian packages, without times or paths of the machine: `--verify` builds all
//! twice and compares.

mod architecture;
mod arm64;
mod compile;
mod documents;
mod notices;
mod package;
mod release;
mod smoke;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::build::{self, Variant};
use crate::tally::Tally;
use crate::tools::Group;
use crate::{process, project, setup, test};

use architecture::Architecture;
use compile::Compiler;
use documents::Documents;
use package::{Compression, Package};
use release::Release;

const SUMS: &str = "SHA256SUMS";
/// The program that installs, upgrades and removes packages in a copy of this system.
const CHECKER: &str = "package_check";

/// Arguments of `cargo xtask dist`.
#[derive(Args)]
pub struct Options {
    /// The processor to build for; without it both, arm64 where its standard library can be had
    #[arg(long, value_enum)]
    arch: Vec<Architecture>,
    /// Build everything twice, in different folders, and compare
    #[arg(long)]
    verify: bool,
    /// Install, upgrade and remove the package in a copy of this system, under traffic (root); boot arm64's program in
    /// an emulated machine
    #[arg(long)]
    check: bool,
}

/// Builds, and checks what was asked for.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(Group::Dist)?;
    let release = Release::of_commit()?;
    let folder = project::target_dir().join("dist");
    let compilers = Compiler::of(&options.arch)?;
    build::ebpf()?;
    let made = make(&release, &folder, &compilers)?;
    if options.verify {
        verify(&release, &folder, &compilers, &made)?;
    }
    if options.check {
        for (compiler, files) in compilers.iter().zip(&made) {
            match compiler {
                Compiler::Amd64 => install(&release, &folder, files)?,
                Compiler::Arm64(library) => smoke::run(library, &files.binary)?,
            }
        }
    }
    print!("{}", fs::read_to_string(folder.join(SUMS))?);
    println!("in {}", folder.display());
    Ok(())
}

/// What was built for a processor.
struct Files {
    binary: PathBuf,
    package: PathBuf,
}

fn names(made: &[Files]) -> impl Iterator<Item = &OsStr> {
    let paths = made.iter().flat_map(|files| [&files.binary, &files.package]);
    paths.filter_map(|path| path.file_name())
}

/// Builds for each processor, in the compilers' order.
fn make(release: &Release, folder: &Path, compilers: &[Compiler]) -> Result<Vec<Files>> {
    let mut binaries = Vec::new();
    for compiler in compilers {
        let architecture = compiler.architecture();
        let built = compiler.enforcer(&folder.join("build"))?;
        let name = format!("enforcer-{}-{}", release.version, architecture.target());
        let binary = folder.join(name);
        strip(architecture, &built, &binary)?;
        binaries.push((architecture, binary));
    }
    let documents = documents(&binaries)?;
    let mut made = Vec::new();
    for (architecture, binary) in binaries {
        let package = Package {
            architecture,
            version: &release.version,
            release,
            binary: &binary,
            documents: &documents,
            compression: Compression::Small,
        };
        let package = package.build(folder)?;
        made.push(Files { binary, package });
    }
    sum(folder, &made)?;
    Ok(made)
}

/// What the program says about itself is the same for every processor, and only ours runs here.
fn documents(binaries: &[(Architecture, PathBuf)]) -> Result<Documents> {
    match binaries.iter().find(|(architecture, _)| *architecture == Architecture::Amd64) {
        Some((_, binary)) => Documents::of(binary),
        None => Documents::of(&build::enforcer(Variant::default())?),
    }
}

/// Symbols stay: they name the functions of a panic.
fn strip(architecture: Architecture, from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new(architecture.strip());
    process::run(strip.arg("--strip-debug").arg("-o").arg(to).arg(from))
}

fn sum(folder: &Path, made: &[Files]) -> Result<()> {
    let sums = process::probe(Command::new("sha256sum").args(names(made)).current_dir(folder))
        .with_context(|| format!("sha256sum cannot read what is in {}", folder.display()))?;
    fs::write(folder.join(SUMS), sums + "\n").context("cannot write the sums")
}

/// Builds again, from nothing, beside the first, and compares every file.
fn verify(release: &Release, folder: &Path, compilers: &[Compiler], first: &[Files]) -> Result<()> {
    let again = folder.join("again");
    if again.exists() {
        fs::remove_dir_all(&again).with_context(|| format!("cannot empty {}", again.display()))?;
    }
    make(release, &again, compilers)?;
    for name in names(first) {
        if fs::read(folder.join(name))? != fs::read(again.join(name))? {
            bail!(
                "{} differs between {} and {}; diffoscope shows where",
                name.display(),
                folder.display(),
                again.display()
            );
        }
    }
    println!("built twice, the same bytes");
    Ok(())
}

/// Installs the package, upgrades it to one of the same content, and removes it.
fn install(release: &Release, folder: &Path, made: &Files) -> Result<()> {
    let newer = repackage(release, &made.binary, folder)?;
    let tally = check(&made.package, &newer)?;
    ensure!(tally.is_success(), "the package does not install, upgrade and remove as it should");
    Ok(())
}

/// The same content under a higher version: what an upgrade is tested with.
fn repackage(release: &Release, binary: &Path, folder: &Path) -> Result<PathBuf> {
    let package = Package {
        architecture: Architecture::Amd64,
        version: &format!("{}.1", release.version),
        release,
        binary,
        documents: &Documents::of(binary)?,
        compression: Compression::None,
    };
    package.build(&folder.join("newer"))
}

/// The layer of tests: packages of the debug build, so that it costs no build of its own.
pub fn layer() -> Result<Tally> {
    setup::ensure(Group::Dist)?;
    setup::ensure(Group::E2e)?;
    let release = Release::of_commit()?;
    let enforcer = build::enforcer(Variant::default())?;
    let folder = project::target_dir().join("package-test");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let binary = folder.join("enforcer");
    strip(Architecture::Amd64, &enforcer, &binary)?;
    let documents = Documents::of(&binary)?;
    let build = |version: &str| {
        let package = Package {
            architecture: Architecture::Amd64,
            version,
            release: &release,
            binary: &binary,
            documents: &documents,
            compression: Compression::None,
        };
        package.build(&folder)
    };
    check(&build("0.1.0~test1-1")?, &build("0.1.0~test2-1")?)
}

/// Installs `old`, upgrades it to `new`, removes and purges it, under traffic.
fn check(old: &Path, new: &Path) -> Result<Tally> {
    setup::ensure(Group::E2e)?;
    let variant = Variant::default();
    let enforcer = build::enforcer(variant)?;
    let checker = build::binary("enforcer-tests", CHECKER, variant)?;
    let settings = [(build::ENFORCER_VARIABLE, enforcer.as_os_str())];
    test::tallied(process::root_command(&checker, &settings)?.arg(old).arg(new))
}
