//! The brake on mass deletions (D4): what would go with all that is missing in a namespace, and who lets it go.

use std::collections::BTreeSet;

use serde_json::Value;

use super::absence::{Going, Held, Loss};
use super::{Refusal, Rows, State};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{Kind, KollectTargetSpec};
use crate::control::Control;
use crate::control::shelf::Object;
use crate::model::{Name, Namespace, ObjectKey, TargetKey};

impl Control {
    /// Holds rows that would go because something vanished, when they are too many.
    pub(super) fn brake(
        &self,
        key: &TargetKey,
        object: &Object<KollectTargetSpec>,
        refusal: Refusal,
        state: &mut State,
    ) -> Refusal {
        if refusal.rows != Rows::Vanish || state.dropped {
            return refusal;
        }
        let stored = self.stored(key);
        let told = (!state.counted).then(|| usize_of(&object.status["collectedCount"]));
        let loss = self.loss_with(&key.namespace, Going { stored, told });
        let before = state.absence.held().is_some();
        match state.absence.brake(loss) {
            None => refusal,
            Some(held) => {
                if !before {
                    tracing::warn!(target = %key, rows = loss.rows, "mass deletion held");
                }
                let message = format!("{}; {held}", refusal.message);
                Refusal::new(reasons::MASS_DELETION_HELD, message, Rows::Stay)
            }
        }
    }

    /// Counts what goes from a namespace with a target and with all others that miss something: what vanished together is
    /// one removal. What this process never saw is taken from the statuses.
    pub(super) fn loss_with(&self, namespace: &Namespace, own: Going) -> Loss {
        let stored = self.parts.store.existing(namespace).map_or(0, |table| table.counts().rows);
        let told = self.told(namespace);
        let targets = self.shelves.targets.within(namespace).filter_map(|(key, object)| {
            let state = self.targets.get(key)?;
            (state.absence.is_open() && !state.dropped).then(|| Going {
                stored: self.stored(key),
                told: (!state.counted).then(|| usize_of(&object.status["collectedCount"])),
            })
        });
        let cluster_targets = self.cluster_targets.iter().filter_map(|(key, state)| {
            let own = TargetKey::new(namespace.clone(), key.name.clone());
            state.going(namespace, self.stored(&own), told)
        });
        let going: Vec<Going> = targets.chain(cluster_targets).chain([own]).collect();
        Loss::new(stored, told, &going)
    }

    /// Returns the rows of a target, or of a cluster target in one namespace.
    fn stored(&self, key: &TargetKey) -> usize {
        self.parts.store.existing(&key.namespace).map_or(0, |table| table.target_counts(&key.name).rows)
    }

    /// Returns how many rows the inventories of a namespace say they have.
    pub(super) fn told(&self, namespace: &Namespace) -> usize {
        let inventories = self.shelves.inventories.within(namespace);
        let own = inventories.map(|(_, inventory)| usize_of(&inventory.status["itemCount"]));
        let all = self.shelves.cluster_inventories.iter().filter_map(|(_, inventory)| {
            let mut shards = inventory.status["namespaceShards"].as_array()?.iter();
            let here = shards.find(|shard| shard["namespace"].as_str() == Some(namespace.as_str()))?;
            Some(usize_of(&here["itemCount"]))
        });
        own.chain(all).max().unwrap_or_default()
    }

    /// Says which rows of a namespace are held, why, and what to do; nothing while none are. For its inventories.
    pub(in crate::control) fn held_deletion(&self, namespace: &Namespace) -> Option<String> {
        let here = self.targets.iter().filter(|(key, _)| key.namespace == *namespace);
        let targets: Vec<(&Name, &Held)> =
            here.filter_map(|(key, state)| Some((&key.name, state.absence.held()?))).collect();
        let everywhere = self.cluster_targets.iter();
        let cluster_targets: Vec<(&Name, &Held)> =
            everywhere.filter_map(|(key, state)| Some((&key.name, state.brake(namespace)?.held()?))).collect();
        let (_, first) = targets.first().or_else(|| cluster_targets.first())?;
        let named = |kind: &str, held: &[(&Name, &Held)]| {
            let names: Vec<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
            (!names.is_empty()).then(|| format!("{kind} {}", names.join(", ")))
        };
        let named = [named("KollectTarget", &targets), named("KollectClusterTarget", &cluster_targets)];
        let named: Vec<String> = named.into_iter().flatten().collect();
        Some(format!("{}: {first}", named.join(", ")))
    }

    /// Lets the rows of a cluster target go that are held now in these namespaces.
    pub(in crate::control) fn release_cluster_target(&mut self, name: &Name, namespaces: &BTreeSet<Namespace>) {
        let key = ObjectKey::new(Namespace::new(""), name.clone());
        let Some(state) = self.cluster_targets.get_mut(&key) else { return };
        for namespace in namespaces {
            if state.release(namespace) {
                tracing::info!(target = %name, namespace = %namespace, "held rows released");
                self.work.insert((Kind::ClusterTarget, key.clone()));
            }
        }
    }

    /// Lets the rows of a namespace go that are held now.
    pub(in crate::control) fn release_mass_deletions(&mut self, namespace: &Namespace) {
        for (key, state) in self.targets.iter_mut().filter(|(key, _)| key.namespace == *namespace) {
            if state.absence.release() {
                tracing::info!(target = %key, "held rows released");
                self.work.insert((Kind::Target, key.clone()));
            }
        }
        for (key, state) in &mut self.cluster_targets {
            if state.release(namespace) {
                tracing::info!(target = %key.name, namespace = %namespace, "held rows released");
                self.work.insert((Kind::ClusterTarget, key.clone()));
            }
        }
    }
}

/// Reads a count of a status; 0 without one.
fn usize_of(count: &Value) -> usize {
    count.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
}
