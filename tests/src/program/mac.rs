//! The MACs of the handshake by the `blake3` crate, from the layout in docs/PROTOCOL.md.

use enforcer_common::abi::{Address, Handle, Mac, Nonce};

/// What both MACs cover, initiator first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Handles of initiator and responder.
    pub handles: [Handle; 2],
    /// Nonces of initiator and responder.
    pub nonces: [Nonce; 2],
}

impl Covered {
    /// `mac_B`: label, handles, nonces, the responder's address (IPv4 mapped) and port.
    #[must_use]
    pub fn answer(&self, key: &[u8; 32], address: &Address, port: u16) -> Mac {
        keyed(key, &[&self.bytes(*b"EN2\x01"), &address[..], &port.to_be_bytes()].concat())
    }

    /// `mac_A`: label, handles, nonces.
    #[must_use]
    pub fn proof(&self, key: &[u8; 32]) -> Mac {
        self.proof_labelled(*b"EN3\x01", key)
    }

    /// What a proof would be under another label.
    #[must_use]
    pub fn proof_labelled(&self, label: [u8; 4], key: &[u8; 32]) -> Mac {
        keyed(key, &self.bytes(label))
    }

    /// What a proof would be under the label of S2: no one must take it for one.
    #[must_use]
    pub fn proof_of_another_step(&self, key: &[u8; 32]) -> Mac {
        self.proof_labelled(*b"EN2\x01", key)
    }

    fn bytes(&self, label: [u8; 4]) -> Vec<u8> {
        [&label[..], &self.handles.concat(), &self.nonces.concat()].concat()
    }
}

fn keyed(key: &[u8; 32], input: &[u8]) -> Mac {
    let hash = blake3::keyed_hash(key, input);
    *hash.as_bytes().first_chunk().expect("a hash is longer than a MAC")
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
