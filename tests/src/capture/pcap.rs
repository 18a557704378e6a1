//! Writing of the classic pcap file format (draft-ietf-opsawg-pcap), link type Ethernet.

use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};

use super::Frame;

const MAGIC: u32 = 0xA1B2_C3D4;
const SNAP: u32 = 262_144;
const ETHERNET: u32 = 1;

/// Writes the frames to a new file, replacing an old one.
pub fn write(path: &Path, frames: &[Frame]) -> Result<()> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_be_bytes());
    out.extend([0, 2, 0, 4]);
    out.extend([0; 8]);
    out.extend(SNAP.to_be_bytes());
    out.extend(ETHERNET.to_be_bytes());
    for frame in frames {
        let at = frame.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        out.extend(u32::try_from(at.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(at.subsec_micros().to_be_bytes());
        out.extend(word(frame.bytes.len()));
        out.extend(word(frame.length));
        out.extend(&frame.bytes);
    }
    std::fs::write(path, out).with_context(|| format!("cannot write {}", path.display()))
}
