//! Writes the status of our own objects: server-side apply, the newest value of each object, a few at a time.
//!
//! Whoever has something to report [puts](StatusWriter::put) it and goes on. A value that is put while an older one of
//! the same object waits takes its place, so that the queue is bounded by the number of objects. A change of conditions
//! that people want to hear of becomes an Event as well, in [`events`].

pub mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::v1alpha1::Kind;
use crate::metrics::{Metrics, Verb};
use crate::model::ObjectKey;
use crate::schedule::backoff::Backoff;

/// The field manager of every field that we write.
pub const FIELD_MANAGER: &str = "kollect";

/// Patches in flight.
const PARALLEL: usize = 4;
/// Deadline of one patch.
const DEADLINE: Duration = Duration::from_secs(20);

/// An object whose status is written.
pub type Subject = (Kind, ObjectKey);

/// The queue of statuses to write. Cheap to clone.
#[derive(Clone)]
pub struct StatusWriter {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    metrics: Arc<Metrics>,
    waiting: Mutex<BTreeMap<Subject, Value>>,
    wake: Notify,
}

impl StatusWriter {
    /// Makes the queue; [`StatusWriter::run`] empties it.
    pub fn new(client: kube::Client, metrics: Arc<Metrics>) -> Self {
        Self { inner: Arc::new(Inner { client, metrics, waiting: Mutex::default(), wake: Notify::new() }) }
    }

    /// Asks for a status to be written.
    pub fn put(&self, subject: Subject, status: Value) {
        self.inner.waiting.lock().insert(subject, status);
        self.inner.wake.notify_one();
    }

    /// Returns the number of statuses that wait.
    pub fn depth(&self) -> usize {
        self.inner.waiting.lock().len()
    }

    /// Writes until `cancel` is cancelled, then what still waits, each once.
    ///
    /// # Errors
    /// A write that panics is a bug and ends this.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let mut writes: JoinSet<Subject> = JoinSet::new();
        let mut busy = BTreeSet::new();
        loop {
            while writes.len() < PARALLEL {
                let Some((subject, status)) = next(&mut self.inner.waiting.lock(), &busy) else { break };
                busy.insert(subject.clone());
                let (inner, cancel) = (self.inner.clone(), cancel.clone());
                writes.spawn(async move {
                    inner.write(&subject, status, &cancel).await;
                    subject
                });
            }
            if cancel.is_cancelled() && writes.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(written) = writes.join_next(), if !writes.is_empty() => {
                    busy.remove(&written?);
                }
                () = self.inner.wake.notified() => {}
                () = cancel.cancelled(), if writes.is_empty() => {}
            }
        }
    }
}

/// Takes the first status whose object has no write in flight: of two at once, the older could arrive last and stay.
fn next(waiting: &mut BTreeMap<Subject, Value>, busy: &BTreeSet<Subject>) -> Option<(Subject, Value)> {
    let subject = waiting.keys().find(|subject| !busy.contains(subject))?.clone();
    waiting.remove_entry(&subject)
}

impl Inner {
    /// Writes one status; a failure is tried again until a newer status of the object waits.
    async fn write(&self, subject: &Subject, status: Value, cancel: &CancellationToken) {
        let mut backoff = Backoff::new(1);
        loop {
            match self.patch(subject, &status).await {
                Ok(()) => return,
                // The object is gone, and its status with it.
                Err(kube::Error::Api(refused)) if refused.code == 404 => return,
                Err(error) => {
                    let (kind, key) = subject;
                    tracing::warn!(
                        kind = kind.as_str(),
                        namespace = %key.namespace,
                        name = %key.name,
                        attempt = backoff.attempt(),
                        error = crate::error::chain(&error),
                        "status not written, trying again"
                    );
                }
            }
            if cancel.run_until_cancelled(tokio::time::sleep(backoff.next_delay())).await.is_none() {
                return;
            }
            if self.waiting.lock().contains_key(subject) {
                return;
            }
        }
    }

    async fn patch(&self, (kind, key): &Subject, status: &Value) -> Result<(), kube::Error> {
        let resource = kind.resource();
        let api: Api<DynamicObject> = if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), key.namespace.as_str(), &resource)
        };
        let mut object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": key.name.as_str()},
            "status": status,
        });
        if !key.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(key.namespace.as_str());
        }
        let mut parameters = PatchParams::apply(FIELD_MANAGER).force();
        let mut patch = Patch::Apply(object);
        if status.as_object().is_some_and(serde_json::Map::is_empty) {
            // The server takes an applied status without any field for no status at all, and keeps the one it has. Only
            // that of a sink can be empty, and these are its fields.
            parameters.force = false;
            patch = Patch::Merge(json!({"status": {"conditions": null, "preview": null}}));
        }
        let request = api.patch_status(key.name.as_str(), &parameters, &patch);
        let result = match tokio::time::timeout(DEADLINE, request).await {
            Ok(result) => result.map(|_| ()),
            Err(_) => Err(kube::Error::Service("no answer within 20 s".into())),
        };
        let code = match &result {
            Ok(()) => Some(200),
            Err(kube::Error::Api(refused)) => Some(refused.code),
            Err(_) => None,
        };
        self.metrics.api_request(Verb::Patch, &resource.plural, code);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Name, Namespace};

    #[test]
    fn an_object_has_one_write_in_flight_and_does_not_hold_up_others() {
        let subject = |name: &str| (Kind::Target, ObjectKey::new(Namespace::new("team-a"), Name::new(name)));
        let mut waiting = BTreeMap::from([(subject("a"), json!(2)), (subject("b"), json!(1))]);
        let mut busy = BTreeSet::from([subject("a")]);
        assert_eq!(next(&mut waiting, &busy), Some((subject("b"), json!(1))));
        assert_eq!(next(&mut waiting, &busy), None);
        busy.remove(&subject("a"));
        assert_eq!(next(&mut waiting, &busy), Some((subject("a"), json!(2))));
    }
}
