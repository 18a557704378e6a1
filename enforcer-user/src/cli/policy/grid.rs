//! Matrices as text.

use std::fmt::Write as _;

use super::matrix::Matrix;
use super::world::Verdict;

const LEGEND: &str = "\
+ reaches   i refused by policies for the destination   e refused by policies for the source   x by both
";

/// A grid for each matrix: sources to the left, destinations above by their number.
pub(super) fn text(names: &[String], matrices: &[Matrix]) -> String {
    let mut text = String::new();
    for matrix in matrices {
        grid(&mut text, names, matrix);
    }
    text + LEGEND
}

fn grid(text: &mut String, names: &[String], matrix: &Matrix) {
    let count = names.len();
    let number = count.to_string().len();
    let name = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}, from each row to the numbers above", matrix.port);
    let _ = write!(text, "{:indent$}", "", indent = number + 1 + name);
    for column in 1..=count {
        let _ = write!(text, " {column:>number$}");
    }
    text.push('\n');
    for ((n, from), row) in (1..).zip(names).zip(&matrix.rows) {
        let _ = write!(text, "{n:>number$} {from:name$}");
        for verdict in row {
            let _ = write!(text, " {:>number$}", sign(*verdict));
        }
        text.push('\n');
    }
    text.push('\n');
}

fn sign(verdict: Verdict) -> char {
    match (verdict.ingress, verdict.egress) {
        (true, true) => '+',
        (false, true) => 'i',
        (true, false) => 'e',
        (false, false) => 'x',
    }
}
