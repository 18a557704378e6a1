//! Every domain-separation label of credentials and keys, in one place.
//!
//! Each names the protocol version: nothing signed, derived or hashed for one purpose or version
//! can be taken for another.

/// `external_aad` of a credential signed by a node key (RFC 9052 4.3).
pub const CREDENTIAL_PKI: &[u8] = b"enforcer 1 credential pki";
/// `external_aad` of a credential under the pre-shared key (RFC 9052 4.3).
pub const CREDENTIAL_PSK: &[u8] = b"enforcer 1 credential psk";
/// `external_aad` of a node certificate.
pub const NODE_CERTIFICATE: &[u8] = b"enforcer 1 node certificate";
/// `external_aad` of an authority certificate.
pub const AUTHORITY_CERTIFICATE: &[u8] = b"enforcer 1 authority certificate";
/// `external_aad` of a node's request for a certificate.
pub const NODE_REQUEST: &[u8] = b"enforcer 1 node request";

/// BLAKE3 derive_key context: the HMAC key of pre-shared-key credentials, from the pre-shared key.
pub const CREDENTIAL_KEY_PSK: &str = "enforcer 1 credential key psk";
/// BLAKE3 derive_key context: pair keys from an X25519 output.
pub const PAIR_KEY_PKI: &str = "enforcer 1 pair key pki";
/// BLAKE3 derive_key context: pair keys from the pre-shared key.
pub const PAIR_KEY_PSK: &str = "enforcer 1 pair key psk";
/// BLAKE3 derive_key context: identity ids.
pub const IDENTITY_ID: &str = "enforcer 1 identity id";
/// BLAKE3 derive_key context: the key id by which certificates name their authority.
pub const AUTHORITY_KEY_ID: &str = "enforcer 1 authority key id";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_labels_are_equal() {
        let labels = [
            CREDENTIAL_PKI,
            CREDENTIAL_PSK,
            NODE_CERTIFICATE,
            AUTHORITY_CERTIFICATE,
            NODE_REQUEST,
            CREDENTIAL_KEY_PSK.as_bytes(),
            PAIR_KEY_PKI.as_bytes(),
            PAIR_KEY_PSK.as_bytes(),
            IDENTITY_ID.as_bytes(),
            AUTHORITY_KEY_ID.as_bytes(),
        ];
        assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), labels.len());
    }
}
