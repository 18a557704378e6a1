//! What `explain` says, and that it can be sent and read again.

use super::{set, tcp, workload};
use crate::policy::Explanation;

#[track_caller]
fn says(explanation: &Explanation, parts: &[&str]) {
    let text = explanation.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let sent = serde_json::to_string(explanation).unwrap();
    assert_eq!(&serde_json::from_str::<Explanation>(&sent).unwrap(), explanation);
}

const SHOP: &str = r#"
@id("shop-from-front")
@reason("only the front talks to the shop")
permit(principal in Namespace::"/acme/web", action, resource in Namespace::"/acme/shop")
when { principal.labels.tier == "front" && context.port == 8080 }
unless { resource.labels.env == "test" || principal.name == "probe" };
"#;

#[test]
fn an_allowed_request_names_the_rule() {
    let web = workload("/acme/web/w1", &[("tier", "front")]);
    let shop = workload("/acme/shop/s1", &[("env", "prod")]);
    says(
        &set(SHOP).explain(&tcp(&web, &shop, 8080)),
        &[
            "allow: spiffe://example.org/acme/web/w1 -> spiffe://example.org/acme/shop/s1 port 8080/tcp",
            "permitted by shop-from-front (test.cedar:2): only the front talks to the shop",
        ],
    );
}

#[test]
fn a_denied_request_names_the_nearest_permit_and_what_failed() {
    let shop = workload("/acme/shop/s1", &[("env", "test")]);
    let web = workload("/acme/web/w1", &[("teir", "front")]);
    says(
        &set(SHOP).explain(&tcp(&web, &shop, 80)),
        &[
            "deny: ",
            "nothing permits it",
            "nearest permit: shop-from-front (test.cedar:2)",
            "principal.labels.tier is missing (labels: teir; did you mean teir?)",
            "context.port is 80",
            "resource.labels.env is \"test\"",
        ],
    );
    let elsewhere = workload("/acme/webs/w1", &[("tier", "front")]);
    let explanation = set(SHOP).explain(&tcp(&elsewhere, &shop, 8080));
    says(&explanation, &["the caller spiffe://example.org/acme/webs/w1 is not in /acme/web"]);
    assert_eq!(explanation.nearest[0].because.len(), 2, "{explanation}");
}

#[test]
fn the_nearest_rule_comes_first() {
    let text = format!(
        "{SHOP}\n@id(\"far\") permit(principal in Namespace::\"/x\", action, resource in Namespace::\"/y\");\n\
         @id(\"near\") permit(principal, action, resource) when {{ context.port == 443 }};"
    );
    let (web, db) = (workload("/acme/web/w1", &[]), workload("/acme/db/d1", &[]));
    let explanation = set(&text).explain(&tcp(&web, &db, 80));
    let names: Vec<&str> = explanation.nearest.iter().map(|miss| miss.rule.name.as_str()).collect();
    assert_eq!(names, ["near", "far", "shop-from-front"], "{explanation}");
}

#[test]
fn a_forbid_is_named_also_when_it_could_not_be_evaluated() {
    let policy = set(r#"
        permit(principal, action, resource);
        @id("no-dev") forbid(principal, action, resource) when { principal.labels.tier == "dev" };
    "#);
    let db = workload("/a/db", &[]);
    let dev = policy.explain(&tcp(&workload("/a/web", &[("tier", "dev")]), &db, 1));
    says(&dev, &["forbidden by no-dev (test.cedar:3)"]);
    let bare = policy.explain(&tcp(&workload("/a/web", &[]), &db, 1));
    says(&bare, &["forbidden by no-dev", "could not be evaluated: no-dev: ", "tier"]);
    assert!(bare.nearest.is_empty(), "a permit is not what was missing");
}

#[test]
fn an_empty_set_and_a_question_that_cannot_be_asked_say_so() {
    let (web, db) = (workload("/a/web", &[]), workload("/a/db", &[]));
    says(&set("").explain(&tcp(&web, &db, 1)), &["nothing permits it"]);
    let twin = workload("/a/web", &[("tier", "front")]);
    says(&set("").explain(&tcp(&web, &twin, 1)), &["it cannot be asked", "labels differ"]);
}
