//! Process settings: flags and environment in, one checked [`Config`] out.
//!
//! This is the only reader of the environment and of the control groups. What comes out is trusted by everybody else:
//! defaults are filled in, units are types, and a flag set to something that this build does not serve never gets past
//! here (it would otherwise be silently without effect).

mod ambient;
mod args;
mod bound;
mod memory;
mod values;

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use ambient::{Ambient, AmbientKeys};
pub use args::ManagerArgs;
pub use bound::{Bound, Tenancy};
pub use values::{
    AuthMode, Bind, BindAddress, Budget, ByteSize, CrossNamespaceSecrets, List, LogFormat, LogLevel, StacktraceLevel,
    TimeEncoding,
};

use crate::duration::format_go_duration;

/// Everything that the process was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How to reach the API server.
    pub api: ApiAccess,
    /// Which part of the cluster to look at.
    pub bound: Bound,
    /// Who gives the process its rights.
    pub tenancy: Tenancy,
    /// Servers of our own.
    pub servers: Servers,
    /// Log lines.
    pub logging: Logging,
    /// From the cluster to rows.
    pub collection: Collection,
    /// From rows to sinks.
    pub delivery: Delivery,
    /// Reconciling our resources.
    pub control: Control,
    /// What sinks may reach and use.
    pub network: Network,
    /// How one of several replicas becomes the active one; `None` is always active.
    pub election: Option<Election>,
}

/// How to reach the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAccess {
    /// These kubeconfig files, merged, the first one winning.
    Kubeconfig(Vec<PathBuf>),
    /// The service account of the pod.
    InCluster,
}

/// Servers of our own; `None` is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// `/healthz` and `/readyz`.
    pub health: Option<BindAddress>,
    /// `/metrics`.
    pub metrics: Option<MetricsServer>,
    /// `/debug/pprof/`.
    pub pprof: Option<BindAddress>,
    /// The validating webhooks.
    pub webhooks: Option<WebhookServer>,
}

/// The server of the webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookServer {
    /// Where it listens.
    pub address: BindAddress,
    /// Its certificate.
    pub pair: WebhookPair,
}

/// Where the certificate of the webhooks comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookPair {
    /// Somebody else brings it, and tells the API server.
    Brought(ServingPair),
    /// The operator makes it.
    Shared(SharedPair),
}

/// A pair that the operator makes, shares with its replicas and makes known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPair {
    /// The Secret that holds it, in the operator's namespace.
    pub secret: String,
    /// The `ValidatingWebhookConfiguration` that is told.
    pub configuration: String,
}

/// The server of `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsServer {
    /// Where it listens.
    pub address: BindAddress,
    /// The certificate of HTTPS, behind which only those may read whom the API server permits it; `None` is plain HTTP
    /// for everybody.
    pub secure: Option<ServingPair>,
}

/// Where the certificate of a server of ours comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServingPair {
    /// Made at start, and signed by itself.
    SelfSigned,
    /// PEM files, read again when they change.
    Files {
        /// The certificate, with what leads to its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// Log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logging {
    /// Their form.
    pub format: LogFormat,
    /// Which ones.
    pub level: LogLevel,
    /// Their time stamps.
    pub time: TimeEncoding,
}

impl From<&ManagerArgs> for Logging {
    /// Needs no checks, so that even a complaint about other flags is logged as asked.
    fn from(args: &ManagerArgs) -> Self {
        let (format, level) =
            if args.zap_devel { (LogFormat::Console, LogLevel::Debug) } else { (LogFormat::Json, LogLevel::Info) };
        Self {
            format: args.zap_encoder.unwrap_or(format),
            level: args.zap_log_level.unwrap_or(level),
            time: args.zap_time_encoding,
        }
    }
}

/// From the cluster to rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// Workers that extract rows.
    pub dispatch_workers: NonZeroUsize,
    /// Events that wait for them.
    pub dispatch_queue: NonZeroUsize,
    /// How long an event waits for a place before that is counted.
    pub dispatch_enqueue_wait: Duration,
    /// Time between full re-lists of a stream.
    pub resync_period: Duration,
    /// Watches per resource below which each namespace has its own.
    pub namespaced_watches: NonZeroUsize,
    /// Watch connections over all resources.
    pub watch_connections: NonZeroUsize,
    /// Memory for rows; `None` is unlimited.
    pub store_budget: Option<ByteSize>,
    /// How long a document waits for first knowledge of all its parts.
    pub unknown_grace: Duration,
    /// Namespaces of a target that names none; empty is all.
    pub default_included_namespaces: Vec<String>,
    /// Namespaces that every target leaves out, besides its own.
    pub default_excluded_namespaces: Vec<String>,
    /// More keys to redact, in lower case.
    pub scrub_keys: Vec<String>,
    /// Least time between refreshes of profile metrics.
    pub metrics_sample_interval: Duration,
    /// Label tuples kept for each profile metric.
    pub labeled_series_cap: NonZeroUsize,
}

/// From rows to sinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Largest document or message, and ceiling of `spec.maxExportBytes`.
    pub max_export_bytes: NonZeroU64,
    /// Deliveries at the same time.
    pub concurrent: NonZeroUsize,
    /// Deliveries at the same time to one destination.
    pub concurrent_per_destination: NonZeroUsize,
    /// Time between comparisons with what the sink holds; `None` is never.
    pub audit_interval: Option<Duration>,
    /// Git repositories.
    pub git: Git,
    /// Credentials of object stores for sinks that name no Secret.
    pub object: Ambient,
}

/// Git repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// Where mirrors of repositories may be kept.
    pub mirrors: Mirrors,
    /// Whether credentials may go out with the first request where a sink does not say.
    pub early_credentials: Permission,
}

/// Where mirrors of repositories may be kept. They are a cache: what is lost is fetched again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// This directory and no other, where it is given: it has to be usable.
    pub configured: Option<PathBuf>,
    /// Else a directory of ours in the cache of the user.
    pub cache: Option<PathBuf>,
    /// Else one among temporary files.
    pub temporary: PathBuf,
}

/// Reconciling our resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// `KollectTargets` at the same time.
    pub targets: NonZeroUsize,
    /// `KollectInventories` at the same time.
    pub inventories: NonZeroUsize,
    /// `KollectClusterTargets` at the same time.
    pub cluster_targets: NonZeroUsize,
    /// `KollectClusterInventories` at the same time.
    pub cluster_inventories: NonZeroUsize,
    /// First delay after a failed reconcile; doubles up to `backoff_cap`.
    pub backoff_base: Duration,
    /// Longest delay after failed reconciles.
    pub backoff_cap: Duration,
    /// Time between refreshes of `status.collectedCount`.
    pub count_resync: Duration,
    /// Least time between status writes that only bring counters up to date.
    pub status_min_interval: Duration,
}

/// What sinks may reach and use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Whether private addresses are permitted.
    pub private_sinks: Permission,
    /// Whether loopback addresses are permitted; for tests.
    pub loopback_sinks: Permission,
    /// Which Secrets of other namespaces.
    pub cross_namespace_secrets: CrossNamespaceSecrets,
}

/// How one of several replicas becomes the active one. Each time is less than the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// How long others wait for a leader that is silent.
    pub lease_duration: Duration,
    /// How long a leader goes on without a renewal.
    pub renew_deadline: Duration,
    /// Time between renewals, and between looks of the others.
    pub retry_period: Duration,
    /// Name of the pod or the machine, for people.
    pub hostname: String,
}

/// A yes or no that reads at the place of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Permitted.
    Allowed,
    /// Refused.
    Denied,
}

impl From<bool> for Permission {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Denied }
    }
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A known flag with a value that this build does not serve.
    #[error("{flag}: not in this build; {fix}")]
    NotServed {
        /// The flag as it would be written.
        flag: &'static str,
        /// What to write instead.
        fix: &'static str,
    },
    /// Lease times in the wrong order.
    #[error(
        "--leader-elect-retry-period ({retry}) must be less than --leader-elect-renew-deadline ({renew}), \
         and that less than --leader-elect-lease-duration ({lease})"
    )]
    LeaseOrder {
        /// Retry period.
        retry: String,
        /// Renew deadline.
        renew: String,
        /// Lease duration.
        lease: String,
    },
    /// No way to an API server.
    #[error(
        "no API server: set --kubeconfig or KUBECONFIG, or run in a pod; \
         without a home directory there is no ~/.kube/config to try"
    )]
    NoApiServer,
}

/// All that is wrong with the settings, so that it can be put right in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What the process can see of its surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `KUBECONFIG`: files separated by `:`.
    pub kubeconfig: Vec<PathBuf>,
    /// Whether the variables of a pod are set.
    pub in_cluster: bool,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `KOLLECT_GIT_MIRROR_DIR`.
    pub git_mirror_dir: Option<PathBuf>,
    /// Whether `KOLLECT_GIT_FORCE_BASIC_AUTH` is `1`, `true` or `yes`.
    pub git_force_basic_auth: bool,
    /// Credentials of object stores.
    pub ambient: Ambient,
    /// `XDG_CACHE_HOME`.
    pub cache: Option<PathBuf>,
    /// Directory of files that may go at any time.
    pub temporary: PathBuf,
    /// Name of the pod or the machine.
    pub hostname: Option<String>,
    /// The memory limit of the container, in bytes.
    pub memory_limit: Option<u64>,
}

impl Environment {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn read() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            kubeconfig: set("KUBECONFIG")
                .map(|files| std::env::split_paths(&files).filter(|file| !file.as_os_str().is_empty()).collect())
                .unwrap_or_default(),
            in_cluster: set("KUBERNETES_SERVICE_HOST").is_some() && set("KUBERNETES_SERVICE_PORT").is_some(),
            home: set("HOME").map(PathBuf::from),
            git_mirror_dir: set("KOLLECT_GIT_MIRROR_DIR").map(PathBuf::from),
            git_force_basic_auth: set("KOLLECT_GIT_FORCE_BASIC_AUTH")
                .is_some_and(|value| ["1", "true", "yes"].iter().any(|yes| value.eq_ignore_ascii_case(yes))),
            ambient: Ambient::read(set),
            cache: set("XDG_CACHE_HOME").map(PathBuf::from),
            temporary: std::env::temp_dir(),
            // Not the variable HOSTNAME: that one is a shell's, and not there outside of pods.
            hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()),
            memory_limit: memory::limit(Path::new("/")),
        }
    }
}

impl Config {
    /// Checks flags and environment, and fills in what they leave open.
    pub fn new(args: ManagerArgs, environment: Environment) -> Result<Self, ConfigErrors> {
        let logging = Logging::from(&args);
        let git = Git { mirrors: mirrors(&environment), early_credentials: environment.git_force_basic_auth.into() };
        let object = environment.ambient;
        let mut errors = not_served(&args);
        errors.extend(lease_order(&args));
        let api = api_access(&args.kubeconfig, environment.kubeconfig, environment.in_cluster, environment.home);
        let api = match api {
            Some(api) if errors.is_empty() => api,
            Some(_) => return Err(ConfigErrors(errors)),
            None => {
                errors.push(ConfigError::NoApiServer);
                return Err(ConfigErrors(errors));
            }
        };
        let tenancy = if args.tenant_mode { Tenancy::Tenant } else { Tenancy::Platform };
        Ok(Self {
            api,
            bound: Bound::new(tenancy, &args.watch_namespaces.0),
            tenancy,
            servers: Servers {
                health: address(args.health_probe_bind_address),
                metrics: address(args.metrics_bind_address).map(|address| MetricsServer {
                    address,
                    secure: args.metrics_secure.then(|| {
                        serving_pair(&args.metrics_cert_path, &args.metrics_cert_name, &args.metrics_cert_key)
                    }),
                }),
                pprof: address(args.pprof_bind_address).filter(|_| args.enable_pprof),
                webhooks: address(args.webhook_bind_address).filter(|_| args.validating_webhooks_enabled).and_then(
                    |address| {
                        let pair =
                            serving_pair(&args.webhook_cert_path, &args.webhook_cert_name, &args.webhook_cert_key);
                        let (secret, configuration) = (args.webhook_secret, args.webhook_configuration);
                        let pair = match pair {
                            // The API server is told of it in an object of the cluster, which a tenant has no right to.
                            ServingPair::SelfSigned if tenancy == Tenancy::Tenant => return None,
                            ServingPair::SelfSigned => WebhookPair::Shared(SharedPair { secret, configuration }),
                            ServingPair::Files { .. } => WebhookPair::Brought(pair),
                        };
                        Some(WebhookServer { address, pair })
                    },
                ),
            },
            logging,
            collection: Collection {
                dispatch_workers: count(args.collect_dispatch_workers, DISPATCH_WORKERS),
                dispatch_queue: count(args.collect_dispatch_queue_size, DISPATCH_QUEUE),
                dispatch_enqueue_wait: args.collect_dispatch_enqueue_wait,
                resync_period: positive(args.informer_resync_period, RESYNC_PERIOD),
                namespaced_watches: count(args.max_namespaced_watches, NAMESPACED_WATCHES),
                watch_connections: count(args.max_watch_connections, WATCH_CONNECTIONS),
                store_budget: store_budget(args.store_budget, environment.memory_limit),
                unknown_grace: args.unknown_grace,
                default_included_namespaces: args.default_included_namespaces.0,
                default_excluded_namespaces: args.default_excluded_namespaces.0,
                scrub_keys: lower_case(args.scrub_keys),
                metrics_sample_interval: positive(args.collect_metrics_sample_interval, METRICS_SAMPLE_INTERVAL),
                labeled_series_cap: count(args.labeled_series_cap, LABELED_SERIES),
            },
            delivery: Delivery {
                max_export_bytes: u64::try_from(args.max_export_bytes)
                    .ok()
                    .and_then(NonZeroU64::new)
                    .unwrap_or(MAX_EXPORT_BYTES),
                concurrent: count(args.max_concurrent_exports, EXPORTS),
                concurrent_per_destination: count(args.max_concurrent_exports_per_destination, EXPORTS_PER_DESTINATION),
                audit_interval: Some(args.sink_audit_interval).filter(|interval| !interval.is_zero()),
                git,
                object,
            },
            control: Control {
                targets: count(args.max_concurrent_reconciles_target, TARGETS),
                inventories: count(args.max_concurrent_reconciles_inventory, INVENTORIES),
                cluster_targets: count(args.max_concurrent_reconciles_cluster_target, CLUSTER_TARGETS),
                cluster_inventories: count(args.max_concurrent_reconciles_cluster_inventory, CLUSTER_INVENTORIES),
                backoff_base: positive(args.reconcile_rate_limit, BACKOFF_BASE),
                backoff_cap: match args.reconcile_rate_limit {
                    Duration::ZERO => BACKOFF_CAP,
                    base => base.saturating_mul(BACKOFF_STEPS),
                },
                count_resync: positive(args.target_count_resync, COUNT_RESYNC),
                status_min_interval: args.status_min_interval,
            },
            network: Network {
                private_sinks: args.allow_private_sinks.into(),
                loopback_sinks: args.allow_loopback_sinks.into(),
                cross_namespace_secrets: args.cross_namespace_secrets,
            },
            election: args.leader_elect.then(|| Election {
                lease_duration: args.leader_elect_lease_duration,
                renew_deadline: args.leader_elect_renew_deadline,
                retry_period: args.leader_elect_retry_period,
                hostname: environment.hostname.unwrap_or_else(|| "kollect".to_owned()),
            }),
        })
    }
}

// What a value of zero or less stands for: the defaults of the flags once more. A test holds the two together.
const DISPATCH_WORKERS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
const DISPATCH_QUEUE: NonZeroUsize = NonZeroUsize::new(512).unwrap();
const NAMESPACED_WATCHES: NonZeroUsize = NonZeroUsize::new(50).unwrap();
const WATCH_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(200).unwrap();
const LABELED_SERIES: NonZeroUsize = NonZeroUsize::new(200).unwrap();
const EXPORTS: NonZeroUsize = NonZeroUsize::new(8).unwrap();
const EXPORTS_PER_DESTINATION: NonZeroUsize = NonZeroUsize::new(2).unwrap();
const TARGETS: NonZeroUsize = NonZeroUsize::new(5).unwrap();
const INVENTORIES: NonZeroUsize = NonZeroUsize::new(3).unwrap();
const CLUSTER_TARGETS: NonZeroUsize = NonZeroUsize::new(2).unwrap();
const CLUSTER_INVENTORIES: NonZeroUsize = NonZeroUsize::new(2).unwrap();
const MAX_EXPORT_BYTES: NonZeroU64 = NonZeroU64::new(1_572_864).unwrap();
const RESYNC_PERIOD: Duration = Duration::from_hours(12);
const METRICS_SAMPLE_INTERVAL: Duration = Duration::from_secs(30);
const COUNT_RESYNC: Duration = Duration::from_mins(1);

/// Backoff of failed reconciles while no base is set.
const BACKOFF_BASE: Duration = Duration::from_millis(5);
/// Its cap.
const BACKOFF_CAP: Duration = Duration::from_secs(1000);
/// The cap as a multiple of a base that is set.
const BACKOFF_STEPS: u32 = 300;

/// Says where mirrors may be kept.
fn mirrors(environment: &Environment) -> Mirrors {
    // A relative directory would depend on where the process was started.
    let cache = environment.cache.clone().filter(|cache| cache.is_absolute());
    Mirrors {
        configured: environment.git_mirror_dir.clone(),
        cache: cache.or_else(|| environment.home.as_ref().map(|home| home.join(".cache"))),
        temporary: environment.temporary.clone(),
    }
}

fn not_served(args: &ManagerArgs) -> Vec<ConfigError> {
    let remove = "remove the flag";
    [
        (args.inventory_http_enabled, "--inventory-http-enabled", remove),
        (args.enable_http2, "--enable-http2", remove),
        (
            !args.reconcile_rate_limit.is_zero(),
            "--reconcile-rate-limit",
            "remove the flag; nothing here is retried in a loop",
        ),
        (args.kube_api_qps != 0.0, "--kube-api-qps", "remove the flag; the fairness of the API server governs"),
        (args.kube_api_burst > 0, "--kube-api-burst", "remove the flag; the fairness of the API server governs"),
    ]
    .into_iter()
    .filter_map(|(set, flag, fix)| set.then_some(ConfigError::NotServed { flag, fix }))
    .collect()
}

fn lease_order(args: &ManagerArgs) -> Option<ConfigError> {
    let (retry, renew, lease) =
        (args.leader_elect_retry_period, args.leader_elect_renew_deadline, args.leader_elect_lease_duration);
    let ordered = !retry.is_zero() && retry < renew && renew < lease;
    (!ordered).then(|| ConfigError::LeaseOrder {
        retry: format_go_duration(retry),
        renew: format_go_duration(renew),
        lease: format_go_duration(lease),
    })
}

/// Finds the API server: the flag, `KUBECONFIG`, the pod, then the file in the home directory.
fn api_access(flag: &str, variable: Vec<PathBuf>, in_cluster: bool, home: Option<PathBuf>) -> Option<ApiAccess> {
    if !flag.is_empty() {
        Some(ApiAccess::Kubeconfig(vec![flag.into()]))
    } else if !variable.is_empty() {
        Some(ApiAccess::Kubeconfig(variable))
    } else if in_cluster {
        Some(ApiAccess::InCluster)
    } else {
        home.map(|home| ApiAccess::Kubeconfig(vec![home.join(".kube/config")]))
    }
}

fn address(bind: Bind) -> Option<BindAddress> {
    match bind {
        Bind::Off => None,
        Bind::At(address) => Some(address),
    }
}

fn serving_pair(directory: &str, certificate: &str, key: &str) -> ServingPair {
    if directory.is_empty() {
        return ServingPair::SelfSigned;
    }
    let directory = Path::new(directory);
    ServingPair::Files { certificate: directory.join(certificate), key: directory.join(key) }
}

fn store_budget(budget: Budget, memory_limit: Option<u64>) -> Option<ByteSize> {
    match budget {
        Budget::Bytes(ByteSize(0)) => None,
        Budget::Bytes(bytes) => Some(bytes),
        // Divided first: a limit is far larger than a hundred bytes, and the product could overflow.
        Budget::Percent(share) => memory_limit.map(|limit| ByteSize(limit / 100 * u64::from(share))),
    }
}

fn lower_case(keys: List) -> Vec<String> {
    let mut lower: Vec<String> = Vec::new();
    for key in keys.0 {
        let key = key.to_lowercase();
        if !lower.contains(&key) {
            lower.push(key);
        }
    }
    lower
}

fn count(value: i64, default: NonZeroUsize) -> NonZeroUsize {
    usize::try_from(value).ok().and_then(NonZeroUsize::new).unwrap_or(default)
}

fn positive(value: Duration, default: Duration) -> Duration {
    if value.is_zero() { default } else { value }
}

#[cfg(test)]
mod tests;
