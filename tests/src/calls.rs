//! Counts what an eBPF program calls: helpers of the kernel, and of them look-ups in maps. Counts are the same on
//! every machine, as times are not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use aya_obj::Object;
use aya_obj::generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL, bpf_func_id, bpf_insn};
use serde::Serialize;

/// What a call instruction is in the program's bytes.
const CALL: u32 = BPF_JMP | BPF_CALL;
/// The source register of a call that names a helper by its number.
const HELPER: u32 = 0;

/// What stands in a piece of program text, each function counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Instructions.
    pub instructions: u32,
    /// Calls of helpers.
    pub helper_calls: u32,
    /// Those of them that look something up in a map.
    pub map_lookups: u32,
}

/// A program with everything it calls, as it is loaded.
#[derive(Debug)]
pub struct Linked<'a> {
    instructions: &'a [bpf_insn],
    /// Symbols of its functions, by their first instruction.
    functions: BTreeMap<usize, String>,
}

impl<'a> Linked<'a> {
    /// A program of an object whose calls were relocated.
    ///
    /// # Errors
    /// The object has no such program, or does not say which functions it is made of.
    pub fn of(object: &'a Object, program: &str) -> Result<Self> {
        let entry = object.programs.get(program).context("the object has no such program")?;
        let linked = object.functions.get(&entry.function_key()).context("it has no code")?;
        // Functions keep their types when they are linked into a program, but not their symbols.
        let symbols: BTreeMap<u32, &str> = object
            .functions
            .values()
            .filter_map(|f| Some((f.func_info.func_info.first()?.type_id, f.name.as_str())))
            .collect();
        let functions = linked.func_info.func_info.iter().map(|info| {
            let symbol = symbols.get(&info.type_id).with_context(|| {
                format!("no function has the type {} that one of it has", info.type_id)
            })?;
            Ok((usize::try_from(info.insn_off)?, (*symbol).to_owned()))
        });
        let functions: BTreeMap<usize, String> = functions.collect::<Result<_>>()?;
        ensure!(
            functions.contains_key(&0),
            "the object has no BTF of its functions; build it with `cargo xtask build`"
        );
        Ok(Self { instructions: &linked.instructions, functions })
    }

    /// All of it.
    ///
    /// # Errors
    /// A call leads to no function's beginning.
    pub fn whole(&self) -> Result<Counts> {
        self.reached(0)
    }

    /// The one function of a path such as `flow::established`, and what it calls.
    ///
    /// # Errors
    /// There is no such function, or more than one.
    pub fn below(&self, path: &str) -> Result<Counts> {
        let mangled: Vec<String> =
            path.split("::").map(|name| format!("{}{name}", name.len())).collect();
        let mangled = mangled.concat();
        let mut found =
            self.functions.iter().filter(|(_, symbol)| symbol.contains(mangled.as_str()));
        let Some((start, _)) = found.next() else {
            bail!("it has no function {path} ({mangled} in a symbol); was it renamed or inlined?");
        };
        if let Some((_, other)) = found.next() {
            bail!(
                "several of its functions are named {path}, {other} is one; expected a single one"
            );
        }
        self.reached(*start)
    }

    /// Counts the function that begins at `start`, and all that is called from there.
    fn reached(&self, start: usize) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut seen = BTreeSet::from([start]);
        let mut waiting = vec![start];
        while let Some(start) = waiting.pop() {
            let end = self.functions.range(start + 1..).next();
            let end = end.map_or(self.instructions.len(), |(next, _)| *next);
            let body = self.instructions.get(start..end).context("a function lies outside")?;
            counts.instructions += u32::try_from(body.len())?;
            for (at, instruction) in (start..).zip(body) {
                if u32::from(instruction.code) != CALL {
                    continue;
                }
                match u32::from(instruction.src_reg()) {
                    HELPER => {
                        counts.helper_calls += 1;
                        let is_lookup = is_lookup(instruction.imm);
                        counts.map_lookups += u32::from(is_lookup);
                    }
                    BPF_PSEUDO_CALL => {
                        let callee = i64::try_from(at)? + 1 + i64::from(instruction.imm);
                        let callee = usize::try_from(callee)?;
                        ensure!(
                            self.functions.contains_key(&callee),
                            "instruction {at} calls {callee}, where no function begins"
                        );
                        if seen.insert(callee) {
                            waiting.push(callee);
                        }
                    }
                    // A function of the kernel by its BTF.
                    _ => counts.helper_calls += 1,
                }
            }
        }
        Ok(counts)
    }
}

fn is_lookup(helper: i32) -> bool {
    u32::try_from(helper) == Ok(bpf_func_id::BPF_FUNC_map_lookup_elem as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOKUP: i32 = 1;
    const CLOCK: i32 = 125;

    fn call(kind: u32, imm: i32) -> bpf_insn {
        // SAFETY: all-zero bytes are an instruction.
        let mut instruction: bpf_insn = unsafe { std::mem::zeroed() };
        instruction.code = u8::try_from(CALL).unwrap();
        instruction.set_src_reg(u8::try_from(kind).unwrap());
        instruction.imm = imm;
        instruction
    }

    /// The entry calls `early` twice and `late`, which calls `early` too.
    fn program() -> ([bpf_insn; 8], BTreeMap<usize, String>) {
        let text = [
            call(HELPER, CLOCK),
            call(BPF_PSEUDO_CALL, 2),
            call(BPF_PSEUDO_CALL, 1),
            call(BPF_PSEUDO_CALL, 2),
            call(HELPER, LOOKUP),
            call(HELPER, LOOKUP),
            call(HELPER, LOOKUP),
            call(BPF_PSEUDO_CALL, -4),
        ];
        let names = [(0, "main"), (4, "_RNv4flow5early"), (6, "_RNv4flow4late")];
        (text, names.map(|(at, name)| (at, name.to_owned())).into())
    }

    #[test]
    fn every_function_that_is_reached_counts_once() {
        let (text, functions) = program();
        let linked = Linked { instructions: &text, functions };
        let counts = |instructions, helper_calls, map_lookups| Counts {
            instructions,
            helper_calls,
            map_lookups,
        };
        assert_eq!(linked.whole().unwrap(), counts(8, 4, 3));
        assert_eq!(linked.below("flow::early").unwrap(), counts(2, 2, 2));
        assert_eq!(linked.below("flow::late").unwrap(), counts(4, 3, 3));
    }

    #[test]
    fn a_function_that_is_not_there_or_not_alone_is_an_error() {
        let (text, mut functions) = program();
        let linked = Linked { instructions: &text, functions: functions.clone() };
        assert!(
            linked.below("flow::established").unwrap_err().to_string().contains("11established")
        );
        functions.insert(7, "_RNv4flow5earlyKb1".to_owned());
        let linked = Linked { instructions: &text, functions };
        assert!(linked.below("flow::early").is_err());
        assert!(linked.whole().is_ok());
    }

    #[test]
    fn a_call_into_the_middle_of_a_function_is_an_error() {
        let (text, mut functions) = program();
        functions.remove(&6);
        assert!(Linked { instructions: &text, functions }.whole().is_err());
    }
}
