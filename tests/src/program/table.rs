//! Rows of cases: what is set up and sent, what must become of it, which counters must move and no others.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::kernel::{Action, Hook, Seen};
use super::world::{Family, Side, WORKLOAD, World};

/// Makes a frame from the state of the maps.
pub type Frame = fn(&World) -> Vec<u8>;

/// What must become of a frame.
#[derive(Clone, Copy)]
enum Expected {
    /// Dropped.
    Dropped,
    /// Passed, byte for byte.
    Unchanged,
    /// Passed as another frame, made from the state of the maps behind the program.
    Becomes(Frame),
    /// Sent back as another frame.
    Answered(Frame),
}

/// Sets up the maps and makes the frame to run.
pub type Input = fn(&mut World) -> Vec<u8>;

/// A case.
pub struct Row {
    name: &'static str,
    input: Input,
    expected: Expected,
    counters: &'static [&'static str],
}

/// A frame that must be dropped. Of each row's `counters`, and of no others, the workload's must move by one; a
/// name behind `id:` counts for another workload.
pub fn drops(name: &'static str, input: Input, counters: &'static [&'static str]) -> Row {
    Row { name, input, expected: Expected::Dropped, counters }
}

/// A frame that must pass byte for byte.
pub fn passes(name: &'static str, input: Input, counters: &'static [&'static str]) -> Row {
    Row { name, input, expected: Expected::Unchanged, counters }
}

/// A frame that must pass as another.
pub fn becomes(
    name: &'static str,
    input: Input,
    frame: Frame,
    counters: &'static [&'static str],
) -> Row {
    Row { name, input, expected: Expected::Becomes(frame), counters }
}

/// A frame that must be answered with another.
pub fn answers(
    name: &'static str,
    input: Input,
    frame: Frame,
    counters: &'static [&'static str],
) -> Row {
    Row { name, input, expected: Expected::Answered(frame), counters }
}

/// Runs every row for both families, each with maps of its own, and fails with all that went wrong.
///
/// # Panics
/// If a row does not show what it says.
pub fn check(side: Side, hook: Hook, rows: &[Row]) {
    check_families(&Family::BOTH, side, hook, rows);
}

/// The same for some families.
///
/// # Panics
/// If a row does not show what it says.
pub fn check_families(families: &[Family], side: Side, hook: Hook, rows: &[Row]) {
    let mut failures = String::new();
    for row in rows {
        for family in families {
            let mut world = World::new(*family, side);
            if let Err(failure) = row.run(&mut world, hook) {
                writeln!(failures, "{} ({family:?}): {failure}", row.name).expect("a string");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

impl Row {
    fn run(&self, world: &mut World, hook: Hook) -> Result<(), String> {
        let frame = (self.input)(world);
        let seen = world.run(hook, &frame);
        let (action, frame) = match self.expected {
            Expected::Dropped => (Action::Drop, None),
            Expected::Unchanged => (Action::Pass, Some(frame)),
            Expected::Becomes(make) => (Action::Pass, Some(make(world))),
            Expected::Answered(make) => (Action::Redirect, Some(make(world))),
        };
        compare(&seen, action, frame.as_deref(), self.counters).map_err(|difference| {
            format!("{difference}; attempt {:?}; flow {:?}", world.attempt(), world.flow())
        })
    }
}

/// Compares what was seen with what must be; names the difference.
pub fn compare(
    seen: &Seen,
    action: Action,
    frame: Option<&[u8]>,
    counters: &[&str],
) -> Result<(), String> {
    if seen.action != action {
        return Err(format!("expected {action:?}, found {:?}, {:?}", seen.action, seen.counters));
    }
    let expected = named(counters);
    if seen.counters != expected {
        return Err(format!("expected counters {expected:?}, found {:?}", seen.counters));
    }
    match frame {
        Some(frame) if frame != seen.frame => {
            let at = frame.iter().zip(&seen.frame).position(|(a, b)| a != b);
            Err(format!(
                "frames differ at {at:?}:\nexpected {frame:02x?}\nfound    {:02x?}",
                seen.frame
            ))
        }
        _ => Ok(()),
    }
}

fn named(counters: &[&str]) -> BTreeMap<String, u64> {
    let mut named = BTreeMap::new();
    for counter in counters {
        let name = match counter.contains(':') {
            true => (*counter).to_owned(),
            false => format!("{WORKLOAD}:{counter}"),
        };
        *named.entry(name).or_default() += 1;
    }
    named
}
