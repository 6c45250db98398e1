//! The end of what a binding did: the way is free for others, and a place that is left is cleaned up.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Binding, Deliverer, Departing, Departure, Ended, Failure, Job, Known, Leaving, Place, Report, outcome_of, work,
};
use crate::error::{Class, Classify, chain};
use crate::schedule::{Outcome, Phase, Purpose, Route};
use crate::sinks::Sink;

impl Deliverer {
    /// Takes a place on, unless somebody delivers there.
    pub(super) fn leave(&mut self, leaving: Leaving, epoch: u64, now: Instant) {
        let place = Place::of(&*leaving.sink, &leaving.scope);
        let used = self.bindings.values().any(|bound| Place::of(&*bound.binding.sink, &bound.binding.scope) == place);
        if used {
            return;
        }
        let (sink, valid) = (leaving.sink.clone(), CancellationToken::new());
        if let Some(before) = self.leavings.insert(place.clone(), Departing { leaving, epoch, valid }) {
            before.valid.cancel();
        }
        let route = Route { destination: &sink.destination().id, lane: sink.lane() };
        self.schedule.bind(&Job::Leave(place), route, Duration::ZERO, None, now);
    }

    /// Ends the clean-up of a place that is used again.
    pub(super) fn stay(&mut self, place: &Place) {
        self.give_up(place);
        self.reports.stay(place);
    }

    /// Ends the clean-up of a place.
    pub(super) fn give_up(&mut self, place: &Place) {
        if let Some(departing) = self.leavings.remove(place) {
            departing.valid.cancel();
            self.schedule.unbind(&Job::Leave(place.clone()));
        }
    }

    /// Runs the clean-up of a place once.
    pub(super) fn start_leaving(&mut self, place: Place, jobs: &mut JoinSet<Ended>) {
        let Some(departing) = self.leavings.get(&place) else { return };
        let (leaving, epoch, valid) = (departing.leaving.clone(), departing.epoch, departing.valid.clone());
        let scope = &leaving.scope;
        let bound = self.bindings.values().map(|bound| &bound.binding);
        let others =
            bound.filter(|other| other.scope.inventory == scope.inventory && other.scope.cluster == scope.cluster);
        let others: Vec<Arc<dyn Sink>> = others.map(|other| other.sink.sink()).collect();
        let turn = self.turn(place.clone());
        jobs.spawn(async move {
            let started = Instant::now();
            let work = async {
                let _turn = turn.lock().await;
                work::leave(&leaving, &others).await
            };
            let result = valid.run_until_cancelled(work).await;
            let (purpose, known, scopes) = (Purpose::Deliver, Known::Parts, Vec::new());
            Ended { job: Job::Leave(place), epoch, purpose, started, result, known, scopes }
        });
    }

    /// Takes in how the clean-up of a place went.
    pub(super) fn left(&mut self, place: &Place, ended: Ended) {
        let now = Instant::now();
        let current = self.leavings.get(place).is_some_and(|departing| departing.epoch == ended.epoch);
        match ended.result {
            Some(Ok(_)) if current => {
                self.schedule.finished(&ended.job, Outcome::Unchanged, now);
                self.schedule.unbind(&ended.job);
                self.leavings.remove(place);
                tracing::info!(inventory = %place.inventory, cluster = %place.cluster, destination = place.destination, "place left");
                self.reports.depart(place, Departure::Done);
                self.make_way(&place.destination, now);
            }
            Some(Err(error)) if current => {
                let failure = Failure { class: error.class(), reason: error.reason(), message: chain(&error) };
                tracing::error!(
                    inventory = %place.inventory,
                    destination = place.destination,
                    error_class = %failure.class,
                    error = failure.message,
                    "inventory cleanup failed"
                );
                self.schedule.finished(&ended.job, outcome_of(&error), now);
                self.reports.depart(place, Departure::Failed(failure));
            }
            _ => self.schedule.finished(&ended.job, Outcome::Unchanged, now),
        }
    }

    /// Gives a scope free that is not delivered in this way any more.
    pub(super) fn release(&mut self, binding: &Binding, now: Instant) {
        binding.sink.release(&binding.scope);
        self.make_way(&binding.sink.destination().id, now);
    }

    /// Lets those try again at once who may have found somebody in their way that left the destination now.
    pub(super) fn make_way(&mut self, destination: &str, now: Instant) {
        for (key, bound) in &self.bindings {
            if bound.binding.sink.destination().id != destination {
                continue;
            }
            let job = Job::Deliver(key.clone());
            let stuck = |report: Report| report.failure.is_some_and(|failure| failure.class == Class::Terminal);
            if self.schedule.phase(&job) == Some(Phase::InFlight) || self.reports.get(key).is_some_and(stuck) {
                self.schedule.hurry(&job, now);
            }
            if !bound.refused.is_empty() {
                self.schedule.audit_by(&job, now);
            }
        }
    }
}
