//! `KollectInventory`.

use super::{FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::{InventorySinkRef, KollectInventorySpec};
use crate::model::{Family, Name};

/// The most sinks of one inventory, over all three lists.
const MAX_REFS: usize = 20;

/// An inventory whose references and limits are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedInventory {
    refs: Vec<SinkRef>,
    min_interval: std::time::Duration,
    suspend: bool,
}

impl ValidatedInventory {
    /// The sinks: snapshot, then database, then event, each list in its order.
    pub fn refs(&self) -> &[SinkRef] {
        &self.refs
    }

    /// The least time between two writes where neither reference nor sink says otherwise.
    pub fn min_interval(&self) -> std::time::Duration {
        self.min_interval
    }

    /// Whether nothing is exported at the moment.
    pub fn is_suspended(&self) -> bool {
        self.suspend
    }
}

/// One sink of an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkRef {
    /// Which of the three kinds of sinks.
    pub family: Family,
    /// Name of the sink, in the namespace of the inventory.
    pub name: Name,
    /// The least time between two writes to this sink, if the reference says it.
    pub min_interval: Option<std::time::Duration>,
    /// The largest document or message in bytes.
    pub max_bytes: u64,
}

/// Where the sinks of an inventory may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// In the namespace of the inventory, and nowhere else.
    Own,
    /// In the namespace that the reference names.
    Named,
}

/// Checks an inventory against the operator's limit on documents.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn inventory(spec: &KollectInventorySpec, max_export_bytes: u64) -> Result<ValidatedInventory, FieldErrors> {
    let mut findings = Findings::default();
    let root = FieldPath::spec();
    findings.interval(root.field("exportMinInterval"), spec.export_min_interval);
    let default_bytes = limit(&mut findings, &root, spec.max_export_bytes, max_export_bytes, max_export_bytes);
    let lists = [
        (Family::Snapshot, spec.snapshot_sink_refs.as_slice()),
        (Family::Database, spec.database_sink_refs.as_slice()),
        (Family::Event, spec.event_sink_refs.as_slice()),
    ];
    let refs = refs(&mut findings, lists, Home::Own, default_bytes, max_export_bytes);
    findings.give(ValidatedInventory { refs, min_interval: spec.export_min_interval.get(), suspend: spec.suspend })
}

fn limit(findings: &mut Findings, path: &FieldPath, bytes: Option<i64>, otherwise: u64, max_export_bytes: u64) -> u64 {
    let Some(bytes) = bytes else { return otherwise };
    match u64::try_from(bytes) {
        Ok(bytes) if (1..=max_export_bytes).contains(&bytes) => bytes,
        _ => {
            let message =
                format!("{bytes} is out of range; write 1 to {max_export_bytes}, the limit of --max-export-bytes");
            findings.add(path.field("maxExportBytes"), message);
            otherwise
        }
    }
}

/// Reads the three lists of sinks. When they are too long the single references are not worth reading.
pub(super) fn refs(
    findings: &mut Findings,
    lists: [(Family, &[InventorySinkRef]); 3],
    home: Home,
    default_bytes: u64,
    max_export_bytes: u64,
) -> Vec<SinkRef> {
    let mut refs = Vec::new();
    if lists.iter().map(|(_, list)| list.len()).sum::<usize>() > MAX_REFS {
        findings.add(FieldPath::spec(), format!("names more than {MAX_REFS} sinks; split the inventory"));
        return refs;
    }
    for (family, list) in lists {
        let path = FieldPath::spec().field(&format!("{}SinkRefs", family.as_str()));
        for (index, reference) in list.iter().enumerate() {
            let element = path.index(index);
            sink_ref(findings, &element, reference, home);
            refs.push(SinkRef {
                family,
                name: Name::new(reference.name.as_str()),
                min_interval: reference.export_min_interval.map(super::Duration::get),
                max_bytes: limit(findings, &element, reference.max_export_bytes, default_bytes, max_export_bytes),
            });
        }
        findings.unique(&path, Some("name"), list.iter().map(|reference| reference.name.as_str()));
    }
    refs
}

fn sink_ref(findings: &mut Findings, element: &FieldPath, reference: &InventorySinkRef, home: Home) {
    let (name, namespace) = (reference.name.as_str(), reference.namespace.as_str());
    match home {
        Home::Own => {
            findings.local_name(element.field("name"), name);
            if !namespace.trim().is_empty() {
                let message = format!(
                    "{namespace:?} is not allowed; the sinks of an inventory live in its own namespace, remove it"
                );
                findings.add(element.field("namespace"), message);
            }
        }
        Home::Named => {
            findings.plain_name(element.field("name"), name, "a sink");
            if !namespace.trim().is_empty() {
                findings.namespace(element.field("namespace"), namespace);
            }
        }
    }
    if let Some(interval) = reference.export_min_interval {
        findings.interval(element.field("exportMinInterval"), interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value) -> Result<ValidatedInventory, String> {
        let spec: KollectInventorySpec = serde_json::from_value(spec).unwrap();
        inventory(&spec, 1_000).map_err(|errors| errors.to_string())
    }

    #[test]
    fn references_come_in_the_order_snapshot_database_event() {
        let inventory = check(json!({
            "eventSinkRefs": ["bus"],
            "databaseSinkRefs": [{"name": "pg", "exportMinInterval": "0s", "maxExportBytes": 10}],
            "snapshotSinkRefs": ["git"],
            "maxExportBytes": 500,
        }))
        .unwrap();
        let seen: Vec<_> = inventory.refs().iter().map(|r| (r.family, r.name.as_str(), r.max_bytes)).collect();
        assert_eq!(seen, [(Family::Snapshot, "git", 500), (Family::Database, "pg", 10), (Family::Event, "bus", 500)]);
        assert_eq!(inventory.min_interval(), std::time::Duration::from_secs(30));
        assert_eq!(inventory.refs()[1].min_interval, Some(std::time::Duration::ZERO));
    }

    #[test]
    fn limits_and_names_are_checked_where_they_are_written() {
        let message = check(json!({
            "exportMinInterval": "25h",
            "maxExportBytes": 0,
            "databaseSinkRefs": [
                {"name": "pg", "namespace": "other"},
                {"name": "pg", "maxExportBytes": 1001},
                {"name": " ", "exportMinInterval": "24h0m1s"},
            ],
        }))
        .unwrap_err();
        for expected in [
            "spec.exportMinInterval: 25h0m0s is out of range; write a duration from 0s to 24h",
            "spec.maxExportBytes: 0 is out of range; write 1 to 1000, the limit of --max-export-bytes",
            "spec.databaseSinkRefs[0].namespace: \"other\" is not allowed;",
            "spec.databaseSinkRefs[1].maxExportBytes: 1001 is out of range;",
            "spec.databaseSinkRefs[1].name: \"pg\" is there twice;",
            "spec.databaseSinkRefs[2].name: is blank;",
            "spec.databaseSinkRefs[2].exportMinInterval: 24h0m1s is out of range;",
        ] {
            assert!(message.contains(expected), "{expected}\nis not in\n{message}");
        }
    }

    #[test]
    fn twenty_sinks_are_enough() {
        let names: Vec<String> = (0..11).map(|n| format!("s{n}")).collect();
        let message = check(json!({"databaseSinkRefs": names, "eventSinkRefs": &names[..10]})).unwrap_err();
        assert_eq!(message, "spec: names more than 20 sinks; split the inventory");
        check(json!({"databaseSinkRefs": &names[..10], "eventSinkRefs": &names[..10]})).unwrap();
    }
}
