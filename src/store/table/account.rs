//! What is counted over a table, and over the selections of it that somebody reads.
//!
//! Each account is brought up to date with each row that is written or removed, so that a digest costs nothing to ask for.
//! Where one row of an object is enough, the others are in its shadow: those are looked up by the UID under each target of
//! the selection, which costs a change as many look-ups as there are targets, and no index.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Counts, Inner, RowId};
use crate::canonical;
use crate::model::{Digest, Name, Namespace, Row, Uid};
use crate::store::view::{Each, Pick};

/// What a row adds to an account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashed {
    lanes: [u64; 4],
    bytes: usize,
}

/// Rows and digest of a selection.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) counts: Counts,
    /// The targets by number, with their place in the order of names.
    ranks: BTreeMap<u32, usize>,
    /// The numbers of the targets, in the order of names.
    numbers: Vec<u32>,
    /// One row of an object is enough.
    one_each: bool,
    /// Rows that are shown of each target.
    shown: BTreeMap<u32, usize>,
    readers: usize,
}

/// What one namespace adds to a reader's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// The namespace.
    pub namespace: Namespace,
    /// Number of its rows.
    pub rows: usize,
    /// Targets that have rows among them.
    pub targets: usize,
    /// Their order-free digest.
    pub digest: Digest,
}

impl Hashed {
    pub(super) fn of(row: &Row) -> Self {
        let (lanes, bytes) = canonical::row_hash(row);
        Self { lanes, bytes }
    }
}

impl Counts {
    fn add(&mut self, row: Hashed) {
        self.rows += 1;
        self.bytes += row.bytes;
        self.digest.add(row.lanes);
    }

    fn remove(&mut self, row: Hashed) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(row.bytes);
        self.digest.remove(row.lanes);
    }

    /// Adds what is counted elsewhere, over other rows.
    pub(in crate::store) fn join(&mut self, other: &Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.digest.add(other.digest.0);
    }
}

impl Account {
    /// Returns the place of a target in the order of names, if it is selected.
    pub(super) fn rank(&self, target: u32) -> Option<usize> {
        self.ranks.get(&target).copied()
    }

    /// Returns the selected targets before a place, the nearest first. Their rows are in the shadow of one there.
    pub(super) fn before(&self, rank: usize) -> impl Iterator<Item = u32> {
        let shadow = self.numbers.get(..rank).filter(|_| self.one_each).unwrap_or_default();
        shadow.iter().rev().copied()
    }

    /// Returns the selected targets after a place, the last first. A row of theirs shadows one there.
    pub(super) fn after(&self, rank: usize) -> impl Iterator<Item = u32> {
        let above = self.numbers.get(rank + 1..).filter(|_| self.one_each).unwrap_or_default();
        above.iter().rev().copied()
    }

    /// Returns the selected targets up to a place: what changes there may be seen in all of these.
    pub(super) fn up_to(&self, rank: usize) -> impl Iterator<Item = u32> {
        let first = if self.one_each { 0 } else { rank };
        self.numbers.get(first..=rank).unwrap_or_default().iter().copied()
    }

    /// Returns the selected targets in the order of names.
    pub(super) fn targets(&self) -> impl Iterator<Item = u32> {
        self.numbers.iter().copied()
    }

    fn enter(&mut self, target: u32, row: Hashed) {
        self.counts.add(row);
        *self.shown.entry(target).or_default() += 1;
    }

    fn strike(&mut self, target: u32, row: Hashed) {
        self.counts.remove(row);
        if let Some(rows) = self.shown.get_mut(&target) {
            *rows = rows.saturating_sub(1);
            if *rows == 0 {
                self.shown.remove(&target);
            }
        }
    }
}

impl Inner {
    /// Opens the account of a selection for one more reader. The first one has it counted, at a microsecond for each row.
    pub(super) fn open(&mut self, pick: &Arc<Pick>) {
        if let Some(account) = self.accounts.get_mut(pick) {
            account.readers += 1;
            return;
        }
        let numbers: Vec<u32> = pick.targets.iter().map(|name: &Name| self.number(name)).collect();
        let ranks = numbers.iter().enumerate().map(|(rank, number)| (*number, rank)).collect();
        let one_each = pick.each == Each::Object;
        let mut account = Account { ranks, numbers, one_each, readers: 1, ..Account::default() };
        for number in account.numbers.clone() {
            let shown = self.of_target(number).filter(|(id, _)| self.shadowing(&account, id).is_none());
            let rows: Vec<Row> = shown.filter_map(|(id, entry)| self.row(id, entry)).collect();
            for row in rows {
                account.enter(number, Hashed::of(&row));
            }
        }
        self.accounts.insert(pick.clone(), account);
    }

    /// Closes the account of a selection when its last reader is gone.
    pub(super) fn close(&mut self, pick: &Pick) {
        let Some(account) = self.accounts.get_mut(pick) else { return };
        account.readers = account.readers.saturating_sub(1);
        if account.readers == 0 {
            self.accounts.remove(pick);
        }
    }

    /// Puts a row on the accounts that was written or removed just now.
    pub(super) fn book(&mut self, id: &RowId, before: Option<Hashed>, after: Option<Hashed>) {
        if let Some(row) = before {
            self.counts.remove(row);
        }
        if let Some(row) = after {
            self.counts.add(row);
        }
        let mut accounts = std::mem::take(&mut self.accounts);
        for account in accounts.values_mut() {
            let Some(rank) = account.rank(id.target) else { continue };
            if self.shadowing(account, id).is_some() {
                continue;
            }
            // What comes shadows the one behind it, and what goes uncovers that.
            let behind = if before.is_some() == after.is_some() { None } else { self.behind(account, rank, &id.uid) };
            let behind =
                behind.and_then(|there| Some((there.target, Hashed::of(&self.row(&there, self.rows.get(&there)?)?))));
            if let Some(row) = before {
                account.strike(id.target, row);
            }
            if let Some(row) = after {
                account.enter(id.target, row);
            }
            match behind {
                Some((target, row)) if after.is_some() => account.strike(target, row),
                Some((target, row)) => account.enter(target, row),
                None => {}
            }
        }
        self.accounts = accounts;
    }

    /// Returns the row that is shown in the place of this one.
    pub(super) fn shadowing(&self, account: &Account, id: &RowId) -> Option<RowId> {
        account.rank(id.target).and_then(|rank| self.first_of(account.after(rank), &id.uid))
    }

    /// Returns the row of an object that is shown when none at that place or after it is.
    pub(super) fn behind(&self, account: &Account, rank: usize, uid: &Uid) -> Option<RowId> {
        self.first_of(account.before(rank), uid)
    }

    fn first_of(&self, targets: impl Iterator<Item = u32>, uid: &Uid) -> Option<RowId> {
        targets.map(|target| RowId { target, uid: uid.clone() }).find(|id| self.rows.contains_key(id))
    }

    /// Returns what the table adds to a selection, if that is anything.
    pub(super) fn shard(&self, pick: &Pick, namespace: &Namespace) -> Option<Shard> {
        let Account { counts, shown, .. } = self.accounts.get(pick).filter(|account| account.counts.rows > 0)?;
        Some(Shard { namespace: namespace.clone(), rows: counts.rows, targets: shown.len(), digest: counts.digest })
    }
}

#[cfg(test)]
impl super::Table {
    /// Returns the number of accounts that are kept.
    pub(in crate::store) fn accounts(&self) -> usize {
        self.inner.lock().accounts.len()
    }
}
