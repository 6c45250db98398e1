//! From what users wrote to what the other stages do, and back to a status.
//!
//! One task holds every object of ours ([`shelf`]) and a set of keys to reconcile. A reconcile reads as *resolve →
//! validate → plan → apply → report*; it looks only at what is on the shelves, so it needs no I/O of its own and may run
//! at any time, twice. What takes time (reading Secrets, probing sinks, writing) runs beside it and wakes it up again.
//!
//! Nothing is told to the other stages before all shelves are full: an operator that has just started knows nothing, and
//! says so, instead of taking a missing target for a deleted one.

mod connection_test;
mod errand;
mod family;
mod finalizer;
mod inventory;
mod measure;
mod namespaces;
mod overview;
mod preview;
mod probe;
mod reach;
mod resolve;
mod scope;
mod secrets;
mod shelf;
mod sink;
mod target;
mod written;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::v1alpha1::{
    Kind, KollectClusterInventorySpec, KollectClusterScopeSpec, KollectClusterTargetSpec, KollectConnectionTestSpec,
    KollectDatabaseSinkSpec, KollectEventSinkSpec, KollectInventorySpec, KollectProfileSpec, KollectScopeSpec,
    KollectSnapshotSinkSpec, KollectTargetSpec,
};
use crate::config::Config;
use crate::deliver::Deliveries;
use crate::metrics::{Controller, Metrics};
use crate::model::{Family, Name, Namespace, ObjectKey, SinkKey};
use crate::sinks;
use crate::status::events::EventWriter;
use crate::status::{StatusWriter, Subject};
use crate::store::{CLUSTER, Store};
use crate::watch::{DiscoverError, Discovery, WatchSet};
use errand::{Errand, Errands};
use family::SinkShelves;
use inventory::{InventorySpec, outside};
use measure::Measures;
use namespaces::NamespaceFacts;
pub use overview::Overview;
use probe::Probes;
use reach::Reach;
use secrets::Secrets;
use shelf::{News, Notice, Object, Shelf};
use written::Written;

/// Notices that may wait; a watch of our own objects is not read further while it is full.
const MAX_NOTICES: usize = 1024;
/// How often the API server is asked which kinds it has.
const DISCOVERY: Duration = Duration::from_secs(30);
/// Deadline of one discovery: nothing is reconciled meanwhile.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often counts are compared with what the statuses show.
const TICK: Duration = Duration::from_secs(1);

/// What the control stage works with.
pub struct Parts {
    /// The API server.
    pub client: kube::Client,
    /// Settings.
    pub config: Arc<Config>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The rows.
    pub store: Store,
    /// The streams.
    pub watch: Arc<WatchSet>,
    /// The deliveries.
    pub deliveries: Deliveries,
    /// Opens sinks.
    pub registry: Arc<sinks::Registry>,
    /// Writes statuses.
    pub statuses: StatusWriter,
    /// Writes Events.
    pub events: EventWriter,
}

/// Our own objects.
#[derive(Debug, Default)]
struct Shelves {
    profiles: Shelf<KollectProfileSpec>,
    targets: Shelf<KollectTargetSpec>,
    cluster_targets: Shelf<KollectClusterTargetSpec>,
    inventories: Shelf<InventorySpec>,
    cluster_inventories: Shelf<InventorySpec>,
    sinks: SinkShelves,
    scopes: Shelf<KollectScopeSpec>,
    cluster_scopes: Shelf<KollectClusterScopeSpec>,
    tests: Shelf<KollectConnectionTestSpec>,
    namespaces: BTreeMap<Namespace, NamespaceFacts>,
    namespaces_listed: bool,
    listing: BTreeSet<Namespace>,
}

/// The control task.
pub struct Control {
    parts: Parts,
    shelves: Shelves,
    reach: Reach,
    secrets: Secrets,
    discovery: Discovery,
    /// The first discovery has been read.
    discovered: bool,
    work: BTreeSet<Subject>,
    targets: BTreeMap<ObjectKey, target::State>,
    cluster_targets: BTreeMap<ObjectKey, target::cluster::State>,
    inventories: BTreeMap<Subject, inventory::State>,
    sinks: BTreeMap<Subject, sink::State>,
    tests: BTreeMap<ObjectKey, connection_test::State>,
    probes: Probes,
    errands: Errands,
    overview: Arc<Overview>,
    measures: Arc<Measures>,
    written: HashMap<Subject, Written>,
    /// Objects whose numbers wait for their turn, and when that is.
    deferred: BTreeMap<Subject, Instant>,
    /// Objects to be reconciled at a certain time, whatever happens before.
    alarms: BTreeMap<Subject, Instant>,
    ready: bool,
}

impl Control {
    /// Makes the task; [`Control::run`] runs it.
    pub fn new(parts: Parts) -> Self {
        let secrets = Secrets::new(parts.client.clone(), &parts.config.bound);
        let reach = Reach::new(&parts.config.bound);
        let overview = Overview::new(parts.store.clone());
        let measures = Measures::new(parts.metrics.clone(), &parts.config.collection);
        parts.metrics.read_from(&measures);
        let probes = Probes::new(parts.metrics.clone());
        let errands = Errands::new(parts.client.clone(), parts.metrics.clone());
        Self {
            parts,
            overview,
            measures,
            shelves: Shelves::default(),
            reach,
            secrets,
            discovery: Discovery::default(),
            discovered: false,
            work: BTreeSet::new(),
            targets: BTreeMap::new(),
            cluster_targets: BTreeMap::new(),
            inventories: BTreeMap::new(),
            sinks: BTreeMap::new(),
            tests: BTreeMap::new(),
            probes,
            errands,
            written: HashMap::new(),
            deferred: BTreeMap::new(),
            alarms: BTreeMap::new(),
            ready: false,
        }
    }

    /// Returns what the metrics page shows of targets.
    pub fn overview(&self) -> &Arc<Overview> {
        &self.overview
    }

    /// Reconciles until `cancel` is cancelled.
    ///
    /// # Errors
    /// A watch of our own that panics is a bug and ends this.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let (sender, mut notices) = mpsc::channel(MAX_NOTICES);
        let mut tasks: JoinSet<Result<(), tokio::task::JoinError>> = JoinSet::new();
        self.watch_own(&sender, &mut tasks);
        tasks.spawn(self.secrets.clone().run(cancel.clone()));
        tasks.spawn(self.measures.clone().run(cancel.clone()));
        let mut discovery = tokio::time::interval(DISCOVERY);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (secrets, reports, streams) =
            (self.secrets.clone(), self.parts.deliveries.reports().clone(), self.parts.watch.clone());
        loop {
            tokio::select! {
                // All branches are cancel-safe: channels, notifications and timers.
                () = cancel.cancelled() => break,
                Some(notice) = notices.recv() => {
                    self.take(notice);
                    // A burst, such as the first lists, is taken in as one.
                    while let Ok(notice) = notices.try_recv() {
                        self.take(notice);
                    }
                }
                () = secrets.changed() => self.concern_secrets(&secrets.drain()),
                () = reports.changed() => {
                    let news = reports.drain();
                    self.queue_inventories(|key| news.contains(key));
                    self.queue_cluster_inventories(|subject, _| news.contains(&outside(subject)));
                    self.leave_strays().await;
                }
                probed = self.probes.next() => self.take_probe(probed?),
                errand = self.errands.next() => {
                    let (subject, again) = errand?;
                    self.look_again(subject, again);
                }
                () = streams.health_changed() => self.queue_all_targets(),
                _ = discovery.tick() => self.discover().await,
                _ = tick.tick() => self.look(),
                Some(ended) = tasks.join_next() => ended??,
            }
            self.work().await;
        }
        tasks.shutdown().await;
        self.probes.shutdown().await;
        self.errands.shutdown().await;
        Ok(())
    }

    /// Starts the watches of our own kinds and of namespaces.
    fn watch_own(&self, notices: &mpsc::Sender<Notice>, tasks: &mut JoinSet<Result<(), tokio::task::JoinError>>) {
        let client = &self.parts.client;
        for kind in Kind::ALL {
            let places = self.reach.places(kind);
            if !places.is_empty() {
                tracing::info!(controller = %kind.as_str().to_lowercase(), "Starting Controller");
            }
            for place in places {
                tasks.spawn(shelf::watch_kind(client.clone(), kind, place, notices.clone()).map(Ok));
            }
        }
        match self.reach.namespaces().cloned() {
            None => tasks.spawn(shelf::watch_namespaces(client.clone(), notices.clone()).map(Ok)),
            Some(names) => tasks.spawn(reach::read_namespaces(client.clone(), names, notices.clone()).map(Ok)),
        };
    }

    fn take(&mut self, notice: Notice) {
        let shelves = &mut self.shelves;
        let (kind, keys) = match notice {
            Notice::Refused(kind, namespace) => {
                self.reach.refuse(kind, &namespace);
                return;
            }
            Notice::Namespace(event) => {
                if shelves.take_namespace(event) {
                    self.queue_all_targets();
                    self.queue_cluster_inventories(|_, _| true);
                }
                return;
            }
            Notice::Object(kind, event) => {
                self.work.extend(self.reach.hear(kind, &event));
                let keys = match kind {
                    Kind::Profile => shelves.profiles.take(event),
                    Kind::Target => shelves.targets.take(event),
                    Kind::ClusterTarget => shelves.cluster_targets.take(event),
                    Kind::Inventory => shelves.inventories.take_as::<KollectInventorySpec>(event),
                    Kind::ClusterInventory => shelves.cluster_inventories.take_as::<KollectClusterInventorySpec>(event),
                    Kind::SnapshotSink => shelves.sinks.snapshots.take_as::<KollectSnapshotSinkSpec>(event),
                    Kind::DatabaseSink => shelves.sinks.databases.take_as::<KollectDatabaseSinkSpec>(event),
                    Kind::EventSink => shelves.sinks.events.take_as::<KollectEventSinkSpec>(event),
                    Kind::Scope => shelves.scopes.take(event),
                    Kind::ClusterScope => shelves.cluster_scopes.take(event),
                    Kind::ConnectionTest => shelves.tests.take(event),
                };
                (kind, keys)
            }
        };
        for (key, news) in keys {
            match news {
                News::Spec => {
                    self.concern(kind, &key);
                    self.work.insert((kind, key));
                }
                // An inventory waits for its destination to be on record, a test for its result.
                News::Status if matches!(kind, Kind::Inventory | Kind::ClusterInventory | Kind::ConnectionTest) => {
                    self.work.insert((kind, key));
                }
                News::Status => {}
            }
        }
    }

    /// Queues what depends on an object.
    fn concern(&mut self, kind: Kind, key: &ObjectKey) {
        let here = |other: &ObjectKey| other.namespace == key.namespace;
        match kind {
            Kind::Profile => {
                self.queue_targets(here);
                self.queue_cluster_targets(|_, spec| spec.profile_ref.names(key));
            }
            // Of two with one name, the cluster target is the one that gives way.
            Kind::Target => self.queue_cluster_targets(|name, _| *name == key.name),
            Kind::Inventory => self.queue_targets(here),
            Kind::ClusterTarget => self.queue_cluster_inventories(|_, _| true),
            Kind::Scope => {
                self.queue_targets(here);
                self.queue_inventories(here);
                self.queue_cluster_inventories(|_, spec| spec.home_of_sinks() == key.namespace.as_str());
                self.tell_unused_scopes(kind, key);
            }
            Kind::ClusterScope => {
                self.queue_cluster_targets(|_, _| true);
                self.queue_cluster_inventories(|_, _| true);
                self.tell_unused_scopes(kind, key);
            }
            Kind::ClusterInventory => {
                self.queue_inventories(|other| other.namespace.as_str() == CLUSTER && other.name == key.name);
            }
            Kind::DatabaseSink | Kind::SnapshotSink | Kind::EventSink => {
                self.queue_inventories(here);
                self.queue_users_of_sinks(&BTreeSet::from([key.namespace.clone()]));
                self.queue_tests(here);
            }
            Kind::ConnectionTest => {}
        }
    }

    /// Queues the sinks that point at these Secrets, and what uses them.
    fn concern_secrets(&mut self, changed: &BTreeSet<ObjectKey>) {
        let sinks = self.shelves.sinks.iter();
        let pointing = sinks.filter(|(key, sink)| resolve::points_at(&key.object, sink, changed));
        let pointing: Vec<SinkKey> = pointing.map(|(key, _)| key).collect();
        let namespaces: BTreeSet<Namespace> = pointing.iter().map(|key| key.object.namespace.clone()).collect();
        self.work.extend(pointing.into_iter().map(|key| (Kind::of_family(key.family), key.object)));
        self.queue_inventories(|key| namespaces.contains(&key.namespace));
        self.queue_users_of_sinks(&namespaces);
        self.queue_tests(|key| namespaces.contains(&key.namespace));
    }

    fn queue_targets(&mut self, which: impl Fn(&ObjectKey) -> bool) {
        let keys = self.shelves.targets.iter().map(|(key, _)| key).filter(|key| which(key));
        self.work.extend(keys.map(|key| (Kind::Target, key.clone())));
    }

    /// Queues the cluster targets whose spec can be read, by name and spec.
    fn queue_cluster_targets(&mut self, which: impl Fn(&Name, &KollectClusterTargetSpec) -> bool) {
        let all = self.shelves.cluster_targets.iter();
        let keys = all.filter(|(key, object)| object.spec.as_ref().is_ok_and(|spec| which(&key.name, spec)));
        self.work.extend(keys.map(|(key, _)| (Kind::ClusterTarget, key.clone())));
    }

    fn queue_all_targets(&mut self) {
        self.queue_targets(|_| true);
        self.queue_cluster_targets(|_, _| true);
    }

    fn queue_inventories(&mut self, which: impl Fn(&ObjectKey) -> bool) {
        let keys = self.shelves.inventories.iter().map(|(key, _)| key).filter(|key| which(key));
        self.work.extend(keys.map(|key| (Kind::Inventory, key.clone())));
    }

    fn queue_tests(&mut self, which: impl Fn(&ObjectKey) -> bool) {
        let keys = self.shelves.tests.iter().map(|(key, _)| key).filter(|key| which(key));
        self.work.extend(keys.map(|key| (Kind::ConnectionTest, key.clone())));
    }

    fn take_probe(&mut self, probed: probe::Probed) {
        match probed.subject.0 {
            Kind::ConnectionTest => self.take_test_probe(probed),
            _ => self.take_sink_probe(probed),
        }
    }

    /// Asks for a write of an object; looks at the object again when there is no place for it.
    fn send(&mut self, subject: Subject, errand: Errand) {
        let again = self.errands.ask(subject.clone(), errand);
        self.look_again(subject, again);
    }

    /// Queues an object after a pause, if there is one.
    fn look_again(&mut self, subject: Subject, pause: Option<Duration>) {
        if let Some(pause) = pause {
            self.alarms.insert(subject, Instant::now() + pause);
        }
    }

    async fn discover(&mut self) {
        let poll = tokio::time::timeout(DEADLINE, self.discovery.poll(&self.parts.client));
        match poll.await.unwrap_or(Err(DiscoverError::Silent(DEADLINE))) {
            Ok(changed) => {
                self.discovered = true;
                if changed {
                    self.queue_all_targets();
                }
                let waiting = self.targets.iter().filter(|(_, state)| state.awaits_discovery());
                self.work.extend(waiting.map(|(key, _)| (Kind::Target, key.clone())));
                let waiting = self.cluster_targets.iter().filter(|(_, state)| state.awaits_discovery());
                self.work.extend(waiting.map(|(key, _)| (Kind::ClusterTarget, key.clone())));
            }
            Err(error) => tracing::warn!(error = crate::error::chain(&error), "discovery failed, trying again"),
        }
    }

    /// Reconciles everything that is queued: kinds in the order of [`Kind`], so that targets come before inventories.
    async fn work(&mut self) {
        self.show_queue();
        if !self.listed() || !self.discovered {
            return;
        }
        while let Some((kind, key)) = self.work.pop_first() {
            if self.reach.hold(&(kind, key.clone())) {
                continue;
            }
            if matches!(kind, Kind::Inventory | Kind::ClusterInventory) && !self.ready {
                // All targets of the first lists are registered by now: their kind sorts first.
                self.ready = true;
                self.parts.store.complete();
            }
            match controller(kind) {
                Some(controller) => {
                    let metrics = self.parts.metrics.clone();
                    let reconcile = metrics.reconcile(controller);
                    match self.reconcile(kind, &key).await {
                        None => reconcile.succeeded(),
                        Some(class) => reconcile.failed(class),
                    }
                }
                None => {
                    self.reconcile(kind, &key).await;
                }
            }
        }
        if !self.ready {
            self.ready = true;
            self.parts.store.complete();
        }
        self.show_queue();
    }

    /// Tells whether every first list is complete.
    fn listed(&self) -> bool {
        match self.reach.namespaces() {
            None => self.shelves.synced(),
            Some(_) => self.shelves.namespaces_listed && self.reach.listed(),
        }
    }

    /// Shows how much of each kind waits.
    fn show_queue(&self) {
        for controller in Controller::ALL {
            let waiting = self.work.iter().filter(|(kind, _)| self::controller(*kind) == Some(*controller));
            self.parts.metrics.queued(*controller, waiting.count());
        }
    }

    /// Returns the class of what is wrong with the object, if anything is.
    async fn reconcile(&mut self, kind: Kind, key: &ObjectKey) -> Option<crate::error::Class> {
        match kind {
            Kind::Target => self.reconcile_target(key),
            Kind::ClusterTarget => self.reconcile_cluster_target(key),
            Kind::Inventory | Kind::ClusterInventory => self.reconcile_inventory(&(kind, key.clone())).await,
            Kind::SnapshotSink => self.reconcile_sink(&SinkKey { family: Family::Snapshot, object: key.clone() }),
            Kind::DatabaseSink => self.reconcile_sink(&SinkKey { family: Family::Database, object: key.clone() }),
            Kind::EventSink => self.reconcile_sink(&SinkKey { family: Family::Event, object: key.clone() }),
            Kind::ConnectionTest => self.reconcile_connection_test(key),
            // What a profile or a scope says is said of what uses it.
            Kind::Profile | Kind::Scope | Kind::ClusterScope => None,
        }
    }

    /// Queues the objects whose numbers have moved away from their status.
    fn look(&mut self) {
        if !self.ready {
            return;
        }
        let store = &self.parts.store;
        for (key, state) in &mut self.targets {
            if let Some(namespaces) = state.fitting(store) {
                self.parts.watch.again(key, &namespaces);
            }
        }
        let counts = self.targets.iter_mut().filter(|(key, state)| state.moved(store, key)).map(|(key, _)| key.clone());
        let moved: Vec<ObjectKey> = counts.collect();
        let mut namespaces: BTreeSet<Namespace> = moved.iter().map(|key| key.namespace.clone()).collect();
        for (key, state) in &mut self.cluster_targets {
            for (target, over) in state.fitting(store, &key.name) {
                self.parts.watch.again(&target, &over);
            }
            let moved = state.moved(store, &key.name);
            if !moved.is_empty() || state.is_due(Instant::now()) {
                self.work.insert((Kind::ClusterTarget, key.clone()));
            }
            namespaces.extend(moved);
        }
        let inventories = self.inventories.keys().filter(|(_, key)| namespaces.contains(&key.namespace)).cloned();
        let inventories: Vec<Subject> = inventories.collect();
        self.work.extend(inventories);
        let readers = self.readers_among(&namespaces);
        self.work.extend(readers.into_iter().map(|key| (Kind::ClusterInventory, key)));
        self.work.extend(moved.into_iter().map(|key| (Kind::Target, key)));
        let now = Instant::now();
        self.work.extend(self.deferred.iter().filter(|(_, turn)| **turn <= now).map(|(subject, _)| subject.clone()));
        self.work.extend(self.alarms.extract_if(.., |_, at| *at <= now).map(|(subject, _)| subject));
    }
}

fn controller(kind: Kind) -> Option<Controller> {
    match kind {
        Kind::Target => Some(Controller::Target),
        Kind::ClusterTarget => Some(Controller::ClusterTarget),
        Kind::Inventory => Some(Controller::Inventory),
        Kind::ClusterInventory => Some(Controller::ClusterInventory),
        Kind::ConnectionTest => Some(Controller::ConnectionTest),
        Kind::SnapshotSink => Some(Controller::SnapshotSink),
        Kind::DatabaseSink => Some(Controller::DatabaseSink),
        Kind::EventSink => Some(Controller::EventSink),
        Kind::Profile | Kind::Scope | Kind::ClusterScope => None,
    }
}

impl Shelves {
    /// Returns the UID of an object.
    fn uid(&self, (kind, key): &Subject) -> Option<&str> {
        let uid = match kind {
            Kind::Profile => self.profiles.get(key)?.uid(),
            Kind::Target => self.targets.get(key)?.uid(),
            Kind::ClusterTarget => self.cluster_targets.get(key)?.uid(),
            Kind::Inventory => self.inventories.get(key)?.uid(),
            Kind::ClusterInventory => self.cluster_inventories.get(key)?.uid(),
            Kind::SnapshotSink => self.sinks.snapshots.get(key)?.uid(),
            Kind::DatabaseSink => self.sinks.databases.get(key)?.uid(),
            Kind::EventSink => self.sinks.events.get(key)?.uid(),
            Kind::Scope => self.scopes.get(key)?.uid(),
            Kind::ClusterScope => self.cluster_scopes.get(key)?.uid(),
            Kind::ConnectionTest => self.tests.get(key)?.uid(),
        };
        Some(uid)
    }

    /// Tells whether every first list is complete.
    fn synced(&self) -> bool {
        self.profiles.synced()
            && self.targets.synced()
            && self.cluster_targets.synced()
            && self.inventories.synced()
            && self.cluster_inventories.synced()
            && self.sinks.synced()
            && self.scopes.synced()
            && self.cluster_scopes.synced()
            && self.tests.synced()
            && self.namespaces_listed
    }

    /// Returns an inventory of either kind.
    fn inventory(&self, (kind, key): &Subject) -> Option<&Arc<Object<InventorySpec>>> {
        match kind {
            Kind::ClusterInventory => self.cluster_inventories.get(key),
            _ => self.inventories.get(key),
        }
    }

    /// Returns the cluster inventory whose rows stand under this key, which has the namespace `cluster`.
    fn cluster_inventory<'a>(&self, key: &'a ObjectKey) -> Option<&'a str> {
        let own = ObjectKey::new(Namespace::new(""), key.name.clone());
        let there = self.cluster_inventories.get(&own);
        there.filter(|_| key.namespace.as_str() == CLUSTER).map(|_| key.name.as_str())
    }
}
