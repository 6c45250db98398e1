//! Planner, drivers, dispatch, filter, extraction and store against an evaluation from scratch: random edits of objects,
//! namespaces, targets and profiles, rights that come and go, and a server that fails in every way.
//!
//! Meanwhile streams are namespaced or cluster-wide as it comes, and change over; whatever was lost or brought back by that
//! would stand in the store at the end.

mod cluster;
mod replaced;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::v1alpha1::{KollectTargetSpec, LabelSelector, WatchMode};
use crate::expr::Shape;
use crate::extract::{Attribute, Extractor};
use crate::model::{Gvk, Name, ObjectKey, Origin};
use crate::store::Coverage;
use crate::validate;
use cluster::{Cluster, Thing};

const NAMESPACES: [&str; 4] = ["a", "b", "c", "d"];
const TARGETS: [&str; 3] = ["one", "two", "three"];
const TEAM: &str = "team";
/// Longer than any pause of a driver, and than the time until a granted right is tried.
const SETTLED: Duration = Duration::from_mins(5);

/// What a namespace says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    team: u8,
    consent: Consent,
}

/// What a target wants, as its user would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    included: Vec<usize>,
    excluded: Option<usize>,
    team: Option<u8>,
    app: Option<u8>,
    name: Option<u8>,
    mode: WatchMode,
    /// Which of two profiles.
    doubled: bool,
}

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

fn wish() -> impl Strategy<Value = Wish> {
    let namespaces = prop::collection::vec(0..NAMESPACES.len(), 0..3);
    let (excluded, team) = (prop::option::weighted(0.3, 0..NAMESPACES.len()), prop::option::weighted(0.4, 0..2u8));
    let (app, name) = (prop::option::weighted(0.3, 0..2u8), prop::option::weighted(0.2, 0..5u8));
    let mode = prop_oneof![3 => Just(WatchMode::All), 1 => Just(WatchMode::OptIn)];
    (namespaces, excluded, team, app, name, mode, any::<bool>()).prop_map(
        |(mut included, excluded, team, app, name, mode, doubled)| {
            included.sort_unstable();
            included.dedup();
            Wish { included, excluded, team, app, name, mode, doubled }
        },
    )
}

fn facts() -> impl Strategy<Value = Facts> {
    let consent = prop_oneof![4 => Just(Consent::Unset), 1 => Just(Consent::Enabled), 1 => Just(Consent::Disabled)];
    (0..2u8, consent).prop_map(|(team, consent)| Facts { team, consent })
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

/// The stage with everything in front of it played by the test.
struct Bench {
    cluster: Cluster,
    store: Store,
    watch: Arc<WatchSet>,
    resource: Arc<Resource>,
    namespaces: BTreeMap<Namespace, Facts>,
    targets: BTreeMap<usize, (Wish, Arc<Program>)>,
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
            targets: BTreeMap::new(),
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
                let kept = self.targets.remove(target).filter(|(before, _)| program_of(before) == program_of(wish));
                let program = kept.map_or_else(|| Arc::new(compile(wish)), |(_, program)| program);
                self.targets.insert(*target, (wish.clone(), program));
                self.reconcile();
            }
            Step::Forget { target } => {
                let key = key(*target);
                self.targets.remove(target);
                self.watch.remove(&key);
                self.store.unregister(&key.namespace, &key.name);
            }
            Step::Permit { place, permitted } => self.cluster.permit(place.map(|place| NAMESPACES[place]), *permitted),
            Step::Cut => self.cluster.cut(),
            Step::Compact => self.cluster.compact(),
            Step::Fail { lists } => self.cluster.fail(*lists),
            Step::Wait { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
        }
    }

    /// Does what the control stage does when something of ours or a namespace changed.
    fn reconcile(&self) {
        for (target, (wish, program)) in &self.targets {
            let spec = spec(wish);
            let filter = validate::target(&spec).unwrap();
            let namespaces: BTreeMap<Namespace, Terms> = self
                .namespaces
                .iter()
                .filter(|(name, facts)| filter.namespaces().matches(name, &labels_of(**facts)))
                .map(|(name, facts)| (name.clone(), Terms { consent: facts.consent, ..Terms::default() }))
                .collect();
            let gvk = Gvk { group: "".into(), version: "v1".into(), kind: "Thing".into() };
            let target = self.store.register(Origin { target: key(*target), gvk });
            target.cover(&Coverage::Namespaces(Arc::new(namespaces.keys().cloned().collect())));
            self.watch.set(Interest {
                target,
                resource: self.resource.clone(),
                program: program.clone(),
                namespaces: Arc::new(namespaces),
            });
        }
    }

    fn rows(&self) -> BTreeSet<String> {
        let table = self.store.table(&Namespace::new(TEAM));
        let row = |row: &crate::model::Row| {
            let attributes = String::from_utf8_lossy(row.body.attributes()).into_owned();
            format!("{} {} {} {attributes}", row.origin.target.name, row.namespace, row.uid)
        };
        table.rows().iter().map(row).collect()
    }

    /// What the rows are by the cluster, the namespaces and the wishes of this moment, and nothing else.
    fn evaluated(&self) -> BTreeSet<String> {
        let mut rows = BTreeSet::new();
        for (target, (wish, _)) in &self.targets {
            for ((namespace, name), thing) in self.cluster.things() {
                let facts = self.namespaces.get(namespace.as_str());
                if facts.is_some_and(|facts| wish.wants(&namespace, *facts, &name, &thing)) {
                    let attributes = if wish.doubled {
                        format!(r#"{{"twice":{}}}"#, u16::from(thing.value) * 2)
                    } else {
                        format!(r#"{{"value":{}}}"#, thing.value)
                    };
                    rows.insert(format!("{} {namespace} {} {attributes}", TARGETS[*target], thing.uid));
                }
            }
        }
        rows
    }

    /// Gives every right back, and waits until everything is known.
    async fn settle(&self) -> Result<(), TestCaseError> {
        self.cluster.permit_all();
        self.cluster.fail(0);
        tokio::time::sleep(SETTLED).await;
        let table = self.store.table(&Namespace::new(TEAM));
        for target in self.targets.keys() {
            let counts = table.target_counts(&Name::new(TARGETS[*target]));
            prop_assert!(counts.whole, "{} knows nothing of {:?}", TARGETS[*target], counts.unknown);
        }
        prop_assert_eq!(self.rows(), self.evaluated());
        Ok(())
    }
}

impl Wish {
    fn wants(&self, namespace: &str, facts: Facts, name: &str, thing: &Thing) -> bool {
        let at = |index: &usize| NAMESPACES[*index] == namespace;
        let here = (self.included.is_empty() || self.included.iter().any(at))
            && !self.excluded.iter().any(at)
            && self.team.is_none_or(|team| team == facts.team);
        let labelled = self.app.is_none_or(|app| thing.labels.get("app") == Some(&app.to_string()));
        let named = self.name.is_none_or(|wanted| format!("n{wanted}") == name);
        let consents = match (thing.labels.get(WATCH_LABEL).map(String::as_str), facts.consent, self.mode) {
            (Some(word), _, _) => word == "enabled",
            (None, Consent::Disabled, _) | (None, Consent::Unset, WatchMode::OptIn) => false,
            (None, Consent::Enabled, _) | (None, Consent::Unset, WatchMode::All) => true,
        };
        here && labelled && named && consents
    }
}

/// What a program is made from; namespaces are no part of it.
fn program_of(wish: &Wish) -> (Option<u8>, Option<u8>, WatchMode, bool) {
    (wish.app, wish.name, wish.mode, wish.doubled)
}

fn compile(wish: &Wish) -> Program {
    let (name, path) = if wish.doubled { ("twice", "$.twice") } else { ("value", "$.value") };
    let attribute = Attribute { name: name.into(), path: path.into(), shape: Shape::Any, optional: false };
    let extractor = Extractor::compile(&[attribute], &[]).unwrap();
    let target = validate::target(&spec(wish)).unwrap();
    let choice = Choice::Plain { names: target.names().clone(), labels: target.labels().clone() };
    Program::new(Filter { choice, mode: target.watch_mode() }, extractor)
}

fn spec(wish: &Wish) -> KollectTargetSpec {
    let selector = |key: &str, value: u8| LabelSelector {
        match_labels: BTreeMap::from([(key.to_owned(), value.to_string())]),
        ..LabelSelector::default()
    };
    KollectTargetSpec {
        profile_ref: "things".to_owned(),
        included_namespaces: wish.included.iter().map(|index| NAMESPACES[*index].to_owned()).collect(),
        excluded_namespaces: wish.excluded.iter().map(|index| NAMESPACES[*index].to_owned()).collect(),
        namespace_selector: wish.team.map(|team| selector("team", team)),
        label_selector: wish.app.map(|app| selector("app", app)),
        names: wish.name.iter().map(|name| format!("n{name}")).collect(),
        watch_mode: wish.mode,
        ..KollectTargetSpec::default()
    }
}

fn labels_of(facts: Facts) -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), facts.team.to_string())])
}

fn key(target: usize) -> TargetKey {
    ObjectKey::new(Namespace::new(TEAM), Name::new(TARGETS[target]))
}

#[tokio::test(start_paused = true)]
async fn streams_that_change_over_lose_nothing_and_bring_nothing_back() {
    let world = World { max_namespaced: 2, max_connections: 2, cluster_wide: ClusterWide::Allowed, paged: false };
    let mut bench = Bench::new(&world);
    let plain = Wish {
        included: Vec::new(),
        excluded: None,
        team: None,
        app: None,
        name: None,
        mode: WatchMode::All,
        doubled: false,
    };
    let over = |namespaces: &[usize]| Step::Target {
        target: 0,
        wish: Wish { included: namespaces.to_vec(), ..plain.clone() },
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
