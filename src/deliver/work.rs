//! One job: what is read, compared and sent, from a plan to its acknowledgement.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::canonical;
use crate::export::{self, Base, Delta, Difference, Held, Scope, Selection, Standing};
use crate::model::{Row, RowKey};
use crate::sinks::{Audit, Receipt, Refused, Sink, SinkError};
use crate::store::{Compare, Plan, Reader};

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
}

/// Brings a sink up to date.
pub(super) async fn deliver(binding: &Binding, reader: &Reader, refused: &Refusals) -> Result<Done, SinkError> {
    let plan = reader.plan();
    if plan.is_empty() {
        return Ok(Done::Nothing);
    }
    let standing = standing(binding, &plan);
    let compared = plan.compare.as_ref().map(|compare| compare.selection.clone());
    let mut delta = delta(binding, plan, standing).await?;
    // A comparison of everything finds again what is still refused.
    let mut refused = if compared == Some(Selection::All) { Refusals::new() } else { refused.clone() };
    let too_large = take_too_large(binding, &mut delta);
    refused.retain(|key, _| !delta.touches(key));
    refused.extend(too_large);
    // After a comparison the standing is recorded even when no row differs, so that readers see that it was checked.
    let receipt =
        if compared.is_some() || !delta.is_empty() { Some(binding.sink.deliver(&delta).await?) } else { None };
    refused.extend(receipt.iter().flat_map(|receipt| &receipt.refused).map(|row| (row.key.clone(), row.clone())));
    reader.acknowledge(standing.seq);
    Ok(Done::Delivered(Delivered { standing, receipt, refused, repaired: 0 }))
}

/// Looks whether a sink still has what it was given, and mends what it has not.
pub(super) async fn audit(binding: &Binding, reader: &Reader, refused: &Refusals) -> Result<Done, SinkError> {
    if !refused.is_empty() {
        // The audit of a sink that refuses rows is another try.
        reader.restart();
        return deliver(binding, reader, refused).await;
    }
    if binding.sink.audit(&binding.scope).await? == Audit::Intact {
        return Ok(Done::Intact);
    }
    let waiting = reader.plan();
    let waiting = waiting.upserts.len() + waiting.deletes.len();
    reader.restart();
    let plan = reader.plan();
    let standing = standing(binding, &plan);
    let Some(compare) = plan.compare else { return Ok(Done::Intact) };
    let held = binding.sink.verify(&binding.scope, &compare.rows).await?;
    // What is not known cannot be mended, so the sink must not take what it then holds for sound.
    let base = if compare.knowledge.whole() { Base::Drifted } else { Base::Doubtful };
    let Difference { upserts, deletes, .. } = difference(binding, compare, held).await;
    let mut delta = Delta { scope: binding.scope.clone(), upserts, deletes, standing, base };
    let mut refused: Refusals = take_too_large(binding, &mut delta).collect();
    let receipt = binding.sink.deliver(&delta).await?;
    refused.extend(receipt.refused.iter().map(|row| (row.key.clone(), row.clone())));
    reader.acknowledge(standing.seq);
    let repaired = (receipt.written + receipt.deleted).saturating_sub(waiting as u64);
    Ok(Done::Delivered(Delivered { standing, receipt: Some(receipt), refused, repaired }))
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

fn standing(binding: &Binding, plan: &Plan) -> Standing {
    Standing {
        rows: plan.counts.rows as u64,
        digest: plan.counts.digest,
        generation: binding.generation,
        seq: plan.seq,
    }
}

async fn delta(binding: &Binding, plan: Plan, standing: Standing) -> Result<Delta, SinkError> {
    let Plan { compare, mut upserts, mut deletes, .. } = plan;
    let mut base = Base::Filled;
    if let Some(compare) = compare {
        let held = binding.sink.recover(&binding.scope, &compare.selection).await?;
        if compare.selection == Selection::All && held.is_empty() {
            base = Base::Empty;
        }
        let found = difference(binding, compare, held).await;
        // Most of the time these are changes that nobody saw while no process ran. They can as well be somebody's edits,
        // and where some are there may be more, under fingerprints that were left alone.
        if found.replaced > 0 || !found.deletes.is_empty() {
            base = Base::Doubtful;
        }
        upserts.extend(found.upserts);
        upserts.sort_unstable_by_key(Row::key);
        deletes.extend(found.deletes);
        deletes.sort_unstable();
        deletes.dedup();
    }
    Ok(Delta { scope: binding.scope.clone(), upserts, deletes, standing, base })
}

/// Compares off the async threads: a fingerprint costs about a microsecond, and there may be 100,000.
async fn difference(binding: &Binding, compare: Compare, held: Vec<Held>) -> Difference {
    let (sink, scope) = (binding.sink.clone(), binding.scope.clone());
    let work = move || {
        let Compare { rows, knowledge, .. } = compare;
        export::compare(
            rows,
            held,
            |key, namespace| knowledge.covers(key, namespace),
            |row| sink.fingerprint(&scope, row),
        )
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(difference) => difference,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Takes rows above `maxExportBytes` out of a delta: what cannot be split is refused, and its row is not left behind in
/// an older state.
fn take_too_large(binding: &Binding, delta: &mut Delta) -> impl Iterator<Item = (RowKey, Refused)> + use<> {
    let Some(ceiling) = binding.max_row_bytes else { return Vec::new().into_iter() };
    let mut large = Vec::new();
    let mut text = Vec::new();
    delta.upserts.retain(|row| {
        text.clear();
        canonical::write_item(row, &mut text);
        let bytes = text.len() as u64;
        if bytes > ceiling.get() {
            large.push((row.key(), too_large(&binding.scope, row, bytes, ceiling.get())));
        }
        bytes <= ceiling.get()
    });
    delta.deletes.extend(large.iter().map(|(key, _)| key.clone()));
    delta.deletes.sort_unstable();
    delta.deletes.dedup();
    large.into_iter()
}

fn too_large(scope: &Scope, row: &Row, bytes: u64, ceiling: u64) -> Refused {
    let gvk = &row.origin.gvk;
    let group = if gvk.group.is_empty() { String::new() } else { format!("{}/", gvk.group) };
    let place = if row.namespace.is_empty() { String::new() } else { format!("{}/", row.namespace) };
    Refused {
        key: row.key(),
        object: format!("{group}{} {} {place}{}", gvk.version, gvk.kind, row.body.name()),
        reason: "PayloadTooLarge",
        message: format!(
            "one row of inventory {} has {bytes} bytes, more than spec.maxExportBytes ({ceiling}); raise it, or let the \
             profile name fewer attributes",
            scope.inventory
        ),
        excess: Some((bytes, ceiling)),
    }
}
