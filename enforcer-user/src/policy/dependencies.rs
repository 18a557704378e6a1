//! What a policy's conditions depend on: context attributes and labels, found by name. Labels of a workload's node are
//! labels too: `principal.node.zone`.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use serde_json::Value;

/// What a policy's conditions read, besides the two workloads. Errs towards too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reads {
    /// `context.port`.
    pub port: bool,
    /// `context.time`.
    pub time: bool,
}

impl Reads {
    const ALL: Self = Self { port: true, time: true };

    /// What either of the two reads.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { port: self.port || other.port, time: self.time || other.time }
    }
}

/// What a policy's text depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dependencies {
    pub reads: Reads,
    pub labels: BTreeSet<String>,
    /// Whether labels are used in a way that does not say which.
    pub unnamed_labels: bool,
}

/// Finds the context attributes and labels that a policy names.
///
/// A context that is used otherwise than by the name of an attribute counts as read in whole.
pub(super) fn dependencies(policy: &Policy) -> Dependencies {
    let text = policy.to_cedar().unwrap_or_default();
    scan(&text).unwrap_or_else(|| match policy.to_json() {
        Ok(json) => {
            let mut found = Dependencies::default();
            walk(&json, &mut found);
            found
        }
        Err(_) => Dependencies { reads: Reads::ALL, unnamed_labels: true, ..Default::default() },
    })
}

/// Reads the plain spellings from the text: `context.port`, `principal.labels.tier`.
///
/// None as soon as either word stands in any other way, even inside a string; then Cedar's own
/// form of the policy is walked, which costs more than all else of loading it.
fn scan(text: &str) -> Option<Dependencies> {
    let words = words(text)?;
    let mut found = Dependencies::default();
    for (at, word) in words.iter().enumerate() {
        let next = || match words.get(at + 1..=at + 2)? {
            [".", name] if name.starts_with(is_word_start) => Some(*name),
            _ => None,
        };
        match *word {
            "context" => {
                let attribute = next()?;
                found.reads.port |= attribute == "port";
                found.reads.time |= attribute == "time";
            }
            "labels" | "node" => match words.get(at.checked_sub(2)?..at)? {
                ["principal" | "resource", "."] => {
                    found.labels.insert(next()?.to_owned());
                }
                _ => return None,
            },
            _ => {}
        }
    }
    Some(found)
}

/// Words and single characters, without strings and white space; none where a string or a comment
/// may say more than it seems to.
fn words(text: &str) -> Option<Vec<&str>> {
    let (mut rest, mut found) = (text, Vec::new());
    while let Some(first) = rest.chars().next() {
        let end = if is_word_start(first) {
            rest.find(|c| !is_word_start(c) && !c.is_ascii_digit()).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        match first {
            '"' => {
                let (inside, after) = rest.split_once('"')?;
                let is_special = |special: &&str| inside.contains(*special);
                if inside == "node" || ["\\", "context", "labels"].iter().any(is_special) {
                    return None;
                }
                rest = after;
            }
            '/' => return None,
            _ if first.is_whitespace() => {}
            _ => found.push(word),
        }
    }
    Some(found)
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

/// Whether the attribute of this name holds labels: those of a workload or of its node.
pub(super) fn is_labels(attribute: &str) -> bool {
    matches!(attribute, "labels" | "node")
}

/// Walks Cedar's JSON policy form ("JSON policy format", Cedar reference manual).
fn walk(node: &Value, found: &mut Dependencies) {
    match node {
        Value::Object(fields) => {
            for (operator, operand) in fields {
                match operator.as_str() {
                    "." => walk_access(operand, found),
                    "has" => walk_has(operand, found),
                    "Var" if operand == "context" => found.reads = Reads::ALL,
                    _ => walk(operand, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}

/// `left.attribute`.
fn walk_access(operand: &Value, found: &mut Dependencies) {
    let (left, attribute) = (&operand["left"], operand["attr"].as_str().unwrap_or_default());
    // Reached here and not through the label's own access: the labels go elsewhere as a whole.
    found.unnamed_labels |= is_labels(attribute) && !are_of_an_end(left);
    walk_named(left, attribute, found);
}

/// Whether it is `principal.labels` or the like, so that what is read of it is a label, whatever it is called.
fn are_of_an_end(expression: &Value) -> bool {
    let access = &expression["."];
    access["attr"].as_str().is_some_and(is_labels) && access.pointer("/left/Var").is_some()
}

/// `left has attribute`, or `left has first.second`.
fn walk_has(operand: &Value, found: &mut Dependencies) {
    let left = &operand["left"];
    match &operand["attr"] {
        Value::String(attribute) => walk_named(left, attribute, found),
        Value::Array(path) => {
            let path: Vec<&str> = path.iter().filter_map(Value::as_str).collect();
            for [first, second] in path.array_windows() {
                if is_labels(first) {
                    found.labels.insert((*second).to_owned());
                }
            }
            walk_named(left, path.first().copied().unwrap_or_default(), found);
        }
        _ => walk(operand, found),
    }
}

/// Notes an attribute of the context or a label; anything else on the left is walked.
fn walk_named(left: &Value, attribute: &str, found: &mut Dependencies) {
    if left["Var"] == "context" {
        found.reads.port |= attribute == "port";
        found.reads.time |= attribute == "time";
    } else if left.pointer("/./attr").and_then(Value::as_str).is_some_and(is_labels) {
        found.labels.insert(attribute.to_owned());
        walk(left.pointer("/./left").unwrap_or(&Value::Null), found);
    } else {
        walk(left, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the text where it suffices, which must not differ from Cedar's form of it.
    fn of(condition: &str) -> Dependencies {
        let text = format!("permit(principal, action, resource) when {{ {condition} }};");
        let policy = Policy::parse(None, &text).unwrap();
        let mut walked = Dependencies::default();
        walk(&policy.to_json().unwrap(), &mut walked);
        assert_eq!(dependencies(&policy), walked, "{condition}");
        walked
    }

    #[test]
    fn plain_spellings_are_read_from_the_text_and_only_those() {
        for (text, plain) in [
            (
                "permit(principal, action, resource) when { principal . labels.tier == \"front\" };",
                true,
            ),
            ("permit(principal, action, resource) when { context.port == 80 || 1 < 2 };", true),
            ("permit(principal, action, resource) when { resource.node.zone like \"a*\" };", true),
            ("permit(principal, action, resource) when { resource.node has zone };", false),
            ("@reason(\"x\") permit(principal in Namespace::\"a\", action, resource);", true),
            ("@reason(\"x\") permit(principal in Namespace::\"/a\", action, resource);", true),
            ("permit(principal, action, resource) when { principal.labels has tier };", false),
            ("permit(principal, action, resource) when { principal has labels.tier };", false),
            ("permit(principal, action, resource) when { context[\"port\"] == 80 };", false),
            ("permit(principal, action, resource) when { principal[\"labels\"] has x };", false),
            (
                "permit(principal, action, resource) when { principal[\"l\\u{61}bels\"] has x };",
                false,
            ),
            (
                "permit(principal, action, resource) when { principal./* */labels.x == \"y\" };",
                false,
            ),
            ("permit(principal, action, resource) when { true }; // context", false),
        ] {
            assert_eq!(scan(text).is_some(), plain, "{text}");
        }
    }

    #[test]
    fn what_a_condition_reads_is_found_in_every_spelling() {
        let (none, port) = (Reads::default(), Reads { port: true, time: false });
        let time = Reads { port: false, time: true };
        for (condition, reads) in [
            ("principal.name == \"context.port\"", none),
            ("context.protocol == \"tcp\"", none),
            ("context.port == 80", port),
            ("context[\"port\"] == 80", port),
            ("context[\"p\\u{6f}rt\"] == 80", port),
            ("context has port", port),
            ("if context.protocol == \"tcp\" then context.port < 9 else false", port),
            ("context.time < datetime(\"2030-01-01\")", time),
            ("context.time.toTime() > duration(\"1h\")", time),
            ("[context.port].contains(3) && context.time == context.time", Reads::ALL),
            ("context == context", Reads::ALL),
            ("{\"a\": context}.a.port == 80", Reads::ALL),
            ("context has port.value", port),
        ] {
            assert_eq!(of(condition).reads, reads, "{condition}");
        }
    }

    #[test]
    fn labels_are_found_in_every_spelling() {
        for (condition, labels) in [
            ("principal.labels.tier == \"front\"", vec!["tier"]),
            ("resource[\"labels\"][\"app/name\"] like \"*\"", vec!["app/name"]),
            ("principal.labels has zone", vec!["zone"]),
            ("principal has labels.team", vec!["team"]),
            ("(if true then principal else resource).labels.a == \"labels.b\"", vec!["a"]),
            ("principal.labels.b == resource.labels.a", vec!["a", "b"]),
            ("principal[\"l\\u{61}bels\"] has x", vec!["x"]),
            ("principal.name == \"labels\"", vec![]),
            ("principal.node.zone == resource.node.zone", vec!["zone"]),
            ("principal has node.rack && resource[\"node\"] has zone", vec!["rack", "zone"]),
            ("principal.user == \"node\"", vec![]),
            ("principal.labels.node == \"a\"", vec!["node"]),
            ("principal.labels[\"labels\"] == resource.node.node", vec!["labels", "node"]),
            ("principal.labels has node && principal has labels.node", vec!["node"]),
        ] {
            let found = of(condition);
            assert_eq!(found.labels.into_iter().collect::<Vec<_>>(), labels, "{condition}");
            assert!(!found.unnamed_labels, "{condition}");
        }
    }

    #[test]
    fn labels_that_go_elsewhere_as_a_whole_are_noticed() {
        for condition in [
            "principal.labels == resource.labels",
            "principal.node == resource.node",
            "(if true then principal.labels else resource.labels) has tier",
            "{\"a\": principal.labels}.a.tier == \"front\"",
            "[principal.labels].contains(resource.labels)",
            "{\"labels\": principal}.labels.node == resource.node",
        ] {
            assert!(of(condition).unnamed_labels, "{condition}");
        }
    }
}
