//! Rows as a Parquet file: written column by column from the shared rows, so that no more than one column of pages is in
//! memory, whatever the number of rows.
//!
//! The columns are those of earlier releases, in the order of their names. Attributes are there as a whole, as JSON, and
//! the hot ones once more in columns of their own.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::export::Document;
use crate::export::json::{Kind, Tape};
use crate::model::Row;
use crate::validate::Codec;

/// Rows of one row group: what readers of one file work on in parallel, and more than most inventories have.
const GROUP_ROWS: usize = 1 << 20;
/// Rows whose values are gathered before they go to a column.
const BATCH_ROWS: usize = 4_096;

/// The columns of a file.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(String, Column)>,
    codec: Codec,
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
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

impl Table {
    /// Takes the attributes that get a column of their own; two of one column name count once.
    pub(super) fn new(codec: Codec, hot: &[String]) -> Self {
        let fixed = [
            ("api_version", Column::ApiVersion),
            ("attributes", Column::Attributes),
            ("cluster", Column::Cluster),
            ("exported_at", Column::ExportedAt),
            ("group", Column::Group),
            ("inventory_name", Column::InventoryName),
            ("inventory_namespace", Column::InventoryNamespace),
            ("kind", Column::Kind),
            ("name", Column::Name),
            ("namespace", Column::Namespace),
            ("target_name", Column::TargetName),
            ("target_namespace", Column::TargetNamespace),
            ("uid", Column::Uid),
        ];
        let mut columns: BTreeMap<String, Column> =
            fixed.into_iter().map(|(name, column)| (name.to_owned(), column)).collect();
        for attribute in hot {
            columns.entry(column_name(attribute)).or_insert_with(|| Column::Hot(attribute.clone()));
        }
        Self { columns: columns.into_iter().collect(), codec }
    }

    /// Writes a file and returns the writer it went to.
    pub(super) fn write<W: Write + Send>(&self, document: &Document, cluster: &str, out: W) -> Result<W, ParquetError> {
        let mut file = SerializedFileWriter::new(out, self.schema()?, Arc::new(self.properties()))?;
        for rows in document.rows.chunks(GROUP_ROWS) {
            let mut group = file.next_row_group()?;
            for (_, column) in &self.columns {
                let source = Source { document, cluster, column };
                source.write(rows, &mut group)?;
            }
            group.close()?;
        }
        file.into_inner()
    }

    fn schema(&self) -> Result<TypePtr, ParquetError> {
        let mut fields = Vec::with_capacity(self.columns.len());
        for (name, column) in &self.columns {
            let (physical, logical) = match column {
                Column::ExportedAt => {
                    let time = LogicalType::timestamp(true, TimeUnit::MICROS);
                    (PhysicalType::INT64, Some(time))
                }
                Column::Attributes => (PhysicalType::BYTE_ARRAY, None),
                _ => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
            };
            let repetition = if column.is_optional() { Repetition::OPTIONAL } else { Repetition::REQUIRED };
            let field = Type::primitive_type_builder(name, physical)
                .with_logical_type(logical)
                .with_repetition(repetition)
                .build()?;
            fields.push(Arc::new(field));
        }
        Ok(Arc::new(Type::group_type_builder("inventory").with_fields(fields).build()?))
    }

    fn properties(&self) -> WriterProperties {
        let compression = match self.codec {
            Codec::None => Compression::UNCOMPRESSED,
            Codec::Snappy => Compression::SNAPPY,
            Codec::Zstd => Compression::ZSTD(ZstdLevel::default()),
        };
        let column = |name: &str| ColumnPath::from(name);
        WriterProperties::builder()
            .set_created_by(concat!("kollect ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(compression)
            .set_write_batch_size(BATCH_ROWS)
            // No two rows of a target share one.
            .set_column_dictionary_enabled(column("uid"), false)
            .set_column_statistics_enabled(column("attributes"), EnabledStatistics::None)
            .build()
    }
}

impl Column {
    const fn is_optional(&self) -> bool {
        matches!(self, Self::Hot(_) | Self::Group)
    }
}

/// Returns the name of the column of an attribute.
fn column_name(attribute: &str) -> String {
    let mut name: String = attribute
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            '-' | '_' | '.' => Some('_'),
            c if c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        })
        .collect();
    if name.is_empty() {
        name.push_str("unknown");
    }
    name.insert_str(0, "attr_");
    name
}

/// Where the values of one column come from.
struct Source<'a> {
    document: &'a Document,
    cluster: &'a str,
    column: &'a Column,
}

impl Source<'_> {
    fn write<W: Write + Send>(
        &self,
        rows: &[Row],
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        let Some(mut writer) = group.next_column()? else {
            return Err(ParquetError::General("the schema has fewer columns than the table".to_owned()));
        };
        if *self.column == Column::ExportedAt {
            let times = vec![self.document.exported_at.as_microsecond(); rows.len().min(BATCH_ROWS)];
            for batch in rows.chunks(BATCH_ROWS) {
                let times = times.get(..batch.len()).unwrap_or_default();
                writer.typed::<Int64Type>().write_batch(times, None, None)?;
            }
            return writer.close();
        }
        let optional = self.column.is_optional();
        let (mut tape, mut scratch) = (Tape::default(), Vec::new());
        for batch in rows.chunks(BATCH_ROWS) {
            // One buffer for all values of the batch, which then share it.
            let mut text = Vec::new();
            let mut spans: Vec<Range<usize>> = Vec::with_capacity(batch.len());
            let mut levels = Vec::with_capacity(batch.len());
            for row in batch {
                let start = text.len();
                let there = self.value(row, &mut tape, &mut scratch, &mut text);
                levels.push(i16::from(there));
                if there || !optional {
                    spans.push(start..text.len());
                }
            }
            let text = Bytes::from(text);
            let values: Vec<ByteArray> = spans.into_iter().map(|span| ByteArray::from(text.slice(span))).collect();
            let levels = optional.then_some(levels.as_slice());
            writer.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
        }
        writer.close()
    }

    /// Appends the value of a row; tells whether it has one.
    fn value(&self, row: &Row, tape: &mut Tape, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        let (target, gvk) = (&row.origin.target, &row.origin.gvk);
        let inventory = &self.document.scope.inventory;
        let text = match self.column {
            Column::ApiVersion => &*gvk.version,
            Column::Cluster => self.cluster,
            Column::Group => &*gvk.group,
            Column::InventoryName => inventory.name.as_str(),
            Column::InventoryNamespace => inventory.namespace.as_str(),
            Column::Kind => &*gvk.kind,
            Column::Name => row.body.name(),
            Column::Namespace => row.namespace.as_str(),
            Column::TargetName => target.name.as_str(),
            Column::TargetNamespace => target.namespace.as_str(),
            Column::Uid => {
                let _ = write!(out, "{}", row.uid); // a Vec takes everything
                return true;
            }
            Column::Attributes => {
                out.extend_from_slice(row.body.attributes());
                return true;
            }
            Column::Hot(name) => return hot(row.body.attributes(), name, tape, scratch, out),
            Column::ExportedAt => return false, // no text
        };
        out.extend_from_slice(text.as_bytes());
        !text.is_empty()
    }
}

/// Appends the value of an attribute as text; nothing for null, the empty text, and what is not there.
fn hot(json: &[u8], name: &str, tape: &mut Tape, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    tape.read(json);
    let Some(at) = tape.find(json, 0, name) else { return false };
    let node = tape.node(at);
    let text = match node.kind {
        Kind::Text | Kind::Escaped => node.text(json, scratch),
        Kind::Plain if node.raw(json) == b"null" => b"",
        Kind::Plain | Kind::Map | Kind::List => node.raw(json),
    };
    out.extend_from_slice(text);
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_in_the_order_of_their_names() {
        let hot = ["image", "version", "App.Kubernetes-io/Name", "IMAGE", "?"].map(str::to_owned);
        let table = Table::new(Codec::Zstd, &hot);
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
        let want = [
            "api_version",
            "attr_app_kubernetes_ioname",
            "attr_image",
            "attr_unknown",
            "attr_version",
            "attributes",
            "cluster",
            "exported_at",
            "group",
            "inventory_name",
            "inventory_namespace",
            "kind",
            "name",
            "namespace",
            "target_name",
            "target_namespace",
            "uid",
        ];
        assert_eq!(names, want);
        assert!(table.columns.contains(&("attr_image".to_owned(), Column::Hot("image".to_owned()))));
    }

    #[test]
    fn a_hot_value_is_text_and_nothing_is_null() {
        let json = br#"{"a":"x\u003cy","b":3,"c":true,"d":{"k":[1]},"e":null,"f":"","g":[]}"#;
        let value = |name| {
            let mut out = Vec::new();
            let there = hot(json, name, &mut Tape::default(), &mut Vec::new(), &mut out);
            there.then(|| String::from_utf8(out).unwrap())
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
