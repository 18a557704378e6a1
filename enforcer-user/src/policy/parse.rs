//! From text to rules: parse, check names, validate strictly. A whole set or none of it.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{
    EntityUid, Policy, PolicyId, PolicySet as CedarSet, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;

use super::dependencies::dependencies;
use super::error::{MAX_REPORTED, PolicyError, PolicyErrors};
use super::names::nearest;
use super::rule::{Effect, Rule};
use super::schema;
use super::source::SourceFile;
use crate::identity::{Identity, Namespace};

/// The most rules of one set.
pub const MAX_RULES: usize = 65_536;
/// The most bytes of an `@id` or a `@reason`, which appear in log lines.
pub const MAX_ANNOTATION_BYTES: usize = 256;

/// Rules that were checked together.
#[derive(Debug)]
pub(super) struct Parsed {
    /// In the order of their files and lines; `Rule::number` is the place here.
    pub rules: Vec<Rule>,
    /// Every label name that some rule uses, with the first of them.
    pub labels: BTreeMap<String, usize>,
}

/// Parses and validates all files.
pub(super) fn parse(files: &[SourceFile]) -> Result<Parsed, PolicyErrors> {
    let mut findings = Vec::new();
    let (mut rules, mut labels) = (Vec::new(), BTreeMap::new());
    for file in files {
        parse_file(file, &mut rules, &mut labels, &mut findings);
    }
    if rules.len() > MAX_RULES {
        let message = format!("{} rules, at most {MAX_RULES} are allowed", rules.len());
        findings.push(PolicyError::general(message));
    }
    check_unique_names(&rules, &mut findings);
    for rule in &rules {
        check_literals(rule, &mut findings);
    }
    PolicyErrors::refuse_unless_empty(findings)?;
    validate(files, &rules, schema::schema(labels.keys())?)?;
    Ok(Parsed { rules, labels })
}

fn parse_file(
    file: &SourceFile,
    rules: &mut Vec<Rule>,
    labels: &mut BTreeMap<String, usize>,
    findings: &mut Vec<PolicyError>,
) {
    let set = match file.text.parse::<CedarSet>() {
        Ok(set) => set,
        Err(errors) => {
            findings.extend(errors.iter().map(|error| located(file, error)));
            return;
        }
    };
    for template in set.templates() {
        let offset = template.as_ref().loc().map_or(0, |loc| loc.span.offset());
        let message = "a policy template (?principal, ?resource) is never filled in here";
        findings.push(at(file, offset, message.to_owned(), None));
    }
    let mut policies: Vec<(usize, &Policy)> = set
        .policies()
        .map(|policy| (policy.as_ref().loc().map_or(0, |loc| loc.span.offset()), policy))
        .collect();
    policies.sort_by_key(|(offset, _)| *offset);
    let (mut line, mut counted) = (1, 0);
    for (offset, policy) in policies {
        let needs = dependencies(policy);
        line += file.text.get(counted..offset).unwrap_or_default().matches('\n').count();
        counted = offset;
        let number = rules.len();
        for label in needs.labels {
            labels.entry(label).or_insert(number);
        }
        let name = policy.annotation("id").filter(|id| !id.is_empty());
        let rule = Rule {
            number,
            name: name.map_or_else(|| place_name(file, line, offset, rules), str::to_owned),
            file: file.name.clone(),
            line,
            reason: policy.annotation("reason").map(str::to_owned),
            effect: match policy.effect() {
                cedar_policy::Effect::Permit => Effect::Permit,
                cedar_policy::Effect::Forbid => Effect::Forbid,
            },
            scope: file.scope.clone(),
            reads: needs.reads,
            policy: policy.new_id(PolicyId::new(number.to_string())),
        };
        if needs.unnamed_labels {
            let finding = rule.finding("labels are used without saying which");
            findings.push(finding.with_help("read each by name: principal.labels.tier"));
        }
        rules.push(rule);
    }
}

/// `file:line`, and the column too behind another rule of that line.
fn place_name(file: &SourceFile, line: usize, offset: usize, earlier: &[Rule]) -> String {
    let first = earlier.last().is_none_or(|rule| rule.line != line || rule.file != file.name);
    if first {
        return format!("{}:{line}", file.name);
    }
    let (_, column) = position(&file.text, offset);
    format!("{}:{line}:{column}", file.name)
}

fn check_unique_names(rules: &[Rule], findings: &mut Vec<PolicyError>) {
    let mut first: HashMap<&str, &Rule> = HashMap::new();
    for rule in rules {
        if let Some(earlier) = first.insert(rule.name(), rule) {
            let message = format!(
                "@id({:?}) already names the rule at {}:{}",
                rule.name, earlier.file, earlier.line
            );
            findings.push(rule.finding(message).with_help("give each rule a name of its own"));
        }
        for (key, text) in [("id", Some(rule.name())), ("reason", rule.reason())] {
            let Some(text) = text.filter(|_| rule.policy.annotation(key).is_some()) else {
                continue;
            };
            if text.len() > MAX_ANNOTATION_BYTES || text.chars().any(char::is_control) {
                let message = format!(
                    "@{key} has {} bytes or a control character; at most {MAX_ANNOTATION_BYTES} printable bytes are allowed",
                    text.len()
                );
                findings.push(rule.finding(message));
            }
        }
        for (key, _) in rule.policy.annotations() {
            if !["id", "reason"].contains(&key) {
                let near = nearest(key, ["id", "reason"]);
                let help = near.map_or("@id and @reason are known".to_owned(), did_you_mean);
                findings.push(
                    rule.finding(format!("annotation @{key} has no meaning here")).with_help(help),
                );
            }
        }
    }
}

/// A name that no workload or namespace can have would never match, and a `forbid` never bite.
fn check_literals(rule: &Rule, findings: &mut Vec<PolicyError>) {
    for literal in rule.policy.entity_literals() {
        let id = literal.id().unescaped();
        let problem = if schema::is_namespace(&literal) {
            id.parse::<Namespace>().err().map(|error| error.to_string())
        } else if schema::is_workload(&literal) {
            workload_problem(&literal)
        } else if schema::is_labels(&literal) {
            Some("labels are read from a workload: principal.labels.tier".to_owned())
        } else {
            None
        };
        if let Some(problem) = problem {
            findings.push(rule.finding(format!("{literal} never matches: {problem}")));
        }
    }
}

fn workload_problem(literal: &EntityUid) -> Option<String> {
    let expected =
        || Some("expected a SPIFFE ID such as \"spiffe://example.org/acme/prod/shop\"".to_owned());
    let Some(rest) = literal.id().unescaped().strip_prefix("spiffe://") else {
        return expected();
    };
    let Some((domain, path)) = rest.split_once('/') else {
        return expected();
    };
    let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parts = format!("/{namespace}")
        .parse::<Namespace>()
        .and_then(|namespace| Identity::new(domain, namespace, name, BTreeMap::new()));
    parts.err().map(|error| error.to_string())
}

fn validate(files: &[SourceFile], rules: &[Rule], schema: Schema) -> Result<(), PolicyErrors> {
    let set = CedarSet::from_policies(rules.iter().map(|rule| rule.policy.clone()))
        .map_err(|error| PolicyError::general(error.to_string()))?;
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let by_name: HashMap<&str, &SourceFile> =
        files.iter().map(|file| (file.name.as_str(), file)).collect();
    let place = |id: &PolicyId, found: &dyn Diagnostic| {
        let rule = rule_of(rules, id)?;
        let (message, help) = in_words(by_name.get(rule.file()).copied(), found, id);
        let finding = match (by_name.get(rule.file()), offset_of(found)) {
            (Some(file), Some(offset)) => at(file, offset, message, help),
            _ => PolicyError { help, ..rule.finding(message) },
        };
        Some((rule.number, finding))
    };
    let errors = result.validation_errors().map(|found| (found.policy_id(), found as _));
    // Warnings too: a policy that can never apply, or a string that reads as another, is a
    // mistake. After an error of the same rule they say nothing new.
    let warnings = result.validation_warnings().map(|found| (found.policy_id(), found as _));
    let mut findings: Vec<(usize, PolicyError)> =
        errors.filter_map(|(id, found)| place(id, found)).collect();
    for (number, finding) in warnings.filter_map(|(id, found)| place(id, found)) {
        if findings.iter().all(|(earlier, _)| *earlier != number) {
            findings.push((number, finding));
        }
        if findings.len() > 2 * MAX_REPORTED {
            break;
        }
    }
    if findings.is_empty() && !result.validation_passed_without_warnings() {
        return Err(PolicyError::general(result.to_string()).into());
    }
    PolicyErrors::refuse_unless_empty(findings.into_iter().map(|(_, finding)| finding).collect())
}

/// Message and help; Cedar names a policy by a number that nobody wrote, where the place says more.
fn in_words(
    file: Option<&SourceFile>,
    found: &dyn Diagnostic,
    id: &PolicyId,
) -> (String, Option<String>) {
    let number = format!("for policy `{id}`, ");
    let help = file.and_then(|file| help_for(file, found)).map(|help| help.replace(&number, ""));
    (found.to_string().replace(&number, ""), help)
}

/// The rule that a Cedar policy of a set built here stands for.
pub(super) fn rule_of<'a>(rules: &'a [Rule], id: &PolicyId) -> Option<&'a Rule> {
    let number: &str = id.as_ref();
    number.parse::<usize>().ok().and_then(|number| rules.get(number))
}

fn located(file: &SourceFile, found: &dyn Diagnostic) -> PolicyError {
    let offset = offset_of(found).unwrap_or_default();
    at(file, offset, found.to_string(), help_for(file, found))
}

fn at(file: &SourceFile, offset: usize, message: String, help: Option<String>) -> PolicyError {
    let (line, column) = position(&file.text, offset);
    PolicyError { file: file.name.clone(), line, column, message, help }
}

/// Cedar's own help, else the nearest word of the policy language to the one at fault.
fn help_for(file: &SourceFile, found: &dyn Diagnostic) -> Option<String> {
    if let Some(help) = found.help().map(|help| help.to_string())
        && help.contains("did you mean")
    {
        return Some(help);
    }
    let label = found.labels().and_then(|mut labels| labels.next());
    let word = label.and_then(|label| {
        let text = file.text.get(label.offset()..)?;
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        text.get(..end)
    });
    let unknown = word.filter(|word| !schema::VOCABULARY.contains(word));
    let near = unknown.and_then(|word| nearest(word, schema::VOCABULARY));
    near.map(did_you_mean).or_else(|| found.help().map(|help| help.to_string()))
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

fn offset_of(found: &dyn Diagnostic) -> Option<usize> {
    found.labels().and_then(|mut labels| labels.next()).map(|label| label.offset())
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
