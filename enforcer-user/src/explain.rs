//! Answers "would this connection be permitted, and why": for the daemon and for the command line alike.

// Caller and callee are this field's words; no other pair says it as well.
#![allow(clippy::similar_names)]

use std::collections::BTreeMap;

use enforcer_common::abi::direction;
use thiserror::Error;

use crate::control::protocol::{ExplainReport, ExplainRequest, ExplainedEnd};
use crate::engine::Question;
use crate::identity::{Identity, NameError, Namespace};
use crate::policy::{Action, BothEnds, Explanation, Policy, Protocol, ProtocolError, Request};

/// Why a question could not be put.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// Neither a SPIFFE ID nor a workload of this node.
    #[error("{end} {text:?}: neither a SPIFFE ID nor a workload here; workloads here are {known}")]
    Unknown {
        /// `from` or `to`.
        end: &'static str,
        /// What was given.
        text: String,
        /// The names of the workloads, comma separated, or `none`.
        known: String,
    },
    /// Several workloads have this name.
    #[error("{end} {text:?}: several workloads here have that name; say which: {paths}")]
    Several {
        /// `from` or `to`.
        end: &'static str,
        /// What was given.
        text: String,
        /// Their paths, comma separated.
        paths: String,
    },
    /// Begins like a SPIFFE ID and is none.
    #[error("{end} {text:?}: expected spiffe://TRUST-DOMAIN/NAMESPACE/NAME")]
    Form {
        /// `from` or `to`.
        end: &'static str,
        /// What was given.
        text: String,
    },
    /// A part of the identity is malformed.
    #[error("{end}: {source}")]
    Name {
        /// `from` or `to`.
        end: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
    /// Labels for what brings its own.
    #[error("{end} {text:?}: its labels are known here; leave the given ones out")]
    Labels {
        /// `from` or `to`.
        end: &'static str,
        /// What was given.
        text: String,
    },
    /// The protocol is not one.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Whose labels are known: workloads of this node go by name or SPIFFE ID, peers by SPIFFE ID only.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The workloads of this node.
    pub workloads: &'a [&'a Identity],
    /// Identities of verified peers.
    pub peers: &'a [&'a Identity],
}

/// What is asked about a workload that is not known here.
#[derive(Debug, Clone, Copy)]
struct Described<'a> {
    labels: &'a BTreeMap<String, String>,
    attributes: &'a BTreeMap<String, String>,
}

impl Described<'_> {
    fn is_empty(self) -> bool {
        self.labels.is_empty() && self.attributes.is_empty()
    }
}

/// Judges a request by a policy at a time (Unix seconds).
///
/// # Errors
/// An end is neither known nor a SPIFFE ID, or the protocol is not one.
pub fn explain(
    policy: &Policy,
    request: &ExplainRequest,
    known: Known<'_>,
    unix_seconds: i64,
) -> Result<ExplainReport, ExplainError> {
    let described =
        Described { labels: &request.from_labels, attributes: &request.from_attributes };
    let caller = known.identify("from", &request.from, described)?;
    let described = Described { labels: &request.to_labels, attributes: &request.to_attributes };
    let callee = known.identify("to", &request.to, described)?;
    let protocol: Protocol = request.protocol.as_deref().unwrap_or("tcp").parse()?;
    let port = request.port;
    let (caller, callee, action) = (&caller, &callee, Action::Connect);
    let asked = Request { action, caller, callee, port, protocol, unix_seconds };
    Ok(explained(policy, &asked))
}

/// The answer for both ends.
#[must_use]
pub fn explained(policy: &Policy, asked: &Request<'_>) -> ExplainReport {
    report(&policy.explain_both(asked))
}

/// The question of a node about its own end, in the policy's words.
#[must_use]
pub fn as_request<'a>(
    own: &'a Identity,
    peer: &'a Identity,
    asked: &Question,
    unix_seconds: i64,
) -> Request<'a> {
    let inbound = asked.direction == direction::INGRESS;
    let (caller, callee) = if inbound { (peer, own) } else { (own, peer) };
    let action = if inbound { Action::Accept } else { Action::Connect };
    let (port, protocol) = (asked.port, Protocol::from_number(asked.protocol));
    Request { action, caller, callee, port, protocol, unix_seconds }
}

impl Known<'_> {
    fn identify(
        &self,
        end: &'static str,
        text: &str,
        described: Described<'_>,
    ) -> Result<Identity, ExplainError> {
        let called: Vec<_> = self.workloads.iter().filter(|id| id.is_called(text)).collect();
        if called.len() > 1 {
            let paths: Vec<String> = called.iter().map(|id| id.path()).collect();
            let (text, paths) = (text.to_owned(), paths.join(", "));
            return Err(ExplainError::Several { end, text, paths });
        }
        let peer = |id: &&&Identity| id.spiffe_id() == text;
        let found = called.first().copied().or_else(|| self.peers.iter().find(peer));
        match found {
            Some(found) if described.is_empty() => Ok((*found).clone()),
            Some(_) => Err(ExplainError::Labels { end, text: text.to_owned() }),
            None => self.named(end, text, described),
        }
    }

    fn named(
        &self,
        end: &'static str,
        text: &str,
        described: Described<'_>,
    ) -> Result<Identity, ExplainError> {
        let Some(id) = text.strip_prefix("spiffe://") else {
            let names: Vec<&str> = self.workloads.iter().map(|id| id.name()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(ExplainError::Unknown { end, text: text.to_owned(), known });
        };
        let parts = id.split_once('/').and_then(|(domain, path)| {
            let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
            Some((domain, format!("/{namespace}").parse::<Namespace>().ok()?, name))
        });
        let Some((domain, namespace, name)) = parts else {
            return Err(ExplainError::Form { end, text: text.to_owned() });
        };
        Identity::new(domain, namespace, name, described.labels.clone())
            .and_then(|identity| identity.described(described.attributes))
            .map_err(|source| ExplainError::Name { end, source })
    }
}

fn report(ends: &BothEnds) -> ExplainReport {
    ExplainReport {
        allow: ends.allow(),
        text: ends.to_string(),
        rules: ends.different().flat_map(rules).collect(),
        missing: ends.different().flat_map(missing).collect(),
        from: ends.connect.caller.clone(),
        to: ends.connect.callee.clone(),
        connect: end(&ends.connect),
        accept: end(&ends.accept),
    }
}

fn end(explanation: &Explanation) -> ExplainedEnd {
    ExplainedEnd {
        allow: explanation.allow,
        rules: rules(explanation),
        missing: missing(explanation),
    }
}

fn rules(explanation: &Explanation) -> Vec<String> {
    explanation.rules.iter().map(ToString::to_string).collect()
}

fn missing(explanation: &Explanation) -> Vec<String> {
    let failures = explanation.failures.iter().map(|f| format!("{}: {}", f.rule, f.message));
    let missed = explanation.nearest.iter().flat_map(|miss| {
        miss.because.iter().map(move |because| format!("{}: {because}", miss.rule))
    });
    explanation.refused.iter().cloned().chain(failures).chain(missed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::SourceFile;

    fn id(namespace: &str, name: &str, tier: Option<&str>) -> Identity {
        let labels = tier.map(|tier| ("tier".to_owned(), tier.to_owned())).into_iter().collect();
        Identity::new("example.org", namespace.parse().unwrap(), name, labels).unwrap()
    }

    fn request(from: &str, to: &str) -> ExplainRequest {
        ExplainRequest { from: from.into(), to: to.into(), port: 80, ..Default::default() }
    }

    #[test]
    fn of_two_workloads_of_one_name_it_must_be_said_which() {
        let policy = Policy::from_sources(&[], Vec::new()).unwrap();
        let (one, other) = (id("/a", "web", None), id("/b", "web", None));
        let known = Known { workloads: &[&one, &other], peers: &[] };
        let ask = |request: &ExplainRequest| explain(&policy, request, known, 1_700_000_000);
        let told = ask(&request("web", "/b/web")).unwrap_err().to_string();
        assert!(told.contains("say which: /a/web, /b/web"), "{told}");
        assert!(ask(&request("/a/web", "/b/web")).is_ok());
    }

    #[test]
    fn workloads_go_by_name_peers_by_id_and_the_rest_by_id_and_labels() {
        let source = SourceFile::new(
            "p.cedar",
            "@id(\"front\")\npermit(principal, action, resource)\n\
             when { principal.labels.tier == \"front\" };\n",
        );
        let policy = Policy::from_sources(&[source], Vec::new()).unwrap();
        let (web, api) = (id("/a", "web", Some("front")), id("/b", "api", Some("back")));
        let known = Known { workloads: &[&web], peers: &[&api] };
        let ask = |request: &ExplainRequest| explain(&policy, request, known, 1_700_000_000);

        let allowed = ask(&request("web", "spiffe://example.org/b/api")).unwrap();
        assert!(allowed.allow && allowed.rules[0].starts_with("front"), "{allowed:?}");
        let api_id = "spiffe://example.org/b/api";
        let denied = ask(&request(api_id, "web")).unwrap();
        assert!(!denied.allow && denied.rules.is_empty(), "{denied:?}");
        assert!(denied.missing[0].starts_with("front"), "{denied:?}");

        let mut stranger = request("spiffe://example.org/stranger", "web");
        assert!(!ask(&stranger).unwrap().allow);
        stranger.from_labels.insert("tier".into(), "front".into());
        assert!(ask(&stranger).unwrap().allow);
    }

    #[test]
    fn questions_that_cannot_be_put_are_told() {
        let policy = Policy::from_sources(&[], Vec::new()).unwrap();
        let web = id("/a", "web", None);
        let known = Known { workloads: &[&web], peers: &[] };
        let told =
            |request: &ExplainRequest| explain(&policy, request, known, 0).unwrap_err().to_string();
        assert_eq!(
            told(&request("wbe", "web")),
            "from \"wbe\": neither a SPIFFE ID nor a workload here; workloads here are web"
        );
        assert_eq!(
            told(&request("web", "spiffe://example.org")),
            "to \"spiffe://example.org\": expected spiffe://TRUST-DOMAIN/NAMESPACE/NAME"
        );
        let mut labelled = request("web", "web");
        labelled.to_labels.insert("a".into(), "b".into());
        assert_eq!(
            told(&labelled),
            "to \"web\": its labels are known here; leave the given ones out"
        );
        let mut protocol = request("web", "web");
        protocol.protocol = Some("tpc".into());
        assert!(told(&protocol).starts_with("protocol \"tpc\""), "{}", told(&protocol));
    }
}
