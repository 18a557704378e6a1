//! Room for our option in a SYN or SYN-ACK whose own options leave none.
//!
//! TCP Fast Open and MPTCP are offers: who does not see one answered goes on as plain TCP at once
//! (RFC 7413 4.1, RFC 8684 3.1). So they can be taken out of the segment, where signatures cannot.

use super::option::OPTIONS_MAX;
use crate::datapath::opaque::Opaque;

const END: u8 = 0;
const NOP: u8 = 1;
/// TCP MD5 signature (RFC 2385).
const KIND_MD5: u8 = 19;
/// TCP authentication (RFC 5925).
const KIND_AO: u8 = 29;
const KIND_MPTCP: u8 = 30;
/// MPTCP's subtype of a connection's first subflow, in the high half of the option's third byte.
const MP_CAPABLE: u8 = 0;
const KIND_FAST_OPEN: u8 = 34;
/// The other kind for experiments, under which Fast Open was tried.
const KIND_EXPERIMENT: u8 = 254;
/// Fast Open's experiment identifier (RFC 7413 7).
const FAST_OPEN_EXID: u16 = 0xf989;

/// Working memory of [`make`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct RoomState {
    /// Where the next byte is read.
    position: Opaque,
    /// Where the next byte that stays is written; never behind `position`.
    written: Opaque,
    /// Bytes of the option at hand that are still to be read.
    left: Opaque,
    /// Whether the option at hand stays.
    stays: Opaque,
}

/// Takes Fast Open's and MPTCP's offers out of the options, and all padding: no-operations and what
/// stands behind an end of options. What stays keeps its order and stands without gaps at the
/// front, padded with no-operations to a multiple of four bytes.
///
/// `length` is in bytes, a multiple of four and at most [`OPTIONS_MAX`]; `options` holds them from
/// the front. Returns the new length, at most `length`; bytes behind it are undefined up to
/// `length` and untouched from there. `None`, with `options` undefined: malformed, or signed (TCP
/// MD5, TCP-AO): a signature must stay, and covers what would go.
#[must_use]
#[inline(always)]
pub fn make(
    options: &mut [u8; OPTIONS_MAX],
    length: usize,
    state: &mut RoomState,
) -> Option<usize> {
    if length > OPTIONS_MAX {
        return None;
    }
    state.position.set(0);
    state.written.set(0);
    state.left.set(0);
    let mut step = 0;
    while step < OPTIONS_MAX {
        step += 1;
        let at = (state.position.value() & 63) as usize;
        if at >= length || at >= OPTIONS_MAX {
            break;
        }
        if state.left.value() == 0 {
            if options[at] == END {
                break;
            }
            begin(options, at, length, state)?;
        }
        move_byte(options, at, state)?;
    }
    pad(options, state)
}

/// Reads kind and length of the option at `at`.
#[inline(always)]
fn begin(
    options: &[u8; OPTIONS_MAX],
    at: usize,
    length: usize,
    state: &mut RoomState,
) -> Option<()> {
    let kind = options[at];
    if kind == NOP {
        state.left.set(1);
        state.stays.set(0);
        return Some(());
    }
    if at + 1 >= length || at + 1 >= OPTIONS_MAX {
        return None;
    }
    let size = options[at + 1] as usize;
    if size < 2 || at + size > length || kind == KIND_MD5 || kind == KIND_AO {
        return None;
    }
    state.left.set(size as u32);
    state.stays.set(u32::from(!is_offer(options, at, kind, size)));
    Some(())
}

/// Whether the option offers Fast Open (a cookie or the request for one) or MPTCP.
#[inline(always)]
fn is_offer(options: &[u8; OPTIONS_MAX], at: usize, kind: u8, size: usize) -> bool {
    match kind {
        KIND_FAST_OPEN => true,
        KIND_EXPERIMENT if size >= 4 && at + 3 < OPTIONS_MAX => {
            u16::from_be_bytes([options[at + 2], options[at + 3]]) == FAST_OPEN_EXID
        }
        KIND_MPTCP if size > 2 && at + 2 < OPTIONS_MAX => options[at + 2] >> 4 == MP_CAPABLE,
        _ => false,
    }
}

/// Moves one byte of an option that stays to where it belongs, or passes over it.
#[inline(always)]
fn move_byte(options: &mut [u8; OPTIONS_MAX], at: usize, state: &mut RoomState) -> Option<()> {
    if state.stays.value() != 0 {
        let to = (state.written.value() & 63) as usize;
        if to >= OPTIONS_MAX {
            return None;
        }
        options[to] = options[at];
        state.written.set(to as u32 + 1);
    }
    state.left.set(state.left.value().wrapping_sub(1));
    state.position.set(at as u32 + 1);
    Some(())
}

#[inline(always)]
fn pad(options: &mut [u8; OPTIONS_MAX], state: &mut RoomState) -> Option<usize> {
    let mut step = 0;
    while step < 4 {
        step += 1;
        let at = (state.written.value() & 63) as usize;
        if at.is_multiple_of(4) {
            return Some(at);
        }
        if at >= OPTIONS_MAX {
            return None;
        }
        options[at] = NOP;
        state.written.set(at as u32 + 1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::option::{ScanState, scan};
    use super::*;
    use proptest::prelude::*;

    const LINUX_SYN: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    /// The same without padding between.
    const PACKED: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 3, 3, 7, 1];
    const COOKIE: &[u8] = &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    const COOKIE_REQUEST: &[u8] = &[34, 2, 1, 1];
    const EXPERIMENT: &[u8] = &[254, 4, 0xf9, 0x89];
    const CAPABLE_0: &[u8] = &[30, 12, 0x00, 0x81, 1, 2, 3, 4, 5, 6, 7, 8];
    const CAPABLE_1: &[u8] = &[30, 4, 0x01, 0x01];

    fn made(parts: &[&[u8]]) -> Option<Vec<u8>> {
        let all: Vec<u8> = parts.concat();
        let mut options = [0xee; OPTIONS_MAX];
        options[..all.len()].copy_from_slice(&all);
        let length = make(&mut options, all.len(), &mut RoomState::default())?;
        assert!(length <= all.len());
        assert!(options[all.len()..].iter().all(|byte| *byte == 0xee));
        Some(options[..length].to_vec())
    }

    #[test]
    fn offers_go_and_the_rest_stays() {
        for offers in [
            &[COOKIE][..],
            &[COOKIE_REQUEST],
            &[EXPERIMENT],
            &[CAPABLE_0],
            &[CAPABLE_1],
            &[COOKIE, CAPABLE_1],
            &[CAPABLE_1, COOKIE_REQUEST, EXPERIMENT],
        ] {
            let behind: Vec<&[u8]> = [&[LINUX_SYN][..], offers].concat();
            assert_eq!(made(&behind).as_deref(), Some(PACKED), "{offers:?}");
            let ahead: Vec<&[u8]> = [offers, &[LINUX_SYN][..]].concat();
            assert_eq!(made(&ahead).as_deref(), Some(PACKED), "{offers:?}");
        }
    }

    #[test]
    fn padding_goes_and_an_end_is_not_left_in_front_of_what_follows() {
        // As macOS sends them: 24 bytes, of which 19 say something.
        let theirs = [2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 4, 2, 0, 0];
        let packed = [2, 4, 5, 0xb4, 3, 3, 6, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 4, 2, 1];
        assert_eq!(made(&[&theirs]).as_deref(), Some(&packed[..]));
        assert_eq!(made(&[&[1; 40]]).as_deref(), Some(&[][..]));
        assert_eq!(made(&[&[0, 1, 2, 3]]).as_deref(), Some(&[][..]));
    }

    #[test]
    fn what_only_resembles_an_offer_stays() {
        let other_experiment = [254, 4, 0xf9, 0x88];
        let short = [254, 3, 0xf9, 1];
        let join = [30, 12, 0x10, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let ours = [253, 4, 0xf9, 0x89];
        for like in [&other_experiment[..], &short, &join, &ours] {
            assert_eq!(made(&[like]).as_deref(), Some(like));
        }
    }

    #[test]
    fn signed_segments_are_left_alone() {
        let md5 = [&[19, 18][..], &[7; 16]].concat();
        let authenticated = [&[29, 16, 1, 1][..], &[7; 12]].concat();
        for signature in [md5, authenticated] {
            let padding = vec![1; signature.len().next_multiple_of(4) - signature.len()];
            assert_eq!(made(&[&signature, &padding]), None);
            assert_eq!(made(&[COOKIE, &signature, &padding]), None);
        }
    }

    #[test]
    fn lengths_that_leave_the_list_are_malformed() {
        for bad in [&[2u8, 0, 1, 1][..], &[2, 1, 1, 1], &[1, 1, 1, 2], &[2, 5, 1, 1], &[34, 255]] {
            assert_eq!(made(&[bad]), None, "{bad:?}");
        }
        let mut full = [1; OPTIONS_MAX];
        full[39] = 34;
        assert_eq!(made(&[&full]), None);
    }

    /// The options one by one, without padding. What follows an end is padding.
    fn parsed(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while let [kind, rest @ ..] = bytes {
            match *kind {
                END => break,
                NOP => bytes = rest,
                _ => {
                    let (option, behind) = bytes.split_at(usize::from(rest[0]));
                    found.push(option);
                    bytes = behind;
                }
            }
        }
        found
    }

    fn offers(option: &[u8]) -> bool {
        option[0] == 34
            || option.starts_with(&[30]) && option.get(2).is_some_and(|byte| byte & 0xf0 == 0)
            || option.starts_with(&[254]) && option.get(2..4) == Some(&[0xf9, 0x89])
    }

    fn option() -> impl Strategy<Value = Vec<u8>> {
        let kinds =
            prop_oneof![Just(2u8), Just(8), Just(30), Just(34), Just(253), Just(254), 2u8..];
        let body = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            Just(vec![0xf9, 0x89]),
            Just(vec![0x01, 0x01])
        ];
        let sized = (kinds, body).prop_map(|(kind, body)| {
            let size = u8::try_from(body.len() + 2).unwrap();
            [vec![kind, size], body].concat()
        });
        prop_oneof![4 => sized, 1 => Just(vec![NOP])]
    }

    proptest! {
        #[test]
        fn well_formed_options_lose_offers_and_padding_only(
            options in prop::collection::vec(option(), 0..8),
            ended in any::<bool>(),
        ) {
            let mut all = Vec::new();
            for option in options {
                if all.len() + option.len() <= OPTIONS_MAX {
                    all.extend(option);
                }
            }
            let padding = if ended { END } else { NOP };
            all.resize(all.len().next_multiple_of(4), padding);
            let signed = parsed(&all).iter().any(|option| [19, 29].contains(&option[0]));
            let result = made(&[&all]);
            prop_assert_eq!(result.is_none(), signed);
            if let Some(result) = result {
                let mut expected = parsed(&all);
                expected.retain(|option| !offers(option));
                prop_assert_eq!(parsed(&result), expected.clone());
                let bytes: usize = expected.iter().map(|option| option.len()).sum();
                prop_assert_eq!(result.len(), bytes.next_multiple_of(4));
            }
        }

        #[test]
        fn whatever_reads_well_reads_the_same_behind_it(
            o: [u8; OPTIONS_MAX],
            words in 0..=OPTIONS_MAX / 4,
        ) {
            let length = words * 4;
            let before = scan(&o, length, &mut ScanState::default());
            if let (Some(before), Some(result)) = (before, made(&[&o[..length]])) {
                let mut after = [0; OPTIONS_MAX];
                after[..result.len()].copy_from_slice(&result);
                let after = scan(&after, result.len(), &mut ScanState::default());
                prop_assert_eq!(after.map(|found| found.join), Some(before.join));
            }
        }
    }
}
