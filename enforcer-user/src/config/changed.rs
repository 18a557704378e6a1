//! A configuration that was changed under a running daemon: what of it can be put in force at once.

use std::collections::BTreeSet;

use super::{Config, IdentityConfig, PolicyConfig, WorkloadConfig};

impl Config {
    /// This configuration with all of `new` that a running daemon takes over in one step: trust and
    /// revocations, policy files, network rules and mesh; and the workloads that are new or gone.
    #[must_use]
    pub fn taking_over(&self, new: &Self) -> Self {
        let workloads = new.workloads.iter().map(|one| self.same_path(one).unwrap_or(one).clone());
        Self {
            identity: IdentityConfig {
                trust: new.identity.trust.clone(),
                revocations: new.identity.revocations.clone(),
                ..self.identity.clone()
            },
            mesh: new.mesh.clone(),
            policy: PolicyConfig {
                sources: new.policy.sources.clone(),
                staged: new.policy.staged.clone(),
                ..self.policy.clone()
            },
            network_rules: new.network_rules.clone(),
            workloads: workloads.collect(),
            ..self.clone()
        }
    }

    /// The fields in which `new` differs and which only a start reads.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<String> {
        let (identity, policy) = (&self.identity, &self.policy);
        let fields = [
            ("instance", self.instance != new.instance),
            ("trust_domain", self.trust_domain != new.trust_domain),
            ("bpf_root", self.bpf_root != new.bpf_root),
            ("run_dir", self.run_dir != new.run_dir),
            ("state_dir", self.state_dir != new.state_dir),
            (
                "identity.credential_lifetime_seconds",
                identity.credential_lifetime != new.identity.credential_lifetime,
            ),
            (
                "identity.credential_max_bytes",
                identity.credential_max_bytes != new.identity.credential_max_bytes,
            ),
            ("policy.deny_reset", policy.deny_reset != new.policy.deny_reset),
            ("[limits]", self.limits != new.limits),
            ("[metrics]", self.metrics != new.metrics),
            ("[log]", self.log != new.log),
            ("[control]", self.control != new.control),
            ("[hardening]", self.hardening != new.hardening),
        ];
        let mut needed: Vec<String> = fields
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(field, _)| field.to_owned())
            .collect();
        let changed =
            new.workloads.iter().filter(|one| self.same_path(one).is_some_and(|s| s != *one));
        needed.extend(changed.map(|one| format!("workload {:?}", one.identity.name())));
        needed
    }

    /// The workloads of `self` that `new` has not.
    #[must_use]
    pub fn gone<'a>(&'a self, new: &Self) -> Vec<&'a WorkloadConfig> {
        let paths: BTreeSet<String> = new.workloads.iter().map(|one| one.identity.path()).collect();
        self.workloads.iter().filter(|one| !paths.contains(&one.identity.path())).collect()
    }

    fn same_path(&self, workload: &WorkloadConfig) -> Option<&WorkloadConfig> {
        let path = workload.identity.path();
        self.workloads.iter().find(|one| one.identity.path() == path)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"
trust_domain = "example.org"
[identity]
mode = "psk"
psk_file = "psk.key"
[[workload]]
name = "web"
namespace = "/acme"
interface = "eth0"
"#;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("e.toml"), Path::new("/")).unwrap()
    }

    #[test]
    fn what_can_be_taken_over_is_and_the_rest_is_named() {
        let old = parse(TEXT);
        assert!(old.needs_restart(&old).is_empty());
        let text = TEXT
            .replace(
                "psk.key\"",
                "other.key\"\nrevocations = \"r\"\ncredential_lifetime_seconds = 60",
            )
            .replace("eth0", "eth1");
        let text = format!(
            "{text}[[workload]]\nname = \"api\"\nnamespace = \"/acme\"\ninterface = \"eth2\"\n\
             [mesh]\nnetworks = [\"192.0.2.0/24\"]\n[log]\nlevel = \"debug\"\n\
             [policy]\nfiles = [\"p\"]\ndeny_reset = false"
        );
        let new = parse(&text);
        let taken = old.taking_over(&new);
        assert_eq!(
            (&taken.identity.trust, &taken.identity.revocations),
            (&new.identity.trust, &new.identity.revocations)
        );
        assert_eq!((&taken.mesh, &taken.policy.sources), (&new.mesh, &new.policy.sources));
        let names: Vec<&str> = taken.workloads.iter().map(|one| one.identity.name()).collect();
        assert_eq!(names, ["web", "api"]);
        assert_eq!(taken.workloads[0].interface, "eth0", "read at the start only");
        assert!(taken.policy.deny_reset);
        assert_eq!(
            taken.needs_restart(&new),
            [
                "identity.credential_lifetime_seconds",
                "policy.deny_reset",
                "[log]",
                "workload \"web\""
            ]
        );
        assert!(old.gone(&new).is_empty());
        let empty = Config { workloads: Vec::new(), ..old.clone() };
        assert_eq!(old.gone(&empty).len(), 1);
    }
}
