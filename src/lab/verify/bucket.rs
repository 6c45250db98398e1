//! What a bucket says: the objects that the records of the inventories name, and the rows in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Held;
use super::item::{self, Item};
use super::repository::UNNAMED;
use crate::model::{Name, Namespace, ObjectKey};

/// Where the records are.
const RECORDS: &str = ".kollect/";

/// Columns of Parquet that have another name than the field of an item.
const NAMES: [(&str, &str); 3] =
    [("target_namespace", "targetNamespace"), ("target_name", "targetName"), ("api_version", "version")];

/// The objects of the inventories of one cluster.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Objects that the newest documents of the inventories consist of.
    pub(super) objects: usize,
    /// Rows in them.
    pub(super) rows: usize,
    /// Objects that no record of any cluster names.
    pub(super) unowned: usize,
    /// The rows by format, inventory and key.
    pub(super) held: BTreeMap<String, Held>,
    /// What is wrong, each in a sentence.
    pub(super) problems: Vec<String>,
}

/// What a record says, as far as it is of interest here.
#[derive(Deserialize)]
struct Record {
    cluster: String,
    namespace: String,
    name: String,
    current: Option<Set>,
    #[serde(default)]
    pending: Vec<String>,
    #[serde(default)]
    past: Vec<Set>,
}

#[derive(Deserialize)]
struct Set {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

impl Contents {
    /// Reads the objects of a bucket by key.
    pub(super) fn read(objects: &BTreeMap<String, Vec<u8>>, cluster: &str) -> Result<Self> {
        let mut this = Self::default();
        let mut strangers: BTreeSet<&str> = objects.keys().map(String::as_str).collect();
        strangers.retain(|key| !key.starts_with(RECORDS));
        let records = objects.iter().filter(|(path, _)| path.starts_with(RECORDS) && ends(path, "json"));
        for (path, content) in records {
            let record: Record = serde_json::from_slice(content).with_context(|| format!("{path} is no record"))?;
            let sets = record.current.iter().chain(&record.past);
            let keys = sets.flat_map(|set| &set.objects).map(|object| &object.key);
            for key in keys.chain(&record.pending) {
                strangers.remove(key.as_str());
            }
            if record.cluster == cluster {
                let stem = path.strip_suffix(".json").unwrap_or(path);
                let format = stem.rsplit_once('.').map_or("json", |(_, format)| format);
                this.add(format, &record, objects);
            }
        }
        this.unowned = strangers.len();
        Ok(this)
    }

    /// Adds the newest document of an inventory.
    fn add(&mut self, format: &str, record: &Record, objects: &BTreeMap<String, Vec<u8>>) {
        let inventory = ObjectKey::new(Namespace::new(record.namespace.as_str()), Name::new(record.name.as_str()));
        let mut rows = HashMap::new();
        for Object { key } in record.current.iter().flat_map(|set| &set.objects) {
            let Some(content) = objects.get(key) else {
                self.problems.push(format!("{inventory}: {key} is not in the bucket"));
                continue;
            };
            self.objects += 1;
            let found = match items(key, content, record) {
                Ok(found) => found,
                Err(error) => {
                    self.problems.push(format!("{inventory}: {key}: {error:#}"));
                    continue;
                }
            };
            for json in found {
                self.rows += 1;
                match Item::read(json) {
                    Ok(item) => {
                        if rows.insert(item.key.clone(), item.said).is_some() {
                            let uid = &item.key.uid;
                            self.problems.push(format!("{inventory}: {uid} is twice in the bucket, once in {key}"));
                        }
                    }
                    Err(error) => self.problems.push(format!("{inventory}: {key}: {error:#}")),
                }
            }
        }
        self.held.entry(format.to_owned()).or_default().insert(inventory, rows);
    }
}

/// Tells whether a key ends with a dot and this.
fn ends(key: &str, extension: &str) -> bool {
    Path::new(key).extension().is_some_and(|found| found == extension)
}

/// Returns the items of an object; a manifest has none.
fn items(key: &str, content: &[u8], record: &Record) -> Result<Vec<Value>> {
    if ends(key, "parquet") {
        return columns(content, record);
    }
    if !ends(key, "gz") {
        return Ok(item::items(content)?.unwrap_or_default());
    }
    let mut text = Vec::new();
    GzDecoder::new(content).read_to_end(&mut text).context("it is not what gzip writes")?;
    Ok(item::items(&text)?.unwrap_or_default())
}

/// Returns the items of a Parquet file, whose rows have to be of the inventory that the record is of.
fn columns(content: &[u8], record: &Record) -> Result<Vec<Value>> {
    let file = SerializedFileReader::new(Bytes::copy_from_slice(content)).context("it is no Parquet")?;
    let mut items = Vec::new();
    for row in file.get_row_iter(None).context("it is no Parquet")? {
        let mut fields = Map::new();
        for (column, field) in row.context("a row cannot be read")?.into_columns() {
            let value = match field {
                Field::Str(text) => Value::String(text),
                Field::Bytes(bytes) => serde_json::from_slice(bytes.data()).context("the attributes are no JSON")?,
                // No group, and the time of the export.
                _ => continue,
            };
            fields.insert(column, value);
        }
        let whose = ["cluster", "inventory_namespace", "inventory_name"].map(|column| fields.remove(column));
        let cluster = if record.cluster.is_empty() { UNNAMED } else { &record.cluster };
        let wanted = [cluster, &record.namespace, &record.name].map(|text| Some(Value::from(text)));
        ensure!(whose == wanted, "a row is of {whose:?}");
        fields.retain(|column, _| !column.starts_with("attr_"));
        for (column, field) in NAMES {
            if let Some(value) = fields.remove(column) {
                fields.insert(field.to_owned(), value);
            }
        }
        items.push(Value::Object(fields));
    }
    Ok(items)
}

#[cfg(test)]
mod tests;
