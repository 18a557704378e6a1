//! The cases beside this file: policies for one cluster, and who then reaches whom.

use serde::Deserialize;
use yaml_serde::Value;

/// Namespaces and pods that all cases speak of.
pub const CLUSTER: &str = include_str!("cluster.yaml");
/// Cases of NetworkPolicy.
pub const NETWORK_POLICIES: &str = include_str!("network_policy.yaml");
/// Cases of ClusterNetworkPolicy, alone and beside NetworkPolicy.
pub const CLUSTER_POLICIES: &str = include_str!("cluster_network_policy.yaml");

/// Policies, and what they mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique.
    pub name: String,
    /// Without kind and version.
    pub policies: Vec<Value>,
    /// Who reaches whom, for some ports.
    pub expected: Vec<Expected>,
}

/// Who reaches whom at a port.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// As `80/TCP`.
    pub port: String,
    /// Of pairs that no cell names.
    otherwise: bool,
    #[serde(default)]
    cells: Vec<Cells>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cells {
    #[serde(default = "any")]
    from: String,
    #[serde(default = "any")]
    to: String,
    allowed: bool,
}

fn any() -> String {
    "*".to_owned()
}

impl Expected {
    /// Whether `from` reaches `to`, each as `namespace/pod`. A pod reaches itself; of cells the last that means both
    /// counts.
    pub fn allows(&self, from: &str, to: &str) -> bool {
        let means = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        let named = self.cells.iter().rev().find(|c| means(&c.from, from) && means(&c.to, to));
        from == to || named.map_or(self.otherwise, |cells| cells.allowed)
    }
}

/// The cases of a file.
pub fn cases(text: &str) -> Vec<Case> {
    let documents = yaml_serde::Deserializer::from_str(text);
    let cases: Vec<Option<Case>> =
        documents.map(|document| Option::deserialize(document).unwrap()).collect();
    cases.into_iter().flatten().collect()
}

/// The cluster with policies whose kind and version are left out in the cases, as manifests.
pub fn manifests(policies: &[Value]) -> String {
    let policies = policies.iter().map(|policy| {
        let is_cluster = policy["spec"].get("tier").is_some();
        let (version, kind) = if is_cluster {
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy")
        } else {
            ("networking.k8s.io/v1", "NetworkPolicy")
        };
        let policy = yaml_serde::to_string(policy).unwrap();
        format!("---\napiVersion: {version}\nkind: {kind}\n{policy}")
    });
    std::iter::once(CLUSTER.to_owned()).chain(policies).collect()
}
