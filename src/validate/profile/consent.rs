//! Profiles over the core `Secret`: nothing of its content leaves the cluster unless the profile says so itself.
//!
//! The consent is an annotation on the profile, so that it stands where the paths stand and whoever may edit the one may
//! edit the other. What is asked for by name is refused without it; what merely takes the whole object gets it without its
//! content ([`SecretContent::Hidden`]).

use std::collections::BTreeMap;

use super::super::{FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::KollectProfileSpec;
use crate::api::v1alpha1::profile::ExportMode;
use crate::expr::{self, Program, Shape};

/// Lets a profile extract the content of Secrets.
pub const ALLOW_SECRET_EXTRACTION: &str = "kollect.dev/allow-secret-extraction";
/// Lets a profile embed whole Secrets, their content replaced.
pub const ALLOW_FULL_RESOURCE_EXPORT: &str = "kollect.dev/allow-full-resource-export";

/// What a profile may show of `data` and `stringData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecretContent {
    /// The kind is not the core `Secret`: these are keys like others.
    #[default]
    Unknown,
    /// No path and no expression sees them.
    Hidden,
    /// Paths may pick from them; a copy of the object does not have them.
    Extractable,
}

/// Tells whether a profile asks for more of core Secrets than it consents to: it never did, or no longer does.
#[must_use]
pub fn lacks_secret_consent(spec: &KollectProfileSpec, annotations: Option<&BTreeMap<String, String>>) -> bool {
    secret_consent(spec, annotations).is_err()
}

/// Checks the consent of a profile over core Secrets, and nothing else of it.
///
/// # Errors
/// Terminal, with everything that it asks for and does not consent to.
pub fn secret_consent(
    spec: &KollectProfileSpec,
    annotations: Option<&BTreeMap<String, String>>,
) -> Result<(), FieldErrors> {
    let mut findings = Findings::default();
    check(&mut findings, spec, annotations);
    findings.give(())
}

/// Checks what a profile asks for against what it consents to; nothing else is among the findings.
pub(super) fn check(
    findings: &mut Findings,
    spec: &KollectProfileSpec,
    annotations: Option<&BTreeMap<String, String>>,
) -> SecretContent {
    if !spec.target_gvk.is_core_secret() {
        return SecretContent::Unknown;
    }
    let allows = |key: &str| annotations.and_then(|all| all.get(key)).is_some_and(|value| value == "true");
    let root = FieldPath::spec();
    if spec.export.as_ref().is_some_and(|export| export.mode == ExportMode::Resource)
        && !allows(ALLOW_FULL_RESOURCE_EXPORT)
    {
        let message = format!(
            "Resource embeds core Secrets; annotate the profile with {ALLOW_FULL_RESOURCE_EXPORT}: \"true\", or choose \
             Attributes"
        );
        findings.add(root.field("export").field("mode"), message);
    }
    if allows(ALLOW_SECRET_EXTRACTION) {
        return SecretContent::Extractable;
    }
    for (index, attribute) in spec.attributes.iter().enumerate() {
        if let Some(what) = content(&attribute.path) {
            let message = format!(
                "{:?} reads {what}; annotate the profile with {ALLOW_SECRET_EXTRACTION}: \"true\", or choose another path",
                attribute.path.trim()
            );
            findings.add(root.field("attributes").index(index).field("path"), message);
        }
    }
    SecretContent::Hidden
}

/// Returns which content of a Secret a path names, however it is spelled.
fn content(path: &str) -> Option<&'static str> {
    // A path that does not compile reads nothing; it is told as such elsewhere.
    let program = expr::compile(path, Shape::Any).ok()?;
    if let Program::Helm(field) = &program {
        return field.is_config().then_some("the values of a Helm release, which hold passwords as a rule");
    }
    let mut named = false;
    program.keys(&mut |key| named |= key.eq_ignore_ascii_case("data") || key.eq_ignore_ascii_case("stringData"));
    named.then_some("the content of core Secrets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_lacks_consent_as_long_as_it_asks_for_more_than_it_has() {
        let spec = |kind: &str, path: &str, mode: &str| -> KollectProfileSpec {
            serde_json::from_value(serde_json::json!({"targetGVK": {"version": "v1", "kind": kind},
                "attributes": [{"name": "a", "path": path}], "export": {"mode": mode}}))
            .unwrap()
        };
        for (kind, path, mode, given, lacks) in [
            ("Secret", "$.data.user", "Attributes", &[][..], true),
            ("Secret", "$.data.user", "Attributes", &[(ALLOW_SECRET_EXTRACTION, "false")], true),
            ("Secret", "$.data.user", "Attributes", &[(ALLOW_FULL_RESOURCE_EXPORT, "true")], true),
            ("Secret", "$.data.user", "Attributes", &[(ALLOW_SECRET_EXTRACTION, "true")], false),
            ("Secret", "$.type", "Resource", &[(ALLOW_SECRET_EXTRACTION, "true")], true),
            ("Secret", "$.type", "Resource", &[(ALLOW_FULL_RESOURCE_EXPORT, "true")], false),
            // Other mistakes are none of consent.
            ("Secret", "{.type", "Attributes", &[], false),
            ("ConfigMap", "$.data.user", "Resource", &[], false),
        ] {
            let annotations = given.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            let found = lacks_secret_consent(&spec(kind, path, mode), Some(&annotations));
            assert_eq!(found, lacks, "{kind} {path} {mode} {given:?}");
        }
    }

    #[test]
    fn every_spelling_of_the_content_is_found() {
        for path in [
            "$.data",
            "$.data.password",
            "{.Data.x}",
            "{['data']['x']}",
            "$['data'].x",
            "{$['data']}",
            "{$.data}",
            "{@.stringData}",
            "{..data}",
            "{['kind','data']}",
            "{range .data.*}{@}{end}",
            "{.items[?(@.data)].x}",
            "{.kind}{.data}",
            "cel:object.data",
            "cel:object['data']['x']",
            "cel:has(object.stringData)",
            "cel:[object].map(o, o.data)",
            "cel:[object].map(o, o['data'])",
            "cel:size(dyn(object).data)",
            " cel:object . data . x",
            "helm:release.config",
            "helm:release.config.db.host",
        ] {
            assert!(content(path).is_some() || expr::compile(path, Shape::Any).is_err(), "{path}");
        }
        for path in ["$.type", "{@}", "cel:object", "cel:object.metadata.name == 'data'", "helm:release.chartVersion"] {
            assert!(content(path).is_none(), "{path}");
        }
    }
}
