//! What is refused at load, and how the message leads to the place.

use super::{set, try_set};
use crate::policy::{PolicySet, SourceFile};

fn refusal(text: &str) -> String {
    try_set(text).expect_err(text).to_string()
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let message = refusal(text);
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_syntax_error_names_file_line_and_column() {
    refused(
        "permit(principal, action, resource);\n\npermit(principal action, resource);",
        &["test.cedar:3:18: "],
    );
}

#[test]
fn typos_come_with_the_nearest_name() {
    refused("permitt(principal, action, resource);", &["test.cedar:1:1: ", "`permit`"]);
    refused("permit(principle, action, resource);", &["test.cedar:1:8: ", "`principal`"]);
    refused("permit(principal, action, resource) wen { true };", &["test.cedar:1:37: ", "`when`"]);
    refused(
        "permit(principal, action, resource)\n when { principal.nmae == \"web\" };",
        &["test.cedar:2:9: ", "`name`"],
    );
    refused("permit(principal, action, resource) when { context.prot == 1 };", &["`port`"]);
    refused("permit(principal in Namespce::\"/a\", action, resource);", &["`Namespace`"]);
    refused("permit(principal, action == Action::\"conect\", resource);", &["connect"]);
    refused("@idd(\"x\") permit(principal, action, resource);", &["`id`"]);
}

#[test]
fn types_are_checked() {
    refused(
        "permit(principal, action, resource) when { context.port == \"80\" };",
        &["test.cedar:1:"],
    );
    refused(
        "permit(principal, action, resource) when { principal.labels.tier == 3 };",
        &["test.cedar:1:"],
    );
    refused("permit(principal, action, resource) when { principal.labels };", &["test.cedar:1:"]);
}

#[test]
fn labels_are_read_by_name_and_from_a_workload() {
    refused(
        "permit(principal, action, resource) when { principal.labels == resource.labels };",
        &["test.cedar:1: ", "principal.labels.tier"],
    );
    refused(
        r#"permit(principal, action, resource) when { Labels::"x" has tier };"#,
        &["test.cedar:1: "],
    );
}

#[test]
fn what_can_never_match_is_refused() {
    refused(
        r#"forbid(principal in Namespace::"acme", action, resource);"#,
        &["test.cedar:1: ", "absolute path"],
    );
    refused(r#"forbid(principal in Namespace::"/acme/", action, resource);"#, &["never matches"]);
    refused(r#"forbid(principal == Workload::"web", action, resource);"#, &["SPIFFE ID"]);
    refused(r#"forbid(principal == Namespace::"/a", action, resource);"#, &["test.cedar:1"]);
    refused("forbid(principal, action, resource) when { false };", &["test.cedar:1"]);
    refused("permit(principal == ?principal, action, resource);", &["template"]);
    set(r#"permit(principal == Workload::"spiffe://example.org/web", action, resource);"#);
}

#[test]
fn a_text_that_no_workload_can_have_is_refused() {
    let digest = "0a".repeat(32);
    let when =
        |condition: &str| format!("forbid(principal, action, resource) when {{ {condition} }};");
    for (condition, said) in [
        (
            format!("principal.executable == \"sha256:{}\"", digest.to_uppercase()),
            "executable is never",
        ),
        (format!("\"{digest}\" != resource.executable"), "expected sha256: or blake3:"),
        ("[\"shop\", \"a b\"].contains(principal.user)".to_owned(), "user is never \"a b\""),
        ("true || (principal.image == \"\")".to_owned(), "image is never \"\""),
    ] {
        refused(&when(&condition), &["test.cedar:1", said]);
    }
    for condition in [
        format!("principal.executable == \"sha256:{digest}\" && resource.labels.image == \"a b\""),
        "[\"shop\", \"bank\"].contains(principal.user)".to_owned(),
        "principal.node.user == \"a b\" && principal.image like \"* *\"".to_owned(),
    ] {
        set(&when(&condition));
    }
}

/// Of any other workload the engine knows nothing; what is said of it would hold nowhere.
#[test]
fn nothing_is_read_of_a_workload_that_is_not_an_end() {
    let named = r#"Workload::"spiffe://example.org/web""#;
    for condition in [
        format!("{named} has node"),
        format!("{named}.name == \"web\""),
        format!("{named}.labels.tier == \"a\""),
        format!("(if context.port == 1 then principal else {named}).name == \"web\""),
        format!("{{\"of\": {named}}}.of.name == \"web\""),
    ] {
        let rule = format!("forbid(principal, action, resource) when {{ {condition} }};");
        refused(&rule, &["test.cedar:1", "nothing is known of Workload", "principal == Workload"]);
    }
    for condition in [
        format!("principal == {named} && principal.name == \"web\""),
        format!("[{named}].contains(resource)"),
        format!("{named} in Namespace::\"/\""),
    ] {
        set(&format!("forbid(principal, action, resource) when {{ {condition} }};"));
    }
}

#[test]
fn one_bad_file_refuses_the_set_and_every_finding_is_told() {
    let files = [
        SourceFile::new("a.cedar", "permit(principal, action, resource);"),
        SourceFile::new("b.cedar", "permit(principal);"),
        SourceFile::new("c.cedar", "nonsense"),
    ];
    let errors = PolicySet::from_sources(&files).unwrap_err();
    let places: Vec<&str> = errors.findings().iter().map(|f| f.file.as_str()).collect();
    assert_eq!(places, ["b.cedar", "b.cedar", "c.cedar"]);
}

#[test]
fn names_are_unique_and_default_to_the_place() {
    let policy = set(
        "// a comment: permit(principal, action, resource);\n\n@id(\"b\")\npermit(principal, action, resource);\nforbid(principal, action, resource)\n  when { context.port == 1 };",
    );
    let rules: Vec<(&str, usize)> = policy.rules().iter().map(|r| (r.name(), r.line())).collect();
    assert_eq!(rules, [("b", 3), ("test.cedar:5", 5)]);
    let one_line = "permit(principal, action, resource);".repeat(2);
    assert_eq!(set(&one_line).rules()[1].name(), "test.cedar:1:37");
    let files = [
        SourceFile::new("a.cedar", "@id(\"x\") permit(principal, action, resource);"),
        SourceFile::new("b.cedar", "\n@id(\"x\") permit(principal, action, resource);"),
    ];
    let message = PolicySet::from_sources(&files).unwrap_err().to_string();
    assert!(message.contains("b.cedar:2") && message.contains("a.cedar:1"), "{message}");
}

#[test]
fn the_labels_that_policies_use_are_known() {
    let policy = set(r#"
        permit(principal, action, resource) when { principal.labels.tier == resource.labels["app/name"] };
        forbid(principal, action, resource) when { resource.labels has quarantine };
    "#);
    assert_eq!(policy.labels_used(), ["app/name", "quarantine", "tier"].into());
    let warnings = policy.label_warnings(&["teir", "app/name"].into());
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["test.cedar:2: no workload here carries the label \"tier\" (did you mean \"teir\"?)"]
    );
}

#[test]
fn obligations_stand_alone_on_permits() {
    for (text, said) in [
        ("@log forbid(principal, action, resource);", "@log belongs to a permit"),
        ("@encrypt forbid(principal, action, resource);", "@encrypt belongs to a permit"),
        ("@log(\"all\") permit(principal, action, resource);", "@log(\"all\"): it stands alone"),
        (
            "@bounds(\"/a\") @log permit(principal, action, resource);",
            "@log on bounds obliges nobody",
        ),
    ] {
        let error = PolicySet::from_sources(&[SourceFile::new("a.cedar", text)]).unwrap_err();
        assert!(error.to_string().contains(said), "{text}: {error}");
    }
}
