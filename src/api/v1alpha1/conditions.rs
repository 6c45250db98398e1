//! Conditions: their names, their reasons, and how a new set of them is merged into the old one.
//!
//! A condition is the standard one of Kubernetes. Its `lastTransitionTime` moves only when its `status` flips; a new
//! reason or message alone does not move it. The time is passed in, there is no clock here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::Serialize;

/// Names of conditions, and beside each the reasons that it can have.
pub mod types {
    /// The object does what its spec asks for.
    pub const READY: &str = "Ready";
    /// What is outside matches what is inside.
    pub const SYNCED: &str = "Synced";
    /// The sinks that matter to the object can be used.
    pub const SINK_REACHABLE: &str = "SinkReachable";
    /// Something stands in the way; the reason and the message say what.
    pub const DEGRADED: &str = "Degraded";
    /// The inventory is large enough that splitting it should be considered.
    pub const EXPORT_SHARD_WARNING: &str = "ExportShardWarning";
    /// A cluster inventory has been exported.
    pub const EXPORT_SUCCEEDED: &str = "ExportSucceeded";
    /// The last probe of a sink passed.
    pub const CONNECTION_VERIFIED: &str = "ConnectionVerified";
    /// Certificates are not checked.
    pub const TLS_INSECURE: &str = "TLSInsecure";
}

/// Reasons of conditions: closed words, one place.
pub mod reasons {
    /// Declares constants whose value is their name in the API.
    macro_rules! reasons {
        ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
            $($(#[$doc])* pub const $name: &str = $text;)*

            /// Every reason, for tests and tables.
            pub const ALL: &[&str] = &[$($text),*];
        };
    }

    reasons! {
        /// Ready, Synced: rows are collected.
        COLLECTING = "Collecting";
        /// Synced: some namespaces may not be listed, the others are collected.
        SCOPE_FORBIDDEN = "ScopeForbidden";
        /// `SinkReachable`: every referenced sink can be used.
        SINKS_REACHABLE = "SinksReachable";
        /// `SinkReachable`: no inventory of the namespace names a sink.
        NO_SINKS_IN_NAMESPACE = "NoSinksInNamespace";
        /// `SinkReachable`: the inventory names no sink.
        NO_SINKS_CONFIGURED = "NoSinksConfigured";
        /// `SinkReachable`: nothing failed.
        EXPORT_SUCCEEDED = "ExportSucceeded";
        /// `SinkReachable`, or Synced of one sink: a delivery failed and is tried again.
        EXPORT_FAILED = "ExportFailed";
        /// Degraded, Synced, `SinkReachable`: every delivery failed for a reason that waits for a change.
        EXPORT_TERMINAL = "ExportTerminal";
        /// Ready, Synced: every sink has the current rows.
        EXPORTED = "Exported";
        /// Ready, Synced: some sinks have the current rows and some do not.
        PARTIALLY_SYNCED = "PartiallySynced";
        /// Synced: nothing to export to.
        NO_EXPORT = "NoExport";
        /// Synced: a change waits for its interval.
        DEBOUNCED = "Debounced";
        /// Degraded, Synced: a failure is being retried.
        PROGRESSING = "Progressing";
        /// Ready, Synced of a cluster inventory without sinks.
        ROLLED_UP = "RolledUp";
        /// `ExportShardWarning`: near the size from which splitting is advised.
        APPROACHING_EXPORT_CAP = "ApproachingExportCap";
        /// Degraded: `spec.suspend` is set.
        SUSPENDED = "Suspended";
        /// Degraded: the spec uses something that this build does not serve.
        NOT_SERVED = "NotServed";
        /// Degraded: the spec is wrong in a way that the API server could not see.
        INVALID_SPEC = "InvalidSpec";
        /// Degraded: a target and a cluster target, or an inventory and a cluster inventory, share one name.
        NAME_CONFLICT = "NameConflict";
        /// Degraded: `profileRef` is blank.
        MISSING_PROFILE_REF = "MissingProfileRef";
        /// Degraded: no such profile.
        PROFILE_NOT_FOUND = "ProfileNotFound";
        /// Degraded: the profile may not be read.
        PROFILE_FORBIDDEN = "ProfileForbidden";
        /// Degraded: an expression of the profile does not compile, or its parts contradict one another.
        PROFILE_INVALID = "ProfileInvalid";
        /// Degraded: the kind of the profile is not served by the cluster.
        KIND_NOT_FOUND = "KindNotFound";
        /// Degraded: listing scopes failed.
        SCOPE_LOOKUP_FAILED = "ScopeLookupFailed";
        /// Degraded: the kind is outside the scope.
        SCOPE_GVK_DENIED = "ScopeGVKDenied";
        /// Degraded: a namespace is outside the scope.
        SCOPE_NAMESPACE_DENIED = "ScopeNamespaceDenied";
        /// Degraded: a sink is outside the scope.
        SCOPE_SINK_DENIED = "ScopeSinkDenied";
        /// Degraded: a namespace of sinks is outside the cluster scope.
        SINK_NAMESPACE_DENIED = "SinkNamespaceDenied";
        /// Degraded: watching could not be started.
        INFORMER_REGISTRATION_FAILED = "InformerRegistrationFailed";
        /// Degraded: access could not be determined.
        ACCESS_CHECK_FAILED = "AccessCheckFailed";
        /// Degraded: at least one object failed a required attribute.
        EXTRACTION_FAILED = "ExtractionFailed";
        /// Degraded: listing inventories failed.
        INVENTORY_LIST_FAILED = "InventoryListFailed";
        /// Degraded: the rows of the target do not fit into the store.
        STORE_BUDGET_EXCEEDED = "StoreBudgetExceeded";
        /// Degraded: a sink is missing.
        SINK_NOT_FOUND = "SinkNotFound";
        /// Degraded: a sink may not be read.
        SINK_FORBIDDEN = "SinkForbidden";
        /// Degraded: the state of a sink could not be read.
        SINK_LOOKUP_FAILED = "SinkLookupFailed";
        /// Degraded: the last probe of a sink failed.
        SINK_UNREACHABLE = "SinkUnreachable";
        /// Degraded: one thing that cannot be split is larger than its limit.
        PAYLOAD_TOO_LARGE = "PayloadTooLarge";
        /// Degraded: cleaning up for a deletion failed for a reason that waits for a change.
        CLEANUP_TERMINAL = "CleanupTerminal";
        /// Degraded: an unlikely mass deletion waits for permission.
        MASS_DELETION_HELD = "MassDeletionHeld";
        /// Degraded, or Synced of one sink: another writer owns the rows.
        CLUSTER_CONFLICT = "ClusterConflict";
        /// Degraded, or Synced of one sink: another owner holds a path.
        PATH_CONFLICT = "PathConflict";
        /// Synced of one sink: a newer instance of this operator writes.
        FENCED = "Fenced";
        /// Degraded: no cluster target is selected.
        NO_TARGETS = "NoTargets";
        /// Degraded: a selected cluster target is not Ready.
        TARGET_DEGRADED = "TargetDegraded";
        /// `ConnectionVerified`: the probe passed.
        CONNECTION_OK = "ConnectionOK";
        /// `ConnectionVerified`, Degraded: a Secret is missing or may not be read.
        SECRET_RESOLVE_FAILED = "SecretResolveFailed";
        /// `ConnectionVerified`, Degraded: configuration or network are wrong.
        CONNECTION_TEST_FAILED = "ConnectionTestFailed";
        /// `TLSInsecure`: `tls.insecureSkipVerify` is set.
        INSECURE_SKIP_VERIFY = "InsecureSkipVerify";
        /// Ready of a connection test: the probe passed.
        PROBE_SUCCEEDED = "ProbeSucceeded";
        /// `ConnectionVerified`, Ready of a connection test: not exactly one sink is named.
        INVALID_SINK_REF = "InvalidSinkRef";
    }
}

/// The three values of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub enum ConditionStatus {
    /// it holds.
    True,
    /// it does not hold.
    False,
    /// it is not known.
    Unknown,
}

impl ConditionStatus {
    /// Returns the word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition that should hold now, before it is compared with what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One of [`types`].
    pub type_: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One of [`reasons`].
    pub reason: &'static str,
    /// What a person should read, including what to do; cut to the limit of the schema when it is merged.
    pub message: String,
}

/// The limit of the schema on a message.
const MAX_MESSAGE: usize = 32_768;

/// Returns the conditions to write: exactly the findings, in their order.
///
/// A condition that was there and is not among the findings is removed. One whose status stays keeps its
/// `lastTransitionTime`; one that is new or flips gets `now`.
pub fn merge(old: &[Condition], findings: &[Finding], generation: i64, now: &Time) -> Vec<Condition> {
    findings
        .iter()
        .map(|finding| {
            let before = old.iter().find(|c| c.type_ == finding.type_ && c.status == finding.status.as_str());
            Condition {
                type_: finding.type_.to_owned(),
                status: finding.status.as_str().to_owned(),
                reason: finding.reason.to_owned(),
                message: finding.message.chars().take(MAX_MESSAGE).collect(),
                observed_generation: (generation > 0).then_some(generation),
                last_transition_time: before.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
            }
        })
        .collect()
}

/// The schema of a standard condition; the values are [`Condition`]s.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct ConditionSchema {
    /// Name of the condition, for example `Ready`; once in the list.
    #[schemars(
        rename = "type",
        length(max = 316),
        extend("pattern" = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$")
    )]
    type_: String,
    /// Whether the condition holds.
    status: ConditionStatus,
    /// Cause in one word, for example `Collecting`; made for programs.
    #[schemars(length(min = 1, max = 1024), extend("pattern" = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    reason: String,
    /// Cause in a sentence, and what to do about it; made for people, may be empty.
    #[schemars(length(max = 32768))]
    message: String,
    /// When `status` last changed. A new reason or message alone does not move it.
    last_transition_time: Time,
    /// Generation of the object that the condition describes; an older one than `metadata.generation` is out of date.
    #[schemars(range(min = 0))]
    observed_generation: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn ready(status: ConditionStatus, reason: &'static str, message: &str) -> Finding {
        Finding { type_: types::READY, status, reason, message: message.into() }
    }

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let first = merge(&[], &[ready(ConditionStatus::True, reasons::COLLECTING, "1 row")], 1, &at(10));
        assert_eq!(first[0].last_transition_time, at(10));

        let same = merge(&first, &[ready(ConditionStatus::True, reasons::EXPORTED, "2 rows")], 2, &at(20));
        assert_eq!(same[0].last_transition_time, at(10));
        assert_eq!((same[0].reason.as_str(), same[0].message.as_str()), ("Exported", "2 rows"));
        assert_eq!(same[0].observed_generation, Some(2));

        let flipped = merge(&same, &[ready(ConditionStatus::False, reasons::SUSPENDED, "")], 3, &at(30));
        assert_eq!(flipped[0].last_transition_time, at(30));
    }

    #[test]
    fn what_is_no_longer_found_is_removed() {
        let old = merge(&[], &[ready(ConditionStatus::True, reasons::COLLECTING, "")], 1, &at(10));
        assert_eq!(merge(&old, &[], 2, &at(20)), []);
    }

    #[test]
    fn a_message_is_cut_to_the_limit_of_the_schema() {
        let long = "ä".repeat(MAX_MESSAGE + 1);
        let merged = merge(&[], &[ready(ConditionStatus::True, reasons::COLLECTING, &long)], 1, &at(1));
        assert_eq!(merged[0].message.chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn reasons_are_single_words_that_the_schema_accepts() {
        for reason in reasons::ALL {
            assert!(reason.starts_with(|c: char| c.is_ascii_uppercase()), "{reason}");
            assert!(reason.chars().all(|c| c.is_ascii_alphanumeric()), "{reason}");
        }
    }
}
