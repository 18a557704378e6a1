//! Files that belong to namespaces: whom they govern, and within which bounds.

use super::{tcp, workload};
use crate::policy::{Action, Policy, PolicySet, Request, SourceFile};

/// A file of a namespace, called by its path.
pub(super) fn file(scope: &str, text: &str) -> SourceFile {
    let name = format!("{}/rules.cedar", scope.trim_end_matches('/'));
    SourceFile { scope: scope.parse().unwrap(), ..SourceFile::new(name, text) }
}

fn set(files: &[(&str, &str)]) -> PolicySet {
    let files: Vec<SourceFile> = files.iter().map(|(scope, text)| file(scope, text)).collect();
    PolicySet::from_sources(&files).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Whether the caller's end allows it, and whether the callee's does.
fn ends(set: &PolicySet, caller: &str, callee: &str, port: u16) -> [bool; 2] {
    let (caller, callee) = (workload(caller, &[]), workload(callee, &[]));
    Action::ALL.map(|action| set.decide(&Request { action, ..tcp(&caller, &callee, port) }).allow)
}

fn refused(scope: &str, text: &str) -> String {
    PolicySet::from_sources(&[file(scope, text)]).expect_err(text).to_string()
}

const OPEN: &str = "permit(principal, action, resource);";
const SHUT: &str = "forbid(principal, action, resource);";

#[test]
fn a_file_governs_the_workloads_of_its_namespace_at_their_own_end() {
    let set = set(&[("/a", OPEN)]);
    assert_eq!(ends(&set, "/a/web", "/a/x/db", 1), [true, true]);
    assert_eq!(ends(&set, "/b/web", "/a/x/db", 1), [false, true]);
    assert_eq!(ends(&set, "/a/web", "/b/db", 1), [true, false]);
    assert_eq!(ends(&set, "/b/web", "/ab/db", 1), [false, false]);
}

#[test]
fn a_forbid_above_overrules_and_one_beside_does_not_matter() {
    let above = set(&[("/", SHUT), ("/a", OPEN), ("/a/x", OPEN)]);
    assert_eq!(ends(&above, "/a/web", "/a/x/db", 1), [false, false]);
    let beside = set(&[("/b", SHUT), ("/a", OPEN)]);
    assert_eq!(ends(&beside, "/a/web", "/a/x/db", 1), [true, true]);
    // What is below closes only its own workloads.
    let below = set(&[("/a/x", SHUT), ("/a", OPEN)]);
    assert_eq!(ends(&below, "/a/web", "/a/x/db", 1), [true, false]);
    assert_eq!(ends(&below, "/a/web", "/a/y/db", 1), [true, true]);
}

#[test]
fn bounds_keep_the_permits_below_and_no_others() {
    let set = set(&[
        (
            "/a",
            "@bounds(\"/a/x\") permit(principal in Namespace::\"/a\", action, resource)\
                 when { context.port == 443 };",
        ),
        ("/a/x", OPEN),
        ("/a/x/y", OPEN),
        ("/a/z", OPEN),
    ]);
    for callee in ["/a/x/db", "/a/x/y/db"] {
        assert_eq!(ends(&set, "/a/z/web", callee, 443), [true, true]);
        assert_eq!(ends(&set, "/a/z/web", callee, 80), [true, false]);
        assert_eq!(ends(&set, "/b/web", callee, 443), [false, false]);
    }
    assert_eq!(ends(&set, "/b/web", "/a/z/db", 80), [false, true]);
    // The bounds themselves permit nothing.
    let alone = super::set("@bounds(\"/a\") permit(principal, action, resource);");
    assert_eq!(ends(&alone, "/a/web", "/a/db", 1), [false, false]);
}

#[test]
fn bounds_of_one_namespace_add_up_and_those_of_two_must_both_hold() {
    let port = |of: &str, port| {
        format!(
            "@bounds(\"{of}\") permit(principal, action, resource) when {{ context.port == {port} }};"
        )
    };
    let above = [port("/a/x", 1), port("/a/x", 2), port("/a", 3)].concat();
    let between = [port("/a/x", 2), port("/a/x", 3)].concat();
    let set = set(&[("/", &above), ("/a", &between), ("/a/x", OPEN)]);
    // The root's for /a/x: 1 or 2. The root's for /a: 3. /a's for /a/x: 2 or 3.
    for (port, allow) in [(1, false), (2, false), (3, false), (4, false)] {
        assert_eq!(ends(&set, "/b/web", "/a/x/db", port), [false, allow], "{port}");
    }
    let set = self::set(&[
        ("/", &[port("/a/x", 1), port("/a/x", 2)].concat()),
        ("/a", &between),
        ("/a/x", OPEN),
    ]);
    for (port, allow) in [(1, false), (2, true), (3, false)] {
        assert_eq!(ends(&set, "/b/web", "/a/x/db", port), [false, allow], "{port}");
    }
}

#[test]
fn bounds_that_cannot_be_evaluated_hold_nobody() {
    let set = set(&[
        (
            "/",
            "@id(\"only-blue\") @bounds(\"/a\") permit(principal, action, resource)\
               when { principal.labels.team == \"blue\" };",
        ),
        ("/a", OPEN),
    ]);
    assert_eq!(ends(&set, "/b/web", "/a/db", 1), [false, false]);
    let (caller, callee) = (workload("/b/web", &[]), workload("/a/db", &[]));
    let asked = Request { action: Action::Accept, ..tcp(&caller, &callee, 1) };
    let decision = set.decide(&asked);
    assert_eq!(decision.failures[0].rule.name(), "only-blue");
    let told = set.explain(&asked).to_string();
    for part in [
        "does not count: /a/rules.cedar:1: it goes beyond the bounds that / sets for /a",
        "nearest bounds: only-blue (/rules.cedar:1)\n    `when { principal.labels.team == \"blue\" }` cannot be evaluated: \
         principal.labels.team is missing",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn of_bounds_those_are_told_that_came_nearest_and_no_others() {
    let by_port = |id, of, port| {
        format!(
            "@id(\"{id}\") @bounds(\"{of}\") permit(principal, action, resource)\
             when {{ context.port == {port} && principal.labels.team == \"blue\" }};"
        )
    };
    let root = [by_port("near", "/a", 1), by_port("far", "/a", 2), by_port("other", "/b", 1)];
    let set = set(&[("/", &root.concat()), ("/a", OPEN)]);
    let (caller, callee) = (workload("/b/web", &[("team", "red")]), workload("/a/db", &[]));
    let asked = Request { action: Action::Accept, ..tcp(&caller, &callee, 1) };
    let told = set.explain(&asked);
    let names: Vec<&str> = told.nearest_bounds.iter().map(|miss| miss.rule.name.as_str()).collect();
    assert_eq!(names, ["near", "far"]);
    let blue = workload("/b/web", &[("team", "blue")]);
    let held = set.explain(&Request { caller: &blue, ..asked });
    assert!(held.allow && held.nearest_bounds.is_empty());
}

#[test]
fn bounds_that_bound_nothing_are_warned_of() {
    let bound = "@bounds(\"/a/shpo\") permit(principal, action, resource);";
    let told = set(&[("/a", bound), ("/a/shop", OPEN)]).bounds_warnings();
    assert_eq!(told.len(), 1);
    assert!(told[0].to_string().contains("did you mean \"/a/shop\"?"), "{}", told[0]);
    let right = bound.replace("shpo", "shop");
    assert!(set(&[("/a", &right), ("/a/shop/eu", OPEN)]).bounds_warnings().is_empty());
}

#[test]
fn what_could_never_apply_is_refused() {
    for (scope, text, found) in [
        (
            "/a",
            "permit(principal in Namespace::\"/b\", action == Action::\"connect\", resource);",
            "never applies",
        ),
        (
            "/a",
            "permit(principal, action == Action::\"accept\", resource in Namespace::\"/b\");",
            "never applies",
        ),
        (
            "/a",
            "forbid(principal == Workload::\"spiffe://example.org/b/x\", action, resource in Namespace::\"/ab\");",
            "never applies",
        ),
        (
            "/a",
            "@bounds(\"/a\") permit(principal, action, resource);",
            "only for namespaces below /a",
        ),
        (
            "/a",
            "@bounds(\"/b\") permit(principal, action, resource);",
            "only for namespaces below /a",
        ),
        ("/", "@bounds(\"/\") permit(principal, action, resource);", "only for namespaces below /"),
        (
            "/",
            "@bounds(\"/a\") forbid(principal, action, resource);",
            "@bounds belongs to a permit",
        ),
        ("/", "@bounds(\"a\") permit(principal, action, resource);", "@bounds(\"a\")"),
        (
            "/",
            "@bounds(\"/a\") permit(principal in Namespace::\"/b\", action == Action::\"connect\", resource);",
            "never applies",
        ),
    ] {
        let told = refused(scope, text);
        assert!(told.contains(found), "{text}: {told}");
    }
    for text in [
        "permit(principal in Namespace::\"/b\", action, resource);",
        "permit(principal in Namespace::\"/\", action, resource in Namespace::\"/b\");",
        "permit(principal == Workload::\"spiffe://example.org/a/x\", action, resource in Namespace::\"/b\");",
        "forbid(principal in Namespace::\"/a/b\", action == Action::\"connect\", resource);",
    ] {
        PolicySet::from_sources(&[file("/a", text)]).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn explanations_name_the_file_that_governs_others() {
    let policy = Policy::from_sources(&[file("/b", OPEN)], Vec::new()).unwrap();
    let (caller, callee) = (workload("/a/web", &[]), workload("/b/db", &[]));
    let told = policy.explain_both(&tcp(&caller, &callee, 80)).to_string();
    let expected = "deny: spiffe://example.org/a/web -> spiffe://example.org/b/db port 80/tcp\n  \
                    the caller's end (connect): deny\n    nothing permits it\n    \
                    nearest permit: /b/rules.cedar:1\n      \
                    its file governs only workloads in /b, and spiffe://example.org/a/web is none\n  \
                    the callee's end (accept): allow\n    permitted by /b/rules.cedar:1";
    assert_eq!(told, expected);
}
