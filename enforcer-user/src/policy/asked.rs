//! A request as compiled conditions read it: every text they may compare, looked up once.

use std::collections::HashMap;
use std::sync::Arc;

use super::request::{Action, Ends, Request};
use super::schema;
use crate::identity::Attribute;

/// Number of a text that some condition compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Literal(u32);

/// One of the two workloads of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// `principal`.
    Caller,
    /// `resource`.
    Callee,
}

/// Where a text of a request stands: an attribute of a workload, a label, or the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot(usize);

impl Slot {
    /// `context.protocol`.
    pub const PROTOCOL: Self = Self(14);

    pub fn spiffe_id(side: Side) -> Self {
        Self::of(side, 0)
    }

    pub fn name(side: Side) -> Self {
        Self::of(side, 1)
    }

    pub fn trust_domain(side: Side) -> Self {
        Self::of(side, 2)
    }

    pub fn namespace(side: Side) -> Self {
        Self::of(side, 3)
    }

    /// An attribute that a workload may lack.
    pub fn attribute(side: Side, attribute: Attribute) -> Self {
        Self::of(
            side,
            match attribute {
                Attribute::Image => 4,
                Attribute::Executable => 5,
                Attribute::User => 6,
            },
        )
    }

    /// The label of this number.
    fn label(side: Side, number: usize) -> Self {
        Self(FIRST_LABEL + 2 * number + side.index())
    }

    fn of(side: Side, attribute: usize) -> Self {
        Self(2 * attribute + side.index())
    }
}

/// Slots in front of this one are attributes.
const FIRST_LABEL: usize = 15;

impl Side {
    fn index(self) -> usize {
        match self {
            Self::Caller => 0,
            Self::Callee => 1,
        }
    }
}

/// Whose labels they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// `labels`: the workload's.
    Workload,
    /// `node`: its node's.
    Node,
}

impl Holder {
    /// Who holds the labels that are read as the attribute of this name.
    pub fn named(attribute: &str) -> Option<Self> {
        match attribute {
            "labels" => Some(Self::Workload),
            "node" => Some(Self::Node),
            _ => None,
        }
    }
}

/// The labels and texts that the conditions of a set name, by number.
#[derive(Debug, Default)]
pub(super) struct Words {
    labels: HashMap<Arc<str>, usize>,
    node_labels: HashMap<Arc<str>, usize>,
    label_names: Vec<(Holder, Arc<str>)>,
    literals: HashMap<Box<str>, Literal>,
}

impl Words {
    /// The slot of a label, which may be new.
    pub fn label(&mut self, side: Side, holder: Holder, name: &str) -> Slot {
        let labels = match holder {
            Holder::Workload => &mut self.labels,
            Holder::Node => &mut self.node_labels,
        };
        if let Some(number) = labels.get(name) {
            return Slot::label(side, *number);
        }
        let (number, name) = (self.label_names.len(), Arc::<str>::from(name));
        self.label_names.push((holder, Arc::clone(&name)));
        labels.insert(name, number);
        Slot::label(side, number)
    }

    /// The number of a text, which may be new; none when there are too many.
    pub fn literal(&mut self, text: &str) -> Option<Literal> {
        if let Some(known) = self.literals.get(text) {
            return Some(*known);
        }
        let literal = Literal(u32::try_from(self.literals.len()).ok()?);
        self.literals.insert(text.into(), literal);
        Some(literal)
    }

    fn slots(&self) -> usize {
        FIRST_LABEL + 2 * self.label_names.len()
    }
}

/// A text of a request, and the number of the equal text among those that conditions name.
#[derive(Debug, Clone, Copy, Default)]
struct Text<'a> {
    text: Option<&'a str>,
    literal: Option<Literal>,
}

/// A label or an attribute that a condition reads and that the workload does not have: the condition fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Missing(Slot);

/// The texts of one request.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    words: &'a Words,
    ends: &'a Ends<'a>,
    texts: Vec<Text<'a>>,
    /// Which end asks.
    pub action: Action,
    /// Wall time.
    pub unix_seconds: i64,
    /// `context.port`.
    pub port: i64,
}

impl<'a> Asked<'a> {
    pub fn new(words: &'a Words, asked: &Request<'a>, ends: &'a Ends<'a>) -> Self {
        let texts = vec![Text::default(); words.slots()];
        let (action, port) = (asked.action, i64::from(asked.port));
        let unix_seconds = asked.unix_seconds;
        let mut found = Self { words, ends, texts, action, unix_seconds, port };
        found.put(Slot::PROTOCOL, &ends.protocol);
        for (side, identity, end) in
            [(Side::Caller, asked.caller, &ends.caller), (Side::Callee, asked.callee, &ends.callee)]
        {
            found.put(Slot::spiffe_id(side), &end.spiffe_id);
            found.put(Slot::name(side), identity.name());
            found.put(Slot::trust_domain(side), identity.trust_domain());
            found.put(Slot::namespace(side), identity.namespace().as_str());
            for (attribute, value) in identity.attributes() {
                found.put(Slot::attribute(side, *attribute), value);
            }
            let all =
                [(identity.labels(), &words.labels), (identity.node_labels(), &words.node_labels)];
            for (labels, numbers) in all {
                for (label, value) in labels {
                    if let Some(number) = numbers.get(label.as_str()) {
                        found.put(Slot::label(side, *number), value);
                    }
                }
            }
        }
        found
    }

    /// The text; an error for a label or an attribute that the workload does not have.
    pub fn text(&self, slot: Slot) -> Result<&'a str, Missing> {
        self.at(slot).text.ok_or(Missing(slot))
    }

    /// The number of the text; none if no condition names it.
    pub fn literal(&self, slot: Slot) -> Result<Option<Literal>, Missing> {
        let found = self.at(slot);
        if found.text.is_some() { Ok(found.literal) } else { Err(Missing(slot)) }
    }

    /// Whether there is a text.
    pub fn has(&self, slot: Slot) -> bool {
        self.at(slot).text.is_some()
    }

    /// The namespace that a workload lives in.
    pub fn namespace(&self, side: Side) -> &'a str {
        self.at(Slot::namespace(side)).text.unwrap_or_default()
    }

    /// What Cedar says of a condition that reads it.
    pub fn message(&self, Missing(slot): Missing) -> String {
        let number = slot.0.checked_sub(FIRST_LABEL);
        let is_caller = number.unwrap_or(slot.0).is_multiple_of(2);
        let id = if is_caller { &self.ends.caller.spiffe_id } else { &self.ends.callee.spiffe_id };
        let label = number.and_then(|number| self.words.label_names.get(number / 2));
        let (entity, name) = match label {
            Some((Holder::Workload, label)) => (format!("Labels::\"{id}\""), &**label),
            Some((Holder::Node, label)) => {
                (format!("Labels::\"{}\"", schema::node_of(id)), &**label)
            }
            None => (format!("Workload::\"{id}\""), attribute_name(slot)),
        };
        format!("`{entity}` does not have the attribute `{name}`")
    }

    fn at(&self, slot: Slot) -> Text<'a> {
        self.texts.get(slot.0).copied().unwrap_or_default()
    }

    fn put(&mut self, slot: Slot, text: &'a str) {
        let literal = self.words.literals.get(text).copied();
        if let Some(place) = self.texts.get_mut(slot.0) {
            *place = Text { text: Some(text), literal };
        }
    }
}

/// The attribute at a slot in front of the labels that a workload may lack.
fn attribute_name(slot: Slot) -> &'static str {
    let is_at = |attribute: &Attribute| {
        [Side::Caller, Side::Callee].iter().any(|side| Slot::attribute(*side, *attribute) == slot)
    };
    Attribute::ALL.into_iter().find(is_at).map_or("", Attribute::as_str)
}
