//! `KollectConnectionTest`.

use super::{FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::KollectConnectionTestSpec;
use crate::model::{Family, Name};

/// Checks a connection test; returns the family and the name of the sink to probe.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn connection_test(spec: &KollectConnectionTestSpec) -> Result<(Family, Name), FieldErrors> {
    let mut findings = Findings::default();
    let path = FieldPath::spec().field("sinkRef");
    let named: Vec<(Family, &str)> = [
        (Family::Snapshot, &spec.sink_ref.snapshot_sink_ref),
        (Family::Database, &spec.sink_ref.database_sink_ref),
        (Family::Event, &spec.sink_ref.event_sink_ref),
    ]
    .into_iter()
    .filter_map(|(family, name)| Some((family, name.as_deref()?)))
    .collect();
    for (family, name) in &named {
        findings.local_name(path.field(&format!("{}SinkRef", family.as_str())), name);
    }
    if let Some(profile) = &spec.profile_ref {
        findings.local_name(FieldPath::spec().field("profileRef"), profile);
    }
    let [(family, name)] = named.as_slice() else {
        let count = named.len();
        findings.add(
            path,
            format!("names {count} sinks; set exactly one of snapshotSinkRef, databaseSinkRef, eventSinkRef"),
        );
        return findings.give((Family::Snapshot, Name::new("")));
    };
    findings.give((*family, Name::new(*name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(sink_ref: &serde_json::Value) -> Result<(Family, Name), String> {
        let spec = serde_json::from_value(json!({ "sinkRef": sink_ref })).unwrap();
        connection_test(&spec).map_err(|errors| errors.to_string())
    }

    #[test]
    fn exactly_one_sink_is_probed() {
        assert_eq!(check(&json!({"databaseSinkRef": "pg"})), Ok((Family::Database, Name::new("pg"))));
        let wrong = |count: usize| {
            format!(
                "spec.sinkRef: names {count} sinks; set exactly one of snapshotSinkRef, databaseSinkRef, eventSinkRef"
            )
        };
        assert_eq!(check(&json!({})), Err(wrong(0)));
        assert_eq!(check(&json!({"databaseSinkRef": "pg", "eventSinkRef": "bus"})), Err(wrong(2)));
        assert!(
            check(&json!({"databaseSinkRef": "a/b"})).unwrap_err().starts_with("spec.sinkRef.databaseSinkRef: \"a/b\"")
        );
        let spec = json!({"sinkRef": {"databaseSinkRef": "pg"}, "profileRef": "a/b"});
        let said = connection_test(&serde_json::from_value(spec).unwrap()).unwrap_err().to_string();
        assert!(said.starts_with("spec.profileRef: \"a/b\""), "{said}");
    }
}
