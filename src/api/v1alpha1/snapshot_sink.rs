//! `KollectSnapshotSink`: repositories and object stores.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sink::{DeletionPolicy, SinkCommon, SinkStatus};
use super::{SecretRef, rules};

/// A git repository or an object store that receives documents.
#[expect(clippy::duplicated_attributes, reason = "several printer columns have one type")]
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectSnapshotSink",
    plural = "kollectsnapshotsinks",
    shortname = "ksnap",
    namespaced,
    status = "SinkStatus",
    schema = "disabled",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(
        name = "Verified",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="ConnectionVerified")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = rules::snapshot_sink()))]
pub struct KollectSnapshotSinkSpec {
    /// What kind of place it is. git and gitlab take credentials from the Secret keys `token` (wins) or `password` with
    /// an optional `username`; git over SSH from `ssh-privatekey` (also `identity`, `id_rsa`) and `known_hosts`; s3 and
    /// gcs from `accessKeyID`, `secretAccessKey` and, at will, `sessionToken`; gcs also from `credentials.json`, the key of
    /// a service account, which wins.
    #[serde(rename = "type")]
    pub type_: SnapshotSinkType,
    /// Fields that every sink has.
    #[serde(flatten)]
    pub common: SinkCommon,
    /// What happens to the files when an inventory is deleted or no longer names the sink. When absent, `Delete` for
    /// git and gitlab, `Orphan` for s3 and gcs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Settings of type `git`; not allowed for other types. The endpoint alone is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
    /// Settings of type `gitlab`; not allowed for other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gitlab: Option<Gitlab>,
    /// Settings of the types `s3` and `gcs`; not allowed for other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStore>,
    /// Not allowed: it is kept for older manifests that are refused by name rather than by an unknown field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
}

/// The backends of a snapshot sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotSinkType {
    /// any git server over https or ssh.
    Git,
    /// GitLab over https.
    Gitlab,
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
}

/// Settings of git.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Git {
    /// Branch that is read and pushed; wins over `#branch=` in the endpoint. A short name such as `main` or
    /// `team/inventory`. `main` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), extend("x-kubernetes-validations" = rules::branch()))]
    pub branch: Option<String>,
    /// How the branch is moved; `Commit` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_policy: Option<PushPolicy>,
    /// Credentials of git; wins over `spec.secretRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<GitAuth>,
    /// First line of a commit message. Placeholders: `{namespace}`, `{name}`, `{cluster}`, `{generation}`,
    /// `{exportGeneration}`, `{itemCount}`, `{checksum}`, `{checksumShort}`, `{exportedAt}`, `{sink}`, `{path}`. When
    /// absent, `chore({cluster}/{namespace}/{name}): export {itemCount} items @ {checksumShort}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub commit_message: Option<String>,
    /// Rest of a commit message, with the placeholders of `commitMessage`, for example
    /// `{itemCount} items exported at {exportedAt}`. Empty when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub commit_body: Option<String>,
    /// Trailers of a commit message, with the placeholders of `commitMessage`, at most 32, for example
    /// `["Cluster: {cluster}"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 1024)))]
    pub commit_trailers: Vec<String>,
    /// Author and committer of commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<GitAuthor>,
    /// Depth of what is fetched, at least 1; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub clone_depth: Option<i32>,
    /// Whether files that the inventory wrote earlier and no longer writes are deleted. Always on for the layouts
    /// `perResource` and `split`; off when absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<bool>,
    /// Accepted for older manifests, without effect: there is one implementation of git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<GitEngine>,
    /// Whether credentials are sent with the first request instead of after the server has asked. Off when absent,
    /// unless the environment of the operator has `KOLLECT_GIT_FORCE_BASIC_AUTH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_basic_auth: Option<bool>,
}

/// How a branch is moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PushPolicy {
    /// commits are added on top of what others pushed.
    #[default]
    Commit,
    /// the branch is overwritten, commits of others are lost.
    ForcePush,
}

/// Credentials of git.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitAuth {
    /// How the operator logs in. It follows from the endpoint when absent; what contradicts the endpoint is refused.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<GitAuthType>,
    /// Secret with the credentials; replaces `spec.secretRef` for git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// How the operator logs in to a git server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GitAuthType {
    /// a token or a password over https.
    #[default]
    Token,
    /// a private key over ssh.
    Ssh,
}

/// Author and committer of commits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitAuthor {
    /// Name shown in the log; `kollect` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Mail address shown in the log; `kollect@kollect.dev` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub email: Option<String>,
}

/// Accepted for older manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "names of older releases, without effect")]
pub enum GitEngine {
    GoGit,
    Cli,
}

/// Settings of GitLab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gitlab {
    /// How changes reach the target branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_request: Option<MergeRequest>,
}

/// How changes reach the target branch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MergeRequest {
    /// Whether the branch is pushed directly or by merge request; `direct` when absent, and the only one served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MergeRequestMode>,
    /// Branch that is merged into, for example `main`; needed for `merge_request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub target_branch: Option<String>,
    /// Front of the feature branch `<prefix>/<inventory namespace>/<inventory name>`; `kollect` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub branch_prefix: Option<String>,
    /// Title of the merge request, with `{namespace}` and `{name}`, for example `Inventory of {namespace}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub title_template: Option<String>,
    /// Accepted for older manifests, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_merge: Option<bool>,
}

/// How a branch of GitLab is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergeRequestMode {
    /// the branch is pushed; never by force.
    #[default]
    Direct,
    /// a merge request is opened.
    MergeRequest,
}

/// Settings of object stores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStore {
    /// Format of objects; `json` when absent. `parquet` writes
    /// `inventory/cluster=<cluster>/ns=<namespace>/name=<name>/generation=<generation>.parquet` and ignores
    /// `spec.pathTemplate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ObjectFormat>,
    /// Attributes that get a text column `attr_<name>` of their own in parquet, at most 256, for example
    /// `[replicas, image]`; `[image, version]` when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    pub hot_attributes: Vec<String>,
    /// Whether the bucket is part of the path (`https://host/bucket/key`) rather than of the host name. On when absent
    /// and the endpoint is `http(s)://`, else off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Region that requests are signed for, for example `eu-central-1`; `us-east-1` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub region: Option<String>,
    /// How many older objects of an inventory are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// Format of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectFormat {
    /// documents in JSON.
    Json,
    /// columns in Parquet.
    Parquet,
}

/// How long superseded objects stay. When both limits are set, an object goes when either says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Generations of an inventory that are kept besides the newest, 0 or more, for example `10`. Without limit when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub generations: Option<i32>,
    /// Age after which a superseded object is removed, for example `720h`. The newest is never removed. Without limit
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::duration()))]
    pub max_age: Option<super::Duration>,
}

/// Not allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    /// Not allowed, as the block that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub method: Option<String>,
}
