//! The reading end of the store: what a binding's sink lacks, of one table or of many.
//!
//! A plan over many tables is that of each, one after the other, and the pieces side by side (docs/adr/0008).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::knowledge::Targets;
use super::table::{Draft, Due, Piece, Shard, Table, parts_of};
use super::view::{CLUSTER, RollUp, View};
use super::{Compare, Counts, Knowledge, Plan, Shared, Store};
use crate::export::Selection;
use crate::model::{Namespace, Part, Row, Seq};

/// From so many parts on, a reader compares the whole scope at once.
const MAX_PARTS_COMPARED: usize = 64;

/// The reading end for one binding. Dropping it releases what the journals keep for it.
#[derive(Debug)]
pub struct Reader {
    view: View,
    /// The tables with the number that each has given this reader, ascending by namespace.
    tables: Vec<(Arc<Table>, u64)>,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

/// Where a reader stands beyond its place in each table.
#[derive(Debug, Clone, Default)]
struct State {
    /// The sink was compared with everything once.
    compared: bool,
    /// The positions of the last plan, in the order of the tables.
    planned: Vec<Seq>,
    /// What namespaces that are not read any more had added to the sum: a position only grows.
    base: u64,
    /// Namespaces that are not read any more and whose rows a sink may still hold.
    left: BTreeSet<Namespace>,
}

impl Reader {
    pub(super) fn of_table(table: &Arc<Table>) -> Self {
        let (view, shared) = (View::Namespace(table.namespace().clone()), table.shared().clone());
        Self { view, tables: vec![(table.clone(), table.enlist(None, None))], shared, state: Mutex::default() }
    }

    pub(super) fn new(store: &Store, view: &View) -> Self {
        Self::over(store, view, |_| None, State::default())
    }

    fn over(store: &Store, view: &View, after: impl Fn(&Namespace) -> Option<u64>, state: State) -> Self {
        let namespaces = match view {
            View::Namespace(namespace) => vec![namespace],
            View::RollUp(RollUp { namespaces, .. }) => namespaces.iter().collect(),
        };
        let tables = namespaces.into_iter().map(|namespace| {
            let table = store.table(namespace);
            let id = table.enlist(view.pick(), after(namespace));
            (table, id)
        });
        let tables = tables.collect();
        Self { view: view.clone(), tables, shared: store.shared.clone(), state: Mutex::new(state) }
    }

    /// Returns a reader of another view for the same sink. While the selection is the same it goes on where this one
    /// stands, and compares only the namespaces that came and went.
    #[must_use]
    pub fn turn(&self, store: &Store, view: &View) -> Self {
        let before = self.state.lock().clone();
        let (View::RollUp(old), View::RollUp(new)) = (&self.view, view) else { return Self::new(store, view) };
        if old.pick != new.pick || !before.compared {
            return Self::new(store, view);
        }
        let gone = old.namespaces.difference(&new.namespaces).cloned();
        let left = before.left.difference(&new.namespaces).cloned().chain(gone).collect();
        let stale = self.tables.iter().filter(|(table, _)| !new.namespaces.contains(table.namespace()));
        let base = before.base + stale.map(|(table, _)| table.seq().0).sum::<u64>();
        let place = |namespace: &Namespace| {
            let at = self.tables.binary_search_by(|(table, _)| table.namespace().cmp(namespace)).ok()?;
            self.tables.get(at).map(|(_, id)| *id)
        };
        Self::over(store, view, place, State { compared: true, planned: Vec::new(), base, left })
    }

    /// Returns which rows are shown.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Returns rows and digest of all that is shown, of known parts and of others.
    pub fn counts(&self) -> Counts {
        sum(self.tables.iter().map(|(table, id)| table.counts_of(*id)))
    }

    /// Returns what each namespace adds to a roll-up, ascending; those that add nothing are left out.
    pub fn shards(&self) -> Vec<Shard> {
        let Some(pick) = self.view.pick() else { return Vec::new() };
        self.tables.iter().filter_map(|(table, _)| table.shard(pick)).collect()
    }

    /// Returns what is known.
    pub fn knowledge(&self) -> Knowledge {
        let mut complete = self.complete();
        let all = self.tables.iter().map(|(table, id)| {
            let (known, targets) = table.knowing(*id);
            complete &= known;
            (table.namespace().clone(), targets)
        });
        let all = all.collect();
        self.known(complete, all)
    }

    /// Tells whether every part of every target is known.
    pub fn is_whole(&self) -> bool {
        self.complete() && self.tables.iter().all(|(table, id)| table.is_whole(*id))
    }

    /// Returns what the sink lacks. The journals keep all later changes until [`Reader::acknowledge`].
    pub fn plan(&self) -> Plan {
        let State { compared, base, left, .. } = self.state.lock().clone();
        let mut plan =
            Plan { compare: None, upserts: Vec::new(), deletes: Vec::new(), seq: Seq(base), counts: Counts::default() };
        if !self.may_begin(compared) {
            return plan;
        }
        let mut pieces: Vec<Piece> = if compared { self.pieces(Table::news) } else { Vec::new() };
        let mut parts = self.parts_of_left(&left);
        let mut everything = !compared;
        for piece in &pieces {
            match &piece.due {
                Due::Nothing => {}
                Due::Parts(due) => parts.extend(due.iter().cloned()),
                Due::Everything => everything = true,
            }
        }
        everything |= parts.len() > MAX_PARTS_COMPARED || self.is_ambiguous(&parts);
        if everything {
            pieces = self.pieces(Table::everything);
        }
        let selection = match (everything, parts.is_empty()) {
            (true, _) => Some(Selection::All),
            (false, true) => None,
            (false, false) => Some(Selection::Parts(parts.into_iter().collect())),
        };
        let planned: Vec<Seq> = pieces.iter().map(|piece| piece.seq).collect();
        plan.seq.0 += planned.iter().map(|seq| seq.0).sum::<u64>();
        plan.counts = sum(pieces.iter().map(|piece| piece.counts));
        self.state.lock().planned = planned;
        let (mut rows, mut known) = (Vec::new(), BTreeMap::new());
        for ((table, _), mut piece) in self.tables.iter().zip(pieces) {
            join(&mut plan.upserts, &mut piece.upserts);
            join(&mut plan.deletes, &mut piece.deletes);
            join(&mut rows, &mut piece.rows);
            if piece.due != Due::Nothing {
                known.insert(table.namespace().clone(), piece.knowing);
            }
        }
        plan.upserts.sort_unstable_by_key(Row::key);
        plan.deletes.sort_unstable();
        // Every table was complete before the first piece was made.
        plan.compare = selection.map(|selection| Compare { selection, rows, knowledge: self.known(true, known) });
        plan
    }

    /// Says that the sink has everything up to a plan's position.
    pub fn acknowledge(&self, seq: Seq) {
        let mut state = self.state.lock();
        let planned = match &self.view {
            View::Namespace(_) => vec![seq],
            // Of an earlier plan it is not known which position each table had; what is not acknowledged comes again.
            View::RollUp(_) if state.base + state.planned.iter().map(|seq| seq.0).sum::<u64>() != seq.0 => return,
            View::RollUp(_) => std::mem::take(&mut state.planned),
        };
        state.compared = true;
        state.left.clear();
        drop(state);
        for ((table, id), seq) in self.tables.iter().zip(planned) {
            table.acknowledge(*id, seq);
        }
    }

    /// Makes the next plan compare everything, as after a restart. The journals keep nothing for the reader until then.
    pub fn restart(&self) {
        let mut state = self.state.lock();
        *state = State { base: state.base, ..State::default() };
        drop(state);
        self.tables.iter().for_each(|(table, id)| table.restart(*id));
    }

    /// Before the targets are registered, and while no part was ever known, there is nothing to tell a sink.
    fn may_begin(&self, compared: bool) -> bool {
        let starts: Vec<_> = self.tables.iter().map(|(table, id)| table.start(*id)).collect();
        let empty = !starts.iter().any(|start| start.targets);
        let known = compared || empty || starts.iter().any(|start| start.listed);
        known && self.complete() && starts.iter().all(|start| start.complete)
    }

    /// Tells whether every target of the process is registered.
    pub(super) fn complete(&self) -> bool {
        match self.view {
            // A table says it of itself.
            View::Namespace(_) => true,
            View::RollUp(_) => self.shared.complete.load(Ordering::Relaxed),
        }
    }

    /// Tells whether namespaces are not read any more that a sink may hold rows of.
    pub(super) fn turned(&self) -> bool {
        let state = self.state.lock();
        !state.left.is_empty() || (self.tables.is_empty() && !state.compared)
    }

    pub(super) fn drafts(&self) -> Vec<Draft> {
        self.tables.iter().map(|(table, id)| table.draft(*id)).collect()
    }

    /// Returns the rows of a document, its position and its counts.
    pub(super) fn documents(&self) -> (Vec<Row>, Seq, Counts) {
        let (mut rows, mut counts, mut planned) = (Vec::new(), Counts::default(), Vec::new());
        for (table, id) in &self.tables {
            let (mut more, seq, counted) = table.document(*id);
            join(&mut rows, &mut more);
            counts.join(&counted);
            planned.push(seq);
        }
        let mut state = self.state.lock();
        let seq = Seq(state.base + planned.iter().map(|seq| seq.0).sum::<u64>());
        state.planned = planned;
        (rows, seq, counts)
    }

    fn pieces(&self, of: impl Fn(&Table, u64) -> Piece) -> Vec<Piece> {
        self.tables.iter().map(|(table, id)| of(table, *id)).collect()
    }

    fn parts_of_left(&self, left: &BTreeSet<Namespace>) -> BTreeSet<Part> {
        let targets = self.view.pick().into_iter().flat_map(|pick| &pick.targets);
        targets.flat_map(|target| left.iter().flat_map(|home| parts_of(target, home))).collect()
    }

    /// Tells whether a sink may give back more than these parts for their names: under the namespace of the inventory it may
    /// hold what lives in no namespace, which is another part.
    fn is_ambiguous(&self, parts: &BTreeSet<Part>) -> bool {
        matches!(self.view, View::RollUp(_)) && parts.iter().any(|part| part.namespace.as_str() == CLUSTER)
    }

    fn known(&self, complete: bool, mut all: BTreeMap<Namespace, Targets>) -> Knowledge {
        match &self.view {
            View::Namespace(namespace) => Knowledge::of_table(complete, all.remove(namespace).unwrap_or_default()),
            View::RollUp(_) => Knowledge::of_tables(complete, all),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tables.iter().for_each(|(table, id)| table.delist(*id));
    }
}

fn sum(all: impl Iterator<Item = Counts>) -> Counts {
    all.fold(Counts::default(), |mut sum, counts| {
        sum.join(&counts);
        sum
    })
}

/// Appends, without a copy where there is only one piece.
fn join<T>(all: &mut Vec<T>, more: &mut Vec<T>) {
    if all.is_empty() {
        *all = std::mem::take(more);
    } else {
        all.append(more);
    }
}
