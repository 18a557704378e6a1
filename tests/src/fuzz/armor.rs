//! Files of keys, certificates and requests, as text.

use enforcer_user::identity::armor::{Label, decode, encode};
use enforcer_user::identity::{PresharedKey, SigningKey};

const LABELS: [Label; 3] =
    [Label::AuthorityCertificate, Label::NodeCertificate, Label::NodeRequest];

/// `data` is a file as it comes, and content of which files are made that read back.
pub fn run(data: &[u8]) {
    for label in LABELS {
        let text = encode(label, data);
        assert_eq!(decode(label, &text).as_deref(), Ok(data));
        assert_eq!(
            decode(label, &format!("\n \n{}\n", text.replace('\n', " \r\n"))).as_deref(),
            Ok(data)
        );
        for other in LABELS.into_iter().filter(|other| *other != label) {
            assert!(decode(other, &text).is_err());
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for label in LABELS {
        if let Ok(bytes) = decode(label, text) {
            assert_eq!(content(&encode(label, &bytes)), content(text), "another text, one content");
        }
    }
    keys(text);
}

/// The text without its line breaks and the white space around lines.
fn content(text: &str) -> String {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect()
}

fn keys(text: &str) {
    if let Some(key) = SigningKey::from_pem(text) {
        let again = SigningKey::from_pem(&key.to_pem()).expect("a key's own form");
        assert_eq!(again.public(), key.public());
    }
    if let Ok(key) = PresharedKey::from_hex(text) {
        assert_eq!(key.to_hex().trim_end(), text.trim_ascii().to_ascii_lowercase());
    }
}
