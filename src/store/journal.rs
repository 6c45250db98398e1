//! The change journal of one table: sequence number → key, each key at most once.

use std::collections::{BTreeMap, HashMap};

use super::size;
use super::table::RowId;
use crate::model::Seq;

/// A journal shorter than this is never cut.
const MIN_LIMIT: usize = 4096;

/// Keys in the order of their last change. A key without a row in the table is a tombstone.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: BTreeMap<Seq, RowId>,
    /// Where a removed key stands in `entries`; a live row remembers that itself.
    tombstones: HashMap<RowId, Seq>,
    /// Changes up to here are no longer listed.
    floor: Seq,
}

impl Journal {
    /// Notes that a row was written, in place of its earlier change.
    pub(super) fn wrote(&mut self, id: &RowId, before: Option<Seq>, seq: Seq) {
        let before = before.or_else(|| self.tombstones.remove(id));
        self.put(id, before, seq);
    }

    /// Notes that a row was removed.
    pub(super) fn removed(&mut self, id: &RowId, before: Seq, seq: Seq) {
        self.put(id, Some(before), seq);
        self.tombstones.insert(id.clone(), seq);
    }

    fn put(&mut self, id: &RowId, before: Option<Seq>, seq: Seq) {
        if let Some(before) = before {
            self.entries.remove(&before);
        }
        self.entries.insert(seq, id.clone());
    }

    /// Forgets all changes up to `seq`.
    pub(super) fn trim(&mut self, seq: Seq) {
        if seq <= self.floor {
            return;
        }
        self.floor = seq;
        let kept = self.entries.split_off(&Seq(seq.0 + 1));
        for (seq, id) in std::mem::replace(&mut self.entries, kept) {
            if self.tombstones.get(&id) == Some(&seq) {
                self.tombstones.remove(&id);
            }
        }
    }

    /// Cuts the older half when the journal outgrew the table, so that a reader that never comes back cannot fill the
    /// memory. A reader behind the cut compares everything instead.
    pub(super) fn bound(&mut self, rows: usize) {
        let limit = MIN_LIMIT.max(rows.saturating_mul(2));
        if self.entries.len() > limit
            && let Some(middle) = self.entries.keys().nth(limit / 2).copied()
        {
            self.trim(middle);
        }
    }

    /// Returns the changes after `cursor`, or `None` when some of them were forgotten.
    pub(super) fn since(&self, cursor: Seq) -> Option<impl Iterator<Item = &RowId>> {
        (cursor >= self.floor).then(|| self.entries.range(Seq(cursor.0 + 1)..).map(|(_, id)| id))
    }

    /// Returns the bytes that the journal takes.
    pub(super) fn size(&self) -> usize {
        self.entries.len() * size::CHANGE + self.tombstones.len() * size::TOMBSTONE
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
