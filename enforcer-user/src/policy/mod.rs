//! Who may connect to whom: Cedar policies on identities, and network rules for what has none.
//!
//! `files -> parse -> validate -> index -> decide`. A loaded policy never changes; a reload makes
//! a new one, or an error and nothing else.

mod active;
mod annotations;
mod asked;
mod compile;
mod dependencies;
mod error;
mod explain;
mod facts;
mod governs;
mod index;
mod literals;
mod names;
mod native;
mod nesting;
pub mod network;
mod overrides;
mod owners;
mod parse;
mod protocol;
pub mod prove;
mod request;
mod rule;
mod schema;
mod set;
mod source;
mod statements;
mod text;
mod tree;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

pub use annotations::Obligations;
pub use error::{PolicyError, PolicyErrors};
pub use explain::{BothEnds, Explanation, Failure, NearMiss, UNENCRYPTED};
pub use names::nearest;
pub use network::{Direction, NetworkRule, NetworkRuleError, NetworkRuleSpec, NetworkTable};
pub use overrides::{MAX_OVERRIDE_SECONDS, MAX_OVERRIDES, Override, Whom, WhomError};
pub use owners::{Owners, Writer};
pub use protocol::{Protocol, ProtocolError};
pub use request::{Action, Request, datetime};
pub use rule::{Effect, Rule, RuleReference};
pub use set::{Decision, Outside, PolicySet, RuleFailure};
pub use source::{SourceFile, Sources, check_size};
pub use text::{attribute, quoted};
pub use tree::Place;

use self::overrides::overriding;
use crate::identity::Identity;
use crate::kubernetes::Enforced;

/// Everything that decides: the policies, the network rules, what overrides them, and a name for this state of all.
///
/// Immutable; shared between threads in an `Arc`.
#[derive(Debug)]
pub struct Policy {
    set: Arc<PolicySet>,
    network_rules: Vec<NetworkRule>,
    /// What policies of a cluster open for peers without an identity; between those with one they are in the set.
    kubernetes: Option<Arc<Enforced>>,
    overrides: Vec<Override>,
    /// What is tried beside the policies in force.
    staged: Option<Arc<PolicySet>>,
    /// Of policies and network rules.
    rules: Generation,
    generation: Generation,
}

/// BLAKE3 over all policy texts and network rules: equal input, equal generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation([u8; 32]);

impl Policy {
    /// Reads and checks all files; one finding anywhere refuses the whole.
    pub fn load(sources: &Sources, rules: Vec<NetworkRule>) -> Result<Self, PolicyErrors> {
        Self::load_after(None, sources, rules)
    }

    /// The same, taking over what an earlier policy says in the same words: quicker, with the same outcome.
    pub fn load_after(
        earlier: Option<&Self>,
        sources: &Sources,
        rules: Vec<NetworkRule>,
    ) -> Result<Self, PolicyErrors> {
        Self::from_sources_after(earlier, &sources.read()?, rules)
    }

    /// As [`Policy::load`], from texts already at hand.
    pub fn from_sources(
        files: &[SourceFile],
        network_rules: Vec<NetworkRule>,
    ) -> Result<Self, PolicyErrors> {
        Self::from_sources_after(None, files, network_rules)
    }

    /// As [`Policy::load_after`], from texts already at hand.
    pub fn from_sources_after(
        earlier: Option<&Self>,
        files: &[SourceFile],
        network_rules: Vec<NetworkRule>,
    ) -> Result<Self, PolicyErrors> {
        network::check_rules(&network_rules)
            .map_err(|error| PolicyError::general(error.to_string()))?;
        let set = PolicySet::from_sources_after(earlier.map(|policy| &*policy.set), files)?;
        let generation = Generation::of(files, &network_rules);
        let (set, overrides, rules) = (Arc::new(set), Vec::new(), generation);
        let (kubernetes, staged) = (None, None);
        Ok(Self { set, network_rules, kubernetes, overrides, staged, rules, generation })
    }

    /// The same policy where these policies of a cluster open networks too; their Cedar must be among its files.
    #[must_use]
    pub fn with_kubernetes(self, kubernetes: Arc<Enforced>) -> Self {
        let rules = self.rules.beside(&kubernetes.fingerprint());
        let generation = rules.with(&self.overrides);
        Self { kubernetes: Some(kubernetes), rules, generation, ..self }
    }

    /// The same policy with these tried beside it.
    pub fn with_staged(
        self,
        earlier: Option<&Self>,
        files: &[SourceFile],
    ) -> Result<Self, PolicyErrors> {
        let earlier = earlier.and_then(|policy| policy.staged.as_deref());
        let staged = PolicySet::from_sources_after(earlier, files)?;
        let rules = Generation::of_both(self.rules, Generation::of(files, &[]));
        let generation = rules.with(&self.overrides);
        Ok(Self { staged: Some(Arc::new(staged)), rules, generation, ..self })
    }

    /// The same policy with these overrides and no others.
    pub fn with_overrides(&self, overrides: Vec<Override>) -> Result<Self, PolicyErrors> {
        overrides::check(&overrides)?;
        Ok(Self {
            set: Arc::clone(&self.set),
            network_rules: self.network_rules.clone(),
            kubernetes: self.kubernetes.clone(),
            staged: self.staged.clone(),
            generation: self.rules.with(&overrides),
            overrides,
            rules: self.rules,
        })
    }

    /// May the caller connect to the callee, or the callee accept? Default deny.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision<'_> {
        let by_rules = self.beside_staged(self.set.decide(request), request);
        // What cannot be asked cannot be allowed.
        if self.overrides.is_empty() || by_rules.refused.is_some() {
            return by_rules;
        }
        let found = overriding(&self.overrides, request);
        Decision {
            allow: found.by.map_or(by_rules.allow, |by| by.allow),
            valid_until: found.until.into_iter().chain(by_rules.valid_until).min(),
            port_matters: by_rules.port_matters || found.port_matters,
            overridden: found.by,
            ..by_rules
        }
    }

    /// The decision with what the staged policy says against it.
    fn beside_staged<'a>(&'a self, decision: Decision<'a>, request: &Request<'_>) -> Decision<'a> {
        let Some(staged) = &self.staged else { return decision };
        let other = staged.decide(request);
        Decision {
            valid_until: decision.valid_until.into_iter().chain(other.valid_until).min(),
            port_matters: decision.port_matters || other.port_matters,
            staged: (decision.allow && !other.allow).then(|| Box::new(other)),
            ..decision
        }
    }

    /// Why the request is allowed or denied, in words.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let mut by_rules = self.set.explain(request);
        let staged = self.staged.as_ref().map(|staged| staged.explain(request));
        by_rules.staged = staged.filter(|staged| by_rules.allow && !staged.allow).map(Box::new);
        let found = overriding(&self.overrides, request);
        match found.by.filter(|_| by_rules.refused.is_none()) {
            Some(by) => by_rules.overridden_by(by),
            None => by_rules,
        }
    }

    /// The policies of a cluster among those in force.
    #[must_use]
    pub fn kubernetes(&self) -> Option<&Enforced> {
        self.kubernetes.as_deref()
    }

    /// The policies that are tried beside those in force.
    #[must_use]
    pub fn staged(&self) -> Option<&PolicySet> {
        self.staged.as_deref()
    }

    /// What root said for a while over the rules.
    #[must_use]
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }

    /// The same at both ends, whichever is asked for.
    #[must_use]
    pub fn explain_both(&self, request: &Request<'_>) -> BothEnds {
        let explain = |action| self.explain(&Request { action, ..*request });
        BothEnds { connect: explain(Action::Connect), accept: explain(Action::Accept) }
    }

    /// The policies.
    #[must_use]
    pub fn set(&self) -> &PolicySet {
        &self.set
    }

    /// The network rules, in the order of the configuration.
    #[must_use]
    pub fn network_rules(&self) -> &[NetworkRule] {
        &self.network_rules
    }

    /// The network rules of one workload, for the kernel's longest-prefix map.
    pub fn network_table(&self, workload: &Identity) -> Result<NetworkTable, NetworkRuleError> {
        let mut others =
            self.kubernetes.as_ref().and_then(|kubernetes| kubernetes.networks(workload));
        // Their rules are counted behind those of the configuration.
        let first = u16::try_from(self.network_rules.len()).unwrap_or(u16::MAX);
        let prefixes = others.iter_mut().flatten();
        prefixes.flat_map(|prefix| &mut prefix.entries).for_each(|entry| {
            entry.rule = entry.rule.saturating_add(first);
        });
        network::compile(&self.network_rules, workload, others.unwrap_or_default())
    }

    /// What a network rule of this number is called: of the configuration, or behind those of a cluster's policies.
    #[must_use]
    pub fn network_rule_name(&self, number: u16) -> Option<&str> {
        let number = usize::from(number);
        if let Some(rule) = self.network_rules.get(number) {
            return Some(rule.name());
        }
        let behind = u16::try_from(number - self.network_rules.len()).ok()?;
        self.kubernetes.as_ref()?.rule_name(behind)
    }

    /// The name of the network rule that lets this through for the workload, to an address with these names of hosts.
    ///
    /// `port` is the server's, host byte order; protocols without ports pass 0.
    #[must_use]
    pub fn networks_match(
        &self,
        workload: &Identity,
        direction: Direction,
        (address, hosts): (IpAddr, &[&str]),
        protocol: Protocol,
        port: u16,
    ) -> Option<&str> {
        let table = self.network_table(workload).ok()?;
        let found = table.at(address, hosts.iter().copied()).ok()?;
        let entry =
            found.entries.iter().find(|entry| entry.speaks_for(direction, protocol, port))?;
        self.network_rule_name(entry.rule)
    }

    /// Names this state of policies and network rules.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

impl Generation {
    /// The 32 bytes of the hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of_both(enforced: Self, staged: Self) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("enforcer 2026 policy generation, staged");
        hasher.update(&enforced.0);
        hasher.update(&staged.0);
        Self(*hasher.finalize().as_bytes())
    }

    fn beside(self, kubernetes: &str) -> Self {
        let mut hasher =
            blake3::Hasher::new_derive_key("enforcer 2026 policy generation, kubernetes");
        hasher.update(&self.0);
        hasher.update(kubernetes.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    fn with(self, overrides: &[Override]) -> Self {
        if overrides.is_empty() {
            return self;
        }
        let mut hasher =
            blake3::Hasher::new_derive_key("enforcer 2026 policy generation, overridden");
        hasher.update(&self.0);
        hasher.update(format!("{overrides:?}").as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    fn of(files: &[SourceFile], rules: &[NetworkRule]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("enforcer 2026 policy generation");
        // Lengths first, so that no two different lists run together into the same bytes.
        let mut feed = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        // In one order: it says nothing.
        let mut files: Vec<&SourceFile> = files.iter().collect();
        files.sort_by_key(|file| (&file.name, &file.scope));
        for file in files {
            for part in [file.name.as_str(), file.scope.as_str(), file.text.as_str()] {
                feed(part);
            }
        }
        for rule in rules {
            feed(&format!("{rule:?}"));
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
