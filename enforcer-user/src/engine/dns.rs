//! Messages to and from name servers, read: which host is asked for, and which addresses it has.

use std::net::IpAddr;

use domain::base::Message;
use domain::base::iana::{Class, Opcode, Rcode};
use domain::rdata::{A, Aaaa};

use crate::policy::network::host_name;

/// The most addresses that one answer may tell; a datagram of 1,500 bytes holds fewer.
const MAX_ADDRESSES: usize = 128;

/// A question for a host, or the answer to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// What tells one question of a resolver from another (RFC 1035 4.1.1).
    pub id: u16,
    /// The name that is asked for, as [`host_name`] gives it.
    pub host: String,
    /// The host's addresses, each with the seconds for which it may be kept; none in a question, and in an answer that
    /// tells none.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// Reads a message (RFC 1035 4.1) with one question for a host. What counts are the addresses at the end of the chain of
/// aliases that begins with the name asked for. None if it is another message.
#[must_use]
pub fn read(message: &[u8]) -> Option<Lookup> {
    let message = Message::from_octets(message).ok()?;
    let header = message.header();
    let question = message.sole_question().ok()?;
    if header.opcode() != Opcode::QUERY || question.qclass() != Class::IN {
        return None;
    }
    let host = host_name(&question.qname().to_string())?;
    let has_answer = header.qr() && header.rcode() == Rcode::NOERROR;
    let addresses = if has_answer { addresses(&message).unwrap_or_default() } else { Vec::new() };
    Some(Lookup { id: header.id(), host, addresses })
}

fn addresses(message: &Message<&[u8]>) -> Option<Vec<(IpAddr, u32)>> {
    let owner = message.canonical_name()?;
    let section = message.answer().ok()?;
    let v4 = section.limit_to_in::<A>().flatten().filter(|record| *record.owner() == owner);
    let v6 = section.limit_to_in::<Aaaa>().flatten().filter(|record| *record.owner() == owner);
    let v4 = v4.map(|record| (IpAddr::V4(record.data().addr()), record.ttl().as_secs()));
    let v6 = v6.map(|record| (IpAddr::V6(record.data().addr()), record.ttl().as_secs()));
    let all = v4.chain(v6).map(|(address, seconds)| (address.to_canonical(), seconds));
    Some(all.filter(|(address, _)| is_elsewhere(*address)).take(MAX_ADDRESSES).collect())
}

/// Whether a host on another link may have the address: a name opens neither the node itself nor what answers on a link
/// to everybody, such as a cloud's metadata.
fn is_elsewhere(address: IpAddr) -> bool {
    let is_near = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(is_near || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}
