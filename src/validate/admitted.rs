//! What admission says of a sink of any type: all that is wrong with it as it is written, what is legal and seldom meant,
//! and which hosts it names.
//!
//! Types that this build serves are judged by the function that makes them usable; of the others, what all sinks have
//! is looked at, so that a manifest is judged the same before and after a type is served.

use super::sink::common;
use super::{FieldErrors, FieldPath, Findings, endpoint, git, kafka, nats, object, postgres};
use crate::api::v1alpha1::sink::{Format, LayoutContent, LayoutMode, ProvisioningMode};
use crate::api::v1alpha1::snapshot_sink::ObjectFormat;
use crate::api::v1alpha1::{
    DatabaseSinkType, EventSinkType, KollectDatabaseSinkSpec, KollectEventSinkSpec, KollectSnapshotSinkSpec,
    SinkCommon, SnapshotSinkType,
};

/// Checks a snapshot sink; returns what does not stop it and is worth knowing.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn snapshot_sink(spec: &KollectSnapshotSinkSpec) -> Result<Vec<String>, FieldErrors> {
    let mut remarks = match spec.type_ {
        SnapshotSinkType::Git | SnapshotSinkType::Gitlab => git(spec)?.warnings,
        SnapshotSinkType::S3 | SnapshotSinkType::Gcs => object(spec)?.warnings,
    };
    let format = spec.common.serialization.as_ref().and_then(|serialization| serialization.format);
    let columns = spec.object_store.as_ref().and_then(|store| store.format);
    let layout = spec.common.layout.as_ref();
    let repository = matches!(spec.type_, SnapshotSinkType::Git | SnapshotSinkType::Gitlab);
    for (said, remark) in [
        (
            format == Some(Format::Parquet) || format.is_none() && columns == Some(ObjectFormat::Parquet),
            "spec.serialization.format: parquet is rewritten as a whole with every change",
        ),
        (
            format.is_some() && columns.is_some(),
            "spec.objectStore.format: without effect beside spec.serialization.format; remove one of them",
        ),
        (
            repository && format.is_none(),
            "spec.serialization.format: is not set, so yaml is written; write it to be sure of it",
        ),
        (
            layout.is_some_and(|layout| layout.content == LayoutContent::Manifest),
            "spec.layout.content: manifest writes files only for rows of profiles with export.mode Resource",
        ),
        (
            layout.is_some_and(|layout| matches!(layout.mode, LayoutMode::PerResource | LayoutMode::Split)),
            "spec.layout.mode: writes one file for each row; mind the size of the repository",
        ),
    ] {
        if said {
            remarks.push(remark.to_owned());
        }
    }
    Ok(remarks)
}

/// Checks a database sink; returns what does not stop it and is worth knowing.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn database_sink(spec: &KollectDatabaseSinkSpec) -> Result<Vec<String>, FieldErrors> {
    let mut remarks = match spec.type_ {
        DatabaseSinkType::Postgres => postgres(spec)?.warnings,
        DatabaseSinkType::Bigquery => {
            bigquery(spec)?;
            Vec::new()
        }
        DatabaseSinkType::Mongodb => {
            whole(&spec.common)?;
            Vec::new()
        }
    };
    remarks.extend(existing_remark(&spec.common));
    Ok(remarks)
}

/// Checks an event sink; returns what does not stop it and is worth knowing.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn event_sink(spec: &KollectEventSinkSpec) -> Result<Vec<String>, FieldErrors> {
    let mut remarks = match spec.type_ {
        EventSinkType::Nats => nats(spec)?.warnings,
        EventSinkType::Kafka => kafka(spec)?.warnings,
    };
    remarks.extend(existing_remark(&spec.common));
    Ok(remarks)
}

fn existing(common: &SinkCommon) -> bool {
    common.provisioning.as_ref().and_then(|provisioning| provisioning.mode) == Some(ProvisioningMode::Existing)
}

fn existing_remark(common: &SinkCommon) -> Option<String> {
    let remark = "spec.provisioning.mode: existing creates nothing; the destination has to be there";
    existing(common).then(|| remark.to_owned())
}

fn whole(spec: &SinkCommon) -> Result<(), FieldErrors> {
    let mut findings = Findings::default();
    common(&mut findings, spec);
    findings.give(())
}

fn bigquery(spec: &KollectDatabaseSinkSpec) -> Result<(), FieldErrors> {
    let mut findings = Findings::default();
    common(&mut findings, &spec.common);
    if let Some(bigquery) = &spec.bigquery {
        let block = FieldPath::spec().field("bigquery");
        for (field, name) in
            [("project", &bigquery.project), ("dataset", &bigquery.dataset), ("table", &bigquery.table)]
        {
            if name.trim().is_empty() {
                findings.add(block.field(field), format!("is blank; name the {field}"));
            }
        }
        if bigquery.secret_ref.as_ref().is_some_and(|secret| secret.name.trim().is_empty()) {
            findings.add(block.field("secretRef").field("name"), "is blank; name the Secret, or remove the reference");
        }
    }
    findings.give(())
}

/// Returns the hosts that a snapshot sink names, each with its place.
pub fn snapshot_hosts(spec: &KollectSnapshotSinkSpec) -> Vec<(FieldPath, String)> {
    let Some(address) = spec.common.endpoint.as_deref().map(str::trim) else { return Vec::new() };
    let bucket = match spec.type_ {
        SnapshotSinkType::Git | SnapshotSinkType::Gitlab => false,
        SnapshotSinkType::S3 | SnapshotSinkType::Gcs => {
            let scheme = address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
            scheme.is_none_or(|scheme| scheme == "s3" || scheme == "gs")
        }
    };
    if bucket { Vec::new() } else { at("endpoint", address) }
}

/// Returns the hosts that an event sink names, each with its place.
pub fn event_hosts(spec: &KollectEventSinkSpec) -> Vec<(FieldPath, String)> {
    let endpoint = spec.common.endpoint.as_deref().unwrap_or_default();
    match spec.type_ {
        EventSinkType::Nats => {
            let url = spec.nats.as_ref().and_then(|nats| nats.url.as_deref()).unwrap_or_default().trim();
            if url.is_empty() { at("endpoint", endpoint) } else { at("nats.url", url) }
        }
        EventSinkType::Kafka => {
            let list = FieldPath::spec().field("kafka").field("brokers");
            let brokers = spec.kafka.iter().flat_map(|kafka| &kafka.brokers).enumerate();
            brokers
                .filter_map(|(index, broker)| Some((list.index(index), endpoint::host(broker.trim())?.to_owned())))
                .collect()
        }
    }
}

fn at(field: &str, address: &str) -> Vec<(FieldPath, String)> {
    let host = endpoint::host(address.trim()).map(str::to_owned);
    host.map(|host| (FieldPath::spec().field(field), host)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn snapshot(spec: Value) -> KollectSnapshotSinkSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn hosts(found: Vec<(FieldPath, String)>) -> Vec<String> {
        found.into_iter().map(|(path, host)| format!("{path} {host}")).collect()
    }

    #[test]
    fn what_is_legal_and_seldom_meant_is_remarked_upon() {
        let spec = snapshot(json!({
            "type": "git",
            "endpoint": "https://git.example.com/x",
            "layout": {"mode": "split", "content": "manifest"},
        }));
        let remarks = snapshot_sink(&spec).unwrap().join("\n");
        for field in ["spec.serialization.format: is not set", "spec.layout.content: ", "spec.layout.mode: "] {
            assert!(remarks.contains(field), "{field} is not in\n{remarks}");
        }
        let spec = snapshot(json!({
            "type": "s3", "endpoint": "s3://inv", "objectStore": {"format": "parquet"},
            "serialization": {"format": "parquet"},
            "provisioning": {"mode": "existing"},
        }));
        let remarks = snapshot_sink(&spec).unwrap();
        assert_eq!(remarks.len(), 3, "{remarks:?}");
        let quiet = json!({"type": "git", "endpoint": "https://g.example.com/x", "serialization": {"format": "json"}});
        assert_eq!(snapshot_sink(&snapshot(quiet)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn types_that_are_not_served_are_judged_by_what_all_sinks_have() {
        let message = |spec: Value| {
            let spec: KollectDatabaseSinkSpec = serde_json::from_value(spec).unwrap();
            database_sink(&spec).unwrap_err().to_string()
        };
        let bigquery = json!({
            "type": "bigquery", "bigquery": {"project": " ", "dataset": "d", "table": "t", "secretRef": {"name": ""}},
            "options": {"myToken": "x"},
        });
        let said = message(bigquery);
        for field in ["spec.options.myToken: looks like", "spec.bigquery.project: ", "spec.bigquery.secretRef.name: "] {
            assert!(said.contains(field), "{field} is not in\n{said}");
        }
        let mongodb = json!({
            "type": "mongodb", "options": {"apiKey": "x"},
            "mongodb": {"databaseRef": {"name": "s"}, "database": "d", "collection": "c"},
        });
        assert!(message(mongodb).starts_with("spec.options.apiKey: looks like a credential;"));
    }

    #[test]
    fn hosts_are_found_where_a_sink_names_them() {
        let of = |spec: Value| hosts(snapshot_hosts(&snapshot(spec)));
        assert_eq!(of(json!({"type": "git", "endpoint": "git@h:x"})), ["spec.endpoint h"]);
        assert_eq!(of(json!({"type": "s3", "endpoint": "https://h:9000"})), ["spec.endpoint h"]);
        for bucket in ["bucket", "s3://localhost/x", "GS://localhost"] {
            assert_eq!(of(json!({"type": "gcs", "endpoint": bucket})), Vec::<String>::new());
        }
        let of = |spec: Value| hosts(event_hosts(&serde_json::from_value(spec).unwrap()));
        assert_eq!(
            of(json!({"type": "nats", "endpoint": "nats://e", "nats": {"url": " ", "subject": "s"}})),
            ["spec.endpoint e"]
        );
        assert_eq!(
            of(json!({"type": "nats", "endpoint": "e", "nats": {"url": "nats://u:1", "subject": "s"}})),
            ["spec.nats.url u"]
        );
        assert_eq!(
            of(json!({"type": "kafka", "kafka": {"brokers": ["a:9092", "[::1]:9092"], "topic": "t"}})),
            ["spec.kafka.brokers[0] a", "spec.kafka.brokers[1] ::1"]
        );
    }
}
