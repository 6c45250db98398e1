//! The Kafka sinks against a real broker: messages, logins, faults. All tests share one broker.

mod contract;
mod faults;
mod messages;
mod operator;
mod ways;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use jiff::Timestamp;
use kollect::export::event::{Fold, Header, Holdings, Life, Stream};
use kollect::export::{Scope, Selection};
use kollect::lab::kafka::{Record, Topics, Way};
use kollect::lab::{Kafka, Lab, LabOptions};
use kollect::model::{Cluster, Row};
use kollect::sinks::contract::{Stored, delta};
use kollect::sinks::kafka::{Compression, KafkaConfig, KafkaTopics, Mode, Provisioning};
use kollect::sinks::netguard::Guard;
use kollect::sinks::{Backend, DocumentSink, Receipt, RowSink, SinkError};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::support::part_or_skip;

/// A broker and where it lives.
struct Broker {
    // Dropped in this order.
    kafka: Kafka,
    _lab: Lab,
}

static SHARED: OnceCell<Option<Broker>> = OnceCell::const_new();
static NUMBER: AtomicU32 = AtomicU32::new(1);

async fn start() -> Result<Broker> {
    let lab = Lab::start(LabOptions { control_plane: false, postgres: false, ..LabOptions::default() }).await?;
    Ok(Broker { kafka: Kafka::start(lab.dir(), lab.guard()).await?, _lab: lab })
}

/// Returns the broker that all tests share, or skips.
async fn shared() -> Option<&'static Kafka> {
    let broker = SHARED.get_or_init(|| async { part_or_skip(start().await) }).await;
    broker.as_ref().map(|broker| &broker.kafka)
}

/// A topic of one test.
struct Ground {
    kafka: &'static Kafka,
    topics: Topics,
    topic: String,
}

impl Ground {
    /// Returns ground with a compacted topic of so many partitions, or `None` to skip.
    async fn new(name: &str, partitions: i32) -> Option<Self> {
        let kafka = shared().await?;
        let topics = kafka.topics();
        let topic = format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        if partitions > 0 {
            topics.create(&topic, partitions, &[("cleanup.policy", "compact")]).await.unwrap();
        }
        Some(Self { kafka, topics, topic })
    }

    fn config(&self, mode: Mode) -> KafkaConfig {
        KafkaConfig {
            brokers: vec![String::new(), self.kafka.broker(Way::Plain)],
            topic: self.topic.clone(),
            cluster: Cluster::new("west"),
            mode,
            login: None,
            tls: None,
            compression: Compression::None,
            provisioning: Provisioning::Existing,
        }
    }

    /// Returns what was committed to the topic.
    async fn records(&self) -> Vec<Record> {
        self.topics.committed(&self.topic).await.unwrap()
    }

    /// Returns what a consumer has who reads the whole topic.
    async fn fold(&self) -> Result<Fold<Vec<u8>>> {
        fold(&self.topics, &self.topic).await
    }

    /// Returns the items that a consumer of changes has.
    async fn items(&self, scope: &Scope) -> Result<Stored> {
        Ok(self.fold().await?.get(&Stream::of(scope)).map(items).unwrap_or_default())
    }
}

/// Folds a topic.
async fn fold(topics: &Topics, topic: &str) -> Result<Fold<Vec<u8>>> {
    let mut fold = Fold::default();
    for record in topics.committed(topic).await? {
        let Ok(header) = Header::read(|name| record.header(name)) else { continue };
        let at = Timestamp::from_millisecond(record.timestamp_millis)?;
        fold.take(record.partition, header, at, record.value.unwrap_or_default());
    }
    Ok(fold)
}

/// Returns the items of an inventory by target and UID.
fn items(held: &Holdings<Vec<u8>>) -> Stored {
    let item = |value: &[u8]| serde_json::from_slice(value).unwrap();
    held.rows().iter().map(|(key, row)| ((key.target.to_string(), key.uid.to_string()), item(&row.value))).collect()
}

/// One life of an operator.
fn life(process: &str) -> KafkaTopics {
    let guard = Guard { allow_private: false, allow_loopback: true };
    let life = Life { process: process.to_owned(), lease_transitions: 0 };
    KafkaTopics::new(guard, life, Timestamp::now, CancellationToken::new())
}

fn rows(life: &KafkaTopics, config: &KafkaConfig) -> Arc<dyn RowSink> {
    match life.sink(config).unwrap() {
        Backend::Rows(sink) => sink,
        Backend::Documents(_) => panic!("a sink of documents"),
    }
}

fn documents(life: &KafkaTopics, config: &KafkaConfig) -> Arc<dyn DocumentSink> {
    match life.sink(config).unwrap() {
        Backend::Documents(sink) => sink,
        Backend::Rows(_) => panic!("a sink of rows"),
    }
}

/// Brings an inventory to these rows as an operator does that has just started, or after an audit.
async fn bring(
    sink: &Arc<dyn RowSink>,
    scope: &Arc<Scope>,
    base: kollect::export::Base,
    rows: &[Row],
) -> Result<Receipt, SinkError> {
    let held = sink.recover(scope, &Selection::All, rows).await?;
    let found = kollect::export::compare(rows.to_vec(), held, |_, _| true, |row| sink.fingerprint(scope, row));
    sink.deliver(&delta(scope, base, found.upserts, found.deletes, rows.len() as u64, 1)).await
}
