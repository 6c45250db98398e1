//! Payload to the outside: one trait, one folder for each backend.
//!
//! A sink never sees the store. It is handed a [`Delta`] and answers with a [`Receipt`] or a [`SinkError`] that carries
//! the class; it does not retry, the caller does.

#[cfg(feature = "lab")]
pub mod contract;
pub mod netguard;
pub mod postgres;

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::{Class, Classify};
use crate::export::{Delta, Held, Scope, Selection};
use crate::metrics::SinkType;
use crate::model::{Fingerprint, Row};

/// Where a sink writes to, without any credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// A stable id: 16 hex digits over host, port, database, schema and table (or what a backend has instead).
    pub id: String,
    /// The same for people, such as `postgres://db.example:5432/inventory public.inventory_items`.
    pub description: String,
}

/// What a delivery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Rows inserted or updated.
    pub written: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Bytes of payload sent.
    pub bytes: u64,
}

/// One destination of rows.
///
/// Every method has its own deadline and leaves no half-written state when it fails or is dropped.
pub trait Sink: Send + Sync + fmt::Debug {
    /// Returns the `sink_type` of metrics and logs.
    fn kind(&self) -> SinkType;

    /// Returns where this sink writes to.
    fn destination(&self) -> &Destination;

    /// Checks that the destination can be reached and used, and returns a sentence for people.
    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>>;

    /// Returns the fingerprint that this sink stores for a row.
    fn fingerprint(&self, scope: &Scope, row: &Row) -> Fingerprint;

    /// Reads back which rows of a scope the sink holds; creates the destination when it may and must.
    fn recover<'a>(&'a self, scope: &'a Scope, selection: &'a Selection)
    -> BoxFuture<'a, Result<Vec<Held>, SinkError>>;

    /// Brings the sink to the standing of the delta, all or nothing.
    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>>;

    /// Tells readers of the sink that these scopes are watched and unchanged.
    fn heartbeat<'a>(&'a self, scopes: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>>;
}

/// Makes sinks; what sinks of one destination share is kept here.
#[derive(Debug)]
pub struct Registry {
    postgres: postgres::PostgresPools,
}

impl Registry {
    /// Takes one registry of each backend.
    pub fn new(postgres: postgres::PostgresPools) -> Self {
        Self { postgres }
    }

    /// Makes a Postgres sink. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn postgres(&self, config: &postgres::PostgresConfig) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(self.postgres.sink(config)?))
    }

    /// Closes all connections. Sinks must not be used any more.
    pub async fn close(&self) {
        self.postgres.close().await;
    }
}

/// A failure of a sink, classified by the backend that knows its cause.
#[derive(Debug)]
pub struct SinkError {
    class: Class,
    reason: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

impl SinkError {
    /// Wraps a backend's error. `reason` is a condition reason such as `ConnectionTestFailed`.
    pub fn new(class: Class, reason: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class, reason, source: source.into() }
    }

    /// Returns the condition reason.
    pub fn reason(&self) -> &'static str {
        self.reason
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
