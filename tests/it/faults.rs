//! What breaks, for a while: PostgreSQL, the network, the operator itself, the API server.
//!
//! Each test ends the same way: the table equals the cluster row for row, the inventory is Ready, and nothing was written
//! that did not have to be. Audits come once an hour, so that it is the delivery that makes good what the fault broke, and
//! not a later look at the table. `KOLLECT_LONG=1` makes outages as long as they are in earnest.

mod api_server;
mod killed;
mod network;
mod postgres;
mod transactions;

use std::time::Duration;

use anyhow::ensure;
use kollect::lab::operator::OperatorOptions;
use kollect::lab::postgres::RowWrites;
use kollect::lab::process::tail;
use kollect::lab::wait::wait_for;
use kollect::lab::{Operator, Proxy};

use crate::operator::{Job, PATIENCE, TABLE};

/// A job whose parts may break.
pub(crate) struct Fault {
    pub(crate) job: Job,
    /// Every object is selected by so many targets.
    targets: usize,
    hurries: u32,
}

impl Fault {
    pub(crate) async fn new(name: &str) -> Option<Self> {
        let mut job = Job::new(name).await?;
        // A superuser sees and may do what a test has to look at and to break.
        job.database = job.ground.postgres().connect_admin(&job.ground.database).await.unwrap();
        Some(Self { job, targets: 1, hurries: 0 })
    }

    pub(crate) fn options(&self) -> OperatorOptions {
        // Without audits, so that none of them mends what a delivery lost.
        self.job.ground.operator_options().arg("--sink-audit-interval=0")
    }

    async fn operator(&self) -> Operator {
        self.job.ground.start_operator(&self.options()).await
    }

    /// Lets `targets` targets select the same objects, so that few objects make many rows.
    pub(crate) fn select_by(&mut self, targets: usize) {
        let namespace = self.job.namespace();
        let more: Vec<String> = (1..targets)
            .map(|number| {
                format!(
                    "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\n\
                     metadata: {{name: more-{number}, namespace: {namespace}}}\n\
                     spec: {{profileRef: deployments, excludedNamespaces: [kube-system]}}\n"
                )
            })
            .collect();
        self.job.apply(&more.join("---\n")).unwrap();
        self.targets = targets;
    }

    /// Gives the sink another connection string.
    fn connect_by(&self, dsn: &str) {
        let namespace = self.job.namespace();
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: pg, namespace: {namespace}}}\nstringData: {{dsn: \"{dsn}\"}}\n"
        );
        self.job.apply(&secret).unwrap();
    }

    /// Leads the sink through a proxy.
    async fn proxy(&self) -> Proxy {
        let proxy = Proxy::start(self.job.ground.postgres().port()).await.unwrap();
        self.connect_through(&proxy);
        proxy
    }

    fn connect_through(&self, proxy: &Proxy) {
        let (port, through) = (self.job.ground.postgres().port(), proxy.port());
        self.connect_by(&self.job.ground.dsn().replace(&format!(":{port}/"), &format!(":{through}/")));
    }

    /// Connects anew after the server was away.
    async fn reconnect(&mut self) {
        self.job.database = self.job.ground.postgres().connect_admin(&self.job.ground.database).await.unwrap();
    }

    /// Lets the operator try at once, as a person would who knows that the fault is mended.
    fn hurry(&mut self) {
        self.hurries += 1;
        let value = format!("kollect.dev/export-now={}", self.hurries);
        self.job.kubectl(&["-n", self.job.namespace(), "annotate", "kinv", "all", "--overwrite", &value]);
    }

    /// Waits for the end of every fault: the table is the cluster, and the inventory says so.
    async fn recovered(&self) {
        self.job.equals_the_cluster_times(self.targets).await;
        self.job.condition("kinv/all", "Ready", "Exported").await;
        self.job.condition("kinv/all", "Synced", "Exported").await;
        let degraded = wait_for("an inventory that is not Degraded", PATIENCE, || async {
            let conditions = "jsonpath={.status.conditions[?(@.status=='True')].type}";
            let types = self.job.kubectl(&["-n", self.job.namespace(), "get", "kinv", "all", "-o", conditions]);
            ensure!(!types.contains("Degraded"), "{types}");
            Ok(())
        });
        degraded.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.job.describe()));
    }

    /// Waits for a sentence in the operator's log.
    async fn logged(&self, text: &str) {
        let log = self.options().log;
        let found = wait_for(text, PATIENCE, || async {
            ensure!(std::fs::read_to_string(&log)?.contains(text));
            Ok(())
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}\n{}", tail(&log, 20)));
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.options().log).unwrap()
    }

    /// Returns how often the log says something.
    fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.job.database.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Waits until a query counts at least this.
    pub(crate) async fn at_least(&self, want: i64, query: &str) {
        let what = format!("{want} of {query}");
        let reached = wait_for(&what, PATIENCE, || async {
            let have: i64 = self.job.database.query_one(query, &[]).await?.get(0);
            ensure!(have >= want, "{have}");
            Ok(())
        });
        reached.await.unwrap_or_else(|error| panic!("{error:#}\n{}", tail(&self.options().log, 20)));
    }
}

fn writes(inserted: i64, updated: i64, deleted: i64) -> RowWrites {
    RowWrites { inserted, updated, deleted }
}

/// Counts the rows; none when there is no table.
async fn row_count(fault: &Fault) -> i64 {
    fault.job.ground.postgres().count(&fault.job.database, TABLE).await.unwrap()
}

/// Counts the rows where each namespace has a hundred. A delivery is all or nothing, and brings whole namespaces, each as
/// soon as it was listed.
async fn whole_parts(fault: &Fault) -> i64 {
    let rows = row_count(fault).await;
    assert!(rows % 100 == 0, "{rows} rows: a part of a delivery");
    rows
}

/// Returns one value for the normal suite and another one for the nightly.
pub(crate) fn long<T>(normal: T, nightly: T) -> T {
    if setting("KOLLECT_LONG").as_deref() == Some("1") { nightly } else { normal }
}

/// Returns how often a test kills: so often, or as often as `KOLLECT_KILL_ROUNDS` says.
pub(crate) fn kill_rounds(normal: u64) -> u64 {
    setting("KOLLECT_KILL_ROUNDS").and_then(|rounds| rounds.parse().ok()).unwrap_or(normal)
}

/// Returns when a process is killed in a round, at the latest so long after it began.
pub(crate) fn moment(seed: u64, round: u64, latest: Duration) -> Duration {
    let digest = blake3::hash(&[seed.to_le_bytes(), round.to_le_bytes()].concat());
    let chance = digest.as_bytes().iter().take(4).fold(0u32, |chance, byte| chance << 8 | u32::from(*byte));
    latest.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[expect(clippy::disallowed_methods, reason = "tests are no part of the operator whose environment config reads")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
