//! Small writes to our own objects besides their status, beside the control loop: an annotation that has done its work is
//! removed, a connection test gets its owner and is deleted when its time is over.
//!
//! A reconcile asks for what should be so and does not wait for it. A write that fails is asked for again by a later
//! reconcile, for which the object is queued after a pause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::Value;
use tokio::task::{JoinError, JoinSet};

use crate::error::chain;
use crate::metrics::{Metrics, Verb};
use crate::schedule::backoff::Backoff;
use crate::status::{FIELD_MANAGER, Subject};

/// Writes in flight; whoever finds no place comes back with the next tick.
const PARALLEL: usize = 4;
/// Deadline of one write.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is to be written.
#[derive(Debug)]
pub(super) enum Errand {
    /// A merge patch of the object.
    Merge(Value),
    /// The end of the object, if it is still this one.
    Delete(Preconditions),
}

/// A write that is over.
#[derive(Debug)]
struct Done {
    subject: Subject,
    result: Result<(), kube::Error>,
}

/// All writes in flight, at most one for each object.
pub(super) struct Errands {
    client: kube::Client,
    metrics: Arc<Metrics>,
    running: JoinSet<Done>,
    busy: BTreeSet<Subject>,
    failing: BTreeMap<Subject, Backoff>,
}

impl Errands {
    pub(super) fn new(client: kube::Client, metrics: Arc<Metrics>) -> Self {
        Self { client, metrics, running: JoinSet::new(), busy: BTreeSet::new(), failing: BTreeMap::new() }
    }

    /// Asks for a write. Returns when to ask again if there is no place for it now.
    pub(super) fn ask(&mut self, subject: Subject, errand: Errand) -> Option<Duration> {
        if self.busy.contains(&subject) || self.running.len() >= PARALLEL {
            return Some(Duration::ZERO);
        }
        self.busy.insert(subject.clone());
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        self.running.spawn(async move {
            let result = run(client, &metrics, &subject, errand).await;
            Done { subject, result }
        });
        None
    }

    /// Waits until a write is over. Returns whose it was, and after which pause to look again, if it failed. Cancel-safe.
    ///
    /// # Errors
    /// A write that panics is a bug.
    pub(super) async fn next(&mut self) -> Result<(Subject, Option<Duration>), JoinError> {
        let Some(ended) = self.running.join_next().await else { return std::future::pending().await };
        let Done { subject, result } = ended?;
        self.busy.remove(&subject);
        let again = match result {
            Ok(()) => None,
            Err(kube::Error::Api(answer)) if answer.code == 404 => None,
            // Somebody, such as our own status, was faster: the shelf has it in a moment.
            Err(kube::Error::Api(answer)) if answer.code == 409 => Some(Duration::ZERO),
            Err(error) => {
                let backoff = self.failing.entry(subject.clone()).or_insert_with(|| Backoff::new(1));
                let (kind, key) = &subject;
                tracing::warn!(
                    kind = kind.as_str(),
                    namespace = %key.namespace,
                    name = %key.name,
                    attempt = backoff.attempt(),
                    error = chain(&error),
                    "object not written, trying again"
                );
                Some(backoff.next_delay())
            }
        };
        if again.is_none() {
            self.failing.remove(&subject);
        }
        Ok((subject, again))
    }

    /// Abandons all writes: whoever asked for one asks again in its next life.
    pub(super) async fn shutdown(&mut self) {
        self.running.shutdown().await;
    }
}

async fn run(
    client: kube::Client,
    metrics: &Metrics,
    (kind, key): &Subject,
    errand: Errand,
) -> Result<(), kube::Error> {
    let resource = kind.resource();
    let api: Api<DynamicObject> = if key.namespace.is_empty() {
        Api::all_with(client, &resource)
    } else {
        Api::namespaced_with(client, key.namespace.as_str(), &resource)
    };
    let name = key.name.as_str();
    let (verb, result) = match errand {
        Errand::Merge(patch) => {
            let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(&patch);
            let request = api.patch(name, &parameters, &patch);
            (Verb::Patch, tokio::time::timeout(DEADLINE, request).await.map(|result| result.map(|_| ())))
        }
        Errand::Delete(preconditions) => {
            let parameters = DeleteParams::default().preconditions(preconditions);
            let request = api.delete(name, &parameters);
            (Verb::Delete, tokio::time::timeout(DEADLINE, request).await.map(|result| result.map(|_| ())))
        }
    };
    let result = result.unwrap_or_else(|_| Err(kube::Error::Service("no answer within 20 s".into())));
    let code = match &result {
        Ok(()) => Some(200),
        Err(kube::Error::Api(answer)) => Some(answer.code),
        Err(_) => None,
    };
    metrics.api_request(verb, &resource.plural, code);
    result
}
