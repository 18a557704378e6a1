//! `[policy]`, `[metrics]` and `[log]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::reader::{Read, Section, Value};
use crate::identity::Namespace;
use crate::policy::Sources;

/// The most files or folders of rules.
const MAX_POLICY_FILES: usize = 1024;

/// Where the rules are, and how a refusal is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Where policies are read from. Nothing: nothing is permitted by identity.
    pub sources: Sources,
    /// What is tried beside them: what it would deny is told and passes.
    pub staged: Option<Sources>,
    /// Whether both ends of a flow that lost its rule or its peer are reset, or left to time out.
    pub deny_reset: bool,
}

/// Where metrics are served beside the control socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Address of the Prometheus listener; none when absent.
    pub listen: Option<SocketAddr>,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A filter of the `tracing` form, such as `info` or `info,enforcer_user::engine=debug`.
    pub level: String,
    /// Sampled lines about denied connections, each second.
    pub denials_per_second: u32,
}

pub(super) fn policy(mut section: Section<'_>) -> PolicyConfig {
    let mut paths =
        |key| section.or(key, Vec::new(), |value| value.list(MAX_POLICY_FILES, Value::path));
    let (files, owners, kubernetes) = (paths("files"), paths("owners"), paths("kubernetes"));
    let (staged_files, staged_kubernetes) = (paths("staged"), paths("staged_kubernetes"));
    let tree = section.optional("tree", Value::path);
    let staged_tree = section.optional("staged_tree", Value::path);
    let kubernetes_namespace =
        section.or("kubernetes_namespace", Namespace::root(), super::workload::namespace);
    let sources = Sources { files, tree, owners, kubernetes, kubernetes_namespace };
    let staged = staged(&sources, staged_files, staged_tree, staged_kubernetes);
    let deny_reset = section.or("deny_reset", true, Value::boolean);
    section.finish();
    PolicyConfig { sources, staged, deny_reset }
}

/// Of what is tried beside: files and tree, or manifests, are those in force where none is named.
fn staged(
    sources: &Sources,
    files: Vec<PathBuf>,
    tree: Option<PathBuf>,
    kubernetes: Vec<PathBuf>,
) -> Option<Sources> {
    let (has_files, has_manifests) = (!files.is_empty() || tree.is_some(), !kubernetes.is_empty());
    let mut staged = sources.clone();
    if has_files {
        // They say who may write in a tree.
        let owners = if tree.is_some() { staged.owners } else { Vec::new() };
        staged = Sources { files, tree, owners, ..staged };
    }
    if has_manifests {
        staged.kubernetes = kubernetes;
    }
    (has_files || has_manifests).then_some(staged)
}

pub(super) fn metrics(mut section: Section<'_>) -> MetricsConfig {
    let expected = "an address and port such as \"127.0.0.1:9464\"";
    let listen = section.optional("listen", |value| value.parsed(expected));
    section.finish();
    MetricsConfig { listen }
}

pub(super) fn log(mut section: Section<'_>) -> LogConfig {
    let level = section.or("level", "info".to_owned(), filter);
    let denials_per_second = section.or("denials_per_second", 10, |v| v.integer(&(0..=10_000)));
    section.finish();
    LogConfig { level, denials_per_second }
}

fn filter(value: &Value<'_>) -> Read<String> {
    let text = value.text()?;
    match EnvFilter::try_new(text) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => value.refuse("a filter such as \"info\" or \"warn,enforcer_user=debug\""),
    }
}
