//! What a credential says of a workload: trust domain, namespace path, name, labels, and what it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::provenance::{Attribute, Attributes, Provenance};

/// The most bytes of a trust domain, a namespace path, a workload name, a label key or a label value.
pub const MAX_NAME_BYTES: usize = 255;

/// Why a name of an identity was refused. Each names the value found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The trust domain has a character outside SPIFFE's set.
    #[error(
        "trust domain {0:?}: expected 1 to 255 lower-case letters, digits, '.', '-' or '_' (SPIFFE-ID 2.1)"
    )]
    TrustDomain(String),
    /// The namespace path is not absolute or has a bad segment.
    #[error(
        "namespace {0:?}: expected an absolute path of letters, digits, '.', '-' and '_' such as /acme/prod/shop"
    )]
    Namespace(String),
    /// The workload name is empty or has a character that a SPIFFE path segment may not hold.
    #[error("workload name {0:?}: expected 1 to 255 letters, digits, '.', '-' or '_'")]
    Workload(String),
    /// The text is not the SPIFFE ID of a workload.
    #[error("SPIFFE ID {0:?}: expected spiffe://trust-domain/namespace/name (SPIFFE-ID 2)")]
    SpiffeId(String),
    /// The label key is empty, too long or not a plain word.
    #[error("label key {0:?}: expected 1 to 255 letters, digits, '.', '-', '_' or '/'")]
    LabelKey(String),
    /// The label value is too long or has a control character.
    #[error(
        "label {key:?}: its value has {len} bytes or a control character; at most 255 printable bytes are allowed"
    )]
    LabelValue {
        /// The label's key.
        key: String,
        /// Length of the refused value in bytes.
        len: usize,
    },
    /// There is no such attribute.
    #[error("attribute {0:?}: expected image, executable, user, or node. and a label of the node")]
    UnknownAttribute(String),
    /// The value cannot be that of this attribute.
    #[error("{attribute} {value:?}: expected {}", attribute.expected())]
    Attribute {
        /// Which.
        attribute: Attribute,
        /// The refused value.
        value: String,
    },
}

/// A namespace path: `/` or `/segment/segment`, compared by whole segments and never by prefix of text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

/// The root.
impl Default for Namespace {
    fn default() -> Self {
        Self::root()
    }
}

impl Namespace {
    /// The root, above every namespace.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// The path as text, starting with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments from the top; none for the root.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    /// Whether `other` is this namespace or lies below it, by path segment: `/a/b` holds `/a/b/c`, not `/a/bc`.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let mut theirs = other.segments();
        self.segments().all(|ours| theirs.next() == Some(ours))
    }

    /// This namespace and all above it, the nearest first, the root last.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        let segments: Vec<&str> = self.segments().collect();
        (0..=segments.len())
            .rev()
            .map(move |n| {
                Self(format!("/{}", segments.get(..n).unwrap_or_default().join("/")).into())
            })
            .collect::<Vec<_>>()
            .into_iter()
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Namespace(text.to_owned());
        if text == "/" {
            return Ok(Self::root());
        }
        let path = text.strip_prefix('/').ok_or_else(refused)?;
        if text.len() > MAX_NAME_BYTES || !path.split('/').all(is_segment) {
            return Err(refused());
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload. Two workloads with equal claims are the same identity.
///
/// What many identities have in common can be held once (`held_once.rs`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub(super) trust_domain: Arc<str>,
    pub(super) namespace: Namespace,
    name: Box<str>,
    pub(super) labels: Arc<BTreeMap<String, String>>,
    /// None if nothing is known of it.
    pub(super) provenance: Option<Arc<Provenance>>,
}

/// What stands before a label of the node where a workload is described.
const NODE: &str = "node.";

/// For an identity without any.
static NOTHING: Provenance = Provenance { attributes: BTreeMap::new(), node: BTreeMap::new() };

impl Identity {
    /// Checks every part; a refused one is named in the error.
    pub fn new(
        trust_domain: &str,
        namespace: Namespace,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Self, NameError> {
        if !is_trust_domain(trust_domain) {
            return Err(NameError::TrustDomain(trust_domain.to_owned()));
        }
        if !is_segment(name) {
            return Err(NameError::Workload(name.to_owned()));
        }
        for (key, value) in &labels {
            check_label(key, value)?;
        }
        let labels = Arc::new(labels);
        let trust_domain = trust_domain.into();
        Ok(Self { trust_domain, namespace, name: name.into(), labels, provenance: None })
    }

    /// The same with these attributes and no other; a refused one is named in the error.
    pub fn with_attributes(self, attributes: Attributes) -> Result<Self, NameError> {
        attributes.iter().try_for_each(|(attribute, value)| attribute.check(value))?;
        let node = self.node_labels().clone();
        Ok(self.with(Provenance { attributes, node }))
    }

    /// The same on a node whose certificate has these labels.
    #[must_use]
    pub fn on_node(self, labels: &BTreeMap<String, String>) -> Self {
        let attributes = self.attributes().clone();
        self.with(Provenance { attributes, node: labels.clone() })
    }

    /// The same with what is `described`: attributes by their names, labels of its node as `node.zone`.
    pub fn described(self, described: &BTreeMap<String, String>) -> Result<Self, NameError> {
        let (mut attributes, mut node) = (Attributes::new(), BTreeMap::new());
        for (name, value) in described {
            if let Some(label) = name.strip_prefix(NODE) {
                check_label(label, value)?;
                node.insert(label.to_owned(), value.clone());
            } else {
                let unknown = || NameError::UnknownAttribute(name.clone());
                attributes.insert(Attribute::named(name).ok_or_else(unknown)?, value.clone());
            }
        }
        Ok(self.with_attributes(attributes)?.on_node(&node))
    }

    /// What is known of it beside its labels, as [`Self::described`] takes it.
    #[must_use]
    pub fn description(&self) -> BTreeMap<String, String> {
        let own = self.attributes().iter().map(|(name, value)| (name.to_string(), value.clone()));
        let node = self.node_labels().iter();
        own.chain(node.map(|(label, value)| (format!("{NODE}{label}"), value.clone()))).collect()
    }

    fn with(self, provenance: Provenance) -> Self {
        let provenance = Some(provenance).filter(|known| !known.is_empty()).map(Arc::new);
        Self { provenance, ..self }
    }

    /// Takes a SPIFFE ID apart: the last path segment is the name, those before it the namespace.
    pub fn from_spiffe_id(id: &str, labels: BTreeMap<String, String>) -> Result<Self, NameError> {
        let refused = || NameError::SpiffeId(id.to_owned());
        let rest = id.strip_prefix("spiffe://").ok_or_else(refused)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').ok_or_else(refused)?);
        let (namespace, name) = path.rsplit_once('/').ok_or_else(refused)?;
        let namespace = if namespace.is_empty() { "/" } else { namespace };
        let identity = Self::new(trust_domain, namespace.parse()?, name, labels)?;
        if identity.spiffe_id() == id { Ok(identity) } else { Err(refused()) }
    }

    /// The SPIFFE trust domain, for example `example.org`.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The namespace the workload lives in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The workload's name inside its namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The labels, in the order of their keys.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// What its node says that it runs, and as whom.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.provenance().attributes
    }

    /// The labels of its node, as its authority signed them.
    #[must_use]
    pub fn node_labels(&self) -> &BTreeMap<String, String> {
        &self.provenance().node
    }

    fn provenance(&self) -> &Provenance {
        self.provenance.as_deref().unwrap_or(&NOTHING)
    }

    /// The SPIFFE ID, `spiffe://trust-domain/namespace/name` (SPIFFE-ID 2).
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{}{}", self.trust_domain, self.path())
    }

    /// Its place in its trust domain, `/namespace/name`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace.as_str().trim_end_matches('/'), self.name)
    }

    /// Whether `text` is its name, its path or its SPIFFE ID.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        let rest = text.strip_prefix("spiffe://");
        let path = rest.and_then(|rest| rest.strip_prefix(self.trust_domain())).unwrap_or(text);
        let own = self.namespace.as_str().trim_end_matches('/');
        text == self.name() || path.rsplit_once('/') == Some((own, self.name()))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spiffe_id())
    }
}

/// Refuses what cannot be a label of a workload or a node.
pub(super) fn check_label(key: &str, value: &str) -> Result<(), NameError> {
    let key_char = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if key.is_empty() || key.len() > MAX_NAME_BYTES || !key.chars().all(key_char) {
        return Err(NameError::LabelKey(key.to_owned()));
    }
    if value.len() > MAX_NAME_BYTES || value.chars().any(char::is_control) {
        return Err(NameError::LabelValue { key: key.to_owned(), len: value.len() });
    }
    Ok(())
}

/// Whether `segment` may be one segment of a SPIFFE path: a workload's, a namespace's or a node's name.
pub(super) fn is_segment(segment: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !segment.is_empty()
        && segment.len() <= MAX_NAME_BYTES
        && segment != "."
        && segment != ".."
        && segment.chars().all(allowed)
}

/// Whether `text` may be a SPIFFE trust domain (SPIFFE-ID 2.1).
pub(super) fn is_trust_domain(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_called_by_name_path_and_spiffe_id() {
        let of = |id: &str| Identity::from_spiffe_id(id, BTreeMap::new()).unwrap();
        let (web, top) = (of("spiffe://example.org/a/b/web"), of("spiffe://example.org/web"));
        for text in ["web", "/a/b/web", "spiffe://example.org/a/b/web"] {
            assert!(web.is_called(text), "{text}");
        }
        for text in ["web", "/web", "spiffe://example.org/web"] {
            assert!(top.is_called(text), "{text}");
        }
        for text in ["", "/", "b/web", "/b/web", "a/b/web", "spiffe://example.com/a/b/web", "/a/b/"]
        {
            assert!(!web.is_called(text), "{text}");
            assert!(!top.is_called(text), "{text}");
        }
    }

    #[test]
    fn what_is_known_of_a_workload_makes_it_another_identity() {
        let plain =
            Identity::from_spiffe_id("spiffe://example.org/a/web", BTreeMap::new()).unwrap();
        let user = |name: &str| Attributes::from([(Attribute::User, name.to_owned())]);
        let zone = BTreeMap::from([("zone".to_owned(), "north".to_owned())]);
        let shop = plain.clone().with_attributes(user("shop")).unwrap();
        assert_ne!(shop, plain);
        assert_eq!(shop.attributes(), &user("shop"));
        let placed = shop.clone().on_node(&zone);
        assert_ne!(placed, shop);
        assert_eq!((placed.attributes(), placed.node_labels()), (&user("shop"), &zone));
        assert_eq!(placed.clone().with_attributes(user("shop")).unwrap(), placed);
        assert_eq!(shop.clone().described(&placed.description()).unwrap(), placed);
        for (name, value) in [("colour", "red"), ("image", ""), ("node.", "a"), ("node.a b", "a")] {
            let one = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert!(plain.clone().described(&one).is_err(), "{name}={value}");
        }
        // Nothing known is nothing, however it came to that.
        let bare = placed.on_node(&BTreeMap::new()).with_attributes(Attributes::new()).unwrap();
        assert_eq!(bare, plain);
        assert!(plain.with_attributes(user("a b")).is_err());
    }

    fn ns(text: &str) -> Namespace {
        text.parse().unwrap()
    }

    #[test]
    fn namespaces_compare_by_segment() {
        assert!(ns("/a/b").contains(&ns("/a/b/c")));
        assert!(ns("/").contains(&ns("/a")));
        assert!(!ns("/a/b").contains(&ns("/a/bc")));
        assert!(!ns("/a/b").contains(&ns("/a")));
    }

    #[test]
    fn malformed_namespaces_are_refused() {
        for text in ["", "a", "/a//b", "/a/", "/a/../b", "/a b", "//"] {
            assert!(text.parse::<Namespace>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ancestors_run_from_the_nearest_to_the_root() {
        let paths: Vec<String> = ns("/a/b").ancestors().map(|n| n.to_string()).collect();
        assert_eq!(paths, ["/a/b", "/a", "/"]);
    }

    #[test]
    fn the_spiffe_id_joins_domain_namespace_and_name() {
        let id = Identity::new("example.org", ns("/acme/prod"), "shop", BTreeMap::new()).unwrap();
        assert_eq!(id.spiffe_id(), "spiffe://example.org/acme/prod/shop");
        let id = Identity::new("example.org", Namespace::root(), "shop", BTreeMap::new()).unwrap();
        assert_eq!(id.spiffe_id(), "spiffe://example.org/shop");
    }

    #[test]
    fn a_spiffe_id_comes_apart_as_it_was_joined() {
        for (namespace, name) in [("/", "shop"), ("/acme", "web"), ("/acme/prod/x", "a.b-c_d")] {
            let id = Identity::new("example.org", ns(namespace), name, BTreeMap::new()).unwrap();
            assert_eq!(Identity::from_spiffe_id(&id.spiffe_id(), BTreeMap::new()), Ok(id));
        }
        for text in [
            "",
            "spiffe://",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org//x",
            "spiffe:///x",
            "spiffe://example.org/a/",
            "spiffe://example.org/a/../x",
            "spiffe://Example.org/x",
            "https://example.org/x",
        ] {
            assert!(Identity::from_spiffe_id(text, BTreeMap::new()).is_err(), "{text:?}");
        }
    }
}
