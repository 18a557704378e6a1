//! The protocol with one defence left out, to see that the model checker notices.

use enforcer_common::crypto::MacInput;

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Weakening {
    /// Nothing: the protocol as it is.
    #[default]
    None,
    /// Both MACs are the same half of the hash.
    AlikeMacs,
    /// The MACs leave out the initiator's nonce.
    NoInitiatorNonce,
    /// The MACs leave out the responder's nonce.
    NoResponderNonce,
    /// The MACs leave out address and port.
    AddressNotCovered,
    /// Address and port of S2 are not compared with what was dialled.
    AddressNotCompared,
    /// `mac_B` is not checked.
    AnswerUnchecked,
    /// `mac_A` is not checked.
    ProofUnchecked,
    /// An attempt outlives its proof.
    AttemptKept,
    /// A flow of an older epoch passes.
    EpochIgnored,
    /// The proof asks for no verdict.
    ProofUnjudged,
    /// S1 asks for no verdict.
    CallerUnjudged,
    /// S2 asks for no verdict.
    AnswererUnjudged,
    /// A SYN-ACK without identity needs no rule.
    PlainAnswerAllowed,
    /// A SYN without identity needs no rule.
    PlainCallAllowed,
    /// All pairs share one key, and the MACs leave out the handles.
    OneKey,
    /// A daemon that starts draws no new secret: nonces come again.
    NoncesRepeat,
    /// The daemon does not sweep behind a policy change.
    NoSweep,
}

impl Weakening {
    /// The input as this protocol has it. Words of the block: label, handles, nonces, then address and port.
    pub(super) fn on_input(self, input: &mut MacInput) {
        match self {
            Self::OneKey => input.block[1..5].fill(0),
            Self::NoInitiatorNonce => input.block[5..7].fill(0),
            Self::NoResponderNonce => input.block[7..9].fill(0),
            Self::AddressNotCovered => input.block[9..14].fill(0),
            _ => {}
        }
    }
}
