//! `KollectClusterTarget`: a target over the namespaces of many teams.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSchema;
use super::refs::{is_false, is_zero};
use super::{KollectTargetSpec, LabelSelector, ObjectRef, ResourceRule, WatchMode, rules};

/// Which objects of a profile's kind are collected, over many namespaces.
///
/// The rows belong to the namespace of each object: the inventories of that namespace export them, and so does a
/// `KollectClusterInventory` that selects this target.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectClusterTarget",
    plural = "kollectclustertargets",
    shortname = "kctgt",
    status = "KollectClusterTargetStatus",
    schema = "disabled",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = rules::selector_required()))]
pub struct KollectClusterTargetSpec {
    /// The `KollectProfile`, by name and namespace, for example `{name: deployments, namespace: platform}`.
    #[schemars(extend("x-kubernetes-validations" = rules::cluster_object_ref()))]
    pub profile_ref: ObjectRef,
    /// Namespaces to collect from, by their labels. It must have at least one requirement: nothing is collected from
    /// every namespace by default.
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
    /// Filters of objects, at most 64, of which one must match. When empty, every object of the profile's kind passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub resource_rules: Vec<ResourceRule>,
    /// Stops collecting and drops the rows of the target. Off when absent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspend: bool,
}

impl KollectClusterTargetSpec {
    /// Returns what a `KollectTarget` would say that asks for the same; where the profile is does not fit into one.
    pub fn intent(&self) -> KollectTargetSpec {
        KollectTargetSpec {
            profile_ref: self.profile_ref.name.clone(),
            namespace_selector: self.namespace_selector.clone(),
            included_namespaces: self.included_namespaces.clone(),
            excluded_namespaces: self.excluded_namespaces.clone(),
            namespace_exclude_selector: self.namespace_exclude_selector.clone(),
            resource_rules: self.resource_rules.clone(),
            label_selector: None,
            names: Vec::new(),
            suspend: self.suspend,
            watch_mode: WatchMode::All,
        }
    }
}

/// What the operator collected for a cluster target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KollectClusterTargetStatus {
    /// `Ready`, `Synced` and `Degraded`. A target is either Ready or Degraded; the message says why and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// Last generation of the spec that became Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Namespaces that the target asks for, before a `KollectClusterScope` takes some away.
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
