//! What several kinds refer to: kinds, secrets, profiles, sinks, labels.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{Duration, rules};
use crate::model::{Gvk, ObjectKey};

/// Tells whether a flag is off, so that it is left out of JSON.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(super) const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Tells whether a count is zero, so that it is left out of JSON.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(super) const fn is_zero(count: &i64) -> bool {
    *count == 0
}

/// Group, version and kind of a Kubernetes resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupVersionKind {
    /// API group, for example `apps`. Empty or absent means the core group, which has `Pod`, `ConfigMap` and `Secret`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// API version without the group, for example `v1`.
    #[schemars(length(min = 1, max = 63))]
    pub version: String,
    /// Kind in its usual spelling, for example `Deployment`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
}

impl GroupVersionKind {
    /// Tells whether this is the core `Secret`, whose content needs an explicit opt-in.
    pub fn is_core_secret(&self) -> bool {
        self.kind == "Secret" && (self.group.is_empty() || self.group == "core")
    }
}

impl From<&GroupVersionKind> for Gvk {
    fn from(gvk: &GroupVersionKind) -> Self {
        Self { group: gvk.group.as_str().into(), version: gvk.version.as_str().into(), kind: gvk.kind.as_str().into() }
    }
}

/// A Secret, by default in the namespace of the sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret, for example `kollect-postgres`. Its data is read when it changes, so a rotated credential is
    /// in use within seconds.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the Secret. Empty or absent means the namespace of the sink. A Secret of another namespace is used
    /// only when it allows that by the annotation `kollect.dev/shared-with`, which lists namespaces or is `*`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
}

/// An object named together with its namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Name of the object, for example `deployments`.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Namespace of the object, for example `platform`. It must be set: a cluster-scoped kind has no namespace of its
    /// own to fall back to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
}

impl ObjectRef {
    /// Tells whether this is the object that is meant.
    pub fn names(&self, key: &ObjectKey) -> bool {
        self.name == key.name.as_str() && self.namespace == key.namespace.as_str()
    }
}

/// Selects by labels. All requirements have to hold; a selector without requirements selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels that must have exactly these values, for example `team: payments`. All of them must match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements on labels, all of which must hold as well, for example
    /// `{key: tier, operator: In, values: [web, api]}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<LabelRequirement>,
}

impl LabelSelector {
    /// Tells whether the selector has no requirement.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

/// One requirement on a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::requirement()))]
pub struct LabelRequirement {
    /// Key of the label, for example `app.kubernetes.io/part-of`.
    #[schemars(length(max = 317))]
    pub key: String,
    /// How the label is compared: `In` and `NotIn` with `values`; `Exists` and `DoesNotExist` look at the key alone.
    #[schemars(length(max = 16))]
    pub operator: String,
    /// Values for `In` and `NotIn`, at least one, for example `[web, api]`. Must be empty for `Exists` and
    /// `DoesNotExist`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}

/// One filter of a target: a kind, and what its objects must look like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRule {
    /// Kind that the rule selects. Only rules for the resource of the profile's `targetGVK` can match.
    pub gvk: GroupVersionKind,
    /// Namespaces in which the rule applies, by their labels, within those of the target. Absent means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Labels that an object must have with exactly these values, for example `app: web`. All of them must match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements on the labels of an object, all of which must hold as well, for example
    /// `{key: tier, operator: Exists}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub match_expressions: Vec<LabelRequirement>,
    /// CEL expression over `object` that must be true, for example `object.spec.replicas > 1`. It is evaluated after
    /// all other filters. An error, or a result that is not a boolean, counts as no match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub match_policy: Option<String>,
}

/// A sink of an inventory, with what differs for this pair of inventory and sink.
///
/// Typed readers accept a bare name (`- my-sink`) as well, since older examples show it; the schema asks for an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventorySinkRef {
    /// Name of the sink object. Its kind follows from the list: `databaseSinkRefs` names a `KollectDatabaseSink`.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::plain_name()))]
    pub name: String,
    /// Namespace of the sink, on a `KollectClusterInventory` only. Empty or absent means `spec.sinkNamespace`. Must be
    /// empty on a `KollectInventory`, whose sinks live in its own namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Least time between two writes to this sink; wins over the interval of the sink and of the inventory. From `0s`
    /// (no minimum) to `24h`, for example `1h` for a git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::interval()))]
    pub export_min_interval: Option<Duration>,
    /// Largest document or message sent to this sink, in bytes; wins over the inventory. At least 1, at most the limit
    /// of the operator (`--max-export-bytes`, 1572864 by default). More is split into parts. Where only changes are
    /// written, as in databases, it bounds one row. Example: `1000000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_export_bytes: Option<i64>,
}

impl<'de> Deserialize<'de> for InventorySinkRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrObject)
    }
}

struct NameOrObject;

impl<'de> Visitor<'de> for NameOrObject {
    type Value = InventorySinkRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a sink, or an object with the field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(InventorySinkRef { name: name.to_owned(), ..InventorySinkRef::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Object {
            name: String,
            #[serde(default)]
            namespace: String,
            export_min_interval: Option<Duration>,
            max_export_bytes: Option<i64>,
        }
        let object = Object::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(InventorySinkRef {
            name: object.name,
            namespace: object.namespace,
            export_min_interval: object.export_min_interval,
            max_export_bytes: object.max_export_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_read_as_a_sink_reference() {
        let refs: Vec<InventorySinkRef> =
            serde_json::from_str(r#"["pg", {"name": "git", "exportMinInterval": "60s"}]"#).unwrap();
        assert_eq!(refs[0], InventorySinkRef { name: "pg".into(), ..InventorySinkRef::default() });
        assert_eq!(refs[1].export_min_interval, Some(Duration::from_secs(60)));
        assert_eq!(
            serde_json::to_string(&refs).unwrap(),
            r#"[{"name":"pg"},{"name":"git","exportMinInterval":"1m0s"}]"#
        );
    }

    #[test]
    fn a_bad_interval_is_refused_by_its_value() {
        let error = serde_json::from_str::<InventorySinkRef>(r#"{"name": "pg", "exportMinInterval": "soon"}"#);
        assert!(error.unwrap_err().to_string().contains("\"soon\""));
    }
}
