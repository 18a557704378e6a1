//! Workloads that belong together: of one namespace and with the same labels.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::Identity;

/// Labels that differ between replicas of the same, or between versions of it.
const VOLATILE: [&str; 7] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];
/// Labels that people tell workloads by, the best first.
const TELLING: [&str; 8] =
    ["app.kubernetes.io/name", "app", "k8s-app", "service", "name", "role", "tier", "job-name"];

type Labels = BTreeMap<String, String>;

/// Workloads that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// Where they live.
    pub(super) namespace: String,
    /// What tells them from all others there that are known; empty if only the name does.
    pub(super) labels: Vec<(String, String)>,
    /// The SPIFFE ID of a workload that has nothing else to be known by.
    pub(super) alone: Option<String>,
}

/// All that are known, and their groups.
pub(super) struct Groups<'a> {
    known: &'a BTreeMap<String, Identity>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(known: &'a BTreeMap<String, Identity>) -> Self {
        Self { known }
    }

    /// The group of a workload: by as few labels as tell it from all that are not alike; by its name, if none does.
    pub(super) fn of(&self, own: &Identity) -> Group {
        let labels = lasting(own);
        let neighbours: Vec<Labels> = self
            .known
            .values()
            .filter(|other| other.namespace() == own.namespace())
            .map(lasting)
            .filter(|other| *other != labels)
            .collect();
        let tells = |chosen: &[&(String, String)]| {
            let holds = |other: &Labels| chosen.iter().all(|(k, v)| other.get(k) == Some(v));
            !neighbours.iter().any(holds)
        };
        let all: Vec<(String, String)> = sorted(labels);
        let one = all.iter().map(|label| vec![label]);
        let two = all
            .iter()
            .enumerate()
            .flat_map(|(n, first)| all.iter().skip(n + 1).map(move |second| vec![first, second]));
        let every = std::iter::once(all.iter().collect::<Vec<_>>());
        let mut choices = one.chain(two).chain(every).filter(|chosen| !chosen.is_empty());
        let chosen = choices.find(|chosen| tells(chosen));
        let labels: Vec<(String, String)> =
            chosen.map(|chosen| chosen.into_iter().cloned().collect()).unwrap_or_default();
        let alone = labels.is_empty().then(|| own.spiffe_id());
        Group { namespace: own.namespace().to_string(), labels, alone }
    }

    /// How many that are known belong to it.
    pub(super) fn members(&self, group: &Group) -> BTreeSet<&'a str> {
        let belongs = |(id, one): &(&String, &Identity)| match &group.alone {
            Some(alone) => alone == *id,
            None => {
                one.namespace().as_str() == group.namespace
                    && group.labels.iter().all(|(k, v)| one.labels().get(k) == Some(v))
            }
        };
        self.known.iter().filter(belongs).map(|(id, _)| id.as_str()).collect()
    }
}

impl Group {
    /// For people: `app=web of /shop`, `/shop/cron`.
    pub(super) fn title(&self) -> String {
        if let Some(alone) = &self.alone {
            let path = alone.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
            return path.map_or_else(|| alone.clone(), |(_, path)| format!("/{path}"));
        }
        let labels: Vec<String> = self.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{} of {}", labels.join(","), self.namespace)
    }
}

fn lasting(identity: &Identity) -> Labels {
    let labels = identity.labels().iter().filter(|(key, _)| !VOLATILE.contains(&key.as_str()));
    labels.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The most telling first.
fn sorted(labels: Labels) -> Vec<(String, String)> {
    let rank = |key: &str| TELLING.iter().position(|one| *one == key).unwrap_or(TELLING.len());
    let mut labels: Vec<(String, String)> = labels.into_iter().collect();
    labels.sort_by(|a, b| (rank(&a.0), &a.0).cmp(&(rank(&b.0), &b.0)));
    labels
}
