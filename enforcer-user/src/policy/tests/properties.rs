//! Index and compiled conditions against Cedar's own evaluation of the whole set, over random policies
//! and identities.

use cedar_policy::{Authorizer, PolicySet as CedarSet};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{MONDAY, tcp, workload};
use crate::identity::{Identity, Namespace};
use crate::policy::request::{Ends, Question};
use crate::policy::{
    Action, Effect, PolicyError, PolicySet, Request, Rule, RuleFailure, SourceFile,
};

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

/// Conditions that need no Cedar, of every shape that there is.
const NATIVE: [&str; 43] = [
    "principal.labels.tier == \"front\"",
    "\"front\" == resource.labels.tier",
    "principal.labels.env != \"prod\"",
    "[\"red\", \"front\", \"\"].contains(principal.labels.team)",
    "resource.labels.tier like \"fr*t\"",
    "principal.labels.env like \"*\"",
    "principal.labels has team",
    "resource.labels has env",
    "principal.labels.env == resource.labels.env",
    "principal.labels.tier == principal.labels.team",
    "principal.name == \"web\"",
    "resource.name like \"d?*\" || resource.name like \"d*\"",
    "principal.name == resource.name",
    "principal.trust_domain == \"example.org\"",
    "resource.spiffe_id like \"spiffe://*/a/*\"",
    "principal.spiffe_id == \"spiffe://example.org/a/web\"",
    "principal == Workload::\"spiffe://example.org/a/b/db\"",
    "principal == resource",
    "principal in resource",
    "principal.namespace == resource.namespace",
    "principal.namespace == Namespace::\"/a/b\"",
    "principal in Namespace::\"/a\"",
    "resource.namespace in Namespace::\"/\"",
    "resource in principal.namespace",
    "principal.namespace in resource.namespace",
    "resource in [Namespace::\"/a/b\", Namespace::\"/x\"]",
    "principal in [Workload::\"spiffe://example.org/a/web\"]",
    "context.port == 80",
    "context.port <= 80",
    "context.port > 80",
    "443 > context.port",
    "80 <= context.port",
    "[80, 443].contains(context.port)",
    "context.protocol == \"tcp\"",
    "context.protocol like \"t*\"",
    "principal.image == \"red\"",
    "resource.user like \"f*t\" && principal.user == resource.user",
    "principal has image",
    "resource has executable",
    "principal.node.env == resource.node.env",
    "principal.node.tier == \"front\"",
    "resource.node has env && !(resource.labels has env)",
    "[\"red\", \"prod\"].contains(resource.node.tier)",
];

/// Conditions of these and of some that need Cedar, joined in every way.
fn condition() -> impl Strategy<Value = String> {
    let foreign = vec![
        "context.port * 9223372036854775807 > 0",
        "context.time < datetime(\"2026-03-02T10:30:20Z\")",
        "principal has labels.tier",
        "resource has node.tier",
        "principal has node && resource.node.tier like \"f*\"",
    ];
    let part = prop_oneof![12 => select(NATIVE.to_vec()), 1 => select(foreign)];
    part.prop_map(str::to_owned).prop_recursive(3, 12, 3, |part| {
        prop_oneof![
            (part.clone(), part.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (part.clone(), part.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            part.clone().prop_map(|a| format!("!({a})")),
            (part.clone(), part.clone(), part)
                .prop_map(|(a, b, c)| format!("if {a} then {b} else {c}")),
        ]
    })
}

/// What stands behind the head.
fn clauses() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(CONDITIONS.to_vec()).prop_map(str::to_owned),
        4 => condition().prop_map(|condition| format!("when {{ {condition} }}")),
        1 => (condition(), condition())
            .prop_map(|(when, unless)| format!("when {{ {when} }} unless {{ {unless} }}")),
    ]
}

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

fn action() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just("action"),
        1 => select(vec![
            "action == Action::\"connect\"",
            "action == Action::\"accept\"",
            "action in Action::\"accept\"",
            "action in [Action::\"accept\", Action::\"connect\"]",
        ]),
    ]
}

fn annotation() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => Just(""),
        1 => Just("@mode(\"observe\") "),
        1 => select(vec!["@bounds(\"/a\") ", "@bounds(\"/a/b\") ", "@bounds(\"/x\") "]),
        1 => select(vec![
            "@active(\"Mon-Fri 10:00-11:00 UTC\") ",
            "@active(\"Mon 10:30-10:31 UTC; Sun Europe/Berlin\") ",
            "@active(\"Tue-Sun UTC\") ",
        ]),
    ]
}

fn policy() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    (annotation(), effect, head("principal"), action(), head("resource"), clauses()).prop_map(
        |(annotation, effect, caller, action, callee, condition)| {
            let others = if effect == "forbid" { "@bounds" } else { "@mode" };
            let annotation = if annotation.contains(others) { "" } else { annotation };
            format!("{annotation}{effect}({caller}, {action}, {callee}) {condition};\n")
        },
    )
}

/// One file per policy, most of them belonging to the root.
fn files() -> impl Strategy<Value = Vec<SourceFile>> {
    let scope = prop_oneof![4 => Just("/"), 1 => select(NAMESPACES.to_vec())];
    prop::collection::vec((policy(), scope), 0..24).prop_map(|policies| {
        let file = |(n, (text, scope)): (usize, (String, &str))| SourceFile {
            scope: scope.parse().unwrap(),
            ..SourceFile::new(format!("{n}.cedar"), text)
        };
        policies.into_iter().enumerate().map(file).collect()
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    let labels = vec![
        ("tier", "front"),
        ("env", "prod"),
        ("team", "red"),
        ("@image", "red"),
        ("@user", "front"),
        ("@node.tier", "front"),
        ("@node.env", "prod"),
    ];
    let labels = subsequence(labels, 0..=7);
    (select(NAMESPACES.to_vec()), select(vec!["web", "db"]), labels).prop_map(
        |(ns, name, labels)| workload(&format!("{}/{name}", ns.trim_end_matches('/')), &labels),
    )
}

/// Whether the rule governs the end that is asked.
fn governs(rule: &Rule, asked: &Request<'_>) -> bool {
    rule.scope().contains(asked.asked().namespace())
}

/// Whether every bound that keeps the rule holds, by the words of the documentation.
fn is_within_bounds(rule: &Rule, bounds: &[(Namespace, Namespace, bool)]) -> bool {
    bounds.iter().filter(|(_, of, _)| of.contains(rule.scope())).all(|(by, of, _)| {
        bounds.iter().any(|(other_by, other_of, holds)| (other_by, other_of) == (by, of) && *holds)
    })
}

/// A rule that failed, and what is said of it.
type Failed = (String, String);

/// Rules of one effect that hold and that fail, by Cedar's own evaluation of all of them; of bounds or of others.
fn whole(
    set: &PolicySet,
    asked: &Request<'_>,
    effect: Effect,
    bounds: bool,
) -> (Vec<String>, Vec<Failed>) {
    let question = Question::new(asked, true).unwrap();
    let counts = |rule: &&Rule| {
        rule.effect() == effect
            && rule.bounds().is_some() == bounds
            && !rule.observes()
            && governs(rule, asked)
            && rule.is_active(asked.unix_seconds)
    };
    let rules = set.rules().iter().filter(counts);
    let all = CedarSet::from_policies(rules.map(|rule| rule.policy.clone())).unwrap();
    let response = Authorizer::new().is_authorized(&question.request, &all, &question.entities);
    let name = |id: &cedar_policy::PolicyId| {
        let number: usize = id.to_string().parse().unwrap();
        set.rules()[number].name().to_owned()
    };
    let mut holding: Vec<String> = response.diagnostics().reason().map(name).collect();
    let mut failed: Vec<Failed> = response
        .diagnostics()
        .errors()
        .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(error)| {
            (name(error.policy_id()), error.inner().to_string())
        })
        .collect();
    holding.sort();
    failed.sort();
    (holding, failed)
}

/// The set of these files. The validator refuses one with a policy of which it sees that it holds for nobody: that is
/// no case for these tests.
fn load(files: &[SourceFile]) -> Result<PolicySet, TestCaseError> {
    PolicySet::from_sources(files).map_err(|refused| {
        let impossible = |finding: &PolicyError| {
            let told = finding.to_string();
            ["policy is impossible", "it never applies", "@bounds"]
                .iter()
                .any(|part| told.contains(part))
        };
        if refused.findings().iter().all(impossible) {
            TestCaseError::reject("a policy holds for nobody")
        } else {
            TestCaseError::fail(refused.to_string())
        }
    })
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
        files in files(), action in select(Action::ALL.to_vec()), caller in identity(), callee in identity(),
        port in select(vec![80_u16, 8080]),
    ) {
        let set = load(&files)?;
        let asked = Request { action, ..tcp(&caller, &callee, port) };
        prop_assume!(Ends::new(&asked).is_ok());
        let decision = set.decide(&asked);
        let (mut permits, failed_permits) = whole(&set, &asked, Effect::Permit, false);
        let (forbids, failed_forbids) = whole(&set, &asked, Effect::Forbid, false);
        let (holding_bounds, _) = whole(&set, &asked, Effect::Permit, true);
        let bounds: Vec<(Namespace, Namespace, bool)> = set
            .rules()
            .iter()
            .filter_map(|rule| {
                let holds = holding_bounds.contains(&rule.name().to_owned());
                Some((rule.scope().clone(), rule.bounds()?.clone(), holds))
            })
            .filter(|(_, of, _)| of.contains(asked.asked().namespace()))
            .collect();
        permits.retain(|name| {
            let rule = set.rules().iter().find(|rule| rule.name() == name).unwrap();
            is_within_bounds(rule, &bounds)
        });
        let denied = !forbids.is_empty() || !failed_forbids.is_empty();
        prop_assert_eq!(decision.allow, !denied && !permits.is_empty());
        let failing = failed_forbids.iter().map(|(name, _)| name.clone());
        let mut deciding = if decision.allow { permits } else { forbids.into_iter().chain(failing).collect() };
        deciding.sort();
        prop_assert_eq!(sorted(decision.rules.iter().copied()), deciding);
        let mut failures = [failed_permits, failed_forbids].concat();
        failures.sort();
        // Of bounds that fail only those are told that would have let a permit count.
        let is_rule = |failure: &&RuleFailure<'_>| failure.rule.bounds().is_none();
        let mut told: Vec<Failed> = decision
            .failures
            .iter()
            .filter(is_rule)
            .map(|failure| (failure.rule.name().to_owned(), failure.message.to_string()))
            .collect();
        told.sort();
        prop_assert_eq!(told, failures);
    }

    #[test]
    fn what_a_decision_says_not_to_depend_on_does_not_change_it(
        files in files(), caller in identity(), callee in identity(), port in any::<u16>(), later in 0..10_000_000_i64,
    ) {
        let set = load(&files)?;
        let asked = Request { unix_seconds: MONDAY - 5_000_000, ..tcp(&caller, &callee, 80) };
        let decision = set.decide(&asked);
        if !decision.port_matters {
            prop_assert_eq!(decision.allow, set.decide(&Request { port, ..asked }).allow);
        }
        let then = match decision.valid_until {
            None => asked.unix_seconds + later,
            Some(until) => {
                prop_assert!(until > asked.unix_seconds);
                asked.unix_seconds + later % (until - asked.unix_seconds)
            }
        };
        // A condition may read the second of a time; that it holds up to the full minute is documented.
        if !files.iter().any(|file| file.text.contains("context.time")) {
            prop_assert_eq!(decision.allow, set.decide(&Request { unix_seconds: then, ..asked }).allow);
        }
    }

    #[test]
    fn order_never_matters_and_a_rule_moves_a_decision_only_its_own_way(
        files in files(), caller in identity(), callee in identity(), extra in policy(),
    ) {
        let asked = tcp(&caller, &callee, 80);
        let before = load(&files)?.decide(&asked).allow;
        let reversed: Vec<SourceFile> = files.iter().rev().cloned().collect();
        prop_assert_eq!(before, load(&reversed)?.decide(&asked).allow);
        // The first bound of a namespace takes away, though it is written as a permit.
        prop_assume!(!extra.contains("@bounds"));
        let permits = extra.contains("permit(");
        let more = [files, vec![SourceFile::new("extra.cedar", extra)]].concat();
        let after = load(&more)?.decide(&asked).allow;
        let wrong_way = if permits { before && !after } else { after && !before };
        prop_assert!(!wrong_way);
    }
}

#[test]
fn common_conditions_need_no_cedar() {
    let heads = ["principal", "principal is Workload", "principal in Namespace::\"/a\""];
    for condition in NATIVE {
        for head in heads {
            let rule = format!("permit({head}, action, resource) when {{ {condition} }};");
            assert_eq!(super::set(&rule).left_to_cedar(), 0, "{rule}");
        }
    }
    for condition in ["context.time < datetime(\"2026-03-02\")", "context.port * 2 > 80"] {
        let rule = format!("permit(principal, action, resource) when {{ {condition} }};");
        assert_eq!(super::set(&rule).left_to_cedar(), 1, "{rule}");
    }
}
