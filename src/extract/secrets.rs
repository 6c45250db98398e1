//! The content of core Secrets, kept from profiles that were not allowed to read it.

use crate::canonical::Value;

/// Where a Secret holds its content. `kubectl apply` repeats all of it in an annotation.
pub(super) const CONTENT: [&[&str]; 3] =
    [&["data"], &["stringData"], &["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"]];

/// Stands in the place of content in a copy of the object.
pub(super) const WITHHELD: &[u8] = br#"{"reason":"secret-data","redacted":true}"#;

/// Copies an object without its content: no spelling of a path finds what is not there.
pub(super) fn veiled<'a>(object: &Value<'a>) -> Value<'a> {
    without(object, &CONTENT)
}

fn without<'a>(value: &Value<'a>, paths: &[&[&str]]) -> Value<'a> {
    let Value::Map(map) = value else { return value.clone() };
    Value::Map(map.filter_map(|key, item| {
        let below: Vec<&[&str]> = paths
            .iter()
            .filter_map(|path| path.split_first())
            .filter(|(first, _)| **first == key)
            .map(|(_, rest)| rest)
            .collect();
        if below.iter().any(|rest| rest.is_empty()) {
            return None;
        }
        Some(if below.is_empty() { item.clone() } else { without(item, &below) })
    }))
}
