//! What is in the topics of a broker, read and written past any sink. Nothing here goes through a dial guard.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::lab::wait::wait_for;

/// The longest that one answer of a broker of our own takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A message as it is in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition.
    pub partition: i32,
    /// Place in it.
    pub offset: i64,
    /// When it was made, in milliseconds since 1970.
    pub timestamp_millis: i64,
    /// Key; empty where it has none.
    pub key: String,
    /// Headers in their order.
    pub headers: Vec<(String, String)>,
    /// Value; none for a tombstone.
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// Returns the first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// All topics of one broker.
#[derive(Debug, Clone)]
pub struct Topics {
    broker: String,
}

impl Topics {
    /// Returns those of a broker that anybody may ask in plain text.
    pub fn new(broker: String) -> Self {
        Self { broker }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.broker).set("log_level", "0");
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }

    /// Succeeds as soon as the broker knows itself.
    pub(super) async fn ready(&self) -> Result<()> {
        let client: BaseConsumer = self.config().create()?;
        let metadata = tokio::task::spawn_blocking(move || client.fetch_metadata(None, Duration::from_secs(2)));
        ensure!(!metadata.await??.brokers().is_empty(), "no broker is registered");
        Ok(())
    }

    /// Creates a topic.
    pub async fn create(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let created = self.admin()?.create_topics([&topic], &options()).await?;
        for outcome in created {
            outcome.map_err(|(name, error)| anyhow::anyhow!("{name}: {error}"))?;
        }
        wait_for("the broker to speak of the topic", LIMIT, || self.committed(name)).await.map(drop)
    }

    /// Deletes a topic.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let deleted = self.admin()?.delete_topics(&[name], &options()).await?;
        for outcome in deleted {
            outcome.map_err(|(name, error)| anyhow::anyhow!("{name}: {error}"))?;
        }
        Ok(())
    }

    /// Returns the settings of a topic.
    pub async fn settings(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let described = self.admin()?.describe_configs([&ResourceSpecifier::Topic(name)], &options()).await?;
        let entries =
            described.into_iter().next().context("nothing is described")?.map_err(anyhow::Error::from)?.entries;
        Ok(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }

    /// Changes settings of a topic; those that are not named go back to what the broker has.
    pub async fn set(&self, name: &str, settings: &[(&str, &str)]) -> Result<()> {
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in settings {
            alter = alter.set(key, value);
        }
        let altered = self.admin()?.alter_configs([&alter], &options()).await?;
        for outcome in altered {
            outcome.map_err(|(_, error)| anyhow::anyhow!("{name}: {error}"))?;
        }
        Ok(())
    }

    /// Writes one message, as anybody may.
    pub async fn write(&self, topic: &str, record: Record) -> Result<()> {
        let (config, topic) = (self.config(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let producer: BaseProducer = config.create()?;
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let mut message = BaseRecord::to(&topic).key(&record.key).headers(headers).partition(record.partition);
            if let Some(value) = &record.value {
                message = message.payload(value);
            }
            producer.send(message).map_err(|(error, _)| error)?;
            Ok(producer.flush(LIMIT)?)
        })
        .await?
    }

    /// Returns how many places of a topic are taken: its messages, and the marks that end transactions.
    pub async fn len(&self, topic: &str) -> Result<u64> {
        let (mut config, topic) = (self.config(), topic.to_owned());
        // The marks follow the answer to whoever ends a transaction, and until then its messages hide from the others.
        config.set("isolation.level", "read_uncommitted");
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create()?;
            let metadata = consumer.fetch_metadata(Some(&topic), LIMIT)?;
            let mut len = 0;
            for partition in metadata.topics().first().context("the topic is not described")?.partitions() {
                let (low, high) = consumer.fetch_watermarks(&topic, partition.id(), LIMIT)?;
                len += u64::try_from(high - low)?;
            }
            Ok(len)
        })
        .await?
    }

    /// Reads a topic from its beginning to its present end: what was committed, or also what was not.
    pub async fn read(&self, topic: &str, isolation: &'static str) -> Result<Vec<Record>> {
        let (mut config, topic) = (self.config(), topic.to_owned());
        config
            .set("group.id", "kollect-lab")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true");
        tokio::task::spawn_blocking(move || read_to_end(&config.create()?, &topic)).await?
    }

    /// Reads what was committed.
    pub async fn committed(&self, topic: &str) -> Result<Vec<Record>> {
        self.read(topic, "read_committed").await
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(LIMIT)).operation_timeout(Some(LIMIT))
}

fn read_to_end(consumer: &BaseConsumer, topic: &str) -> Result<Vec<Record>> {
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let partitions = metadata.topics().first().context("the topic is not described")?.partitions();
    ensure!(!partitions.is_empty(), "topic {topic} has no partition");
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut left, mut records) = (partitions.len(), Vec::new());
    while left > 0 {
        match consumer.poll(LIMIT) {
            None => bail!("topic {topic} is not read to its end in {LIMIT:?}"),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => left -= 1,
            Some(Err(error)) => return Err(error).with_context(|| format!("failed to read topic {topic}")),
            Some(Ok(message)) => {
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
                records.push(Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_millis: message.timestamp().to_millis().unwrap_or_default(),
                    key: text(message.key()),
                    headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
                    value: message.payload().map(<[u8]>::to_vec),
                });
            }
        }
    }
    // Partitions are read in any order.
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}
