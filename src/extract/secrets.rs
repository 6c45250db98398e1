//! The content of core Secrets, kept from profiles that were not allowed to read it.

use crate::canonical::Value;
use crate::validate::SecretContent;

/// Where a Secret holds its content.
pub(super) const CONTENT: [&[&str]; 2] = [&["data"], &["stringData"]];

/// Annotations in which tools that apply manifests repeat all of it, as text that redaction cannot look into: `kubectl`,
/// kapp, and Rancher's apply, which packs it.
pub(super) const COPIES: [&[&str]; 3] = [
    &["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"],
    &["metadata", "annotations", "kapp.k14s.io/original"],
    &["metadata", "annotations", "objectset.rio.cattle.io/applied"],
];

/// Stands in the place of content in a copy of the object.
pub(super) const WITHHELD: &[u8] = br#"{"reason":"secret-data","redacted":true}"#;

/// Copies an object without what a profile may not see of it: no spelling of a path finds what is not there. Nothing
/// where there is nothing to hide.
pub(super) fn veiled<'a>(object: &Value<'a>, content: SecretContent) -> Option<Value<'a>> {
    match content {
        SecretContent::Unknown => None,
        SecretContent::Hidden => Some(without(object, &[CONTENT.as_slice(), &COPIES].concat())),
        SecretContent::Extractable => Some(without(object, &COPIES)),
    }
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
