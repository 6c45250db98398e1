//! Rows and documents into a stream of NATS JetStream.
//!
//! In flow a [`Delta`] (`mode: Changes`) or a [`Document`] (`Snapshot`); out flow the messages of [`crate::export::event`],
//! each with an acknowledgement of the stream before a delivery counts. What the stream holds is known by its headers.
//! [`NatsServers`] is made once; it shares one connection among all sinks of a login, and what is known of a stream among
//! those of a destination. A delivery that was begun is finished, even when nobody waits for it any more.
//!
//! Retrying is left to the caller, and so is connecting again: the client never does by itself.

mod client;
mod config;
mod error;
mod flight;
mod home;
mod jetstream;
mod link;
mod nkey;
mod send;
mod subject;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Creation, NatsConfig, NatsCredentials};

use client::Client;
use error::NatsError;
use home::{Counters, Home};
use jetstream::Place;
use link::{IDLE_LIMIT, Link};
use send::Desk;

use super::mandate::Mandate;
use super::netguard::Guard;
use super::{Audit, Backend, Destination, DocumentSink, Leave, Receipt, RowSink, Sink, SinkError, shared, sweep};
use crate::api::v1alpha1::sink::StreamMode;
use crate::canonical;
use crate::export::event::{Life, SIGN_OF_LIFE, Stream, fingerprint};
use crate::export::{Delta, Document, Held, Scope, Selection};
use crate::metrics::SinkType;
use crate::model::{Fingerprint, Row};

/// Gives the time.
pub type Clock = fn() -> jiff::Timestamp;

/// Makes sinks, and shares connections and knowledge among them.
///
/// Holds as many entries as there are live destinations and logins.
#[derive(Debug)]
pub struct NatsServers {
    guard: Guard,
    life: Life,
    mandate: Mandate,
    clock: Clock,
    tasks: TaskTracker,
    stop: CancellationToken,
    links: Arc<Mutex<HashMap<[u8; 32], Weak<Link>>>>,
    homes: Mutex<HashMap<HomeKey, Weak<Home>>>,
    /// Kept for good: a number is never used twice.
    counters: Mutex<HashMap<String, Arc<Counters>>>,
}

/// Login, destination and who makes the stream.
type HomeKey = ([u8; 32], String, Creation);

impl NatsServers {
    /// Makes the registry. Must be called inside the runtime; connections live until `stop`.
    pub fn new(guard: Guard, life: Life, clock: Clock, stop: CancellationToken) -> Self {
        let links: Arc<Mutex<HashMap<[u8; 32], Weak<Link>>>> = Arc::default();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(sweep(
            Arc::clone(&links),
            IDLE_LIMIT / 3,
            Link::close_idle,
        )));
        let (homes, counters, mandate) = (Mutex::default(), Mutex::default(), Mandate::unlimited());
        Self { guard, life, mandate, clock, tasks, stop, links, homes, counters }
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
    pub fn sink(&self, config: &NatsConfig) -> Result<Backend, SinkError> {
        let sink = Arc::new(self.make(config)?);
        Ok(match config.mode {
            StreamMode::Changes => Backend::Rows(sink),
            StreamMode::Snapshot => Backend::Documents(sink),
        })
    }

    fn make(&self, config: &NatsConfig) -> Result<NatsSink, NatsError> {
        let checked = config.check()?;
        let key = (checked.login_key, checked.destination.id.clone(), config.create);
        let link =
            shared(&self.links, checked.login_key, || Link::new(self.guard, &checked, config, self.tasks.clone()));
        let counters = Arc::clone(self.counters.lock().entry(checked.destination.id.clone()).or_default());
        let home = shared(&self.homes, key, || {
            let place = Place { stream: checked.stream.clone(), filter: checked.subject.filter() };
            Home::new(link, place, checked.subject.clone(), config.create, counters)
        });
        let desk = Desk { home, life: self.life.clone(), mandate: self.mandate.clone(), clock: self.clock };
        let (tasks, mode) = (self.tasks.clone(), config.mode);
        Ok(NatsSink { desk: Arc::new(desk), destination: checked.destination, mode, tasks })
    }

    /// Ends the tasks of all connections and waits for them. Sinks must not be used any more.
    pub async fn close(&self) {
        self.stop.cancel();
        let links: Vec<Arc<Link>> = self.links.lock().drain().filter_map(|(_, link)| link.upgrade()).collect();
        for link in links {
            link.close().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A stream as one sink object sees it.
pub struct NatsSink {
    desk: Arc<Desk>,
    destination: Destination,
    mode: StreamMode,
    tasks: TaskTracker,
}

impl fmt::Debug for NatsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSink").field("destination", &self.destination.description).finish_non_exhaustive()
    }
}

impl NatsSink {
    /// Runs to its end what was begun, whoever waits for it. The task is awaited by the registry when it is closed.
    async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, NatsError>> + Send + 'static,
    ) -> Result<T, SinkError> {
        match self.tasks.spawn(work).await {
            Ok(done) => Ok(done?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(NatsError::Closed { server: self.destination.description.clone() }.into()),
        }
    }

    async fn client(&self) -> Result<Arc<Client>, NatsError> {
        self.desk.home.link.client().await
    }

    async fn try_probe(&self) -> Result<String, NatsError> {
        let (home, client) = (&self.desk.home, self.client().await?);
        jetstream::account(&client).await?;
        let stream = &home.place.stream;
        let what = match jetstream::look(&client, &home.place).await {
            Ok(info) => format!("stream \"{stream}\" has {} messages", info.state.messages),
            Err(error) if error.is_no_stream() && home.creation == Creation::Ensure => {
                format!("stream \"{stream}\" will be created")
            }
            Err(error) => return Err(error),
        };
        let (server, version) = (client.server(), &client.info.version);
        Ok(format!("NATS JetStream account info request succeeded: {server} ({version}), {what}"))
    }

    async fn try_identity(&self) -> Result<Option<String>, NatsError> {
        let (home, client) = (&self.desk.home, self.client().await?);
        match jetstream::look(&client, &home.place).await {
            Ok(info) => Ok(Some(format!("{} {} {}", info.created, home.place.stream, home.place.filter))),
            Err(error) if error.is_no_stream() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn try_scopes(&self) -> Result<Vec<Scope>, NatsError> {
        let home = &self.desk.home;
        match home.catch_up(&*self.client().await?, Creation::Existing).await {
            Ok(()) => Ok(home.scopes(&self.desk.life)),
            Err(error) if error.is_no_stream() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Reads what there is, and makes sure that it is ours.
    async fn look(&self, scope: &Scope) -> Result<Stream, NatsError> {
        let (home, stream) = (&self.desk.home, Stream::of(scope));
        home.catch_up(&*self.client().await?, home.creation).await?;
        home.claim(&self.desk.life, &stream, (self.desk.clock)()).await?;
        Ok(stream)
    }

    async fn held(&self, scope: &Scope, selection: Selection) -> Result<Vec<Held>, NatsError> {
        let stream = self.look(scope).await?;
        Ok(self.desk.home.with_rows(stream, move |held| held.held(&selection)).await)
    }

    async fn try_audit(&self, scope: &Scope) -> Result<Audit, NatsError> {
        // A delivery that nobody waits for any more is not taken for somebody else's.
        drop(self.desk.home.turn(&Stream::of(scope)).await);
        let stream = self.look(scope).await?;
        let home = &self.desk.home;
        let owner = self.desk.life.owner(scope);
        let well = home.with(&stream, |held| {
            let ours = held.is_empty() || *held.owner() == owner;
            ours && held.is_sound() && held.is_closed()
        });
        Ok(if well && home.is_settled(&stream) { Audit::Intact } else { Audit::Drifted })
    }

    async fn try_heartbeat(&self, scopes: &[&Scope]) -> Result<(), NatsError> {
        let now = (self.desk.clock)();
        for scope in scopes {
            let owner = self.desk.life.owner(scope);
            let silent = self.desk.home.with(&Stream::of(scope), |held| {
                *held.owner() == owner && now.duration_since(held.at()).unsigned_abs() >= SIGN_OF_LIFE
            });
            if silent {
                self.desk.alive(scope).await?;
            }
        }
        Ok(())
    }
}

impl Sink for NatsSink {
    fn kind(&self) -> SinkType {
        SinkType::Nats
    }

    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        Box::pin(async { Ok(self.try_identity().await?) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        Box::pin(async { Ok(self.try_probe().await?) })
    }

    fn leave<'a>(&'a self, scope: &'a Scope, leave: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let (desk, scope) = (Arc::clone(&self.desk), Arc::new(scope.clone()));
        Box::pin(self.finish(async move { desk.leave(scope, leave).await }))
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        Box::pin(async { Ok(self.try_scopes().await?) })
    }

    fn heartbeat<'a>(&'a self, scopes: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            match self.mode {
                StreamMode::Changes => Ok(self.try_heartbeat(scopes).await?),
                // Every message of a snapshot is one, and no other belongs there.
                StreamMode::Snapshot => Ok(()),
            }
        })
    }
}

impl RowSink for NatsSink {
    fn fingerprint(&self, _scope: &Scope, row: &Row) -> Fingerprint {
        fingerprint(canonical::row_hash(row).0)
    }

    fn recover<'a>(
        &'a self,
        scope: &'a Scope,
        selection: &'a Selection,
        _rows: &'a [Row],
    ) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        Box::pin(async move {
            drop(self.desk.home.turn(&Stream::of(scope)).await);
            Ok(self.held(scope, selection.clone()).await?)
        })
    }

    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let (desk, delta) = (Arc::clone(&self.desk), delta.clone());
        Box::pin(self.finish(async move { desk.deliver(delta).await }))
    }

    fn audit<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Audit, SinkError>> {
        Box::pin(async move { Ok(self.try_audit(scope).await?) })
    }

    fn verify<'a>(&'a self, scope: &'a Scope, _rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        Box::pin(async move { Ok(self.held(scope, Selection::All).await?) })
    }
}

impl DocumentSink for NatsSink {
    fn has<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<bool, SinkError>> {
        Box::pin(async move { Ok(self.desk.has(document).await?) })
    }

    fn publish<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let (desk, document) = (Arc::clone(&self.desk), document.clone());
        Box::pin(self.finish(async move { desk.publish(document).await }))
    }
}
