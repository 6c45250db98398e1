//! What the three kinds of sinks have in common.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::ConditionSchema;
use super::refs::is_false;
use super::{Duration, SecretRef, rules};

/// Fields that every sink has, whatever its type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkCommon {
    /// Address of the backend: a repository (`https://git.example.com/team/inventory.git`, `ssh://…`,
    /// `git@git.example.com:team/inventory.git`, with `#branch=main` at will), a bucket (`s3://bucket/prefix`, `https://minio.example.com/bucket`), a server
    /// (`nats://nats.example.com:4222`). Databases take their address from a Secret instead. User names and passwords
    /// in it are ignored. Local addresses are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = rules::endpoint()))]
    pub endpoint: Option<String>,
    /// Secret with the credentials, for the types that have no reference of their own. A Secret that is missing is an
    /// error even where another reference wins over it. Absent means no credentials, or those of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Which certificates are trusted and shown. Absent means the certificate authorities of the operator's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Whether the connection is probed each time the sink changes. On when absent. While it is `false`, the annotation
    /// `kollect.dev/test-connection: "true"` asks for one probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_test: Option<bool>,
    /// Name of this cluster in paths, rows and messages; it keeps the operators of a fleet apart that write to one
    /// place. Empty or absent is shown as `default` in paths and as an empty value in rows. Example: `eu-west-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub cluster: Option<String>,
    /// Path of a document or object: relative, without `..`, with `{namespace}` and `{name}` of the inventory, and at
    /// will `{cluster}`, `{generation}` and `{extension}`. When absent, `inventory/{namespace}/{name}{extension}` for
    /// git and gitlab, else `inventory/{namespace}/{name}.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::path_template()))]
    pub path_template: Option<String>,
    /// Least time between two writes of one inventory to this sink, unless the reference in the inventory says
    /// otherwise; wins over the interval of the inventory. From `0s` (no minimum) to `24h`, for example `1h` for a git
    /// repository. What has not changed is never written again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::interval()))]
    pub export_min_interval: Option<Duration>,
    /// Format of documents, objects and messages. Databases have columns and ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serialization: Option<Serialization>,
    /// How rows become files, for the types git and gitlab. When the block is absent and every row embeds one object of
    /// its own kind, each object gets a file of its own (`mode: perResource`, `content: manifest`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Who creates the table, stream or collection at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning: Option<Provisioning>,
    /// Further settings of a backend that are not secret, at most 64. Postgres understands `statement_timeout` and
    /// `lock_timeout` (for example `lock_timeout: 10s`; a number alone is milliseconds); an unknown key is reported and
    /// otherwise ignored. Keys that look like credentials (`password`, `token`, `secret` and so on) are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "x-kubernetes-validations" = rules::options()))]
    pub options: BTreeMap<String, String>,
}

/// Trust settings of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Turns off the check of the server's certificate, and of the host key for git over SSH. Off by default. The sink
    /// then carries the condition `TLSInsecure`. For tests only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub insecure_skip_verify: bool,
    /// Certificate authorities to trust: a PEM bundle, base64-encoded. Set this or `caSecretRef`, not both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Base64>")]
    pub ca_bundle: Option<ByteString>,
    /// Secret with certificate authorities to trust in PEM, in the first key that is not empty of `tls.crt`, `ca.crt`,
    /// `ca.pem`. Set this or `caBundle`, not both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretRef>,
    /// Secret of type `kubernetes.io/tls` with the client's certificate in `tls.crt` and its key in `tls.key`, both
    /// PEM, for servers that ask for one. None is shown when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
}

/// The schema of base64 text.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "only its schema is used")]
struct Base64(#[schemars(extend("format" = "byte"))] String);

/// Output format of a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Serialization {
    /// Format of documents and objects. git and gitlab write `json`, `yaml` or `ndjson` (`yaml` when absent), s3 and
    /// gcs `json`, `ndjson` or `parquet` (`json` when absent; wins over `spec.objectStore.format`), all others `json`.
    /// `csv` is accepted in a spec and not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How objects of s3 and gcs are compressed: `json` and `ndjson` with `gzip` or `none` (`none` when absent; `.gz` is
    /// added to the key), `parquet` with `zstd`, `snappy` or `none` (`zstd` when absent). Without effect for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of the formats")]
pub enum Format {
    Json,
    Yaml,
    Parquet,
    Csv,
    Ndjson,
}

/// How a document is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of the algorithms")]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Zstd,
}

/// Who creates what a sink writes into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Provisioning {
    /// Whether the operator may create what is missing; `ensure` when absent. With `existing` Postgres runs no DDL at
    /// all and a table that lacks a column is reported together with the statement that adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ProvisioningMode>,
    /// Naming of what is created. Accepted for older manifests, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naming: Option<Naming>,
}

/// Whether the destination is created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProvisioningMode {
    /// what is missing is created.
    #[default]
    Ensure,
    /// nothing is created or changed, only checked.
    Existing,
}

/// Naming of what is created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Naming {
    /// Accepted for older manifests, without effect. The rules of `spec.pathTemplate` apply, for example
    /// `{namespace}/{name}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::path_template()))]
    pub template: Option<String>,
}

/// How rows become files of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Layout {
    /// One file for the inventory, one for each row, or both.
    #[serde(default)]
    pub mode: LayoutMode,
    /// What a file of one row holds.
    #[serde(default)]
    pub content: LayoutContent,
    /// Path of the file of one row, for `perResource` and `split`: with `{sourceName}`, `{name}` or `{uid}`, without
    /// `..`. Placeholders: `{cluster}`, `{namespace}` and `{name}` of the inventory, `{targetNamespace}`,
    /// `{targetName}`, `{sourceNamespace}`, `{sourceName}`, `{group}`, `{kind}`, `{uid}`, `{generation}`,
    /// `{extension}`. When absent, `{cluster}/{sourceNamespace}/{kind}/{sourceName}{extension}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::row_path_template()))]
    pub path_template: Option<String>,
    /// The index file of `split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<LayoutIndex>,
    /// How path segments are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<LayoutFilename>,
}

/// How many files an inventory becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LayoutMode {
    /// one file with all rows.
    #[default]
    Document,
    /// one file for each row.
    PerResource,
    /// one file for each row, and an index of them.
    Split,
}

/// What the file of one row holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LayoutContent {
    /// the whole row with its identity.
    #[default]
    Item,
    /// the map of attributes alone.
    Attributes,
    /// the object that the profile embeds (`export.mode: Resource`).
    Manifest,
}

/// The index file of the split layout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayoutIndex {
    /// Whether the index is written. When absent it is, in `mode: split` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Path of the index, by the rules of `spec.pathTemplate`. When absent, `inventory/{namespace}/{name}{extension}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::path_template()))]
    pub path_template: Option<String>,
}

/// How path segments are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayoutFilename {
    /// When the segment of `{group}` is written; `auto` when absent. `auto` and `always` both leave out an empty group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_in_path: Option<GroupInPath>,
    /// Whether `{kind}` is written in lower case, `deployment` rather than `Deployment`. On when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowercase_kind: Option<bool>,
    /// Longest segment of a path in bytes, at least 1; what is longer is cut. 63 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_segment_length: Option<i32>,
}

/// When the API group is part of a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "explained at the field")]
pub enum GroupInPath {
    #[default]
    Auto,
    Always,
    Never,
}

/// What happens at the destination when an inventory goes, or no longer names the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// what the inventory wrote is removed.
    Delete,
    /// what the inventory wrote stays.
    Orphan,
}

/// What goes into a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StreamMode {
    /// each export sends the whole inventory as one message, or several parts.
    #[default]
    Snapshot,
    /// each export sends one message for each row that changed or went.
    Changes,
}

/// What the operator found out about a sink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkStatus {
    /// `ConnectionVerified` (the last probe passed), `Degraded` (it did not: the message says why and what to do) and
    /// `TLSInsecure` (certificates are not checked).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<ConditionSchema>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// What the sink would write, rendered for the example inventory `team-a/api`. Present while the sink has the
    /// annotation `kollect.dev/preview: "true"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
}

/// What a sink would write, rendered without touching the destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// When the preview was rendered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered_at: Option<Time>,
    /// Where the example rows come from: always `synthetic`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub input_sample_source: String,
    /// Provisioning mode in effect, for example `ensure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provisioning_mode: String,
    /// Serialization format in effect, for example `yaml`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serialization_format: String,
    /// Path of the example document, for example `inventory/team-a/api.yaml` (git, gitlab, s3, gcs).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object_path: String,
    /// The example commit (git, gitlab).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<PreviewGit>,
    /// The layout in effect and example paths (git, gitlab).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<PreviewLayout>,
    /// The table that is expected (postgres).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PreviewPostgres>,
    /// The index that is expected (mongodb).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<PreviewMongodb>,
    /// The topic that is written to (kafka).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<PreviewKafka>,
    /// Remarks that do not stop the sink, for example a path that ends in `.json` while the format is `yaml`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub warnings: Vec<String>,
}

/// The example commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewGit {
    /// First line of the example commit message.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sample_commit_subject: String,
    /// Rest of the example commit message, with its trailers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sample_commit_body: String,
}

/// The layout in effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewLayout {
    /// Layout mode in effect, for example `perResource`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// File content in effect, for example `manifest`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content: String,
    /// Whether files of rows that are gone are deleted: `true` for `perResource` and `split`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prune: bool,
    /// Up to three example paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub sample_paths: Vec<String>,
}

/// The table that is expected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewPostgres {
    /// Statements that create both tables with their keys, ready to be run by hand for `provisioning.mode: existing`.
    /// Indexes that readers may want besides follow as comments.
    #[serde(default, rename = "expectedDDL", skip_serializing_if = "String::is_empty")]
    pub expected_ddl: String,
}

/// The index that is expected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewMongodb {
    /// Keys of the unique index of the collection, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub expected_index_keys: Vec<String>,
}

/// The topic that is written to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewKafka {
    /// Topic as configured in `spec.kafka.topic`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic: String,
}
