//! One strict walk over CBOR bytes: is this the single deterministic form of RFC 8949 4.2.1?
//!
//! It runs before any decoder sees the bytes and allocates nothing, so a hostile length or depth
//! costs one pass. Decoders accept several forms of one value; each form would be another
//! credential with another handle, so anyone could mint endless valid variants of a signed one.

use thiserror::Error;

/// Credentials nest a claim map, a confirmation map and a key map: nothing honest goes deeper.
const MAX_DEPTH: usize = 4;

/// Why bytes are not the one accepted encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodingError {
    /// Not the CBOR or the claims that were expected.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A valid encoding of something, but not its deterministic form.
    #[error("not canonical: {0}")]
    NotCanonical(&'static str),
}

use EncodingError::{Malformed, NotCanonical};

/// Checks the first item of `bytes` and returns its length in bytes; what follows is not looked at.
///
/// Integers, byte and text strings, arrays and maps pass. Tags, floats and simple values have no
/// place inside a credential and are refused.
pub fn deterministic_item(bytes: &[u8]) -> Result<usize, EncodingError> {
    let mut scan = Scan { bytes, at: 0 };
    scan.item(MAX_DEPTH)?;
    Ok(scan.at)
}

/// Writes a head, its argument in the shortest form.
pub(super) fn write_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    let [.., b3, b2, b1, b0] = argument.to_be_bytes();
    match argument {
        0..=23 => out.push(major | b0),
        24..=0xff => out.extend([major | 0x18, b0]),
        0x100..=0xffff => out.extend([major | 0x19, b1, b0]),
        0x1_0000..=0xffff_ffff => out.extend([major | 0x1a, b3, b2, b1, b0]),
        _ => {
            out.push(major | 0x1b);
            out.extend(argument.to_be_bytes());
        }
    }
}

/// Writes a byte string.
pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_head(out, 2, bytes.len() as u64);
    out.extend(bytes);
}

/// Writes a text.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    write_head(out, 3, text.len() as u64);
    out.extend(text.as_bytes());
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn item(&mut self, depth: usize) -> Result<(), EncodingError> {
        let (major, argument) = self.head()?;
        match major {
            0 | 1 => Ok(()),
            2 => self.take(argument).map(drop),
            3 => {
                let text = self.take(argument)?;
                std::str::from_utf8(text).map(drop).map_err(|_| Malformed("text is not UTF-8"))
            }
            4 => self.array(argument, below(depth)?),
            _ => self.map(argument, below(depth)?),
        }
    }

    /// A declared length never drives an allocation: each element consumes at least one byte.
    fn array(&mut self, items: u64, depth: usize) -> Result<(), EncodingError> {
        for _ in 0..items {
            self.item(depth)?;
        }
        Ok(())
    }

    fn map(&mut self, entries: u64, depth: usize) -> Result<(), EncodingError> {
        let mut previous: Option<&'a [u8]> = None;
        for _ in 0..entries {
            let start = self.at;
            self.item(depth)?;
            let key = self.bytes.get(start..self.at).ok_or(Malformed("truncated"))?;
            if previous.is_some_and(|previous| previous >= key) {
                return Err(NotCanonical("map keys are not in ascending order"));
            }
            previous = Some(key);
            self.item(depth)?;
        }
        Ok(())
    }

    /// Major type, 0 to 5, and argument, the argument in its shortest form (RFC 8949 3 and 4.2.1).
    fn head(&mut self) -> Result<(u8, u64), EncodingError> {
        let first = *self.take(1)?.first().ok_or(Malformed("truncated"))?;
        let (major, info) = (first >> 5, first & 0x1f);
        if major > 5 {
            return Err(Malformed("tags, floats and simple values are not used"));
        }
        let (width, least) = match info {
            0..=23 => return Ok((major, u64::from(info))),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            28..=30 => return Err(Malformed("reserved additional information")),
            _ => return Err(NotCanonical("indefinite length")),
        };
        let argument =
            self.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if argument < least {
            return Err(NotCanonical("an integer or length is not in its shortest form"));
        }
        Ok((major, argument))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], EncodingError> {
        let rest = self.bytes.get(self.at..).ok_or(Malformed("truncated"))?;
        let len = usize::try_from(len).map_err(|_| Malformed("truncated"))?;
        let taken = rest.get(..len).ok_or(Malformed("truncated"))?;
        self.at += len;
        Ok(taken)
    }
}

fn below(depth: usize) -> Result<usize, EncodingError> {
    depth.checked_sub(1).ok_or(Malformed("nested too deeply"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deterministic_items_report_their_length() {
        for (bytes, len) in [
            (&[0x17][..], 1),
            (&[0x18, 24], 2),
            (&[0x43, 1, 2, 3, 0xff], 4),
            (&[0xa2, 0x01, 0x02, 0x20, 0x03], 5),
            (&[0xa2, 0x61, b'b', 0x00, 0x62, b'a', b'a', 0x00], 8),
        ] {
            assert_eq!(deterministic_item(bytes), Ok(len), "{bytes:02x?}");
        }
    }

    #[test]
    fn other_forms_of_the_same_value_are_not_canonical() {
        for bytes in [
            &[0x18, 23][..],
            &[0x19, 0, 255],
            &[0x1a, 0, 0, 255, 255],
            &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255],
            &[0x58, 1, 0],
            &[0x9f, 0xff],
            &[0xbf, 0xff],
            &[0x5f, 0x41, 0, 0xff],
            &[0xa2, 0x20, 0x03, 0x01, 0x02],
            &[0xa2, 0x01, 0x02, 0x01, 0x03],
            &[0xa2, 0x62, b'a', b'a', 0x00, 0x61, b'b', 0x00],
        ] {
            assert!(matches!(deterministic_item(bytes), Err(NotCanonical(_))), "{bytes:02x?}");
        }
    }

    #[test]
    fn hostile_lengths_and_depths_are_malformed() {
        for bytes in [
            &[][..],
            &[0x42, 1],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
            &[0x81; 64],
            &[0x61, 0xff],
            &[0x1c],
            &[0xf6],
            &[0xfb, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xc1, 0x00],
        ] {
            assert!(matches!(deterministic_item(bytes), Err(Malformed(_))), "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_a_fixed_point_of_decoding(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(len) = deterministic_item(&bytes) {
                let value: ciborium::Value = ciborium::from_reader(&bytes[..len]).unwrap();
                let mut again = Vec::new();
                ciborium::into_writer(&value, &mut again).unwrap();
                prop_assert_eq!(&again[..], &bytes[..len]);
            }
        }
    }
}
