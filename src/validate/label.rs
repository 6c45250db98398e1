//! How keys and values of labels are written: a selector that asks for what no object can have is a mistake, and the API
//! server refuses it.

/// The longest value, and the longest name behind the prefix of a key.
const MAX_NAME: usize = 63;
/// The longest prefix of a key.
const MAX_PREFIX: usize = 253;

/// Returns what is wrong with the key of a label.
pub(super) fn key_problem(key: &str) -> Option<String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefixed = prefix.is_none_or(|prefix| {
        prefix.len() <= MAX_PREFIX
            && prefix.split('.').all(|part| is_word(part, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), b"-"))
    });
    if prefixed && is_name(name) {
        return None;
    }
    Some(format!(
        "{key:?} cannot be the key of a label; write it as it stands on the objects, such as app.example.com/tier"
    ))
}

/// Returns what is wrong with the value of a label.
pub(super) fn value_problem(value: &str) -> Option<String> {
    if value.is_empty() || is_name(value) {
        return None;
    }
    Some(format!(
        "{value:?} cannot be the value of a label; at most 63 letters, digits, '-', '_' and '.', the first and the last a \
         letter or a digit"
    ))
}

/// Tells whether a text can be the name of a namespace.
pub(super) fn is_namespace(text: &str) -> bool {
    text.len() <= MAX_NAME && is_word(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), b"-")
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && is_word(text, u8::is_ascii_alphanumeric, b"-_.")
}

/// Tells whether the text is made of these characters, and of those `inside` too between the first and the last.
fn is_word(text: &str, ends: impl Fn(&u8) -> bool, inside: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    ends(first) && ends(last) && bytes.iter().all(|c| ends(c) || inside.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_what_the_api_server_takes() {
        let long = "a".repeat(64);
        for key in ["app", "app.kubernetes.io/part-of", "a/B_c.d", "1"] {
            assert_eq!(key_problem(key), None, "{key}");
        }
        for key in ["", " app", "a b", "-a", "a-", "/a", "a/", "A.io/x", "a..b/x", "a/b/c", "ä", &long] {
            assert!(key_problem(key).is_some(), "{key}");
        }
        for value in ["", "web", "v1.2_3-x", "X"] {
            assert_eq!(value_problem(value), None, "{value}");
        }
        for value in ["a b", "-a", "a.", "a/b", "a,b", &long] {
            assert!(value_problem(value).is_some(), "{value}");
        }
    }
}
