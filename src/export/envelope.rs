//! The envelope around the rows of a document, its checksums, and how a long document is cut into parts.
//!
//! A part is measured as the envelope that it would be in JSON, whatever the format of the file, so that the same rows
//! are cut the same way everywhere.

use std::fmt;
use std::io::Write as _;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::file::{GENERATION, Shape, Text};
use super::yaml::Yaml;
use crate::canonical;
use crate::model::{InventoryKey, Row};

/// What every document says of itself.
pub(super) const SCHEMA_VERSION: &str = "kollect.dev/v1alpha1";

/// A SHA-256, over the encoded `items` array or over a set of parts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum([u8; 32]);

impl fmt::Display for Checksum {
    /// Prints 64 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Checksum {
    /// Returns the checksum of a set: over the checksum of each part in order, each with a line break.
    pub fn of_set(parts: &[Self]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(format!("{part}\n"));
        }
        Self(hasher.finalize().into())
    }

    /// Returns the checksum of rows that are in [canonical order](super::document::canonical_order).
    pub fn of_items<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut items = Items::default();
        let mut text = Vec::new();
        for row in rows {
            text.clear();
            canonical::write_item(row, &mut text);
            items.add(&text);
        }
        items.finish()
    }
}

/// The checksum of an array that grows.
#[derive(Default)]
struct Items {
    hasher: Sha256,
    count: usize,
}

impl Items {
    fn add(&mut self, item: &[u8]) {
        self.hasher.update(if self.count == 0 { b"[" } else { b"," });
        self.hasher.update(item);
        self.count += 1;
    }

    fn finish(mut self) -> Checksum {
        self.hasher.update(if self.count == 0 { &b"[]"[..] } else { b"]" });
        Checksum(self.hasher.finalize().into())
    }
}

/// A row that no part can hold.
#[derive(Debug, Clone, PartialEq)]
pub struct TooLarge {
    /// The row, which is in none of the files.
    pub row: Row,
    /// What it would take.
    pub bytes: u64,
    /// What there is.
    pub ceiling: u64,
    /// What to say about it.
    pub message: String,
}

impl TooLarge {
    pub(super) fn new(inventory: &InventoryKey, row: &Row, bytes: u64, ceiling: u64) -> Self {
        let message = format!(
            "one row of inventory {inventory} makes a file of {bytes} bytes, more than spec.maxExportBytes ({ceiling}); \
             raise it, or let the profile name fewer attributes"
        );
        Self { row: row.clone(), bytes, ceiling, message }
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notation {
    Yaml,
    Json,
    Ndjson,
}

/// Which part of how many, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartOf {
    pub(super) index: usize,
    pub(super) total: usize,
}

/// What all parts of a set have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamped {
    pub(super) generation: i64,
    pub(super) exported_at: Timestamp,
}

impl Stamped {
    /// Writes a file with these rows and returns it with the checksum of its items.
    pub(super) fn write(self, notation: Notation, rows: &[&Row], part: Option<PartOf>) -> (Text, Checksum) {
        let mut text = Text::from(Vec::new());
        let checksum_at = match notation {
            Notation::Json => self.write_head(rows.len(), part, &mut text),
            Notation::Yaml | Notation::Ndjson => 0,
        };
        let (mut items, mut yaml, mut item) = (Items::default(), Yaml::default(), Vec::new());
        let out = &mut text.bytes;
        for (index, row) in rows.iter().enumerate() {
            item.clear();
            canonical::write_item(row, &mut item);
            items.add(&item);
            match notation {
                Notation::Yaml => yaml.write_entry(&item, out),
                Notation::Json => {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(&item);
                }
                Notation::Ndjson => {
                    out.extend_from_slice(&item);
                    out.push(b'\n');
                }
            }
        }
        let checksum = items.finish();
        match notation {
            Notation::Yaml if rows.is_empty() => out.extend_from_slice(b"[]\n"),
            Notation::Yaml | Notation::Ndjson => {}
            Notation::Json => {
                out.extend_from_slice(b"]}");
                let hex = checksum.to_string();
                if let Some(place) = out.get_mut(checksum_at..checksum_at + hex.len()) {
                    place.copy_from_slice(hex.as_bytes());
                }
            }
        }
        (text, checksum)
    }

    /// Writes everything before the items, with room for the checksum, and returns where that is.
    fn write_head(self, count: usize, part: Option<PartOf>, text: &mut Text) -> usize {
        let out = &mut text.bytes;
        let start = format!("{{\"schemaVersion\":\"{SCHEMA_VERSION}\",\"checksum\":\"");
        out.extend_from_slice(start.as_bytes());
        let checksum_at = out.len();
        out.resize(checksum_at + 64, b'0');
        out.extend_from_slice(b"\",");
        let generation_at = out.len();
        if self.generation != 0 {
            out.extend_from_slice(GENERATION);
            let _ = write!(out, "{},", self.generation); // a Vec takes everything
        }
        let generation = generation_at..out.len();
        if let Some(PartOf { index, total }) = part {
            let _ = write!(out, "\"partIndex\":{index},\"partTotal\":{total},"); // as above
        }
        let _ = write!(out, "\"itemCount\":{count},\"exportedAt\":"); // as above
        let time_at = out.len();
        let _ = write!(out, "\"{}\"", self.exported_at); // as above
        let time = time_at..out.len();
        out.extend_from_slice(b",\"items\":[");
        text.stamp(generation, Shape::Generation);
        text.stamp(time, Shape::Time);
        checksum_at
    }

    /// Returns the bytes of an envelope without its items and without the digits of their number.
    fn frame(self, part: Option<PartOf>) -> u64 {
        let mut text = Text::from(Vec::new());
        self.write_head(0, part, &mut text);
        text.bytes.len() as u64 + 1 // the closing brackets, without the one digit
    }
}

/// Rows in the files that they go to.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    /// One list for each part, in order; one, perhaps without rows, where a single file holds all.
    pub(super) parts: Vec<Vec<&'a Row>>,
    /// Over the items of all parts in canonical order; missing where there is one part, whose own is the same.
    pub(super) checksum: Option<Checksum>,
    pub(super) too_large: Vec<TooLarge>,
}

/// Cuts rows, which are in canonical order, into parts whose envelopes have at most `ceiling` bytes.
pub(super) fn cut<'a>(stamped: Stamped, inventory: &InventoryKey, rows: &'a [Row], ceiling: u64) -> Cut<'a> {
    // No part has a higher number than there are rows, so that what is measured is never too short.
    let most = PartOf { index: rows.len(), total: rows.len() };
    let (whole, frame) = (stamped.frame(None), stamped.frame(Some(most)));
    let alone = if rows.len() == 1 { whole } else { frame };
    let (mut kept, mut too_large, mut sum) = (Vec::with_capacity(rows.len()), Vec::new(), 0);
    let mut text = Vec::new();
    for row in rows {
        text.clear();
        canonical::write_item(row, &mut text);
        let bytes = text.len() as u64;
        if alone + 1 + bytes > ceiling {
            too_large.push(TooLarge::new(inventory, row, alone + 1 + bytes, ceiling));
        } else {
            sum += bytes;
            kept.push((row, bytes));
        }
    }
    if envelope(whole, kept.len() as u64, sum) <= ceiling || kept.len() < 2 {
        return Cut { parts: vec![kept.into_iter().map(|(row, _)| row).collect()], checksum: None, too_large };
    }
    let checksum = Some(Checksum::of_items(kept.iter().map(|(row, _)| *row)));
    sort_by_text(&mut kept);
    let mut parts: Vec<Vec<&Row>> = Vec::new();
    let (mut count, mut sum) = (0, 0);
    for (row, bytes) in kept {
        match parts.last_mut() {
            Some(part) if envelope(frame, count + 1, sum + bytes) <= ceiling => part.push(row),
            _ => {
                parts.push(vec![row]);
                (count, sum) = (0, 0);
            }
        }
        count += 1;
        sum += bytes;
    }
    Cut { parts, checksum, too_large }
}

/// Returns the bytes of an envelope with so many items.
fn envelope(frame: u64, count: u64, items: u64) -> u64 {
    let digits = u64::from(count.checked_ilog10().unwrap_or_default()) + 1;
    frame + digits + items + count.saturating_sub(1)
}

/// Sorts rows by their encoded bytes, which differs from the canonical order for objects of one name at most.
fn sort_by_text(rows: &mut [(&Row, u64)]) {
    let encode = |row: &Row, text: &mut Vec<u8>| {
        text.clear();
        canonical::write_item(row, text);
    };
    let (mut text, mut before) = (Vec::new(), Vec::new());
    let sorted = rows.iter().all(|(row, _)| {
        std::mem::swap(&mut text, &mut before);
        encode(row, &mut text);
        before <= text
    });
    if !sorted {
        rows.sort_by_cached_key(|(row, _)| {
            let mut text = Vec::new();
            encode(row, &mut text);
            text
        });
    }
}
