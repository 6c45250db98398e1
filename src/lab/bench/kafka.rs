//! Kafka under test: one broker on loopback, a compacted topic, and `ProducerPerformance` as the yardstick.
//!
//! The tool runs as it does by itself: idempotent, acknowledged by all, without transactions, keys and headers. Its messages
//! have the size of ours with key and headers. Their topic is not compacted, for one that is takes no message without a key.
//! Several sizes of batches are tried, and each run is longer than ours, so that the start of its machine hardly counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::Lab;
use super::super::kafka::{Kafka as Server, Topics, Way};
use super::stream::{Broker, Tool};
use crate::export::event::{Header, Life, Message};
use crate::model::Cluster;
use crate::sinks::kafka::{Compression, KafkaConfig, KafkaTopics, Mode, Provisioning};
use crate::sinks::netguard::Guard;
use crate::sinks::{Backend, RowSink};

const TOPIC: &str = "bench";

const PARTITIONS: i32 = 3;

/// `cleanup.policy` of the topic that the sink makes.
const OURS: &str = "compact";

/// Bytes of a batch of the tool: its own default, and what gets it further.
const BATCHES: [u32; 3] = [16 * 1024, 128 * 1024, 1_000_000];

/// How many times our messages the tool sends.
const LONGER: usize = 5;

/// The running broker.
pub(super) struct Kafka {
    server: Server,
    topics: Topics,
}

impl Kafka {
    pub(super) async fn start(lab: &Lab) -> Result<Self> {
        let server = Server::start(lab.dir(), lab.guard()).await?;
        let this = Self { topics: server.topics(), server };
        this.create(OURS).await?;
        Ok(this)
    }

    async fn create(&self, policy: &str) -> Result<()> {
        self.topics.create(TOPIC, PARTITIONS, &[("cleanup.policy", policy)]).await
    }

    async fn renew_topic(&self, policy: &str) -> Result<()> {
        self.topics.delete(TOPIC).await?;
        self.create(policy).await
    }
}

impl Broker for Kafka {
    fn renew(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.renew_topic(OURS))
    }

    fn sink(&self, stop: CancellationToken) -> Result<Arc<dyn RowSink>> {
        let guard = Guard { allow_private: false, allow_loopback: true };
        let life = Life { process: "bench".to_owned(), lease_transitions: 0 };
        let sink = KafkaTopics::new(guard, life, Timestamp::now, stop).sink(&KafkaConfig {
            brokers: vec![self.server.broker(Way::Plain)],
            topic: TOPIC.to_owned(),
            cluster: Cluster::new("bench"),
            mode: Mode::Changes,
            login: None,
            tls: None,
            compression: Compression::None,
            provisioning: Provisioning::Existing,
        })?;
        match sink {
            Backend::Rows(sink) => Ok(sink),
            Backend::Documents(_) => anyhow::bail!("a topic of changes takes rows"),
        }
    }

    fn spec(&self) -> Value {
        let kafka = json!({"brokers": [self.server.broker(Way::Plain)], "topic": TOPIC, "mode": "Changes"});
        json!({"type": "kafka", "cluster": "bench", "kafka": kafka})
    }

    fn count(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.topics.len(TOPIC))
    }

    fn messages(&self, since: Option<Timestamp>) -> BoxFuture<'_, Result<Vec<(Timestamp, Header)>>> {
        Box::pin(async move {
            // A message is there when its transaction has ended; without a time to compare nobody asks when.
            let ends = if since.is_some() { self.server.ends(TOPIC)? } else { BTreeMap::new() };
            let mut messages = Vec::new();
            for record in self.topics.committed(TOPIC).await? {
                let end = ends.range((record.partition, record.offset)..).next();
                let end = end.filter(|((partition, _), _)| *partition == record.partition);
                let at = Timestamp::from_millisecond(end.map_or(record.timestamp_millis, |(_, at)| *at))?;
                if since.is_none_or(|since| at >= since)
                    && let Ok(header) = Header::read(|name| record.header(name))
                {
                    messages.push((at, header));
                }
            }
            // One life writes, and counts over all partitions.
            messages.sort_by_key(|(_, header)| header.sequence.n);
            Ok(messages)
        })
    }

    fn tool<'a>(&'a self, messages: usize, like: &'a Message) -> BoxFuture<'a, Result<Tool>> {
        Box::pin(async move {
            let mut best = 0.0_f64;
            for batch in BATCHES {
                self.renew_topic("delete").await?;
                best = best.max(self.server.producer_performance(TOPIC, messages * LONGER, like.size(), batch)?);
            }
            Ok(Tool { per_second: best, bare_per_second: best })
        })
    }
}
