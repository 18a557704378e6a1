//! Standard output; a reader that went away is an ordinary error here, not a panic.

use std::fmt::Display;
use std::io::{self, Write as _};

use anyhow::Context as _;
use serde::Serialize;

/// Where answers go.
pub(super) struct Output(());

impl Output {
    /// The process's standard output.
    pub(super) fn standard() -> Self {
        Self(())
    }

    /// Text as it is.
    #[expect(clippy::unused_self, reason = "holding an Output is the licence to print")]
    pub(super) fn text(&self, text: impl Display) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        write!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    }

    /// Text and a line's end.
    pub(super) fn line(&self, text: impl Display) -> anyhow::Result<()> {
        self.text(format_args!("{text}\n"))
    }

    /// A report as indented JSON.
    pub(super) fn json<T: Serialize>(&self, report: &T) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(report).context("report not serialised")?;
        self.line(text)
    }

    /// A report as one line of JSON, for streams.
    pub(super) fn json_line<T: Serialize>(&self, report: &T) -> anyhow::Result<()> {
        let text = serde_json::to_string(report).context("report not serialised")?;
        self.line(text)
    }
}
