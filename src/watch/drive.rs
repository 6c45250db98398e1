//! The driver of one stream: list, then watch, for ever.
//!
//! ```text
//!        ┌──────────────── 410, or all must be listed again ───────────────┐
//!        ▼                                                                 │
//!      List ──items──► barrier ──► sweep, parts known ──► Watch(version) ──┤
//!        ▲                                                    │   ▲        │
//!        └── back-off ── failed                  end, failed ─┘   └────────┘ some namespaces: listed in between
//! ```
//!
//! One state, one step function, and the I/O behind [`Api`], so that tests script the server. A namespace that is listed
//! again while the watch is open is listed with the watch unread: what the watch then delivers of that namespace, up to
//! the version of the list, is older than the list and skipped.
//!
//! A list without a single item that would remove most rows of a table is not believed at once: nothing is swept, the watch
//! goes on, and what a list says half a minute later counts (D4).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::api::{Api, ApiError, Extent, Page, Reply};
use super::dispatch::{Change, Dispatch, Event};
use super::process::{Interest, Processor};
use super::scan::{Lines, ListMeta, Scanner};
use super::{Fault, Health, Problem};
use crate::error::Classify;
use crate::extract;
use crate::model::{Namespace, TargetKey, Uid};
use crate::schedule::backoff::Backoff;
use crate::store::{Store, is_mass_deletion};

/// With more namespaces than this to list again, all are.
const MAX_PARTIAL: usize = 10;
/// A refused list is tried again after this, so that a granted right takes effect within a minute.
const FORBIDDEN_RETRY: Duration = Duration::from_secs(20);
/// The first time sooner: it may be the moment.
const FORBIDDEN_FIRST: Duration = Duration::from_secs(2);
/// The pause before a watch that has ended is opened again.
const REOPEN: Duration = Duration::from_millis(50);
/// The longest wait after other failures.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// A list that is too empty is read once more after this.
const SECOND_LOOK: Duration = Duration::from_secs(30);

/// Which namespaces of an extent must be listed again.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<Relist>,
    wake: Notify,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Relist {
    all: bool,
    namespaces: BTreeSet<Namespace>,
}

impl Wanted {
    /// Asks for these namespaces.
    pub(super) fn namespaces(&self, namespaces: impl IntoIterator<Item = Namespace>) {
        self.state.lock().namespaces.extend(namespaces);
        self.wake.notify_one();
    }

    /// Asks for everything.
    pub(super) fn all(&self) {
        self.state.lock().all = true;
        self.wake.notify_one();
    }

    fn take(&self) -> Relist {
        std::mem::take(&mut *self.state.lock())
    }
}

/// What all drivers share.
pub(super) struct Shared {
    pub(super) dispatch: Dispatch,
    pub(super) processor: Arc<Processor>,
    pub(super) store: Store,
    pub(super) health: Health,
    /// Lists that may run at once.
    pub(super) lists: Semaphore,
    /// Time between two lists of one stream.
    pub(super) resync: Duration,
}

impl Shared {
    /// Notes that an extent cannot be followed: nothing is known there any more. Tells whether that is news.
    pub(super) fn unwatched(&self, extent: &Extent, problem: Problem) -> bool {
        let news = self.health.note(extent, problem);
        for interest in self.processor.index().interests(&extent.resource, extent.namespace.as_ref()) {
            match &extent.namespace {
                Some(namespace) => interest.target.forget(namespace),
                None if interest.namespaces.is_empty() => interest.target.forget(&Namespace::new("")),
                None => interest.namespaces.keys().for_each(|namespace| interest.target.forget(namespace)),
            }
        }
        news
    }
}

/// One stream.
pub(super) struct Driver {
    pub(super) api: Arc<dyn Api>,
    pub(super) extent: Extent,
    pub(super) wanted: Arc<Wanted>,
    pub(super) shared: Arc<Shared>,
    /// From 0.75 to 1.25 of the period, so that streams are not listed again at the same time.
    pub(super) spread: f64,
}

enum State {
    List,
    Watch(Watching),
}

struct Watching {
    version: String,
    /// When everything is listed again: as a backstop, or because the last list was not believed.
    resync: Instant,
    /// The run of the list before.
    mark: u32,
    /// Namespaces that were listed again, with the version of that list.
    floors: HashMap<Namespace, u64>,
    reply: Option<(Reply, Lines)>,
}

/// A list that was read to its end.
struct Listed {
    /// The version to watch from.
    version: String,
    mark: u32,
    /// It was believed, and what it did not confirm is removed.
    swept: bool,
}

/// Whether an empty list is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emptiness {
    Plain,
    /// It would remove most rows of a table.
    Suspect,
}

/// An empty list that was not believed, and until when none is.
#[derive(Debug, Default)]
struct Doubt {
    until: Option<Instant>,
}

impl Doubt {
    /// Tells whether a list is not to be believed yet.
    fn holds(&mut self, found: Emptiness) -> bool {
        let now = Instant::now();
        found == Emptiness::Suspect && now < *self.until.get_or_insert(now + SECOND_LOOK)
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
}

impl Driver {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let mut state = State::List;
        let mut doubt = Doubt::default();
        let mut backoff = Backoff::capped(RandomState::new().hash_one(&self.extent), MAX_DELAY);
        let mut refusals = 0u32;
        loop {
            match self.step(&mut state, &mut doubt).await {
                Ok(()) => {
                    backoff.reset();
                    // A list proves nothing while the watch behind it is refused.
                    if matches!(&state, State::Watch(watching) if watching.reply.is_some()) {
                        refusals = 0;
                    }
                }
                Err(error) if error.expired() => {
                    tracing::info!(resource = %self.extent.resource.plural, "watch expired, listing again");
                    state = State::List;
                }
                Err(error) => {
                    let fault = if matches!(state, State::List) { Fault::List } else { Fault::Watch };
                    self.failed(fault, &error);
                    // What is unknown now only a list makes known again, and a resource that went and came back counts from
                    // another version: a watch that goes on would not do.
                    if matches!(error.code(), Some(403 | 404)) {
                        state = State::List;
                    }
                    let delay = match error.class() {
                        crate::error::Class::Forbidden => {
                            refusals += 1;
                            if refusals == 1 { FORBIDDEN_FIRST } else { FORBIDDEN_RETRY }
                        }
                        _ => backoff.next_delay(),
                    };
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn step(&self, state: &mut State, doubt: &mut Doubt) -> Result<(), ApiError> {
        match state {
            State::List => {
                // Whatever was asked for before is part of this list.
                self.wanted.take();
                let Listed { version, mark, .. } = self.list(&self.extent, doubt).await?;
                let period = Instant::now() + self.shared.resync.mul_f64(self.spread);
                let resync = doubt.until.map_or(period, |until| until.min(period));
                *state = State::Watch(Watching { version, resync, mark, floors: HashMap::new(), reply: None });
            }
            State::Watch(watching) => {
                if let Some(next) = self.watch(watching, doubt).await? {
                    *state = next;
                }
            }
        }
        Ok(())
    }

    /// Lists an extent and sweeps what the list did not confirm, unless it is not believed.
    async fn list(&self, extent: &Extent, doubt: &mut Doubt) -> Result<Listed, ApiError> {
        let _turn = self.shared.lists.acquire().await;
        let started = Instant::now();
        let interests = self.interests(extent);
        let (mut mark, mut count) = (self.shared.store.next_mark(), 0usize);
        let (mut token, mut whole) = (String::new(), false);
        let version = loop {
            let page = match token.as_str() {
                "" if whole => Page::Whole,
                "" => Page::First,
                token => Page::Next(token),
            };
            match self.page(extent, page, mark, &mut count).await {
                Ok(ListMeta { next, resource_version }) if next.is_empty() => break resource_version,
                Ok(meta) => token = meta.next,
                // The token was good for minutes. The pages read so far are of no use: what they had may be gone. A server
                // that cannot hold a list for so long is asked for all of it at once.
                Err(error) if error.expired() && !token.is_empty() => {
                    tracing::info!(resource = %extent.resource.plural, rows = count, "list expired between two pages, reading all of it at once");
                    (mark, count) = (self.shared.store.next_mark(), 0);
                    (token, whole) = (String::new(), true);
                }
                Err(error) => return Err(error),
            }
        };
        self.shared.dispatch.barrier().await;
        self.shared.health.clear(extent);
        let swept = count > 0 || !doubt.holds(self.too_empty(extent, &interests));
        if swept {
            if *extent == self.extent {
                *doubt = Doubt::default();
            }
            self.sweep(extent, &interests, mark);
        } else {
            tracing::warn!(
                resource = %extent.resource.plural,
                namespace = extent.namespace.as_ref().map_or("", Namespace::as_str),
                "list came back empty where there were many rows, listing again before they are removed"
            );
        }
        tracing::debug!(
            resource = %extent.resource.plural,
            namespace = extent.namespace.as_ref().map_or("", Namespace::as_str),
            rows = count,
            elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "listed"
        );
        Ok(Listed { version, mark, swept })
    }

    /// Reads one page of a list.
    async fn page(&self, extent: &Extent, page: Page<'_>, mark: u32, count: &mut usize) -> Result<ListMeta, ApiError> {
        let mut reply = self.api.list(extent, page).await?;
        let (mut scanner, mut items) = (Scanner::default(), Vec::new());
        while let Some(chunk) = reply.next().await {
            scanner.feed(&chunk?, &mut items).map_err(|error| ApiError::Reply(error.into()))?;
            *count += items.len();
            for item in items.drain(..) {
                self.dispatch(item, Change::Listed, mark, None).await;
            }
        }
        scanner.finish().map_err(|error| ApiError::Reply(error.into()))
    }

    /// Returns whether sweeping an extent that was listed without an item removes most rows of some table.
    fn too_empty(&self, extent: &Extent, interests: &[Arc<Interest>]) -> Emptiness {
        let mut going: BTreeMap<&Namespace, usize> = BTreeMap::new();
        for interest in interests {
            *going.entry(&interest.key().namespace).or_default() += interest.target.rows(extent.namespace.as_ref());
        }
        let of = |namespace| self.shared.store.existing(namespace).map_or(0, |table| table.counts().rows);
        let suspect = going.into_iter().any(|(namespace, rows)| is_mass_deletion(rows, of(namespace)));
        if suspect { Emptiness::Suspect } else { Emptiness::Plain }
    }

    fn interests(&self, extent: &Extent) -> Vec<Arc<Interest>> {
        self.shared.processor.index().interests(&extent.resource, extent.namespace.as_ref())
    }

    /// Ends a list for those who were registered when it began. A namespace that a target got meanwhile is listed again
    /// on request, and so is everything of a target whose program changed.
    fn sweep(&self, extent: &Extent, then: &[Arc<Interest>], mark: u32) {
        let now = self.interests(extent);
        let now: HashMap<&TargetKey, &Arc<Interest>> = now.iter().map(|interest| (interest.key(), interest)).collect();
        for interest in then {
            if now.get(interest.key()).is_some_and(|now| Arc::ptr_eq(&now.program, &interest.program)) {
                let listed = |namespace: &Namespace| {
                    extent.namespace.as_ref().is_none_or(|listed| listed == namespace)
                        && (namespace.is_empty() || interest.namespaces.contains_key(namespace))
                };
                interest.target.sweep(listed, mark);
            }
        }
    }

    /// Reads the watch until it ends, fails, or something must be listed.
    async fn watch(&self, watching: &mut Watching, doubt: &mut Doubt) -> Result<Option<State>, ApiError> {
        let Watching { version, resync, mark, floors, reply } = watching;
        if reply.is_none() {
            *reply = Some((self.api.watch(&self.extent, version).await?, Lines::default()));
            self.shared.health.clear(&self.extent);
        }
        let Some((stream, lines)) = reply else { return Ok(None) };
        let chunk = tokio::select! {
            // Cancel-safe: `next` of a boxed stream and `notified` lose nothing when they are dropped.
            chunk = stream.next() => chunk,
            () = self.wanted.wake.notified() => {
                let next = self.relist(floors, mark, doubt).await;
                *resync = doubt.until.map_or(*resync, |until| until.min(*resync));
                return next;
            }
            () = tokio::time::sleep_until(*resync) => return Ok(Some(State::List)),
        };
        let Some(chunk) = chunk else {
            *reply = None;
            // The planned end comes after minutes; a server that closes at once is not asked again at once.
            tokio::time::sleep(REOPEN).await;
            return Ok(None);
        };
        let mut cut = Vec::new();
        match chunk {
            Ok(chunk) => lines.feed(&chunk, &mut cut),
            // Connections break; it is a failure when no new one can be opened.
            Err(error) => {
                tracing::debug!(resource = %self.extent.resource.plural, error = crate::error::chain(&error), "watch broke off");
                *reply = None;
                tokio::time::sleep(REOPEN).await;
                return Ok(None);
            }
        }
        for line in cut {
            let outcome = self.line(line, version, *mark, floors).await;
            if outcome.is_err() {
                *reply = None;
                return outcome.map(|()| None);
            }
        }
        Ok(None)
    }

    /// Lists what was asked for.
    async fn relist(
        &self,
        floors: &mut HashMap<Namespace, u64>,
        mark: &mut u32,
        doubt: &mut Doubt,
    ) -> Result<Option<State>, ApiError> {
        let wanted = self.wanted.take();
        if wanted == Relist::default() {
            return Ok(None);
        }
        if wanted.all || self.extent.namespace.is_some() || wanted.namespaces.len() > MAX_PARTIAL {
            return Ok(Some(State::List));
        }
        let mut left = wanted.namespaces.clone();
        for namespace in wanted.namespaces {
            let extent = Extent { namespace: Some(namespace.clone()), ..self.extent.clone() };
            match self.list(&extent, doubt).await {
                Ok(listed) => {
                    // A list that was not believed does not make older events void.
                    if listed.swept
                        && let Ok(version) = listed.version.parse()
                    {
                        floors.insert(namespace.clone(), version);
                    }
                    *mark = listed.mark;
                    left.remove(&namespace);
                }
                Err(error) => {
                    self.wanted.namespaces(left);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    async fn line(
        &self,
        line: Bytes,
        version: &mut String,
        mark: u32,
        floors: &HashMap<Namespace, u64>,
    ) -> Result<(), ApiError> {
        let parsed: Line<'_> = serde_json::from_slice(&line).map_err(|error| ApiError::Reply(error.into()))?;
        let change = match parsed.kind {
            "ADDED" | "MODIFIED" => Change::Put,
            "DELETED" => Change::Delete,
            "BOOKMARK" => {
                let bookmark: Bookmark =
                    serde_json::from_str(parsed.object.get()).map_err(|error| ApiError::Reply(error.into()))?;
                *version = bookmark.metadata.resource_version;
                return Ok(());
            }
            _ => {
                let status: kube::core::Status =
                    serde_json::from_str(parsed.object.get()).map_err(|error| ApiError::Reply(error.into()))?;
                return Err(ApiError::Status { code: status.code, message: status.message });
            }
        };
        let object = line.slice_ref(parsed.object.get().as_bytes());
        if let Some(seen) = self.dispatch(object, change, mark, Some(floors)).await {
            *version = seen;
        }
        Ok(())
    }

    /// Puts one object into the queue, if anybody wants it. Returns its version.
    async fn dispatch(
        &self,
        text: Bytes,
        change: Change,
        mark: u32,
        floors: Option<&HashMap<Namespace, u64>>,
    ) -> Option<String> {
        let identity = match extract::peek(&text) {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(resource = %self.extent.resource.plural, error = crate::error::chain(&error), "object without a readable identity skipped");
                return None;
            }
        };
        // Only a watch needs the version of each object.
        let version = floors.map(|_| identity.resource_version.to_string());
        let index = self.shared.processor.index();
        if self.extent.namespace.is_none() {
            index.count_mismatches(&self.extent.resource, &identity.namespace);
        }
        let wanted = index.wanted(&self.extent.resource, &identity.namespace);
        drop(index);
        let Some(namespace) = wanted else { return version };
        if let Some(floor) = floors.and_then(|floors| floors.get(&namespace))
            && identity.resource_version.parse::<u64>().is_ok_and(|seen| seen <= *floor)
        {
            return version;
        }
        let uid = Uid::new(&identity.uid);
        let resource = self.extent.resource.clone();
        drop(identity);
        self.shared.dispatch.push(Event { resource, change, uid, namespace, mark, text }).await;
        version
    }

    fn failed(&self, fault: Fault, error: &ApiError) {
        let problem = Problem { fault, code: error.code(), message: crate::error::chain(error) };
        let news = if error.code() == Some(403) {
            self.shared.unwatched(&self.extent, problem)
        } else {
            self.shared.health.note(&self.extent, problem)
        };
        if news {
            tracing::warn!(
                resource = %self.extent.resource.plural,
                namespace = self.extent.namespace.as_ref().map_or("", Namespace::as_str),
                error_class = %error.class(),
                error = crate::error::chain(error),
                "watch failed, trying again"
            );
        }
    }
}

#[cfg(test)]
mod tests;
