//! Contents of the file of a row and of an index.

use std::io::Write as _;

use jiff::Timestamp;

use super::{Layout, LayoutError};
use crate::api::v1alpha1::sink::LayoutContent;
use crate::canonical;
use crate::export::envelope::{Checksum, Notation, SCHEMA_VERSION};
use crate::export::file::{File, FilePath, Shape, Text};
use crate::export::json::{self, Kind, Tape};
use crate::export::yaml::Yaml;
use crate::model::{InventoryKey, Row};

/// Memory for writing many files one after the other.
#[derive(Debug, Default)]
pub struct Scratch {
    yaml: Yaml,
    tape: Tape,
    item: Vec<u8>,
}

impl Layout {
    /// Returns the file of a row.
    ///
    /// # Errors
    /// Terminal where the content is to be a manifest and the row has none.
    pub fn content(&self, row: &Row) -> Result<Text, LayoutError> {
        self.content_with(row, &mut Scratch::default())
    }

    /// Checks whether a row has a file, without writing it.
    ///
    /// # Errors
    /// Those of [`Layout::content`].
    pub fn check(&self, row: &Row, scratch: &mut Scratch) -> Result<(), LayoutError> {
        match self.spec.content {
            LayoutContent::Item | LayoutContent::Attributes => Ok(()),
            LayoutContent::Manifest => self.embedded(row, &mut scratch.tape).map(drop),
        }
    }

    /// Returns the file of a row, as [`Layout::content`]; for many rows.
    pub fn content_with(&self, row: &Row, scratch: &mut Scratch) -> Result<Text, LayoutError> {
        let Scratch { yaml, tape, item } = scratch;
        let json = match self.spec.content {
            LayoutContent::Item => {
                item.clear();
                canonical::write_item(row, item);
                item.as_slice()
            }
            LayoutContent::Attributes => match row.body.attributes() {
                b"null" | b"" => b"{}",
                attributes => attributes,
            },
            LayoutContent::Manifest => self.embedded(row, tape)?,
        };
        Ok(self.file_of(json, yaml).into())
    }

    /// Returns the object that a row embeds.
    fn embedded<'r>(&self, row: &'r Row, tape: &mut Tape) -> Result<&'r [u8], LayoutError> {
        let attributes = row.body.attributes();
        tape.read(attributes);
        let found = tape.find(attributes, 0, &self.spec.manifest_key).map(|at| tape.node(at));
        match found.filter(|node| node.kind == Kind::Map) {
            Some(node) => Ok(node.raw(attributes)),
            None => Err(self.no_manifest(row)),
        }
    }

    fn no_manifest(&self, row: &Row) -> LayoutError {
        let place = if row.namespace.is_empty() { String::new() } else { format!("{}/", row.namespace) };
        let object = format!("{} {place}{}", row.origin.gvk.kind, row.body.name());
        LayoutError::NoManifest { object, key: self.spec.manifest_key.clone() }
    }

    /// Writes a value as a file of its own.
    fn file_of(&self, json: &[u8], yaml: &mut Yaml) -> Vec<u8> {
        let mut out = Vec::with_capacity(json.len() + json.len() / 8 + 1);
        match self.notation {
            Notation::Yaml => yaml.write(json, &mut out),
            Notation::Json => {
                json::indent(json, &mut out);
                out.push(b'\n');
            }
            Notation::Ndjson => {
                out.extend_from_slice(json);
                out.push(b'\n');
            }
        }
        out
    }

    /// Returns the index of a tree: its files in the order of their rows.
    ///
    /// # Errors
    /// Terminal where a row has the path of the index.
    pub fn index<'p>(
        &self,
        inventory: &InventoryKey,
        generation: i64,
        items: Checksum,
        exported_at: Timestamp,
        paths: impl IntoIterator<Item = &'p FilePath>,
    ) -> Result<File, LayoutError> {
        let path = self.index_path(inventory, generation)?;
        let mut list = Vec::new();
        let mut count = 0;
        for row in paths {
            if *row == path {
                return Err(LayoutError::IndexTaken(path));
            }
            if count > 0 {
                list.push(b',');
            }
            canonical::write_string(row.as_str(), &mut list);
            count += 1;
        }
        let mut text = Vec::with_capacity(list.len() + 256);
        let _ = write!(
            text,
            "{{\"schemaVersion\":\"{SCHEMA_VERSION}\",\"itemCount\":{count},\"checksum\":\"{items}\",\
             \"exportedAt\":\"{exported_at:.0}\",\"cluster\":"
        ); // a Vec takes everything
        canonical::write_string(self.cluster(), &mut text);
        text.extend_from_slice(b",\"paths\":[");
        text.extend_from_slice(&list);
        text.extend_from_slice(b"]}");
        let mut text = Text::from(self.file_of(&text, &mut Yaml::default()));
        // Nothing that stands before it can hold these bytes: in YAML a line of a longer text has an indent.
        let mark: &[u8] = match self.notation {
            Notation::Yaml => b"\nexportedAt: ",
            Notation::Json => b"\n  \"exportedAt\": ",
            Notation::Ndjson => b"\"exportedAt\":",
        };
        text.stamp_after(mark, Shape::Time);
        Ok(File { path, text })
    }
}
