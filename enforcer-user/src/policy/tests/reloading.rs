//! A policy that takes over what an earlier one checked is the one that is loaded from nothing, findings included.

use proptest::prelude::*;
use proptest::sample::select;

use super::{tcp, workload};
use crate::policy::parse::parse_whole;
use crate::policy::{PolicyErrors, PolicySet, Rule, SourceFile};

/// Policies, good and bad, and what may stand between them.
const PIECES: [&str; 24] = [
    "permit(principal, action, resource);",
    "permit(principal, action, resource) when { principal.labels.tier == \"front\" };",
    "permit(principal, action, resource) when { principal.labels.tier == \"back\" };",
    "forbid(principal, action, resource) when { resource.labels.env == \"prod\" };",
    "permit(principal, action, resource) when { principal.labels has team };",
    "@id(\"one\") permit(principal in Namespace::\"/a\", action, resource);",
    "@id(\"one\") forbid(principal in Namespace::\"/b\", action, resource);",
    "@id(\"two; // not a comment\") permit(principal, action, resource) when { context.port == 80 };",
    "@reason(\"a \\\" quote\") permit(principal, action, resource) when { context.port < 80 };",
    "forbid(principal, action, resource) when { context.port * 2 > 99 }; // said; twice",
    "permit(principal // who; ever\n, action, resource);",
    "\n",
    "// nothing; here\r",
    "  \u{a0}",
    // From here on each is refused.
    "@colour(\"red\") permit(principal, action, resource);",
    "permit(principal in Namespace::\"a\", action, resource);",
    "permit(principal, action, resource) when { principal.nmae == \"x\" };",
    "permit(principal, action, resource) when { context.port == \"80\" };",
    "permit(principal, action, resource) when { principal.labels == resource.labels };",
    "permit(principal == ?principal, action, resource);",
    "permit(principal, action, resource) when { false };",
    "prmit(principal, action, resource);",
    "permit(principal, action, resource)",
    "\"",
];

/// How many of them no set is refused for, unless one of the same name stands beside.
const GOOD: usize = 14;

fn file() -> impl Strategy<Value = Vec<&'static str>> {
    let good = select(&PIECES[..GOOD]);
    let any = prop_oneof![24 => good, 1 => select(&PIECES[GOOD..])];
    prop::collection::vec(any, 0..8)
}

fn files() -> impl Strategy<Value = Vec<SourceFile>> {
    let scope = prop_oneof![3 => Just("/"), 1 => Just("/a")];
    prop::collection::vec((file(), scope, select(vec!["", " ", "\n"])), 0..3).prop_map(|files| {
        let file = |(n, (pieces, scope, gap)): (usize, (Vec<&str>, &str, &str))| SourceFile {
            scope: scope.parse().unwrap(),
            ..SourceFile::new(format!("{n}.cedar"), pieces.join(gap))
        };
        files.into_iter().enumerate().map(file).collect()
    })
}

/// Everything that is known of the rules, and what they say to a few questions.
fn told(set: &PolicySet) -> String {
    let rules = set.rules().iter().map(|rule| {
        let (number, policy, reads) = (rule.number(), rule.policy.to_cedar(), rule.reads);
        format!(
            "{number} {rule} {:?} {} {:?} {reads:?}\n{policy:?}",
            rule.effect(),
            rule.scope(),
            rule.labels
        )
    });
    let mut told: Vec<String> = rules.collect();
    told.push(format!("{:?} {}", set.labels_used(), set.left_to_cedar()));
    let web = workload("/a/web", &[("tier", "front")]);
    let db = workload("/b/db", &[("env", "prod"), ("team", "red")]);
    for (caller, callee) in [(&web, &db), (&db, &web), (&web, &web)] {
        let asked = tcp(caller, callee, 80);
        told.push(format!("{:?}", set.decide(&asked)));
    }
    told.join("\n")
}

fn outcome(set: Result<PolicySet, PolicyErrors>) -> Result<String, PolicyErrors> {
    set.map(|set| told(&set))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_set_after_another_is_the_set_from_nothing(before in files(), after in files()) {
        let earlier = PolicySet::from_sources(&before).ok();
        let anew = outcome(PolicySet::from_sources(&after));
        let taken_over = outcome(PolicySet::from_sources_after(earlier.as_ref(), &after));
        prop_assert_eq!(&taken_over, &anew);
        // The same as Cedar's own reading of whole files.
        match (parse_whole(&after), anew) {
            (Ok(whole), Ok(_)) => {
                let set = PolicySet::from_sources(&after).unwrap();
                prop_assert_eq!(&whole.labels, &set.labels);
                for (whole, rule) in whole.rules.iter().zip(set.rules()) {
                    prop_assert_eq!(whole.to_string(), rule.to_string());
                    prop_assert_eq!(whole.policy.to_cedar(), rule.policy.to_cedar());
                    prop_assert_eq!(whole.reads, rule.reads);
                    prop_assert!(rule.text.is_some(), "it was parsed by itself");
                }
                prop_assert_eq!(whole.rules.len(), set.rules().len());
            }
            (Err(whole), Err(refused)) => prop_assert_eq!(whole, refused),
            (whole, anew) => prop_assert!(false, "{whole:?} and {anew:?}"),
        }
    }
}

#[test]
fn a_label_that_appears_has_all_of_it_validated_again() {
    let first =
        "permit(principal, action, resource) when { principal.labels.tier == \"front\" };\n";
    let more = "permit(principal, action, resource) when { principal.labels.team == \"red\" };\n";
    let file = |text: String| [SourceFile::new("test.cedar", text)];
    let before = PolicySet::from_sources(&file(first.to_owned())).unwrap();
    let texts = [more.to_owned() + first, first.repeat(3), String::new()];
    for text in texts {
        let after = PolicySet::from_sources_after(Some(&before), &file(text.clone())).unwrap();
        assert_eq!(told(&after), told(&PolicySet::from_sources(&file(text)).unwrap()));
    }
}

#[test]
fn places_are_those_of_the_new_text() {
    let rule = "permit(principal, action, resource) when { context.port == 80 };";
    let before = PolicySet::from_sources(&[SourceFile::new("a.cedar", rule)]).unwrap();
    let moved = format!("// one\n\n{rule} permit(principal, action, resource);\n");
    let moved = [SourceFile::new("b.cedar", moved)];
    let after = PolicySet::from_sources_after(Some(&before), &moved).unwrap();
    let names: Vec<&str> = after.rules().iter().map(Rule::name).collect();
    assert_eq!(names, ["b.cedar:3", "b.cedar:3:66"]);
    let twice = [SourceFile::new("b.cedar", format!("@id(\"x\") {rule}\n@id(\"x\") {rule}"))];
    let refused = PolicySet::from_sources_after(Some(&before), &twice).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("b.cedar:2: @id(\"x\") already names the rule at b.cedar:1")
    );
}
