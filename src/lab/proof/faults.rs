//! What happens to the operator and its neighbours, and a restart on which nothing has changed.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::super::git::BRANCH;
use super::sample::rounded;
use super::site::{DATABASE, Settle, TABLE};
use super::{PATIENCE, Proof};

/// Seconds from the start of the process until it says that it is ready.
const READY_LIMIT: f64 = 5.0;

/// Seconds beyond 1.5 raw lists until all bindings are acknowledged.
const ACKNOWLEDGED_MARGIN: f64 = 5.0;

/// What a late write would need beyond the interval.
const LATE: Duration = Duration::from_secs(5);

/// How long PostgreSQL keeps its counters to itself.
const COUNTED: Duration = Duration::from_secs(11);

const WHAT: &str = "from the end of the fault until all is verified";

impl Proof<'_> {
    /// Kills the operator while objects change, and starts it again.
    pub(super) async fn operator_killed(&mut self) -> Result<String> {
        let churning = self.site.churn(None);
        sleep(self.options.outage / 2).await;
        self.site.kill_operator(&self.sampler).await?;
        sleep(self.options.outage).await;
        let ended = self.site.spawn_operator(&self.sampler)?;
        self.site.settle(churning, Settle::Stop).await?;
        self.site.export_now().await?;
        self.recovered("operator-killed", WHAT, ended).await
    }

    /// Takes the API server away. Objects change right before and right after.
    pub(super) async fn api_server_restarted(&mut self) -> Result<String> {
        self.change_for(self.options.outage / 2).await?;
        self.site.lab().api().stop_api_server().await?;
        sleep(self.options.outage).await;
        self.site.lab().api().start_api_server().await?;
        let ended = Instant::now();
        self.change_for(self.options.outage / 2).await?;
        self.site.export_now().await?;
        self.recovered("api-server-restarted", WHAT, ended).await
    }

    /// Takes PostgreSQL away while objects change.
    pub(super) async fn postgres_restarted(&mut self) -> Result<String> {
        let churning = self.site.churn(None);
        sleep(self.options.outage / 2).await;
        self.site.lab().postgres().stop().await?;
        sleep(self.options.outage).await;
        self.site.lab().postgres().restart().await?;
        let ended = Instant::now();
        self.site.settle(churning, Settle::Stop).await?;
        self.site.export_now().await?;
        self.recovered("postgres-restarted", WHAT, ended).await
    }

    /// Kills the operator on a world at rest and starts it again: there is nothing to write.
    pub(super) async fn restart(&mut self) -> Result<String> {
        let database = self.site.lab().postgres().connect(DATABASE).await?;
        let rows = self.site.lab().postgres().row_writes(&database, TABLE).await?;
        let commits = self.site.repository().log(BRANCH)?.len();
        let warm = self.site.raw_list().await?;
        self.site.kill_operator(&self.sampler).await?;
        let started = self.site.spawn_operator(&self.sampler)?;
        let ready = self.site.ready().await?;
        self.site.acknowledged(PATIENCE, None).await?;
        let acknowledged = started.elapsed().as_secs_f64();
        let cpu = self.site.operator()?.process().cpu_seconds()?;
        // Counting the rows takes a while of its own, in which a late write would be seen too.
        sleep((self.options.interval + LATE).saturating_sub(COUNTED)).await;
        let rows = self.site.lab().postgres().row_writes(&database, TABLE).await?.since(rows).total();
        let commits = self.site.repository().log(BRANCH)?.len().saturating_sub(commits);
        // The machine has good and bad moments; the better one is the harder yardstick.
        let raw = self.floor.seconds.min(warm.seconds);
        self.claims.at_most("restart", "ready", READY_LIMIT, ready, "s");
        let limit = 1.5 * raw + ACKNOWLEDGED_MARGIN;
        let what = "all bindings acknowledged (1.5 × raw list + 5 s)";
        self.claims.at_most("restart", what, limit, acknowledged, "s");
        self.claims.equals("restart", "rows written", 0, usize::try_from(rows)?);
        self.claims.equals("restart", "commits", 0, commits);
        self.figure(
            "restart",
            json!({
                "ready_seconds": rounded(ready),
                "acknowledged_seconds": rounded(acknowledged),
                "raw_list_seconds": rounded(raw),
                "cpu_seconds": rounded(cpu),
                "row_writes": rows,
                "commits": commits,
            }),
        );
        Ok(format!("ready after {ready:.2} s, acknowledged after {acknowledged:.2} s, {rows} rows, {commits} commits"))
    }

    /// Changes objects for so long.
    async fn change_for(&mut self, length: Duration) -> Result<()> {
        let churning = self.site.churn(Some(length));
        self.site.settle(churning, Settle::Await).await.map(drop)
    }
}
