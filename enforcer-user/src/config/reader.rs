//! Reads typed values out of a parsed TOML document and keeps every fault with its place.
//!
//! A section is asked for each key it may hold; what was never asked for is an unknown key. A refused
//! value is noted and reading goes on, so that one run shows every fault of a file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Fault, Faults};

/// The most bytes of a refused value that an error repeats.
const MAX_SHOWN_BYTES: usize = 60;

/// How alike (Jaro-Winkler, 0 to 1) a known key must be to be offered for an unknown one.
const NEAR: f64 = 0.75;

/// The text being read, and the faults found in it so far.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    file: &'a Path,
    base: &'a Path,
    faults: RefCell<Vec<Fault>>,
}

impl<'a> Source<'a> {
    /// `base` is the folder that relative paths start from.
    pub(super) fn new(text: &'a str, file: &'a Path, base: &'a Path) -> Self {
        Self { text, file, base, faults: RefCell::new(Vec::new()) }
    }

    /// Notes a fault at a byte offset.
    pub(super) fn fault(&self, at: usize, what: String) {
        let fault = Fault { file: self.file.to_owned(), line: self.line(at), what };
        self.faults.borrow_mut().push(fault);
    }

    /// The faults so far in the order of their lines; `None` if there are none.
    pub(super) fn faults(&self) -> Option<Faults> {
        let mut faults = self.faults.borrow().clone();
        faults.sort_by_key(|fault| fault.line);
        (!faults.is_empty()).then_some(Faults(faults))
    }

    /// The line of a byte offset, counted from one.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        before.split(|byte| *byte == b'\n').count()
    }

    fn shown(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let mut end = line.len().min(MAX_SHOWN_BYTES);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let more = if end < text.len() { "…" } else { "" };
        format!("{}{more}", &line[..end])
    }
}

/// A value that was refused: its place and what was expected there.
pub(super) struct Refusal {
    span: Range<usize>,
    expected: String,
}

/// What reading one value gives.
pub(super) type Read<T> = Result<T, Refusal>;

/// One value with its place.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    source: &'a Source<'a>,
    raw: &'a Spanned<DeValue<'a>>,
}

impl<'a> Value<'a> {
    /// Refuses this value, saying what was expected.
    pub(super) fn refuse<T>(&self, expected: impl Display) -> Read<T> {
        Err(Refusal { span: self.raw.span(), expected: expected.to_string() })
    }

    pub(super) fn text(&self) -> Read<&'a str> {
        match self.raw.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => self.refuse("a string in quotes"),
        }
    }

    pub(super) fn boolean(&self) -> Read<bool> {
        match self.raw.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => self.refuse("true or false"),
        }
    }

    /// A whole number inside `range`.
    pub(super) fn integer<T>(&self, range: &RangeInclusive<T>) -> Read<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let refused =
            || self.refuse(format!("a whole number from {} to {}", range.start(), range.end()));
        let DeValue::Integer(number) = self.raw.get_ref() else {
            return refused();
        };
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
        match parsed.and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(number) => Ok(number),
            None => refused(),
        }
    }

    pub(super) fn is_integer(&self) -> bool {
        matches!(self.raw.get_ref(), DeValue::Integer(_))
    }

    /// A string that `T` can be read from.
    pub(super) fn parsed<T: FromStr>(&self, expected: &str) -> Read<T> {
        match self.text()?.parse() {
            Ok(value) => Ok(value),
            Err(_) => self.refuse(expected),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Read<T> {
        if let DeValue::String(text) = self.raw.get_ref()
            && let Some((_, value)) = words.iter().find(|(word, _)| word == text)
        {
            return Ok(*value);
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.refuse(known.join(" or "))
    }

    /// A file or folder; a relative one starts at the configuration's own folder.
    pub(super) fn path(&self) -> Read<PathBuf> {
        match self.text()? {
            "" => self.refuse("a path"),
            path => Ok(self.source.base.join(path)),
        }
    }

    /// Every item of a list of at most `most`, each read by `read`.
    pub(super) fn list<T>(
        &self,
        most: usize,
        mut read: impl FnMut(&Value<'a>) -> Read<T>,
    ) -> Read<Vec<T>> {
        let DeValue::Array(items) = self.raw.get_ref() else {
            return self.refuse("a list in [ ]");
        };
        if items.len() > most {
            return self.refuse(format!("at most {most} items; there are {}", items.len()));
        }
        items.iter().map(|raw| read(&Value { source: self.source, raw })).collect()
    }

    /// One value, or a list of one or more.
    pub(super) fn one_or_list<T>(
        &self,
        most: usize,
        mut read: impl FnMut(&Value<'a>) -> Read<T>,
    ) -> Read<Vec<T>> {
        match self.raw.get_ref() {
            DeValue::Array(items) if items.is_empty() => self.refuse("at least one item"),
            DeValue::Array(_) => self.list(most, read),
            _ => Ok(vec![read(self)?]),
        }
    }

    /// An inline table of strings.
    pub(super) fn string_map(&self) -> Read<BTreeMap<String, String>> {
        let DeValue::Table(table) = self.raw.get_ref() else {
            return self.refuse("a table of strings such as { tier = \"front\" }");
        };
        let entry =
            |(key, raw): (&Spanned<std::borrow::Cow<'_, str>>, &'a Spanned<DeValue<'a>>)| {
                let value = Value { source: self.source, raw }.text()?;
                Ok((key.get_ref().clone().into_owned(), value.to_owned()))
            };
        table.iter().map(entry).collect()
    }
}

/// What was already said elsewhere in the file, by value, with the place.
pub(super) struct Claims<T>(BTreeMap<T, usize>);

impl<T: Ord + Clone> Claims<T> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Notes `item`; a second one is refused, naming the line of the first.
    pub(super) fn claim(&mut self, value: &Value<'_>, item: T, what: &str) -> Read<T> {
        if let Some(first) = self.0.get(&item) {
            let line = value.source.line(*first);
            return value.refuse(format!("{what}; line {line} has the same"));
        }
        self.0.insert(item.clone(), value.raw.span().start);
        Ok(item)
    }
}

/// One table of the file.
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    name: &'static str,
    start: usize,
    table: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn top(source: &'a Source<'a>, table: &'a DeTable<'a>) -> Self {
        Self { source, name: "", start: 0, table: Some(table), asked: Vec::new() }
    }

    /// The value of a key if it is there and good.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Read<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        match read(&value) {
            Ok(value) => Some(value),
            Err(refusal) => {
                let found = self.source.shown(refusal.span.clone());
                let name = self.full_name(key);
                let what = format!("{name} = {found}: expected {}", refusal.expected);
                self.source.fault(refusal.span.start, what);
                None
            }
        }
    }

    /// The value of a key, or `default` when it is absent (or refused, which is noted).
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Value<'a>) -> Read<T>,
    ) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// The value of a key that must be there; `hint` says what it should hold.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        read: impl FnOnce(&Value<'a>) -> Read<T>,
    ) -> Option<T> {
        if self.has(key) {
            return self.optional(key, read);
        }
        self.asked.push(key);
        let what = format!("{} is missing: expected {hint}", self.full_name(key));
        self.source.fault(self.start, what);
        None
    }

    /// Refuses a key that must not be here, saying why.
    pub(super) fn forbidden(&mut self, key: &'static str, why: &str) {
        self.optional(key, |value| value.refuse::<()>(why));
    }

    /// Whether the key is there, good or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The table `[key]`; an empty one when it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let mut section = Section {
            source: self.source,
            name: key,
            start: self.start,
            table: None,
            asked: Vec::new(),
        };
        if let Some(value) = self.value(key) {
            section.start = value.raw.span().start;
            match value.raw.get_ref() {
                DeValue::Table(table) => section.table = Some(table),
                _ => self.not_a_table(&value, key, &format!("a table, as in [{key}]")),
            }
        }
        section
    }

    /// The tables `[[key]]`, at most `most` of them.
    pub(super) fn sections(&mut self, key: &'static str, most: usize) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let expected = format!("tables, each as in [[{key}]]");
        let DeValue::Array(items) = value.raw.get_ref() else {
            self.not_a_table(&value, key, &expected);
            return Vec::new();
        };
        if items.len() > most {
            let what = format!("[[{key}]]: expected at most {most}; there are {}", items.len());
            self.source.fault(value.raw.span().start, what);
        }
        let mut sections = Vec::new();
        for raw in items.iter().take(most) {
            match raw.get_ref() {
                DeValue::Table(table) => sections.push(Section {
                    source: self.source,
                    name: key,
                    start: raw.span().start,
                    table: Some(table),
                    asked: Vec::new(),
                }),
                _ => self.not_a_table(&Value { source: self.source, raw }, key, &expected),
            }
        }
        sections
    }

    /// Notes a fault of the section as a whole.
    pub(super) fn fault(&self, what: String) {
        self.source.fault(self.start, what);
    }

    /// Ends the reading: whatever was never asked for is unknown.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flatten() {
            if !self.asked.iter().any(|asked| asked == key.get_ref()) {
                let hint = nearest(key.get_ref(), &self.asked);
                let what = format!("unknown key {:?}{}: {hint}", key.get_ref(), self.place());
                self.source.fault(key.span().start, what);
            }
        }
    }

    fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.asked.push(key);
        let raw = self.table?.get(key)?;
        Some(Value { source: self.source, raw })
    }

    fn not_a_table(&self, value: &Value<'a>, key: &str, expected: &str) {
        let found = self.source.shown(value.raw.span());
        let what = format!("{} = {found}: expected {expected}", self.full_name(key));
        self.source.fault(value.raw.span().start, what);
    }

    fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn place(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) }
    }
}

fn nearest(found: &str, known: &[&'static str]) -> String {
    let likeness = |key: &&&str| strsim::jaro_winkler(found, key);
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|key| likeness(key) >= NEAR) {
        Some(key) => format!("did you mean {key:?}?"),
        None => format!("known keys are {}", known.join(", ")),
    }
}
