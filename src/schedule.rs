//! When to work for a sink: a pure state machine over jobs, with the time passed in.
//!
//! ```text
//!            changed                    due                       acknowledged
//!   Idle ─────────────► Waiting(due) ─────────► InFlight ─────────────────────────► Idle
//!                           ▲                     │   │                    (dirty meanwhile: Waiting)
//!                           └── backoff, 5 min ───┘   └── at most one, changes meanwhile mark it dirty
//! ```
//!
//! A job is a binding that delivers, or a place that is cleaned up; it belongs to one destination. The rules of D5: the
//! first change after a quiet interval is delivered after a gather of 100 ms; later ones wait until the interval is
//! over; an edit and a newly known part do not wait for it. What an earlier process wrote counts: until its interval is
//! over, or everything was compared once, a job may look and not write ([`Schedule::held_until`]). A failure is tried
//! again with [`backoff`], independent of the interval; a terminal one after five minutes, or when something is edited.
//! A job that cannot go on yet is [postponed](Outcome::Postponed), and the next change looks again. One job never gates
//! another; a destination has at most `per_destination` jobs in flight, all together at most `total`. Jobs that their
//! destination [joins](Lane::Joined) do not count there: they wait in it together, [`JOINED`] of them at most.
//!
//! A destination that does not answer blocks its own jobs and no others (D8): one [probe](Start::Probe) at a time looks
//! after it, and its answer releases them over two seconds. An [audit](Purpose::Audit) comes once in an interval,
//! spread by the job, and at once when it is asked for; it neither waits for a delivery nor hurries one.

pub mod backoff;
mod breaker;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Class;
use crate::model::Lane;
use backoff::Backoff;
use breaker::Breaker;

/// How long changes are gathered before a delivery starts, at the most.
pub const GATHER: Duration = Duration::from_millis(100);

/// When a terminal failure is tried again without any edit.
pub const REPROBE: Duration = Duration::from_mins(5);

/// Jobs in flight to one destination that joins them.
pub const JOINED: usize = 256;

/// The jobs of a destination that answers again start within this.
const RELEASE: Duration = Duration::from_secs(2);

/// Bounds of the schedule.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs in flight over all destinations.
    pub total: usize,
    /// Jobs in flight to one destination.
    pub per_destination: usize,
    /// Time between two audits of a job; `None` is never.
    pub audit_interval: Option<Duration>,
}

/// What a job is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Something changed.
    Deliver,
    /// It is time to look whether the destination still has what it was given.
    Audit,
}

/// Something to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start<K> {
    /// Run a job, and say how it [ended](Schedule::finished).
    Run(K, Purpose),
    /// Probe a destination, and say whether it [answered](Schedule::probed).
    Probe(String),
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The sink was written to; the interval starts now.
    Written,
    /// There was nothing to write.
    Unchanged,
    /// An audit found the destination as it should be; what waited goes on waiting.
    Intact,
    /// The destination was not asked: the job waits for something else, at most until then.
    Postponed(Instant),
    /// The destination was looked at, and what differs is written then, when the interval of an earlier process is over.
    Held(Instant),
    /// It failed, and the destination answered.
    Failed(Class),
    /// It failed because the destination does not answer.
    Silent,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everything is acknowledged.
    Idle,
    /// A change waits until then.
    Waiting(Instant),
    /// It is under way.
    InFlight,
    /// It failed; the next try is at that time.
    Retrying(Instant, Class),
}

#[derive(Debug)]
struct Entry {
    destination: String,
    lane: Lane,
    interval: Duration,
    phase: Phase,
    /// What a change waited for when an audit began.
    resume: Option<Instant>,
    /// Something happened while the job was in flight.
    dirty: Option<Urgency>,
    last_write: Option<Instant>,
    /// The last write is one of an earlier process, and what changed since is not known yet.
    resumed: bool,
    /// The last run failed, and may have written all the same: its answer can have been lost.
    unsure: bool,
    /// Since when the oldest unacknowledged change waits.
    behind_since: Option<Instant>,
    backoff: Backoff,
    next_audit: Option<Instant>,
}

/// Whether a change has to obey the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Rows changed: waits for the interval.
    Interval,
    /// A part became known: does not.
    Learned,
    /// Inventory, sink or secret were edited: does not, and ends a back-off.
    Edited,
}

/// What the jobs of one destination share.
#[derive(Debug)]
struct Destination {
    own: usize,
    joined: usize,
    breaker: Breaker,
}

impl Destination {
    /// Returns the number of jobs in flight in a lane.
    fn running(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane::Own => &mut self.own,
            Lane::Joined => &mut self.joined,
        }
    }
}

/// Where a job runs.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Its destination.
    pub destination: &'a str,
    /// How it runs beside others there.
    pub lane: Lane,
}

/// All jobs and when each is due.
#[derive(Debug)]
pub struct Schedule<K> {
    limits: Limits,
    entries: BTreeMap<K, Entry>,
    /// Every destination that has a job.
    destinations: HashMap<String, Destination>,
    seed: u64,
}

impl<K: Ord + Clone + Hash> Schedule<K> {
    /// Makes an empty schedule. The seed varies the jitter between processes.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self { limits, entries: BTreeMap::new(), destinations: HashMap::new(), seed }
    }

    /// Adds a job, due after one gather, or takes over its new settings.
    ///
    /// `idle_for` says how long ago an earlier process wrote; the first write then waits for the rest of the interval, so
    /// that a process that starts again and again does not write more often.
    pub fn bind(&mut self, key: &K, route: Route<'_>, interval: Duration, idle_for: Option<Duration>, now: Instant) {
        let Route { destination, lane } = route;
        let seed = self.next_seed();
        let next_audit = self.limits.audit_interval.map(|every| now + every.mul_f64(share(key)));
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            destination: destination.to_owned(),
            lane,
            interval,
            phase: Phase::Idle,
            resume: None,
            dirty: None,
            last_write: None,
            resumed: false,
            unsure: false,
            behind_since: None,
            backoff: Backoff::new(seed),
            next_audit,
        });
        entry.interval = interval;
        let moved = entry.destination != destination || entry.lane != lane;
        let leaving = std::mem::replace(&mut entry.destination, destination.to_owned());
        let left = std::mem::replace(&mut entry.lane, lane);
        let in_flight = usize::from(entry.phase == Phase::InFlight);
        entry.backoff.reset();
        let resumed = entry.last_write.is_none() && entry.phase == Phase::Idle;
        match idle_for.and_then(|idle_for| now.checked_sub(idle_for)).filter(|_| resumed) {
            Some(last_write) => {
                entry.last_write = Some(last_write);
                entry.resumed = true;
                entry.wake(Urgency::Learned, now);
            }
            None => entry.wake(Urgency::Edited, now),
        }
        let there = self.destination(destination);
        there.breaker.hurry(now);
        if moved {
            *there.running(lane) += in_flight;
            self.release(Route { destination: &leaving, lane: left }, in_flight);
        }
    }

    /// Forgets a job. One that is in flight counts until then and no longer.
    pub fn unbind(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            let route = Route { destination: &entry.destination, lane: entry.lane };
            self.release(route, usize::from(entry.phase == Phase::InFlight));
        }
    }

    /// Notes that rows changed inside known parts.
    pub fn changed(&mut self, key: &K, now: Instant) {
        self.wake(key, Urgency::Interval, now);
    }

    /// Notes that a part became known.
    pub fn learned(&mut self, key: &K, now: Instant) {
        self.wake(key, Urgency::Learned, now);
    }

    /// Delivers what waits, whatever the interval and the last failure say.
    pub fn hurry(&mut self, key: &K, now: Instant) {
        self.wake(key, Urgency::Edited, now);
        if let Some(entry) = self.entries.get(key)
            && let Some(there) = self.destinations.get_mut(&entry.destination)
        {
            there.breaker.hurry(now);
        }
    }

    /// Moves the next audit of a job to `at`, if it would come later.
    pub fn audit_by(&mut self, key: &K, at: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.next_audit = Some(entry.next_audit.map_or(at, |next| next.min(at)));
        }
    }

    /// Returns until when a job may look at its destination and not write, because an earlier process wrote.
    pub fn held_until(&self, key: &K, now: Instant) -> Option<Instant> {
        let entry = self.entries.get(key).filter(|entry| entry.resumed)?;
        entry.last_write.map(|last| last + entry.interval).filter(|until| *until > now)
    }

    /// Notes that everything was compared once: what becomes known from now on is new, and does not wait.
    pub fn settled(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.resumed = false;
        }
    }

    /// Takes what is due, longest due first, as far as the limits allow.
    pub fn start_due(&mut self, now: Instant) -> Vec<Start<K>> {
        let mut started: Vec<Start<K>> = Vec::new();
        for (destination, there) in &mut self.destinations {
            if there.breaker.due().is_some_and(|due| due <= now) {
                there.breaker.probe();
                started.push(Start::Probe(destination.clone()));
            }
        }
        let mut due: Vec<(Instant, K)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| entry.due().filter(|due| *due <= now).map(|due| (due, key.clone())))
            .collect();
        due.sort();
        let mut running = self.destinations.values().map(|there| there.own).sum::<usize>();
        for (_, key) in due {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Some(there) = self.destinations.get_mut(&entry.destination) else { continue };
            let full = match entry.lane {
                Lane::Own => running >= self.limits.total || there.own >= self.limits.per_destination,
                Lane::Joined => there.joined >= JOINED,
            };
            if full || !there.breaker.closed() {
                continue;
            }
            *there.running(entry.lane) += 1;
            running += usize::from(entry.lane == Lane::Own);
            let every = self.limits.audit_interval;
            started.push(Start::Run(key, entry.start(every, now)));
        }
        started
    }

    /// Ends a job.
    pub fn finished(&mut self, key: &K, outcome: Outcome, now: Instant) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.phase == Phase::InFlight) else { return };
        entry.finish(outcome, now);
        let (destination, lane) = (entry.destination.clone(), entry.lane);
        let there = self.destination(&destination);
        let running = there.running(lane);
        *running = running.saturating_sub(1);
        match outcome {
            Outcome::Postponed(_) => {}
            Outcome::Silent => there.breaker.failed(now),
            _ if there.breaker.answered() => self.spread(&destination, now),
            _ => {}
        }
    }

    /// Ends a probe. A destination that answers releases its jobs.
    pub fn probed(&mut self, destination: &str, answered: bool, now: Instant) {
        let Some(there) = self.destinations.get_mut(destination) else { return };
        if !answered {
            there.breaker.silent(now);
        } else if there.breaker.answered() {
            self.spread(destination, now);
        }
    }

    /// Returns when [`Schedule::start_due`] has something to do next, as far as known now. A job that is held back by a
    /// limit is started when another one finishes, one that is blocked when its destination answers.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let jobs = self.entries.values().filter_map(Entry::due).filter(|due| *due > now);
        let probes = self.destinations.values().filter_map(|there| there.breaker.due());
        jobs.chain(probes).min()
    }

    /// Returns what a job is doing.
    pub fn phase(&self, key: &K) -> Option<Phase> {
        self.entries.get(key).map(|entry| entry.phase)
    }

    /// Tells whether the destination of a job does not answer, so that the job waits for it.
    pub fn blocked(&self, key: &K) -> bool {
        let there = self.entries.get(key).and_then(|entry| self.destinations.get(&entry.destination));
        there.is_some_and(|there| !there.breaker.closed())
    }

    /// Returns since when the oldest unacknowledged change has been waiting.
    pub fn behind_since(&self, key: &K) -> Option<Instant> {
        self.entries.get(key)?.behind_since
    }

    /// Returns the number of jobs in flight.
    pub fn running(&self) -> usize {
        self.destinations.values().map(|there| there.own + there.joined).sum()
    }

    fn wake(&mut self, key: &K, urgency: Urgency, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.wake(urgency, now);
        }
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.seed
    }

    fn destination(&mut self, name: &str) -> &mut Destination {
        let seed = self.next_seed();
        let first = || Destination { own: 0, joined: 0, breaker: Breaker::new(seed) };
        self.destinations.entry(name.to_owned()).or_insert_with(first)
    }

    /// Takes jobs away from a destination, and forgets it with its last one.
    fn release(&mut self, Route { destination, lane }: Route<'_>, jobs: usize) {
        if let Some(there) = self.destinations.get_mut(destination) {
            let running = there.running(lane);
            *running = running.saturating_sub(jobs);
        }
        if !self.entries.values().any(|entry| entry.destination == destination) {
            self.destinations.remove(destination);
        }
    }

    /// Starts what a destination kept waiting, evenly over [`RELEASE`].
    fn spread(&mut self, destination: &str, now: Instant) {
        let waits = |entry: &&mut Entry| {
            entry.destination == destination
                && match entry.phase {
                    Phase::Waiting(due) => due <= now,
                    Phase::Retrying(_, class) => class == Class::Transient,
                    Phase::Idle | Phase::InFlight => false,
                }
        };
        let waiting: Vec<&mut Entry> = self.entries.values_mut().filter(waits).collect();
        let step = RELEASE / u32::try_from(waiting.len().max(1)).unwrap_or(u32::MAX);
        for (place, entry) in (0u32..).zip(waiting) {
            entry.phase = Phase::Waiting(now + step * place);
        }
    }
}

impl Entry {
    /// Returns when there is something to do. A job that fails is tried again, and not audited beside it.
    fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle => self.next_audit,
            Phase::Waiting(due) => Some(self.next_audit.map_or(due, |audit| audit.min(due))),
            Phase::Retrying(due, _) => Some(due),
            Phase::InFlight => None,
        }
    }

    /// Begins to run, for what is due: a delivery before an audit, which then follows it.
    fn start(&mut self, audit_interval: Option<Duration>, now: Instant) -> Purpose {
        self.resume = match self.phase {
            Phase::Waiting(due) => Some(due),
            _ => None,
        };
        let audit = match self.phase {
            Phase::Idle => true,
            Phase::Waiting(due) => due > now,
            Phase::Retrying(..) | Phase::InFlight => false,
        };
        self.phase = Phase::InFlight;
        self.dirty = None;
        if audit {
            self.next_audit = audit_interval.map(|every| now + every);
            Purpose::Audit
        } else {
            Purpose::Deliver
        }
    }

    fn finish(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Written | Outcome::Unchanged => {
                if outcome == Outcome::Written || self.unsure {
                    self.last_write = Some(now);
                    self.resumed = false;
                }
                self.unsure = false;
                self.backoff.reset();
                self.phase = Phase::Idle;
                self.behind_since = None;
            }
            Outcome::Intact => self.phase = self.resume.map_or(Phase::Idle, Phase::Waiting),
            Outcome::Postponed(until) => self.phase = Phase::Waiting(until),
            Outcome::Held(until) => {
                self.backoff.reset();
                self.phase = Phase::Waiting(until);
            }
            Outcome::Failed(class) => self.fail(class, now),
            Outcome::Silent => self.fail(Class::Transient, now),
        }
        self.resume = None;
        if let Some(urgency) = self.dirty.take() {
            self.wake(urgency, now);
        }
    }

    fn fail(&mut self, class: Class, now: Instant) {
        let delay = match class {
            Class::Transient => self.backoff.next_delay(),
            Class::Terminal | Class::Forbidden => REPROBE,
        };
        self.unsure = class == Class::Transient;
        self.behind_since.get_or_insert(now);
        self.phase = Phase::Retrying(now + delay, class);
    }

    fn wake(&mut self, urgency: Urgency, now: Instant) {
        self.resumed &= urgency != Urgency::Edited;
        self.behind_since.get_or_insert(now);
        let gathered = now + GATHER;
        let due = match (urgency, self.last_write) {
            (Urgency::Interval, Some(last)) => gathered.max(last + self.interval),
            _ => gathered,
        };
        match self.phase {
            Phase::InFlight => self.dirty = self.dirty.max(Some(urgency)),
            Phase::Idle => self.phase = Phase::Waiting(due),
            Phase::Waiting(before) => self.phase = Phase::Waiting(before.min(due)),
            // An edit is tried at once; a change of rows does not make a broken sink whole.
            Phase::Retrying(..) if urgency == Urgency::Edited => self.phase = Phase::Waiting(due),
            Phase::Retrying(..) => {}
        }
    }
}

/// Returns the job's place in the audit interval, in (0, 1]: the same in every process.
fn share(key: &impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // 32 bits are exact in a float.
    (f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(u32::MAX)) + 1.0) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests;
