//! Direct reads of the packet's linear part.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_pull_data, bpf_xdp_get_buff_len},
};
use core::arch::asm;
use enforcer_common::wire::{
    Cursor,
    frame::{ETHERNET_BYTES, ETHERTYPE_IPV6, IPV6_BYTES, TCP_BYTES},
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

    /// Six bytes of a link address, as the words they are in memory.
    #[inline(always)]
    pub fn mac(&self, offset: usize) -> Option<(u32, u16)> {
        Some((self.word(offset)?, self.half(offset + 4)?))
    }

    /// Two bytes as they stand in memory.
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        let at = self.at(offset, 2)?;
        let value: u64;
        // SAFETY: in bounds; the machine's load has no alignment to keep, unlike Rust's, which
        // the compiler would otherwise serve with single bytes.
        unsafe { asm!("{value} = *(u16 *)({at} + 0)", at = in(reg) at, value = out(reg) value) };
        Some(value as u16)
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
        let at = self.at(offset, 1)?;
        // SAFETY: in bounds.
        Some(unsafe { *(at as *const u8) })
    }

    #[inline(always)]
    fn u16(&self, offset: usize) -> Option<u16> {
        self.half(offset).map(u16::from_be)
    }

    #[inline(always)]
    fn u32(&self, offset: usize) -> Option<u32> {
        self.word(offset).map(u32::from_be)
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u32> {
        let at = self.at(offset, 4)?;
        let value: u64;
        // SAFETY: as in `half`.
        unsafe { asm!("{value} = *(u32 *)({at} + 0)", at = in(reg) at, value = out(reg) value) };
        Some(value as u32)
    }

    #[inline(always)]
    fn frame_length(&self) -> usize {
        self.length
    }
}
