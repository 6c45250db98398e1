//! Probes of sinks: a few at once, beside the control loop, which takes each result as one more event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::resolve::Failing;
use crate::api::v1alpha1::conditions::reasons;
use crate::error::Class;
use crate::metrics::{Metrics, Outcome, SinkType};
use crate::sinks::Sink;
use crate::status::Subject;

/// Probes in flight.
const PARALLEL: usize = 4;
/// Deadline of one probe.
const DEADLINE: Duration = Duration::from_secs(15);

/// A sink to be probed.
#[derive(Debug)]
pub(super) struct Order {
    /// Who asks.
    pub(super) subject: Subject,
    /// What it asks about: the answer to an older question is of no use.
    pub(super) revision: String,
    pub(super) sink: Arc<dyn Sink>,
}

/// What a probe found: a sentence for people, or what is wrong.
pub(super) type Verdict = Result<String, Failing>;

/// A probe that is over.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) subject: Subject,
    pub(super) revision: String,
    pub(super) kind: SinkType,
    pub(super) verdict: Verdict,
    pub(super) elapsed: Duration,
}

/// The probes that wait, at most one for each object, and those in flight.
#[derive(Debug)]
pub(super) struct Probes {
    metrics: Arc<Metrics>,
    waiting: VecDeque<Order>,
    running: JoinSet<Probed>,
}

impl Probes {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, waiting: VecDeque::new(), running: JoinSet::new() }
    }

    /// Asks for a probe; a newer order of an object takes the place of one that waits.
    pub(super) fn order(&mut self, order: Order) {
        match self.waiting.iter_mut().find(|waiting| waiting.subject == order.subject) {
            Some(waiting) => *waiting = order,
            None => self.waiting.push_back(order),
        }
        self.start();
    }

    /// Forgets an order that waits. One in flight ends by itself, and nobody takes its answer.
    pub(super) fn cancel(&mut self, subject: &Subject) {
        self.waiting.retain(|order| order.subject != *subject);
    }

    /// Waits until a probe is over. Cancel-safe.
    ///
    /// # Errors
    /// A probe that panics is a bug.
    pub(super) async fn next(&mut self) -> Result<Probed, JoinError> {
        let Some(ended) = self.running.join_next().await else { return std::future::pending().await };
        self.start();
        let probed = ended?;
        let outcome = if probed.verdict.is_ok() { Outcome::Success } else { Outcome::Failure };
        self.metrics.probed(probed.kind, outcome);
        Ok(probed)
    }

    /// Abandons all probes.
    pub(super) async fn shutdown(&mut self) {
        self.waiting.clear();
        self.running.shutdown().await;
    }

    fn start(&mut self) {
        while self.running.len() < PARALLEL {
            let Some(order) = self.waiting.pop_front() else { return };
            self.running.spawn(probe(order));
        }
    }
}

async fn probe(order: Order) -> Probed {
    let since = Instant::now();
    let verdict = match tokio::time::timeout(DEADLINE, order.sink.probe()).await {
        Ok(Ok(sentence)) => Ok(sentence),
        Ok(Err(error)) => Err(of_connection(Failing::from(&error))),
        Err(_) => Err(Failing {
            reason: reasons::CONNECTION_TEST_FAILED,
            class: Class::Transient,
            message: format!(
                "no answer from {} within {} s; check the address, the firewall and network policies",
                order.sink.destination().description,
                DEADLINE.as_secs()
            ),
        }),
    };
    let Order { subject, revision, sink } = order;
    Probed { subject, revision, kind: sink.kind(), verdict, elapsed: since.elapsed() }
}

/// Returns the failure under a reason that fits a probe: those of exports, and of specs, are about something else.
pub(super) fn of_connection(failing: Failing) -> Failing {
    let reason = match failing.reason {
        reasons::EXPORT_FAILED | reasons::EXPORT_TERMINAL | reasons::INVALID_SPEC => reasons::CONNECTION_TEST_FAILED,
        reason => reason,
    };
    Failing { reason, ..failing }
}

#[cfg(test)]
mod tests;
