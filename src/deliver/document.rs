//! One job for a sink of documents: when there is something to write, what that is, and what it waits for.
//!
//! A document is all rows or none, so that it waits until every part of the inventory was known once (D4). A part that
//! cannot be listed does not hold it up for ever: after the grace the document is written without it, and says so in the
//! report. Publishing compares, so that a restart and an audit are the same as a delivery.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Binding;
use super::limits::{Ceiling, take_too_large};
use super::work::{Delivered, Done, Refusals, beside};
use crate::export::document::canonical_order;
use crate::export::{Document, Standing};
use crate::model::Part;
use crate::schedule::Purpose;
use crate::sinks::{DocumentSink, SinkError};
use crate::store::{Everything, Reader, Whole};

/// How long a document waits for what is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For each part, from when it is missing; and in total.
    pub(super) grace: Duration,
    /// Since when this binding waits.
    pub(super) since: Option<Instant>,
}

impl Patience {
    /// Asks the store for everything; what comes to be missing one after the other is not waited for one after the other.
    fn read(self, reader: &Reader, now: Instant) -> Whole {
        let end = self.since.unwrap_or(now) + self.grace;
        let whole = reader.whole(now, if end > now { self.grace } else { Duration::ZERO });
        match whole {
            Whole::Awaited(mut awaited) => {
                awaited.until = awaited.until.map(|until| until.min(end));
                Whole::Awaited(awaited)
            }
            other => other,
        }
    }
}

/// What a job for a sink of documents works with.
#[derive(Debug)]
pub(super) struct DocumentJob<'a> {
    pub(super) binding: &'a Binding,
    pub(super) sink: Arc<dyn DocumentSink>,
    pub(super) reader: &'a Reader,
    pub(super) patience: Patience,
    /// Since when a change waits to be delivered.
    pub(super) behind_since: Option<Instant>,
    /// Limit of one part in bytes, where the user set no lower one.
    pub(super) max_export_bytes: NonZeroU64,
    /// Until when an earlier process keeps this one from writing.
    pub(super) held_until: Option<Instant>,
}

/// A document that may be published.
struct Draft {
    document: Document,
    /// Rows that are no part of it.
    refused: Refusals,
    /// Parts that are not.
    missing: Vec<Part>,
}

impl DocumentJob<'_> {
    pub(super) async fn run(&self, purpose: Purpose) -> Result<Done, SinkError> {
        match purpose {
            Purpose::Deliver => self.deliver().await,
            Purpose::Audit => self.audit().await,
        }
    }

    /// Writes the document if anything changed.
    async fn deliver(&self) -> Result<Done, SinkError> {
        match self.patience.read(self.reader, Instant::now()) {
            Whole::Nothing => Ok(Done::Nothing),
            Whole::Awaited(awaited) => Ok(Done::Awaiting(awaited)),
            Whole::Ready(everything) => {
                let draft = self.draft(everything).await;
                match self.held_until {
                    Some(until) if !self.sink.has(&draft.document).await? => Ok(Done::Held(until)),
                    _ => self.publish(draft).await.map(Done::Delivered),
                }
            }
        }
    }

    /// Publishes again. What is written although nothing changed here was changed there.
    ///
    /// A change that waits is not written before its interval is over, and then everything is looked at.
    async fn audit(&self) -> Result<Done, SinkError> {
        if self.behind_since.is_some() {
            return Ok(Done::Intact);
        }
        let clean = matches!(self.reader.whole(Instant::now(), Duration::ZERO), Whole::Nothing);
        self.reader.restart();
        match self.patience.read(self.reader, Instant::now()) {
            Whole::Nothing | Whole::Awaited(_) => Ok(Done::Intact),
            Whole::Ready(everything) => {
                let mut delivered = self.publish(self.draft(everything).await).await?;
                delivered.repaired = if clean { delivered.rows() } else { 0 };
                Ok(Done::Delivered(delivered))
            }
        }
    }

    async fn draft(&self, everything: Everything) -> Draft {
        let exported_at = Timestamp::now();
        let Everything { mut rows, missing, seq, counts } = everything;
        let (scope, ceiling) = (self.binding.scope.clone(), self.ceiling());
        let (rows, refused) = beside(move || {
            let refused = take_too_large(&scope, ceiling, &mut rows);
            rows.sort_unstable_by(canonical_order);
            (rows, refused)
        })
        .await;
        let generation = self.binding.generation;
        let standing = Standing { rows: rows.len() as u64, digest: counts.digest, generation, seq };
        let scope = self.binding.scope.clone();
        let document = Document { scope, rows: rows.into(), standing, max_part_bytes: ceiling.bytes, exported_at };
        Draft { document, refused, missing }
    }

    async fn publish(&self, draft: Draft) -> Result<Delivered, SinkError> {
        let Draft { document, mut refused, missing } = draft;
        let standing = document.standing;
        let receipt = self.sink.publish(&document).await?;
        refused.extend(receipt.refused.iter().map(|row| (row.key.clone(), row.clone())));
        self.reader.acknowledge(standing.seq);
        Ok(Delivered { standing, receipt: Some(receipt), refused, repaired: 0, missing })
    }

    /// Returns the limit of one part, which no row may exceed.
    fn ceiling(&self) -> Ceiling {
        match self.binding.max_export_bytes {
            Some(bytes) if bytes < self.max_export_bytes => {
                Ceiling { bytes: bytes.get(), setting: "spec.maxExportBytes" }
            }
            _ => Ceiling { bytes: self.max_export_bytes.get(), setting: "--max-export-bytes" },
        }
    }
}
