//! What a configuration points at, loaded and checked: keys, certificates, policies.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use crate::config::{
    CertificateName, Config, ConfigError, CredentialName, NetworkRuleConfig, RevocationList,
    TrustConfig,
};
use crate::identity::files::{
    load_authority_certificate, load_node_certificate, load_psk, load_signing_key,
};
use crate::identity::{
    FileError, IssueError, Issuer, Limits, NodeCertificate, Revocations, Trust, TrustError,
    Verifier, VerifyError,
};
use crate::kubernetes::Enforced;
use crate::policy::{
    NetworkRule, NetworkRuleError, NetworkRuleSpec, Policy, PolicyErrors, SourceFile, Sources,
};

/// Why the files of `[identity]` do not work together.
#[derive(Debug, Error)]
pub enum TrustLoadError {
    /// A file was refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authorities do not fit the trust domain or each other.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Nothing can be signed with these files.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The list of what is revoked was refused.
    #[error("identity.revocations: {0}")]
    Revocations(#[from] ConfigError),
    /// This node's certificate is not believed by its own authorities.
    #[error("identity.node_certificate: {0}")]
    NodeCertificate(VerifyError),
}

/// Why the policy was refused.
#[derive(Debug, Error)]
pub enum PolicyLoadError {
    /// A network rule was refused.
    #[error(transparent)]
    NetworkRule(#[from] NetworkRuleError),
    /// A policy file was refused.
    #[error(transparent)]
    Policies(#[from] PolicyErrors),
    /// A file of the staged policy was refused.
    #[error("the staged policy is refused: {0}")]
    Staged(PolicyErrors),
}

/// Whom this node believes, and what it signs with. `now` is in Unix seconds.
///
/// # Errors
/// A file is missing, malformed or open to others; the node certificate does not count now or comes from
/// another authority; key and certificate do not belong together.
pub fn load_trust(config: &Config, now: u64) -> Result<(Trust, Issuer), TrustLoadError> {
    let (trust, issuer) = load_modes(config, now)?;
    Ok((trust.revoking(load_revocations(config)?)?, issuer))
}

fn load_revocations(config: &Config) -> Result<Revocations, TrustLoadError> {
    let mut revocations = Revocations::default();
    let Some(file) = &config.identity.revocations else { return Ok(revocations) };
    let list = RevocationList::load(file)?;
    for name in list.credentials {
        match name {
            CredentialName::Hash(hash) => revocations.credentials.insert(hash),
            CredentialName::Handle(handle) => revocations.handles.insert(handle),
        };
    }
    for name in list.node_certificates {
        revocations.node_certificates.insert(match name {
            CertificateName::Hash(hash) => hash,
            CertificateName::File(file) => load_node_certificate(&file)?.hash(),
        });
    }
    revocations.namespaces.extend(list.namespaces);
    Ok(revocations)
}

fn load_modes(config: &Config, now: u64) -> Result<(Trust, Issuer), TrustLoadError> {
    let domain = &config.trust_domain;
    match &config.identity.trust {
        TrustConfig::Psk { file } => {
            let key = load_psk(file)?;
            Ok((Trust::psk(domain, key.clone())?, Issuer::psk(key, domain)?))
        }
        TrustConfig::Pki { authorities, node_certificate, node_key } => {
            let trust = load_pki(domain, authorities)?;
            let certificate = load_believed(node_certificate, &trust, now)?;
            Ok((trust, Issuer::node(load_signing_key(node_key)?, certificate)?))
        }
    }
}

fn load_pki(trust_domain: &str, authorities: &[PathBuf]) -> Result<Trust, TrustLoadError> {
    let certificates: Result<Vec<_>, FileError> =
        authorities.iter().map(|file| load_authority_certificate(file)).collect();
    Ok(Trust::pki(trust_domain, certificates?)?)
}

/// This node's certificate, if its own authorities believe it.
fn load_believed(file: &Path, trust: &Trust, now: u64) -> Result<NodeCertificate, TrustLoadError> {
    let certificate = load_node_certificate(file)?;
    Verifier::new(trust.clone())
        .verify_node_certificate(&certificate, now)
        .map_err(TrustLoadError::NodeCertificate)?;
    Ok(certificate)
}

/// The configuration on its node, whose certificate has labels that policies read. No key is read, so that who may not
/// read it can ask too. `now` is in Unix seconds.
///
/// # Errors
/// There is a certificate, and it or its authorities are refused.
pub fn on_this_node(config: &Config, now: u64) -> Result<Config, TrustLoadError> {
    let TrustConfig::Pki { authorities, node_certificate, .. } = &config.identity.trust else {
        return Ok(config.clone());
    };
    let trust = load_pki(&config.trust_domain, authorities)?;
    let certificate = load_believed(node_certificate, &trust, now)?;
    Ok(config.clone().on_node(certificate.labels()))
}

/// How long and how large this node's credentials are.
#[must_use]
pub fn credential_limits(config: &Config) -> Limits {
    Limits {
        lifetime_seconds: config.identity.credential_lifetime.as_secs(),
        max_bytes: config.identity.credential_max_bytes,
    }
}

/// The policy files and network rules of a configuration.
///
/// # Errors
/// Every finding, with file and line.
pub fn load_policy(config: &Config) -> Result<Policy, PolicyLoadError> {
    load_policy_after(None, config)
}

/// The same, taking over what an earlier policy says in the same words: quicker, with the same outcome.
///
/// # Errors
/// Every finding, with file and line.
pub fn load_policy_after(
    earlier: Option<&Policy>,
    config: &Config,
) -> Result<Policy, PolicyLoadError> {
    policy_of(earlier, config, config.policy.sources.read()?)
}

/// As [`load_policy_after`], with `files` for what the configuration names; manifests and the staged policy are read.
///
/// # Errors
/// Every finding, with file and line.
pub fn policy_of(
    earlier: Option<&Policy>,
    config: &Config,
    mut files: Vec<SourceFile>,
) -> Result<Policy, PolicyLoadError> {
    let kubernetes = config.policy.sources.read_kubernetes(mesh(config))?;
    files.extend(kubernetes.as_ref().map(Enforced::cedar));
    let policy = Policy::from_sources_after(earlier, &files, network_rules(config)?)?;
    let policy = match kubernetes {
        None => policy,
        Some(kubernetes) => policy.with_kubernetes(Arc::new(kubernetes)),
    };
    match &config.policy.staged {
        None => Ok(policy),
        Some(staged) => {
            let read = staged_files(config, staged);
            let staged = read.and_then(|files| policy.with_staged(earlier, &files));
            staged.map_err(PolicyLoadError::Staged)
        }
    }
}

fn staged_files(config: &Config, staged: &Sources) -> Result<Vec<SourceFile>, PolicyErrors> {
    let mut files = staged.read()?;
    files.extend(staged.read_kubernetes(mesh(config))?.as_ref().map(Enforced::cedar));
    Ok(files)
}

/// Where peers are known by identity when they speak TCP.
fn mesh(config: &Config) -> Vec<IpNet> {
    config.mesh.networks.iter().chain(&config.mesh.virtual_addresses).copied().collect()
}

/// The network rules of a configuration.
///
/// # Errors
/// One that makes no sense.
pub fn network_rules(config: &Config) -> Result<Vec<NetworkRule>, NetworkRuleError> {
    config.network_rules.iter().map(|rule| NetworkRule::try_from(spec(rule))).collect()
}

fn spec(rule: &NetworkRuleConfig) -> NetworkRuleSpec {
    NetworkRuleSpec {
        name: rule.name.clone(),
        namespace: rule.namespace.to_string(),
        workload: rule.workload.clone(),
        direction: rule.direction,
        cidr: rule.cidr.iter().map(ToString::to_string).collect(),
        hosts: rule.hosts.iter().map(ToString::to_string).collect(),
        protocol: rule.protocol.map_or_else(|| "any".to_owned(), |number| number.to_string()),
        ports: rule.ports.iter().map(|r| format!("{}-{}", r.start(), r.end())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::Direction::{Egress, Ingress};

    #[test]
    fn network_rules_mean_in_the_policy_what_they_say_in_the_file() {
        let text = r#"
trust_domain = "example.org"
[identity]
mode = "psk"
psk_file = "psk.key"
[[workload]]
name = "web"
namespace = "/acme"
interface = "eth0"
[[network_rule]]
name = "dns"
namespace = "/acme"
workload = "web"
direction = "egress"
cidr = ["198.51.100.53/32", "2001:db8::53/128"]
protocol = "udp"
ports = [53, "8000-8010"]
[[network_rule]]
name = "all"
direction = "ingress"
cidr = ["192.0.2.0/24"]
protocol = "any"
"#;
        let config = Config::parse(text, Path::new("e.toml"), Path::new("/")).unwrap();
        let policy = load_policy(&config).unwrap();
        let web = &config.workloads[0].identity;
        let ask = |direction, address: &str, protocol: &str, port| {
            let (address, protocol) = (address.parse().unwrap(), protocol.parse().unwrap());
            policy.networks_match(web, direction, (address, &[]), protocol, port)
        };
        assert_eq!(ask(Egress, "198.51.100.53", "udp", 53), Some("dns"));
        assert_eq!(ask(Egress, "2001:db8::53", "udp", 8005), Some("dns"));
        assert_eq!(ask(Egress, "198.51.100.53", "tcp", 53), None);
        assert_eq!(ask(Egress, "198.51.100.53", "udp", 54), None);
        assert_eq!(ask(Ingress, "198.51.100.53", "udp", 53), None);
        assert_eq!(ask(Ingress, "192.0.2.9", "icmp", 0), Some("all"));
    }
}
