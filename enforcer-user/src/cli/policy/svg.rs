//! Matrices as a picture.

use std::fmt::Write as _;

use super::matrix::Matrix;
use super::world::{Asked, Verdict};
use crate::kubernetes::Port;

/// Of a cell, in pixels.
const CELL: usize = 18;
/// Of a letter, about.
const LETTER: usize = 7;
/// Between the matrices, and above the names.
const GAP: usize = 30;

/// One below the other, each cell with its reason as a title.
pub(super) fn picture(asked: &Asked<'_>, matrices: &[Matrix]) -> String {
    let longest = asked.names.iter().map(|name| name.chars().count());
    let names = longest.max().unwrap_or(0) * LETTER + 10;
    let side = asked.names.len() * CELL;
    let (width, height) = (names + side + names, (GAP + names + side + GAP) * matrices.len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"monospace\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (n, matrix) in matrices.iter().enumerate() {
        let top = n * (GAP + names + side + GAP);
        draw(&mut svg, asked, matrix, names, top);
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, asked: &Asked<'_>, matrix: &Matrix, left: usize, top: usize) {
    let above = top + GAP + left;
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        "<text x=\"5\" y=\"{}\" font-size=\"14\">{}: rows reach columns</text>",
        top + 20,
        matrix.port
    );
    for (n, name) in asked.names.iter().enumerate() {
        let middle = n * CELL + CELL / 2 + 4;
        let name = escaped(name);
        let (x, y) = (left - 5, above + middle);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{name}</text>");
        let (x, y) = (left + middle, above - 5);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-90 {x} {y})\">{name}</text>"
        );
    }
    for (row, verdicts) in matrix.rows.iter().enumerate() {
        for (column, verdict) in verdicts.iter().enumerate() {
            let (x, y) = (left + column * CELL, above + row * CELL);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{}\"><title>{}</title></rect>",
                colour(*verdict),
                escaped(&title(asked, (row, column), matrix.port, *verdict)),
                side = CELL - 1
            );
        }
    }
}

fn title(asked: &Asked<'_>, (from, to): (usize, usize), port: Port, verdict: Verdict) -> String {
    let name = |number: usize| asked.names.get(number).map_or("", String::as_str);
    let does = if verdict.is_allowed() { "reaches" } else { "is refused" };
    format!("{} to {}: {does}\n{}", name(from), name(to), asked.explained(from, to, port))
}

/// Told apart by those who see no red and green.
fn colour(verdict: Verdict) -> &'static str {
    match (verdict.ingress, verdict.egress) {
        (true, true) => "#2a9d8f",
        (false, true) => "#e9c46a",
        (true, false) => "#f4a261",
        (false, false) => "#9b2226",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
