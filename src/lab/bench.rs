//! The figures that decide, measured on the real parts: `kollect-lab bench NAME`.
//!
//! Every run has a lab of its own. The objects come from an etcd directory that is filled once per shape, kept, and
//! copied for each run, so that no run sees what another one left. CPU and memory are those that the kernel accounts to
//! the operator, row writes those that PostgreSQL counted on the data table, API writes those in the audit log.
//! `copy`, `git` and `object` have neither objects nor an operator; `nats` and `kafka` have them in their second half.

mod cluster_target;
mod copy;
mod freshness;
mod git;
mod kafka;
mod memory;
mod nats;
mod object;
mod report;
mod stage;
mod stream;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use self::report::Report;
use self::stage::Stage;
use super::load::Change;

const DATABASE: &str = "bench";

/// Time without a write of the operator after which nothing more is to come: longer than the export interval.
const QUIET: Duration = Duration::from_secs(35);

/// Length of the idle measurement.
const IDLE: Duration = Duration::from_mins(1);

/// Changes of a churn run, per second, and the objects among which they fall.
const CHURN_CHANGES: usize = 600;
const CHURN_RATE: f64 = 20.0;
const CHURN_POOL: usize = 800;

/// `exportMinInterval` of the bench's inventories, the default of the API.
const EXPORT_INTERVAL: Duration = Duration::from_secs(30);

/// How long the first change after a quiet interval gathers others.
const GATHER: Duration = Duration::from_millis(100);

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// From the start of the process until all rows are in PostgreSQL.
    ColdStart,
    /// A minute in which nothing changes.
    Idle,
    /// 600 changes in 30 seconds.
    Churn,
    /// Killed and started again, nothing changed; the only one with a repository beside the table.
    Restart,
    /// What a row takes at rest, and the peak while everything is listed again.
    Memory,
    /// From the creation of a cluster target over all namespaces until its rows are in the store.
    ClusterTarget,
    /// The PostgreSQL sink alone: a first delivery beside `psql \copy`, and deltas.
    Copy,
    /// The git sink alone: a first push beside `git fast-import`, and deltas beside the git command line.
    Git,
    /// The object store sink alone: one Parquet file beside pyarrow.
    Object,
    /// From the API server's answer to the commit in PostgreSQL, for many changes per second without an interval.
    Freshness,
    /// The sink of NATS: alone beside the load tool of the broker, then as `freshness`, to the stream.
    Nats,
    /// The same of Kafka.
    Kafka,
}

impl Name {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ColdStart => "cold-start",
            Self::Idle => "idle",
            Self::Churn => "churn",
            Self::Restart => "restart",
            Self::Memory => "memory",
            Self::ClusterTarget => "cluster-target",
            Self::Copy => "copy",
            Self::Git => "git",
            Self::Object => "object",
            Self::Freshness => "freshness",
            Self::Nats => "nats",
            Self::Kafka => "kafka",
        }
    }

    /// Tells whether rows go to a stream.
    const fn streams(self) -> bool {
        matches!(self, Self::Nats | Self::Kafka)
    }

    /// Tells whether many changes per second are sent, without an interval.
    const fn is_rapid(self) -> bool {
        self.streams() || matches!(self, Self::Freshness)
    }
}

/// A bench and its shape: target i, its inventory and its sink live in namespace i and select the namespaces that leave
/// the remainder i when divided by the number of targets; a single target selects all.
#[derive(Debug, Clone)]
pub struct Bench {
    /// What to measure.
    pub name: Name,
    /// Objects, and with one row each, rows.
    pub rows: usize,
    /// Namespaces, each with the same number of objects.
    pub namespaces: usize,
    /// Targets, and inventories and sinks; divides the number of namespaces.
    pub targets: usize,
    /// How often to measure; the report shows the medians.
    pub runs: usize,
    /// Changes per second of `freshness`, `nats` and `kafka`.
    pub rate: f64,
    /// The `kollect` binary.
    pub kollect: PathBuf,
    /// Directory of the custom resource definitions.
    pub crds: PathBuf,
    /// The limit of a memory control group for the operator, in MiB.
    pub memory_limit_mib: Option<u64>,
    /// More flags for the operator.
    pub operator_args: Vec<String>,
}

impl Bench {
    /// Runs the bench and returns its report: medians, and beside each the values of all runs.
    pub async fn run(&self) -> Result<Value> {
        match self.name {
            Name::Copy => return copy::run(self).await,
            Name::Git => return git::run(self).await,
            Name::Object => return object::run(self).await,
            _ => {}
        }
        if self.name.is_rapid() {
            let changes = freshness::changes(self);
            ensure!(
                (1..=self.rows).contains(&changes),
                "{changes} changes do not fall on as many of {} rows",
                self.rows
            );
        }
        let mut report = Report::default();
        if self.name.streams() {
            stream::throughput(self, &mut report).await.context("failed in the throughput of the sink alone")?;
        }
        let filled = stage::filled_etcd(self).await.context("failed to fill etcd")?;
        for run in 1..=self.runs {
            let mut stage = Stage::set(self, &filled).await.with_context(|| format!("failed to set up run {run}"))?;
            let values = match self.name {
                Name::ColdStart => cold_start(&mut stage).await,
                Name::Idle => idle(&mut stage).await,
                Name::Churn => churn(&mut stage).await,
                Name::Restart => restart(&mut stage).await,
                Name::Memory => memory::run(self.rows, &mut stage).await,
                Name::ClusterTarget => cluster_target::run(self, &mut stage).await,
                Name::Freshness | Name::Nats | Name::Kafka => freshness::run(self, &mut stage).await,
                Name::Copy | Name::Git | Name::Object => bail!("it has no stage"),
            };
            let values = match values {
                // It has no sink.
                Ok(values) if self.name == Name::ClusterTarget => Ok(values),
                Ok(values) => stage.check_rows().await.map(|()| values),
                Err(error) => Err(error),
            };
            let values =
                values.with_context(|| format!("run {run}; the operator's log ends with\n{}", stage.log_tail()))?;
            eprintln!("run {run}: {}", report::line(&values));
            report.add(&values);
            stage.clear().await?;
        }
        Ok(report.finish(&[
            ("bench", json!(self.name.as_str())),
            ("rows", json!(self.rows)),
            ("namespaces", json!(self.namespaces)),
            ("targets", json!(if self.name == Name::ClusterTarget { 1 } else { self.targets })),
            ("memory_limit_mib", json!(self.memory_limit_mib)),
        ]))
    }

    /// Returns `exportMinInterval` of the inventories.
    fn interval(&self) -> &'static str {
        if self.name.is_rapid() { "0s" } else { "30s" }
    }
}

/// The values of one run.
type Values = Vec<(&'static str, f64)>;

async fn cold_start(stage: &mut Stage) -> Result<Values> {
    let before = stage.raw_list().await?;
    let start = stage.cold_start().await?;
    let after = stage.raw_list().await?;
    let mut values = vec![
        ("seconds", start.seconds),
        // The machine has good and bad moments; the better one is the harder yardstick.
        ("raw_list_seconds", before.seconds.min(after.seconds)),
        ("raw_list_mib", before.bytes as f64 / f64::from(1 << 20)),
        ("cpu_seconds", start.cpu_seconds),
        ("peak_rss_mib", stage.operator()?.process().peak_rss_mib()?),
    ];
    if let Some(group) = stage.operator()?.memory() {
        let used = group.usage()?;
        values.extend([
            ("peak_group_mib", used.peak_mib),
            ("limit_hits", used.limit_hits as f64),
            ("oom_kills", used.oom_kills as f64),
        ]);
    }
    Ok(values)
}

async fn idle(stage: &mut Stage) -> Result<Values> {
    stage.cold_start().await?;
    stage.quiet(QUIET).await?;
    let rows = stage.row_writes().await?;
    let api = stage.api_writes()?.len();
    let cpu = stage.operator()?.process().cpu_seconds()?;
    sleep(IDLE).await;
    let cpu = stage.operator()?.process().cpu_seconds()? - cpu;
    let writes = stage.api_writes()?.split_off(api);
    for write in &writes {
        eprintln!("written while idle: {write:?}");
    }
    let rows = stage.row_writes().await?.since(rows).total();
    Ok(vec![("cpu_seconds", cpu), ("row_writes", rows as f64), ("api_writes", writes.len() as f64)])
}

async fn churn(stage: &mut Stage) -> Result<Values> {
    stage.cold_start().await?;
    stage.quiet(QUIET).await?;
    let before = stage.row_writes().await?;
    let cpu = stage.operator()?.process().cpu_seconds()?;
    let objects = stage.load().draw(CHURN_CHANGES, CHURN_POOL);
    let changes = stage.churn(objects, CHURN_RATE).await?;
    stage.quiet(QUIET).await?;
    let cpu = stage.operator()?.process().cpu_seconds()? - cpu;
    let writes = stage.row_writes().await?.since(before);
    let distinct = distinct_objects(&changes);
    let arrived = stage.count_changed_rows().await?;
    ensure!(arrived == distinct, "{distinct} objects have a new image, but {arrived} rows");
    let targets = stage.targets();
    Ok(vec![
        ("row_writes", writes.total() as f64),
        ("rows_changed", rows_changed(&changes, targets) as f64),
        ("distinct_objects", distinct as f64),
        ("cpu_seconds", cpu),
    ])
}

async fn restart(stage: &mut Stage) -> Result<Values> {
    stage.cold_start().await?;
    stage.quiet(QUIET).await?;
    stage.kill().await?;
    let before = stage.row_writes().await?;
    let commits = stage.commits()?;
    let ready = stage.start().await?;
    stage.quiet(QUIET).await?;
    let writes = stage.row_writes().await?.since(before);
    Ok(vec![
        ("row_writes", writes.total() as f64),
        ("commits", (stage.commits()? - commits) as f64),
        ("ready_seconds", ready),
        ("cpu_seconds", stage.operator()?.process().cpu_seconds()?),
    ])
}

fn distinct_objects(changes: &[Change]) -> usize {
    changes.iter().map(|change| change.object).collect::<std::collections::HashSet<_>>().len()
}

/// Returns how many row writes the changes are worth when each binding gathers as the export interval says: the first
/// change after a quiet interval goes out after a short gather, those behind it when the interval is over.
fn rows_changed(changes: &[Change], targets: usize) -> usize {
    let mut total = 0;
    for target in 0..targets {
        // Object i lives in namespace i mod N, which belongs to target (i mod N) mod T. T divides N, so that is i mod T.
        let mut own = changes.iter().filter(|change| change.object % targets == target).peekable();
        let mut end = None;
        while let Some(first) = own.peek() {
            let until = match end {
                Some(end) if first.at <= end => end,
                _ => first.at + GATHER,
            };
            let mut objects = std::collections::HashSet::new();
            while let Some(change) = own.next_if(|change| change.at <= until) {
                objects.insert(change.object);
            }
            total += objects.len();
            end = Some(until + EXPORT_INTERVAL);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn changes(at_ms: &[(u64, usize)]) -> Vec<Change> {
        let start = Instant::now();
        at_ms.iter().map(|(ms, object)| Change { object: *object, at: start + Duration::from_millis(*ms) }).collect()
    }

    #[test]
    fn changes_of_one_interval_count_each_object_once() {
        // First change alone, then two objects when the interval is over, then one after a quiet interval.
        let changes = changes(&[(0, 0), (5_000, 2), (6_000, 2), (7_000, 4), (90_000, 2)]);
        assert_eq!(rows_changed(&changes, 2), 1 + 2 + 1);
        assert_eq!(distinct_objects(&changes), 3);
    }

    #[test]
    fn targets_gather_apart() {
        let changes = changes(&[(0, 0), (1, 1), (50, 0), (200, 1)]);
        assert_eq!(rows_changed(&changes, 2), 1 + 2);
        assert_eq!(rows_changed(&changes, 1), 2 + 1);
    }
}
