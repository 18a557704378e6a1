//! What holds of all workloads, as conditions: the solver knows no paths, and would find workloads that cannot be.
//!
//! Each is true of every request that the enforcer asks. So none hides a connection; one left out only lets the solver
//! find some that the engine then refuses.

use std::collections::{BTreeMap, BTreeSet};

use super::super::request::is_below;
use super::super::text::quoted;
use super::{Question, Whom};
use crate::identity::{Attribute, Identity};

/// The sides of a request.
const SIDES: [&str; 2] = ["principal", "resource"];
/// The most namespaces of which each two are kept apart; above, only those of the question from all others.
const ALL_APART: usize = 48;

/// What policies and the question name.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Paths of namespaces.
    pub namespaces: BTreeSet<String>,
    /// SPIFFE IDs.
    pub workloads: BTreeSet<String>,
    /// The namespaces of the question.
    asked: BTreeSet<String>,
}

impl Places {
    /// Notes a workload, and its namespace.
    pub fn add_workload(&mut self, spiffe_id: &str) {
        if let Some(identity) = identity(spiffe_id) {
            self.namespaces.insert(identity.namespace().as_str().to_owned());
        }
        self.workloads.insert(spiffe_id.to_owned());
    }

    /// Notes whom the question names.
    pub fn add_question(&mut self, question: &Question) {
        for whom in [&question.from, &question.to] {
            match whom {
                Whom::Everybody => {}
                Whom::Namespace(namespace) => {
                    self.namespaces.insert(namespace.as_str().to_owned());
                    self.asked.insert(namespace.as_str().to_owned());
                }
                Whom::Workload(spiffe_id) => self.add_workload(spiffe_id),
            }
        }
    }
}

pub(super) fn identity(spiffe_id: &str) -> Option<Identity> {
    Identity::from_spiffe_id(spiffe_id, BTreeMap::new()).ok()
}

/// Who is meant, and where.
pub(super) fn question(question: &Question) -> Vec<String> {
    let mut asked = Vec::new();
    for (side, whom) in SIDES.into_iter().zip([&question.from, &question.to]) {
        match whom {
            Whom::Everybody => {}
            Whom::Namespace(namespace) => asked.push(within(side, namespace.as_str())),
            Whom::Workload(spiffe_id) => asked.push(is(side, spiffe_id)),
        }
    }
    asked.extend(question.port.map(|port| format!("context.port == {port}")));
    asked
}

/// What holds of all.
pub(super) fn facts(places: &Places) -> Vec<String> {
    let mut facts: Vec<String> = [
        "context.protocol == \"tcp\"",
        "context.port >= 0 && context.port <= 65535",
        "context.time >= datetime(\"1970-01-01\") && context.time <= datetime(\"9999-12-31T23:59:59Z\")",
        "principal.trust_domain == resource.trust_domain",
        "(principal.spiffe_id == resource.spiffe_id) == (principal == resource)",
        "(principal.name == resource.name && principal.namespace == resource.namespace) == (principal == resource)",
    ]
    .map(str::to_owned)
    .into();
    for side in SIDES {
        facts.push(within(side, "/"));
        facts.extend(Attribute::ALL.map(|attribute| shape(side, attribute)));
        facts.extend(places.namespaces.iter().map(|path| {
            let namespace = entity("Namespace", path);
            format!("({}) == ({side}.namespace in {namespace})", within(side, path))
        }));
        facts.extend(below(side, places));
        facts.extend(apart(side, places));
        facts.extend(places.workloads.iter().map(|workload| of_workload(side, workload)));
    }
    facts
}

/// What each value of an attribute looks like, as far as a pattern says it.
fn shape(side: &str, attribute: Attribute) -> String {
    match attribute {
        Attribute::Executable => {
            let is_digest = |algorithm: &str| format!("{side}.{attribute} like \"{algorithm}:*\"");
            format!("{} || {}", is_digest("sha256"), is_digest("blake3"))
        }
        Attribute::Image | Attribute::User => format!("{side}.{attribute} != \"\""),
    }
}

/// Who is in a namespace is in the nearest one above it.
fn below<'a>(side: &'a str, places: &'a Places) -> impl Iterator<Item = String> + 'a {
    let nearest = |path: &str| {
        let above =
            places.namespaces.iter().filter(move |other| *other != path && is_below(path, other));
        above.max_by_key(|other| other.len())
    };
    places.namespaces.iter().filter_map(move |path| {
        let above = nearest(path)?;
        Some(format!("!({}) || {}", within(side, path), within(side, above)))
    })
}

/// Nobody is in two namespaces of which none is below the other.
fn apart<'a>(side: &'a str, places: &'a Places) -> impl Iterator<Item = String> + 'a {
    let all = &places.namespaces;
    let firsts = if all.len() <= ALL_APART { all } else { &places.asked };
    firsts.iter().flat_map(move |one| {
        let is_apart = move |other: &&String| !is_below(one, other) && !is_below(other, one);
        all.iter()
            .filter(is_apart)
            .map(move |other| format!("!({} && {})", within(side, one), within(side, other)))
    })
}

/// What the name of a workload says of it.
fn of_workload(side: &str, spiffe_id: &str) -> String {
    let this = is(side, spiffe_id);
    let called = format!("{side}.spiffe_id == {}", quoted(spiffe_id));
    let Some(identity) = identity(spiffe_id) else {
        return format!("!({this}) && !({called})");
    };
    let parts = format!(
        "{side}.name == {} && {side}.namespace == {} && {side}.trust_domain == {}",
        quoted(identity.name()),
        entity("Namespace", identity.namespace().as_str()),
        quoted(identity.trust_domain())
    );
    format!("({this}) == ({called}) && ({this}) == ({parts})")
}

fn within(side: &str, path: &str) -> String {
    format!("{side} in {}", entity("Namespace", path))
}

fn is(side: &str, spiffe_id: &str) -> String {
    format!("{side} == {}", entity("Workload", spiffe_id))
}

fn entity(kind: &str, id: &str) -> String {
    format!("{kind}::{}", quoted(id))
}
