//! Clients of librdkafka behind the dial guard, and what they tell while they try.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError as Cause, RDKafkaErrorCode as Code};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use super::config::Checked;
use super::error::KafkaError;
use super::native;
use crate::sinks::netguard::{Guard, Refusal};

/// How many events are taken from a client at once: more than it has of brokers, fewer than would keep anybody waiting.
const EVENTS: usize = 256;

/// The longest that a connection is waited for that nothing depends on.
const GREETING: Duration = Duration::from_secs(1);

/// The client that reads, and is asked about the topic.
pub(super) type Reader = BaseConsumer<Context>;

/// The client that writes.
pub(super) type Writer = BaseProducer<Context>;

/// What belongs to a client: the guard of its dials, and what it told.
#[derive(Debug)]
pub(super) struct Context {
    guard: Guard,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    refused: Option<Refusal>,
    /// The gravest of what brokers were lost for.
    lost: Option<(Code, String)>,
    all_down: bool,
    undelivered: Option<Code>,
}

impl Context {
    fn new(guard: Guard) -> Self {
        Self { guard, told: Mutex::default() }
    }

    /// Says whether the address of a broker may be dialled; `name` is its `host:port`.
    pub(super) fn permits(&self, name: &str, address: IpAddr) -> bool {
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        match self.guard.check_answer(host, address) {
            Ok(()) => true,
            Err(refusal) => {
                self.told.lock().refused = Some(refusal);
                false
            }
        }
    }

    /// Returns why no broker can be talked to, as soon as that is certain.
    fn despair(&self, doing: &str) -> Option<KafkaError> {
        let mut told = self.told.lock();
        if let Some(refusal) = told.refused.take() {
            return Some(refusal.into());
        }
        let all_down = std::mem::take(&mut told.all_down);
        let certain = |code| matches!(code, Code::Authentication | Code::SSL);
        let (code, detail) = match &told.lost {
            Some((code, detail)) if all_down || certain(*code) => (*code, detail.clone()),
            _ => return None,
        };
        told.lost = None;
        Some(KafkaError::Broker { doing: doing.to_owned(), code, detail })
    }

    /// Returns why no broker takes us, which does not pass by itself: brokers are tried on and on in silence.
    pub(super) fn turned_away(&self, doing: &str) -> Option<KafkaError> {
        let mut told = self.told.lock();
        let (code, detail) = told.lost.take_if(|(code, _)| *code == Code::Authentication)?;
        Some(KafkaError::Broker { doing: doing.to_owned(), code, detail })
    }

    /// Returns what became of messages since it was last asked.
    pub(super) fn undelivered(&self) -> Option<Code> {
        self.told.lock().undelivered.take()
    }
}

/// Tells how grave it is that a broker was lost for this.
fn gravity(code: Code) -> u8 {
    match code {
        Code::Authentication => 3,
        Code::SSL => 2,
        Code::Resolve => 1,
        _ => 0,
    }
}

impl ClientContext for Context {
    /// What it logs it also tells as an error, and repeats without end.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: Cause, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut told = self.told.lock();
        match code {
            Code::AllBrokersDown => told.all_down = true,
            Code::Authentication | Code::SSL | Code::Resolve | Code::BrokerTransportFailure
                if told.lost.as_ref().is_none_or(|(worst, _)| gravity(*worst) <= gravity(code)) =>
            {
                told.lost = Some((code, plain(reason)));
            }
            _ => {}
        }
    }
}

/// Returns a reason without the name of the thread that it starts with, and without what repeats it.
fn plain(reason: &str) -> String {
    let reason = reason.split_once("]: ").map_or(reason, |(_, rest)| rest);
    reason.split(" (after ").next().unwrap_or(reason).trim().to_owned()
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && let Some(code) = error.rdkafka_error_code()
        {
            // What is purged failed for something else, which is told elsewhere.
            if !matches!(code, Code::PurgeQueue | Code::PurgeInflight) {
                self.told.lock().undelivered.get_or_insert(code);
            }
        }
    }
}

/// Makes the client that reads.
pub(super) fn reader(checked: &Checked, guard: Guard) -> Result<Reader, KafkaError> {
    let reader: Reader = make(&checked.reader(), guard)?;
    attach(reader.client(), checked)?;
    Ok(reader)
}

/// Makes the client that writes, for messages of at most so many bytes.
pub(super) fn writer(checked: &Checked, guard: Guard, limit: u64) -> Result<Writer, KafkaError> {
    let writer: Writer = make(&checked.writer(limit), guard)?;
    attach(writer.client(), checked)?;
    Ok(writer)
}

/// Makes the client that looks at settings of a topic and creates it.
pub(super) fn admin(checked: &Checked, guard: Guard) -> Result<AdminClient<Context>, KafkaError> {
    let admin: AdminClient<Context> = make(&checked.client, guard)?;
    attach(admin.inner(), checked)?;
    Ok(admin)
}

fn make<T: FromClientConfigAndContext<Context>>(config: &ClientConfig, guard: Guard) -> Result<T, KafkaError> {
    // No brokers yet: they come when the guard is in place.
    config.create_with_context(Context::new(guard)).map_err(settings)
}

/// Says which setting a client does not take; what it was set to may be a secret.
fn settings(cause: Cause) -> KafkaError {
    match cause {
        Cause::ClientConfig(_, what, key, _) => {
            KafkaError::Client(Cause::ClientCreation(format!("{key}: {}", what.split(": ").next().unwrap_or_default())))
        }
        other => KafkaError::Client(other),
    }
}

fn attach(client: &Client<Context>, checked: &Checked) -> Result<(), KafkaError> {
    let taken = native::list(&checked.brokers).map_or(0, |brokers| native::attach(client, &brokers));
    if taken > 0 {
        return Ok(());
    }
    let (field, what) = ("spec.kafka.brokers".to_owned(), "names no broker that librdkafka understands");
    Err(KafkaError::Setting { field, what })
}

/// Takes what the reader has to tell; no partition may be assigned.
fn listen(reader: &Reader) {
    // Nothing to hand out does not mean that nothing waits: a line of its log, of which it has more than one for each
    // attempt to connect, counts as nothing.
    for _ in 0..EVENTS {
        drop(reader.poll(Duration::ZERO));
    }
}

/// Takes what the writer has to tell.
pub(super) fn hear(writer: &Writer) {
    (0..EVENTS).for_each(|_| writer.poll(Duration::ZERO)); // as above
}

/// Waits until a writer has a connection, or for what init says better.
pub(super) fn greet(writer: &Writer, topic: &str) {
    let _ = writer.client().fetch_metadata(Some(topic), GREETING);
}

/// Asks about the topic until a broker answers: the ids of its partitions, or nothing where there is no such topic.
pub(super) fn reach(reader: &Reader, topic: &str, limit: Duration) -> Result<Option<Vec<i32>>, KafkaError> {
    let doing = || format!("ask about topic \"{topic}\"");
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let answer =
            reader.fetch_metadata(Some(topic), left.min(Duration::from_millis(500)).max(Duration::from_millis(1)));
        let cause = match answer {
            Ok(metadata) => {
                let found = metadata.topics().first();
                let problem = found.and_then(MetadataTopic::error).map(Code::from);
                match (found, problem) {
                    (None, _) | (_, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)) => return Ok(None),
                    (Some(found), None) if !found.partitions().is_empty() => {
                        return Ok(Some(found.partitions().iter().map(MetadataPartition::id).collect()));
                    }
                    (_, code) => Cause::MetadataFetch(code.unwrap_or(Code::LeaderNotAvailable)),
                }
            }
            Err(cause) => cause,
        };
        listen(reader);
        if let Some(certain) = reader.context().despair(&doing()) {
            return Err(certain);
        }
        let code = cause.rdkafka_error_code();
        let passes = code.is_none_or(|code| {
            matches!(
                code,
                Code::BrokerTransportFailure
                    | Code::OperationTimedOut
                    | Code::LeaderNotAvailable
                    | Code::AllBrokersDown
            )
        });
        if !passes || Instant::now() >= until {
            return Err(KafkaError::cause(doing(), cause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_address_is_not_permitted_and_told() {
        let context = Context::new(Guard::default());
        assert!(!context.permits("kafka-0.example.com:9092", "10.0.0.1".parse().unwrap()));
        assert!(!context.permits("metadata.google.internal:9092", "93.184.216.34".parse().unwrap()));
        assert!(context.permits("kafka-0.example.com:9092", "93.184.216.34".parse().unwrap()));
        let said = context.despair("ask").unwrap().to_string();
        assert!(said.starts_with("spec.kafka.brokers: host \"metadata.google.internal\""), "{said}");
        assert!(context.despair("ask").is_none());
    }

    #[test]
    fn the_gravest_reason_is_told_when_all_brokers_are_lost() {
        let context = Context::new(Guard::default());
        let lose = |code, reason: &str| context.error(Cause::Global(code), reason);
        lose(
            Code::Resolve,
            "[thrd:a:9092/bootstrap]: a:9092/bootstrap: Failed to resolve 'a:9092' (after 3ms in state CONNECT)",
        );
        lose(Code::BrokerTransportFailure, "refused");
        assert!(context.despair("ask").is_none() && context.turned_away("ask").is_none());
        lose(Code::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(
            context.despair("ask").unwrap().to_string(),
            "failed to ask: a:9092/bootstrap: Failed to resolve 'a:9092' (Resolve); correct the host names in spec.kafka.brokers"
        );
        lose(Code::Authentication, "no such user");
        let said = context.turned_away("write").unwrap().to_string();
        assert!(said.starts_with("failed to write: no such user (Authentication); check username"), "{said}");
        assert!(context.turned_away("write").is_none());
    }
}
