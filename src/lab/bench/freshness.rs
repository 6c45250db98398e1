//! How long after the API server's answer a change is committed in PostgreSQL, or stored in a stream, for many changes per
//! second.
//!
//! Nothing watches while the changes run. The server stamps each commit itself (`track_commit_timestamp`), and each changed
//! row names the transaction that wrote it, so that one query at the end tells when each row was committed, by the same
//! clock that stamped the answers. The stamp is taken before the commit is flushed to disk; how long a commit takes from
//! outside is measured beside it, at rest. A broker stamps each message that it stores, and all are read at the end.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use super::super::load::{Change, IMAGE};
use super::super::postgres::{Database, Postgres};
use super::super::wait::wait_for;
use super::stage::{Outlet, Stage, TABLE};
use super::{Bench, QUIET, Values, stream};

/// How long changes are sent.
const LENGTH: Duration = Duration::from_secs(30);

/// Time after the last change in which nobody looks, for looking costs the server time on the same cores.
const UNDISTURBED: Duration = Duration::from_secs(3);

/// A change that is not there by then never will.
const ARRIVAL: Duration = Duration::from_mins(2);

/// Commits of the measurement at rest.
const COMMITS: usize = 51;

/// Has the server keep the time of each commit. Takes a restart.
pub(super) async fn stamp_commits(server: &Postgres) -> Result<()> {
    server.connect_admin("postgres").await?.batch_execute("ALTER SYSTEM SET track_commit_timestamp = on").await?;
    server.stop().await?;
    server.restart().await
}

/// Returns how many objects are changed.
pub(super) fn changes(bench: &Bench) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is small and positive")]
    let count = (bench.rate * LENGTH.as_secs_f64()).round() as usize;
    count
}

pub(super) async fn run(bench: &Bench, stage: &mut Stage) -> Result<Values> {
    stage.cold_start().await?;
    stage.quiet(QUIET).await?;
    let cpu = stage.operator()?.process().cpu_seconds()?;
    let clock = (Instant::now(), SystemTime::now());
    // Each object changes once, so that its row was last written for that change.
    let changes = stage.churn(stage.load().choose(changes(bench)), bench.rate).await?;
    let sending = clock.0.elapsed();
    sleep(UNDISTURBED).await;
    let cpu = stage.operator()?.process().cpu_seconds()? - cpu;
    let arrivals = wait_for("all changes to arrive", ARRIVAL, || async {
        let arrivals = match stage.outlet() {
            Outlet::Table(database) => commit_times(database).await?,
            Outlet::Stream(broker) => stream::arrivals(&**broker, clock.1).await?,
        };
        ensure!(arrivals.len() == changes.len(), "{} of {} are there", arrivals.len(), changes.len());
        Ok(arrivals)
    })
    .await?;
    let mut delays_ms = Vec::with_capacity(changes.len());
    for Change { object, at } in &changes {
        let answered = (clock.1 + at.duration_since(clock.0)).duration_since(SystemTime::UNIX_EPOCH)?;
        let arrived = arrivals.get(&stage.load().object(*object)).context("a change has not arrived")?;
        delays_ms.push((arrived - answered.as_secs_f64()) * 1_000.0);
    }
    delays_ms.sort_by(f64::total_cmp);
    let mut values = vec![
        ("p50_ms", percentile(&delays_ms, 50)),
        ("p99_ms", percentile(&delays_ms, 99)),
        ("max_ms", percentile(&delays_ms, 100)),
        ("events", changes.len() as f64),
        ("events_per_second", changes.len() as f64 / sending.as_secs_f64()),
        ("cpu_seconds", cpu),
    ];
    if let Outlet::Table(database) = stage.outlet() {
        values.push(("commit_ms", commit_ms(database).await?));
    }
    Ok(values)
}

/// Returns when each changed row was committed, in seconds since 1970, by namespace and name.
async fn commit_times(database: &Database) -> Result<HashMap<(String, String), f64>> {
    let query = format!(
        "SELECT resource_namespace, payload->>'name', \
         extract(epoch FROM pg_xact_commit_timestamp(xmin))::double precision \
         FROM {TABLE} WHERE strpos(payload::text, $1) = 0"
    );
    let rows = database.query(&query, &[&IMAGE]).await.context("failed to read the times of commit")?;
    rows.iter().map(|row| Ok(((row.get(0), row.get(1)), row.try_get(2)?))).collect()
}

/// Returns the median time of a commit of one small row as its client sees it, the flush to disk included.
async fn commit_ms(database: &Database) -> Result<f64> {
    database.batch_execute("CREATE TABLE commits (n bigint)").await?;
    let insert = database.prepare("INSERT INTO commits VALUES (1)").await?;
    let mut commits_ms = Vec::with_capacity(COMMITS);
    for _ in 0..COMMITS {
        let started = Instant::now();
        database.execute(&insert, &[]).await?;
        commits_ms.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    commits_ms.sort_by(f64::total_cmp);
    Ok(percentile(&commits_ms, 50))
}

/// Returns the smallest value that at least this many percent do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_a_measured_value() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        for (percent, value) in [(0, 1.0), (50, 100.0), (99, 198.0), (100, 200.0)] {
            assert!((percentile(&sorted, percent) - value).abs() < f64::EPSILON, "{percent}");
        }
        assert!(percentile(&[], 99).abs() < f64::EPSILON);
    }
}
