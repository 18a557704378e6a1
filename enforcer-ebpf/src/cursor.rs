//! Direct reads of the packet's linear part.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_pull_data, bpf_xdp_get_buff_len},
};
use core::arch::asm;
use enforcer_common::wire::{
    Cursor,
    frame::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_BYTES, TCP_BYTES},
};

/// Most bytes of headers that are read: Ethernet, a full IPv4 header, a full TCP header.
const HEADERS_MAX: usize = ETHERNET_BYTES + 60 + 60;

/// The linear part of a packet.
pub struct FrameCursor {
    data: usize,
    end: usize,
    length: usize,
}

impl FrameCursor {
    /// Of an skb. Makes the headers linear first, if they are not.
    #[inline(always)]
    pub fn of_skb(skb: *mut __sk_buff) -> Self {
        let cursor = Self::read(skb);
        if cursor.holds_headers() {
            return cursor;
        }
        let wanted = if cursor.length < HEADERS_MAX { cursor.length } else { HEADERS_MAX };
        // SAFETY: `skb` is the program's context; the packet's pointers are read anew after the
        // call.
        unsafe { bpf_skb_pull_data(skb, wanted as u32) };
        Self::read(skb)
    }

    /// Of a frame that no skb was made of yet; `None` if not all that may be read of its headers is
    /// linear, which only drivers that split headers off do.
    #[inline(always)]
    pub fn of_xdp(xdp: *mut xdp_md) -> Option<Self> {
        // SAFETY: `xdp` is the program's context; the kernel rewrites these reads.
        let (data, end) = unsafe { ((*xdp).data as usize, (*xdp).data_end as usize) };
        // SAFETY: a helper on the program's context, which moves nothing.
        let length = unsafe { bpf_xdp_get_buff_len(xdp) } as usize;
        let needed = if length < HEADERS_MAX { length } else { HEADERS_MAX };
        if data + needed > end { None } else { Some(Self { data, end, length }) }
    }

    #[inline(always)]
    fn read(skb: *mut __sk_buff) -> Self {
        // SAFETY: `skb` is the program's context; the kernel rewrites these reads.
        let (data, end, length) =
            unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).len as usize) };
        Self { data, end, length }
    }

    /// Whether all that is read of the headers is linear. A segment of the local stack has nothing
    /// else there: to ask for a byte more would copy the head of each one that carries data, since
    /// the stack keeps a clone of it.
    #[inline(always)]
    fn holds_headers(&self) -> bool {
        let needed = match (self.u16(12), self.u8(ETHERNET_BYTES)) {
            (Some(ETHERTYPE_IPV6), _) => ETHERNET_BYTES + IPV6_BYTES + TCP_BYTES,
            (_, Some(0x45)) => ETHERNET_BYTES + 20 + TCP_BYTES,
            _ => HEADERS_MAX,
        };
        let needed = if self.length < needed { self.length } else { needed };
        self.data + needed <= self.end
    }

    /// The address of `size` bytes at `offset`, which the verifier now knows to be in bounds.
    #[inline(always)]
    fn at(&self, offset: usize, size: usize) -> Option<usize> {
        let at = self.data + offset;
        let mut behind = at + size;
        // SAFETY: adds nothing. It keeps `at + 1 > end` from becoming `at >= end`, of
        // which the verifier learns nothing about `at`.
        unsafe { asm!("{0} += 0", inout(reg) behind, options(nomem, nostack, preserves_flags)) };
        if behind > self.end { None } else { Some(at) }
    }
}

impl Cursor for FrameCursor {
    #[inline(always)]
    fn u8(&self, offset: usize) -> Option<u8> {
        // SAFETY: in bounds.
        self.at(offset, 1).map(|at| unsafe { byte_at(at) })
    }

    #[inline(always)]
    fn u16(&self, offset: usize) -> Option<u16> {
        // SAFETY: in bounds.
        self.at(offset, 2).map(|at| u16::from_be(unsafe { half_at(at) }))
    }

    #[inline(always)]
    fn u32(&self, offset: usize) -> Option<u32> {
        self.word(offset).map(u32::from_be)
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u32> {
        // SAFETY: in bounds.
        self.at(offset, 4).map(|at| unsafe { word_at(at) })
    }

    #[inline(always)]
    fn frame_length(&self) -> usize {
        self.length
    }
}

/// A frame of the commonest form, its headers linear: IPv4 without options or, with `V6`, IPv6. That all that is read
/// of them is there is asked once, and not for each field.
pub struct PlainCursor<const V6: bool> {
    data: usize,
    length: usize,
}

impl<const V6: bool> PlainCursor<V6> {
    /// What is read of the headers: those of IP, and TCP's without options.
    const BYTES: usize = ETHERNET_BYTES + if V6 { IPV6_BYTES } else { IPV4_BYTES } + TCP_BYTES;
    /// The EtherType.
    const ETHERTYPE: u16 = if V6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };

    /// Of an skb; `None` if its frame is of another form.
    #[inline(always)]
    pub fn of_skb(skb: *mut __sk_buff) -> Option<Self> {
        let cursor = FrameCursor::read(skb);
        let data = cursor.at(0, Self::BYTES)?;
        // SAFETY: in bounds.
        let (ethertype, first) = unsafe { (half_at(data + 12), byte_at(data + ETHERNET_BYTES)) };
        let is_plain = ethertype == Self::ETHERTYPE.to_be() && (V6 || first == PLAIN_IPV4);
        is_plain.then_some(Self { data, length: cursor.length })
    }

    #[inline(always)]
    fn at(&self, offset: usize, size: usize) -> Option<usize> {
        // Offsets are constants behind inlining: nothing of this is asked at run time.
        if offset + size > Self::BYTES { None } else { Some(self.data + offset) }
    }
}

/// Version 4 and a header of 20 bytes.
const PLAIN_IPV4: u8 = 0x45;
/// Bytes of an IPv4 header without options.
const IPV4_BYTES: usize = 20;

impl<const V6: bool> Cursor for PlainCursor<V6> {
    #[inline(always)]
    fn u8(&self, offset: usize) -> Option<u8> {
        if !V6 && offset == ETHERNET_BYTES {
            return Some(PLAIN_IPV4);
        }
        // SAFETY: in bounds.
        self.at(offset, 1).map(|at| unsafe { byte_at(at) })
    }

    #[inline(always)]
    fn u16(&self, offset: usize) -> Option<u16> {
        if offset == 12 {
            return Some(Self::ETHERTYPE);
        }
        // SAFETY: in bounds.
        self.at(offset, 2).map(|at| u16::from_be(unsafe { half_at(at) }))
    }

    #[inline(always)]
    fn u32(&self, offset: usize) -> Option<u32> {
        self.word(offset).map(u32::from_be)
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u32> {
        // SAFETY: in bounds.
        self.at(offset, 4).map(|at| unsafe { word_at(at) })
    }

    #[inline(always)]
    fn frame_length(&self) -> usize {
        self.length
    }
}

/// Six bytes of a link address, as the words they are in memory.
#[inline(always)]
pub fn mac_at(cursor: &impl Cursor, offset: usize) -> Option<(u32, u16)> {
    Some((cursor.word(offset)?, cursor.u16(offset + 4)?.to_be()))
}

/// # Safety
/// One byte is readable at `at`.
#[inline(always)]
unsafe fn byte_at(at: usize) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { *(at as *const u8) }
}

/// Two bytes as they stand in memory.
///
/// # Safety
/// Two bytes are readable at `at`.
#[inline(always)]
unsafe fn half_at(at: usize) -> u16 {
    let value: u64;
    // SAFETY: the caller's contract; the machine's load has no alignment to keep, unlike Rust's, which the compiler
    // would otherwise serve with single bytes.
    unsafe {
        asm!("{value} = *(u16 *)({at} + 0)", at = in(reg) at, value = out(reg) value,
            options(pure, readonly, nostack, preserves_flags));
    };
    value as u16
}

/// Four bytes as they stand in memory.
///
/// # Safety
/// Four bytes are readable at `at`.
#[inline(always)]
unsafe fn word_at(at: usize) -> u32 {
    let value: u64;
    // SAFETY: as in `half_at`.
    unsafe {
        asm!("{value} = *(u32 *)({at} + 0)", at = in(reg) at, value = out(reg) value,
            options(pure, readonly, nostack, preserves_flags));
    };
    value as u32
}
