//! KollectInventory: which sinks get the rows of a namespace.

mod places;
mod report;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use places::{Left, Way};
use report::{SinkState, SinkView, degraded, findings, substance};
use wish::{AUDIT_NOW, Asked, EXPORT_NOW, Wish, written_at};

use super::Control;
use super::family::{SinkObject, SinkSpec};
use super::resolve::{Failing, Obstacle, Resolved, STARTING, Settings};
use super::shelf::Object;
use super::target::absence::ALLOW_MASS_DELETION;
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::{Destination, InventorySinkRef, Kind, KollectInventorySpec, KollectInventoryStatus};
use crate::deliver::{Binding, Gap, Place, SHARD_WARNING_ROWS};
use crate::error::Class;
use crate::export::Scope;
use crate::model::{BindingKey, Cluster, Family, InventoryKey, Name, ObjectKey, SinkKey, Uid};
use crate::sinks::{Leave, Sink};
use crate::store::Awaited;
use crate::validate::FieldPath;
use crate::validate::scope::{Ceiling, Raised};

/// From this interval on, a start waits for the rest of it where an earlier process wrote.
const REMEMBERED_INTERVAL: Duration = Duration::from_mins(1);
/// A waiting change is not behind before its interval is over by this.
const SYNC_GRACE: Duration = Duration::from_secs(30);
/// First lists that take no longer are not worth a status of their own.
const LISTING: Duration = Duration::from_secs(10);

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
    leads: Leads,
}

/// Where a reference may lead that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// To a place with rows of ours, for all that is known.
    Anywhere,
    /// To a type of sink that this build does not serve: no rows are there.
    Nowhere,
}

impl Ref {
    /// Tells whether it is known where the reference leads.
    fn is_settled(&self) -> bool {
        match &self.outcome {
            Ok(()) => true,
            Err(Obstacle::Refused(_)) => self.leads == Leads::Nowhere,
            Err(Obstacle::Wait(_)) => false,
        }
    }
}

impl Control {
    pub(super) async fn reconcile_inventory(&mut self, key: &InventoryKey) -> Option<Class> {
        let Some(object) = self.shelves.inventories.get(key).cloned() else {
            if let Some(state) = self.inventories.remove(key) {
                self.unbind(state.bindings.into_keys()).await;
            }
            self.parts.deliveries.reports().forget_departures(key);
            self.forget(&(Kind::Inventory, key.clone()));
            self.forget_secrets();
            return None;
        };
        let mut state = self.inventories.remove(key).unwrap_or_default();
        let recorded = places::recorded(&object);
        let class = if object.meta.deletion_timestamp.is_some() {
            self.end_inventory(key, &object, &recorded, &mut state).await
        } else {
            let refs = self.bind_refs(key, &object, &mut state).await;
            let settled = refs.as_ref().is_ok_and(|refs| refs.iter().all(Ref::is_settled));
            let left = if settled { self.leave_unused(key, &object, &recorded, &state).await } else { Left::default() };
            self.grant(key, &object, &mut state).await;
            self.hold_deletion(key, &object, &recorded);
            self.report_inventory(key, &object, &refs, &left, &state)
        };
        self.inventories.insert(key.clone(), state);
        class
    }

    /// Leaves every place of a deleted inventory, and then lets it go.
    async fn end_inventory(
        &mut self,
        key: &InventoryKey,
        object: &Object<KollectInventorySpec>,
        recorded: &[Destination],
        state: &mut State,
    ) -> Option<Class> {
        self.unbind(std::mem::take(&mut state.bindings).into_keys()).await;
        let left = self.leave_unused(key, object, recorded, state).await;
        if left.pending == 0 {
            for there in &left.stranded {
                tracing::warn!(inventory = %key, cluster = there.cluster, destination = there.description, "rows stay: no sink leads there");
            }
            self.release_deletion(key, object);
            return None;
        }
        let failing = left.failing.clone().unwrap_or_else(|| Failing {
            reason: reasons::PROGRESSING,
            class: Class::Transient,
            message: "the inventory is deleted: its rows are being removed from its sinks".to_owned(),
        });
        let class = failing.class;
        self.report_inventory(key, object, &Err(failing), &left, state);
        Some(class)
    }

    /// Does what the annotations ask for. What stood there before a start may be new, and is done (again), with two
    /// exceptions. What lets rows go was said of other rows; and what hurries would end the interval of an earlier process
    /// with each start: a binding looks by itself whether that was written since its last export.
    async fn grant(&mut self, key: &InventoryKey, object: &Object<KollectInventorySpec>, state: &mut State) {
        if state.mass_deletion.take(object, ALLOW_MASS_DELETION) == Asked::Since {
            self.release_mass_deletions(&key.namespace);
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
    async fn bind_refs(
        &mut self,
        key: &InventoryKey,
        object: &Object<KollectInventorySpec>,
        state: &mut State,
    ) -> Result<Vec<Ref>, Failing> {
        let failing = |reason, message: String| Failing { reason, class: Class::Terminal, message };
        let refused = match &object.spec {
            Err(error) => Some(failing(reasons::INVALID_SPEC, error.to_string())),
            Ok(spec) if spec.suspend => Some(failing(
                reasons::SUSPENDED,
                "spec.suspend is true: nothing is exported and the rows stay in every sink".to_owned(),
            )),
            Ok(_) => self.name_conflict(key),
        };
        // A scope that cannot be read might forbid any of the sinks.
        let ceiling = self.shelves.ceiling(&key.namespace).map_err(|denial| failing(denial.reason, denial.message));
        let (spec, ceiling) = match (refused, &object.spec, ceiling) {
            (None, Ok(spec), Ok(ceiling)) => (spec, ceiling),
            (Some(refused), ..) | (None, Ok(_), Err(refused)) => {
                self.unbind(std::mem::take(&mut state.bindings).into_keys()).await;
                return Err(refused);
            }
            (None, Err(error), _) => return Err(failing(reasons::INVALID_SPEC, error.to_string())),
        };
        let mut refs = Vec::new();
        for (family, list) in [
            (Family::Snapshot, &spec.snapshot_sink_refs),
            (Family::Database, &spec.database_sink_refs),
            (Family::Event, &spec.event_sink_refs),
        ] {
            for (index, sink) in list.iter().enumerate() {
                refs.push(self.bind_ref(key, object, (spec, &ceiling), (family, index, sink), state).await);
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

    /// Refuses an inventory whose rows would be those of a cluster inventory (D9): that one wins.
    fn name_conflict(&self, key: &InventoryKey) -> Option<Failing> {
        self.shelves.cluster_inventory(key).map(|name| Failing {
            reason: reasons::NAME_CONFLICT,
            class: Class::Terminal,
            message: format!(
                "rows of KollectClusterInventory {name:?} have the same inventory namespace and name; rename one of the two"
            ),
        })
    }

    async fn bind_ref(
        &self,
        key: &InventoryKey,
        object: &Object<KollectInventorySpec>,
        (spec, limits): (&KollectInventorySpec, &Ceiling),
        (family, index, sink): (Family, usize, &InventorySinkRef),
        state: &mut State,
    ) -> Ref {
        let sink_key = SinkKey { family, object: ObjectKey::new(key.namespace.clone(), Name::new(sink.name.as_str())) };
        let there = self.shelves.sinks.get(&sink_key).cloned();
        let sink_spec = there.as_ref().and_then(|there| there.spec.as_ref().ok());
        let asked = interval(sink, sink_spec, spec);
        let raised = limits.raise(asked);
        let interval = raised.as_ref().map_or(asked, |raised| raised.interval);
        let unserved = sink_spec.is_some_and(|spec| !spec.may_hold_rows());
        let leads = if unserved { Leads::Nowhere } else { Leads::Anywhere };
        let field = FieldPath::spec().field(&format!("{}SinkRefs", family.as_str())).index(index);
        let outcome = match &there {
            _ if let Err(denial) = limits.allows_sink(&field, family, &sink_key.object.name) => {
                Err(Obstacle::refused(denial.reason, denial.message))
            }
            None => Err(Obstacle::refused(
                reasons::SINK_NOT_FOUND,
                format!(
                    "{field}: there is no {} {:?} in namespace {:?}; create it or remove the reference",
                    Kind::of_family(family).as_str(),
                    sink.name,
                    key.namespace.as_str()
                ),
            )),
            Some(there) => {
                let binding = BindingKey { inventory: key.clone(), sink: sink_key.clone() };
                let ceiling = sink.max_export_bytes.or(spec.max_export_bytes);
                self.bind_sink(binding, object, there, (interval, ceiling), state).await
            }
        };
        if let Err(Obstacle::Refused(_)) = &outcome {
            let binding = BindingKey { inventory: key.clone(), sink: sink_key.clone() };
            if state.bindings.remove(&binding).is_some() {
                self.parts.deliveries.unbind(binding).await;
            }
        }
        Ref { sink: sink_key, outcome, interval, raised, leads }
    }

    async fn bind_sink(
        &self,
        key: BindingKey,
        inventory: &Object<KollectInventorySpec>,
        sink: &SinkObject,
        (interval, ceiling): (Duration, Option<i64>),
        state: &mut State,
    ) -> Result<(), Obstacle> {
        let Resolved { settings, cluster, versions } = self.resolve(&key.sink, sink)?;
        // Of the interval, what a scope makes of it is in no generation.
        let revision = format!(
            "{}/{}/{}/{}/{versions}/{}",
            inventory.uid(),
            inventory.generation(),
            sink.uid(),
            sink.generation(),
            interval.as_millis()
        );
        if state.bindings.get(&key).is_some_and(|bound| bound.revision == revision) {
            return Ok(());
        }
        let opened = self.open(&settings)?;
        // Where rows go is on record before the first one goes there (D7): it can then be found again.
        let recorded: KollectInventoryStatus = serde_json::from_value(inventory.status.clone()).unwrap_or_default();
        let destination = destination(&key, &cluster, &settings, &*opened);
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
            interval,
            generation: inventory.generation(),
            max_export_bytes: ceiling.and_then(|bytes| NonZeroU64::new(bytes.unsigned_abs())),
            revision: revision.clone(),
        };
        self.parts.deliveries.bind(binding, idle_for).await;
        state.bindings.insert(key, Bound { revision, destination });
        Ok(())
    }

    fn report_inventory(
        &mut self,
        key: &InventoryKey,
        object: &Object<KollectInventorySpec>,
        refs: &Result<Vec<Ref>, Failing>,
        left: &Left,
        state: &State,
    ) -> Option<Class> {
        let table = self.parts.store.existing(&key.namespace);
        let rows = table.as_ref().map_or(0, |table| table.counts().rows);
        let whole = table.is_none_or(|table| table.knowledge().whole());
        self.parts.metrics.inventory_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        let before: KollectInventoryStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
        let now = Self::now();
        let generation = object.generation();
        let views: Vec<SinkView> = refs.iter().flatten().map(|sink| self.view(key, sink)).collect();
        // Why a part is not known changes without any news of the delivery, and so does that a change waits too long.
        let awaits = views.iter().any(|view| matches!(view.report.gap, Some(Gap::Awaited(_))));
        let late = views.iter().filter_map(SinkView::late_in).min();
        self.look_again((Kind::Inventory, key.clone()), if awaits { Some(LISTING) } else { late });
        let (mut findings, class) = match refs {
            Err(failing) => degraded(failing),
            Ok(_) => findings(&views, rows, whole),
        };
        if let (Ok(_), Some(failing)) = (refs, &left.failing)
            && !findings.iter().any(|finding| finding.type_ == types::DEGRADED)
        {
            findings.extend(degraded(failing).0.into_iter().filter(|finding| finding.type_ == types::DEGRADED));
        }
        if let Some(message) = self.held_deletion(&key.namespace)
            && !findings.iter().any(|finding| finding.type_ == types::DEGRADED)
        {
            let (type_, status, reason) = (types::DEGRADED, ConditionStatus::True, reasons::MASS_DELETION_HELD);
            findings.push(Finding { type_, status, reason, message });
        }
        if rows >= SHARD_WARNING_ROWS {
            findings.push(Finding {
                type_: types::EXPORT_SHARD_WARNING,
                status: ConditionStatus::True,
                reason: reasons::APPROACHING_EXPORT_CAP,
                message: format!("{rows} rows; from {SHARD_WARNING_ROWS} on, more and smaller inventories are advised"),
            });
        }
        let sink_exports = match refs {
            Err(_) => before.sink_exports.clone(),
            Ok(_) => views.iter().map(|view| view.export(&before, generation, &now)).collect(),
        };
        let last_export_time = sink_exports.iter().filter_map(|export| export.last_export_time.clone()).max();
        let mut destinations = before.destinations.clone();
        destinations.retain(|there| !left.done.iter().any(|done| same_place(done, there)));
        for bound in state.bindings.values() {
            if !destinations.iter().any(|known| same_place(known, &bound.destination)) {
                destinations.push(bound.destination.clone());
            }
        }
        // A process that has just started knows less than what the last one reported: that stands until it knows better.
        let starting = class.is_none() && views.iter().any(|view| matches!(view.state, SinkState::Pending(_)));
        let conditions = if starting && !before.conditions.is_empty() && before.observed_generation == Some(generation)
        {
            before.conditions.clone()
        } else {
            merge(&before.conditions, &findings, generation, &now)
        };
        let status = KollectInventoryStatus {
            conditions,
            observed_generation: Some(generation),
            item_count: if whole { i64::try_from(rows).unwrap_or(i64::MAX) } else { before.item_count },
            last_export_time: last_export_time.or_else(|| before.last_export_time.clone()),
            sink_exports,
            destinations,
        };
        let substance = substance(&status, &views);
        let status = serde_json::to_value(&status).unwrap_or_default();
        let patience = self.parts.config.control.status_min_interval;
        self.report((Kind::Inventory, key.clone()), &object.status, status, substance, patience);
        class
    }

    fn view(&self, key: &InventoryKey, sink: &Ref) -> SinkView {
        let binding = BindingKey { inventory: key.clone(), sink: sink.sink.clone() };
        let report = self.parts.deliveries.reports().get(&binding).unwrap_or_default();
        let state = match &sink.outcome {
            Err(Obstacle::Refused(failing)) => SinkState::Failing(failing.clone()),
            Err(Obstacle::Wait(why)) => SinkState::Pending((*why).to_owned()),
            Ok(()) => match report.failure.as_ref().or(report.refused.as_ref()) {
                Some(failure) => SinkState::Failing(Failing {
                    reason: failure.reason,
                    class: failure.class,
                    message: if report.blocked {
                        format!("sink circuit breaker open, the destination is probed: {}", failure.message)
                    } else {
                        failure.message.clone()
                    },
                }),
                None if report.blocked && !report.lag().is_zero() => SinkState::Failing(Failing {
                    reason: reasons::EXPORT_FAILED,
                    class: Class::Transient,
                    message: "sink circuit breaker open, the destination is probed".to_owned(),
                }),
                None if let Some(Gap::Awaited(awaited)) = &report.gap => self.waiting(key, awaited),
                None if !report.acknowledged => SinkState::Pending(STARTING.to_owned()),
                None if report.lag() > sink.interval + SYNC_GRACE => SinkState::Late(late(sink.interval)),
                None if report.debounced => SinkState::Debounced,
                None => SinkState::Exported,
            },
        };
        let lacks = match &report.gap {
            Some(Gap::Left(parts)) => Some(self.unknown(&key.namespace, parts)),
            Some(Gap::Awaited(_)) | None => None,
        };
        let raised = sink.raised.as_ref().map(|raised| raised.why.clone());
        SinkView { name: sink.sink.to_string(), state, report, interval: sink.interval, raised, lacks }
    }

    /// Says what a document waits for.
    fn waiting(&self, key: &InventoryKey, awaited: &Awaited) -> SinkState {
        let lacks = self.unknown(&key.namespace, &awaited.parts);
        let grace = crate::api::v1alpha1::Duration::from(self.parts.config.collection.unknown_grace);
        let end = match awaited.until {
            Some(_) => format!("after {grace} (--unknown-grace) it is written without"),
            None => "nothing is known yet, and nothing is written before that".to_owned(),
        };
        let why = format!("the document waits for the first list of {lacks}; {end}");
        if awaited.since.elapsed() < LISTING { SinkState::Pending(why) } else { SinkState::Awaiting(why) }
    }
}

/// Says that a change waits although its interval is over.
fn late(interval: Duration) -> String {
    let interval = crate::api::v1alpha1::Duration::from(interval);
    format!(
        "a change has been waiting for more than {} s beyond the interval of {interval}: its delivery, or those of other \
         inventories to the same destination, take that long",
        SYNC_GRACE.as_secs()
    )
}

/// Returns for how long nothing was written, as far as wall clocks can tell: a write that lies in the future, since a
/// clock was set back, counts as one that far in the past.
fn idle_for(last_write: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(last_write).unsigned_abs()
}

/// Returns the least time between two writes: the reference says it, else the sink, else the inventory.
fn interval(sink: &InventorySinkRef, sink_spec: Option<&SinkSpec>, inventory: &KollectInventorySpec) -> Duration {
    let own = sink_spec.and_then(|spec| spec.common().export_min_interval);
    sink.export_min_interval.or(own).unwrap_or(inventory.export_min_interval).get()
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
    use crate::api::v1alpha1::{KollectDatabaseSinkSpec, KollectSnapshotSinkSpec};
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
            let inventory = serde_json::from_value(with(json!({}), of_inventory)).unwrap();
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
