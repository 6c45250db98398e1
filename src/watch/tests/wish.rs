//! What users say: namespaces, targets, profiles and scopes, and what that comes to in rows.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::v1alpha1::{KollectClusterTargetSpec, KollectTargetSpec, LabelSelector, ObjectRef, WatchMode};
use crate::expr::Shape;
use crate::extract::{Attribute, Extractor};
use crate::validate::scope::{self, Ceiling, ClusterCeiling};
use cluster::Thing;

pub(super) const NAMESPACES: [&str; 4] = ["a", "b", "c", "d"];
/// Where the targets are; no object is there.
pub(super) const TEAM: &str = "team";

/// What a namespace says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) team: u8,
    pub(super) consent: Consent,
}

impl Facts {
    pub(super) fn labels(self) -> BTreeMap<String, String> {
        BTreeMap::from([("team".to_owned(), self.team.to_string())])
    }
}

/// What a profile reads of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edition {
    Value,
    Twice,
}

/// What a target wants, as its user would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) included: Vec<usize>,
    pub(super) excluded: Option<usize>,
    pub(super) team: Option<u8>,
    pub(super) app: Option<u8>,
    pub(super) name: Option<u8>,
    pub(super) mode: WatchMode,
    /// Which of two profiles.
    pub(super) profile: usize,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            included: Vec::new(),
            excluded: None,
            team: None,
            app: None,
            name: None,
            mode: WatchMode::All,
            profile: 0,
        }
    }
}

/// What a scope allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    allowed: Vec<usize>,
    denied: Option<usize>,
    /// Whether its kinds, which are never all, have that of the objects.
    kind: bool,
    /// Whether those that it allows have the namespace of the targets.
    home: bool,
}

pub(super) fn wish() -> impl Strategy<Value = Wish> {
    let namespaces = prop::collection::vec(0..NAMESPACES.len(), 0..3);
    let (excluded, team) = (prop::option::weighted(0.3, 0..NAMESPACES.len()), prop::option::weighted(0.4, 0..2u8));
    let (app, name) = (prop::option::weighted(0.3, 0..2u8), prop::option::weighted(0.2, 0..5u8));
    let mode = prop_oneof![3 => Just(WatchMode::All), 1 => Just(WatchMode::OptIn)];
    (namespaces, excluded, team, app, name, mode, 0..2usize).prop_map(
        |(mut included, excluded, team, app, name, mode, profile)| {
            included.sort_unstable();
            included.dedup();
            Wish { included, excluded, team, app, name, mode, profile }
        },
    )
}

/// A cluster target has no labels, names and mode of its own.
pub(super) fn cluster_wish() -> impl Strategy<Value = Wish> {
    wish().prop_map(|wish| Wish { app: None, name: None, mode: WatchMode::All, ..wish })
}

pub(super) fn facts() -> impl Strategy<Value = Facts> {
    let consent = prop_oneof![4 => Just(Consent::Unset), 1 => Just(Consent::Enabled), 1 => Just(Consent::Disabled)];
    (0..2u8, consent).prop_map(|(team, consent)| Facts { team, consent })
}

pub(super) fn limit() -> impl Strategy<Value = Limit> {
    let allowed = prop::collection::btree_set(0..NAMESPACES.len(), 0..4);
    let denied = prop::option::weighted(0.3, 0..NAMESPACES.len());
    (allowed, denied, prop::bool::weighted(0.8), any::<bool>()).prop_map(|(allowed, denied, kind, home)| Limit {
        allowed: allowed.into_iter().collect(),
        denied,
        kind,
        home,
    })
}

impl Wish {
    /// Tells whether its filters of namespaces let one pass.
    fn reaches(&self, namespace: &str, facts: Facts) -> bool {
        let at = |index: &usize| NAMESPACES[*index] == namespace;
        (self.included.is_empty() || self.included.iter().any(at))
            && !self.excluded.iter().any(at)
            && self.team.is_none_or(|team| team == facts.team)
    }

    pub(super) fn wants(&self, namespace: &str, facts: Facts, name: &str, thing: &Thing) -> bool {
        let labelled = self.app.is_none_or(|app| thing.labels.get("app") == Some(&app.to_string()));
        let named = self.name.is_none_or(|wanted| format!("n{wanted}") == name);
        let consents = match (thing.labels.get(WATCH_LABEL).map(String::as_str), facts.consent, self.mode) {
            (Some(word), _, _) => word == "enabled",
            (None, Consent::Disabled, _) | (None, Consent::Unset, WatchMode::OptIn) => false,
            (None, Consent::Enabled, _) | (None, Consent::Unset, WatchMode::All) => true,
        };
        self.reaches(namespace, facts) && labelled && named && consents
    }

    /// Tells whether the scope of its namespace lets a target be.
    pub(super) fn is_within(&self, limit: Option<&Limit>, namespaces: &BTreeMap<Namespace, Facts>) -> bool {
        let Some(limit) = limit else { return true };
        let reached = namespaces.iter().filter(|(namespace, facts)| self.reaches(namespace.as_str(), **facts));
        let reached: BTreeSet<&str> = reached.map(|(namespace, _)| namespace.as_str()).collect();
        let named = self.included.iter().map(|index| NAMESPACES[*index]);
        // Who reaches nothing asks for where it is.
        let home = reached.is_empty().then_some(TEAM);
        limit.kind && named.chain(home).chain(reached).all(|namespace| limit.has(namespace))
    }

    pub(super) fn spec(&self) -> KollectTargetSpec {
        let intent = self.cluster_spec().intent();
        let app = self.app.map(|app| BTreeMap::from([("app".to_owned(), app.to_string())]));
        KollectTargetSpec {
            namespace_selector: self.team.map(|_| intent.namespace_selector.clone().unwrap()),
            label_selector: app.map(|match_labels| LabelSelector { match_labels, ..LabelSelector::default() }),
            names: self.name.iter().map(|name| format!("n{name}")).collect(),
            watch_mode: self.mode,
            ..intent
        }
    }

    pub(super) fn cluster_spec(&self) -> KollectClusterTargetSpec {
        // It has to select by something, which all namespaces here have.
        let selector = match self.team {
            Some(team) => json!({"matchLabels": {"team": team.to_string()}}),
            None => json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}),
        };
        let names = |places: &[usize]| places.iter().map(|index| NAMESPACES[*index].to_owned()).collect();
        KollectClusterTargetSpec {
            profile_ref: ObjectRef { name: "things".to_owned(), namespace: TEAM.to_owned() },
            namespace_selector: serde_json::from_value(selector).unwrap(),
            included_namespaces: names(&self.included),
            excluded_namespaces: names(self.excluded.as_slice()),
            namespace_exclude_selector: None,
            resource_rules: Vec::new(),
            suspend: false,
        }
    }

    pub(super) fn compile(&self, edition: Edition) -> Program {
        let (name, path) = match edition {
            Edition::Value => ("value", "$.value"),
            Edition::Twice => ("twice", "$.twice"),
        };
        let attribute = Attribute { name: name.into(), path: path.into(), shape: Shape::Any, optional: false };
        let extractor = Extractor::compile(&[attribute], &[]).unwrap();
        let target = validate::target(&self.spec()).unwrap();
        let choice = Choice::Plain { names: target.names().clone(), labels: target.labels().clone() };
        Program::new(Filter { choice, mode: target.watch_mode() }, extractor)
    }

    /// What a program is made from; namespaces are no part of it.
    pub(super) fn origin(&self, edition: Edition) -> (Option<u8>, Option<u8>, WatchMode, Edition) {
        (self.app, self.name, self.mode, edition)
    }
}

impl Limit {
    /// Tells whether a namespace may be collected from.
    pub(super) fn has(&self, namespace: &str) -> bool {
        let at = |index: &usize| NAMESPACES[*index] == namespace;
        !self.denied.iter().any(at)
            && ((self.allowed.is_empty() && !self.home)
                || self.allowed.iter().any(at)
                || (self.home && namespace == TEAM))
    }

    /// Tells whether the kind of the objects may be collected.
    pub(super) fn has_kind(&self) -> bool {
        self.kind
    }

    fn spec(&self) -> serde_json::Value {
        let mut allowed: Vec<&str> = self.allowed.iter().map(|index| NAMESPACES[*index]).collect();
        allowed.extend(self.home.then_some(TEAM));
        let denied: Vec<&str> = self.denied.iter().map(|index| NAMESPACES[*index]).collect();
        let kind = if self.kind { "thing" } else { "Other" };
        json!({
            "allowedGVKs": [{"version": "v1", "kind": kind}], "allowedNamespaces": allowed, "deniedNamespaces": denied,
        })
    }

    pub(super) fn ceiling(&self) -> Ceiling {
        let key = ObjectKey::new(Namespace::new(TEAM), Name::new("limits"));
        scope::scope(&key, &serde_json::from_value(self.spec()).unwrap()).unwrap()
    }

    pub(super) fn cluster_ceiling(&self) -> ClusterCeiling {
        let key = ObjectKey::new(Namespace::new(""), Name::new("limits"));
        scope::cluster_scope(&key, &serde_json::from_value(self.spec()).unwrap()).unwrap()
    }
}
