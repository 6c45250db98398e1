//! From item text to rows: bounded lanes, ordered by UID.
//!
//! The events of one object always go to the same lane and are handled in order; of several that wait, only the newest
//! is handled. The queue is bounded by count and by bytes. When it is full the stream that feeds it is not read further,
//! so that TCP holds the server back; nothing is dropped and nothing runs on the stream's own task.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::process::{Processor, Scratch};
use crate::metrics::{Metrics, Queue};
use crate::model::{Namespace, Uid};
use crate::watch::discover::Resource;

/// Bytes of raw text that may wait or be in hand.
const MAX_BYTES: usize = 16 << 20;
/// The unit in which bytes are counted, since a semaphore counts to 2³² at most.
const UNIT: usize = 1 << 10;
/// Jobs that a lane takes at once: about 300 µs of work.
const BATCH: usize = 16;
/// The back-pressure line is logged at most once in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A list brought it.
    Listed,
    /// It was added or modified.
    Put,
    /// It was deleted.
    Delete,
}

/// One event of one object.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) resource: Arc<Resource>,
    pub(super) change: Change,
    pub(super) uid: Uid,
    /// Namespace of the object, empty for a cluster-scoped one.
    pub(super) namespace: Namespace,
    /// The run of the list, or of the one before the watch.
    pub(super) mark: u32,
    /// The object, JSON.
    pub(super) text: Bytes,
}

/// Settings of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Lanes, each with a task of its own.
    pub workers: NonZeroUsize,
    /// Events that may wait or be in hand.
    pub queue: NonZeroUsize,
    /// A wait of more than this for a place counts as back-pressure.
    pub patience: Duration,
}

/// The queue. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dispatch {
    inner: Arc<Inner>,
}

struct Inner {
    lanes: Vec<Lane>,
    hasher: RandomState,
    slots: Arc<Semaphore>,
    units: Arc<Semaphore>,
    bounds: Bounds,
    depth: AtomicUsize,
    last_log: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Lane {
    queue: Mutex<Waiting>,
    ready: Notify,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Number of jobs ever taken: the position of the front.
    taken: u64,
    /// Where the waiting event of an object stands.
    newest: HashMap<(Arc<Resource>, Uid), u64>,
}

enum Job {
    /// The places are given back when the job is dropped.
    Event(Event, Places),
    Barrier(Arc<Barrier>),
}

struct Places {
    _slot: OwnedSemaphorePermit,
    _units: OwnedSemaphorePermit,
}

struct Barrier {
    lanes: AtomicUsize,
    passed: Notify,
}

impl Dispatch {
    /// Makes the queue and starts its lanes, which end when `cancel` is cancelled.
    pub(super) fn start(
        bounds: Bounds,
        processor: &Arc<Processor>,
        metrics: &Arc<Metrics>,
        tasks: &mut JoinSet<()>,
        cancel: &CancellationToken,
    ) -> Self {
        let inner = Arc::new(Inner {
            lanes: (0..bounds.workers.get()).map(|_| Lane::default()).collect(),
            hasher: RandomState::new(),
            slots: Arc::new(Semaphore::new(bounds.queue.get())),
            units: Arc::new(Semaphore::new(MAX_BYTES / UNIT)),
            bounds,
            depth: AtomicUsize::new(0),
            last_log: Mutex::new(None),
            metrics: metrics.clone(),
        });
        for lane in 0..inner.lanes.len() {
            let (inner, processor, cancel) = (inner.clone(), processor.clone(), cancel.clone());
            tasks.spawn(async move {
                cancel.run_until_cancelled(inner.work(lane, &processor)).await;
            });
        }
        Self { inner }
    }

    /// Puts an event into its lane; waits while the queue is full.
    pub(super) async fn push(&self, event: Event) {
        let places = self.inner.places(event.text.len()).await;
        let lane = &self.inner.lanes[self.inner.lane(&event.uid)];
        let replaced = lane.queue.lock().put(event, places);
        if !replaced {
            self.inner.depth.fetch_add(1, Ordering::Relaxed);
        }
        lane.ready.notify_one();
    }

    /// Returns once everything that was pushed before has been handled.
    pub(super) async fn barrier(&self) {
        let lanes = &self.inner.lanes;
        let barrier = Arc::new(Barrier { lanes: AtomicUsize::new(lanes.len()), passed: Notify::new() });
        for lane in lanes {
            lane.queue.lock().jobs.push_back(Job::Barrier(barrier.clone()));
            lane.ready.notify_one();
        }
        barrier.passed.notified().await;
    }

    /// Returns what waits and what may wait.
    pub(super) fn size(&self) -> Queue {
        let inner = &self.inner;
        let free = inner.units.available_permits() * UNIT;
        Queue {
            name: "dispatch",
            depth: inner.depth.load(Ordering::Relaxed) as u64,
            limit: inner.bounds.queue.get() as u64,
            bytes: Some(((MAX_BYTES - free) as u64, MAX_BYTES as u64)),
        }
    }
}

impl Inner {
    fn lane(&self, uid: &Uid) -> usize {
        let lanes = self.lanes.len() as u64;
        usize::try_from(self.hasher.hash_one(uid) % lanes).unwrap_or_default()
    }

    /// Waits for room for one event.
    async fn places(&self, bytes: usize) -> Places {
        let units = u32::try_from(bytes.div_ceil(UNIT).clamp(1, MAX_BYTES / UNIT)).unwrap_or(1);
        let room = async {
            // The semaphores are never closed, so that both always come.
            let slot = self.slots.clone().acquire_owned().await.ok()?;
            let units = self.units.clone().acquire_many_owned(units).await.ok()?;
            Some(Places { _slot: slot, _units: units })
        };
        tokio::pin!(room);
        let started = Instant::now();
        loop {
            match tokio::time::timeout(self.bounds.patience, &mut room).await {
                Ok(Some(places)) => return places,
                Ok(None) => std::future::pending::<()>().await,
                Err(_) => {
                    self.pressed(started);
                    if let Some(places) = (&mut room).await {
                        return places;
                    }
                }
            }
        }
    }

    fn pressed(&self, started: Instant) {
        self.metrics.dispatch_waited();
        let mut last = self.last_log.lock();
        if last.is_none_or(|last| started.saturating_duration_since(last) >= LOG_EVERY) {
            *last = Some(started);
            let waited = u64::try_from(self.bounds.patience.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                depth = self.depth.load(Ordering::Relaxed),
                waited_ms = waited,
                "dispatch sync fallback: the queue is full, the watch waits"
            );
        }
    }

    async fn work(&self, lane: usize, processor: &Processor) {
        let lane = &self.lanes[lane];
        let mut batch = Vec::with_capacity(BATCH);
        let mut scratch = Scratch::default();
        loop {
            lane.queue.lock().take(&mut batch);
            if batch.is_empty() {
                lane.ready.notified().await;
                continue;
            }
            for job in batch.drain(..) {
                match job {
                    Job::Event(event, _places) => {
                        let started = Instant::now();
                        processor.handle(&event, &mut scratch);
                        self.depth.fetch_sub(1, Ordering::Relaxed);
                        self.metrics.dispatch_seconds.observe(started.elapsed().as_secs_f64());
                    }
                    Job::Barrier(barrier) => {
                        if barrier.lanes.fetch_sub(1, Ordering::AcqRel) == 1 {
                            barrier.passed.notify_one();
                        }
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Waiting {
    /// Appends an event, or puts it in the place of an older one of the same object. Tells whether it replaced one.
    fn put(&mut self, event: Event, places: Places) -> bool {
        let key = (event.resource.clone(), event.uid.clone());
        if let Some(&position) = self.newest.get(&key)
            && let Some(slot) = usize::try_from(position - self.taken).ok().and_then(|at| self.jobs.get_mut(at))
        {
            *slot = Job::Event(event, places);
            return true;
        }
        self.newest.insert(key, self.taken + self.jobs.len() as u64);
        self.jobs.push_back(Job::Event(event, places));
        false
    }

    fn take(&mut self, batch: &mut Vec<Job>) {
        while batch.len() < BATCH
            && let Some(job) = self.jobs.pop_front()
        {
            self.taken += 1;
            if let Job::Event(event, _) = &job {
                self.newest.remove(&(event.resource.clone(), event.uid.clone()));
            }
            batch.push(job);
        }
    }
}
