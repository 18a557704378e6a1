//! A file's text as one text for each policy, so that those which stood in an earlier set are not read again.

use super::rule::TextHash;

/// The text of one policy, without what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    /// Where it begins, in bytes.
    pub offset: usize,
    /// Up to its semicolon, that included.
    pub text: &'a str,
}

impl Statement<'_> {
    /// Of its text.
    pub(super) fn hash(&self) -> TextHash {
        blake3::hash(self.text.as_bytes()).into()
    }
}

/// The policies of a file; none if something stands behind the last semicolon.
///
/// Only strings, comments and semicolons are looked at: outside of the first two Cedar's grammar has a semicolon
/// at the end of a policy and nowhere else. What is no policy is found when the statement is parsed.
pub(super) fn statements(text: &str) -> Option<Vec<Statement<'_>>> {
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        offset += blank(text.get(offset..)?);
        let rest = text.get(offset..)?;
        if rest.is_empty() {
            return Some(found);
        }
        let text = rest.get(..length(rest)?)?;
        found.push(Statement { offset, text });
        offset += text.len();
    }
}

/// Bytes of white space and comments that a text begins with.
fn blank(text: &str) -> usize {
    let mut rest = text.trim_start();
    while let Some(comment) = rest.strip_prefix("//") {
        let end = comment.find(['\n', '\r']).unwrap_or(comment.len());
        rest = comment.get(end..).unwrap_or_default().trim_start();
    }
    text.len() - rest.len()
}

/// Bytes up to the first semicolon outside of strings and comments, that included.
fn length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        at += match bytes.get(at)? {
            b';' => return Some(at + 1),
            b'"' => string(bytes.get(at..)?)?,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                bytes.get(at..)?.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?
            }
            _ => 1,
        };
    }
}

/// Bytes of a string with its quotes.
fn string(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_strings_and_comments_end_nothing() {
        let text = " // one; two\r\npermit(\"a;\\\";\", // ;\n b);\nforbid();// end";
        let found = statements(text).unwrap();
        let texts: Vec<&str> = found.iter().map(|statement| statement.text).collect();
        assert_eq!(texts, ["permit(\"a;\\\";\", // ;\n b);", "forbid();"]);
        for statement in found {
            assert!(text[statement.offset..].starts_with(statement.text));
        }
    }

    #[test]
    fn what_does_not_end_is_none() {
        for text in ["permit()", "permit();\nforbid", "permit(\"a);", "permit() // ;", "\"\\"] {
            assert_eq!(statements(text), None, "{text}");
        }
        for text in ["", " \n", "// nothing", "//a\n//b\r"] {
            assert_eq!(statements(text), Some(Vec::new()), "{text}");
        }
    }
}
