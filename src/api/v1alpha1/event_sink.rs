//! `KollectEventSink`: streams.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sink::{SinkCommon, SinkStatus, StreamMode};
use super::{SecretRef, rules};

/// A stream that receives messages.
#[expect(clippy::duplicated_attributes, reason = "several printer columns have one type")]
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "kollect.dev",
    version = "v1alpha1",
    kind = "KollectEventSink",
    plural = "kollecteventsinks",
    shortname = "kevt",
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
#[schemars(extend("x-kubernetes-validations" = rules::event_sink()))]
pub struct KollectEventSinkSpec {
    /// Which broker it is; the block of the same name is required.
    #[serde(rename = "type")]
    pub type_: EventSinkType,
    /// Fields that every sink has.
    #[serde(flatten)]
    pub common: SinkCommon,
    /// Settings of type `nats`; required for it and not allowed for other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<Nats>,
    /// Settings of type `kafka`; required for it and not allowed for other types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
}

/// The backends of an event sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventSinkType {
    /// NATS with JetStream.
    Nats,
    /// Apache Kafka and what speaks its protocol.
    Kafka,
}

/// Settings of NATS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nats {
    /// Address of the server, for example `nats://nats.example.com:4222`; wins over `spec.endpoint`, which is used when
    /// it is blank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = rules::endpoint()))]
    pub url: Option<String>,
    /// Subject that messages are published to, for example `kollect.inventory`.
    #[schemars(length(max = 1024))]
    pub subject: String,
    /// Subject of each message, for example `kollect.{cluster}.{namespace}.{name}`; wins over `subject`. There are
    /// `{cluster}`, `{namespace}` and `{name}` of the inventory, and with `mode: Changes` `{targetName}`, `{kind}` and
    /// `{uid}` of the row. When absent, all messages go to `subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub subject_template: Option<String>,
    /// Stream of JetStream that keeps the messages; a `.` in it becomes `_`. `kollect_events` when absent. It is created
    /// when missing, unless `provisioning.mode` is `existing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub stream: Option<String>,
    /// What is sent when rows change.
    #[serde(default)]
    pub mode: StreamMode,
    /// Secret with `token`, or `username` and `password`, or `nkeySeed`, or `creds`; replaces `spec.secretRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// Settings of Kafka.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kafka {
    /// Brokers to start from, as `host:port`, at most 64, for example `[kafka-0.example.com:9092]`.
    #[schemars(
        length(max = 64),
        inner(length(max = 512)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub brokers: Vec<String>,
    /// Topic that messages are sent to, for example `kollect.inventory`. It must exist.
    #[schemars(length(max = 249))]
    pub topic: String,
    /// How the operator logs in; `SCRAM-SHA-256` when absent and the Secret has credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl_mechanism: Option<SaslMechanism>,
    /// What is sent when rows change.
    #[serde(default)]
    pub mode: StreamMode,
    /// Secret with `username` and `password`, or `token`, which wins; replaces `spec.secretRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// How the operator logs in to Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// the password itself; use it with TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// a challenge with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// a challenge with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}
