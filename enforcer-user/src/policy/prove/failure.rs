//! When a condition cannot be evaluated: it reads a label that is missing, where nothing before it kept it from that.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::encode::{carries, may_lack};

/// An expression that holds whenever the evaluation of another fails; none if it never does.
///
/// Both are in the form in which every label can be read (what is read of a missing one is any text), and `may_be_missing`
/// are those for which there is an attribute that says whether they are carried.
pub(super) fn fails(expression: &Value, may_be_missing: &BTreeSet<String>) -> Option<Value> {
    let fields = expression.as_object()?;
    let (operator, operands) = fields.iter().next()?;
    let of = |name: &str| fails(operands.get(name)?, may_be_missing);
    let value = |name: &str| operands.get(name).unwrap_or(&Value::Null);
    match operator.as_str() {
        "Value" | "Var" => None,
        "&&" => either(of("left"), then(value("left"), of("right"))),
        "||" => either(of("left"), then(&not(value("left")), of("right"))),
        "if-then-else" => {
            let test = value("if");
            either(of("if"), either(then(test, of("then")), then(&not(test), of("else"))))
        }
        "." => either(of("left"), missing(operands, may_be_missing)),
        _ => members(operands).map(|inner| fails(inner, may_be_missing)).fold(None, either),
    }
}

/// What an operator, a list or a function is applied to.
fn members(operands: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match operands {
        Value::Object(fields) => Box::new(operands_of(fields)),
        Value::Array(values) => Box::new(values.iter()),
        _ => Box::new(std::iter::empty()),
    }
}

fn operands_of(fields: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    fields.values().filter(|value| value.is_object())
}

/// Whether the label that is read is missing.
fn missing(access: &Value, may_be_missing: &BTreeSet<String>) -> Option<Value> {
    let label = access.get("attr")?.as_str()?;
    let labels = access.get("left")?;
    (may_lack(labels, label) && may_be_missing.contains(label))
        .then(|| not(&json!({ ".": { "left": labels, "attr": carries(label) } })))
}

fn then(first: &Value, second: Option<Value>) -> Option<Value> {
    second.map(|second| json!({ "&&": { "left": first, "right": second } }))
}

fn either(left: Option<Value>, right: Option<Value>) -> Option<Value> {
    match (left, right) {
        (Some(left), Some(right)) => Some(json!({ "||": { "left": left, "right": right } })),
        (one, other) => one.or(other),
    }
}

/// The opposite.
pub(super) fn not(expression: &Value) -> Value {
    json!({ "!": { "arg": expression } })
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    /// The condition of a rule that forbids whenever the evaluation fails, as Cedar writes it.
    fn failure(condition: &str) -> Option<String> {
        let text = format!("forbid(principal, action, resource) when {{ {condition} }};");
        let mut rule = Policy::parse(None, text).unwrap().to_json().unwrap();
        let body = &mut rule["conditions"][0]["body"];
        *body = fails(body, &BTreeSet::from(["a".to_owned()]))?;
        let written = Policy::from_json(None, rule).unwrap().to_cedar().unwrap();
        let (_, condition) = written.split_once("when {").unwrap();
        Some(condition.to_owned())
    }

    #[test]
    fn what_is_not_read_fails_not() {
        for condition in [
            "true",
            "principal.labels.b == \"1\"",
            "principal.node.b == \"1\" && principal.user == \"1\"",
            "principal in Namespace::\"/a\"",
            "context.port == 80 && resource.labels[\"b\"] like \"x*\"",
            "[1, 2].contains(context.port)",
        ] {
            assert_eq!(failure(condition), None, "{condition}");
        }
    }

    #[test]
    fn what_is_read_behind_something_fails_only_if_that_lets_it() {
        let of = |condition| failure(condition).unwrap();
        let alone = of("principal.labels.a == \"1\"");
        assert!(alone.contains("a is carried") && !alone.contains("&&"), "{alone}");
        let behind = of("context.port == 80 && principal.labels.a == \"1\"");
        assert!(behind.contains("80") && !behind.contains("!(context"), "{behind}");
        let otherwise = of("context.port == 80 || principal.labels.a == \"1\"");
        assert!(otherwise.contains("80") && otherwise.contains("!(context"), "{otherwise}");
        for condition in [
            "[principal.labels.a].contains(\"1\")",
            "principal.labels.a like \"x*\"",
            "resource.node.a like \"x*\"",
            "!(principal.labels.a == \"1\")",
            "if principal.labels.a == \"1\" then true else false",
            "if context.port == 80 then true else principal.labels.a == \"1\"",
        ] {
            assert!(of(condition).contains("a is carried"), "{condition}");
        }
    }
}
