//! Projected decode: one pass over the text of an object that keeps what the programs read and skips the rest.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::release;
use crate::canonical::{Map, Value};
use crate::expr::Prefixes;
use crate::expr::helm::ReleaseError;

/// Why the text of one object cannot be read. The object has no row; others are unaffected.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The text is not UTF-8.
    #[error("object is not valid UTF-8")]
    Utf8(#[source] std::str::Utf8Error),
    /// The text is not JSON, is nested deeper than 127 levels, or holds a number that no double can.
    #[error("object is not valid JSON")]
    Json(#[source] serde_json::Error),
    /// The text broke off while only its identity was read.
    #[error("object is not valid JSON at byte {position}")]
    Syntax {
        /// Where.
        position: usize,
    },
    /// The text is a list, a string or the like.
    #[error("object is not a JSON object")]
    NotAnObject,
    /// `metadata.name` or `metadata.uid` is missing or is not text.
    #[error("object has no metadata.{0}")]
    NoIdentity(&'static str),
}

/// What to keep of the objects of one watch: all that its extractors read, and the metadata that the pipeline needs.
#[derive(Debug, Clone)]
pub struct Plan {
    prefixes: Prefixes,
    supply: bool,
    /// What is read of the Helm release that an object may hold.
    release: Option<Arc<Prefixes>>,
}

impl Plan {
    /// Unites what several extractors read with `metadata.{name,namespace,uid,resourceVersion,labels}`.
    pub fn new<'p>(prefixes: impl IntoIterator<Item = &'p Prefixes>) -> Self {
        let mut union = Prefixes::default();
        for field in ["name", "namespace", "uid", "resourceVersion", "labels"] {
            union.insert(["metadata", field]);
        }
        for part in prefixes {
            union.merge(part);
        }
        let supply = union.is_whole() || union.get("apiVersion").is_some() || union.get("kind").is_some();
        let release = union.of_release().cloned().map(Arc::new);
        Self { prefixes: union, supply, release }
    }

    /// Keeps everything.
    pub fn whole() -> Self {
        let mut prefixes = Prefixes::default();
        prefixes.take_all();
        Self { prefixes, supply: true, release: None }
    }

    /// Tells whether objects are decoded in full.
    pub fn is_whole(&self) -> bool {
        self.prefixes.is_whole()
    }
}

/// What the API server leaves out of the items of a typed list.
#[derive(Debug, Clone, Copy)]
pub struct TypeMeta<'a> {
    /// `apps/v1`.
    pub api_version: &'a str,
    /// `Deployment`.
    pub kind: &'a str,
}

/// A decoded object. What is read of the Helm release in it is unpacked once, when it is first asked for.
#[derive(Debug)]
pub struct Object<'a> {
    value: Value<'a>,
    release_plan: Option<Arc<Prefixes>>,
    release: OnceCell<Result<Value<'static>, ReleaseError>>,
}

impl<'a> Deref for Object<'a> {
    type Target = Value<'a>;

    fn deref(&self) -> &Value<'a> {
        &self.value
    }
}

impl Object<'_> {
    /// Returns the Helm release in the object, as far as the plan wants it.
    pub(super) fn release(&self) -> Result<&Value<'static>, ReleaseError> {
        let unpack = || match &self.release_plan {
            Some(wanted) => release::unpack(&self.value, wanted),
            None => Err(ReleaseError::NotFound),
        };
        self.release.get_or_init(unpack).as_ref().map_err(|error| *error)
    }
}

/// Reads an object, keeping what the plan wants. `supplied` fills in `apiVersion` and `kind` where the text has none, so
/// that a listed object and a watched one are the same value.
///
/// # Errors
/// A [`DecodeError`]; it concerns this object only.
pub fn decode<'a>(text: &'a [u8], plan: &Plan, supplied: TypeMeta<'a>) -> Result<Object<'a>, DecodeError> {
    let text = std::str::from_utf8(text).map_err(DecodeError::Utf8)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Keep(&plan.prefixes, Unlimited).deserialize(&mut reader).map_err(DecodeError::Json)?;
    reader.end().map_err(DecodeError::Json)?;
    let Value::Map(map) = value else { return Err(DecodeError::NotAnObject) };
    let object = |map| Object { value: Value::Map(map), release_plan: plan.release.clone(), release: OnceCell::new() };
    if !plan.supply {
        return Ok(object(map));
    }
    let wanted = |key: &str| (plan.prefixes.is_whole() || plan.prefixes.get(key).is_some()) && map.get(key).is_none();
    let missing: Vec<_> = [("apiVersion", supplied.api_version), ("kind", supplied.kind)]
        .into_iter()
        .filter(|(key, _)| wanted(key))
        .map(|(key, text)| (Cow::Borrowed(key), Value::from(text)))
        .collect();
    Ok(object(if missing.is_empty() { map } else { map.into_iter().chain(missing).collect() }))
}

/// How much may be kept of a text.
pub(super) trait Allowance: Copy {
    /// Takes bytes; `false` when there are not as many left.
    fn take(self, bytes: usize) -> bool;
}

/// For objects, whose size the API server bounds.
#[derive(Clone, Copy)]
struct Unlimited;

impl Allowance for Unlimited {
    fn take(self, _: usize) -> bool {
        true
    }
}

/// Decodes one value as far as a node of the trie wants it. List elements share the node of their list.
#[derive(Clone, Copy)]
pub(super) struct Keep<'p, A>(pub(super) &'p Prefixes, pub(super) A);

impl<A: Allowance> Keep<'_, A> {
    /// Takes the room of one value, text and all.
    fn take<E: de::Error>(&self, text: &str) -> Result<(), E> {
        let fits = self.1.take(size_of::<Value<'_>>() + text.len());
        if fits { Ok(()) } else { Err(E::custom("too much to keep")) }
    }
}

impl<'de, A: Allowance> DeserializeSeed<'de> for Keep<'_, A> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, A: Allowance> Visitor<'de> for Keep<'_, A> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value<'de>, E> {
        self.take("")?;
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value<'de>, E> {
        self.take("")?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value<'de>, E> {
        self.take("")?;
        Ok(Value::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value<'de>, E> {
        self.take("")?;
        Ok(i64::try_from(value).map_or(Value::UInt(value), Value::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value<'de>, E> {
        self.take("")?;
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Value<'de>, E> {
        self.take(value)?;
        Ok(Value::Str(Cow::Borrowed(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value<'de>, E> {
        self.take(value)?;
        Ok(Value::Str(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut elements: S) -> Result<Value<'de>, S::Error> {
        self.take("")?;
        let mut items = Vec::new();
        while let Some(item) = elements.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<Value<'de>, M::Error> {
        self.take("")?;
        let Self(wanted, allowance) = self;
        let mut entries = Vec::new();
        if wanted.is_whole() {
            while let Some(key) = fields.next_key_seed(AnyKey)? {
                self.take(&key)?;
                entries.push((key, fields.next_value_seed(self)?));
            }
        } else {
            while let Some(known) = fields.next_key_seed(KnownKey(wanted))? {
                match known {
                    None => {
                        fields.next_value::<IgnoredAny>()?;
                    }
                    Some((key, node)) => {
                        if entries.is_empty() {
                            entries.reserve(wanted.len());
                        }
                        entries.push((key, fields.next_value_seed(Keep(node, allowance))?));
                    }
                }
            }
        }
        Ok(Value::Map(Map::new(entries)))
    }
}

/// Reads a key as it is.
struct AnyKey;

impl<'de> DeserializeSeed<'de> for AnyKey {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for AnyKey {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// Looks a key up in the trie; keys that nobody wants are not copied.
struct KnownKey<'p>(&'p Prefixes);

impl<'de, 'p> DeserializeSeed<'de> for KnownKey<'p> {
    type Value = Option<(Cow<'de, str>, &'p Prefixes)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, 'p> Visitor<'de> for KnownKey<'p> {
    type Value = Option<(Cow<'de, str>, &'p Prefixes)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.get(key).map(|node| (Cow::Borrowed(key), node)))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.get(key).map(|node| (Cow::Owned(key.to_owned()), node)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: TypeMeta<'static> = TypeMeta { api_version: "apps/v1", kind: "Deployment" };

    fn plan(paths: &[&[&str]]) -> Plan {
        let mut prefixes = Prefixes::default();
        for path in paths {
            prefixes.insert(path.iter().copied());
        }
        Plan::new([&prefixes])
    }

    fn shown(text: &str, plan: &Plan) -> String {
        let mut out = Vec::new();
        crate::canonical::write_value(&decode(text.as_bytes(), plan, TYPE).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let text = r#"{"metadata":{"name":"web","managedFields":[{"a":1}],"labels":{"b":"2","a":"1"}},
            "spec":{"replicas":3,"list":[{"image":"x","env":[]},{"image":"y"},7],"other":{}},"status":{}}"#;
        assert_eq!(
            shown(text, &plan(&[&["spec", "list", "image"], &["spec", "replicas"]])),
            r#"{"metadata":{"labels":{"a":"1","b":"2"},"name":"web"},"spec":{"list":[{"image":"x"},{"image":"y"},7],"replicas":3}}"#
        );
    }

    #[test]
    fn type_is_supplied_to_listed_items_and_kept_from_watched_ones() {
        assert_eq!(shown(r#"{"a":1}"#, &Plan::whole()), r#"{"a":1,"apiVersion":"apps/v1","kind":"Deployment"}"#);
        assert_eq!(shown(r#"{"kind":"X","a":1}"#, &plan(&[&["kind"]])), r#"{"kind":"X"}"#);
        assert_eq!(shown(r#"{"a":1}"#, &plan(&[&["apiVersion"]])), r#"{"apiVersion":"apps/v1"}"#);
    }

    #[test]
    fn integers_are_exact_within_64_bits() {
        assert_eq!(
            shown(
                r#"{"a":[9007199254740993,-9223372036854775808,18446744073709551615,18446744073709551616,1.0]}"#,
                &plan(&[&["a"]])
            ),
            r#"{"a":[9007199254740993,-9223372036854775808,18446744073709551615,18446744073709552000,1]}"#
        );
    }

    #[test]
    fn bad_text_is_an_error_of_that_object() {
        let whole = Plan::whole();
        assert!(matches!(decode(b"{\"a\":\"\xff\"}", &plan(&[]), TYPE), Err(DecodeError::Utf8(_))));
        assert!(matches!(decode(b"{\"a\":", &whole, TYPE), Err(DecodeError::Json(_))));
        assert!(matches!(decode(b"{} x", &whole, TYPE), Err(DecodeError::Json(_))));
        assert!(matches!(decode(b"[]", &whole, TYPE), Err(DecodeError::NotAnObject)));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(matches!(decode(deep.as_bytes(), &whole, TYPE), Err(DecodeError::Json(_))));
        // What is skipped is not walked, and may be as deep as it likes.
        assert!(decode(deep.as_bytes(), &plan(&[]), TYPE).is_ok());
    }
}
