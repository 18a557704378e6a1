//! Secret keys: of nodes and authorities, of credentials, and the pre-shared key.
//!
//! All are erased when dropped, and none shows itself in `Debug`.

use std::fmt;

use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding};
use ed25519_dalek::{Signer, SigningKey as Ed25519};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;
use x25519_dalek::{PublicKey as X25519Public, StaticSecret};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{contexts, x25519};

/// The system has no randomness to give; nothing may be made without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the system's random number generator failed ({0}): no key can be made without it")]
pub struct NoRandomness(getrandom::Error);

/// Fresh bytes from the system.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// The Ed25519 key of a node or an authority (RFC 8032).
pub struct SigningKey(Ed25519);

// The key inside erases itself.
impl ZeroizeOnDrop for SigningKey where Ed25519: ZeroizeOnDrop {}

impl SigningKey {
    /// A fresh key from the system's randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self::from_seed(&Zeroizing::new(random()?)))
    }

    /// The key of a 32-byte RFC 8032 seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519::from_bytes(seed))
    }

    /// Reads PKCS#8 PEM (RFC 5958, RFC 8410); `None` when it is anything else.
    #[must_use]
    pub fn from_pem(pem: &str) -> Option<Self> {
        Ed25519::from_pkcs8_pem(pem).ok().map(Self)
    }

    /// PKCS#8 PEM with the public key (RFC 5958, RFC 8410).
    ///
    /// # Panics
    /// Never: an Ed25519 key has a fixed size, so it always has this form.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a key of fixed size always has this form")]
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 key always has a PKCS#8 form")
    }

    /// The public half, 32 bytes as in RFC 8032 5.1.5.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

/// The X25519 secret of one credential (RFC 7748); it lives as long as that credential.
pub struct AgreementKey(StaticSecret);

// The secret inside erases itself.
impl ZeroizeOnDrop for AgreementKey where StaticSecret: ZeroizeOnDrop {}

impl AgreementKey {
    /// A fresh key from the system's randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self::from_bytes(&Zeroizing::new(random()?)))
    }

    /// The key of 32 secret bytes, clamped when used (RFC 7748 5).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    /// The public half: a little-endian u-coordinate.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        X25519Public::from(&self.0).to_bytes()
    }

    /// The shared secret with `peer`, or `None` when it is all zero: the peer's point is of low order (RFC 7748 6.1).
    pub(super) fn agree(&self, peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        x25519::agree(&self.0, peer)
    }
}

impl fmt::Debug for AgreementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgreementKey(redacted)")
    }
}

/// Why a pre-shared key was refused. The key itself is never part of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PskError {
    /// Not 64 hexadecimal digits.
    #[error(
        "a pre-shared key is 64 hexadecimal digits (256 random bits), one line; `enforcer psk generate` makes one"
    )]
    Form,
    /// A pattern that no random generator would give.
    #[error(
        "this pre-shared key is not random (it repeats or counts); `enforcer psk generate` makes one from 256 random bits"
    )]
    Weak,
}

/// 256 random bits that every node of a small set-up holds; whoever holds them can be anyone.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

// The bytes inside erase themselves.
impl ZeroizeOnDrop for PresharedKey where Zeroizing<[u8; 32]>: ZeroizeOnDrop {}

impl PresharedKey {
    /// A fresh key from the system's randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// Takes 32 bytes, unless they are plainly not random.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, PskError> {
        if is_patterned(bytes) { Err(PskError::Weak) } else { Ok(Self(Zeroizing::new(*bytes))) }
    }

    /// Reads 64 hexadecimal digits; white space around them is allowed.
    pub fn from_hex(text: &str) -> Result<Self, PskError> {
        let digits = text.trim_ascii().as_bytes();
        if digits.len() != 64 {
            return Err(PskError::Form);
        }
        let mut bytes = Zeroizing::new([0; 32]);
        for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks().0) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Self::from_bytes(&bytes)
    }

    /// 64 hexadecimal digits and a newline.
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "a nibble is below 16")]
    pub fn to_hex(&self) -> Zeroizing<String> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // The full size at once: growing would leave copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(65));
        for byte in self.0.iter() {
            text.push(DIGITS[usize::from(byte >> 4)].into());
            text.push(DIGITS[usize::from(byte & 15)].into());
        }
        text.push('\n');
        text
    }

    /// The secret itself, for deriving pair keys.
    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC-SHA-256 under the key derived for credentials (RFC 2104).
    pub(super) fn tag(&self, message: &[u8]) -> [u8; 32] {
        self.hmac(message).finalize().into_bytes().into()
    }

    /// Whether `tag` is that of `message`, compared in constant time.
    pub(super) fn tag_matches(&self, message: &[u8], tag: &[u8]) -> bool {
        self.hmac(message).verify_slice(tag).is_ok()
    }

    #[allow(clippy::expect_used, reason = "HMAC takes a key of any length")]
    fn hmac(&self, message: &[u8]) -> Hmac<Sha256> {
        let key = Zeroizing::new(blake3::derive_key(contexts::CREDENTIAL_KEY_PSK, &*self.0));
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes a key of any length");
        mac.update(message);
        mac
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

fn nibble(digit: u8) -> Result<u8, PskError> {
    let value = char::from(digit).to_digit(16).ok_or(PskError::Form)?;
    u8::try_from(value).map_err(|_| PskError::Form)
}

/// Repeated, counting or few-valued bytes. 32 random bytes hold under 16 values once in 2^50 or less.
fn is_patterned(bytes: &[u8; 32]) -> bool {
    let mut seen = [false; 256];
    for byte in bytes {
        if let Some(seen) = seen.get_mut(usize::from(*byte)) {
            *seen = true;
        }
    }
    let distinct = seen.iter().filter(|seen| **seen).count();
    let step = bytes[1].wrapping_sub(bytes[0]);
    let counts = bytes.array_windows().all(|[a, b]| b.wrapping_sub(*a) == step);
    distinct < 16 || counts || bytes[..16] == bytes[16..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signing_key_survives_its_pem_form() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(again.sign(b"x"), key.sign(b"x"));
        assert!(SigningKey::from_pem("-----BEGIN PRIVATE KEY-----").is_none());
    }

    #[test]
    fn debug_shows_no_secret() {
        let seed = [0xab; 32];
        let psk = PresharedKey::generate().unwrap();
        assert_eq!(format!("{:?}", SigningKey::from_seed(&seed)), "SigningKey(redacted)");
        assert_eq!(format!("{:?}", AgreementKey::from_bytes(&seed)), "AgreementKey(redacted)");
        assert_eq!(format!("{psk:?}"), "PresharedKey(redacted)");
    }

    #[test]
    fn a_preshared_key_survives_its_hexadecimal_form() {
        let key = PresharedKey::generate().unwrap();
        assert_eq!(PresharedKey::from_hex(&key.to_hex()).unwrap().secret(), key.secret());
        for text in ["", "00", &"g".repeat(64), &"ab".repeat(33)] {
            assert_eq!(PresharedKey::from_hex(text).unwrap_err(), PskError::Form, "{text}");
        }
    }

    #[test]
    fn patterned_preshared_keys_are_refused() {
        let counting = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let halves = std::array::from_fn(|n| b"5up3r-s3cret-key"[n % 16]);
        for bytes in [[0; 32], [0x5a; 32], counting, halves] {
            assert_eq!(PresharedKey::from_bytes(&bytes).unwrap_err(), PskError::Weak);
        }
    }

    #[test]
    fn agreement_is_mutual_and_refuses_low_order_points() {
        let (a, b) = (AgreementKey::generate().unwrap(), AgreementKey::generate().unwrap());
        assert_eq!(a.agree(&b.public()).unwrap(), b.agree(&a.public()).unwrap());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(a.agree(&[0; 32]).is_none());
        assert!(a.agree(&one).is_none());
    }
}
