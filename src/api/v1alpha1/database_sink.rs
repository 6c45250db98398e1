//! `KollectDatabaseSink`: databases.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sink::{DeletionPolicy, SinkCommon, SinkStatus};
use super::{Dedupe, Duration, SecretRef, rules};

/// A database that receives one row for each collected object.
#[expect(clippy::duplicated_attributes, reason = "several printer columns have one type")]
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectDatabaseSink",
    plural = "kollectdatabasesinks",
    shortname = "kdb",
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
#[schemars(extend("x-kubernetes-validations" = rules::database_sink()))]
pub struct KollectDatabaseSinkSpec {
    /// Which database it is; the block of the same name is required.
    #[serde(rename = "type")]
    pub type_: DatabaseSinkType,
    /// Fields that every sink has.
    #[serde(flatten)]
    pub common: SinkCommon,
    /// What happens to the rows when an inventory is deleted or no longer names the sink; `Delete` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Settings of type `postgres`; required for it and not allowed for other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
    /// Settings of type `bigquery`; required for it and not allowed for other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bigquery: Option<Bigquery>,
    /// Settings of type `mongodb`; required for it and not allowed for other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<Mongodb>,
}

/// The backends of a database sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseSinkType {
    /// PostgreSQL and what speaks its protocol.
    Postgres,
    /// accepted, not served.
    Bigquery,
    /// accepted, not served.
    Mongodb,
}

/// Settings of Postgres.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// Secret with the connection string, in the first key that is not blank of `dsn`, `url`, `connectionString`,
    /// `DATABASE_URL`; for example `postgres://kollect:…@db.example.com:5432/inventory?sslmode=verify-full`.
    pub database_ref: SecretRef,
    /// Schema of the table, at most 63 characters; `public` when absent. It must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub schema: Option<String>,
    /// Table that receives the rows, at most 63 characters, for example `kollect_rows`. It is created when missing,
    /// unless `provisioning.mode` is `existing`. Many inventories and clusters may share one table.
    #[schemars(length(max = 63))]
    pub table: String,
    /// Table that records the state of deliveries, in the same schema, at most 63 characters; the name of `table` with
    /// `_state` behind it when absent. Readers learn from its heartbeat whether rows are current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub state_table: Option<String>,
    /// Stamps `exported_at` of rows again that were written longer ago than this, in an even trickle, for tables whose
    /// old partitions are dropped; for example `360h`. Off when absent: a row that does not change is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::duration()))]
    pub refresh_after: Option<Duration>,
    /// What happens to an object that several targets collect; `keepAll` when absent. `byResourceUID` fits a table of
    /// an older release whose key has no target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<Dedupe>,
}

/// Settings of type `bigquery`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bigquery {
    /// Google Cloud project, for example `acme-inventory`.
    #[schemars(length(max = 253), extend("x-kubernetes-validations" = rules::not_blank()))]
    pub project: String,
    /// Dataset, which must exist, for example `kollect`.
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::not_blank()))]
    pub dataset: String,
    /// Table that receives the rows, for example `rows`.
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = rules::not_blank()))]
    pub table: String,
    /// Location in which jobs run, for example `EU`. That of the dataset when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub location: Option<String>,
    /// Secret with the key of a service account in `credentials.json`. When absent, the credentials of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// Settings of type `mongodb`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mongodb {
    /// Secret with the connection string, in the first key that is not blank of `uri`, `url`, `connectionString`,
    /// `MONGODB_URI`.
    pub database_ref: SecretRef,
    /// Database that receives the rows, for example `inventory`.
    #[schemars(length(max = 63))]
    pub database: String,
    /// Collection that receives the rows, for example `rows`.
    #[schemars(length(max = 255))]
    pub collection: String,
}
