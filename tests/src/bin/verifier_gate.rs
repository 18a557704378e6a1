//! Loads every program of an eBPF object into the running kernel and prints, as JSON, what its
//! verifier found: instructions walked, instructions, bytes of stack; and what stands in it: calls of helpers and
//! look-ups in maps, of the whole program and of its fast path. Attaches and pins nothing.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::{env, fs, io, mem};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Map, MapData};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};
use aya_obj::{Object, ProgramSection};
use enforcer_tests::calls::{Counts, Linked};
use serde::Serialize;

/// Room for the verifier's statistics: a few lines for each program.
const LOG_BYTES: usize = 64 * 1024;
/// The bytes of one eBPF instruction.
const INSTRUCTION_BYTES: u32 = 8;

/// Programs that have a fast path, and the function that holds it.
const FAST_PATHS: [(&str, &str); 4] = [
    ("from_workload", "flow::established"),
    ("guard", "guard::read"),
    ("guard_generic", "guard::read"),
    ("to_workload", "flow::established"),
];

#[derive(Serialize)]
struct Figures {
    verified_instructions: u32,
    instructions: u32,
    stack_bytes: u32,
    helper_calls: u32,
    map_lookups: u32,
    fast_path: Option<Counts>,
}

fn main() -> Result<()> {
    let Some(path) = env::args_os().nth(1) else {
        bail!("usage: verifier_gate OBJECT");
    };
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let figures = measure(&bytes).with_context(|| format!("object {}", path.display()))?;
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

fn measure(bytes: &[u8]) -> Result<BTreeMap<String, Figures>> {
    let mut loaded = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS | VerifierLogLevel::VERBOSE)
        .load(bytes)
        .context("its maps cannot be made")?;
    let object = relocated(bytes, &loaded)?;
    let mut figures = BTreeMap::new();
    for (name, program) in loaded.programs_mut() {
        load(program).with_context(|| format!("program {name} is refused"))?;
        let found = found(program, &object, name).with_context(|| format!("program {name}"))?;
        figures.insert(name.to_owned(), found);
    }
    for (name, _) in FAST_PATHS {
        ensure!(figures.contains_key(name), "there is no program {name}, which has a fast path");
    }
    Ok(figures)
}

fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        other => bail!("the gate loads TC and XDP programs, found {:?}", other.prog_type()),
    }
    Ok(())
}

fn found(program: &Program, object: &Object, name: &str) -> Result<Figures> {
    let info = program.info()?;
    let verified_instructions = info
        .verified_instruction_count()
        .context("this kernel does not say how many instructions it verified (5.16 does)")?;
    let bytes = info.size_translated().context("this kernel does not say the program's size")?;
    let linked = Linked::of(object, name)?;
    let fast = FAST_PATHS.iter().find(|(program, _)| *program == name);
    let whole = linked.whole()?;
    Ok(Figures {
        verified_instructions,
        instructions: bytes / INSTRUCTION_BYTES,
        stack_bytes: stack_bytes(object, name)?,
        helper_calls: whole.helper_calls,
        map_lookups: whole.map_lookups,
        fast_path: fast.map(|(_, path)| linked.below(path)).transpose()?,
    })
}

/// The object with its programs bound to the maps that `loaded` made. aya keeps the verifier's
/// words only when a program is refused, but the stack's depth stands nowhere else: each program
/// is loaded once more from here.
fn relocated(bytes: &[u8], loaded: &Ebpf) -> Result<Object> {
    let mut object = Object::parse(bytes)?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let maps = mem::take(&mut object.maps);
    let bound = maps
        .iter()
        .map(|(name, map)| Ok((name.as_str(), descriptor(loaded, name)?, map)))
        .collect::<Result<Vec<_>>>()?;
    object.relocate_maps(bound.into_iter(), &sections)?;
    object.relocate_calls(&sections)?;
    Ok(object)
}

fn descriptor(loaded: &Ebpf, name: &str) -> Result<RawFd> {
    let map = loaded.map(name).with_context(|| format!("aya made no map {name}"))?;
    Ok(data(map)?.fd().as_fd().as_raw_fd())
}

fn data(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::DevMap(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::Stack(data) => Ok(data),
        other => bail!("a map of a kind that the gate does not know: {other:?}"),
    }
}

fn stack_bytes(object: &Object, name: &str) -> Result<u32> {
    let program = object.programs.get(name).context("aya loaded it, but it is not there")?;
    let kind = match program.section {
        ProgramSection::SchedClassifier => bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
        ProgramSection::Xdp { .. } => bpf_prog_type::BPF_PROG_TYPE_XDP,
        ref other => bail!("the gate loads TC and XDP programs, found {other:?}"),
    };
    let function = &object.functions[&program.function_key()];
    let log = verifier_statistics(kind as u32, &function.instructions, &program.license)?;
    parse_stack(&log).with_context(|| format!("the verifier tells no stack depth: {log}"))
}

/// Loads a program, drops it, and returns what the verifier wrote.
fn verifier_statistics(kind: u32, instructions: &[bpf_insn], license: &CString) -> Result<String> {
    let mut log = vec![0_u8; LOG_BYTES];
    // SAFETY: bpf_attr is a union of plain integers, for which zero is a valid value.
    let mut attr = unsafe { mem::zeroed::<bpf_attr>() };
    // SAFETY: this is the union's member for BPF_PROG_LOAD, and all of it is zeroed.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len())?;
    load.license = license.as_ptr() as u64;
    load.log_level = VerifierLogLevel::STATS.bits();
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len())?;
    // SAFETY: the attribute's pointers and lengths describe buffers that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_PROG_LOAD as libc::c_long,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    let error = io::Error::last_os_error();
    let text = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
    let descriptor = RawFd::try_from(result)?;
    if descriptor < 0 {
        bail!("refused without its debug information ({error}): {text}");
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(text)
}

/// The sum of the depths in `stack depth 248+0+96`: the verifier lists its subprograms, and what
/// no call chain exceeds is their sum.
fn parse_stack(log: &str) -> Option<u32> {
    let depths = log.lines().find_map(|line| line.trim().strip_prefix("stack depth "))?;
    depths.split_whitespace().next()?.split('+').map(|depth| depth.parse::<u32>().ok()).sum()
}
