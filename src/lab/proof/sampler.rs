//! Looks at everything every few seconds, whatever else goes on.
//!
//! It works beside the phases in a task of its own and never fails: what does not answer is absent from that sample. The
//! samples are as many as the run is long.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::super::Lab;
use super::super::git::{BRANCH, Repository};
use super::super::operator::{Metrics, Operator, http_get};
use super::super::postgres::Database;
use super::super::process;
use super::sample::{Page, Sample, Usage, Written};
use super::site::{DATABASE, TABLE};

/// Time between two samples.
pub(super) const PACE: Duration = Duration::from_secs(5);

/// A part that takes longer to answer is absent.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where the operator is, as long as it runs.
#[derive(Debug, Clone)]
struct Subject {
    pid: u32,
    metrics: String,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    subject: Mutex<Option<Subject>>,
    phase: Mutex<&'static str>,
    samples: Mutex<Vec<Sample>>,
}

/// The task and what it has seen.
#[derive(Debug)]
pub(super) struct Sampler {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Sampler {
    /// Starts to look at the database and the repository; the operator is told later.
    pub(super) fn start(lab: Arc<Lab>, repository: Repository) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            subject: Mutex::default(),
            phase: Mutex::new("start"),
            samples: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (task_shared, task_stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move {
            let _ = task_stop.run_until_cancelled(look_on(&task_shared, &lab, &repository)).await; // stopping is its only end
        });
        Self { shared, stop, tasks }
    }

    /// Names the phase that samples belong to from now on.
    pub(super) fn enter(&self, phase: &'static str) {
        *self.shared.phase.lock() = phase;
    }

    /// Looks at this operator from now on, or at none.
    pub(super) fn watch(&self, operator: Option<&Operator>) {
        *self.shared.subject.lock() = operator
            .map(|operator| Subject { pid: operator.process().pid(), metrics: operator.metrics_address().to_owned() });
    }

    /// Returns the seconds since the run began.
    pub(super) fn now(&self) -> f64 {
        self.shared.began.elapsed().as_secs_f64()
    }

    /// Returns the samples of a phase.
    pub(super) fn of(&self, phase: &str) -> Vec<Sample> {
        self.shared.samples.lock().iter().filter(|sample| sample.phase == phase).cloned().collect()
    }

    /// Returns all samples.
    pub(super) fn all(&self) -> Vec<Sample> {
        self.shared.samples.lock().clone()
    }

    /// Ends the task.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn look_on(shared: &Shared, lab: &Lab, repository: &Repository) {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut database = None;
    loop {
        ticks.tick().await;
        let (at, phase) = (shared.began.elapsed().as_secs_f64(), *shared.phase.lock());
        let subject = shared.subject.lock().clone();
        let (page, written, commits) =
            tokio::join!(page(subject.as_ref()), written(lab, &mut database), commits(repository));
        let process = subject.and_then(|subject| usage(subject.pid));
        shared.samples.lock().push(Sample { at, phase, process, page, database: written, commits });
    }
}

fn usage(pid: u32) -> Option<Usage> {
    let (rss_mib, cpu_seconds) = (process::status_mib(pid, "VmRSS:").ok()?, process::cpu_seconds(pid).ok()?);
    Some(Usage { pid, rss_mib, cpu_seconds })
}

async fn page(subject: Option<&Subject>) -> Option<Page> {
    let text = timeout(PATIENCE, http_get(&subject?.metrics, "/metrics")).await.ok()?.ok()?;
    Some(Page::read(&Metrics::parse(&text)))
}

async fn written(lab: &Lab, database: &mut Option<Database>) -> Option<Written> {
    let answer = timeout(PATIENCE, async {
        if database.is_none() {
            *database = lab.postgres().connect(DATABASE).await.ok();
        }
        let query = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8, \
            coalesce((SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables \
            WHERE relid = to_regclass($1::text)), 0)::float8";
        let row = database.as_ref()?.query_one(query, &[&TABLE]).await.ok()?;
        Some(Written { wal_bytes: row.get(0), rows: row.get(1) })
    });
    let written = answer.await.ok().flatten();
    if written.is_none() {
        // The connection may be one to a server that is gone.
        *database = None;
    }
    written
}

async fn commits(repository: &Repository) -> Option<usize> {
    let repository = repository.clone();
    // No branch means no commit yet.
    let count = spawn_blocking(move || {
        let mut command = repository.git();
        command.args(["rev-list", "--count", BRANCH]);
        process::run(&mut command).ok().and_then(|text| text.trim().parse().ok())
    });
    timeout(PATIENCE, count).await.ok()?.ok()?
}
