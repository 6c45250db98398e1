//! The Secrets that sinks point at, and no others.
//!
//! In a namespace with such a Secret the metadata of Secrets is watched; the data of a wanted one is read when its
//! version changes, so that a rotated credential is in use within seconds. Nothing is kept of Secrets that nobody wants.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::model::{Name, Namespace, ObjectKey};
use crate::secret::Secret;

/// Which namespaces may use a Secret: a comma list, or `*`.
pub(super) const SHARED_WITH: &str = "kollect.dev/shared-with";
/// Where the watch is refused, and after a failed read, wanted Secrets are read this often.
const POLL: Duration = Duration::from_secs(20);

/// The content of a Secret.
#[derive(Debug)]
pub(super) struct Content {
    /// UID and resourceVersion: changes with every write.
    pub(super) version: String,
    /// Namespaces that may use it, besides its own.
    pub(super) shared_with: Option<String>,
    data: BTreeMap<String, Secret>,
}

impl Content {
    /// Returns the first of the keys whose value is text that is not blank, trimmed.
    pub(super) fn first(&self, keys: &[&str]) -> Option<Secret> {
        keys.iter().filter_map(|key| self.data.get(*key)).find_map(|secret| {
            let text = secret.expose().trim();
            (!text.is_empty()).then(|| Secret::new(text))
        })
    }

    /// Tells whether sinks of a namespace may use it.
    pub(super) fn shared_with(&self, namespace: &Namespace) -> bool {
        let list = self.shared_with.as_deref().unwrap_or_default();
        list.split(',').map(str::trim).any(|entry| entry == "*" || entry == namespace.as_str())
    }

    fn new(secret: KubeSecret) -> Self {
        let meta = secret.metadata;
        let data = secret.data.unwrap_or_default().into_iter();
        Self {
            version: version(&meta),
            shared_with: meta.annotations.and_then(|mut annotations| annotations.remove(SHARED_WITH)),
            data: data.filter_map(|(key, value)| Some((key, Secret::new(String::from_utf8(value.0).ok()?)))).collect(),
        }
    }
}

/// Returns what changes with every write of an object.
fn version(meta: &ObjectMeta) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&meta.uid), text(&meta.resource_version))
}

/// What is known of a wanted Secret.
#[derive(Debug, Clone)]
pub(super) enum Lookup {
    /// It has not been read yet.
    Pending,
    /// It is there.
    Found(Arc<Content>),
    /// It is not.
    Missing,
    /// It cannot be read.
    Failed(String),
}

/// All wanted Secrets. Cheap to clone.
#[derive(Clone)]
pub(super) struct Secrets {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    known: Mutex<BTreeMap<ObjectKey, Lookup>>,
    /// Somebody wants a Secret that was not wanted before, or not any more.
    wanted: Notify,
    /// A lookup changed.
    changed: Notify,
}

impl Secrets {
    pub(super) fn new(client: kube::Client) -> Self {
        let inner = Inner { client, known: Mutex::default(), wanted: Notify::new(), changed: Notify::new() };
        Self { inner: Arc::new(inner) }
    }

    /// Returns what is known of a Secret, and reads it from now on.
    pub(super) fn get(&self, key: &ObjectKey) -> Lookup {
        let mut known = self.inner.known.lock();
        if let Some(lookup) = known.get(key) {
            return lookup.clone();
        }
        known.insert(key.clone(), Lookup::Pending);
        drop(known);
        self.inner.wanted.notify_one();
        Lookup::Pending
    }

    /// Forgets every Secret but these.
    pub(super) fn retain(&self, wanted: &BTreeSet<ObjectKey>) {
        self.inner.known.lock().retain(|key, _| wanted.contains(key));
        self.inner.wanted.notify_one();
    }

    /// Waits until a lookup changes. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Keeps one watch for each namespace with a wanted Secret, until `cancel` is cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let mut watches: JoinSet<()> = JoinSet::new();
        let mut running: HashMap<Namespace, (AbortHandle, Arc<Notify>)> = HashMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.inner.wanted.notified() => {}
                Some(ended) = watches.join_next(), if !watches.is_empty() => match ended {
                    Err(error) if error.is_panic() => return Err(error),
                    Ok(()) | Err(_) => continue,
                },
            }
            let namespaces: BTreeSet<Namespace> =
                self.inner.known.lock().keys().map(|key| key.namespace.clone()).collect();
            running.retain(|namespace, (task, _)| {
                let keep = namespaces.contains(namespace);
                if !keep {
                    task.abort();
                }
                keep
            });
            for namespace in namespaces {
                if let Some((_, wake)) = running.get(&namespace) {
                    wake.notify_one();
                    continue;
                }
                let wake = Arc::new(Notify::new());
                let task = watches.spawn(self.inner.clone().watch(namespace.clone(), wake.clone()));
                running.insert(namespace, (task, wake));
            }
        }
        watches.shutdown().await;
        Ok(())
    }
}

impl Inner {
    async fn watch(self: Arc<Self>, namespace: Namespace, wake: Arc<Notify>) {
        let api: Api<KubeSecret> = Api::namespaced(self.client.clone(), namespace.as_str());
        let metadata: Api<PartialObjectMeta<KubeSecret>> = Api::namespaced(self.client.clone(), namespace.as_str());
        let events = watcher::watcher(metadata, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut poll = tokio::time::interval(POLL);
        let mut refused = false;
        loop {
            // Read first: a Secret is wanted before its watch is open.
            let names = self.names(&namespace, |lookup| matches!(lookup, Lookup::Pending));
            self.read(&api, &namespace, names).await;
            let again = tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        refused = false;
                        self.stale(&namespace, &event).into_iter().collect()
                    }
                    Some(Err(_)) | None => {
                        refused = true;
                        BTreeSet::new()
                    }
                },
                () = wake.notified() => BTreeSet::new(),
                _ = poll.tick() => self.names(&namespace, |lookup| refused || matches!(lookup, Lookup::Failed(_))),
            };
            self.read(&api, &namespace, again).await;
        }
    }

    fn names(&self, namespace: &Namespace, which: impl Fn(&Lookup) -> bool) -> BTreeSet<String> {
        let known = self.known.lock();
        let here = known.iter().filter(|(key, lookup)| key.namespace == *namespace && which(lookup));
        here.map(|(key, _)| key.name.to_string()).collect()
    }

    /// Returns the name of the Secret that an event is about, unless that version of it has been read.
    fn stale(&self, namespace: &Namespace, event: &Event<PartialObjectMeta<KubeSecret>>) -> Option<String> {
        let meta = match event {
            Event::Apply(secret) | Event::InitApply(secret) | Event::Delete(secret) => &secret.metadata,
            Event::Init | Event::InitDone => return None,
        };
        let name = meta.name.clone()?;
        let key = ObjectKey::new(namespace.clone(), Name::new(name.as_str()));
        let read = match self.known.lock().get(&key) {
            Some(Lookup::Found(content)) => content.version.clone(),
            _ => return Some(name),
        };
        (read != version(meta) || matches!(event, Event::Delete(_))).then_some(name)
    }

    /// Reads the wanted ones among these names.
    async fn read(&self, api: &Api<KubeSecret>, namespace: &Namespace, names: BTreeSet<String>) {
        for name in names {
            let key = ObjectKey::new(namespace.clone(), Name::new(name.as_str()));
            if !self.known.lock().contains_key(&key) {
                continue;
            }
            let lookup = match api.get_opt(&name).await {
                Ok(Some(secret)) => Lookup::Found(Arc::new(Content::new(secret))),
                Ok(None) => Lookup::Missing,
                Err(error) => Lookup::Failed(crate::error::chain(&error)),
            };
            let mut known = self.known.lock();
            if let Some(before) = known.get_mut(&key) {
                *before = lookup;
                drop(known);
                self.changed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(shared_with: Option<&str>, data: &[(&str, &str)]) -> Content {
        Content {
            version: String::new(),
            shared_with: shared_with.map(str::to_owned),
            data: data.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect(),
        }
    }

    #[test]
    fn the_first_key_that_is_not_blank_wins() {
        let content = content(None, &[("url", " postgres://x "), ("dsn", "  ")]);
        assert_eq!(content.first(&["dsn", "url"]).unwrap().expose(), "postgres://x");
        assert!(content.first(&["DATABASE_URL"]).is_none());
    }

    #[test]
    fn a_secret_is_shared_only_with_whom_it_names() {
        let team = Namespace::new("team-a");
        for (annotation, want) in [
            (None, false),
            (Some("team-b"), false),
            (Some("team-b, team-a"), true),
            (Some("*"), true),
            (Some(""), false),
        ] {
            assert_eq!(content(annotation, &[]).shared_with(&team), want, "{annotation:?}");
        }
    }
}
