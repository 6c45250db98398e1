//! From a due job to an acknowledged one: plan → recover → compare → deliver → acknowledge.
//!
//! ```text
//!   bind, leave ──► Deliverer ──► schedule ──due──► work ──► sink
//!   store, dirty ──►    │                             │
//!                       └──────────── report ◄────────┘
//! ```
//!
//! One task owns the schedule, every binding and every place that is being left; jobs run beside it, bounded by the
//! schedule's limits. A slow or broken sink holds one place of its destination and nothing else. Killed at any line, the
//! next process finds the sink as it was or as it is meant to be, because a delivery is all or nothing and the first plan
//! of a process compares.
//!
//! A job of settings that are no longer these is dropped where it stands, and jobs of one inventory at one destination
//! never overlap: what is cleaned up is not written again by a delivery that came late.

mod command;
mod document;
mod leaving;
mod limits;
mod report;
mod upkeep;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use command::{Binding, Deliveries, Leaving, Place, Stray};
pub use limits::SHARD_WARNING_ROWS;
pub use report::{Departure, Failure, Gap, Report, Reports};

use crate::error::{Class, Classify, chain};
use crate::export::Scope;
use crate::metrics::{Cached, Controller, Metrics};
use crate::model::{BindingKey, InventoryKey, Namespace};
use crate::schedule::{GATHER, Limits, Outcome, Phase, Purpose, REPROBE, Route, Schedule, Start};
use crate::sinks::{Backend, Fault, SinkError};
use crate::store::{Reader, Store, View};
use command::Command;
use document::{DocumentJob, Patience};
use work::{Delivered, Done, Refusals, RowJob};

/// How often an unchanged binding tells the readers of its sink that it is watched.
const HEARTBEAT: Duration = Duration::from_mins(1);
/// How long jobs in flight may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);
/// What the process is set up with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bounds of the schedule.
    pub limits: Limits,
    /// How long a document waits for parts that are not known yet.
    pub unknown_grace: Duration,
    /// Limit of one part of a document in bytes, where the user set no lower one.
    pub max_export_bytes: NonZeroU64,
}

/// What the schedule keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Job {
    Deliver(BindingKey),
    Leave(Place),
}

/// The delivery task.
#[derive(Debug)]
pub struct Deliverer {
    store: Store,
    metrics: Arc<Metrics>,
    commands: mpsc::Receiver<Command>,
    reports: Reports,
    settings: Settings,
    schedule: Schedule<Job>,
    bindings: BTreeMap<BindingKey, Bound>,
    leavings: BTreeMap<Place, Departing>,
    /// One job at a time in each place.
    turns: HashMap<Place, Weak<Turn>>,
}

type Turn = tokio::sync::Mutex<()>;

#[derive(Debug)]
struct Bound {
    binding: Binding,
    reader: Arc<Reader>,
    /// Tells a delivery of these settings from one of earlier settings that is still in flight.
    epoch: u64,
    /// Drops a delivery of settings that no longer hold.
    valid: CancellationToken,
    refused: Arc<Refusals>,
    /// Since when its document waits for what is not known.
    waiting: Option<Instant>,
}

#[derive(Debug)]
struct Departing {
    leaving: Leaving,
    epoch: u64,
    valid: CancellationToken,
}

/// A job that came to an end.
struct Ended {
    job: Job,
    epoch: u64,
    purpose: Purpose,
    started: Instant,
    /// Nothing when it was dropped.
    result: Option<Result<Done, SinkError>>,
    /// What was known when it began.
    known: Known,
    /// Scopes on record at the destination of an audit.
    scopes: Vec<Scope>,
}

/// How much of an inventory is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Everything,
    Parts,
}

/// What runs beside the task.
#[derive(Default)]
struct Running {
    jobs: JoinSet<Ended>,
    /// Destination, and whether it answered.
    probes: JoinSet<(String, bool)>,
    beats: JoinSet<()>,
}

impl Deliverer {
    /// Makes the task; [`Deliverer::run`] runs it.
    pub fn new(store: Store, metrics: Arc<Metrics>, settings: Settings, seed: u64) -> (Self, Deliveries) {
        let (deliveries, commands) = Deliveries::new();
        let reports = deliveries.reports().clone();
        let this = Self {
            store,
            metrics,
            commands,
            reports,
            settings,
            schedule: Schedule::new(settings.limits, seed),
            bindings: BTreeMap::new(),
            leavings: BTreeMap::new(),
            turns: HashMap::new(),
        };
        (this, deliveries)
    }

    /// Delivers until `cancel` is cancelled, then waits for what is in flight, 30 s at most.
    ///
    /// # Errors
    /// A job that panics is a bug and ends the task.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), JoinError> {
        let mut running = Running::default();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reminder = tokio::time::interval(limits::REMIND);
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
                Some(ended) = running.jobs.join_next(), if !running.jobs.is_empty() => self.ended(ended?),
                Some(probe) = running.probes.join_next(), if !running.probes.is_empty() => self.probed(&probe?),
                () = tokio::time::sleep_until(wakeup) => {}
                _ = heartbeat.tick() => self.beat(&mut running.beats),
                _ = reminder.tick() => self.remind(),
                Some(ended) = running.beats.join_next(), if !running.beats.is_empty() => ended?,
            }
        }
        running.beats.shutdown().await;
        running.probes.shutdown().await;
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = running.jobs.join_next().await {
                self.ended(ended?);
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
                let bound = self.bindings.remove(&key);
                self.reports.remove(&key);
                self.schedule.unbind(&Job::Deliver(key));
                if let Some(Bound { binding, valid, .. }) = bound {
                    valid.cancel();
                    self.release(&binding, now);
                }
            }
            Command::Leave(leaving) => self.leave(leaving, epoch, now),
            Command::GiveUp(place) => self.give_up(&place),
            Command::Audit(inventory) => {
                for key in self.of_inventory(&inventory) {
                    self.schedule.audit_by(&Job::Deliver(key), now);
                }
            }
            Command::Hurry(inventory) => {
                for key in self.of_inventory(&inventory) {
                    self.schedule.hurry(&Job::Deliver(key), now);
                }
            }
        }
    }

    fn bind(&mut self, binding: Binding, idle_for: Option<Duration>, epoch: u64, now: Instant) {
        let key = binding.key.clone();
        self.stay(&Place::of(&*binding.sink, &binding.scope));
        let sink = binding.sink.sink();
        let interval = binding.interval;
        if let Some(bound) = self.bindings.get_mut(&key) {
            if bound.binding.revision == binding.revision {
                return;
            }
            // Other rows may be there, or the same rows under other columns: compare as after a restart.
            let moved =
                bound.binding.sink.destination() != binding.sink.destination() || bound.binding.scope != binding.scope;
            // A document and a tree may look otherwise under other settings.
            let anew = match &binding.sink {
                Backend::Rows(sink) => sink.remembers(),
                Backend::Documents(_) => true,
            };
            if moved || anew {
                bound.reader = Arc::new(self.store.reader(&binding.view));
                bound.refused = Arc::default();
            } else if *bound.reader.view() != binding.view {
                bound.reader = Arc::new(bound.reader.turn(&self.store, &binding.view));
            }
            std::mem::take(&mut bound.valid).cancel();
            let before = std::mem::replace(&mut bound.binding, binding);
            bound.epoch = epoch;
            self.release(&before, now);
        } else {
            let reader = Arc::new(self.store.reader(&binding.view));
            let (valid, refused) = (CancellationToken::new(), Arc::default());
            self.bindings.insert(key.clone(), Bound { binding, reader, epoch, valid, refused, waiting: None });
        }
        self.reports.update(&key, |report| report.interval = interval);
        let route = Route { destination: &sink.destination().id, lane: sink.lane() };
        self.schedule.bind(&Job::Deliver(key), route, interval, idle_for, now);
    }

    /// Tells the bindings that read the tables that changed.
    fn dirtied(&mut self) {
        let now = Instant::now();
        for (namespace, dirt) in self.store.drain() {
            for key in self.readers_of(&namespace) {
                let job = Job::Deliver(key);
                if dirt.learned {
                    self.schedule.learned(&job, now);
                } else if dirt.changed {
                    self.schedule.changed(&job, now);
                }
                self.observe(&job, now);
            }
        }
    }

    fn readers_of(&self, namespace: &Namespace) -> Vec<BindingKey> {
        let reading = self.bindings.iter().filter(|(_, bound)| bound.binding.view.reads(namespace));
        reading.map(|(key, _)| key.clone()).collect()
    }

    fn of_inventory(&self, inventory: &InventoryKey) -> Vec<BindingKey> {
        self.bindings.keys().filter(|key| key.inventory == *inventory).cloned().collect()
    }

    fn start(&mut self, now: Instant, running: &mut Running) {
        for start in self.schedule.start_due(now) {
            match start {
                Start::Run(Job::Deliver(key), purpose) => self.start_delivery(&key, purpose, &mut running.jobs),
                Start::Run(Job::Leave(place), _) => self.start_leaving(place, &mut running.jobs),
                Start::Probe(destination) => self.start_probe(destination, &mut running.probes),
            }
        }
    }

    fn start_delivery(&mut self, key: &BindingKey, purpose: Purpose, jobs: &mut JoinSet<Ended>) {
        let Some(bound) = self.bindings.get(key) else { return };
        let place = Place::of(&*bound.binding.sink, &bound.binding.scope);
        let (binding, reader, refused) = (bound.binding.clone(), bound.reader.clone(), bound.refused.clone());
        let (epoch, valid) = (bound.epoch, bound.valid.clone());
        let patience = Patience { grace: self.settings.unknown_grace, since: bound.waiting };
        let max_export_bytes = self.settings.max_export_bytes;
        let job = Job::Deliver(key.clone());
        let behind_since = self.schedule.behind_since(&job);
        let held_until = self.schedule.held_until(&job, Instant::now());
        // Before the plan is made, which then knows at least as much.
        let known = if bound.reader.is_whole() { Known::Everything } else { Known::Parts };
        let turn = self.turn(place);
        jobs.spawn(async move {
            let started = Instant::now();
            let work = async {
                let _turn = turn.lock().await;
                let (binding, reader, refused) = (&binding, &*reader, &*refused);
                let done = match binding.sink.clone() {
                    Backend::Rows(sink) => RowJob { binding, sink, reader, refused, held_until }.run(purpose).await,
                    Backend::Documents(sink) => {
                        let job =
                            DocumentJob { binding, sink, reader, patience, behind_since, max_export_bytes, held_until };
                        job.run(purpose).await
                    }
                };
                // A destination that was just audited can be asked; if not, the next audit asks again.
                let audited = purpose == Purpose::Audit && done.is_ok();
                let scopes = if audited { binding.sink.scopes().await.unwrap_or_default() } else { Vec::new() };
                (done, scopes)
            };
            let (result, scopes) =
                valid.run_until_cancelled(work).await.map_or((None, Vec::new()), |(done, scopes)| (Some(done), scopes));
            Ended { job, epoch, purpose, started, result, known, scopes }
        });
    }

    /// Returns the mutex of a place; those of places without a job are forgotten on the way.
    fn turn(&mut self, place: Place) -> Arc<Turn> {
        if let Some(turn) = self.turns.get(&place).and_then(Weak::upgrade) {
            return turn;
        }
        self.turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::new(()));
        self.turns.insert(place, Arc::downgrade(&turn));
        turn
    }

    fn ended(&mut self, ended: Ended) {
        match ended.job.clone() {
            Job::Deliver(key) => self.delivered(&key, ended),
            Job::Leave(place) => self.left(&place, ended),
        }
    }

    fn delivered(&mut self, key: &BindingKey, ended: Ended) {
        let now = Instant::now();
        let Some(bound) = self.bindings.get_mut(key) else { return };
        let (kind, destination) = (bound.binding.sink.kind(), bound.binding.sink.destination().id.clone());
        let elapsed = now.saturating_duration_since(ended.started);
        let job = ended.job;
        let before = self.schedule.blocked(&job);
        match ended.result {
            // Dropped, or delivered under settings that are no longer these: the schedule has the new ones as an edit.
            _ if bound.epoch != ended.epoch => self.schedule.finished(&job, Outcome::Unchanged, now),
            None => self.schedule.finished(&job, Outcome::Unchanged, now),
            Some(Ok(Done::Awaiting(awaited))) => {
                bound.waiting.get_or_insert(now);
                self.schedule.finished(&job, Outcome::Postponed(awaited.until.unwrap_or(now + REPROBE)), now);
                self.reports.update(key, |report| report.gap = Some(Gap::Awaited(awaited)));
            }
            Some(Ok(Done::Held(until))) => {
                self.schedule.finished(&job, Outcome::Held(until), now);
                self.succeeded(key, None);
                self.reports.update(key, |report| {
                    // What the sink has is what an earlier process left there.
                    report.acknowledged = true;
                    report.gap = None;
                });
            }
            Some(Ok(done)) => {
                let outcome = match &done {
                    Done::Intact => Outcome::Intact,
                    Done::Delivered(delivered) if delivered.rows() > 0 => Outcome::Written,
                    Done::Nothing | Done::Awaiting(_) | Done::Held(_) | Done::Delivered(_) => Outcome::Unchanged,
                };
                let cached = if outcome == Outcome::Written { Cached::Miss } else { Cached::Hit };
                self.metrics.digest_checked(controller(&bound.binding.view), cached);
                let waited = self.schedule.behind_since(&job).map(|since| now.saturating_duration_since(since));
                if let Done::Delivered(delivered) = done {
                    bound.waiting = None;
                    bound.refused = Arc::new(delivered.refused.clone());
                    if !delivered.refused.is_empty() {
                        self.schedule.audit_by(&job, now + REPROBE);
                    }
                    self.account(key, &delivered, elapsed, waited.unwrap_or_default());
                    if ended.known == Known::Everything {
                        self.schedule.settled(&job);
                    }
                    self.schedule.finished(&job, outcome, now);
                    self.succeeded(key, Some(&delivered));
                } else {
                    self.schedule.finished(&job, outcome, now);
                    self.succeeded(key, None);
                }
                self.strays(key, ended.scopes);
            }
            Some(Err(error)) => {
                // What the sink holds now is not known, and its table may have been made anew: compare the next time.
                // Until then the journal keeps nothing for this binding, however long the outage.
                bound.reader.restart();
                self.metrics.delivered(kind, elapsed, 0);
                self.metrics.sink_failed(error.class().into());
                self.schedule.finished(&job, outcome_of(&error), now);
                if ended.purpose == Purpose::Audit {
                    self.schedule.audit_by(&job, now + REPROBE);
                }
                self.failed(key, &error);
            }
        }
        if self.schedule.blocked(&job) != before {
            if !before {
                tracing::warn!(destination, "sink circuit breaker open");
            }
            self.observe_destination(&destination, now);
        }
        self.observe(&job, now);
    }

    /// Counts a delivery.
    fn account(&self, key: &BindingKey, delivered: &Delivered, elapsed: Duration, waited: Duration) {
        let Some(bound) = self.bindings.get(key) else { return };
        let kind = bound.binding.sink.kind();
        let Some(receipt) = &delivered.receipt else { return };
        self.metrics.delivered(kind, elapsed, receipt.bytes);
        self.metrics.rows_written(kind, delivered.rows());
        if delivered.rows() > 0 {
            self.metrics.acknowledged(kind, waited);
            limits::warn(&self.metrics, key, bound.reader.counts());
        }
        if delivered.repaired > 0 {
            self.metrics.rows_repaired(kind, delivered.repaired);
            tracing::warn!(sink = %key.sink, inventory = %key.inventory, rows = delivered.repaired, "audit repaired rows");
        }
    }

    fn succeeded(&self, key: &BindingKey, delivered: Option<&Delivered>) {
        let recovered = self.reports.get(key).is_some_and(|report| report.failure.is_some());
        if recovered {
            tracing::info!(sink = %key.sink, inventory = %key.inventory, "export recovered");
        }
        self.reports.update(key, |report| {
            report.failure = None;
            let Some(delivered) = delivered else { return };
            report.acknowledged = true;
            report.rows = delivered.standing.rows;
            let checksum = delivered.receipt.as_ref().and_then(|receipt| receipt.checksum.clone());
            report.checksum = Some(checksum.unwrap_or_else(|| delivered.standing.digest.to_string()));
            report.gap = Some(&delivered.missing).filter(|missing| !missing.is_empty()).cloned().map(Gap::Left);
            if delivered.rows() > 0 {
                report.last_write = Some(Timestamp::now());
            }
        });
        if let Some(delivered) = delivered {
            let refused = limits::refusal(&delivered.refused);
            let before = self.reports.get(key).and_then(|report| report.refused);
            if refused != before {
                limits::tell(&self.metrics, key, &delivered.refused);
                self.reports.update(key, |report| report.refused = refused);
            }
        }
    }

    fn failed(&self, key: &BindingKey, error: &SinkError) {
        let failure = Failure { class: error.class(), reason: error.reason(), message: chain(error) };
        failure.log(key);
        self.reports.update(key, |report| report.failure = Some(failure));
    }

    fn observe_destination(&mut self, destination: &str, now: Instant) {
        let there = self.bindings.iter().filter(|(_, bound)| bound.binding.sink.destination().id == destination);
        let jobs: Vec<Job> = there.map(|(key, _)| Job::Deliver(key.clone())).collect();
        for job in jobs {
            self.observe(&job, now);
        }
    }

    /// Brings report and metrics of a binding up to the schedule.
    fn observe(&mut self, job: &Job, now: Instant) {
        let Job::Deliver(key) = job else { return };
        let behind_since = self.schedule.behind_since(job);
        let phase = self.schedule.phase(job);
        let due = match phase {
            Some(Phase::Waiting(due) | Phase::Retrying(due, _)) => Some(due.saturating_duration_since(now)),
            _ => None,
        };
        let report = self.reports.get(key).unwrap_or_default();
        let debounced = matches!(phase, Some(Phase::Waiting(_)))
            && due.is_some_and(|due| due > GATHER)
            && !matches!(report.gap, Some(Gap::Awaited(_)));
        let was = report.debounced;
        if debounced && !was {
            if let Some(bound) = self.bindings.get(key) {
                self.metrics.debounced(controller(&bound.binding.view));
            }
            let due_ms = due.map_or(0, |due| u64::try_from(due.as_millis()).unwrap_or(u64::MAX));
            let interval = self.bindings.get(key).map_or(Duration::ZERO, |bound| bound.binding.interval);
            tracing::debug!(sink = %key.sink, inventory = %key.inventory, due_ms, ?interval, "debounced");
        }
        let blocked = self.schedule.blocked(job);
        self.reports.update(key, |report| {
            report.behind_since = behind_since;
            report.debounced = debounced;
            report.blocked = blocked;
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
}

impl Delivered {
    /// Returns how many rows were written and deleted.
    fn rows(&self) -> u64 {
        self.receipt.as_ref().map_or(0, |receipt| receipt.written + receipt.deleted)
    }
}

/// Returns whose inventories these are, for the metrics.
fn controller(view: &View) -> Controller {
    match view {
        View::Namespace(_) => Controller::Inventory,
        View::RollUp(_) => Controller::ClusterInventory,
    }
}

/// Tells whether a destination does not answer, rather than refuse something.
fn is_silence(error: &SinkError) -> bool {
    error.fault() == Fault::Destination && error.class() == Class::Transient
}

fn outcome_of(error: &SinkError) -> Outcome {
    if is_silence(error) { Outcome::Silent } else { Outcome::Failed(error.class()) }
}

#[cfg(test)]
mod tests;
