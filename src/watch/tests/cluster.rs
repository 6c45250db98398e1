//! A cluster in memory behind [`Api`]: versions, a log of changes, pages, and every way to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::Namespace;
use crate::watch::api::{Api, ApiError, Extent, Page, Reply};

/// Items of one page.
const PAGE: usize = 2;

/// What the cluster has of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) uid: String,
    pub(super) value: u8,
    pub(super) labels: BTreeMap<String, String>,
    version: u64,
}

/// Namespace and name.
pub(super) type Place = (String, String);

#[derive(Debug, Default)]
struct State {
    version: u64,
    things: BTreeMap<Place, Thing>,
    /// Version, namespace, and the line of a watch.
    log: Vec<(u64, String, String)>,
    /// Nothing before this is known any more.
    compacted: u64,
    /// Pages that were promised, by their token.
    pages: BTreeMap<String, (u64, Vec<String>)>,
    promised: u64,
    /// Where nothing may be read; `None` is the cluster as a whole.
    forbidden: BTreeSet<Option<Namespace>>,
    /// So many lists fail.
    failing: u8,
    /// Watches of an earlier epoch have ended.
    epoch: u64,
}

/// A cluster that is edited by a test.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    state: Arc<Mutex<State>>,
    /// Announces every change.
    changed: watch::Sender<()>,
    paged: bool,
}

impl Cluster {
    pub(super) fn new(paged: bool) -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(()), paged }
    }

    fn edit(&self, edit: impl FnOnce(&mut State)) {
        edit(&mut self.state.lock());
        self.changed.send_replace(());
    }

    /// Creates or changes an object.
    pub(super) fn put(&self, place: Place, value: u8, labels: BTreeMap<String, String>) {
        self.edit(|state| {
            state.version += 1;
            let version = state.version;
            let before = state.things.get(&place);
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            let uid = before.map_or_else(|| format!("{}-{}-{version}", place.0, place.1), |thing| thing.uid.clone());
            let thing = Thing { uid, value, labels, version };
            state.log.push((version, place.0.clone(), line(kind, &text(&place, &thing))));
            state.things.insert(place, thing);
        });
    }

    /// Deletes an object, if it is there.
    pub(super) fn delete(&self, place: &Place) {
        self.edit(|state| {
            let Some(mut thing) = state.things.remove(place) else { return };
            state.version += 1;
            thing.version = state.version;
            state.log.push((state.version, place.0.clone(), line("DELETED", &text(place, &thing))));
        });
    }

    pub(super) fn things(&self) -> BTreeMap<Place, Thing> {
        self.state.lock().things.clone()
    }

    /// Says whether a namespace, or with `None` the cluster as a whole, may be read.
    pub(super) fn permit(&self, place: Option<&str>, permitted: bool) {
        let place = place.map(|namespace| Namespace::new(namespace.to_owned()));
        self.edit(|state| {
            if permitted {
                state.forbidden.remove(&place)
            } else {
                state.forbidden.insert(place)
            };
        });
    }

    pub(super) fn permit_all(&self) {
        self.edit(|state| state.forbidden.clear());
    }

    /// Ends every watch.
    pub(super) fn cut(&self) {
        self.edit(|state| state.epoch += 1);
    }

    /// Forgets the past, and every page that was promised.
    pub(super) fn compact(&self) {
        self.edit(|state| {
            state.compacted = state.version;
            state.pages.clear();
        });
    }

    /// Lets the next lists fail.
    pub(super) fn fail(&self, lists: u8) {
        self.edit(|state| state.failing = lists);
    }
}

impl State {
    fn check(&self, extent: &Extent) -> Result<(), ApiError> {
        if self.forbidden.contains(&extent.namespace) { Err(status(403)) } else { Ok(()) }
    }

    fn list(&mut self, extent: &Extent, page: Page<'_>, paged: bool) -> Result<String, ApiError> {
        self.check(extent)?;
        if self.failing > 0 {
            self.failing -= 1;
            return Err(status(500));
        }
        let (version, mut items) = match page {
            Page::Next(token) => self.pages.remove(token).ok_or_else(|| status(410))?,
            Page::First | Page::Whole | Page::Probe => {
                let things = self.things.iter().filter(|((namespace, _), _)| covers(extent, namespace));
                (self.version, things.map(|(place, thing)| text(place, thing)).collect())
            }
        };
        let mut token = String::new();
        if paged && page != Page::Whole && items.len() > PAGE {
            let rest = items.split_off(PAGE);
            self.promised += 1;
            token = format!("p{}", self.promised);
            self.pages.insert(token.clone(), (version, rest));
        }
        let items = items.join(",");
        Ok(format!(r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{token}"}},"items":[{items}]}}"#))
    }
}

impl Api for Cluster {
    fn list<'a>(&'a self, extent: &'a Extent, page: Page<'a>) -> BoxFuture<'a, Result<Reply, ApiError>> {
        let listed = self.state.lock().list(extent, page, self.paged);
        Box::pin(async move {
            // What happens meanwhile is not in the list.
            let pause = || tokio::time::sleep(Duration::from_millis(3));
            pause().await;
            let chunks: Vec<Bytes> = listed?.into_bytes().chunks(90).map(Bytes::copy_from_slice).collect();
            let slowly = stream::iter(chunks).then(move |chunk| async move {
                pause().await;
                Ok(chunk)
            });
            Ok(slowly.boxed())
        })
    }

    fn watch<'a>(&'a self, extent: &'a Extent, version: &'a str) -> BoxFuture<'a, Result<Reply, ApiError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let version: u64 = version.parse().unwrap();
            let state = self.state.lock();
            state.check(extent)?;
            if version < state.compacted {
                return Err(status(410));
            }
            let (epoch, changed) = (state.epoch, self.changed.subscribe());
            drop(state);
            let follow = Follow { state: self.state.clone(), extent: extent.clone(), seen: version, epoch, changed };
            Ok(stream::unfold(follow, Follow::next).boxed())
        })
    }
}

/// An open watch.
struct Follow {
    state: Arc<Mutex<State>>,
    extent: Extent,
    seen: u64,
    epoch: u64,
    changed: watch::Receiver<()>,
}

impl Follow {
    async fn next(mut self) -> Option<(Result<Bytes, ApiError>, Self)> {
        loop {
            {
                let state = self.state.lock();
                // A watch that was permitted stays open whatever becomes of the right.
                if state.epoch != self.epoch {
                    return None;
                }
                let news = state.log.iter().filter(|(version, _, _)| *version > self.seen);
                let mut here = news.filter(|(_, namespace, _)| covers(&self.extent, namespace));
                if let Some((version, _, line)) = here.next() {
                    let (version, line) = (*version, Bytes::from(line.clone()));
                    drop(state);
                    self.seen = version;
                    return Some((Ok(line), self));
                }
            }
            self.changed.changed().await.ok()?;
        }
    }
}

fn covers(extent: &Extent, namespace: &str) -> bool {
    extent.namespace.as_ref().is_none_or(|here| here.as_str() == namespace)
}

fn text((namespace, name): &Place, thing: &Thing) -> String {
    let Thing { uid, value, labels, version } = thing;
    let metadata = serde_json::json!({
        "name": name, "namespace": namespace, "uid": uid, "resourceVersion": version.to_string(), "labels": labels,
    });
    serde_json::json!({"metadata": metadata, "value": value, "twice": u16::from(*value) * 2}).to_string()
}

fn line(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn status(code: u16) -> ApiError {
    ApiError::Status { code, message: "scripted".into() }
}
