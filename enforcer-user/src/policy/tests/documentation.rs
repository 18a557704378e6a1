//! docs/POLICY.md and docs/examples/policy say what is true: every block of them is tried here.

use std::path::Path;

use super::both_allow;
use crate::identity::Identity;
use crate::policy::{
    Action, Direction, NetworkRule, NetworkRuleSpec, Policy, PolicySet, Protocol, Request,
    SourceFile, Sources,
};

const DOCUMENT: &str = include_str!("../../../../docs/POLICY.md");
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/policy");

/// The language and text of every fenced block, in order.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let fenced = DOCUMENT.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').unwrap()).collect()
}

/// A file of policies: one of the tree where its block says so (`cedar tree/acme/shop.cedar`).
fn source(path: &str, text: &str) -> SourceFile {
    let Some(path) = path.strip_prefix("tree") else {
        return SourceFile::new("example.cedar", text);
    };
    let (folder, _) = path.rsplit_once('/').unwrap();
    let scope = if folder.is_empty() { "/" } else { folder }.parse().unwrap();
    SourceFile { scope, ..SourceFile::new(path.trim_start_matches('/'), text) }
}

/// Every block of this language with the policies before it: one, or all that stand in one tree.
fn policies_before(language: &str) -> Vec<(Vec<SourceFile>, &'static str)> {
    let (mut files, mut used, mut found) = (Vec::new(), true, Vec::new());
    for (written, text) in blocks() {
        let (word, path) = written.split_once(' ').unwrap_or((written, ""));
        if word == "cedar" {
            if used || path.is_empty() {
                files.clear();
            }
            files.push(source(path, text));
            used = false;
        } else {
            used |= ["decisions", "explain", "refused"].contains(&word);
            if word == language {
                found.push((files.clone(), text));
            }
        }
    }
    found
}

/// Every block of this language, with the nearest block of another language before it.
fn blocks_after(language: &str, before: &str) -> Vec<(&'static str, &'static str)> {
    let (mut last, mut found) = (None, Vec::new());
    for (written, text) in blocks() {
        if written == before {
            last = Some(text);
        } else if written == language {
            found.push((last.unwrap(), text));
        }
    }
    found
}

/// One side of a line: `/acme/web/w1 tier=front zone=north`, and what is no label as `@user=shop` or `@node.zone=b`.
fn identity(words: &[&str]) -> Identity {
    let labels: Vec<(&str, &str)> =
        words[1..].iter().map(|word| word.split_once('=').unwrap()).collect();
    super::workload(words[0], &labels)
}

struct Asked {
    caller: Identity,
    callee: Identity,
    port: u16,
    unix_seconds: i64,
}

/// `CALLER -> CALLEE port N [at TIME]`.
fn asked(line: &str) -> Asked {
    let words: Vec<&str> = line.split_whitespace().collect();
    let place = |wanted| words.iter().position(|word| *word == wanted);
    let (arrow, port) = (place("->").unwrap(), place("port").unwrap());
    Asked {
        caller: identity(&words[..arrow]),
        callee: identity(&words[arrow + 1..port]),
        port: words[port + 1].parse().unwrap(),
        unix_seconds: place("at").map_or(super::MONDAY, |at| unix_seconds(words[at + 1])),
    }
}

impl Asked {
    fn request(&self) -> Request<'_> {
        let Self { caller, callee, port, unix_seconds } = self;
        let (port, unix_seconds) = (*port, *unix_seconds);
        let (action, protocol) = (Action::Connect, Protocol::TCP);
        Request { action, caller, callee, port, protocol, unix_seconds }
    }
}

/// Seconds of `YYYY-MM-DDThh:mm:ssZ`, by counting the days of every year and month before it.
fn unix_seconds(text: &str) -> i64 {
    let numbers: Vec<i64> =
        text.split(['-', 'T', ':', 'Z']).filter_map(|part| part.parse().ok()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else { panic!("{text}") };
    let leap = |y: i64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    let years: i64 = (1970..year).map(|y| 365 + i64::from(leap(y))).sum();
    let in_month = |m: i64| match m {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let days = years + (1..month).map(in_month).sum::<i64>() + day - 1;
    days * 86_400 + hour * 3600 + minute * 60 + second
}

#[track_caller]
fn check(set: &PolicySet, line: &str, context: &str) {
    let (verdict, rest) = line.trim().split_once(' ').unwrap();
    let asked = asked(rest.trim_start());
    let request = asked.request();
    assert!(["allow", "deny"].contains(&verdict), "{line}");
    for action in Action::ALL {
        let refused = set.decide(&Request { action, ..request }).refused;
        assert!(refused.is_none(), "{line}: {refused:?}");
    }
    assert_eq!(both_allow(set, &request), verdict == "allow", "{line}\n{context}");
}

#[test]
fn every_decision_of_the_document_is_made() {
    let examples = policies_before("decisions");
    assert!(examples.len() >= 20, "only {} examples were found", examples.len());
    for (files, decisions) in examples {
        let context = format!("{files:#?}");
        let set = PolicySet::from_sources(&files).unwrap_or_else(|e| panic!("{e}\n{context}"));
        decisions.lines().for_each(|line| check(&set, line, &context));
        let verdicts = |word| decisions.lines().any(|line| line.starts_with(word));
        assert!(verdicts("allow") && verdicts("deny"), "shows both sides: {context}");
    }
}

#[test]
fn every_refusal_of_the_document_happens_in_its_words() {
    let examples = policies_before("refused");
    assert!(examples.len() >= 2);
    for (files, expected) in examples {
        let message = PolicySet::from_sources(&files).expect_err(expected).to_string();
        for part in expected.lines() {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
}

#[test]
fn every_explanation_of_the_document_is_given() {
    let examples = policies_before("explain");
    assert!(!examples.is_empty());
    for (files, text) in examples {
        let (question, answer) = text.split_once('\n').unwrap();
        let policy = Policy::from_sources(&files, Vec::new()).unwrap();
        let both = policy.explain_both(&asked(question).request());
        assert_eq!(both.to_string(), answer.trim_end());
    }
}

#[derive(serde::Deserialize)]
struct Rules {
    network_rule: Vec<NetworkRuleSpec>,
}

#[test]
fn every_network_rule_of_the_document_does_what_it_says() {
    let examples = blocks_after("network", "toml");
    assert!(!examples.is_empty());
    for (rules, expected) in examples {
        let rules: Rules = toml::from_str(rules).unwrap();
        let rules: Result<Vec<NetworkRule>, _> =
            rules.network_rule.into_iter().map(TryInto::try_into).collect();
        let policy = Policy::from_sources(&[], rules.unwrap()).unwrap();
        for line in expected.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [verdict, workload, direction, address, protocol, port] = words[..] else {
                panic!("{line}")
            };
            let workload = identity(&[workload]);
            let direction = match direction {
                "egress" => Direction::Egress,
                "ingress" => Direction::Ingress,
                _ => panic!("{line}"),
            };
            let (address, protocol) = (address.parse().unwrap(), protocol.parse().unwrap());
            let port = port.parse().unwrap();
            let told = policy.networks_match(&workload, direction, (address, &[]), protocol, port);
            let table = policy.network_table(&workload).unwrap();
            let found = table.lookup(direction, address, protocol, port);
            assert_eq!(told.is_some(), verdict == "allow", "{line}");
            assert_eq!(found.is_some(), verdict == "allow", "{line}");
        }
    }
}

#[test]
fn the_example_folder_loads_and_decides_as_its_comments_say() {
    let sources = Sources { files: vec![EXAMPLES.into()], ..Sources::default() };
    let policy = Policy::load(&sources, Vec::new()).unwrap();
    let mut checked = 0;
    for entry in Path::new(EXAMPLES).read_dir().unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("// expect: ")) {
            check(policy.set(), line, &text);
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} expectations were found");
}
