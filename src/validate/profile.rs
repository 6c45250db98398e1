//! `KollectProfile`.

use super::{FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::KollectProfileSpec;
use crate::api::v1alpha1::profile::{Attribute, ExportMode, ProfileExport};
use crate::metrics::OBJECT_COUNT;
use crate::model::Gvk;

/// The most labels of one series.
const MAX_LABELS: usize = 5;

/// Fields of a Helm release that stay in the cluster, with all below them.
const HIDDEN_HELM_FIELDS: [&str; 6] =
    ["manifest", "hooks", "chart.templates", "chart.files", "chart.values", "chart.raw"];

/// A profile whose parts fit together; its expressions are not compiled yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedProfile {
    gvk: Gvk,
    attributes: Vec<Attribute>,
    scrub_keys: Vec<String>,
}

impl ValidatedProfile {
    /// The kind whose objects are read.
    pub fn gvk(&self) -> &Gvk {
        &self.gvk
    }

    /// The values to extract, in the order of the profile; each name once.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Key names to redact besides those of the operator.
    pub fn scrub_keys(&self) -> &[String] {
        &self.scrub_keys
    }
}

/// Checks a profile.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn profile(spec: &KollectProfileSpec) -> Result<ValidatedProfile, FieldErrors> {
    let mut findings = Findings::default();
    let root = FieldPath::spec();
    let gvk = root.field("targetGVK");
    for (field, value) in [("version", &spec.target_gvk.version), ("kind", &spec.target_gvk.kind)] {
        if value.trim().is_empty() {
            findings.add(gvk.field(field), "is blank; name the kind to read, for example version v1, kind ConfigMap");
        }
    }
    attributes(&mut findings, &root.field("attributes"), &spec.attributes);
    if let Some(export) = &spec.export {
        embedding(&mut findings, spec, export);
    }
    metrics(&mut findings, spec);
    let scrub_keys = spec.export.iter().filter_map(|export| export.prune.as_ref());
    findings.give(ValidatedProfile {
        gvk: Gvk::from(&spec.target_gvk),
        attributes: spec.attributes.clone(),
        scrub_keys: scrub_keys.flat_map(|prune| prune.scrub_keys.clone()).collect(),
    })
}

fn attributes(findings: &mut Findings, list: &FieldPath, attributes: &[Attribute]) {
    for (index, attribute) in attributes.iter().enumerate() {
        let element = list.index(index);
        if attribute.name.trim().is_empty() {
            findings.add(element.field("name"), "is blank; choose the key of the value in the row");
        }
        if let Some(message) = path_problem(attribute.path.trim()) {
            findings.add(element.field("path"), message);
        }
    }
    findings.unique(list, Some("name"), attributes.iter().map(|attribute| attribute.name.as_str()));
}

/// Returns what is wrong with an expression, as far as can be told without compiling it.
fn path_problem(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some("is blank; write a JSONPath such as {.spec.replicas} or cel:object.spec.replicas".to_owned());
    }
    if path.starts_with("object.") || path.starts_with("object[") {
        return Some(format!("{path:?} is CEL without its prefix; write \"cel:{path}\""));
    }
    let helm = path.strip_prefix("helm:")?;
    let Some(field) = helm.strip_prefix("release.").filter(|field| !field.is_empty()) else {
        return Some(format!("{path:?} names no field; write helm:release.<field>, for example helm:release.status"));
    };
    let hidden =
        |name: &&str| field.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    HIDDEN_HELM_FIELDS
        .iter()
        .find(|name| hidden(name))
        .map(|name| format!("{name:?} of a release is not exportable; choose another field, for example chartVersion"))
}

fn embedding(findings: &mut Findings, spec: &KollectProfileSpec, export: &ProfileExport) {
    let root = FieldPath::spec();
    match export.mode {
        ExportMode::Attributes if spec.attributes.is_empty() => findings.add(
            root.field("attributes"),
            "is empty while export.mode is Attributes; add an attribute, or set export.mode to Resource",
        ),
        ExportMode::Resource if spec.attributes.iter().any(|attribute| attribute.name == export.embed_as) => findings
            .add(
                root.field("export").field("as"),
                format!("{:?} is the name of an attribute; choose another key for the object", export.embed_as),
            ),
        ExportMode::Attributes | ExportMode::Resource => {}
    }
    let pointers = root.field("export").field("prune").field("jsonPointers");
    for (index, pointer) in export.prune.iter().flat_map(|prune| &prune.json_pointers).enumerate() {
        if !is_pointer(pointer) {
            let message =
                format!("{pointer:?} is no JSON pointer; start with '/', write '~' as ~0 and '/' in a key as ~1");
            findings.add(pointers.index(index), message);
        }
    }
}

/// Tells whether the text is an RFC 6901 pointer to something below the root.
fn is_pointer(text: &str) -> bool {
    let mut escapes = text.split('~');
    escapes.next().is_some_and(|start| start.starts_with('/')) && escapes.all(|rest| rest.starts_with(['0', '1']))
}

fn metrics(findings: &mut Findings, spec: &KollectProfileSpec) {
    let list = FieldPath::spec().field("metrics");
    let known = |name: &str| spec.attributes.iter().any(|attribute| attribute.name == name);
    for (index, metric) in spec.metrics.iter().enumerate() {
        let element = list.index(index);
        if metric.name.trim().is_empty() {
            findings.add(element.field("name"), "is blank; choose the name of the series");
        }
        if metric.labels.is_empty() && metric.name == OBJECT_COUNT {
            let message =
                "is the series of the number of rows, which every profile has; choose another name, or add labels";
            findings.add(element.field("name"), message);
        }
        if !known(&metric.path) {
            let message =
                format!("{:?} is no attribute of this profile; name the attribute that holds the number", metric.path);
            findings.add(element.field("path"), message);
        }
        if metric.labels.len() > MAX_LABELS {
            findings.add(element.field("labels"), format!("has more than {MAX_LABELS} labels; remove some"));
        }
        for (at, label) in metric.labels.iter().enumerate().filter(|(_, label)| !known(label)) {
            let message = format!("{label:?} is no attribute of this profile; name an attribute");
            findings.add(element.field("labels").index(at), message);
        }
    }
    findings.unique(&list, Some("name"), spec.metrics.iter().map(|metric| metric.name.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value) -> Result<ValidatedProfile, String> {
        let spec: KollectProfileSpec = serde_json::from_value(spec).unwrap();
        profile(&spec).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_profile_keeps_its_attributes_and_scrub_keys() {
        let profile = check(json!({
            "targetGVK": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "attributes": [{"name": "replicas", "path": "{.spec.replicas}", "type": "int"}],
            "export": {"prune": {"scrubKeys": ["licenseKey"]}},
        }))
        .unwrap();
        assert_eq!(profile.gvk().to_string(), "apps/v1/Deployment");
        assert_eq!(profile.attributes().len(), 1);
        assert_eq!(profile.scrub_keys(), ["licenseKey"]);
    }

    #[test]
    fn every_mistake_is_named_with_its_place_at_once() {
        let message = check(json!({
            "targetGVK": {"version": " ", "kind": "Pod"},
            "attributes": [
                {"name": "a", "path": "object.spec"},
                {"name": "a", "path": " "},
                {"name": "", "path": "helm:release."},
                {"name": "m", "path": "helm:release.chart.values.x"},
            ],
            "metrics": [
                {"name": "n", "path": "b", "labels": ["a", "c"]},
                {"name": "object_count", "path": "a"},
                {"name": "n", "path": "a", "labels": ["a", "m", "", "a", "m", "a"]},
                {"name": " ", "path": "a"},
            ],
        }))
        .unwrap_err();
        for expected in [
            "spec.targetGVK.version: is blank;",
            "spec.attributes[0].path: \"object.spec\" is CEL without its prefix; write \"cel:object.spec\"",
            "spec.attributes[1].path: is blank;",
            "spec.attributes[1].name: \"a\" is there twice;",
            "spec.attributes[2].name: is blank;",
            "spec.attributes[2].path: \"helm:release.\" names no field;",
            "spec.attributes[3].path: \"chart.values\" of a release is not exportable;",
            "spec.metrics[0].path: \"b\" is no attribute of this profile;",
            "spec.metrics[0].labels[1]: \"c\" is no attribute of this profile;",
            "spec.metrics[1].name: is the series of the number of rows,",
            "spec.metrics[2].name: \"n\" is there twice;",
            "spec.metrics[2].labels: has more than 5 labels;",
            "spec.metrics[3].name: is blank;",
        ] {
            assert!(message.contains(expected), "{expected}\nis not in\n{message}");
        }
        assert_eq!(message.matches("; spec.").count(), 12, "{message}");
    }

    #[test]
    fn an_embedded_object_needs_a_key_of_its_own() {
        let message = check(json!({
            "targetGVK": {"version": "v1", "kind": "Pod"},
            "attributes": [{"name": "resource", "path": "{.spec}"}],
            "export": {"mode": "Resource", "prune": {"jsonPointers": ["/a~1b", "a", "/~2", "/"]}},
        }))
        .unwrap_err();
        assert!(message.starts_with("spec.export.as: \"resource\" is the name of an attribute;"), "{message}");
        assert!(message.contains("spec.export.prune.jsonPointers[1]: \"a\""), "{message}");
        assert!(message.contains("spec.export.prune.jsonPointers[2]: \"/~2\""), "{message}");
        assert_eq!(message.matches("; spec.").count(), 2, "{message}");
    }

    #[test]
    fn exporting_attributes_needs_one() {
        let gvk = json!({"version": "v1", "kind": "Pod"});
        let message = check(json!({"targetGVK": gvk, "export": {}})).unwrap_err();
        assert!(message.starts_with("spec.attributes: is empty while export.mode is Attributes;"), "{message}");
        check(json!({"targetGVK": gvk})).unwrap();
    }
}
