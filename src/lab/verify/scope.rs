//! What a `KollectScope` leaves of the targets in its namespace: a target that it refuses has no rows.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kube::core::GroupVersionKind;

use crate::api::v1alpha1::{KollectScope, ScopeLimits};

/// What of a target a scope decides on.
pub(super) struct Asked<'a> {
    pub(super) namespace: &'a str,
    pub(super) kind: &'a GroupVersionKind,
    /// The namespaces that it names.
    pub(super) named: &'a [String],
    /// Those that it would collect from; none for a kind that lives in none.
    pub(super) matched: &'a BTreeSet<String>,
}

/// Tells whether the scope of its namespace lets a target collect. Of several the first by name holds.
pub(super) fn allows(scopes: &[KollectScope], asked: &Asked<'_>) -> bool {
    let here = scopes.iter().filter(|scope| scope.namespace().as_deref() == Some(asked.namespace));
    here.min_by_key(|scope| scope.name_any()).is_none_or(|scope| within(&scope.spec.limits, asked))
}

fn within(limits: &ScopeLimits, asked: &Asked<'_>) -> bool {
    let kind = asked.kind;
    let kinds = &limits.allowed_gvks;
    let listed = kinds.iter().any(|allowed| {
        allowed.group.eq_ignore_ascii_case(&kind.group)
            && allowed.version.eq_ignore_ascii_case(&kind.version)
            && allowed.kind.eq_ignore_ascii_case(&kind.kind)
    });
    let permits = |namespace: &str| {
        let within = |list: &[String]| list.iter().any(|listed| listed == namespace);
        !within(&limits.denied_namespaces)
            && (limits.allowed_namespaces.is_empty() || within(&limits.allowed_namespaces))
    };
    let mut asked_for = asked.named.iter().chain(asked.matched).map(String::as_str);
    let instead = asked.matched.is_empty().then_some(asked.namespace);
    (kinds.is_empty() || listed) && asked_for.all(permits) && instead.is_none_or(permits)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn scope(name: &str, spec: &Value) -> KollectScope {
        let metadata = json!({"name": name, "namespace": "team"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn asks(scopes: &[KollectScope], kind: &str, named: &[&str], matched: &[&str]) -> bool {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (named, matched) = (texts(named), texts(matched).into_iter().collect());
        let kind = GroupVersionKind::gvk("", "v1", kind);
        allows(scopes, &Asked { namespace: "team", kind: &kind, named: &named, matched: &matched })
    }

    #[test]
    fn a_target_that_reaches_beyond_its_scope_collects_nothing() {
        let none = [scope("limits", &json!({}))];
        assert!(asks(&[], "Pod", &[], &["a"]) && asks(&none, "Pod", &[], &["a"]));
        let kinds = [scope("limits", &json!({"allowedGVKs": [{"version": "v1", "kind": "pod"}]}))];
        assert!(asks(&kinds, "Pod", &[], &["a"]) && !asks(&kinds, "Service", &[], &["a"]));
        let places = [scope("limits", &json!({"allowedNamespaces": ["a", "b"], "deniedNamespaces": ["b"]}))];
        for (named, matched, allowed) in [
            (&[][..], &["a"][..], true),
            (&[], &["a", "b"], false),
            (&[], &["c"], false),
            (&["a", "c"], &["a"], false),
            // Where nothing is matched, its own namespace stands for it.
            (&[], &[], false),
        ] {
            assert_eq!(asks(&places, "Pod", named, matched), allowed, "{named:?} {matched:?}");
        }
    }

    #[test]
    fn the_first_scope_by_name_holds_and_those_of_other_namespaces_do_not() {
        let (open, shut) = (json!({}), json!({"deniedNamespaces": ["a"]}));
        let two = [scope("b", &shut), scope("a", &open)];
        assert!(asks(&two, "Pod", &[], &["a"]));
        let mut elsewhere = scope("a", &shut);
        elsewhere.metadata.namespace = Some("other".to_owned());
        assert!(asks(&[elsewhere], "Pod", &[], &["a"]));
    }
}
