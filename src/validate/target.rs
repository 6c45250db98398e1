//! `KollectTarget`.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Expression, Selector, SelectorExt};

use super::label::{key_problem, value_problem};
use super::rules::{ValidatedRule, rules};
use super::{FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::{KollectTargetSpec, LabelSelector, WatchMode};
use crate::model::{Gvk, Name, Namespace};

/// A target whose selectors are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedTarget {
    profile: Name,
    namespaces: NamespaceFilter,
    labels: Selector,
    names: BTreeSet<Name>,
    rules: Vec<ValidatedRule>,
    watch_mode: WatchMode,
    suspend: bool,
}

impl ValidatedTarget {
    /// The profile, in the namespace of the target.
    pub fn profile(&self) -> &Name {
        &self.profile
    }

    /// The namespaces that the target asks for.
    pub fn namespaces(&self) -> &NamespaceFilter {
        &self.namespaces
    }

    /// The labels that objects must have; selects all when the target names none.
    pub fn labels(&self) -> &Selector {
        &self.labels
    }

    /// The names of the objects to collect; empty for all.
    pub fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }

    /// The rules of which objects have to match one; when there are any, [labels](Self::labels) and
    /// [names](Self::names) do not count.
    pub fn rules(&self) -> &[ValidatedRule] {
        &self.rules
    }

    /// Returns what a person should know who collects this kind: filters that have no effect.
    pub fn remarks(&self, gvk: &Gvk) -> Vec<String> {
        let mut remarks = Vec::new();
        let foreign: Vec<(usize, &ValidatedRule)> =
            self.rules.iter().enumerate().filter(|(_, rule)| rule.gvk() != gvk).collect();
        if let Some((index, first)) = foreign.first() {
            let more = if foreign.len() > 1 { format!(" and {} more", foreign.len() - 1) } else { String::new() };
            remarks.push(format!(
                "spec.resourceRules[{index}] ({}){more} can never match, the profile collects {gvk}; correct gvk or remove \
                 the rule",
                first.gvk()
            ));
        }
        let plain = !self.names.is_empty() || !self.labels.selects_all();
        if plain && !self.rules.is_empty() {
            remarks.push("spec.labelSelector and spec.names do not count beside spec.resourceRules".to_owned());
        }
        remarks
    }

    /// Whether collecting is the rule or the exception.
    pub fn watch_mode(&self) -> WatchMode {
        self.watch_mode
    }

    /// Whether nothing is collected at the moment.
    pub fn is_suspended(&self) -> bool {
        self.suspend
    }
}

/// Which namespaces a target asks for, before a scope takes some away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceFilter {
    included: BTreeSet<Namespace>,
    excluded: BTreeSet<Namespace>,
    selector: Selector,
    exclude_selector: Option<Selector>,
}

impl NamespaceFilter {
    /// Adds the operator's defaults: the included ones where the target names none, the excluded ones always.
    #[must_use]
    pub fn with_defaults(mut self, included: &BTreeSet<Namespace>, excluded: &BTreeSet<Namespace>) -> Self {
        if self.included.is_empty() {
            self.included.clone_from(included);
        }
        self.excluded.extend(excluded.iter().cloned());
        self
    }

    /// Tells whether there is a namespace that the filter may leave out.
    pub fn limits(&self) -> bool {
        !(self.included.is_empty() && self.excluded.is_empty() && self.selector.selects_all())
            || self.exclude_selector.is_some()
    }

    /// Tells whether a namespace with these labels is asked for.
    pub fn matches(&self, namespace: &Namespace, labels: &BTreeMap<String, String>) -> bool {
        (self.included.is_empty() || self.included.contains(namespace))
            && !self.excluded.contains(namespace)
            && self.selector.matches(labels)
            && !self.exclude_selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// Checks a target.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn target(spec: &KollectTargetSpec) -> Result<ValidatedTarget, FieldErrors> {
    let mut findings = Findings::default();
    findings.local_name(FieldPath::spec().field("profileRef"), &spec.profile_ref);
    let validated = intent(&mut findings, spec);
    findings.give(validated)
}

/// Reads what both kinds of targets have in common: everything but where the profile is.
pub(super) fn intent(findings: &mut Findings, spec: &KollectTargetSpec) -> ValidatedTarget {
    let root = FieldPath::spec();
    for (field, list) in
        [("includedNamespaces", &spec.included_namespaces), ("excludedNamespaces", &spec.excluded_namespaces)]
    {
        let path = root.field(field);
        for (index, _) in list.iter().enumerate().filter(|(_, name)| name.trim().is_empty()) {
            findings.add(path.index(index), "is blank; name a namespace or remove the entry");
        }
        findings.unique(&path, None, list.iter().map(String::as_str));
    }
    let namespaces = |names: &[String]| names.iter().map(|name| Namespace::new(name.as_str())).collect();
    ValidatedTarget {
        profile: Name::new(spec.profile_ref.as_str()),
        namespaces: NamespaceFilter {
            included: namespaces(&spec.included_namespaces),
            excluded: namespaces(&spec.excluded_namespaces),
            selector: optional(findings, &root.field("namespaceSelector"), spec.namespace_selector.as_ref())
                .unwrap_or_default(),
            exclude_selector: optional(
                findings,
                &root.field("namespaceExcludeSelector"),
                spec.namespace_exclude_selector.as_ref(),
            ),
        },
        labels: optional(findings, &root.field("labelSelector"), spec.label_selector.as_ref()).unwrap_or_default(),
        names: spec.names.iter().map(|name| Name::new(name.as_str())).collect(),
        rules: rules(findings, &root.field("resourceRules"), &spec.resource_rules),
        watch_mode: spec.watch_mode,
        suspend: spec.suspend,
    }
}

/// Reads a selector that may be absent.
pub(super) fn optional(
    findings: &mut Findings,
    path: &FieldPath,
    selector: Option<&LabelSelector>,
) -> Option<Selector> {
    selector.map(|selector| read(findings, path, selector))
}

/// Reads a selector; where a requirement is wrong, the finding keeps the result from being used.
pub(super) fn read(findings: &mut Findings, path: &FieldPath, selector: &LabelSelector) -> Selector {
    for (key, value) in &selector.match_labels {
        for problem in [key_problem(key), value_problem(value)].into_iter().flatten() {
            findings.add(path.field("matchLabels"), problem);
        }
    }
    let mut read: Selector =
        selector.match_labels.iter().map(|(key, value)| Expression::Equal(key.clone(), value.clone())).collect();
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let element = path.field("matchExpressions").index(index);
        let key = requirement.key.clone();
        if key.trim().is_empty() {
            findings.add(element.field("key"), "is blank; name a label");
        } else if let Some(problem) = key_problem(&key) {
            findings.add(element.field("key"), problem);
        }
        for problem in requirement.values.iter().filter_map(|value| value_problem(value)) {
            findings.add(element.field("values"), problem);
        }
        let values: BTreeSet<String> = requirement.values.iter().cloned().collect();
        let wants_values = match requirement.operator.as_str() {
            "In" | "NotIn" => true,
            "Exists" | "DoesNotExist" => false,
            other => {
                findings.add(
                    element.field("operator"),
                    format!("{other:?} is unknown; write In, NotIn, Exists or DoesNotExist"),
                );
                continue;
            }
        };
        if wants_values && values.is_empty() {
            let message = format!("is empty; {} compares with at least one value", requirement.operator);
            findings.add(element.field("values"), message);
        } else if !wants_values && !values.is_empty() {
            let message = format!("is not empty; {} takes no values, remove them", requirement.operator);
            findings.add(element.field("values"), message);
        }
        read.extend([match requirement.operator.as_str() {
            "In" => Expression::In(key, values),
            "NotIn" => Expression::NotIn(key, values),
            "Exists" => Expression::Exists(key),
            _ => Expression::DoesNotExist(key),
        }]);
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value) -> Result<ValidatedTarget, String> {
        let spec: KollectTargetSpec = serde_json::from_value(spec).unwrap();
        target(&spec).map_err(|errors| errors.to_string())
    }

    fn selects(target: &ValidatedTarget, namespace: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        target.namespaces().matches(&Namespace::new(namespace), &labels)
    }

    #[test]
    fn without_filters_every_namespace_and_object_is_asked_for() {
        let target = check(json!({"profileRef": "p"})).unwrap();
        assert!(selects(&target, "any", &[]));
        assert!(target.labels().selects_all() && target.names().is_empty() && !target.is_suspended());
        assert_eq!(target.watch_mode(), WatchMode::All);
    }

    #[test]
    fn included_excluded_and_selectors_all_have_to_agree() {
        let target = check(json!({
            "profileRef": "p",
            "includedNamespaces": ["a", "b", "c"],
            "excludedNamespaces": ["b"],
            "namespaceSelector": {"matchLabels": {"team": "x"}},
            "namespaceExcludeSelector": {"matchExpressions": [{"key": "frozen", "operator": "Exists"}]},
        }))
        .unwrap();
        assert!(selects(&target, "a", &[("team", "x")]));
        assert!(!selects(&target, "a", &[]));
        assert!(!selects(&target, "a", &[("team", "x"), ("frozen", "")]));
        assert!(!selects(&target, "b", &[("team", "x")]));
        assert!(!selects(&target, "d", &[("team", "x")]));
    }

    #[test]
    fn an_empty_exclude_selector_leaves_everything_out() {
        let target = check(json!({"profileRef": "p", "namespaceExcludeSelector": {}})).unwrap();
        assert!(!selects(&target, "a", &[]));
    }

    #[test]
    fn defaults_of_the_operator_fill_the_included_and_add_to_the_excluded() {
        let defaults = |names: &[&str]| names.iter().map(|name| Namespace::new(*name)).collect::<BTreeSet<_>>();
        let named = check(json!({"profileRef": "p", "includedNamespaces": ["a", "b"]})).unwrap();
        let filter = named.namespaces().clone().with_defaults(&defaults(&["c"]), &defaults(&["b"]));
        let asked = |name: &str| filter.matches(&Namespace::new(name), &BTreeMap::new());
        assert_eq!([asked("a"), asked("b"), asked("c")], [true, false, false]);

        let open = check(json!({"profileRef": "p"})).unwrap();
        let filter = open.namespaces().clone().with_defaults(&defaults(&["c"]), &defaults(&[]));
        assert!(filter.matches(&Namespace::new("c"), &BTreeMap::new()));
        assert!(!filter.matches(&Namespace::new("a"), &BTreeMap::new()));
    }

    #[test]
    fn the_namespaces_of_the_examples_come_out() {
        let cluster = [("a", "prod"), ("b", "prod"), ("c", "dev"), ("kube-system", "")];
        let system = BTreeSet::from([Namespace::new("kube-system")]);
        let none = BTreeSet::new();
        let prod = json!({"matchLabels": {"env": "prod"}});
        let cases = [
            (json!({}), &none, vec!["a", "b", "c", "kube-system"]),
            (json!({"namespaceSelector": {}}), &none, vec!["a", "b", "c", "kube-system"]),
            (json!({"namespaceSelector": prod, "includedNamespaces": ["a", "c", "ghost"]}), &none, vec!["a"]),
            (json!({"excludedNamespaces": ["b"]}), &system, vec!["a", "c"]),
            (json!({"includedNamespaces": ["kube-system", "a"]}), &system, vec!["a"]),
            (json!({"namespaceExcludeSelector": prod}), &none, vec!["c", "kube-system"]),
            (json!({"namespaceExcludeSelector": {}}), &none, vec![]),
            (json!({"namespaceSelector": prod, "namespaceExcludeSelector": prod}), &none, vec![]),
        ];
        for (mut spec, excluded, want) in cases {
            spec["profileRef"] = json!("p");
            let filter = check(spec.clone()).unwrap().namespaces().clone().with_defaults(&BTreeSet::new(), excluded);
            let matching = cluster.iter().filter(|(name, env)| {
                let env = (!env.is_empty()).then(|| ("env".to_owned(), (*env).to_owned()));
                filter.matches(&Namespace::new(*name), &env.into_iter().collect())
            });
            assert_eq!(matching.map(|(name, _)| *name).collect::<Vec<_>>(), want, "{spec}");
        }
    }

    #[test]
    fn a_selector_that_cannot_be_read_refuses_the_target() {
        let message = check(json!({
            "profileRef": "a/b",
            "labelSelector": {"matchExpressions": [
                {"key": "a", "operator": "in", "values": ["x"]},
                {"key": "b", "operator": "In"},
                {"key": " ", "operator": "Exists", "values": ["x"]},
            ]},
            "excludedNamespaces": ["", "x", "x"],
            "namespaceSelector": {"matchLabels": {"team": "a b"}},
            "namespaceExcludeSelector": {"matchExpressions": [{"key": "a/b/c", "operator": "NotIn", "values": ["-"]}]},
        }))
        .unwrap_err();
        for expected in [
            "spec.profileRef: \"a/b\" has a slash;",
            "spec.excludedNamespaces[0]: is blank;",
            "spec.excludedNamespaces[2]: \"x\" is there twice;",
            "spec.labelSelector.matchExpressions[0].operator: \"in\" is unknown; write In, NotIn, Exists or DoesNotExist",
            "spec.labelSelector.matchExpressions[1].values: is empty; In compares with at least one value",
            "spec.labelSelector.matchExpressions[2].key: is blank;",
            "spec.labelSelector.matchExpressions[2].values: is not empty; Exists takes no values, remove them",
            "spec.namespaceSelector.matchLabels: \"a b\" cannot be the value of a label;",
            "spec.namespaceExcludeSelector.matchExpressions[0].key: \"a/b/c\" cannot be the key of a label;",
            "spec.namespaceExcludeSelector.matchExpressions[0].values: \"-\" cannot be the value of a label;",
        ] {
            assert!(message.contains(expected), "{expected}\nis not in\n{message}");
        }
    }

    #[test]
    fn a_selector_prints_as_the_api_server_reads_it() {
        let target = check(json!({
            "profileRef": "p",
            "labelSelector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x", "y"]}],
            },
        }))
        .unwrap();
        assert_eq!(target.labels().to_string(), "app=web,tier notin (x,y)");
    }
}
