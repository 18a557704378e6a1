//! `cargo xtask test package`, `cargo xtask dist --check`: installs a Debian package, upgrades it to another, removes
//! and purges it, under traffic. Ends with a result line like a test program's.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use enforcer_tests::package;

/// Takes two versions of the package through the life of an installation.
#[derive(Parser)]
struct Options {
    /// The package that is installed first
    old: PathBuf,
    /// The package that it is upgraded to
    new: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match package::run(&options.old, &options.new) {
        Ok(passed) => {
            println!("test result: ok. {passed} passed; 0 failed; 0 ignored");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("package: {error:#}");
            println!("test result: FAILED. 0 passed; 1 failed; 0 ignored");
            ExitCode::FAILURE
        }
    }
}
