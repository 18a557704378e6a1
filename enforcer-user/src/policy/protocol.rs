//! IP protocol numbers by the names that policies and rules use.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use super::names::nearest;

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(u8);

const NAMES: [(&str, Protocol); 5] = [
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("icmp", Protocol::ICMP),
    ("icmpv6", Protocol::ICMPV6),
    ("sctp", Protocol::SCTP),
];

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// The protocol with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// The number as it stands in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether its segments carry port numbers that rules may name.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A protocol that is neither a known name nor a number.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "protocol {found:?}: expected tcp, udp, icmp, icmpv6, sctp or a number from 1 to 255{hint}"
)]
pub struct ProtocolError {
    found: String,
    hint: String,
}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        if let Some((_, protocol)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*protocol);
        }
        match text.parse::<u8>() {
            Ok(number) if number != 0 => Ok(Self(number)),
            _ => {
                let lower = text.to_ascii_lowercase();
                let known = || NAMES.iter().map(|(name, _)| *name);
                let near = known().find(|n| *n == lower).or_else(|| nearest(&lower, known()));
                let hint = near.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default();
                Err(ProtocolError { found: text.to_owned(), hint })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_same_protocol() {
        assert_eq!("tcp".parse::<Protocol>().unwrap(), Protocol::TCP);
        assert_eq!("17".parse::<Protocol>().unwrap(), Protocol::UDP);
        assert_eq!("47".parse::<Protocol>().unwrap().to_string(), "47");
    }

    #[test]
    fn a_refused_name_comes_with_the_nearest() {
        let error = "TCP".parse::<Protocol>().unwrap_err().to_string();
        assert!(error.contains("did you mean \"tcp\"?"), "{error}");
        for text in ["0", "256", "", "any "] {
            assert!(text.parse::<Protocol>().is_err(), "{text:?}");
        }
    }
}
