//! `enforcer ca init`

use std::path::PathBuf;
use std::process::ExitCode;

use super::DAY_SECONDS;
use crate::cli::arguments::unix_now;
use crate::cli::output::Output;
use crate::identity::files::{AUTHORITY_CERTIFICATE_FILE, AUTHORITY_KEY_FILE, init_authority};

/// Begin an authority: a key that never leaves its folder, and the certificate that every node is given
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  enforcer ca init --dir ca --trust-domain example.org")]
pub(in crate::cli) struct Arguments {
    /// The authority's folder; made with mode 0700
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The SPIFFE trust domain it speaks for
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: String,
    /// How long it counts
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: u64,
}

pub(super) fn execute(arguments: &Arguments, out: &Output) -> anyhow::Result<ExitCode> {
    let lifetime_seconds = arguments.days * DAY_SECONDS;
    init_authority(&arguments.dir, &arguments.trust_domain, unix_now(), lifetime_seconds)?;
    let file = |name: &str| arguments.dir.join(name).display().to_string();
    out.line(format_args!("{}: the authority's key, keep it", file(AUTHORITY_KEY_FILE)))?;
    out.line(format_args!("{}: give it to every node", file(AUTHORITY_CERTIFICATE_FILE)))?;
    Ok(ExitCode::SUCCESS)
}
