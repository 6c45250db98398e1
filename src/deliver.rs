//! From a due binding to an acknowledged one: plan → recover → compare → deliver → acknowledge.
//!
//! One task owns the schedule and every binding; deliveries run beside it, bounded by the schedule's limits. A slow or
//! broken sink holds one place of its destination and nothing else. Killed at any line, the next process finds the sink
//! as it was or as it is meant to be, because a delivery is all or nothing and the first plan of a process compares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Class, Classify, chain};
use crate::export::{self, Base, Delta, Held, Scope, Selection, Standing};
use crate::metrics::{self, Controller, Metrics, Reading, Sizes};
use crate::model::{BindingKey, Digest, InventoryKey, Namespace, Row, RowKey};
use crate::schedule::{GATHER, Limits, Outcome, Phase, Schedule};
use crate::sinks::{Receipt, Sink, SinkError};
use crate::store::{Compare, Plan, Reader, Store};

/// Commands that may wait. The sender waits when it is full.
const MAX_COMMANDS: usize = 1024;
/// How often an unchanged binding tells the readers of its sink that it is watched.
const HEARTBEAT: Duration = Duration::from_mins(1);
/// How long deliveries in flight may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);

/// Everything that a binding needs.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Inventory and sink.
    pub key: BindingKey,
    /// Where to.
    pub sink: Arc<dyn Sink>,
    /// Whose rows.
    pub scope: Arc<Scope>,
    /// Minimum time between two writes.
    pub interval: Duration,
    /// `metadata.generation` of the inventory.
    pub generation: i64,
    /// Changes with anything that makes a new delivery necessary: the specs and the secrets.
    pub revision: String,
}

/// A failed delivery, for status and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the scheduler makes of it.
    pub class: Class,
    /// Condition reason.
    pub reason: &'static str,
    /// The whole cause chain.
    pub message: String,
}

/// How a binding stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The sink has been brought to a known state at least once.
    pub acknowledged: bool,
    /// When the sink was last written to by this process.
    pub last_write: Option<Timestamp>,
    /// Digest of the rows that the sink has.
    pub checksum: Option<Digest>,
    /// Rows that the sink has.
    pub rows: u64,
    /// The last delivery failed like this.
    pub failure: Option<Failure>,
    /// When the next delivery is due, while one waits.
    pub next_due: Option<Timestamp>,
    /// A change waits for the interval.
    pub debounced: bool,
    /// Since when the oldest unacknowledged change has been waiting.
    pub behind_since: Option<Instant>,
}

impl Report {
    /// Returns for how long the oldest unacknowledged change has been waiting.
    pub fn lag(&self) -> Duration {
        self.behind_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The reports of all bindings, and which inventories have news.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    inner: Arc<ReportsInner>,
}

#[derive(Debug, Default)]
struct ReportsInner {
    reports: Mutex<BTreeMap<BindingKey, Report>>,
    news: Mutex<BTreeSet<InventoryKey>>,
    wake: Notify,
}

impl Reports {
    /// Returns the report of a binding.
    pub fn get(&self, key: &BindingKey) -> Option<Report> {
        self.inner.reports.lock().get(key).cloned()
    }

    /// Returns all reports.
    pub fn all(&self) -> BTreeMap<BindingKey, Report> {
        self.inner.reports.lock().clone()
    }

    /// Waits for news. Cancel-safe.
    pub async fn changed(&self) {
        self.inner.wake.notified().await;
    }

    /// Takes the inventories with news.
    pub fn drain(&self) -> BTreeSet<InventoryKey> {
        std::mem::take(&mut *self.inner.news.lock())
    }

    /// Changes a report. Only what a condition shows counts as news; lag alone does not.
    fn update(&self, key: &BindingKey, change: impl FnOnce(&mut Report)) {
        let mut reports = self.inner.reports.lock();
        let report = reports.entry(key.clone()).or_default();
        let before = report.clone();
        change(report);
        let news = Report { behind_since: before.behind_since, ..report.clone() } != before;
        drop(reports);
        if news {
            self.tell(key);
        }
    }

    fn remove(&self, key: &BindingKey) {
        self.inner.reports.lock().remove(key);
        self.tell(key);
    }

    fn tell(&self, key: &BindingKey) {
        self.inner.news.lock().insert(key.inventory.clone());
        self.inner.wake.notify_one();
    }
}

impl Sizes for Reports {
    fn read(&self, reading: &mut Reading) {
        reading.bindings.extend(self.all().into_iter().map(|(key, report)| metrics::Binding {
            key,
            lag: report.lag(),
            synced: report.acknowledged && report.failure.is_none(),
            last_export_seconds: report.last_write.map(|last| last.as_millisecond() as f64 / 1000.0),
        }));
    }
}

#[derive(Debug)]
enum Command {
    Bind(Box<Binding>, Option<Duration>),
    Unbind(BindingKey),
}

/// The way into the delivery task.
#[derive(Debug, Clone)]
pub struct Deliveries {
    commands: mpsc::Sender<Command>,
    reports: Reports,
}

impl Deliveries {
    /// Adds a binding or takes over its new settings; the same revision changes nothing but the interval.
    ///
    /// `idle_for` says how long ago the sink was last written to by an earlier process.
    pub async fn bind(&self, binding: Binding, idle_for: Option<Duration>) {
        // The receiver lives as long as the process; a send that fails means shutdown.
        let _ = self.commands.send(Command::Bind(Box::new(binding), idle_for)).await;
    }

    /// Ends a binding. What it wrote stays.
    pub async fn unbind(&self, key: BindingKey) {
        let _ = self.commands.send(Command::Unbind(key)).await; // as above
    }

    /// Returns the reports.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }
}

/// The delivery task.
#[derive(Debug)]
pub struct Deliverer {
    store: Store,
    metrics: Arc<Metrics>,
    commands: mpsc::Receiver<Command>,
    reports: Reports,
    schedule: Schedule,
    bindings: BTreeMap<BindingKey, Bound>,
}

#[derive(Debug)]
struct Bound {
    binding: Binding,
    reader: Arc<Reader>,
    /// Tells a delivery of these settings from one of earlier settings that is still in flight.
    epoch: u64,
}

/// A heartbeat for one destination.
struct Pulse {
    sink: Arc<dyn Sink>,
    scopes: Vec<Arc<Scope>>,
}

/// A delivery that came to an end.
struct Done {
    key: BindingKey,
    epoch: u64,
    started: Instant,
    result: Result<Option<Delivered>, SinkError>,
}

/// What the sink has now. `receipt` is missing when nothing had to be written.
struct Delivered {
    standing: Standing,
    receipt: Option<Receipt>,
}

impl Deliverer {
    /// Makes the task; [`Deliverer::run`] runs it.
    pub fn new(store: Store, metrics: Arc<Metrics>, limits: Limits, seed: u64) -> (Self, Deliveries) {
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let reports = Reports::default();
        let deliveries = Deliveries { commands: sender, reports: reports.clone() };
        let schedule = Schedule::new(limits, seed);
        (Self { store, metrics, commands, reports, schedule, bindings: BTreeMap::new() }, deliveries)
    }

    /// Delivers until `cancel` is cancelled, then waits for what is in flight, 30 s at most.
    ///
    /// # Errors
    /// A delivery that panics is a bug and ends the task.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let mut running: JoinSet<Done> = JoinSet::new();
        let mut beats: JoinSet<()> = JoinSet::new();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut epoch = 0;
        loop {
            let now = Instant::now();
            self.start(now, &mut running);
            let wakeup = self.schedule.next_wakeup(now).unwrap_or(now + HEARTBEAT);
            tokio::select! {
                // All branches are cancel-safe; what a dropped one would have returned comes again.
                () = cancel.cancelled() => break,
                Some(command) = self.commands.recv() => {
                    epoch += 1;
                    self.command(command, epoch);
                }
                () = self.store.dirtied() => self.dirtied(),
                Some(done) = running.join_next(), if !running.is_empty() => self.finished(done?),
                () = tokio::time::sleep_until(wakeup) => {}
                _ = heartbeat.tick() => self.beat(&mut beats),
                Some(ended) = beats.join_next(), if !beats.is_empty() => ended?,
            }
        }
        beats.shutdown().await;
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(done) = running.join_next().await {
                self.finished(done?);
            }
            Ok(())
        });
        drained.await.unwrap_or(Ok(()))
    }

    fn command(&mut self, command: Command, epoch: u64) {
        let now = Instant::now();
        match command {
            Command::Bind(binding, idle_for) => self.bind(*binding, idle_for, epoch, now),
            Command::Unbind(key) => {
                self.schedule.unbind(&key);
                self.bindings.remove(&key);
                self.reports.remove(&key);
            }
        }
    }

    fn bind(&mut self, binding: Binding, idle_for: Option<Duration>, epoch: u64, now: Instant) {
        let key = binding.key.clone();
        let destination = binding.sink.destination().id.clone();
        if let Some(bound) = self.bindings.get_mut(&key) {
            if bound.binding.revision == binding.revision {
                return;
            }
            // Other rows may be there, or the same rows under other columns: compare as after a restart.
            if bound.binding.sink.destination() != binding.sink.destination() || bound.binding.scope != binding.scope {
                bound.reader = Arc::new(bound.reader.table().reader());
            }
            bound.binding = binding;
            bound.epoch = epoch;
        } else {
            let reader = Arc::new(self.store.table(&key.inventory.namespace).reader());
            self.bindings.insert(key.clone(), Bound { binding, reader, epoch });
            self.reports.update(&key, |_| {});
        }
        let interval = self.bindings.get(&key).map_or(Duration::ZERO, |bound| bound.binding.interval);
        self.schedule.bind(&key, &destination, interval, idle_for, now);
    }

    /// Tells the bindings of the namespaces that changed.
    fn dirtied(&mut self) {
        let now = Instant::now();
        for (namespace, dirt) in self.store.drain() {
            for key in self.in_namespace(&namespace) {
                if dirt.learned {
                    self.schedule.learned(&key, now);
                } else if dirt.changed {
                    self.schedule.changed(&key, now);
                }
                self.observe(&key, now);
            }
        }
    }

    fn in_namespace(&self, namespace: &Namespace) -> Vec<BindingKey> {
        self.bindings.keys().filter(|key| key.inventory.namespace == *namespace).cloned().collect()
    }

    fn start(&mut self, now: Instant, running: &mut JoinSet<Done>) {
        for key in self.schedule.start_due(now) {
            let Some(bound) = self.bindings.get(&key) else { continue };
            let (binding, reader, epoch) = (bound.binding.clone(), bound.reader.clone(), bound.epoch);
            running.spawn(async move {
                let started = Instant::now();
                let result = deliver(&binding, &reader).await;
                Done { key: binding.key, epoch, started, result }
            });
        }
    }

    fn finished(&mut self, done: Done) {
        let now = Instant::now();
        let Some(bound) = self.bindings.get(&done.key) else { return };
        let kind = bound.binding.sink.kind();
        let elapsed = now.saturating_duration_since(done.started);
        let outcome = match &done.result {
            // Delivered under settings that are no longer these: the schedule already has the new ones as an edit.
            _ if bound.epoch != done.epoch => Outcome::Unchanged,
            Ok(Some(Delivered { receipt: Some(receipt), .. })) => {
                let rows = receipt.written + receipt.deleted;
                self.metrics.delivered(kind, elapsed, receipt.bytes);
                self.metrics.rows_written(kind, rows);
                if rows > 0 {
                    let waited =
                        self.schedule.behind_since(&done.key).map(|since| now.saturating_duration_since(since));
                    self.metrics.acknowledged(kind, waited.unwrap_or_default());
                    Outcome::Written
                } else {
                    Outcome::Unchanged
                }
            }
            Ok(_) => Outcome::Unchanged,
            Err(error) => {
                // What the sink holds now is not known, and its table may have been made anew: compare the next time.
                // Until then the journal keeps nothing for this binding, however long the outage.
                bound.reader.restart();
                self.metrics.delivered(kind, elapsed, 0);
                self.metrics.sink_failed(error.class().into());
                Outcome::Failed(error.class())
            }
        };
        self.schedule.finished(&done.key, outcome, now);
        match done.result {
            Ok(delivered) => self.succeeded(&done.key, delivered, outcome),
            Err(error) => self.failed(&done.key, &error),
        }
        self.observe(&done.key, now);
    }

    fn succeeded(&self, key: &BindingKey, delivered: Option<Delivered>, outcome: Outcome) {
        let recovered = self.reports.get(key).is_some_and(|report| report.failure.is_some());
        if recovered {
            tracing::info!(sink = %key.sink, inventory = %key.inventory, "export recovered");
        }
        self.reports.update(key, |report| {
            report.failure = None;
            if let Some(delivered) = delivered {
                report.acknowledged = true;
                report.rows = delivered.standing.rows;
                report.checksum = Some(delivered.standing.digest);
            }
            if outcome == Outcome::Written {
                report.last_write = Some(Timestamp::now());
            }
        });
    }

    fn failed(&self, key: &BindingKey, error: &SinkError) {
        let failure = Failure { class: error.class(), reason: error.reason(), message: chain(error) };
        tracing::error!(
            sink = %key.sink,
            inventory = %key.inventory,
            error_class = %failure.class,
            reason = failure.reason,
            error = failure.message,
            "export failed"
        );
        self.reports.update(key, |report| report.failure = Some(failure));
    }

    /// Brings report and metrics of a binding up to the schedule.
    fn observe(&mut self, key: &BindingKey, now: Instant) {
        let behind_since = self.schedule.behind_since(key);
        let phase = self.schedule.phase(key);
        let due = match phase {
            Some(Phase::Waiting(due) | Phase::Retrying(due, _)) => Some(due.saturating_duration_since(now)),
            _ => None,
        };
        let debounced = matches!(phase, Some(Phase::Waiting(_))) && due.is_some_and(|due| due > GATHER);
        let was = self.reports.get(key).is_some_and(|report| report.debounced);
        if debounced && !was {
            self.metrics.debounced(Controller::Inventory);
            let due_ms = due.map_or(0, |due| u64::try_from(due.as_millis()).unwrap_or(u64::MAX));
            let interval = self.bindings.get(key).map_or(Duration::ZERO, |bound| bound.binding.interval);
            tracing::debug!(sink = %key.sink, inventory = %key.inventory, due_ms, ?interval, "debounced");
        }
        self.reports.update(key, |report| {
            report.behind_since = behind_since;
            report.debounced = debounced;
            // A due time moves with every change; it is news only when it appears, goes, or moves noticeably.
            let next = due.filter(|due| *due > GATHER).map(|due| Timestamp::now() + due);
            let moved = match (report.next_due, next) {
                (Some(before), Some(next)) => before.duration_since(next).unsigned_abs() > Duration::from_secs(1),
                (before, next) => before != next,
            };
            if moved {
                report.next_due = next;
            }
        });
    }

    /// Sends one heartbeat to each destination for the bindings that have nothing to say otherwise.
    fn beat(&self, beats: &mut JoinSet<()>) {
        let mut destinations: BTreeMap<&str, Pulse> = BTreeMap::new();
        for (key, bound) in &self.bindings {
            let healthy = self.reports.get(key).is_some_and(|report| report.acknowledged && report.failure.is_none());
            if healthy {
                let sink = &bound.binding.sink;
                let pulse = destinations
                    .entry(&sink.destination().id)
                    .or_insert_with(|| Pulse { sink: sink.clone(), scopes: Vec::new() });
                pulse.scopes.push(bound.binding.scope.clone());
            }
        }
        for Pulse { sink, scopes } in destinations.into_values() {
            beats.spawn(async move {
                let scopes: Vec<&Scope> = scopes.iter().map(AsRef::as_ref).collect();
                if let Err(error) = sink.heartbeat(&scopes).await {
                    tracing::warn!(sink_type = sink.kind().as_str(), error = chain(&error), "heartbeat failed");
                }
            });
        }
    }
}

/// Brings one sink up to date. Returns nothing when there was nothing to do.
async fn deliver(binding: &Binding, reader: &Reader) -> Result<Option<Delivered>, SinkError> {
    let plan = reader.plan();
    if plan.is_empty() {
        return Ok(None);
    }
    let compared = plan.compare.is_some();
    let standing = Standing {
        rows: plan.counts.rows as u64,
        digest: plan.counts.digest,
        generation: binding.generation,
        seq: plan.seq,
    };
    let delta = delta(binding, plan, standing).await?;
    // After a comparison the standing is recorded even when no row differs, so that readers see that it was checked.
    let receipt = if compared || !delta.is_empty() { Some(binding.sink.deliver(&delta).await?) } else { None };
    reader.acknowledge(standing.seq);
    Ok(Some(Delivered { standing, receipt }))
}

async fn delta(binding: &Binding, plan: Plan, standing: Standing) -> Result<Delta, SinkError> {
    let Plan { compare, mut upserts, mut deletes, .. } = plan;
    let mut base = Base::Filled;
    if let Some(compare) = compare {
        let held = binding.sink.recover(&binding.scope, &compare.selection).await?;
        if compare.selection == Selection::All && held.is_empty() {
            base = Base::Empty;
        }
        let (wrong, leftover) = difference(binding, compare, held).await;
        upserts.extend(wrong);
        upserts.sort_unstable_by_key(Row::key);
        deletes.extend(leftover);
        deletes.sort_unstable();
        deletes.dedup();
    }
    Ok(Delta { scope: binding.scope.clone(), upserts, deletes, standing, base })
}

/// Compares off the async threads: a fingerprint costs about a microsecond, and there may be 100,000.
async fn difference(binding: &Binding, compare: Compare, held: Vec<Held>) -> (Vec<Row>, Vec<RowKey>) {
    let (sink, scope) = (binding.sink.clone(), binding.scope.clone());
    let work = move || {
        let Compare { rows, knowledge, .. } = compare;
        export::compare(
            rows,
            held,
            |key, namespace| knowledge.covers(key, namespace),
            |row| sink.fingerprint(&scope, row),
        )
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(difference) => difference,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests;
