//! As much of the kernel's routing socket as the edge needs: what an interface is, and the parts of
//! traffic control that aya leaves out (rtnetlink(7); `<linux/rtnetlink.h>`, `<linux/pkt_sched.h>`).

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::error::DatapathError;

const HEADER_BYTES: usize = 16;
const IFINFO_BYTES: usize = 16;
const TCMSG_BYTES: usize = 20;
const ATTRIBUTE_BYTES: usize = 4;
/// Bits of an attribute's type that are its number (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// Receive buffer: the kernel never sends a longer datagram than the reader offers, up to 32 KiB.
pub(super) const BUFFER_BYTES: usize = 32_768;
/// The most datagrams of one answer.
const MAX_DATAGRAMS: usize = 4096;

const IFLA_INFO_KIND: u16 = 1;
/// Within `IFLA_XDP`: how its program is attached, and the number of the program.
const IFLA_XDP_ATTACHED: u16 = 2;
/// See [`IFLA_XDP_ATTACHED`].
const IFLA_XDP_PROG_ID: u16 = 4;
/// `XDP_ATTACHED_SKB` (`<linux/if_link.h>`).
const XDP_ATTACHED_SKB: u8 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
/// Every protocol (`<linux/if_ether.h>`).
const ETH_P_ALL: u16 = 3;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// `TC_H_CLSACT`, as the parent of the qdisc itself.
const CLSACT_PARENT: u32 = 0xffff_fff1;
/// The qdisc's own handle.
const CLSACT_HANDLE: u32 = 0xffff_0000;

/// Parents of the filters of the two hooks (`TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_…)`).
pub(super) const INGRESS_PARENT: u32 = 0xffff_fff2;
/// See [`INGRESS_PARENT`].
pub(super) const EGRESS_PARENT: u32 = 0xffff_fff3;

/// What the kernel says about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its kind (`veth`, `macvlan`, …); none for physical ones and `lo`.
    pub kind: Option<String>,
    /// Its link address, if it is an Ethernet one.
    pub mac: Option<[u8; 6]>,
    /// Number of its XDP program.
    pub xdp: Option<u32>,
    /// Whether that one runs behind the driver.
    pub xdp_is_generic: bool,
}

/// A filter of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// Lower comes first.
    pub(super) priority: u16,
    /// Number within the priority.
    pub(super) handle: u32,
    /// Name that a BPF classifier carries.
    pub(super) name: Option<String>,
    /// Number of its program.
    pub(super) program_id: Option<u32>,
}

/// The interface of this name, in the network namespace of the calling thread; `None` if there is
/// none.
pub fn link(name: &str) -> Result<Option<LinkFacts>, DatapathError> {
    let mut body = ifinfo(0, 0, 0);
    attribute(&mut body, libc::IFLA_IFNAME, &zero_ended(name));
    match request(libc::RTM_GETLINK, 0, &body) {
        Ok(answers) => Ok(answers.iter().find_map(|answer| read_link(&answer.body))),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(netlink_error(format!("read interface {name}"), e)),
    }
}

/// The interface of this number, in the network namespace of the calling thread; `None` if there is
/// none.
pub(super) fn link_of(ifindex: u32) -> Result<Option<LinkFacts>, DatapathError> {
    match request(libc::RTM_GETLINK, 0, &ifinfo(ifindex, 0, 0)) {
        Ok(answers) => Ok(answers.iter().find_map(|answer| read_link(&answer.body))),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(netlink_error(format!("read interface {ifindex}"), e)),
    }
}

/// Whether there is an interface of this number in the network namespace of the calling thread.
pub(super) fn exists(ifindex: u32) -> Result<bool, DatapathError> {
    Ok(link_of(ifindex)?.is_some())
}

/// Brings an interface up, without link-local addresses and ARP.
pub(super) fn raise_helper(ifindex: u32) -> Result<(), DatapathError> {
    let mut inet6 = Vec::new();
    attribute(&mut inet6, IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
    let mut families = Vec::new();
    attribute(&mut families, u16::try_from(libc::AF_INET6).unwrap_or(0), &inet6);
    let mut body = ifinfo(ifindex, 0, 0);
    attribute(&mut body, libc::IFLA_AF_SPEC, &families);
    match request(libc::RTM_SETLINK, 0, &body) {
        // A kernel without IPv6 has nothing to switch off.
        Err(e) if e.raw_os_error() != Some(libc::EAFNOSUPPORT) => {
            return Err(netlink_error(format!("set up interface {ifindex}"), e));
        }
        _ => {}
    }
    let flags = (libc::IFF_UP | libc::IFF_NOARP).cast_unsigned();
    request(libc::RTM_SETLINK, 0, &ifinfo(ifindex, flags, flags))
        .map(drop)
        .map_err(|e| netlink_error(format!("raise interface {ifindex}"), e))
}

/// The filters of a hook in the order in which they run; none where there is no qdisc.
pub(super) fn filters(ifindex: u32, parent: u32) -> Result<Vec<Filter>, DatapathError> {
    let body = tcmsg(ifindex, 0, parent);
    let answers = match request(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, &body) {
        Ok(answers) => answers,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(netlink_error(format!("list filters of interface {ifindex}"), e)),
    };
    let mut filters: Vec<Filter> =
        answers.iter().filter_map(|answer| read_filter(&answer.body)).collect();
    filters.sort_by_key(|filter| filter.priority);
    Ok(filters)
}

/// Removes a filter; `false` if it was not there.
pub(super) fn remove_filter(
    ifindex: u32,
    parent: u32,
    priority: u16,
    handle: u32,
) -> Result<bool, DatapathError> {
    let mut body = tcmsg(ifindex, handle, parent);
    let protocol = ETH_P_ALL.to_be();
    let info = u32::from(priority) << 16 | u32::from(protocol);
    body.truncate(TCMSG_BYTES - 4);
    body.extend(info.to_ne_bytes());
    match request(libc::RTM_DELTFILTER, 0, &body) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(netlink_error(format!("remove a filter of interface {ifindex}"), e)),
    }
}

/// Whether the interface has a clsact qdisc.
pub(super) fn has_clsact(ifindex: u32) -> Result<bool, DatapathError> {
    let answers = request(libc::RTM_GETQDISC, libc::NLM_F_DUMP, &tcmsg(ifindex, 0, 0))
        .map_err(|e| netlink_error("list qdiscs".to_owned(), e))?;
    Ok(answers.iter().any(|answer| {
        let kind = find(answer.body.get(TCMSG_BYTES..).unwrap_or_default(), TCA_KIND);
        let index = read_u32(&answer.body, 4);
        index == Some(ifindex) && kind.map(text).as_deref() == Some("clsact")
    }))
}

/// Removes the clsact qdisc, and with it every filter; `false` if there was none.
pub(super) fn remove_clsact(ifindex: u32) -> Result<bool, DatapathError> {
    let mut body = tcmsg(ifindex, CLSACT_HANDLE, CLSACT_PARENT);
    attribute(&mut body, TCA_KIND, b"clsact\0");
    match request(libc::RTM_DELQDISC, 0, &body) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => {
            Ok(false)
        }
        Err(e) => Err(netlink_error(format!("remove clsact of interface {ifindex}"), e)),
    }
}

/// A note of the kernel's about an interface.
#[derive(Debug)]
pub(super) struct Note {
    /// The interface's number.
    pub(super) ifindex: u32,
    /// Whether it is about qdiscs or filters.
    pub(super) filters: bool,
    /// What the interface is, if the note tells.
    pub(super) link: Option<LinkFacts>,
}

/// The notes of a datagram. The interface's number stands at the same place in `ifinfomsg`, `ifaddrmsg` and
/// `tcmsg`.
pub(super) fn notes(datagram: &[u8]) -> io::Result<Vec<Note>> {
    let notes = split(datagram)?.into_iter().filter_map(|note| {
        let is_link = matches!(note.kind, libc::RTM_NEWLINK | libc::RTM_DELLINK);
        Some(Note {
            ifindex: read_u32(&note.body, 4)?,
            filters: note.kind >= libc::RTM_NEWQDISC,
            link: is_link.then(|| read_link(&note.body)).flatten(),
        })
    });
    Ok(notes.collect())
}

struct Answer {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

fn netlink_error(action: String, source: io::Error) -> DatapathError {
    DatapathError::Netlink { action, source }
}

/// Sends one request and reads all of its answer.
fn request(kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<Answer>> {
    let family = AddressFamily::Netlink;
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut socket = File::from(socket);
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags;
    socket.write_all(&message(kind, u16::try_from(flags).map_err(io::Error::other)?, body))?;
    let mut answers = Vec::new();
    let mut buffer = vec![0u8; BUFFER_BYTES];
    for _ in 0..MAX_DATAGRAMS {
        let length = socket.read(&mut buffer)?;
        for answer in split(buffer.get(..length).unwrap_or_default())? {
            match i32::from(answer.kind) {
                libc::NLMSG_ERROR => return finish(&answer.body, answers),
                libc::NLMSG_DONE => return Ok(answers),
                _ if i32::from(answer.flags) & libc::NLM_F_DUMP_INTR != 0 => {
                    return Err(io::Error::from_raw_os_error(libc::EINTR));
                }
                _ => answers.push(answer),
            }
        }
    }
    Err(io::Error::other("the answer does not end"))
}

/// An error of 0 is the acknowledgement.
fn finish(body: &[u8], answers: Vec<Answer>) -> io::Result<Vec<Answer>> {
    match read_u32(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(answers),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::other("a truncated answer")),
    }
}

/// ```text
/// struct nlmsghdr, native order: length(4) type(2) flags(2) sequence(4) port(4)
/// ```
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn split(mut bytes: &[u8]) -> io::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let length = read_u32(bytes, 0).unwrap_or(0) as usize;
        let body = bytes.get(HEADER_BYTES..length);
        let body = body.ok_or_else(|| io::Error::other("a malformed answer"))?.to_vec();
        let kind = read_u16(bytes, 4).unwrap_or(0);
        answers.push(Answer { kind, flags: read_u16(bytes, 6).unwrap_or(0), body });
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(answers)
}

/// ```text
/// struct ifinfomsg: family(1) pad(1) type(2) index(4) flags(4) change mask(4)
/// ```
fn ifinfo(ifindex: u32, flags: u32, change: u32) -> Vec<u8> {
    let words = [0, ifindex, flags, change];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// ```text
/// struct tcmsg: family(1) pad(3) index(4) handle(4) parent(4) info(4)
/// ```
fn tcmsg(ifindex: u32, handle: u32, parent: u32) -> Vec<u8> {
    let words = [0, ifindex, handle, parent, 0];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// ```text
/// struct nlattr: length(2), header included, type(2), value, padded to 4
/// ```
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(bytes.len()), 0);
}

fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while bytes.len() >= ATTRIBUTE_BYTES {
        let length = usize::from(read_u16(bytes, 0)?);
        let value = bytes.get(ATTRIBUTE_BYTES..length)?;
        if read_u16(bytes, 2)? & TYPE_MASK == kind {
            return Some(value);
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    None
}

fn read_link(body: &[u8]) -> Option<LinkFacts> {
    let attributes = body.get(IFINFO_BYTES..)?;
    let info = find(attributes, libc::IFLA_LINKINFO).unwrap_or_default();
    let xdp = find(attributes, libc::IFLA_XDP).unwrap_or_default();
    Some(LinkFacts {
        ifindex: read_u32(body, 4)?,
        name: text(find(attributes, libc::IFLA_IFNAME)?),
        kind: find(info, IFLA_INFO_KIND).map(text),
        mac: find(attributes, libc::IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        xdp: find(xdp, IFLA_XDP_PROG_ID).and_then(|id| read_u32(id, 0)),
        xdp_is_generic: find(xdp, IFLA_XDP_ATTACHED) == Some(&[XDP_ATTACHED_SKB]),
    })
}

fn read_filter(body: &[u8]) -> Option<Filter> {
    let handle = read_u32(body, 8)?;
    let info = read_u32(body, 16)?;
    let options = find(body.get(TCMSG_BYTES..)?, TCA_OPTIONS);
    // A filter without options is only the head of its priority's chain.
    let options = options?;
    let priority = u16::try_from(info >> 16).unwrap_or(u16::MAX);
    let name = find(options, TCA_BPF_NAME).map(text);
    let program_id = find(options, TCA_BPF_ID).and_then(|bytes| read_u32(bytes, 0));
    Some(Filter { priority, handle, name, program_id })
}

fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn zero_ended(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_loopback_interface_is_found_and_a_missing_one_is_none() {
        let lo = link("lo").unwrap().unwrap();
        assert_eq!((lo.ifindex, lo.name.as_str(), lo.kind), (1, "lo", None));
        assert_eq!(lo.mac, Some([0; 6]));
        assert_eq!(link("no-such-device").unwrap(), None);
    }

    #[test]
    fn attributes_read_back_through_their_padding() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 3, b"a\0");
        attribute(&mut bytes, 0x8000 | 4, &[1, 2, 3, 4, 5]);
        assert_eq!(bytes.len(), 8 + 12);
        assert_eq!(find(&bytes, 3).map(text).as_deref(), Some("a"));
        assert_eq!(find(&bytes, 4), Some(&[1, 2, 3, 4, 5][..]));
        assert_eq!(find(&bytes, 5), None);
    }

    #[test]
    fn a_refusal_carries_its_number() {
        let error = finish(&(-libc::EPERM).to_ne_bytes(), Vec::new()).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(finish(&0i32.to_ne_bytes(), Vec::new()).is_ok());
        assert!(finish(&[0], Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn answers_of_any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = split(&bytes);
            let _ = notes(&bytes);
            let _ = read_link(&bytes);
            let _ = read_filter(&bytes);
            let _ = find(&bytes, 1);
        }
    }
}
