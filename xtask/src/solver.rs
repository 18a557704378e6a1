//! cvc5, the SMT solver behind `enforcer policy prove`, from the Python package index: distributions have none, or one
//! that is too old.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{process, project};

/// The package, which brings the solver as a module of Python.
const PACKAGE: &str = "cvc5==1.4.2";
/// Names the solver's program to the enforcer.
pub const VARIABLE: &str = "CVC5";
/// The module as a program.
const PROGRAM: &str = include_str!("cvc5.py");

/// Installs the solver below the target folder, if it is not there; returns its program.
pub fn ensure() -> Result<PathBuf> {
    let folder = project::target_dir().join("solver").join(PACKAGE.replace("==", "-"));
    let program = folder.join("cvc5-smt");
    if !folder.join("cvc5").is_dir() {
        let mut pip = process::clean("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--target"]);
        process::run(pip.arg(&folder).arg(PACKAGE))?;
    }
    fs::write(&program, PROGRAM).with_context(|| format!("cannot write {}", program.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    answers(&program).with_context(|| format!("{} is no solver", program.display()))?;
    Ok(program)
}

/// Asks it something.
fn answers(program: &PathBuf) -> Result<()> {
    let mut solver = Command::new(program);
    let mut child = solver.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("its input was asked for as a pipe")?;
    input.write_all(b"(set-logic ALL)\n(assert false)\n(check-sat)\n")?;
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.trim() == "unsat", "it says {said:?}, expected \"unsat\"");
    Ok(())
}
