//! Both MACs of a handshake by the `blake3` crate, from the layout in docs/PROTOCOL.md.

use enforcer_common::abi::{Address, Handle, Mac, Nonce};

/// The label of the protocol, its version included.
pub const LABEL: [u8; 4] = *b"ENM\x02";

/// What the MACs cover, initiator first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Handles of initiator and responder.
    pub handles: [Handle; 2],
    /// Nonces of initiator and responder.
    pub nonces: [Nonce; 2],
    /// The responder's address, IPv4 in mapped form.
    pub address: Address,
    /// The responder's port.
    pub port: u16,
}

impl Covered {
    /// `mac_B` and `mac_A` under a label.
    #[must_use]
    pub fn macs(&self, label: [u8; 4], key: &[u8; 32]) -> [Mac; 2] {
        let transcript = [self.handles.concat(), self.nonces.concat()].concat();
        let end = [&self.address[..], &self.port.to_be_bytes()].concat();
        let hash = blake3::keyed_hash(key, &[&label[..], &transcript, &end].concat());
        let (macs, _) = hash.as_bytes().as_chunks();
        [macs[0], macs[1]]
    }

    /// `mac_B`.
    #[must_use]
    pub fn answer(&self, key: &[u8; 32]) -> Mac {
        self.macs(LABEL, key)[0]
    }

    /// `mac_A`.
    #[must_use]
    pub fn proof(&self, key: &[u8; 32]) -> Mac {
        self.macs(LABEL, key)[1]
    }
}

/// A key as the maps hold it.
#[must_use]
pub fn words(key: &[u8; 32]) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}
