//! The copy of an object that a row embeds (`export.mode: Resource`): chosen sections, pruned and redacted.
//!
//! Nothing is copied before it is written: what is taken out is a trie that goes along with the object, so that an object
//! costs what is left of it. The content of a core `Secret` is never in a copy, nor are the annotations in which tools
//! repeat it.

use super::scrub::Writer;
use super::secrets;
use crate::api::v1alpha1::profile::ExportInclude;
use crate::canonical::{Value, write_string};
use crate::expr::Prefixes;
use crate::validate::{Embedding, SecretContent};

/// What is embedded, and under which key.
#[derive(Debug)]
pub(super) struct Embed {
    pub(super) key: String,
    /// `"key":` as it is written.
    pub(super) label: Vec<u8>,
    include: ExportInclude,
    cut: Cut,
}

/// What happens to a value of the copy, and to what is below it.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) fate: Fate,
    below: Vec<(String, Cut)>,
}

/// What happens to one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    /// It is written, as far as nothing below it is taken out.
    #[default]
    Kept,
    /// Its key goes with it; an element of a list becomes null, so that the others keep their places.
    Removed,
    /// It is content of a Secret; its key stays.
    Withheld,
}

impl Cut {
    fn insert<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>, fate: Fate) {
        let mut node = self;
        for key in keys {
            let index = node.below.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
                node.below.push((key.to_owned(), Self::default()));
                node.below.len() - 1
            });
            node = &mut node.below[index].1;
        }
        node.fate = fate;
    }

    /// Returns what happens under a key of a map.
    pub(super) fn at_key(&self, key: &str) -> Option<&Self> {
        self.below.iter().find(|(known, _)| known == key).map(|(_, cut)| cut)
    }

    /// Returns what happens to an element of a list. Only a plain number counts elements, so `01` and `-` name none.
    pub(super) fn at_index(&self, index: usize) -> Option<&Self> {
        if self.below.is_empty() {
            return None;
        }
        self.at_key(&index.to_string())
    }
}

impl Embed {
    pub(super) fn new(embedding: &Embedding, content: SecretContent) -> Self {
        let mut cut = Cut::default();
        if content != SecretContent::Unknown {
            for keys in secrets::CONTENT.iter().chain(&secrets::COPIES) {
                cut.insert(keys.iter().copied(), Fate::Withheld);
            }
        }
        for keys in &embedding.removed {
            cut.insert(keys.iter().map(String::as_str), Fate::Removed);
        }
        let mut label = Vec::new();
        write_string(&embedding.key, &mut label);
        label.push(b':');
        Self { key: embedding.key.clone(), label, include: embedding.include, cut }
    }

    /// Adds what the copy is made of.
    pub(super) fn prefixes(&self, prefixes: &mut Prefixes) {
        let sections: &[&str] = match self.include {
            ExportInclude::All => return prefixes.take_all(),
            ExportInclude::MetadataOnly => &["metadata"],
            ExportInclude::SpecOnly => &["spec"],
            ExportInclude::StatusOnly => &["status"],
            ExportInclude::SpecAndStatus => &["spec", "status"],
        };
        for section in sections.iter().chain(&["apiVersion", "kind"]) {
            prefixes.insert([*section]);
        }
    }

    pub(super) fn write(&self, object: &Value<'_>, writer: &mut Writer<'_, '_>) {
        match object {
            Value::Map(map) => writer.map(map, Some(&self.cut), |section| self.includes(section)),
            other => writer.value(other),
        }
    }

    /// Tells whether a key of the object is in the copy.
    fn includes(&self, section: &str) -> bool {
        match section {
            "apiVersion" | "kind" => true,
            "metadata" => matches!(self.include, ExportInclude::All | ExportInclude::MetadataOnly),
            "spec" => !matches!(self.include, ExportInclude::MetadataOnly | ExportInclude::StatusOnly),
            "status" => !matches!(self.include, ExportInclude::MetadataOnly | ExportInclude::SpecOnly),
            _ => self.include == ExportInclude::All,
        }
    }
}
