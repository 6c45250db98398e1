//! The flags of `kollect manager`, as users type them. Their help texts are the table in `docs/configuration.md`.
//!
//! Syntax is Go's, which published manifests use: `--name=value` or `--name value`, booleans bare or `=true|false`,
//! durations such as `90s` or `1h30m`, and the last one of a repeated flag wins. Nothing is judged here beyond the form of
//! a single value; [`Config`](super::Config) does the rest.

use std::time::Duration;

use clap::ArgAction::Set;

use super::values::{
    AuthMode, Bind, Budget, CrossNamespaceSecrets, List, LogFormat, LogLevel, StacktraceLevel, TimeEncoding,
};
use crate::duration::{DurationError, parse_go_duration};

/// Runs the operator.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct ManagerArgs {
    /// Print the build identity and exit
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL")]
    pub version: bool,
    /// Kubeconfig file. Empty: `KUBECONFIG`, then the service account of the pod, then `~/.kube/config`
    #[arg(long, default_value = "", value_name = "FILE", help_heading = "API server")]
    pub kubeconfig: String,
    /// Requests per second to the API server; 0 is no limit, the server's own fairness governs. Other values are not in
    /// this build
    #[arg(long, default_value = "0", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "API server")]
    pub kube_api_qps: f64,
    /// Requests above the rate at once; 0 is no limit. Other values are not in this build
    #[arg(long, default_value = "0", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "API server")]
    pub kube_api_burst: i64,
    /// Address of `/metrics`, for example `:8443` (all interfaces) or `127.0.0.1:8443`; `0` switches it off
    #[arg(long, default_value = "0", value_name = "ADDRESS", help_heading = "Servers")]
    pub metrics_bind_address: Bind,
    /// Serve `/metrics` over HTTPS, to those whom the API server permits `get` on that path. `false` is plain HTTP for
    /// everybody
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "true", value_name = "BOOL", help_heading = "Servers")]
    pub metrics_secure: bool,
    /// Directory of the serving pair of secure metrics, read again when it changes. Empty: a self-signed certificate is
    /// made at start
    #[arg(long, default_value = "", value_name = "DIRECTORY", help_heading = "Servers")]
    pub metrics_cert_path: String,
    /// File name of the certificate in `--metrics-cert-path`
    #[arg(long, default_value = "tls.crt", value_name = "NAME", help_heading = "Servers")]
    pub metrics_cert_name: String,
    /// File name of the key in `--metrics-cert-path`
    #[arg(long, default_value = "tls.key", value_name = "NAME", help_heading = "Servers")]
    pub metrics_cert_key: String,
    /// Address of `/healthz` and `/readyz`; `0` switches them off
    #[arg(long, default_value = ":8081", value_name = "ADDRESS", help_heading = "Servers")]
    pub health_probe_bind_address: Bind,
    /// Offer HTTP/2 on the TLS servers. Not in this build
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL", help_heading = "Servers")]
    pub enable_http2: bool,
    /// Serve profiles of CPU time and memory, to whoever reaches the address
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL", help_heading = "Servers")]
    pub enable_pprof: bool,
    /// Address of the profiles, for example `:6060` (all interfaces) or `127.0.0.1:6060`; `0` switches them off
    #[arg(long, default_value = ":6060", value_name = "ADDRESS", help_heading = "Servers")]
    pub pprof_bind_address: Bind,
    /// Serve the read API. Not in this build
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL", help_heading = "Servers")]
    pub inventory_http_enabled: bool,
    /// Port of the read API
    #[arg(long, default_value = "8082", value_name = "PORT", help_heading = "Servers")]
    pub inventory_http_port: u16,
    /// Authentication of the read API: `kubernetes`, or `disabled` (also `none`)
    #[arg(long, default_value = "kubernetes", value_name = "MODE", help_heading = "Servers")]
    pub inventory_auth_mode: AuthMode,
    /// How long a decision of the read API's authentication is kept; 0 is not at all
    #[arg(long, default_value = "30s", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Servers")]
    pub inventory_auth_cache_ttl: Duration,
    /// Serve the validating webhooks. `false` runs without them: the same checks run when a resource is reconciled
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "true", value_name = "BOOL", help_heading = "Admission")]
    pub validating_webhooks_enabled: bool,
    /// Address of the webhooks, for example `:9443` (all interfaces)
    #[arg(long, default_value = ":9443", value_name = "ADDRESS", help_heading = "Admission")]
    pub webhook_bind_address: Bind,
    /// Directory of the serving pair of the webhooks, read again when it changes. Empty: the operator makes a pair, shares
    /// it in `--webhook-secret` and tells the API server by `--webhook-configuration`; in tenant mode it serves none
    #[arg(long, default_value = "", value_name = "DIRECTORY", help_heading = "Admission")]
    pub webhook_cert_path: String,
    /// File name of the certificate in `--webhook-cert-path`
    #[arg(long, default_value = "tls.crt", value_name = "NAME", help_heading = "Admission")]
    pub webhook_cert_name: String,
    /// File name of the key in `--webhook-cert-path`
    #[arg(long, default_value = "tls.key", value_name = "NAME", help_heading = "Admission")]
    pub webhook_cert_key: String,
    /// Secret of the operator's namespace that holds the pair which the operator made
    #[arg(long, default_value = "webhook-server-cert", value_name = "NAME", help_heading = "Admission")]
    pub webhook_secret: String,
    /// `ValidatingWebhookConfiguration` that is told the authority of that pair
    #[arg(
        long,
        default_value = "kollect-validating-webhook-configuration",
        value_name = "NAME",
        help_heading = "Admission"
    )]
    pub webhook_configuration: String,
    /// Run as one of several replicas of which one is active
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL", help_heading = "High availability")]
    pub leader_elect: bool,
    /// How long another replica waits before it takes over
    #[arg(long, default_value = "60s", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "High availability")]
    pub leader_elect_lease_duration: Duration,
    /// How long a leader tries to renew before it gives up
    #[arg(long, default_value = "40s", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "High availability")]
    pub leader_elect_renew_deadline: Duration,
    /// Time between renewals; must be less than the renew deadline, and that less than the lease duration
    #[arg(long, default_value = "5s", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "High availability")]
    pub leader_elect_retry_period: Duration,
    /// Run with permissions in namespaces only: those of `--watch-namespaces`, or the operator's own
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL", help_heading = "Tenancy and network")]
    pub tenant_mode: bool,
    /// Namespaces to look at, comma-separated, for our own resources and for what is collected; empty is all
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Tenancy and network")]
    pub watch_namespaces: List,
    /// Namespaces of a target that names none itself, comma-separated; empty is all
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Tenancy and network")]
    pub default_included_namespaces: List,
    /// Namespaces that every target leaves out, besides its own, comma-separated
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Tenancy and network")]
    pub default_excluded_namespaces: List,
    /// More keys whose values are redacted before a row is kept, comma-separated, in any case
    #[arg(long, default_value = "", value_name = "LIST", help_heading = "Tenancy and network")]
    pub scrub_keys: List,
    /// Which Secrets a sink may use from another namespace: `annotated` (those with `kollect.dev/shared-with`), or
    /// `any`
    #[arg(long, default_value = "annotated", value_name = "WHICH", help_heading = "Tenancy and network")]
    pub cross_namespace_secrets: CrossNamespaceSecrets,
    /// Permit sinks at private addresses (RFC 1918, IPv6 ULA)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL", help_heading = "Tenancy and network")]
    pub allow_private_sinks: bool,
    /// Permit sinks at loopback addresses. For tests only: it exposes what listens inside the pod
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "false", value_name = "BOOL", help_heading = "Tenancy and network")]
    pub allow_loopback_sinks: bool,
    /// Workers that extract rows from events; 0 or less is the default
    #[arg(long, default_value = "4", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Collection")]
    pub collect_dispatch_workers: i64,
    /// Events that wait for a worker before the streams are read no further; 0 or less is the default
    #[arg(long, default_value = "512", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Collection")]
    pub collect_dispatch_queue_size: i64,
    /// How long an event may wait for a place in a full queue before that is counted as back-pressure; negative is 0
    #[arg(long, default_value = "25ms", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Collection")]
    pub collect_dispatch_enqueue_wait: Duration,
    /// Time between full re-lists of a stream, spread over streams; 0 or less is the default
    #[arg(long, default_value = "12h", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Collection")]
    pub informer_resync_period: Duration,
    /// Watches per resource below which each namespace has its own; above, one watch covers the cluster. 0 or less is
    /// the default
    #[arg(long, default_value = "50", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Collection")]
    pub max_namespaced_watches: i64,
    /// Watch connections over all resources; 0 or less is the default
    #[arg(long, default_value = "200", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Collection")]
    pub max_watch_connections: i64,
    /// Memory for rows: bytes such as `256Mi`, or a share of the memory limit of the container (without a limit:
    /// unlimited). `0` is unlimited. A target that would go over it is Degraded
    #[arg(long, default_value = "60%", value_name = "SIZE", help_heading = "Collection")]
    pub store_budget: Budget,
    /// How long a document waits for the first complete list of everything in it before it is written without the
    /// missing parts
    #[arg(long, default_value = "10m", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Collection")]
    pub unknown_grace: Duration,
    /// Least time between two refreshes of the metrics that a profile defines; 0 or less is the default
    #[arg(long, default_value = "30s", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Collection")]
    pub collect_metrics_sample_interval: Duration,
    /// Label tuples kept for each metric that a profile defines; 0 or less is the default
    #[arg(long, default_value = "200", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Collection")]
    pub labeled_series_cap: i64,
    /// Largest single document or message, and ceiling of `spec.maxExportBytes`; 0 or less is the default
    #[arg(long, default_value = "1572864", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Export")]
    pub max_export_bytes: i64,
    /// Deliveries at the same time; 0 or less is the default
    #[arg(long, default_value = "8", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Export")]
    pub max_concurrent_exports: i64,
    /// Deliveries at the same time to one destination; 0 or less is the default
    #[arg(long, default_value = "2", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Export")]
    pub max_concurrent_exports_per_destination: i64,
    /// Time between two comparisons of what a sink holds with what it should hold, spread over bindings; 0 is never
    #[arg(long, default_value = "1h", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Export")]
    pub sink_audit_interval: Duration,
    /// `KollectTargets` reconciled at the same time; 0 or less is the default
    #[arg(long, default_value = "5", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Reconciling")]
    pub max_concurrent_reconciles_target: i64,
    /// `KollectInventories` reconciled at the same time; 0 or less is the default
    #[arg(long, default_value = "3", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Reconciling")]
    pub max_concurrent_reconciles_inventory: i64,
    /// `KollectClusterTargets` reconciled at the same time; 0 or less is the default
    #[arg(long, default_value = "2", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Reconciling")]
    pub max_concurrent_reconciles_cluster_target: i64,
    /// `KollectClusterInventories` reconciled at the same time; 0 or less is the default
    #[arg(long, default_value = "2", allow_hyphen_values = true, value_name = "NUMBER", help_heading = "Reconciling")]
    pub max_concurrent_reconciles_cluster_inventory: i64,
    /// First delay after a failed reconcile; doubles up to 300 times that. 0 is 5ms up to 1000s
    #[arg(long, default_value = "0", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Reconciling")]
    pub reconcile_rate_limit: Duration,
    /// Time between refreshes of `status.collectedCount` of a target that is Ready; 0 or less is the default
    #[arg(long, default_value = "60s", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Reconciling")]
    pub target_count_resync: Duration,
    /// Least time between two status writes that only bring counters up to date
    #[arg(long, default_value = "10s", value_parser = parse_duration, allow_hyphen_values = true, value_name = "DURATION", help_heading = "Reconciling")]
    pub status_min_interval: Duration,
    /// Log for people: console form, level debug. `false` is JSON, level info
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool, action = Set, default_value = "true", value_name = "BOOL", help_heading = "Logging")]
    pub zap_devel: bool,
    /// Form of log lines: `json` or `console`; by default as `--zap-devel` says
    #[arg(long, value_name = "FORM", help_heading = "Logging")]
    pub zap_encoder: Option<LogFormat>,
    /// Least level that is logged: `debug`, `info`, `warn`, `error`, `panic` (as `error`), or a number from 1 (debug)
    /// upwards (trace); by default as `--zap-devel` says
    #[arg(long, value_name = "LEVEL", help_heading = "Logging")]
    pub zap_log_level: Option<LogLevel>,
    /// Accepted for compatibility: errors carry their chain of causes, never a stack trace
    #[arg(long, default_value = "error", value_name = "LEVEL", help_heading = "Logging")]
    pub zap_stacktrace_level: StacktraceLevel,
    /// Form of time stamps: `epoch`, `millis`, `nano`, `iso8601`, `rfc3339` or `rfc3339nano`
    #[arg(long, default_value = "rfc3339", value_name = "FORM", help_heading = "Logging")]
    pub zap_time_encoding: TimeEncoding,
}

/// Reads a boolean as Go does.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}

/// Reads a duration; a negative one is zero, which each flag explains for itself.
fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    match parse_go_duration(text) {
        Err(DurationError::Negative(_)) => Ok(Duration::ZERO),
        other => other,
    }
}
