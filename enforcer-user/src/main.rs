//! The `enforcer` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    enforcer_user::cli::main()
}
