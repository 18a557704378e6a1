//! The daemon under test: started inside a host, asked through its command line, ended by signal.

mod answers;
mod faults;

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use caps::{CapSet, Capability};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::config::{Config, Place};
use crate::host::Host;
use crate::keys::NodeKeys;
use crate::{need, pins};

pub use answers::{Counters, Status};

/// How long a daemon may take to be ready.
const READY: Duration = Duration::from_mins(2);
/// How long a daemon may take to end after SIGTERM.
const END: Duration = Duration::from_mins(1);
/// Lines of the log that a failed test prints.
const LOG_TAIL: usize = 60;
/// Tells a debug build of the daemon where its faults are ordered (`enforcer_user::fault`).
const FAULTS: &str = "ENFORCER_FAULTS";

/// The enforcer's binary: `ENFORCER_BIN`, or the one of the build that the test program belongs to.
pub fn binary() -> Result<PathBuf> {
    find_binary("ENFORCER_BIN", "enforcer", "cargo xtask build")
}

/// The binary of the next layout of the maps: `ENFORCER_NEXT_BIN`, or the one beside the test program.
pub fn next_binary() -> Result<PathBuf> {
    find_binary("ENFORCER_NEXT_BIN", "enforcer-next", "cargo xtask build --next")
}

fn find_binary(variable: &str, name: &str, made_by: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{variable} is {}, and there is no such file", path.display());
        return Ok(path);
    }
    let exe = std::env::current_exe().context("the path of the test program is unknown")?;
    let mut candidates = exe.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    candidates.find(|file| file.is_file()).with_context(|| {
        format!("no {name} beside {}; build it (`{made_by}`) or set {variable}", exe.display())
    })
}

/// A daemon on a host, with its configuration, policy and log in a folder of its own. Dropped, it is ended and
/// detached; in a failing test it prints the end of its log.
#[derive(Debug)]
pub struct Enforcer {
    host: Host,
    folder: TempDir,
    place: Place,
    process: Option<Child>,
    binary: PathBuf,
    /// All it may ever have; the test's own if none.
    capabilities: Option<Vec<Capability>>,
    /// Read again at every start.
    _keys: NodeKeys,
}

impl Enforcer {
    /// Starts a daemon and waits until it is ready.
    pub fn start(host: &Host, config: &Config) -> Result<Self> {
        let mut enforcer = Self::prepare(host, config)?;
        enforcer.launch()?;
        Ok(enforcer)
    }

    /// Writes configuration and policy without starting anything.
    pub fn prepare(host: &Host, config: &Config) -> Result<Self> {
        Self::prepare_at(host, config, |_| ())
    }

    /// The same, in a place that differs from the usual.
    pub fn prepare_at(
        host: &Host,
        config: &Config,
        change: impl FnOnce(&mut Place),
    ) -> Result<Self> {
        pins::prepare()?;
        let folder = TempDir::with_prefix("enftest-")?;
        let mut place = pins::place(folder.path());
        change(&mut place);
        fs::create_dir(&place.policy)?;
        fs::create_dir(&place.tree)?;
        fs::write(&place.owners, config.owners.as_deref().unwrap_or_default())?;
        fs::write(&place.staged, config.staged.as_deref().unwrap_or_default())?;
        let enforcer = Self {
            host: host.clone(),
            folder,
            place,
            process: None,
            binary: binary()?,
            capabilities: None,
            _keys: config.keys.clone(),
        };
        enforcer.write_policy(&config.policy)?;
        enforcer.write_manifests(config.manifests.as_deref().unwrap_or_default())?;
        enforcer.write_config(config)?;
        Ok(enforcer)
    }

    /// From the next start on, the daemon can have no other capabilities than these.
    pub fn bound_capabilities(&mut self, capabilities: &[Capability]) {
        self.capabilities = Some(capabilities.to_vec());
    }

    /// From the next start or command on, the enforcer is this one.
    pub fn use_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// Starts the daemon (again) and waits until it is ready.
    pub fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the daemon (again) and waits for nothing.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon of {} runs already", self.host.label());
        let log = File::options().append(true).create(true).open(self.log_file())?;
        let mut command = self.host.command(&self.binary);
        if let Some(capabilities) = &self.capabilities {
            bound(&mut command, capabilities);
        }
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.config_file())
            .env(FAULTS, self.fault_folder())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the daemon does not start")?;
        self.process = Some(child);
        Ok(())
    }

    /// Runs a second daemon with the same configuration, which must end by itself. Returns what it said.
    pub fn run_another(&self) -> Result<String> {
        let output = self.command(&["run"])?.output().context("the daemon does not start")?;
        ensure!(!output.status.success(), "a second daemon ran and ended well");
        let (said, logged) = (output.stderr, output.stdout);
        Ok(String::from_utf8_lossy(&[said, logged].concat()).into_owned())
    }

    /// Waits until `status` says that `holds`.
    pub fn wait_status(&self, holds: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let status = self.ask(&["status"])?;
            if holds(&status) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not within {READY:?}; the last status: {status}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where it keeps its lock, its socket and its memory.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        self.place.run_dir.join(&self.place.instance)
    }

    /// Waits until the daemon is ready.
    ///
    /// In short waits, so that a daemon that has ended is noticed at once.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY;
        while self.cli(&["status", "--wait-ready", "1"]).is_err() {
            self.check_running()?;
            ensure!(
                Instant::now() < deadline,
                "not ready within {READY:?}; the daemon's log:\n{}",
                self.log_tail()
            );
        }
        self.check_running()?;
        ensure!(self.status()?.ready, "`status --wait-ready` returned although it is not ready");
        Ok(())
    }

    fn check_running(&mut self) -> Result<()> {
        let ended = self.process.as_mut().map(Child::try_wait).transpose()?.flatten();
        if let Some(status) = ended {
            self.process = None;
            bail!(
                "the daemon of {} ended with {status}; its log:\n{}",
                self.host.label(),
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Runs a command that talks to this daemon and returns what it printed.
    pub fn cli(&self, words: &[&str]) -> Result<String> {
        need::run(&mut self.command(words)?)
    }

    /// Asks whether the policy permits a connection. Returns the exit code, which says it too, and the answer.
    pub fn explain(&self, from: &str, to: &str, port: u16) -> Result<(i32, serde_json::Value)> {
        let port = port.to_string();
        self.explain_with(&["--from", from, "--to", to, "--port", &port])
    }

    /// Asks why, with these arguments; likewise.
    pub fn explain_with(&self, words: &[&str]) -> Result<(i32, serde_json::Value)> {
        let words = [&["explain"], words, &["--json"]].concat();
        let output = self.command(&words)?.output().context("explain does not start")?;
        let code = output.status.code().context("explain was ended by a signal")?;
        let answer = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("explain ended with {code}: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok((code, answer))
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        // `policy` and `learn` are families of commands.
        let is_family = ["policy", "learn"].iter().any(|family| words.first() == Some(family));
        let names = if is_family { 2 } else { 1 };
        let (name, rest) = words.split_at_checked(names).context("a command without words")?;
        let mut command = self.host.command(&self.binary);
        command.args(name).arg("--config").arg(self.config_file()).args(rest);
        Ok(command)
    }

    /// Has the daemon write a file of the policy tree, such as `/acme/prod/a.cedar`, and enforce it.
    pub fn put_policy(&self, path: &str, text: &str) -> Result<String> {
        let file = self.folder.path().join("put.cedar");
        fs::write(&file, text)?;
        let file = file.to_str().context("a folder of ours has no plain name")?;
        self.cli(&["policy", "put", path, file])
    }

    /// The folder of the policy tree.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.place.tree
    }

    /// Runs a command with `--json` and reads its answer.
    pub fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let text = self.cli(&[words, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} answered: {text}"))
    }

    /// Reads the counters.
    pub fn counters(&self) -> Result<Counters> {
        self.ask(&["counters"])
    }

    /// Reads what `status` says.
    pub fn status(&self) -> Result<Status> {
        self.ask(&["status"])
    }

    /// Replaces the policy file in one rename. The daemon sees the change by itself.
    pub fn write_policy(&self, text: &str) -> Result<()> {
        self.replace(&self.place.policy.join("main.cedar"), text)
    }

    /// Replaces the manifests in one rename. The daemon sees the change by itself.
    pub fn write_manifests(&self, text: &str) -> Result<()> {
        self.replace(&self.place.manifests, text)
    }

    fn replace(&self, file: &Path, text: &str) -> Result<()> {
        let new = self.folder.path().join("new");
        fs::write(&new, text)?;
        fs::rename(&new, file).with_context(|| format!("{} is not replaced", file.display()))
    }

    /// Replaces the configuration file; a running daemon is not told.
    pub fn write_config(&self, config: &Config) -> Result<()> {
        fs::write(self.config_file(), config.to_toml(&self.place)?)?;
        Ok(())
    }

    /// Replaces the policy and waits until the daemon has taken it over.
    pub fn change_policy(&self, text: &str, how: Reload) -> Result<()> {
        let before = self.status()?.policy_generation;
        self.write_policy(text)?;
        if how == Reload::Signal {
            self.signal(Signal::SIGHUP)?;
        }
        self.wait_generation_after(before)
    }

    /// Replaces the manifests and waits until the daemon has taken them over.
    pub fn change_manifests(&self, text: &str) -> Result<()> {
        let before = self.status()?.policy_generation;
        self.write_manifests(text)?;
        self.signal(Signal::SIGHUP)?;
        self.wait_generation_after(before)
    }

    fn wait_generation_after(&self, before: u64) -> Result<()> {
        let deadline = Instant::now() + END;
        while self.status()?.policy_generation <= before {
            ensure!(
                Instant::now() < deadline,
                "policy not reloaded within {END:?}; the daemon's log:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Has the daemon read its files again, and does not wait for it.
    pub fn reload(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    /// Kills the daemon; what it pinned stays.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Ends the daemon in order; what it pinned stays.
    pub fn terminate(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Removes everything the daemon made in the kernel.
    pub fn detach(&self) -> Result<()> {
        self.cli(&["detach"]).map(drop)
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.run_dir.join(&self.place.instance).join("control.sock")
    }

    /// Where its maps, programs and links are pinned.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.place.bpf_root.join(&self.place.instance)
    }

    /// All that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// Its configuration.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("enforcer.toml")
    }

    fn fault_folder(&self) -> PathBuf {
        self.folder.path().join("faults")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("no daemon on {}", self.host.label()))?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)
            .with_context(|| format!("cannot send {signal} to {pid}"))
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let deadline = Instant::now() + END;
        let Some(child) = self.process.as_mut() else { return Ok(()) };
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                self.process = None;
                bail!("the daemon did not end within {END:?} after {signal}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.process = None;
        Ok(())
    }

    fn clean_up(&mut self) -> Result<()> {
        let ended = if self.process.is_some() { self.terminate() } else { Ok(()) };
        self.detach()?;
        ended
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            eprintln!("the enforcer of {} was not cleaned up: {error:#}", self.host.label());
        }
        if std::thread::panicking() {
            eprintln!("log of the enforcer of {}:\n{}", self.host.label(), self.log_tail());
        }
    }
}

/// Takes all other capabilities out of the bounding set before the program is executed: of root's
/// capabilities it then gets these and no more.
pub fn bound(command: &mut Command, capabilities: &[Capability]) {
    let dropped: Vec<Capability> =
        caps::all().into_iter().filter(|one| !capabilities.contains(one)).collect();
    let narrow = move || {
        for capability in &dropped {
            // One that this kernel does not know cannot be had either.
            let _ = caps::drop(None, CapSet::Bounding, *capability);
        }
        Ok(())
    };
    // SAFETY: after fork only prctl is called, which neither allocates nor locks.
    unsafe { command.pre_exec(narrow) };
}

/// How a daemon learns of a new policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// By SIGHUP.
    Signal,
    /// By watching the files.
    FileChange,
}

/// Runs `enforcer` with these words outside any namespace.
pub fn command(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(words);
    Ok(command)
}
