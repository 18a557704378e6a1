//! The options of a TCP header, and ours among them.

use enforcer_common::wire::option::{
    HandshakeOption, OPTION_BYTES, OPTIONS_MAX, Options, ScanState, scan,
};
use enforcer_common::wire::room::{RoomState, make};

use super::feed::Feed;

/// Most options that the datapath reads.
const OPTIONS_READ: usize = 19;

/// `data` is what the option says (16 bytes), then the options of the header.
pub fn run(data: &[u8]) {
    let mut feed = Feed::new(data);
    let body = feed.array();
    let options = feed.bytes(OPTIONS_MAX);
    let found = scanned(options);
    assert_eq!(found, scan_plainly(options), "{options:02x?}");
    reads_back(body);
    stamped_behind(options, found, body);
    room_made(options, found);
}

fn scanned(options: &[u8]) -> Option<Options> {
    let mut padded = [0; OPTIONS_MAX];
    padded[..options.len()].copy_from_slice(options);
    let found = scan(&padded, options.len(), &mut ScanState::default());
    // What stands behind the header's end is no option, whatever it holds.
    padded[options.len()..].fill(0xfd);
    assert_eq!(scan(&padded, options.len(), &mut ScanState::default()), found);
    found
}

/// The same, as one would write it without a verifier.
fn scan_plainly(options: &[u8]) -> Option<Options> {
    let (mut rest, mut experiments, mut join) = (options, Vec::new(), false);
    for _ in 0..=OPTIONS_READ {
        let (option, behind) = match rest {
            [] | [0, ..] => {
                let ours = experiments == [true];
                return Some(Options { ours, wrong: !ours && !experiments.is_empty(), join });
            }
            [1, ..] => rest.split_at(1),
            [_, size, ..] if *size >= 2 => rest.split_at_checked(usize::from(*size))?,
            _ => return None,
        };
        if let [253, size, 0x45, 0x4e, ..] = option {
            experiments.push(usize::from(*size) == OPTION_BYTES && behind.is_empty());
        }
        join |= matches!(option, [30, _, subtype, ..] if subtype >> 4 == 1);
        rest = behind;
    }
    None
}

fn reads_back(body: [u8; 16]) {
    let proof = HandshakeOption::proof(body);
    assert!(proof.is_ours() && proof.body == body);
    let hello = HandshakeOption::hello(proof.handle(), proof.nonce());
    assert_eq!(hello, proof);
}

/// Ours behind other options is found exactly if they parse, do not end the list, and none is ours.
fn stamped_behind(options: &[u8], found: Option<Options>, body: [u8; 16]) {
    if options.len() + OPTION_BYTES > OPTIONS_MAX {
        return;
    }
    let option = HandshakeOption::proof(body);
    let all = [options, &option.head, &option.body].concat();
    let stamped = scanned(&all);
    assert_eq!(stamped, scan_plainly(&all));
    let Some(before) = found else { return };
    if let Some(stamped) = stamped {
        assert_eq!(stamped.join, before.join);
        assert!(!(before.ours || before.wrong) || !stamped.ours, "two of ours count as one");
    }
}

/// What is left when room was made parses, is not longer, holds of ours and of joins what there was,
/// and has nothing more to give.
fn room_made(options: &[u8], found: Option<Options>) {
    let length = options.len() & !3;
    let mut padded = [0; OPTIONS_MAX];
    padded[..length].copy_from_slice(&options[..length]);
    let Some(kept) = make(&mut padded, length, &mut RoomState::default()) else { return };
    assert!(kept <= length && kept.is_multiple_of(4));
    let mut again = padded;
    assert_eq!(make(&mut again, kept, &mut RoomState::default()), Some(kept));
    assert_eq!(again[..kept], padded[..kept]);
    if let (Some(before), Some(after)) = (found, scanned(&padded[..kept]))
        && length == options.len()
    {
        assert_eq!(after.join, before.join, "{options:02x?}");
        assert_eq!(after.ours || after.wrong, before.ours || before.wrong, "{options:02x?}");
    }
}
