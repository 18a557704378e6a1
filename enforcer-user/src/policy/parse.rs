//! From text to rules: parse, check names, validate strictly. A whole set or none of it.
//!
//! What stood in an earlier set word for word is taken over from it: it was checked there, and no policy's validity
//! depends on another's. The rest is parsed one by one. If that is much, or as soon as anything is wrong, all of it is
//! parsed as whole files, which is quicker for many policies and tells what is wrong and where.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{Policy, PolicyId, PolicySet as CedarSet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use super::annotations::{Annotations, Problem};
use super::dependencies::{Reads, dependencies};
use super::error::{MAX_REPORTED, PolicyError, PolicyErrors};
use super::governs;
use super::literals;
use super::names::{nearest, nearest_within};
use super::nesting;
use super::request::Action;
use super::rule::{Effect, Rule, TextHash};
use super::schema;
use super::source::SourceFile;
use super::statements::{Statement, statements};

/// The most rules of one set.
pub const MAX_RULES: usize = 65_536;

/// Rules that were checked together.
#[derive(Debug)]
pub(super) struct Parsed {
    /// In the order of their files and lines; `Rule::number` is the place here.
    pub rules: Vec<Rule>,
    /// Every label name that some rule uses, with the first of them.
    pub labels: BTreeMap<String, usize>,
}

/// What an earlier set checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked<'a> {
    pub rules: &'a [Rule],
    /// The label names of the schema that they were validated against.
    pub labels: &'a BTreeMap<String, usize>,
}

/// Of this many policies at most one may be new, or all are parsed as whole files: one parsed by itself costs about
/// half as much again. Tests are to go this way whatever is new.
const TAKEN_OVER: usize = if cfg!(test) { 0 } else { 4 };

/// Parses and validates all files. The outcome is the same with and without an earlier set.
pub(super) fn parse(
    files: &[SourceFile],
    earlier: Option<Checked<'_>>,
) -> Result<Parsed, PolicyErrors> {
    let deep: Vec<PolicyError> =
        files.iter().filter_map(|file| nesting::check(file).err()).collect();
    PolicyErrors::refuse_unless_empty(deep)?;
    let taken_over = earlier.and_then(|earlier| after(files, earlier));
    taken_over.map_or_else(|| parse_whole(files), Ok)
}

/// A policy of a file, and the rule that an earlier set made of the same words.
struct Piece<'a> {
    file: &'a SourceFile,
    statement: Statement<'a>,
    hash: TextHash,
    known: Option<&'a Rule>,
}

/// Parses what the earlier set does not have; none if that is too much, or if there is any finding.
fn after(files: &[SourceFile], earlier: Checked<'_>) -> Option<Parsed> {
    let pieces = pieces(files, earlier.rules)?;
    let unknown = pieces.iter().filter(|piece| piece.known.is_none()).count();
    if unknown * TAKEN_OVER > pieces.len() || pieces.len() > MAX_RULES {
        return None;
    }
    let (mut rules, mut fresh) = (Vec::new(), Vec::new());
    let mut labels: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = Lines::default();
    for Piece { file, statement, hash, known } in pieces {
        let content = if let Some(rule) = known {
            Content::from(rule)
        } else {
            fresh.push(rules.len());
            Content::of(Policy::parse(None, statement.text).ok()?)?
        };
        for label in &content.labels {
            if !labels.contains_key(label) {
                labels.insert(label.clone(), rules.len());
            }
        }
        let place = (file, lines.at(file, statement.offset), statement.offset);
        rules.push(content.rule(place, Some(hash), &rules));
    }
    let mut findings = Vec::new();
    check_places(&rules, &mut findings);
    let fresh: Vec<&Rule> = fresh.into_iter().filter_map(|number| rules.get(number)).collect();
    for rule in &fresh {
        findings.extend(literals::findings(rule));
    }
    if !findings.is_empty() {
        return None;
    }
    let schema = schema::schema(labels.keys()).ok()?;
    // Another schema might judge otherwise of what the earlier set has.
    if earlier.labels.keys().eq(labels.keys()) {
        is_valid(fresh.into_iter(), schema)?;
    } else {
        is_valid(rules.iter(), schema)?;
    }
    Some(Parsed { rules, labels })
}

fn pieces<'a>(files: &'a [SourceFile], earlier: &'a [Rule]) -> Option<Vec<Piece<'a>>> {
    let known = earlier.iter().filter_map(|rule| Some((rule.text?, rule)));
    let known: HashMap<TextHash, &Rule> = known.collect();
    let mut pieces = Vec::new();
    for file in files {
        let found = statements(&file.text)?.into_iter().map(|statement| {
            let hash = statement.hash();
            Piece { file, statement, hash, known: known.get(&hash).copied() }
        });
        pieces.extend(found);
    }
    Some(pieces)
}

fn is_valid<'a>(rules: impl Iterator<Item = &'a Rule>, schema: Schema) -> Option<()> {
    let set = CedarSet::from_policies(rules.map(|rule| rule.policy.clone())).ok()?;
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    result.validation_passed_without_warnings().then_some(())
}

/// Lines of files, one after the other, at offsets that grow.
#[derive(Default)]
struct Lines<'a> {
    file: Option<&'a SourceFile>,
    counted: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    fn at(&mut self, file: &'a SourceFile, offset: usize) -> usize {
        if self.file.is_none_or(|last| !std::ptr::eq(last, file)) {
            *self = Self { file: Some(file), counted: 0, line: 1 };
        }
        let between = file.text.get(self.counted..offset).unwrap_or_default();
        self.line += between.matches('\n').count();
        self.counted = offset;
        self.line
    }
}

/// What a policy says, wherever it stands.
struct Content {
    policy: Policy,
    labels: Box<[String]>,
    reads: Reads,
    annotations: Annotations,
}

impl From<&Rule> for Content {
    fn from(rule: &Rule) -> Self {
        Self {
            policy: rule.policy.clone(),
            labels: rule.labels.clone(),
            reads: rule.reads,
            annotations: rule.annotations.clone(),
        }
    }
}

impl Content {
    /// Of a policy with nothing wrong about it that can be seen so far.
    fn of(policy: Policy) -> Option<Self> {
        let (content, problems) = Self::read(policy);
        problems.is_empty().then_some(content)
    }

    /// What a policy says, and what is wrong with it.
    fn read(policy: Policy) -> (Self, Vec<Problem>) {
        let needs = dependencies(&policy);
        let (annotations, mut problems) = Annotations::of(&policy);
        if needs.unnamed_labels {
            let help = "read each by name: principal.labels.tier".to_owned();
            problems.push(("labels are used without saying which".to_owned(), Some(help)));
        }
        let labels = needs.labels.into_iter().collect();
        (Self { policy, labels, reads: needs.reads, annotations }, problems)
    }

    /// The rule behind `earlier` of this content, at this line and offset of its file.
    fn rule(
        self,
        (file, line, offset): (&SourceFile, usize, usize),
        text: Option<TextHash>,
        earlier: &[Rule],
    ) -> Rule {
        let Self { policy, labels, reads, annotations } = self;
        let number = earlier.len();
        let name = policy.annotation("id").filter(|id| !id.is_empty());
        Rule {
            number,
            name: name.map_or_else(|| place_name(file, line, offset, earlier), str::to_owned),
            file: file.name.clone(),
            line,
            reason: policy.annotation("reason").map(str::to_owned),
            effect: match policy.effect() {
                cedar_policy::Effect::Permit => Effect::Permit,
                cedar_policy::Effect::Forbid => Effect::Forbid,
            },
            scope: file.scope.clone(),
            reads,
            labels,
            annotations,
            text,
            policy: policy.new_id(PolicyId::new(number.to_string())),
        }
    }
}

/// The same as whole files, for what is wrong with them.
pub(super) fn parse_whole(files: &[SourceFile]) -> Result<Parsed, PolicyErrors> {
    let mut findings = Vec::new();
    let (mut rules, mut labels) = (Vec::new(), BTreeMap::new());
    for file in files {
        parse_file(file, &mut rules, &mut labels, &mut findings);
    }
    if rules.len() > MAX_RULES {
        let message = format!("{} rules, at most {MAX_RULES} are allowed", rules.len());
        findings.push(PolicyError::general(message));
    }
    check_places(&rules, &mut findings);
    for rule in &rules {
        findings.extend(literals::findings(rule));
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
    // By itself, for whoever comes after; a text that is not understood here is parsed again then.
    let texts: HashMap<usize, TextHash> = statements(&file.text)
        .unwrap_or_default()
        .into_iter()
        .map(|statement| (statement.offset, statement.hash()))
        .collect();
    let mut lines = Lines::default();
    for (offset, policy) in policies {
        let (content, problems) = Content::read(policy.clone());
        let line = lines.at(file, offset);
        let number = rules.len();
        for label in &content.labels {
            labels.entry(label.clone()).or_insert(number);
        }
        let rule = content.rule((file, line, offset), texts.get(&offset).copied(), rules);
        findings.extend(
            problems
                .into_iter()
                .map(|(message, help)| PolicyError { help, ..rule.finding(message) }),
        );
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

/// What is wrong with rules beside each other, or as those of their file.
fn check_places(rules: &[Rule], findings: &mut Vec<PolicyError>) {
    findings.extend(rules.iter().filter_map(governs::finding));
    let mut first: HashMap<&str, &Rule> = HashMap::new();
    for rule in rules {
        if let Some(earlier) = first.insert(rule.name(), rule) {
            let message = format!(
                "@id({:?}) already names the rule at {}:{}",
                rule.name, earlier.file, earlier.line
            );
            findings.push(rule.finding(message).with_help("give each rule a name of its own"));
        }
    }
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

pub(super) fn located(file: &SourceFile, found: &dyn Diagnostic) -> PolicyError {
    let offset = offset_of(found).unwrap_or_default();
    at(file, offset, found.to_string(), help_for(file, found))
}

pub(super) fn at(
    file: &SourceFile,
    offset: usize,
    message: String,
    help: Option<String>,
) -> PolicyError {
    let (line, column) = position(&file.text, offset);
    PolicyError { file: file.name.clone(), line, column, message, help }
}

/// Cedar's own help, else the nearest word of the policy language to the one at fault.
fn help_for(file: &SourceFile, found: &dyn Diagnostic) -> Option<String> {
    let label = found.labels().and_then(|mut labels| labels.next());
    let text = label.and_then(|label| file.text.get(label.offset()..));
    if let Some(near) = text.and_then(nearest_action) {
        return Some(did_you_mean(near));
    }
    let message = found.to_string();
    let attribute = message.split_once("attribute `").and_then(|(_, rest)| rest.split('`').next());
    let word = attribute.or_else(|| {
        let text = text?;
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        text.get(..end)
    });
    let unknown = word.filter(|word| !schema::VOCABULARY.contains(word));
    // Cedar takes two letters that changed places for two mistakes, and thinks of other names first.
    if let Some(near) = unknown.and_then(|word| nearest_within(1, word, schema::VOCABULARY)) {
        return Some(did_you_mean(near));
    }
    if let Some(help) = found.help().map(|help| help.to_string())
        && help.contains("did you mean")
    {
        return Some(help);
    }
    let near = unknown.and_then(|word| nearest(word, schema::VOCABULARY));
    near.map(did_you_mean).or_else(|| found.help().map(|help| help.to_string()))
}

/// The action that a text which begins with another one probably means.
fn nearest_action(text: &str) -> Option<&'static str> {
    let (name, _) = text.strip_prefix("Action::\"")?.split_once('"')?;
    nearest(name, Action::ALL.map(Action::as_str))
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
