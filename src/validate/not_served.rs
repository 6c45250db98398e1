//! What the API knows and this build does not do.
//!
//! Such a field is valid; the object that uses it is Degraded with the reason `NotServed` and a message that names the
//! field, and all others go on. Nothing is silently ignored. As the build learns, entries leave this file.

use std::fmt;

use super::FieldPath;
use crate::api::v1alpha1::sink::Format;
use crate::api::v1alpha1::snapshot_sink::MergeRequestMode;
use crate::api::v1alpha1::{DatabaseSinkType, KollectDatabaseSinkSpec, KollectSnapshotSinkSpec};

/// Something that is used and not in this build; displays as `spec.<path>: not in this build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotServed(String);

impl NotServed {
    fn field(path: &FieldPath) -> Self {
        Self(path.to_string())
    }
}

impl fmt::Display for NotServed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: not in this build", self.0)
    }
}

/// Returns one message for all of them, for a condition; `None` when everything is served.
pub fn message(all: &[NotServed]) -> Option<String> {
    let lines: Vec<String> = all.iter().map(NotServed::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// What a database sink uses.
pub fn database_sink(spec: &KollectDatabaseSinkSpec) -> Vec<NotServed> {
    let root = FieldPath::spec();
    let mut paths = Vec::new();
    if spec.type_ != DatabaseSinkType::Postgres {
        paths.push(root.field("type"));
    }
    if let Some(postgres) = &spec.postgres {
        let block = root.field("postgres");
        if postgres.refresh_after.is_some() {
            paths.push(block.field("refreshAfter"));
        }
        if postgres.dedupe.is_some() {
            paths.push(block.field("dedupe"));
        }
    }
    collect(&paths)
}

/// What a snapshot sink uses.
pub fn snapshot_sink(spec: &KollectSnapshotSinkSpec) -> Vec<NotServed> {
    let root = FieldPath::spec();
    let mut paths = Vec::new();
    let merge_request = spec.gitlab.as_ref().and_then(|gitlab| gitlab.merge_request.as_ref());
    if merge_request.is_some_and(|request| request.mode == Some(MergeRequestMode::MergeRequest)) {
        paths.push(root.field("gitlab").field("mergeRequest").field("mode"));
    }
    if spec.common.serialization.as_ref().is_some_and(|serialization| serialization.format == Some(Format::Csv)) {
        paths.push(root.field("serialization").field("format"));
    }
    collect(&paths)
}

fn collect(paths: &[FieldPath]) -> Vec<NotServed> {
    paths.iter().map(NotServed::field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn said<S: DeserializeOwned>(of: fn(&S) -> Vec<NotServed>, spec: Value) -> Option<String> {
        message(&of(&serde_json::from_value(spec).unwrap()))
    }

    #[test]
    fn each_field_is_named_in_the_agreed_words() {
        let lines = [
            said(database_sink, json!({"type": "mongodb"})),
            said(
                database_sink,
                json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "t", "refreshAfter": "1h", "dedupe": "keepAll"}}),
            ),
            said(snapshot_sink, json!({"type": "s3", "serialization": {"format": "csv"}})),
            said(snapshot_sink, json!({"type": "git", "serialization": {"format": "csv"}})),
            said(snapshot_sink, json!({"type": "gitlab", "gitlab": {"mergeRequest": {"mode": "merge_request"}}})),
        ];
        insta::assert_snapshot!(lines.map(Option::unwrap).join("\n"), @r"
        spec.type: not in this build
        spec.postgres.refreshAfter: not in this build; spec.postgres.dedupe: not in this build
        spec.serialization.format: not in this build
        spec.serialization.format: not in this build
        spec.gitlab.mergeRequest.mode: not in this build
        ");
    }

    #[test]
    fn what_is_served_is_not_mentioned() {
        assert_eq!(said(snapshot_sink, json!({"type": "git", "git": {"engine": "cli"}})), None);
        assert_eq!(said(snapshot_sink, json!({"type": "s3", "objectStore": {"format": "parquet"}})), None);
        let direct = json!({"type": "gitlab", "gitlab": {"mergeRequest": {"mode": "direct", "autoMerge": true}}});
        assert_eq!(said(snapshot_sink, direct), None);
        assert_eq!(
            said(
                database_sink,
                json!({"type": "postgres", "deletionPolicy": "Orphan", "postgres": {"databaseRef": {"name": "s"}, "table": "t", "stateTable": "u"}})
            ),
            None
        );
    }
}
