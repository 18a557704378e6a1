//! S1 and S2 of a remote workload, as the kernel hands them over.

use anyhow::{Context, Result};
use enforcer_common::abi::{FlowKey, Handle, direction, mapped};
use enforcer_common::wire::checksum::transport;
use enforcer_common::wire::frame::{protocol, tcp_flags};
use enforcer_common::wire::option::{HandshakeOption, OPTION_BYTES};
use enforcer_common::wire::prefix::PREFIX_BYTES;
use enforcer_user::engine::HeldFrame;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const TCP_BYTES: usize = 20;

/// What the handshake adds to the segments of one connection, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// By who calls: S1 and S3.
    pub caller: usize,
    /// By who is called: S2.
    pub callee: usize,
}

impl Added {
    /// With credentials of these sizes.
    pub fn of(caller: usize, callee: usize) -> Self {
        Self { caller: 2 * OPTION_BYTES + caller, callee: OPTION_BYTES + PREFIX_BYTES + callee }
    }
}

/// A handshake as the node's workload sees it.
#[derive(Debug, Clone, Copy)]
pub struct Contact<'a> {
    /// The node's workload calls; then S2 is what arrives, else S1.
    pub outgoing: bool,
    /// Id of the node's workload.
    pub workload: u16,
    /// Its address.
    pub local: [u8; 4],
    /// The other's.
    pub remote: [u8; 4],
    /// The server's port.
    pub port: u16,
    /// The client's port.
    pub client_port: u16,
    /// Sequence number of the segment that arrives.
    pub sequence: u32,
    /// Handle of the local credential.
    pub local_handle: Handle,
    /// The other's credential.
    pub credential: &'a [u8],
}

impl Contact<'_> {
    /// The tuple from the workload's side.
    pub fn key(&self) -> FlowKey {
        let (local_port, remote_port) = self.ports();
        FlowKey {
            workload: self.workload,
            protocol: protocol::TCP,
            zero: 0,
            local_port,
            remote_port,
            local: mapped(self.local),
            remote: mapped(self.remote),
        }
    }

    /// One of [`direction`].
    pub fn direction(&self) -> u8 {
        if self.outgoing { direction::EGRESS } else { direction::INGRESS }
    }

    /// The held segment. `peer` is the id of an identity that the kernel knows, else 0.
    pub fn held(&self, peer: u64, time_ns: u64) -> Result<HeldFrame> {
        Ok(HeldFrame {
            ifindex: 2 + u32::from(self.workload),
            host_side: true,
            time_ns,
            key: self.key(),
            local_handle: self.local_handle,
            peer,
            port: self.port,
            direction: self.direction(),
            transport_offset: u16::try_from(ETHERNET_BYTES + IPV4_BYTES)?,
            frame: self.frame()?,
        })
    }

    fn ports(&self) -> (u16, u16) {
        let (client, server) = (self.client_port, self.port);
        if self.outgoing { (client, server) } else { (server, client) }
    }

    fn frame(&self) -> Result<Vec<u8>> {
        let tcp = self.tcp()?;
        let mut frame = vec![2; 12];
        // IPv4, no options, do not fragment, TTL 64; the kernel's parser reads no header checksum.
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(IPV4_BYTES + tcp.len())?.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
        frame.extend(self.remote);
        frame.extend(self.local);
        frame.extend(tcp);
        Ok(frame)
    }

    fn tcp(&self) -> Result<Vec<u8>> {
        let hash = blake3::hash(self.credential);
        let handle: Handle = *hash.as_bytes().first_chunk().context("a hash has 8 bytes")?;
        let option = HandshakeOption::hello(handle, [9; 8]);
        let (local_port, remote_port) = self.ports();
        let (flags, acknowledged) = if self.outgoing {
            (tcp_flags::SYN | tcp_flags::ACK, 1_u32)
        } else {
            (tcp_flags::SYN, 0)
        };
        let words = u8::try_from((TCP_BYTES + OPTION_BYTES) / 4)?;
        let mut tcp = Vec::with_capacity(TCP_BYTES + OPTION_BYTES + self.credential.len());
        tcp.extend(remote_port.to_be_bytes());
        tcp.extend(local_port.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(acknowledged.to_be_bytes());
        tcp.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(option.head);
        tcp.extend(option.body);
        if self.outgoing {
            // The MAC is the kernel's to check, and it knows no key yet.
            tcp.extend([0; 16]);
            tcp.extend(mapped(self.remote));
            tcp.extend(self.port.to_be_bytes());
        }
        tcp.extend(self.credential);
        let sum = transport(&self.remote, &self.local, protocol::TCP, &tcp);
        tcp.get_mut(16..18).context("a TCP header has a checksum")?.copy_from_slice(&sum);
        Ok(tcp)
    }
}

#[cfg(test)]
mod tests {
    use enforcer_user::engine::segment::{self, Step};

    use super::*;

    #[test]
    fn the_engine_reads_what_is_held() {
        for (outgoing, step) in [(false, Step::Call), (true, Step::Answer)] {
            let contact = Contact {
                outgoing,
                workload: 3,
                local: [10, 0, 0, 1],
                remote: [10, 0, 1, 1],
                port: 80,
                client_port: 40_000,
                sequence: 5,
                local_handle: [1; 8],
                credential: &[7; 600],
            };
            let held = contact.held(0, 1).unwrap();
            let read = segment::read(&held.frame).unwrap();
            assert_eq!((read.step, read.port), (step, 80));
            assert_eq!(&held.frame[read.credential], [7; 600]);
            assert_eq!(step.direction(), held.direction);
            // What the frame has beside the headers and the callee's or caller's own option is what is added.
            let beside = held.frame.len() - ETHERNET_BYTES - IPV4_BYTES - TCP_BYTES;
            let added = Added::of(600, 600);
            assert_eq!(beside, if outgoing { added.callee } else { added.caller - OPTION_BYTES });
        }
    }
}
