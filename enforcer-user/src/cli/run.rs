//! `enforcer run`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::Config;
use crate::{daemon, logging, sandbox};

/// Threads of the daemon's event loop; verification has its own.
const WORKER_THREADS: usize = 2;
/// How long the daemon's end waits for threads that are still at work.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// Attach to the configured workloads and enforce
///
/// Runs in the foreground until SIGTERM or SIGINT; SIGHUP loads the policy anew. The datapath stays
/// attached and goes on enforcing when the daemon ends: `enforcer detach` removes it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  enforcer run --config /etc/enforcer/enforcer.toml")]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What to log, for example debug or warn,enforcer_user=debug; overrules RUST_LOG and the file
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// The stack of each thread: address space, of which little is ever touched.
const STACK_BYTES: usize = 16 << 20;

pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.config)?;
    logging::init(arguments.log.as_deref(), &config.log.level)?;
    // Threads have what is left: before the first of them is started.
    sandbox::enter(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        // Policies are parsed on these, by recursion; their depth is bounded for less (`policy/nesting.rs`).
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let outcome = runtime.block_on(daemon::run(config));
    // What a thread still verifies is of no use any more; the end must not wait for it.
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    outcome?;
    Ok(ExitCode::SUCCESS)
}
