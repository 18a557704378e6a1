//! The memory file that a daemon leaves for the next.

use enforcer_user::daemon::memory::{HEAD, encode, parse};
use enforcer_user::identity::MAX_CREDENTIAL_BYTES;

/// `data` is the file, with or without its head.
pub fn run(data: &[u8]) {
    if let Some(found) = parse(data) {
        check(data, &found);
    }
    let whole = [HEAD, data].concat();
    let found = parse(&whole).expect("a file with its head");
    check(&whole, &found);
}

fn check(file: &[u8], found: &[Vec<u8>]) {
    assert!(found.iter().all(|credential| credential.len() <= MAX_CREDENTIAL_BYTES));
    let bytes: usize = found.iter().map(|credential| 2 + credential.len()).sum();
    assert!(HEAD.len() + bytes <= file.len(), "more was found than there is");
    let mut again = HEAD.to_vec();
    for credential in found {
        again.extend(encode(credential).expect("a credential's length"));
    }
    assert_eq!(parse(&again).as_deref(), Some(found));
    if again.len() == file.len() {
        assert_eq!(again, file);
    }
    // A killed daemon may leave half a record: those before it are found all the same.
    again.extend([0, 9, 1]);
    assert_eq!(parse(&again).as_deref(), Some(found));
}
