//! What an inventory leaves behind it: places that are on record in its status and that it does not use any more.
//!
//! A place is left when the reference is removed, when sink, table or `spec.cluster` change, and when the inventory is
//! deleted, which waits for that (a finalizer). What becomes of the rows is the sink's `deletionPolicy`. The way to a
//! place leads through the sink that is on record with it, through another one of the namespace that has the same
//! connection, or through what this process has opened before. A sink or Secret that is gone never blocks a deletion.

use std::sync::Arc;

use serde_json::json;

use super::{Inventory, InventorySpec, Place, State, same_place};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{Destination, KollectInventoryStatus};
use crate::control::Control;
use crate::control::errand::Errand;
use crate::control::family::SinkSpec;
use crate::control::resolve::{Failing, Obstacle};
use crate::control::shelf::Object;
use crate::deliver::{Departure, Leaving, Stray};
use crate::export::Scope;
use crate::model::{Cluster, InventoryKey, Namespace, SinkKey, Uid};
use crate::sinks::{Leave, Sink};

/// A sink that leads to a place, and what its spec wants to become of the rows.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) leave: Leave,
}

/// Where the way to a place leads.
enum Found {
    Way(Way),
    /// Through a sink that is gone or points elsewhere by now, with what this process still has of it.
    Remembered(Way),
    /// A Secret is being read.
    Soon,
    Nowhere,
}

/// How far an inventory is with leaving.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Places that are left.
    pub(super) done: Vec<Destination>,
    /// Places that are being left.
    pub(super) pending: usize,
    /// Places to which no way leads any more; they stay on record.
    pub(super) stranded: Vec<Destination>,
    /// What stands in the way of one that is being left.
    pub(super) failing: Option<Failing>,
}

impl Control {
    /// Sees to it that a deleted inventory is kept for as long as it has something to clean up.
    pub(super) fn hold_deletion(&mut self, it: Inventory<'_>, destinations: &[Destination]) {
        let (finalizers, own) = (it.object.meta.finalizers.as_deref().unwrap_or_default(), it.finalizer());
        let held = finalizers.iter().any(|finalizer| finalizer == own);
        if !held && !destinations.is_empty() {
            let all: Vec<&str> = finalizers.iter().map(String::as_str).chain([own]).collect();
            self.set_finalizers(it, &all);
        }
    }

    /// Lets a deleted inventory go.
    pub(super) fn release_deletion(&mut self, it: Inventory<'_>) {
        let (finalizers, own) = (it.object.meta.finalizers.as_deref().unwrap_or_default(), it.finalizer());
        let rest: Vec<&str> = finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != own).collect();
        if rest.len() < finalizers.len() {
            self.set_finalizers(it, &rest);
        }
    }

    fn set_finalizers(&mut self, it: Inventory<'_>, all: &[&str]) {
        // With the version, so that a finalizer that somebody else sets at the same moment is not lost.
        let patch = json!({"metadata": {"finalizers": all, "resourceVersion": it.object.meta.resource_version}});
        self.send(it.subject.clone(), Errand::Merge(patch));
    }

    /// Goes on leaving the places that are on record and not in use.
    ///
    /// While a reference cannot be resolved nothing is left: it may be the one that uses the place.
    pub(super) async fn leave_unused(&self, it: Inventory<'_>, recorded: &[Destination], state: &State) -> Left {
        let used = |there: &Destination| state.bindings.values().any(|bound| same_place(&bound.destination, there));
        let mut left = Left::default();
        for there in recorded.iter().filter(|there| !used(there)) {
            self.leave_place(it.key, it.object.uid(), there, state, &mut left).await;
        }
        left
    }

    async fn leave_place(&self, key: &InventoryKey, uid: &str, there: &Destination, state: &State, left: &mut Left) {
        let cluster = Cluster::new(there.cluster.as_str());
        let place = Place { inventory: key.clone(), destination: there.id.clone(), cluster: cluster.clone() };
        let departure = self.parts.deliveries.reports().departure(&place);
        if departure == Some(Departure::Done) {
            left.done.push(there.clone());
            return;
        }
        match (departure, self.way_to(key, there, state)) {
            (_, Found::Nowhere) => left.stranded.push(there.clone()),
            (Some(Departure::Failed(_)), Found::Remembered(_)) => {
                self.parts.deliveries.give_up(place).await;
                left.stranded.push(there.clone());
            }
            (None, Found::Way(way) | Found::Remembered(way)) => {
                left.pending += 1;
                let scope = Scope { cluster, inventory: key.clone(), inventory_uid: Uid::new(uid) };
                let leaving = Leaving { sink: way.sink, scope: Arc::new(scope), leave: way.leave };
                self.parts.deliveries.leave(leaving).await;
            }
            (Some(Departure::Failed(failure)), _) => {
                left.pending += 1;
                let message = format!("failed to clean up {}: {}", there.description, failure.message);
                left.failing = Some(Failing { reason: reasons::CLEANUP_TERMINAL, class: failure.class, message });
            }
            _ => left.pending += 1,
        }
    }

    /// Finds a sink that leads to a place.
    fn way_to(&self, key: &InventoryKey, there: &Destination, state: &State) -> Found {
        let mut soon = false;
        let mut try_sink = |sink: &SinkKey| match self.open_at(sink, there) {
            Ok(way) => way,
            Err(Obstacle::Wait(_)) => {
                soon = true;
                None
            }
            Err(Obstacle::Refused(_)) => None,
        };
        let family = there.sink.split_once('/').map_or("", |(family, _)| family);
        let home = Some(there.sink_namespace.as_str()).filter(|named| !named.is_empty());
        let mut sinks = self.shelves.sinks.within(&home.map_or_else(|| key.namespace.clone(), Namespace::new));
        sinks.retain(|sink| family.is_empty() || sink.family.as_str() == family);
        // The one that is on record comes first.
        sinks.sort_by_key(|sink| sink.to_string() != there.sink);
        let way = sinks.iter().find_map(&mut try_sink);
        let remembered = state.ways.get(&(there.id.clone(), there.cluster.clone()));
        match (way, remembered) {
            (Some(way), _) => Found::Way(way),
            (None, _) if soon => Found::Soon,
            (None, Some(way)) => Found::Remembered(way.clone()),
            (None, None) => Found::Nowhere,
        }
    }

    /// Opens a place with the connection of a sink; nothing when that leads elsewhere.
    fn open_at(&self, key: &SinkKey, there: &Destination) -> Result<Option<Way>, Obstacle> {
        let Some(object) = self.shelves.sinks.get(key) else { return Ok(None) };
        let Some(settings) = self.resolve(key, object)?.settings.pointed_at(there) else { return Ok(None) };
        let sink = self.open(&settings)?;
        let leave = object.spec.as_ref().map_or(Leave::Delete, SinkSpec::leave);
        Ok((sink.destination().id == there.id).then_some(Way { sink: sink.sink(), leave }))
    }

    /// Cleans up what inventories left that are gone without a trace.
    pub(in crate::control) async fn leave_strays(&self) {
        for stray in self.parts.deliveries.reports().strays() {
            if self.exists(&stray) {
                continue;
            }
            tracing::info!(inventory = %stray.place.inventory, sink = %stray.via, "inventory is gone, its rows follow");
            let sink = self.shelves.sinks.get(&stray.via).and_then(|object| object.spec.as_ref().ok());
            let leave = sink.map_or(Leave::Delete, SinkSpec::leave);
            self.parts.deliveries.leave(Leaving { sink: stray.sink, scope: stray.scope, leave }).await;
        }
    }

    /// Tells whether there is an inventory, of either kind, whose rows these may be.
    fn exists(&self, stray: &Stray) -> bool {
        let key = &stray.place.inventory;
        // Where the operator does not look, it cannot tell.
        !self.reach.knows(&key.namespace)
            || self.shelves.inventories.get(key).is_some()
            || self.shelves.cluster_inventory(key).is_some()
    }
}

/// Returns the places that a status has on record.
pub(super) fn recorded(object: &Object<InventorySpec>) -> Vec<Destination> {
    let status: KollectInventoryStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
    status.destinations
}
