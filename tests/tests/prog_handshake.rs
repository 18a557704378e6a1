//! The handshake, step by step: what is stamped, what is accepted, and what must not be.

use enforcer_common::abi::{NonceState, flow_flags, flow_state};
use enforcer_tests::program::kernel::{Action, Hook};
use enforcer_tests::program::table::compare;
use enforcer_tests::program::world::{
    Family, LOCAL_ISN, PEER, PEER_NONCE, REMOTE_ISN, SERVICE, Side, World,
};

#[track_caller]
fn expect(world: &mut World, hook: Hook, frame: &[u8], out: &[u8], counters: &[&str]) {
    let seen = world.run(hook, frame);
    compare(&seen, Action::Pass, Some(out), counters).unwrap();
}

#[test]
fn s1_leaves_with_option_and_credential_and_again_the_same() {
    for family in Family::BOTH {
        let mut w = World::new(family, Side::Client);
        let syn = w.syn_out().frame();
        let seen = w.run(Hook::From, &syn);
        let attempt = w.attempt().expect("an attempt");
        assert_ne!(attempt.local_nonce, [0; 8]);
        assert_eq!((attempt.local_handle, attempt.local_isn), (w.own.handle, LOCAL_ISN));
        let s1 = w.s1_out().frame();
        compare(&seen, Action::Pass, Some(&s1), &["s1_sent"]).unwrap();
        assert_eq!(w.kernel.single::<NonceState>("NONCES").counter, 1);
        expect(&mut w, Hook::From, &syn, &s1, &["s1_sent"]);
        assert_eq!(w.kernel.single::<NonceState>("NONCES").counter, 1, "no nonce for a repetition");
    }
}
