//! From what a target says about objects to what `watch` decides by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::SelectorExt;

use super::{Control, Refusal, Rows, State};
use crate::api::v1alpha1::KollectTargetSpec;
use crate::api::v1alpha1::conditions::reasons;
use crate::control::NamespaceFacts;
use crate::control::shelf::Object;
use crate::model::{Gvk, Namespace};
use crate::validate::{self, FieldErrors, ValidatedTarget};
use crate::watch::{Choice, Consent, Filter, Resource, Rule, Scope, Terms};

/// The namespace that objects without one are taken to live in, as far as it says something about being watched.
const DEFAULT: &str = "default";

/// A target that was checked, and which version of it.
#[derive(Debug)]
pub(super) struct Checked {
    version: (String, i64),
    target: Arc<ValidatedTarget>,
}

/// Returns the checked target; conditions are compiled once for each version.
pub(super) fn checked(
    object: &Object<KollectTargetSpec>,
    spec: &KollectTargetSpec,
    state: &mut State,
) -> Result<Arc<ValidatedTarget>, Refusal> {
    let version = (object.uid().to_owned(), object.generation());
    if let Some(checked) = state.checked.as_ref().filter(|checked| checked.version == version) {
        return Ok(checked.target.clone());
    }
    let target = Arc::new(validate::target(spec).map_err(|errors| refused(&errors))?);
    state.checked = Some(Checked { version, target: target.clone() });
    Ok(target)
}

/// Conditions that cannot be compiled have a reason of their own.
fn refused(errors: &FieldErrors) -> Refusal {
    let of_condition = |path: &str| path.ends_with(".matchPolicy");
    let reason = if errors.iter().all(|error| of_condition(&error.path.to_string())) {
        reasons::INFORMER_REGISTRATION_FAILED
    } else {
        reasons::INVALID_SPEC
    };
    Refusal::new(reason, errors.to_string(), Rows::Stay)
}

/// Returns which objects of a kind a target wants. Rules for other kinds are left out.
pub(super) fn filter(target: &ValidatedTarget, gvk: &Gvk) -> Filter {
    let choice = if target.rules().is_empty() {
        Choice::Plain { names: target.names().clone(), labels: target.labels().clone() }
    } else {
        let rules = target.rules().iter().enumerate().filter(|(_, rule)| rule.gvk() == gvk);
        let rules =
            rules.map(|(number, rule)| Rule { number, labels: rule.labels().clone(), policy: rule.policy().cloned() });
        Choice::Rules(rules.collect())
    };
    Filter { choice, mode: target.watch_mode() }
}

/// Returns what a person should know about filters that have no effect; empty when there are none.
pub(super) fn remarks(target: &ValidatedTarget, gvk: &Gvk, scope: Scope) -> String {
    let mut remarks = target.remarks(gvk);
    if scope == Scope::Cluster && target.namespaces().limits() {
        remarks.push(format!("{gvk} is cluster-scoped, the target's filters of namespaces do not limit it"));
    }
    remarks.join("; ")
}

impl Control {
    /// Returns on what terms a target collects where it collects.
    pub(super) fn terms(
        &self,
        target: &ValidatedTarget,
        resource: &Resource,
        effective: &BTreeMap<Namespace, Consent>,
    ) -> BTreeMap<Namespace, Terms> {
        let terms = |facts: Option<&NamespaceFacts>| terms(target, facts);
        let facts = &self.shelves.namespaces;
        match resource.scope {
            Scope::Namespaced => {
                effective.keys().map(|namespace| (namespace.clone(), terms(facts.get(namespace)))).collect()
            }
            Scope::Cluster => BTreeMap::from([(Namespace::new(""), terms(facts.get(DEFAULT)))]),
        }
    }
}

/// Decides what depends on a namespace alone; one that is not known has no labels.
fn terms(target: &ValidatedTarget, facts: Option<&NamespaceFacts>) -> Terms {
    let (none, consent) = (BTreeMap::new(), facts.map(|facts| facts.consent).unwrap_or_default());
    let labels = facts.map_or(&none, |facts| &facts.labels);
    let rules = target.rules().iter().enumerate();
    let applying = rules.filter(|(_, rule)| rule.namespaces().matches(labels)).map(|(number, _)| number);
    Terms { consent, rules: applying.collect() }
}

/// Returns names as the status shows them: bytewise sorted, without the one that stands for no namespace.
pub(super) fn names<'a>(namespaces: impl Iterator<Item = &'a Namespace>) -> Vec<String> {
    let names: BTreeSet<&Namespace> = namespaces.filter(|namespace| !namespace.is_empty()).collect();
    names.into_iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target(spec: serde_json::Value) -> ValidatedTarget {
        validate::target(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn apps(kind: &str) -> Gvk {
        Gvk { group: "apps".into(), version: "v1".into(), kind: kind.into() }
    }

    fn facts(labels: &[(&str, &str)]) -> NamespaceFacts {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NamespaceFacts { labels, consent: Consent::Enabled }
    }

    fn two_kinds() -> ValidatedTarget {
        target(json!({
            "profileRef": "p", "names": ["ignored"],
            "resourceRules": [
                {"gvk": {"group": "apps", "version": "v1", "kind": "StatefulSet"}},
                {"gvk": {"group": "apps", "version": "v1", "kind": "Deployment"},
                 "namespaceSelector": {"matchLabels": {"env": "prod"}}},
                {"gvk": {"group": "apps", "version": "v1", "kind": "Deployment"}, "matchLabels": {"a": "b"},
                 "namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}},
            ],
        }))
    }

    #[test]
    fn rules_keep_their_numbers_and_those_for_other_kinds_are_left_out() {
        let Choice::Rules(rules) = filter(&two_kinds(), &apps("Deployment")).choice else { panic!("no rules") };
        assert_eq!(rules.iter().map(|rule| rule.number).collect::<Vec<_>>(), [1, 2]);
        // Kinds differ in version as well.
        let old = Gvk { version: "v1beta1".into(), ..apps("Deployment") };
        assert_eq!(filter(&two_kinds(), &old).choice, Choice::Rules(Vec::new()));
        assert_eq!(filter(&target(json!({"profileRef": "p"})), &apps("Deployment")), Filter::default());
    }

    #[test]
    fn the_labels_of_a_namespace_say_which_rules_apply_there() {
        let target = two_kinds();
        let applying = |facts: Option<&NamespaceFacts>| {
            let terms = terms(&target, facts);
            (0..3).filter(|rule| terms.rules.has(*rule)).collect::<Vec<_>>()
        };
        assert_eq!(applying(Some(&facts(&[("env", "prod")]))), [0, 1]);
        assert_eq!(applying(Some(&facts(&[("env", "dev")]))), [0]);
        assert_eq!(applying(Some(&facts(&[]))), [0, 2]);
        assert_eq!(applying(None), [0, 2]);
        assert_eq!(terms(&target, Some(&facts(&[]))).consent, Consent::Enabled);
        assert_eq!(terms(&target, None).consent, Consent::Unset);
    }

    #[test]
    fn filters_without_effect_are_told() {
        insta::assert_snapshot!(remarks(&two_kinds(), &apps("Deployment"), Scope::Namespaced), @"spec.resourceRules[0] (apps/v1/StatefulSet) can never match, the profile collects apps/v1/Deployment; correct gvk or remove the rule; spec.labelSelector and spec.names do not count beside spec.resourceRules");
        let limited = target(json!({"profileRef": "p", "excludedNamespaces": ["a"]}));
        insta::assert_snapshot!(remarks(&limited, &apps("Deployment"), Scope::Cluster), @"apps/v1/Deployment is cluster-scoped, the target's filters of namespaces do not limit it");
        assert_eq!(remarks(&limited, &apps("Deployment"), Scope::Namespaced), "");
    }

    #[test]
    fn a_condition_that_cannot_be_compiled_has_its_own_reason() {
        let refusal = |spec: serde_json::Value| {
            let errors = validate::target(&serde_json::from_value(spec).unwrap()).unwrap_err();
            let refusal = refused(&errors);
            assert!(refusal.message.starts_with("spec."), "{}", refusal.message);
            refusal.reason
        };
        let rules = json!([{"gvk": {"version": "v1", "kind": "Pod"}, "matchPolicy": "object."}]);
        assert_eq!(refusal(json!({"profileRef": "p", "resourceRules": rules})), reasons::INFORMER_REGISTRATION_FAILED);
        assert_eq!(refusal(json!({"profileRef": "", "resourceRules": rules})), reasons::INVALID_SPEC);
    }
}
