//! `KollectClusterInventory`: the rows of cluster targets over many namespaces.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSchema;
use super::inventory::{DEFAULT_EXPORT_MIN_INTERVAL, default_interval};
use super::refs::{is_false, is_zero};
use super::{Destination, Duration, InventorySinkRef, LabelSelector, ObjectRef, SinkExport, rules};

/// The rows of cluster targets over many namespaces, and the sinks that they are delivered to.
#[expect(clippy::duplicated_attributes, reason = "several printer columns have one type")]
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectClusterInventory",
    plural = "kollectclusterinventories",
    shortname = "kcinv",
    status = "KollectClusterInventoryStatus",
    schema = "disabled",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Rows", type_ = "integer", json_path = ".status.itemCount"),
    printcolumn(name = "Last export", type_ = "date", json_path = ".status.lastExportTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = rules::cluster_inventory()))]
pub struct KollectClusterInventorySpec {
    /// Accepted for older manifests and checked for its form; it has no effect on what is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::cluster_object_ref()))]
    pub profile_ref: Option<ObjectRef>,
    /// Names of the `KollectClusterTarget`s whose rows are exported, at most 1024; wins over `targetSelector`. Names
    /// that do not exist are ignored. Example: `[deployments]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        inner(length(max = 253)),
        extend("items-validations" = rules::plain_name())
    )]
    pub target_refs: Vec<String>,
    /// The `KollectClusterTarget`s whose rows are exported, by their labels, while `targetRefs` is empty. When both are
    /// absent, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_selector: Option<LabelSelector>,
    /// Namespaces whose rows are exported, by their labels. It must have at least one requirement: nothing is exported
    /// from every namespace by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Namespaces whose rows are exported, by name, within those of `namespaceSelector`; for example `[team-a]`. When
    /// empty or absent, no further limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        inner(length(max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Vec<String>,
    /// Sinks of kind `KollectSnapshotSink` (git, s3, gcs), for example `[{name: repository, namespace: platform}]`. The
    /// three lists have at most 20 entries together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-validations" = rules::cluster_refs()))]
    pub snapshot_sink_refs: Vec<InventorySinkRef>,
    /// Sinks of kind `KollectDatabaseSink` (Postgres), for example `[{name: warehouse}]`. The three lists have at most
    /// 20 entries together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-validations" = rules::cluster_refs()))]
    pub database_sink_refs: Vec<InventorySinkRef>,
    /// Sinks of kind `KollectEventSink` (NATS, Kafka), for example `[{name: bus}]`. The three lists have at most 20
    /// entries together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-validations" = rules::cluster_refs()))]
    pub event_sink_refs: Vec<InventorySinkRef>,
    /// Namespace of the sinks whose reference names none.
    #[serde(default = "sink_namespace")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::sink_namespace()))]
    pub sink_namespace: String,
    /// Least time between two writes of this inventory to one sink, unless the sink or the reference says otherwise.
    /// The first change after a quiet interval is written at once, later ones are gathered until the interval is over.
    /// From `0s` (no minimum) to `24h`, for example `5m`.
    #[serde(default = "default_interval")]
    #[schemars(extend("x-kubernetes-validations" = rules::interval()))]
    pub export_min_interval: Duration,
    /// What happens to an object that several targets collect.
    #[serde(default)]
    pub dedupe: Dedupe,
    /// Stops exporting; what has been written stays in every sink. Off when absent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspend: bool,
}

/// The namespace of the sinks of a cluster inventory that names none.
const SINK_NAMESPACE: &str = "kollect-system";

fn sink_namespace() -> String {
    SINK_NAMESPACE.to_owned()
}

impl KollectClusterInventorySpec {
    /// Returns the namespace of the sinks whose reference names none.
    pub fn home_of_sinks(&self) -> &str {
        let named = self.sink_namespace.trim();
        if named.is_empty() { SINK_NAMESPACE } else { named }
    }

    /// Returns the namespace of the sink that a reference means.
    pub fn namespace_of<'a>(&'a self, reference: &'a InventorySinkRef) -> &'a str {
        let named = reference.namespace.trim();
        if named.is_empty() { self.home_of_sinks() } else { named }
    }
}

impl Default for KollectClusterInventorySpec {
    fn default() -> Self {
        Self {
            profile_ref: None,
            target_refs: Vec::new(),
            target_selector: None,
            namespace_selector: None,
            namespaces: Vec::new(),
            snapshot_sink_refs: Vec::new(),
            database_sink_refs: Vec::new(),
            event_sink_refs: Vec::new(),
            sink_namespace: sink_namespace(),
            export_min_interval: DEFAULT_EXPORT_MIN_INTERVAL,
            dedupe: Dedupe::KeepAll,
            suspend: false,
        }
    }
}

/// What happens to an object that several targets collect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dedupe {
    /// a row for each target.
    #[default]
    #[serde(rename = "keepAll")]
    KeepAll,
    /// one row for each object, the last in the order of targets.
    #[serde(rename = "byResourceUID")]
    ByResourceUid,
}

/// How far the sinks of a cluster inventory are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KollectClusterInventoryStatus {
    /// `Ready`, `Synced`, `SinkReachable`, `ExportSucceeded` and `Degraded`. The message says why and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// Last generation of the spec that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Rows of the inventory, after `dedupe`; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub item_count: i64,
    /// Cluster targets that are selected; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub target_count: i64,
    /// Namespaces that contribute rows; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub namespace_shard_count: i64,
    /// What each namespace contributes, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["namespace"]))]
    pub namespace_shards: Vec<NamespaceShard>,
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

/// What one namespace contributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceShard {
    /// Name of the namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Rows of the namespace, after `dedupe`; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub item_count: i64,
    /// Targets that contribute rows of the namespace; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub target_count: i64,
    /// Digest of the rows of the namespace, independent of their order.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checksum: String,
}
