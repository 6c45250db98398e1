//! The rows of all targets of one namespace, with their digest, journal and readers.

mod account;
mod cursor;
mod places;
mod sight;
mod target;
mod walk;

pub use account::Shard;
pub(super) use cursor::{Draft, Due, Piece};
pub(super) use sight::parts_of;
pub use walk::Walk;

use std::collections::btree_map::Entry as Slotted;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::journal::Journal;
use super::knowledge::{Coverage, Knowing, Knowledge, Met};
use super::reader::Reader;
use super::view::Pick;
use super::{Dirt, Holder, Shared, size};
use crate::model::{Body, Digest, Name, Namespace, Origin, Row, RowKey, Seq, Uid};
use account::{Account, Hashed};
use cursor::Cursor;
use places::{Place, Places};
use sight::Sight;

/// Target and UID, ordered so that the rows of one target stand together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RowId {
    target: u32,
    uid: Uid,
}

impl RowId {
    /// Returns the least of a target.
    const fn first(target: u32) -> Self {
        Self { target, uid: Uid::Uuid([0; 16]) }
    }
}

/// Everything kept of one row beside its id: 32 bytes and the body.
#[derive(Debug)]
struct Entry {
    seq: Seq,
    body: Body,
    place: Place,
    /// The run of a list that confirmed the row last.
    mark: u32,
}

/// What is kept of one target.
#[derive(Debug)]
struct Slot {
    origin: Arc<Origin>,
    holder: Holder,
    knowing: Knowing,
    met: Met,
    /// Rows in each namespace.
    rows: BTreeMap<Namespace, usize>,
    /// The last change of a row.
    changed: Seq,
    /// Objects in whose row U+0000 was replaced.
    sanitized: BTreeSet<Uid>,
    /// Objects whose extraction fails, with the run that saw them last.
    failing: BTreeMap<Uid, (Namespace, u32)>,
    last_failure: Option<Arc<str>>,
    /// Where rows were refused for want of room, with the list that had begun last by then.
    refused: BTreeMap<Namespace, u32>,
}

/// A note in the log of what became known.
#[derive(Debug)]
struct Learned {
    seq: Seq,
    target: Name,
    /// Missing when it concerns the whole target.
    namespace: Option<Namespace>,
}

/// Rows and digest of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Number of rows.
    pub rows: usize,
    /// Length of their item texts, which is about that of a document of them.
    pub bytes: usize,
    /// Their order-free digest.
    pub digest: Digest,
}

/// What a target has to report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetCounts {
    /// Rows held.
    pub rows: usize,
    /// Rows in which U+0000 was replaced.
    pub sanitized: usize,
    /// Objects that fail extraction.
    pub failing: usize,
    /// Text of the last failure, while there is one.
    pub last_failure: Option<Arc<str>>,
    /// Namespaces in which the target collects but is not known yet.
    pub unknown: Vec<Namespace>,
    /// Those of them where rows did not fit into the store; one empty name for a cluster-scoped kind.
    pub over_budget: Vec<Namespace>,
    /// Every part is known.
    pub whole: bool,
}

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<RowId, Entry>,
    places: Places,
    /// Of all rows.
    counts: Counts,
    /// Of the selections that somebody reads.
    accounts: BTreeMap<Arc<Pick>, Account>,
    seq: Seq,
    journal: Journal,
    /// What the journal took when that was last put on the account.
    journal_bytes: usize,
    learned: Vec<Learned>,
    complete: bool,
    /// Names ever registered; the index is the target's number, which never changes.
    names: Vec<Name>,
    numbers: BTreeMap<Name, u32>,
    slots: BTreeMap<u32, Slot>,
    readers: HashMap<u64, Cursor>,
    next_reader: u64,
}

/// The rows of one namespace's targets.
#[derive(Debug)]
pub struct Table {
    namespace: Namespace,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

/// The writing end for one target.
#[derive(Debug, Clone)]
pub struct Target {
    table: Arc<Table>,
    number: u32,
    holder: Holder,
    origin: Arc<Origin>,
}

impl Table {
    pub(super) fn new(namespace: Namespace, shared: Arc<Shared>) -> Self {
        Self { namespace, shared, inner: Mutex::default() }
    }

    /// Returns the namespace of the targets.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Returns what all tables have in common.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns the position of the last change.
    pub(super) fn seq(&self) -> Seq {
        self.inner.lock().seq
    }

    pub(super) fn register(self: &Arc<Self>, origin: Origin) -> Target {
        let mut inner = self.inner.lock();
        let number = inner.number(&origin.target.name);
        let stale = inner.slots.get(&number).is_some_and(|slot| *slot.origin != origin);
        if stale {
            self.clear(&mut inner, number);
        }
        let slot = match inner.slots.entry(number) {
            Slotted::Occupied(entry) => entry.into_mut(),
            Slotted::Vacant(entry) => entry.insert(Slot::new(Arc::new(origin), self.shared.holders.name())),
        };
        let (origin, holder) = (slot.origin.clone(), slot.holder);
        drop(inner);
        Target { table: self.clone(), number, holder, origin }
    }

    pub(super) fn unregister(&self, name: &Name) {
        let mut inner = self.inner.lock();
        let Some(&number) = inner.numbers.get(name) else { return };
        if self.clear(&mut inner, number) {
            inner.learn(name, None);
            drop(inner);
            self.shared.note(&self.namespace, Dirt { changed: true, learned: true });
        }
    }

    /// Removes a slot and its rows; tells whether it was there.
    fn clear(&self, inner: &mut Inner, number: u32) -> bool {
        let there = inner.slots.contains_key(&number);
        let ids = inner.ids(number);
        for id in ids {
            self.erase(inner, &id);
        }
        if let Some(mut slot) = inner.slots.remove(&number) {
            slot.retain_failures(&self.shared, |_, _| false);
        }
        there
    }

    pub(super) fn complete(&self) {
        let mut inner = self.inner.lock();
        if !inner.complete {
            inner.complete = true;
            drop(inner);
            self.shared.note(&self.namespace, Dirt { changed: true, learned: true });
        }
    }

    /// Returns a reader of everything that has not compared anything yet.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader::of_table(self)
    }

    /// Returns rows and digest.
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    /// Returns all rows, of known and of unknown parts, in the order of their keys.
    pub fn rows(&self) -> Vec<Row> {
        let inner = self.inner.lock();
        inner.rows.iter().filter_map(|(id, entry)| inner.row(id, entry)).collect()
    }

    /// Returns what is known.
    pub fn knowledge(&self) -> Knowledge {
        let inner = self.inner.lock();
        Knowledge::of_table(inner.complete, inner.sight(None).knowing())
    }

    /// Tells whether a target is registered.
    pub fn has(&self, name: &Name) -> bool {
        let inner = self.inner.lock();
        inner.numbers.get(name).is_some_and(|number| inner.slots.contains_key(number))
    }

    /// Returns what a target has to report; nothing for one that is not registered.
    pub fn target_counts(&self, name: &Name) -> TargetCounts {
        let inner = self.inner.lock();
        let slot = inner.numbers.get(name).and_then(|number| inner.slots.get(number));
        slot.map(Slot::counts).unwrap_or_default()
    }

    /// Returns the number of changes that the journal keeps for its readers.
    pub fn journal_length(&self) -> usize {
        self.inner.lock().journal.len()
    }

    /// Takes a row out, with all accounts. Tells whether it was there.
    fn erase(&self, inner: &mut Inner, id: &RowId) -> bool {
        let Some(entry) = inner.rows.remove(id) else { return false };
        let namespace = inner.places.leave(entry.place);
        self.shared.rows.fetch_sub(1, Ordering::Relaxed);
        self.shared.bytes.fetch_sub(size::row(&id.uid, &entry.body), Ordering::Relaxed);
        let seq = inner.advance();
        if let Some(slot) = inner.slots.get_mut(&id.target) {
            slot.count(&namespace, -1);
            slot.changed = seq;
            slot.sanitized.remove(&id.uid);
            self.shared.holders.take(&id.uid, slot.holder);
            let row = Row { origin: slot.origin.clone(), uid: id.uid.clone(), namespace, body: entry.body };
            inner.book(id, Some(Hashed::of(&row)), None);
        }
        if inner.journaling() {
            inner.journal.removed(id, entry.seq, seq);
            inner.journal.bound(inner.rows.len());
        } else {
            inner.journal.trim(seq);
        }
        self.account(inner);
        true
    }

    /// Puts on the account what the journal takes now.
    fn account(&self, inner: &mut Inner) {
        let bytes = inner.journal.size();
        let before = std::mem::replace(&mut inner.journal_bytes, bytes);
        if bytes > before {
            self.shared.bytes.fetch_add(bytes - before, Ordering::Relaxed);
        } else if bytes < before {
            self.shared.bytes.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// Lets go of what no reader needs any more.
    fn release(&self, inner: &mut Inner) {
        // Without a reader everything up to now may go.
        let oldest = inner.readers.values().filter_map(|reader| reader.hold).min().unwrap_or(inner.seq);
        inner.journal.trim(oldest);
        inner.learned.retain(|learned| learned.seq > oldest);
        self.account(inner);
    }
}

impl Slot {
    fn new(origin: Arc<Origin>, holder: Holder) -> Self {
        let knowing = Knowing { coverage: Coverage::Unresolved, known: BTreeSet::new() };
        Self {
            origin,
            holder,
            knowing,
            met: Met::new(Instant::now()),
            rows: BTreeMap::new(),
            changed: Seq::default(),
            sanitized: BTreeSet::new(),
            failing: BTreeMap::new(),
            last_failure: None,
            refused: BTreeMap::new(),
        }
    }

    fn count(&mut self, namespace: &Namespace, change: isize) {
        let rows = self.rows.entry(namespace.clone()).or_default();
        *rows = rows.saturating_add_signed(change);
        if *rows == 0 {
            self.rows.remove(namespace);
        }
    }

    /// Notes that an object fails.
    fn fail(&mut self, shared: &Shared, uid: &Uid, namespace: &Namespace, mark: u32) {
        if self.failing.insert(uid.clone(), (namespace.clone(), mark)).is_none() {
            shared.holders.add(uid, self.holder);
        }
    }

    /// Forgets that an object fails.
    fn mend(&mut self, shared: &Shared, uid: &Uid) {
        if self.failing.remove(uid).is_some() {
            shared.holders.take(uid, self.holder);
        }
    }

    /// Forgets the failures in all namespaces, and of all runs, for which `keep` does not hold.
    fn retain_failures(&mut self, shared: &Shared, keep: impl Fn(&Namespace, u32) -> bool) {
        let holder = self.holder;
        self.failing.retain(|uid, (namespace, mark)| {
            let keeps = keep(namespace, *mark);
            if !keeps {
                shared.holders.take(uid, holder);
            }
            keeps
        });
    }

    /// Takes knowledge of a namespace away, until a list that starts after `mark` finds room for everything.
    fn refuse(&mut self, namespace: &Namespace, mark: u32) {
        self.knowing.known.remove(namespace);
        match self.refused.get_mut(namespace) {
            Some(last) => *last = mark.max(*last),
            None => {
                self.refused.insert(namespace.clone(), mark);
            }
        }
    }

    fn counts(&self) -> TargetCounts {
        let unknown = match &self.knowing.coverage {
            Coverage::Namespaces(set) => set.difference(&self.knowing.known).cloned().collect(),
            Coverage::Cluster | Coverage::Unresolved => Vec::new(),
        };
        TargetCounts {
            rows: self.rows.values().sum(),
            sanitized: self.sanitized.len(),
            failing: self.failing.len(),
            last_failure: self.last_failure.clone().filter(|_| !self.failing.is_empty()),
            unknown,
            over_budget: self.refused.keys().cloned().collect(),
            whole: self.knowing.whole(),
        }
    }
}

impl Inner {
    fn number(&mut self, name: &Name) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    fn advance(&mut self) -> Seq {
        self.seq.0 += 1;
        self.seq
    }

    /// Notes that something is known of a target, in one namespace or in all.
    fn learn(&mut self, target: &Name, namespace: Option<Namespace>) {
        let seq = self.advance();
        self.learned.push(Learned { seq, target: target.clone(), namespace });
    }

    fn journaling(&self) -> bool {
        self.readers.values().any(|reader| reader.hold.is_some())
    }

    /// Returns the ids of all rows of a target.
    fn ids(&self, number: u32) -> Vec<RowId> {
        self.of_target(number).map(|(id, _)| id.clone()).collect()
    }

    fn of_target(&self, number: u32) -> impl Iterator<Item = (&RowId, &Entry)> {
        self.rows.range(RowId::first(number)..).take_while(move |(id, _)| id.target == number)
    }

    fn row(&self, id: &RowId, entry: &Entry) -> Option<Row> {
        let slot = self.slots.get(&id.target)?;
        Some(Row {
            origin: slot.origin.clone(),
            uid: id.uid.clone(),
            namespace: self.places.of(entry.place).clone(),
            body: entry.body.clone(),
        })
    }

    fn key(&self, id: &RowId) -> RowKey {
        RowKey { target: self.names[id.target as usize].clone(), uid: id.uid.clone() }
    }

    /// Tells whether rows of that target at that place may be shown in a document.
    fn met(&self, number: u32, place: Place) -> bool {
        self.slots.get(&number).is_some_and(|slot| slot.met.has(self.places.of(place)))
    }

    /// Tells whether rows of that target at that place may be shown to readers.
    fn known(&self, number: u32, place: Place) -> bool {
        self.slots.get(&number).is_none_or(|slot| slot.knowing.knows(self.places.of(place)))
    }
}
