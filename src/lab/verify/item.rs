//! One item as a sink stores it, read back: its key, its text, and the hash that the operator's digest is the sum of.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::canonical;
use crate::model::{Body, Gvk, Name, Namespace, ObjectKey, Origin, Row, RowKey, Uid};

/// Characters of a value that a problem shows.
const SHOWN: usize = 60;

/// What one row says, whichever way it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: RowKey,
    /// Namespace of the collected object.
    pub(super) namespace: Namespace,
    pub(super) said: Said,
}

/// The text of a row in the one form that all sinks share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) hash: [u64; 4],
    text: Box<[u8]>,
}

/// The first field in which two texts of one row differ, and what it is in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) field: String,
    pub(super) values: [String; 2],
}

/// The fields of an item. One that nobody knows is no field of ours: somebody was there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    target_namespace: String,
    target_name: String,
    namespace: String,
    name: String,
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
    uid: String,
    attributes: Value,
}

impl Item {
    pub(super) fn read(json: Value) -> Result<Self> {
        let fields = Fields::deserialize(json).context("no item of an inventory")?;
        ensure!(fields.attributes.is_object(), "the attributes of {} are no object", fields.uid);
        let mut attributes = Vec::new();
        canonical::write_value(&value(&fields.attributes), &mut attributes);
        let origin = Origin {
            target: ObjectKey::new(Namespace::new(fields.target_namespace), Name::new(fields.target_name)),
            gvk: Gvk { group: fields.group.into(), version: fields.version.into(), kind: fields.kind.into() },
        };
        let row = Row {
            origin: Arc::new(origin),
            uid: Uid::new(&fields.uid),
            namespace: Namespace::new(fields.namespace),
            body: Body::new(&fields.name, &attributes).context("a name without end")?,
        };
        let mut text = Vec::new();
        canonical::write_item(&row, &mut text);
        let said = Said { hash: canonical::row_hash(&row).0, text: text.into() };
        Ok(Self { key: row.key(), namespace: row.namespace, said })
    }
}

impl Said {
    /// Returns kind, namespace and name of the object, for people.
    pub(super) fn object(&self) -> String {
        let json = self.json();
        let word = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
        let (kind, namespace, name) = (word("kind"), word("namespace"), word("name"));
        if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
    }

    /// Returns the first difference; nothing where the texts are one.
    pub(super) fn difference(&self, other: &Self) -> Option<Difference> {
        differ("", Some(&self.json()), Some(&other.json()))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.text).unwrap_or_default()
    }
}

fn differ(field: &str, one: Option<&Value>, other: Option<&Value>) -> Option<Difference> {
    if one == other {
        return None;
    }
    if let (Some(Value::Object(one)), Some(Value::Object(other))) = (one, other) {
        let fields: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        return fields.into_iter().find_map(|name| {
            let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
            differ(&field, one.get(name), other.get(name))
        });
    }
    let show = |value: Option<&Value>| {
        let Some(value) = value else { return "absent".to_owned() };
        let text = value.to_string();
        let cut: String = text.chars().take(SHOWN).collect();
        if cut.len() < text.len() { cut + "…" } else { cut }
    };
    Some(Difference { field: field.to_owned(), values: [show(one), show(other)] })
}

fn value(json: &Value) -> canonical::Value<'_> {
    match json {
        Value::Null => canonical::Value::Null,
        Value::Bool(flag) => canonical::Value::Bool(*flag),
        Value::Number(number) => number
            .as_i64()
            .map(canonical::Value::Int)
            .or_else(|| number.as_u64().map(canonical::Value::UInt))
            .unwrap_or_else(|| canonical::Value::Float(number.as_f64().unwrap_or_default())),
        Value::String(text) => canonical::Value::from(text.as_str()),
        Value::Array(items) => canonical::Value::List(items.iter().map(value).collect()),
        Value::Object(map) => {
            canonical::Value::Map(map.iter().map(|(key, item)| (Cow::Borrowed(key.as_str()), value(item))).collect())
        }
    }
}

/// Returns the items in a file of a repository; `None` for one that holds none by its kind: a manifest of parts, an index,
/// attributes alone.
pub(super) fn items(content: &[u8]) -> Result<Option<Vec<Value>>> {
    let value = match serde_json::from_slice(content) {
        Ok(value) => value,
        // One item a line.
        Err(_) if content.starts_with(b"{") => {
            let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            Value::Array(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
        }
        Err(_) => serde_saphyr::from_str(std::str::from_utf8(content)?)?,
    };
    Ok(match value {
        Value::Array(items) => Some(items),
        Value::Object(mut fields) => match fields.remove("items") {
            Some(Value::Array(items)) => Some(items),
            None if fields.contains_key("uid") && fields.contains_key("attributes") => {
                Some(vec![Value::Object(fields)])
            }
            _ => None,
        },
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item() -> Value {
        json!({
            "targetNamespace": "team-a", "targetName": "deployments", "namespace": "team-a", "name": "web",
            "group": "apps", "version": "v1", "kind": "Deployment", "uid": "11111111-1111-4111-8111-111111111111",
            "attributes": {"z": [1, 1.0, 18_446_744_073_709_551_615_u64, null, true], "a": {"<": "\u{2028}"}},
        })
    }

    #[test]
    fn item_has_the_hash_of_the_row_that_it_was_written_from() {
        let read = Item::read(item()).unwrap();
        let mut attributes = Vec::new();
        canonical::write_value(&value(&item()["attributes"]), &mut attributes);
        let text = String::from_utf8(attributes).unwrap();
        assert_eq!(text, r#"{"a":{"\u003c":"\u2028"},"z":[1,1,18446744073709551615,null,true]}"#);
        let canonical = format!(
            r#"{{"targetNamespace":"team-a","targetName":"deployments","namespace":"team-a","name":"web","group":"apps","version":"v1","kind":"Deployment","uid":"11111111-1111-4111-8111-111111111111","attributes":{text}}}"#
        );
        let hash = blake3::hash(canonical.as_bytes());
        let lanes: Vec<u8> = read.said.hash.iter().flat_map(|lane| lane.to_be_bytes()).collect();
        assert_eq!(lanes, hash.as_bytes());
        assert_eq!(read.key.target.as_str(), "deployments");
    }

    #[test]
    fn order_of_keys_is_no_difference_and_content_is() {
        let read = Item::read(item()).unwrap();
        let turned: Value = serde_json::from_str(&item().to_string()).unwrap();
        assert_eq!(Item::read(turned).unwrap(), read);
        let mut other = item();
        other["attributes"]["a"] = json!("edited");
        assert_ne!(Item::read(other).unwrap().said.hash, read.said.hash);
    }

    #[test]
    fn the_first_difference_is_named_with_both_values() {
        let read = |change: &dyn Fn(&mut Value)| {
            let mut json = item();
            change(&mut json);
            Item::read(json).unwrap().said
        };
        let one = read(&|_| {});
        assert_eq!(one.object(), "Deployment team-a/web");
        assert_eq!(one.difference(&read(&|_| {})), None);
        let differs = |change: &dyn Fn(&mut Value), field: &str, values: [&str; 2]| {
            let want = Difference { field: field.to_owned(), values: values.map(str::to_owned) };
            assert_eq!(one.difference(&read(change)), Some(want));
        };
        differs(&|json| json["attributes"]["a"]["<"] = json!("x"), "attributes.a.<", ["\"\u{2028}\"", "\"x\""]);
        differs(&|json| json["attributes"]["b"] = json!(1), "attributes.b", ["absent", "1"]);
        let long = format!("\"{}…", "w".repeat(59));
        differs(&|json| json["name"] = json!("w".repeat(70)), "name", ["\"web\"", &long]);
        differs(&|json| json["group"] = json!(""), "group", ["\"apps\"", "absent"]);
    }

    #[test]
    fn field_that_somebody_added_is_refused() {
        let mut strange = item();
        strange["note"] = json!("by hand");
        assert!(Item::read(strange).is_err());
    }

    #[test]
    fn items_are_found_in_every_format() {
        let (one, line) = (item(), item().to_string());
        let yaml = serde_saphyr::to_string(&json!([one])).unwrap();
        let envelope = json!({"schemaVersion": "v1", "itemCount": 1, "items": [one]}).to_string();
        for text in [format!("[{line}]"), format!("{line}\n{line}\n"), yaml, envelope, line] {
            let found = items(text.as_bytes()).unwrap().unwrap();
            assert!(found.iter().all(|found| *found == one), "{text}");
        }
        assert_eq!(items(b"[]\n").unwrap(), Some(vec![]));
        for bare in ["{\"schemaVersion\":\"v1\",\"parts\":[]}", "image: a\nreplicas: 1\n"] {
            assert_eq!(items(bare.as_bytes()).unwrap(), None, "{bare}");
        }
    }
}
