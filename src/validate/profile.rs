//! `KollectProfile`.

mod consent;
mod embedding;

use std::collections::BTreeMap;

use super::{FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::KollectProfileSpec;
use crate::api::v1alpha1::profile::{Attribute, ExportMode, ProfileExport};
use crate::expr::{self, Shape};
use crate::metrics::OBJECT_COUNT;
use crate::model::Gvk;

pub use consent::{
    ALLOW_FULL_RESOURCE_EXPORT, ALLOW_SECRET_EXTRACTION, SecretContent, lacks_secret_consent, secret_consent,
};
pub use embedding::Embedding;

/// The most labels of one series.
const MAX_LABELS: usize = 5;

/// A profile whose parts fit together; its expressions are not compiled yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedProfile {
    gvk: Gvk,
    attributes: Vec<Attribute>,
    scrub_keys: Vec<String>,
    secret_content: SecretContent,
    embedding: Option<Embedding>,
    warnings: Vec<String>,
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

    /// What of `data` and `stringData` may be shown.
    pub fn secret_content(&self) -> SecretContent {
        self.secret_content
    }

    /// The copy of the object that rows embed.
    pub fn embedding(&self) -> Option<&Embedding> {
        self.embedding.as_ref()
    }

    /// What has no effect, or not the one that it seems to have; each names its field.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Checks a profile. Its annotations say whether it may read Secrets ([`ALLOW_SECRET_EXTRACTION`],
/// [`ALLOW_FULL_RESOURCE_EXPORT`]).
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn profile(
    spec: &KollectProfileSpec,
    annotations: Option<&BTreeMap<String, String>>,
) -> Result<ValidatedProfile, FieldErrors> {
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
        self::export(&mut findings, spec, export);
    }
    metrics(&mut findings, spec);
    let secret_content = consent::check(&mut findings, spec, annotations);
    let scrub_keys = spec.export.iter().filter_map(|export| export.prune.as_ref());
    findings.give(ValidatedProfile {
        gvk: Gvk::from(&spec.target_gvk),
        attributes: spec.attributes.clone(),
        scrub_keys: scrub_keys.flat_map(|prune| prune.scrub_keys.clone()).collect(),
        secret_content,
        embedding: spec.export.as_ref().filter(|export| export.mode == ExportMode::Resource).map(Embedding::new),
        warnings: warnings(spec),
    })
}

/// Compiles every expression, which admission does before a profile is stored. Whoever extracts compiles them anyway, and
/// forgives those of optional attributes.
///
/// # Errors
/// Terminal, with the field and the place in each expression that is wrong.
pub fn expressions(spec: &KollectProfileSpec) -> Result<(), FieldErrors> {
    let mut findings = Findings::default();
    let list = FieldPath::spec().field("attributes");
    if !findings.compilable(&list, paths(&spec.attributes)) {
        return findings.give(());
    }
    for (index, attribute) in spec.attributes.iter().enumerate() {
        if let Err(error) = expr::compile(&attribute.path, Shape::Any) {
            findings.add(list.index(index).field("path"), error.placed(&attribute.path));
        }
    }
    findings.give(())
}

/// Returns what is accepted and does less than it seems to.
fn warnings(spec: &KollectProfileSpec) -> Vec<String> {
    let root = FieldPath::spec();
    let mut warnings = Vec::new();
    for (index, attribute) in spec.attributes.iter().enumerate() {
        if attribute.path.contains("[?(") && !attribute.path.trim_start().starts_with("cel:") {
            let path = root.field("attributes").index(index).field("path");
            warnings.push(format!(
                "{path}: a comparison in a filter gives no value at all when one element lacks the field; \
                 cel: with filter() and has() is exact"
            ));
        }
    }
    let path = root.field("export").field("prune");
    let Some(prune) = spec.export.as_ref().and_then(|export| export.prune.as_ref()) else { return warnings };
    if !prune.cel.is_empty() {
        warnings.push(format!("{}: has no effect; write jsonPointers or jsonPaths", path.field("cel")));
    }
    for (index, text) in prune.json_paths.iter().enumerate() {
        if embedding::walked(text).is_none() {
            let path = path.field("jsonPaths").index(index);
            warnings.push(format!(
                "{path}: {text:?} is ignored; write keys and numbers with dots and brackets, without wildcards, filters or \
                 braces, for example .metadata.labels[\"pod-template-hash\"]"
            ));
        }
    }
    warnings
}

fn paths(attributes: &[Attribute]) -> impl Iterator<Item = &str> {
    attributes.iter().map(|attribute| attribute.path.as_str())
}

fn attributes(findings: &mut Findings, list: &FieldPath, attributes: &[Attribute]) {
    findings.compilable(list, paths(attributes));
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
    if !path.starts_with("helm:") {
        return None;
    }
    if !path.starts_with("helm:release.") {
        return Some(format!("{path:?} names no field; write helm:release.<field>, for example helm:release.status"));
    }
    expr::compile(path, Shape::Any).err().map(|error| error.message)
}

fn export(findings: &mut Findings, spec: &KollectProfileSpec, export: &ProfileExport) {
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
        ExportMode::Resource if export.embed_as.trim().is_empty() => {
            findings.add(root.field("export").field("as"), "is blank; choose the key of the object in the row");
        }
        ExportMode::Attributes | ExportMode::Resource => {}
    }
    let pointers = root.field("export").field("prune").field("jsonPointers");
    for (index, pointer) in export.prune.iter().flat_map(|prune| &prune.json_pointers).enumerate() {
        if !embedding::is_pointer(pointer) {
            let message =
                format!("{pointer:?} is no JSON pointer; start with '/', write '~' as ~0 and '/' in a key as ~1");
            findings.add(pointers.index(index), message);
        }
    }
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
        annotated(spec, &[])
    }

    fn annotated(spec: serde_json::Value, annotations: &[(&str, &str)]) -> Result<ValidatedProfile, String> {
        let spec: KollectProfileSpec = serde_json::from_value(spec).unwrap();
        let annotations = annotations.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        profile(&spec, Some(&annotations)).map_err(|errors| errors.to_string())
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
            "spec.attributes[2].path: empty helm release field;",
            "spec.attributes[3].path: helm release field \"chart.values.x\" is not exportable;",
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

    #[test]
    fn the_content_of_secrets_needs_the_consent_of_the_profile() {
        let spec = json!({
            "targetGVK": {"version": "v1", "kind": "Secret"},
            "attributes": [
                {"name": "type", "path": "{.type}"},
                {"name": "user", "path": "{['data']['user']}"},
                {"name": "values", "path": "helm:release.config"},
                {"name": "all", "path": "cel:object"},
            ],
            "export": {"mode": "Resource"},
        });
        let refusal = check(spec.clone()).unwrap_err();
        for expected in [
            "spec.export.mode: Resource embeds core Secrets; annotate the profile with kollect.dev/allow-full-resource-export: \"true\"",
            "spec.attributes[1].path: \"{['data']['user']}\" reads the content of core Secrets; annotate the profile with kollect.dev/allow-secret-extraction: \"true\"",
            "spec.attributes[2].path: \"helm:release.config\" reads the values of a Helm release",
        ] {
            assert!(refusal.contains(expected), "{expected}\nis not in\n{refusal}");
        }
        assert_eq!(refusal.matches("; spec.").count(), 2, "{refusal}");
        let full = (ALLOW_FULL_RESOURCE_EXPORT, "true");
        for value in ["True", "1", "", "true "] {
            annotated(spec.clone(), &[full, (ALLOW_SECRET_EXTRACTION, value)]).unwrap_err();
        }
        let profile = annotated(spec.clone(), &[full, (ALLOW_SECRET_EXTRACTION, "true")]).unwrap();
        assert_eq!(profile.secret_content(), SecretContent::Extractable);
        let mut elsewhere = spec;
        elsewhere["targetGVK"] = json!({"group": "example.com", "version": "v1", "kind": "Secret"});
        assert_eq!(check(elsewhere).unwrap().secret_content(), SecretContent::Unknown);
        let modest = json!({"targetGVK": {"group": "core", "version": "v1", "kind": "Secret"},
            "attributes": [{"name": "all", "path": "{@}"}]});
        assert_eq!(check(modest).unwrap().secret_content(), SecretContent::Hidden);
    }

    #[test]
    fn what_does_less_than_it_seems_to_is_warned_of() {
        let profile = check(json!({
            "targetGVK": {"version": "v1", "kind": "Pod"},
            "attributes": [
                {"name": "a", "path": "{.status.conditions[?(@.type==\"Ready\")].status}"},
                {"name": "b", "path": "cel:'[?('"},
            ],
            "export": {"prune": {"cel": ["x"], "jsonPaths": [".spec.a", "$.spec[*].b"]}},
        }))
        .unwrap();
        let fields: Vec<_> = profile.warnings().iter().filter_map(|warning| warning.split(": ").next()).collect();
        assert_eq!(fields, ["spec.attributes[0].path", "spec.export.prune.cel", "spec.export.prune.jsonPaths[1]"]);
    }

    #[test]
    fn more_expressions_than_can_be_compiled_in_time_are_refused_unread() {
        let long = format!("cel:{}", "[".repeat(8000));
        let of = |count: usize| {
            let attributes: Vec<_> =
                (0..count).map(|number| json!({"name": number.to_string(), "path": long})).collect();
            let spec = json!({"targetGVK": {"version": "v1", "kind": "Pod"}, "attributes": attributes});
            serde_json::from_value::<KollectProfileSpec>(spec).unwrap()
        };
        let wanted = "spec.attributes: has expressions of 136068 bytes, of 131072 that are compiled; split it";
        assert_eq!(profile(&of(17), None).unwrap_err().to_string(), wanted);
        assert_eq!(expressions(&of(17)).unwrap_err().to_string(), wanted);
        profile(&of(16), None).unwrap();
    }

    #[test]
    fn expressions_that_do_not_compile_are_named_with_their_place() {
        let spec = json!({
            "targetGVK": {"version": "v1", "kind": "Pod"},
            "attributes": [
                {"name": "a", "path": "{.é}{b}", "optional": true},
                {"name": "b", "path": "{.a}"},
                {"name": "c", "path": "cel:object.a + foo"},
            ],
        });
        let refusal = expressions(&serde_json::from_value(spec).unwrap()).unwrap_err().to_string();
        assert!(refusal.starts_with("spec.attributes[0].path: unrecognized identifier b"), "{refusal}");
        assert!(refusal.contains("(at character 6); spec.attributes[2].path: undeclared reference"), "{refusal}");
        assert!(refusal.ends_with("(at character 16)"), "{refusal}");
    }
}
