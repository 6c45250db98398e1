//! The task tree: what is started, who waits for whom, and the order of the end.
//!
//! ```text
//!   control ──► watch ──► (store) ──► deliver ──► sinks
//!      ▲                                 │
//!      └────────── reports ──────────────┘          status writer, health and metrics servers beside them
//! ```
//!
//! The end goes the other way: control and watch stop at once, deliveries in flight get 30 s, then what is left of the
//! statuses is written, the connections are closed, the lease is released, and last of all the servers stop answering.
//!
//! With election, all of this but the servers is there only while this process leads; a standby has no watches, no
//! queues and no connections to sinks. A lease that is lost ends the process without an order: nothing is drained, since
//! another replica may be writing already.

mod allocator;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::allocator::Allocator;
use crate::admission;
use crate::config::{
    ApiAccess, Bound, Config, MetricsServer, Mirrors, Permission, ServingPair, Tenancy, WebhookPair, WebhookServer,
};
use crate::control::{Control, Parts};
use crate::deliver::{self, Deliverer};
use crate::error::chain;
use crate::export::event::Life;
use crate::http::admission::Reviewer;
use crate::http::admission::certificate::Keeper;
use crate::http::auth::Gate;
use crate::http::health::Readiness;
use crate::http::tls::{Places, Serving};
use crate::http::{self, HttpError, Server};
use crate::lease::{self, Candidate};
use crate::metrics::{Metrics, TlsServer};
use crate::model;
use crate::schedule::Limits;
use crate::schedule::backoff::Backoff;
use crate::sinks::Registry;
use crate::sinks::git::{GitRepositories, MirrorPlaces};
use crate::sinks::kafka::KafkaTopics;
use crate::sinks::mandate::Mandate;
use crate::sinks::nats::NatsServers;
use crate::sinks::netguard::Guard;
use crate::sinks::object::ObjectStores;
use crate::sinks::postgres::{PostgresPools, Writer};
use crate::status::StatusWriter;
use crate::status::events::EventWriter;
use crate::store::Store;
use crate::watch::{Bounds, Clients, ClusterWide, Settings, WatchSet};

/// A watch is silent for minutes; its own limits are shorter than this last resort.
const READ_TIMEOUT: Duration = Duration::from_secs(330);
/// Connecting to the API server, and its first answer, take no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The flag that says where metrics are served.
const METRICS_FLAG: &str = "metrics-bind-address";

/// The flag that says where the webhooks are served.
const WEBHOOK_FLAG: &str = "webhook-bind-address";

/// Where the lease is when nothing names a namespace.
const HOME: &str = "kollect-system";

/// Why the operator ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A server could not start or go on.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The kubeconfig cannot be used.
    #[error("failed to read how to reach the API server")]
    Access(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A task panicked.
    #[error("a task ended in a panic")]
    Panic(#[from] JoinError),
    /// A task that runs as long as the process ended before it.
    #[error("a task ended before it was told to")]
    Ended,
    /// Another replica may lead.
    #[error("this replica no longer leads")]
    Deposed,
}

/// Runs the operator until `stop` is cancelled, then ends it in order.
///
/// # Errors
/// Everything that ends the operator by itself.
pub async fn run(config: Config, metrics: Arc<Metrics>, stop: CancellationToken) -> Result<(), RuntimeError> {
    let readiness = Readiness::new();
    let allocator = Arc::new(Allocator);
    metrics.read_from(&allocator);
    // The servers outlive the work, so that the end can be observed.
    let serving = CancellationToken::new();
    let cluster = connect(&config.api).await?;
    metrics.api_server(&cluster.host);
    let mut servers = serve(&config, &cluster, &metrics, &readiness, &serving).await?;
    readiness.ready();
    let working = stop.child_token();
    let verdict = {
        let mut work = std::pin::pin!(lead(config, cluster, metrics, working.clone()));
        tokio::select! {
            verdict = &mut work => verdict,
            Some(ended) = servers.join_next() => {
                working.cancel();
                let verdict = flatten(ended).and(Err(RuntimeError::Ended));
                work.await.and(verdict)
            }
        }
    };
    readiness.stopping();
    serving.cancel();
    if matches!(verdict, Err(RuntimeError::Deposed)) {
        return verdict;
    }
    let mut verdict = verdict;
    while let Some(ended) = servers.join_next().await {
        verdict = verdict.and(flatten(ended));
    }
    verdict
}

/// Works at once without election; with it, as long as this process holds the lease.
async fn lead(
    config: Config,
    cluster: Cluster,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), RuntimeError> {
    let Cluster { client, lists, namespace, .. } = cluster;
    let clients = Clients { lists, others: client };
    let bound = config.bound.settled(&model::Namespace::new(namespace.as_str()));
    if let Bound::Namespaces(names) = &bound {
        let names: Vec<&str> = names.iter().map(model::Namespace::as_str).collect();
        info!(watchNamespaces = names.join(","), "Restricting manager cache to namespaces");
    }
    let config = Config { bound, ..config };
    let Some(election) = &config.election else {
        let right = Right { home: namespace, ..Right::default() };
        return work(config, clients, metrics, right, stop).await;
    };
    let candidate = Candidate::new(clients.others.clone(), &namespace, election, metrics.clone());
    let Some(mut term) = candidate.campaign(&stop).await else { return Ok(()) };
    let right = Right {
        mandate: term.mandate(),
        lease_transitions: term.transitions(),
        lease: term.uid().map(str::to_owned),
        home: namespace,
    };
    let verdict = {
        let mut work = std::pin::pin!(work(config, clients, metrics, right, stop));
        tokio::select! {
            // Looked at first, so that what ended by itself after the loss is not taken for an orderly end.
            biased;
            lost = term.keep() => {
                error!(lease = lease::NAME, error = chain(&lost), "leader election lost");
                return Err(RuntimeError::Deposed);
            }
            verdict = &mut work => verdict,
        }
    };
    term.release().await;
    verdict
}

/// By what right this process writes, and as who where it may not read more.
#[derive(Default)]
struct Right {
    mandate: Mandate,
    lease_transitions: i64,
    /// UID of the lease.
    lease: Option<String>,
    /// The namespace of the process.
    home: String,
}

/// Collects and delivers until `stop` is cancelled, or a task ends by itself. Dropped, it ends everything at once.
async fn work(
    config: Config,
    clients: Clients,
    metrics: Arc<Metrics>,
    right: Right,
    stop: CancellationToken,
) -> Result<(), RuntimeError> {
    let who = Who { tenancy: config.tenancy, lease: right.lease, home: right.home };
    let Some((cluster_uid, server_minor)) = stop.run_until_cancelled(introduce(&clients.others, &who)).await else {
        return Ok(());
    };
    let config = Arc::new(config);
    let store = Store::new(config.collection.store_budget.map(|budget| budget.0));
    let settings = settings(&config, server_minor);
    // Each stage ends by a token of its own, so that the end has an order.
    let (delivering, reporting, connected) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());

    let client = clients.others.clone();
    let watch = WatchSet::new(clients, store.clone(), &metrics, settings, &stop);
    let guard = Guard::from(&config.network);
    let Mirrors { configured, cache, temporary } = config.delivery.git.mirrors.clone();
    let mirrors = MirrorPlaces { configured, cache, temporary };
    let git = GitRepositories::new(guard, cluster_uid.clone(), mirrors, jiff::Timestamp::now, connected.clone());
    let object = ObjectStores::new(guard, cluster_uid.clone(), jiff::Timestamp::now, connected.clone());
    let lease_transitions = u64::try_from(right.lease_transitions).unwrap_or_default();
    let life = Life { process: cluster_uid.clone(), lease_transitions };
    let kafka = KafkaTopics::new(guard, life.clone(), jiff::Timestamp::now, connected.clone());
    let nats = NatsServers::new(guard, life, jiff::Timestamp::now, connected.clone());
    let writer = Writer { process: cluster_uid, lease_transitions: right.lease_transitions };
    let postgres = PostgresPools::new(guard, writer, jiff::Timestamp::now, connected.clone());
    let registry = Arc::new(Registry {
        postgres: postgres.under(right.mandate.clone()),
        git: git.under(right.mandate.clone()),
        object: object.under(right.mandate.clone()),
        nats: nats.under(right.mandate.clone()),
        kafka: kafka.under(right.mandate),
    });
    let delivering_by = deliver::Settings {
        limits: Limits {
            total: config.delivery.concurrent.get(),
            per_destination: config.delivery.concurrent_per_destination.get(),
            audit_interval: config.delivery.audit_interval,
        },
        unknown_grace: config.collection.unknown_grace,
        max_export_bytes: config.delivery.max_export_bytes,
    };
    let seed = RandomState::new().hash_one(std::process::id());
    let (deliverer, deliveries) = Deliverer::new(store.clone(), metrics.clone(), delivering_by, seed);
    let statuses = StatusWriter::new(client.clone(), metrics.clone());
    let events = EventWriter::new(client.clone(), metrics.clone());
    metrics.read_from(&events.sizes());
    let reports = Arc::new(deliveries.reports().clone());
    let rows = Arc::new(store.clone());
    metrics.read_from(&watch);
    metrics.read_from(&rows);
    metrics.read_from(&reports);
    let control = Control::new(Parts {
        client,
        config,
        metrics: metrics.clone(),
        store,
        watch: watch.clone(),
        deliveries,
        registry: registry.clone(),
        statuses: statuses.clone(),
        events: events.clone(),
    });

    let overview = control.overview().clone();
    metrics.read_from(&overview);

    let mut collecting: JoinSet<Result<(), JoinError>> = JoinSet::new();
    collecting.spawn(control.run(stop.clone()));
    collecting.spawn(watch.run(stop.clone()));
    let mut deliver: JoinSet<Result<(), JoinError>> = JoinSet::new();
    deliver.spawn(deliverer.run(delivering.clone()));
    let mut report: JoinSet<Result<(), JoinError>> = JoinSet::new();
    report.spawn(statuses.run(reporting.clone()));
    report.spawn(events.run(reporting.clone()));

    let early = tokio::select! {
        () = stop.cancelled() => None,
        Some(ended) = collecting.join_next() => Some(ended),
        Some(ended) = deliver.join_next() => Some(ended),
        Some(ended) = report.join_next() => Some(ended),
    };
    stop.cancel();
    let mut verdict = match early {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(panic)) | Err(panic)) => Err(RuntimeError::Panic(panic)),
    };
    for (tasks, token) in [(&mut collecting, &stop), (&mut deliver, &delivering), (&mut report, &reporting)] {
        token.cancel();
        while let Some(ended) = tasks.join_next().await {
            verdict = verdict.and(ended.and_then(|ended| ended).map_err(RuntimeError::Panic));
        }
    }
    registry.close().await;
    verdict
}

fn settings(config: &Config, server_minor: u32) -> Settings {
    let collection = &config.collection;
    Settings {
        dispatch: Bounds {
            workers: collection.dispatch_workers,
            queue: collection.dispatch_queue,
            patience: collection.dispatch_enqueue_wait,
        },
        max_namespaced: collection.namespaced_watches.get(),
        max_connections: collection.watch_connections.get(),
        resync: collection.resync_period,
        server_minor,
        cluster_wide: match config.bound {
            Bound::Cluster => ClusterWide::Allowed,
            Bound::Namespaces(_) => ClusterWide::Never,
        },
    }
}

/// An API server, and where in it this process is at home.
struct Cluster {
    client: kube::Client,
    /// For lists of what is collected.
    lists: kube::Client,
    namespace: String,
    /// Host and port.
    host: String,
}

/// Makes a client from the kubeconfig or the service account. Home is the namespace of the pod or of the kubeconfig's
/// context.
async fn connect(access: &ApiAccess) -> Result<Cluster, RuntimeError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| RuntimeError::Access(error);
    let (mut config, namespace) = match access {
        ApiAccess::InCluster => {
            let config = kube::Config::incluster().map_err(|error| failed(error.into()))?;
            let namespace = config.default_namespace.clone();
            (config, namespace)
        }
        ApiAccess::Kubeconfig(files) => {
            let mut merged = Kubeconfig::default();
            for file in files {
                let next = Kubeconfig::read_from(file).map_err(|error| failed(error.into()))?;
                merged = merged.merge(next).map_err(|error| failed(error.into()))?;
            }
            let namespace = context_namespace(&merged).unwrap_or_else(|| HOME.to_owned());
            let config = kube::Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default()).await;
            (config.map_err(|error| failed(error.into()))?, namespace)
        }
    };
    config.read_timeout = Some(READ_TIMEOUT);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let lists = kube::Client::try_from(config.clone()).map_err(|error| failed(error.into()))?;
    let client = kube::Client::try_from(config).map_err(|error| failed(error.into()))?;
    Ok(Cluster { client, lists, namespace, host })
}

/// Returns the namespace that the current context names.
fn context_namespace(kubeconfig: &Kubeconfig) -> Option<String> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == *current)?;
    context.context.as_ref()?.namespace.clone().filter(|namespace| !namespace.is_empty())
}

/// What tells this installation from others, besides what the API server says.
struct Who {
    tenancy: Tenancy,
    lease: Option<String>,
    home: String,
}

/// Asks the API server who it is, until it answers: what tells this installation from others, and its minor version.
async fn introduce(client: &kube::Client, who: &Who) -> (String, u32) {
    let mut backoff = Backoff::new(1);
    loop {
        match tokio::time::timeout(CONNECT_TIMEOUT, ask(client, who)).await {
            Ok(Ok((uid, minor))) => {
                info!(cluster = uid, minor, "API server reached");
                return (uid, minor);
            }
            Ok(Err(error)) => warn!(error = chain(&error), "API server not reached, trying again"),
            Err(_) => warn!("API server does not answer, trying again"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn ask(client: &kube::Client, who: &Who) -> Result<(String, u32), kube::Error> {
    let version = client.apiserver_version().await?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    // An unreadable minor version is taken for an old one, which any server serves.
    Ok((identity(client, who).await?, digits.parse().unwrap_or(0)))
}

/// Returns the UID of `kube-system`; of a tenant, that of the lease, and without election that of its namespace. The flags
/// alone decide which: one that changed with an answer of the moment would make another writer of us.
async fn identity(client: &kube::Client, who: &Who) -> Result<String, kube::Error> {
    let namespace = match (who.tenancy, &who.lease) {
        (Tenancy::Tenant, Some(lease)) => return Ok(lease.clone()),
        (Tenancy::Tenant, None) => &who.home,
        (Tenancy::Platform, _) => "kube-system",
    };
    let api: kube::Api<Namespace> = kube::Api::all(client.clone());
    match api.get_metadata(namespace).await {
        Ok(namespace) => Ok(namespace.metadata.uid.unwrap_or_default()),
        Err(error) => {
            if matches!(&error, kube::Error::Api(answer) if answer.code == 403) {
                warn!(
                    namespace,
                    "this namespace may not be read: grant get on it, or set --tenant-mode with --leader-elect"
                );
            }
            Err(error)
        }
    }
}

/// Starts the servers that have an address.
async fn serve(
    config: &Config,
    cluster: &Cluster,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<JoinSet<Result<(), HttpError>>, RuntimeError> {
    let servers = &config.servers;
    let mut tasks = JoinSet::new();
    let mut start = |flag: &str, server: Server| {
        info!(flag, address = %server.address(), "listening");
        tasks.spawn(server.serve(stop.clone()));
    };
    if let Some(address) = &servers.health {
        let flag = "health-probe-bind-address";
        start(flag, Server::bind(flag, address, http::health::router(readiness.clone())).await?);
    }
    if let Some(wanted) = &servers.metrics {
        start(METRICS_FLAG, metrics_server(wanted, &cluster.client, metrics).await?);
    }
    if let Some(wanted) = &servers.webhooks {
        let (server, keeper) = webhook_server(wanted, config, cluster, metrics, readiness).await?;
        start(WEBHOOK_FLAG, server);
        if let Some(keeper) = keeper {
            let stop = stop.clone();
            tasks.spawn(async move {
                keeper.run(stop).await;
                Ok(())
            });
        }
    }
    if let Some(address) = &servers.pprof {
        let server = Server::bind("pprof-bind-address", address, http::pprof::router(stop.clone())).await?;
        info!(bindAddress = %server.address(), "pprof enabled");
        tasks.spawn(server.serve(stop.clone()));
    }
    Ok(tasks)
}

/// Makes the server of the metrics, open or behind TLS and the API server's word.
async fn metrics_server(
    wanted: &MetricsServer,
    client: &kube::Client,
    metrics: &Arc<Metrics>,
) -> Result<Server, HttpError> {
    let address = &wanted.address;
    let Some(pair) = &wanted.secure else {
        return Server::bind(METRICS_FLAG, address, http::metrics::open(metrics.clone())).await;
    };
    let flag = "metrics-cert-path";
    let serving = Serving::load(pair).await.map_err(|source| HttpError::Certificate { flag, source })?;
    let gate = Gate::new(client.clone(), http::metrics::PATH, metrics.clone());
    let server = Server::bind(METRICS_FLAG, address, http::metrics::guarded(metrics.clone(), gate)).await?;
    Ok(server.over_tls(serving.shown(TlsServer::Metrics, metrics), Places::of_metrics(metrics)))
}

/// Makes the server of the webhooks, and who looks after its pair where nobody else does.
async fn webhook_server(
    wanted: &WebhookServer,
    config: &Config,
    cluster: &Cluster,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) -> Result<(Server, Option<Keeper>), HttpError> {
    let flag = "webhook-cert-path";
    let pair = match &wanted.pair {
        WebhookPair::Brought(pair) => pair,
        // Until the shared one is there.
        WebhookPair::Shared(_) => &ServingPair::SelfSigned,
    };
    let serving = Serving::load(pair).await.map_err(|source| HttpError::Certificate { flag, source })?;
    let keeper = match &wanted.pair {
        WebhookPair::Brought(_) => None,
        WebhookPair::Shared(shared) => {
            readiness.awaits_certificate();
            let (client, exchange) = (cluster.client.clone(), serving.exchange());
            let (shared, readiness) = (shared.clone(), readiness.clone());
            Some(Keeper::new(client, &cluster.namespace, shared, exchange, readiness, metrics.clone()))
        }
    };
    let settings = admission::Settings {
        max_export_bytes: config.delivery.max_export_bytes.get(),
        guard: Guard::from(&config.network),
        cluster_kinds: match config.tenancy {
            Tenancy::Platform => Permission::Allowed,
            Tenancy::Tenant => Permission::Denied,
        },
    };
    let reviewer = Reviewer::new(cluster.client.clone(), settings, metrics.clone());
    let server = Server::bind(WEBHOOK_FLAG, &wanted.address, http::admission::router(&reviewer)).await?;
    let serving = serving.shown(TlsServer::Webhooks, metrics);
    Ok((server.over_tls(serving, Places::of_webhooks(metrics)), keeper))
}

fn flatten(ended: Result<Result<(), HttpError>, JoinError>) -> Result<(), RuntimeError> {
    Ok(ended??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_namespace_of_the_current_context() {
        let namespace = |current: &str| {
            let text = format!(
                "current-context: {current}\ncontexts:\n- name: here\n  context: {{cluster: c, namespace: ops}}\n\
                 - name: bare\n  context: {{cluster: c}}\n- name: empty\n  context: {{cluster: c, namespace: \"\"}}\n"
            );
            context_namespace(&Kubeconfig::from_yaml(&text).unwrap())
        };
        assert_eq!(namespace("here").as_deref(), Some("ops"));
        for current in ["bare", "empty", "nowhere"] {
            assert_eq!(namespace(current), None, "{current}");
        }
    }
}
