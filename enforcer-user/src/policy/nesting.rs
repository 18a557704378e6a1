//! How deep a policy may be nested: counted before Cedar reads it, whose parser and evaluator recurse.
//!
//! Some of the text is written by people who are trusted with one namespace only. A stack that overflows ends the
//! process, and no error is told.

use super::error::PolicyError;
use super::parse::at;
use super::source::SourceFile;

/// The most brackets within each other, and the most `if` of one policy.
const MAX_DEPTH: usize = 64;
/// The most operators and dots of one policy: each may be one step further down.
const MAX_OPERATORS: usize = 4096;

/// Refuses a file with a policy that is nested too deep.
pub(super) fn check(file: &SourceFile) -> Result<(), PolicyError> {
    match too_deep(&file.text) {
        None => Ok(()),
        Some(offset) => {
            let message = format!(
                "the policy is nested too deep here: at most {MAX_DEPTH} brackets or `if` within each other, and \
                 {MAX_OPERATORS} operators"
            );
            Err(at(file, offset, message, Some("write it as several policies".to_owned())))
        }
    }
}

/// The place at which it is too much.
pub(super) fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut ifs, mut operators) = (0_usize, 0_usize, 0_usize);
    let mut offset = 0;
    while let Some(byte) = bytes.get(offset) {
        let rest = bytes.get(offset..).unwrap_or_default();
        let mut length = 1;
        match byte {
            b'"' => length = string(rest),
            b'/' if rest.starts_with(b"//") => {
                length = rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len());
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b';' => (depth, ifs, operators) = (0, 0, 0),
            _ if is_word(*byte) => {
                length = rest.iter().position(|b| !is_word(*b)).unwrap_or(rest.len());
                ifs += usize::from(rest.get(..length) == Some(b"if"));
            }
            b'.' | b'|' | b'&' | b'+' | b'-' | b'*' | b'!' => operators += 1,
            _ => {}
        }
        if depth > MAX_DEPTH || ifs > MAX_DEPTH || operators > MAX_OPERATORS {
            return Some(offset);
        }
        offset += length;
    }
    None
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Bytes of a string with its quotes; of one without end, all that is left.
fn string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Owners, PolicySet};

    fn rule(condition: &str) -> String {
        format!("permit(principal, action, resource) when {{ {condition} }};")
    }

    #[test]
    fn what_would_overflow_a_stack_is_refused_before_it_is_parsed() {
        let nested = |open: &str, inside: &str, close: &str, times: usize| {
            rule(&[&open.repeat(times), inside, &close.repeat(times)].concat())
        };
        for text in [
            nested("(", "true", ")", 30_000),
            nested("[", "1", "]", 30_000),
            nested("{a:", "1", "}", 15_000),
            nested("(context.port == 1 || ", "true", ")", 2000),
            nested("if true then true else ", "true", "", 2500),
            nested("true || ", "true", "", 5000),
            rule(&["context", &".a".repeat(30_000)].concat()),
            nested("!", "true", "", 5000),
            "(".repeat(100_000),
        ] {
            let file = SourceFile::new("deep.cedar", text);
            let refused = PolicySet::from_sources(std::slice::from_ref(&file)).unwrap_err();
            assert!(refused.to_string().contains("nested too deep"), "{refused}");
            assert!(Owners::parse(&[file]).unwrap_err().to_string().contains("nested too deep"));
        }
    }

    #[test]
    fn what_is_allowed_loads_and_is_decided() {
        // As small a stack as a worker thread's.
        let load = || {
            let depth = MAX_DEPTH - 2;
            for text in [
                rule(
                    &["(context.port == 1 || ".repeat(depth), "true".to_owned(), ")".repeat(depth)]
                        .concat(),
                ),
                rule(
                    &["if context.port == 1 then true else ".repeat(MAX_DEPTH), "true".to_owned()]
                        .concat(),
                ),
                rule(&["context.port == 2 || ".repeat(1300), "true".to_owned()].concat()),
            ] {
                PolicySet::from_sources(&[SourceFile::new("deep.cedar", text)]).unwrap();
            }
        };
        let thread = std::thread::Builder::new().stack_size(4 << 20).spawn(load).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn strings_comments_and_other_policies_do_not_count() {
        let text = format!(
            "// {0}\n{1}",
            "(".repeat(100),
            rule(&format!("principal.name == \"{}\\\"\"", "(".repeat(100)))
        );
        assert_eq!(too_deep(&text.repeat(50)), None);
        assert_eq!(too_deep("\"("), None);
    }
}
