//! The index against the whole set, over random policies and identities.

use cedar_policy::{Authorizer, PolicySet as CedarSet};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{MONDAY, workload};
use crate::identity::{Identity, Namespace};
use crate::policy::request::{Ends, Question};
use crate::policy::{Effect, PolicySet, Protocol, Request, Rule, SourceFile};

const NAMESPACES: [&str; 6] = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/x"];
const CONDITIONS: [&str; 12] = [
    "",
    "when { principal.labels.tier == \"front\" }",
    "when { principal.labels.tier != \"front\" }",
    "unless { resource.labels.env == \"prod\" }",
    "when { principal.labels.env == resource.labels.env }",
    "when { principal.labels has tier && principal.labels.tier == \"back\" }",
    "when { principal.namespace == resource.namespace }",
    "when { principal in resource.namespace }",
    "when { context.port < 1024 }",
    "when { context.port == 80 || resource.labels.tier == \"front\" }",
    "when { context.port * 9223372036854775807 > 0 }",
    "when { context.time < datetime(\"2026-03-02T10:30:20Z\") }",
];

fn head(variable: &'static str) -> impl Strategy<Value = String> {
    let workloads: Vec<String> = NAMESPACES
        .iter()
        .flat_map(|ns| ["web", "db"].map(|name| format!("{}/{name}", ns.trim_end_matches('/'))))
        .collect();
    prop_oneof![
        2 => Just(variable.to_owned()),
        1 => Just(format!("{variable} is Workload")),
        4 => select(NAMESPACES.to_vec()).prop_map(move |ns| format!("{variable} in Namespace::\"{ns}\"")),
        1 => select(NAMESPACES.to_vec())
            .prop_map(move |ns| format!("{variable} is Workload in Namespace::\"{ns}\"")),
        3 => (select(workloads), select(vec!["==", "in"]))
            .prop_map(move |(w, op)| format!("{variable} {op} Workload::\"spiffe://example.org{w}\"")),
    ]
}

fn policy() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    (effect, head("principal"), head("resource"), select(CONDITIONS.to_vec())).prop_map(
        |(effect, caller, callee, condition)| {
            format!("{effect}({caller}, action, {callee}) {condition};\n")
        },
    )
}

/// One file per policy, most of them belonging to the root.
fn files() -> impl Strategy<Value = Vec<SourceFile>> {
    let scope = prop_oneof![3 => Just("/"), 1 => select(NAMESPACES.to_vec())];
    prop::collection::vec((policy(), scope), 0..24).prop_map(|policies| {
        let file = |(n, (text, scope)): (usize, (String, &str))| SourceFile {
            scope: scope.parse().unwrap(),
            ..SourceFile::new(format!("{n}.cedar"), text)
        };
        policies.into_iter().enumerate().map(file).collect()
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    let labels = subsequence(vec![("tier", "front"), ("env", "prod"), ("team", "red")], 0..=3);
    (select(NAMESPACES.to_vec()), select(vec!["web", "db"]), labels).prop_map(
        |(ns, name, labels)| workload(&format!("{}/{name}", ns.trim_end_matches('/')), &labels),
    )
}

fn in_scope(scope: &Namespace, rule: &Rule, asked: &Request<'_>) -> bool {
    let (caller, callee) = (asked.caller.namespace(), asked.callee.namespace());
    match rule.effect() {
        Effect::Permit => scope.contains(caller) && scope.contains(callee),
        Effect::Forbid => scope.contains(caller) || scope.contains(callee),
    }
}

/// Rules of one effect that hold and that fail, by Cedar's own evaluation of all of them.
fn whole(set: &PolicySet, asked: &Request<'_>, effect: Effect) -> (Vec<String>, Vec<String>) {
    let question = Question::new(asked, &Ends::new(asked).unwrap(), true).unwrap();
    let rules =
        set.rules().iter().filter(|r| r.effect() == effect && in_scope(r.scope(), r, asked));
    let all = CedarSet::from_policies(rules.map(|rule| rule.policy.clone())).unwrap();
    let response = Authorizer::new().is_authorized(&question.request, &all, &question.entities);
    let name = |id: &cedar_policy::PolicyId| {
        let number: usize = id.to_string().parse().unwrap();
        set.rules()[number].name().to_owned()
    };
    let mut holding: Vec<String> = response.diagnostics().reason().map(name).collect();
    let mut failed: Vec<String> = response
        .diagnostics()
        .errors()
        .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(error)| {
            name(error.policy_id())
        })
        .collect();
    holding.sort();
    failed.sort();
    (holding, failed)
}

fn sorted<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<String> {
    let mut names: Vec<String> = rules.map(|rule| rule.name().to_owned()).collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_the_whole_set(
        files in files(), caller in identity(), callee in identity(), port in select(vec![80_u16, 8080]),
    ) {
        let set = PolicySet::from_sources(&files).unwrap();
        let asked = Request { caller: &caller, callee: &callee, port, protocol: Protocol::TCP, unix_seconds: MONDAY };
        prop_assume!(Ends::new(&asked).is_ok());
        let decision = set.decide(&asked);
        let (permits, failed_permits) = whole(&set, &asked, Effect::Permit);
        let (forbids, failed_forbids) = whole(&set, &asked, Effect::Forbid);
        let denied = !forbids.is_empty() || !failed_forbids.is_empty();
        prop_assert_eq!(decision.allow, !denied && !permits.is_empty());
        let mut deciding = if decision.allow { permits } else { [forbids, failed_forbids.clone()].concat() };
        deciding.sort();
        prop_assert_eq!(sorted(decision.rules.iter().copied()), deciding);
        let mut failures = [failed_permits, failed_forbids].concat();
        failures.sort();
        prop_assert_eq!(sorted(decision.failures.iter().map(|failure| failure.rule)), failures);
    }

    #[test]
    fn what_a_decision_says_not_to_depend_on_does_not_change_it(
        files in files(), caller in identity(), callee in identity(), port in any::<u16>(), later in 0..10_000_000_i64,
    ) {
        let set = PolicySet::from_sources(&files).unwrap();
        let asked = Request { caller: &caller, callee: &callee, port: 80, protocol: Protocol::TCP, unix_seconds: MONDAY - 5_000_000 };
        let decision = set.decide(&asked);
        if !decision.port_matters {
            prop_assert_eq!(decision.allow, set.decide(&Request { port, ..asked }).allow);
        }
        if decision.valid_until.is_none() {
            let then = Request { unix_seconds: asked.unix_seconds + later, ..asked };
            prop_assert_eq!(decision.allow, set.decide(&then).allow);
        }
    }

    #[test]
    fn order_never_matters_and_a_rule_moves_a_decision_only_its_own_way(
        files in files(), caller in identity(), callee in identity(), extra in policy(),
    ) {
        let asked = Request { caller: &caller, callee: &callee, port: 80, protocol: Protocol::TCP, unix_seconds: MONDAY };
        let before = PolicySet::from_sources(&files).unwrap().decide(&asked).allow;
        let reversed: Vec<SourceFile> = files.iter().rev().cloned().collect();
        prop_assert_eq!(before, PolicySet::from_sources(&reversed).unwrap().decide(&asked).allow);
        let permits = extra.starts_with("permit");
        let more = [files, vec![SourceFile::new("extra.cedar", extra)]].concat();
        let after = PolicySet::from_sources(&more).unwrap().decide(&asked).allow;
        let wrong_way = if permits { before && !after } else { after && !before };
        prop_assert!(!wrong_way);
    }
}
