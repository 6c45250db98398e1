//! `KollectClusterScope`: what cluster targets and cluster inventories may do.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ScopeLimits, rules};

/// Limits on all cluster targets and cluster inventories.
///
/// A cluster target of a kind that is not allowed is Degraded and loses its rows; namespaces that are not allowed are left
/// out of every cluster target. The lists of sinks hold for cluster inventories. Without a cluster scope there are no
/// limits. Of several the one whose name sorts first holds.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectClusterScope",
    plural = "kollectclusterscopes",
    shortname = "kcscope",
    schema = "disabled",
    derive = "PartialEq"
)]
pub struct KollectClusterScopeSpec {
    /// Limits shared with the scope of a namespace.
    #[serde(flatten)]
    pub limits: ScopeLimits,
    /// Namespaces whose profiles and sinks cluster kinds may name, for example `[platform]`, at most 4096. When
    /// empty or absent, any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4096),
        inner(length(min = 1, max = 63)),
        extend("x-kubernetes-list-type" = "set", "items-validations" = rules::namespace())
    )]
    pub allowed_static_ref_namespaces: Vec<String>,
}
