//! The text form in which certificates and requests lie in files (RFC 7468, strict).
//!
//! ```text
//! -----BEGIN ENFORCER NODE CERTIFICATE-----
//! base64, 64 characters a line
//! -----END ENFORCER NODE CERTIFICATE-----
//! ```

use base64ct::{Base64, Encoding};
use thiserror::Error;

const LINE_WIDTH: usize = 64;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// An authority's self-signed certificate.
    AuthorityCertificate,
    /// A node's certificate.
    NodeCertificate,
    /// A node's request for one.
    NodeRequest,
}

impl Label {
    /// The words between BEGIN and the dashes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorityCertificate => "ENFORCER AUTHORITY CERTIFICATE",
            Self::NodeCertificate => "ENFORCER NODE CERTIFICATE",
            Self::NodeRequest => "ENFORCER NODE REQUEST",
        }
    }
}

/// Why text is not the block that was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArmorError {
    /// There is no block at all.
    #[error("holds no block; expected one that begins -----BEGIN {0}-----")]
    Missing(&'static str),
    /// A block of another kind.
    #[error("holds a block {found:?}; expected {expected}")]
    OtherLabel {
        /// The words found.
        found: String,
        /// The words expected.
        expected: &'static str,
    },
    /// The block does not end as it began.
    #[error("the block {0} is cut off: its END line is missing or differs")]
    Unterminated(&'static str),
    /// Something else beside the one block.
    #[error("holds more than one block {0}; name one file for each")]
    Several(&'static str),
    /// The lines between are not base64.
    #[error("the block {0} is damaged: not base64 in lines of at most 64 characters")]
    Base64(&'static str),
}

/// The text form of `bytes`.
#[must_use]
pub fn encode(label: Label, bytes: &[u8]) -> String {
    let words = label.as_str();
    let mut text = format!("-----BEGIN {words}-----\n");
    for chunk in Base64::encode_string(bytes).as_bytes().chunks(LINE_WIDTH) {
        text.extend(chunk.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("-----END {words}-----\n")
}

/// The bytes of the one block in `text`; white space around it is allowed, anything else is not.
pub fn decode(label: Label, text: &str) -> Result<Vec<u8>, ArmorError> {
    let words = label.as_str();
    let mut lines = text.lines().map(str::trim_end).skip_while(|line| line.is_empty());
    let found = lines
        .next()
        .and_then(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .ok_or(ArmorError::Missing(words))?;
    if found != words {
        return Err(ArmorError::OtherLabel { found: found.to_owned(), expected: words });
    }
    let end = format!("-----END {words}-----");
    let mut body = String::new();
    loop {
        let line = lines.next().ok_or(ArmorError::Unterminated(words))?;
        if line == end {
            break;
        }
        if line.starts_with('-') {
            return Err(ArmorError::Unterminated(words));
        }
        if line.len() > LINE_WIDTH {
            return Err(ArmorError::Base64(words));
        }
        body.push_str(line);
    }
    if lines.any(|line| !line.is_empty()) {
        return Err(ArmorError::Several(words));
    }
    Base64::decode_vec(&body).map_err(|_| ArmorError::Base64(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label::NodeRequest;
    const WORDS: &str = "ENFORCER NODE REQUEST";

    #[test]
    fn bytes_of_any_length_survive_the_text_form() {
        for len in [1, 47, 48, 49, 300] {
            let bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 256).unwrap()).collect();
            let text = encode(LABEL, &bytes);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(decode(LABEL, &text), Ok(bytes.clone()));
            assert_eq!(decode(LABEL, &format!("\n{}\n\n", text.replace('\n', "\r\n"))), Ok(bytes));
        }
    }

    #[test]
    fn what_is_not_the_one_block_is_named() {
        let good = encode(LABEL, b"some bytes");
        let other = encode(Label::NodeCertificate, b"some bytes");
        let cut = good.replace("-----END", "-----ENDE");
        let found = "ENFORCER NODE CERTIFICATE".to_owned();
        for (text, error) in [
            ("", ArmorError::Missing(WORDS)),
            ("c29tZQ==", ArmorError::Missing(WORDS)),
            (&other, ArmorError::OtherLabel { found, expected: WORDS }),
            (&cut, ArmorError::Unterminated(WORDS)),
            (&good[..40], ArmorError::Unterminated(WORDS)),
            (&good.repeat(2), ArmorError::Several(WORDS)),
            (&good.replace('=', "*"), ArmorError::Base64(WORDS)),
        ] {
            assert_eq!(decode(LABEL, text), Err(error), "{text:?}");
        }
    }
}
