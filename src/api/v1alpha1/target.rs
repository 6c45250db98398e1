//! `KollectTarget`: where to look for the objects of a profile.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSchema;
use super::refs::{is_false, is_zero};
use super::{LabelSelector, ResourceRule, rules};

/// Which objects of a profile's kind are collected.
///
/// The rows belong to the namespace of the target; every `KollectInventory` of that namespace exports them.
#[expect(clippy::duplicated_attributes, reason = "several printer columns have one type")]
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectTarget",
    plural = "kollecttargets",
    shortname = "ktgt",
    namespaced,
    status = "KollectTargetStatus",
    schema = "disabled",
    derive = "PartialEq",
    printcolumn(name = "Collected", type_ = "integer", json_path = ".status.collectedCount"),
    printcolumn(name = "Updated", type_ = "date", json_path = ".status.collectedCountUpdatedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#)
)]
pub struct KollectTargetSpec {
    /// Name of a `KollectProfile` in the namespace of the target, for example `deployments`.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::local_name()))]
    pub profile_ref: String,
    /// Namespaces to collect from, by their labels. When absent, every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Namespaces to collect from, by name, within those of `namespaceSelector`; for example `[team-a, team-b]`. When
    /// empty or absent, no further limit, unless the operator has a default list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub included_namespaces: Vec<String>,
    /// Namespaces that are left out, by name, together with those of the operator's default list; for example
    /// `[kube-system]`. It wins over everything that selects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub excluded_namespaces: Vec<String>,
    /// Namespaces that are left out, by their labels. An empty selector matches every namespace and leaves all out;
    /// absent leaves none out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_exclude_selector: Option<LabelSelector>,
    /// Filters of objects, at most 64, of which one must match. When empty, every object of the profile's kind passes
    /// that passes `labelSelector` and `names`; when not, those two are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub resource_rules: Vec<ResourceRule>,
    /// Objects to collect, by their labels. Ignored while `resourceRules` is not empty. When absent, all objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// Objects to collect, by name, at most 1024; for example `[web, api]`. Ignored while `resourceRules` is not empty.
    /// When empty or absent, all objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 253)))]
    pub names: Vec<String>,
    /// Stops collecting and drops the rows of the target, so that databases lose them with the next export. Off when
    /// absent. Suspend the inventory instead to keep what is exported.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspend: bool,
    /// Whether objects are collected unless they opt out, or only when they opt in. The label `kollect.dev/watch`
    /// (`enabled` or `disabled`) on an object decides first, then the same label or the annotation
    /// `kollect.dev/namespace-watch` on its namespace, then this field.
    #[serde(default)]
    pub watch_mode: WatchMode,
}

/// Whether collecting is the rule or the exception.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WatchMode {
    /// collect unless opted out.
    #[default]
    All,
    /// collect only what has opted in.
    OptIn,
}

/// What the operator collected for a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KollectTargetStatus {
    /// `Ready`, `Synced`, `SinkReachable` and `Degraded`. A target is either Ready or Degraded; the message says why
    /// and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// Last generation of the spec that became Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Objects that fail a required attribute at the moment; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub extraction_failures: i64,
    /// Text of the latest failure: the attribute, the object and the cause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_extraction_error: String,
    /// Rows held for the target. Absent means not yet counted, 0 means counted and none. It stays as it was while the
    /// target is Degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected_count: Option<i64>,
    /// When `collectedCount` last changed, not when it was last checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected_count_updated_at: Option<Time>,
    /// Namespaces that the target asks for, before a `KollectScope` takes some away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub matched_namespaces: Vec<String>,
    /// Namespaces that are collected from: the matched ones that the scope allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub effective_namespaces: Vec<String>,
    /// Number of `resourceRules` in effect; absent means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub active_resource_rules: i64,
}
