//! The policies of both ends as one problem: two sets of which a request is sought that both allow.
//!
//! - A rule that belongs to a namespace's file gets that namespace as a condition on its end; a permit within bounds
//!   gets one rule of each bounds as a condition, and is there once for each choice.
//! - What asks for `accept` is asked for `connect` and the other way round in the callee's set, so that one request
//!   serves both.
//! - Every workload has every label: a rule that reads one which is missing fails, a permit that fails permits nothing,
//!   and a forbid that fails denies, so that a label more never closes what was open. It matters only of a label that
//!   something asks for (`has`), or that a permit reads which closes (`@encrypt`): whether it is carried is an attribute
//!   of its own, and a rule that reads it says itself when it fails. What a workload runs (`image`) and the labels of its
//!   node are as its own labels are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr as _;

use cedar_policy::{Policy as CedarPolicy, PolicyId, PolicySet as CedarSet, Schema};
use serde_json::{Map, Value, json};

use super::super::dependencies;
use super::super::request::is_below;
use super::super::rule::{Effect, Rule};
use super::super::schema;
use super::super::text::quoted;
use super::condition::Condition;
use super::facts::{self, Places};
use super::{Action, MAX_PROVED, Question, Sides, failure};
use crate::identity::Attribute;

/// Two sets that are put to the solver.
#[derive(Debug)]
pub(super) struct Problem {
    /// For all of both.
    pub schema: Schema,
    /// What the caller's end asks, what is known of workloads and what is asked.
    pub connect: CedarSet,
    /// What the callee's end asks.
    pub accept: CedarSet,
    /// Every namespace and workload that any of it names.
    pub places: Places,
    /// Every label that any of it reads.
    pub labels: BTreeSet<String>,
    /// Those of them that are asked for by `has`.
    pub carried: BTreeSet<String>,
}

/// The attribute that says whether a label is carried; no label's key has a space.
pub(super) fn carries(label: &str) -> String {
    format!("{label} is carried")
}

/// Puts both ends into one problem; the error says why it cannot be put.
pub(super) fn encode(
    sides: Sides<'_>,
    question: &Question,
    condition: Option<&Condition>,
) -> Result<Problem, String> {
    let mut encoder = Encoder::default();
    encoder.places.add_question(question);
    let policies = [Some(sides.connect), Some(sides.accept), condition.map(Condition::policy)];
    let rules = || policies.into_iter().flatten().flat_map(|policy| policy.set().rules());
    for rule in rules() {
        encoder.meet(rule)?;
    }
    // What closes where it holds, and not where it fails: a label more may close what was open.
    let some_close = rules().any(|rule| rule.obligations().encrypt);
    let closing = |rule: &&Rule| rule.obligations().encrypt || rule.bounds().is_some();
    let read = rules().filter(|_| some_close).filter(closing).flat_map(|rule| &rule.labels);
    encoder.carried.extend(read.cloned());
    if some_close {
        encoder.carried.extend(Attribute::ALL.map(|attribute| attribute.as_str().to_owned()));
    }
    let mut connect = encoder.end(sides.connect.set().rules(), Action::Connect)?;
    let accept = encoder.end(sides.accept.set().rules(), Action::Accept)?;
    for rule in condition.into_iter().flat_map(|condition| condition.policy().set().rules()) {
        let asked = encoder.rule(rule, Action::Connect)?;
        connect.push(Written::Json(rule_of("forbid", "unless", &as_condition(&asked))));
    }
    let mut known = facts::facts(&encoder.places);
    known.extend(facts::question(question));
    connect.extend(known.iter().map(|fact| {
        Written::Text(format!("forbid(principal, action, resource) unless {{ {fact} }};"))
    }));
    let count = connect.len() + accept.len();
    if count > MAX_PROVED {
        return Err(format!(
            "{count} policies of both ends: at most {MAX_PROVED} are put to a solver"
        ));
    }
    let unformed = |error: String| format!("the policies do not form a problem: {error}");
    Ok(Problem {
        schema: schema_of(&encoder.labels, &encoder.carried).map_err(unformed)?,
        connect: set_of(connect).map_err(unformed)?,
        accept: set_of(accept).map_err(unformed)?,
        places: encoder.places,
        labels: encoder.labels,
        carried: encoder.carried,
    })
}

/// A policy, in either form that Cedar reads.
enum Written {
    Text(String),
    Json(Value),
}

fn set_of(all: Vec<Written>) -> Result<CedarSet, String> {
    let mut set = CedarSet::new();
    for (number, written) in all.into_iter().enumerate() {
        let id = Some(PolicyId::new(number.to_string()));
        let policy = match written {
            Written::Text(text) => CedarPolicy::parse(id, text).map_err(|e| e.to_string())?,
            Written::Json(json) => CedarPolicy::from_json(id, json).map_err(|e| e.to_string())?,
        };
        set.add(policy).map_err(|e| e.to_string())?;
    }
    Ok(set)
}

fn schema_of(labels: &BTreeSet<String>, carried: &BTreeSet<String>) -> Result<Schema, String> {
    let mut more = String::new();
    for label in carried {
        let _ = writeln!(more, "    {}: Bool,", quoted(&carries(label)));
    }
    Schema::from_str(&schema::schema_text_with(labels.iter(), &more)).map_err(|e| e.to_string())
}

/// What is met on the way.
#[derive(Default)]
struct Encoder {
    places: Places,
    labels: BTreeSet<String>,
    carried: BTreeSet<String>,
}

impl Encoder {
    /// Notes what a rule names.
    fn meet(&mut self, rule: &Rule) -> Result<(), String> {
        self.labels.extend(rule.labels.iter().cloned());
        self.places.namespaces.insert(rule.scope().as_str().to_owned());
        self.meet_value(&json_of(rule)?);
        Ok(())
    }

    fn meet_value(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                match entity(fields) {
                    Some((schema::NAMESPACE_TYPE, path)) => {
                        self.places.namespaces.insert(path.to_owned());
                    }
                    Some((schema::WORKLOAD_TYPE, spiffe_id)) => self.places.add_workload(spiffe_id),
                    _ => {}
                }
                if let Some((left, label)) = label_asked_for(fields) {
                    if is_labels(left) {
                        self.labels.insert(label.to_owned());
                    }
                    self.carried.insert(label.to_owned());
                }
                fields.values().for_each(|inner| self.meet_value(inner));
            }
            Value::Array(values) => values.iter().for_each(|inner| self.meet_value(inner)),
            _ => {}
        }
    }

    /// All rules of an end that can decide there.
    fn end(&self, rules: &[Rule], action: Action) -> Result<Vec<Written>, String> {
        let (bounds, others): (Vec<&Rule>, Vec<&Rule>) =
            rules.iter().partition(|rule| rule.bounds().is_some());
        let mut written = Vec::new();
        for rule in others {
            // A permit that obliges to encryption, which there is not, closes as a forbid does.
            let closes = rule.effect() == Effect::Forbid || rule.obligations().encrypt;
            let may_not_hold = closes && (rule.observes() || rule.annotations.active.is_some());
            if may_not_hold || !rule.actions().contains(&action) {
                continue;
            }
            let json = self.rule(rule, action)?;
            match rule.effect() {
                Effect::Forbid => written.push(Written::Json(json)),
                Effect::Permit => {
                    let within = self.bounds_of(rule, closes, &bounds, action)?;
                    for chosen in choices(&within) {
                        let mut json = with_conditions(json.clone(), chosen);
                        if let Some(effect) = json.get_mut("effect").filter(|_| closes) {
                            *effect = "forbid".into();
                        }
                        written.push(Written::Json(json));
                        if written.len() > MAX_PROVED {
                            return Err(format!(
                                "bounds within bounds make more than {MAX_PROVED} policies"
                            ));
                        }
                    }
                }
            }
        }
        Ok(written)
    }

    /// A rule at its end, without its annotations and with one condition.
    ///
    /// Where it cannot be evaluated, a permit does not permit and a forbid denies.
    fn rule(&self, rule: &Rule, action: Action) -> Result<Value, String> {
        let said = as_condition(&rewritten(json_of(rule)?, action));
        let fails = failure::fails(&said, &self.carried);
        let (effect, holds) = match (rule.effect(), fails) {
            (Effect::Permit, None) => ("permit", said),
            (Effect::Forbid, None) => ("forbid", said),
            (Effect::Permit, Some(fails)) => ("permit", both(&failure::not(&fails), &said)),
            (Effect::Forbid, Some(fails)) => {
                ("forbid", json!({ "||": { "left": fails, "right": said } }))
            }
        };
        let scope = rule.scope().as_str();
        let holds =
            if scope == "/" { holds } else { both(&is_in(&variable(action), scope), &holds) };
        Ok(rule_of(effect, "when", &holds))
    }

    /// For each bounds that a permit must stay within, the conditions of which one must hold.
    fn bounds_of(
        &self,
        permit: &Rule,
        closes: bool,
        bounds: &[&Rule],
        action: Action,
    ) -> Result<Vec<Vec<Value>>, String> {
        let mut groups: BTreeMap<(&str, &str), Vec<Value>> = BTreeMap::new();
        for bound in bounds {
            let Some(of) = bound.bounds() else { continue };
            if !is_below(permit.scope().as_str(), of.as_str()) {
                continue;
            }
            let key = (of.as_str(), bound.scope().as_str());
            // Bounds that let nothing be asked let nothing be permitted.
            groups.entry(key).or_default();
            // What closes only at some hours is left out.
            let is_certain = !closes || bound.annotations.active.is_none();
            if is_certain && bound.actions().contains(&action) {
                let condition = as_condition(&self.rule(bound, action)?);
                groups.entry(key).or_default().push(condition);
            }
        }
        Ok(groups.into_values().collect())
    }
}

fn json_of(rule: &Rule) -> Result<Value, String> {
    let json = rule.policy.to_json().map_err(|error| format!("{}: {error}", rule.name()))?;
    expanded(json).ok_or_else(|| format!("{} has a form that is not known here", rule.name()))
}

/// The rule with each `has` for one attribute: `principal has labels.tier` asks for two. None if there is a `has` of
/// another form.
fn expanded(value: Value) -> Option<Value> {
    match value {
        Value::Object(mut fields) => {
            if let Some(asked) = fields.remove("has") {
                return expanded_has(&asked);
            }
            let each = fields.into_iter().map(|(key, inner)| Some((key, expanded(inner)?)));
            each.collect::<Option<_>>().map(Value::Object)
        }
        Value::Array(values) => {
            values.into_iter().map(expanded).collect::<Option<_>>().map(Value::Array)
        }
        other => Some(other),
    }
}

fn expanded_has(asked: &Value) -> Option<Value> {
    let mut left = expanded(asked.get("left")?.clone())?;
    let path = match asked.get("attr")? {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    let mut all = None;
    for name in path {
        let one = json!({ "has": { "left": left, "attr": name } });
        all = Some(match all {
            Some(before) => both(&before, &one),
            None => one,
        });
        left = json!({ ".": { "left": left, "attr": name } });
    }
    all
}

/// A rule for everybody with one condition.
fn rule_of(effect: &str, kind: &str, condition: &Value) -> Value {
    let all = json!({ "op": "All" });
    json!({
        "effect": effect, "principal": all, "action": all, "resource": all,
        "conditions": [{ "kind": kind, "body": condition }],
    })
}

/// A rule with `has` on labels as an attribute and, at the callee's end, its action for the other.
fn rewritten(value: Value, action: Action) -> Value {
    match value {
        Value::Object(fields) => {
            if let Some(("Action", id)) = entity(&fields) {
                return json!({ "type": "Action", "id": at_end(id, action) });
            }
            if let Some((left, label)) = label_asked_for(&fields) {
                let left = rewritten(left.clone(), action);
                return json!({ ".": { "left": left, "attr": carries(label) } });
            }
            let each = fields.into_iter().map(|(key, inner)| (key, rewritten(inner, action)));
            Value::Object(each.collect())
        }
        Value::Array(values) => {
            Value::Array(values.into_iter().map(|inner| rewritten(inner, action)).collect())
        }
        other => other,
    }
}

/// Both ends are asked as the caller's.
fn at_end(id: &str, action: Action) -> &str {
    match (action, id) {
        (Action::Accept, "accept") => "connect",
        (Action::Accept, "connect") => "accept",
        _ => id,
    }
}

/// What names an entity: its type, and which.
fn entity(fields: &Map<String, Value>) -> Option<(&str, &str)> {
    let (kind, id) = (fields.get("type")?.as_str()?, fields.get("id")?.as_str()?);
    (fields.len() == 2).then_some((kind, id))
}

/// `<labels> has <label>` or `<workload> has image`: the labels or the workload, and what of it.
fn label_asked_for(fields: &Map<String, Value>) -> Option<(&Value, &str)> {
    let asked = fields.get("has")?;
    let (left, name) = (asked.get("left")?, asked.get("attr")?.as_str()?);
    may_lack(left, name).then_some((left, name))
}

/// Whether what has an attribute of this name may be without it: labels, and what is known of workloads beside them.
pub(super) fn may_lack(left: &Value, name: &str) -> bool {
    is_labels(left) || (Attribute::named(name).is_some() && !is_no_workload(left))
}

/// Whether it is the context, a record, or a namespace. Of anything else a wrong guess leaves a question undecided.
fn is_no_workload(expression: &Value) -> bool {
    let access = expression.get(".").and_then(|access| access.get("attr"));
    expression.get("Record").is_some()
        || expression.get("Var").is_some_and(|variable| variable == "context")
        || access.is_some_and(|attribute| attribute == "namespace")
}

/// Whether it is the `labels` or the `node` of anything; no other record or entity has such attributes.
fn is_labels(expression: &Value) -> bool {
    let access = expression.get(".").and_then(|access| access.get("attr"));
    access.and_then(Value::as_str).is_some_and(dependencies::is_labels)
}

/// The end that is asked about.
fn variable(action: Action) -> Value {
    json!({ "Var": if action == Action::Connect { "principal" } else { "resource" } })
}

fn is_in(left: &Value, namespace: &str) -> Value {
    let entity = json!({ "__entity": { "type": schema::NAMESPACE_TYPE, "id": namespace } });
    json!({ "in": { "left": left, "right": { "Value": entity } } })
}

/// All ways to choose one of each; one empty way if there is nothing to choose from.
fn choices(groups: &[Vec<Value>]) -> Vec<Vec<Value>> {
    groups.iter().fold(vec![Vec::new()], |ways, group| {
        let more = |way: &Vec<Value>| {
            let way = way.clone();
            group.iter().map(move |one| [way.clone(), vec![one.clone()]].concat())
        };
        ways.iter().flat_map(more).take(MAX_PROVED + 1).collect()
    })
}

fn with_conditions(mut rule: Value, more: Vec<Value>) -> Value {
    if let Some(conditions) = rule.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.extend(more.into_iter().map(|body| json!({ "kind": "when", "body": body })));
    }
    rule
}

/// What a rule says, head and all, as one condition.
fn as_condition(rule: &Value) -> Value {
    let heads = ["principal", "action", "resource"];
    let mut parts: Vec<Value> =
        heads.iter().filter_map(|variable| head_condition(variable, rule.get(variable)?)).collect();
    parts.extend(clauses(rule).filter_map(|clause| {
        let body = clause.get("body")?.clone();
        let is_unless = clause.get("kind")? == "unless";
        Some(if is_unless { failure::not(&body) } else { body })
    }));
    let truth = json!({ "Value": true });
    parts.into_iter().reduce(|left, right| both(&left, &right)).unwrap_or(truth)
}

/// The `when` and `unless` of a rule.
fn clauses(rule: &Value) -> impl Iterator<Item = &Value> {
    rule.get("conditions").and_then(Value::as_array).into_iter().flatten()
}

fn both(left: &Value, right: &Value) -> Value {
    json!({ "&&": { "left": left, "right": right } })
}

/// A part of a rule's head; none if it lets everybody pass.
fn head_condition(variable: &str, head: &Value) -> Option<Value> {
    let left = json!({ "Var": variable });
    let written = |entity: &Value| json!({ "Value": { "__entity": entity } });
    let within = |right: Value| json!({ "in": { "left": left, "right": right } });
    match head.get("op")?.as_str()? {
        "==" => Some(json!({ "==": { "left": left, "right": written(head.get("entity")?) } })),
        "in" => match head.get("entities") {
            Some(entities) => {
                let all: Vec<Value> = entities.as_array()?.iter().map(written).collect();
                Some(within(json!({ "Set": all })))
            }
            None => Some(within(written(head.get("entity")?))),
        },
        "is" => {
            let kind = json!({ "is": { "left": left, "entity_type": head.get("entity_type")? } });
            let within =
                head.get("in").and_then(|of| of.get("entity")).map(|of| within(written(of)));
            Some(within.map_or_else(|| kind.clone(), |within| both(&kind, &within)))
        }
        _ => None,
    }
}
