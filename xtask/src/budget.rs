//! The verifier's load gate: every program of the object must load in this kernel, within the
//! committed figures of `verifier-budget.toml`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::build::{self, Variant};
use crate::{process, project};

/// Above what was measured: percent.
const HEADROOM_PERCENT: u64 = 10;
/// The same of what the verifier walks, which differs from kernel to kernel: 6.1 walks up to 13 % more than 6.18.
const WALK_HEADROOM_PERCENT: u64 = 20;
/// Budgets are rounded up to a multiple of this, in instructions.
const ROUNDING: u64 = 100;

const HEADER: &str = "\
# What the kernel's verifier may find in each program of the eBPF object. `cargo xtask check` fails
# above these figures; after a change that is worth its cost, `cargo xtask check --update-budget`
# writes them anew: measured, plus a tenth; a fifth for what the verifier walks, for other kernels.
# verified_instructions: what the verifier walks, over all paths (the limit is a million).
# instructions: the program's length. stack_bytes: summed over all its subprograms; the verifier
# itself holds every chain of calls to 512.
# helper_calls, map_lookups: how many stand in the program's text, each function counted once; not
# rounded, since they are the same on every machine. fast_path: the same for the function that
# decides packets of established flows, with all it calls.
";

/// What stands in a piece of program text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    instructions: u64,
    helper_calls: u64,
    map_lookups: u64,
}

/// The figures of one program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    verified_instructions: u64,
    instructions: u64,
    stack_bytes: u64,
    helper_calls: u64,
    map_lookups: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fast_path: Option<Counts>,
}

/// Figures by program name.
pub type Programs = BTreeMap<String, Figures>;

/// Loads every program, prints its figures and holds them against the budget, or writes the budget.
pub fn check(update: bool) -> Result<()> {
    let measured = measure()?;
    print(&measured);
    if update {
        return write(&measured);
    }
    hold(&measured)
}

/// Fails, and says where, unless the figures are within the committed budget.
pub fn hold(measured: &Programs) -> Result<()> {
    let budget = read()?;
    let problems = problems(measured, &budget);
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "the verifier's budget ({}) does not hold:\n    {}\n  make the program cheaper, or accept \
         its cost with `cargo xtask check --update-budget`",
        path().display(),
        problems.join("\n    ")
    )
}

fn measure() -> Result<Programs> {
    build::ebpf()?;
    let gate = build::binary("enforcer-tests", "verifier_gate", Variant::default())?;
    let mut command = process::root_command(&gate, &[])?;
    command.arg(project::ebpf_object());
    let (output, success) = process::captured(&mut command)?;
    if !success {
        bail!("the object does not load in this kernel; the verifier's words are above");
    }
    let programs: Programs = serde_json::from_str(&output)
        .with_context(|| format!("the gate printed something else than figures: {output}"))?;
    if programs.is_empty() {
        bail!("the object {} holds no program", project::ebpf_object().display());
    }
    Ok(programs)
}

/// Prints a line for each program.
pub fn print(programs: &Programs) {
    println!(
        "{:<24} {:>9} {:>13} {:>6} {:>8} {:>8}",
        "program", "verified", "instructions", "stack", "helpers", "look-ups"
    );
    for (name, figures) in programs {
        println!(
            "{name:<24} {:>9} {:>13} {:>6} {:>8} {:>8}",
            figures.verified_instructions,
            figures.instructions,
            figures.stack_bytes,
            figures.helper_calls,
            figures.map_lookups
        );
        if let Some(fast) = figures.fast_path {
            println!(
                "{:<24} {:>9} {:>13} {:>6} {:>8} {:>8}",
                "  fast path", "", fast.instructions, "", fast.helper_calls, fast.map_lookups
            );
        }
    }
}

fn path() -> PathBuf {
    project::root().join("xtask/verifier-budget.toml")
}

fn read() -> Result<Programs> {
    let text =
        fs::read_to_string(path()).with_context(|| format!("cannot read {}", path().display()))?;
    toml::from_str(&text).with_context(|| format!("cannot understand {}", path().display()))
}

fn write(measured: &Programs) -> Result<()> {
    let budget = measured.iter().map(|(name, figures)| (name.clone(), figures.with_headroom()));
    let mut text = String::from(HEADER);
    write!(text, "\n{}", toml::to_string(&budget.collect::<Programs>())?)?;
    fs::write(path(), text).with_context(|| format!("cannot write {}", path().display()))?;
    println!("written: {}", path().display());
    Ok(())
}

fn problems(measured: &Programs, budget: &Programs) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, figures) in measured {
        match budget.get(name) {
            Some(limit) => problems.extend(figures.above(limit, name)),
            None => problems.push(format!("{name}: has no budget")),
        }
    }
    let gone = budget.keys().filter(|name| !measured.contains_key(*name));
    problems.extend(gone.map(|name| format!("{name}: has a budget but is not in the object")));
    problems
}

fn roomy(measured: u64, percent: u64) -> u64 {
    (measured + measured * percent / 100).next_multiple_of(ROUNDING)
}

impl Figures {
    fn with_headroom(self) -> Self {
        let length = |measured| roomy(measured, HEADROOM_PERCENT);
        let fast = |fast: Counts| Counts { instructions: length(fast.instructions), ..fast };
        Self {
            verified_instructions: roomy(self.verified_instructions, WALK_HEADROOM_PERCENT),
            instructions: length(self.instructions),
            stack_bytes: length(self.stack_bytes),
            fast_path: self.fast_path.map(fast),
            ..self
        }
    }

    fn above(&self, limit: &Self, name: &str) -> Vec<String> {
        let mut above = self.own_above(limit, name);
        match (self.fast_path, limit.fast_path) {
            (Some(found), Some(limit)) => above.extend(found.above(&limit, name)),
            (None, None) => {}
            (Some(_), None) => above.push(format!("{name}: its fast path has no budget")),
            (None, Some(_)) => {
                above.push(format!("{name}: its fast path has a budget but was not measured"));
            }
        }
        above
    }

    fn own_above(&self, limit: &Self, name: &str) -> Vec<String> {
        exceeded(
            name,
            &[
                ("verified instructions", self.verified_instructions, limit.verified_instructions),
                ("instructions", self.instructions, limit.instructions),
                ("bytes of stack", self.stack_bytes, limit.stack_bytes),
                ("calls of helpers", self.helper_calls, limit.helper_calls),
                ("look-ups in maps", self.map_lookups, limit.map_lookups),
            ],
        )
    }
}

impl Counts {
    fn above(&self, limit: &Self, name: &str) -> Vec<String> {
        exceeded(
            &format!("{name}, fast path"),
            &[
                ("instructions", self.instructions, limit.instructions),
                ("calls of helpers", self.helper_calls, limit.helper_calls),
                ("look-ups in maps", self.map_lookups, limit.map_lookups),
            ],
        )
    }
}

fn exceeded(name: &str, figures: &[(&str, u64, u64)]) -> Vec<String> {
    figures
        .iter()
        .filter(|(_, found, limit)| found > limit)
        .map(|(what, found, limit)| format!("{name}: {found} {what}, at most {limit} allowed"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Counts, Figures, Programs, problems};

    const FAST: Counts = Counts { instructions: 900, helper_calls: 5, map_lookups: 4 };
    const FIGURES: Figures = Figures {
        verified_instructions: 20_000,
        instructions: 5_000,
        stack_bytes: 400,
        helper_calls: 30,
        map_lookups: 20,
        fast_path: Some(FAST),
    };

    fn programs(entries: &[(&str, Figures)]) -> Programs {
        entries.iter().map(|(name, figures)| ((*name).to_owned(), *figures)).collect()
    }

    #[test]
    fn what_was_just_measured_is_within_its_budget() {
        let measured = programs(&[("egress", FIGURES)]);
        assert!(problems(&measured, &measured).is_empty());
        let budget = programs(&[("egress", FIGURES.with_headroom())]);
        assert!(problems(&measured, &budget).is_empty());
    }

    #[test]
    fn each_figure_is_held_against_its_own_limit() {
        let budget = programs(&[("egress", FIGURES)]);
        for larger in [
            Figures { verified_instructions: 20_001, ..FIGURES },
            Figures { instructions: 5_001, ..FIGURES },
            Figures { stack_bytes: 401, ..FIGURES },
            Figures { helper_calls: 31, ..FIGURES },
            Figures { map_lookups: 21, ..FIGURES },
            Figures { fast_path: Some(Counts { instructions: 901, ..FAST }), ..FIGURES },
            Figures { fast_path: Some(Counts { helper_calls: 6, ..FAST }), ..FIGURES },
            Figures { fast_path: Some(Counts { map_lookups: 5, ..FAST }), ..FIGURES },
            Figures { fast_path: None, ..FIGURES },
        ] {
            assert_eq!(problems(&programs(&[("egress", larger)]), &budget).len(), 1);
        }
    }

    #[test]
    fn counts_have_no_headroom() {
        let budget = programs(&[("egress", FIGURES.with_headroom())]);
        for larger in [
            Figures { helper_calls: 31, ..FIGURES },
            Figures { fast_path: Some(Counts { map_lookups: 5, ..FAST }), ..FIGURES },
        ] {
            assert_eq!(problems(&programs(&[("egress", larger)]), &budget).len(), 1);
        }
    }

    #[test]
    fn programs_without_budget_and_budgets_without_program_are_named() {
        let found = problems(&programs(&[("new", FIGURES)]), &programs(&[("old", FIGURES)]));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("new:") && found[1].starts_with("old:"), "{found:?}");
    }
}
