//! Values made of the fuzzer's bytes, from the front; behind their end everything is zero.

use std::collections::BTreeMap;

/// The bytes that are left.
#[derive(Debug, Clone, Copy)]
pub struct Feed<'a>(&'a [u8]);

impl<'a> Feed<'a> {
    /// All of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// At most `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Everything that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// Two bytes, big endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// Four bytes, big endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// Whether the next byte is odd.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of a few, which must not be none.
    pub fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// A text of at most `most` bytes, its length in front; what is not UTF-8 is replaced.
    pub fn text(&mut self, most: usize) -> String {
        let length = usize::from(self.byte()).min(most);
        String::from_utf8_lossy(self.bytes(length)).into_owned()
    }

    /// A few labels.
    pub fn labels(&mut self) -> BTreeMap<String, String> {
        (0..self.byte() % 4).map(|_| (self.text(32), self.text(32))).collect()
    }

    /// A copy of `bytes` with one byte changed; `None` if there is no byte.
    pub fn damaged(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut copy = bytes.to_vec();
        let at = usize::from(self.u16()).checked_rem(copy.len())?;
        copy[at] ^= self.byte().max(1);
        Some(copy)
    }
}
