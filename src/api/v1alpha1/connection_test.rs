//! `KollectConnectionTest`: one probe of one sink.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSchema;
use super::refs::{is_false, is_zero};
use super::rules;

/// One probe of one sink, which removes itself afterwards.
#[expect(clippy::duplicated_attributes, reason = "several printer columns have one type")]
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectConnectionTest",
    plural = "kollectconnectiontests",
    shortname = "kconntest",
    namespaced,
    status = "KollectConnectionTestStatus",
    schema = "disabled",
    derive = "PartialEq",
    printcolumn(name = "Sink", type_ = "string", json_path = ".spec.sinkRef"),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="ConnectionVerified")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct KollectConnectionTestSpec {
    /// The sink to probe: exactly one of the three, in the namespace of the test.
    #[schemars(extend("x-kubernetes-validations" = rules::one_sink()))]
    pub sink_ref: TestedSink,
    /// Accepted for older manifests, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::local_name()))]
    pub profile_ref: Option<String>,
    /// Whether the sink becomes the owner of the test, so that it goes with the sink. On when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_sink: Option<bool>,
    /// Seconds after which the finished test deletes itself, 0 or more; 0 means at once.
    #[serde(default = "five_minutes")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: i32,
}

const fn five_minutes() -> i32 {
    300
}

/// The sink to probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestedSink {
    /// Name of a `KollectSnapshotSink`, for example `repository`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::local_name()))]
    pub snapshot_sink_ref: Option<String>,
    /// Name of a `KollectDatabaseSink`, for example `warehouse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::local_name()))]
    pub database_sink_ref: Option<String>,
    /// Name of a `KollectEventSink`, for example `bus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::local_name()))]
    pub event_sink_ref: Option<String>,
}

/// What the probe found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KollectConnectionTestStatus {
    /// `ConnectionVerified` and `Ready`: whether the probe passed, and if not, why and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that was probed; a newer one is probed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How long the probe took, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub latency_ms: i64,
    /// Whether the probe is over, however it ended.
    #[serde(default, skip_serializing_if = "is_false")]
    pub completed: bool,
    /// When the probe was over; the time to live starts here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
}
