//! Matrices as text.

use std::fmt::Write as _;

use super::matrix::Matrix;
use crate::kubernetes::Decision;

const LEGEND: &str = "\
+ reaches   i refused by policies for the destination   e refused by policies for the source   x by both
";

/// A grid for each matrix: sources to the left, destinations above by their number.
pub(super) fn text(matrices: &[Matrix]) -> String {
    let mut text = String::new();
    for matrix in matrices {
        grid(&mut text, matrix);
    }
    text + LEGEND
}

fn grid(text: &mut String, matrix: &Matrix) {
    let count = matrix.names.len();
    let number = count.to_string().len();
    let name = matrix.names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}, from each row to the numbers above", matrix.port);
    let _ = write!(text, "{:indent$}", "", indent = number + 1 + name);
    for column in 1..=count {
        let _ = write!(text, " {column:>number$}");
    }
    text.push('\n');
    for ((n, from), row) in (1..).zip(&matrix.names).zip(&matrix.rows) {
        let _ = write!(text, "{n:>number$} {from:name$}");
        for decision in row {
            let _ = write!(text, " {:>number$}", sign(decision));
        }
        text.push('\n');
    }
    text.push('\n');
}

fn sign(decision: &Decision) -> char {
    match (decision.ingress.is_allowed(), decision.egress.is_allowed()) {
        (true, true) => '+',
        (false, true) => 'i',
        (true, false) => 'e',
        (false, false) => 'x',
    }
}
