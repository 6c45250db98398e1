//! `KollectClusterTarget`.

use super::{FieldErrors, FieldPath, Findings, ValidatedTarget, target};
use crate::api::v1alpha1::KollectClusterTargetSpec;
use crate::model::{Name, Namespace, ObjectKey};

/// A cluster target whose selectors are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedClusterTarget {
    profile: ObjectKey,
    intent: ValidatedTarget,
}

impl ValidatedClusterTarget {
    /// The profile, in the namespace that the target names.
    pub fn profile(&self) -> &ObjectKey {
        &self.profile
    }

    /// What a target of one namespace would ask for.
    pub fn intent(&self) -> &ValidatedTarget {
        &self.intent
    }
}

/// Checks a cluster target.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn cluster_target(spec: &KollectClusterTargetSpec) -> Result<ValidatedClusterTarget, FieldErrors> {
    let mut findings = Findings::default();
    let reference = FieldPath::spec().field("profileRef");
    let (name, namespace) = (spec.profile_ref.name.as_str(), spec.profile_ref.namespace.as_str());
    findings.profile_ref(&reference, name, namespace, "a cluster target");
    findings.some_namespaces(spec.namespace_selector.as_ref(), "a cluster target");
    let intent = target::intent(&mut findings, &spec.intent());
    let profile = ObjectKey::new(Namespace::new(namespace), Name::new(name));
    findings.give(ValidatedClusterTarget { profile, intent })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::api::v1alpha1::WatchMode;

    fn check(spec: serde_json::Value) -> Result<ValidatedClusterTarget, String> {
        let spec: KollectClusterTargetSpec = serde_json::from_value(spec).unwrap();
        cluster_target(&spec).map_err(|errors| errors.to_string())
    }

    #[test]
    fn it_asks_for_what_a_target_asks_for_with_a_profile_of_another_namespace() {
        let target = check(json!({
            "profileRef": {"name": "p", "namespace": "platform"},
            "namespaceSelector": {"matchLabels": {"team": "x"}},
            "includedNamespaces": ["a", "b"],
            "excludedNamespaces": ["b"],
            "namespaceExcludeSelector": {"matchExpressions": [{"key": "frozen", "operator": "Exists"}]},
        }))
        .unwrap();
        assert_eq!(target.profile().to_string(), "platform/p");
        let labels = |names: &[&str]| -> BTreeMap<String, String> {
            names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect()
        };
        let asks = |name: &str, has: &[&str]| target.intent().namespaces().matches(&Namespace::new(name), &labels(has));
        assert!(asks("a", &["team"]));
        assert!(!asks("a", &[]) && !asks("b", &["team"]) && !asks("a", &["team", "frozen"]));
        assert_eq!(target.intent().watch_mode(), WatchMode::All);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_to_write_instead() {
        let all = json!({"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "Exists"}]});
        for (name, namespace, selector, expected) in [
            ("", "platform", all.clone(), "spec.profileRef.name: is blank; name a KollectProfile"),
            ("platform/p", "platform", all.clone(), "spec.profileRef.name: \"platform/p\" has a slash; write the name"),
            ("p", " ", all.clone(), "spec.profileRef.namespace: is blank; name the namespace of the profile"),
            ("p", "-Platform", all, "spec.profileRef.namespace: \"-Platform\" cannot be a namespace; write lower-case"),
            ("p", "platform", json!({}), "spec.namespaceSelector: has no requirement, and a cluster target never"),
            (
                "p",
                "platform",
                json!({"matchExpressions": [{"key": "a", "operator": "in"}]}),
                "spec.namespaceSelector.matchExpressions[0].operator: \"in\" is unknown;",
            ),
        ] {
            let reference = json!({"name": name, "namespace": namespace});
            let message = check(json!({"profileRef": reference, "namespaceSelector": selector})).unwrap_err();
            assert!(message.starts_with(expected), "{expected}\nis not at the start of\n{message}");
        }
        let message = check(json!({"profileRef": {"name": "p", "namespace": "n"}, "excludedNamespaces": [""]}));
        assert!(message.unwrap_err().contains("spec.excludedNamespaces[0]: is blank"));
    }
}
