//! What is done for destinations beside deliveries: probes of silent ones, heartbeats, strays, reminders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Deliverer, Place, Stray, is_silence, limits};
use crate::error::chain;
use crate::export::Scope;
use crate::model::BindingKey;
use crate::sinks::Sink;

/// Deadline of one probe of a destination that does not answer.
const PROBE: Duration = Duration::from_secs(10);

/// A heartbeat for one destination.
struct Pulse {
    sink: Arc<dyn Sink>,
    scopes: Vec<Arc<Scope>>,
}

impl Deliverer {
    pub(super) fn start_probe(&self, destination: String, probes: &mut JoinSet<(String, bool)>) {
        let bound = self.bindings.values().map(|bound| bound.binding.sink.sink());
        let leaving = self.leavings.values().map(|departing| departing.leaving.sink.clone());
        let sink = bound.chain(leaving).find(|sink| sink.destination().id == destination);
        probes.spawn(async move {
            let answered = match sink {
                None => true,
                Some(sink) => match tokio::time::timeout(PROBE, sink.probe()).await {
                    Ok(Ok(_)) => true,
                    Ok(Err(error)) => !is_silence(&error),
                    Err(_) => false,
                },
            };
            (destination, answered)
        });
    }

    pub(super) fn probed(&mut self, (destination, answered): &(String, bool)) {
        let now = Instant::now();
        self.schedule.probed(destination, *answered, now);
        if *answered {
            tracing::info!(destination, "destination answers again");
            self.observe_destination(destination, now);
        }
    }

    /// Offers the scopes of ours at a destination that nobody delivers to.
    pub(super) fn strays(&self, key: &BindingKey, scopes: Vec<Scope>) {
        let Some(bound) = self.bindings.get(key) else { return };
        let sink = &bound.binding.sink;
        for scope in scopes {
            let place = Place::of(&**sink, &scope);
            let bound =
                self.bindings.values().any(|bound| Place::of(&*bound.binding.sink, &bound.binding.scope) == place);
            if !bound && !self.leavings.contains_key(&place) {
                self.reports.stray(Stray { place, scope: Arc::new(scope), via: key.sink.clone(), sink: sink.sink() });
            }
        }
    }

    /// Sends one heartbeat to each destination for the bindings that have nothing to say otherwise.
    pub(super) fn beat(&self, beats: &mut JoinSet<()>) {
        let mut destinations: BTreeMap<&str, Pulse> = BTreeMap::new();
        for (key, bound) in &self.bindings {
            let healthy = self.reports.get(key).is_some_and(|report| report.acknowledged && report.failure.is_none());
            if healthy {
                let sink = &bound.binding.sink;
                let pulse = destinations
                    .entry(&sink.destination().id)
                    .or_insert_with(|| Pulse { sink: sink.sink(), scopes: Vec::new() });
                pulse.scopes.push(bound.binding.scope.clone());
            }
        }
        for Pulse { sink, scopes } in destinations.into_values() {
            beats.spawn(async move {
                let scopes: Vec<&Scope> = scopes.iter().map(AsRef::as_ref).collect();
                if let Err(error) = sink.heartbeat(&scopes).await {
                    tracing::warn!(sink_type = sink.kind().as_str(), error = chain(&error), "heartbeat failed");
                }
            });
        }
    }

    /// Warns again of the inventories that are large.
    pub(super) fn remind(&self) {
        for (key, bound) in &self.bindings {
            limits::warn(&self.metrics, key, bound.reader.counts());
        }
    }
}
