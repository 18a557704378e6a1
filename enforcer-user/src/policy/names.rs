//! The nearest known name to one that is not known.

/// The most single-character edits between a typo and what was meant.
const MAX_EDITS: usize = 2;
/// Nothing longer is compared.
const MAX_BYTES: usize = 128;

/// The known name nearest to `found`, when it is near enough to have been meant.
///
/// Names of up to three characters must be within one edit: two would make any of them near any other.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = if found.chars().count() <= 3 { 1 } else { MAX_EDITS };
    nearest_within(most, found, known)
}

/// The known name nearest to `found`, at most so many edits away.
pub fn nearest_within<'a>(
    most: usize,
    found: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if found.len() > MAX_BYTES {
        return None;
    }
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .filter(|(edits, _)| (1..=most).contains(edits))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_letter_is_near_and_another_word_is_not() {
        assert_eq!(nearest("teir", ["tier", "team"]), Some("tier"));
        assert_eq!(nearest("principle", ["principal", "resource"]), Some("principal"));
        assert_eq!(nearest("zone", ["tier", "principal"]), None);
        assert_eq!(nearest("ab", ["cd"]), None);
    }

    #[test]
    fn an_equal_name_is_not_a_typo() {
        assert_eq!(nearest("tier", ["tier"]), None);
    }
}
