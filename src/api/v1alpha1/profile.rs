//! `KollectProfile`: which kind, and which of its values.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSchema;
use super::refs::is_false;
use super::{GroupVersionKind, rules};

/// What is extracted from the objects of one kind.
///
/// A profile does nothing by itself: a `KollectTarget` of the same namespace names it and says where to look.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectProfile",
    plural = "kollectprofiles",
    shortname = "kprof",
    namespaced,
    status = "KollectProfileStatus",
    schema = "disabled",
    derive = "PartialEq"
)]
#[schemars(extend("x-kubernetes-validations" = rules::profile()))]
pub struct KollectProfileSpec {
    /// Kind whose objects are read, for example `{group: apps, version: v1, kind: Deployment}`. Profiles over the core
    /// `Secret` need an explicit opt-in by annotation.
    #[serde(rename = "targetGVK")]
    pub target_gvk: GroupVersionKind,
    /// Values to extract from each object, at most 256; each becomes a key of the row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub attributes: Vec<Attribute>,
    /// Embeds a copy of the object into the row. When absent, the row has the attributes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<ProfileExport>,
    /// Prometheus series made of attributes, at most 32. When absent, each attribute that is a number on some row is
    /// summed into a series of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub metrics: Vec<ProfileMetric>,
}

/// One value of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attribute {
    /// Key of the value in the row, for example `replicas`; once in a profile.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where the value comes from. `{.spec.replicas}` or `$.spec.replicas` is a JSONPath as in kubectl: one hit gives
    /// the value, several give a list, none gives null. `cel:object.spec.replicas > 1` is a CEL expression over
    /// `object`. `helm:release.chartVersion` is a field of a decoded Helm release. Values under keys that look like
    /// credentials are redacted.
    #[schemars(length(min = 1, max = 8192), extend("x-kubernetes-validations" = rules::attribute_path()))]
    pub path: String,
    /// Hint at the type of the value, such as `string`, `int` or `bool`. `list` makes a JSONPath yield a list however
    /// many hits it has, so that a column does not change its type. Other values have no effect.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub type_: Option<String>,
    /// What a failed evaluation costs. `false` (when absent): the object's row is dropped and the target is Degraded;
    /// a value that is merely absent is stored as null. `true`: the key is left out of the row, in both cases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub optional: bool,
}

/// The embedded copy of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileExport {
    /// Whether rows embed the object.
    #[serde(default)]
    pub mode: ExportMode,
    /// Key of the row that receives the copy. It must not be the name of an attribute.
    #[serde(default = "resource", rename = "as")]
    #[schemars(length(max = 253))]
    pub embed_as: String,
    /// Which sections of the object are kept; `apiVersion` and `kind` always are.
    #[serde(default)]
    pub include: ExportInclude,
    /// Whether `metadata.name`, `metadata.namespace` and `metadata.uid` are left out of the copy, since the row has
    /// them anyway. On when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe_identity: Option<bool>,
    /// What is removed from the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<ExportPrune>,
}

fn resource() -> String {
    "resource".to_owned()
}

impl Default for ProfileExport {
    fn default() -> Self {
        Self {
            mode: ExportMode::default(),
            embed_as: resource(),
            include: ExportInclude::default(),
            dedupe_identity: None,
            prune: None,
        }
    }
}

/// Whether rows embed the object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExportMode {
    /// attributes alone.
    #[default]
    Attributes,
    /// attributes and a copy of the object.
    Resource,
}

/// Which sections of the object are embedded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExportInclude {
    /// `metadata`.
    MetadataOnly,
    /// `spec`.
    SpecOnly,
    /// `status`.
    StatusOnly,
    /// `spec` and `status`.
    #[default]
    SpecAndStatus,
    /// everything.
    All,
}

/// What is removed from an embedded object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportPrune {
    /// Whether `managedFields`, `resourceVersion`, `generation` and the annotations of the last applied configuration
    /// and of Argo CD's tracking are removed. On when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<bool>,
    /// JSON pointers (RFC 6901) of what to remove, at most 256, for example `/metadata/annotations`. A `/` inside a key
    /// is written `~1`, a `~` is `~0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(max = 1024)),
        extend("items-validations" = rules::json_pointer())
    )]
    pub json_pointers: Vec<String>,
    /// Paths of what to remove, with dots and brackets, at most 256, for example `.status.conditions`. Wildcards and
    /// filters are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 1024)))]
    pub json_paths: Vec<String>,
    /// Further key names whose values are redacted at any depth, in any case, in the copy and in attributes alike; at
    /// most 256, for example `licenseKey`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    pub scrub_keys: Vec<String>,
    /// Accepted for older manifests, without effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 8192)))]
    pub cel: Vec<String>,
}

/// One Prometheus series.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileMetric {
    /// Value of the label `series`, for example `replicas`; once in a profile.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of the attribute that holds the number, for example `replicas`. Rows where it is not a number are skipped.
    #[schemars(length(min = 1, max = 253))]
    pub path: String,
    /// Names of attributes whose values become labels, at most 5. When absent, there is one series, the sum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 5),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub labels: Vec<String>,
}

/// Declared for older readers; a profile has no controller and this is never written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KollectProfileStatus {
    /// Never written: what is wrong with a profile is said by the targets that use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}
