//! The MACs of a transcript, by the code of the programs.

use std::cell::RefCell;
use std::collections::HashMap;

use enforcer_common::abi::Mac;
use enforcer_common::crypto::{
    BLOCK_WORDS, KEY_WORDS, MacInput, Transcript, mac_bytes, mac_input, macs,
};

use super::{End, Weakening};

type Key = [u32; KEY_WORDS];
type Known = HashMap<(Key, [u32; BLOCK_WORDS]), Both>;

/// The MACs of a handshake, as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Both {
    /// `mac_B`.
    pub answer: Mac,
    /// `mac_A`.
    pub proof: Mac,
}

/// Both MACs, as this protocol has them.
#[must_use]
pub fn both(weakening: Weakening, key: &Key, transcript: &Transcript, end: End) -> Both {
    let mut input = MacInput { block: [0; BLOCK_WORDS] };
    mac_input(&mut input, transcript, &end.address, end.port);
    weakening.on_input(&mut input);
    let made = hash(key, &input);
    let proof = if weakening == Weakening::AlikeMacs { made.answer } else { made.proof };
    Both { proof, ..made }
}

/// The hash is slow without optimisation, and a model check asks for few inputs, often: each is hashed once.
fn hash(key: &Key, input: &MacInput) -> Both {
    thread_local!(static KNOWN: RefCell<Known> = RefCell::default());
    KNOWN.with_borrow_mut(|known| {
        *known.entry((*key, input.block)).or_insert_with(|| {
            let made = macs(key, input);
            Both { answer: mac_bytes(made.answer), proof: mac_bytes(made.proof) }
        })
    })
}
