//! The rows in memory: one [`Table`] for each namespace that has targets.
//!
//! The watch stage writes: it [applies](Target::apply) and [removes](Target::remove) rows, [sweeps](Target::sweep) what a
//! complete list did not confirm, and says which parts are [known](Target::learn). The delivery stage reads: each binding
//! holds a [`Reader`] with a cursor into the journal of each table of its [`View`] and asks for a [`Plan`].
//!
//! Guarantees:
//! - A change gets a sequence number; a reader that acknowledged `n` is shown every later change, each key once, in its
//!   newest state. When the journal was cut behind a slow reader, it is asked to compare everything instead.
//! - A plan holds only rows of known parts (D4), and says which parts the reader has never compared with its sink.
//! - A reader of documents is handed [everything](Reader::whole) once each part was known, or has been missing for long.
//! - What a reader sees of many tables is no snapshot of one moment; each part is in one table, and is.
//! - An update that does not change a row is not a change.
//! - Rows grow only while rows and journals are within the budget: one that would not fit is refused, and its part is
//!   unknown until a later list fits (D4).
//!
//! Nobody is called from here. Namespaces that changed are noted in [`Store::drain`], which the schedule empties.

mod document;
mod holders;
mod journal;
mod knowledge;
mod reader;
mod size;
mod table;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metrics::{Reading, Sizes};
use crate::model::{Name, Namespace, Origin, Row, RowKey, Seq, Uid};
use holders::Holders;

pub use document::{Awaited, Everything, Whole};
pub use holders::Holder;
pub use knowledge::{Coverage, Knowledge, is_mass_deletion};
pub use reader::Reader;
pub use table::{Counts, Shard, Table, Target, TargetCounts, Walk};
pub use view::{CLUSTER, Each, HOME, Pick, RollUp, View};

/// Why a namespace is in the list of [`Store::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dirt {
    /// Rows of known parts changed.
    pub changed: bool,
    /// A part became known, or a target was removed: deliveries need not wait for their interval.
    pub learned: bool,
}

/// All tables. Cheap to clone and to share.
#[derive(Debug, Clone, Default)]
pub struct Store {
    tables: Arc<Mutex<BTreeMap<Namespace, Arc<Table>>>>,
    shared: Arc<Shared>,
}

/// What all tables have in common.
#[derive(Debug, Default)]
struct Shared {
    dirty: Mutex<BTreeMap<Namespace, Dirt>>,
    wake: Notify,
    rows: AtomicUsize,
    /// What rows and journals take.
    bytes: AtomicUsize,
    /// What they may take.
    budget: Option<usize>,
    marks: AtomicU64,
    holders: Holders,
    complete: AtomicBool,
}

impl Shared {
    /// Tells whether so many more bytes are within the budget. Writers of several tables may ask at the same moment, so
    /// that it can be overrun by one row for each of them.
    fn fits(&self, growth: usize) -> bool {
        self.budget.is_none_or(|budget| self.bytes.load(Ordering::Relaxed).saturating_add(growth) <= budget)
    }

    /// Returns the mark of the list that began last.
    fn last_mark(&self) -> u32 {
        u32::try_from(self.marks.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    fn note(&self, namespace: &Namespace, dirt: Dirt) {
        let mut dirty = self.dirty.lock();
        let noted = dirty.entry(namespace.clone()).or_default();
        noted.changed |= dirt.changed;
        noted.learned |= dirt.learned;
        drop(dirty);
        self.wake.notify_one();
    }
}

/// What to bring to a sink, and what it then has.
#[derive(Debug)]
pub struct Plan {
    /// Rows to read back and to compare first, with the store's rows in that selection.
    pub compare: Option<Compare>,
    /// Changed rows outside the comparison, ascending by key.
    pub upserts: Vec<Row>,
    /// Keys that are gone, outside the comparison, ascending.
    pub deletes: Vec<RowKey>,
    /// Position in the journal, over many tables the sum of theirs; to be acknowledged after the delivery.
    pub seq: Seq,
    /// Rows and digest of all that the reader is shown, of known parts and of others.
    pub counts: Counts,
}

/// The part of a plan that needs a look at the sink.
#[derive(Debug)]
pub struct Compare {
    /// Which rows to read back.
    pub selection: crate::export::Selection,
    /// The store's rows of the known parts in it.
    pub rows: Vec<Row>,
    /// Which held rows may be deleted.
    pub knowledge: Knowledge,
}

impl Plan {
    /// Tells whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.compare.is_none() && self.upserts.is_empty() && self.deletes.is_empty()
    }
}

impl Store {
    /// Makes an empty store whose rows and journals may take so many bytes; `None` is unlimited, as in
    /// [`Store::default`].
    pub fn new(budget_bytes: Option<u64>) -> Self {
        let budget = budget_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self { tables: Arc::default(), shared: Arc::new(Shared { budget, ..Shared::default() }) }
    }

    /// Returns the table of a namespace, made when it is missing.
    pub fn table(&self, namespace: &Namespace) -> Arc<Table> {
        let mut tables = self.tables.lock();
        if let Some(table) = tables.get(namespace) {
            return table.clone();
        }
        let table = Arc::new(Table::new(namespace.clone(), self.shared.clone()));
        if self.shared.complete.load(Ordering::Relaxed) {
            table.complete();
        }
        tables.insert(namespace.clone(), table.clone());
        table
    }

    /// Returns the table of a namespace if there is one.
    pub fn existing(&self, namespace: &Namespace) -> Option<Arc<Table>> {
        self.tables.lock().get(namespace).cloned()
    }

    /// Returns a reader that has not compared anything yet.
    pub fn reader(&self, view: &View) -> Reader {
        Reader::new(self, view)
    }

    /// Registers a target, or returns the registered one when its kind is the same; one of another kind replaces it,
    /// and the rows of the old kind are removed.
    pub fn register(&self, origin: Origin) -> Target {
        self.table(&origin.target.namespace.clone()).register(origin)
    }

    /// Removes a target and its rows, on purpose: sinks delete them.
    pub fn unregister(&self, namespace: &Namespace, name: &Name) {
        if let Some(table) = self.existing(namespace) {
            table.unregister(name);
        }
    }

    /// Declares that every target there is has been registered: rows of other targets are leftovers from now on, in
    /// tables made later as well.
    pub fn complete(&self) {
        let tables = self.tables.lock();
        self.shared.complete.store(true, Ordering::Relaxed);
        tables.values().for_each(|table| table.complete());
    }

    /// Waits until a namespace is dirty. Cancel-safe.
    pub async fn dirtied(&self) {
        self.shared.wake.notified().await;
    }

    /// Takes the namespaces that changed since the last call.
    pub fn drain(&self) -> BTreeMap<Namespace, Dirt> {
        std::mem::take(&mut *self.shared.dirty.lock())
    }

    /// Returns a mark for one run of a list, greater than all before.
    pub fn next_mark(&self) -> u32 {
        u32::try_from(self.shared.marks.fetch_add(1, Ordering::Relaxed) + 1).unwrap_or(u32::MAX)
    }

    /// Appends the targets that hold something of an object: a row, or the note of a failure. One that holds nothing may be
    /// among them by chance.
    pub fn holders(&self, uid: &Uid, found: &mut Vec<Holder>) {
        self.shared.holders.of(uid, found);
    }

    /// Returns the number of rows in all tables.
    pub fn rows(&self) -> usize {
        self.shared.rows.load(Ordering::Relaxed)
    }

    /// Returns the bytes that rows and journals of all tables take.
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes that they may take, if there is a limit.
    pub fn budget(&self) -> Option<usize> {
        self.shared.budget
    }
}

impl Sizes for Store {
    fn read(&self, reading: &mut Reading) {
        reading.rows = self.rows() as u64;
        reading.row_bytes = self.bytes() as u64;
        reading.row_budget_bytes = self.budget().unwrap_or_default() as u64;
    }
}

#[cfg(test)]
mod tests;
