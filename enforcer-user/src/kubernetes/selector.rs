//! Label selectors (k8s.io/apimachinery/pkg/apis/meta/v1, LabelSelector).

use serde::Deserialize;

use super::label::{Labels, check_key, check_labels, check_value};
use super::text;

/// A selector as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSelector {
    #[serde(default, deserialize_with = "text::map")]
    match_labels: Option<Labels>,
    match_expressions: Option<Vec<RawExpression>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpression {
    key: String,
    operator: Operator,
    #[serde(default, deserialize_with = "text::list")]
    values: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// A checked selector: all of it must hold, so an empty one selects everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, Clone)]
pub(super) struct Requirement {
    pub(super) key: String,
    pub(super) test: Test,
}

#[derive(Debug, Clone)]
pub(super) enum Test {
    In(Vec<String>),
    /// Also holds where the label is absent.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Whether these labels are selected.
    pub(super) fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// All of which must hold.
    pub(super) fn requirements(&self) -> &[Requirement] {
        &self.0
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

impl TryFrom<RawSelector> for Selector {
    type Error = String;

    fn try_from(raw: RawSelector) -> Result<Self, String> {
        let labels = raw.match_labels.unwrap_or_default();
        check_labels(&labels).map_err(|fault| format!("matchLabels: {fault}"))?;
        let equal = |(key, value)| Requirement { key, test: Test::In(vec![value]) };
        let mut requirements: Vec<_> = labels.into_iter().map(equal).collect();
        for expression in raw.match_expressions.unwrap_or_default() {
            let requirement = expression.check();
            requirements.push(requirement.map_err(|fault| format!("matchExpressions: {fault}"))?);
        }
        Ok(Self(requirements))
    }
}

impl RawExpression {
    fn check(self) -> Result<Requirement, String> {
        check_key(&self.key)?;
        let (key, operator) = (self.key, self.operator);
        let values = self.values.unwrap_or_default();
        values.iter().try_for_each(|value| check_value(value))?;
        let test = match (operator, values.is_empty()) {
            (Operator::In, false) => Test::In(values),
            (Operator::NotIn, false) => Test::NotIn(values),
            (Operator::Exists, true) => Test::Exists,
            (Operator::DoesNotExist, true) => Test::DoesNotExist,
            (Operator::In | Operator::NotIn, true) => {
                return Err(format!("{key:?} {operator:?}: expected at least one of values"));
            }
            (Operator::Exists | Operator::DoesNotExist, false) => {
                return Err(format!("{key:?} {operator:?}: expected no values"));
            }
        };
        Ok(Requirement { key, test })
    }
}
