//! From what the solver found to two workloads that could be, as the engine sees them.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Entity, EntityUid, EvalResult};
use cedar_policy_symcc::Env;

use super::super::request::is_below;
use super::condition::Condition;
use super::encode::{Problem, carries};
use super::facts::identity;
use super::{Action, Policy, Question, Request, Sides, Witness};
use crate::identity::{Attribute, Identity};
use crate::policy::Protocol;

/// How many edges of hours (`@active`) are tried one after the other.
const EDGES: usize = 2_000;
/// For what policies leave open.
const TRUST_DOMAIN: &str = "example.org";

/// What was asked, and whom the engine asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub sides: Sides<'a>,
    pub question: &'a Question,
    pub condition: Option<&'a Condition>,
}

/// Makes a connection of what was found, if the engine allows it, with no more labels than it takes.
pub(super) fn confirm(
    asked: Asked<'_>,
    problem: &Problem,
    found: &Env,
    now: i64,
) -> Option<Witness> {
    let sketch = Sketch::read(problem, found)?;
    let times = times(asked.sides, sketch.unix_seconds, now);
    for (caller, callee) in sketch.pairs(problem) {
        let is_one = |caller: &Identity, callee: &Identity, unix_seconds| {
            asked.is_answered_by(&request(caller, callee, sketch.port, unix_seconds))
        };
        let at = times.iter().find(|at| is_one(&caller, &callee, **at));
        let Some(unix_seconds) = at.copied() else { continue };
        let (caller, callee) = if caller == callee {
            let both = lightest(caller, |lighter| is_one(lighter, lighter, unix_seconds));
            (both.clone(), both)
        } else {
            let caller = lightest(caller, |lighter| is_one(lighter, &callee, unix_seconds));
            let callee = lightest(callee, |lighter| is_one(&caller, lighter, unix_seconds));
            (caller, callee)
        };
        let made = request(&caller, &callee, sketch.port, unix_seconds);
        let mut why = asked.sides.connect.explain_both(&made);
        why.accept = asked.sides.accept.explain_both(&made).accept;
        return Some(Witness { caller, callee, port: sketch.port, unix_seconds, why });
    }
    None
}

impl Asked<'_> {
    /// Whether it is what was asked for, and both ends allow it.
    fn is_answered_by(self, request: &Request<'_>) -> bool {
        let allows = |policy: &Policy, action| policy.decide(&Request { action, ..*request }).allow;
        self.question.from.is(request.caller)
            && self.question.to.is(request.callee)
            && self.condition.is_none_or(|condition| condition.holds(request))
            && allows(self.sides.connect, Action::Connect)
            && allows(self.sides.accept, Action::Accept)
    }
}

fn request<'a>(
    caller: &'a Identity,
    callee: &'a Identity,
    port: u16,
    unix_seconds: i64,
) -> Request<'a> {
    let action = Action::Connect;
    Request { action, caller, callee, port, protocol: Protocol::TCP, unix_seconds }
}

/// Without the labels, and what else is known of it, that it is let through without.
fn lightest(identity: Identity, is_let_through: impl Fn(&Identity) -> bool) -> Identity {
    let lighter = |identity: Identity, told: Told| {
        let lighter = told.identity(&identity.spiffe_id());
        lighter.filter(&is_let_through).unwrap_or(identity)
    };
    let labels: Vec<String> = identity.labels().keys().cloned().collect();
    let identity = labels.into_iter().fold(identity, |identity, label| {
        let mut told = Told::of(&identity);
        told.labels.remove(&label);
        lighter(identity, told)
    });
    let others: Vec<String> = identity.description().into_keys().collect();
    others.into_iter().fold(identity, |identity, name| {
        let mut told = Told::of(&identity);
        told.description.remove(&name);
        lighter(identity, told)
    })
}

/// What is told of a workload beside its name.
#[derive(Debug, Clone, Default)]
struct Told {
    labels: BTreeMap<String, String>,
    /// As [`Identity::described`] takes it.
    description: BTreeMap<String, String>,
}

impl Told {
    fn of(identity: &Identity) -> Self {
        Self { labels: identity.labels().clone(), description: identity.description() }
    }

    fn identity(&self, spiffe_id: &str) -> Option<Identity> {
        let identity = Identity::from_spiffe_id(spiffe_id, self.labels.clone()).ok()?;
        identity.described(&self.description).ok()
    }
}

/// When to try: now, what the solver says, and whenever rules begin or cease to be in force.
fn times(sides: Sides<'_>, found: i64, now: i64) -> Vec<i64> {
    let mut times = vec![now, found];
    let rules = || sides.connect.set().rules().iter().chain(sides.accept.set().rules());
    let mut at = now;
    for _ in 0..EDGES {
        let Some(next) = rules().filter_map(|rule| rule.next_edge(at)).min() else { break };
        times.push(next);
        at = next;
    }
    times
}

/// What the solver says of a request.
struct Sketch {
    sides: [Side; 2],
    port: u16,
    unix_seconds: i64,
}

/// What it says of a workload.
struct Side {
    spiffe_id: String,
    trust_domain: String,
    name: String,
    namespace: String,
    /// Which of the known namespaces it is in.
    within: BTreeSet<String>,
    told: Told,
}

impl Sketch {
    fn read(problem: &Problem, found: &Env) -> Option<Self> {
        let [caller, callee] = [found.request.principal()?, found.request.resource()?];
        let context = found.request.context()?;
        let port = match context.get("port")? {
            EvalResult::Long(port) => u16::try_from(port).ok()?,
            _ => return None,
        };
        // Written as `datetime("…")` or as an offset from one; only hours and days are of interest.
        let unix_seconds = context.get("time").and_then(|time| seconds(&time)).unwrap_or(0);
        let side = |uid| Side::read(problem, found, uid);
        Some(Self { sides: [side(caller)?, side(callee)?], port, unix_seconds })
    }

    /// Workloads that are as was said, the likeliest first.
    fn pairs(&self, problem: &Problem) -> Vec<(Identity, Identity)> {
        let [caller, callee] = &self.sides;
        let is_same = caller.spiffe_id == callee.spiffe_id;
        let callees = callee.identities(problem, "callee");
        let callers = caller.identities(problem, if is_same { "callee" } else { "caller" });
        let both = |caller: &Identity| {
            let caller = caller.clone();
            callees.iter().map(move |callee| (caller.clone(), callee.clone())).collect::<Vec<_>>()
        };
        callers.iter().flat_map(both).collect()
    }
}

impl Side {
    fn read(problem: &Problem, found: &Env, uid: &EntityUid) -> Option<Self> {
        let entity = found.entities.get(uid)?;
        let text = |name: &str| match entity.attr(name)?.ok()? {
            EvalResult::String(text) => Some(text),
            EvalResult::EntityUid(uid) => Some(uid.id().unescaped().to_owned()),
            _ => None,
        };
        let labels = |name: &str| match entity.attr(name) {
            Some(Ok(EvalResult::EntityUid(labels))) => {
                found.entities.get(&labels).map(|labels| read_labels(problem, labels))
            }
            _ => None,
        };
        let node = labels("node").unwrap_or_default();
        let node = node.into_iter().map(|(label, value)| (format!("node.{label}"), value));
        let known = Attribute::ALL.into_iter().filter_map(|attribute| {
            let name = attribute.as_str();
            let value = is_carried(problem, entity, name).then(|| text(name))??;
            Some((name.to_owned(), possible(attribute, value)))
        });
        let told = Told {
            labels: labels("labels").unwrap_or_default(),
            description: known.chain(node).collect(),
        };
        let is_within = |path: &&String| {
            let namespace = super::super::schema::namespace_of_path(path);
            *path == "/" || found.entities.is_ancestor_of(&namespace, uid)
        };
        Some(Self {
            spiffe_id: text("spiffe_id")?,
            trust_domain: text("trust_domain")?,
            name: text("name")?,
            namespace: text("namespace")?,
            within: problem.places.namespaces.iter().filter(is_within).cloned().collect(),
            told,
        })
    }

    /// Workloads that are as was said: by its whole name, or by its parts, of which one that no policy names gets a
    /// plain one.
    fn identities(&self, problem: &Problem, plain: &str) -> Vec<Identity> {
        let mut found = Vec::new();
        found.extend(self.told.identity(&self.spiffe_id));
        let known = problem.places.workloads.iter().find_map(|workload| identity(workload));
        let known =
            known.map_or_else(|| TRUST_DOMAIN.to_owned(), |known| known.trust_domain().to_owned());
        for trust_domain in [self.trust_domain.as_str(), &known] {
            for namespace in self.namespaces() {
                for name in [self.name.as_str(), plain] {
                    let namespace = namespace.parse();
                    let made = namespace.ok().and_then(|namespace| {
                        let plain = Identity::new(trust_domain, namespace, name, BTreeMap::new());
                        self.told.identity(&plain.ok()?.spiffe_id())
                    });
                    found.extend(made);
                }
            }
        }
        found
    }

    /// Paths that lie in those known namespaces that it is in, and in no other.
    fn namespaces(&self) -> Vec<String> {
        let deepest = self.within.iter().max_by_key(|path| path.len());
        let deepest = deepest.map_or("/", String::as_str);
        let below = format!("{}/any", deepest.trim_end_matches('/'));
        let is_fitting = |path: &String| self.within.iter().all(|known| is_below(path, known));
        [self.namespace.clone(), deepest.to_owned(), below].into_iter().filter(is_fitting).collect()
    }
}

/// The value, or a plain one if no workload can have it: the solver knows patterns, and not what fills them. Unlike
/// values stay unlike.
fn possible(attribute: Attribute, value: String) -> String {
    if attribute.check(&value).is_ok() {
        return value;
    }
    let unlike = blake3::hash(value.as_bytes()).to_hex();
    match attribute {
        Attribute::Executable => {
            let algorithm = if value.starts_with("sha256:") { "sha256" } else { "blake3" };
            format!("{algorithm}:{unlike}")
        }
        Attribute::Image | Attribute::User => {
            format!("any-{}", unlike.get(..8).unwrap_or_default())
        }
    }
}

/// The labels that it carries; values that no label can have are left out.
fn read_labels(problem: &Problem, entity: &Entity) -> BTreeMap<String, String> {
    let is_carried = |label: &&String| is_carried(problem, entity, label);
    let value = |label: &String| match entity.attr(label)? {
        Ok(EvalResult::String(text)) => Some((label.clone(), text)),
        _ => None,
    };
    problem.labels.iter().filter(is_carried).filter_map(value).collect()
}

fn is_carried(problem: &Problem, entity: &Entity, name: &str) -> bool {
    !problem.carried.contains(name)
        || matches!(entity.attr(&carries(name)), Some(Ok(EvalResult::Bool(true))))
}

/// Of `(datetime("1970-01-01")).offset(duration("…ms"))` and the like.
fn seconds(time: &EvalResult) -> Option<i64> {
    let EvalResult::ExtensionValue(text) = time else { return None };
    let milliseconds = text.rsplit_once("duration(\"")?.1.split_once("ms\"")?.0;
    milliseconds.parse::<i64>().ok().map(|ms| ms.div_euclid(1000))
}
