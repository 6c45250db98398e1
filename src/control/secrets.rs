//! The Secrets that sinks point at, and no others.
//!
//! In a namespace with such a Secret the metadata of Secrets is watched from the present on; the data of a wanted one is
//! read when its version changes, so that a rotated credential is in use within seconds. Nothing is listed, and nothing
//! is kept of Secrets that nobody wants. What was read stays in use while it cannot be read again, so that sinks go on
//! without an API server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::Either;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PartialObjectMeta, WatchEvent, WatchParams};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Bound;
use crate::model::{Namespace, ObjectKey};
use crate::secret::Secret;

/// Which namespaces may use a Secret: a comma list, or `*`.
pub(super) const SHARED_WITH: &str = "kollect.dev/shared-with";
/// Where the watch is refused, and after a failed read, wanted Secrets are read this often.
const POLL: Duration = Duration::from_secs(20);
/// With wanted Secrets in more namespaces than this, one watch covers all: it is shown changes only. Not where the operator
/// is bound to namespaces.
const MAX_NAMESPACED: usize = 4;
/// Changes of what is wanted are gathered for so long.
const GATHER: Duration = Duration::from_millis(10);
/// The server ends a watch after this.
const WATCH_SECONDS: u32 = 290;
/// Deadline of reading one Secret.
const DEADLINE: Duration = Duration::from_secs(20);
/// The pause before a watch that has ended is opened again.
const REOPEN: Duration = Duration::from_millis(500);

type Events = BoxStream<'static, Result<WatchEvent<PartialObjectMeta<KubeSecret>>, kube::Error>>;

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

    /// Makes a Secret with these values, for tests of what is read from one.
    #[cfg(test)]
    pub(super) fn of(data: &[(&str, &str)]) -> Self {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect();
        Self { version: String::new(), shared_with: None, data }
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
    /// So many namespaces have a watch each before one covers all.
    most_namespaced: usize,
    known: Mutex<BTreeMap<ObjectKey, Lookup>>,
    /// Those that were found and could not be read since: in use as they were, and tried again.
    doubtful: Mutex<BTreeSet<ObjectKey>>,
    /// Secrets whose lookup changed.
    news: Mutex<BTreeSet<ObjectKey>>,
    /// Somebody wants a Secret that was not wanted before, or not any more.
    wanted: Notify,
    /// There are news.
    changed: Notify,
}

/// Where a watch looks: one namespace, or all.
type Reach = Option<Namespace>;

struct Watching {
    task: AbortHandle,
    wake: Arc<Notify>,
}

impl Secrets {
    pub(super) fn new(client: kube::Client, bound: &Bound) -> Self {
        let inner = Inner {
            client,
            most_namespaced: match bound {
                Bound::Cluster => MAX_NAMESPACED,
                Bound::Namespaces(_) => usize::MAX,
            },
            known: Mutex::default(),
            doubtful: Mutex::default(),
            news: Mutex::default(),
            wanted: Notify::new(),
            changed: Notify::new(),
        };
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
        self.inner.doubtful.lock().retain(|key| wanted.contains(key));
        self.inner.wanted.notify_one();
    }

    /// Waits until a lookup changes. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Takes the Secrets whose lookup changed.
    pub(super) fn drain(&self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut *self.inner.news.lock())
    }

    /// Keeps one watch for each namespace with a wanted Secret, or one for all of many, until `cancel` is cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let mut watches: JoinSet<()> = JoinSet::new();
        let mut running: HashMap<Reach, Watching> = HashMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                // The first burst of sinks is one decision.
                () = self.inner.wanted.notified() => tokio::time::sleep(GATHER).await,
                Some(ended) = watches.join_next(), if !watches.is_empty() => match ended {
                    Err(error) if error.is_panic() => return Err(error),
                    Ok(()) | Err(_) => continue,
                },
            }
            let namespaces: BTreeSet<Namespace> =
                self.inner.known.lock().keys().map(|key| key.namespace.clone()).collect();
            let reaches: BTreeSet<Reach> = if namespaces.len() > self.inner.most_namespaced {
                BTreeSet::from([None])
            } else {
                namespaces.into_iter().map(Some).collect()
            };
            running.retain(|reach, watching| {
                let keep = reaches.contains(reach);
                if !keep {
                    watching.task.abort();
                }
                keep
            });
            for reach in reaches {
                if let Some(watching) = running.get(&reach) {
                    watching.wake.notify_one();
                    continue;
                }
                let wake = Arc::new(Notify::new());
                let task = watches.spawn(self.inner.clone().watch(reach.clone(), wake.clone()));
                running.insert(reach, Watching { task, wake });
            }
        }
        watches.shutdown().await;
        Ok(())
    }
}

impl Inner {
    /// Reads the wanted Secrets of a reach, then again whatever the watch says has changed, for ever.
    ///
    /// The watch starts at the present, and what was wanted is read after it has started: there is no list to hold,
    /// however many Secrets the cluster has.
    async fn watch(self: Arc<Self>, reach: Reach, wake: Arc<Notify>) {
        let api: Api<PartialObjectMeta<KubeSecret>> = match &reach {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace.as_str()),
            None => Api::all(self.client.clone()),
        };
        loop {
            let mut events = match self.open(&api).await {
                Ok(events) => events.left_stream(),
                // Without the right to watch, a wanted Secret is read every now and then.
                Err(error) => {
                    tracing::debug!(error = crate::error::chain(&error), "secrets are read without a watch");
                    futures::stream::pending().right_stream()
                }
            };
            self.read(self.wanted_in(&reach, |_| true)).await;
            let mut poll = tokio::time::interval_at(Instant::now() + POLL, POLL);
            loop {
                let again = tokio::select! {
                    event = events.next() => match event {
                        Some(Ok(event)) => self.stale(event).into_iter().collect(),
                        Some(Err(_)) | None => break,
                    },
                    () = wake.notified() => self.wanted_in(&reach, |lookup| matches!(lookup, Lookup::Pending)),
                    _ = poll.tick() => {
                        if matches!(events, Either::Right(_)) {
                            break;
                        }
                        let doubtful = self.doubtful.lock().clone();
                        let mut again = self.wanted_in(&reach, |_| true);
                        again.retain(|key| doubtful.contains(key));
                        again.append(&mut self.wanted_in(&reach, |lookup| matches!(lookup, Lookup::Failed(_))));
                        again
                    }
                };
                self.read(again).await;
            }
            tokio::time::sleep(REOPEN).await;
        }
    }

    /// Opens a watch that starts now.
    async fn open(&self, api: &Api<PartialObjectMeta<KubeSecret>>) -> Result<Events, kube::Error> {
        let first = api.list(&ListParams::default().limit(1)).await?;
        let version = first.metadata.resource_version.unwrap_or_default();
        let parameters = WatchParams::default().timeout(WATCH_SECONDS);
        Ok(api.watch(&parameters, &version).await?.boxed())
    }

    fn wanted_in(&self, reach: &Reach, which: impl Fn(&Lookup) -> bool) -> BTreeSet<ObjectKey> {
        let known = self.known.lock();
        let here = known.iter().filter(|(key, lookup)| {
            reach.as_ref().is_none_or(|namespace| *namespace == key.namespace) && which(lookup)
        });
        here.map(|(key, _)| key.clone()).collect()
    }

    /// Returns the wanted Secret that an event is about, unless that version of it has been read.
    fn stale(&self, event: WatchEvent<PartialObjectMeta<KubeSecret>>) -> Option<ObjectKey> {
        let (meta, deleted) = match event {
            WatchEvent::Added(secret) | WatchEvent::Modified(secret) => (secret.metadata, false),
            WatchEvent::Deleted(secret) => (secret.metadata, true),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => return None,
        };
        let key = super::shelf::key_of(&meta);
        match self.known.lock().get(&key)? {
            Lookup::Found(content) if !deleted && content.version == version(&meta) => None,
            _ => Some(key),
        }
    }

    async fn read(&self, keys: BTreeSet<ObjectKey>) {
        for key in keys {
            let api: Api<KubeSecret> = Api::namespaced(self.client.clone(), key.namespace.as_str());
            let lookup = match tokio::time::timeout(DEADLINE, api.get_opt(key.name.as_str())).await {
                Ok(Ok(Some(secret))) => Lookup::Found(Arc::new(Content::new(secret))),
                Ok(Ok(None)) => Lookup::Missing,
                Ok(Err(error)) => Lookup::Failed(crate::error::chain(&error)),
                Err(_) => Lookup::Failed(format!("no answer from the API server within {} s", DEADLINE.as_secs())),
            };
            let mut known = self.known.lock();
            if let Some(before) = known.get_mut(&key) {
                if stays(before, &lookup) {
                    self.doubtful.lock().insert(key);
                    continue;
                }
                *before = lookup;
                drop(known);
                self.doubtful.lock().remove(&key);
                self.news.lock().insert(key);
                self.changed.notify_one();
            }
        }
    }
}

/// Tells whether a failed attempt leaves what is known as it is: no answer says nothing of the Secret.
fn stays(before: &Lookup, read: &Lookup) -> bool {
    matches!((before, read), (Lookup::Found(_), Lookup::Failed(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_stays_while_it_cannot_be_read_again() {
        let found = || Lookup::Found(Arc::new(Content::of(&[("dsn", "postgres://x")])));
        let failed = || Lookup::Failed("connection refused".to_owned());
        assert!(stays(&found(), &failed()));
        for (before, read) in [
            (found(), Lookup::Missing),
            (found(), found()),
            (Lookup::Pending, failed()),
            (Lookup::Missing, failed()),
            (failed(), failed()),
        ] {
            assert!(!stays(&before, &read), "{before:?}, {read:?}");
        }
    }

    fn content(shared_with: Option<&str>, data: &[(&str, &str)]) -> Content {
        Content { shared_with: shared_with.map(str::to_owned), ..Content::of(data) }
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
