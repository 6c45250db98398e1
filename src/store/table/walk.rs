//! Reading the rows of one target step by step, for those who add them up.
//!
//! A step holds the lock for some tens of microseconds, however many rows there are, so that writers and deliveries never
//! wait for a walk. In return a walk sees no single moment: a row that changes meanwhile is seen as it was or as it is.
//! Whoever noted [`Target::changed`] before the first step finds it different afterwards, and knows to walk again.

use std::ops::Bound;

use super::{RowId, Target};
use crate::model::{Body, Seq};

/// Rows that a step looks at.
const STEP: usize = 512;

/// A way through the rows of a target, in the order of their UIDs.
#[derive(Debug)]
pub struct Walk<'a> {
    target: &'a Target,
    since: Seq,
    /// The last row that was looked at.
    last: Option<RowId>,
}

impl Target {
    /// Returns the position of the last change of these rows; `None` once the target is removed or replaced.
    pub fn changed(&self) -> Option<Seq> {
        let mut inner = self.table.inner.lock();
        self.slot(&mut inner).map(|slot| slot.changed)
    }

    /// Tells whether every part is known.
    pub fn is_whole(&self) -> bool {
        let mut inner = self.table.inner.lock();
        self.slot(&mut inner).is_some_and(|slot| slot.knowing.whole())
    }

    /// Starts at the first row. Only rows that changed after `since` are shown; with zero, all.
    pub fn walk(&self, since: Seq) -> Walk<'_> {
        Walk { target: self, since, last: None }
    }
}

impl Iterator for Walk<'_> {
    type Item = Vec<Body>;

    /// Takes a step. What it shows may be empty although more follows.
    fn next(&mut self) -> Option<Vec<Body>> {
        let mut inner = self.target.table.inner.lock();
        self.target.slot(&mut inner)?;
        let number = self.target.number;
        let lowest = RowId::first(number);
        let first = self.last.as_ref().map_or(Bound::Included(&lowest), Bound::Excluded);
        let rows = inner.rows.range((first, Bound::Unbounded)).take_while(|(id, _)| id.target == number).take(STEP);
        let (mut bodies, mut last) = (Vec::new(), None);
        for (id, entry) in rows {
            last = Some(id);
            if entry.seq > self.since {
                bodies.push(entry.body.clone());
            }
        }
        self.last = Some(last?.clone());
        Some(bodies)
    }
}
