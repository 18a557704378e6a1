//! Ports: what is asked for, and what rules name.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::cluster::Peer;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// The default wherever a manifest names none.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port that a connection goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Never 0.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Port {
    type Err = String;

    /// `80/TCP`; without a protocol it is TCP.
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err(format!("protocol {protocol:?}: expected TCP, UDP or SCTP")),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Self { number, protocol }),
            _ => Err(format!("port {number:?}: expected a number from 1 to 65535, as in 80/TCP")),
        }
    }
}

/// A container's port with a name.
#[derive(Debug, Clone)]
pub(super) struct NamedPort {
    pub(super) name: String,
    pub(super) port: Port,
}

/// The ports of one entry of a rule.
#[derive(Debug, Clone)]
pub(super) struct PortMatch {
    /// None is any, which only a named port may have.
    pub(super) protocol: Option<Protocol>,
    pub(super) ports: Ports,
}

#[derive(Debug, Clone)]
pub(super) enum Ports {
    All,
    /// From the first to the last.
    Range(u16, u16),
    /// Whatever number the destination's containers give this name.
    Named(String),
}

impl PortMatch {
    /// Whether a connection to `port` of `destination` is meant.
    pub(super) fn holds(&self, port: Port, destination: Peer<'_>) -> bool {
        if self.protocol.is_some_and(|protocol| protocol != port.protocol) {
            return false;
        }
        match &self.ports {
            Ports::All => true,
            Ports::Range(first, last) => (*first..=*last).contains(&port.number),
            Ports::Named(name) => destination
                .named_ports()
                .iter()
                .any(|named| named.name == *name && named.port == port),
        }
    }
}

/// A port's number.
pub(super) fn number(value: i64) -> Result<u16, String> {
    match u16::try_from(value) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("port {value}: expected 1 to 65535")),
    }
}

/// A port's name, as a service's (RFC 6335 5.1).
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let bytes = name.as_bytes();
    let all = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    let edges = [bytes.first(), bytes.last()].into_iter().all(|b| b.is_some_and(|b| *b != b'-'));
    let letter = bytes.iter().any(u8::is_ascii_lowercase);
    if all && edges && letter && !name.contains("--") && name.len() <= 15 {
        return Ok(());
    }
    Err(format!(
        "port name {name:?}: expected at most 15 lower-case letters, digits and single '-', with a letter"
    ))
}
