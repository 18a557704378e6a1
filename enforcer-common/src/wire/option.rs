//! The TCP option that carries the handshake, and the strict reading of a header's options.

use crate::abi::{Handle, Mac, Nonce};
use crate::datapath::opaque::Opaque;

/// Option kind for experiments (RFC 4727, RFC 6994).
pub const KIND: u8 = 253;
/// Length of our option, kind and length bytes included.
pub const OPTION_BYTES: usize = 20;
/// Our experiment identifier, "EN" (RFC 6994 3).
pub const EXID: u16 = 0x454e;
/// Most bytes of options in a TCP header.
pub const OPTIONS_MAX: usize = 40;

const NOP: u8 = 1;
const END: u8 = 0;
const KIND_MPTCP: u8 = 30;

/// The option, as it stands at the end of the TCP header.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +---------------+---------------+-------------------------------+
/// |   kind = 253  |  length = 20  |         ExID = 0x454e         |
/// +---------------+---------------+-------------------------------+
/// |                S1, S2: handle(8)     S3: mac_A(16)            |
/// +                                                               +
/// |                                                               |
/// +---------------------------------------------------------------+
/// |                S1, S2: nonce(8)                               |
/// +                                                               +
/// |                                                               |
/// +---------------------------------------------------------------+
/// ```
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeOption {
    /// Kind, length and ExID.
    pub head: [u8; 4],
    /// Handle and nonce, or the proof.
    pub body: [u8; 16],
}

impl HandshakeOption {
    /// The option of S1 and S2.
    #[must_use]
    #[inline(always)]
    pub fn hello(handle: Handle, nonce: Nonce) -> Self {
        let (h, n) = (handle, nonce);
        Self::with([
            h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], n[0], n[1], n[2], n[3], n[4], n[5],
            n[6], n[7],
        ])
    }

    /// The option of S3.
    #[must_use]
    #[inline(always)]
    pub fn proof(mac: Mac) -> Self {
        Self::with(mac)
    }

    /// Whether the head is ours.
    #[must_use]
    #[inline(always)]
    pub fn is_ours(&self) -> bool {
        let exid = EXID.to_be_bytes();
        self.head[0] == KIND
            && self.head[1] as usize == OPTION_BYTES
            && self.head[2] == exid[0]
            && self.head[3] == exid[1]
    }

    /// The handle of S1 and S2.
    #[must_use]
    #[inline(always)]
    pub fn handle(&self) -> Handle {
        let b = &self.body;
        [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
    }

    /// The nonce of S1 and S2.
    #[must_use]
    #[inline(always)]
    pub fn nonce(&self) -> Nonce {
        let b = &self.body;
        [b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
    }

    #[inline(always)]
    fn with(body: [u8; 16]) -> Self {
        let exid = EXID.to_be_bytes();
        Self { head: [KIND, OPTION_BYTES as u8, exid[0], exid[1]], body }
    }
}

/// What the options of a segment hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Ours stands last, well formed, once.
    pub ours: bool,
    /// An experimental option with our ExID that is not the above: wrong length, place or number.
    pub wrong: bool,
    /// An MPTCP MP_JOIN (RFC 8684 3.2).
    pub join: bool,
}

/// Most options (no-operations counted) that are read. The fullest header in use has eleven.
const STEPS_MAX: u32 = 20;

const OURS: u32 = 1;
const WRONG: u32 = 2;
const JOIN: u32 = 4;

/// Working memory of [`scan`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanState {
    position: Opaque,
    found: Opaque,
}

impl ScanState {
    /// Where the last [`scan`] that found no fault stopped: at the length, or at an end of options in
    /// front of it.
    #[must_use]
    #[inline(always)]
    pub fn end(&self) -> usize {
        self.position.value() as usize
    }
}

/// Reads the options strictly (RFC 9293 3.1): every length must stay inside. `None`: malformed.
///
/// `length` is in bytes, at most [`OPTIONS_MAX`]; `options` holds them from the front. `state` is
/// working memory.
#[must_use]
#[inline(always)]
pub fn scan(options: &[u8; OPTIONS_MAX], length: usize, state: &mut ScanState) -> Option<Options> {
    if length > OPTIONS_MAX {
        return None;
    }
    let ScanState { position, found } = state;
    position.set(0);
    found.set(0);
    let mut step = 0;
    while step < STEPS_MAX {
        step += 1;
        let at = (position.value() & 63) as usize;
        if at >= length || at >= OPTIONS_MAX || options[at] == END {
            let found = found.value();
            return Some(Options {
                ours: found & (OURS | WRONG) == OURS,
                wrong: found & WRONG != 0,
                join: found & JOIN != 0,
            });
        }
        let kind = options[at];
        if kind == NOP {
            position.set(at as u32 + 1);
            continue;
        }
        if at + 1 >= length || at + 1 >= OPTIONS_MAX {
            return None;
        }
        let size = options[at + 1] as usize;
        if size < 2 || at + size > length {
            return None;
        }
        if kind == KIND && size >= 4 && at + 3 < OPTIONS_MAX {
            let well_placed = size == OPTION_BYTES && at + size == length;
            note_experiment(found, options, at, well_placed);
        }
        if kind == KIND_MPTCP && size > 2 && at + 2 < OPTIONS_MAX && options[at + 2] >> 4 == 1 {
            found.set(found.value() | JOIN);
        }
        position.set((at + size) as u32);
    }
    None
}

#[inline(always)]
fn note_experiment(found: &mut Opaque, options: &[u8; OPTIONS_MAX], at: usize, well_placed: bool) {
    if u16::from_be_bytes([options[at + 2], options[at + 3]]) != EXID {
        return;
    }
    let before = found.value();
    let wrong = if before & OURS != 0 || !well_placed { WRONG } else { 0 };
    found.set(before | OURS | wrong);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(o: &[u8; OPTIONS_MAX], n: usize) -> Option<Options> {
        scan(o, n, &mut ScanState::default())
    }

    fn options(parts: &[&[u8]]) -> ([u8; OPTIONS_MAX], usize) {
        let all: Vec<u8> = parts.concat();
        let mut out = [0; OPTIONS_MAX];
        out[..all.len()].copy_from_slice(&all);
        (out, all.len())
    }

    fn ours() -> [u8; 20] {
        let option = HandshakeOption::hello([1; 8], [2; 8]);
        let mut out = [0; 20];
        out[..4].copy_from_slice(&option.head);
        out[4..].copy_from_slice(&option.body);
        out
    }

    const LINUX_SYN: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

    #[test]
    fn ours_behind_the_options_of_a_linux_syn() {
        let (o, n) = options(&[LINUX_SYN, &ours()]);
        assert_eq!(n, 40);
        assert_eq!(read(&o, n), Some(Options { ours: true, ..Options::default() }));
    }

    #[test]
    fn ours_must_stand_last_and_once() {
        let (o, n) = options(&[&ours(), LINUX_SYN]);
        assert_eq!(read(&o, n).map(|o| (o.ours, o.wrong)), Some((false, true)));
        let (o, n) = options(&[&ours(), &ours()]);
        assert_eq!(read(&o, n).map(|o| (o.ours, o.wrong)), Some((false, true)));
    }

    #[test]
    fn another_length_is_wrong_and_another_exid_is_not_ours() {
        let (o, n) = options(&[&[253, 4, 0x45, 0x4e]]);
        assert_eq!(read(&o, n).map(|o| (o.ours, o.wrong)), Some((false, true)));
        let (o, n) = options(&[&[253, 4, 0x45, 0x4f]]);
        assert_eq!(read(&o, n), Some(Options::default()));
    }

    #[test]
    fn lengths_that_leave_the_list_are_malformed() {
        for bad in [&[2u8, 0][..], &[2, 1], &[2], &[2, 5, 1, 1]] {
            let (o, n) = options(&[bad]);
            assert_eq!(read(&o, n), None, "{bad:?}");
        }
    }

    #[test]
    fn an_end_of_options_stands_where_reading_ends() {
        for (bytes, end) in [(LINUX_SYN, 20), (&[2, 4, 5, 0xb4, 1, 0, 0, 0], 5), (&[0; 4], 0)] {
            let ((o, n), mut state) = (options(&[bytes]), ScanState::default());
            assert_eq!(scan(&o, n, &mut state), Some(Options::default()));
            assert_eq!(state.end(), end);
        }
    }

    #[test]
    fn a_multipath_join_is_seen() {
        let (o, n) = options(&[&[30, 12, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0]]);
        assert!(read(&o, n).unwrap().join);
    }

    proptest! {
        #[test]
        fn never_panics(o: [u8; OPTIONS_MAX], n in 0..=OPTIONS_MAX) {
            let _ = read(&o, n);
        }
    }
}
