//! The policy that permits what was seen, and as little else as its few words can say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::group::{Group, Groups};
use super::record::{Hours, LearnedFlow, LearnedReport, When};
use crate::identity::Identity;
use crate::policy::{attribute, quoted};

/// The most bytes of a file, that the control socket takes it.
const FILE_BYTES_MAX: usize = 60 * 1024;
/// From so many ports on they are one span: nobody reads more.
const PORTS_MAX: usize = 16;
/// What the files are called.
const NAME: &str = "learned";

/// A file of the policy tree.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Proposal {
    /// Where it belongs, `/namespace/name.cedar`.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// Everything of a pair of groups at one end.
#[derive(Debug, Default)]
struct Seen<'a> {
    flows: Vec<&'a LearnedFlow>,
}

/// Files for the namespaces of the workloads that learned, each for its workloads' own end. A file is written anew as a
/// whole: what was not seen again is not in it.
#[must_use]
pub fn propose(report: &LearnedReport) -> Vec<Proposal> {
    let known = known(report);
    let groups = Groups::new(&known);
    let mut pairs: BTreeMap<(String, &str, Group, Group), Seen<'_>> = BTreeMap::new();
    for flow in &report.flows {
        let (Some(from), Some(to)) = (known.get(&flow.from), known.get(&flow.to)) else { continue };
        let own = if flow.action == "accept" { to } else { from };
        let key =
            (own.namespace().to_string(), flow.action.as_str(), groups.of(from), groups.of(to));
        pairs.entry(key).or_default().flows.push(flow);
    }
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((namespace, action, from, to), seen) in &pairs {
        let rule = rule(action, from, to, seen, &groups);
        let parts = files.entry(namespace.clone()).or_default();
        match parts.last_mut() {
            Some(last) if last.len() + rule.len() <= FILE_BYTES_MAX => last.push_str(&rule),
            _ => parts.push(rule),
        }
    }
    files.into_iter().flat_map(|(namespace, parts)| named(&namespace, parts)).collect()
}

fn named(namespace: &str, parts: Vec<String>) -> impl Iterator<Item = Proposal> + use<> {
    let folder = namespace.trim_end_matches('/').to_owned();
    parts.into_iter().enumerate().map(move |(number, text)| {
        let suffix = if number == 0 { String::new() } else { format!("-{}", number + 1) };
        Proposal { path: format!("{folder}/{NAME}{suffix}.cedar"), text }
    })
}

/// Everybody who learned or was met, by SPIFFE ID.
fn known(report: &LearnedReport) -> BTreeMap<String, Identity> {
    let own = report.workloads.iter().map(|one| (&one.spiffe_id, &one.labels));
    let met = report.peers.iter().map(|one| (&one.spiffe_id, &one.labels));
    met.chain(own)
        .filter_map(|(id, labels)| {
            let identity = Identity::from_spiffe_id(id, labels.clone()).ok()?;
            Some((id.clone(), identity))
        })
        .collect()
}

fn rule(action: &str, from: &Group, to: &Group, seen: &Seen<'_>, groups: &Groups<'_>) -> String {
    let (ports, as_span) = seen.ports();
    let conditions: Vec<String> = labels("principal", from)
        .chain(labels("resource", to))
        .chain(std::iter::once(ports))
        .collect();
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = writeln!(text, "// {}", seen.when());
    for (side, group, ends) in [
        ("callers", from, seen.ends(|flow| &flow.from)),
        ("callees", to, seen.ends(|flow| &flow.to)),
    ] {
        let members = groups.members(group);
        let unseen: Vec<&str> = members.iter().copied().filter(|id| !ends.contains(id)).collect();
        if !unseen.is_empty() {
            let _ = writeln!(text, "// Wider than seen: also {side} {}", unseen.join(", "));
        }
    }
    if let Some(count) = as_span {
        let _ = writeln!(text, "// Wider than seen: {count} ports of the span were used");
    }
    let id = format!("learned {action}: {} to {}", from.title(), to.title());
    let _ = writeln!(text, "@id({})", quoted(&shortened(id, &text)));
    let _ = writeln!(
        text,
        "permit (\n    {},\n    action == Action::{},\n    {}\n)\nwhen {{ {} }};\n",
        head("principal", from),
        quoted(action),
        head("resource", to),
        conditions.join(" && ")
    );
    text
}

/// An id has at most 256 bytes; what is cut is told apart by a hash.
fn shortened(id: String, of: &str) -> String {
    const BYTES_MAX: usize = 200;
    if id.len() <= BYTES_MAX {
        return id;
    }
    let hash = blake3::hash([id.as_str(), of].concat().as_bytes()).to_hex();
    let (cut, hash) = (id.floor_char_boundary(BYTES_MAX), hash.get(..16).unwrap_or_default());
    format!("{} {hash}", id.get(..cut).unwrap_or_default())
}

fn head(variable: &str, group: &Group) -> String {
    match &group.alone {
        Some(id) => format!("{variable} == Workload::{}", quoted(id)),
        None => format!("{variable} in Namespace::{}", quoted(&group.namespace)),
    }
}

fn labels(variable: &'static str, group: &Group) -> impl Iterator<Item = String> {
    group.labels.iter().map(move |(key, value)| {
        let label = attribute(&format!("{variable}.labels"), key);
        format!("{label} == {}", quoted(value))
    })
}

impl Seen<'_> {
    /// The condition on the port; with how many were seen, if it is a span.
    fn ports(&self) -> (String, Option<usize>) {
        let ports: BTreeSet<u16> = self.flows.iter().map(|flow| flow.port).collect();
        let all: Vec<String> = ports.iter().map(u16::to_string).collect();
        match (all.as_slice(), ports.first(), ports.last()) {
            ([one], ..) => (format!("context.port == {one}"), None),
            (_, Some(first), Some(last)) if all.len() > PORTS_MAX => {
                let span = format!("context.port >= {first} && context.port <= {last}");
                (span, Some(all.len()))
            }
            _ => (format!("[{}].contains(context.port)", all.join(", ")), None),
        }
    }

    fn ends<'f>(&'f self, of: impl Fn(&'f LearnedFlow) -> &'f String) -> BTreeSet<&'f str> {
        self.flows.iter().map(|flow| of(flow).as_str()).collect()
    }

    fn when(&self) -> String {
        when(self.flows.iter().map(|flow| &flow.when))
    }
}

/// All of it in words.
pub(super) fn when<'a>(all: impl Iterator<Item = &'a When>) -> String {
    let (mut hours, mut first, mut last) = (Hours::default(), u64::MAX, 0);
    for one in all {
        hours = hours.or(one.hours);
        (first, last) = (first.min(one.first_unix), last.max(one.last_unix));
    }
    let count = hours.count();
    let unit = if count == 1 { "hour" } else { "hours" };
    format!("Seen from {} to {}, in {count} {unit} of the week", date(first), date(last))
}

fn date(unix: u64) -> String {
    let second = i64::try_from(unix).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    second.map_or_else(|| unix.to_string(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::learn::Learned;
    use crate::policy::{Action, PolicySet, Protocol, Request, SourceFile};

    fn identity(path: &str, labels: &[(&str, &str)]) -> Identity {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Identity::from_spiffe_id(&format!("spiffe://example.org{path}"), labels).unwrap()
    }

    fn everybody() -> Vec<Identity> {
        vec![
            identity("/shop/web-1", &[("app", "web"), ("pod-template-hash", "1")]),
            identity("/shop/web-2", &[("app", "web"), ("pod-template-hash", "2")]),
            identity("/shop/db", &[("app", "db"), ("tier", "data")]),
            identity("/shop/cache", &[("app", "db"), ("tier", "cache")]),
            identity("/shop/plain", &[]),
            identity("/ops/cron", &[]),
            identity("/ops/prometheus", &[("app", "web")]),
        ]
    }

    fn loaded(proposals: &[Proposal]) -> PolicySet {
        let files: Vec<SourceFile> = proposals
            .iter()
            .map(|one| SourceFile {
                scope: one
                    .path
                    .rsplit_once('/')
                    .map_or("/", |(n, _)| if n.is_empty() { "/" } else { n })
                    .parse()
                    .unwrap(),
                ..SourceFile::new(&one.path, &one.text)
            })
            .collect();
        PolicySet::from_sources(&files).unwrap_or_else(|e| panic!("{e}\n{proposals:#?}"))
    }

    fn allows(set: &PolicySet, from: &Identity, to: &Identity, port: u16, action: Action) -> bool {
        let (caller, callee, protocol) = (from, to, Protocol::TCP);
        let unix_seconds = 1_790_000_000;
        set.decide(&Request { action, caller, callee, port, protocol, unix_seconds }).allow
    }

    #[test]
    fn replicas_are_one_rule_by_the_label_that_tells_them() {
        let all = everybody();
        let mut learned = Learned::default();
        let (web, db) = (&all[0], &all[2]);
        learned.watch([web, db].into_iter(), 0);
        learned.note((db, web), Action::Accept, (5432, Protocol::TCP), 0);
        learned.note((db, &all[1]), Action::Accept, (5432, Protocol::TCP), 7200);
        learned.note((db, &all[5]), Action::Accept, (5432, Protocol::TCP), 7200);
        let proposals = propose(&learned.report());
        let [one] = proposals.as_slice() else { panic!("{proposals:?}") };
        assert_eq!(one.path, "/shop/learned.cedar");
        let set = loaded(&proposals);
        assert_eq!(set.rules().len(), 2, "{}", one.text);
        assert!(one.text.contains("principal.labels.app == \"web\""), "{}", one.text);
        assert!(!one.text.contains("pod-template-hash"), "{}", one.text);
        assert!(one.text.contains("in 2 hours of the week"), "{}", one.text);
        for (from, allowed) in [(0, true), (1, true), (5, true), (6, false), (4, false)] {
            assert_eq!(allows(&set, &all[from], db, 5432, Action::Accept), allowed, "{from}");
        }
        assert!(!allows(&set, web, db, 5433, Action::Accept));
        assert!(!allows(&set, web, db, 5432, Action::Connect));
    }

    #[test]
    fn what_is_wider_than_seen_says_so() {
        let all = everybody();
        let mut learned = Learned::default();
        learned.watch([&all[0], &all[1]].into_iter(), 0);
        for port in 0..40 {
            learned.note((&all[0], &all[2]), Action::Connect, (1000 + 2 * port, Protocol::TCP), 0);
        }
        let text = &propose(&learned.report())[0].text;
        assert!(text.contains("also callers spiffe://example.org/shop/web-2\n"), "{text}");
        assert!(text.contains("40 ports of the span were used"), "{text}");
        assert!(text.contains("context.port >= 1000 && context.port <= 1078"), "{text}");
    }

    proptest! {
        /// Whatever was seen is permitted; of those who were met, whoever is alike to nobody seen is not.
        #[test]
        fn what_was_seen_is_permitted_and_little_else(
            seen in prop::collection::vec((0_usize..7, 0_usize..7, select(vec![80_u16, 443, 5432]), any::<bool>()), 1..20),
        ) {
            let all = everybody();
            let mut learned = Learned::default();
            learned.watch(all.iter(), 0);
            for (from, to, port, accepts) in seen.iter().filter(|(from, to, ..)| from != to) {
                let (own, peer, action) = if *accepts {
                    (&all[*to], &all[*from], Action::Accept)
                } else {
                    (&all[*from], &all[*to], Action::Connect)
                };
                learned.note((own, peer), action, (*port, Protocol::TCP), 0);
            }
            let set = loaded(&propose(&learned.report()));
            // The two that differ in nothing that lasts.
            let alike = |n: usize| if n == 1 { 0 } else { n };
            for (from, to) in (0..7).flat_map(|from| (0..7).map(move |to| (from, to))).filter(|(f, t)| f != t) {
                for (port, accepts) in [80, 443, 5432].into_iter().flat_map(|port| [(port, true), (port, false)]) {
                    let action = if accepts { Action::Accept } else { Action::Connect };
                    let was_seen = seen.iter().any(|(f, t, p, a)| {
                        f != t && (alike(*f), alike(*t), *p, *a) == (alike(from), alike(to), port, accepts)
                    });
                    // Ports of a pair are one list, whoever of the groups used them.
                    prop_assert_eq!(
                        allows(&set, &all[from], &all[to], port, action), was_seen,
                        "{} to {} at {} {:?}", all[from].spiffe_id(), all[to].spiffe_id(), port, action
                    );
                }
            }
        }
    }
}
