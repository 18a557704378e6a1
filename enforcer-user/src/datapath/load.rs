//! Loads the programs and makes their maps, or adopts those that an earlier daemon left pinned.

use std::os::fd::AsFd as _;

use aya::maps::{Array, Map, MapData, MapError, MapInfo};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use aya_obj::{EbpfSectionKind, Object};
use enforcer_common::abi::{ABI_VERSION, Config, NonceState};
use enforcer_common::crypto::NONCE_KEY_WORDS;
use zeroize::{Zeroize as _, Zeroizing};

use super::error::DatapathError;
use super::folder::PinFolder;
use super::maps::map_error;
use super::sys;
use crate::fault::{self, KillPoint};

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("ENFORCER_EBPF_OBJECT"));

/// The compiled programs that this build embeds: an ELF object (tests run them without the daemon).
#[must_use]
pub fn object() -> &'static [u8] {
    OBJECT
}

/// Maps that live and die with the programs: working memory, and the log of `aya-log`.
const UNPINNED: [&str; 2] = ["SCRATCH", "AYA_LOGS"];

/// Prefix of pinned links.
pub(super) const LINK_PREFIX: &str = "link_";
/// Prefix of pinned programs.
pub(super) const PROGRAM_PREFIX: &str = "program_";
/// Prefix of notes about qdiscs that this instance made.
pub(super) const CLSACT_PREFIX: &str = "clsact_";

/// The programs, by the names of their functions.
pub(super) const PROGRAMS: [&str; 3] = ["from_workload", "to_workload", "reinject"];

/// Whether a pin of this name is a map's.
pub(super) fn is_map_pin(name: &str) -> bool {
    let others = [LINK_PREFIX, PROGRAM_PREFIX, CLSACT_PREFIX];
    !others.iter().any(|prefix| name.starts_with(prefix))
}

/// Nonces that a program running while the secret is replaced may still draw.
const NONCE_GAP: u64 = 1 << 32;

/// What the daemon chooses about the datapath when it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Entries of each flow table.
    pub flows: u32,
    /// Entries of the table of peers.
    pub peers: u32,
    /// Entries of the table of half-open connections.
    pub attempts: u32,
    /// Entries of the table of verdicts.
    pub verdicts: u32,
    /// Bits of [`enforcer_common::abi::config_flags`].
    pub flags: u32,
    /// Segments of unknown peers handed over a second.
    pub cold_per_second: u32,
    /// The same for one source network.
    pub cold_per_source: u32,
    /// Denied segments reported a second.
    pub samples_per_second: u32,
    /// Half-open connections of one source a second.
    pub attempts_per_source: u32,
}

impl Settings {
    fn capacities(&self) -> [(&'static str, u32); 6] {
        [
            ("FLOWS4", self.flows),
            ("FLOWS6", self.flows),
            ("PEERS", self.peers),
            ("ATTEMPTS", self.attempts),
            ("CROWD", self.attempts),
            ("VERDICTS", self.verdicts),
        ]
    }
}

/// The loaded programs.
#[derive(Debug)]
pub struct Loaded {
    /// Programs, and the maps that are not pinned.
    pub(super) ebpf: Ebpf,
    /// Whether the maps are those of an earlier daemon.
    pub adopted: bool,
}

impl Loaded {
    /// Makes or adopts the maps in `folder` and loads the programs. Nothing is attached.
    pub fn load(folder: &PinFolder, settings: &Settings) -> Result<Self, DatapathError> {
        let object = parsed()?;
        let adopted = prepare(folder, &object, settings)?;
        let mut ebpf = make_maps(folder, &object, settings)?;
        fault::reached(KillPoint::MapsPinned);
        write_state(folder, settings, adopted)?;
        fault::reached(KillPoint::StateWritten);
        for name in PROGRAMS {
            classifier(&mut ebpf, name)?.load().map_err(program_error(name, "load"))?;
            fault::reached(KillPoint::ProgramLoaded);
        }
        Ok(Self { ebpf, adopted })
    }

    /// A program.
    pub(super) fn program(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, DatapathError> {
        classifier(&mut self.ebpf, name)
    }

    /// A guard, which is loaded when it is first asked for: a kernel that refuses it must not keep those from
    /// starting who have no use for it.
    pub(super) fn guard(&mut self, name: &'static str) -> Result<&mut Xdp, DatapathError> {
        let program = self.ebpf.program_mut(name);
        let program =
            program.ok_or_else(|| DatapathError::Malformed(format!("it has no program {name}")))?;
        let program: &mut Xdp =
            program.try_into().map_err(program_error(name, "use as an XDP program"))?;
        if program.fd().is_err() {
            program.load().map_err(program_error(name, "load"))?;
        }
        Ok(program)
    }
}

pub(super) fn program_error(
    program: &'static str,
    action: impl Into<String>,
) -> impl FnOnce(ProgramError) -> DatapathError {
    let action = action.into();
    move |source| DatapathError::Program { program, action, source: Box::new(source) }
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| DatapathError::Malformed(format!("it has no program {name}")))?;
    program.try_into().map_err(program_error(name, "use as a classifier"))
}

/// Decides whether the pinned maps are adopted. What a start left that died before anything could
/// be attached is removed.
fn prepare(
    folder: &PinFolder,
    object: &Object,
    settings: &Settings,
) -> Result<bool, DatapathError> {
    let names = folder.names()?;
    let version = pinned_version(folder)?;
    if version == Some(ABI_VERSION) {
        check_maps(folder, object, settings)?;
        return Ok(true);
    }
    let attached = names.iter().any(|name| name.starts_with(LINK_PREFIX));
    match version {
        // The version is written last, so without it the other maps were never in use.
        None | Some(0) if !attached => {
            for name in names {
                folder.remove(&name)?;
            }
            Ok(false)
        }
        None => Err(DatapathError::Incomplete { folder: folder.path().to_owned(), map: "CONFIG" }),
        Some(found) if found > ABI_VERSION => {
            let folder = folder.path().to_owned();
            Err(DatapathError::Newer { folder, found, ours: ABI_VERSION })
        }
        Some(found) => Err(abi_error(folder, "CONFIG", "abi_version", found, ABI_VERSION)),
    }
}

/// The layout of the pinned maps; `None` if there are none, 0 if they were never in use. The version is
/// the first field of the configuration in every layout, and the epoch the second.
pub(super) fn pinned_version(folder: &PinFolder) -> Result<Option<u32>, DatapathError> {
    if !folder.has("CONFIG") {
        return Ok(None);
    }
    let bytes = read_config(folder).map_err(map_error("CONFIG", "read", 0))?;
    Ok(Some(word(&bytes, 0)))
}

/// The policy's epoch in maps of any layout.
pub(super) fn pinned_epoch(folder: &PinFolder) -> Result<u32, DatapathError> {
    let bytes = read_config(folder).map_err(map_error("CONFIG", "read", 0))?;
    Ok(word(&bytes, 1))
}

fn read_config(folder: &PinFolder) -> Result<Vec<u8>, MapError> {
    let map = MapData::from_pin(folder.pin("CONFIG"))?;
    sys::lookup_single(map.fd().as_fd(), map.info()?.value_size()).map_err(MapError::IoError)
}

/// A word of a value; 0 where it ends before it.
fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(index).map_or(0, |word| u32::from_ne_bytes(*word))
}

/// The names of the maps that this version pins.
pub(super) fn pinned_maps() -> Result<Vec<String>, DatapathError> {
    let object = parsed()?;
    let names = object.maps.keys().filter(|name| is_pinned(&object, name));
    Ok(names.cloned().collect())
}

fn parsed() -> Result<Object, DatapathError> {
    Object::parse(OBJECT).map_err(|e| DatapathError::Malformed(e.to_string()))
}

fn check_maps(
    folder: &PinFolder,
    object: &Object,
    settings: &Settings,
) -> Result<(), DatapathError> {
    let capacities = settings.capacities();
    let mut names: Vec<&String> = object.maps.keys().collect();
    names.sort();
    for name in names {
        let Some(map) = object.maps.get(name) else { continue };
        if !is_pinned(object, name) || !folder.has(name) {
            continue;
        }
        let info = MapInfo::from_pin(folder.pin(name)).map_err(|source| DatapathError::Abi {
            folder: folder.path().to_owned(),
            map: format!("{name} ({source})"),
            what: "readability",
            found: 0,
            expected: 1,
        })?;
        let kind = info.map_type().map_or(0, |kind| kind as u32);
        check(folder, name, "type", kind, map.map_type())?;
        if map.map_type() != BPF_MAP_TYPE_RINGBUF as u32 {
            check(folder, name, "key_size", info.key_size(), map.key_size())?;
            check(folder, name, "value_size", info.value_size(), map.value_size())?;
        }
        let limit = capacities.iter().find(|(limited, _)| limited == name);
        let expected = limit.map_or(map.max_entries(), |(_, entries)| *entries);
        check(folder, name, "max_entries", info.max_entries(), expected)?;
    }
    Ok(())
}

fn check(
    folder: &PinFolder,
    map: &str,
    what: &'static str,
    found: u32,
    expected: u32,
) -> Result<(), DatapathError> {
    if found == expected { Ok(()) } else { Err(abi_error(folder, map, what, found, expected)) }
}

fn abi_error(
    folder: &PinFolder,
    map: &str,
    what: &'static str,
    found: u32,
    expected: u32,
) -> DatapathError {
    DatapathError::Abi {
        folder: folder.path().to_owned(),
        map: map.to_owned(),
        what,
        found: found.into(),
        expected: expected.into(),
    }
}

/// Sections of constants and variables become maps too; they belong to the programs.
fn is_pinned(object: &Object, name: &str) -> bool {
    let is_data = object.maps.get(name).is_none_or(|map| {
        let section = map.section_kind();
        matches!(section, EbpfSectionKind::Bss | EbpfSectionKind::Data | EbpfSectionKind::Rodata)
    });
    !is_data && !UNPINNED.contains(&name)
}

fn make_maps(
    folder: &PinFolder,
    object: &Object,
    settings: &Settings,
) -> Result<Ebpf, DatapathError> {
    let level = log_level();
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, false);
    // On a refusal the verifier then says why, without the states of every instruction before.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (name, entries) in settings.capacities() {
        loader.map_max_entries(name, entries);
    }
    for name in object.maps.keys().filter(|name| is_pinned(object, name)) {
        loader.map_pin_path(name, folder.pin(name));
    }
    loader.load(OBJECT).map_err(|e| DatapathError::Object(Box::new(e)))
}

/// The programs format only what somebody listens to.
fn log_level() -> u8 {
    let level = tracing::level_filters::LevelFilter::current();
    level.into_level().map_or(0, |level| match level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    })
}

/// Writes the secret of the nonces and, last, the configuration: its version says that the maps
/// are whole.
fn write_state(
    folder: &PinFolder,
    settings: &Settings,
    adopted: bool,
) -> Result<(), DatapathError> {
    renew_nonces(folder)?;
    fault::reached(KillPoint::NoncesRenewed);
    let epoch = if adopted { read_single::<Config>(folder, "CONFIG")?.epoch } else { 0 };
    let config = Config {
        abi_version: ABI_VERSION,
        epoch,
        flags: settings.flags,
        cold_per_second: settings.cold_per_second,
        cold_per_source: settings.cold_per_source,
        samples_per_second: settings.samples_per_second,
        attempts_per_source: settings.attempts_per_source,
        flows: settings.flows,
        #[cfg(feature = "abi-next")]
        zero: [0; 2],
    };
    write_single(folder, "CONFIG", config)
}

/// A fresh secret with every start of the daemon: the map may be new, the machine a restored copy.
/// The counter only moves on, so that nonces drawn while the value is replaced do not come again.
fn renew_nonces(folder: &PinFolder) -> Result<(), DatapathError> {
    let mut state: NonceState = read_single(folder, "NONCES")?;
    let mut secret = Zeroizing::new([0u8; 8 * NONCE_KEY_WORDS]);
    getrandom::fill(&mut *secret)?;
    for (word, bytes) in state.secret.iter_mut().zip(secret.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    state.zero = [0; 2];
    state.counter = state.counter.wrapping_add(NONCE_GAP);
    let written = write_single(folder, "NONCES", state);
    state.secret.zeroize();
    written
}

fn single<V: Pod>(
    folder: &PinFolder,
    name: &'static str,
) -> Result<Array<MapData, V>, DatapathError> {
    MapData::from_pin(folder.pin(name))
        .and_then(Map::from_map_data)
        .and_then(Array::try_from)
        .map_err(map_error(name, "open", "its pin"))
}

pub(super) fn read_single<V: Pod>(
    folder: &PinFolder,
    name: &'static str,
) -> Result<V, DatapathError> {
    single(folder, name)?.get(&0, 0).map_err(map_error(name, "read", 0))
}

pub(super) fn write_single<V: Pod>(
    folder: &PinFolder,
    name: &'static str,
    value: V,
) -> Result<(), DatapathError> {
    single(folder, name)?.set(0, value, 0).map_err(map_error(name, "write", 0))
}
