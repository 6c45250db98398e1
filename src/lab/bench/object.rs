//! The object store sink alone: one Parquet file of all rows in a bucket, beside pyarrow that puts the same table there.
//!
//! No API server and no operator: the sink is driven as the operator drives it. The store is versitygw on loopback, over
//! TLS; both sides connect anew, and compress with zstd as they do when nobody says how. What the clocks contain:
//!
//! | Key | From | To |
//! | --- | --- | --- |
//! | `seconds` | sorted rows in memory, nothing in the bucket | checksum, look, record, file, record, name of the bucket |
//! | `changed_seconds` | the same with one row changed | checksum, look, record, file, record |
//! | `unchanged_seconds` | the same once more | checksum and look |
//! | `pyarrow_seconds` | an Arrow table in memory | the file in the bucket, in one request |
//! | `pyarrow_local_seconds` | the same | a local file: neither a connection nor a server |
//! | `pyarrow_rows_seconds` | the rows as lines of JSON in memory | the file in the bucket |
//!
//! The limit compares `seconds` with `pyarrow_seconds`, although that one leaves out what a table costs that is not there
//! yet: `pyarrow_rows_seconds` is nearer to what the sink does, which begins with rows. pyarrow writes no record and looks
//! at nothing; its libraries are loaded, and have written a row to the bucket, before its clocks run. The rows of the sink
//! share what the store lets them share, targets and namespaces.
//!
//! Memory is the peak that the kernel counts for this process, reset before each measurement, less what was in use then.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
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
use crate::model::{Body, Cluster, Family, Name, Namespace, ObjectKey, Row, SinkKey};
use crate::secret::Secret;
use crate::sinks::netguard::Guard;
use crate::sinks::object::{Credentials, ObjectConfig, ObjectStores};
use crate::sinks::{Backend, TlsConfig};
use crate::validate::{Addressing, Bucket, Codec, Encoding, HOT_ATTRIBUTES, Retention, Scheme, Server};

const BUCKET: &str = "bench";

/// Reads a file, and writes its table as the module says; prints seconds, bytes of the local file, and rows.
const PYARROW: &str = r#"
import io, json, os, sys, time
import pyarrow.fs, pyarrow.json, pyarrow.parquet as pq

path, out, bucket, server, authority, key, secret = sys.argv[1:]
table = pq.read_table(path, partitioning=None)

def measure(work):
    begun = time.monotonic()
    work()
    return time.monotonic() - begun

def upload(make):
    # One request instead of three for a file of one part, and no connection yet.
    store = pyarrow.fs.S3FileSystem(access_key=key, secret_key=secret, region="us-east-1", scheme="https",
        endpoint_override=server, tls_ca_file_path=authority, allow_delayed_open=True)
    return measure(lambda: pq.write_table(make(), bucket + "/pyarrow.parquet", filesystem=store, compression="zstd"))

# The reader of JSON makes no binary column.
types = [field.with_type(pyarrow.string()) if field.name == "attributes" else field for field in table.schema]
options = pyarrow.json.ParseOptions(explicit_schema=pyarrow.schema(types))
lines = "\n".join(json.dumps(row, default=lambda value: value.decode() if isinstance(value, bytes) else value.isoformat())
    for row in table.to_pylist()).encode()
upload(lambda: table.slice(0, 1))
local = measure(lambda: pq.write_table(table, out, compression="zstd"))
ready = upload(lambda: table)
rows = upload(lambda: pyarrow.json.read_json(io.BytesIO(lines), parse_options=options))
print(local, ready, rows, os.path.getsize(out), table.num_rows)
"#;

/// Measures as many rounds as there are runs.
pub(super) async fn run(bench: &Bench) -> Result<Value> {
    let mut all = rows(bench.rows)?;
    all.sort_unstable_by(canonical_order);
    share(&mut all);
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

/// Lets rows have in common what the store lets them: a target and its kind, and a namespace.
fn share(rows: &mut [Row]) {
    let mut before: Option<Row> = None;
    for row in rows {
        if let Some(before) = before.filter(|before| before.origin == row.origin) {
            row.origin = before.origin;
            if before.namespace == row.namespace {
                row.namespace = before.namespace;
            }
        }
        before = Some(row.clone());
    }
}

/// Measures a first file, one in its place, and what it costs to see that it is there.
async fn sink(server: &ObjectServer, rows: &[Row]) -> Result<Values> {
    let guard = Guard { allow_private: false, allow_loopback: true };
    let life = ObjectStores::new(guard, "bench".to_owned(), jiff::Timestamp::now, CancellationToken::new());
    let Backend::Documents(sink) = life.sink(&config(server))? else { bail!("a bucket takes documents") };
    let mut values = Vec::new();
    let mut rows = rows.to_vec();
    for (what, written) in [("seconds", 1), ("changed_seconds", 1), ("unchanged_seconds", 0)] {
        if what == "changed_seconds"
            && let Some(row) = rows.last_mut()
        {
            row.body = Body::new(row.body.name(), b"{\"image\":\"changed\"}").context("the name is too long")?;
        }
        let standing = Standing { rows: rows.len() as u64, generation: 1, ..Standing::default() };
        let exported_at = jiff::Timestamp::now();
        let document =
            Document { scope: scope(), rows: rows.as_slice().into(), standing, max_part_bytes: 1 << 20, exported_at };
        let before = reset_peak()?;
        let started = Instant::now();
        let receipt = sink.publish(&document).await?;
        values.push((what, started.elapsed().as_secs_f64()));
        ensure!(receipt.written == written, "{} objects were written", receipt.written);
        if what == "seconds" {
            values.push(("extra_rss_mib", peak_mib()? - before));
            values.push(("bytes", receipt.bytes as f64));
        }
    }
    life.close().await;
    Ok(values)
}

/// Measures pyarrow with the table of the file that the sink wrote.
fn pyarrow(server: &ObjectServer, rows: usize) -> Result<Values> {
    let path = "inventory/cluster=bench/ns=loadtest-001/name=bench/generation=1.parquet";
    let (out, authority) = (server.bucket("../pyarrow.parquet"), server.bucket("../authority.pem"));
    fs::write(&authority, server.ca_pem()).context("failed to write the certificate of the authority")?;
    let mut python = Command::new(tools::python_parquet()?);
    python.args(["-c", PYARROW]).arg(server.bucket(BUCKET).join(path)).arg(out);
    python.args([BUCKET, &format!("127.0.0.1:{}", server.port())]).arg(authority).args([ACCESS_KEY, SECRET_KEY]);
    let printed = process::run(&mut python)?;
    let numbers: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [local, ready, from_rows, bytes, read] = numbers.as_slice() else { bail!("pyarrow printed {printed:?}") };
    #[expect(clippy::float_cmp, reason = "both are counts")]
    let complete = *read == rows as f64;
    ensure!(complete, "pyarrow read {read} of {rows} rows");
    Ok(vec![
        ("pyarrow_seconds", *ready),
        ("pyarrow_local_seconds", *local),
        ("pyarrow_rows_seconds", *from_rows),
        ("pyarrow_bytes", *bytes),
    ])
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
