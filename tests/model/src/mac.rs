//! The MACs of a transcript, by the code of the programs.

use std::cell::RefCell;
use std::collections::HashMap;

use enforcer_common::abi::Mac;
use enforcer_common::crypto::{
    BLOCK_WORDS, KEY_WORDS, MacInput, Transcript, answer_input, keyed_block, mac_bytes, proof_input,
};

use super::{End, Weakening};

type Key = [u32; KEY_WORDS];
type Known = HashMap<(Key, [u32; BLOCK_WORDS], u32), Mac>;

/// `mac_B`, as this protocol has it.
#[must_use]
pub fn answer(weakening: Weakening, key: &Key, transcript: &Transcript, end: End) -> Mac {
    let mut input = blank();
    answer_input(&mut input, transcript, &end.address, end.port);
    weakening.on_answer(&mut input);
    hash(key, &input)
}

/// `mac_A`, as this protocol has it.
#[must_use]
pub fn proof(weakening: Weakening, key: &Key, transcript: &Transcript) -> Mac {
    let mut input = blank();
    proof_input(&mut input, transcript);
    weakening.on_both(&mut input);
    hash(key, &input)
}

fn blank() -> MacInput {
    MacInput { block: [0; BLOCK_WORDS], length: 0 }
}

/// The hash is slow without optimisation, and a model check asks for few inputs, often: each is hashed once.
fn hash(key: &Key, input: &MacInput) -> Mac {
    thread_local!(static KNOWN: RefCell<Known> = RefCell::default());
    KNOWN.with_borrow_mut(|known| {
        *known
            .entry((*key, input.block, input.length))
            .or_insert_with(|| mac_bytes(keyed_block(key, &input.block, input.length)))
    })
}
