//! What is known of a workload beside its names and labels: what it runs, as whom, and on what node.
//!
//! Image, executable and user are said by the node, as labels are. The labels of the node itself are the authority's
//! word: they stand in the node's certificate, so that no node can give itself another zone.

use std::collections::BTreeMap;
use std::fmt;

use super::claims::{MAX_NAME_BYTES, NameError};

/// The algorithms whose digests name an executable, and how many hexadecimal digits each has.
const DIGESTS: [(&str, usize); 2] = [("sha256", 64), ("blake3", 64)];

/// What a node may say of a workload that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// The container image it was started from, such as `registry.example/shop@sha256:…`.
    Image,
    /// The digest of its executable, such as `sha256:…`.
    Executable,
    /// Whom it runs as, by name or number.
    User,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Image, Self::Executable, Self::User];

    /// Its name in claims, configurations and policies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Executable => "executable",
            Self::User => "user",
        }
    }

    /// The attribute of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.as_str() == name)
    }

    /// What a value of it looks like.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::Image => {
                "an image's name, such as registry.example/shop:1.4: 1 to 255 printable ASCII characters without spaces"
            }
            Self::Executable => "sha256: or blake3: and 64 hexadecimal digits in lower case",
            Self::User => {
                "a user's name or number: 1 to 255 printable ASCII characters without spaces"
            }
        }
    }

    /// Refuses what cannot be a value of it.
    ///
    /// # Errors
    /// It names the attribute, the value, and what was expected.
    pub fn check(self, value: &str) -> Result<(), NameError> {
        let is_good = match self {
            Self::Executable => is_digest(value),
            Self::Image | Self::User => is_word(value),
        };
        if is_good {
            return Ok(());
        }
        Err(NameError::Attribute { attribute: self, value: value.to_owned() })
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The attributes that are known.
pub type Attributes = BTreeMap<Attribute, String>;

/// What is known; an identity of which nothing is has none of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Provenance {
    pub attributes: Attributes,
    /// The labels of the node's certificate.
    pub node: BTreeMap<String, String>,
}

impl Provenance {
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.node.is_empty()
    }
}

fn is_digest(value: &str) -> bool {
    let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    value.split_once(':').is_some_and(|(algorithm, digest)| {
        DIGESTS.contains(&(algorithm, digest.len())) && digest.chars().all(is_hex)
    })
}

fn is_word(value: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_by_its_name() {
        for attribute in Attribute::ALL {
            assert_eq!(Attribute::named(attribute.as_str()), Some(attribute));
        }
        assert_eq!(Attribute::named("Image"), None);
    }

    #[test]
    fn values_that_no_attribute_can_have_are_refused() {
        let sha = format!("sha256:{}", "0a".repeat(32));
        for (attribute, good, bad) in [
            (
                Attribute::Image,
                "registry.example:5000/a/shop:1@sha256:00",
                vec!["", "a b", "a\n", "a\u{202e}b"],
            ),
            (Attribute::User, "1000", vec!["", "a\tb"]),
            (
                Attribute::Executable,
                &sha,
                vec!["", "sha256:", "sha256:00", &sha[7..], "md5:00", "SHA256:0", &sha[..70]],
            ),
        ] {
            assert_eq!(attribute.check(good), Ok(()));
            for value in bad {
                let refused = attribute.check(value).unwrap_err().to_string();
                assert!(refused.contains(attribute.as_str()), "{refused}");
            }
        }
        assert!(Attribute::Executable.check(&sha.to_uppercase()).is_err());
        assert!(Attribute::Image.check(&"a".repeat(256)).is_err());
    }
}
