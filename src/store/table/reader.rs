//! The reading end of a table: what a binding's sink lacks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Cursor, Inner, Learned, Reader, Table};
use crate::export::Selection;
use crate::model::{Part, Row, Seq};
use crate::store::{Compare, Plan};

/// From so many parts on, a reader compares the whole scope at once.
const MAX_PARTS_COMPARED: usize = 64;

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
        self.table.release(inner);
        plan
    }

    /// Says that the sink has everything up to a plan's position.
    pub fn acknowledge(&self, seq: Seq) {
        let mut inner = self.table.inner.lock();
        if let Some(cursor) = inner.readers.get_mut(&self.id) {
            cursor.compared = true;
            cursor.hold = Some(seq);
        }
        self.table.release(&mut inner);
    }

    /// Makes the next plan compare everything, as after a restart. The journal keeps nothing for the reader until then.
    pub fn restart(&self) {
        let mut inner = self.table.inner.lock();
        if let Some(cursor) = inner.readers.get_mut(&self.id) {
            *cursor = Cursor::default();
        }
        self.table.release(&mut inner);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.table.inner.lock();
        inner.readers.remove(&self.id);
        self.table.release(&mut inner);
    }
}

impl Inner {
    /// Returns which parts a reader at `hold` has never compared.
    pub(super) fn learned_since(&self, hold: Seq) -> Option<Selection> {
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
