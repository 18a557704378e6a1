//! Names of hosts in a network rule.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The most bytes of a name, written with dots (RFC 1035 2.3.4, without the root's).
const MAX_NAME_BYTES: usize = 253;
/// The most bytes between two dots (RFC 1035 2.3.4).
const MAX_LABEL_BYTES: usize = 63;
/// What stands before a name that is meant with all below it, and not itself.
const BELOW: &str = "*.";

/// A host's name, or all names below one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    is_below: bool,
    /// In lower case, without a dot at its end.
    name: Box<str>,
}

impl HostPattern {
    /// Whether a host is meant, of a name as [`host_name`] gives it.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        if !self.is_below {
            return host == &*self.name;
        }
        host.strip_suffix(&*self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_below, name) = match text.strip_prefix(BELOW) {
            Some(name) => (true, name),
            None => (false, text),
        };
        match host_name(name) {
            Some(name) => Ok(Self { is_below, name: name.into() }),
            None => Err("a host's name such as api.example.com, or *.example.com for all below it"
                .to_owned()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.is_below { BELOW } else { "" };
        write!(f, "{below}{}", self.name)
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A host's name as it is compared: names differ neither by case (RFC 4343) nor by the dot of the root. None if it is
/// none.
#[must_use]
pub fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    let is_label =
        |label: &str| (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.bytes().all(is_plain);
    let is_name = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label);
    // Digits and dots alone are an address, or look like one.
    let is_address = name.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    (is_name && !is_address).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_itself_and_a_star_all_below() {
        let one: HostPattern = "API.Example.com.".parse().unwrap();
        assert_eq!(one.to_string(), "api.example.com");
        assert!(one.matches("api.example.com"));
        for other in ["example.com", "x.api.example.com", "api.example.co", "xapi.example.com"] {
            assert!(!one.matches(other), "{other}");
        }
        let below: HostPattern = "*.example.com".parse().unwrap();
        assert_eq!(below.to_string(), "*.example.com");
        for host in ["a.example.com", "a.b.example.com"] {
            assert!(below.matches(host), "{host}");
        }
        for host in ["example.com", ".example.com", "badexample.com", "example.com.evil.org"] {
            assert!(!below.matches(host), "{host}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let longer = format!("{0}.{0}.{0}.{0}.b", "a".repeat(63));
        for text in [
            "",
            ".",
            "*",
            "*.",
            "a..b",
            "*.*.a",
            "a.*.b",
            "a b",
            "a/b",
            "192.0.2.1",
            "1",
            "ä.example",
            "2001:db8::1",
            ".a",
            &long,
            &longer,
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text:?}");
        }
        assert!("_srv.a-b.example".parse::<HostPattern>().is_ok());
        assert!("db".parse::<HostPattern>().is_ok());
    }
}
