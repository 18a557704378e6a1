//! The configuration file of a daemon under test, written from values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::keys::{NodeFiles, NodeKeys, Pki};
use crate::topology::{INTERFACE, MESH_NETWORKS};

/// Everything of the enforcer's own, without the thousands of lines that the loader says about relocations.
const LOG_LEVEL: &str = "debug,aya=info,aya_obj=info";

/// What a test says of a daemon; the harness adds the instance, its folders and the policy file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's identity files.
    pub keys: NodeKeys,
    /// The text of the policy file.
    pub policy: String,
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// Rules for what has no identity.
    pub network_rules: Vec<NetworkRule>,
    /// Destinations that may answer from another address, as CIDRs.
    pub virtual_addresses: Vec<String>,
    /// The mesh networks, as CIDRs; all documentation ranges unless told.
    pub mesh: Vec<String>,
    /// Keys of `[limits]`.
    pub limits: BTreeMap<String, u64>,
    /// How long credentials live.
    pub credential_lifetime_seconds: u64,
    /// Whether verified but denied peers are reset.
    pub deny_reset: bool,
    /// What the daemon logs.
    pub log_level: &'static str,
    /// Who may write where in the policy tree, in Cedar; not asked unless told.
    pub owners: Option<String>,
    /// A policy that is tried beside the one in force.
    pub staged: Option<String>,
    /// Kubernetes manifests whose policies are enforced.
    pub manifests: Option<String>,
    /// The group that may read from the control socket.
    pub control_group: Option<&'static str>,
    /// The list of what is revoked.
    pub revocations: Option<PathBuf>,
    /// What happens to system calls that the daemon has no use for; the default unless told.
    pub seccomp: Option<&'static str>,
}

impl Config {
    /// A node with one workload and a policy.
    #[must_use]
    pub fn new(keys: NodeKeys, workload: Workload, policy: &str) -> Self {
        Self {
            keys,
            policy: policy.to_owned(),
            workloads: vec![workload],
            network_rules: Vec::new(),
            virtual_addresses: Vec::new(),
            mesh: MESH_NETWORKS.map(str::to_owned).to_vec(),
            limits: BTreeMap::new(),
            credential_lifetime_seconds: 3600,
            deny_reset: true,
            log_level: LOG_LEVEL,
            owners: None,
            staged: None,
            manifests: None,
            control_group: None,
            revocations: None,
            seccomp: None,
        }
    }

    /// The same with another network rule.
    #[must_use]
    pub fn rule(mut self, rule: NetworkRule) -> Self {
        self.network_rules.push(rule);
        self
    }

    /// The same with another virtual address.
    #[must_use]
    pub fn virtual_address(mut self, cidr: &str) -> Self {
        self.virtual_addresses.push(cidr.to_owned());
        self
    }

    /// The same with every workload in this mode.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        for workload in &mut self.workloads {
            workload.mode = mode;
        }
        self
    }

    /// The same with a guard in front of every workload's stack.
    #[must_use]
    pub fn guarded(mut self) -> Self {
        self.workloads = self.workloads.into_iter().map(Workload::guarded).collect();
        self
    }

    /// The same with this treatment of connections that are open at the first attach.
    #[must_use]
    pub fn existing(mut self, existing: Existing) -> Self {
        for workload in &mut self.workloads {
            workload.existing = existing;
        }
        self
    }

    /// The file as the daemon reads it.
    pub fn to_toml(&self, place: &Place) -> anyhow::Result<String> {
        Ok(toml::to_string(&ConfigFile::new(self, place))?)
    }
}

/// Where a daemon keeps what it makes: unique for each.
#[derive(Debug, Clone)]
pub struct Place {
    /// Names the pin folder and the run folder.
    pub instance: String,
    /// The folder of pin folders.
    pub bpf_root: PathBuf,
    /// The folder of run folders.
    pub run_dir: PathBuf,
    /// The folder of what lasts.
    pub state_dir: PathBuf,
    /// The folder of policy files.
    pub policy: PathBuf,
    /// The folder whose folders are namespaces.
    pub tree: PathBuf,
    /// The file of who may write where.
    pub owners: PathBuf,
    /// The file of the policy that is tried.
    pub staged: PathBuf,
    /// The file of the manifests.
    pub manifests: PathBuf,
}

/// A workload and the interface it is enforced at.
#[derive(Debug, Clone, Serialize)]
pub struct Workload {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    attributes: BTreeMap<String, String>,
    interface: String,
    side: Side,
    addresses: Vec<String>,
    mode: Mode,
    existing: Existing,
    /// The key is not for the host side of a veth.
    #[serde(skip_serializing_if = "Option::is_none")]
    guard: Option<bool>,
}

impl Workload {
    /// A workload that is the whole host: enforced at its own [`INTERFACE`].
    #[must_use]
    pub fn own(namespace: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            labels: BTreeMap::new(),
            attributes: BTreeMap::new(),
            interface: INTERFACE.to_owned(),
            side: Side::Own,
            addresses: Vec::new(),
            mode: Mode::Enforce,
            existing: Existing::Reset,
            guard: None,
        }
    }

    /// A workload behind a veth, enforced at its host side.
    #[must_use]
    pub fn behind(namespace: &str, name: &str, interface: &str, addresses: &[String]) -> Self {
        Self {
            interface: interface.to_owned(),
            side: Side::Host,
            addresses: addresses.to_vec(),
            ..Self::own(namespace, name)
        }
    }

    /// The same at another interface.
    #[must_use]
    pub fn at(mut self, interface: &str) -> Self {
        interface.clone_into(&mut self.interface);
        self
    }

    /// The same with a guard in front of the stack.
    #[must_use]
    pub fn guarded(mut self) -> Self {
        self.guard = Some(true);
        self
    }

    /// The same with these addresses, whatever its interface has.
    #[must_use]
    pub fn addresses(mut self, addresses: &[String]) -> Self {
        self.addresses = addresses.to_vec();
        self
    }

    /// The same with another label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same with another attribute: `image`, `executable` or `user`.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{}{}/{}", Pki::TRUST_DOMAIN, self.namespace, self.name)
    }
}

/// Which end of a link the interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The workload's own.
    Own,
    /// The host side of the workload's veth.
    Host,
}

/// What happens to what the policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is denied.
    Enforce,
    /// It passes and is reported.
    Observe,
    /// It passes, is reported, and is remembered.
    Learn,
}

/// What happens to connections that are open at the first attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Existing {
    /// They are reset.
    Reset,
    /// They go on.
    Adopt,
}

/// A rule for what has no identity.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkRule {
    name: String,
    direction: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cidr: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<String>,
}

impl NetworkRule {
    /// Allows workloads to reach a port of these addresses.
    #[must_use]
    pub fn egress(name: &str, protocol: &'static str, cidr: &str, port: u16) -> Self {
        Self::new(name, "egress", protocol, cidr, port)
    }

    /// Allows these addresses to reach a port of the workloads.
    #[must_use]
    pub fn ingress(name: &str, protocol: &'static str, cidr: &str, port: u16) -> Self {
        Self::new(name, "ingress", protocol, cidr, port)
    }

    /// Allows workloads to reach a TCP port of hosts of these names.
    #[must_use]
    pub fn to_hosts(name: &str, hosts: &[&str], port: u16) -> Self {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Self { cidr: Vec::new(), hosts, ..Self::egress(name, "tcp", "", port) }
    }

    /// The same for these addresses too.
    #[must_use]
    pub fn and(mut self, cidr: &str) -> Self {
        self.cidr.push(cidr.to_owned());
        self
    }

    fn new(
        name: &str,
        direction: &'static str,
        protocol: &'static str,
        cidr: &str,
        port: u16,
    ) -> Self {
        Self {
            name: name.to_owned(),
            direction,
            cidr: vec![cidr.to_owned()],
            hosts: Vec::new(),
            protocol,
            ports: vec![port.to_string()],
        }
    }
}

#[derive(Serialize)]
struct ConfigFile<'a> {
    instance: &'a str,
    trust_domain: &'static str,
    bpf_root: &'a PathBuf,
    run_dir: &'a PathBuf,
    state_dir: &'a PathBuf,
    identity: IdentitySection<'a>,
    mesh: MeshSection<'a>,
    policy: PolicySection<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    limits: &'a BTreeMap<String, u64>,
    log: LogSection,
    control: ControlSection,
    hardening: HardeningSection,
    // An empty list would keep tests from appending tables.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    network_rule: &'a [NetworkRule],
    workload: &'a [Workload],
}

#[derive(Serialize)]
struct IdentitySection<'a> {
    mode: &'static str,
    credential_lifetime_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocations: Option<&'a PathBuf>,
    #[serde(flatten)]
    files: IdentityFiles<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum IdentityFiles<'a> {
    Psk { psk_file: &'a PathBuf },
    Pki { authority: &'a [PathBuf], node_certificate: &'a PathBuf, node_key: &'a PathBuf },
}

#[derive(Serialize)]
struct MeshSection<'a> {
    networks: &'a [String],
    virtual_addresses: &'a [String],
}

#[derive(Serialize)]
struct PolicySection<'a> {
    files: [&'a PathBuf; 1],
    tree: &'a PathBuf,
    owners: Vec<&'a PathBuf>,
    staged: Vec<&'a PathBuf>,
    kubernetes: Vec<&'a PathBuf>,
    deny_reset: bool,
}

#[derive(Serialize)]
struct ControlSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'static str>,
}

#[derive(Serialize)]
struct HardeningSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<&'static str>,
}

#[derive(Serialize)]
struct LogSection {
    level: &'static str,
}

impl<'a> ConfigFile<'a> {
    fn new(config: &'a Config, place: &'a Place) -> Self {
        Self {
            instance: &place.instance,
            trust_domain: Pki::TRUST_DOMAIN,
            bpf_root: &place.bpf_root,
            run_dir: &place.run_dir,
            state_dir: &place.state_dir,
            identity: IdentitySection::new(config),
            mesh: MeshSection {
                networks: &config.mesh,
                virtual_addresses: &config.virtual_addresses,
            },
            policy: PolicySection {
                files: [&place.policy],
                tree: &place.tree,
                owners: config.owners.iter().map(|_| &place.owners).collect(),
                staged: config.staged.iter().map(|_| &place.staged).collect(),
                kubernetes: config.manifests.iter().map(|_| &place.manifests).collect(),
                deny_reset: config.deny_reset,
            },
            limits: &config.limits,
            log: LogSection { level: config.log_level },
            control: ControlSection { group: config.control_group },
            hardening: HardeningSection { seccomp: config.seccomp },
            network_rule: &config.network_rules,
            workload: &config.workloads,
        }
    }
}

impl<'a> IdentitySection<'a> {
    fn new(config: &'a Config) -> Self {
        let (mode, files) = match &config.keys.files {
            NodeFiles::Psk { psk_file } => ("psk", IdentityFiles::Psk { psk_file }),
            NodeFiles::Pki { authorities, certificate, key } => (
                "pki",
                IdentityFiles::Pki {
                    authority: authorities,
                    node_certificate: certificate,
                    node_key: key,
                },
            ),
        };
        Self {
            mode,
            credential_lifetime_seconds: config.credential_lifetime_seconds,
            revocations: config.revocations.as_ref(),
            files,
        }
    }
}
