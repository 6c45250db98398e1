//! Rows into Kafka: a message for each change, or an envelope of the whole inventory.
//!
//! In flow a [`Delta`] or a [`Document`]; out flow the messages of [`event`](crate::export::event), each delivery in one
//! transaction, so that a reader of committed messages sees all of it or nothing. Each operator writes a topic under one
//! transactional id: a new life of it fences the one before. What the topic holds is read from the topic, once, and then only
//! what has come since (`docs/adr/0011-event-streams.md`).
//!
//! librdkafka does the talking, behind the [dial guard](super::netguard); all of it blocks, and runs where that is allowed.

mod client;
mod config;
mod error;
mod group;
mod home;
mod native;
mod read;
mod topic;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Compression, KafkaConfig, Login, Mechanism, Mode, Provisioning};

use error::KafkaError;
use home::{Access, Count, Desk, Home, IDLE_LIMIT};

use super::mandate::Mandate;
use super::netguard::Guard;
use super::{Audit, Backend, Destination, DocumentSink, Leave, Receipt, RowSink, Sink, SinkError, shared, sweep};
use crate::canonical;
use crate::export::event::{self, Life, Plan, Rendered, SIGN_OF_LIFE, Stream};
use crate::export::{Delta, Document, Held, Scope, Selection, Standing};
use crate::metrics::SinkType;
use crate::model::{Fingerprint, Row};

/// Gives the time that envelopes are stamped with.
pub type Clock = fn() -> jiff::Timestamp;

/// The part of a topic in which this process takes note of what it has just sent.
const OWN: i32 = -1;

/// Makes sinks; those of one topic and login share clients.
#[derive(Debug)]
pub struct KafkaTopics {
    guard: Guard,
    life: Life,
    mandate: Mandate,
    clock: Clock,
    tasks: TaskTracker,
    stop: CancellationToken,
    homes: Arc<Mutex<HashMap<[u8; 32], Weak<Home>>>>,
    /// Taken once for each destination and kept: a second sink of the same topic must not fence the first.
    counts: Mutex<HashMap<String, Arc<Count>>>,
}

impl KafkaTopics {
    /// Makes the registry. Must be called inside the runtime; clients live until `stop`.
    pub fn new(guard: Guard, life: Life, clock: Clock, stop: CancellationToken) -> Self {
        let homes: Arc<Mutex<HashMap<[u8; 32], Weak<Home>>>> = Arc::default();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(sweep(
            Arc::clone(&homes),
            IDLE_LIMIT / 3,
            Home::close_idle,
        )));
        let mandate = Mandate::unlimited();
        Self { guard, life, mandate, clock, tasks, stop, homes, counts: Mutex::default() }
    }

    /// Lets the sinks write only as long as the mandate lasts: each transaction asks at its begin and before its commit.
    #[must_use]
    pub fn under(self, mandate: Mandate) -> Self {
        Self { mandate, ..self }
    }

    /// Makes a sink. Nothing is connected yet.
    ///
    /// # Errors
    /// Terminal when a setting cannot be used.
    pub fn sink(&self, config: &KafkaConfig) -> Result<Backend, SinkError> {
        let checked = config.check(self.guard, &self.life.process)?;
        let count = Arc::clone(self.counts.lock().entry(checked.destination.id.clone()).or_default());
        let home = shared(&self.homes, checked.key, || Home {
            guard: self.guard,
            mode: config.mode,
            provisioning: config.provisioning,
            cluster: config.cluster.clone(),
            life: self.life.clone(),
            mandate: self.mandate.clone(),
            clock: self.clock,
            count,
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
            waiting: group::Waiting::default(),
            desk: Arc::default(),
            checked,
        });
        let sink = Arc::new(KafkaSink { home });
        Ok(match config.mode {
            Mode::Changes => Backend::Rows(sink),
            Mode::Snapshot => Backend::Documents(sink),
        })
    }

    /// Ends all clients and waits until what they have begun is done or undone. Sinks must not be used any more.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Messages of one sink object.
struct KafkaSink {
    home: Arc<Home>,
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destination = &self.home.checked.destination.description;
        f.debug_struct("KafkaSink").field("destination", destination).finish_non_exhaustive()
    }
}

impl KafkaSink {
    /// Runs a job with a topic that is open and read.
    async fn work<T: Send + 'static>(
        &self,
        access: Access,
        job: impl FnOnce(&Home, &mut Desk) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let done = self.home.work(move |home, desk| {
            home.open(desk, access)?;
            job(home, desk)
        });
        Ok(done.await?)
    }
}

/// Sends a plan and notes it.
fn carry_out(home: &Home, desk: &mut Desk, scope: &Scope, plan: Plan) -> Result<Receipt, KafkaError> {
    let plan = Arc::new(plan);
    let first = home.advance(plan.len());
    let bytes = if plan.is_empty() { 0 } else { home.send(desk, plan.messages(first))? };
    group::settle(home, desk, scope, (&plan, first, bytes))
}

/// Sends a snapshot and notes it.
fn publish(home: &Home, desk: &mut Desk, rendered: &Rendered) -> Result<u64, KafkaError> {
    let (first, now) = (home.advance(rendered.len()), (home.clock)());
    let bytes = home.send(desk, (0..rendered.len()).map_while(|part| rendered.message(part, first, now)))?;
    for message in (0..rendered.len()).map_while(|part| rendered.message(part, first, now)) {
        desk.ledger.fold.take(OWN, message.header, now, ());
    }
    desk.ledger.note(first.n, rendered.len());
    Ok(bytes)
}

/// Returns the empty document of a scope that ends.
fn nothing(home: &Home, scope: &Scope) -> Document {
    Document {
        scope: Arc::new(scope.clone()),
        rows: Arc::default(),
        standing: Standing::default(),
        max_part_bytes: u64::MAX,
        exported_at: (home.clock)(),
    }
}

fn leave(home: &Home, desk: &mut Desk, scope: &Scope, leave: Leave) -> Result<Receipt, KafkaError> {
    if !home.owns(desk, scope) {
        return Ok(Receipt::default());
    }
    let limit = desk.limit();
    let held = home.claim(desk, scope)?;
    match (leave, home.mode) {
        (Leave::Orphan, _) => {
            let plan = Plan::release(scope, held);
            carry_out(home, desk, scope, plan).map(|_| Receipt::default())
        }
        (Leave::Delete, Mode::Changes) => {
            let plan = Plan::delete_all(scope, held, home.owner(scope));
            carry_out(home, desk, scope, plan)
        }
        (Leave::Delete, Mode::Snapshot) => {
            let deleted = held.snapshot().map_or(0, |set| set.rows);
            let rendered = Rendered::farewell(&nothing(home, scope), home.owner(scope), limit);
            let bytes = publish(home, desk, &rendered)?;
            Ok(Receipt { deleted, bytes, ..Receipt::default() })
        }
    }
}

impl Sink for KafkaSink {
    fn kind(&self) -> SinkType {
        SinkType::Kafka
    }

    fn destination(&self) -> &Destination {
        &self.home.checked.destination
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        async { Ok(self.home.work(Home::identity).await?) }.boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        async {
            let home = Arc::clone(&self.home);
            // Beside what is under way, which may take its time.
            let probed = self.home.tasks.spawn_blocking(move || home.probe()).await;
            Ok(probed.unwrap_or(Err(KafkaError::Stopping))?)
        }
        .boxed()
    }

    fn leave<'a>(&'a self, scope: &'a Scope, how: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let scope = scope.clone();
        self.work(Access::Write, move |home, desk| {
            home.catch_up(desk)?;
            leave(home, desk, &scope, how)
        })
        .boxed()
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        self.work(Access::Read, |home, desk| {
            let ours = |(stream, held): (&Stream, &event::Holdings<()>)| {
                let owner = held.owner();
                let inventory_uid = owner.inventory.clone().filter(|_| owner.process == home.life.process)?;
                Some(Scope { cluster: stream.cluster.clone(), inventory: stream.inventory.clone(), inventory_uid })
            };
            Ok(desk.ledger.fold.iter().filter_map(ours).collect())
        })
        .boxed()
    }

    /// A delivery without rows once an hour, so that other operators know that somebody is there.
    fn heartbeat<'a>(&'a self, scopes: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        let scopes: Vec<Scope> = scopes.iter().map(|scope| (*scope).clone()).collect();
        if self.home.mode == Mode::Snapshot {
            return futures::future::ready(Ok(())).boxed();
        }
        async move {
            let quiet = move |home: &Home, desk: &mut Desk| {
                let now = (home.clock)();
                let silent = |scope: &&Scope| {
                    let held = desk.ledger.fold.get(&Stream::of(scope));
                    let since = held
                        .filter(|held| *held.owner() == home.owner(scope))
                        .map(|held| now.duration_since(held.at()));
                    since.is_some_and(|since| since.unsigned_abs() >= SIGN_OF_LIFE)
                };
                Ok(scopes.iter().filter(silent).cloned().collect::<Vec<Scope>>())
            };
            let silent = self.home.work(quiet).await?;
            if silent.is_empty() {
                return Ok(());
            }
            self.work(Access::Write, move |home, desk| {
                for scope in &silent {
                    let plan = Plan::alive(scope, home.claim(desk, scope)?, home.owner(scope));
                    carry_out(home, desk, scope, plan)?;
                }
                Ok(())
            })
            .await
        }
        .boxed()
    }
}

impl RowSink for KafkaSink {
    fn fingerprint(&self, _: &Scope, row: &Row) -> Fingerprint {
        event::fingerprint(canonical::row_hash(row).0)
    }

    fn recover<'a>(
        &'a self,
        scope: &'a Scope,
        selection: &'a Selection,
        _: &'a [Row],
    ) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        let (scope, selection) = (scope.clone(), selection.clone());
        self.work(Access::Write, move |home, desk| {
            home.catch_up(desk)?;
            Ok(home.claim(desk, &scope)?.held(&selection))
        })
        .boxed()
    }

    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        async {
            let (ticket, mut answered) = self.home.waiting.join(delta.clone());
            let turn = self.work(Access::Write, move |home, desk| group::carry_out(home, desk, ticket));
            let answer = tokio::select! {
                biased;
                Ok(answer) = &mut answered => answer,
                turned = turn => {
                    turned?;
                    answered.await.unwrap_or(Err(KafkaError::Stopping))
                }
            };
            Ok(answer?)
        }
        .boxed()
    }

    fn audit<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Audit, SinkError>> {
        let scope = scope.clone();
        self.work(Access::Read, move |home, desk| {
            let look = |desk: &Desk| {
                let held = desk.ledger.fold.get(&Stream::of(&scope))?;
                let whole = held.is_sound() && held.is_closed() && *held.owner() == home.owner(&scope);
                whole.then(|| (held.digest(), held.sequence()))
            };
            let before = look(desk);
            home.catch_up(desk)?;
            Ok(if before.is_some() && look(desk) == before { Audit::Intact } else { Audit::Drifted })
        })
        .boxed()
    }

    fn verify<'a>(&'a self, scope: &'a Scope, _: &'a [Row]) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        let scope = scope.clone();
        self.work(Access::Write, move |home, desk| {
            home.read_again(desk)?;
            Ok(home.claim(desk, &scope)?.held(&Selection::All))
        })
        .boxed()
    }
}

/// Tells whether a snapshot is what the topic has last, from us.
fn is_there(home: &Home, desk: &Desk, document: &Document, rendered: &Rendered) -> bool {
    let held = desk.ledger.fold.get(&Stream::of(&document.scope));
    match held.and_then(|held| Some((held, held.snapshot()?))) {
        Some((held, set)) => {
            held.is_closed()
                && *held.owner() == home.owner(&document.scope)
                && set.checksum == rendered.checksum.to_string()
        }
        // What never had a row begins with one.
        None => document.rows.is_empty() && held.is_none_or(event::Holdings::is_empty),
    }
}

impl DocumentSink for KafkaSink {
    fn has<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<bool, SinkError>> {
        let document = document.clone();
        self.work(Access::Read, move |home, desk| {
            home.catch_up(desk)?;
            let rendered = event::render(&document, home.owner(&document.scope), desk.limit());
            Ok(is_there(home, desk, &document, &rendered))
        })
        .boxed()
    }

    fn publish<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let document = document.clone();
        self.work(Access::Write, move |home, desk| {
            home.catch_up(desk)?;
            let rendered = event::render(&document, home.owner(&document.scope), desk.limit());
            home.claim(desk, &document.scope)?;
            let mut receipt = Receipt { checksum: Some(rendered.checksum.to_string()), ..Receipt::default() };
            if !is_there(home, desk, &document, &rendered) {
                receipt.bytes = publish(home, desk, &rendered)?;
                receipt.written = rendered.len() as u64;
            }
            receipt.refused = rendered.refused.into_iter().map(Into::into).collect();
            Ok(receipt)
        })
        .boxed()
    }
}
