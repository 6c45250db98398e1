//! One topic as one login sees it: its clients, what it holds, and the one job at a time that works on it.
//!
//! Jobs run where blocking is allowed. One that nobody waits for any more still comes to its end, so that what is known of the
//! topic stays true; after any failure the clients go, and the next job looks at the topic again before it writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError as Cause, RDKafkaErrorCode as Code};
use rdkafka::message::{Header as Field, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{self, Reader, Writer};
use super::config::{Checked, Mode, Provisioning};
use super::error::KafkaError;
use super::group::Waiting;
use super::native;
use super::read::{Ledger, Pass};
use super::topic::{self, Facts, REACH};
use crate::export::Scope;
use crate::export::event::{Holdings, Life, Limit, Message, Owner, Sequence, Stream, Verdict};
use crate::model::Cluster;
use crate::sinks::mandate::Mandate;
use crate::sinks::netguard::Guard;

/// Unused clients are closed after this; brokers close a connection after ten minutes. To open them takes half a second.
pub(super) const IDLE_LIMIT: Duration = Duration::from_mins(9);

/// The longest that one delivery takes once it is begun.
const DELIVERY: Duration = Duration::from_mins(1);

/// The longest that a producer waits for the coordinator of its transactions.
const COORDINATOR: Duration = Duration::from_secs(20);

/// The longest that a transaction is undone for; what is left of it the next producer undoes.
const UNDO: Duration = Duration::from_secs(3);

/// A delivery that is not taken for so long may have lost its topic.
const STALLED: Duration = Duration::from_secs(2);

/// How long brokers have, between two looks at what failed.
const LISTEN: Duration = Duration::from_millis(50);

/// A full queue is tried again after this, in which brokers take a hundred messages.
const ROOM: Duration = Duration::from_millis(1);

/// The life of this process at a destination, and how far it has counted: all sinks of a topic go on in one count.
#[derive(Debug, Default)]
pub(super) struct Count {
    epoch: OnceLock<u64>,
    n: AtomicU64,
}

/// What sinks of one topic, login and cluster share.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) checked: Checked,
    pub(super) guard: Guard,
    pub(super) mode: Mode,
    pub(super) provisioning: Provisioning,
    pub(super) cluster: Cluster,
    pub(super) life: Life,
    pub(super) mandate: Mandate,
    pub(super) clock: super::Clock,
    pub(super) count: Arc<Count>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) waiting: Waiting,
    pub(super) desk: Arc<Mutex<Desk>>,
}

/// What one job at a time works with.
#[derive(Debug)]
pub(super) struct Desk {
    clients: Option<Clients>,
    pub(super) ledger: Ledger,
    /// All is read that this process did not write itself.
    settled: bool,
    used: Instant,
}

struct Clients {
    reader: Reader,
    writer: Option<Writer>,
    facts: Facts,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// What a job is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Only look.
    Read,
    /// Also write. An earlier life with the same name is ended by that.
    Write,
}

impl Default for Desk {
    fn default() -> Self {
        Self { clients: None, ledger: Ledger::default(), settled: false, used: Instant::now() }
    }
}

impl Home {
    /// Runs a job after those that were asked for before.
    pub(super) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Self, &mut Desk) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let (home, mut desk) = (Arc::clone(self), Arc::clone(&self.desk).lock_owned().await);
        if self.stop.is_cancelled() {
            return Err(KafkaError::Stopping);
        }
        let done = self.tasks.spawn_blocking(move || {
            let outcome = job(&home, &mut desk);
            if let Err(failure) = &outcome {
                desk.give_up(failure);
            }
            desk.used = Instant::now();
            outcome
        });
        // It ends without an answer when the runtime does.
        done.await.unwrap_or(Err(KafkaError::Stopping))
    }

    /// Opens what is not open, and reads what is not read.
    pub(super) fn open(&self, desk: &mut Desk, access: Access) -> Result<(), KafkaError> {
        if desk.clients.is_none() {
            let reader = client::reader(&self.checked, self.guard)?;
            let facts = topic::ensure(&self.checked, self.guard, &reader, (self.mode, self.provisioning))?;
            desk.clients = Some(Clients { reader, writer: None, facts });
            desk.settled = false;
        }
        let Some(clients) = &mut desk.clients else { return Err(KafkaError::Stopping) };
        if access == Access::Write && clients.writer.is_none() {
            // What an earlier life has begun ends here, one way or the other, before anything is read.
            self.mandate.check().map_err(|source| KafkaError::Deposed { doing: self.writing(), source })?;
            let writer = client::writer(&self.checked, self.guard, clients.facts.batch_limit())?;
            // Asked for a coordinator before it has a connection, it would try again after half a second only.
            client::greet(&writer, &self.checked.topic);
            let doing = || format!("become the writer \"{}\"", self.checked.transactional);
            writer.init_transactions(COORDINATOR).map_err(|cause| KafkaError::cause(doing(), cause))?;
            clients.writer = Some(writer);
            desk.settled = false;
        }
        if !desk.settled {
            self.catch_up(desk)?;
        }
        Ok(())
    }

    /// Reads what is new in the topic.
    pub(super) fn catch_up(&self, desk: &mut Desk) -> Result<(), KafkaError> {
        let Desk { clients: Some(clients), ledger, settled, .. } = desk else { return Err(KafkaError::Stopping) };
        ledger.catch_up(&Pass {
            reader: &clients.reader,
            topic: &self.checked.topic,
            partitions: &clients.facts.partitions,
            cluster: &self.cluster,
            process: &self.life.process,
            epoch: self.count.epoch.get().copied(),
            stop: &self.stop,
        })?;
        let highest = ledger.fold.highest_epoch(&self.life.process);
        let epoch = *self.count.epoch.get_or_init(|| self.life.epoch(highest));
        // Whatever stands in the topic under our name, the next message stands behind it.
        let last = |held: &Holdings<()>| (held.sequence().epoch == epoch).then_some(held.sequence().n);
        let last = ledger.fold.iter().filter_map(|(_, held)| last(held)).max();
        self.count.n.fetch_max(last.unwrap_or_default(), Ordering::Relaxed);
        *settled = true;
        Ok(())
    }

    /// Reads the topic from its beginning.
    pub(super) fn read_again(&self, desk: &mut Desk) -> Result<(), KafkaError> {
        desk.ledger.forget();
        desk.settled = false;
        self.open(desk, Access::Read)
    }

    /// Returns what the topic holds of a scope that may be written now.
    pub(super) fn claim<'d>(&self, desk: &'d mut Desk, scope: &Scope) -> Result<&'d mut Holdings<()>, KafkaError> {
        let (inventory, topic) = (scope.inventory.to_string(), self.checked.topic.clone());
        let held = desk.ledger.fold.entry(&Stream::of(scope));
        let ours = self.epoch();
        match held.judge(&self.life, ours, (self.clock)()) {
            Verdict::Free => Ok(held),
            Verdict::Fenced(theirs) => Err(KafkaError::Fenced { inventory, topic, theirs, ours }),
            Verdict::Theirs(owner, seen_seconds) => {
                Err(KafkaError::ClusterConflict { inventory, topic, writer: owner.process, seen_seconds })
            }
        }
    }

    /// Tells whether a scope is on record as ours.
    pub(super) fn owns(&self, desk: &Desk, scope: &Scope) -> bool {
        desk.ledger.fold.get(&Stream::of(scope)).is_some_and(|held| *held.owner() == self.owner(scope))
    }

    pub(super) fn owner(&self, scope: &Scope) -> Owner {
        self.life.owner(scope)
    }

    /// Returns where the next so many messages stand.
    pub(super) fn advance(&self, messages: usize) -> Sequence {
        let n = self.count.n.fetch_add(messages as u64, Ordering::Relaxed) + 1;
        Sequence { epoch: self.epoch(), n }
    }

    fn epoch(&self) -> u64 {
        self.count.epoch.get().copied().unwrap_or(1)
    }

    fn writing(&self) -> String {
        format!("write to topic \"{}\"", self.checked.topic)
    }

    /// Sends messages, all of them or none, and returns their bytes.
    pub(super) fn send(&self, desk: &mut Desk, messages: impl Iterator<Item = Message>) -> Result<u64, KafkaError> {
        let Desk { clients: Some(Clients { reader, writer: Some(writer), facts }), ledger, .. } = desk else {
            return Err(KafkaError::Stopping);
        };
        let until = Instant::now() + DELIVERY;
        writer.begin_transaction().map_err(|cause| KafkaError::cause(self.writing(), cause))?;
        let sent = self.produce(writer, messages, until).and_then(|bytes| {
            // What is refused here is undone.
            self.mandate.check().map_err(|source| KafkaError::Deposed { doing: self.writing(), source })?;
            self.commit(reader, writer, until).map(|()| bytes)
        });
        let Err(failure) = sent else {
            return if ledger.continues(reader, &self.checked.topic, &facts.partitions)? {
                sent
            } else {
                Err(KafkaError::BeganAnew { topic: self.checked.topic.clone() })
            };
        };
        if let Some((code, detail)) = writer.client().fatal_error() {
            // Such as that another life took over, which says more than what became of single messages.
            return Err(KafkaError::Broker { doing: self.writing(), code, detail });
        }
        let until = Instant::now() + UNDO;
        // What is still queued goes, and its reports are taken: to abort waits until none is left.
        writer.purge(PurgeConfig::default().queue());
        while writer.in_flight_count() > 0 && Instant::now() < until {
            client::hear(writer);
            native::flush(writer.client(), ROOM);
        }
        let left = until.saturating_duration_since(Instant::now());
        let _ = writer.abort_transaction(left); // the next producer of this name does it otherwise
        Err(failure)
    }

    fn produce(
        &self,
        writer: &Writer,
        messages: impl Iterator<Item = Message>,
        until: Instant,
    ) -> Result<u64, KafkaError> {
        let mut bytes = 0;
        for message in messages {
            bytes += message.value().len() as u64;
            let fields = message.header.fields();
            let headers = fields.iter().fold(OwnedHeaders::new_with_capacity(fields.len()), |all, (key, value)| {
                all.insert(Field { key, value: Some(value) })
            });
            let mut record = BaseRecord::to(&self.checked.topic).key(&message.key).headers(headers);
            if let Some(value) = &message.value {
                record = record.payload(value);
            }
            loop {
                match writer.send(record) {
                    Ok(()) => break,
                    // The queue is full: wait until brokers took something.
                    Err((Cause::MessageProduction(Code::QueueFull), back)) if Instant::now() < until => {
                        record = back;
                        std::thread::sleep(ROOM);
                        writer.poll(Duration::ZERO);
                        self.check_delivered(writer)?;
                    }
                    Err((cause, _)) => return Err(KafkaError::cause(self.writing(), cause)),
                }
            }
        }
        Ok(bytes)
    }

    fn commit(&self, reader: &Reader, writer: &Writer, until: Instant) -> Result<(), KafkaError> {
        let mut asked = Instant::now();
        // To commit waits as well, but in steps of a tenth of a second.
        loop {
            native::flush(writer.client(), LISTEN);
            if writer.in_flight_count() == 0 || Instant::now() >= until {
                break;
            }
            client::hear(writer);
            self.check_delivered(writer)?;
            if let Some(failure) = writer.context().turned_away(&self.writing()) {
                return Err(failure);
            }
            if asked.elapsed() >= STALLED {
                // The library tries until all its time is over where there is no topic any more.
                if let Ok(None) = client::reach(reader, &self.checked.topic, STALLED) {
                    return Err(KafkaError::NoTopic { topic: self.checked.topic.clone() });
                }
                asked = Instant::now();
            }
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let outcome = writer.commit_transaction(left.max(Duration::from_millis(1)));
            let Err(cause) = outcome else { return Ok(()) };
            self.check_delivered(writer)?;
            match &cause {
                Cause::Transaction(error) if error.is_retriable() && !left.is_zero() => {}
                _ => return Err(KafkaError::cause(self.writing(), cause)),
            }
        }
    }

    /// Returns why a message did not arrive, which says more than that its transaction failed.
    fn check_delivered(&self, writer: &Writer) -> Result<(), KafkaError> {
        match writer.context().undelivered() {
            Some(code) => Err(KafkaError::Broker { doing: self.writing(), code, detail: String::new() }),
            None => Ok(()),
        }
    }

    /// Returns what tells this topic from every other, whatever address leads to it.
    pub(super) fn identity(&self, desk: &mut Desk) -> Result<Option<String>, KafkaError> {
        let fresh;
        let reader = if let Some(clients) = &desk.clients {
            &clients.reader
        } else {
            fresh = client::reader(&self.checked, self.guard)?;
            &fresh
        };
        if client::reach(reader, &self.checked.topic, REACH)?.is_none() {
            return Ok(None);
        }
        let cluster = reader.client().fetch_cluster_id(REACH);
        Ok(cluster.map(|cluster| format!("{cluster}/{}", self.checked.topic)))
    }

    /// Looks at the topic by clients of its own, and says what a person should know.
    pub(super) fn probe(&self) -> Result<String, KafkaError> {
        const DONE: &str = "Kafka broker metadata request succeeded";
        let reader = client::reader(&self.checked, self.guard)?;
        match (topic::look(&self.checked, self.guard, &reader)?, self.provisioning) {
            (Some(facts), _) => {
                let advice = facts.advice(self.mode).map(|advice| format!("; {advice}"));
                Ok(format!("{DONE}{}", advice.unwrap_or_default()))
            }
            (None, Provisioning::Ensure) => Ok(format!("{DONE}; topic \"{}\" will be created", self.checked.topic)),
            (None, Provisioning::Existing) => Err(KafkaError::NoTopic { topic: self.checked.topic.clone() }),
        }
    }

    /// Closes what nobody used for a while.
    pub(super) fn close_idle(&self) {
        if let Ok(mut desk) = Arc::clone(&self.desk).try_lock_owned()
            && desk.clients.is_some()
            && desk.used.elapsed() >= IDLE_LIMIT
        {
            self.tasks.spawn_blocking(move || desk.clients = None);
        }
    }
}

impl Drop for Home {
    /// Closing clients blocks for a moment, and whoever lets go of the last sink may not.
    fn drop(&mut self) {
        if let Ok(mut desk) = Arc::clone(&self.desk).try_lock_owned()
            && desk.clients.is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.tasks.spawn_blocking_on(move || desk.clients = None, &runtime);
        }
    }
}

impl Desk {
    /// Returns how large a message may be.
    pub(super) fn limit(&self) -> Limit {
        let unknown = Facts { partitions: Vec::new(), max_bytes: None, cleanup: String::new() };
        self.clients.as_ref().map_or(&unknown, |clients| &clients.facts).limit()
    }

    /// After a failure: nothing is believed until it was looked at again, and nothing is known of a topic that is gone.
    fn give_up(&mut self, failure: &KafkaError) {
        if matches!(failure, KafkaError::NoTopic { .. } | KafkaError::BeganAnew { .. }) {
            self.ledger = Ledger::default();
        }
        self.clients = None;
        self.settled = false;
    }
}
