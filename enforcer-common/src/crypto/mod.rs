//! Keyed single-block BLAKE3 for MACs, SipHash for nonces, and everything that is ever hashed with
//! either.

mod blake3;
mod mac;
mod nonce;

pub use blake3::{BLOCK_WORDS, KEY_WORDS};
pub use mac::{MacInput, Macs, Transcript, mac_bytes, mac_input, mac_words, macs, same_mac};
pub use nonce::{NONCE_KEY_WORDS, nonce};
