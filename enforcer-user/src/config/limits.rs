//! `[limits]`: how much the kernel's tables hold and how much reaches userspace.

use super::reader::Section;

/// Entries of the kernel's tables, and the rate of first contacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of each flow table (one for IPv4, one for IPv6).
    pub flows: u32,
    /// Pairs of a local and a remote credential.
    pub peers: u32,
    /// Half-open handshakes.
    pub attempts: u32,
    /// Cached policy answers.
    pub verdicts: u32,
    /// Segments handed to userspace each second, in all; one source (/24, /64) has a tenth.
    pub cold_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 131_072,
            peers: 16_384,
            attempts: 16_384,
            verdicts: 65_536,
            cold_per_second: 20_000,
        }
    }
}

pub(super) fn read(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        flows: section.or("flows", default.flows, |v| v.integer(&(1024..=4_194_304))),
        peers: section.or("peers", default.peers, |v| v.integer(&(64..=1_048_576))),
        attempts: section.or("attempts", default.attempts, |v| v.integer(&(64..=1_048_576))),
        verdicts: section.or("verdicts", default.verdicts, |v| v.integer(&(64..=4_194_304))),
        cold_per_second: section
            .or("cold_per_second", default.cold_per_second, |v| v.integer(&(10..=1_000_000))),
    };
    section.finish();
    limits
}
