//! What a start does with the maps of the one before.

use std::fs;

use enforcer_common::abi::{
    ABI_VERSION, Config as KernelConfig, NonceState, VerdictKey, VerdictValue, verdict_action,
};
use enforcer_user::config::Config;
use enforcer_user::datapath::{Datapath, DatapathError};

use crate::place::{config, isolated, read_single, tried_when_free, when_free, write_single};

#[test]
fn a_restart_adopts_maps_and_epoch_and_draws_a_new_nonce_secret() {
    isolated(|root, _| {
        let config = config(root, "");
        let key = VerdictKey { peer: 9, epoch: 5, workload: 1, port: 80, ..VerdictKey::default() };
        let value = VerdictValue { action: verdict_action::ALLOW, ..VerdictValue::default() };
        let nonces = || read_single::<NonceState>(&config, "NONCES");

        let (mut first, events) = when_free(|| Datapath::open(&config));
        assert!(first.adopted().unwrap().is_none());
        assert_eq!(first.maps.config().unwrap().abi_version, ABI_VERSION);
        first.maps.verdicts.insert(&key, &value).unwrap();
        first.maps.flip_epoch(5).unwrap();
        let before = nonces();
        assert_ne!(before.secret, [0; 2]);
        let second = Datapath::open(&config).map(drop);
        let folder = config.pin_dir();
        assert!(matches!(&second, Err(DatapathError::Busy(busy)) if *busy == folder), "{second:?}");
        drop((first, events));

        let (second, _events) = when_free(|| Datapath::open(&config));
        let adopted = second.adopted().unwrap().unwrap();
        assert_eq!(adopted.epoch, 5);
        assert_eq!(adopted.verdicts, [(key, value)]);
        let after = nonces();
        assert_ne!(after.secret, before.secret);
        assert!(after.counter > before.counter);
    });
}

#[test]
fn maps_of_another_version_or_size_are_refused_by_name() {
    isolated(|root, _| {
        let ordinary = config(root, "");
        drop(when_free(|| Datapath::open(&ordinary)));
        let refusal = |config: &Config| match tried_when_free(|| Datapath::open(config)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was not refused"),
        };

        let smaller = refusal(&config(root, "[limits]\nflows = 2048\n"));
        assert!(smaller.contains("map FLOWS") && smaller.contains("expects 2048"), "{smaller}");
        assert!(smaller.contains("enforcer detach"), "{smaller}");

        let of_version = |version| {
            let mut pinned: KernelConfig = read_single(&ordinary, "CONFIG");
            pinned.abi_version = version;
            write_single(&ordinary, "CONFIG", pinned);
            refusal(&ordinary)
        };
        let newer = of_version(77);
        assert!(newer.contains("layout 77, made by a later version"), "{newer}");
        // Nothing of it was released: no version takes over from it.
        let older = of_version(1);
        assert!(older.contains("map CONFIG") && older.contains("enforcer detach"), "{older}");
    });
}

#[test]
fn what_a_start_left_that_died_is_made_anew() {
    isolated(|root, _| {
        let config = config(root, "");
        drop(when_free(|| Datapath::open(&config)));
        fs::remove_file(config.pin_dir().join("CONFIG")).unwrap();
        let (datapath, _events) = when_free(|| Datapath::open(&config));
        assert!(datapath.adopted().unwrap().is_none());
    });
}
