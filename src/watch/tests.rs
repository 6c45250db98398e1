//! Planner, drivers, dispatch, filter, extraction and store against an evaluation from scratch: random edits of objects,
//! namespaces and their labels, targets, cluster targets, profiles and scopes, rights that come and go, and a server that
//! fails in every way.
//!
//! Meanwhile streams are namespaced or cluster-wide as it comes, and change over; whatever was lost or brought back by that
//! would stand in the store at the end.

mod cluster;
mod replaced;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::model::{Gvk, Name, ObjectKey, Origin};
use crate::store::Coverage;
use crate::validate;
use cluster::Cluster;
use wish::{Edition, Facts, Limit, NAMESPACES, TEAM, Wish, cluster_wish, facts, limit, wish};

const TARGETS: [&str; 3] = ["one", "two", "three"];
const CLUSTER_TARGET: &str = "all";
/// Longer than any pause of a driver, and than the time until a granted right is tried.
const SETTLED: Duration = Duration::from_mins(5);

#[derive(Debug, Clone)]
enum Step {
    Put {
        namespace: usize,
        name: u8,
        value: u8,
        app: u8,
        watch: u8,
    },
    Delete {
        namespace: usize,
        name: u8,
    },
    /// A namespace is made or labelled.
    Namespace {
        namespace: usize,
        facts: Facts,
    },
    /// A namespace goes, with all objects in it.
    Vanish {
        namespace: usize,
    },
    Target {
        target: usize,
        wish: Wish,
    },
    Forget {
        target: usize,
    },
    /// The cluster target changes, or goes.
    ClusterTarget {
        wish: Option<Wish>,
    },
    /// A profile reads something else.
    Profile {
        profile: usize,
        edition: Edition,
    },
    /// The scope of the targets' namespace changes, or goes.
    Scope {
        limit: Option<Limit>,
    },
    ClusterScope {
        limit: Option<Limit>,
    },
    Permit {
        place: Option<usize>,
        permitted: bool,
    },
    Cut,
    Compact,
    Fail {
        lists: u8,
    },
    Wait {
        ms: u64,
    },
}

/// How the streams are planned, and what kind of server there is.
#[derive(Debug, Clone)]
struct World {
    max_namespaced: usize,
    max_connections: usize,
    cluster_wide: ClusterWide,
    paged: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let namespace = 0..NAMESPACES.len();
    prop_oneof![
        10 => (namespace.clone(), 0..5u8, any::<u8>(), 0..2u8, 0..6u8)
            .prop_map(|(namespace, name, value, app, watch)| Step::Put { namespace, name, value, app, watch }),
        4 => (namespace.clone(), 0..5u8).prop_map(|(namespace, name)| Step::Delete { namespace, name }),
        3 => (namespace.clone(), facts()).prop_map(|(namespace, facts)| Step::Namespace { namespace, facts }),
        1 => namespace.clone().prop_map(|namespace| Step::Vanish { namespace }),
        4 => (0..TARGETS.len(), wish()).prop_map(|(target, wish)| Step::Target { target, wish }),
        1 => (0..TARGETS.len()).prop_map(|target| Step::Forget { target }),
        2 => prop::option::weighted(0.8, cluster_wish()).prop_map(|wish| Step::ClusterTarget { wish }),
        2 => (0..2usize, prop_oneof![Just(Edition::Value), Just(Edition::Twice)])
            .prop_map(|(profile, edition)| Step::Profile { profile, edition }),
        2 => prop::option::of(limit()).prop_map(|limit| Step::Scope { limit }),
        2 => prop::option::of(limit()).prop_map(|limit| Step::ClusterScope { limit }),
        2 => (prop::option::of(namespace), any::<bool>()).prop_map(|(place, permitted)| Step::Permit { place, permitted }),
        2 => Just(Step::Cut),
        1 => Just(Step::Compact),
        1 => (1..4u8).prop_map(|lists| Step::Fail { lists }),
        6 => (0..60u64).prop_map(|ms| Step::Wait { ms }),
        2 => (1..90_000u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn world() -> impl Strategy<Value = World> {
    let wide = prop_oneof![2 => Just(ClusterWide::Allowed), 1 => Just(ClusterWide::Never)];
    (1..4usize, 1..6usize, wide, any::<bool>()).prop_map(|(max_namespaced, connections, cluster_wide, paged)| World {
        max_namespaced,
        // Where there is nothing else, the budget is no reason to be incomplete.
        max_connections: if cluster_wide == ClusterWide::Never { 20 } else { connections },
        cluster_wide,
        paged,
    })
}

/// A target, and the program that it has by now.
struct Asked {
    wish: Wish,
    compiled: Option<(Edition, Arc<Program>)>,
}

impl Asked {
    /// Takes a new wish; the program stays when it would be the same.
    fn of(wish: &Wish, before: Option<Self>) -> Self {
        let compiled = before.and_then(|before| {
            let same = |(edition, _): &(Edition, _)| before.wish.origin(*edition) == wish.origin(*edition);
            before.compiled.filter(same)
        });
        Self { wish: wish.clone(), compiled }
    }

    fn program(&mut self, profiles: [Edition; 2]) -> Arc<Program> {
        let edition = profiles[self.wish.profile];
        if self.compiled.as_ref().is_none_or(|(of, _)| *of != edition) {
            self.compiled = Some((edition, Arc::new(self.wish.compile(edition))));
        }
        self.compiled.as_ref().unwrap().1.clone()
    }
}

/// The stage with everything in front of it played by the test.
struct Bench {
    cluster: Cluster,
    store: Store,
    watch: Arc<WatchSet>,
    resource: Arc<Resource>,
    namespaces: BTreeMap<Namespace, Facts>,
    profiles: [Edition; 2],
    scope: Option<Limit>,
    cluster_scope: Option<Limit>,
    targets: BTreeMap<usize, Asked>,
    cluster_target: Option<Asked>,
    /// Where the cluster target is registered.
    places: BTreeSet<Namespace>,
    _tasks: JoinSet<()>,
    _stop: tokio_util::sync::DropGuard,
}

impl Bench {
    fn new(world: &World) -> Self {
        let cluster = Cluster::new(world.paged);
        let (store, metrics, stop) =
            (Store::default(), Arc::new(Metrics::new("test", "test")), CancellationToken::new());
        let settings = Settings {
            dispatch: Bounds {
                workers: NonZeroUsize::new(2).unwrap(),
                queue: NonZeroUsize::new(4).unwrap(),
                patience: Duration::from_millis(25),
            },
            max_namespaced: world.max_namespaced,
            max_connections: world.max_connections,
            resync: Duration::from_hours(1),
            server_minor: 34,
            cluster_wide: world.cluster_wide,
        };
        let watch = WatchSet::over(Arc::new(cluster.clone()), store.clone(), &metrics, settings, &stop);
        let mut tasks = JoinSet::new();
        let running = watch.clone().run(stop.clone());
        tasks.spawn(async move { running.await.unwrap() });
        let resource =
            Resource { group: "".into(), version: "v1".into(), plural: "things".into(), scope: Scope::Namespaced };
        Self {
            cluster,
            store,
            watch,
            resource: Arc::new(resource),
            namespaces: BTreeMap::new(),
            profiles: [Edition::Value, Edition::Twice],
            scope: None,
            cluster_scope: None,
            targets: BTreeMap::new(),
            cluster_target: None,
            places: BTreeSet::new(),
            _tasks: tasks,
            _stop: stop.drop_guard(),
        }
    }

    async fn step(&mut self, step: &Step) {
        let place = |namespace: &usize, name: &u8| (NAMESPACES[*namespace].to_owned(), format!("n{name}"));
        match step {
            Step::Put { namespace, name, value, app, watch } => {
                let mut labels = BTreeMap::from([("app".to_owned(), app.to_string())]);
                if let Some(word) = ["enabled", "disabled"].get(usize::from(*watch)) {
                    labels.insert(WATCH_LABEL.to_owned(), (*word).to_owned());
                }
                // As the server would have it, for the namespace has to be there.
                if self.namespaces.contains_key(NAMESPACES[*namespace]) {
                    self.cluster.put(place(namespace, name), *value, labels);
                }
            }
            Step::Delete { namespace, name } => self.cluster.delete(&place(namespace, name)),
            Step::Namespace { namespace, facts } => {
                self.namespaces.insert(Namespace::new(NAMESPACES[*namespace]), *facts);
                self.reconcile();
            }
            Step::Vanish { namespace } => {
                for name in 0..5 {
                    self.cluster.delete(&place(namespace, &name));
                }
                self.namespaces.remove(NAMESPACES[*namespace]);
                self.reconcile();
            }
            Step::Target { target, wish } => {
                let before = self.targets.remove(target);
                self.targets.insert(*target, Asked::of(wish, before));
                self.reconcile();
            }
            Step::Forget { target } => {
                self.targets.remove(target);
                self.withdraw(&key(*target));
            }
            Step::ClusterTarget { wish } => {
                let before = self.cluster_target.take();
                self.cluster_target = wish.as_ref().map(|wish| Asked::of(wish, before));
                self.reconcile();
            }
            Step::Profile { profile, edition } => {
                self.profiles[*profile] = *edition;
                self.reconcile();
            }
            Step::Scope { limit } => {
                self.scope.clone_from(limit);
                self.reconcile();
            }
            Step::ClusterScope { limit } => {
                self.cluster_scope.clone_from(limit);
                self.reconcile();
            }
            Step::Permit { place, permitted } => self.cluster.permit(place.map(|place| NAMESPACES[place]), *permitted),
            Step::Cut => self.cluster.cut(),
            Step::Compact => self.cluster.compact(),
            Step::Fail { lists } => self.cluster.fail(*lists),
            Step::Wait { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
        }
    }

    /// Does what the control stage does when something of ours or a namespace changed.
    fn reconcile(&mut self) {
        let mut targets = std::mem::take(&mut self.targets);
        let ceiling = self.scope.as_ref().map(Limit::ceiling).unwrap_or_default();
        for (target, asked) in &mut targets {
            let spec = asked.wish.spec();
            let matched = self.matched(validate::target(&spec).unwrap().namespaces());
            let key = key(*target);
            let allowed = ceiling.allows_kinds(&spec.resource_rules, Some(&gvk()));
            if allowed
                .and_then(|()| ceiling.allows_reach(&key.namespace, &spec.included_namespaces, matched.keys()))
                .is_err()
            {
                self.withdraw(&key);
                continue;
            }
            self.register(key, asked.program(self.profiles), matched);
        }
        self.targets = targets;
        self.reconcile_cluster_target();
    }

    fn reconcile_cluster_target(&mut self) {
        let mut before = std::mem::take(&mut self.places);
        if let Some(mut asked) = self.cluster_target.take() {
            let ceiling = self.cluster_scope.as_ref().map(Limit::cluster_ceiling).unwrap_or_default();
            let spec = asked.wish.cluster_spec();
            let matched = self.matched(validate::cluster_target(&spec).unwrap().intent().namespaces());
            if ceiling.limits().allows_kinds(&spec.resource_rules, Some(&gvk())).is_ok() {
                let program = asked.program(self.profiles);
                for (namespace, terms) in ceiling.limits().narrow(&matched) {
                    let key = ObjectKey::new(namespace.clone(), Name::new(CLUSTER_TARGET));
                    self.register(key, program.clone(), BTreeMap::from([(namespace.clone(), terms)]));
                    before.remove(&namespace);
                    self.places.insert(namespace);
                }
            }
            self.cluster_target = Some(asked);
        }
        for namespace in before {
            self.withdraw(&ObjectKey::new(namespace, Name::new(CLUSTER_TARGET)));
        }
    }

    fn matched(&self, filter: &validate::NamespaceFilter) -> BTreeMap<Namespace, Terms> {
        let there = self.namespaces.iter().filter(|(name, facts)| filter.matches(name, &facts.labels()));
        there.map(|(name, facts)| (name.clone(), Terms { consent: facts.consent, ..Terms::default() })).collect()
    }

    fn register(&self, key: TargetKey, program: Arc<Program>, namespaces: BTreeMap<Namespace, Terms>) {
        let target = self.store.register(Origin { target: key, gvk: gvk() });
        target.cover(&Coverage::Namespaces(Arc::new(namespaces.keys().cloned().collect())));
        let resource = self.resource.clone();
        self.watch.set(Interest { target, resource, program, namespaces: Arc::new(namespaces) });
    }

    fn withdraw(&self, key: &TargetKey) {
        self.watch.remove(key);
        self.store.unregister(&key.namespace, &key.name);
    }

    fn rows(&self) -> BTreeSet<String> {
        let tables = NAMESPACES.into_iter().chain([TEAM]).map(|namespace| self.store.table(&Namespace::new(namespace)));
        let row = |row: &crate::model::Row| {
            let attributes = String::from_utf8_lossy(row.body.attributes()).into_owned();
            format!("{} {} {} {attributes}", row.origin.target, row.namespace, row.uid)
        };
        tables.flat_map(|table| table.rows().iter().map(row).collect::<Vec<_>>()).collect()
    }

    /// What the rows are by the cluster, the namespaces, the wishes and the limits of this moment, and nothing else.
    fn evaluated(&self) -> BTreeSet<String> {
        let within = |asked: &Asked| asked.wish.is_within(self.scope.as_ref(), &self.namespaces);
        let targets = self.targets.iter().filter(|(_, asked)| within(asked));
        let targets: Vec<_> = targets.map(|(target, asked)| (asked, TEAM, TARGETS[*target])).collect();
        let mut rows = BTreeSet::new();
        for ((namespace, name), thing) in self.cluster.things() {
            let Some(facts) = self.namespaces.get(namespace.as_str()) else { continue };
            let limit = self.cluster_scope.as_ref();
            let permitted = limit.is_none_or(|limit| limit.has_kind() && limit.has(&namespace));
            let everywhere = self.cluster_target.iter().filter(|_| permitted);
            let everywhere = everywhere.map(|asked| (asked, &*namespace, CLUSTER_TARGET));
            for (Asked { wish, .. }, home, target) in targets.iter().copied().chain(everywhere) {
                if wish.wants(&namespace, *facts, &name, &thing) {
                    let attributes = match self.profiles[wish.profile] {
                        Edition::Twice => format!(r#"{{"twice":{}}}"#, u16::from(thing.value) * 2),
                        Edition::Value => format!(r#"{{"value":{}}}"#, thing.value),
                    };
                    rows.insert(format!("{home}/{target} {namespace} {} {attributes}", thing.uid));
                }
            }
        }
        rows
    }

    /// Returns the registrations that no scope stands in the way of.
    fn registered(&self) -> Vec<TargetKey> {
        let within = |asked: &Asked| asked.wish.is_within(self.scope.as_ref(), &self.namespaces);
        let targets = self.targets.iter().filter(|(_, asked)| within(asked)).map(|(target, _)| key(*target));
        let everywhere = self.places.iter().map(|place| ObjectKey::new(place.clone(), Name::new(CLUSTER_TARGET)));
        targets.chain(everywhere).collect()
    }

    /// Gives every right back, and waits until everything is known.
    async fn settle(&self) -> Result<(), TestCaseError> {
        self.cluster.permit_all();
        self.cluster.fail(0);
        tokio::time::sleep(SETTLED).await;
        for TargetKey { namespace, name } in self.registered() {
            let counts = self.store.table(&namespace).target_counts(&name);
            prop_assert!(counts.whole, "{namespace}/{name} knows nothing of {:?}", counts.unknown);
        }
        prop_assert_eq!(self.rows(), self.evaluated());
        Ok(())
    }
}

fn gvk() -> Gvk {
    Gvk { group: "".into(), version: "v1".into(), kind: "Thing".into() }
}

fn key(target: usize) -> TargetKey {
    ObjectKey::new(Namespace::new(TEAM), Name::new(TARGETS[target]))
}

#[tokio::test(start_paused = true)]
async fn streams_that_change_over_lose_nothing_and_bring_nothing_back() {
    let world = World { max_namespaced: 2, max_connections: 2, cluster_wide: ClusterWide::Allowed, paged: false };
    let mut bench = Bench::new(&world);
    let over = |namespaces: &[usize]| Step::Target {
        target: 0,
        wish: Wish { included: namespaces.to_vec(), ..Wish::default() },
    };
    let put = |namespace, name, value| Step::Put { namespace, name, value, app: 0, watch: 5 };
    let wait = Step::Wait { ms: 60_000 };
    let mut steps = Vec::new();
    for namespace in 0..3 {
        steps.push(Step::Namespace { namespace, facts: Facts { team: 0, consent: Consent::Unset } });
        steps.extend([put(namespace, 0, 1), put(namespace, 1, 1)]);
    }
    steps.extend([over(&[0, 1]), wait.clone()]);
    // From one namespace each to all, with changes at that very moment.
    steps.extend([Step::Delete { namespace: 0, name: 0 }, over(&[0, 1, 2]), put(1, 0, 2), wait.clone()]);
    for step in &steps {
        bench.step(step).await;
    }
    assert_eq!((bench.rows().len(), bench.rows()), (5, bench.evaluated()));

    // All of them is refused, and there are connections for two: what has none is unknown, and keeps its rows.
    for step in [Step::Permit { place: None, permitted: false }, Step::Cut, put(0, 1, 3), wait.clone()] {
        bench.step(&step).await;
    }
    assert_eq!(bench.rows(), bench.evaluated());
    let counts = bench.store.table(&Namespace::new(TEAM)).target_counts(&Name::new(TARGETS[0]));
    assert_eq!(counts.unknown, [Namespace::new("c")]);
    let kept = bench.rows();
    bench.step(&Step::Delete { namespace: 2, name: 0 }).await;
    bench.step(&wait).await;
    assert_eq!(bench.rows(), kept);

    // Permitted again, one stream takes over, and what went meanwhile goes.
    bench.settle().await.unwrap();
    assert_eq!(bench.rows().len(), 4);
}

proptest! {
    #[test]
    fn whatever_happens_the_store_ends_as_an_evaluation_from_scratch(
        world in world(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(&world);
            // Histories begin with something to lose.
            let facts = Facts { team: 0, consent: Consent::Unset };
            let namespaces = (0..NAMESPACES.len()).map(|namespace| Step::Namespace { namespace, facts });
            for step in namespaces.chain(steps) {
                bench.step(&step).await;
            }
            bench.settle().await
        })?;
    }
}
