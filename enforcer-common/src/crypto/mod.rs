//! Keyed single-block BLAKE3, and everything that is ever hashed with it.

mod blake3;
mod mac;

pub use blake3::{BLOCK_WORDS, KEY_WORDS, keyed_block};
pub use mac::{
    MacInput, Step, Transcript, answer_input, mac_bytes, mac_words, nonce_input, proof_input,
    same_mac,
};
