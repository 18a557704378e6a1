//! Log lines on standard error, in a form that suits the journal where it listens.
//!
//! Under systemd a line begins with its priority, `<N>` (sd-daemon(3)), and has no time of its own;
//! elsewhere it begins with the time (UTC) and the level. One event is one line: control characters are
//! escaped, because names that a peer chose reach the log.

use std::fmt;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging. The filter is the command line's, else `RUST_LOG`, else the configuration's.
///
/// # Errors
/// The filter is malformed, or logging was started before.
pub fn init(command_line: Option<&str>, configured: &str) -> anyhow::Result<()> {
    let environment = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let (origin, filter) = match (command_line, &environment) {
        (Some(filter), _) => ("--log", filter),
        (None, Some(filter)) => ("RUST_LOG", filter.as_str()),
        (None, None) => ("log.level", configured),
    };
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("{origin} {filter:?}: expected a filter such as \"info\" or \"warn,enforcer_user=debug\"")
    })?;
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(Line { journal: stderr_is_journal() })
        .try_init();
    started.map_err(|error| anyhow::anyhow!("logging: {error}"))
}

/// Whether standard error is the stream that `JOURNAL_STREAM` names (systemd.exec(5)): a daemon whose
/// output was redirected inherits the variable and must not be fooled by it.
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = std::io::stderr();
    let Ok(stat) = nix::sys::stat::fstat(stderr.as_fd()) else {
        return false;
    };
    named == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The form of a line.
struct Line {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.journal {
            write!(writer, "<{}>", priority(level))?;
        } else {
            SystemTime.format_time(&mut writer)?;
            write!(writer, " {level:5} ")?;
        }
        let mut fields = String::new();
        context.field_format().format_fields(Writer::new(&mut fields), event)?;
        write_escaped(&mut writer, &fields)?;
        writer.write_char('\n')
    }
}

/// syslog's numbers (RFC 5424 6.2.1).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn write_escaped(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() {
            write!(writer, "{}", c.escape_default())?;
        } else {
            writer.write_char(c)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(journal: bool, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .event_format(Line { journal })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let text = logged(true, || {
            tracing::error!("a");
            tracing::warn!(peer = "x", "b");
            tracing::info!("c");
            tracing::debug!("d");
        });
        assert_eq!(text, "<3>a\n<4>b peer=\"x\"\n<6>c\n<7>d\n");
    }

    #[test]
    fn others_get_time_and_level() {
        let text = logged(false, || tracing::info!("ready"));
        assert!(text.ends_with("Z INFO  ready\n"), "{text}");
    }

    #[test]
    fn one_event_is_one_line_whatever_a_peer_is_called() {
        let name = "x\n<3>forged\u{1b}[2J";
        let text = logged(true, || tracing::info!("peer {name}"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("<6>peer x\\n<3>forged") && !text.contains('\u{1b}'), "{text:?}");
    }

    /// Set in the process that a test starts of itself, with the command line's filter as its value.
    const CHILD: &str = "ENFORCER_LOGGING_TEST_CHILD";

    /// What a process logs to a file with this environment; the configuration says `warn`.
    fn logged_by_child(command_line: &str, rust_log: Option<&str>, journal: bool) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = file.as_file().metadata().unwrap();
        let inode = if journal { stat.ino() } else { stat.ino() + 1 };
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args([
                "--exact",
                "logging::tests::filters_and_the_journal_are_found_in_the_environment",
            ])
            .env(CHILD, command_line)
            .env("JOURNAL_STREAM", format!("{}:{inode}", stat.dev()))
            .env_remove("RUST_LOG")
            .stderr(file.reopen().unwrap());
        if let Some(filter) = rust_log {
            child.env("RUST_LOG", filter);
        }
        assert!(child.output().unwrap().status.success());
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn filters_and_the_journal_are_found_in_the_environment() {
        if let Ok(filter) = std::env::var(CHILD) {
            init(Some(filter.as_str()).filter(|filter| !filter.is_empty()), "warn").unwrap();
            tracing::warn!("a warning");
            tracing::info!("a notice");
            tracing::debug!("a detail");
            return;
        }
        assert_eq!(logged_by_child("", None, true), "<4>a warning\n");
        assert_eq!(logged_by_child("", Some("info"), true), "<4>a warning\n<6>a notice\n");
        assert_eq!(logged_by_child("error", Some("info"), true), "");
        let elsewhere = logged_by_child("debug", None, false);
        assert!(
            elsewhere.ends_with(" DEBUG a detail\n") && !elsewhere.contains('<'),
            "{elsewhere}"
        );
    }

    #[test]
    fn a_malformed_filter_is_told_with_its_origin() {
        let told = init(Some("lou=d=er"), "info").unwrap_err().to_string();
        assert!(told.starts_with("--log \"lou=d=er\": expected a filter"), "{told}");
    }
}
