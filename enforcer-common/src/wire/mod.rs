//! The wire format: frame headers as far as the datapath reads them, the TCP option, the fixed
//! prefix of S2, and checksums.

pub mod checksum;
pub mod frame;
pub mod option;
pub mod prefix;
pub mod room;

/// Reads of packet bytes at an offset from the start of the frame, in the kernel and in tests.
/// Values are returned in host order; `None` is past the end of the frame.
pub trait Cursor {
    /// One byte.
    fn u8(&self, offset: usize) -> Option<u8>;
    /// Two bytes, big endian in the packet.
    fn u16(&self, offset: usize) -> Option<u16>;
    /// Four bytes, big endian in the packet.
    fn u32(&self, offset: usize) -> Option<u32>;
    /// Four bytes as they stand in memory.
    fn word(&self, offset: usize) -> Option<u32>;
    /// Length of the whole frame in bytes.
    fn frame_length(&self) -> usize;
}

impl Cursor for [u8] {
    fn u8(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }

    fn u16(&self, offset: usize) -> Option<u16> {
        let bytes = self.get(offset..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = self.get(offset..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    }

    fn word(&self, offset: usize) -> Option<u32> {
        self.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes)
    }

    fn frame_length(&self) -> usize {
        self.len()
    }
}
