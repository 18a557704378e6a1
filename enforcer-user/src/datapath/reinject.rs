//! Puts frames back into the kernel: a tap device that nobody else uses, whose ingress program cuts
//! the trailer off and sends the frame where that says. The frame then passes the same hooks as any
//! other; re-injection grants nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use enforcer_common::abi::{HELD_FRAME_MAX, ReinjectTrailer};

use super::attach::{Hook, Mechanism};
use super::error::DatapathError;
use super::load::Loaded;
use super::netlink;
use crate::checksum;

const TUN_DEVICE: &str = "/dev/net/tun";

/// `IFF_TAP | IFF_NO_PI` (`<linux/if_tun.h>`): Ethernet frames, nothing in front of them.
const TAP_FLAGS: libc::c_short = 0x1002;

nix::ioctl_write_ptr_bad!(
    /// Makes the descriptor a tap device (`<linux/if_tun.h>`).
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// The helper interface. It goes with its descriptor.
#[derive(Debug)]
pub struct Reinjector {
    tap: File,
    name: String,
    buffer: Vec<u8>,
}

impl Reinjector {
    /// Makes the helper interface of an instance and attaches its program.
    pub(super) fn open(
        instance: &str,
        loaded: &mut Loaded,
        mechanism: Mechanism,
    ) -> Result<Self, DatapathError> {
        let name = helper_name(instance);
        let tap = open_tap(&name)?;
        let facts =
            netlink::link(&name)?.ok_or_else(|| DatapathError::NoInterface(name.clone()))?;
        mechanism.attach_for_life(loaded, "reinject", &facts, Hook::Ingress)?;
        // Up last: nothing that arrives there goes anywhere but through the program.
        netlink::raise_helper(facts.ifindex)?;
        Ok(Self { tap, name, buffer: Vec::with_capacity(HELD_FRAME_MAX + TRAILER_BYTES) })
    }

    /// Sends a frame, from its Ethernet header on, to where `to` says. A held frame of a local sender has
    /// only the pseudo header in its checksum; it is completed first.
    ///
    /// # Errors
    /// The frame is no whole TCP or UDP segment, is longer than a held frame can be, or its checksum is
    /// wrong: it was damaged on its way, and a new checksum would hide that.
    pub fn send(&mut self, frame: &[u8], to: ReinjectTrailer) -> Result<(), DatapathError> {
        if frame.len() > HELD_FRAME_MAX {
            let reason = "longer than a held frame can be";
            return Err(DatapathError::Frame { length: frame.len(), reason });
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(frame);
        checksum::complete(&mut self.buffer)
            .map_err(|reason| DatapathError::Frame { length: frame.len(), reason })?;
        self.buffer.extend_from_slice(&trailer_bytes(to));
        let written = self.tap.write(&self.buffer).map_err(|source| self.error("write", source))?;
        if written == self.buffer.len() {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::WriteZero, "the frame was cut short");
        Err(self.error("write", source))
    }

    /// Name of the helper interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn error(&self, action: &'static str, source: io::Error) -> DatapathError {
        DatapathError::Helper { name: self.name.clone(), action, source }
    }
}

const TRAILER_BYTES: usize = size_of::<ReinjectTrailer>();

/// The fields in host order, as the program reads them.
fn trailer_bytes(trailer: ReinjectTrailer) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[..4].copy_from_slice(&trailer.ifindex.to_ne_bytes());
    bytes[4..8].copy_from_slice(&trailer.ingress.to_ne_bytes());
    bytes[8..].copy_from_slice(&trailer.mark.to_ne_bytes());
    bytes
}

/// A name of at most 15 bytes, different for every instance of one network namespace.
pub(super) fn helper_name(instance: &str) -> String {
    let hash = blake3::hash(instance.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    format!("enf-{:08x}", u32::from_be_bytes([a, b, c, d]))
}

fn open_tap(name: &str) -> Result<File, DatapathError> {
    let failed = |action, source| DatapathError::Helper { name: name.to_owned(), action, source };
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN_DEVICE)
        .map_err(|e| failed("open /dev/net/tun (kernel module tun)", e))?;
    let mut wanted = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: TAP_FLAGS },
    };
    for (to, from) in wanted.ifr_name.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        // Signed on some processors, unsigned on others.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which outlives
    // the call.
    unsafe { tun_set_iff(tap.as_raw_fd(), &raw const wanted) }
        .map_err(|e| failed("create", e.into()))?;
    Ok(tap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helper_names_fit_and_differ() {
        let longest = helper_name("abcdefghijklmnopqrstuvwxyz-01234");
        assert!(longest.len() < libc::IFNAMSIZ, "{longest}");
        assert_ne!(helper_name("a"), helper_name("b"));
        assert_eq!(helper_name("default"), helper_name("default"));
    }

    #[test]
    fn the_trailer_is_laid_out_as_the_program_reads_it() {
        let bytes = trailer_bytes(ReinjectTrailer { ifindex: 0x0102_0304, ingress: 1, mark: 7 });
        assert_eq!(bytes[..4], 0x0102_0304u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 1u32.to_ne_bytes());
        assert_eq!(bytes[8..], 7u32.to_ne_bytes());
    }
}
