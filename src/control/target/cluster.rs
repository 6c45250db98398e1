//! KollectClusterTarget: one registration in each namespace that it selects.
//!
//! A registration is what a KollectTarget of the same name in that namespace would be that collects from its own namespace
//! alone: its rows are part of every inventory there. All registrations of one cluster target share one program, and the
//! streams see one union of namespaces, so that two hundred of them cost one list. Each has a brake of its own, since a
//! mass deletion is one of the rows of a namespace. Where there is a KollectTarget of that name, that one wins (D9).

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::absence::Going;
use super::room::Fill;
use super::{Chosen, Refusal, Resolved, Rows, in_words, remarks, secrets, some};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{Kind, KollectClusterTargetSpec, KollectClusterTargetStatus};
use crate::control::Control;
use crate::control::overview::Seen;
use crate::control::shelf::Object;
use crate::error::Class;
use crate::model::{Gvk, Name, Namespace, ObjectKey, TargetKey};
use crate::store::{HOME, Store, TargetCounts};
use crate::validate::scope::{Ceiling, StaticRef};
use crate::validate::{self, FieldPath};
use crate::watch::{Interest, Scope};

/// What is remembered of a cluster target between two reconciles.
#[derive(Debug, Default)]
pub(in crate::control) struct State {
    /// Program, absence of profile or kind, and times; the rest of it is the registrations'.
    common: super::State,
    /// Where it collects, or where its rows have to be left alone.
    registrations: BTreeMap<Namespace, Registration>,
    /// Nothing stood in its way when it was last looked at.
    ready: Option<bool>,
}

/// A cluster target in one namespace.
#[derive(Debug, Default)]
struct Registration {
    interest: Option<Interest>,
    /// What is missing is the cluster target's; what is held is this namespace's.
    brake: super::Absence,
    /// Its rows were removed on purpose.
    dropped: bool,
    /// The store had all its rows at some time of this process.
    counted: bool,
    /// What the status was made of.
    reported: TargetCounts,
}

/// The namespaces of a cluster target.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// Those that it asks for.
    matched: Vec<Namespace>,
    /// Those in which it collects.
    effective: Vec<Namespace>,
    /// Those that have a KollectTarget of its name.
    taken: Vec<Namespace>,
}

impl State {
    /// Returns the namespaces in which the store has other numbers than the status.
    pub(in crate::control) fn moved(&self, store: &Store, name: &Name) -> Vec<Namespace> {
        let registrations = self.registrations.iter().filter(|(_, registration)| registration.interest.is_some());
        let moved = registrations
            .filter(|(namespace, registration)| counts(store, namespace, name) != registration.reported)
            .map(|(namespace, _)| namespace.clone());
        moved.collect()
    }

    /// Tells whether there is something to decide about the rows by now.
    pub(in crate::control) fn is_due(&self, now: Instant) -> bool {
        !self.common.dropped && self.common.absence.is_due(now)
    }

    /// Tells whether the next discovery can decide something about the rows.
    pub(in crate::control) fn awaits_discovery(&self) -> bool {
        self.common.awaits_discovery()
    }

    /// Returns what to list again because there is room for it now.
    pub(in crate::control) fn fitting(&mut self, store: &Store, name: &Name) -> Vec<(TargetKey, Vec<Namespace>)> {
        let over: Vec<(&Namespace, &Vec<Namespace>)> = self
            .registrations
            .iter()
            .map(|(namespace, registration)| (namespace, &registration.reported.over_budget))
            .filter(|(_, over)| !over.is_empty())
            .collect();
        let all: Vec<Namespace> = over.iter().flat_map(|(_, over)| over.iter().cloned()).collect();
        if !self.common.room.turn(&all, Fill::of(store), Instant::now()) {
            return Vec::new();
        }
        let key = |namespace: &Namespace| TargetKey::new(namespace.clone(), name.clone());
        over.into_iter().map(|(namespace, over)| (key(namespace), over.clone())).collect()
    }

    /// Returns what is registered in a namespace.
    pub(super) fn interest(&self, namespace: &Namespace) -> Option<&Interest> {
        self.registrations.get(namespace)?.interest.as_ref()
    }

    /// Returns the brake of a namespace.
    pub(super) fn brake(&self, namespace: &Namespace) -> Option<&super::Absence> {
        self.registrations.get(namespace).map(|registration| &registration.brake)
    }

    /// Lets held rows of a namespace go; tells whether there were any.
    pub(super) fn release(&mut self, namespace: &Namespace) -> bool {
        self.registrations.get_mut(namespace).is_some_and(|registration| registration.brake.release())
    }

    /// Returns what goes from a namespace with this cluster target, if something of it is missing.
    pub(super) fn going(&self, namespace: &Namespace, stored: usize, told: usize) -> Option<Going> {
        let registration = self.registrations.get(namespace)?;
        let missing = registration.brake.is_open() && !registration.dropped;
        missing.then(|| registration.going(stored, told))
    }

    /// Returns the namespaces whose rows are held.
    fn held(&self) -> BTreeSet<Namespace> {
        let held = self.registrations.iter().filter(|(_, registration)| registration.brake.held().is_some());
        held.map(|(namespace, _)| namespace.clone()).collect()
    }
}

impl Registration {
    /// Counts its rows. Nothing says how many there were before a start, so all rows of an inventory may be its own.
    fn going(&self, stored: usize, told: usize) -> Going {
        Going { stored, told: (!self.counted).then_some(told) }
    }
}

impl Control {
    pub(in crate::control) fn reconcile_cluster_target(&mut self, key: &ObjectKey) -> Option<Class> {
        let object = self.shelves.cluster_targets.get(key).cloned();
        if let Some(object) = &object {
            self.free((Kind::ClusterTarget, key.clone()), &object.meta);
        }
        let Some(object) = object.filter(|object| object.meta.deletion_timestamp.is_none()) else {
            self.end_cluster_target(key);
            return None;
        };
        let mut state = self.cluster_targets.remove(key).unwrap_or_default();
        let held = state.held();
        let collecting = state.registrations.values().any(|registration| registration.interest.is_some());
        let outcome = match self.resolve_cluster_target(&object, &mut state) {
            Ok(resolved) => {
                state.common.absence.clear();
                Ok(self.collect_everywhere(key, resolved, &mut state))
            }
            Err(refusal) => {
                if ![reasons::PROFILE_NOT_FOUND, reasons::KIND_NOT_FOUND].contains(&refusal.reason) {
                    state.common.absence.clear();
                }
                Err(self.stop_everywhere(key, &object, refusal, &mut state))
            }
        };
        let changed: BTreeSet<Namespace> = held.symmetric_difference(&state.held()).cloned().collect();
        self.queue_inventories(|inventory| changed.contains(&inventory.namespace));
        let class = self.report_cluster_target(key, &object, &outcome, &mut state);
        if state.ready.replace(class.is_none()) != Some(class.is_none()) {
            self.queue_cluster_inventories(|_, _| true);
        }
        let suspended = outcome.is_err_and(|refusal| refusal.reason == reasons::SUSPENDED);
        let collects = state.registrations.values().find_map(|registration| registration.interest.as_ref());
        match (collecting, collects) {
            (false, Some(_)) => tracing::debug!(target = %key.name, "registered collection target"),
            (true, None) if suspended => tracing::info!(target = %key.name, "target suspended"),
            _ => {}
        }
        let profile = object.spec.as_ref().map(|spec| &spec.profile_ref).ok().filter(|_| collects.is_some());
        let profile = profile.map(|profile| {
            ObjectKey::new(Namespace::new(profile.namespace.as_str()), Name::new(profile.name.as_str()))
        });
        let interests = state.registrations.values().filter_map(|registration| registration.interest.as_ref());
        let collects = profile.as_ref().zip(collects);
        let collects = collects.map(|(profile, interest)| (profile.name.clone(), interest.target.origin().gvk.clone()));
        self.measure((Kind::ClusterTarget, key.clone()), profile, interests.map(|interest| &interest.target));
        let namespaces = state.registrations.keys().cloned().collect();
        self.cluster_targets.insert(key.clone(), state);
        if suspended {
            self.overview.remove(key);
            return None;
        }
        self.overview.put(key, Seen { collects, ready: class.is_none(), namespaces });
        class
    }

    /// Tells whether a cluster target is Ready, as far as this process has seen it.
    pub(in crate::control) fn is_ready(&self, key: &ObjectKey) -> bool {
        self.cluster_targets.get(key).and_then(|state| state.ready).unwrap_or_default()
    }

    /// Forgets a cluster target that is gone or going.
    fn end_cluster_target(&mut self, key: &ObjectKey) {
        if let Some(state) = self.cluster_targets.remove(key) {
            for namespace in state.registrations.keys() {
                self.withdraw(namespace, &key.name);
            }
        }
        self.overview.remove(key);
        self.forget(&(Kind::ClusterTarget, key.clone()));
    }

    fn resolve_cluster_target(
        &self,
        object: &Object<KollectClusterTargetSpec>,
        state: &mut State,
    ) -> Result<Resolved, Refusal> {
        let invalid = |message: String, rows| Refusal::new(reasons::INVALID_SPEC, message, rows);
        let spec = object.spec.as_ref().map_err(|error| invalid(error.to_string(), Rows::Stay))?;
        if spec.suspend {
            let message = "spec.suspend is true: nothing is collected and the rows are removed";
            return Err(Refusal::new(reasons::SUSPENDED, message, Rows::Go));
        }
        let target = validate::cluster_target(spec).map_err(|errors| invalid(errors.to_string(), Rows::Stay))?;
        secrets::consented(&self.shelves, target.profile())?;
        let ceiling = self.shelves.cluster_ceiling()?;
        let reference = FieldPath::spec().field("profileRef").field("namespace");
        ceiling.allows_static_ref(&reference, StaticRef::Profile, &target.profile().namespace)?;
        let common = &mut state.common;
        let profile = self.profile(target.profile(), &mut common.absence)?;
        let kind = profile.spec.as_ref().ok().map(|profile| Gvk::from(&profile.target_gvk));
        ceiling.limits().allows_kinds(&spec.resource_rules, kind.as_ref())?;
        let name = target.profile().name.as_str();
        let (gvk, program) = self.compile(name, profile, target.intent(), &mut common.compiled)?;
        let resource = self.resource(name, &gvk, &mut common.absence)?.clone();
        let mut matched = self.matched(target.intent().namespaces());
        if resource.scope == Scope::Cluster {
            // One registration has them, or each namespace would have all of them.
            matched.retain(|namespace, _| namespace.as_str() == HOME);
            if matched.is_empty() {
                let message = format!(
                    "spec.namespaceSelector: objects of {} live in no namespace and count for {HOME:?}, which is not \
                     selected; select it as well",
                    in_words(&gvk)
                );
                return Err(invalid(message, Rows::Go));
            }
        }
        let effective = ceiling.limits().narrow(&matched);
        let mut remarks = remarks::of(target.intent(), &gvk, resource.scope, state.common.compiled.as_ref());
        remarks.extend(limited(ceiling.limits(), spec));
        let target = Arc::new(target.intent().clone());
        Ok(Resolved { target, gvk, resource, program, namespaces: Chosen { matched, effective }, remarks })
    }

    /// Registers a cluster target where it collects, and nowhere else.
    fn collect_everywhere(&self, key: &ObjectKey, resolved: Resolved, state: &mut State) -> Places {
        let Resolved { target, gvk, resource, program, namespaces: Chosen { matched, effective }, remarks } = resolved;
        state.common.remarks = remarks.join("; ");
        let resource = Arc::new(resource);
        let mut places = Places { matched: matched.into_keys().collect(), ..Places::default() };
        let mut before = std::mem::take(&mut state.registrations);
        for (namespace, consent) in effective {
            let own = TargetKey::new(namespace.clone(), key.name.clone());
            if self.shelves.targets.get(&own).is_some() {
                places.taken.push(namespace);
                continue;
            }
            let terms = self.terms(&target, &resource, &BTreeMap::from([(namespace.clone(), consent)]));
            let interest = self.register(&own, gvk.clone(), resource.clone(), program.clone(), terms);
            let mut registration = before.remove(&namespace).unwrap_or_default();
            registration.interest = Some(interest);
            registration.brake.clear();
            registration.dropped = false;
            places.effective.push(namespace.clone());
            state.registrations.insert(namespace, registration);
        }
        for namespace in before.keys() {
            self.withdraw(namespace, &key.name);
        }
        state.common.dropped = false;
        places
    }

    /// Stops collecting everywhere, and does with the rows what is to happen to them, but for those that are held.
    fn stop_everywhere(
        &self,
        key: &ObjectKey,
        object: &Object<KollectClusterTargetSpec>,
        refusal: Refusal,
        state: &mut State,
    ) -> Refusal {
        for namespace in self.concerned(object) {
            state.registrations.entry(namespace).or_default();
        }
        let (shelves, name) = (&self.shelves, &key.name);
        let own = |namespace: &Namespace| TargetKey::new(namespace.clone(), name.clone());
        state.registrations.retain(|namespace, _| shelves.targets.get(&own(namespace)).is_none());
        for (namespace, registration) in &mut state.registrations {
            registration.brake.follow(&state.common.absence);
            if registration.dropped && refusal.rows != Rows::Stay {
                continue;
            }
            let held = registration.brake.held().is_some();
            let rows = match refusal.rows {
                Rows::Vanish if self.holds(name, namespace, registration) => Rows::Stay,
                rows => rows,
            };
            if !held && registration.brake.held().is_some() {
                tracing::warn!(target = %name, namespace = %namespace, "mass deletion held");
            }
            self.stand_down(&own(namespace), rows, registration.interest.take());
            registration.dropped = rows != Rows::Stay;
        }
        state.common.dropped = refusal.rows != Rows::Stay;
        let first = state.registrations.values().find_map(|registration| registration.brake.held());
        match first {
            Some(first) => {
                let places = some(state.held().iter());
                let message = format!("{}; in {places}: {first}", refusal.message);
                Refusal::new(reasons::MASS_DELETION_HELD, message, refusal.rows)
            }
            None => refusal,
        }
    }

    /// Decides whether the rows of one namespace are too many to go because something vanished.
    fn holds(&self, name: &Name, namespace: &Namespace, registration: &mut Registration) -> bool {
        let stored = counts(&self.parts.store, namespace, name).rows;
        let going = registration.going(stored, self.told(namespace));
        registration.brake.brake(self.loss_with(namespace, going)).is_some()
    }

    /// Returns where rows of a cluster target may be that does not collect: where its status says that it did, and where it
    /// would. Sinks keep there what they have, for as long as that is not decided otherwise.
    fn concerned(&self, object: &Object<KollectClusterTargetSpec>) -> BTreeSet<Namespace> {
        let status: KollectClusterTargetStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
        let told = status.effective_namespaces.into_iter().map(Namespace::new);
        let intent = object.spec.as_ref().ok().and_then(|spec| validate::cluster_target(spec).ok());
        let matched = intent.map(|target| self.matched(target.intent().namespaces())).unwrap_or_default();
        told.chain(matched.into_keys()).collect()
    }

    /// Ends the registration in one namespace, unless a KollectTarget has it by now.
    fn withdraw(&self, namespace: &Namespace, name: &Name) {
        let own = TargetKey::new(namespace.clone(), name.clone());
        if self.shelves.targets.get(&own).is_none() {
            self.parts.watch.remove(&own);
            self.parts.store.unregister(namespace, name);
        }
    }
}

/// Says which namespaces that are named the scope of the cluster takes away. Admission refuses them; a scope that comes
/// later does not stop the others.
fn limited(limits: &Ceiling, spec: &KollectClusterTargetSpec) -> Option<String> {
    let names: Vec<Namespace> = spec.included_namespaces.iter().map(|name| Namespace::new(name.as_str())).collect();
    let allowed = limits.allows_namespaces(&FieldPath::spec().field("includedNamespaces"), &names);
    allowed.err().map(|denial| denial.message)
}

/// Returns what the store has of one registration.
fn counts(store: &Store, namespace: &Namespace, name: &Name) -> TargetCounts {
    store.existing(namespace).map(|table| table.target_counts(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::scope;

    #[test]
    fn what_a_scope_takes_from_the_namespaces_that_are_named_is_said() {
        let key = ObjectKey::new(Namespace::new(""), Name::new("limits"));
        let limits = serde_json::from_value(json!({"deniedNamespaces": ["secret"]})).unwrap();
        let ceiling = scope::cluster_scope(&key, &limits).unwrap();
        let said = |names: &[&str]| {
            let spec = json!({
                "profileRef": {"name": "p", "namespace": "n"}, "namespaceSelector": {}, "includedNamespaces": names,
            });
            limited(ceiling.limits(), &serde_json::from_value(spec).unwrap())
        };
        assert_eq!(said(&["a"]), None);
        let said = said(&["a", "secret"]).unwrap();
        assert!(
            said.starts_with("spec.includedNamespaces: not allowed by KollectClusterScope \"limits\": secret"),
            "{said}"
        );
    }
}
