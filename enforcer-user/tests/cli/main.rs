//! The command line as people and programs use it: the built binary, its output and its exit status.

mod asking;
mod fake;
mod files;

use std::path::Path;
use std::process::{Command, Stdio};

/// What a run of the binary gave.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// The output of a run that must have succeeded.
    fn good(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// The message of a run that must have failed, without the program's name.
    fn refused(self) -> String {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        let text = self.err.trim_end();
        text.strip_prefix("enforcer: ").unwrap_or(text).to_owned()
    }
}

/// The binary with arguments, in an environment that does not depend on who runs the tests.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

fn run_in(dir: &Path, arguments: &[&str]) -> Ran {
    let output = command(arguments).current_dir(dir).output().unwrap();
    Ran {
        code: output.status.code().expect("the binary must not die by a signal"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(arguments: &[&str]) -> Ran {
    run_in(Path::new("/"), arguments)
}

const SUBCOMMANDS: [&str; 16] = [
    "run",
    "check-config",
    "status",
    "workloads",
    "flows",
    "identities",
    "hosts",
    "explain",
    "counters",
    "reload",
    "probe",
    "detach",
    "ca",
    "psk",
    "completions",
    "man",
];

#[test]
fn help_and_completions_know_every_subcommand() {
    let help = run(&["--help"]).good();
    for name in SUBCOMMANDS {
        let listed = help.lines().any(|line| line.trim_start().starts_with(&format!("{name} ")));
        assert!(listed, "{name} not in\n{help}");
        assert!(!run(&[name, "--help"]).good().is_empty());
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).good();
        for name in SUBCOMMANDS {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["man", "--dir", "."]).good();
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(page("enforcer.1").contains("Exit status"));
    assert!(page("enforcer-ca-issue-node.1").contains("namespace"));
    for name in SUBCOMMANDS {
        assert!(page(&format!("enforcer-{name}.1")).starts_with(".ie"), "{name}");
    }
    assert!(!folder.path().join("enforcer-help.1").exists());
}

#[test]
fn wrong_usage_has_its_own_status() {
    for arguments in [
        &["stauts"][..],
        &["status", "--config", "a", "--socket", "b"],
        &["flows", "--limit", "0"],
        &["explain", "--from", "a", "--to", "b", "--port", "1", "--from-label", "x"],
        &["run"],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}{}", ran.out, ran.err);
    }
    assert!(run(&["stauts"]).err.contains("'status'"), "the nearest subcommand is offered");
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let mut child = command(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}
