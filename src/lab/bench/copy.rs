//! The PostgreSQL sink alone: many rows into an empty scope beside `psql \copy` of the same rows, and then small deltas.
//!
//! No API server and no operator: the sink is driven as the operator drives it, through [`PostgresPools`] and [`Sink`].
//! The yardstick is a `\copy` in binary form, as the sink's own is, from a file of the rows as the sink itself stored
//! them, into a table that was made by the same statements; the same in CSV is measured beside it. All connect anew,
//! all begin after a checkpoint, and sink and psql take turns in going first.
//!
//! Deltas follow the first delivery, on a table that was vacuumed and analyzed since, as autovacuum leaves one, and without
//! a checkpoint between. That decides about WAL: after a checkpoint the first touch of each page costs a copy of the page
//! (`full_page_writes`), some twenty times as much, whoever writes. One more delta shows that, under keys of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::load::{IMAGE, Load};
use super::super::postgres::{Database, Postgres};
use super::super::{Lab, LabOptions};
use super::report::{self, Report};
use super::{Bench, DATABASE, Values};
use crate::export::{Base, Selection};
use crate::model::Row;
use crate::secret::Secret;
use crate::sinks::TlsConfig;
use crate::sinks::netguard::Guard;
use crate::sinks::postgres::{PostgresConfig, PostgresPools, PostgresSink, Provisioning, Writer};
use crate::sinks::{RowSink, contract};

const TABLE: &str = "items";

/// The table of psql, of the same shape.
const COPIED: &str = "copied_items";

/// Rows of a delta, and deltas of a round.
const DELTA_ROWS: usize = 1_000;
const DELTAS: usize = 5;

/// Measures as many rounds as there are runs.
pub(super) async fn run(bench: &Bench) -> Result<Value> {
    ensure!(bench.rows >= DELTA_ROWS, "--rows must be at least {DELTA_ROWS}");
    let lab = Lab::start(LabOptions { control_plane: false, ..LabOptions::default() }).await?;
    let server = lab.postgres();
    server.create_database(DATABASE).await?;
    let mut stage =
        Stage { server, admin: server.connect_admin(DATABASE).await?, lives: 0, rows: rows(bench.rows)?, seq: 0 };
    let files = Files { binary: lab.dir().join("rows.pgcopy"), csv: lab.dir().join("rows.csv") };
    stage.write_files(&files).await.context("failed to prepare the files for psql")?;
    let mut report = Report::default();
    for round in 1..=bench.runs {
        let mut measured = Vec::new();
        if round % 2 == 0 {
            measured.push(stage.psql_copies(&files).await?);
        }
        measured.push(stage.first_delivery().await?);
        measured.extend(stage.deltas().await.with_context(|| format!("failed in the deltas of round {round}"))?);
        if round % 2 == 1 {
            measured.push(stage.psql_copies(&files).await?);
        }
        for values in measured {
            eprintln!("round {round}: {}", report::line(&values));
            report.add(&values);
        }
    }
    drop(stage);
    lab.stop().await?;
    Ok(report.finish(&[
        ("bench", json!(bench.name.as_str())),
        ("rows", json!(bench.rows)),
        ("delta_rows", json!(DELTA_ROWS)),
    ]))
}

/// The rows as psql reads them.
struct Files {
    binary: PathBuf,
    csv: PathBuf,
}

struct Stage<'a> {
    server: &'a Postgres,
    /// Counts, checkpoints and cleans; the sink has the role of an operator.
    admin: Database,
    lives: i64,
    rows: Vec<Row>,
    seq: u64,
}

impl Stage<'_> {
    /// Fills the table once, unmeasured, and has psql write what is in it, in the order of the key.
    async fn write_files(&mut self, files: &Files) -> Result<()> {
        let (pools, sink) = self.life(TABLE)?;
        self.deliver(&sink, Base::Empty, self.rows.clone()).await?;
        pools.close().await;
        let order = "cluster, inventory_namespace, inventory_name, target_name, source_uid";
        for (file, format) in [(&files.binary, "binary"), (&files.csv, "csv")] {
            let to = format!("TO '{}' WITH (FORMAT {format})", file.display());
            self.server.psql(DATABASE, &format!("\\copy (SELECT * FROM {TABLE} ORDER BY {order}) {to}"))?;
        }
        Ok(())
    }

    /// Makes the sink of a process that was just started.
    fn life(&mut self, table: &str) -> Result<(PostgresPools, PostgresSink)> {
        self.lives += 1;
        let guard = Guard { allow_private: false, allow_loopback: true };
        let writer = Writer { process: "bench".to_owned(), lease_transitions: self.lives };
        let pools = PostgresPools::new(guard, writer, jiff::Timestamp::now, CancellationToken::new());
        let sink = pools.sink(&PostgresConfig {
            dsn: Secret::new(self.server.dsn(DATABASE)),
            schema: "public".to_owned(),
            table: table.to_owned(),
            state_table: None,
            provisioning: Provisioning::Ensure,
            tls: TlsConfig::default(),
            statement_timeout: None,
            lock_timeout: None,
        })?;
        Ok((pools, sink))
    }

    /// Makes a table anew, empty, with the statements of the sink.
    async fn make(&mut self, table: &str) -> Result<()> {
        self.admin.batch_execute(&format!("DROP TABLE IF EXISTS {table}, {table}_state")).await?;
        let (pools, sink) = self.life(table)?;
        sink.recover(&scope(), &Selection::All, &[]).await?;
        pools.close().await;
        Ok(())
    }

    /// Measures from connecting to the commit of all rows, the comparison with the empty scope included.
    async fn first_delivery(&mut self) -> Result<Values> {
        self.make(TABLE).await?;
        let (pools, sink) = self.life(TABLE)?;
        let rows = self.rows.clone();
        self.checkpoint().await?;
        let started = Instant::now();
        ensure!(sink.recover(&scope(), &Selection::All, &[]).await?.is_empty(), "the scope is not empty");
        let compared = started.elapsed().as_secs_f64();
        self.deliver(&sink, Base::Empty, rows).await?;
        let seconds = started.elapsed().as_secs_f64();
        pools.close().await;
        self.check(TABLE).await?;
        Ok(vec![("seconds", seconds), ("deliver_seconds", seconds - compared)])
    }

    /// Has psql copy the same rows, in both forms.
    async fn psql_copies(&mut self, files: &Files) -> Result<Values> {
        Ok(vec![
            ("psql_copy_seconds", self.psql_copy(&files.binary, "binary").await?),
            ("psql_csv_seconds", self.psql_copy(&files.csv, "csv").await?),
        ])
    }

    /// Returns the seconds that psql runs.
    async fn psql_copy(&mut self, file: &Path, format: &str) -> Result<f64> {
        self.make(COPIED).await?;
        self.checkpoint().await?;
        let script = format!("\\copy {COPIED} FROM '{}' WITH (FORMAT {format})", file.display());
        let started = Instant::now();
        self.server.psql(DATABASE, &script)?;
        let seconds = started.elapsed().as_secs_f64();
        self.check(COPIED).await?;
        Ok(seconds)
    }

    /// Delivers deltas and returns the values of each, of all, and of one more behind a checkpoint.
    async fn deltas(&mut self) -> Result<Vec<Values>> {
        self.admin.batch_execute(&format!("VACUUM (ANALYZE) {TABLE}")).await?;
        let (pools, sink) = self.life(TABLE)?;
        // As at any start, and not part of a delta: connect, claim, compare.
        ensure!(sink.recover(&scope(), &Selection::All, &[]).await?.len() == self.rows.len(), "rows are missing");
        let writes = self.server.row_writes(&self.admin, TABLE).await?;
        let mut measured = Vec::new();
        for turn in 0..DELTAS {
            let (ms, wal) = self.delta(&sink, turn).await?;
            measured.push(vec![("delta_ms", ms), ("wal_bytes_per_changed_row", wal)]);
        }
        // The server reports its counters seconds late, so they are read once for all deltas of the round.
        let writes = self.server.row_writes(&self.admin, TABLE).await?.since(writes);
        measured.push(vec![("delta_row_writes", writes.total() as f64 / DELTAS as f64)]);
        self.checkpoint().await?;
        let (ms, wal) = self.delta(&sink, DELTAS).await?;
        measured.push(vec![("delta_after_checkpoint_ms", ms), ("wal_bytes_per_changed_row_after_checkpoint", wal)]);
        pools.close().await;
        Ok(measured)
    }

    /// Changes rows spread over the whole table, other ones in each turn; returns milliseconds and bytes of WAL per row.
    async fn delta(&mut self, sink: &PostgresSink, turn: usize) -> Result<(f64, f64)> {
        let (count, step) = (self.rows.len(), self.rows.len() / DELTA_ROWS);
        let image = format!("registry.k8s.io/pause:r{turn}");
        let indexes = (turn % step..count).step_by(step).take(DELTA_ROWS);
        let mut changed: Vec<Row> = indexes.map(|index| row(index, count, &image)).collect::<Result<_>>()?;
        changed.sort_unstable_by_key(Row::key);
        let wal = self.wal_bytes().await?;
        let started = Instant::now();
        let written = self.deliver(sink, Base::Filled, changed).await?;
        let ms = started.elapsed().as_secs_f64() * 1_000.0;
        let wal = self.wal_bytes().await? - wal;
        ensure!(written == DELTA_ROWS as u64, "{written} rows were written");
        Ok((ms, wal as f64 / DELTA_ROWS as f64))
    }

    /// Delivers rows and returns how many were written.
    async fn deliver(&mut self, sink: &PostgresSink, base: Base, rows: Vec<Row>) -> Result<u64> {
        let scope = scope();
        self.seq += rows.len() as u64;
        let delta = contract::delta(&scope, base, rows, Vec::new(), self.rows.len() as u64, self.seq);
        let receipt = sink.deliver(&delta).await?;
        ensure!(receipt.refused.is_empty(), "{} rows were refused", receipt.refused.len());
        Ok(receipt.written)
    }

    async fn checkpoint(&self) -> Result<()> {
        self.admin.batch_execute("CHECKPOINT").await.context("failed to write a checkpoint")
    }

    async fn wal_bytes(&self) -> Result<i64> {
        let position = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
        Ok(self.admin.query_one(position, &[]).await?.get(0))
    }

    async fn check(&self, table: &str) -> Result<()> {
        let count = usize::try_from(self.server.count(&self.admin, table).await?)?;
        ensure!(count == self.rows.len(), "{count} rows in {table}");
        Ok(())
    }
}

pub(super) fn scope() -> Arc<crate::export::Scope> {
    contract::scope("bench", "loadtest-001", "bench")
}

/// Returns all rows, ascending by key.
pub(super) fn rows(count: usize) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = (0..count).map(|index| row(index, count, IMAGE)).collect::<Result<_>>()?;
    rows.sort_unstable_by_key(Row::key);
    Ok(rows)
}

/// Returns the row of one object of the load, with the six attributes of the other benches and a UID as the API server
/// draws them.
pub(super) fn row(index: usize, count: usize, image: &str) -> Result<Row> {
    let load = Load { namespaces: 50, per_namespace: count.div_ceil(50), ..Load::default() };
    let (namespace, name) = load.object(index);
    let hex = blake3::hash(&index.to_le_bytes()).to_hex();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    let uid = format!("{}-{}-4{}-8{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30));
    let attributes = json!({
        "containers": ["app", "proxy"],
        "image": image,
        "owner": "team-payments@example.com",
        "replicas": 0,
        "team": "payments",
        "version": format!("1.{}.{}", index % 32, index % 61),
    });
    contract::row("bench", &uid, &namespace, &name, &attributes.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_distinct_and_ascending_and_a_changed_one_keeps_its_key() {
        let all = rows(2_000).unwrap();
        assert!(all.windows(2).all(|pair| pair[0].key() < pair[1].key()));
        assert_eq!(row(7, 2_000, "a").unwrap().key(), row(7, 2_000, "b").unwrap().key());
    }
}
