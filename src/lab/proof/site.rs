//! The site of a proof: a lab, a git server, the operator, and what a user writes for it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::git::{HttpServer, Repositories, Repository, Scheme};
use super::super::load::{self, Churn, Churned, Load, NAMESPACE_LABEL, RawList};
use super::super::operator::{Operator, OperatorOptions};
use super::super::verify::{Sources, Verdict, verify};
use super::super::{Lab, LabOptions};
use super::cage::Cage;
use super::manifests;
use super::options::Options;
use super::sample::{Page, Sink};
use super::sampler::Sampler;
use crate::api::v1alpha1::KollectInventory;
use crate::api::v1alpha1::conditions::types;

pub(super) const DATABASE: &str = "proof";
pub(super) const TABLE: &str = "inventory_items";
pub(super) const CLUSTER: &str = "proof";

/// Selects the namespaces of the load.
const NAMESPACES: &str = NAMESPACE_LABEL.0;

/// The user of a token that comes without one.
const GIT_USER: &str = "x-access-token";
const GIT_TOKEN: &str = "proof-token";

/// The annotation that has an inventory delivered at once, whatever its interval.
const EXPORT_NOW: &str = "kollect.dev/export-now";

/// Time that an export which was asked for has, before it is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// Time between two looks at the metrics while something is awaited.
const PACE: Duration = Duration::from_millis(250);

pub(super) struct Site {
    // Declared before the lab, so that they end before its servers do.
    operator: Option<Operator>,
    _cage: Option<Cage>,
    options: OperatorOptions,
    client: Client,
    load: Load,
    churn_percent: f64,
    /// What has been changed so far.
    churned: Churned,
    /// Commits of an inventory that were asked for beyond its interval, at most.
    commits_asked: usize,
    /// When they were last asked for.
    asked: Option<Instant>,
    repository: Repository,
    _server: HttpServer,
    repositories: Repositories,
    lab: Arc<Lab>,
}

/// Changes that go on in the background.
pub(super) struct Churning {
    stop: CancellationToken,
    task: JoinSet<Result<Churned>>,
}

/// When everything was where it belongs, in seconds since a moment.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Converged {
    /// All rows in the store, nothing waits for PostgreSQL.
    pub(super) postgres_seconds: f64,
    /// All bindings acknowledged, nothing waits anywhere.
    pub(super) synced_seconds: f64,
    /// Compared with the cluster and found right.
    pub(super) verified_seconds: f64,
    pub(super) verdict: Verdict,
}

impl Churning {
    /// Fails when the changes have ended by themselves.
    pub(super) fn goes_on(&mut self) -> Result<()> {
        match self.task.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                let churned = ended.context("the changes panicked")?.context("objects cannot be changed any more")?;
                bail!("the changes have ended: {churned:?}")
            }
        }
    }
}

impl Site {
    /// Starts all servers; the operator does not run yet.
    pub(super) async fn start(options: &Options) -> Result<Self> {
        let lab = Lab::start(LabOptions { garbage_collector: false, ..LabOptions::default() }).await?;
        lab.api().apply_crds(&options.definitions())?;
        lab.postgres().create_database(DATABASE).await?;
        let repositories = Repositories::new()?;
        let repository = repositories.create("inventory")?;
        let server = HttpServer::start(&repositories, Scheme::Https)?;
        server.require_login(GIT_USER, GIT_TOKEN)?;
        let load = options.load();
        let setting = manifests::Setting {
            load: &load,
            dsn: &lab.postgres().dsn(DATABASE),
            git_url: &server.url(&repository),
            git_token: GIT_TOKEN,
            git_ca: &server.ca_pem(),
            interval: options.interval,
            git_interval: options.git_interval,
        };
        manifests::apply(lab.api(), lab.dir(), &setting).context("failed to apply the custom resources")?;
        let program = options.program()?;
        let cage = options.limit_memory.map(|mib| Cage::new(&program, mib, lab.dir())).transpose()?;
        let program = cage.as_ref().map_or(program.as_path(), Cage::program);
        let mut operator =
            OperatorOptions::new(program, lab.api().operator_kubeconfig(), lab.dir().join("kollect.log"));
        operator.args.clone_from(&options.operator_args);
        let mirrors = repositories.dir().join("mirrors").to_string_lossy().into_owned();
        operator.env.push(("KOLLECT_GIT_MIRROR_DIR".to_owned(), mirrors));
        Ok(Self {
            operator: None,
            _cage: cage,
            options: operator,
            client: lab.api().client().await?,
            churned: Churned { objects: load.total(), accepted: load.total(), ..Churned::default() },
            load,
            churn_percent: options.churn,
            commits_asked: 0,
            asked: None,
            repository,
            _server: server,
            repositories,
            lab: Arc::new(lab),
        })
    }

    /// Ends everything.
    pub(super) async fn clear(self) -> Result<()> {
        drop(self.operator);
        drop(self.repositories);
        match Arc::into_inner(self.lab) {
            Some(lab) => lab.stop().await,
            // Whoever still holds it ends it.
            None => Ok(()),
        }
    }

    pub(super) fn lab(&self) -> &Arc<Lab> {
        &self.lab
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    pub(super) fn operator(&self) -> Result<&Operator> {
        self.operator.as_ref().context("the operator does not run")
    }

    /// Returns the number of inventories, and of bindings to each sink.
    pub(super) fn inventories(&self) -> usize {
        self.load.namespaces
    }

    /// Returns the number of rows that there should be: one for each object that is collected.
    pub(super) fn rows(&self) -> usize {
        self.churned.accepted
    }

    /// Returns what has been changed so far.
    pub(super) fn churned(&self) -> &Churned {
        &self.churned
    }

    pub(super) fn log(&self) -> &Path {
        &self.options.log
    }

    /// Writes the objects.
    pub(super) async fn fill(&self) -> Result<load::Summary> {
        self.load.create(&self.client).await
    }

    /// Reads the collected list as a plain client, the better one of two.
    pub(super) async fn raw_list(&self) -> Result<RawList> {
        let first = load::raw_list(&self.client, "deployments.apps").await?;
        let second = load::raw_list(&self.client, "deployments.apps").await?;
        Ok(if first.seconds < second.seconds { first } else { second })
    }

    /// Starts the operator and returns at once.
    pub(super) fn spawn_operator(&mut self, sampler: &Sampler) -> Result<Instant> {
        let operator = Operator::spawn(&self.options, self.lab.guard())?;
        sampler.watch(Some(&operator));
        let started = operator.started();
        self.operator = Some(operator);
        if self.commits_asked > 0 {
            // What was asked for once is done once more by a process that did not see it.
            self.commits_asked += 1;
        }
        Ok(started)
    }

    /// Waits until the operator is ready and returns the seconds since its start.
    pub(super) async fn ready(&mut self) -> Result<f64> {
        let operator = self.operator.as_mut().context("the operator does not run")?;
        operator.ready(Duration::from_secs(30)).await?;
        Ok(operator.started().elapsed().as_secs_f64())
    }

    /// Ends the operator without a chance to clean up.
    pub(super) async fn kill_operator(&mut self, sampler: &Sampler) -> Result<()> {
        sampler.watch(None);
        self.operator.take().context("the operator does not run")?.kill9().await
    }

    /// Fails when the operator has ended by itself.
    pub(super) fn still_runs(&mut self) -> Result<()> {
        if let Some(operator) = &mut self.operator
            && let Some(status) = operator.exited()?
        {
            let tail = operator.log_tail(15);
            bail!("the operator ended with {status}; its log ends with\n{tail}");
        }
        Ok(())
    }

    /// Returns the errors in the operator's log behind this many bytes: message and cause of each, without repetition.
    pub(super) fn logged_errors(&self, from: usize) -> Result<Vec<String>> {
        let log = std::fs::read(self.log())?;
        let text = String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned();
        Ok(errors_in(&text))
    }

    pub(super) fn log_length(&self) -> Result<usize> {
        Ok(usize::try_from(std::fs::metadata(self.log())?.len())?)
    }

    /// Starts to change objects, where the last changes left off.
    pub(super) fn churn(&self, length: Option<Duration>) -> Churning {
        let stop = CancellationToken::new();
        let plan = Churn { percent_per_minute: self.churn_percent, length, skip: self.churned.operations };
        let (client, load, token) = (self.client.clone(), self.load.clone(), stop.clone());
        let mut task = JoinSet::new();
        task.spawn(async move { load::churn(&client, &load, &plan, &token).await });
        Churning { stop, task }
    }

    /// Ends changes, or waits for their end, and takes note of what they did.
    pub(super) async fn settle(&mut self, mut churning: Churning, how: Settle) -> Result<Churned> {
        if how == Settle::Stop {
            churning.stop.cancel();
        }
        let ended = churning.task.join_next().await.context("the changes have no task")?;
        let churned = ended.context("the changes panicked")?.context("objects cannot be changed any more")?;
        self.churned.created += churned.created;
        self.churned.updated += churned.updated;
        self.churned.deleted += churned.deleted;
        self.churned.seconds += churned.seconds;
        self.churned.objects = churned.objects;
        self.churned.accepted = churned.accepted;
        self.churned.operations = churned.operations;
        Ok(churned)
    }

    /// Has every inventory delivered at once, whatever its interval.
    pub(super) async fn export_now(&mut self) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {EXPORT_NOW: jiff::Timestamp::now().to_string()}}});
        for inventory in self.list().await? {
            let metadata = inventory.metadata;
            let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
            let api: Api<KollectInventory> = Api::namespaced(self.client.clone(), &namespace);
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .with_context(|| format!("failed to annotate inventory {namespace}/{name}"))?;
        }
        self.commits_asked += 1;
        self.asked = Some(Instant::now());
        Ok(())
    }

    /// Asks again when a change came to the operator after it was last asked, and would wait for the interval of git now.
    async fn hasten(&mut self) -> Result<()> {
        let Some(asked) = self.asked.filter(|asked| asked.elapsed() > AGAIN) else { return Ok(()) };
        let Ok(metrics) = self.operator()?.metrics().await else { return Ok(()) };
        let late = asked.elapsed().as_secs_f64();
        if Page::read(&metrics).lags_of(Sink::Git).iter().any(|lag| *lag > 0.0 && *lag < late) {
            self.export_now().await?;
        }
        Ok(())
    }

    /// Returns how many inventories warn of their size.
    pub(super) async fn warned(&self) -> Result<usize> {
        let warns = |inventory: &KollectInventory| {
            let conditions = inventory.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|found| found.type_ == types::EXPORT_SHARD_WARNING && found.status == "True")
        };
        Ok(self.list().await?.iter().filter(|inventory| warns(inventory)).count())
    }

    async fn list(&self) -> Result<Vec<KollectInventory>> {
        let inventories: Api<KollectInventory> = Api::all(self.client.clone());
        Ok(inventories.list(&ListParams::default()).await.context("failed to list the inventories")?.items)
    }

    /// Waits until every binding has acknowledged all rows, and then until a comparison with the cluster finds nothing
    /// wrong. Seconds count from `since`, `limit` bounds each of the two.
    ///
    /// # Errors
    /// After the limit, with what was missing then.
    pub(super) async fn converged(&mut self, since: Instant, limit: Duration) -> Result<Converged> {
        let seconds = || since.elapsed().as_secs_f64();
        self.acknowledged(limit, Some(Sink::Postgres)).await?;
        let postgres_seconds = seconds();
        self.acknowledged(limit, None).await?;
        let synced_seconds = seconds();
        let deadline = Instant::now() + limit;
        let verdict = loop {
            // Cheap, and what the comparison waits for otherwise: statuses are written every few seconds.
            let looked = match self.stated().await {
                Ok(()) => verify(&self.sources()?).await,
                Err(error) => Err(error),
            };
            let seen = match looked {
                Ok(verdict) if verdict.is_ok() => break verdict,
                Ok(verdict) => verdict.problems.join("; "),
                Err(error) => format!("{error:#}"),
            };
            ensure!(Instant::now() < deadline, "after {limit:?} not all is where it belongs: {seen}");
            self.hasten().await?;
            sleep(PACE).await;
        };
        Ok(Converged { postgres_seconds, synced_seconds, verified_seconds: seconds(), verdict })
    }

    /// Waits until the store has all rows and every binding of this sink, or of all, has acknowledged them.
    pub(super) async fn acknowledged(&mut self, limit: Duration, sink: Option<Sink>) -> Result<()> {
        let deadline = Instant::now() + limit;
        let wanted = self.rows();
        loop {
            self.still_runs()?;
            let seen = match self.operator()?.metrics().await {
                Ok(metrics) => {
                    let page = Page::read(&metrics);
                    match missing(&page, wanted, self.inventories(), sink) {
                        None => return Ok(()),
                        Some(missing) => missing,
                    }
                }
                Err(error) => format!("{error:#}"),
            };
            ensure!(Instant::now() < deadline, "after {limit:?} not all bindings have all rows: {seen}");
            if sink.is_none() {
                self.hasten().await?;
            }
            sleep(PACE).await;
        }
    }

    /// Fails unless the statuses of the inventories have all rows and nothing that waits.
    async fn stated(&self) -> Result<()> {
        let inventories = self.list().await?;
        let statuses = || inventories.iter().filter_map(|inventory| inventory.status.as_ref());
        let items: i64 = statuses().map(|status| status.item_count).sum();
        ensure!(usize::try_from(items).ok() == Some(self.rows()), "{items} items of {}", self.rows());
        let behind = statuses().flat_map(|status| &status.sink_exports).filter(|export| export.lag.is_some()).count();
        ensure!(behind == 0, "{behind} sinks are behind");
        Ok(())
    }

    fn sources(&self) -> Result<Sources> {
        Ok(Sources {
            metrics: Some(format!("http://{}/metrics", self.operator()?.metrics_address())),
            database: Some(self.lab.postgres().dsn(DATABASE)),
            table: TABLE.to_owned(),
            git: Some(self.repository.path().to_owned()),
            cluster: CLUSTER.to_owned(),
            commits_asked: self.commits_asked,
            ..Sources::new(self.client.clone(), NAMESPACES)
        })
    }
}

/// How changes come to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    /// They are told to end.
    Stop,
    /// They end by themselves.
    Await,
}

/// Says what is not yet as it will be; nothing when all is.
fn missing(page: &Page, rows: usize, inventories: usize, sink: Option<Sink>) -> Option<String> {
    if (page.rows - rows as f64).abs() > 0.5 {
        return Some(format!("{} of {rows} rows in the store", page.rows));
    }
    for of in Sink::ALL.into_iter().filter(|of| sink.is_none_or(|sink| sink == *of)) {
        let synced = page.synced.iter().filter(|synced| **synced == of).count();
        if synced != inventories {
            return Some(format!("{synced} of {inventories} bindings to {} are synced", of.as_str()));
        }
        let behind = page.lags_of(of).iter().filter(|lag| **lag > 0.0).count();
        if behind > 0 {
            return Some(format!("{behind} of {inventories} bindings to {} are behind", of.as_str()));
        }
    }
    None
}

/// Returns what was logged as an error, each once.
fn errors_in(log: &str) -> Vec<String> {
    let mut errors = BTreeSet::new();
    for line in log.lines().filter(|line| line.contains("\"level\":\"error\"")) {
        let fields: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let text = |name: &str| fields.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        errors.insert(format!("{}: {}", text("msg"), text("error")));
    }
    errors.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: f64, lags: &[(Sink, f64)], synced: &[Sink]) -> Page {
        Page { rows, lags: lags.to_vec(), synced: synced.to_vec(), ..Page::default() }
    }

    #[test]
    fn what_is_missing_is_said_in_the_order_of_the_data() {
        use Sink::{Git, Postgres};
        let all = [Git, Git, Postgres, Postgres];
        let calm = [(Git, 0.0), (Git, 0.0), (Postgres, 0.0), (Postgres, 0.0)];
        let late = [(Git, 9.0), (Git, 0.0), (Postgres, 0.0), (Postgres, 0.0)];
        for (page, sink, wanted) in [
            (page(9.0, &[], &[]), None, Some("9 of 10 rows in the store")),
            (page(10.0, &[], &[Git]), None, Some("0 of 2 bindings to postgres are synced")),
            (page(10.0, &late, &all), None, Some("1 of 2 bindings to git are behind")),
            (page(10.0, &late, &all), Some(Postgres), None),
            (page(10.0, &calm, &all), None, None),
        ] {
            assert_eq!(missing(&page, 10, 2, sink).as_deref(), wanted);
        }
    }

    #[test]
    fn errors_of_the_log_are_shown_once() {
        let log = r#"{"level":"info","msg":"started"}
{"level":"error","msg":"export failed","error":"no route","inventory":"a/i"}
{"level":"error","msg":"export failed","error":"no route","inventory":"b/i"}
"#;
        assert_eq!(errors_in(log), ["export failed: no route"]);
    }
}
