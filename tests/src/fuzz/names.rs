//! Messages of name servers.

use std::net::IpAddr;

use enforcer_user::engine::dns::{Lookup, read};
use enforcer_user::policy::network::host_name;

use super::feed::Feed;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
/// A response without an error, and a question (RFC 1035 4.1.1).
const ANSWER: u16 = 0x8180;
const QUESTION: u16 = 0x0100;
/// The most aliases that are followed.
const MAX_ALIASES: u8 = 8;

/// `data` is a message as it comes; and its bytes are a host, its aliases and addresses that are read as they were
/// written.
pub fn run(data: &[u8]) {
    if let Some(lookup) = read(data) {
        assert_eq!(data[..2], lookup.id.to_be_bytes());
        assert_eq!(host_name(&lookup.host).as_ref(), Some(&lookup.host));
        assert!(lookup.addresses.len() <= data.len() / 14, "a record takes more: {lookup:?}");
        assert!(data[2] & 0x80 != 0 || lookup.addresses.is_empty(), "a question tells nothing");
    }
    reads_back(Feed::new(data));
}

fn reads_back(mut feed: Feed<'_>) {
    let is_answer = feed.flag();
    let mut expected = Lookup { id: feed.u16(), host: host(&mut feed), addresses: Vec::new() };
    let mut owner = expected.host.clone();
    let mut records = Vec::new();
    for _ in 0..feed.byte() % MAX_ALIASES {
        let alias = host(&mut feed);
        // A chain that comes back to a name leads nowhere, and is tested as it comes.
        if alias == owner
            || records.iter().any(|record: &Vec<u8>| record.starts_with(&name(&alias)))
        {
            break;
        }
        records.push(record(&owner, TYPE_CNAME, 60, &name(&alias)));
        owner = alias;
    }
    for _ in 0..feed.byte() % 8 {
        let (ttl, is_v4, is_stray) = (feed.u32() >> 1, feed.flag(), feed.flag());
        let address: IpAddr =
            if is_v4 { feed.array::<4>().into() } else { global(feed.array()).into() };
        let stray = format!("stray.{owner}");
        let data = match address {
            IpAddr::V4(v4) => (TYPE_A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (TYPE_AAAA, v6.octets().to_vec()),
        };
        records.push(record(if is_stray { &stray } else { &owner }, data.0, ttl, &data.1));
        if is_answer && !is_stray && is_elsewhere(address) {
            expected.addresses.push((address, ttl));
        }
    }
    let flags = if is_answer { ANSWER } else { QUESTION };
    let mut message = expected.id.to_be_bytes().to_vec();
    message.extend(flags.to_be_bytes());
    message.extend([0, 1]);
    message.extend(u16::try_from(records.len()).expect("a few").to_be_bytes());
    message.extend([0; 4]);
    message.extend(name(&expected.host));
    message.extend([0, 1, 0, 1]);
    message.extend(records.concat());
    expected.addresses.sort_by_key(|(address, _)| address.is_ipv6());
    assert_eq!(read(&message), Some(expected));
}

/// In the part of IPv6 that hosts of other links have (RFC 4291 2.4).
fn global(mut address: [u8; 16]) -> [u8; 16] {
    address[0] = 0x20 | address[0] & 0x1f;
    address
}

fn is_elsewhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_here = v4.is_unspecified() || first == 127 || (first, second) == (169, 254);
            !is_here && !v4.is_multicast() && !v4.is_broadcast()
        }
        IpAddr::V6(_) => true,
    }
}

/// A name of one to three short labels.
fn host(feed: &mut Feed<'_>) -> String {
    let label = |feed: &mut Feed<'_>| format!("h{}", feed.byte() % 16);
    let labels: Vec<String> = (0..=feed.byte() % 3).map(|_| label(feed)).collect();
    labels.join(".")
}

/// On the wire, without compression.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

fn record(owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = name(owner);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
    bytes.extend(data);
    bytes
}
