//! Streams and buckets end to end: the operator as a process, a real API server, NATS and S3, both behind a network that
//! may be cut. One inventory is sent to a stream of changes, a stream of snapshots, and a bucket in two formats. What is
//! there is read past the operator: by a [`Reader`], from the folder of the bucket, by `DuckDB`.

mod broken;
mod faults;
mod killed;
mod reader;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use kollect::lab::nats::{NatsOptions, NatsServer, Somebody};
use kollect::lab::object::{ACCESS_KEY, ObjectServer, Protocol, SECRET_KEY};
use kollect::lab::operator::OperatorOptions;
use kollect::lab::process::{self, tail};
use kollect::lab::wait::wait_for;
use kollect::lab::{Operator, Proxy, tools};
use serde_json::Value;

use self::reader::Reader;
use crate::operator::{Job, PATIENCE};
use crate::support::part_or_skip;

const USER: &str = "kollect";
const PASSWORD: &str = "0123456789";
const BUCKET: &str = "inv";
/// The stream of changes, and its subject.
const CHANGES: &str = "changes";
/// The stream of snapshots, and its subject.
const WHOLE: &str = "whole";
const SINKS: [&str; 4] = ["event/changes", "event/whole", "snapshot/json", "snapshot/columns"];

/// Prints UID, name and image of each row of a file.
const PARQUET: &str = "\
import sys, duckdb
table = 'read_parquet(?, hive_partitioning = false)'
for row in duckdb.execute(f'select uid, name, attr_image from {table}', [sys.argv[1]]).fetchall():
    print(*row)
";

/// A job with a broker and a store.
struct Bench {
    job: Job,
    nats: NatsServer,
    store: ObjectServer,
    /// Between the operator and the broker.
    to_nats: Proxy,
    /// Between the operator and the store.
    to_store: Proxy,
    python: PathBuf,
    /// Changes and hurries so far, which tell them apart.
    rounds: u64,
}

impl Bench {
    async fn new(name: &str) -> Option<Self> {
        let python = part_or_skip(tools::python_parquet())?;
        let store = part_or_skip(ObjectServer::start(Protocol::S3).await)?;
        store.create_bucket(BUCKET).await.unwrap();
        let job = Job::new(name).await?;
        let login = Some((USER.to_owned(), PASSWORD.to_owned()));
        let (dir, guard) = (job.ground.lab().dir(), job.ground.lab().guard());
        let nats = NatsServer::start(dir, NatsOptions { login, ..NatsOptions::default() }, guard).await;
        let nats = part_or_skip(nats)?;
        let (to_nats, to_store) = (Proxy::start(nats.port()).await.unwrap(), Proxy::start(store.port()).await.unwrap());
        let bench = Self { job, nats, store, to_nats, to_store, python, rounds: 0 };
        bench.job.apply(&bench.manifests()).unwrap();
        Some(bench)
    }

    fn manifests(&self) -> String {
        let (namespace, ca) = (self.job.namespace(), self.store.ca_pem().replace('\n', "\n    "));
        let object = |kind: &str, name: &str, spec: &str| {
            format!(
                "apiVersion: kollect.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{{spec}}}\n"
            )
        };
        let event = |name: &str, mode: &str| {
            let url = format!("nats://127.0.0.1:{}", self.to_nats.port());
            let way = format!("url: '{url}', subject: {name}, stream: {name}, mode: {mode}, secretRef: {{name: bus}}");
            object("KollectEventSink", name, &format!("type: nats, cluster: test, nats: {{{way}}}"))
        };
        let bucket = |name: &str, more: &str| {
            let endpoint = format!("https://127.0.0.1:{}/{BUCKET}/prod", self.to_store.port());
            let login = "secretRef: {name: keys}, tls: {caSecretRef: {name: authority}}";
            let spec = format!("type: s3, cluster: test, endpoint: '{endpoint}', {login}, {more}");
            object("KollectSnapshotSink", name, &spec)
        };
        [
            self.secrets(PASSWORD, SECRET_KEY),
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: authority, namespace: {namespace}}}\n\
                 stringData:\n  ca.crt: |\n    {ca}\n"
            ),
            event(CHANGES, "Changes"),
            event(WHOLE, "Snapshot"),
            bucket("json", "deletionPolicy: Delete"),
            bucket("columns", "objectStore: {format: parquet}"),
            object(
                "KollectInventory",
                "all",
                "exportMinInterval: 0s, eventSinkRefs: [{name: changes}, {name: whole}], \
                 snapshotSinkRefs: [{name: json}, {name: columns}]",
            ),
        ]
        .join("---\n")
    }

    /// The logins of broker and store.
    fn secrets(&self, password: &str, key: &str) -> String {
        let namespace = self.job.namespace();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: bus, namespace: {namespace}}}\n\
             stringData: {{username: {USER}, password: '{password}'}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: {namespace}}}\n\
             stringData: {{accessKeyID: {ACCESS_KEY}, secretAccessKey: {key}}}\n"
        )
    }

    fn options(&self) -> OperatorOptions {
        // Without audits, so that none of them mends what a delivery lost.
        self.job.ground.operator_options().arg("--sink-audit-interval=0")
    }

    async fn operator(&self) -> Operator {
        self.job.ground.start_operator(&self.options()).await
    }

    async fn synced(&self, operator: &Operator) {
        self.job.synced(operator, &SINKS).await;
    }

    async fn somebody(&self) -> Somebody {
        self.nats.somebody().await.unwrap()
    }

    /// Reads a stream from its beginning.
    async fn read(&self, stream: &str) -> Result<Reader> {
        let messages = self.nats.somebody().await?.messages(stream, stream).await?;
        Reader::of(messages.into_iter().filter_map(|message| Some((message.header?, message.value))))
    }

    /// Returns the document of the bucket, if there is one.
    async fn document(&self) -> Result<Option<Value>> {
        let key = format!("prod/inventory/{}/all.json", self.job.namespace());
        let content = self.store.objects(BUCKET).await?.remove(&key);
        Ok(content.map(|content| serde_json::from_slice(&content)).transpose()?)
    }

    /// Returns UID, name and image of each row of the newest file.
    async fn columns(&self) -> Result<Vec<String>> {
        let generation = |key: &String| -> Option<u32> {
            let name = key.strip_suffix(".parquet")?.rsplit_once("generation=")?.1;
            name.parse().ok()
        };
        let keys = self.store.objects(BUCKET).await?.into_keys();
        let newest = keys.filter(|key| generation(key).is_some()).max_by_key(generation);
        let path = self.store.bucket(BUCKET).join(newest.context("there is no file")?);
        let printed = process::run(Command::new(&self.python).args(["-c", PARQUET]).arg(path))?;
        let mut lines: Vec<String> = printed.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }

    /// Compares everything with what it should be, by UID, name and image; what costs most comes last.
    async fn compare(&self, want: &[String]) -> Result<()> {
        let document = self.document().await?.context("there is no document")?;
        let items = document["items"].as_array().context("the document has no items")?;
        same(want, &reader::lines(items)).context("in the document")?;
        for stream in [CHANGES, WHOLE] {
            self.read(stream).await?.has(want).context(stream)?;
        }
        same(want, &self.columns().await?).context("in the file")
    }

    async fn equals_the_cluster(&self) {
        let equal = async || self.compare(&self.job.objects()?).await;
        self.becomes("streams and bucket equal the cluster", equal).await;
    }

    /// Waits until an attempt succeeds.
    async fn becomes(&self, what: &str, attempt: impl AsyncFn() -> Result<()>) {
        let came = wait_for(what, PATIENCE, || attempt()).await;
        came.unwrap_or_else(|error| {
            panic!("{error:#}\n{}\n{}", self.job.describe(), tail(&self.options().log, 20));
        });
    }

    /// Returns all that was ever written: the ends of both streams, and each object with the time of its last write.
    async fn written(&self) -> (Vec<Value>, BTreeMap<String, SystemTime>) {
        let mut ends = Vec::new();
        for stream in [CHANGES, WHOLE] {
            ends.push(self.info(stream).await["state"]["last_seq"].clone());
        }
        let time = |key: &String| self.store.bucket(BUCKET).join(key).metadata().unwrap().modified().unwrap();
        let keys = self.store.objects(BUCKET).await.unwrap().into_keys();
        (ends, keys.map(|key| (key.clone(), time(&key))).collect())
    }

    async fn info(&self, stream: &str) -> Value {
        self.somebody().await.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await.unwrap()
    }

    /// Lets the operator try at once, as a person would who knows that the fault is mended.
    fn hurry(&mut self) {
        self.rounds += 1;
        self.job.annotate("kinv/all", &format!("kollect.dev/export-now={}", self.rounds));
    }
}

/// Compares lines.
fn same(want: &[String], have: &[String]) -> Result<()> {
    ensure!(want == have, "{} rows are wanted, and there are {}", want.len(), have.len());
    Ok(())
}
