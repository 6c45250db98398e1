//! `KollectInventory`: which sinks get the rows of a namespace, and how often.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSchema;
use super::refs::{is_false, is_zero};
use super::{Duration, InventorySinkRef, rules};

/// The interval of an inventory that names none.
pub const DEFAULT_EXPORT_MIN_INTERVAL: Duration = Duration::from_secs(30);

pub(super) const fn default_interval() -> Duration {
    DEFAULT_EXPORT_MIN_INTERVAL
}

/// The rows of one namespace, and the sinks that they are delivered to.
///
/// An inventory has every row of the targets in its namespace. Only what has changed is written.
#[expect(clippy::duplicated_attributes, reason = "several printer columns have one type")]
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectInventory",
    plural = "kollectinventories",
    shortname = "kinv",
    namespaced,
    status = "KollectInventoryStatus",
    schema = "disabled",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Rows", type_ = "integer", json_path = ".status.itemCount"),
    printcolumn(name = "Last export", type_ = "date", json_path = ".status.lastExportTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = rules::inventory()))]
pub struct KollectInventorySpec {
    /// Sinks of kind `KollectSnapshotSink` (git, s3, gcs) in the namespace of the inventory, for example
    /// `[{name: repository, exportMinInterval: 1h}]`. The three lists have at most 20 entries together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-validations" = rules::local_refs()))]
    pub snapshot_sink_refs: Vec<InventorySinkRef>,
    /// Sinks of kind `KollectDatabaseSink` (Postgres) in the namespace of the inventory, for example
    /// `[{name: warehouse}]`. The three lists have at most 20 entries together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-validations" = rules::local_refs()))]
    pub database_sink_refs: Vec<InventorySinkRef>,
    /// Sinks of kind `KollectEventSink` (NATS, Kafka) in the namespace of the inventory, for example
    /// `[{name: bus, exportMinInterval: 0s}]`. The three lists have at most 20 entries together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-validations" = rules::local_refs()))]
    pub event_sink_refs: Vec<InventorySinkRef>,
    /// Least time between two writes of this inventory to one sink, unless the sink or the reference says otherwise.
    /// The first change after a quiet interval is written at once, later ones are gathered until the interval is over.
    /// What has not changed is never written again. From `0s` (no minimum) to `24h`, for example `5m`.
    #[serde(default = "default_interval")]
    #[schemars(extend("x-kubernetes-validations" = rules::interval()))]
    pub export_min_interval: Duration,
    /// Largest document or message in bytes, at least 1, at most the limit of the operator (`--max-export-bytes`,
    /// 1572864), which is also what holds when it is absent. More is split into parts. Databases and layouts with a
    /// file for each row have no parts: there it bounds one row, where it is set. Example: `1000000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_export_bytes: Option<i64>,
    /// Stops exporting; what has been written stays in every sink. Off when absent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspend: bool,
    /// Accepted for older manifests, without effect: the read API is switched on for the whole operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_endpoint: Option<HttpEndpoint>,
}

impl Default for KollectInventorySpec {
    fn default() -> Self {
        Self {
            snapshot_sink_refs: Vec::new(),
            database_sink_refs: Vec::new(),
            event_sink_refs: Vec::new(),
            export_min_interval: DEFAULT_EXPORT_MIN_INTERVAL,
            max_export_bytes: None,
            suspend: false,
            http_endpoint: None,
        }
    }
}

/// Accepted for older manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpEndpoint {
    /// Accepted for older manifests, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Accepted for older manifests, without effect; from 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// How far the sinks of an inventory are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KollectInventoryStatus {
    /// `Ready`, `Synced`, `SinkReachable`, `Degraded` and, for a large inventory, `ExportShardWarning`. The message
    /// says why and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// Last generation of the spec that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Rows of the inventory; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub item_count: i64,
    /// When a sink was last written to with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_export_time: Option<Time>,
    /// How far each sink is, one entry for each reference, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 20),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub sink_exports: Vec<SinkExport>,
    /// Where rows of the inventory have been written, recorded before the first write, so that they can be removed even
    /// after the reference or the sink has changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id", "cluster"]))]
    pub destinations: Vec<Destination>,
}

/// How far one sink is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkExport {
    /// Family and name of the sink, for example `database/warehouse`. Families are `snapshot`, `database` and `event`.
    #[schemars(length(max = 317))]
    pub name: String,
    /// Namespace of the sink; only on a `KollectClusterInventory`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// When this sink was last written to with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_export_time: Option<Time>,
    /// Digest of the rows that the sink has. It does not depend on their order; documents have the SHA-256 of their
    /// items instead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_checksum: String,
    /// How long the oldest change that the sink does not have yet has been waiting, for example `12s`; absent means
    /// that nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Duration>,
    /// When the sink is written to next: the end of its interval, or of the pause after a failure. Absent means that
    /// nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Time>,
    /// `Synced`: whether the sink has the current rows, and if not, why and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// One place that rows have been written to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Digest of what makes the place: address, database, schema and table, without credentials.
    #[schemars(length(min = 1, max = 128))]
    pub id: String,
    /// Value of `spec.cluster` under which rows were written; may be empty.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub cluster: String,
    /// Family and name of the sink through which it was written, for example `database/warehouse`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sink: String,
    /// Namespace of the sink; only on a `KollectClusterInventory`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sink_namespace: String,
    /// Type of the sink, for example `postgres`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub type_: String,
    /// The place in words, without credentials, for example `postgres://db.example.com:5432/inventory public.rows`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Branch of the repository (git, gitlab), for example `main`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub branch: String,
    /// Format of the objects (s3, gcs), for example `parquet`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// Schema of the table (postgres), for example `public`; subject of the messages, or its template (nats).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schema: String,
    /// Table that holds the rows (postgres), for example `rows`; stream (nats) or topic (kafka) that holds the messages.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table: String,
    /// Table that holds the state of deliveries (postgres), for example `rows_state`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state_table: String,
}
