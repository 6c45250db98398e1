//! A table as one reader sees it: everything, or a selection.
//!
//! Where one row of an object is shown, a part is known when those of the targets after it that collect the same kind are
//! known there, too: before that nobody can say which row it is, and what a sink has stays.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::account::Account;
use super::places::Place;
use super::{Counts, Due, Entry, Inner, Learned, Piece, RowId, Slot};
use crate::model::{Name, Namespace, Part, Row, Seq};
use crate::store::knowledge::Targets;
use crate::store::view::{HOME, Pick};

/// What a reader sees of a table.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Sight<'a> {
    inner: &'a Inner,
    /// Missing where everything is shown.
    account: Option<&'a Account>,
}

impl Inner {
    /// Looks at the table with the eyes of those who read a selection, or everything.
    pub(super) fn sight(&self, pick: Option<&Pick>) -> Sight<'_> {
        Sight { inner: self, account: pick.and_then(|pick| self.accounts.get(pick)) }
    }
}

impl<'a> Sight<'a> {
    /// Returns rows and digest.
    pub(super) fn counts(&self) -> Counts {
        self.account.map_or(self.inner.counts, |account| account.counts)
    }

    /// Tells whether there is a target, and whether any part was listed.
    pub(super) fn start(&self) -> (bool, bool) {
        let listed = |slot: &Slot| !slot.knowing.known.is_empty();
        (self.slots().next().is_some(), self.slots().any(|(_, slot)| listed(slot)))
    }

    fn slots(&self) -> impl Iterator<Item = (u32, &'a Slot)> {
        let account = self.account;
        let all = self.inner.slots.iter().map(|(number, slot)| (*number, slot));
        all.filter(move |(number, _)| account.is_none_or(|account| account.rank(*number).is_some()))
    }

    /// Returns the targets that have to be known as well for one of them to be.
    fn above(&self, target: u32) -> impl Iterator<Item = &'a Slot> {
        let slots = &self.inner.slots;
        let kind = slots.get(&target).map(|slot| &slot.origin.gvk.kind);
        let ranked = self.account.and_then(|account| Some((account, account.rank(target)?)));
        let after = ranked.into_iter().flat_map(|(account, rank)| account.after(rank));
        after.filter_map(|number| slots.get(&number)).filter(move |slot| Some(&slot.origin.gvk.kind) == kind)
    }

    /// Tells whether every part is known.
    pub(super) fn is_whole(&self) -> bool {
        self.slots().all(|(_, slot)| slot.knowing.whole())
    }

    fn has(&self, target: u32) -> bool {
        self.account.is_none_or(|account| account.rank(target).is_some())
    }

    /// Tells whether rows of that target at that place may be shown.
    fn knows(&self, target: u32, place: Place) -> bool {
        self.inner.known(target, place)
            && self.above(target).all(|slot| slot.knowing.knows(self.inner.places.of(place)))
    }

    /// Tells whether they may be shown in a document.
    fn met(&self, target: u32, place: Place) -> bool {
        self.inner.met(target, place) && self.above(target).all(|slot| slot.met.has(self.inner.places.of(place)))
    }

    /// Tells whether a row is shown, rather than another one of its object.
    fn shows(&self, id: &RowId) -> bool {
        self.account
            .is_none_or(|account| account.rank(id.target).is_some() && self.inner.shadowing(account, id).is_none())
    }

    /// Returns what has to be known of each target for its rows to be complete.
    pub(super) fn knowing(&self) -> Targets {
        let all = self.slots().map(|(number, slot)| {
            let knowing = std::iter::once(slot).chain(self.above(number)).map(|slot| slot.knowing.clone());
            (slot.origin.target.name.clone(), knowing.collect())
        });
        all.collect()
    }

    /// Returns the parts that a reader at `hold` has never compared.
    pub(super) fn learned_since(&self, hold: Seq, home: &Namespace) -> Due {
        let mut parts: BTreeSet<Part> = BTreeSet::new();
        for Learned { target, namespace, .. } in self.inner.learned.iter().filter(|learned| learned.seq > hold) {
            let part =
                |target: &Name, namespace: &Namespace| Part { target: target.clone(), namespace: namespace.clone() };
            match (self.account, namespace) {
                (None, None) => return Due::Everything,
                (None, Some(namespace)) => {
                    parts.insert(part(target, namespace));
                }
                (Some(account), _) => {
                    let number = self.inner.numbers.get(target);
                    let Some(rank) = number.and_then(|number| account.rank(*number)) else { continue };
                    for number in account.up_to(rank) {
                        let name = &self.inner.names[number as usize];
                        match namespace {
                            Some(namespace) => parts.extend([part(name, namespace)]),
                            None => parts.extend(parts_of(name, home)),
                        }
                    }
                }
            }
        }
        if parts.is_empty() { Due::Nothing } else { Due::Parts(parts) }
    }

    /// Returns what a reader has to compare that has nothing of this table.
    pub(super) fn all_parts(&self, home: &Namespace) -> Due {
        let Some(account) = self.account else { return Due::Everything };
        let names = account.targets().map(|number| &self.inner.names[number as usize]);
        Due::Parts(names.flat_map(|name| parts_of(name, home)).collect())
    }

    /// Fills in the journal's changes after `hold` that are known and not part of a comparison.
    pub(super) fn changes(&self, hold: Seq, compared: &BTreeSet<Part>, piece: &mut Piece) {
        for id in self.inner.journal.since(hold).into_iter().flatten().filter(|id| self.has(id.target)) {
            let shadowing = self.account.and_then(|account| self.inner.shadowing(account, id));
            let there = self.inner.rows.get(id);
            match (shadowing.and_then(|id| self.inner.rows.get(&id)), there) {
                // It was in the shadow before.
                (Some(shown), _) if shown.seq <= hold => {}
                (Some(_), Some(entry)) if !self.knows(id.target, entry.place) => {}
                (Some(_), _) => piece.deletes.push(self.inner.key(id)),
                (None, Some(entry)) => self.show(id, entry, compared, piece),
                (None, None) => {
                    piece.deletes.push(self.inner.key(id));
                    self.uncover(id, compared, piece);
                }
            }
        }
        piece.upserts.sort_unstable_by_key(Row::key);
        piece.upserts.dedup_by_key(|row| row.key());
        piece.deletes.sort_unstable();
        piece.deletes.dedup();
    }

    /// Adds a row that changed, and takes away those that it may have put into its shadow.
    fn show(&self, id: &RowId, entry: &Entry, compared: &BTreeSet<Part>, piece: &mut Piece) {
        if !self.knows(id.target, entry.place) {
            return;
        }
        let part = Part { target: self.inner.key(id).target, namespace: self.inner.places.of(entry.place).clone() };
        if !compared.contains(&part) {
            piece.upserts.extend(self.inner.row(id, entry));
        }
        let ranked = self.account.and_then(|account| Some((account, account.rank(id.target)?)));
        for target in ranked.into_iter().flat_map(|(account, rank)| account.before(rank)) {
            let other = RowId { target, uid: id.uid.clone() };
            if self.inner.rows.get(&other).is_some_and(|entry| self.knows(target, entry.place)) {
                piece.deletes.push(self.inner.key(&other));
            }
        }
    }

    /// Adds the row that was behind one that is gone.
    fn uncover(&self, gone: &RowId, compared: &BTreeSet<Part>, piece: &mut Piece) {
        let Some(account) = self.account else { return };
        let behind = account.rank(gone.target).and_then(|rank| self.inner.behind(account, rank, &gone.uid));
        let Some(behind) = behind else { return };
        let Some(entry) = self.inner.rows.get(&behind) else { return };
        let part =
            Part { target: self.inner.key(&behind).target, namespace: self.inner.places.of(entry.place).clone() };
        if self.knows(behind.target, entry.place) && !compared.contains(&part) {
            piece.upserts.extend(self.inner.row(&behind, entry));
        }
    }

    /// Returns the rows that may be shown, of some parts or of all, in the order of their targets.
    pub(super) fn rows(&self, parts: Option<&BTreeSet<Part>>) -> Vec<Row> {
        if parts.is_some_and(BTreeSet::is_empty) {
            return Vec::new();
        }
        let wanted = |row: &Row| {
            let part = || Part { target: row.origin.target.name.clone(), namespace: row.namespace.clone() };
            parts.is_none_or(|parts| parts.contains(&part()))
        };
        let shown = self.inner.rows.iter().filter(|(id, entry)| self.shows(id) && self.knows(id.target, entry.place));
        shown.filter_map(|(id, entry)| self.inner.row(id, entry)).filter(wanted).collect()
    }

    /// Tells whether anything that documents show changed after a position, as far as the journal reaches back.
    pub(super) fn shows_changes(&self, hold: Seq, home: &Namespace) -> bool {
        let Some(changes) = self.inner.journal.since(hold) else { return true };
        let met = |id| self.inner.rows.get(id).is_none_or(|entry| self.met(id.target, entry.place));
        !matches!(self.learned_since(hold, home), Due::Nothing) || changes.filter(|id| self.has(id.target)).any(met)
    }

    /// Returns the parts that were never known, and since when they are missing.
    pub(super) fn missing(&self) -> Vec<(Part, Instant)> {
        let parts = self.slots().flat_map(|(_, slot)| {
            let target = &slot.origin.target.name;
            let part = move |namespace: &Namespace| Part { target: target.clone(), namespace: namespace.clone() };
            slot.met.missing().map(move |(namespace, since)| (part(namespace), since))
        });
        parts.collect()
    }

    /// Tells whether there is a target, and whether any part may be shown in a document.
    pub(super) fn start_of_document(&self) -> (bool, bool) {
        (self.slots().next().is_some(), self.slots().any(|(_, slot)| slot.met.any()))
    }

    /// Returns the rows that a document shows.
    pub(super) fn document(&self) -> Vec<Row> {
        let shown = self.inner.rows.iter().filter(|(id, entry)| self.shows(id) && self.met(id.target, entry.place));
        shown.filter_map(|(id, entry)| self.inner.row(id, entry)).collect()
    }
}

/// Returns the parts that a target can have in the table of a namespace that it was registered in as a cluster target.
pub(in crate::store) fn parts_of(target: &Name, home: &Namespace) -> impl Iterator<Item = Part> + use<> {
    let part = |namespace: Namespace| Part { target: target.clone(), namespace };
    let nowhere = (home.as_str() == HOME).then(|| part(Namespace::new("")));
    [part(home.clone())].into_iter().chain(nowhere)
}
