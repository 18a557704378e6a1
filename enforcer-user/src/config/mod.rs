//! The configuration file: TOML read once into types that cannot hold a bad value.
//!
//! Every fault names file, line, key, the value found and what was expected. docs/examples/enforcer.toml
//! shows every key. A duration is a whole number whose key ends in its unit.

mod changed;
mod error;
mod hardening;
mod identity;
mod limits;
mod mesh;
mod mode;
mod network_rule;
mod reader;
mod revocations;
mod settings;
mod workload;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use error::{ConfigError, Fault, Faults};
pub use hardening::{ControlConfig, HardeningConfig, Seccomp};
pub use identity::{IdentityConfig, MAX_CREDENTIAL_BYTES, MIN_CREDENTIAL_BYTES, TrustConfig};
pub use limits::Limits;
pub use mesh::MeshConfig;
pub use network_rule::NetworkRuleConfig;
pub use revocations::{CertificateName, CredentialName, RevocationList};
pub use settings::{LogConfig, MetricsConfig, PolicyConfig};
pub use workload::{Existing, Mode, Side, WorkloadConfig};

use crate::identity::{Identity, Namespace};
use crate::policy::network::MAX_RULES;
use reader::{Read, Section, Source, Value};

/// The most bytes of a configuration file.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Instance, pin folder and run folder when the file names none.
pub const DEFAULT_INSTANCE: &str = "default";
/// Where maps, programs and links are pinned when the file does not say.
pub const DEFAULT_BPF_ROOT: &str = "/sys/fs/bpf/enforcer";
/// Where the control socket lives when the file does not say.
pub const DEFAULT_RUN_DIR: &str = "/run/enforcer";
/// Where what lasts is kept when the file does not say.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/enforcer";

/// The most bytes of a Unix socket's path, its closing zero not counted (`sun_path`, unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A whole configuration, every value checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it came from, as it was named.
    pub file: PathBuf,
    /// Names the pin folder and the run folder: one to 32 of `a-z`, `0-9` and `-`.
    pub instance: String,
    /// The SPIFFE trust domain of every workload here.
    pub trust_domain: String,
    /// The folder that holds one pin folder per instance; on a bpf file system.
    pub bpf_root: PathBuf,
    /// The folder that holds one run folder per instance.
    pub run_dir: PathBuf,
    /// The folder that holds one folder per instance for what outlives the machine's restarts.
    pub state_dir: PathBuf,
    /// How this node proves who its workloads are.
    pub identity: IdentityConfig,
    /// Where peers are expected to speak the protocol.
    pub mesh: MeshConfig,
    /// Where the rules are.
    pub policy: PolicyConfig,
    /// Rules for what has no identity, in the order of the file.
    pub network_rules: Vec<NetworkRuleConfig>,
    /// The workloads of this node, in the order of the file.
    pub workloads: Vec<WorkloadConfig>,
    /// The labels of this node, which its certificate says and no configuration: [`Self::on_node`].
    pub node_labels: BTreeMap<String, String>,
    /// Sizes of the kernel's tables, and rates.
    pub limits: Limits,
    /// Where metrics are served, beside the control socket.
    pub metrics: MetricsConfig,
    /// What is logged.
    pub log: LogConfig,
    /// Who may ask the daemon.
    pub control: ControlConfig,
    /// What the daemon takes from itself.
    pub hardening: HardeningConfig,
}

impl Config {
    /// Reads and checks a file. Relative paths in it start at the folder it lies in.
    ///
    /// # Errors
    /// The file cannot be read, is longer than [`MAX_FILE_BYTES`], or has faults: all of them are told.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(file, MAX_FILE_BYTES)?;
        let base = file.parent().unwrap_or(Path::new(""));
        let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
        Self::parse(&text, file, &base)
    }

    /// The same on a node whose certificate has these labels: its workloads are known with them.
    #[must_use]
    pub fn on_node(mut self, labels: &BTreeMap<String, String>) -> Self {
        for workload in &mut self.workloads {
            workload.identity = workload.identity.clone().on_node(labels);
        }
        self.node_labels.clone_from(labels);
        self
    }

    /// Checks a text. `file` is only named in errors; relative paths start at `base`.
    ///
    /// # Errors
    /// Every fault found, in the order of the lines.
    pub fn parse(text: &str, file: &Path, base: &Path) -> Result<Self, ConfigError> {
        let source = Source::new(text, file, base);
        let config = match DeTable::parse(text) {
            Ok(table) => read(Section::top(&source, table.get_ref()), file),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                source.fault(at, format!("not TOML: {}", error.message()));
                None
            }
        };
        match (source.faults(), config) {
            (None, Some(config)) => Ok(config),
            (Some(faults), _) => Err(ConfigError::Faults(faults)),
            // Every refusal notes a fault; should one forget to, the file is refused all the same.
            (None, None) => Err(ConfigError::Faults(Faults(Vec::new()))),
        }
    }

    /// The folder that holds everything this instance pins, mode 0700.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.bpf_root.join(&self.instance)
    }

    /// The folder of this instance's control socket and lock, mode 0700, or 0750 with a group.
    #[must_use]
    pub fn instance_run_dir(&self) -> PathBuf {
        self.run_dir.join(&self.instance)
    }

    /// The folder of what this instance has learned, mode 0700.
    #[must_use]
    pub fn instance_state_dir(&self) -> PathBuf {
        self.state_dir.join(&self.instance)
    }

    /// The control socket, mode 0600, or 0660 with a group.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.instance_run_dir().join(crate::control::SOCKET_NAME)
    }
}

fn read_bounded(file: &Path, limit: u64) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let mut text = String::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(limit + 1).read_to_string(&mut text).map_err(unreadable)?;
    let bytes = text.len() as u64;
    if bytes > limit {
        return Err(ConfigError::TooLong { file: file.to_owned(), bytes, limit });
    }
    Ok(text)
}

fn read(mut top: Section<'_>, file: &Path) -> Option<Config> {
    let instance = top.or("instance", DEFAULT_INSTANCE.to_owned(), instance);
    let hint = "the SPIFFE trust domain, such as \"example.org\"";
    let trust_domain = top.required("trust_domain", hint, trust_domain);
    let bpf_root = top.or("bpf_root", DEFAULT_BPF_ROOT.into(), Value::path);
    let run_dir = top.or("run_dir", DEFAULT_RUN_DIR.into(), |value| run_dir(value, &instance));
    let state_dir = top.or("state_dir", DEFAULT_STATE_DIR.into(), Value::path);
    let identity = identity::read(top.section("identity"));
    let mesh = mesh::read(top.section("mesh"));
    let policy = settings::policy(top.section("policy"));
    // A bad trust domain is one fault, not one more in every workload.
    let domain = trust_domain.clone().unwrap_or_else(|| "invalid".to_owned());
    let modes = mode::read(top.sections("mode", mode::MAX_MODES));
    let sections = top.sections("workload", workload::MAX_WORKLOADS);
    let workloads = workload::read(sections, &domain, &modes);
    let network_rules = network_rule::read(top.sections("network_rule", MAX_RULES), &workloads);
    let limits = limits::read(top.section("limits"));
    let metrics = settings::metrics(top.section("metrics"));
    let log = settings::log(top.section("log"));
    let control = hardening::control(top.section("control"));
    let hardening = hardening::hardening(top.section("hardening"));
    top.finish();
    Some(Config {
        file: file.to_owned(),
        instance,
        trust_domain: trust_domain?,
        bpf_root,
        run_dir,
        state_dir,
        identity: identity?,
        mesh,
        policy,
        network_rules: network_rules?,
        workloads: workloads.read?,
        node_labels: BTreeMap::new(),
        limits,
        metrics,
        log,
        control,
        hardening,
    })
}

fn instance(value: &Value<'_>) -> Read<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = value.text()?;
    if name.is_empty() || name.len() > 32 || !name.chars().all(allowed) {
        return value.refuse("1 to 32 lower-case letters, digits or '-'");
    }
    Ok(name.to_owned())
}

fn trust_domain(value: &Value<'_>) -> Read<String> {
    let name = value.text()?;
    match Identity::new(name, Namespace::root(), "any", BTreeMap::new()) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => value.refuse("1 to 255 lower-case letters, digits, '.', '-' or '_'"),
    }
}

fn run_dir(value: &Value<'_>, instance: &str) -> Read<PathBuf> {
    let path = value.path()?;
    let socket = path.join(instance).join(crate::control::SOCKET_NAME);
    let bytes = socket.as_os_str().len();
    if bytes > MAX_SOCKET_PATH_BYTES {
        return value.refuse(format!(
            "a shorter folder: the control socket's path would have {bytes} bytes, \
             and Linux allows {MAX_SOCKET_PATH_BYTES}"
        ));
    }
    Ok(path)
}
