//! `cargo xtask test`: the layers of tests, from pure functions to two enforcers in namespaces.
//!
//! Whatever happens, the last line is the plain sum, `N passed, N failed`; a layer that cannot run
//! counts as a failure, and so does a run without a single test.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, io};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::build::{self, Variant};
use crate::pool::Pool;
use crate::tally::Tally;
use crate::tools::Group;
use crate::{dist, fuzz, mutate, process, project, setup, solver, vm};

const TESTS: &str = "enforcer-tests";
/// Test files that run single packets through programs are named so.
const PROGRAM_TESTS: &str = "prog";
/// The test file of the daemon's edge to the kernel. It belongs to the program layer; all other files are end to end.
const EDGE_TESTS: &str = "edge";
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";
/// Tests of a kernel that run beside each other, each end-to-end test with two enforcers of its own. They wait about
/// half of their time: two would leave two processors idle a third of it, and many more would only wait for each other.
const THREADS: usize = 4;

/// Arguments of `cargo xtask test`.
#[derive(Args)]
pub struct Options {
    /// The layer to run; without it unit, prog, fuzz, e2e and package
    #[arg(value_enum)]
    layer: Option<Layer>,
    /// The kernels to boot, for vm; without it all
    #[arg(long, value_enum)]
    kernel: Vec<vm::Version>,
    /// Run all end-to-end tests in the guests of vm; without it the smoke set
    #[arg(long)]
    full: bool,
    /// Of the test files that `--full` runs, those whose names contain this; may be given again
    #[arg(long, value_name = "PART", requires = "full")]
    only: Vec<String>,
    /// Arguments for the test programs, after `--`: a filter, `--nocapture`
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// A layer of tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Layer {
    /// Pure functions and the daemon's parts, without a kernel
    Unit,
    /// Programs in this kernel: packet in, packet out, verdict and counter; the daemon's edge to
    /// the kernel (root)
    Prog,
    /// Every fuzz target: its committed inputs, and a short search behind them (root)
    Fuzz,
    /// Two enforcers and real sockets in network namespaces (root)
    E2e,
    /// The Debian package of the debug build: installed, upgraded under traffic, removed (root)
    Package,
    /// The load gate, the program layer and end-to-end tests in other kernels, under qemu
    Vm,
    /// Switches each check off in turn and expects a named test to notice (root)
    Mutate,
}

/// Runs the layers and prints the sum.
pub fn run(options: &Options) -> Result<()> {
    let is_for_vm = options.full || !options.kernel.is_empty();
    if is_for_vm && options.layer != Some(Layer::Vm) {
        bail!("--kernel, --full and --only are for `test vm`");
    }
    let layers = match options.layer {
        Some(layer) => vec![layer],
        None => vec![Layer::Unit, Layer::Prog, Layer::Fuzz, Layer::E2e, Layer::Package],
    };
    let mut sum = Tally::default();
    for layer in layers {
        sum += run_layer(layer, options).unwrap_or_else(|error| {
            eprintln!("the {layer:?} layer could not run: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
    }
    println!("{sum}");
    if sum.is_success() { Ok(()) } else { bail!("the tests did not succeed") }
}

fn run_layer(layer: Layer, options: &Options) -> Result<Tally> {
    let arguments = &options.arguments;
    match layer {
        Layer::Unit => unit(arguments),
        Layer::Prog => prog(arguments),
        Layer::Fuzz => fuzz::layer(),
        Layer::E2e => e2e(arguments),
        Layer::Package => dist::layer(),
        Layer::Vm => vm::run(&options.kernel, vm::Extent::of(options.full), &options.only),
        Layer::Mutate => mutate::run(),
    }
}

fn unit(arguments: &[OsString]) -> Result<Tally> {
    build::ebpf()?;
    setup::ensure(Group::Unit)?;
    let solver = solver::ensure()?;
    let packages: [&[&str]; 4] = [
        &["--package", "enforcer-common"],
        &["--package", "enforcer-common", "--features", "user"],
        &["--package", "enforcer-model"],
        &["--package", "enforcer-user", "--package", "xtask"],
    ];
    let mut sum = Tally::default();
    for selection in packages {
        let mut test = process::cargo();
        test.args(["test", "--no-fail-fast"]).args(selection).arg("--").args(arguments);
        test.env(solver::VARIABLE, &solver);
        sum += tallied(&mut test)?;
    }
    Ok(sum)
}

fn prog(arguments: &[OsString]) -> Result<Tally> {
    let kernel = ThisKernel::new(None)?;
    let mut sum = Tally::default();
    for program in kernel.programs.iter().filter(|program| program.is_of_program_layer()) {
        sum += tallied(program.command_with(&kernel.settings())?.args(arguments))?;
    }
    Ok(sum)
}

fn e2e(arguments: &[OsString]) -> Result<Tally> {
    let kernel = ThisKernel::new(Some(build::next_enforcer(Variant::default())?))?;
    let threads = threads()?;
    let pool = Pool { settings: &kernel.settings(), arguments, threads };
    pool.run(kernel.programs.iter().filter(|program| !program.is_of_program_layer()))
}

/// Tests that run beside each other.
fn threads() -> Result<usize> {
    let Some(value) = env::var_os(THREADS_VARIABLE) else { return Ok(THREADS) };
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
    number.with_context(|| {
        format!("{THREADS_VARIABLE} is {} and not a number from 1 on", value.display())
    })
}

/// What tests of this machine's kernel need.
struct ThisKernel {
    enforcer: PathBuf,
    next: Option<PathBuf>,
    programs: Vec<TestProgram>,
}

impl ThisKernel {
    fn new(next: Option<PathBuf>) -> Result<Self> {
        setup::ensure(Group::E2e)?;
        let variant = Variant::default();
        let enforcer = build::enforcer(variant)?;
        Ok(Self { enforcer, next, programs: test_programs(variant)? })
    }

    fn settings(&self) -> Vec<(&str, &OsStr)> {
        let mut settings = vec![(build::ENFORCER_VARIABLE, self.enforcer.as_os_str())];
        settings.extend(self.next.iter().map(|next| (build::NEXT_VARIABLE, next.as_os_str())));
        settings
    }
}

/// A built test program of the test crate.
pub struct TestProgram {
    name: String,
    is_library: bool,
    executable: PathBuf,
}

impl TestProgram {
    /// The file's name, without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its tests need a kernel but no second host: those that run single packets (the files
    /// named so, and the library's own tests), and those of the daemon's edge.
    pub fn is_of_program_layer(&self) -> bool {
        self.is_library || self.name.starts_with(PROGRAM_TESTS) || self.name == EDGE_TESTS
    }

    /// Where the program lies.
    pub fn path(&self) -> &Path {
        &self.executable
    }

    /// The program as root, as cargo would start it, with settings of the environment.
    pub fn command_with(&self, settings: &[(&str, &OsStr)]) -> Result<Command> {
        let folder = project::root().join("tests");
        let threads = env::var_os(THREADS_VARIABLE).unwrap_or_else(|| THREADS.to_string().into());
        let mut settings = settings.to_vec();
        settings.extend([
            ("CARGO_MANIFEST_DIR", folder.as_os_str()),
            ("RUST_BACKTRACE", OsStr::new("1")),
            (THREADS_VARIABLE, &threads),
        ]);
        let mut command = process::root_command(&self.executable, &settings)?;
        command.current_dir(&folder);
        Ok(command)
    }
}

/// What cargo says about each thing it has built, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// Builds the test crate's test programs; they are run by path since they need root and cargo does
/// not.
pub fn test_programs(variant: Variant) -> Result<Vec<TestProgram>> {
    let mut build = process::cargo();
    build.args(["test", "--no-run", "--package", TESTS, "--lib", "--tests"]);
    build.arg("--message-format=json-render-diagnostics");
    variant.apply(&mut build);
    Ok(messages(&mut build)?.into_iter().filter_map(test_program).collect())
}

/// Builds programs with a cargo command; name and path of each.
pub fn built(build: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    build.arg("--message-format=json-render-diagnostics");
    let named = |message: Message| Some((message.target?.name, message.executable?));
    Ok(messages(build)?.into_iter().filter_map(named).collect())
}

fn messages(build: &mut Command) -> Result<Vec<Message>> {
    let (output, success) = process::captured(build)?;
    if !success {
        bail!("failed: {}", process::shown(build));
    }
    Ok(output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn test_program(message: Message) -> Option<TestProgram> {
    let (executable, target) = (message.executable?, message.target?);
    let is_library = target.kind.iter().any(|kind| kind == "lib");
    let is_test = target.kind.iter().any(|kind| kind == "test");
    (is_library || is_test).then_some(TestProgram { name: target.name, is_library, executable })
}

/// Runs `command`, shows what it prints, and sums its result lines. A failure that no result line
/// explains (a crash, a build error) counts as one.
pub fn tallied(command: &mut Command) -> Result<Tally> {
    eprintln!("+ {}", process::shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start: {}", process::shown(command)))?;
    let output = child.stdout.take().context("the child's output was asked for as a pipe")?;
    let mut sum = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        sum += Tally::of_line(&String::from_utf8_lossy(&line)).unwrap_or_default();
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        out.write_all(b"\n")?;
    }
    let status = child.wait()?;
    if !status.success() && sum.failed == 0 {
        eprintln!("{status} without a failed test: {}", process::shown(command));
        sum.failed = 1;
    }
    Ok(sum)
}
