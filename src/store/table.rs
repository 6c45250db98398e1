//! The rows of all targets of one namespace, with their digest, journal and readers.

use std::collections::btree_map::Entry as Slotted;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::journal::Journal;
use super::knowledge::{Coverage, Knowing, Knowledge};
use super::{Compare, Dirt, Plan, Shared};
use crate::canonical;
use crate::export::Selection;
use crate::model::{Body, Digest, Name, Namespace, Origin, Part, Row, RowKey, Seq, Uid};

/// From so many parts on, a reader compares the whole scope at once.
const MAX_PARTS_COMPARED: usize = 64;

/// Target and UID, ordered so that the rows of one target stand together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RowId {
    target: u32,
    uid: Uid,
}

/// Everything kept of one row: about 80 bytes and the body.
#[derive(Debug)]
struct Entry {
    seq: Seq,
    namespace: Namespace,
    body: Body,
    /// The run of a list that confirmed the row last.
    mark: u32,
    sanitized: bool,
}

/// What is kept of one target.
#[derive(Debug)]
struct Slot {
    origin: Arc<Origin>,
    knowing: Knowing,
    /// Rows in each namespace.
    rows: BTreeMap<Namespace, usize>,
    sanitized: usize,
    /// Objects whose extraction fails, with the run that saw them last.
    failing: BTreeMap<Uid, (Namespace, u32)>,
    last_failure: Option<Arc<str>>,
}

/// A note in the log of what became known. Without a part it concerns a whole target.
type Learned = (Seq, Option<Part>);

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
    /// Every part is known.
    pub whole: bool,
}

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<RowId, Entry>,
    item_bytes: usize,
    digest: Digest,
    seq: Seq,
    journal: Journal,
    learned: Vec<Learned>,
    complete: bool,
    /// Names ever registered; the index is the target's number, which never changes.
    names: Vec<Name>,
    numbers: BTreeMap<Name, u32>,
    slots: BTreeMap<u32, Slot>,
    readers: HashMap<u64, Cursor>,
    next_reader: u64,
}

/// Where a reader stands.
#[derive(Debug, Default)]
struct Cursor {
    /// The reader has compared its sink with this table once.
    compared: bool,
    /// Changes after this are kept for it; none before its first plan.
    hold: Option<Seq>,
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
    origin: Arc<Origin>,
}

/// The reading end for one binding. Dropping it releases what the journal keeps for it.
#[derive(Debug)]
pub struct Reader {
    table: Arc<Table>,
    id: u64,
}

impl Table {
    pub(super) fn new(namespace: Namespace, shared: Arc<Shared>) -> Self {
        Self { namespace, shared, inner: Mutex::default() }
    }

    /// Returns the namespace of the targets.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
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
            Slotted::Vacant(entry) => entry.insert(Slot::new(Arc::new(origin))),
        };
        let origin = slot.origin.clone();
        drop(inner);
        Target { table: self.clone(), number, origin }
    }

    pub(super) fn unregister(&self, name: &Name) {
        let mut inner = self.inner.lock();
        let Some(&number) = inner.numbers.get(name) else { return };
        if self.clear(&mut inner, number) {
            let seq = inner.advance();
            inner.learned.push((seq, None));
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
        inner.slots.remove(&number);
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

    /// Returns a reader that has not compared anything yet.
    pub fn reader(self: &Arc<Self>) -> Reader {
        let mut inner = self.inner.lock();
        let id = inner.next_reader;
        inner.next_reader += 1;
        inner.readers.insert(id, Cursor::default());
        drop(inner);
        Reader { table: self.clone(), id }
    }

    /// Returns rows and digest.
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts()
    }

    /// Returns all rows, of known and of unknown parts, in the order of their keys.
    pub fn rows(&self) -> Vec<Row> {
        let inner = self.inner.lock();
        inner.rows.iter().filter_map(|(id, entry)| inner.row(id, entry)).collect()
    }

    /// Returns what is known.
    pub fn knowledge(&self) -> Knowledge {
        self.inner.lock().knowledge()
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
        self.shared.rows.fetch_sub(1, Ordering::Relaxed);
        self.shared.bytes.fetch_sub(entry.body.size(), Ordering::Relaxed);
        let seq = inner.advance();
        if let Some(slot) = inner.slots.get_mut(&id.target) {
            slot.count(&entry.namespace, -1);
            slot.sanitized -= usize::from(entry.sanitized);
            let row =
                Row { origin: slot.origin.clone(), uid: id.uid.clone(), namespace: entry.namespace, body: entry.body };
            inner.discount(&row);
        }
        if inner.journaling() {
            inner.journal.removed(id, entry.seq, seq);
            inner.journal.bound(inner.rows.len());
        } else {
            inner.journal.trim(seq);
        }
        true
    }
}

impl Slot {
    fn new(origin: Arc<Origin>) -> Self {
        let knowing = Knowing { coverage: Coverage::Unresolved, known: BTreeSet::new() };
        Self { origin, knowing, rows: BTreeMap::new(), sanitized: 0, failing: BTreeMap::new(), last_failure: None }
    }

    fn count(&mut self, namespace: &Namespace, change: isize) {
        let rows = self.rows.entry(namespace.clone()).or_default();
        *rows = rows.saturating_add_signed(change);
        if *rows == 0 {
            self.rows.remove(namespace);
        }
    }

    fn counts(&self) -> TargetCounts {
        let unknown = match &self.knowing.coverage {
            Coverage::Namespaces(set) => set.difference(&self.knowing.known).cloned().collect(),
            Coverage::Cluster | Coverage::Unresolved => Vec::new(),
        };
        TargetCounts {
            rows: self.rows.values().sum(),
            sanitized: self.sanitized,
            failing: self.failing.len(),
            last_failure: self.last_failure.clone().filter(|_| !self.failing.is_empty()),
            unknown,
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

    /// Adds a row to what is counted over the table.
    fn account(&mut self, row: &Row) {
        let (hash, bytes) = canonical::row_hash(row);
        self.digest.add(hash);
        self.item_bytes += bytes;
    }

    /// Takes a row out of what is counted over the table.
    fn discount(&mut self, row: &Row) {
        let (hash, bytes) = canonical::row_hash(row);
        self.digest.remove(hash);
        self.item_bytes = self.item_bytes.saturating_sub(bytes);
    }

    fn journaling(&self) -> bool {
        self.readers.values().any(|reader| reader.hold.is_some())
    }

    fn counts(&self) -> Counts {
        Counts { rows: self.rows.len(), bytes: self.item_bytes, digest: self.digest }
    }

    fn knowledge(&self) -> Knowledge {
        let named = |number: &u32| self.names[*number as usize].clone();
        let targets = self.slots.iter().map(|(number, slot)| (named(number), slot.knowing.clone())).collect();
        Knowledge { complete: self.complete, targets }
    }

    /// Returns the ids of all rows of a target.
    fn ids(&self, number: u32) -> Vec<RowId> {
        self.of_target(number).map(|(id, _)| id.clone()).collect()
    }

    fn of_target(&self, number: u32) -> impl Iterator<Item = (&RowId, &Entry)> {
        let first = RowId { target: number, uid: Uid::Uuid([0; 16]) };
        self.rows.range(first..).take_while(move |(id, _)| id.target == number)
    }

    fn row(&self, id: &RowId, entry: &Entry) -> Option<Row> {
        let slot = self.slots.get(&id.target)?;
        Some(Row {
            origin: slot.origin.clone(),
            uid: id.uid.clone(),
            namespace: entry.namespace.clone(),
            body: entry.body.clone(),
        })
    }

    fn key(&self, id: &RowId) -> RowKey {
        RowKey { target: self.names[id.target as usize].clone(), uid: id.uid.clone() }
    }

    /// Tells whether rows of that target in that namespace may be shown to readers.
    fn known(&self, number: u32, namespace: &Namespace) -> bool {
        self.slots.get(&number).is_none_or(|slot| slot.knowing.knows(namespace))
    }

    fn release(&mut self) {
        // Without a reader everything up to now may go.
        let oldest = self.readers.values().filter_map(|reader| reader.hold).min().unwrap_or(self.seq);
        self.journal.trim(oldest);
        self.learned.retain(|(seq, _)| *seq > oldest);
    }
}

impl Target {
    /// Returns whose rows these are.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// Says where the target collects. Rows elsewhere are removed; parts that stay keep their knowledge.
    pub fn cover(&self, coverage: &Coverage) {
        let mut inner = self.table.inner.lock();
        let Some(slot) = self.slot(&mut inner) else { return };
        if slot.knowing.coverage == *coverage {
            return;
        }
        let before = std::mem::replace(&mut slot.knowing.coverage, coverage.clone());
        let kept: BTreeSet<Namespace> =
            slot.knowing.known.iter().filter(|namespace| coverage.contains(namespace)).cloned().collect();
        slot.knowing.known = kept;
        let mut learned = false;
        if let (Coverage::Namespaces(old), Coverage::Namespaces(new)) = (&before, coverage) {
            let name = self.origin.target.name.clone();
            let left: Vec<Namespace> = old.difference(new).cloned().collect();
            slot.failing.retain(|_, (namespace, _)| new.contains(namespace));
            for namespace in &left {
                let seq = inner.advance();
                inner.learned.push((seq, Some(Part { target: name.clone(), namespace: namespace.clone() })));
                learned = true;
            }
        }
        // While nothing is resolved the rows stay: what is not known keeps what the sinks have.
        if !matches!(coverage, Coverage::Unresolved) {
            let left: Vec<RowId> = inner
                .of_target(self.number)
                .filter(|(_, entry)| !coverage.contains(&entry.namespace))
                .map(|(id, _)| id.clone())
                .collect();
            for id in &left {
                self.table.erase(&mut inner, id);
            }
            learned |= !left.is_empty();
        }
        drop(inner);
        if learned {
            self.table.shared.note(&self.table.namespace, Dirt { changed: true, learned: true });
        }
    }

    /// Writes a row, seen in the run `mark` of a list or in the watch after it. Tells whether the row changed.
    ///
    /// A row outside the target's coverage is not written: the event was in flight when the coverage shrank.
    pub fn apply(&self, uid: &Uid, namespace: &Namespace, body: Body, sanitized: bool, mark: u32) -> bool {
        let mut guard = self.table.inner.lock();
        let inner = &mut *guard;
        let Some(slot) = self.slot(inner) else { return false };
        if !slot.knowing.coverage.contains(namespace) {
            return false;
        }
        slot.failing.remove(uid);
        let known = slot.knowing.knows(namespace);
        let id = RowId { target: self.number, uid: uid.clone() };
        let before = match inner.rows.get_mut(&id) {
            Some(entry) if entry.body == body && entry.namespace == *namespace => {
                entry.mark = mark;
                return false;
            }
            Some(entry) => Some(entry.seq),
            None => None,
        };
        let mut row =
            Row { origin: self.origin.clone(), uid: uid.clone(), namespace: namespace.clone(), body: body.clone() };
        inner.account(&row);
        let seq = inner.advance();
        self.table.shared.bytes.fetch_add(body.size(), Ordering::Relaxed);
        let entry = Entry { seq, namespace: namespace.clone(), body, mark, sanitized };
        let mut repaired = 0;
        let old = inner.rows.insert(id.clone(), entry);
        if let Some(slot) = inner.slots.get_mut(&self.number) {
            slot.count(namespace, 1);
            if let Some(old) = &old {
                slot.count(&old.namespace, -1);
            }
        }
        if let Some(old) = old {
            self.table.shared.bytes.fetch_sub(old.body.size(), Ordering::Relaxed);
            repaired = usize::from(old.sanitized);
            row.namespace = old.namespace;
            row.body = old.body;
            inner.discount(&row);
        } else {
            self.table.shared.rows.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(slot) = inner.slots.get_mut(&self.number) {
            slot.sanitized = slot.sanitized + usize::from(sanitized) - repaired;
        }
        if inner.journaling() {
            inner.journal.wrote(&id, before, seq);
            inner.journal.bound(inner.rows.len());
        } else {
            inner.journal.trim(seq);
        }
        drop(guard);
        if known {
            self.table.shared.note(&self.table.namespace, Dirt { changed: true, learned: false });
        }
        true
    }

    /// Removes a row: the object is gone, or filtered out. Tells whether it was there.
    pub fn remove(&self, uid: &Uid) -> bool {
        let mut inner = self.table.inner.lock();
        let Some(slot) = self.slot(&mut inner) else { return false };
        slot.failing.remove(uid);
        let id = RowId { target: self.number, uid: uid.clone() };
        let gone = self.table.erase(&mut inner, &id);
        drop(inner);
        if gone {
            self.table.shared.note(&self.table.namespace, Dirt { changed: true, learned: false });
        }
        gone
    }

    /// Removes the row of an object that cannot be extracted, and notes why.
    pub fn fail(&self, uid: &Uid, namespace: &Namespace, message: &str, mark: u32) {
        self.remove(uid);
        let mut inner = self.table.inner.lock();
        if let Some(slot) = self.slot(&mut inner)
            && slot.knowing.coverage.contains(namespace)
        {
            slot.failing.insert(uid.clone(), (namespace.clone(), mark));
            slot.last_failure = Some(message.into());
        }
    }

    /// Ends a complete list of the namespaces for which `within` holds: rows that the run did not confirm are removed,
    /// and the parts are known from now on.
    pub fn sweep(&self, within: impl Fn(&Namespace) -> bool, mark: u32) {
        let mut inner = self.table.inner.lock();
        let Some(slot) = self.slot(&mut inner) else { return };
        slot.failing.retain(|_, (namespace, seen)| !within(namespace) || *seen >= mark);
        let gained: Vec<Namespace> = match &slot.knowing.coverage {
            Coverage::Unresolved => return,
            Coverage::Cluster => vec![Namespace::new("")],
            Coverage::Namespaces(set) => set.iter().filter(|namespace| within(namespace)).cloned().collect(),
        };
        let gained: Vec<Namespace> =
            gained.into_iter().filter(|namespace| slot.knowing.known.insert(namespace.clone())).collect();
        let stale: Vec<RowId> = inner
            .of_target(self.number)
            .filter(|(_, entry)| within(&entry.namespace) && entry.mark < mark)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &stale {
            self.table.erase(&mut inner, id);
        }
        let learned = !gained.is_empty();
        for namespace in gained {
            let seq = inner.advance();
            inner.learned.push((seq, Some(Part { target: self.origin.target.name.clone(), namespace })));
        }
        if !inner.journaling() {
            inner.release();
        }
        drop(inner);
        if learned || !stale.is_empty() {
            self.table.shared.note(&self.table.namespace, Dirt { changed: true, learned });
        }
    }

    /// Returns the number of rows, of one namespace or of all.
    pub fn rows(&self, namespace: Option<&Namespace>) -> usize {
        let mut inner = self.table.inner.lock();
        let Some(slot) = self.slot(&mut inner) else { return 0 };
        match namespace {
            Some(namespace) => slot.rows.get(namespace).copied().unwrap_or_default(),
            None => slot.rows.values().sum(),
        }
    }

    /// Takes knowledge away: the namespace cannot be listed any more. Its rows stay, here and in the sinks.
    pub fn forget(&self, namespace: &Namespace) {
        let mut inner = self.table.inner.lock();
        if let Some(slot) = self.slot(&mut inner) {
            slot.knowing.known.remove(namespace);
        }
    }

    /// Returns the slot, unless the target was removed or replaced by one of another kind meanwhile.
    fn slot<'a>(&self, inner: &'a mut Inner) -> Option<&'a mut Slot> {
        inner.slots.get_mut(&self.number).filter(|slot| Arc::ptr_eq(&slot.origin, &self.origin))
    }
}

impl Reader {
    /// Returns the table that is read.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Returns what the sink lacks. The journal keeps all later changes until [`Reader::acknowledge`].
    pub fn plan(&self) -> Plan {
        let mut guard = self.table.inner.lock();
        let inner = &mut *guard;
        let (seq, counts) = (inner.seq, inner.counts());
        let mut plan = Plan { compare: None, upserts: Vec::new(), deletes: Vec::new(), seq, counts };
        let Some(cursor) = inner.readers.get_mut(&self.id) else { return plan };
        // Before the targets are registered, and while no part was ever known, there is nothing to tell a sink.
        let known = inner.slots.is_empty() || inner.slots.values().any(|slot| !slot.knowing.known.is_empty());
        if !inner.complete || !(cursor.compared || known) {
            return plan;
        }
        if !cursor.compared {
            cursor.hold = Some(seq);
        }
        let (compared, hold) = (cursor.compared, cursor.hold.unwrap_or_default());
        let selection = if compared && inner.journal.since(hold).is_some() {
            inner.learned_since(hold)
        } else {
            Some(Selection::All)
        };
        if selection != Some(Selection::All) {
            inner.changes(hold, selection.as_ref(), &mut plan);
        }
        plan.compare = selection.map(|selection| inner.compare(selection));
        inner.release();
        plan
    }

    /// Says that the sink has everything up to a plan's position.
    pub fn acknowledge(&self, seq: Seq) {
        let mut inner = self.table.inner.lock();
        if let Some(cursor) = inner.readers.get_mut(&self.id) {
            cursor.compared = true;
            cursor.hold = Some(seq);
        }
        inner.release();
    }

    /// Makes the next plan compare everything, as after a restart. The journal keeps nothing for the reader until then.
    pub fn restart(&self) {
        let mut inner = self.table.inner.lock();
        if let Some(cursor) = inner.readers.get_mut(&self.id) {
            *cursor = Cursor::default();
        }
        inner.release();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.table.inner.lock();
        inner.readers.remove(&self.id);
        inner.release();
    }
}

impl Inner {
    /// Returns which parts a reader at `hold` has never compared.
    fn learned_since(&self, hold: Seq) -> Option<Selection> {
        let news: Vec<&Learned> = self.learned.iter().filter(|(seq, _)| *seq > hold).collect();
        if news.is_empty() {
            return None;
        }
        let parts: Option<BTreeSet<Part>> = news.iter().map(|(_, part)| part.clone()).collect();
        match parts {
            Some(parts) if parts.len() <= MAX_PARTS_COMPARED => Some(Selection::Parts(parts.into_iter().collect())),
            _ => Some(Selection::All),
        }
    }

    /// Fills in the journal's changes after `hold` that are known and not part of a comparison.
    fn changes(&self, hold: Seq, selection: Option<&Selection>, plan: &mut Plan) {
        let compared = |part: &Part| matches!(selection, Some(Selection::Parts(parts)) if parts.contains(part));
        for id in self.journal.since(hold).into_iter().flatten() {
            match self.rows.get(id) {
                None => plan.deletes.push(self.key(id)),
                Some(entry) if self.known(id.target, &entry.namespace) => {
                    let part = Part { target: self.key(id).target, namespace: entry.namespace.clone() };
                    if !compared(&part) {
                        plan.upserts.extend(self.row(id, entry));
                    }
                }
                Some(_) => {}
            }
        }
        plan.upserts.sort_unstable_by_key(Row::key);
        plan.deletes.sort_unstable();
    }

    fn compare(&self, selection: Selection) -> Compare {
        let wanted = |row: &Row| match &selection {
            Selection::All => true,
            Selection::Parts(parts) => {
                parts.iter().any(|part| part.target == row.origin.target.name && part.namespace == row.namespace)
            }
        };
        let rows = self
            .rows
            .iter()
            .filter(|(id, entry)| self.known(id.target, &entry.namespace))
            .filter_map(|(id, entry)| self.row(id, entry))
            .filter(wanted)
            .collect();
        Compare { selection, rows, knowledge: self.knowledge() }
    }
}
