//! The Cedar schema: what policies may speak of, and what every one of them is checked against.
//!
//! `principal` is the caller, `resource` the callee, both of type `Workload`; the caller's node asks
//! for the action `connect`, the callee's for `accept`. Labels stand on an entity of their own, `Labels`, whose attributes are the labels
//! that the loaded policies name. There they are required, although a workload may lack them: so
//! the validator lets a policy read `principal.labels.tier` without a guard and checks it as a
//! string, and at run time a missing label is an evaluation error, upon which a `permit` does not
//! permit and a `forbid` denies. Optional attributes or entity tags would demand a `has` guard,
//! and a guarded `forbid` or `unless` opens as soon as the label is left out.
//! (An entity and not a record, because for entities the validator treats `has` as undecided.)
//!
//! The same holds of what is known of a workload beside its labels: `image`, `executable` and `user` are required
//! attributes that it may lack, and `node` holds the labels of its node.

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::LazyLock;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};

use super::error::PolicyError;
use super::request::Action;
use crate::identity::{Identity, Namespace};

/// The words a policy may use, for the nearest name to a typo.
pub const VOCABULARY: [&str; 32] = [
    "permit",
    "forbid",
    "when",
    "unless",
    "principal",
    "action",
    "resource",
    "context",
    "Action",
    "Namespace",
    "Workload",
    "connect",
    "accept",
    "trust_domain",
    "namespace",
    "name",
    "spiffe_id",
    "labels",
    "image",
    "executable",
    "user",
    "node",
    "port",
    "protocol",
    "time",
    "datetime",
    "duration",
    "contains",
    "true",
    "false",
    "like",
    "has",
];

/// The most label names that the policies of one set may use.
pub const MAX_LABEL_NAMES: usize = 1024;

const WORKLOAD_ATTRIBUTES: &str = r"
    trust_domain: String,
    namespace: Namespace,
    name: String,
    spiffe_id: String,
    labels: Labels,
    node: Labels,
    image: String,
    executable: String,
    user: String,
";

const ACTIONS: &str = r"
action connect, accept appliesTo {
    principal: Workload,
    resource: Workload,
    context: { port: Long, protocol: String, time: datetime },
};
";

/// The type of a namespace's entity.
pub const NAMESPACE_TYPE: &str = "Namespace";
/// The type of a workload's entity.
pub const WORKLOAD_TYPE: &str = "Workload";

static NAMESPACE: LazyLock<EntityTypeName> = LazyLock::new(|| entity_type(NAMESPACE_TYPE));
static WORKLOAD: LazyLock<EntityTypeName> = LazyLock::new(|| entity_type(WORKLOAD_TYPE));
static LABELS: LazyLock<EntityTypeName> = LazyLock::new(|| entity_type("Labels"));
static CONNECT: LazyLock<EntityUid> = LazyLock::new(|| uid(&entity_type("Action"), "connect"));
static ACCEPT: LazyLock<EntityUid> = LazyLock::new(|| uid(&entity_type("Action"), "accept"));

/// The schema in Cedar's schema syntax, with these label names.
#[must_use]
pub fn schema_text<'a>(labels: impl IntoIterator<Item = &'a String>) -> String {
    schema_text_with(labels, "")
}

/// The same with more attributes of `Labels` and of `Workload`, as written in a schema.
pub(super) fn schema_text_with<'a>(
    labels: impl IntoIterator<Item = &'a String>,
    more: &str,
) -> String {
    let mut text = String::from("entity Labels {\n");
    for label in labels {
        let _ = writeln!(text, "    \"{}\": String,", label.escape_debug());
    }
    let _ = writeln!(text, "{more}}};");
    let _ = writeln!(text, "entity Namespace in [Namespace];");
    let _ = writeln!(text, "entity Workload in [Namespace] {{{WORKLOAD_ATTRIBUTES}{more}}};");
    text.push_str(ACTIONS);
    text
}

/// The schema for policies that use these label names.
pub fn schema<'a>(
    labels: impl ExactSizeIterator<Item = &'a String>,
) -> Result<Schema, PolicyError> {
    if labels.len() > MAX_LABEL_NAMES {
        let message = format!(
            "the policies use {} label names, at most {MAX_LABEL_NAMES} are allowed",
            labels.len()
        );
        return Err(PolicyError::general(message));
    }
    Schema::from_str(&schema_text(labels))
        .map_err(|e| PolicyError::general(format!("the label names do not make a schema: {e}")))
}

/// The entity of a namespace, `Namespace::"/acme/prod"`.
#[must_use]
pub fn namespace_uid(namespace: &Namespace) -> EntityUid {
    namespace_of_path(namespace.as_str())
}

/// The same by the path.
pub(super) fn namespace_of_path(path: &str) -> EntityUid {
    uid(&NAMESPACE, path)
}

/// The entity of a workload, `Workload::"spiffe://example.org/acme/prod/web"`.
#[must_use]
pub fn workload_uid(identity: &Identity) -> EntityUid {
    uid(&WORKLOAD, &identity.spiffe_id())
}

/// The entity that holds a workload's labels.
#[must_use]
pub fn labels_uid(identity: &Identity) -> EntityUid {
    uid(&LABELS, &identity.spiffe_id())
}

/// The entity that holds the labels of a workload's node.
#[must_use]
pub fn node_uid(identity: &Identity) -> EntityUid {
    uid(&LABELS, &node_of(&identity.spiffe_id()))
}

/// Its name; no SPIFFE ID has a space.
pub(super) fn node_of(spiffe_id: &str) -> String {
    format!("node of {spiffe_id}")
}

/// The entity of an action, such as `Action::"connect"`.
#[must_use]
pub fn action_uid(action: Action) -> &'static EntityUid {
    match action {
        Action::Connect => &CONNECT,
        Action::Accept => &ACCEPT,
    }
}

/// The type of a workload's entity, as Cedar takes it.
#[must_use]
pub fn workload_type() -> &'static EntityTypeName {
    &WORKLOAD
}

/// Whether the entity is a namespace.
#[must_use]
pub fn is_namespace(uid: &EntityUid) -> bool {
    *uid.type_name() == *NAMESPACE
}

/// Whether the entity is a workload.
#[must_use]
pub fn is_workload(uid: &EntityUid) -> bool {
    *uid.type_name() == *WORKLOAD
}

/// Whether the entity holds labels, of a workload or its node.
#[must_use]
pub fn is_labels(uid: &EntityUid) -> bool {
    *uid.type_name() == *LABELS
}

fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}

#[allow(clippy::expect_used, reason = "the names are our own constants")]
fn entity_type(name: &str) -> EntityTypeName {
    EntityTypeName::from_str(name).expect("a plain identifier is an entity type name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_key_an_identity_may_have_makes_a_schema() {
        let labels = ["tier", "app.kubernetes.io/name", "9-lives", "in", "permit", "__x", "_"];
        let labels = labels.map(str::to_owned);
        schema(labels.iter()).unwrap();
        schema([].iter()).unwrap();
    }
}
