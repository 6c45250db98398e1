//! `resourceRules` of targets and cluster targets.

use kube::core::Selector;

use super::target::{optional, read};
use super::{FieldPath, Findings};
use crate::api::v1alpha1::{LabelSelector, ResourceRule};
use crate::expr::{Policy, Prefixes};
use crate::model::Gvk;

/// The most rules of one target; `watch` keeps one bit for each.
const MAX_RULES: usize = 64;
/// What a condition over core Secrets may not read: its answer would tell what they hold.
const SECRET_FIELDS: [&str; 2] = ["data", "stringData"];

/// One rule whose selectors are understood and whose condition is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedRule {
    gvk: Gvk,
    namespaces: Selector,
    labels: Selector,
    policy: Option<Policy>,
}

impl ValidatedRule {
    /// The kind that the rule is about; where that is not the profile's, the rule never matches.
    pub fn gvk(&self) -> &Gvk {
        &self.gvk
    }

    /// The labels of namespaces in which the rule applies.
    pub fn namespaces(&self) -> &Selector {
        &self.namespaces
    }

    /// The labels that objects must have.
    pub fn labels(&self) -> &Selector {
        &self.labels
    }

    /// The condition that objects must meet.
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }
}

/// Checks the rules at `list`.
pub(super) fn rules(findings: &mut Findings, list: &FieldPath, rules: &[ResourceRule]) -> Vec<ValidatedRule> {
    if rules.len() > MAX_RULES {
        findings.add(list.clone(), format!("has {} rules; at most {MAX_RULES} are possible", rules.len()));
    }
    if !findings.compilable(list, rules.iter().filter_map(|rule| rule.match_policy.as_deref())) {
        return Vec::new();
    }
    let rules = rules.iter().enumerate();
    rules.map(|(index, rule)| validated(findings, &list.index(index), rule)).collect()
}

fn validated(findings: &mut Findings, path: &FieldPath, rule: &ResourceRule) -> ValidatedRule {
    let gvk = path.field("gvk");
    for (field, text) in [("version", &rule.gvk.version), ("kind", &rule.gvk.kind)] {
        if text.trim().is_empty() {
            findings.add(gvk.field(field), "is blank; write that of the profile's targetGVK");
        }
    }
    let labels =
        LabelSelector { match_labels: rule.match_labels.clone(), match_expressions: rule.match_expressions.clone() };
    ValidatedRule {
        gvk: Gvk::from(&rule.gvk),
        namespaces: optional(findings, &path.field("namespaceSelector"), rule.namespace_selector.as_ref())
            .unwrap_or_default(),
        labels: read(findings, path, &labels),
        policy: policy(findings, &path.field("matchPolicy"), rule),
    }
}

fn policy(findings: &mut Findings, path: &FieldPath, rule: &ResourceRule) -> Option<Policy> {
    let source = rule.match_policy.as_deref().filter(|source| !source.trim().is_empty())?;
    let policy = match Policy::compile(source) {
        Ok(policy) => policy,
        Err(error) => {
            findings.add(path.clone(), format!("{error} (at byte {})", error.position));
            return None;
        }
    };
    let mut prefixes = Prefixes::default();
    policy.prefixes(&mut prefixes);
    let reads = |field: &&str| prefixes.is_whole() || prefixes.get(field).is_some();
    if rule.gvk.is_core_secret() && SECRET_FIELDS.iter().any(reads) {
        let message = "reads data or stringData of Secrets, which no condition may; name the fields that it needs, such as \
                       object.type";
        findings.add(path.clone(), message);
    }
    Some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(list: serde_json::Value) -> Result<Vec<ValidatedRule>, String> {
        let list: Vec<ResourceRule> = serde_json::from_value(list).unwrap();
        let mut findings = Findings::default();
        let rules = rules(&mut findings, &FieldPath::spec().field("resourceRules"), &list);
        findings.give(rules).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_rule_is_read_with_all_its_parts() {
        let rules = check(json!([
            {"gvk": {"group": "apps", "version": "v1", "kind": "Deployment"}},
            {
                "gvk": {"version": "v1", "kind": "Pod"},
                "namespaceSelector": {"matchLabels": {"team": "a"}},
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "Exists"}],
                "matchPolicy": "object.spec.replicas > 1",
            },
            {"gvk": {"version": "v1", "kind": "Pod"}, "matchPolicy": "  "},
        ]))
        .unwrap();
        assert!(rules[0].labels().selects_all() && rules[0].namespaces().selects_all() && rules[0].policy().is_none());
        assert_eq!(rules[0].gvk().to_string(), "apps/v1/Deployment");
        assert_eq!(
            (rules[1].labels().to_string(), rules[1].namespaces().to_string()),
            ("app=web,tier".into(), "team=a".into())
        );
        assert!(rules[1].policy().is_some());
        assert!(rules[2].policy().is_none(), "a blank condition is none");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let pod = json!({"version": "v1", "kind": "Pod"});
        let secret = json!({"version": "v1", "kind": "Secret"});
        let message = check(json!([
            {"gvk": {"version": " ", "kind": ""}},
            {"gvk": pod, "matchLabels": {"a b": "x"}, "matchExpressions": [{"key": "k", "operator": "Has"}]},
            {"gvk": pod, "namespaceSelector": {"matchExpressions": [{"key": "k", "operator": "In"}]}},
            {"gvk": pod, "matchPolicy": "object.spec.replicas >"},
            {"gvk": pod, "matchPolicy": "cel:true"},
            {"gvk": pod, "matchPolicy": "object.a && nobody"},
            {"gvk": secret, "matchPolicy": "object.data.password == 'x'"},
            {"gvk": secret, "matchPolicy": "object['stringData'] != null"},
            {"gvk": secret, "matchPolicy": "size(object) > 3"},
        ]))
        .unwrap_err();
        for expected in [
            "spec.resourceRules[0].gvk.version: is blank;",
            "spec.resourceRules[0].gvk.kind: is blank;",
            "spec.resourceRules[1].matchLabels: \"a b\" cannot be the key of a label;",
            "spec.resourceRules[1].matchExpressions[0].operator: \"Has\" is unknown;",
            "spec.resourceRules[2].namespaceSelector.matchExpressions[0].values: is empty;",
            "spec.resourceRules[3].matchPolicy: ",
            "spec.resourceRules[4].matchPolicy: a condition is CEL as it is;",
            "(at byte 12)",
            "spec.resourceRules[6].matchPolicy: reads data or stringData of Secrets",
            "spec.resourceRules[7].matchPolicy: reads data or stringData of Secrets",
            "spec.resourceRules[8].matchPolicy: reads data or stringData of Secrets",
        ] {
            assert!(message.contains(expected), "{expected}\nis not in\n{message}");
        }
        let allowed = json!([{"gvk": secret, "matchPolicy": "object.type == 'helm.sh/release.v1'"}]);
        assert!(check(allowed).is_ok());
        let many: Vec<_> = (0..65).map(|_| json!({"gvk": pod})).collect();
        assert!(check(json!(many)).unwrap_err().contains("spec.resourceRules: has 65 rules; at most 64"));
    }
}
