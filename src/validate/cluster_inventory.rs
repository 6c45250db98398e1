//! `KollectClusterInventory`.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Selector, SelectorExt};

use super::inventory::{Home, refs};
use super::target::optional;
use super::{FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::KollectClusterInventorySpec;
use crate::model::{Family, Name, Namespace};

/// A cluster inventory whose selectors and references are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedClusterInventory {
    target_names: BTreeSet<Name>,
    target_labels: Selector,
    namespace_names: BTreeSet<Namespace>,
    namespace_labels: Selector,
}

impl ValidatedClusterInventory {
    /// Tells whether the rows of a cluster target with these labels are asked for. Names win over labels.
    pub fn asks_for_target(&self, name: &Name, labels: &BTreeMap<String, String>) -> bool {
        if self.target_names.is_empty() { self.target_labels.matches(labels) } else { self.target_names.contains(name) }
    }

    /// Tells whether the rows of a namespace with these labels are asked for.
    pub fn asks_for_namespace(&self, name: &Namespace, labels: &BTreeMap<String, String>) -> bool {
        (self.namespace_names.is_empty() || self.namespace_names.contains(name))
            && self.namespace_labels.matches(labels)
    }
}

/// Checks a cluster inventory against the operator's limit on documents.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn cluster_inventory(
    spec: &KollectClusterInventorySpec,
    max_export_bytes: u64,
) -> Result<ValidatedClusterInventory, FieldErrors> {
    let mut findings = Findings::default();
    let root = FieldPath::spec();
    if let Some(profile) = &spec.profile_ref {
        findings.profile_ref(&root.field("profileRef"), &profile.name, &profile.namespace, "a cluster inventory");
    }
    let targets = root.field("targetRefs");
    for (index, name) in spec.target_refs.iter().enumerate() {
        findings.plain_name(targets.index(index), name, "a KollectClusterTarget");
    }
    let namespaces = root.field("namespaces");
    for (index, name) in spec.namespaces.iter().enumerate() {
        findings.namespace(namespaces.index(index), name);
    }
    findings.unique(&namespaces, None, spec.namespaces.iter().map(String::as_str));
    findings.some_namespaces(spec.namespace_selector.as_ref(), "a cluster inventory");
    if spec.sink_namespace.contains('/') {
        let message = format!("{:?} has a slash; write one namespace", spec.sink_namespace);
        findings.add(root.field("sinkNamespace"), message);
    }
    findings.interval(root.field("exportMinInterval"), spec.export_min_interval);
    let lists = [
        (Family::Snapshot, spec.snapshot_sink_refs.as_slice()),
        (Family::Database, spec.database_sink_refs.as_slice()),
        (Family::Event, spec.event_sink_refs.as_slice()),
    ];
    let _ = refs(&mut findings, lists, Home::Named, max_export_bytes, max_export_bytes); // read again when it is bound
    let selector = spec.namespace_selector.as_ref();
    let namespace_labels = optional(&mut findings, &root.field("namespaceSelector"), selector).unwrap_or_default();
    let selector = spec.target_selector.as_ref();
    let target_labels = optional(&mut findings, &root.field("targetSelector"), selector).unwrap_or_default();
    findings.give(ValidatedClusterInventory {
        target_names: spec.target_refs.iter().map(|name| Name::new(name.as_str())).collect(),
        target_labels,
        namespace_names: spec.namespaces.iter().map(|name| Namespace::new(name.as_str())).collect(),
        namespace_labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(mut spec: Value) -> Result<ValidatedClusterInventory, String> {
        let fields = spec.as_object_mut().unwrap();
        fields.entry("namespaceSelector").or_insert_with(|| json!({"matchLabels": {"tier": "x"}}));
        let spec: KollectClusterInventorySpec = serde_json::from_value(spec).unwrap();
        cluster_inventory(&spec, 1_000).map_err(|errors| errors.to_string())
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn namespaces_are_named_and_labelled_and_targets_named_or_labelled() {
        let namespace = |inventory: &ValidatedClusterInventory, name: &'static str, tier: &str| {
            inventory.asks_for_namespace(&Namespace::new(name), &labels(&[("tier", tier)]))
        };
        let target = |inventory: &ValidatedClusterInventory, name: &'static str, kind: &str| {
            inventory.asks_for_target(&Name::new(name), &labels(&[("kind", kind)]))
        };
        let all = check(json!({})).unwrap();
        assert!(namespace(&all, "a", "x") && !namespace(&all, "a", "y") && target(&all, "t", "any"));
        let selector = json!({"matchLabels": {"kind": "k"}});
        let some = check(json!({"namespaces": ["a"], "targetSelector": selector})).unwrap();
        assert!(namespace(&some, "a", "x") && !namespace(&some, "a", "y") && !namespace(&some, "b", "x"));
        assert!(target(&some, "t", "k") && !target(&some, "t", "other"));
        let named = check(json!({"targetRefs": ["t"], "targetSelector": selector})).unwrap();
        assert!(target(&named, "t", "other") && !target(&named, "u", "k"), "names win");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_to_write_instead() {
        let many: Vec<String> = (0..21).map(|number| format!("s{number}")).collect();
        for (spec, expected) in [
            (json!({"namespaceSelector": {}}), "spec.namespaceSelector: has no requirement, and a cluster inventory"),
            (
                json!({"targetSelector": {"matchLabels": {"a b": "c"}}}),
                "spec.targetSelector.matchLabels: \"a b\" cannot be the key of a label",
            ),
            (json!({"targetRefs": ["ns/t"]}), "spec.targetRefs[0]: \"ns/t\" has a slash; write the name alone"),
            (json!({"targetRefs": [" "]}), "spec.targetRefs[0]: is blank; name a KollectClusterTarget"),
            (json!({"namespaces": ["team-*"]}), "spec.namespaces[0]: \"team-*\" cannot be a namespace;"),
            (json!({"namespaces": ["a", "a"]}), "spec.namespaces[1]: \"a\" is there twice;"),
            (json!({"sinkNamespace": "a/b"}), "spec.sinkNamespace: \"a/b\" has a slash; write one namespace"),
            (json!({"exportMinInterval": "25h"}), "spec.exportMinInterval: 25h0m0s is out of range;"),
            (json!({"profileRef": {"name": "p"}}), "spec.profileRef.namespace: is blank; name the namespace"),
            (json!({"databaseSinkRefs": many}), "spec: names more than 20 sinks; split the inventory"),
            (json!({"databaseSinkRefs": ["a/b"]}), "spec.databaseSinkRefs[0].name: \"a/b\" has a slash;"),
            (
                json!({"databaseSinkRefs": [{"name": "pg", "namespace": "A"}]}),
                "spec.databaseSinkRefs[0].namespace: \"A\" cannot be a namespace;",
            ),
            (
                json!({"snapshotSinkRefs": [{"name": "a", "namespace": "x"}, {"name": "a", "namespace": "y"}]}),
                "spec.snapshotSinkRefs[1].name: \"a\" is there twice;",
            ),
            (
                json!({"snapshotSinkRefs": [{"name": "a", "maxExportBytes": 1001}]}),
                "spec.snapshotSinkRefs[0].maxExportBytes: 1001 is out of range;",
            ),
        ] {
            let message = check(spec).unwrap_err();
            assert!(message.starts_with(expected), "{expected}\nis not at the start of\n{message}");
        }
        check(json!({"databaseSinkRefs": [{"name": "pg", "namespace": "x"}], "profileRef": {"name": "p", "namespace": "n"}}))
            .unwrap();
    }
}
