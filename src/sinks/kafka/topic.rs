//! The topic: whether it is there, what it takes, and making it where that is wanted.

use std::time::Duration;

use rdkafka::admin::{AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::client::{self, Reader};
use super::config::{Checked, Mode, Provisioning};
use super::error::KafkaError;
use crate::export::event::{DEFAULT_MESSAGE_BYTES, Limit};
use crate::sinks::netguard::Guard;

/// The longest that a broker is waited for.
pub(super) const REACH: Duration = Duration::from_secs(15);

/// What a batch has beside the bytes of its messages, with room: the limit of a topic is one of batches.
const BATCH_BYTES: u64 = 1024;

/// What is known of the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its partitions.
    pub(super) partitions: Vec<i32>,
    /// How large a batch may be; nothing where the broker does not tell.
    pub(super) max_bytes: Option<u64>,
    /// `cleanup.policy`; empty where the broker does not tell.
    pub(super) cleanup: String,
}

impl Facts {
    /// Returns how large a message may be.
    pub(super) fn limit(&self) -> Limit {
        match self.max_bytes {
            Some(bytes) => {
                Limit { bytes: bytes.saturating_sub(BATCH_BYTES), setting: "max.message.bytes of the topic" }
            }
            None => Limit { bytes: DEFAULT_MESSAGE_BYTES - BATCH_BYTES, setting: "the topic does not say its own" },
        }
    }

    /// Returns what the producer is told of it.
    pub(super) fn batch_limit(&self) -> u64 {
        self.max_bytes.unwrap_or(DEFAULT_MESSAGE_BYTES)
    }

    /// Returns what a person should know about it.
    pub(super) fn advice(&self, mode: Mode) -> Option<&'static str> {
        let (compacts, deletes) = (self.cleanup.contains("compact"), self.cleanup.contains("delete"));
        match mode {
            Mode::Changes if deletes && !compacts => Some(
                "cleanup.policy of the topic is delete: rows that do not change are lost with time, and sent again at the next \
                 audit; set it to compact",
            ),
            Mode::Changes if deletes => Some(
                "cleanup.policy of the topic is compact,delete: rows that do not change are lost with time, and sent again at \
                 the next audit; set it to compact",
            ),
            Mode::Snapshot if compacts && !deletes => Some(
                "cleanup.policy of the topic is compact: of snapshots in parts, and of several inventories in one namespace, \
                 only the last message stays; set it to delete, or spec.kafka.mode to Changes",
            ),
            _ => None,
        }
    }
}

/// Looks at the topic. Nothing where it does not exist.
pub(super) fn look(checked: &Checked, guard: Guard, reader: &Reader) -> Result<Option<Facts>, KafkaError> {
    let Some(partitions) = client::reach(reader, &checked.topic, REACH)? else { return Ok(None) };
    let admin = client::admin(checked, guard)?;
    let resource = ResourceSpecifier::Topic(&checked.topic);
    let described = admin.describe_configs([&resource], &options());
    let described = futures::executor::block_on(described).ok().and_then(|all| all.into_iter().next());
    // Who may not look goes without.
    let config = described.and_then(Result::ok);
    let value = |name: &str| config.as_ref().and_then(|config: &ConfigResource| config.get(name)?.value.clone());
    Ok(Some(Facts {
        partitions,
        max_bytes: value("max.message.bytes").and_then(|bytes| bytes.parse().ok()),
        cleanup: value("cleanup.policy").unwrap_or_default(),
    }))
}

/// Looks at the topic, and makes it where it is missing and may be made.
pub(super) fn ensure(
    checked: &Checked,
    guard: Guard,
    reader: &Reader,
    (mode, provisioning): (Mode, Provisioning),
) -> Result<Facts, KafkaError> {
    let missing = || KafkaError::NoTopic { topic: checked.topic.clone() };
    if let Some(facts) = look(checked, guard, reader)? {
        return Ok(facts);
    }
    if provisioning == Provisioning::Existing {
        return Err(missing());
    }
    let doing = || format!("create topic \"{}\"", checked.topic);
    // Partitions and replicas as the broker has them for new topics.
    let mut topic = NewTopic::new(&checked.topic, -1, TopicReplication::Fixed(-1));
    if mode == Mode::Changes {
        topic = topic.set("cleanup.policy", "compact");
    }
    let admin = client::admin(checked, guard)?;
    let created = futures::executor::block_on(admin.create_topics([&topic], &options()));
    let created = created.map_err(|cause| KafkaError::cause(doing(), cause))?;
    for (_, code) in created.into_iter().filter_map(Result::err) {
        if code != Code::TopicAlreadyExists {
            return Err(KafkaError::Broker { doing: doing(), code, detail: String::new() });
        }
    }
    // It takes a moment until brokers speak of it.
    let until = std::time::Instant::now() + REACH;
    loop {
        if let Some(facts) = look(checked, guard, reader)? {
            return Ok(facts);
        }
        if std::time::Instant::now() >= until {
            return Err(missing());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REACH)).operation_timeout(Some(REACH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(cleanup: &str, max_bytes: Option<u64>) -> Facts {
        Facts { partitions: vec![0], max_bytes, cleanup: cleanup.to_owned() }
    }

    #[test]
    fn advice_goes_with_the_mode() {
        for (cleanup, mode, advised) in [
            ("compact", Mode::Changes, false),
            ("delete", Mode::Changes, true),
            ("compact,delete", Mode::Changes, true),
            ("", Mode::Changes, false),
            ("delete", Mode::Snapshot, false),
            ("compact,delete", Mode::Snapshot, false),
            ("compact", Mode::Snapshot, true),
        ] {
            assert_eq!(facts(cleanup, None).advice(mode).is_some(), advised, "{cleanup} {mode:?}");
        }
    }

    #[test]
    fn a_message_leaves_room_for_its_batch() {
        assert_eq!(facts("", Some(1_048_588)).limit().bytes, 1_047_564);
        assert_eq!((facts("", None).limit().bytes, facts("", None).batch_limit()), (998_976, 1_000_000));
    }
}
