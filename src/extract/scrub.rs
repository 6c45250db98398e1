//! Redaction: which keys are sensitive, and how an attribute is written without what is below them.
//!
//! It happens while the attribute is encoded, so a value that is not stored is never copied either. The rules are those
//! of every release; they reach further in three places: the last key of a path and the attribute's own name count as
//! the key of the value, and so does the `name` beside a `value` (`env: [{name: DB_PASSWORD, value: …}]`).

use std::borrow::Cow;
use std::sync::LazyLock;

use super::embed::{Cut, Fate};
use super::secrets::WITHHELD;
use crate::canonical::{Map, Value, write_scalar, write_string};

/// Keys that are sensitive in every profile.
const BUILT_IN: [&str; 12] = [
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "privatekey",
    "private_key",
    "credential",
    "auth",
    "clientsecret",
    "connectionstring",
];

/// Stands in the place of each redacted value.
const REDACTED: &[u8] = br#"{"reason":"sensitive-key","redacted":true}"#;

/// [`REDACTED`] as a value, for what is picked rather than written.
pub(super) static REDACTED_VALUE: LazyLock<Value<'static>> = LazyLock::new(|| {
    Value::Map(Map::new(vec![("reason".into(), "sensitive-key".into()), ("redacted".into(), Value::Bool(true))]))
});

/// The sensitive keys of one profile.
#[derive(Debug, Clone)]
pub struct ScrubKeys {
    added: Vec<String>,
}

impl ScrubKeys {
    /// Adds keys to the built-in ones, which cannot be reduced. Case and surrounding space do not matter.
    pub fn new(added: &[String]) -> Self {
        let added = added.iter().map(|key| key.trim().to_lowercase()).filter(|key| !key.is_empty()).collect();
        Self { added }
    }

    /// Tells whether a key equals a listed one, or ends with a listed one of more than two characters.
    pub fn matches(&self, key: &str) -> bool {
        let key = key.trim();
        // Only a key with letters beyond ASCII can change its length in lower case.
        let lower: Cow<'_, str> = if key.is_ascii() { key.into() } else { key.to_lowercase().into() };
        let key = lower.as_bytes();
        let hit = |listed: &str| {
            let listed = listed.as_bytes();
            let suffix = key.len().checked_sub(listed.len()).map(|start| &key[start..]);
            suffix.is_some_and(|suffix| {
                suffix.eq_ignore_ascii_case(listed) && (listed.len() > 2 || key.len() == listed.len())
            })
        };
        BUILT_IN.iter().any(|listed| hit(listed)) || self.added.iter().any(|listed| hit(listed))
    }

    /// Tells whether the entry of a map must not be shown.
    pub(super) fn hides_entry(&self, key: &str, value: &Value<'_>) -> bool {
        if self.matches(key) {
            return true;
        }
        let Value::Map(map) = value else { return false };
        let key = key.trim();
        let is = |name: &str| key.eq_ignore_ascii_case(name);
        is("secretkeyref")
            || is("secretref")
            || (is("valuefrom") && map.get("secretKeyRef").is_some())
            || (is("tls") && map.get("key").is_some())
    }
}

/// Writes attributes as canonical JSON, redacted and without U+0000.
pub(super) struct Writer<'k, 'o> {
    pub(super) keys: &'k ScrubKeys,
    pub(super) out: &'o mut Vec<u8>,
    /// Whether a U+0000 was replaced: no database takes one.
    pub(super) sanitized: bool,
}

impl Writer<'_, '_> {
    pub(super) fn redacted(&mut self) {
        self.out.extend_from_slice(REDACTED);
    }

    pub(super) fn string(&mut self, text: &str) {
        if memchr::memchr(0, text.as_bytes()).is_some() {
            self.sanitized = true;
            write_string(&text.replace('\0', "\u{fffd}"), self.out);
        } else {
            write_string(text, self.out);
        }
    }

    pub(super) fn list<'v, 'a: 'v>(&mut self, items: impl IntoIterator<Item = &'v Value<'a>>, cut: Option<&Cut>) {
        self.out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            let cut = cut.and_then(|cut| cut.at_index(index));
            match cut.map(|cut| cut.fate) {
                Some(Fate::Removed) => self.out.extend_from_slice(b"null"),
                Some(Fate::Withheld) => self.out.extend_from_slice(WITHHELD),
                Some(Fate::Kept) | None => self.pruned(item, cut),
            }
        }
        self.out.push(b']');
    }

    pub(super) fn value(&mut self, value: &Value<'_>) {
        self.pruned(value, None);
    }

    fn pruned(&mut self, value: &Value<'_>, cut: Option<&Cut>) {
        match value {
            Value::Str(text) => self.string(text),
            Value::List(items) => self.list(items, cut),
            Value::Map(map) => self.map(map, cut, |_| true),
            scalar => write_scalar(scalar, self.out),
        }
    }

    /// Writes the entries whose key is wanted, as far as nothing is cut out of them.
    pub(super) fn map(&mut self, map: &Map<'_>, cut: Option<&Cut>, wanted: impl Fn(&str) -> bool) {
        // `{name: DB_PASSWORD, value: …}`
        let hides_value = map.get("value").is_some()
            && map.get("name").and_then(Value::as_str).is_some_and(|name| self.keys.matches(name));
        self.out.push(b'{');
        let mut is_first = true;
        for (key, value) in map.iter() {
            let cut = cut.and_then(|cut| cut.at_key(key));
            let fate = cut.map_or(Fate::Kept, |cut| cut.fate);
            if fate == Fate::Removed || !wanted(key) {
                continue;
            }
            if !is_first {
                self.out.push(b',');
            }
            is_first = false;
            self.string(key);
            self.out.push(b':');
            if fate == Fate::Withheld {
                self.out.extend_from_slice(WITHHELD);
            } else if (hides_value && key == "value") || self.keys.hides_entry(key, value) {
                self.redacted();
            } else {
                self.pruned(value, cut);
            }
        }
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_whole_or_at_their_end() {
        let keys = ScrubKeys::new(&["  PIN ".into(), "id".into(), String::new()]);
        for key in ["password", "API_TOKEN", " oauth ", "automountServiceAccountToken", "cardpin", "ID", "clientSecret"]
        {
            assert!(keys.matches(key), "{key}");
        }
        for key in ["secretName", "imagePullSecrets", "author", "api-key", "uid", "", "passwor"] {
            assert!(!keys.matches(key), "{key}");
        }
        assert!(keys.matches("to\u{212a}en"), "the Kelvin sign is a k in lower case");
    }

    #[test]
    fn values_below_sensitive_keys_are_replaced_at_any_depth() {
        let text = r#"{"env":[{"name":"DB_PASSWORD","value":"x"},{"name":"HOST","value":"h"},
            {"name":"K","valueFrom":{"secretKeyRef":{"name":"s"}}},{"name":"F","valueFrom":{"fieldRef":{}}}],
            "tls":{"key":"k"},"deep":{"tls":[{"hosts":["a"]}],"secretRef":"plain","secretKeyRef":{"a":1}}}"#;
        let keys = ScrubKeys::new(&[]);
        let whole = super::super::decode::Plan::whole();
        let kind = super::super::decode::TypeMeta { api_version: "v1", kind: "X" };
        let value = super::super::decode::decode(text.as_bytes(), &whole, kind).unwrap();
        let mut out = Vec::new();
        Writer { keys: &keys, out: &mut out, sanitized: false }.value(&value);
        let redacted = r#"{"reason":"sensitive-key","redacted":true}"#;
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                r#"{{"apiVersion":"v1","deep":{{"secretKeyRef":{redacted},"secretRef":"plain","tls":[{{"hosts":["a"]}}]}},"env":[{{"name":"DB_PASSWORD","value":{redacted}}},{{"name":"HOST","value":"h"}},{{"name":"K","valueFrom":{redacted}}},{{"name":"F","valueFrom":{{"fieldRef":{{}}}}}}],"kind":"X","tls":{redacted}}}"#
            )
        );
    }

    #[test]
    fn both_forms_of_the_replacement_agree() {
        let mut out = Vec::new();
        crate::canonical::write_value(&REDACTED_VALUE, &mut out);
        assert_eq!(out, REDACTED);
    }
}
