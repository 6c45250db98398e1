//! Our own objects as the API server has them: one shelf for each kind, filled by a watch.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::{self, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::api::v1alpha1::Kind;
use crate::model::{Name, Namespace, ObjectKey};
use crate::schedule::backoff::Backoff;

/// The longest wait until a watch that failed is tried again.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// An object with its spec, or why the spec cannot be read.
#[derive(Debug)]
pub(super) struct Object<S> {
    pub(super) meta: ObjectMeta,
    pub(super) spec: Result<S, SpecError>,
    pub(super) status: Value,
}

/// A spec that does not decode. The text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}; correct the field and apply the object again")]
pub(super) struct SpecError {
    path: String,
    message: String,
}

impl SpecError {
    fn of<D: DeserializeOwned>(error: &serde_path_to_error::Error<serde_json::Error>, spec: &Value) -> Self {
        let known = error.path().to_string();
        let path = if known == "." { culprit::<D>(spec) } else { Some(known) };
        let path = path.map_or_else(|| "spec".to_owned(), |path| format!("spec.{path}"));
        Self { path, message: error.inner().to_string() }
    }
}

/// Finds the field without which a spec can be read: a place inside of a flattened struct is not told.
fn culprit<D: DeserializeOwned>(spec: &Value) -> Option<String> {
    let fields = spec.as_object()?;
    let guilty = |field: &str| {
        let mut rest = fields.clone();
        rest.remove(field);
        D::deserialize(Value::Object(rest)).is_ok()
    };
    fields.keys().find(|field| guilty(field)).cloned()
}

impl<S> Object<S> {
    pub(super) fn generation(&self) -> i64 {
        self.meta.generation.unwrap_or_default()
    }

    pub(super) fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }
}

impl<S> Object<S> {
    fn read<D: DeserializeOwned + Into<S>>(object: DynamicObject) -> (ObjectKey, Self) {
        let DynamicObject { mut metadata, mut data, .. } = object;
        forget_fields(&mut metadata);
        let key = key_of(&metadata);
        let status = data.get_mut("status").map(Value::take).unwrap_or_default();
        let spec = data.get_mut("spec").map_or_else(|| Value::Object(serde_json::Map::new()), Value::take);
        let spec = serde_path_to_error::deserialize::<_, D>(&spec)
            .map(Into::into)
            .map_err(|error| SpecError::of::<D>(&error, &spec));
        (key, Self { meta: metadata, spec, status })
    }
}

/// Forgets who wrote which field outside of the metadata: that is several times as large as the object, and nobody asks.
fn forget_fields(meta: &mut ObjectMeta) {
    let Some(entries) = &mut meta.managed_fields else { return };
    entries.retain_mut(|entry| {
        let fields = entry.fields_v1.as_mut().and_then(|fields| fields.0.as_object_mut());
        fields.is_some_and(|fields| {
            fields.retain(|name, _| name == "f:metadata");
            !fields.is_empty()
        })
    });
}

/// Returns namespace and name; the namespace of a cluster-scoped object is empty.
pub(super) fn key_of(meta: &ObjectMeta) -> ObjectKey {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ObjectKey::new(Namespace::new(text(&meta.namespace)), Name::new(text(&meta.name)))
}

/// What is new about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It is new or gone, or its spec or metadata changed.
    Spec,
    /// Only its status changed: as a rule that is our own write.
    Status,
}

/// All objects of one kind.
#[derive(Debug)]
pub(super) struct Shelf<S> {
    objects: BTreeMap<ObjectKey, Arc<Object<S>>>,
    /// Objects of the lists that are under way.
    listing: BTreeMap<Place, BTreeSet<ObjectKey>>,
    synced: bool,
}

impl<S> Default for Shelf<S> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: BTreeMap::new(), synced: false }
    }
}

impl<S> Shelf<S> {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<Object<S>>> {
        self.objects.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<Object<S>>)> {
        self.objects.iter()
    }

    /// Returns the objects of one namespace.
    pub(super) fn within<'a>(
        &'a self,
        namespace: &'a Namespace,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Object<S>>)> {
        let first = ObjectKey::new(namespace.clone(), Name::new(""));
        self.objects.range(first..).take_while(move |(key, _)| key.namespace == *namespace)
    }

    /// Tells whether a first list is complete.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }
}

impl<S: DeserializeOwned> Shelf<S> {
    /// Takes an event in; returns the keys that it concerns, and how.
    pub(super) fn take(&mut self, heard: Heard) -> Vec<(ObjectKey, News)> {
        self.take_as::<S>(heard)
    }
}

impl<S> Shelf<S> {
    /// Takes an event in whose object has a spec of its own form.
    pub(super) fn take_as<D: DeserializeOwned + Into<S>>(
        &mut self,
        Heard { place, event }: Heard,
    ) -> Vec<(ObjectKey, News)> {
        match event {
            Event::Init => {
                self.listing.remove(&place);
                Vec::new()
            }
            Event::InitApply(object) => {
                let (key, news) = self.put::<D>(object);
                self.listing.entry(place).or_default().insert(key.clone());
                vec![(key, news)]
            }
            Event::InitDone => {
                self.synced = true;
                let listing = self.listing.remove(&place).unwrap_or_default();
                // A list says nothing of what is elsewhere.
                let here = |key: &ObjectKey| place.as_ref().is_none_or(|namespace| *namespace == key.namespace);
                let gone = self.objects.extract_if(.., |key, _| here(key) && !listing.contains(key));
                gone.map(|(key, _)| (key, News::Spec)).collect()
            }
            Event::Apply(object) => vec![self.put::<D>(object)],
            Event::Delete(object) => {
                let key = key_of(&object.metadata);
                self.objects.remove(&key);
                vec![(key, News::Spec)]
            }
        }
    }

    fn put<D: DeserializeOwned + Into<S>>(&mut self, object: DynamicObject) -> (ObjectKey, News) {
        let (key, object) = Object::read::<D>(object);
        let same = |before: &Arc<Object<S>>| {
            let (old, new) = (&before.meta, &object.meta);
            old.uid == new.uid
                && old.generation == new.generation
                && old.annotations == new.annotations
                && old.labels == new.labels
                && old.deletion_timestamp == new.deletion_timestamp
        };
        let news = if self.objects.get(&key).is_some_and(same) { News::Status } else { News::Spec };
        self.objects.insert(key.clone(), Arc::new(object));
        (key, news)
    }
}

/// Where a watch looks: one namespace, or all.
pub(super) type Place = Option<Namespace>;

/// What one watch of one of our kinds said.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) place: Place,
    pub(super) event: Event<DynamicObject>,
}

/// What a watch of our own objects, or of namespaces, delivers.
#[derive(Debug)]
pub(super) enum Notice {
    /// Of one of our kinds.
    Object(Kind, Heard),
    /// One of our kinds may not be listed in a namespace.
    Refused(Kind, Namespace),
    /// Of a namespace.
    Namespace(Event<PartialObjectMeta<k8s_openapi::api::core::v1::Namespace>>),
}

/// Watches one of our kinds for ever. Failures are logged once and tried again with backoff.
pub(super) async fn watch_kind(client: kube::Client, kind: Kind, place: Place, notices: mpsc::Sender<Notice>) {
    let api: Api<DynamicObject> = match &place {
        None => Api::all_with(client, &kind.resource()),
        Some(namespace) => Api::namespaced_with(client, namespace.as_str(), &kind.resource()),
    };
    let stream = watcher::watcher(api, watcher::Config::default()).backoff(delays());
    forward(stream, kind.as_str(), notices, |event| match event {
        Ok(event) => Some(Notice::Object(kind, Heard { place: place.clone(), event })),
        Err(watcher::Error::InitialListFailed(kube::Error::Api(answer))) if answer.code == 403 => {
            place.clone().map(|namespace| Notice::Refused(kind, namespace))
        }
        Err(_) => None,
    })
    .await;
}

/// Watches labels and annotations of all namespaces for ever.
pub(super) async fn watch_namespaces(client: kube::Client, notices: mpsc::Sender<Notice>) {
    let api: Api<PartialObjectMeta<k8s_openapi::api::core::v1::Namespace>> = Api::all(client);
    let stream = watcher::watcher(api, watcher::Config::default()).backoff(delays());
    forward(stream, "Namespace", notices, |event| event.ok().map(Notice::Namespace)).await;
}

/// Full jitter up to [`MAX_DELAY`], from the start again after two minutes without failure.
struct Delays(Backoff);

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next_delay())
    }
}

impl utils::Backoff for Delays {
    fn reset(&mut self) {
        self.0.reset();
    }
}

fn delays() -> ResetTimerBackoff<Delays> {
    let backoff = Backoff::capped(RandomState::new().hash_one(MAX_DELAY), MAX_DELAY);
    ResetTimerBackoff::new(Delays(backoff), Duration::from_mins(2))
}

async fn forward<T>(
    stream: impl futures::Stream<Item = Result<T, watcher::Error>>,
    kind: &str,
    notices: mpsc::Sender<Notice>,
    notice: impl Fn(Result<T, &watcher::Error>) -> Option<Notice>,
) {
    let mut stream = std::pin::pin!(stream);
    let mut failing = false;
    while let Some(event) = stream.next().await {
        let notice = match event {
            Ok(event) => {
                failing = false;
                notice(Ok(event))
            }
            Err(error) => {
                if !failing {
                    failing = true;
                    tracing::warn!(kind, error = crate::error::chain(&error), "watch failed, trying again");
                }
                notice(Err(&error))
            }
        };
        if let Some(notice) = notice
            && notices.send(notice).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::v1alpha1::{KollectClusterScopeSpec, KollectTargetSpec};

    fn said<S: DeserializeOwned>(spec: &Value) -> String {
        let object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "a"}, "spec": spec});
        let (_, object) = Object::<S>::read::<S>(serde_json::from_value(object).unwrap());
        object.spec.err().unwrap().to_string()
    }

    #[test]
    fn a_spec_that_cannot_be_read_names_the_field() {
        let target = said::<KollectTargetSpec>(&json!({"profileRef": "p", "names": [1]}));
        assert!(target.starts_with("spec.names[0]: invalid type: integer `1`"), "{target}");
        // These fields are read through a flattened struct.
        let scope = said::<KollectClusterScopeSpec>(&json!({"deniedNamespaces": ["a"], "minExportInterval": "soon"}));
        assert!(scope.starts_with("spec.minExportInterval: invalid duration \"soon\""), "{scope}");
        let two = said::<KollectClusterScopeSpec>(&json!({"deniedNamespaces": 1, "minExportInterval": "soon"}));
        assert!(two.starts_with("spec: invalid type"), "{two}");
    }

    #[test]
    fn of_who_wrote_what_only_the_metadata_is_kept() {
        let entry = |fields: Value| json!({"manager": "m", "operation": "Update", "fieldsV1": fields});
        let annotations = json!({"f:annotations": {"f:a": {}}});
        let object = json!({"metadata": {"name": "a", "managedFields": [
            entry(json!({"f:metadata": annotations, "f:spec": {"f:x": {}}})),
            entry(json!({"f:status": {"f:x": {}}})),
        ]}});
        let (_, object) = Object::<Value>::read::<Value>(serde_json::from_value(object).unwrap());
        let kept = serde_json::to_value(&object.meta.managed_fields).unwrap();
        assert_eq!(kept, json!([entry(json!({"f:metadata": annotations}))]));
    }

    #[test]
    fn a_list_of_one_namespace_removes_nothing_from_another() {
        let mut shelf: Shelf<Value> = Shelf::default();
        let object = |namespace: &str, name: &str| {
            let metadata = json!({"namespace": namespace, "name": name});
            serde_json::from_value::<DynamicObject>(json!({"metadata": metadata, "spec": {}})).unwrap()
        };
        let mut hear = |namespace: Option<&'static str>, event| {
            let keys = shelf.take(Heard { place: namespace.map(Namespace::new), event });
            keys.into_iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>()
        };
        for (namespace, name) in [("a", "one"), ("b", "two")] {
            hear(Some(namespace), Event::Init);
            hear(Some(namespace), Event::InitApply(object(namespace, name)));
        }
        assert_eq!(hear(Some("a"), Event::InitDone), [""; 0]);
        assert_eq!(hear(Some("b"), Event::InitDone), [""; 0], "the lists of two namespaces run at the same time");
        hear(Some("a"), Event::Init);
        assert_eq!(hear(Some("a"), Event::InitDone), ["a/one"]);
        hear(None, Event::Init);
        assert_eq!(hear(None, Event::InitDone), ["b/two"], "a list of everything");
    }
}
