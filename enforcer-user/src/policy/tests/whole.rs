//! The policy as the daemon holds it.

use std::fs;

use super::{tcp, workload};
use crate::policy::{
    Direction, NetworkRule, NetworkRuleSpec, Policy, Protocol, SourceFile, Sources,
};

fn dns() -> NetworkRule {
    let text = "name = \"dns\"\ndirection = \"egress\"\ncidr = [\"198.51.100.53/32\"]\nprotocol = \"udp\"\nports = [\"53\"]";
    toml::from_str::<NetworkRuleSpec>(text).unwrap().try_into().unwrap()
}

fn of(text: &str, rules: Vec<NetworkRule>) -> Policy {
    Policy::from_sources(&[SourceFile::new("test.cedar", text)], rules).unwrap()
}

#[test]
fn it_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&of("", Vec::new()));
}

#[test]
fn the_generation_changes_with_anything_that_decides() {
    let permit = "permit(principal, action, resource);";
    let base = of(permit, Vec::new()).generation();
    assert_eq!(base, of(permit, Vec::new()).generation());
    assert_ne!(base, of("", Vec::new()).generation());
    assert_ne!(base, of(permit, vec![dns()]).generation());
    let scoped =
        SourceFile { scope: "/a".parse().unwrap(), ..SourceFile::new("test.cedar", permit) };
    assert_ne!(base, Policy::from_sources(&[scoped], Vec::new()).unwrap().generation());
}

#[test]
fn two_network_rules_of_one_name_are_refused() {
    let errors = Policy::from_sources(&[], vec![dns(), dns()]).unwrap_err();
    assert!(errors.to_string().contains("\"dns\""), "{errors}");
}

#[test]
fn a_folder_is_loaded_and_a_broken_file_in_it_refuses_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.cedar"), "permit(principal, action, resource);").unwrap();
    let sources = Sources { files: vec![folder.path().to_path_buf()], ..Sources::default() };
    let policy = Policy::load(&sources, vec![dns()]).unwrap();
    let (web, db) = (workload("/a/web", &[]), workload("/a/db", &[]));
    assert!(policy.decide(&tcp(&web, &db, 1)).allow);
    let address = "198.51.100.53".parse().unwrap();
    let matched = policy.networks_match(&web, Direction::Egress, (address, &[]), Protocol::UDP, 53);
    assert_eq!(matched, Some("dns"));

    fs::write(folder.path().join("b.cedar"), "\n  permit(principal, action);").unwrap();
    let errors = Policy::load(&sources, Vec::new()).unwrap_err().to_string();
    assert!(errors.contains("b.cedar:2:"), "{errors}");
}

#[test]
fn a_staged_policy_decides_nothing_and_tells_what_it_would_deny() {
    let file = |text: &str| SourceFile::new("staged.cedar", text);
    let enforced = of("permit(principal, action, resource);", Vec::new());
    let plain = enforced.generation();
    let narrower = "permit(principal, action, resource) when { context.port == 443 };";
    let both = enforced.with_staged(None, &[file(narrower)]).unwrap();
    assert_ne!(plain, both.generation());
    let (web, db) = (workload("/a/web", &[]), workload("/a/db", &[]));
    let decision = both.decide(&tcp(&web, &db, 80));
    assert!(decision.allow && decision.staged.is_some_and(|staged| !staged.allow));
    assert!(decision.port_matters, "the staged one reads it");
    assert!(both.decide(&tcp(&web, &db, 443)).staged.is_none());
    let told = both.explain(&tcp(&web, &db, 80)).to_string();
    assert!(told.contains("the staged policy: deny\n    nothing permits it"), "{told}");
    let again = of("", Vec::new()).with_staged(Some(&both), &[file(narrower)]).unwrap();
    assert!(
        !again.decide(&tcp(&web, &db, 443)).allow,
        "what only the staged one permits is denied"
    );
    assert!(of("", Vec::new()).with_staged(None, &[file("permit(")]).is_err());
}
