//! BPF_PROG_TEST_RUN: the nanoseconds of one program on one packet, net of an empty program.

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use aya_obj::generated::{BPF_F_TEST_XDP_LIVE_FRAMES, bpf_cmd, bpf_prog_type};
use serde::Serialize;

use super::bpf::{self, insn, zeroed};
use super::figures::Spread;
use super::program::info;
use super::stage::Stage;
use crate::host::Host;
use crate::tcp::{PATIENCE, Server, Service, dial};
use crate::topology::INTERFACE;

/// Runs of one batch.
pub(super) const REPEAT: u32 = 100_000;
/// Bytes of `struct __sk_buff`, as far as it is given: up to and with `ifindex`.
pub(super) const CONTEXT_BYTES: usize = 44;
/// Offset of `ifindex` in it.
const IFINDEX_AT: usize = 40;
/// TC_ACT_SHOT.
pub(super) const SHOT: u32 = 2;

/// Nanoseconds a packet, over batches; those of an empty program are taken off.
#[derive(Debug, Clone, Serialize)]
pub struct TestRuns {
    /// `from_workload` on a data segment of an established flow.
    pub from_workload: Spread,
    /// `to_workload` on one of the other direction.
    pub to_workload: Spread,
    /// The empty program.
    pub empty: Spread,
}

/// Opens a connection on the stage and runs the client's programs on its packets.
pub fn established(stage: &Stage, port: u16, batches: u32) -> Result<TestRuns> {
    let _server = Server::start(&stage.net.server, port, &Service::Echo)?;
    let client = &stage.net.client;
    let stream = dial(client, stage.at(port), PATIENCE)?.stream()?;
    confirm(&stream)?;
    let packet = Packet::of(stage, stream.local_addr()?.port(), port)?;
    let (out, back) = (packet.frame(), packet.reversed().frame());
    let [daemon, _] = stage.daemons()?;
    let (from, to) = (info(daemon, "from_workload")?.fd()?, info(daemon, "to_workload")?.fd()?);
    let empty = Returning::in_tc().load()?;
    client.run(|| {
        let context = context()?;
        let mut columns = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..batches {
            let nothing = f64::from(run(empty.as_fd(), &out, &context)?.nanoseconds);
            columns[2].push(nothing);
            for (column, (program, frame)) in
                columns.iter_mut().zip([(from.as_fd(), &out), (to.as_fd(), &back)])
            {
                let ran = run(program, frame, &context)?;
                ensure!(ran.action != SHOT, "a packet of an established flow was dropped");
                column.push(f64::from(ran.nanoseconds) - nothing);
            }
        }
        let [from_workload, to_workload, empty] = columns.map(Spread::of);
        Ok(TestRuns { from_workload, to_workload, empty })
    })
}

/// A byte there and back: after it the flow is established at both ends.
fn confirm(mut stream: &std::net::TcpStream) -> Result<()> {
    use io::{Read, Write};
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte).context("no echo")
}

/// A data segment of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    macs: [[u8; 6]; 2],
    addresses: [Ipv4Addr; 2],
    ports: [u16; 2],
}

impl Packet {
    pub(super) fn of(stage: &Stage, client_port: u16, server_port: u16) -> Result<Self> {
        let net = &stage.net;
        let v4 = |host: &Host| match host.address(crate::host::Family::V4) {
            std::net::IpAddr::V4(address) => Ok(address),
            std::net::IpAddr::V6(address) => bail!("{address} is not of IPv4"),
        };
        Ok(Self {
            macs: [mac(&net.client)?, mac(&net.server)?],
            addresses: [v4(&net.client)?, v4(&net.server)?],
            ports: [client_port, server_port],
        })
    }

    fn reversed(mut self) -> Self {
        self.macs.reverse();
        self.addresses.reverse();
        self.ports.reverse();
        self
    }

    /// Ethernet, IPv4, TCP with the timestamp option that Linux sends, 64 bytes of payload. Checksums are
    /// left out: the programs do not read them.
    fn frame(&self) -> Vec<u8> {
        const PAYLOAD: usize = 64;
        const IP: usize = 20;
        const TCP: usize = 32;
        let mut frame = Vec::with_capacity(14 + IP + TCP + PAYLOAD);
        frame.extend(self.macs[1]);
        frame.extend(self.macs[0]);
        frame.extend([0x08, 0x00, 0x45, 0x00]);
        frame.extend(u16::try_from(IP + TCP + PAYLOAD).unwrap_or(u16::MAX).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(self.addresses.iter().flat_map(Ipv4Addr::octets));
        frame.extend(self.ports.iter().flat_map(|port| port.to_be_bytes()));
        frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 0x01, 0, 0, 0, 0, 0]);
        frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
        frame.resize(frame.len() + PAYLOAD, b'x');
        frame
    }
}

fn mac(host: &Host) -> Result<[u8; 6]> {
    let text = host.ip(&format!("link show {INTERFACE}"))?;
    let written = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let bytes = written.and_then(|mac| {
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<Vec<_>>>()
    });
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .with_context(|| format!("{INTERFACE} of {} has no link address: {text}", host.label()))
}

/// A `struct xdp_md` that says the same of a frame of some length.
pub(super) fn xdp_context(length: usize) -> Result<[u8; 24]> {
    /// Offset of `data_end` in it.
    const END_AT: usize = 4;
    /// Offset of `ingress_ifindex`.
    const INGRESS_AT: usize = 12;
    let mut context = [0; 24];
    context[END_AT..][..4].copy_from_slice(&u32::try_from(length)?.to_ne_bytes());
    context[INGRESS_AT..][..4].copy_from_slice(&ifindex()?.to_ne_bytes());
    Ok(context)
}

/// The start of a `struct __sk_buff` that says on which interface of this namespace the packet is.
pub(super) fn context() -> Result<[u8; CONTEXT_BYTES]> {
    let mut context = [0; CONTEXT_BYTES];
    context[IFINDEX_AT..].copy_from_slice(&ifindex()?.to_ne_bytes());
    Ok(context)
}

fn ifindex() -> Result<u32> {
    let name = CString::new(INTERFACE)?;
    // SAFETY: a string that ends in zero and outlives the call.
    let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(ifindex > 0, "no interface {INTERFACE} here: {}", io::Error::last_os_error());
    Ok(ifindex)
}

/// What came of a batch.
pub(super) struct Ran {
    pub(super) action: u32,
    /// The mean of one run.
    pub(super) nanoseconds: u32,
}

/// Runs a program on a frame, over and over.
pub(super) fn run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8]) -> Result<Ran> {
    run_as(program, frame, context, 0)
}

/// The same of an XDP program as a driver's poll loop would, with a fresh frame each time: what it lets pass goes
/// into the stack (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18, commit b530e9e1063e).
pub(super) fn run_live(program: BorrowedFd<'_>, frame: &[u8], context: &[u8]) -> Result<Ran> {
    run_as(program, frame, context, BPF_F_TEST_XDP_LIVE_FRAMES)
}

fn run_as(program: BorrowedFd<'_>, frame: &[u8], context: &[u8], flags: u32) -> Result<Ran> {
    let mut attr = zeroed();
    // SAFETY: this is the union's member for BPF_PROG_TEST_RUN, and all of it is zeroed.
    let test = unsafe { &mut attr.test };
    test.prog_fd = u32::try_from(program.as_raw_fd())?;
    test.data_in = frame.as_ptr() as u64;
    test.data_size_in = u32::try_from(frame.len())?;
    test.ctx_in = context.as_ptr() as u64;
    test.ctx_size_in = u32::try_from(context.len())?;
    test.repeat = REPEAT;
    test.flags = flags;
    bpf::bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).context("test run")?;
    // SAFETY: the kernel has filled in this member.
    let test = unsafe { &attr.test };
    Ok(Ran { action: test.retval, nanoseconds: test.duration })
}

/// A program that does nothing but return a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Returning {
    kind: bpf_prog_type,
    value: i32,
}

impl Returning {
    /// Of TC, zero: it goes on.
    pub(super) const fn in_tc() -> Self {
        Self { kind: bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, value: 0 }
    }

    /// Of XDP, `XDP_PASS`.
    pub(super) const fn in_xdp() -> Self {
        Self { kind: bpf_prog_type::BPF_PROG_TYPE_XDP, value: 2 }
    }

    /// Loads it.
    pub(super) fn load(self) -> Result<OwnedFd> {
        // BPF_ALU64 | BPF_MOV | BPF_K, and BPF_JMP | BPF_EXIT.
        bpf::load(self.kind, &[insn(0xb7, 0, 0, 0, self.value), insn(0x95, 0, 0, 0, 0)])
    }
}
