//! KollectInventory and KollectClusterInventory: which sinks get the rows of a namespace, or of cluster targets in many.

mod either;
mod places;
mod report;
mod rollup;
mod standing;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub(super) use either::{InventorySpec, outside};

use either::Inventory;
use places::{Left, Way};
use rollup::Unfit;
use wish::{AUDIT_NOW, Asked, EXPORT_NOW, Wish, written_at};

use super::Control;
use super::family::{SinkObject, SinkSpec};
use super::resolve::{Failing, Obstacle, Resolved, STARTING, Settings};
use super::target::absence::ALLOW_MASS_DELETION;
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{Destination, InventorySinkRef, Kind, KollectInventoryStatus};
use crate::deliver::{Binding, Place};
use crate::error::Class;
use crate::export::Scope;
use crate::model::{BindingKey, Cluster, Family, Namespace, SinkKey, Uid};
use crate::sinks::{Leave, Sink};
use crate::status::Subject;
use crate::store::{Reader, View};
use crate::validate::FieldPath;
use crate::validate::scope::{Ceiling, ClusterCeiling, Denial, Raised, StaticRef};

/// From this interval on, a start waits for the rest of it where an earlier process wrote.
const REMEMBERED_INTERVAL: Duration = Duration::from_mins(1);
/// A waiting change is not behind before its interval is over by this.
const SYNC_GRACE: Duration = Duration::from_secs(30);

/// What is remembered of an inventory between two reconciles.
#[derive(Debug, Default)]
pub(super) struct State {
    bindings: BTreeMap<BindingKey, Bound>,
    /// The way to each place that was ever bound, for when its sink or Secret is gone: by id and cluster.
    ways: BTreeMap<(String, String), Way>,
    /// What the annotations ask for.
    audit: Wish,
    export: Wish,
    mass_deletion: Wish,
    /// What a cluster inventory shows, bound or not.
    reading: Option<Reader>,
    /// Tells one selection of the same spec from another.
    turns: u64,
    /// Cluster targets that are selected, once that is known.
    targets: Option<usize>,
}

/// A binding that the delivery stage has been told of.
#[derive(Debug)]
struct Bound {
    /// What it was bound with; empty until the destination is on record.
    revision: String,
    destination: Destination,
}

/// One reference of the spec, resolved as far as it goes.
struct Ref {
    sink: SinkKey,
    outcome: Result<(), Obstacle>,
    interval: Duration,
    /// The interval is that of a scope.
    raised: Option<Raised>,
}

/// What scopes say of the sinks of an inventory.
struct Limits {
    /// Of the namespace of the sinks.
    ceiling: Ceiling,
    /// Of the cluster, for those that live in no namespace.
    cluster: Option<ClusterCeiling>,
}

impl Limits {
    /// Lets a sink be used.
    fn allows(&self, field: &FieldPath, sink: &SinkKey) -> Result<(), Denial> {
        let SinkKey { family, object } = sink;
        let Some(cluster) = &self.cluster else { return self.ceiling.allows_sink(field, *family, &object.name) };
        cluster.allows_static_ref(field, StaticRef::Sink, &object.namespace)?;
        cluster.limits().allows_sink(field, *family, &object.name)
    }
}

impl Ref {
    /// Tells whether it is known where the reference leads.
    fn is_settled(&self) -> bool {
        self.outcome.is_ok()
    }
}

impl Control {
    pub(super) async fn reconcile_inventory(&mut self, subject: &Subject) -> Option<Class> {
        let key = &outside(subject);
        let Some(object) = self.shelves.inventory(subject).cloned() else {
            if let Some(state) = self.inventories.remove(subject) {
                self.unbind(state.bindings.into_keys()).await;
            }
            self.parts.deliveries.reports().forget_departures(key);
            self.forget(subject);
            self.forget_secrets();
            return None;
        };
        let it = Inventory { subject, key, object: &object };
        let mut state = self.inventories.remove(subject).unwrap_or_default();
        let recorded = places::recorded(&object);
        let class = if object.meta.deletion_timestamp.is_some() {
            self.end_inventory(it, &recorded, &mut state).await
        } else {
            match self.bind_refs(it, &mut state).await {
                Ok(refs) => {
                    let settled = refs.iter().all(Ref::is_settled);
                    let left = if settled { self.leave_unused(it, &recorded, &state).await } else { Left::default() };
                    self.stand(it, &recorded, Ok(refs), &left, &mut state).await
                }
                Err(Unfit::Failing(failing)) => {
                    self.stand(it, &recorded, Err(failing), &Left::default(), &mut state).await
                }
                Err(Unfit::Silent(pause)) => {
                    self.look_again(subject.clone(), Some(pause));
                    None
                }
            }
        };
        self.inventories.insert(subject.clone(), state);
        class
    }

    /// Does what is asked for beside deliveries, and reports.
    async fn stand(
        &mut self,
        it: Inventory<'_>,
        recorded: &[Destination],
        refs: Result<Vec<Ref>, Failing>,
        left: &Left,
        state: &mut State,
    ) -> Option<Class> {
        self.grant(it, state).await;
        self.hold_deletion(it, recorded);
        self.report_inventory(it, &refs, left, state)
    }

    /// Leaves every place of a deleted inventory, and then lets it go. Rows under a name that is that of a cluster inventory
    /// are not its own any more.
    async fn end_inventory(&mut self, it: Inventory<'_>, recorded: &[Destination], state: &mut State) -> Option<Class> {
        self.unbind(std::mem::take(&mut state.bindings).into_keys()).await;
        let left = match self.name_conflict(it) {
            Some(_) => Left::default(),
            None => self.leave_unused(it, recorded, state).await,
        };
        if left.pending == 0 {
            for there in &left.stranded {
                tracing::warn!(inventory = %it.key, cluster = there.cluster, destination = there.description, "rows stay: no sink leads there");
            }
            self.release_deletion(it);
            return None;
        }
        let failing = left.failing.clone().unwrap_or_else(|| Failing {
            reason: reasons::PROGRESSING,
            class: Class::Transient,
            message: "the inventory is deleted: its rows are being removed from its sinks".to_owned(),
        });
        let class = failing.class;
        self.report_inventory(it, &Err(failing), &left, state);
        Some(class)
    }

    /// Does what the annotations ask for. What stood there before a start may be new, and is done (again), with two
    /// exceptions. What lets rows go was said of other rows; and what hurries would end the interval of an earlier process
    /// with each start: a binding looks by itself whether that was written since its last export.
    async fn grant(&mut self, it: Inventory<'_>, state: &mut State) {
        let Inventory { key, object, .. } = it;
        if state.mass_deletion.take(object, ALLOW_MASS_DELETION) == Asked::Since {
            if it.is_roll_up() {
                self.release_roll_up(state);
            } else {
                self.release_mass_deletions(&key.namespace);
            }
        }
        if state.bindings.is_empty() {
            return;
        }
        if state.audit.take(object, AUDIT_NOW) != Asked::Nothing {
            self.parts.deliveries.audit(key.clone()).await;
        }
        if state.export.take(object, EXPORT_NOW) == Asked::Since {
            self.parts.deliveries.hurry(key.clone()).await;
        }
    }

    async fn unbind(&self, keys: impl IntoIterator<Item = BindingKey>) {
        for key in keys {
            self.parts.deliveries.unbind(key).await;
        }
    }

    /// Resolves every reference and binds what can be bound. An inventory that cannot export keeps its rows in the
    /// sinks, and has a reason instead.
    async fn bind_refs(&mut self, it: Inventory<'_>, state: &mut State) -> Result<Vec<Ref>, Unfit> {
        let (spec, limits, view) = match self.may_export(it, state) {
            Ok(found) => found,
            Err(unfit) => {
                self.unbind(std::mem::take(&mut state.bindings).into_keys()).await;
                return Err(unfit);
            }
        };
        let mut refs = Vec::new();
        for (family, list) in spec.refs() {
            for (index, sink) in list.iter().enumerate() {
                refs.push(self.bind_ref(it, (spec, &limits, &view), (family, index, sink), state).await);
            }
        }
        let named: BTreeSet<&SinkKey> = refs.iter().map(|sink| &sink.sink).collect();
        let removed: Vec<BindingKey> =
            state.bindings.keys().filter(|binding| !named.contains(&binding.sink)).cloned().collect();
        for binding in removed {
            state.bindings.remove(&binding);
            self.parts.deliveries.unbind(binding).await;
        }
        Ok(refs)
    }

    /// Decides whether an inventory exports at all, within which limits, and which rows it has.
    fn may_export<'a>(&self, it: Inventory<'a>, state: &mut State) -> Result<(&'a InventorySpec, Limits, View), Unfit> {
        let failing = |reason, message| Failing { reason, class: Class::Terminal, message };
        let spec = it.object.spec.as_ref();
        let spec = spec.map_err(|error| Unfit::Failing(failing(reasons::INVALID_SPEC, error.to_string())))?;
        if spec.suspend() {
            let message = "spec.suspend is true: nothing is exported and the rows stay in every sink";
            return Err(Unfit::Failing(failing(reasons::SUSPENDED, message.to_owned())));
        }
        if let Some(conflict) = self.name_conflict(it) {
            return Err(Unfit::Failing(conflict));
        }
        // A scope that cannot be read might forbid any of the sinks.
        let limits = self.limits(it, spec);
        let limits = limits.map_err(|denial| Unfit::Failing(failing(denial.reason, denial.message)))?;
        Ok((spec, limits, self.choose(it, state)?))
    }

    fn limits(&self, it: Inventory<'_>, spec: &InventorySpec) -> Result<Limits, Denial> {
        match spec {
            InventorySpec::Namespaced(_) => {
                Ok(Limits { ceiling: self.shelves.ceiling(&it.key.namespace)?, cluster: None })
            }
            InventorySpec::Cluster(spec) => {
                let home = Namespace::new(spec.home_of_sinks());
                Ok(Limits { ceiling: self.shelves.ceiling(&home)?, cluster: Some(self.shelves.cluster_ceiling()?) })
            }
        }
    }

    /// Refuses an inventory whose rows would be those of a cluster inventory (D9): that one wins.
    fn name_conflict(&self, it: Inventory<'_>) -> Option<Failing> {
        if it.is_roll_up() {
            return None;
        }
        self.shelves.cluster_inventory(it.key).map(|name| Failing {
            reason: reasons::NAME_CONFLICT,
            class: Class::Terminal,
            message: format!(
                "rows of KollectClusterInventory {name:?} have the same inventory namespace and name; rename one of the two"
            ),
        })
    }

    async fn bind_ref(
        &self,
        it: Inventory<'_>,
        (spec, limits, view): (&InventorySpec, &Limits, &View),
        (family, index, sink): (Family, usize, &InventorySinkRef),
        state: &mut State,
    ) -> Ref {
        let sink_key = spec.sink(&it.key.namespace, family, sink);
        let there = self.shelves.sinks.get(&sink_key).cloned();
        let sink_spec = there.as_ref().and_then(|there| there.spec.as_ref().ok());
        let asked = interval(sink, sink_spec, spec);
        let raised = limits.ceiling.raise(asked);
        let interval = raised.as_ref().map_or(asked, |raised| raised.interval);
        let field = FieldPath::spec().field(&format!("{}SinkRefs", family.as_str())).index(index);
        let outcome = match &there {
            _ if let Err(denial) = limits.allows(&field, &sink_key) => {
                Err(Obstacle::refused(denial.reason, denial.message))
            }
            None => Err(Obstacle::refused(
                reasons::SINK_NOT_FOUND,
                format!(
                    "{field}: there is no {} {:?} in namespace {:?}; create it or remove the reference",
                    Kind::of_family(family).as_str(),
                    sink.name,
                    sink_key.object.namespace.as_str()
                ),
            )),
            Some(there) => {
                let ceiling = sink.max_export_bytes.or(spec.max_export_bytes());
                self.bind_sink(it, &sink_key, there, (interval, ceiling, view), state).await
            }
        };
        if let Err(Obstacle::Refused(_)) = &outcome {
            let binding = BindingKey { inventory: it.key.clone(), sink: sink_key.clone() };
            if state.bindings.remove(&binding).is_some() {
                self.parts.deliveries.unbind(binding).await;
            }
        }
        Ref { sink: sink_key, outcome, interval, raised }
    }

    async fn bind_sink(
        &self,
        it: Inventory<'_>,
        sink_key: &SinkKey,
        sink: &SinkObject,
        (interval, ceiling, view): (Duration, Option<i64>, &View),
        state: &mut State,
    ) -> Result<(), Obstacle> {
        let inventory = it.object;
        let key = BindingKey { inventory: it.key.clone(), sink: sink_key.clone() };
        let Resolved { settings, cluster, versions } = self.resolve(&key.sink, sink)?;
        // What a scope makes of the interval, and what namespaces and targets a selection finds, is in no generation.
        let revision = format!(
            "{}/{}/{}/{}/{versions}/{}/{}",
            inventory.uid(),
            inventory.generation(),
            sink.uid(),
            sink.generation(),
            interval.as_millis(),
            state.turns
        );
        if state.bindings.get(&key).is_some_and(|bound| bound.revision == revision) {
            return Ok(());
        }
        let opened = self.open(&settings)?;
        // Where rows go is on record before the first one goes there (D7): it can then be found again.
        let recorded: KollectInventoryStatus = serde_json::from_value(inventory.status.clone()).unwrap_or_default();
        let mut destination = destination(&key, &cluster, &settings, &*opened);
        if it.is_roll_up() {
            destination.sink_namespace = sink_key.object.namespace.to_string();
        }
        let leave = sink.spec.as_ref().map_or(Leave::Delete, SinkSpec::leave);
        let way = Way { sink: opened.sink(), leave };
        state.ways.insert((destination.id.clone(), destination.cluster.clone()), way);
        if !recorded.destinations.iter().any(|there| same_place(there, &destination)) {
            state.bindings.insert(key, Bound { revision: String::new(), destination });
            return Err(Obstacle::Wait(STARTING));
        }
        let scope = Scope { cluster, inventory: key.inventory.clone(), inventory_uid: Uid::new(inventory.uid()) };
        let idle_for = recorded
            .sink_exports
            .iter()
            .find(|export| export.name == key.sink.to_string())
            .and_then(|export| export.last_export_time.as_ref())
            // What was edited, or asked for, while nobody looked does not wait either.
            .filter(|_| interval >= REMEMBERED_INTERVAL && recorded.observed_generation == Some(inventory.generation()))
            .filter(|last| written_at(&inventory.meta, EXPORT_NOW).is_none_or(|asked| asked < last.0))
            .map(|last| idle_for(last.0, Timestamp::now()));
        let binding = Binding {
            key: key.clone(),
            sink: opened,
            scope: Arc::new(scope),
            view: view.clone(),
            interval,
            generation: inventory.generation(),
            max_export_bytes: ceiling.and_then(|bytes| NonZeroU64::new(bytes.unsigned_abs())),
            revision: revision.clone(),
        };
        self.parts.deliveries.bind(binding, idle_for).await;
        state.bindings.insert(key, Bound { revision, destination });
        Ok(())
    }
}

/// Returns for how long nothing was written, as far as wall clocks can tell: a write that lies in the future, since a
/// clock was set back, counts as one that far in the past.
fn idle_for(last_write: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(last_write).unsigned_abs()
}

/// Returns the least time between two writes: the reference says it, else the sink, else the inventory.
fn interval(sink: &InventorySinkRef, sink_spec: Option<&SinkSpec>, inventory: &InventorySpec) -> Duration {
    let own = sink_spec.and_then(|spec| spec.common().export_min_interval);
    sink.export_min_interval.or(own).map_or_else(|| inventory.interval(), crate::api::v1alpha1::Duration::get)
}

/// Returns what is put on record of a place before it is written to.
fn destination(key: &BindingKey, cluster: &Cluster, settings: &Settings, sink: &dyn Sink) -> Destination {
    let there = sink.destination();
    let mut place = Destination {
        id: there.id.clone(),
        cluster: cluster.to_string(),
        sink: key.sink.to_string(),
        type_: sink.kind().as_str().to_owned(),
        description: there.description.clone(),
        ..Destination::default()
    };
    settings.note(&mut place);
    place
}

/// Tells whether two entries of `status.destinations` have one key.
fn same_place(one: &Destination, other: &Destination) -> bool {
    one.id == other.id && one.cluster == other.cluster
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::{KollectDatabaseSinkSpec, KollectInventorySpec, KollectSnapshotSinkSpec};
    use serde_json::{Value, json};

    #[test]
    fn the_interval_is_that_of_the_reference_then_the_sink_then_the_inventory() {
        for (of_ref, of_sink, of_inventory, want) in [
            (Some("1h"), Some("5m"), Some("1m"), 3600),
            (Some("0s"), Some("5m"), Some("1m"), 0),
            (None, Some("5m"), Some("1m"), 300),
            (None, None, Some("1m"), 60),
            (None, None, None, 30),
            (None, Some("0s"), None, 0),
        ] {
            let field = |interval: Option<&str>| interval.map_or(json!({}), |it| json!({"exportMinInterval": it}));
            let with = |mut spec: Value, interval| {
                spec.as_object_mut().unwrap().append(field(interval).as_object_mut().unwrap());
                spec
            };
            let reference = serde_json::from_value(with(json!({"name": "s"}), of_ref)).unwrap();
            let inventory: KollectInventorySpec = serde_json::from_value(with(json!({}), of_inventory)).unwrap();
            let inventory = InventorySpec::from(inventory);
            let git: KollectSnapshotSinkSpec = serde_json::from_value(with(json!({"type": "git"}), of_sink)).unwrap();
            let postgres = with(json!({"type": "postgres"}), of_sink);
            let postgres: KollectDatabaseSinkSpec = serde_json::from_value(postgres).unwrap();
            for sink in [SinkSpec::from(git), SinkSpec::from(postgres)] {
                let found = interval(&reference, Some(&sink), &inventory);
                assert_eq!(found, Duration::from_secs(want), "{of_ref:?} {of_sink:?} {of_inventory:?}");
            }
        }
    }

    #[test]
    fn a_last_write_in_the_future_is_an_age_and_no_panic() {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        assert_eq!(idle_for("2026-03-01T09:59:50Z".parse().unwrap(), now), Duration::from_secs(10));
        assert_eq!(idle_for("2026-03-01T10:00:10Z".parse().unwrap(), now), Duration::from_secs(10));
        for reason in [Timestamp::MIN, Timestamp::MAX] {
            assert!(idle_for(reason, now) > Duration::from_hours(24));
        }
    }
}
