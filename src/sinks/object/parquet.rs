//! Rows as a Parquet file, encoded column by column from the shared rows.
//!
//! The columns are those of earlier releases, in the order of their names. Attributes are there as a whole, as JSON, and
//! the hot ones once more in columns of their own.
//!
//! A file is cut into groups of rows, and the columns of one group are encoded side by side. What is in memory are the
//! encoded columns of one group, whatever the number of rows. The bytes do not depend on the number of processors.

mod column;

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as PhysicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use self::column::{BATCH_ROWS, Chunk, Column, Sheet};
use crate::export::Document;
use crate::model::Row;
use crate::validate::Codec;

/// Rows of one group at most: what readers of one file work on in parallel.
const GROUP_ROWS: usize = 1 << 17;
/// Bytes of attributes of one group, but for its last row: bounds what is in memory where rows are large.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Columns that are encoded at a time.
const MAX_WORKERS: usize = 4;

/// The columns of a file.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(String, Column)>,
    codec: Codec,
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
        let mut rest = &*document.rows;
        while !rest.is_empty() {
            let (rows, after) = rest.split_at(group_length(rest));
            let sheet = Sheet { document, cluster, rows, schema: file.schema_descr(), properties: file.properties() };
            let chunks = self.encode(&sheet)?;
            let mut group = file.next_row_group()?;
            for chunk in chunks {
                group.append_column(&chunk.bytes, chunk.close)?;
            }
            group.close()?;
            rest = after;
        }
        file.into_inner()
    }

    /// Encodes all columns of a group, several at a time.
    fn encode(&self, sheet: &Sheet<'_>) -> Result<Vec<Chunk>, ParquetError> {
        let mut places: Vec<(usize, &Column)> = self.columns.iter().map(|(_, column)| column).enumerate().collect();
        // The long ones first, so that none of them is left when all others are done.
        places.sort_by_key(|(_, column)| column.is_shared());
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let workers = if sheet.rows.len() <= BATCH_ROWS { 1 } else { processors.min(MAX_WORKERS) };
        let places = Mutex::new(places.into_iter());
        let work = || -> Result<Vec<(usize, Chunk)>, ParquetError> {
            let mut done = Vec::new();
            loop {
                let Some((place, column)) = places.lock().next() else { return Ok(done) };
                done.push((place, column.encode(place, sheet)?));
            }
        };
        let mut done = thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let mut done = work()?;
            for other in others {
                done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
            }
            Ok::<_, ParquetError>(done)
        })?;
        done.sort_by_key(|(place, _)| *place);
        Ok(done.into_iter().map(|(_, chunk)| chunk).collect())
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

/// Returns how many of these rows, of which there is one at least, make the next group.
fn group_length(rows: &[Row]) -> usize {
    let mut bytes = 0;
    let fits = rows.iter().take(GROUP_ROWS).take_while(|row| {
        let begins = bytes < GROUP_BYTES;
        bytes += row.body.size();
        begins
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use parquet::file::metadata::RowGroupMetaData;
    use parquet::file::reader::FileReader as _;
    use parquet::file::serialized_reader::SerializedFileReader;

    use super::*;
    use crate::export::Standing;
    use crate::model::{Body, Gvk, Name, Namespace, ObjectKey, Origin, Uid};

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
    fn large_rows_make_many_groups_and_equal_rows_equal_bytes() {
        let target = ObjectKey::new(Namespace::new("team-a"), Name::new("deploys"));
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let origin = Arc::new(Origin { target, gvk });
        let document = |count: usize, size: usize| {
            let attributes = format!("{{\"image\":\"{}\"}}", "x".repeat(size));
            let row = |number: usize| Row {
                origin: Arc::clone(&origin),
                uid: Uid::new(&format!("{number:08x}-0000-4000-8000-000000000000")),
                namespace: Namespace::new("team-a"),
                body: Body::new(&format!("app-{number}"), attributes.as_bytes()).unwrap(),
            };
            Document {
                scope: crate::sinks::contract::scope("west", "team-a", "apps"),
                rows: (0..count).map(row).collect(),
                standing: Standing::default(),
                max_part_bytes: 1 << 20,
                exported_at: jiff::Timestamp::UNIX_EPOCH,
            }
        };
        let table = Table::new(Codec::Zstd, &["image".to_owned()]);
        let half = GROUP_BYTES / 2;
        for (count, size, groups) in
            [(0, 0, vec![]), (5_000, 10, vec![5_000]), (5, half, vec![2, 2, 1]), (3, 3 * half, vec![1, 1, 1])]
        {
            let document = document(count, size);
            let file = table.write(&document, "west", Vec::new()).unwrap();
            assert!(file == table.write(&document, "west", Vec::new()).unwrap(), "{count} rows");
            let read = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
            let there: Vec<i64> = read.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).collect();
            assert_eq!(there, groups, "{count} rows of {size} bytes");
        }
    }
}
