//! When to deliver: a pure state machine over bindings, with the time passed in.
//!
//! ```text
//!            changed                    due                       acknowledged
//!   Idle ─────────────► Waiting(due) ─────────► InFlight ─────────────────────────► Idle
//!                           ▲                     │   │                    (dirty meanwhile: Waiting)
//!                           └── backoff, 5 min ───┘   └── at most one, changes meanwhile mark it dirty
//! ```
//!
//! The rules of D5: the first change after a quiet interval is delivered after a gather of 100 ms; later ones wait until
//! the interval is over; an edit and a newly known part do not wait for it. A failure is tried again with
//! [`backoff`], independent of the interval; a terminal one after five minutes, or when something is edited. One
//! binding never gates another; a destination has at most `per_destination` deliveries in flight, all together at most
//! `total`.

pub mod backoff;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Class;
use crate::model::BindingKey;
use backoff::Backoff;

/// How long changes are gathered before a delivery starts, at the most.
pub const GATHER: Duration = Duration::from_millis(100);

/// When a terminal failure is tried again without any edit.
pub const REPROBE: Duration = Duration::from_mins(5);

/// How many deliveries may be in flight.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Over all destinations.
    pub total: usize,
    /// To one destination.
    pub per_destination: usize,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The sink was written to; the interval starts now.
    Written,
    /// There was nothing to write.
    Unchanged,
    /// It failed.
    Failed(Class),
}

/// What a binding is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everything is acknowledged.
    Idle,
    /// A change waits until then.
    Waiting(Instant),
    /// A delivery is under way.
    InFlight,
    /// The last delivery failed; the next try is at that time.
    Retrying(Instant, Class),
}

#[derive(Debug)]
struct Entry {
    destination: String,
    interval: Duration,
    phase: Phase,
    /// Something happened while a delivery was in flight.
    dirty: Option<Urgency>,
    last_write: Option<Instant>,
    /// Since when the oldest unacknowledged change waits.
    behind_since: Option<Instant>,
    backoff: Backoff,
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

/// All bindings and when each is due.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    entries: BTreeMap<BindingKey, Entry>,
    in_flight: HashMap<String, usize>,
    seed: u64,
}

impl Schedule {
    /// Makes an empty schedule. The seed varies the jitter between processes.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self { limits, entries: BTreeMap::new(), in_flight: HashMap::new(), seed }
    }

    /// Adds a binding, due after one gather, or takes over its new settings.
    ///
    /// `idle_for` says how long ago an earlier process wrote; its first delivery then waits for the rest of the interval,
    /// so that a process that starts again and again does not write more often.
    pub fn bind(
        &mut self,
        key: &BindingKey,
        destination: &str,
        interval: Duration,
        idle_for: Option<Duration>,
        now: Instant,
    ) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            destination: destination.to_owned(),
            interval,
            phase: Phase::Idle,
            dirty: None,
            last_write: None,
            behind_since: None,
            backoff: Backoff::new(self.seed),
        });
        entry.interval = interval;
        if entry.destination != destination && entry.phase == Phase::InFlight {
            release(&mut self.in_flight, &entry.destination);
            *self.in_flight.entry(destination.to_owned()).or_default() += 1;
        }
        destination.clone_into(&mut entry.destination);
        entry.backoff.reset();
        let resumed = entry.last_write.is_none() && entry.phase == Phase::Idle;
        match idle_for.and_then(|idle_for| now.checked_sub(idle_for)).filter(|_| resumed) {
            Some(last_write) => {
                entry.last_write = Some(last_write);
                entry.wake(Urgency::Interval, now);
            }
            None => entry.wake(Urgency::Edited, now),
        }
    }

    /// Forgets a binding. A delivery of it that is in flight still has to be [finished](Schedule::finished).
    pub fn unbind(&mut self, key: &BindingKey) {
        if let Some(entry) = self.entries.remove(key)
            && entry.phase == Phase::InFlight
        {
            release(&mut self.in_flight, &entry.destination);
        }
    }

    /// Notes that rows changed inside known parts.
    pub fn changed(&mut self, key: &BindingKey, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.wake(Urgency::Interval, now);
        }
    }

    /// Notes that a part became known.
    pub fn learned(&mut self, key: &BindingKey, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.wake(Urgency::Learned, now);
        }
    }

    /// Takes the bindings whose time has come, longest due first, as far as the limits allow.
    pub fn start_due(&mut self, now: Instant) -> Vec<BindingKey> {
        let mut due: Vec<(Instant, BindingKey)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| entry.due().filter(|due| *due <= now).map(|due| (due, key.clone())))
            .collect();
        due.sort();
        let mut running: usize = self.in_flight.values().sum();
        let mut started = Vec::new();
        for (_, key) in due {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let there = self.in_flight.entry(entry.destination.clone()).or_default();
            if running >= self.limits.total {
                break;
            }
            if *there >= self.limits.per_destination {
                continue;
            }
            *there += 1;
            running += 1;
            entry.phase = Phase::InFlight;
            entry.dirty = None;
            started.push(key);
        }
        self.in_flight.retain(|_, count| *count > 0);
        started
    }

    /// Ends a delivery.
    pub fn finished(&mut self, key: &BindingKey, outcome: Outcome, now: Instant) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.phase == Phase::InFlight) else { return };
        release(&mut self.in_flight, &entry.destination);
        match outcome {
            Outcome::Written | Outcome::Unchanged => {
                if outcome == Outcome::Written {
                    entry.last_write = Some(now);
                }
                entry.backoff.reset();
                entry.phase = Phase::Idle;
                entry.behind_since = None;
                if let Some(urgency) = entry.dirty.take() {
                    entry.wake(urgency, now);
                }
            }
            Outcome::Failed(class) => {
                let delay = match class {
                    Class::Transient => entry.backoff.next_delay(),
                    Class::Terminal | Class::Forbidden => REPROBE,
                };
                entry.behind_since.get_or_insert(now);
                entry.phase = Phase::Retrying(now + delay, class);
                if entry.dirty.take() == Some(Urgency::Edited) {
                    entry.wake(Urgency::Edited, now);
                }
            }
        }
    }

    /// Returns when [`Schedule::start_due`] has something to do next, as far as known now. A binding that is held back
    /// by a limit is started when a delivery finishes.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        self.entries.values().filter_map(Entry::due).filter(|due| *due > now).min()
    }

    /// Returns what a binding is doing.
    pub fn phase(&self, key: &BindingKey) -> Option<Phase> {
        self.entries.get(key).map(|entry| entry.phase)
    }

    /// Returns since when the oldest unacknowledged change has been waiting.
    pub fn behind_since(&self, key: &BindingKey) -> Option<Instant> {
        self.entries.get(key)?.behind_since
    }

    /// Returns the number of deliveries in flight.
    pub fn running(&self) -> usize {
        self.in_flight.values().sum()
    }
}

impl Entry {
    fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(due) | Phase::Retrying(due, _) => Some(due),
            Phase::Idle | Phase::InFlight => None,
        }
    }

    fn wake(&mut self, urgency: Urgency, now: Instant) {
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

fn release(in_flight: &mut HashMap<String, usize>, destination: &str) {
    if let Some(count) = in_flight.get_mut(destination) {
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
