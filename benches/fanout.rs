//! What an event costs with one target that wants it, alone and among 999 others that do not.
//!
//! The watch stage runs as in the operator, behind a client whose server is played here: it lists nothing and sends watch
//! lines, each an object of 5 KB of one namespace that the one target wants. An event is counted from the bytes of its line
//! to its row: cut, queue, decoding, filters, extraction, store. The others collect in other namespaces, or in the same one
//! by another label or by other names, as the key says; a run measures all four by turns.
//!
//! `cargo bench --bench fanout` prints one line of JSON: medians in nanoseconds on one core. `thousand_ns` is the dearest of
//! the three, `ratio` the median over the runs of its price by that of one target alone. `-- --rounds N` sets how often each
//! object changes in a measurement.
#![expect(clippy::expect_used, reason = "a bench stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::response::Response;
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _, stream};
use kollect::expr::Shape;
use kollect::extract::{Attribute, Extractor};
use kollect::metrics::Metrics;
use kollect::model::{Gvk, Name, Namespace, ObjectKey, Origin};
use kollect::store::{Coverage, Store};
use kollect::watch::{
    Bounds, Choice, Clients, ClusterWide, Filter, Interest, Program, Resource, Scope, Settings, Terms, WatchSet,
};
use kube::core::{Expression, Selector};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tikv_jemallocator::Jemalloc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const DEPLOYMENT: &str = include_str!("fixtures/deployment.json");
const ATTRIBUTES: [(&str, &str); 6] = [
    ("image", "$.spec.template.spec.containers[0].image"),
    ("replicas", "$.spec.replicas"),
    ("ready", "$.status.readyReplicas"),
    ("team", "$.metadata.labels.team"),
    ("version", "$.metadata.labels['app.kubernetes.io/version']"),
    ("available", "$.status.conditions[?(@.type==\"Available\")].status"),
];

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Targets that do not want what is sent.
const OTHERS: usize = 999;
/// Objects that change; fewer than may wait, and each once in a round, so that no event stands for two.
const OBJECTS: usize = 200;
/// The namespace of all objects.
const PLACE: &str = "team-a";
const RUNS: usize = 7;
/// What a read of a connection brings.
const CHUNK: usize = 64 << 10;

/// Who is there beside the one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    None,
    OtherNamespaces,
    OtherLabels,
    OtherNames,
}

const WORLDS: [(&str, Others); 4] = [
    ("one", Others::None),
    ("other_namespaces", Others::OtherNamespaces),
    ("other_labels", Others::OtherLabels),
    ("other_names", Others::OtherNames),
];

/// The watch stage with its targets and a server.
struct World {
    store: Store,
    events: mpsc::Sender<Bytes>,
    round: usize,
    _tasks: JoinSet<()>,
}

impl World {
    async fn new(others: Others) -> Self {
        let (events, replies) = mpsc::channel(4);
        let (store, stop) = (Store::default(), CancellationToken::new());
        let settings = Settings {
            dispatch: Bounds {
                workers: NonZeroUsize::MIN,
                queue: NonZeroUsize::new(1024).expect("it is not zero"),
                patience: Duration::from_secs(10),
            },
            // One stream, whoever is there.
            max_namespaced: 0,
            max_connections: 1,
            resync: Duration::from_hours(1),
            server_minor: 34,
            cluster_wide: ClusterWide::Allowed,
        };
        let metrics = Arc::new(Metrics::new("bench", "bench"));
        let client = client(replies);
        let clients = Clients { lists: client.clone(), others: client };
        let watch = WatchSet::new(clients, store.clone(), &metrics, settings, &stop);
        let resource = Resource {
            group: "apps".into(),
            version: "v1".into(),
            plural: "deployments".into(),
            scope: Scope::Namespaced,
        };
        register(&store, &watch, &Arc::new(resource), others);
        store.complete();
        let running = watch.run(stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { running.await.expect("no stream ends by itself") });
        let mut world = Self { store, events, round: 0, _tasks: tasks };
        // The first brings the objects, the second finds every buffer in its size.
        world.play(&lines(0)).await;
        world.play(&lines(1)).await;
        world
    }

    /// Sends one event for each object, and returns when the last has its row.
    async fn play(&mut self, chunks: &[Bytes]) {
        for chunk in chunks {
            self.events.send(chunk.clone()).await.expect("the watch is open");
        }
        // The queue has one lane: what is behind the last one ends the round by coming or going.
        self.round += 1;
        let comes = self.round % 2 == 1;
        let marker = line(if comes { "ADDED" } else { "DELETED" }, &object(OBJECTS, 0));
        self.events.send(Bytes::from(marker)).await.expect("the watch is open");
        while self.store.rows() != OBJECTS + usize::from(comes) {
            self.store.dirtied().await;
            self.store.drain();
        }
    }
}

fn register(store: &Store, watch: &WatchSet, resource: &Arc<Resource>, others: Others) {
    let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
    let place = Namespace::new(PLACE);
    let add = |number: usize, namespace: Namespace, filter: Filter| {
        let key = ObjectKey::new(place.clone(), Name::new(format!("target-{number}")));
        let target = store.register(Origin { target: key, gvk: gvk.clone() });
        target.cover(&Coverage::Namespaces(Arc::new(BTreeSet::from([namespace.clone()]))));
        let attributes = ATTRIBUTES.map(|(name, path)| Attribute {
            name: name.to_owned(),
            path: path.to_owned(),
            shape: Shape::Any,
            optional: true,
        });
        let extractor = Extractor::compile(&attributes, &[]).expect("the paths are right");
        let program = Arc::new(Program::new(filter, extractor));
        let namespaces = Arc::new(BTreeMap::from([(namespace, Terms::default())]));
        watch.set(Interest { target, resource: resource.clone(), program, namespaces });
    };
    let labelled = |value: &str| {
        let labels: Selector = Expression::Equal("app".to_owned(), value.to_owned()).into();
        Filter { choice: Choice::Plain { names: BTreeSet::new(), labels }, ..Filter::default() }
    };
    add(0, place.clone(), labelled("wanted"));
    if others == Others::None {
        return;
    }
    for number in 1..=OTHERS {
        let named = BTreeSet::from([Name::new(format!("other-{number}"))]);
        match others {
            Others::OtherLabels => add(number, place.clone(), labelled(&format!("other-{number}"))),
            Others::OtherNames => {
                let choice = Choice::Plain { names: named, labels: Selector::default() };
                add(number, place.clone(), Filter { choice, ..Filter::default() });
            }
            Others::None | Others::OtherNamespaces => {
                add(number, Namespace::new(format!("team-{number}")), labelled("wanted"));
            }
        }
    }
}

/// Returns a client of a server that lists nothing and sends what comes as the reply to a watch.
fn client(replies: mpsc::Receiver<Bytes>) -> kube::Client {
    let replies = Arc::new(Mutex::new(Some(replies)));
    let answer = move |RawQuery(query): RawQuery| {
        let watched = query.is_some_and(|query| query.contains("watch=true"));
        let events = watched.then(|| replies.lock().take()).flatten();
        async move {
            let whole = r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#;
            Response::new(match events {
                Some(events) => Body::from_stream(events.map(Ok::<_, std::convert::Infallible>)),
                None if watched => Body::from_stream(stream::pending::<Result<Bytes, std::convert::Infallible>>()),
                None => Body::from(whole),
            })
        }
    };
    kube::Client::new(Router::new().fallback(answer), "default")
}

/// Returns an object of 5 KB as it is in one round.
fn object(number: usize, round: usize) -> Value {
    let mut object: Value = serde_json::from_str(DEPLOYMENT).expect("the object is right");
    object["metadata"]["name"] = json!(format!("shop-{number}"));
    object["metadata"]["namespace"] = json!(PLACE);
    object["metadata"]["uid"] = json!(format!("{number:08x}-8a3c-4c0e-9d1f-0b6f3a0c7e11"));
    object["metadata"]["resourceVersion"] = json!((2 + round).to_string());
    object["metadata"]["labels"]["app"] = json!("wanted");
    object["spec"]["replicas"] = json!(round);
    object
}

fn line(kind: &str, object: &Value) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#) + "\n"
}

/// Returns the events of one round as they arrive.
fn lines(round: usize) -> Vec<Bytes> {
    let text: String = (0..OBJECTS).map(|number| line("MODIFIED", &object(number, round))).collect();
    let text = Bytes::from(text);
    (0..text.len()).step_by(CHUNK).map(|start| text.slice(start..text.len().min(start + CHUNK))).collect()
}

/// Returns how long this thread has run, from the first number of its `schedstat`; Linux only.
fn time_on_core() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Plays so many rounds; returns nanoseconds of this thread's time for each event.
async fn measure(world: &mut World, rounds: &[Vec<Bytes>], count: usize) -> f64 {
    let (started, ran_before) = (Instant::now(), time_on_core());
    for round in rounds.iter().cycle().take(count) {
        world.play(round).await;
    }
    let ran = ran_before.and_then(|before| time_on_core()?.checked_sub(before)).filter(|ran| !ran.is_zero());
    ran.unwrap_or_else(|| started.elapsed()).as_nanos() as f64 / (count * OBJECTS) as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn rounds() -> usize {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().skip_while(|argument| *argument != "--rounds").nth(1);
    given.map_or(50, |text| text.parse().expect("--rounds takes a number"))
}

// One thread, so that its time is that of all of it.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut worlds = Vec::new();
    for (name, others) in WORLDS {
        worlds.push((name, World::new(others).await, Vec::new()));
    }
    // Each row differs from the one before.
    let lines = [lines(2), lines(3)];
    for _ in 0..RUNS {
        for (_, world, runs) in &mut worlds {
            runs.push(measure(world, &lines, rounds()).await);
        }
    }
    let mut fields = serde_json::Map::new();
    for (name, _, runs) in &worlds {
        let rounded: Vec<f64> = runs.iter().map(|run| run.round()).collect();
        fields.insert(format!("{name}_ns"), json!(median(&rounded)));
        fields.insert(format!("{name}_ns_runs"), json!(rounded));
    }
    let (one, others) = worlds.split_first().expect("there are four");
    let dearest = others.iter().max_by(|a, b| median(&a.2).total_cmp(&median(&b.2))).expect("there are three");
    let ratios: Vec<f64> =
        dearest.2.iter().zip(&one.2).map(|(many, one)| (many / one * 1000.0).round() / 1000.0).collect();
    fields.insert("thousand_ns".to_owned(), json!(median(&dearest.2).round()));
    fields.insert("ratio".to_owned(), json!(median(&ratios)));
    fields.insert("ratio_runs".to_owned(), json!(ratios));
    println!("{}", Value::Object(fields));
}
