//! One column of a group of rows: its values, and what they become.

use std::io::Write as _;
use std::ops::Range;

use bytes::Bytes;
use parquet::column::writer::{ColumnCloseResult, ColumnWriter, ColumnWriterImpl, get_column_writer};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::SchemaDescriptor;

use crate::export::Document;
use crate::export::json::{self, Kind};
use crate::model::Row;

/// Rows whose values are gathered before they are encoded.
pub(super) const BATCH_ROWS: usize = 4_096;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Column {
    ApiVersion,
    /// An attribute by its name.
    Hot(String),
    Attributes,
    Cluster,
    ExportedAt,
    Group,
    InventoryName,
    InventoryNamespace,
    Kind,
    Name,
    Namespace,
    TargetName,
    TargetNamespace,
    Uid,
}

/// A group of rows, and the file that it is for.
pub(super) struct Sheet<'a> {
    pub(super) document: &'a Document,
    pub(super) cluster: &'a str,
    pub(super) rows: &'a [Row],
    pub(super) schema: &'a SchemaDescriptor,
    pub(super) properties: &'a WriterPropertiesPtr,
}

/// An encoded column.
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) close: ColumnCloseResult,
}

impl Column {
    pub(super) const fn is_optional(&self) -> bool {
        matches!(self, Self::Hot(_) | Self::Group)
    }

    /// Tells whether long runs of rows have the same value.
    pub(super) const fn is_shared(&self) -> bool {
        !matches!(self, Self::Attributes | Self::Hot(_) | Self::Name | Self::Uid)
    }

    /// Encodes the values of all rows as the column at this place of the schema.
    pub(super) fn encode(&self, place: usize, sheet: &Sheet<'_>) -> Result<Chunk, ParquetError> {
        let mut out = TrackedWrite::new(Vec::new());
        let pages = Box::new(SerializedPageWriter::new(&mut out));
        let close = match get_column_writer(sheet.schema.column(place), sheet.properties.clone(), pages) {
            ColumnWriter::Int64ColumnWriter(mut writer) => {
                write_times(sheet, &mut writer)?;
                writer.close()?
            }
            ColumnWriter::ByteArrayColumnWriter(mut writer) => {
                if self.is_shared() {
                    self.write_shared(sheet, &mut writer)?;
                } else {
                    self.write_own(sheet, &mut writer)?;
                }
                writer.close()?
            }
            _ => return Err(ParquetError::General("the schema has columns that the table has not".to_owned())),
        };
        Ok(Chunk { bytes: out.into_inner()?.into(), close })
    }

    /// Writes values that stay the same over many rows: those of the batch before are taken again where they are equal.
    fn write_shared(&self, sheet: &Sheet<'_>, writer: &mut Texts<'_>) -> Result<(), ParquetError> {
        let optional = self.is_optional();
        let (mut values, mut levels) = (Vec::<ByteArray>::new(), Vec::new());
        let mut before = ByteArray::from("");
        for batch in sheet.rows.chunks(BATCH_ROWS) {
            levels.clear();
            let mut count = 0;
            for row in batch {
                let text = self.shared(row, sheet).as_bytes();
                if optional {
                    levels.push(i16::from(!text.is_empty()));
                    if text.is_empty() {
                        continue;
                    }
                }
                if before.data() != text {
                    before = ByteArray::from(text);
                }
                match values.get_mut(count) {
                    Some(value) if value.data() == text => {}
                    Some(value) => *value = before.clone(),
                    None => values.push(before.clone()),
                }
                count += 1;
            }
            let values = values.get(..count).unwrap_or_default();
            writer.write_batch(values, optional.then_some(&levels), None)?;
        }
        Ok(())
    }

    /// Returns a value that rows share; the empty text where there is none.
    fn shared<'a>(&self, row: &'a Row, sheet: &Sheet<'a>) -> &'a str {
        let (target, gvk) = (&row.origin.target, &row.origin.gvk);
        let inventory = &sheet.document.scope.inventory;
        match self {
            Self::ApiVersion => &gvk.version,
            Self::Cluster => sheet.cluster,
            Self::Group => &gvk.group,
            Self::InventoryName => inventory.name.as_str(),
            Self::InventoryNamespace => inventory.namespace.as_str(),
            Self::Kind => &gvk.kind,
            Self::Namespace => row.namespace.as_str(),
            Self::TargetName => target.name.as_str(),
            Self::TargetNamespace => target.namespace.as_str(),
            Self::Attributes | Self::ExportedAt | Self::Hot(_) | Self::Name | Self::Uid => "", // each row's own
        }
    }

    /// Writes values that differ from row to row.
    fn write_own(&self, sheet: &Sheet<'_>, writer: &mut Texts<'_>) -> Result<(), ParquetError> {
        let optional = self.is_optional();
        let mut scratch = Vec::new();
        let mut bytes = 0;
        for batch in sheet.rows.chunks(BATCH_ROWS) {
            // One buffer for all values of the batch, which then share it.
            let mut text = Vec::with_capacity(bytes);
            let mut spans: Vec<Range<usize>> = Vec::with_capacity(batch.len());
            let mut levels = Vec::with_capacity(if optional { batch.len() } else { 0 });
            for row in batch {
                let start = text.len();
                self.append(row, &mut scratch, &mut text);
                let there = text.len() > start;
                if optional {
                    levels.push(i16::from(there));
                }
                if there || !optional {
                    spans.push(start..text.len());
                }
            }
            bytes = text.len();
            let text = Bytes::from(text);
            let values: Vec<ByteArray> = spans.into_iter().map(|span| ByteArray::from(text.slice(span))).collect();
            writer.write_batch(&values, optional.then_some(levels.as_slice()), None)?;
        }
        Ok(())
    }

    /// Appends a value of a row's own; nothing where there is none.
    fn append(&self, row: &Row, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        match self {
            Self::Uid => {
                let _ = write!(out, "{}", row.uid); // a Vec takes everything
            }
            Self::Name => out.extend_from_slice(row.body.name().as_bytes()),
            Self::Attributes => out.extend_from_slice(row.body.attributes()),
            Self::Hot(name) => append_hot(row.body.attributes(), name, scratch, out),
            _ => {} // those are shared
        }
    }
}

/// What writes a column of texts.
type Texts<'a> = ColumnWriterImpl<'a, ByteArrayType>;

fn write_times(sheet: &Sheet<'_>, writer: &mut ColumnWriterImpl<'_, Int64Type>) -> Result<(), ParquetError> {
    let times = vec![sheet.document.exported_at.as_microsecond(); sheet.rows.len().min(BATCH_ROWS)];
    for batch in sheet.rows.chunks(BATCH_ROWS) {
        writer.write_batch(times.get(..batch.len()).unwrap_or_default(), None, None)?;
    }
    Ok(())
}

/// Appends the value of an attribute as text; nothing for null, the empty text, and what is not there.
fn append_hot(attributes: &[u8], name: &str, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    let Some(node) = json::member(attributes, name, scratch) else { return };
    match node.kind {
        Kind::Text | Kind::Escaped => out.extend_from_slice(node.text(attributes, scratch)),
        Kind::Plain if node.raw(attributes) == b"null" => {}
        Kind::Plain | Kind::Map | Kind::List => out.extend_from_slice(node.raw(attributes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_value_is_text_and_nothing_is_null() {
        let json = br#"{"a":"x\u003cy","b":3,"c":true,"d":{"k":[1]},"e":null,"f":"","g":[]}"#;
        let value = |name| {
            let mut out = Vec::new();
            append_hot(json, name, &mut Vec::new(), &mut out);
            Some(String::from_utf8(out).unwrap()).filter(|text| !text.is_empty())
        };
        for (name, want) in
            [("a", Some("x<y")), ("b", Some("3")), ("c", Some("true")), ("d", Some("{\"k\":[1]}")), ("g", Some("[]"))]
        {
            assert_eq!(value(name).as_deref(), want, "{name}");
        }
        for name in ["e", "f", "z"] {
            assert_eq!(value(name), None, "{name}");
        }
    }
}
