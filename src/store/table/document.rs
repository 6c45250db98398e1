//! The reading end of a table for documents: everything that is known, or why it is not time yet.

use std::time::Duration;

use tokio::time::Instant;

use super::{Counts, Inner, Reader};
use crate::model::{Part, Row, Seq};

/// What a sink that takes nothing less than everything lacks.
#[derive(Debug)]
pub enum Whole {
    /// Nothing: it has everything, or nobody knows yet what there is.
    Nothing,
    /// Something, and parts of it are to be waited for.
    Awaited(Awaited),
    /// This.
    Ready(Everything),
}

/// Parts that no list of this process has come to the end of, and that are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// The parts, ascending. One with an empty namespace is the whole of its target.
    pub parts: Vec<Part>,
    /// Since when the first of them is missing.
    pub since: Instant,
    /// Until when they are waited for; without an end while nothing at all is known, for that is no document.
    pub until: Option<Instant>,
}

/// All rows that may be shown.
#[derive(Debug)]
pub struct Everything {
    /// The rows, in the order of their keys.
    pub rows: Vec<Row>,
    /// Parts that are left out, for they have been missing for too long. Ascending.
    pub missing: Vec<Part>,
    /// Position in the journal, to be acknowledged after the delivery.
    pub seq: Seq,
    /// Rows and digest of the whole table.
    pub counts: Counts,
}

impl Reader {
    /// Returns everything, if anything changed since the last acknowledged position. While a part is missing for no
    /// longer than `patience`, that is waited for. The journal keeps all later changes until [`Reader::acknowledge`].
    ///
    /// A part whose knowledge was lost is shown as it was last known: it is not taken from the sink because nobody can
    /// look at it any more.
    pub fn whole(&self, now: Instant, patience: Duration) -> Whole {
        let mut guard = self.table.inner.lock();
        let inner = &mut *guard;
        let Some(cursor) = inner.readers.get(&self.id) else { return Whole::Nothing };
        let changed = !cursor.compared || inner.shows_changes(cursor.hold.unwrap_or_default());
        if !inner.complete || !changed {
            return Whole::Nothing;
        }
        let missing = inner.missing();
        let since = missing.iter().map(|(_, since)| *since).min();
        let latest = missing.iter().map(|(_, since)| *since).max();
        let until = latest.map(|latest| latest + patience).filter(|until| *until > now);
        let parts: Vec<Part> = missing.into_iter().map(|(part, _)| part).collect();
        let nothing = !inner.slots.is_empty() && !inner.slots.values().any(|slot| slot.met.any());
        match since {
            Some(since) if nothing => return Whole::Awaited(Awaited { parts, since, until: None }),
            Some(since) if until.is_some() => return Whole::Awaited(Awaited { parts, since, until }),
            _ => {}
        }
        let (seq, counts) = (inner.seq, inner.counts());
        if let Some(cursor) = inner.readers.get_mut(&self.id).filter(|cursor| !cursor.compared) {
            cursor.hold = Some(seq);
        }
        self.table.release(inner);
        Whole::Ready(Everything { rows: inner.shown(), missing: parts, seq, counts })
    }
}

impl Inner {
    /// Tells whether anything that documents show changed after a position, as far as the journal reaches back.
    fn shows_changes(&self, hold: Seq) -> bool {
        let Some(mut changes) = self.journal.since(hold) else { return true };
        let shown = |id| self.rows.get(id).is_none_or(|entry| self.met(id.target, &entry.namespace));
        self.learned_since(hold).is_some() || changes.any(shown)
    }

    /// Returns the parts that were never known, and since when they are missing. Ascending.
    fn missing(&self) -> Vec<(Part, Instant)> {
        let mut missing: Vec<(Part, Instant)> = self
            .slots
            .values()
            .flat_map(|slot| {
                let part = |namespace: &_| Part {
                    target: slot.origin.target.name.clone(),
                    namespace: Clone::clone(namespace),
                };
                slot.met.missing().map(move |(namespace, since)| (part(namespace), since))
            })
            .collect();
        missing.sort_unstable();
        missing
    }

    fn shown(&self) -> Vec<Row> {
        let shown = self.rows.iter().filter(|(id, entry)| self.met(id.target, &entry.namespace));
        shown.filter_map(|(id, entry)| self.row(id, entry)).collect()
    }
}
