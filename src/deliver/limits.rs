//! What is too large, and what is large enough to say so.
//!
//! Warnings are counted with every delivery, and again every ten minutes for as long as they hold (D6).

use std::time::Duration;

use super::Failure;
use super::work::Refusals;
use crate::canonical;
use crate::error::Class;
use crate::export::Scope;
use crate::metrics::{Fault, Metrics};
use crate::model::{BindingKey, Row};
use crate::sinks::Refused;
use crate::store::Counts;

/// How often a warning that still holds is given again.
pub(super) const REMIND: Duration = Duration::from_mins(10);
/// From so many rows on, splitting an inventory is advised.
pub const SHARD_WARNING_ROWS: usize = 1800;
/// From so many bytes of rows on, an inventory is large for a document.
const SPILL_WARNING_BYTES: usize = 1024 * 1024;
/// So many refused rows are spelled out in a condition.
const NAMED: usize = 3;
/// What the text of a row has beside its attributes, at the most: names, and six bytes for each of their characters.
const ROW_FRAME_BYTES: u64 = 16 * 1024;

/// What one row may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ceiling {
    pub(super) bytes: u64,
    /// The field or flag that says so.
    pub(super) setting: &'static str,
}

/// Takes the rows out that are above the ceiling: what cannot be split is refused.
pub(super) fn take_too_large(scope: &Scope, ceiling: Ceiling, rows: &mut Vec<Row>) -> Refusals {
    let mut large = Refusals::new();
    let mut text = Vec::new();
    rows.retain(|row| {
        if row.body.attributes().len() as u64 + ROW_FRAME_BYTES <= ceiling.bytes {
            return true;
        }
        text.clear();
        canonical::write_item(row, &mut text);
        let bytes = text.len() as u64;
        if bytes > ceiling.bytes {
            large.insert(row.key(), too_large(scope, row, bytes, ceiling));
        }
        bytes <= ceiling.bytes
    });
    large
}

fn too_large(scope: &Scope, row: &Row, bytes: u64, ceiling: Ceiling) -> Refused {
    let gvk = &row.origin.gvk;
    let group = if gvk.group.is_empty() { String::new() } else { format!("{}/", gvk.group) };
    let place = if row.namespace.is_empty() { String::new() } else { format!("{}/", row.namespace) };
    Refused {
        key: row.key(),
        object: format!("{group}{} {} {place}{}", gvk.version, gvk.kind, row.body.name()),
        reason: "PayloadTooLarge",
        message: format!(
            "one row of inventory {} has {bytes} bytes, more than {} ({}); raise it, or let the profile name fewer \
             attributes",
            scope.inventory, ceiling.setting, ceiling.bytes
        ),
        excess: Some((bytes, ceiling.bytes)),
    }
}

/// Warns of an inventory that is large.
pub(super) fn warn(metrics: &Metrics, key: &BindingKey, counts: Counts) {
    if counts.rows >= SHARD_WARNING_ROWS {
        metrics.shard_warnings.inc();
    }
    if counts.bytes >= SPILL_WARNING_BYTES {
        metrics.spill_warnings.inc();
        tracing::info!(
            sink = %key.sink,
            inventory = %key.inventory,
            bytes = counts.bytes,
            threshold = SPILL_WARNING_BYTES,
            "export payload exceeds spill warn threshold"
        );
    }
}

/// Returns what a condition says of rows that a sink does not take.
pub(super) fn refusal(refused: &Refusals) -> Option<Failure> {
    let reason = refused.values().next()?.reason;
    let named: Vec<String> =
        refused.values().take(NAMED).map(|row| format!("{}: {}", row.object, row.message)).collect();
    let more = refused.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    let message = format!("{} row(s) refused, all others were delivered: {}{more}", refused.len(), named.join("; "));
    Some(Failure { class: Class::Terminal, reason, message })
}

/// Logs and counts rows that a sink does not take.
pub(super) fn tell(metrics: &Metrics, key: &BindingKey, refused: &Refusals) {
    let large: Vec<(&Refused, u64, u64)> =
        refused.values().filter_map(|row| row.excess.map(|(bytes, cap)| (row, bytes, cap))).collect();
    for (row, bytes, cap) in large.iter().take(NAMED) {
        metrics.sink_failed(Fault::PayloadTooLarge);
        tracing::info!(sink = %key.sink, inventory = %key.inventory, object = row.object, bytes, cap, "PayloadTooLarge");
    }
    let Some(failure) = refusal(refused).filter(|_| refused.len() > large.len()) else { return };
    metrics.sink_failed(Fault::Terminal);
    failure.log(key);
}
