//! Texts of Cedar, written.

/// Words that are no names.
const RESERVED: [&str; 9] = ["else", "false", "has", "if", "in", "is", "like", "then", "true"];

/// A text in its quotes.
#[must_use]
pub fn quoted(text: &str) -> String {
    let escaped: String = text.chars().flat_map(char::escape_debug).collect();
    format!("\"{escaped}\"")
}

/// An attribute of `of` by its name, as plain as it can be written.
#[must_use]
pub fn attribute(of: &str, name: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if begins && name.chars().all(is_word) && !RESERVED.contains(&name) {
        return format!("{of}.{name}");
    }
    format!("{of}[{}]", quoted(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_where_they_can_be() {
        for (name, text) in [
            ("app", "l.app"),
            ("_a1", "l._a1"),
            ("in", "l[\"in\"]"),
            ("1a", "l[\"1a\"]"),
            ("a.b/c", "l[\"a.b/c\"]"),
            ("a\"] || true", "l[\"a\\\"] || true\"]"),
        ] {
            assert_eq!(attribute("l", name), text);
        }
    }
}
