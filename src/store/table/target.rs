//! The writing end of a table: what the streams say of one target.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::account::Hashed;
use super::{Entry, Inner, RowId, Slot, Target};
use crate::model::{Body, Namespace, Origin, Row, Uid};
use crate::store::{Coverage, Dirt, Holder, size};

impl Target {
    /// Returns whose rows these are.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// Returns what stands for it in [`Store::holders`](crate::store::Store::holders).
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// Says where the target collects. Rows elsewhere are removed; parts that stay keep their knowledge.
    pub fn cover(&self, coverage: &Coverage) {
        let mut inner = self.table.inner.lock();
        let Some(slot) = self.slot(&mut inner) else { return };
        if slot.knowing.coverage == *coverage {
            return;
        }
        let before = std::mem::replace(&mut slot.knowing.coverage, coverage.clone());
        slot.met.cover(coverage, Instant::now());
        let kept: BTreeSet<Namespace> =
            slot.knowing.known.iter().filter(|namespace| coverage.contains(namespace)).cloned().collect();
        slot.knowing.known = kept;
        if !matches!(coverage, Coverage::Unresolved) {
            slot.refused.retain(|namespace, _| coverage.contains(namespace));
        }
        let mut learned = false;
        if let (Coverage::Namespaces(old), Coverage::Namespaces(new)) = (&before, coverage) {
            let name = self.origin.target.name.clone();
            let left: Vec<Namespace> = old.difference(new).cloned().collect();
            slot.retain_failures(&self.table.shared, |namespace, _| new.contains(namespace));
            for namespace in &left {
                inner.learn(&name, Some(namespace.clone()));
                learned = true;
            }
        }
        // While nothing is resolved the rows stay: what is not known keeps what the sinks have.
        if !matches!(coverage, Coverage::Unresolved) {
            let left: Vec<RowId> = inner
                .of_target(self.number)
                .filter(|(_, entry)| !coverage.contains(inner.places.of(entry.place)))
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
    /// A row outside the target's coverage is not written: the event was in flight when the coverage shrank. Neither is
    /// one that would grow the store beyond its budget: what the row was before stays, and its part is unknown.
    pub fn apply(&self, uid: &Uid, namespace: &Namespace, body: Body, sanitized: bool, mark: u32) -> bool {
        let mut guard = self.table.inner.lock();
        let inner = &mut *guard;
        let Some(slot) = self.slot(inner) else { return false };
        if !slot.knowing.coverage.contains(namespace) {
            return false;
        }
        slot.mend(&self.table.shared, uid);
        let known = slot.knowing.knows(namespace);
        let id = RowId { target: self.number, uid: uid.clone() };
        let before = match inner.rows.get_mut(&id) {
            Some(entry) if entry.body == body && inner.places.of(entry.place) == namespace => {
                entry.mark = mark;
                return false;
            }
            Some(entry) => {
                // The object is there, whether or not its new row finds room.
                entry.mark = mark;
                Some((entry.seq, size::row(uid, &entry.body)))
            }
            None => None,
        };
        let growth = size::row(uid, &body).saturating_sub(before.map_or(0, |(_, bytes)| bytes));
        let noted = if inner.journaling() { size::CHANGE } else { 0 };
        if growth > 0 && !self.table.shared.fits(growth + noted) {
            let begun = self.table.shared.last_mark().max(mark);
            if let Some(slot) = inner.slots.get_mut(&self.number) {
                slot.refuse(namespace, begun);
            }
            return false;
        }
        let seq = inner.advance();
        let place = inner.places.enter(namespace);
        self.put(inner, &id, Entry { seq, body, place, mark });
        if let Some(slot) = inner.slots.get_mut(&self.number) {
            if sanitized {
                slot.sanitized.insert(uid.clone());
            } else {
                slot.sanitized.remove(uid);
            }
        }
        if inner.journaling() {
            inner.journal.wrote(&id, before.map(|(seq, _)| seq), seq);
            inner.journal.bound(inner.rows.len());
        } else {
            inner.journal.trim(seq);
        }
        self.table.account(inner);
        drop(guard);
        if known {
            self.table.shared.note(&self.table.namespace, Dirt { changed: true, learned: false });
        }
        true
    }

    /// Puts a row in, or in the place of what it was, with all accounts but the journal's.
    fn put(&self, inner: &mut Inner, id: &RowId, entry: Entry) {
        let shared = &self.table.shared;
        let namespace = inner.places.of(entry.place).clone();
        let mut row = Row { origin: self.origin.clone(), uid: id.uid.clone(), namespace, body: entry.body.clone() };
        let after = Hashed::of(&row);
        shared.bytes.fetch_add(size::row(&row.uid, &row.body), Ordering::Relaxed);
        let seq = entry.seq;
        let old = inner.rows.insert(id.clone(), entry);
        let old = old.map(|old| (inner.places.leave(old.place), old.body));
        if let Some(slot) = inner.slots.get_mut(&self.number) {
            slot.count(&row.namespace, 1);
            slot.changed = seq;
            if let Some((namespace, _)) = &old {
                slot.count(namespace, -1);
            }
        }
        let mut before = None;
        if let Some((namespace, body)) = old {
            row.namespace = namespace;
            row.body = body;
            before = Some(Hashed::of(&row));
            shared.bytes.fetch_sub(size::row(&row.uid, &row.body), Ordering::Relaxed);
        } else {
            shared.rows.fetch_add(1, Ordering::Relaxed);
            shared.holders.add(&id.uid, self.holder);
        }
        inner.book(id, before, Some(after));
    }

    /// Removes a row: the object is gone, or filtered out. Tells whether it was there.
    pub fn remove(&self, uid: &Uid) -> bool {
        let mut inner = self.table.inner.lock();
        let Some(slot) = self.slot(&mut inner) else { return false };
        slot.mend(&self.table.shared, uid);
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
            slot.fail(&self.table.shared, uid, namespace, mark);
            slot.last_failure = Some(message.into());
        }
    }

    /// Ends a complete list of the namespaces for which `within` holds: rows that the run did not confirm are removed,
    /// and the parts are known from now on, but for those of which rows were refused since the list began.
    pub fn sweep(&self, within: impl Fn(&Namespace) -> bool, mark: u32) {
        let mut inner = self.table.inner.lock();
        let Some(slot) = self.slot(&mut inner) else { return };
        slot.retain_failures(&self.table.shared, |namespace, seen| !within(namespace) || seen >= mark);
        let gained: Vec<Namespace> = match &slot.knowing.coverage {
            Coverage::Unresolved => return,
            Coverage::Cluster => vec![Namespace::new("")],
            Coverage::Namespaces(set) => set.iter().filter(|namespace| within(namespace)).cloned().collect(),
        };
        slot.refused.retain(|namespace, last| !within(namespace) || *last >= mark);
        let gained: Vec<Namespace> = gained
            .into_iter()
            .filter(|namespace| !slot.refused.contains_key(namespace))
            .filter(|namespace| slot.knowing.known.insert(namespace.clone()))
            .collect();
        for namespace in &gained {
            slot.met.meet(namespace);
        }
        let stale: Vec<RowId> = inner
            .of_target(self.number)
            .filter(|(_, entry)| entry.mark < mark && within(inner.places.of(entry.place)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &stale {
            self.table.erase(&mut inner, id);
        }
        let learned = !gained.is_empty();
        for namespace in gained {
            inner.learn(&self.origin.target.name, Some(namespace));
        }
        if !inner.journaling() {
            self.table.release(&mut inner);
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
    pub(super) fn slot<'a>(&self, inner: &'a mut Inner) -> Option<&'a mut Slot> {
        inner.slots.get_mut(&self.number).filter(|slot| Arc::ptr_eq(&slot.origin, &self.origin))
    }
}
