//! The brake on mass deletions (D4): what would go with all that is missing in a namespace, and who lets it go.

use serde_json::Value;

use super::absence::{Going, Held, Loss};
use super::{Refusal, Rows, State};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{Kind, KollectTargetSpec};
use crate::control::Control;
use crate::control::shelf::Object;
use crate::model::{Name, Namespace, TargetKey};

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
        let loss = self.loss(key, object, state);
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

    /// Counts what goes with a target and with all others of its namespace that miss something: what vanished together
    /// is one removal. What this process never saw is taken from the statuses.
    fn loss(&self, key: &TargetKey, object: &Object<KollectTargetSpec>, state: &State) -> Loss {
        let table = self.parts.store.existing(&key.namespace);
        let stored = table.as_ref().map_or(0, |table| table.counts().rows);
        let others = self.shelves.targets.within(&key.namespace).filter_map(|(other, object)| {
            let state = self.targets.get(other)?;
            (state.absence.is_open() && !state.dropped).then_some((other, &**object, state))
        });
        let going: Vec<Going> = others
            .chain([(key, object, state)])
            .map(|(target, object, state)| Going {
                stored: table.as_ref().map_or(0, |table| table.target_counts(&target.name).rows),
                told: (!state.counted).then(|| usize_of(&object.status["collectedCount"])),
            })
            .collect();
        let inventories = self.shelves.inventories.within(&key.namespace);
        let told = inventories.map(|(_, inventory)| usize_of(&inventory.status["itemCount"])).max();
        Loss::new(stored, told.unwrap_or_default(), &going)
    }

    /// Says which rows of a namespace are held, why, and what to do; nothing while none are. For its inventories.
    pub(in crate::control) fn held_deletion(&self, namespace: &Namespace) -> Option<String> {
        let held = self.targets.iter().filter(|(key, _)| key.namespace == *namespace);
        let held: Vec<(&Name, &Held)> =
            held.filter_map(|(key, state)| Some((&key.name, state.absence.held()?))).collect();
        let (_, first) = held.first()?;
        let names: Vec<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
        Some(format!("KollectTarget {}: {first}", names.join(", ")))
    }

    /// Lets the rows of a namespace go that are held now.
    pub(in crate::control) fn release_mass_deletions(&mut self, namespace: &Namespace) {
        for (key, state) in self.targets.iter_mut().filter(|(key, _)| key.namespace == *namespace) {
            if state.absence.release() {
                tracing::info!(target = %key, "held rows released");
                self.work.insert((Kind::Target, key.clone()));
            }
        }
    }
}

/// Reads a count of a status; 0 without one.
fn usize_of(count: &Value) -> usize {
    count.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
}
