//! What the control socket says: the JSON bodies of version 1.
//!
//! Times of day are Unix seconds, spans are seconds, handles are 16 lower-case hexadecimal digits in the
//! order of their bytes. Fields are only ever added; a reader ignores those it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::{NameError, Namespace};
use crate::policy::Whom;

/// `GET /v1/status`: whether this enforcer does its work, and how much of it there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The daemon's version.
    pub version: String,
    /// The layout version of the pinned maps.
    pub abi: u32,
    /// The instance's name.
    pub instance: String,
    /// `pki` or `psk`.
    pub mode: String,
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// The daemon's process.
    pub pid: u32,
    /// Whether every workload whose interface is there is attached and enforced.
    pub ready: bool,
    /// Why not; empty when ready.
    pub reasons_not_ready: Vec<String>,
    /// Workloads whose interface is not there: they are enforced as soon as it comes.
    #[serde(default)]
    pub waiting: Vec<String>,
    /// What else does not work, such as a policy that was refused while the one before it holds.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Since the daemon started.
    pub uptime_seconds: u64,
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// How each workload's interface is hooked.
    pub attach: Vec<AttachReport>,
    /// The epoch under which the kernel accepts verdicts.
    pub epoch: u64,
    /// How often the policy was loaded.
    pub policy_generation: u64,
    /// What is allowed or denied for a while, whatever the rules say.
    #[serde(default)]
    pub overrides: Vec<String>,
    /// Identity rules loaded.
    pub policies: u64,
    /// Network rules loaded.
    pub network_rules: u64,
    /// Workloads of this node.
    pub workloads: u64,
    /// Entries of the flow tables, both families.
    pub flows: u64,
    /// Half-open handshakes.
    pub attempts: u64,
    /// Pairs whose key is known.
    pub peers: u64,
    /// Cached policy answers.
    pub verdicts: u64,
    /// When the node certificate ends; absent with a pre-shared key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_certificate_expires_unix: Option<u64>,
}

/// How one workload's interface is hooked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachReport {
    /// The workload's name.
    pub workload: String,
    /// The interface.
    pub interface: String,
    /// `enforce`, or `observe`: what the policy denies is reported and passes.
    #[serde(default)]
    pub mode: String,
    /// The method, absent while the interface is not hooked.
    pub method: Option<AttachMethod>,
    /// Where the guard runs, `native` or `generic`, or `missing` (`problems` says why); absent if there is
    /// to be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
}

/// The kernel's way to hook a program to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMethod {
    /// A link of the multi-program chain (Linux 6.6, commit e420bed02507).
    Tcx,
    /// A filter of the `clsact` queueing discipline.
    Clsact,
}

impl AttachMethod {
    /// The word used in JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One entry of `GET /v1/workloads`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadReport {
    /// Its name inside its namespace.
    pub name: String,
    /// The id that keys the kernel's maps.
    pub id: u32,
    /// `spiffe://trust-domain/namespace/name`.
    pub spiffe_id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What else is known of it: `image`, `executable`, `user`, and labels of its node as `node.zone`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The network interface.
    pub interface: String,
    /// `own` or `host`.
    pub side: String,
    /// Addresses it may use.
    pub addresses: Vec<String>,
    /// `enforce` or `observe`.
    pub mode: String,
    /// Handle of its current credential; absent before the first one.
    pub credential_handle: Option<String>,
    /// When that credential ends.
    pub credential_expires_unix: Option<u64>,
    /// How its interface is hooked; absent while it is not.
    pub attached: Option<AttachMethod>,
}

/// `GET /v1/flows`: one page of live flows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsReport {
    /// At most as many as were asked for.
    pub flows: Vec<FlowReport>,
    /// How many there are, as far as the query's workload goes.
    pub total: u64,
}

/// One live flow, seen from its workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// The workload's name.
    pub workload: String,
    /// `egress` when the workload called, else `ingress`.
    pub direction: String,
    /// `tcp`, `udp` or another protocol's name or number.
    pub protocol: String,
    /// The workload's address and port.
    pub local: String,
    /// The other end's address and port.
    pub remote: String,
    /// The peer's SPIFFE ID; absent where a network rule carries the flow.
    pub peer: Option<String>,
    /// The state's name.
    pub state: String,
    /// The epoch whose verdict carries it.
    pub epoch: u64,
    /// Packets in both directions.
    pub packets: u64,
    /// Bytes in both directions.
    pub bytes: u64,
    /// Since its last packet.
    pub idle_seconds: u64,
}

/// Which flows are asked for: the query of `GET /v1/flows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowQuery {
    /// The most flows to return, 1 to [`MAX_FLOW_LIMIT`].
    pub limit: usize,
    /// Only those of this workload.
    pub workload: Option<String>,
}

/// Flows in one answer when the query does not say.
pub const DEFAULT_FLOW_LIMIT: usize = 1000;
/// The most flows in one answer, about 40 MB of JSON.
pub const MAX_FLOW_LIMIT: usize = 131_072;

impl Default for FlowQuery {
    fn default() -> Self {
        Self { limit: DEFAULT_FLOW_LIMIT, workload: None }
    }
}

/// One entry of `GET /v1/identities`: a peer whose pair key is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityReport {
    /// Handle of the peer's credential.
    pub handle: String,
    /// The peer's SPIFFE ID.
    pub spiffe_id: String,
    /// The labels its credential carries.
    pub labels: BTreeMap<String, String>,
    /// What else is known of it: `image`, `executable`, `user`, and labels of its node as `node.zone`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The local workload of the pair.
    pub workload: String,
    /// When the peer's credential ends.
    pub expires_unix: u64,
}

/// One entry of `GET /v1/hosts`: an address that is open to a workload because a network rule names its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The workload's path.
    pub workload: String,
    /// The host's name, as it was asked for.
    pub host: String,
    /// The address.
    pub address: String,
    /// Until when it counts; longer if a connection stands on it then.
    pub expires_unix: u64,
}

/// `GET /v1/counters`. Counters only ever grow while the maps stay pinned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersReport {
    /// Segments dropped, by the reason's name.
    pub drops: BTreeMap<String, u64>,
    /// What else happened, by the event's name.
    pub events: BTreeMap<String, u64>,
    /// The same by workload: name of the workload, name of the counter.
    pub per_workload: BTreeMap<String, BTreeMap<String, u64>>,
}

/// `POST /v1/explain`: what would be decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// The caller: a SPIFFE ID, or the name of a workload of this node.
    #[serde(default)]
    pub from: String,
    /// The callee, likewise.
    #[serde(default)]
    pub to: String,
    /// The callee's port.
    #[serde(default)]
    pub port: u16,
    /// Instead of these, the number of a denial that is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denial: Option<u64>,
    /// Instead of these, a flow that lives: `LOCAL,REMOTE` as `GET /v1/flows` tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// `tcp` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Labels of a caller that the daemon does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from_labels: BTreeMap<String, String>,
    /// Labels of a callee that the daemon does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub to_labels: BTreeMap<String, String>,
    /// What else is known of such a caller: `image`, `executable`, `user`, and labels of its node as `node.zone`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from_attributes: BTreeMap<String, String>,
    /// What else is known of such a callee.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub to_attributes: BTreeMap<String, String>,
}

impl ExplainRequest {
    /// Whether it says whom it is about.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_of_the_daemon() || !(self.from.is_empty() || self.to.is_empty())
    }

    /// Whether only a daemon that runs can answer it.
    #[must_use]
    pub fn is_of_the_daemon(&self) -> bool {
        self.denial.is_some() || self.flow.is_some()
    }
}

/// The answer to an [`ExplainRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// Whether the connection would be permitted.
    pub allow: bool,
    /// The whole answer in words.
    pub text: String,
    /// The caller's SPIFFE ID.
    pub from: String,
    /// The callee's SPIFFE ID.
    pub to: String,
    /// The rules that decided, each as `file:line name`.
    pub rules: Vec<String>,
    /// What kept a `permit` from holding: claims that are missing, or conditions that failed.
    pub missing: Vec<String>,
    /// What this node's policy says as the caller's.
    #[serde(default)]
    pub connect: ExplainedEnd,
    /// What it says as the callee's.
    #[serde(default)]
    pub accept: ExplainedEnd,
}

/// One end of an [`ExplainReport`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedEnd {
    /// Whether the connection would be permitted there.
    pub allow: bool,
    /// The rules that decided there.
    pub rules: Vec<String>,
    /// What kept a `permit` from holding there.
    pub missing: Vec<String>,
}

/// The answer to `POST /v1/reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Whether the rules differ from those before.
    pub changed: bool,
    /// The epoch now in force.
    pub epoch: u64,
    /// How often the policy was loaded.
    pub policy_generation: u64,
    /// Cached verdicts that were judged again.
    pub rejudged: u64,
    /// Live flows that lost their rule and were reset.
    pub flows_cut: u64,
}

/// `GET /v1/policy`: one file of policies, as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFileReport {
    /// Where it was read from.
    pub file: String,
    /// The namespace that it belongs to.
    pub namespace: String,
    /// Its rules.
    pub rules: usize,
}

/// `PUT` and `DELETE /v1/policy/NAMESPACE/NAME.cedar`: a file of the policy tree is written or removed, and what
/// is then there put in force; or nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChange {
    /// Whose connection it came by.
    pub uid: u32,
    /// The namespace that the file belongs to.
    pub namespace: Namespace,
    /// The file's name in the folder of that namespace.
    pub name: String,
    /// What is to stand in it; none to remove it.
    pub text: Option<String>,
}

impl PolicyChange {
    /// The most bytes of a file's name.
    const MAX_NAME_BYTES: usize = 128;

    /// Reads `/NAMESPACE/NAME.cedar`, the part of the route behind `/v1/policy`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(uid: u32, path: &str, text: Option<String>) -> Result<Self, String> {
        let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
        let namespace = if namespace.is_empty() { "/" } else { namespace };
        let namespace: Namespace =
            namespace.parse().map_err(|error: NameError| error.to_string())?;
        if namespace.segments().any(|segment| segment.starts_with('.')) {
            return Err(format!(
                "namespace {namespace}: folders that begin with a dot are not read"
            ));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let good = name.len() <= Self::MAX_NAME_BYTES
            && name.strip_suffix(".cedar").is_some_and(|stem| !stem.is_empty())
            && !name.starts_with('.')
            && name.bytes().all(plain);
        if !good {
            return Err(format!(
                "file {name:?}: expected a name of letters, digits, '-', '_' and '.' that ends in .cedar and has at \
                 most {} bytes",
                Self::MAX_NAME_BYTES
            ));
        }
        Ok(Self { uid, namespace, name: name.to_owned(), text })
    }
}

/// `GET /v1/observed` and `/v1/denied`: something that would have been denied and passed, or was denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedReport {
    /// By which `enforcer explain --denial` asks for it.
    #[serde(default)]
    pub number: u64,
    /// The caller's SPIFFE ID.
    pub from: String,
    /// The callee's SPIFFE ID.
    pub to: String,
    /// The callee's port.
    pub port: u16,
    /// Which end is this node's: `connect` for the caller's, `accept` for the callee's.
    pub action: String,
    /// The rules that would have denied it, or what is missing.
    pub because: String,
    /// When the policy was first asked.
    pub first_unix: u64,
    /// When it was last asked.
    pub last_unix: u64,
    /// How often it was asked; connections on a cached answer do not ask.
    pub times: u64,
}

/// `POST /v1/overrides`: something is to be allowed or denied for a while, whatever the rules say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideRequest {
    /// Whether it is to be allowed, or denied.
    pub allow: bool,
    /// Who calls.
    pub from: Whom,
    /// Who is called.
    pub to: Whom,
    /// The callee's port; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// For how long.
    pub seconds: u64,
    /// Why.
    pub reason: String,
}

/// The body of every refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// What was refused, the value found, what was expected, the next step.
    pub error: String,
}
