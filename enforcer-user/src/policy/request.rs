//! One question to the policy, and its form in Cedar.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use cedar_policy::{Context, Entities, Entity, Request as CedarRequest, RestrictedExpression};
use serde::{Deserialize, Serialize};

use super::protocol::Protocol;
use super::rule::Head;
use super::schema;
use crate::identity::{Identity, Namespace};

/// 9999-12-31T23:59:59Z, the last second that Cedar's `datetime` can write.
const LAST_SECOND: i64 = 253_402_300_799;
const SECONDS_A_DAY: i64 = 86_400;

/// What is asked, which says at whose end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The caller's node: may its workload connect?
    Connect,
    /// The callee's node: may its workload accept?
    Accept,
}

impl<'a> Request<'a> {
    /// The end whose node asks.
    #[must_use]
    pub fn asked(&self) -> &'a Identity {
        match self.action {
            Action::Connect => self.caller,
            Action::Accept => self.callee,
        }
    }
}

impl Action {
    /// Both, in the order in which a connection is asked about.
    pub const ALL: [Self; 2] = [Self::Connect, Self::Accept];

    /// Its name in policies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Accept => "accept",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// May `caller` connect to `callee`? Asked at both ends.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Which end asks: `action`.
    pub action: Action,
    /// Who calls: `principal`.
    pub caller: &'a Identity,
    /// Who answers: `resource`.
    pub callee: &'a Identity,
    /// The callee's port, host byte order: `context.port`.
    pub port: u16,
    /// `context.protocol`, by name.
    pub protocol: Protocol,
    /// Wall time, seconds since 1970-01-01T00:00:00Z: `context.time`.
    pub unix_seconds: i64,
}

/// The two ends of a request that can be asked, and what else is looked up more than once.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    action: Action,
    pub caller: End<'a>,
    pub callee: End<'a>,
    /// The name of the protocol.
    pub protocol: String,
}

/// A workload and where it lives, as policy heads name them.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub spiffe_id: String,
    /// The path of its namespace.
    pub namespace: &'a str,
}

/// A request as Cedar takes it, with the two workloads and the namespaces above them.
#[derive(Debug)]
pub(super) struct Question {
    pub request: CedarRequest,
    pub entities: Entities,
}

impl<'a> Ends<'a> {
    /// The ends of a request that can be asked; the error says why this one cannot.
    pub fn new(asked: &Request<'a>) -> Result<Self, String> {
        check_identities(asked.caller, asked.callee)?;
        if !(0..=LAST_SECOND).contains(&asked.unix_seconds) {
            return Err(format!("time {} lies outside 1970 to 9999", asked.unix_seconds));
        }
        Ok(Self {
            action: asked.action,
            caller: End::new(asked.caller),
            callee: End::new(asked.callee),
            protocol: asked.protocol.to_string(),
        })
    }
}

impl<'a> Ends<'a> {
    /// The end whose node asks.
    pub fn asked(&self) -> &End<'a> {
        match self.action {
            Action::Connect => &self.caller,
            Action::Accept => &self.callee,
        }
    }
}

impl<'a> End<'a> {
    fn new(identity: &'a Identity) -> Self {
        Self { spiffe_id: identity.spiffe_id(), namespace: identity.namespace().as_str() }
    }

    /// Every namespace it lives in, the nearest first, the root last.
    pub fn scopes(&self) -> impl Iterator<Item = &'a str> {
        std::iter::successors(Some(self.namespace), |path| match path.rsplit_once('/')? {
            ("", "") => None,
            ("", _) => Some("/"),
            (above, _) => Some(above),
        })
    }

    /// Whether what a head names lets the workload pass.
    pub fn passes(&self, head: &Head) -> bool {
        match head {
            Head::Any => true,
            Head::Namespace(path) => is_below(self.namespace, path),
            Head::Workload(spiffe_id) => **spiffe_id == self.spiffe_id,
            Head::Other(_) => false,
        }
    }
}

/// Whether the namespace of path `inner` is that of `outer` or lies below it, by whole segments.
pub(super) fn is_below(inner: &str, outer: &str) -> bool {
    outer == "/"
        || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Question {
    /// Puts the request into Cedar's form; the error says what could not be expressed.
    ///
    /// Parsing a time costs more than all the rest, so it is left out for policies that do not
    /// read it; one that did nevertheless would fail, and a failure never opens.
    pub fn new(asked: &Request<'_>, with_time: bool) -> Result<Self, String> {
        let request = CedarRequest::new(
            schema::workload_uid(asked.caller),
            schema::action_uid(asked.action).clone(),
            schema::workload_uid(asked.callee),
            context(asked, with_time)?,
            None,
        )
        .map_err(|e| format!("the request does not form: {e}"))?;
        Ok(Self { request, entities: entities(asked)? })
    }
}

/// What the entities of one request could not keep apart is refused before it can be confused.
fn check_identities(caller: &Identity, callee: &Identity) -> Result<(), String> {
    if caller.trust_domain() != callee.trust_domain() {
        // A namespace path means something only within its trust domain.
        return Err(format!(
            "{caller} and {callee} are of two trust domains; policies speak of one"
        ));
    }
    let same_name = caller.name() == callee.name() && caller.namespace() == callee.namespace();
    if same_name && caller != callee {
        let (labels, others) = (caller.labels(), callee.labels());
        if labels != others {
            return Err(format!(
                "caller and callee are both {caller}, but their labels differ: {labels:?} and {others:?}"
            ));
        }
        return Err(format!(
            "caller and callee are both {caller}, but what they run or their nodes differ: {:?} and {:?}",
            caller.description(),
            callee.description()
        ));
    }
    Ok(())
}

fn context(asked: &Request<'_>, with_time: bool) -> Result<Context, String> {
    let time = with_time.then(|| datetime(asked.unix_seconds)).flatten();
    let time = time.map(|t| ("time".to_owned(), RestrictedExpression::new_datetime(t)));
    let always = [
        ("port".to_owned(), RestrictedExpression::new_long(i64::from(asked.port))),
        ("protocol".to_owned(), RestrictedExpression::new_string(asked.protocol.to_string())),
    ];
    Context::from_pairs(always.into_iter().chain(time))
        .map_err(|e| format!("the context does not form: {e}"))
}

fn entities(asked: &Request<'_>) -> Result<Entities, String> {
    // Keyed by uid: a workload that calls itself, and shared namespaces, stand once.
    let mut all = HashMap::new();
    for identity in [asked.caller, asked.callee] {
        let namespaces = identity.namespace().ancestors().map(|n| namespace_entity(&n));
        for entity in workload_entities(identity)?.into_iter().chain(namespaces) {
            all.insert(entity.uid(), entity);
        }
    }
    Entities::from_entities(all.into_values(), None)
        .map_err(|e| format!("the entities do not form: {e}"))
}

fn workload_entities(identity: &Identity) -> Result<[Entity; 3], String> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let texts = |texts: &BTreeMap<String, String>| -> HashMap<String, RestrictedExpression> {
        texts.iter().map(|(key, value)| (key.clone(), text(value))).collect()
    };
    let (labels_uid, node_uid) = (schema::labels_uid(identity), schema::node_uid(identity));
    let namespace = schema::namespace_uid(identity.namespace());
    let attributes = [
        ("trust_domain".to_owned(), text(identity.trust_domain())),
        ("namespace".to_owned(), RestrictedExpression::new_entity_uid(namespace.clone())),
        ("name".to_owned(), text(identity.name())),
        ("spiffe_id".to_owned(), text(&identity.spiffe_id())),
        ("labels".to_owned(), RestrictedExpression::new_entity_uid(labels_uid.clone())),
        ("node".to_owned(), RestrictedExpression::new_entity_uid(node_uid.clone())),
    ];
    let known = identity.attributes().iter().map(|(name, value)| (name.to_string(), text(value)));
    let refused = |e| format!("{identity} does not form an entity: {e}");
    Ok([
        Entity::new(labels_uid, texts(identity.labels()), HashSet::new()).map_err(refused)?,
        Entity::new(node_uid, texts(identity.node_labels()), HashSet::new()).map_err(refused)?,
        Entity::new(
            schema::workload_uid(identity),
            attributes.into_iter().chain(known).collect(),
            HashSet::from([namespace]),
        )
        .map_err(refused)?,
    ])
}

fn namespace_entity(namespace: &Namespace) -> Entity {
    let parent = namespace.ancestors().nth(1).map(|above| schema::namespace_uid(&above));
    Entity::new_no_attrs(schema::namespace_uid(namespace), parent.into_iter().collect())
}

/// RFC 3339 in UTC, the form that Cedar's `datetime` reads; none outside 1970 to 9999.
#[must_use]
pub fn datetime(unix_seconds: i64) -> Option<String> {
    if !(0..=LAST_SECOND).contains(&unix_seconds) {
        return None;
    }
    let (year, month, day) = civil_date(unix_seconds / SECONDS_A_DAY);
    let second = unix_seconds % SECONDS_A_DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Year, month and day of the proleptic Gregorian calendar from days since 1970-01-01.
///
/// Counts in years that begin on 1 March, so that the leap day is a year's last (Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`); `days` is not negative here.
const fn civil_date(days: i64) -> (i64, i64, i64) {
    const DAYS_FROM_0000_03_01: i64 = 719_468;
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let days = days + DAYS_FROM_0000_03_01;
    let (era, day_of_era) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_namespaces_in_another_form() {
        let namespaces = ["/", "/a", "/a/b", "/a/b/c", "/ab"].map(|text| {
            let namespace: Namespace = text.parse().unwrap();
            namespace
        });
        for inner in &namespaces {
            let end = End { spiffe_id: String::new(), namespace: inner.as_str() };
            let above: Vec<String> = inner.ancestors().map(|n| n.to_string()).collect();
            assert_eq!(end.scopes().collect::<Vec<_>>(), above);
            for outer in &namespaces {
                assert_eq!(is_below(inner.as_str(), outer.as_str()), outer.contains(inner));
            }
        }
    }

    #[test]
    fn seconds_become_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST_SECOND, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(datetime(seconds).as_deref(), Some(text));
        }
        assert_eq!(datetime(-1), None);
        assert_eq!(datetime(LAST_SECOND + 1), None);
    }
}
