//! The stage of one run: a lab with filled etcd, the custom resources of the bench, and the operator on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::control_plane::ApiWrite;
use super::super::git::{BRANCH, HttpServer, Repositories, Repository, Scheme};
use super::super::load::{self, Change, IMAGE, Load, RawList};
use super::super::operator::{Operator, OperatorOptions};
use super::super::postgres::{Database, RowWrites};
use super::super::process;
use super::super::tools::{self, Tool};
use super::super::wait::wait_for;
use super::super::{Lab, LabOptions};
use super::stream::Broker;
use super::{Bench, DATABASE, Name, cluster_target, freshness, memory, stream};

pub(super) const TABLE: &str = "inventory_items";

/// An operator that has not delivered by then never will.
const DELIVERY_LIMIT: Duration = Duration::from_mins(15);

/// Seconds and CPU seconds from the start of the process until all rows were there.
pub(super) struct ColdStart {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
}

pub(super) struct Stage {
    // Declared before the servers, so that it ends before they do.
    operator: Option<Operator>,
    archive: Option<Archive>,
    options: OperatorOptions,
    client: Client,
    outlet: Outlet,
    load: Load,
    rows: usize,
    targets: usize,
    /// What [`Stage::apply_targets`] applies.
    held: Vec<Value>,
    lab: Lab,
}

/// Where the rows go.
pub(super) enum Outlet {
    /// To the table of all benches.
    Table(Database),
    /// To a stream instead.
    Stream(Arc<dyn Broker>),
}

/// A repository that gets a file for each row, beside the table.
struct Archive {
    repository: Repository,
    server: HttpServer,
    repositories: Repositories,
}

impl Archive {
    fn start() -> Result<Self> {
        let repositories = Repositories::new()?;
        let server = HttpServer::start(&repositories, Scheme::Http)?;
        Ok(Self { repository: repositories.create("inventory")?, server, repositories })
    }
}

/// Returns the directory of an etcd that holds the objects of this bench; fills one on the first call.
pub(super) async fn filled_etcd(bench: &Bench) -> Result<PathBuf> {
    let load = load_of(bench);
    let cache = tools::cache_dir()?;
    // What the objects look like is part of the name, so that a new shape does not find old ones.
    let shape = load.shape();
    let (version, rows, namespaces) = (Tool::KubeApiserver.version()?, bench.rows, bench.namespaces);
    let dir = cache.join(format!("etcd-{version}-{rows}x{namespaces}-{shape}"));
    if dir.exists() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&cache)?;
    let filling = cache.join(format!("etcd-filling-{}", std::process::id()));
    if filling.exists() {
        std::fs::remove_dir_all(&filling)?;
    }
    eprintln!("creating {rows} objects in {namespaces} namespaces, once");
    let options = LabOptions {
        garbage_collector: false,
        postgres: false,
        etcd_dir: Some(filling.clone()),
        ..LabOptions::default()
    };
    let lab = Lab::start(options).await?;
    let summary = load.create(&lab.api().client().await?).await?;
    eprintln!("created in {:.0} s", summary.seconds);
    lab.stop().await?;
    std::fs::rename(&filling, &dir).with_context(|| format!("failed to keep {}", dir.display()))?;
    Ok(dir)
}

impl Stage {
    /// Starts a lab on a copy of the filled etcd and applies the custom resources. The operator does not run yet.
    pub(super) async fn set(bench: &Bench, filled: &Path) -> Result<Self> {
        let options = LabOptions {
            garbage_collector: false,
            postgres: !bench.name.streams(),
            etcd_from: Some(filled.to_owned()),
            ..LabOptions::default()
        };
        let lab = Lab::start(options).await?;
        lab.api().apply_crds(&bench.crds)?;
        if bench.name == Name::Freshness {
            freshness::stamp_commits(lab.postgres()).await?;
        }
        let outlet = if let Some(broker) = stream::start(bench.name, &lab).await? {
            Outlet::Stream(broker)
        } else {
            lab.postgres().create_database(DATABASE).await?;
            Outlet::Table(lab.postgres().connect(DATABASE).await?)
        };
        let load = load_of(bench);
        let archive = if bench.name == Name::Restart { Some(Archive::start()?) } else { None };
        let url = archive.as_ref().map(|archive| archive.server.url(&archive.repository));
        let mut documents = Vec::new();
        match bench.name {
            Name::ClusterTarget => documents.push(cluster_target::profile(&load.namespace(0), &profile())),
            _ => documents.extend(manifests(bench, &load, &Sink::of(&outlet, &lab), url.as_deref())),
        }
        // What it takes without a single row is measured first.
        let later = |document: &Value| bench.name == Name::Memory && document["kind"] == "KollectTarget";
        let (held, documents): (Vec<_>, Vec<_>) = documents.into_iter().partition(later);
        lab.api().apply(&list(&documents))?;
        let log = lab.dir().join("kollect.log");
        let mut options = OperatorOptions::new(&bench.kollect, lab.api().operator_kubeconfig(), log);
        options.args.clone_from(&bench.operator_args);
        if bench.name == Name::Memory {
            options.args.push(memory::relisting());
        }
        if let Some(archive) = &archive {
            let mirrors = archive.repositories.dir().join("mirrors").to_string_lossy().into_owned();
            options.env.push(("KOLLECT_GIT_MIRROR_DIR".to_owned(), mirrors));
        }
        options.memory_limit_mib = bench.memory_limit_mib;
        let stage = Self {
            operator: None,
            archive,
            options,
            client: lab.api().client().await?,
            outlet,
            load,
            rows: bench.rows,
            targets: bench.targets,
            held,
            lab,
        };
        // The API server fills its watch cache in the background, and a list before that is another measurement.
        wait_for("all objects to be listed", Duration::from_mins(3), || async {
            let list = load::raw_list(&stage.client, "deployments.apps").await?;
            ensure!(list.bytes > stage.rows * 1_000, "only {} bytes", list.bytes);
            Ok(())
        })
        .await?;
        Ok(stage)
    }

    /// Ends everything.
    pub(super) async fn clear(self) -> Result<()> {
        drop(self.operator);
        self.lab.stop().await
    }

    pub(super) fn operator(&self) -> Result<&Operator> {
        self.operator.as_ref().context("the operator does not run")
    }

    pub(super) fn load(&self) -> &Load {
        &self.load
    }

    pub(super) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    pub(super) fn database(&self) -> Result<&Database> {
        match &self.outlet {
            Outlet::Table(database) => Ok(database),
            Outlet::Stream(_) => bail!("this bench has no table"),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn targets(&self) -> usize {
        self.targets
    }

    pub(super) fn log_tail(&self) -> String {
        process::tail(&self.options.log, 15)
    }

    /// Reads the collected list as a plain client.
    pub(super) async fn raw_list(&self) -> Result<RawList> {
        load::raw_list(&self.client, "deployments.apps").await
    }

    /// Applies the targets that were held back.
    pub(super) fn apply_targets(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        ensure!(!held.is_empty(), "no target was held back");
        self.lab.api().apply(&list(&held)).map(drop)
    }

    /// Starts the operator and waits until every row is there.
    pub(super) async fn cold_start(&mut self) -> Result<ColdStart> {
        self.operator = Some(Operator::spawn(&self.options, self.lab.guard())?);
        self.delivered().await
    }

    /// Waits until every row is there.
    pub(super) async fn delivered(&mut self) -> Result<ColdStart> {
        // Counting the rows costs PostgreSQL time on the same cores, the more the more there are.
        let (expected, pace) = (self.rows, Duration::from_millis(if self.rows > 20_000 { 200 } else { 50 }));
        loop {
            let count = self.count_rows().await?;
            let operator = self.operator.as_mut().context("the operator does not run")?;
            let elapsed = operator.started().elapsed();
            if count == expected {
                let cpu_seconds = operator.process().cpu_seconds()?;
                return Ok(ColdStart { seconds: elapsed.as_secs_f64(), cpu_seconds });
            }
            if let Some(status) = operator.exited()? {
                bail!("the operator ended with {status} when {count} of {expected} rows were there");
            }
            ensure!(elapsed < DELIVERY_LIMIT, "{count} of {expected} rows after {elapsed:?}");
            sleep(pace).await;
        }
    }

    /// Starts the operator and returns the seconds until it says that it is ready.
    pub(super) async fn start(&mut self) -> Result<f64> {
        let operator = Operator::start(&self.options, self.lab.guard()).await?;
        let seconds = operator.started().elapsed().as_secs_f64();
        self.operator = Some(operator);
        Ok(seconds)
    }

    /// Ends the operator without a chance to clean up.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.operator.take().context("the operator does not run")?.kill9().await
    }

    /// Waits until the operator has written nothing to the API and no row for so long.
    pub(super) async fn quiet(&mut self, length: Duration) -> Result<()> {
        let deadline = Instant::now() + length * 10;
        let mut seen = (0, 0);
        let mut since = Instant::now();
        while since.elapsed() < length {
            if let Some(operator) = &mut self.operator
                && let Some(status) = operator.exited()?
            {
                bail!("the operator ended with {status}");
            }
            let now = (self.api_writes()?.len(), self.writes().await?);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            ensure!(Instant::now() < deadline, "the operator does not come to rest");
        }
        Ok(())
    }

    /// Changes these objects at this rate and returns when each change was acknowledged.
    pub(super) async fn churn(&self, objects: Vec<usize>, per_second: f64) -> Result<Vec<Change>> {
        let load = Load { rate: Some(per_second), connections: 4, ..self.load.clone() };
        Ok(load.patch(&self.client, objects, 1).await?.1)
    }

    /// Returns how many rows have an image other than the first.
    pub(super) async fn count_changed_rows(&self) -> Result<usize> {
        let query = format!("SELECT count(*) FROM {TABLE} WHERE strpos(payload::text, $1) = 0");
        let count: i64 = self.database()?.query_one(&query, &[&IMAGE]).await?.get(0);
        Ok(usize::try_from(count)?)
    }

    /// Fails unless there is one row for each object.
    pub(super) async fn check_rows(&self) -> Result<()> {
        let count = self.count_rows().await?;
        ensure!(count == self.rows, "{count} rows for {} objects", self.rows);
        Ok(())
    }

    async fn count_rows(&self) -> Result<usize> {
        match &self.outlet {
            Outlet::Table(database) => Ok(usize::try_from(self.lab.postgres().count(database, TABLE).await?)?),
            Outlet::Stream(broker) => stream::count_rows(&**broker, self.rows).await,
        }
    }

    pub(super) async fn row_writes(&self) -> Result<RowWrites> {
        self.lab.postgres().row_writes(self.database()?, TABLE).await
    }

    /// Returns a number that grows with whatever is written to where the rows go.
    async fn writes(&self) -> Result<u64> {
        match &self.outlet {
            Outlet::Table(_) => Ok(u64::try_from(self.row_writes().await?.total())?),
            Outlet::Stream(broker) => broker.count().await,
        }
    }

    /// Returns the number of commits in the repository; fails unless it has a file for each object.
    pub(super) fn commits(&self) -> Result<usize> {
        let Archive { repository, .. } = self.archive.as_ref().context("this bench has no repository")?;
        let files = repository.files(BRANCH)?.len();
        ensure!(files == self.rows, "{files} files for {} objects", self.rows);
        Ok(repository.log(BRANCH)?.len())
    }

    /// Returns the operator's writes to the API, without the lease that a leader has to renew.
    pub(super) fn api_writes(&self) -> Result<Vec<ApiWrite>> {
        let mut writes = self.lab.api().operator_writes()?;
        writes.retain(|write| write.resource != "leases");
        Ok(writes)
    }
}

fn load_of(bench: &Bench) -> Load {
    Load { namespaces: bench.namespaces, per_namespace: bench.rows / bench.namespaces, ..Load::default() }
}

/// The sink of every inventory, and what it needs.
struct Sink {
    kind: &'static str,
    /// Which references of an inventory name it.
    refs: &'static str,
    spec: Value,
    secret: Value,
}

impl Sink {
    fn of(outlet: &Outlet, lab: &Lab) -> Self {
        match outlet {
            Outlet::Table(_) => Self {
                kind: "KollectDatabaseSink",
                refs: "databaseSinkRefs",
                spec: json!({
                    "type": "postgres",
                    "cluster": "bench",
                    "postgres": {"databaseRef": {"name": "bench"}, "table": TABLE},
                }),
                secret: json!({"dsn": lab.postgres().dsn(DATABASE)}),
            },
            Outlet::Stream(broker) => {
                Self { kind: "KollectEventSink", refs: "eventSinkRefs", spec: broker.spec(), secret: json!({}) }
            }
        }
    }
}

/// Returns everything that a user writes: six attributes, one of them CEL, one shared table or stream, and one shared
/// repository where there is one. A cluster target has manifests of its own.
fn manifests(bench: &Bench, load: &Load, sink: &Sink, repository: Option<&str>) -> Vec<Value> {
    let mut documents = Vec::new();
    for target in 0..bench.targets {
        let namespace = load.namespace(target);
        let named = |kind: &str, spec: Value| {
            json!({
                "apiVersion": "kollect.dev/v1alpha1",
                "kind": kind,
                "metadata": {"name": "bench", "namespace": namespace},
                "spec": spec,
            })
        };
        let mut selects = json!({"profileRef": "bench"});
        if bench.targets > 1 {
            let own = (target..bench.namespaces).step_by(bench.targets).map(|index| load.namespace(index));
            selects["includedNamespaces"] = own.collect();
        }
        documents.push(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "bench", "namespace": namespace},
            "stringData": sink.secret,
        }));
        documents.push(named("KollectProfile", profile()));
        documents.push(named("KollectTarget", selects));
        documents.push(named(sink.kind, sink.spec.clone()));
        let mut inventory = json!({"exportMinInterval": bench.interval()});
        inventory[sink.refs] = json!([{"name": "bench"}]);
        if let Some(endpoint) = repository {
            let layout = json!({"mode": "perResource"});
            let sink = json!({"type": "git", "cluster": "bench", "endpoint": endpoint, "layout": layout});
            documents.push(named("KollectSnapshotSink", sink));
            inventory["snapshotSinkRefs"] = json!([{"name": "bench"}]);
        }
        documents.push(named("KollectInventory", inventory));
    }
    documents
}

/// Returns the spec of the profile.
fn profile() -> Value {
    json!({
        "targetGVK": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "attributes": [
            {"name": "image", "path": "$.spec.template.spec.containers[0].image"},
            {"name": "replicas", "path": "$.spec.replicas"},
            {"name": "team", "path": "$.metadata.labels['app.kubernetes.io/part-of']"},
            {"name": "version", "path": "$.metadata.labels['app.kubernetes.io/version']"},
            {"name": "owner", "path": "$.metadata.annotations['kollect.dev/owner']"},
            {"name": "containers", "path": "cel:object.spec.template.spec.containers.map(c, c.name)"},
        ],
    })
}

fn list(documents: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": documents}).to_string()
}
