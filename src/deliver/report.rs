//! How each binding stands, for statuses and metrics: written by the delivery task, read by everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Place, Stray};
use crate::error::Class;
use crate::metrics::{self, Reading, Sizes};
use crate::model::{BindingKey, InventoryKey, Part};
use crate::store::Awaited;

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

impl Failure {
    /// Logs a delivery that ended like this, under the key that runbooks look for.
    pub(super) fn log(&self, key: &BindingKey) {
        tracing::error!(
            sink = %key.sink,
            inventory = %key.inventory,
            error_class = %self.class,
            reason = self.reason,
            error = self.message,
            "export failed"
        );
    }
}

/// Parts of an inventory that were never known to this process, where the sink takes nothing but the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// The document waits for them.
    Awaited(Awaited),
    /// It was written without them. Ascending.
    Left(Vec<Part>),
}

/// How a binding stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The sink has been brought to a known state at least once.
    pub acknowledged: bool,
    /// When the sink was last written to by this process.
    pub last_write: Option<Timestamp>,
    /// Checksum of the document that the sink has, or digest of its rows.
    pub checksum: Option<String>,
    /// Rows that the sink has.
    pub rows: u64,
    /// The last delivery failed like this.
    pub failure: Option<Failure>,
    /// Rows that the sink does not take; all others were delivered.
    pub refused: Option<Failure>,
    /// Parts that a document lacks.
    pub gap: Option<Gap>,
    /// The destination does not answer; it is probed, and deliveries wait for that.
    pub blocked: bool,
    /// When the next delivery is due, while one waits.
    pub next_due: Option<Timestamp>,
    /// A change waits for the interval.
    pub debounced: bool,
    /// Least time between two writes.
    pub interval: Duration,
    /// Since when the oldest unacknowledged change has been waiting.
    pub behind_since: Option<Instant>,
}

impl Report {
    /// Tells whether the sink has everything, as far as is known.
    pub fn is_current(&self) -> bool {
        let waits = matches!(self.gap, Some(Gap::Awaited(_)));
        self.acknowledged && self.failure.is_none() && self.refused.is_none() && !waits
    }

    /// Returns for how long the oldest unacknowledged change has been waiting.
    pub fn lag(&self) -> Duration {
        self.behind_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// How far a place is that an inventory leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// It is being cleaned up.
    Pending,
    /// That failed and is tried again.
    Failed(Failure),
    /// Nothing of the inventory is there any more that should not be.
    Done,
}

/// The reports of all bindings, and which inventories have news.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    inner: Arc<ReportsInner>,
}

#[derive(Debug, Default)]
struct ReportsInner {
    reports: Mutex<BTreeMap<BindingKey, Report>>,
    departures: Mutex<BTreeMap<Place, Departure>>,
    /// Found by audits, and not yet taken; a stray that waits is found again.
    strays: Mutex<BTreeMap<Place, Stray>>,
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

    /// Returns how far a place is that an inventory leaves; nothing when nobody asked for that.
    pub fn departure(&self, place: &Place) -> Option<Departure> {
        self.inner.departures.lock().get(place).cloned()
    }

    /// Takes the scopes that audits found and nobody delivers to.
    pub fn strays(&self) -> Vec<Stray> {
        std::mem::take(&mut *self.inner.strays.lock()).into_values().collect()
    }

    /// Forgets the places that an inventory left.
    pub fn forget_departures(&self, inventory: &InventoryKey) {
        self.inner.departures.lock().retain(|place, _| place.inventory != *inventory);
    }

    pub(super) fn depart(&self, place: &Place, departure: Departure) {
        let before = self.inner.departures.lock().insert(place.clone(), departure.clone());
        if before != Some(departure) {
            self.tell(&place.inventory);
        }
    }

    pub(super) fn stay(&self, place: &Place) {
        self.inner.departures.lock().remove(place);
    }

    pub(super) fn stray(&self, stray: Stray) {
        let inventory = stray.place.inventory.clone();
        self.inner.strays.lock().insert(stray.place.clone(), stray);
        self.tell(&inventory);
    }

    /// Changes a report. Only what a condition shows counts as news; lag and interval alone do not.
    pub(super) fn update(&self, key: &BindingKey, change: impl FnOnce(&mut Report)) {
        let mut reports = self.inner.reports.lock();
        let report = reports.entry(key.clone()).or_default();
        let before = report.clone();
        change(report);
        let (interval, behind_since) = (before.interval, before.behind_since);
        let news = Report { interval, behind_since, ..report.clone() } != before;
        drop(reports);
        if news {
            self.tell(&key.inventory);
        }
    }

    pub(super) fn remove(&self, key: &BindingKey) {
        self.inner.reports.lock().remove(key);
        self.tell(&key.inventory);
    }

    fn tell(&self, inventory: &InventoryKey) {
        self.inner.news.lock().insert(inventory.clone());
        self.inner.wake.notify_one();
    }
}

impl Sizes for Reports {
    fn read(&self, reading: &mut Reading) {
        reading.bindings.extend(self.all().into_iter().map(|(key, report)| metrics::Binding {
            key,
            lag: report.lag(),
            interval: report.interval,
            synced: report.is_current(),
            last_export_seconds: report.last_write.map(|last| last.as_millisecond() as f64 / 1000.0),
        }));
    }
}
