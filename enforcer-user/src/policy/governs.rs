//! What a file may speak of: the workloads of its namespace, at their own end of a connection.
//!
//! A rule that could never apply for that reason is refused, since a `forbid` that never applies is an open door.

use super::error::PolicyError;
use super::request::{Action, is_below};
use super::rule::{Head, Rule};
use crate::identity::Namespace;

/// What is wrong with the rule as one of its file's namespace, if anything is.
pub(super) fn finding(rule: &Rule) -> Option<PolicyError> {
    bounds_finding(rule).or_else(|| {
        let governed = rule.bounds().unwrap_or(rule.scope());
        let applies = |action| overlaps(&governed_head(rule, action), governed);
        if rule.actions().into_iter().any(applies) {
            return None;
        }
        let message = format!(
            "it never applies: what stands here is asked about workloads in {governed}, and it names others at their end"
        );
        let help = "a caller's end asks for `connect`, a callee's for `accept`; other namespaces are for their own files \
                    or for one above both";
        Some(rule.finding(message).with_help(help))
    })
}

fn bounds_finding(rule: &Rule) -> Option<PolicyError> {
    let (of, by) = (rule.bounds()?, rule.scope());
    if by.contains(of) && by != of {
        return None;
    }
    let message = format!(
        "@bounds({:?}): a file of {by} sets bounds only for namespaces below {by}",
        of.as_str()
    );
    Some(rule.finding(message).with_help("the namespace above it can set them"))
}

/// What the head names for the end at which the action is asked for.
fn governed_head(rule: &Rule, action: Action) -> Head {
    match action {
        Action::Connect => rule.caller(),
        Action::Accept => rule.callee(),
    }
}

/// Whether some workload in the namespace or below could pass.
fn overlaps(head: &Head, governed: &Namespace) -> bool {
    let governed = governed.as_str();
    match head {
        // What is no place at all is told of by the validator.
        Head::Any | Head::Other(_) => true,
        Head::Namespace(path) => is_below(path, governed) || is_below(governed, path),
        Head::Workload(spiffe_id) => {
            namespace_of(spiffe_id).is_none_or(|path| is_below(path, governed))
        }
    }
}

/// The namespace in a SPIFFE ID; none in what is not one, which is told of elsewhere.
fn namespace_of(spiffe_id: &str) -> Option<&str> {
    let path = spiffe_id.strip_prefix("spiffe://")?.find('/').map(|at| at + "spiffe://".len())?;
    let (namespace, _) = spiffe_id.get(path..)?.rsplit_once('/')?;
    Some(if namespace.is_empty() { "/" } else { namespace })
}
