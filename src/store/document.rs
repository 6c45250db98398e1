//! The reading end of the store for documents: everything that is known, or why it is not time yet.

use std::time::Duration;

use tokio::time::Instant;

use super::Counts;
use super::reader::Reader;
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
    /// The rows, namespace by namespace.
    pub rows: Vec<Row>,
    /// Parts that are left out, for they have been missing for too long. Ascending.
    pub missing: Vec<Part>,
    /// Position in the journal, to be acknowledged after the delivery.
    pub seq: Seq,
    /// Rows and digest of all that the reader is shown, of known parts and of others.
    pub counts: Counts,
}

impl Reader {
    /// Returns everything, if anything changed since the last acknowledged position. While a part is missing for no
    /// longer than `patience`, that is waited for. The journal keeps all later changes until [`Reader::acknowledge`].
    ///
    /// A part whose knowledge was lost is shown as it was last known: it is not taken from the sink because nobody can
    /// look at it any more.
    pub fn whole(&self, now: Instant, patience: Duration) -> Whole {
        let drafts = self.drafts();
        let changed = self.turned() || drafts.iter().any(|draft| draft.changed);
        if !self.complete() || !changed || drafts.iter().any(|draft| !draft.start.complete) {
            return Whole::Nothing;
        }
        let nothing = drafts.iter().any(|draft| draft.start.targets) && !drafts.iter().any(|draft| draft.start.listed);
        let mut missing: Vec<(Part, Instant)> = drafts.into_iter().flat_map(|draft| draft.missing).collect();
        missing.sort_unstable();
        let since = missing.iter().map(|(_, since)| *since).min();
        let latest = missing.iter().map(|(_, since)| *since).max();
        let until = latest.map(|latest| latest + patience).filter(|until| *until > now);
        let parts: Vec<Part> = missing.into_iter().map(|(part, _)| part).collect();
        match since {
            Some(since) if nothing => return Whole::Awaited(Awaited { parts, since, until: None }),
            Some(since) if until.is_some() => return Whole::Awaited(Awaited { parts, since, until }),
            _ => {}
        }
        let (rows, seq, counts) = self.documents();
        Whole::Ready(Everything { rows, missing: parts, seq, counts })
    }
}
