use super::*;
use crate::metrics::SinkType;
use crate::model::{Body, Cluster, Family, Fingerprint, Gvk, Name, Namespace, ObjectKey, Origin, SinkKey, Uid};
use crate::sinks::Destination;
use crate::store::Coverage;

use futures::future::BoxFuture;

/// A sink in memory that follows its script of failures.
#[derive(Debug)]
struct Memory {
    destination: Destination,
    rows: Mutex<BTreeMap<RowKey, (Namespace, Fingerprint)>>,
    deliveries: Mutex<Vec<(usize, usize)>>,
    failures: Mutex<Vec<Class>>,
}

impl Memory {
    fn new(failures: &[Class]) -> Arc<Self> {
        Arc::new(Self {
            destination: Destination { id: "memory".into(), description: "memory".into() },
            rows: Mutex::default(),
            deliveries: Mutex::default(),
            failures: Mutex::new(failures.to_vec()),
        })
    }

    fn deliveries(&self) -> Vec<(usize, usize)> {
        self.deliveries.lock().clone()
    }
}

fn print(row: &Row) -> Fingerprint {
    crate::canonical::fingerprint(&[row.body.attributes()])
}

impl Sink for Memory {
    fn kind(&self) -> SinkType {
        SinkType::Postgres
    }

    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        Box::pin(async { Ok(String::new()) })
    }

    fn fingerprint(&self, _: &Scope, row: &Row) -> Fingerprint {
        print(row)
    }

    fn recover<'a>(&'a self, _: &'a Scope, _: &'a Selection) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        let rows = self.rows.lock();
        let held = rows.iter().map(|(key, (namespace, print))| Held {
            key: key.clone(),
            namespace: namespace.clone(),
            fingerprint: Some(*print),
        });
        let held = held.collect();
        Box::pin(async { Ok(held) })
    }

    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            if let Some(class) = self.failures.lock().pop() {
                return Err(SinkError::new(class, "ExportFailed", "scripted"));
            }
            let mut rows = self.rows.lock();
            for key in &delta.deletes {
                rows.remove(key);
            }
            for row in &delta.upserts {
                rows.insert(row.key(), (row.namespace.clone(), print(row)));
            }
            self.deliveries.lock().push((delta.upserts.len(), delta.deletes.len()));
            let (written, deleted) = (delta.upserts.len() as u64, delta.deletes.len() as u64);
            Ok(Receipt { written, deleted, bytes: 0 })
        })
    }

    fn heartbeat<'a>(&'a self, _: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Bench {
    target: crate::store::Target,
    deliveries: Deliveries,
    stop: CancellationToken,
    task: JoinSet<Result<(), tokio::task::JoinError>>,
}

fn object(name: &str) -> ObjectKey {
    ObjectKey::new(Namespace::new("team-a"), Name::new(name))
}

fn binding_key() -> BindingKey {
    BindingKey { inventory: object("apps"), sink: SinkKey { family: Family::Database, object: object("pg") } }
}

impl Bench {
    fn start() -> Self {
        let store = Store::default();
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let target = store.register(Origin { target: object("deploys"), gvk });
        target.cover(&Coverage::Namespaces(Arc::new([Namespace::new("a")].into())));
        store.complete();
        let metrics = Arc::new(Metrics::new("test", "test"));
        let limits = Limits { total: 2, per_destination: 2 };
        let (deliverer, deliveries) = Deliverer::new(store.clone(), metrics, limits, 1);
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(deliverer.run(stop.clone()));
        Self { target, deliveries, stop, task }
    }

    async fn bind(&self, sink: &Arc<Memory>, interval: Duration, revision: &str) {
        let scope = Scope {
            cluster: Cluster::new(""),
            inventory: object("apps"),
            inventory_uid: Uid::new("11111111-1111-4111-8111-111111111111"),
        };
        let binding = Binding {
            key: binding_key(),
            sink: sink.clone(),
            scope: Arc::new(scope),
            interval,
            generation: 1,
            revision: revision.to_owned(),
        };
        self.deliveries.bind(binding, None).await;
    }

    fn put(&self, uid: &str, value: u32) {
        let body = Body::new(uid, format!("{{\"v\":{value}}}").as_bytes()).unwrap();
        self.target.apply(&Uid::new(uid), &Namespace::new("a"), body, false, 1);
    }

    fn learn(&self) {
        self.target.sweep(|_| true, 1);
    }

    /// Waits, in paused time, until the condition holds.
    async fn until(&self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        for _ in 0..100_000 {
            let report = self.deliveries.reports().get(&binding_key()).unwrap_or_default();
            if condition(&report) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn rows_are_delivered_once_a_part_is_known_and_only_what_differs() {
    let bench = Bench::start();
    let sink = Memory::new(&[]);
    bench.bind(&sink, Duration::ZERO, "1").await;
    bench.put("u1", 1);
    bench.put("u2", 1);
    bench.until("bound", |report| report.next_due.is_none()).await;
    assert_eq!(sink.deliveries(), []);
    bench.learn();
    let report = bench.until("acknowledged", |report| report.acknowledged && report.behind_since.is_none()).await;
    assert_eq!((sink.deliveries(), report.rows), (vec![(2, 0)], 2));
    bench.put("u1", 2);
    bench.target.remove(&Uid::new("u2"));
    let report = bench.until("one left", |report| report.rows == 1).await;
    assert_eq!((sink.deliveries(), report.failure), (vec![(2, 0), (1, 1)], None));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_finds_everything_in_the_sink_writes_no_row() {
    let sink = Memory::new(&[]);
    for life in 0..2 {
        let bench = Bench::start();
        bench.put("u1", 1);
        bench.learn();
        bench.bind(&sink, Duration::from_secs(30), "1").await;
        bench.until("acknowledged", |report| report.acknowledged).await;
        assert_eq!(sink.deliveries()[life], if life == 0 { (1, 0) } else { (0, 0) });
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_reported_and_nothing_is_lost() {
    let bench = Bench::start();
    let sink = Memory::new(&[Class::Transient, Class::Transient]);
    bench.put("u1", 1);
    bench.learn();
    bench.bind(&sink, Duration::from_secs(30), "1").await;
    let report = bench.until("failed", |report| report.failure.is_some()).await;
    assert_eq!(report.failure.unwrap().class, Class::Transient);
    bench.put("u2", 1);
    let report = bench.until("recovered", |report| report.acknowledged).await;
    assert_eq!((report.failure, sink.deliveries()), (None, vec![(2, 0)]));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_terminal_failure_waits_for_an_edit() {
    let bench = Bench::start();
    let sink = Memory::new(&[Class::Terminal]);
    bench.put("u1", 1);
    bench.learn();
    bench.bind(&sink, Duration::from_secs(30), "1").await;
    bench.until("failed", |report| report.failure.is_some()).await;
    bench.bind(&sink, Duration::from_secs(30), "2").await;
    let report = bench.until("acknowledged", |report| report.acknowledged).await;
    assert_eq!(report.failure, None);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn another_destination_is_compared_and_filled() {
    let bench = Bench::start();
    let first = Memory::new(&[]);
    bench.put("u1", 1);
    bench.learn();
    bench.bind(&first, Duration::ZERO, "1").await;
    bench.until("acknowledged", |report| report.acknowledged).await;
    let mut elsewhere = Memory::new(&[]);
    Arc::get_mut(&mut elsewhere).unwrap().destination.id = "elsewhere".into();
    bench.bind(&elsewhere, Duration::ZERO, "2").await;
    for _ in 0..1000 {
        if !elsewhere.deliveries().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((elsewhere.deliveries(), first.deliveries()), (vec![(1, 0)], vec![(1, 0)]));
    bench.end().await;
}
