//! Labels, and what upstream lets be one (k8s.io/apimachinery/pkg/util/validation).

use std::collections::BTreeMap;

/// Labels of a namespace, a pod or a node.
pub(super) type Labels = BTreeMap<String, String>;

/// The label that the API server gives every namespace, of its name.
pub(super) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

const NAME_BYTES_MAX: usize = 63;
const PREFIX_BYTES_MAX: usize = 253;

pub(super) fn check_labels(labels: &Labels) -> Result<(), String> {
    for (key, value) in labels {
        check_key(key)?;
        check_value(value)?;
    }
    Ok(())
}

/// `name` or `dns.prefix/name`.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| !is_subdomain(prefix)) || !is_name(name) {
        return Err(format!(
            "label key {key:?}: expected a name of at most {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', begun \
             and ended by a letter or digit, and before it perhaps a DNS name and '/'"
        ));
    }
    Ok(())
}

/// Empty, or as a key's name.
pub(super) fn check_value(value: &str) -> Result<(), String> {
    if !value.is_empty() && !is_name(value) {
        return Err(format!(
            "label value {value:?}: expected at most {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', begun and \
             ended by a letter or digit"
        ));
    }
    Ok(())
}

/// A name of a namespace or an object: a DNS subdomain (RFC 1123).
pub(super) fn check_object_name(name: &str) -> Result<(), String> {
    if is_subdomain(name) {
        return Ok(());
    }
    Err(format!("name {name:?}: expected a DNS name of lower-case letters, digits, '-' and '.'"))
}

fn is_name(text: &str) -> bool {
    let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().last()) else {
        return false;
    };
    text.len() <= NAME_BYTES_MAX
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        is_name(part)
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= PREFIX_BYTES_MAX && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_refuses_is_refused() {
        for key in ["app", "app.kubernetes.io/name", "a_B-c.1", "kubernetes.io/metadata.name"] {
            check_key(key).unwrap();
        }
        let long = "a".repeat(64);
        for key in ["", "-a", "a-", "a b", "/a", "a/", "UPPER.io/a", "a/b/c", &long] {
            check_key(key).unwrap_err();
        }
        for value in ["", "a", "v1.2_3-x", "A"] {
            check_value(value).unwrap();
        }
        for value in ["-", "a/b", "a b", ".a", &long] {
            check_value(value).unwrap_err();
        }
        check_object_name("web-0.db").unwrap();
        for name in ["", "Web", "a_b", "-a", "a..b"] {
            check_object_name(name).unwrap_err();
        }
    }
}
