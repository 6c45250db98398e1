//! The reading end of one table: where each reader stands, and what its sink lacks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Counts, Inner, Shard, Table};
use crate::model::{Part, Row, RowKey, Seq};
use crate::store::knowledge::Targets;
use crate::store::view::Pick;

/// Where a reader stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursor {
    /// What is read; everything without one.
    pick: Option<Arc<Pick>>,
    /// The reader has compared its sink with this table once.
    compared: bool,
    /// Changes after this are kept for it; none before its first plan.
    pub(super) hold: Option<Seq>,
}

/// What of a table has to be compared with what a sink holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Due {
    /// Nothing: the journal says it all.
    Nothing,
    /// These parts.
    Parts(BTreeSet<Part>),
    /// Everything that the sink has of the reader's inventory.
    Everything,
}

/// What a sink lacks of one table.
#[derive(Debug)]
pub(in crate::store) struct Piece {
    pub(in crate::store) due: Due,
    /// The rows of what is to be compared.
    pub(in crate::store) rows: Vec<Row>,
    pub(in crate::store) upserts: Vec<Row>,
    pub(in crate::store) deletes: Vec<RowKey>,
    pub(in crate::store) knowing: Targets,
    pub(in crate::store) seq: Seq,
    pub(in crate::store) counts: Counts,
}

/// What a reader can begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Start {
    /// Every target is registered.
    pub(in crate::store) complete: bool,
    pub(in crate::store) targets: bool,
    /// A part was listed.
    pub(in crate::store) listed: bool,
}

/// What a document would be made from.
#[derive(Debug)]
pub(in crate::store) struct Draft {
    pub(in crate::store) start: Start,
    pub(in crate::store) changed: bool,
    pub(in crate::store) missing: Vec<(Part, tokio::time::Instant)>,
}

impl Table {
    /// Adds a reader that has compared nothing yet, or that goes on where another one of the same selection stands.
    pub(in crate::store) fn enlist(&self, pick: Option<&Arc<Pick>>, after: Option<u64>) -> u64 {
        let mut inner = self.inner.lock();
        let id = inner.next_reader;
        inner.next_reader += 1;
        let before = after.and_then(|after| inner.readers.get(&after)).cloned().unwrap_or_default();
        if let Some(pick) = pick {
            inner.open(pick);
        }
        inner.readers.insert(id, Cursor { pick: pick.cloned(), ..before });
        id
    }

    /// Lets a reader go, with what the journal keeps for it.
    pub(in crate::store) fn delist(&self, id: u64) {
        let mut inner = self.inner.lock();
        if let Some(pick) = inner.readers.remove(&id).and_then(|cursor| cursor.pick) {
            inner.close(&pick);
        }
        self.release(&mut inner);
    }

    /// Says that the sink of a reader has everything up to a position.
    pub(in crate::store) fn acknowledge(&self, id: u64, seq: Seq) {
        let mut inner = self.inner.lock();
        if let Some(cursor) = inner.readers.get_mut(&id) {
            cursor.compared = true;
            cursor.hold = Some(seq);
        }
        self.release(&mut inner);
    }

    /// Forgets where a reader stands.
    pub(in crate::store) fn restart(&self, id: u64) {
        let mut inner = self.inner.lock();
        if let Some(cursor) = inner.readers.get_mut(&id) {
            *cursor = Cursor { pick: cursor.pick.take(), ..Cursor::default() };
        }
        self.release(&mut inner);
    }

    /// Tells with what a reader can begin.
    pub(in crate::store) fn start(&self, id: u64) -> Start {
        let inner = self.inner.lock();
        let (targets, listed) = inner.sight(inner.pick(id)).start();
        Start { complete: inner.complete, targets, listed }
    }

    /// Returns what the sink of a reader lacks. The journal keeps all later changes until [`Table::acknowledge`].
    pub(in crate::store) fn news(&self, id: u64) -> Piece {
        let mut inner = self.inner.lock();
        let cursor = inner.begin(id);
        let (sight, hold) = (inner.sight(cursor.pick.as_deref()), cursor.hold.unwrap_or_default());
        let due = if cursor.compared && inner.journal.since(hold).is_some() {
            sight.learned_since(hold, &self.namespace)
        } else {
            sight.all_parts(&self.namespace)
        };
        let mut piece = sight.piece(due, inner.seq);
        match &piece.due {
            Due::Everything => {}
            Due::Nothing => sight.changes(hold, &BTreeSet::new(), &mut piece),
            Due::Parts(parts) => {
                let parts = parts.clone();
                sight.changes(hold, &parts, &mut piece);
                piece.rows = sight.rows(Some(&parts));
            }
        }
        self.release(&mut inner);
        piece
    }

    /// Returns all that may be shown to a reader, as after [`Table::restart`].
    pub(in crate::store) fn everything(&self, id: u64) -> Piece {
        let mut inner = self.inner.lock();
        let cursor = inner.begin(id);
        let sight = inner.sight(cursor.pick.as_deref());
        let piece = Piece { rows: sight.rows(None), ..sight.piece(Due::Everything, inner.seq) };
        self.release(&mut inner);
        piece
    }

    /// Tells what a document of a reader would be made from.
    pub(in crate::store) fn draft(&self, id: u64) -> Draft {
        let inner = self.inner.lock();
        let Some(cursor) = inner.readers.get(&id) else {
            let start = Start { complete: false, targets: false, listed: false };
            return Draft { start, changed: false, missing: Vec::new() };
        };
        let sight = inner.sight(cursor.pick.as_deref());
        let (targets, listed) = sight.start_of_document();
        let start = Start { complete: inner.complete, targets, listed };
        let hold = cursor.hold.unwrap_or_default();
        let changed = !cursor.compared || sight.shows_changes(hold, &self.namespace);
        Draft { start, changed, missing: sight.missing() }
    }

    /// Returns the rows of a document of a reader. The journal keeps all later changes until [`Table::acknowledge`].
    pub(in crate::store) fn document(&self, id: u64) -> (Vec<Row>, Seq, Counts) {
        let mut inner = self.inner.lock();
        let cursor = inner.begin(id);
        let sight = inner.sight(cursor.pick.as_deref());
        let document = (sight.document(), inner.seq, sight.counts());
        self.release(&mut inner);
        document
    }

    /// Returns what has to be known for the rows of a reader to be complete.
    pub(in crate::store) fn knowing(&self, id: u64) -> (bool, Targets) {
        let inner = self.inner.lock();
        (inner.complete, inner.sight(inner.pick(id)).knowing())
    }

    /// Tells whether everything is known that a reader may be shown.
    pub(in crate::store) fn is_whole(&self, id: u64) -> bool {
        let inner = self.inner.lock();
        inner.complete && inner.sight(inner.pick(id)).is_whole()
    }

    /// Returns rows and digest of what a reader is shown.
    pub(in crate::store) fn counts_of(&self, id: u64) -> Counts {
        let inner = self.inner.lock();
        inner.sight(inner.pick(id)).counts()
    }

    /// Returns what the table adds to a selection, if that is anything.
    pub(in crate::store) fn shard(&self, pick: &Pick) -> Option<Shard> {
        self.inner.lock().shard(pick, &self.namespace)
    }
}

impl Inner {
    /// Returns where a reader stands. From its first plan on, later changes are kept for it.
    fn begin(&mut self, id: u64) -> Cursor {
        let seq = self.seq;
        let Some(cursor) = self.readers.get_mut(&id) else { return Cursor::default() };
        if !cursor.compared {
            cursor.hold = Some(seq);
        }
        cursor.clone()
    }

    fn pick(&self, id: u64) -> Option<&Pick> {
        self.readers.get(&id)?.pick.as_deref()
    }
}

impl super::Sight<'_> {
    fn piece(&self, due: Due, seq: Seq) -> Piece {
        // Under the same lock as the rows: what becomes known later says nothing of rows that were read before.
        let knowing = if due == Due::Nothing { Targets::new() } else { self.knowing() };
        let (rows, upserts, deletes) = (Vec::new(), Vec::new(), Vec::new());
        Piece { due, rows, upserts, deletes, knowing, seq, counts: self.counts() }
    }
}
