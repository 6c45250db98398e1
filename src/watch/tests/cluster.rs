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
    pub(super) labels: Labels,
    version: u64,
}

/// Namespace and name.
pub(super) type Place = (String, String);

type Labels = BTreeMap<String, String>;

/// What became of one object.
#[derive(Debug)]
struct Change {
    version: u64,
    namespace: String,
    /// Labels before, if it was there, and after, if it is.
    was: Option<Labels>,
    is: Option<Labels>,
    text: String,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    things: BTreeMap<Place, Thing>,
    log: Vec<Change>,
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
    pub(super) fn put(&self, place: Place, value: u8, labels: Labels) {
        self.edit(|state| {
            state.version += 1;
            let version = state.version;
            let before = state.things.get(&place);
            let was = before.map(|thing| thing.labels.clone());
            let uid = before.map_or_else(|| format!("{}-{}-{version}", place.0, place.1), |thing| thing.uid.clone());
            let thing = Thing { uid, value, labels, version };
            let (text, is) = (text(&place, &thing), Some(thing.labels.clone()));
            state.log.push(Change { version, namespace: place.0.clone(), was, is, text });
            state.things.insert(place, thing);
        });
    }

    /// Deletes an object, if it is there.
    pub(super) fn delete(&self, place: &Place) {
        self.edit(|state| {
            let Some(mut thing) = state.things.remove(place) else { return };
            state.version += 1;
            thing.version = state.version;
            let (version, text, was) = (state.version, text(place, &thing), Some(thing.labels));
            state.log.push(Change { version, namespace: place.0.clone(), was, is: None, text });
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
                let things = self
                    .things
                    .iter()
                    .filter(|((namespace, _), thing)| covers(extent, namespace) && selects(extent, &thing.labels));
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
                let mut news = state.log.iter().filter(|change| change.version > self.seen);
                let line = news.find_map(|change| Some((change.version, change.line(&self.extent)?)));
                if let Some((version, line)) = line {
                    drop(state);
                    self.seen = version;
                    return Some((Ok(line.into()), self));
                }
            }
            self.changed.changed().await.ok()?;
        }
    }
}

impl Change {
    /// Returns the line of a watch, if it has one: what ceases to have the labels is deleted as far as it is concerned.
    fn line(&self, extent: &Extent) -> Option<String> {
        let selected = |labels: &Option<Labels>| {
            covers(extent, &self.namespace) && labels.as_ref().is_some_and(|labels| selects(extent, labels))
        };
        let kind = match (selected(&self.was), selected(&self.is)) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some(format!("{{\"type\":\"{kind}\",\"object\":{}}}\n", self.text))
    }
}

/// Reads selectors of one key and one value, as the tests have them.
fn selects(extent: &Extent, labels: &Labels) -> bool {
    let Some((key, value)) = extent.selector.split_once('=') else { return extent.selector.is_empty() };
    labels.get(key).is_some_and(|label| label == value)
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

fn status(code: u16) -> ApiError {
    ApiError::Status { code, message: "scripted".into() }
}
