//! What a row takes at rest, and what another list of everything takes beside it.
//!
//! Bytes per row are the difference of what the allocator has handed out (`kollect_allocator_bytes{kind="allocated"}`)
//! between two moments of one process, by the number of rows: at rest before the targets are applied, with profile, sink and
//! inventory there, and at rest after every row was delivered. So streams, queues and the connection to PostgreSQL are part
//! of it, the more the fewer rows there are. Attribute bytes are those of the attributes in the table, written as compactly
//! as a row in memory has them. What the store itself charges for a row (`kollect_store_bytes`) stands beside them.
//!
//! Steady is `VmRSS` at that rest. Then the kernel is told to forget the peak (`/proc/PID/clear_refs`), and the streams list
//! again, as they do every `--informer-resync-period`, here [`RESYNC`]; the peak is `VmHWM` when as many rows were listed
//! again as there are (`kollect_informer_resync_dispatches_total`). A first delivery that leaves no time for a rest before
//! that fails the bench.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::super::wait::wait_for;
use super::stage::{Stage, TABLE};
use super::{QUIET, Values};

/// Time between two lists of a stream, give or take a quarter.
const RESYNC: Duration = Duration::from_mins(3);

/// Looks at the allocator at rest, of which the median counts.
const LOOKS: usize = 5;

/// Pause between two looks at how much was listed again.
const PACE: Duration = Duration::from_millis(500);

const LISTED_AGAIN: &str = "kollect_informer_resync_dispatches_total";

/// Returns the flag that makes the operator list again.
pub(super) fn relisting() -> String {
    format!("--informer-resync-period={}s", RESYNC.as_secs())
}

pub(super) async fn run(rows: usize, stage: &mut Stage) -> Result<Values> {
    stage.start().await?;
    stage.quiet(QUIET).await?;
    let empty = held(stage).await?;
    let applied = Instant::now();
    stage.apply_targets()?;
    stage.delivered().await?;
    stage.quiet(QUIET).await?;
    let full = held(stage).await?;
    let attribute_bytes = attribute_bytes(stage).await?;

    let process = stage.operator()?.process();
    let steady = process.rss_mib()?;
    let before = stage.operator()?.metrics().await?.sum(LISTED_AGAIN, &[]);
    let rested = applied.elapsed();
    ensure!(rested < RESYNC.mul_f64(0.75), "the operator was at rest after {rested:?}, when the lists come again");
    process.forget_peak_rss()?;
    wait_for("everything to be listed again", RESYNC * 2, || async {
        // A look costs the operator memory as well.
        sleep(PACE).await;
        let again = stage.operator()?.metrics().await?.sum(LISTED_AGAIN, &[]) - before;
        ensure!(again >= rows as f64, "{again} of {rows} rows");
        Ok(())
    })
    .await?;
    let peak = process.peak_rss_mib()?;
    Ok(vec![
        ("bytes_per_row", (full.allocated - empty.allocated) / rows as f64),
        ("attribute_bytes_per_row", attribute_bytes / rows as f64),
        ("store_bytes_per_row", (full.store - empty.store) / rows as f64),
        ("steady_rss_mib", steady),
        ("relist_peak_rss_mib", peak),
    ])
}

/// What the operator says of its memory.
struct Held {
    allocated: f64,
    store: f64,
}

async fn held(stage: &Stage) -> Result<Held> {
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        sleep(Duration::from_secs(1)).await;
        let metrics = stage.operator()?.metrics().await?;
        let allocated = metrics.sum("kollect_allocator_bytes", &[("kind", "allocated")]);
        looks.push((allocated, metrics.sum("kollect_store_bytes", &[])));
    }
    looks.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let (allocated, store) = *looks.get(LOOKS / 2).context("nobody looked")?;
    ensure!(allocated > 0.0, "the operator does not say what its allocator holds");
    Ok(Held { allocated, store })
}

/// Returns the bytes of the attributes of all rows.
async fn attribute_bytes(stage: &Stage) -> Result<f64> {
    let query = format!("SELECT (payload->'attributes')::text FROM {TABLE}");
    let mut bytes = 0;
    for row in stage.database()?.query(&query, &[]).await? {
        let attributes: Value = serde_json::from_str(row.get(0))?;
        bytes += attributes.to_string().len();
    }
    Ok(bytes as f64)
}
