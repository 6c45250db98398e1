//! The object store sink alone: one Parquet file of all rows, beside pyarrow with the same table and compression.
//!
//! No API server and no operator: the sink is driven as the operator drives it. The store is versitygw on loopback, over
//! TLS; pyarrow writes a local file. The sink begins with rows and looks whether they are there already; pyarrow has the
//! table in memory before its clock runs.
//!
//! Memory is the peak that the kernel counts for this process, reset before each measurement, less what was in use then.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::object::{ACCESS_KEY, ObjectServer, Protocol, SECRET_KEY};
use super::super::{process, tools};
use super::copy::{rows, scope};
use super::git::{peak_mib, reset_peak};
use super::report::{self, Report};
use super::{Bench, Values};
use crate::export::document::canonical_order;
use crate::export::{Document, Standing};
use crate::metrics::SinkType;
use crate::model::{Cluster, Family, Name, Namespace, ObjectKey, Row, SinkKey};
use crate::secret::Secret;
use crate::sinks::netguard::Guard;
use crate::sinks::object::{Credentials, ObjectConfig, ObjectStores};
use crate::sinks::{Backend, TlsConfig};
use crate::validate::{Addressing, Bucket, Codec, Encoding, HOT_ATTRIBUTES, Retention, Scheme, Server};

const BUCKET: &str = "bench";

/// Reads a file, and writes its table once more; prints seconds and bytes.
const PYARROW: &str = r#"
import os, sys, time, pyarrow.parquet as pq
path, out = sys.argv[1:3]
table = pq.read_table(path, partitioning=None)
begun = time.monotonic()
pq.write_table(table, out, compression="zstd")
seconds = time.monotonic() - begun
print(seconds, os.path.getsize(out), table.num_rows)
"#;

/// Measures as many rounds as there are runs.
pub(super) async fn run(bench: &Bench) -> Result<Value> {
    let mut all = rows(bench.rows)?;
    all.sort_unstable_by(canonical_order);
    let mut report = Report::default();
    for round in 1..=bench.runs {
        let server = ObjectServer::start(Protocol::S3).await?;
        server.create_bucket(BUCKET).await?;
        let mut values = sink(&server, &all).await?;
        values.extend(pyarrow(&server, all.len())?);
        eprintln!("round {round}: {}", report::line(&values));
        report.add(&values);
    }
    Ok(report.finish(&[("bench", json!(bench.name.as_str())), ("rows", json!(bench.rows))]))
}

/// Measures a first file, and what it costs to see that it is there.
async fn sink(server: &ObjectServer, rows: &[Row]) -> Result<Values> {
    let guard = Guard { allow_private: false, allow_loopback: true };
    let life = ObjectStores::new(guard, "bench".to_owned(), jiff::Timestamp::now, CancellationToken::new());
    let Backend::Documents(sink) = life.sink(&config(server))? else { bail!("a bucket takes documents") };
    let standing = Standing { rows: rows.len() as u64, generation: 1, ..Standing::default() };
    let exported_at = jiff::Timestamp::now();
    let document = Document { scope: scope(), rows: rows.to_vec(), standing, max_part_bytes: 1 << 20, exported_at };
    let before = reset_peak()?;
    let started = Instant::now();
    let receipt = sink.publish(&document).await?;
    let seconds = started.elapsed().as_secs_f64();
    let extra = peak_mib()? - before;
    ensure!(receipt.written == 1, "{} objects were written", receipt.written);
    let started = Instant::now();
    let again = sink.publish(&document).await?;
    ensure!(again.written == 0, "it was written again");
    let unchanged = started.elapsed().as_secs_f64();
    life.close().await;
    let bytes = receipt.bytes as f64;
    Ok(vec![("seconds", seconds), ("extra_rss_mib", extra), ("bytes", bytes), ("unchanged_seconds", unchanged)])
}

/// Measures pyarrow with the table of the file that the sink wrote.
fn pyarrow(server: &ObjectServer, rows: usize) -> Result<Values> {
    let path = "inventory/cluster=bench/ns=loadtest-001/name=bench/generation=1.parquet";
    let mut python = Command::new(tools::python_parquet()?);
    python.args(["-c", PYARROW]).arg(server.bucket(BUCKET).join(path)).arg(server.bucket("../pyarrow.parquet"));
    let printed = process::run(&mut python)?;
    let numbers: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [seconds, bytes, read] = numbers.as_slice() else { bail!("pyarrow printed {printed:?}") };
    #[expect(clippy::float_cmp, reason = "both are counts")]
    let complete = *read == rows as f64;
    ensure!(complete, "pyarrow read {read} of {rows} rows");
    Ok(vec![("pyarrow_seconds", *seconds), ("pyarrow_bytes", *bytes)])
}

fn config(server: &ObjectServer) -> ObjectConfig {
    let object = ObjectKey::new(Namespace::new("team-a"), Name::new("bench"));
    let authority = format!("127.0.0.1:{}", server.port());
    let secret = Secret::new(SECRET_KEY);
    ObjectConfig {
        sink: SinkKey { family: Family::Snapshot, object },
        kind: SinkType::S3,
        cluster: Cluster::new("bench"),
        bucket: Bucket {
            server: Server::Other { scheme: Scheme::Https, authority },
            name: BUCKET.to_owned(),
            prefix: String::new(),
        },
        region: "us-east-1".to_owned(),
        addressing: Addressing::Path,
        credentials: Credentials::Keys { id: ACCESS_KEY.to_owned(), secret, session: None },
        tls: TlsConfig { ca_pem: Some(server.ca_pem().into_bytes()), ..TlsConfig::default() },
        encoding: Encoding::Parquet { codec: Codec::Zstd, hot: HOT_ATTRIBUTES.map(str::to_owned).to_vec() },
        path_template: None,
        retention: Retention::default(),
    }
}
