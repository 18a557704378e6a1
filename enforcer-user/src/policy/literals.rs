//! What a policy names in so many words, and no workload can be or have: a rule that names it never matches, and a
//! `forbid` never bites.

use std::collections::BTreeMap;

use cedar_policy::{EntityUid, Policy};
use serde_json::Value;

use super::dependencies::is_labels;
use super::error::PolicyError;
use super::rule::Rule;
use super::schema;
use crate::identity::{Attribute, Identity, Namespace};

/// What is wrong with the names and texts of a rule.
pub(super) fn findings(rule: &Rule) -> Vec<PolicyError> {
    let mut findings: Vec<PolicyError> =
        rule.policy.entity_literals().iter().filter_map(|literal| of_name(rule, literal)).collect();
    if let Some(conditions) = conditions_to_walk(&rule.policy) {
        walk(rule, &conditions, &mut findings);
    }
    findings
}

fn of_name(rule: &Rule, literal: &EntityUid) -> Option<PolicyError> {
    let id = literal.id().unescaped();
    let problem = if schema::is_namespace(literal) {
        id.parse::<Namespace>().err().map(|error| error.to_string())
    } else if schema::is_workload(literal) {
        workload_problem(id)
    } else if schema::is_labels(literal) {
        Some("labels are read from a workload: principal.labels.tier".to_owned())
    } else {
        None
    };
    Some(rule.finding(format!("{literal} never matches: {}", problem?)))
}

fn workload_problem(id: &str) -> Option<String> {
    let expected =
        || Some("expected a SPIFFE ID such as \"spiffe://example.org/acme/prod/shop\"".to_owned());
    let Some(rest) = id.strip_prefix("spiffe://") else {
        return expected();
    };
    let Some((domain, path)) = rest.split_once('/') else {
        return expected();
    };
    let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parts = format!("/{namespace}")
        .parse::<Namespace>()
        .and_then(|namespace| Identity::new(domain, namespace, name, BTreeMap::new()));
    parts.err().map(|error| error.to_string())
}

/// The conditions in Cedar's JSON form, which costs more than all else of loading a rule: only where its text has a
/// word that something below looks for.
fn conditions_to_walk(policy: &Policy) -> Option<Value> {
    let text = policy.to_cedar().unwrap_or_default();
    let start = ["when", "unless"].iter().filter_map(|word| text.find(word)).min()?;
    let conditions = text.get(start..)?;
    let attributes = Attribute::ALL.map(Attribute::as_str);
    let mut words = attributes.into_iter().chain([schema::WORKLOAD_TYPE]);
    words
        .any(|word| conditions.contains(word))
        .then(|| policy.to_json().ok())??
        .get("conditions")
        .cloned()
}

fn walk(rule: &Rule, node: &Value, findings: &mut Vec<PolicyError>) {
    match node {
        Value::Object(fields) => {
            for (operator, operands) in fields {
                findings.extend(match operator.as_str() {
                    "." | "has" => of_access(rule, operands),
                    "==" | "!=" => of_comparison(rule, operands),
                    "contains" => of_list(rule, operands),
                    _ => None,
                });
                walk(rule, operands, findings);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(rule, item, findings)),
        _ => {}
    }
}

/// Only the two ends are known where a connection is judged: nobody else has any attribute there.
fn of_access(rule: &Rule, operands: &Value) -> Option<PolicyError> {
    let name = named(&operands["left"])?;
    let message =
        format!("nothing is known of {name} here: only of the two ends, principal and resource");
    Some(rule.finding(message).with_help(format!("compare an end with it: principal == {name}")))
}

/// The workload that an expression may stand for by its name.
fn named(expression: &Value) -> Option<String> {
    let (operator, operands) = expression.as_object()?.iter().next()?;
    match operator.as_str() {
        "Value" => {
            let entity = operands.get("__entity")?;
            Some(format!("{}::{}", entity["type"].as_str()?, entity["id"]))
        }
        "if-then-else" => named(&operands["then"]).or_else(|| named(&operands["else"])),
        "Record" => operands.as_object()?.values().find_map(named),
        "." => named(&operands["left"]),
        _ => None,
    }
}

/// `principal.user == "…"`, either way round.
fn of_comparison(rule: &Rule, operands: &Value) -> Option<PolicyError> {
    let sides = [(&operands["left"], &operands["right"]), (&operands["right"], &operands["left"])];
    sides.into_iter().find_map(|(read, text)| of_text(rule, attribute(read)?, text))
}

/// `["…"].contains(principal.user)`.
fn of_list(rule: &Rule, operands: &Value) -> Option<PolicyError> {
    let attribute = attribute(&operands["right"])?;
    let texts = operands.pointer("/left/Set")?.as_array()?;
    texts.iter().find_map(|text| of_text(rule, attribute, text))
}

fn of_text(rule: &Rule, attribute: Attribute, text: &Value) -> Option<PolicyError> {
    let text = text["Value"].as_str()?;
    attribute.check(text).err()?;
    let message = format!("{attribute} is never {text:?}");
    Some(rule.finding(message).with_help(format!("expected {}", attribute.expected())))
}

/// The attribute of a workload that is read; a label may have the same name.
fn attribute(expression: &Value) -> Option<Attribute> {
    let access = &expression["."];
    let of_labels =
        access["left"].pointer("/./attr").and_then(Value::as_str).is_some_and(is_labels);
    access["attr"].as_str().filter(|_| !of_labels).and_then(Attribute::named)
}
