//! `KollectScope` and `KollectClusterScope`: what the targets and inventories under a scope may do.
//!
//! Of several scopes the one whose name sorts first holds ([`first`]); without one nothing is limited, which is what
//! the default of a [`Ceiling`] says. A scope that cannot be read limits everything ([`Denial::unreadable`]): nobody
//! gains rights by a mistake in it. All of this is pure, so that controllers and admission give the same answers in the
//! same words. Each refusal names the field, the scope and the fix.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::{FieldError, FieldErrors, FieldPath, Findings};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{
    Duration as Written, Kind, KollectClusterScopeSpec, KollectScopeSpec, ResourceRule, ScopeLimits,
};
use crate::model::{Family, Gvk, Name, Namespace, ObjectKey};

/// So many namespaces are spelled out in a message.
const NAMED: usize = 5;

/// Returns the scope that holds: the one whose name sorts first, bytewise.
pub fn first<'a, T>(scopes: impl IntoIterator<Item = (&'a ObjectKey, T)>) -> Option<(&'a ObjectKey, T)> {
    scopes.into_iter().min_by(|(one, _), (other, _)| one.name.cmp(&other.name))
}

/// Why a scope does not let something be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denial {
    /// The reason of the condition.
    pub reason: &'static str,
    /// The field, what the scope says of it, and what to do.
    pub message: String,
}

impl Denial {
    /// Denies everything below a scope that cannot be read.
    pub fn unreadable(kind: Kind, scope: &ObjectKey, error: impl fmt::Display) -> Self {
        let message = format!("{} cannot be read, so that nothing below it is allowed: {error}", in_words(kind, scope));
        Self { reason: reasons::SCOPE_LOOKUP_FAILED, message }
    }
}

/// What cluster kinds refer to in a namespace that they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaticRef {
    /// A profile.
    Profile,
    /// A sink.
    Sink,
}

/// The limits of one namespace, or those of the cluster; by default there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ceiling(Option<Limits>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Limits {
    scope: String,
    kinds: Vec<Gvk>,
    allowed: BTreeSet<Namespace>,
    denied: BTreeSet<Namespace>,
    sinks: BTreeMap<Family, BTreeSet<Name>>,
    floor: Duration,
}

/// An interval that a scope raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// The interval that holds.
    pub interval: Duration,
    /// Why it holds, for a status: `raised from 30s to 1m0s, spec.minExportInterval of …`.
    pub why: String,
}

impl Ceiling {
    /// Lets a target collect these kinds: those of its rules, or that of its profile when it has no rules. A profile that
    /// is not known yet is not judged.
    ///
    /// # Errors
    /// The first kind that is not allowed: `ScopeGVKDenied`.
    pub fn allows_kinds(&self, rules: &[ResourceRule], profile: Option<&Gvk>) -> Result<(), Denial> {
        let root = FieldPath::spec();
        if rules.is_empty() {
            return profile.map_or(Ok(()), |kind| self.allows_kind(&root.field("profileRef"), kind));
        }
        let path = root.field("resourceRules");
        for (index, rule) in rules.iter().enumerate() {
            self.allows_kind(&path.index(index).field("gvk"), &Gvk::from(&rule.gvk))?;
        }
        Ok(())
    }

    /// Lets a kind be collected. Letters count the same in upper and lower case.
    ///
    /// # Errors
    /// `ScopeGVKDenied`.
    pub fn allows_kind(&self, path: &FieldPath, kind: &Gvk) -> Result<(), Denial> {
        let Some(limits) = &self.0 else { return Ok(()) };
        if limits.kinds.is_empty() || limits.kinds.iter().any(|allowed| same_kind(allowed, kind)) {
            return Ok(());
        }
        let Gvk { group, version, kind } = kind;
        let message = format!(
            "{path}: {{group: {group:?}, version: {version}, kind: {kind}}} is not allowed by {}: its spec.allowedGVKs \
             does not list it; collect a kind that it lists, or add this one there",
            limits.scope
        );
        Err(Denial { reason: reasons::SCOPE_GVK_DENIED, message })
    }

    /// Lets every one of these namespaces be collected from; one that is not allowed refuses all.
    ///
    /// # Errors
    /// `ScopeNamespaceDenied`, with all of them.
    pub fn allows_namespaces<'a>(
        &self,
        path: &FieldPath,
        namespaces: impl IntoIterator<Item = &'a Namespace>,
    ) -> Result<(), Denial> {
        let Some(limits) = &self.0 else { return Ok(()) };
        let outside = namespaces.into_iter().filter(|namespace| !self.permits(namespace));
        let (denied, unlisted): (Vec<_>, Vec<_>) = outside.partition(|namespace| limits.denied.contains(*namespace));
        let named = [(denied, "in its spec.deniedNamespaces"), (unlisted, "not in its spec.allowedNamespaces")];
        let parts: Vec<String> = named
            .iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, where_)| format!("{} ({where_})", few(names)))
            .collect();
        if parts.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{path}: not allowed by {}: {}; leave such namespaces out, for example by spec.excludedNamespaces, or change \
             the scope",
            limits.scope,
            parts.join(", ")
        );
        Err(Denial { reason: reasons::SCOPE_NAMESPACE_DENIED, message })
    }

    /// Lets a target collect from where it asks to: from the namespaces that it names, whether they are there or not, or
    /// from those that it reaches without naming any. One that reaches none, as that of a cluster-scoped kind, is taken to
    /// ask for its own.
    ///
    /// # Errors
    /// As [`Ceiling::allows_namespaces`].
    pub fn allows_reach<'a>(
        &self,
        own: &Namespace,
        named: &[String],
        matched: impl IntoIterator<Item = &'a Namespace>,
    ) -> Result<(), Denial> {
        let root = FieldPath::spec();
        let named: Vec<Namespace> = named.iter().map(|name| Namespace::new(name.as_str())).collect();
        self.allows_namespaces(&root.field("includedNamespaces"), &named)?;
        let mut matched = matched.into_iter().peekable();
        if matched.peek().is_none() {
            self.allows_namespaces(&root, [own])
        } else if named.is_empty() {
            self.allows_namespaces(&root.field("namespaceSelector"), matched)
        } else {
            Ok(())
        }
    }

    /// Tells whether a namespace may be collected from.
    pub fn permits(&self, namespace: &Namespace) -> bool {
        self.0.as_ref().is_none_or(|limits| {
            !limits.denied.contains(namespace) && (limits.allowed.is_empty() || limits.allowed.contains(namespace))
        })
    }

    /// Takes the namespaces away that may not be collected from.
    #[must_use]
    pub fn narrow<V: Clone>(&self, namespaces: &BTreeMap<Namespace, V>) -> BTreeMap<Namespace, V> {
        let within = namespaces.iter().filter(|(namespace, _)| self.permits(namespace));
        within.map(|(namespace, value)| (namespace.clone(), value.clone())).collect()
    }

    /// Lets a sink be used.
    ///
    /// # Errors
    /// `ScopeSinkDenied`.
    pub fn allows_sink(&self, path: &FieldPath, family: Family, name: &Name) -> Result<(), Denial> {
        let Some(limits) = &self.0 else { return Ok(()) };
        let listed = limits.sinks.get(&family);
        if listed.is_none_or(|listed| listed.is_empty() || listed.contains(name)) {
            return Ok(());
        }
        let message = format!(
            "{path}: {} {name:?} is not allowed by {}: its spec.{}SinkRefs does not list it; name a sink that it lists, or \
             add this one there",
            Kind::of_family(family).as_str(),
            limits.scope,
            family.as_str()
        );
        Err(Denial { reason: reasons::SCOPE_SINK_DENIED, message })
    }

    /// Raises an interval that is below the floor; no minimum (`0s`) is below any floor.
    pub fn raise(&self, asked: Duration) -> Option<Raised> {
        let limits = self.0.as_ref().filter(|limits| asked < limits.floor)?;
        let (from, to) = (Written::from(asked), Written::from(limits.floor));
        let why = format!("raised from {from} to {to}, spec.minExportInterval of {}", limits.scope);
        Some(Raised { interval: limits.floor, why })
    }

    /// Lets an interval be written in a manifest.
    ///
    /// # Errors
    /// What is below the floor.
    pub fn allows_interval(&self, path: FieldPath, asked: Duration) -> Result<(), FieldError> {
        let Some(limits) = self.0.as_ref().filter(|limits| asked < limits.floor) else { return Ok(()) };
        let (from, to) = (Written::from(asked), Written::from(limits.floor));
        let message = format!("{from} is below {to}, spec.minExportInterval of {}; write {to} or more", limits.scope);
        Err(FieldError { path, message })
    }
}

/// The limits of the cluster; by default there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterCeiling {
    limits: Ceiling,
    static_refs: BTreeSet<Namespace>,
}

impl ClusterCeiling {
    /// Returns what a cluster scope has in common with that of a namespace; it has no floor.
    pub fn limits(&self) -> &Ceiling {
        &self.limits
    }

    /// Lets a cluster kind name a profile or a sink of a namespace.
    ///
    /// # Errors
    /// `ScopeNamespaceDenied` for a profile, `SinkNamespaceDenied` for a sink.
    pub fn allows_static_ref(&self, path: &FieldPath, what: StaticRef, namespace: &Namespace) -> Result<(), Denial> {
        let Some(limits) = &self.limits.0 else { return Ok(()) };
        if self.static_refs.is_empty() || self.static_refs.contains(namespace) {
            return Ok(());
        }
        let (reason, what) = match what {
            StaticRef::Profile => (reasons::SCOPE_NAMESPACE_DENIED, "a profile"),
            StaticRef::Sink => (reasons::SINK_NAMESPACE_DENIED, "a sink"),
        };
        let message = format!(
            "{path}: namespace {namespace:?} is not allowed by {}: its spec.allowedStaticRefNamespaces does not list it; \
             name {what} of a namespace that it lists, or add this one there",
            limits.scope
        );
        Err(Denial { reason, message })
    }
}

/// Checks the scope of a namespace.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn scope(key: &ObjectKey, spec: &KollectScopeSpec) -> Result<Ceiling, FieldErrors> {
    let mut findings = Findings::default();
    let limits = read(&mut findings, in_words(Kind::Scope, key), &spec.limits);
    findings.give(Ceiling(Some(limits)))
}

/// Checks a cluster scope.
///
/// # Errors
/// Terminal, with everything that is wrong.
pub fn cluster_scope(key: &ObjectKey, spec: &KollectClusterScopeSpec) -> Result<ClusterCeiling, FieldErrors> {
    let mut findings = Findings::default();
    let mut limits = read(&mut findings, in_words(Kind::ClusterScope, key), &spec.limits);
    // In range like any other, and without effect: inventories have the floor of their namespace.
    limits.floor = Duration::ZERO;
    let static_refs = names(&mut findings, "allowedStaticRefNamespaces", &spec.allowed_static_ref_namespaces);
    findings
        .give(ClusterCeiling { limits: Ceiling(Some(limits)), static_refs: static_refs.map(Namespace::new).collect() })
}

fn read(findings: &mut Findings, scope: String, limits: &ScopeLimits) -> Limits {
    let root = FieldPath::spec();
    let kinds = root.field("allowedGVKs");
    for (index, gvk) in limits.allowed_gvks.iter().enumerate() {
        for (field, text) in [("version", &gvk.version), ("kind", &gvk.kind)] {
            if text.trim().is_empty() {
                let path = kinds.index(index).field(field);
                findings.add(path, "is blank; write group, version and kind as in the objects to allow");
            }
        }
    }
    if let Some(floor) = limits.min_export_interval {
        findings.interval(root.field("minExportInterval"), floor);
    }
    let mut sinks = BTreeMap::new();
    for (family, list) in [
        (Family::Snapshot, &limits.snapshot_sink_refs),
        (Family::Database, &limits.database_sink_refs),
        (Family::Event, &limits.event_sink_refs),
    ] {
        let field = format!("{}SinkRefs", family.as_str());
        sinks.insert(family, names(findings, &field, list).map(Name::new).collect());
    }
    Limits {
        scope,
        kinds: limits.allowed_gvks.iter().map(Gvk::from).collect(),
        allowed: namespaces(findings, "allowedNamespaces", &limits.allowed_namespaces),
        denied: namespaces(findings, "deniedNamespaces", &limits.denied_namespaces),
        sinks,
        floor: limits.min_export_interval.map(Written::get).unwrap_or_default(),
    }
}

/// Reads a list of names: none blank, none twice.
fn names<'a>(findings: &mut Findings, field: &str, list: &'a [String]) -> impl Iterator<Item = &'a str> + use<'a> {
    let path = FieldPath::spec().field(field);
    for (index, _) in list.iter().enumerate().filter(|(_, name)| name.trim().is_empty()) {
        findings.add(path.index(index), "is blank; write a name or remove the entry");
    }
    findings.unique(&path, None, list.iter().map(String::as_str));
    list.iter().map(String::as_str)
}

/// Reads a list of namespaces. One that cannot be a namespace, such as a pattern, would deny nothing without a word.
fn namespaces(findings: &mut Findings, field: &str, list: &[String]) -> BTreeSet<Namespace> {
    let path = FieldPath::spec().field(field);
    for (index, name) in list.iter().enumerate().filter(|(_, name)| !name.trim().is_empty() && !is_namespace(name)) {
        let message = format!("{name:?} cannot be a namespace; name each one, patterns are not understood");
        findings.add(path.index(index), message);
    }
    names(findings, field, list).map(Namespace::new).collect()
}

/// Tells whether a name has only the letters that the API server allows in the name of a namespace.
fn is_namespace(name: &str) -> bool {
    let ends = name.starts_with('-') || name.ends_with('-');
    !ends && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn in_words(kind: Kind, scope: &ObjectKey) -> String {
    let (kind, name) = (kind.as_str(), &scope.name);
    if scope.namespace.is_empty() {
        format!("{kind} {name:?}")
    } else {
        format!("{kind} {name:?} in namespace {:?}", scope.namespace)
    }
}

fn same_kind(one: &Gvk, other: &Gvk) -> bool {
    one.group.eq_ignore_ascii_case(&other.group)
        && one.version.eq_ignore_ascii_case(&other.version)
        && one.kind.eq_ignore_ascii_case(&other.kind)
}

/// Names the first few and counts the rest.
fn few(all: &[&Namespace]) -> String {
    let named: Vec<&str> = all.iter().take(NAMED).map(|name| name.as_str()).collect();
    let more = match all.len().saturating_sub(NAMED) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn key(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::new(Namespace::new(namespace), Name::new(name))
    }

    fn ceiling(spec: Value) -> Ceiling {
        scope(&key("team-a", "limits"), &serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn cluster(spec: Value) -> ClusterCeiling {
        cluster_scope(&key("", "limits"), &serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn gvk(group: &str, version: &str, kind: &str) -> Gvk {
        Gvk { group: group.into(), version: version.into(), kind: kind.into() }
    }

    fn path(field: &str) -> FieldPath {
        FieldPath::spec().field(field)
    }

    fn namespaces(names: &[&str]) -> Vec<Namespace> {
        names.iter().map(|name| Namespace::new(*name)).collect()
    }

    #[test]
    fn of_several_scopes_the_first_by_name_holds() {
        let (b, a, z) = (key("n", "b"), key("n", "a"), key("n", "Z"));
        assert_eq!(first([(&b, 1), (&a, 2)]), Some((&a, 2)));
        assert_eq!(first([(&b, 1), (&a, 2), (&z, 3)]), Some((&z, 3)), "bytewise");
        assert_eq!(first::<u8>([]), None);
    }

    #[test]
    fn without_a_scope_and_with_an_empty_one_everything_is_allowed() {
        for ceiling in [Ceiling::default(), ceiling(json!({})), cluster(json!({})).limits().clone()] {
            assert_eq!(ceiling.allows_kinds(&[], Some(&gvk("apps", "v1", "Deployment"))), Ok(()));
            assert_eq!(ceiling.allows_namespaces(&path("x"), &namespaces(&["kube-system"])), Ok(()));
            assert_eq!(ceiling.allows_sink(&path("x"), Family::Database, &Name::new("pg")), Ok(()));
            assert_eq!(ceiling.raise(Duration::ZERO), None);
        }
        let there = Namespace::new("any");
        for cluster in [ClusterCeiling::default(), cluster(json!({}))] {
            assert_eq!(cluster.allows_static_ref(&path("x"), StaticRef::Profile, &there), Ok(()));
        }
    }

    #[test]
    fn kinds_are_compared_in_all_three_parts_without_regard_to_case() {
        let ceiling = ceiling(json!({"allowedGVKs": [
            {"group": "Apps", "version": "V1", "kind": "deployment"}, {"version": "v1", "kind": "Pod"},
        ]}));
        let allowed = |kind: Gvk| ceiling.allows_kinds(&[], Some(&kind)).is_ok();
        assert!(allowed(gvk("apps", "v1", "Deployment")) && allowed(gvk("", "v1", "Pod")));
        assert!(!allowed(gvk("apps", "v1beta1", "Deployment")));
        assert!(!allowed(gvk("extensions", "v1", "Deployment")));
        assert!(!allowed(gvk("apps", "v1", "StatefulSet")));
        let denial = ceiling.allows_kinds(&[], Some(&gvk("", "v1", "Secret"))).unwrap_err();
        assert_eq!(denial.reason, "ScopeGVKDenied");
        assert_eq!(
            denial.message,
            "spec.profileRef: {group: \"\", version: v1, kind: Secret} is not allowed by KollectScope \"limits\" in \
             namespace \"team-a\": its spec.allowedGVKs does not list it; collect a kind that it lists, or add this one \
             there"
        );
    }

    #[test]
    fn the_kinds_of_a_target_are_those_of_its_rules_or_that_of_its_profile() {
        let ceiling = ceiling(json!({"allowedGVKs": [{"group": "apps", "version": "v1", "kind": "Deployment"}]}));
        let rule = |kind: &str| {
            let gvk = json!({"group": "apps", "version": "v1", "kind": kind});
            serde_json::from_value::<ResourceRule>(json!({ "gvk": gvk })).unwrap()
        };
        let secret = gvk("", "v1", "Secret");
        assert!(ceiling.allows_kinds(&[], Some(&secret)).is_err());
        assert_eq!(ceiling.allows_kinds(&[], None), Ok(()), "a profile that is not there yet");
        assert_eq!(ceiling.allows_kinds(&[rule("Deployment")], Some(&secret)), Ok(()));
        let denial = ceiling.allows_kinds(&[rule("Deployment"), rule("DaemonSet")], None).unwrap_err();
        assert!(denial.message.starts_with("spec.resourceRules[1].gvk: {group: \"apps\","), "{denial}");
    }

    #[test]
    fn one_namespace_outside_refuses_all_and_a_denied_one_wins_over_an_allowed_one() {
        let ceiling = ceiling(json!({"allowedNamespaces": ["a", "b"], "deniedNamespaces": ["b", "c"]}));
        let check = |names: &[&str]| ceiling.allows_namespaces(&path("namespaceSelector"), &namespaces(names));
        assert_eq!(check(&["a"]), Ok(()));
        assert_eq!(check(&[]), Ok(()));
        let denial = check(&["a", "b", "d1", "d2", "d3", "d4", "d5", "d6", "d7"]).unwrap_err();
        assert_eq!(denial.reason, "ScopeNamespaceDenied");
        assert_eq!(
            denial.message,
            "spec.namespaceSelector: not allowed by KollectScope \"limits\" in namespace \"team-a\": b (in its \
             spec.deniedNamespaces), d1, d2, d3, d4, d5 and 2 more (not in its spec.allowedNamespaces); leave such \
             namespaces out, for example by spec.excludedNamespaces, or change the scope"
        );
    }

    #[test]
    fn a_cluster_scope_takes_namespaces_away() {
        let of = |names: &[&str]| namespaces(names).into_iter().map(|name| (name, 1)).collect::<BTreeMap<_, _>>();
        let all = of(&["a", "b", "kube-system"]);
        let narrowed = |spec: Value| cluster(spec).limits().narrow(&all);
        assert_eq!(narrowed(json!({})), all);
        assert_eq!(narrowed(json!({"deniedNamespaces": ["kube-system"]})), of(&["a", "b"]));
        assert_eq!(narrowed(json!({"allowedNamespaces": ["a", "x"]})), of(&["a"]));
        assert_eq!(narrowed(json!({"allowedNamespaces": ["a"], "deniedNamespaces": ["a"]})), of(&[]));
    }

    #[test]
    fn the_list_of_a_family_limits_that_family_only() {
        let ceiling = ceiling(json!({"databaseSinkRefs": ["warehouse"]}));
        let check =
            |family, name: &str| ceiling.allows_sink(&path("databaseSinkRefs").index(1), family, &Name::new(name));
        assert_eq!(check(Family::Database, "warehouse"), Ok(()));
        assert_eq!(check(Family::Snapshot, "other"), Ok(()));
        let denial = check(Family::Database, "other").unwrap_err();
        assert_eq!(denial.reason, "ScopeSinkDenied");
        assert_eq!(
            denial.message,
            "spec.databaseSinkRefs[1]: KollectDatabaseSink \"other\" is not allowed by KollectScope \"limits\" in namespace \
             \"team-a\": its spec.databaseSinkRefs does not list it; name a sink that it lists, or add this one there"
        );
    }

    #[test]
    fn the_floor_raises_shorter_intervals_and_none_at_all() {
        let ceiling = ceiling(json!({"minExportInterval": "1m"}));
        let minute = Duration::from_mins(1);
        for (asked, holds) in [(0, Some(minute)), (59, Some(minute)), (60, None), (3600, None)] {
            assert_eq!(ceiling.raise(Duration::from_secs(asked)).map(|raised| raised.interval), holds, "{asked}");
        }
        let raised = ceiling.raise(Duration::from_secs(30)).unwrap();
        assert_eq!(
            raised.why,
            "raised from 30s to 1m0s, spec.minExportInterval of KollectScope \"limits\" in namespace \"team-a\""
        );
        let refused = ceiling.allows_interval(path("exportMinInterval"), Duration::ZERO).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "spec.exportMinInterval: 0s is below 1m0s, spec.minExportInterval of KollectScope \"limits\" in namespace \
             \"team-a\"; write 1m0s or more"
        );
        assert_eq!(ceiling.allows_interval(path("exportMinInterval"), minute), Ok(()));
        assert_eq!(cluster(json!({"minExportInterval": "1m"})).limits().raise(Duration::ZERO), None);
    }

    #[test]
    fn cluster_kinds_name_profiles_and_sinks_of_listed_namespaces() {
        let cluster = cluster(json!({"allowedStaticRefNamespaces": ["platform"]}));
        let check = |what, namespace: &str| {
            cluster.allows_static_ref(&path("profileRef").field("namespace"), what, &Namespace::new(namespace))
        };
        assert_eq!(check(StaticRef::Sink, "platform"), Ok(()));
        assert_eq!(check(StaticRef::Sink, "other").unwrap_err().reason, "SinkNamespaceDenied");
        let denial = check(StaticRef::Profile, "other").unwrap_err();
        assert_eq!(denial.reason, "ScopeNamespaceDenied");
        assert_eq!(
            denial.message,
            "spec.profileRef.namespace: namespace \"other\" is not allowed by KollectClusterScope \"limits\": its \
             spec.allowedStaticRefNamespaces does not list it; name a profile of a namespace that it lists, or add this \
             one there"
        );
    }

    #[test]
    fn everything_that_is_wrong_with_a_scope_is_named() {
        let spec = json!({
            "allowedGVKs": [{"version": "v1", "kind": "Pod"}, {"group": "apps", "version": "", "kind": " "}],
            "allowedNamespaces": ["a", ""],
            "deniedNamespaces": ["b", "b", "kube-*"],
            "minExportInterval": "25h",
            "eventSinkRefs": ["", "x", "x"],
            "allowedStaticRefNamespaces": [" "],
        });
        let errors = cluster_scope(&key("", "limits"), &serde_json::from_value(spec.clone()).unwrap()).unwrap_err();
        insta::assert_snapshot!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @r#"
        spec.allowedGVKs[1].version: is blank; write group, version and kind as in the objects to allow
        spec.allowedGVKs[1].kind: is blank; write group, version and kind as in the objects to allow
        spec.minExportInterval: 25h0m0s is out of range; write a duration from 0s to 24h
        spec.eventSinkRefs[0]: is blank; write a name or remove the entry
        spec.eventSinkRefs[2]: "x" is there twice; remove one of them
        spec.allowedNamespaces[1]: is blank; write a name or remove the entry
        spec.deniedNamespaces[2]: "kube-*" cannot be a namespace; name each one, patterns are not understood
        spec.deniedNamespaces[1]: "b" is there twice; remove one of them
        spec.allowedStaticRefNamespaces[0]: is blank; write a name or remove the entry
        "#);
        let errors = scope(&key("n", "limits"), &serde_json::from_value(spec).unwrap()).unwrap_err();
        assert_eq!(errors.iter().count(), 8);
    }

    #[test]
    fn a_scope_that_cannot_be_read_is_named() {
        let denial = Denial::unreadable(Kind::Scope, &key("team-a", "limits"), "spec.minExportInterval: \"soon\"; fix");
        assert_eq!(denial.reason, "ScopeLookupFailed");
        assert_eq!(
            denial.message,
            "KollectScope \"limits\" in namespace \"team-a\" cannot be read, so that nothing below it is allowed: \
             spec.minExportInterval: \"soon\"; fix"
        );
    }
}
