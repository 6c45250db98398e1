//! The cluster, as rows: one list-then-watch stream for each (resource, namespace or all, labels), shared by all targets.
//!
//! ```text
//!   set / remove ──► WatchSet ──► drivers ──cut text──► dispatch ──► processor ──► store
//! ```
//!
//! [`WatchSet::set`] says what a target wants; a planner task decides which streams that takes, starts and stops their
//! drivers, and asks for a new list of just what changed. Objects are never kept: a listed or watched object is text
//! until it is a row.

mod api;
mod audience;
mod discover;
mod dispatch;
mod drive;
mod filter;
mod plan;
mod process;
mod scan;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use api::Clients;
pub use discover::{DiscoverError, Discovery, Presence, Resource, Scope};
pub use dispatch::Bounds;
pub use filter::{Choice, Consent, Filter, NAMESPACE_WATCH_ANNOTATION, Rule, RuleSet, Terms, WATCH_LABEL};
pub use plan::ClusterWide;
pub use process::{Interest, Program};

use crate::metrics::{Metrics, Reach, Reading, Sizes, Stream};
use crate::model::{Namespace, TargetKey};
use crate::store::Store;
use api::{Api, Extent, KubeApi, Page};
use dispatch::Dispatch;
use drive::{Driver, Wanted};
use plan::{Limits, Streams};
use process::Processor;

/// Lists that run at once.
const PARALLEL_LISTS: usize = 4;
/// Changes of interest are gathered for so long before the streams are planned.
const GATHER: Duration = Duration::from_millis(20);
/// How often refused cluster-wide lists are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// A refused cluster-wide list that is needed is tried again after this.
const WIDEN: Duration = Duration::from_secs(20);
/// The longest time until one that was refused again after that is tried once more.
const MAX_WIDEN: Duration = Duration::from_hours(1);

/// Settings of the watch stage.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The dispatch queue.
    pub dispatch: Bounds,
    /// Up to so many namespaces of a resource are watched one by one.
    pub max_namespaced: usize,
    /// Namespaced watches over all resources.
    pub max_connections: usize,
    /// Time between two lists of one stream, as a backstop.
    pub resync: Duration,
    /// Minor version of the API server.
    pub server_minor: u32,
    /// Whether one stream may cover all namespaces.
    pub cluster_wide: ClusterWide,
}

/// Why a part cannot be listed or watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What cannot be done.
    pub fault: Fault,
    /// HTTP status, where the server answered.
    pub code: Option<u16>,
    /// The whole cause chain.
    pub message: String,
}

/// What cannot be done with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// To list it.
    List,
    /// To watch it.
    Watch,
    /// To open a stream: all connections are in use.
    Budget,
}

impl Problem {
    fn over_budget(limit: usize) -> Self {
        let message = format!("all {limit} watch connections are in use");
        Self { fault: Fault::Budget, code: None, message }
    }
}

/// The streams that fail, and a wake-up for whoever reports them.
#[derive(Debug, Clone, Default)]
pub struct Health {
    inner: Arc<HealthInner>,
}

#[derive(Debug, Default)]
struct HealthInner {
    problems: Mutex<BTreeMap<Extent, Noted>>,
    changed: Notify,
}

/// A problem, and how often it was met without anything else in between.
#[derive(Debug)]
struct Noted {
    problem: Problem,
    times: u32,
}

impl Health {
    /// Notes a failure; tells whether it is news.
    fn note(&self, extent: &Extent, problem: Problem) -> bool {
        let mut problems = self.inner.problems.lock();
        let same = |before: &&Noted| (before.problem.fault, before.problem.code) == (problem.fault, problem.code);
        let times = problems.get(extent).filter(same).map_or(0, |before| before.times) + 1;
        let news = times == 1;
        problems.insert(extent.clone(), Noted { problem, times });
        drop(problems);
        if news {
            self.inner.changed.notify_one();
        }
        news
    }

    fn clear(&self, extent: &Extent) {
        if self.inner.problems.lock().remove(extent).is_some() {
            self.inner.changed.notify_one();
        }
    }

    fn over_budget(&self, resource: &Resource) -> bool {
        let problems = self.inner.problems.lock();
        problems.iter().any(|(extent, noted)| *extent.resource == *resource && noted.problem.fault == Fault::Budget)
    }

    /// Tells whether the cluster-wide stream is refused. A list twice: an API server that starts refuses everything for a
    /// moment.
    fn refused(&self, resource: &Resource) -> bool {
        let problems = self.inner.problems.lock();
        problems.iter().any(|(extent, Noted { problem, times })| {
            *extent.resource == *resource
                && extent.namespace.is_none()
                && problem.code == Some(403)
                && (*times > 1 || problem.fault == Fault::Watch)
        })
    }
}

/// What all targets want.
#[derive(Default)]
struct Desired {
    interests: BTreeMap<TargetKey, Arc<Interest>>,
    /// Namespaces to list again because somebody wants more of them than before.
    again: BTreeMap<Arc<Resource>, BTreeSet<Namespace>>,
    /// Resources whose cluster-wide list was refused.
    narrow: BTreeSet<Arc<Resource>>,
}

/// All streams.
pub struct WatchSet {
    settings: Settings,
    api: Arc<dyn Api>,
    shared: Arc<drive::Shared>,
    desired: Mutex<Desired>,
    wake: Notify,
    lanes: Mutex<JoinSet<()>>,
    /// The streams that run, for the metrics.
    open: Mutex<Vec<Extent>>,
}

struct Running {
    wanted: Arc<Wanted>,
    task: AbortHandle,
    /// Cancelled when the task has ended, however that came about.
    ended: CancellationToken,
}

/// What the last plan came to.
#[derive(Default)]
struct Planned {
    running: HashMap<Extent, Running>,
    /// Parts without a stream.
    left_out: BTreeSet<Extent>,
    /// Streams that were stopped and may still be in the middle of a step, which goes on to its next pause.
    ending: Vec<Ending>,
}

/// A stream that was stopped.
struct Ending {
    extent: Extent,
    /// Cancelled when its task has ended.
    ended: CancellationToken,
}

impl WatchSet {
    /// Starts the dispatch lanes; [`WatchSet::run`] starts the streams.
    pub fn new(
        clients: Clients,
        store: Store,
        metrics: &Arc<Metrics>,
        settings: Settings,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        let api = KubeApi::new(clients, metrics.clone(), settings.server_minor);
        Self::over(Arc::new(api), store, metrics, settings, cancel)
    }

    fn over(
        api: Arc<dyn Api>,
        store: Store,
        metrics: &Arc<Metrics>,
        settings: Settings,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        let processor = Arc::new(Processor::new(store.clone(), metrics.clone()));
        let mut lanes = JoinSet::new();
        let dispatch = Dispatch::start(settings.dispatch, &processor, metrics, &mut lanes, cancel);
        let shared = drive::Shared {
            dispatch,
            processor,
            store,
            health: Health::default(),
            lists: Semaphore::new(PARALLEL_LISTS),
            resync: settings.resync,
        };
        Arc::new(Self {
            settings,
            api,
            shared: Arc::new(shared),
            desired: Mutex::default(),
            wake: Notify::new(),
            lanes: Mutex::new(lanes),
            open: Mutex::default(),
        })
    }

    /// Says what a target wants from now on. What it did not want before is listed.
    pub fn set(&self, interest: Interest) {
        let mut desired = self.desired.lock();
        let before = desired.interests.get(interest.key());
        let kept = before
            .filter(|before| Arc::ptr_eq(&before.program, &interest.program) && before.resource == interest.resource);
        let news: BTreeSet<Namespace> = interest
            .namespaces
            .iter()
            .filter(|(namespace, terms)| kept.is_none_or(|before| before.namespaces.get(*namespace) != Some(*terms)))
            .map(|(namespace, _)| namespace.clone())
            .collect();
        if kept.is_some_and(|before| before.namespaces == interest.namespaces) {
            return;
        }
        let again = desired.again.entry(interest.resource.clone()).or_default();
        again.extend(news);
        if interest.resource.scope == Scope::Cluster {
            again.insert(Namespace::new(""));
        }
        desired.interests.insert(interest.key().clone(), Arc::new(interest));
        drop(desired);
        self.wake.notify_one();
    }

    /// Asks for a new list of some namespaces of a target, an empty one for a cluster-scoped resource.
    pub fn again(&self, target: &TargetKey, namespaces: &[Namespace]) {
        let mut desired = self.desired.lock();
        let Some(interest) = desired.interests.get(target) else { return };
        let resource = interest.resource.clone();
        desired.again.entry(resource).or_default().extend(namespaces.iter().cloned());
        drop(desired);
        self.wake.notify_one();
    }

    /// Says that a target wants nothing any more.
    pub fn remove(&self, target: &TargetKey) {
        if self.desired.lock().interests.remove(target).is_some() {
            self.wake.notify_one();
        }
    }

    /// Returns where a target cannot collect, and why.
    pub fn problems(&self, interest: &Interest) -> BTreeMap<Namespace, Problem> {
        let problems = self.shared.health.inner.problems.lock();
        let of_target = problems.iter().filter(|(extent, _)| extent.resource == interest.resource);
        let named = of_target.filter_map(|(extent, Noted { problem, .. })| match &extent.namespace {
            Some(namespace) if interest.namespaces.contains_key(namespace) => {
                Some((namespace.clone(), problem.clone()))
            }
            None => Some((Namespace::new(""), problem.clone())),
            Some(_) => None,
        });
        named.collect()
    }

    /// Waits until a stream starts or ceases to fail. Cancel-safe.
    pub async fn health_changed(&self) {
        self.shared.health.inner.changed.notified().await;
    }

    /// Plans and drives the streams until `cancel` is cancelled.
    ///
    /// # Errors
    /// A stream or a lane that ends by itself is a bug, and ends this too.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let mut streams: JoinSet<()> = JoinSet::new();
        let mut planned = Planned::default();
        streams.spawn(self.clone().widen());
        let mut lanes = std::mem::take(&mut *self.lanes.lock());
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.wake.notified() => tokio::time::sleep(GATHER).await,
                Some(ended) = streams.join_next(), if !streams.is_empty() => match ended {
                    Err(error) if error.is_panic() => return Err(error),
                    Ok(()) | Err(_) => {
                        self.settle(&mut planned);
                        continue;
                    }
                },
                Some(ended) = lanes.join_next(), if !lanes.is_empty() => {
                    ended?;
                    continue;
                }
                () = tokio::time::sleep(LOOK), if !planned.running.is_empty() => {
                    if !self.narrow() {
                        continue;
                    }
                }
            }
            self.plan(&mut planned, &mut streams);
        }
        streams.shutdown().await;
        while let Some(ended) = lanes.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// Notes the resources whose cluster-wide list is refused; tells whether there is a new one.
    fn narrow(&self) -> bool {
        let mut desired = self.desired.lock();
        let refused: Vec<Arc<Resource>> = desired
            .interests
            .values()
            .map(|interest| interest.resource.clone())
            .filter(|resource| resource.scope == Scope::Namespaced && self.shared.health.refused(resource))
            .collect();
        refused.into_iter().fold(false, |new, resource| desired.narrow.insert(resource) | new)
    }

    /// Asks again for the cluster-wide lists that were refused and would be used, for ever.
    async fn widen(self: Arc<Self>) {
        if self.settings.cluster_wide == ClusterWide::Never {
            return;
        }
        let mut pauses: BTreeMap<Arc<Resource>, (Instant, Duration)> = BTreeMap::new();
        loop {
            tokio::time::sleep(WIDEN).await;
            for extent in self.refused_and_needed() {
                let resource = extent.resource.clone();
                let now = Instant::now();
                let (next, pause) = pauses.get(&resource).copied().unwrap_or((now, WIDEN));
                if now < next {
                    continue;
                }
                if self.api.list(&extent, Page::Probe).await.is_ok() {
                    tracing::info!(resource = %resource.plural, "the cluster-wide list is permitted now");
                    self.desired.lock().narrow.remove(&resource);
                    // What may be listed and not watched would go to and fro.
                    let pause = (2 * pause).min(MAX_WIDEN);
                    pauses.insert(resource, (now + pause, pause));
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Returns the cluster-wide streams that were refused and would be used.
    fn refused_and_needed(&self) -> Vec<Extent> {
        let desired = self.desired.lock();
        let wanted = plan::wanted(desired.interests.values());
        let needed = desired.narrow.iter().filter_map(|resource| {
            let wanted = wanted.get(resource)?;
            let many = wanted.count() > self.settings.max_namespaced || self.shared.health.over_budget(resource);
            many.then(|| wanted.wide(resource))
        });
        needed.collect()
    }

    fn plan(&self, planned: &mut Planned, streams: &mut JoinSet<()>) {
        let mut desired = self.desired.lock();
        let again = std::mem::take(&mut desired.again);
        let limits = Limits {
            namespaced: self.settings.max_namespaced,
            connections: self.settings.max_connections,
            cluster_wide: self.settings.cluster_wide,
        };
        // A stream that asks for other labels than before is the same one as far as the budget is concerned.
        let places: HashSet<_> = planned.running.keys().map(Extent::place).collect();
        let runs = |extent: &Extent| places.contains(&extent.place());
        let wanted = plan::wanted(desired.interests.values());
        let Streams { open: extents, left_out } = plan::streams(&wanted, &desired.narrow, &limits, runs);
        self.shared.processor.watch_for(desired.interests.values());
        drop(desired);

        for extent in planned.left_out.difference(&left_out) {
            self.shared.health.clear(extent);
        }
        planned.left_out = left_out;
        let Planned { running, ending, .. } = planned;
        running.retain(|extent, stream| {
            let keep = extents.contains(extent);
            if !keep {
                stream.task.abort();
                if !planned.left_out.contains(extent) {
                    self.shared.health.clear(extent);
                }
                ending.push(Ending { extent: extent.clone(), ended: stream.ended.clone() });
            }
            keep
        });
        for extent in &planned.left_out {
            self.shared.unwatched(extent, Problem::over_budget(limits.connections));
        }
        for (resource, namespaces) in again {
            for (extent, stream) in running.iter().filter(|(extent, _)| extent.resource == resource) {
                match &extent.namespace {
                    Some(namespace) if namespaces.contains(namespace) => stream.wanted.all(),
                    None if resource.scope == Scope::Cluster => stream.wanted.all(),
                    None => stream.wanted.namespaces(namespaces.clone()),
                    Some(_) => {}
                }
            }
        }
        for extent in extents {
            if !running.contains_key(&extent) {
                // Those of earlier plans as well: one between may be gone without having waited for them.
                let before = ending.iter().filter(|ending| ending.extent.resource == extent.resource);
                let before = before.map(|ending| ending.ended.clone()).collect();
                running.insert(extent.clone(), self.open(extent, before, streams));
            }
        }
        *self.open.lock() = running.keys().cloned().collect();
    }

    /// Forgets the streams that have ended since they were stopped, and what they complained of in their last step.
    fn settle(&self, planned: &mut Planned) {
        let Planned { running, left_out, ending } = planned;
        for Ending { extent, .. } in ending.extract_if(.., |ending| ending.ended.is_cancelled()) {
            if left_out.contains(&extent) {
                self.shared.unwatched(&extent, Problem::over_budget(self.settings.max_connections));
            } else if !running.contains_key(&extent) {
                self.shared.health.clear(&extent);
            }
        }
    }

    /// Starts a stream. It lists once those that it replaces have ended, so that what they still hand over is older.
    fn open(&self, extent: Extent, before: Vec<CancellationToken>, streams: &mut JoinSet<()>) -> Running {
        let (wanted, ended) = (Arc::new(Wanted::default()), CancellationToken::new());
        tracing::debug!(
            resource = %extent.resource.plural,
            namespace = extent.namespace.as_ref().map_or("", Namespace::as_str),
            selector = &*extent.selector,
            "watch opened"
        );
        let random = RandomState::new().hash_one(&extent) >> 11;
        let driver = Driver {
            api: self.api.clone(),
            extent,
            wanted: wanted.clone(),
            shared: self.shared.clone(),
            spread: 0.75 + 0.5 * (random as f64 / (1u64 << 53) as f64),
        };
        let guard = ended.clone().drop_guard();
        let task = streams.spawn(async move {
            let _ended = guard;
            for replaced in before {
                replaced.cancelled().await;
            }
            driver.run().await;
        });
        Running { wanted, task, ended }
    }
}

impl Sizes for WatchSet {
    fn read(&self, reading: &mut Reading) {
        reading.watch_connections_limit = self.settings.max_connections as u64;
        reading.queues.push(self.shared.dispatch.size());
        for extent in &*self.open.lock() {
            let resource = &extent.resource;
            let interests = self.shared.processor.index().interests(resource, extent.namespace.as_ref());
            // Of all registrations of a cluster target the stream has the objects, of several targets those of one.
            let mut of_program: HashMap<*const Program, u64> = HashMap::new();
            for interest in &interests {
                let rows = interest.target.rows(extent.namespace.as_ref()) as u64;
                *of_program.entry(Arc::as_ptr(&interest.program)).or_default() += rows;
            }
            reading.streams.push(Stream {
                group: resource.group.clone(),
                version: resource.version.clone(),
                resource: resource.plural.clone(),
                objects: of_program.into_values().max().unwrap_or(0),
                reach: if extent.namespace.is_some() { Reach::Namespace } else { Reach::Cluster },
            });
        }
    }
}

#[cfg(test)]
mod tests;
