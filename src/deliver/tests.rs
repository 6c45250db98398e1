mod archive;
mod documents;
mod memory;
mod model;
mod resumed;

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;

use super::*;
use crate::model::{Body, Cluster, Family, Gvk, Name, Namespace, ObjectKey, Origin, RowKey, SinkKey, Uid};
use crate::sinks::Leave;
use crate::store::Coverage;
use memory::{Memory, Wrong};

struct Bench {
    target: crate::store::Target,
    deliveries: Deliveries,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinSet<Result<(), tokio::task::JoinError>>,
}

fn object(name: &str) -> ObjectKey {
    ObjectKey::new(Namespace::new("team-a"), Name::new(name))
}

fn binding_key() -> BindingKey {
    BindingKey { inventory: object("apps"), sink: SinkKey { family: Family::Database, object: object("pg") } }
}

fn document_key() -> BindingKey {
    BindingKey { inventory: object("apps"), sink: SinkKey { family: Family::Snapshot, object: object("git") } }
}

const AUDIT: Duration = Duration::from_hours(1);
const MAX_ROW: usize = 1000;
const MAX_PART: u64 = 2000;
const GRACE: Duration = Duration::from_mins(10);

fn scope() -> Scope {
    Scope {
        cluster: Cluster::new(""),
        inventory: object("apps"),
        inventory_uid: Uid::new("11111111-1111-4111-8111-111111111111"),
    }
}

fn row_key(uid: &str) -> RowKey {
    RowKey { target: Name::new("deploys"), uid: Uid::new(uid) }
}

impl Bench {
    fn start() -> Self {
        let store = Store::default();
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let target = store.register(Origin { target: object("deploys"), gvk });
        target.cover(&Coverage::Namespaces(Arc::new([Namespace::new("a")].into())));
        store.complete();
        let metrics = Arc::new(Metrics::new("test", "test"));
        let settings = Settings {
            limits: Limits { total: 2, per_destination: 2, audit_interval: Some(AUDIT) },
            unknown_grace: GRACE,
            max_export_bytes: NonZeroU64::new(MAX_PART).unwrap(),
        };
        let (deliverer, deliveries) = Deliverer::new(store.clone(), metrics.clone(), settings, 1);
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(deliverer.run(stop.clone()));
        Self { target, deliveries, metrics, stop, task }
    }

    async fn bind(&self, sink: &Arc<Memory>, interval: Duration, revision: &str) {
        self.bind_to(binding_key(), Backend::Rows(sink.clone()), interval, revision).await;
    }

    async fn bind_to(&self, key: BindingKey, sink: Backend, interval: Duration, revision: &str) {
        self.resume(key, sink, interval, revision, None).await;
    }

    /// Binds what an earlier process wrote so long ago.
    async fn resume(
        &self,
        key: BindingKey,
        sink: Backend,
        interval: Duration,
        revision: &str,
        idle_for: Option<Duration>,
    ) {
        let binding = Binding {
            key,
            sink,
            scope: Arc::new(scope()),
            view: View::Namespace(object("apps").namespace),
            interval,
            generation: 1,
            max_export_bytes: NonZeroU64::new(MAX_ROW as u64),
            revision: revision.to_owned(),
        };
        self.deliveries.bind(binding, idle_for).await;
    }

    fn put(&self, uid: &str, value: u32) {
        self.put_in("a", uid, value);
    }

    fn put_in(&self, namespace: &str, uid: &str, value: u32) {
        let body = Body::new(uid, format!("{{\"v\":{value}}}").as_bytes()).unwrap();
        self.target.apply(&Uid::new(uid), &Namespace::new(namespace), body, false, 1);
    }

    fn learn(&self) {
        self.target.sweep(|_| true, 1);
    }

    /// Waits, in paused time, until the condition holds.
    async fn until(&self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        self.until_of(&binding_key(), what, condition).await
    }

    async fn until_of(&self, key: &BindingKey, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        for _ in 0..100_000 {
            let report = self.deliveries.reports().get(key).unwrap_or_default();
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
async fn a_sink_that_remembers_compares_when_it_takes_the_place_of_another() {
    for (remembers, delivered) in [(false, vec![(1, 0)]), (true, vec![(2, 0), (1, 0)])] {
        let bench = Bench::start();
        let (first, second) = (Memory::new(&[]), Memory::new(&[]));
        second.remembers.store(remembers, Ordering::Relaxed);
        bench.bind(&first, Duration::ZERO, "1").await;
        bench.put("u1", 1);
        bench.put("u2", 1);
        bench.learn();
        eventually("delivered", || first.deliveries() == [(2, 0)]).await;
        bench.bind(&second, Duration::ZERO, "2").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.put("u1", 2);
        eventually("delivered to the second", || second.deliveries() == delivered).await;
        bench.end().await;
    }
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
    let sink = Memory::new(&[Wrong::Refused(Class::Transient); 2]);
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
async fn who_was_refused_tries_again_when_another_one_at_the_destination_ends() {
    let bench = Bench::start();
    let (first, second) = (Memory::new(&[]), Memory::new(&[Wrong::Refused(Class::Terminal)]));
    let other = BindingKey { sink: SinkKey { family: Family::Database, object: object("other") }, ..binding_key() };
    bench.put("u1", 1);
    bench.learn();
    bench.bind(&first, Duration::from_secs(30), "1").await;
    bench.bind_to(other.clone(), Backend::Rows(second.clone()), Duration::from_secs(30), "1").await;
    bench.until_of(&other, "refused", |report| report.failure.is_some()).await;
    let ended = Instant::now();
    bench.deliveries.unbind(binding_key()).await;
    bench.until_of(&other, "written", |report| report.acknowledged).await;
    assert!(ended.elapsed() < Duration::from_secs(1), "{:?}", ended.elapsed());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_terminal_failure_waits_for_an_edit() {
    let bench = Bench::start();
    let sink = Memory::new(&[Wrong::Refused(Class::Terminal)]);
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
    let elsewhere = Memory::at("elsewhere", &[]);
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

/// Waits, in paused time, until the condition holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

/// Starts with one row in the sink.
async fn delivered(sink: &Arc<Memory>) -> Bench {
    let bench = Bench::start();
    bench.put("u1", 1);
    bench.put("u2", 1);
    bench.learn();
    bench.bind(sink, Duration::ZERO, "1").await;
    bench.until("acknowledged", |report| report.acknowledged && report.behind_since.is_none()).await;
    bench
}

#[tokio::test(start_paused = true)]
async fn an_audit_mends_what_somebody_changed_and_nothing_else() {
    let sink = Memory::new(&[]);
    let bench = delivered(&sink).await;
    sink.edit(|rows| rows.get_mut(&row_key("u1")).unwrap().content = b"edited".to_vec());
    bench.deliveries.audit(object("apps")).await;
    eventually("mended", || sink.stored.lock().rows[&row_key("u1")].content != b"edited").await;
    assert_eq!(sink.stored.lock().taken.last().map(|taken| taken.rows), Some(1));
    sink.edit(|rows| {
        let stranger = rows[&row_key("u2")].clone();
        rows.insert(row_key("u3"), stranger);
        rows.remove(&row_key("u2"));
    });
    eventually("the hourly audit", || sink.deliveries().len() == 3).await;
    assert_eq!(sink.stored.lock().rows.keys().cloned().collect::<Vec<_>>(), [row_key("u1"), row_key("u2")]);
    assert_eq!(sink.stored.lock().taken.last().map(|taken| taken.rows), Some(2));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_the_sink_refuses_costs_no_other_row_and_is_tried_again() {
    let sink = Memory::new(&[]);
    sink.stored.lock().poison.insert(row_key("u2"));
    let bench = delivered(&sink).await;
    let report = bench.until("told", |report| report.refused.is_some()).await;
    let refused = report.refused.unwrap();
    assert_eq!((refused.reason, report.failure), ("ExportTerminal", None));
    assert!(refused.message.starts_with("1 row(s) refused"), "{}", refused.message);
    bench.put("u1", 2);
    eventually("the others go on", || sink.deliveries().len() == 2).await;
    assert!(bench.deliveries.reports().get(&binding_key()).unwrap().refused.is_some());
    sink.stored.lock().poison.clear();
    bench.until("taken", |report| report.refused.is_none()).await;
    assert!(sink.stored.lock().rows.contains_key(&row_key("u2")));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_above_the_ceiling_is_refused_and_its_old_state_does_not_stay() {
    let sink = Memory::new(&[]);
    let bench = delivered(&sink).await;
    let body = Body::new("u2", format!("{{\"v\":\"{}\"}}", "x".repeat(MAX_ROW)).as_bytes()).unwrap();
    bench.target.apply(&Uid::new("u2"), &Namespace::new("a"), body, false, 1);
    let report = bench.until("told", |report| report.refused.is_some()).await;
    assert_eq!(report.refused.unwrap().reason, "PayloadTooLarge");
    assert_eq!(sink.stored.lock().rows.keys().cloned().collect::<Vec<_>>(), [row_key("u1")]);
    bench.put("u2", 3);
    bench.until("small again", |report| report.refused.is_none()).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_away_for_long_is_found_within_seconds_of_its_return() {
    let sink = Memory::new(&[]);
    let bench = delivered(&sink).await;
    sink.stored.lock().failures = vec![Wrong::Silent; 1000];
    bench.put("u1", 2);
    let report = bench.until("blocked", |report| report.blocked).await;
    assert!(report.failure.is_some());
    tokio::time::sleep(Duration::from_mins(20)).await;
    sink.stored.lock().failures.clear();
    let back = Instant::now();
    bench.until("current", |report| report.is_current() && !report.blocked && report.behind_since.is_none()).await;
    assert!(back.elapsed() < Duration::from_secs(13), "{:?}", back.elapsed());
    assert!(sink.stored.lock().probes > 20);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_place_is_left_once_its_delivery_ended_however_often_that_fails() {
    let sink = Memory::new(&[]);
    let bench = delivered(&sink).await;
    sink.stored.lock().failures = vec![Wrong::Silent, Wrong::Refused(Class::Transient)];
    bench.deliveries.unbind(binding_key()).await;
    let leaving = Leaving { sink: sink.clone(), scope: Arc::new(scope()), leave: Leave::Delete };
    bench.deliveries.leave(leaving).await;
    let place = Place::of(&*sink, &scope());
    let departure = || bench.deliveries.reports().departure(&place);
    eventually("a failure is told", || matches!(departure(), Some(Departure::Failed(_)))).await;
    eventually("left", || departure() == Some(Departure::Done)).await;
    assert_eq!(sink.stored.lock().left, [(scope(), Leave::Delete)]);
    // Used again, it is filled again.
    bench.bind(&sink, Duration::ZERO, "2").await;
    eventually("filled", || sink.stored.lock().rows.len() == 2).await;
    assert_eq!(departure(), None);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_place_that_got_another_address_is_not_emptied() {
    let sink = Memory::new(&[]);
    let bench = delivered(&sink).await;
    let renamed = Memory::at("renamed", &[]);
    sink.identity.lock().clone_into(&mut renamed.identity.lock());
    bench.bind(&renamed, Duration::ZERO, "2").await;
    let leaving = Leaving { sink: sink.clone(), scope: Arc::new(scope()), leave: Leave::Delete };
    bench.deliveries.leave(leaving).await;
    let place = Place::of(&*sink, &scope());
    eventually("left", || bench.deliveries.reports().departure(&place) == Some(Departure::Done)).await;
    assert_eq!(sink.stored.lock().left, []);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_stood_in_the_way_of_another_is_followed_at_once_when_it_leaves() {
    let bench = Bench::start();
    let sink = Memory::new(&[Wrong::Refused(Class::Terminal)]);
    bench.put("u1", 1);
    bench.learn();
    bench.bind(&sink, Duration::ZERO, "1").await;
    bench.until("refused", |report| report.failure.is_some()).await;
    let other = Arc::new(Scope { cluster: Cluster::new("before"), ..scope() });
    let refused = Instant::now();
    bench.deliveries.leave(Leaving { sink: sink.clone(), scope: other, leave: Leave::Delete }).await;
    bench.until("delivered", |report| report.acknowledged && report.failure.is_none()).await;
    assert!(refused.elapsed() < Duration::from_secs(2), "{:?}", refused.elapsed());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_audit_finds_scopes_that_nobody_delivers_to() {
    let sink = Memory::new(&[]);
    let bench = delivered(&sink).await;
    let stray = Scope { inventory: object("gone"), ..scope() };
    sink.stored.lock().scopes = vec![scope(), stray.clone()];
    bench.deliveries.audit(object("apps")).await;
    let mut found = Vec::new();
    for _ in 0..100 {
        found.extend(bench.deliveries.reports().strays());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found.iter().map(|stray| (*stray.scope).clone()).collect::<Vec<_>>(), [stray]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_waits_is_delivered_when_it_is_asked_for() {
    let bench = Bench::start();
    let sink = Memory::new(&[]);
    bench.put("u1", 1);
    bench.learn();
    bench.bind(&sink, Duration::from_hours(1), "1").await;
    bench.until("acknowledged", |report| report.acknowledged).await;
    bench.put("u1", 2);
    let report = bench.until("waits", |report| report.debounced).await;
    assert_eq!(report.interval, Duration::from_hours(1));
    bench.deliveries.hurry(object("apps")).await;
    let asked = Instant::now();
    bench.until("delivered", |report| report.behind_since.is_none()).await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    bench.end().await;
}
