//! What a condition compared: the values of the attributes it names, as they stand in the request.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::names::nearest;
use super::request::Request;
use crate::identity::{Attribute, Identity};

/// The most facts told of one condition.
const MAX_FACTS: usize = 8;

/// The values of the attributes and labels that a condition (in Cedar's JSON form) names.
pub(super) fn facts(condition: &Value, asked: &Request<'_>) -> Vec<String> {
    let mut found = BTreeSet::new();
    collect(condition, asked, &mut found);
    found.into_iter().take(MAX_FACTS).collect()
}

fn collect(node: &Value, asked: &Request<'_>, found: &mut BTreeSet<String>) {
    match node {
        Value::Object(fields) => {
            for (operator, operand) in fields {
                if operator == "." || operator == "has" {
                    found.extend(fact(operand, asked));
                }
                collect(operand, asked, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, asked, found)),
        _ => {}
    }
}

/// The fact behind one access; none for what is only a step of a longer one.
fn fact(access: &Value, asked: &Request<'_>) -> Option<String> {
    let attribute = access["attr"].as_str()?;
    let left = &access["left"];
    if let Some(variable) = left["Var"].as_str() {
        let value = match variable {
            "context" => context_value(attribute, asked)?,
            _ => attribute_value(attribute, workload(variable, asked)?)?,
        };
        return Some(format!("{variable}.{attribute} is {value}"));
    }
    let of = &left["."];
    let variable = of.pointer("/left/Var")?.as_str()?;
    let identity = workload(variable, asked)?;
    let (name, labels) = match of["attr"].as_str()? {
        name @ "labels" => (name, identity.labels()),
        name @ "node" => (name, identity.node_labels()),
        _ => return None,
    };
    let variable = format!("{variable}.{name}");
    Some(match labels.get(attribute) {
        Some(value) => format!("{variable}.{attribute} is {value:?}"),
        None => missing_label(&variable, attribute, labels),
    })
}

/// `variable` is whose labels they are: `principal.labels`.
fn missing_label(variable: &str, label: &str, labels: &BTreeMap<String, String>) -> String {
    let present: Vec<&str> = labels.keys().map(String::as_str).collect();
    let hint = match nearest(label, present.iter().copied()) {
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    };
    let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
    format!("{variable}.{label} is missing (labels: {present}{hint})")
}

fn workload<'a>(variable: &str, asked: &Request<'a>) -> Option<&'a Identity> {
    match variable {
        "principal" => Some(asked.caller),
        "resource" => Some(asked.callee),
        _ => None,
    }
}

fn context_value(attribute: &str, asked: &Request<'_>) -> Option<String> {
    match attribute {
        "port" => Some(asked.port.to_string()),
        "protocol" => Some(format!("{:?}", asked.protocol.to_string())),
        "time" => super::request::datetime(asked.unix_seconds),
        _ => None,
    }
}

fn attribute_value(attribute: &str, identity: &Identity) -> Option<String> {
    match attribute {
        "trust_domain" => Some(format!("{:?}", identity.trust_domain())),
        "namespace" => Some(identity.namespace().to_string()),
        "name" => Some(format!("{:?}", identity.name())),
        "spiffe_id" => Some(format!("{:?}", identity.spiffe_id())),
        _ => {
            let attribute = Attribute::named(attribute)?;
            let value = identity.attributes().get(&attribute);
            Some(value.map_or_else(|| "missing".to_owned(), |value| format!("{value:?}")))
        }
    }
}
