//! Tables for people: aligned columns and nothing else.

use std::fmt;

/// Spaces between two columns.
const GAP: usize = 2;

/// Rows under a head; the last column is never padded.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with the names of its columns.
    pub(super) fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|name| (*name).to_owned()).collect()] }
    }

    /// A table of names and values, without a head.
    pub(super) fn pairs() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. Control characters are escaped and an empty cell becomes `-`, so that columns can be
    /// told apart and no name can move the cursor.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            for (n, cell) in row.iter().enumerate() {
                if n + 1 < row.len() {
                    write!(f, "{cell:width$}", width = widths.get(n).unwrap_or(&0) + GAP)?;
                } else {
                    writeln!(f, "{cell}")?;
                }
            }
        }
        Ok(())
    }
}

fn cell(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else if text.chars().any(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text
    }
}

/// Seconds as people say them: `42s`, `3m07s`, `5h02m`, `12d03h`.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// How long until `unix_seconds`, or `expired`.
pub(super) fn until(unix_seconds: u64, now: u64) -> String {
    match unix_seconds.checked_sub(now) {
        Some(left) if left > 0 => format!("in {}", span(left)),
        _ => "expired".to_owned(),
    }
}

/// How long ago `unix_seconds` was.
pub(super) fn ago(unix_seconds: u64, now: u64) -> String {
    format!("{} ago", span(now.saturating_sub(unix_seconds)))
}

/// `key=value` of every label or attribute, comma separated.
pub(super) fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_trails() {
        let mut table = Table::new(&["NAME", "SIDE"]);
        table.row(["a-long-name".to_owned(), "own".to_owned()]);
        table.row([String::new(), "e\u{1b}[2J\n".to_owned()]);
        let expected = "NAME         SIDE\na-long-name  own\n-            e\\u{1b}[2J\\n\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn spans_read_as_people_say_them() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (187, "3m07s"), (18_120, "5h02m"), (1_047_600, "12d03h")]
        {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(until(100, 40), "in 1m00s");
        assert_eq!(until(40, 40), "expired");
    }
}
