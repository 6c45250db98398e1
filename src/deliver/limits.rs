//! What is too large, and what is large enough to say so.
//!
//! Warnings are counted with every delivery, and again every ten minutes for as long as they hold (D6).

use std::time::Duration;

use super::Failure;
use super::work::Refusals;
use crate::error::Class;
use crate::metrics::{Fault, Metrics};
use crate::model::BindingKey;
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
