//! Payload to the outside: what a sink is, and one folder for each backend.
//!
//! A sink never sees the store. A [`RowSink`] is handed a [`Delta`], a [`DocumentSink`] a [`Document`]; both answer with a
//! [`Receipt`] or a [`SinkError`] that carries the class. A sink does not retry, the caller does.

#[cfg(feature = "lab")]
pub mod contract;
pub mod git;
pub mod kafka;
pub mod mandate;
pub mod nats;
pub mod netguard;
pub mod object;
mod outbound;
pub mod postgres;
mod tls;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;

pub use tls::TlsConfig;

use crate::error::{Class, Classify};
use crate::export::{Delta, Document, Held, Scope, Selection, TooLarge};
use crate::metrics::SinkType;
pub use crate::model::Lane;
use crate::model::{Fingerprint, Row, RowKey};

/// Where a sink writes to, without any credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// A stable id: 16 hex digits over host, port, database, schema and table (or what a backend has instead).
    pub id: String,
    /// The same for people, such as `postgres://db.example:5432/inventory public.inventory_items`.
    pub description: String,
}

/// What a delivery did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Rows inserted or updated; for a document, what was written of it: nothing where all of it was there.
    pub written: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Bytes of payload sent.
    pub bytes: u64,
    /// Rows that the destination refuses for what is in them. Everything else was delivered.
    pub refused: Vec<Refused>,
    /// What readers compare: the checksum of a document. Where there is none, the digest of the rows is shown.
    pub checksum: Option<String>,
}

/// A row that a destination does not take, whatever else is in the delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Target and UID.
    pub key: RowKey,
    /// The collected object, for people: `apps/v1 Deployment team-a/web`.
    pub object: String,
    /// Condition reason.
    pub reason: &'static str,
    /// Why, and what to do.
    pub message: String,
    /// Where the row is too large: its bytes, and how many it may have.
    pub excess: Option<(u64, u64)>,
}

/// What an audit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// The destination holds what the last delivery left there.
    Intact,
    /// It does not, or it keeps no record to tell.
    Drifted,
}

/// What becomes of the rows of a scope that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// They are deleted.
    Delete,
    /// They stay, and nobody owns them any more.
    Orphan,
}

/// Where a failure lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The destination as a whole does not answer: every binding to it would fail.
    Destination,
    /// This scope or this delivery.
    Delivery,
}

/// One destination: what every sink can do, whatever it takes.
///
/// Every method, here and in [`RowSink`] and [`DocumentSink`], has its own deadline and leaves no half-written state when
/// it fails or is dropped.
pub trait Sink: Send + Sync + fmt::Debug {
    /// Returns the `sink_type` of metrics and logs.
    fn kind(&self) -> SinkType;

    /// Returns where this sink writes to.
    fn destination(&self) -> &Destination;

    /// Returns what tells one table, repository or bucket from another, whatever address leads to it; nothing while there
    /// is none.
    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>>;

    /// Checks that the destination can be reached and used, and returns a sentence for people.
    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>>;

    /// Ends a scope: its rows are deleted or left to nobody, and its record is freed. Succeeds where nothing of ours is,
    /// and does not touch what another operator owns.
    fn leave<'a>(&'a self, scope: &'a Scope, leave: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>>;

    /// Returns the scopes that this operator, in any of its lives, has on record here.
    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>>;

    /// Tells readers of the sink that these scopes are watched and unchanged.
    fn heartbeat<'a>(&'a self, scopes: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Says that a scope is no longer delivered through this sink, so that another one may. What is there stays.
    fn release(&self, _scope: &Scope) {}

    /// Returns how deliveries to this destination run beside each other.
    fn lane(&self) -> Lane {
        Lane::Own
    }
}

/// A sink that takes rows one by one: a database, a tree of files in a repository.
pub trait RowSink: Sink {
    /// Returns the fingerprint that this sink stores for a row.
    fn fingerprint(&self, scope: &Scope, row: &Row) -> Fingerprint;

    /// Reads back which rows of a scope the sink holds; creates the destination when it may and must.
    ///
    /// `rows` are the known rows of the selection, for a sink that finds a row by where it would be, not by its key.
    fn recover<'a>(
        &'a self,
        scope: &'a Scope,
        selection: &'a Selection,
        rows: &'a [Row],
    ) -> BoxFuture<'a, Result<Vec<Held>, SinkError>>;

    /// Tells whether what it was told decides how it takes the next delta. Another one in its place, with other settings
    /// or another credential, has to compare first, even where it writes to the same destination.
    fn remembers(&self) -> bool {
        false
    }

    /// Brings the sink to the standing of the delta, all or nothing.
    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>>;

    /// Tells whether the destination still holds of a scope what the last delivery left there, by the destination's own
    /// means: rows that somebody edited, deleted or added are found without reading them all back.
    fn audit<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Audit, SinkError>>;

    /// Reads a scope back by content. A held row carries a fingerprint only where everything stored of it equals the
    /// row of that key in `rows`, so that a comparison writes the others again.
    fn verify<'a>(&'a self, scope: &'a Scope, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Held>, SinkError>>;
}

/// A sink that takes an inventory as a whole: one document, or what replaces it.
pub trait DocumentSink: Sink {
    /// Tells whether [publishing](Self::publish) would write nothing.
    fn has<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<bool, SinkError>>;

    /// Brings the sink to a document, all or nothing; creates the destination when it may and must. Where nothing is, and
    /// the document has no row, nothing is written.
    ///
    /// Idempotent: it compares with what is there and writes only what differs, so that publishing again is also how a
    /// sink is looked at and mended. [`Receipt::written`] is 0 when nothing was written.
    fn publish<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<Receipt, SinkError>>;
}

/// A sink by what it takes. It can be used wherever a [`Sink`] is enough.
#[derive(Debug, Clone)]
pub enum Backend {
    /// Rows, as they change.
    Rows(Arc<dyn RowSink>),
    /// Documents.
    Documents(Arc<dyn DocumentSink>),
}

impl Backend {
    /// Returns the sink, to keep.
    pub fn sink(&self) -> Arc<dyn Sink> {
        match self {
            Self::Rows(sink) => sink.clone(),
            Self::Documents(sink) => sink.clone(),
        }
    }
}

impl Deref for Backend {
    type Target = dyn Sink;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Rows(sink) => &**sink,
            Self::Documents(sink) => &**sink,
        }
    }
}

/// Makes sinks; what sinks of one destination share is kept here.
#[derive(Debug)]
pub struct Registry {
    /// Databases.
    pub postgres: postgres::PostgresPools,
    /// Repositories.
    pub git: git::GitRepositories,
    /// Buckets.
    pub object: object::ObjectStores,
    /// Servers of NATS.
    pub nats: nats::NatsServers,
    /// Brokers of Kafka.
    pub kafka: kafka::KafkaTopics,
}

impl Registry {
    /// Makes a Postgres sink. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn postgres(&self, config: &postgres::PostgresConfig) -> Result<Backend, SinkError> {
        Ok(Backend::Rows(Arc::new(self.postgres.sink(config)?)))
    }

    /// Makes a sink of a git repository. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn git(&self, config: &git::GitConfig) -> Result<Backend, SinkError> {
        self.git.sink(config)
    }

    /// Makes a sink of a bucket. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn object(&self, config: &object::ObjectConfig) -> Result<Backend, SinkError> {
        self.object.sink(config)
    }

    /// Makes a sink of a stream of NATS. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn nats(&self, config: &nats::NatsConfig) -> Result<Backend, SinkError> {
        self.nats.sink(config)
    }

    /// Makes a sink of a topic of Kafka. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn kafka(&self, config: &kafka::KafkaConfig) -> Result<Backend, SinkError> {
        self.kafka.sink(config)
    }

    /// Closes all connections. Sinks must not be used any more.
    pub async fn close(&self) {
        tokio::join!(
            self.postgres.close(),
            self.git.close(),
            self.object.close(),
            self.nats.close(),
            self.kafka.close()
        );
    }
}

/// Returns the live entry of a key, or makes one; entries that nobody holds any more go on the way.
fn shared<K: Eq + Hash, V>(map: &Mutex<HashMap<K, Weak<V>>>, key: K, make: impl FnOnce() -> V) -> Arc<V> {
    let mut map = map.lock();
    if let Some(there) = map.get(&key).and_then(Weak::upgrade) {
        return there;
    }
    map.retain(|_, entry| entry.strong_count() > 0);
    let first = Arc::new(make());
    map.insert(key, Arc::downgrade(&first));
    first
}

/// Has what is idle closed every `pause`, as long as it runs.
async fn sweep<K, V>(shared: Arc<Mutex<HashMap<K, Weak<V>>>>, pause: Duration, close_idle: fn(&V)) {
    loop {
        tokio::time::sleep(pause).await;
        let live: Vec<Arc<V>> = shared.lock().values().filter_map(Weak::upgrade).collect();
        for entry in live {
            close_idle(&entry);
        }
    }
}

/// Returns a digest of settings, none of which can be read for another.
fn digest_of(parts: &[Option<&[u8]>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        // Length first, so that no two configurations read the same; absent differs from empty.
        hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        hasher.update(part.unwrap_or_default());
    }
    *hasher.finalize().as_bytes()
}

/// A failure of a sink, classified by the backend that knows its cause.
#[derive(Debug)]
pub struct SinkError {
    class: Class,
    reason: &'static str,
    fault: Fault,
    source: Box<dyn Error + Send + Sync>,
}

impl SinkError {
    /// Wraps a backend's error. `reason` is a condition reason such as `ConnectionTestFailed`.
    pub fn new(class: Class, reason: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class, reason, fault: Fault::Delivery, source: source.into() }
    }

    /// Says that the destination as a whole is at fault.
    #[must_use]
    pub fn of_destination(self) -> Self {
        Self { fault: Fault::Destination, ..self }
    }

    /// Returns where the failure lies.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Returns the condition reason.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl From<TooLarge> for Refused {
    fn from(large: TooLarge) -> Self {
        Self {
            key: large.row.key(),
            object: large.row.object(),
            reason: "PayloadTooLarge",
            message: large.message,
            excess: Some((large.bytes, large.ceiling)),
        }
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl Error for SinkError {
    // The wrapped error is this one's own text, so its causes are this one's causes.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

impl Classify for SinkError {
    fn class(&self) -> Class {
        self.class
    }
}
