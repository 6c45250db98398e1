//! One job for a sink of rows: what is read, compared and sent, from a plan to its acknowledgement; and the end of a place.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::export::{self, Base, Delta, Difference, Held, Selection, Standing};
use crate::model::{Part, Row, RowKey};
use crate::schedule::Purpose;
use crate::sinks::{Audit, Receipt, Refused, RowSink, Sink, SinkError};
use crate::store::{Awaited, Compare, Plan, Reader};

use super::limits::{Ceiling, take_too_large};
use super::{Binding, Leaving};

/// Rows that a sink does not take.
pub(super) type Refusals = BTreeMap<RowKey, Refused>;

/// What a job came to.
#[derive(Debug)]
pub(super) enum Done {
    /// Nothing is known yet, or nothing differs.
    Nothing,
    /// An audit found nothing wrong.
    Intact,
    /// A document waits for parts that are not known yet.
    Awaiting(Awaited),
    /// The sink differs, and may not be written to before that.
    Held(Instant),
    /// The sink is at this standing.
    Delivered(Delivered),
}

/// What the sink has now.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) standing: Standing,
    /// Missing when nothing had to be written.
    pub(super) receipt: Option<Receipt>,
    /// Rows that the sink does not take, of this delivery and of earlier ones.
    pub(super) refused: Refusals,
    /// Rows that an audit put right.
    pub(super) repaired: u64,
    /// Parts that a document was written without.
    pub(super) missing: Vec<Part>,
}

/// What a job for a sink of rows works with.
#[derive(Debug)]
pub(super) struct RowJob<'a> {
    pub(super) binding: &'a Binding,
    pub(super) sink: Arc<dyn RowSink>,
    pub(super) reader: &'a Reader,
    /// Rows that the sink has not taken so far.
    pub(super) refused: &'a Refusals,
    /// Until when an earlier process keeps this one from writing.
    pub(super) held_until: Option<Instant>,
}

impl RowJob<'_> {
    pub(super) async fn run(&self, purpose: Purpose) -> Result<Done, SinkError> {
        match purpose {
            Purpose::Deliver => self.deliver().await,
            Purpose::Audit => self.audit().await,
        }
    }

    /// Brings the sink up to date.
    async fn deliver(&self) -> Result<Done, SinkError> {
        let plan = self.reader.plan();
        if plan.is_empty() {
            return Ok(Done::Nothing);
        }
        let standing = self.standing(&plan);
        let compared = plan.compare.as_ref().map(|compare| compare.selection.clone());
        let mut delta = self.delta(plan, standing).await?;
        // A comparison of everything finds again what is still refused.
        let mut refused = if compared == Some(Selection::All) { Refusals::new() } else { self.refused.clone() };
        let too_large = self.take_too_large(&mut delta);
        refused.retain(|key, _| !delta.touches(key));
        refused.extend(too_large);
        if let Some(until) = self.held_until.filter(|_| !delta.is_empty()) {
            return Ok(Done::Held(until));
        }
        // After a comparison the standing is recorded even when no row differs, so that readers see that it was checked.
        let receipt =
            if compared.is_some() || !delta.is_empty() { Some(self.sink.deliver(&delta).await?) } else { None };
        refused.extend(receipt.iter().flat_map(|receipt| &receipt.refused).map(|row| (row.key.clone(), row.clone())));
        self.reader.acknowledge(standing.seq);
        Ok(Done::Delivered(Delivered { standing, receipt, refused, repaired: 0, missing: Vec::new() }))
    }

    /// Looks whether the sink still has what it was given, and mends what it has not.
    async fn audit(&self) -> Result<Done, SinkError> {
        if self.held_until.is_some() {
            // What waits is compared with everything once it may be written.
            return Ok(Done::Intact);
        }
        if !self.refused.is_empty() {
            // The audit of a sink that refuses rows is another try.
            self.reader.restart();
            return self.deliver().await;
        }
        let scope = &self.binding.scope;
        if self.sink.audit(scope).await? == Audit::Intact {
            return Ok(Done::Intact);
        }
        let waiting = self.reader.plan();
        let waiting = waiting.upserts.len() + waiting.deletes.len();
        self.reader.restart();
        let plan = self.reader.plan();
        let standing = self.standing(&plan);
        let Some(compare) = plan.compare else { return Ok(Done::Intact) };
        let held = self.sink.verify(scope, &compare.rows).await?;
        // What is not known cannot be mended, so the sink must not take what it then holds for sound.
        let base = if compare.knowledge.whole() { Base::Drifted } else { Base::Doubtful };
        let Difference { upserts, deletes, .. } = self.difference(compare, held).await;
        let mut delta = Delta { scope: scope.clone(), upserts, deletes, standing, base };
        let mut refused = self.take_too_large(&mut delta);
        let receipt = self.sink.deliver(&delta).await?;
        refused.extend(receipt.refused.iter().map(|row| (row.key.clone(), row.clone())));
        self.reader.acknowledge(standing.seq);
        let repaired = (receipt.written + receipt.deleted).saturating_sub(waiting as u64);
        let receipt = Some(receipt);
        Ok(Done::Delivered(Delivered { standing, receipt, refused, repaired, missing: Vec::new() }))
    }

    fn standing(&self, plan: &Plan) -> Standing {
        Standing {
            rows: plan.counts.rows as u64,
            digest: plan.counts.digest,
            generation: self.binding.generation,
            seq: plan.seq,
        }
    }

    async fn delta(&self, plan: Plan, standing: Standing) -> Result<Delta, SinkError> {
        let scope = &self.binding.scope;
        let Plan { compare, mut upserts, mut deletes, .. } = plan;
        let mut base = Base::Filled;
        if let Some(compare) = compare {
            let held = self.sink.recover(scope, &compare.selection, &compare.rows).await?;
            if compare.selection == Selection::All && held.is_empty() {
                base = Base::Empty;
            }
            let found = self.difference(compare, held).await;
            // Most of the time these are changes that nobody saw while no process ran. They can as well be somebody's
            // edits, and where some are there may be more, under fingerprints that were left alone.
            if found.replaced > 0 || !found.deletes.is_empty() {
                base = Base::Doubtful;
            }
            upserts.extend(found.upserts);
            upserts.sort_unstable_by_key(Row::key);
            deletes.extend(found.deletes);
            deletes.sort_unstable();
            deletes.dedup();
        }
        Ok(Delta { scope: scope.clone(), upserts, deletes, standing, base })
    }

    /// Compares off the async threads: a fingerprint costs about a microsecond, and there may be 100,000.
    async fn difference(&self, compare: Compare, held: Vec<Held>) -> Difference {
        let (sink, scope) = (self.sink.clone(), self.binding.scope.clone());
        beside(move || {
            let Compare { rows, knowledge, .. } = compare;
            export::compare(
                rows,
                held,
                |key, namespace| knowledge.covers(key, namespace),
                |row| sink.fingerprint(&scope, row),
            )
        })
        .await
    }

    /// Takes rows above `maxExportBytes` out of a delta. Such a row is not left behind in an older state.
    fn take_too_large(&self, delta: &mut Delta) -> Refusals {
        let Some(bytes) = self.binding.max_export_bytes else { return Refusals::new() };
        let ceiling = Ceiling { bytes: bytes.get(), setting: "spec.maxExportBytes" };
        let large = take_too_large(&delta.scope, ceiling, &mut delta.upserts);
        delta.deletes.extend(large.keys().cloned());
        delta.deletes.sort_unstable();
        delta.deletes.dedup();
        large
    }
}

/// Does what takes long off the async threads.
pub(super) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Ends what a place holds of an inventory, unless one of the `others`, to which it is delivered, is the same place by
/// another address: a server that got a new name, or a pooler before it.
pub(super) async fn leave(leaving: &Leaving, others: &[Arc<dyn Sink>]) -> Result<Done, SinkError> {
    if !others.is_empty()
        && let Some(identity) = leaving.sink.identity().await?
    {
        for other in others {
            if other.identity().await?.as_ref() == Some(&identity) {
                return Ok(Done::Nothing);
            }
        }
    }
    leaving.sink.leave(&leaving.scope, leaving.leave).await.map(|_| Done::Nothing)
}
