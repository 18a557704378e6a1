//! The model can fail: with one defence left out, the checker must find the attack that the defence is there for.

use enforcer_model::Weakening;
use stateright::{Checker, HasDiscoveries, Model};

use crate::history::{CLIENT_AGREES, NO_RELAY, NO_REPLAY, ONLY_ALLOWED, SERVER_AGREES, SWEPT};
use crate::scenario::{change, relay, replay, restart, stranger};
use crate::system::System;

fn breaks(system: System, property: &'static str) {
    let weakening = system.weakening;
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = system.checker().threads(2).finish_when(found).spawn_bfs().join();
    let attack = checker.discovery(property);
    let steps = attack.unwrap_or_else(|| panic!("{weakening:?} breaks nothing: {property}"));
    println!(
        "{weakening:?}: {} steps, {} states; {property}",
        steps.into_actions().len(),
        checker.unique_state_count()
    );
}

macro_rules! weakenings {
    ($($name:ident: $weakening:ident in $arrangement:ident breaks $property:ident;)+) => {$(
        #[test]
        fn $name() {
            breaks($arrangement(Weakening::$weakening), $property);
        }
    )+};
}

weakenings! {
    alike_macs: AlikeMacs in stranger breaks SERVER_AGREES;
    no_initiator_nonce: NoInitiatorNonce in replay breaks CLIENT_AGREES;
    no_responder_nonce: NoResponderNonce in stranger breaks SERVER_AGREES;
    address_not_covered: AddressNotCovered in relay breaks NO_RELAY;
    address_not_compared: AddressNotCompared in relay breaks NO_RELAY;
    answer_unchecked: AnswerUnchecked in stranger breaks CLIENT_AGREES;
    proof_unchecked: ProofUnchecked in stranger breaks SERVER_AGREES;
    attempt_kept: AttemptKept in stranger breaks NO_REPLAY;
    epoch_ignored: EpochIgnored in change breaks ONLY_ALLOWED;
    proof_unjudged: ProofUnjudged in change breaks SWEPT;
    caller_unjudged: CallerUnjudged in stranger breaks ONLY_ALLOWED;
    answerer_unjudged: AnswererUnjudged in stranger breaks ONLY_ALLOWED;
    plain_answer_allowed: PlainAnswerAllowed in stranger breaks ONLY_ALLOWED;
    plain_call_allowed: PlainCallAllowed in stranger breaks ONLY_ALLOWED;
    one_key: OneKey in stranger breaks CLIENT_AGREES;
    nonces_repeat: NoncesRepeat in restart breaks NO_REPLAY;
    no_sweep: NoSweep in change breaks SWEPT;
}
