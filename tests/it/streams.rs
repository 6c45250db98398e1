//! Streams and buckets end to end: the operator as a process, a real API server, NATS and S3, both behind a network that
//! may be cut. One inventory is sent to a stream of changes, a stream of snapshots, and a bucket in two formats; where a
//! test asks for it, to a topic of Kafka as well. What is there is read past the operator: by a [`Reader`], from the folder of
//! the bucket, by `DuckDB`.

mod broken;
mod faults;
mod killed;
mod reader;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use kollect::export::event::Header;
use kollect::lab::kafka::{self, Kafka, Way};
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
/// The stream of changes, its subject, and the topic of changes.
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
    kafka: Option<Kafka>,
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
        let bench = Self { job, nats, store, kafka: None, to_nats, to_store, python, rounds: 0 };
        bench.job.apply(&bench.manifests()).unwrap();
        Some(bench)
    }

    /// The same with a topic, and a way to it.
    async fn with_topic(name: &str, way: Way, partitions: i32) -> Option<Self> {
        let bench = Self::new(name).await?;
        let (dir, guard) = (bench.job.ground.lab().dir(), bench.job.ground.lab().guard());
        let kafka = part_or_skip(Kafka::start(dir, guard).await)?;
        kafka.topics().create(CHANGES, partitions, &[("cleanup.policy", "compact")]).await.unwrap();
        bench.job.apply(&bench.topic(&kafka, way)).unwrap();
        let sinks = r#"{"spec":{"eventSinkRefs":[{"name":"changes"},{"name":"whole"},{"name":"topic"}]}}"#;
        bench.job.patch("kinv/all", sinks);
        Some(Self { kafka: Some(kafka), ..bench })
    }

    /// The sink of the topic, and the Secrets that it needs for a login.
    fn topic(&self, kafka: &Kafka, way: Way) -> String {
        let (namespace, broker) = (self.job.namespace(), kafka.broker(way));
        let sink = |login: &str, tls: &str| {
            format!(
                "apiVersion: kollect.dev/v1alpha1\nkind: KollectEventSink\n\
                 metadata: {{name: topic, namespace: {namespace}}}\n\
                 spec: {{type: kafka, cluster: test{tls}, kafka: {{brokers: ['{broker}'], topic: {CHANGES}, \
                 mode: Changes{login}}}}}\n"
            )
        };
        if way != Way::Sasl {
            return sink("", "");
        }
        let ca = kafka.certificates().ca.replace('\n', "\n    ");
        let authority = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: topic-authority, namespace: {namespace}}}\n\
             stringData:\n  ca.crt: |\n    {ca}\n"
        );
        let sink = sink(", secretRef: {name: topic-login}", ", tls: {caSecretRef: {name: topic-authority}}");
        [self.topic_login(kafka.password()), authority, sink].join("---\n")
    }

    /// The login of the topic.
    fn topic_login(&self, password: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: topic-login, namespace: {}}}\n\
             stringData: {{username: {}, password: '{password}'}}\n",
            self.job.namespace(),
            kafka::USER
        )
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
        let topic = self.kafka.as_ref().map(|_| "event/topic");
        let sinks: Vec<&str> = SINKS.into_iter().chain(topic).collect();
        self.job.synced(operator, &sinks).await;
    }

    async fn somebody(&self) -> Somebody {
        self.nats.somebody().await.unwrap()
    }

    /// Reads a stream from its beginning.
    async fn read(&self, stream: &str) -> Result<Reader> {
        let messages = self.nats.somebody().await?.messages(stream, stream).await?;
        Reader::of(messages.into_iter().filter_map(|message| Some((message.header?, message.value))))
    }

    /// Reads what was committed to the topic.
    async fn read_topic(&self, kafka: &Kafka) -> Result<Reader> {
        let records = kafka.topics().committed(CHANGES).await?;
        Reader::of(records.into_iter().filter_map(|record| {
            Some((Header::read(|name| record.header(name)).ok()?, record.value.unwrap_or_default()))
        }))
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
        if let Some(kafka) = &self.kafka {
            self.read_topic(kafka).await?.has(want).context("in the topic")?;
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

    /// Returns all that was ever written: the ends of streams and topic, and each object with the time of its last write.
    async fn written(&self) -> (Vec<Value>, BTreeMap<String, SystemTime>) {
        let mut ends = Vec::new();
        if let Some(kafka) = &self.kafka {
            ends.push(kafka.topics().read(CHANGES, "read_uncommitted").await.unwrap().len().into());
        }
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
