//! Growing and cutting TCP segments, with every length and checksum kept right.
//!
//! One sequence serves skbs whose checksum the stack or NIC still completes (CHECKSUM_PARTIAL: a
//! replace outside the pseudo header does nothing) and skbs that carry a full one: the change of
//! the segment's bytes is gathered in `s.sum` and applied once, then the length of the pseudo
//! header. Whether an skb is PARTIAL need not be known.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace},
};
use core::mem::offset_of;
use enforcer_common::{
    abi::{CredentialValue, DropReason, MAX_CREDENTIAL_BYTES},
    wire::{
        checksum,
        frame::{ETHERNET_BYTES, IPV6_BYTES},
        option::{HandshakeOption, OPTION_BYTES, OPTIONS_MAX},
        prefix::PREFIX_BYTES,
    },
};
use network_types::{ip::Ipv4Hdr, tcp::TcpHdr};

use crate::{
    scratch::Scratch,
    skb::{change_tail, load, store, store_slice, subtract_range},
};

const TCP_SEQUENCE: u32 = offset_of!(TcpHdr, seq) as u32;
const TCP_OFFSET_AND_FLAGS: u32 = offset_of!(TcpHdr, window) as u32 - 2;
/// Offset of the checksum in the TCP header.
pub const TCP_CHECK: u32 = offset_of!(TcpHdr, check) as u32;
const IPV4_TOTAL: u32 = (ETHERNET_BYTES + offset_of!(Ipv4Hdr, tot_len)) as u32;
const IPV4_CHECK: u32 = (ETHERNET_BYTES + offset_of!(Ipv4Hdr, check)) as u32;
const IPV6_PAYLOAD: u32 = ETHERNET_BYTES as u32 + 4;

/// Appends `s.option` to the header of a segment without payload and, if there is a credential,
/// the credential as payload; with `answer`, `s.prefix` stands in front of it.
#[inline(never)]
pub fn stamp(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    credential: &CredentialValue,
    answer: u32,
) -> u32 {
    let sequence = s.packet.sequence;
    match try_stamp(skb, s, sequence, Some(credential), answer != 0) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// Appends `s.option` to the header of a segment without payload, and gives it this sequence number.
#[inline(never)]
pub fn stamp_option(skb: *mut __sk_buff, s: &mut Scratch, sequence: u32) -> u32 {
    match try_stamp(skb, s, sequence, None, false) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_stamp(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    sequence: u32,
    credential: Option<&CredentialValue>,
    answer: bool,
) -> Result<(), DropReason> {
    if s.packet.options() + OPTION_BYTES > OPTIONS_MAX {
        return Err(DropReason::NoOptionRoom);
    }
    let option_at = s.packet.end;
    let payload_at = option_at + OPTION_BYTES as u32;
    let credential_at = if answer { payload_at + PREFIX_BYTES as u32 } else { payload_at };
    let new_end = credential_at + credential.map_or(0, |c| u32::from(c.length));
    change_tail(skb, new_end)?;
    store(skb, option_at, &s.option, 0)?;
    s.sum = option_sum(&s.option);
    if answer {
        // SAFETY: the prefix is plain bytes.
        let bytes: &[u8; PREFIX_BYTES] = unsafe { &*(&raw const s.prefix).cast() };
        store(skb, payload_at, bytes, 0)?;
        s.sum += prefix_sum(s);
    }
    if let Some(c) = credential {
        let length = u32::from(c.length);
        store_slice::<MAX_CREDENTIAL_BYTES>(skb, credential_at, &c.bytes, length)?;
        s.sum += u64::from(c.sum);
    }
    if sequence != s.packet.sequence {
        let (old, new) = (s.packet.sequence.to_be(), sequence.to_be());
        let at = u32::from(s.packet.transport) + TCP_SEQUENCE;
        store(skb, at, &new.to_ne_bytes(), 0)?;
        s.sum += u64::from(new) + u64::from(!old);
        s.packet.sequence = sequence;
    }
    let header = s.packet.tcp_header + OPTION_BYTES as u8;
    let flags = s.packet.flags;
    finish(skb, s, new_end, header, flags)
}

/// Cuts the option and everything behind it; their sum is known: `s.option`, the prefix if
/// `answer`, and `credential_sum`. If the credential is not the one the sum is of, the checksum
/// becomes wrong and the stack drops the segment.
#[inline(never)]
pub fn strip(skb: *mut __sk_buff, s: &mut Scratch, credential_sum: u32, answer: u32) -> u32 {
    if cfg!(feature = "mutate-credential-sum") {
        let kept = u32::from(s.packet.tcp_header) - OPTION_BYTES as u32;
        let flags = u32::from(s.packet.flags);
        return shrink(skb, s, kept, flags);
    }
    let mut removed = option_sum(&s.option) + u64::from(credential_sum);
    if answer != 0 {
        removed += prefix_sum(s);
    }
    let removed = fold32(removed);
    s.sum = u64::from(!removed);
    let header = s.packet.tcp_header - OPTION_BYTES as u8;
    let new_end = u32::from(s.packet.transport) + u32::from(header);
    if let Err(reason) = change_tail(skb, new_end) {
        return reason as u32;
    }
    // For CHECKSUM_COMPLETE: the trim took the bytes out of skb->csum, and the checksum field is
    // about to grow by the same amount without a counterpart in the packet. Fails elsewhere.
    // SAFETY: a helper on the program's context.
    unsafe { bpf_csum_update(skb, removed) };
    let flags = s.packet.flags;
    match finish(skb, s, new_end, header, flags) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// Cuts everything behind the first `header` bytes of the TCP header and sets the flags.
#[inline(never)]
pub fn shrink(skb: *mut __sk_buff, s: &mut Scratch, header: u32, flags: u32) -> u32 {
    let new_end = u32::from(s.packet.transport) + header;
    let end = s.packet.end;
    s.sum = 0;
    if end > new_end {
        let failed = subtract_range(skb, s, new_end, end);
        if failed != 0 {
            return failed;
        }
        if let Err(reason) = change_tail(skb, new_end) {
            return reason as u32;
        }
        // For CHECKSUM_COMPLETE, as in `strip`.
        // SAFETY: a helper on the program's context.
        unsafe { bpf_csum_update(skb, s.cut) };
    }
    match finish(skb, s, new_end, header as u8, flags as u8) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// Writes data offset, flags and lengths of a frame that was resized to `new_end`, and applies
/// `s.sum` to the checksum.
#[inline(always)]
fn finish(
    skb: *mut __sk_buff,
    s: &mut Scratch,
    new_end: u32,
    header: u8,
    flags: u8,
) -> Result<(), DropReason> {
    let tcp = u32::from(s.packet.transport);
    let mut old = [0u8; 2];
    load(skb, tcp + TCP_OFFSET_AND_FLAGS, &mut old)?;
    let new = [(header / 4) << 4 | (old[0] & 0x0f), flags];
    s.sum += u64::from(u16::from_ne_bytes(new)) + u64::from(!u16::from_ne_bytes(old));
    store(skb, tcp + TCP_OFFSET_AND_FLAGS, &new, 0)?;
    apply_sum(skb, s)?;
    let (old_end, at) = (s.packet.end, ETHERNET_BYTES as u32);
    let length = |end: u32| (end - tcp) as u16;
    let flags_2 = u64::from(BPF_F_PSEUDO_HDR) | 2;
    replace_l4(skb, s, length(old_end).to_be(), length(new_end).to_be(), flags_2)?;
    if s.packet.family == 4 {
        let (old_total, new_total) = ((old_end - at) as u16, (new_end - at) as u16);
        store(skb, IPV4_TOTAL, &new_total.to_be_bytes(), 0)?;
        // SAFETY: a helper on the program's context.
        let failed = unsafe {
            bpf_l3_csum_replace(
                skb,
                IPV4_CHECK,
                u64::from(old_total.to_be()),
                u64::from(new_total.to_be()),
                2,
            )
        };
        if failed != 0 {
            return Err(DropReason::Rewrite);
        }
    } else {
        let payload = (new_end - at - IPV6_BYTES as u32) as u16;
        store(skb, IPV6_PAYLOAD, &payload.to_be_bytes(), u64::from(BPF_F_RECOMPUTE_CSUM))?;
    }
    s.packet.end = new_end;
    s.packet.tcp_header = header;
    s.packet.flags = flags;
    Ok(())
}

/// Applies the gathered change to the TCP checksum and starts anew.
#[inline(always)]
pub fn apply_sum(skb: *mut __sk_buff, s: &mut Scratch) -> Result<(), DropReason> {
    let at = u32::from(s.packet.transport) + TCP_CHECK;
    // SAFETY: a helper on the program's context.
    let failed = unsafe { bpf_l4_csum_replace(skb, at, 0, u64::from(fold32(s.sum)), 0) };
    s.sum = 0;
    if failed == 0 { Ok(()) } else { Err(DropReason::Rewrite) }
}

#[inline(always)]
fn replace_l4(
    skb: *mut __sk_buff,
    s: &Scratch,
    from: u16,
    to: u16,
    flags: u64,
) -> Result<(), DropReason> {
    let at = u32::from(s.packet.transport) + TCP_CHECK;
    // SAFETY: a helper on the program's context.
    let failed = unsafe { bpf_l4_csum_replace(skb, at, u64::from(from), u64::from(to), flags) };
    if failed == 0 { Ok(()) } else { Err(DropReason::Rewrite) }
}

#[inline(always)]
fn option_sum(option: &HandshakeOption) -> u64 {
    // SAFETY: 20 plain bytes at an alignment of 4.
    checksum::sum_words(unsafe { &*core::ptr::from_ref(option).cast::<[u32; 5]>() })
}

#[inline(always)]
fn prefix_sum(s: &Scratch) -> u64 {
    // SAFETY: 36 plain bytes at an alignment of 4, the last two of them zero and not on the wire.
    checksum::sum_words(unsafe { &*(&raw const s.prefix).cast::<[u32; 9]>() })
}

#[inline(always)]
fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}
