//! What a set decides, and what a decision depends on.

use super::{MONDAY, set, tcp, workload};
use crate::policy::{Decision, Protocol, Request};

fn names<'a>(decision: &Decision<'a>) -> Vec<&'a str> {
    decision.rules.iter().map(|rule| rule.name()).collect()
}

#[test]
fn an_empty_set_denies() {
    let (web, shop) = (workload("/a/web", &[]), workload("/a/shop", &[]));
    let empty = set("");
    let decision = empty.decide(&tcp(&web, &shop, 80));
    assert!(!decision.allow && decision.rules.is_empty() && decision.refused.is_none());
}

#[test]
fn a_permit_opens_and_a_forbid_overrules_it() {
    let (web, shop) = (workload("/a/web", &[]), workload("/a/shop", &[]));
    let permit = r#"@id("shop-open") permit(principal, action, resource in Namespace::"/a");"#;
    let open = set(permit);
    let decision = open.decide(&tcp(&web, &shop, 80));
    assert!(decision.allow);
    assert_eq!(names(&decision), ["shop-open"]);

    let forbid = format!("{permit}\nforbid(principal, action, resource);");
    let closed = set(&forbid);
    let decision = closed.decide(&tcp(&web, &shop, 80));
    assert!(!decision.allow);
    assert_eq!(names(&decision), ["test.cedar:2"]);
}

#[test]
fn a_permit_obliges_and_what_cannot_be_done_denies() {
    let (web, shop) = (workload("/a/web", &[]), workload("/a/shop", &[]));
    let request = tcp(&web, &shop, 80);
    let logged = set("@log permit(principal, action, resource);");
    let decision = logged.decide(&request);
    assert!(decision.allow && decision.obligations().log && !decision.obligations().encrypt);
    // Of several that hold, all oblige.
    let text = "permit(principal, action, resource);
                @id(\"secret\") @encrypt permit(principal, action, resource) when { context.port == 80 };";
    let encrypted = set(text);
    let decision = encrypted.decide(&request);
    assert!(!decision.allow && decision.obligations().encrypt);
    assert_eq!(names(&decision), ["secret"]);
    let why = encrypted.explain(&request).to_string();
    assert!(why.contains("permitted by secret") && why.contains("asks for encryption"), "{why}");
    assert!(encrypted.decide(&tcp(&web, &shop, 81)).allow);
    // A forbid is what denies where there is one.
    let forbidden = set(&format!("{text}\nforbid(principal, action, resource);"));
    let decision = forbidden.decide(&request);
    assert_eq!((decision.allow, names(&decision)), (false, vec!["test.cedar:3"]));
    assert!(!decision.obligations().encrypt);
}

#[test]
fn namespaces_hold_what_is_below_and_not_what_only_sounds_alike() {
    let policy = set(r#"permit(principal in Namespace::"/a/b", action, resource);"#);
    let callee = workload("/x/db", &[]);
    let decide = |path| policy.decide(&tcp(&workload(path, &[]), &callee, 1)).allow;
    assert!(decide("/a/b/web"));
    assert!(decide("/a/b/c/web"));
    assert!(!decide("/a/bc/web"));
    assert!(!decide("/a/web"));
}

#[test]
fn a_missing_label_neither_permits_nor_escapes_a_forbid() {
    let callee = workload("/a/db", &[]);
    let front = workload("/a/web", &[("tier", "front")]);
    let dev = workload("/a/web", &[("tier", "dev")]);
    let bare = workload("/a/web", &[]);
    let policy =
        set(r#"permit(principal, action, resource) when { principal.labels.tier != "dev" };"#);
    assert!(policy.decide(&tcp(&front, &callee, 1)).allow);
    assert!(!policy.decide(&tcp(&dev, &callee, 1)).allow);
    let decision = policy.decide(&tcp(&bare, &callee, 1));
    assert!(!decision.allow);
    assert!(decision.failures[0].message.contains("tier"), "{decision:?}");

    let policy = set(r#"
        permit(principal, action, resource);
        @id("no-dev") forbid(principal, action, resource) when { principal.labels.tier == "dev" };
    "#);
    assert!(policy.decide(&tcp(&front, &callee, 1)).allow);
    assert!(!policy.decide(&tcp(&dev, &callee, 1)).allow);
    let decision = policy.decide(&tcp(&bare, &callee, 1));
    assert!(!decision.allow, "a forbid whose evaluation fails denies");
    assert_eq!(names(&decision), ["no-dev"]);
}

#[test]
fn a_forbid_may_pick_out_those_who_carry_a_label() {
    let policy = set(r"
        permit(principal, action, resource);
        forbid(principal, action, resource) when { principal.labels has quarantine };
    ");
    let callee = workload("/a/db", &[]);
    assert!(policy.decide(&tcp(&workload("/a/web", &[]), &callee, 1)).allow);
    let held = workload("/a/web", &[("quarantine", "yes")]);
    assert!(!policy.decide(&tcp(&held, &callee, 1)).allow);
}

#[test]
fn attributes_and_context_are_what_the_schema_says() {
    let policy = set(r#"permit(principal, action, resource) when {
        principal.namespace == resource.namespace && principal in resource.namespace &&
        principal.trust_domain == "example.org" && principal.name == "web" &&
        principal.spiffe_id == "spiffe://example.org/a/web" &&
        context.port == 443 && context.protocol == "tcp" &&
        context.time == datetime("2026-03-02T10:30:20Z")
    };"#);
    let (web, shop) = (workload("/a/web", &[]), workload("/a/shop", &[]));
    let asked = tcp(&web, &shop, 443);
    assert!(policy.decide(&asked).allow, "{:?}", policy.decide(&asked));
    assert!(!policy.decide(&tcp(&web, &shop, 444)).allow);
    assert!(!policy.decide(&tcp(&shop, &web, 443)).allow);
    assert!(!policy.decide(&Request { protocol: Protocol::UDP, ..asked }).allow);
    assert!(!policy.decide(&Request { unix_seconds: MONDAY + 1, ..asked }).allow);
}

#[test]
fn only_candidates_make_port_and_time_matter() {
    let policy = set(r#"
        permit(principal, action, resource in Namespace::"/p") when { context.port == 80 };
        permit(principal, action, resource in Namespace::"/t")
            when { context.time < datetime("2030-01-01") };
        permit(principal, action, resource in Namespace::"/n");
    "#);
    let web = workload("/a/web", &[]);
    let ask = |path| {
        let decision = policy.decide(&tcp(&web, &workload(path, &[]), 80));
        (decision.port_matters, decision.valid_until)
    };
    assert_eq!(ask("/p/x"), (true, None));
    assert_eq!(ask("/t/x"), (false, Some(MONDAY - MONDAY % 60 + 60)));
    assert_eq!(ask("/n/x"), (false, None));
}

#[test]
fn what_cannot_be_asked_is_denied() {
    let open = set("permit(principal, action, resource);");
    let web = workload("/a/web", &[]);
    let foreign = crate::identity::Identity::new(
        "example.com",
        web.namespace().clone(),
        "web",
        web.labels().clone(),
    )
    .unwrap();
    let twin = workload("/a/web", &[("tier", "front")]);
    let shop = workload("/a/shop", &[]);
    for request in [
        tcp(&foreign, &shop, 1),
        tcp(&web, &twin, 1),
        Request { unix_seconds: -1, ..tcp(&web, &shop, 1) },
        Request { unix_seconds: i64::MAX, ..tcp(&web, &shop, 1) },
    ] {
        let decision = open.decide(&request);
        assert!(!decision.allow && decision.refused.is_some(), "{decision:?}");
    }
    assert!(open.decide(&tcp(&web, &web, 1)).allow, "a workload may call itself");
}

#[test]
fn a_forbid_that_observes_denies_nothing_and_is_told() {
    let policy = set(r#"
        permit(principal, action, resource);
        @id("soon") @mode("observe")
        forbid(principal, action, resource) when { principal.labels.tier == "dev" };
        @id("now") forbid(principal, action, resource) when { context.port == 22 };
    "#);
    let (dev, bare) = (workload("/a/web", &[("tier", "dev")]), workload("/a/x", &[]));
    let callee = workload("/a/db", &[]);
    // One that cannot be evaluated would deny too.
    for caller in [&dev, &bare] {
        let decision = policy.decide(&tcp(caller, &callee, 80));
        let observed: Vec<&str> = decision.observed.iter().map(|rule| rule.name()).collect();
        assert!(decision.allow && observed == ["soon"], "{decision:?}");
        let decision = policy.decide(&tcp(caller, &callee, 22));
        assert!(!decision.allow && names(&decision) == ["now"], "{decision:?}");
    }
    let other = workload("/a/web", &[("tier", "live")]);
    assert!(policy.decide(&tcp(&other, &callee, 80)).observed.is_empty());
    let told = policy.explain(&tcp(&dev, &callee, 80)).to_string();
    assert!(told.contains("would be forbidden by soon"), "{told}");
    for text in [
        "@mode(\"observe\") permit(principal, action, resource);",
        "@mode(\"off\") forbid(principal, action, resource);",
    ] {
        assert!(super::try_set(text).unwrap_err().to_string().contains("@mode"), "{text}");
    }
}
