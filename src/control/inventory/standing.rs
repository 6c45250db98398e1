//! How an inventory stands: what the delivery stage reports of each binding becomes a status.

use std::time::Duration;

use super::report::{SinkState, SinkView, degraded, findings, rolled_up, substance};
use super::{Control, Failing, Inventory, Left, Obstacle, Ref, STARTING, SYNC_GRACE, State, rollup, same_place};
use crate::api::v1alpha1::KollectInventoryStatus;
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::deliver::{Gap, SHARD_WARNING_ROWS};
use crate::error::Class;
use crate::model::{BindingKey, Namespace, Part};
use crate::store::{Awaited, HOME, Reader};

/// First lists that take no longer are not worth a status of their own.
const LISTING: Duration = Duration::from_secs(10);

impl Control {
    /// Gives an inventory its status; returns the class of what is wrong.
    pub(super) fn report_inventory(
        &mut self,
        it: Inventory<'_>,
        refs: &Result<Vec<Ref>, Failing>,
        left: &Left,
        state: &State,
    ) -> Option<Class> {
        let Inventory { subject, key, object } = it;
        let (rows, whole) = self.rows_of(it, state);
        self.parts.metrics.inventory_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        let before: KollectInventoryStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
        let now = Self::now();
        let generation = object.generation();
        let views: Vec<SinkView> = refs.iter().flatten().map(|sink| self.view(it, sink)).collect();
        // Why a part is not known changes without any news of the delivery, and so does that a change waits too long.
        let awaits = views.iter().any(|view| matches!(view.report.gap, Some(Gap::Awaited(_))));
        let late = views.iter().filter_map(SinkView::late_in).min();
        self.look_again(subject.clone(), if awaits { Some(LISTING) } else { late });
        let (mut findings, class) = match refs {
            Err(failing) => degraded(failing),
            Ok(_) => findings(&views, rows, whole),
        };
        if let (Ok(_), Some(failing)) = (refs, &left.failing)
            && !findings.iter().any(|finding| finding.type_ == types::DEGRADED)
        {
            findings.extend(degraded(failing).0.into_iter().filter(|finding| finding.type_ == types::DEGRADED));
        }
        if !it.is_roll_up()
            && let Some(message) = self.held_deletion(&key.namespace)
            && !findings.iter().any(|finding| finding.type_ == types::DEGRADED)
        {
            let (type_, status, reason) = (types::DEGRADED, ConditionStatus::True, reasons::MASS_DELETION_HELD);
            findings.push(Finding { type_, status, reason, message });
        }
        if it.is_roll_up() {
            rolled_up(&mut findings, &before.conditions);
        } else if rows >= SHARD_WARNING_ROWS {
            findings.push(Finding {
                type_: types::EXPORT_SHARD_WARNING,
                status: ConditionStatus::True,
                reason: reasons::APPROACHING_EXPORT_CAP,
                message: format!("{rows} rows; from {SHARD_WARNING_ROWS} on, more and smaller inventories are advised"),
            });
        }
        let mut sink_exports: Vec<_> = match refs {
            Err(_) => before.sink_exports.clone(),
            Ok(_) => views.iter().map(|view| view.export(&before, generation, &now)).collect(),
        };
        let shards = state.reading.as_ref().filter(|_| refs.is_ok() && whole).map(Reader::shards);
        if let (Ok(_), Some(reading)) = (refs, &state.reading) {
            let digest = reading.counts().digest.to_string();
            rollup::stamp(&mut sink_exports, &before.sink_exports, &digest, &rollup::checksum(&reading.shards()));
        }
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
        let mut substance = substance(&status, &views);
        let status = if it.is_roll_up() {
            let before = serde_json::from_value(object.status.clone()).unwrap_or_default();
            let status = rollup::complete(status, &before, state.targets, shards.as_deref());
            substance["targetCount"] = status.target_count.into();
            serde_json::to_value(&status)
        } else {
            serde_json::to_value(&status)
        };
        let patience = self.parts.config.control.status_min_interval;
        self.report(subject.clone(), &object.status, status.unwrap_or_default(), substance, patience);
        class
    }

    /// Counts the rows of an inventory, and tells whether all of them are known.
    fn rows_of(&self, it: Inventory<'_>, state: &State) -> (usize, bool) {
        if it.is_roll_up() {
            let reading = state.reading.as_ref();
            return (reading.map_or(0, |reading| reading.counts().rows), reading.is_some_and(Reader::is_whole));
        }
        let table = self.parts.store.existing(&it.key.namespace);
        let rows = table.as_ref().map_or(0, |table| table.counts().rows);
        (rows, table.is_none_or(|table| table.knowledge().whole()))
    }

    fn view(&self, it: Inventory<'_>, sink: &Ref) -> SinkView {
        let binding = BindingKey { inventory: it.key.clone(), sink: sink.sink.clone() };
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
                None if let Some(Gap::Awaited(awaited)) = &report.gap => self.waiting(it, awaited),
                None if !report.acknowledged => SinkState::Pending(STARTING.to_owned()),
                None if report.lag() > sink.interval + SYNC_GRACE => SinkState::Late(late(sink.interval)),
                None if report.debounced => SinkState::Debounced,
                None => SinkState::Exported,
            },
        };
        let lacks = match &report.gap {
            Some(Gap::Left(parts)) => Some(self.lacking(it, parts)),
            Some(Gap::Awaited(_)) | None => None,
        };
        let raised = sink.raised.as_ref().map(|raised| raised.why.clone());
        let namespace = Some(&sink.sink.object.namespace).filter(|_| it.is_roll_up());
        SinkView {
            name: sink.sink.to_string(),
            namespace: namespace.map(ToString::to_string).unwrap_or_default(),
            state,
            report,
            interval: sink.interval,
            raised,
            lacks,
        }
    }

    /// Says what was never listed, and why.
    fn lacking(&self, it: Inventory<'_>, parts: &[Part]) -> String {
        let home = |part: &Part| match (it.is_roll_up(), part.namespace.is_empty()) {
            (false, _) => it.key.namespace.clone(),
            (true, true) => Namespace::new(HOME),
            (true, false) => part.namespace.clone(),
        };
        self.unknown(home, parts)
    }

    /// Says what a document waits for.
    fn waiting(&self, it: Inventory<'_>, awaited: &Awaited) -> SinkState {
        let lacks = self.lacking(it, &awaited.parts);
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
