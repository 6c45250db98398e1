//! Rows into a bucket of S3 or Google Cloud Storage: an object for each inventory, as JSON, lines of JSON, or Parquet.
//!
//! ```text
//!   all rows ─► plan (keys, checksum) ─► is it there? ── yes ─► nothing
//!                                            │ no
//!                                            ▼
//!                    record ─► objects, a manifest last ─► record ─► what is superseded goes
//! ```
//!
//! Each object says in its metadata whose it is and what it says, so that an equal one is not written again, by no process
//! and at no other time. A small record per inventory says which objects are ours. See `docs/adr/0010-object-stores.md`.

mod client;
mod config;
mod error;
mod gate;
mod key;
mod parquet;
mod preview;
mod record;
mod render;
mod store;
mod writer;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Credentials, ObjectConfig};
pub use preview::preview;

use client::Connector;
use error::ObjectError;
use gate::Gate;
use render::Recipe;
use store::{Condition, Store, Written};
use writer::Writer;

use super::mandate::Mandate;
use super::netguard::Guard;
use super::{Backend, Destination, DocumentSink, Leave, Receipt, Sink, SinkError, shared};
use crate::export::{Document, Scope};
use crate::metrics::SinkType;
use crate::model::SinkKey;

/// Where the name that a bucket has for us stands.
const IDENTITY: &str = ".kollect/identity";

/// Makes sinks; those of one destination do not write one inventory at the same time.
#[derive(Debug)]
pub struct ObjectStores {
    guard: Guard,
    writer: String,
    mandate: Mandate,
    clock: fn() -> Timestamp,
    gates: Mutex<HashMap<String, Weak<Gate>>>,
    /// What writes goes on when nobody waits for it any more, so that it is done as a whole.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl ObjectStores {
    /// Makes the registry. `writer` is the UID of `kube-system`; what writes lives until `stop`.
    pub fn new(guard: Guard, writer: String, clock: fn() -> Timestamp, stop: CancellationToken) -> Self {
        let (mandate, gates) = (Mandate::unlimited(), Mutex::default());
        Self { guard, writer, mandate, clock, gates, tasks: TaskTracker::new(), stop }
    }

    /// Lets the sinks write only as long as the mandate lasts.
    #[must_use]
    pub fn under(self, mandate: Mandate) -> Self {
        Self { mandate, ..self }
    }

    /// Makes a sink. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn sink(&self, config: &ObjectConfig) -> Result<Backend, SinkError> {
        Ok(Backend::Documents(Arc::new(self.make(config)?)))
    }

    fn make(&self, config: &ObjectConfig) -> Result<ObjectSink, ObjectError> {
        let recipe = Recipe::new(config.encoding.clone(), config.cluster.clone(), config.path_template.as_deref())?;
        let connector = Connector::new(self.guard, &config.tls)?;
        let destination = config.destination();
        let writer = Writer {
            store: Store::new(config, connector)?,
            recipe,
            retention: config.retention,
            name: self.writer.clone(),
            mandate: self.mandate.clone(),
            gate: shared(&self.gates, destination.id.clone(), Gate::default),
            clusters: Mutex::new([config.cluster.as_str().to_owned()].into()),
            clock: self.clock,
        };
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let (kind, sink) = (config.kind, config.sink.clone());
        let (residences, named) = (Mutex::default(), AtomicBool::new(false));
        Ok(ObjectSink { kind, destination, sink, writer: Arc::new(writer), residences, named, tasks, stop })
    }

    /// Ends what is being written and waits for it. Sinks must not be used any more.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Objects of one sink object.
#[derive(Debug)]
struct ObjectSink {
    kind: SinkType,
    destination: Destination,
    sink: SinkKey,
    writer: Arc<Writer>,
    /// The inventories that this sink writes.
    residences: Mutex<Vec<Scope>>,
    /// Whether the bucket has a name for us.
    named: AtomicBool,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl ObjectSink {
    /// Runs something to its end, whether or not anybody waits for that.
    async fn see_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ObjectError>> + Send + 'static,
    ) -> Result<T, SinkError> {
        let task = self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(work));
        let outcome = task.await.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        Ok(outcome.unwrap_or(Err(ObjectError::GivenUp))?)
    }

    /// Makes sure that no other sink writes this inventory to this place in another way.
    fn settle(&self, scope: &Scope) -> Result<(), ObjectError> {
        let recipe = &self.writer.recipe;
        let settings = format!("{} {}", recipe.place(), recipe.appearance());
        self.writer.gate.settle(scope, &self.sink, &settings)?;
        let mut residences = self.residences.lock();
        if !residences.contains(scope) {
            residences.push(scope.clone());
        }
        Ok(())
    }
}

/// Returns the name that a bucket has for us; nothing while nobody wrote there.
async fn read_identity(writer: &Writer) -> Result<Option<String>, ObjectError> {
    let found = writer.store.get(IDENTITY).await?;
    Ok(found.map(|(text, _)| String::from_utf8_lossy(&text).trim().to_owned()).filter(|name| !name.is_empty()))
}

/// Gives a bucket a name, if it has none: what tells it from another one under the same address.
async fn name_bucket(writer: Arc<Writer>) -> Result<(), ObjectError> {
    // Looked at first, for not every store serves the condition.
    if read_identity(&writer).await?.is_some() {
        return Ok(());
    }
    let seed = format!("{} {:?} {}", writer.name, writer.store, (writer.clock)());
    let name = blake3::hash(seed.as_bytes()).to_hex().to_string();
    match writer.store.put(IDENTITY, name.into_bytes().into(), "text/plain", None, Condition::Absent).await? {
        Written::Done(_) | Written::Differs => Ok(()),
    }
}

impl Drop for ObjectSink {
    fn drop(&mut self) {
        for scope in self.residences.get_mut().drain(..) {
            self.writer.gate.move_out(&scope, &self.sink);
        }
    }
}

impl Sink for ObjectSink {
    fn kind(&self) -> SinkType {
        self.kind
    }

    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        async { Ok(read_identity(&self.writer).await?) }.boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        async {
            self.writer.store.probe().await?;
            let what = if self.kind == SinkType::Gcs { "GCS" } else { "S3" };
            Ok(format!("{what} bucket HeadBucket succeeded"))
        }
        .boxed()
    }

    fn leave<'a>(&'a self, scope: &'a Scope, leave: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let work = Arc::clone(&self.writer).leave(Arc::new(scope.clone()), leave);
        async move {
            let receipt = self.see_through(work).await?;
            self.release(scope);
            Ok(receipt)
        }
        .boxed()
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        async { Ok(self.writer.scopes().await?) }.boxed()
    }

    /// Readers of a bucket are told nothing: each object that says that nothing changed would be a write to pay for.
    fn heartbeat<'a>(&'a self, _: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn release(&self, scope: &Scope) {
        self.residences.lock().retain(|there| there != scope);
        self.writer.gate.move_out(scope, &self.sink);
    }
}

impl DocumentSink for ObjectSink {
    fn has<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<bool, SinkError>> {
        async move { Ok(Arc::clone(&self.writer).has(Arc::new(document.clone())).await?) }.boxed()
    }

    fn publish<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        async move {
            self.settle(&document.scope)?;
            let (writer, document) = (Arc::clone(&self.writer), Arc::new(document.clone()));
            let naming = document.standing.rows > 0 && !self.named.load(Ordering::Relaxed);
            let receipt = self.see_through(writer.publish(document)).await?;
            if naming {
                self.see_through(name_bucket(Arc::clone(&self.writer))).await?;
                self.named.store(true, Ordering::Relaxed);
            }
            Ok(receipt)
        }
        .boxed()
    }
}
