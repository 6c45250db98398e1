//! `KollectScope`: what the targets and inventories of one namespace may do.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, GroupVersionKind, rules};

/// Limits on the targets and inventories of the namespace that it lives in.
///
/// A target that reaches beyond is Degraded and loses its rows, a sink that is not listed is not written to, a shorter
/// interval is raised. Without a scope a namespace has no limits. Of several scopes the one whose name sorts first holds.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectScope",
    plural = "kollectscopes",
    shortname = "kscope",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
pub struct KollectScopeSpec {
    /// Limits shared with the cluster scope.
    #[serde(flatten)]
    pub limits: ScopeLimits,
}

/// The limits that both kinds of scopes have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScopeLimits {
    /// Kinds that may be collected, compared without regard to case, for example
    /// `[{group: apps, version: v1, kind: Deployment}]`. A target of another kind is Degraded, its rows are removed. When
    /// empty or absent, every kind.
    #[serde(default, rename = "allowedGVKs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_gvks: Vec<GroupVersionKind>,
    /// Namespaces that may be collected from, for example `[team-a]`, at most 4096. A target that selects any other is
    /// Degraded by a `KollectScope`, and its rows are removed; a `KollectClusterScope` leaves the others out of every
    /// cluster target. When empty or absent, every namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4096),
        inner(length(min = 1, max = 63)),
        extend("x-kubernetes-list-type" = "set", "items-validations" = rules::namespace())
    )]
    pub allowed_namespaces: Vec<String>,
    /// Namespaces that are never collected from, for example `[kube-system]`, at most 4096; wins over
    /// `allowedNamespaces`, and acts in the same way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4096),
        inner(length(min = 1, max = 63)),
        extend("x-kubernetes-list-type" = "set", "items-validations" = rules::namespace())
    )]
    pub denied_namespaces: Vec<String>,
    /// Floor under every export interval: a shorter one, `0s` included, is raised to it. From `0s` to `24h`, for
    /// example `1m`. No floor when absent. A `KollectClusterScope` accepts it without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::interval()))]
    pub min_export_interval: Option<Duration>,
    /// Names of the snapshot sinks that inventories may use, for example `[repository]`, at most 1024. When empty or absent,
    /// any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set", "items-validations" = rules::plain_name())
    )]
    pub snapshot_sink_refs: Vec<String>,
    /// Names of the database sinks that inventories may use, for example `[warehouse]`, at most 1024. When empty or absent,
    /// any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set", "items-validations" = rules::plain_name())
    )]
    pub database_sink_refs: Vec<String>,
    /// Names of the event sinks that inventories may use, for example `[bus]`, at most 1024. When empty or absent,
    /// any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set", "items-validations" = rules::plain_name())
    )]
    pub event_sink_refs: Vec<String>,
}
