mod pages;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;

use futures::future::BoxFuture;
use futures::stream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::expr::Shape;
use crate::extract::{Attribute, Extractor};
use crate::metrics::Metrics;
use crate::model::{Gvk, Name, ObjectKey, Origin};
use crate::store::{Coverage, Target};
use crate::watch::discover::{Resource, Scope};
use crate::watch::dispatch::Bounds;
use crate::watch::filter::{Filter, Terms};
use crate::watch::process::Program;

/// What the scripted server answers, in order; after the script every call hangs.
#[derive(Default)]
struct Script {
    lists: Mutex<VecDeque<Result<String, u16>>>,
    /// Each watch is a list of chunks; one that is not closed stays open.
    watches: Mutex<VecDeque<Watch>>,
    asked: Mutex<Vec<String>>,
}

enum Watch {
    Open(Vec<String>),
    Closed(Vec<String>),
    Refused(u16),
}

#[derive(Clone)]
struct Scripted(Arc<Script>);

impl Api for Scripted {
    fn list<'a>(&'a self, extent: &'a Extent, page: Page<'a>) -> BoxFuture<'a, Result<Reply, ApiError>> {
        let namespace = extent.namespace.as_ref().map_or("*", Namespace::as_str);
        let page = match page {
            Page::First => String::new(),
            Page::Next(token) => format!(" behind {token}"),
            Page::Whole => " at once".to_owned(),
            Page::Probe => " for one".to_owned(),
        };
        self.0.asked.lock().push(format!("list {namespace}{page}"));
        let next = self.0.lists.lock().pop_front();
        Box::pin(async move {
            match next {
                Some(Ok(text)) => {
                    // Cut where it hurts.
                    let chunks: Vec<_> =
                        text.into_bytes().chunks(7).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
                    Ok(stream::iter(chunks).boxed())
                }
                Some(Err(code)) => Err(ApiError::Status { code, message: "scripted".into() }),
                None => std::future::pending().await,
            }
        })
    }

    fn watch<'a>(&'a self, _: &'a Extent, version: &'a str) -> BoxFuture<'a, Result<Reply, ApiError>> {
        self.0.asked.lock().push(format!("watch {version}"));
        let next = self.0.watches.lock().pop_front();
        Box::pin(async move {
            let (lines, open) = match next {
                Some(Watch::Open(lines)) => (lines, true),
                Some(Watch::Closed(lines)) => (lines, false),
                Some(Watch::Refused(code)) => return Err(ApiError::Status { code, message: "scripted".into() }),
                None => (Vec::new(), true),
            };
            let lines = stream::iter(lines.into_iter().map(|line| Ok(Bytes::from(format!("{line}\n")))));
            let rest = if open { stream::pending().left_stream() } else { stream::empty().right_stream() };
            Ok(lines.chain(rest).boxed())
        })
    }
}

fn item(uid: &str, namespace: &str, version: u32, image: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{uid}","namespace":"{namespace}","uid":"{uid}","resourceVersion":"{version}"}},"image":"{image}"}}"#
    )
}

fn list(version: u32, items: &[String]) -> String {
    format!(r#"{{"kind":"L","metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#, items.join(","))
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn extent(resource: &Arc<Resource>, namespace: Option<&str>) -> Extent {
    Extent { resource: resource.clone(), namespace: namespace.map(Namespace::new), selector: "".into() }
}

struct Stage {
    script: Arc<Script>,
    shared: Arc<Shared>,
    wanted: Arc<Wanted>,
    target: Target,
    program: Arc<Program>,
    resource: Arc<Resource>,
    metrics: Arc<Metrics>,
    tasks: JoinSet<()>,
    _stop: tokio_util::sync::DropGuard,
}

impl Stage {
    fn new(lists: Vec<Result<String, u16>>, watches: Vec<Watch>) -> Self {
        let script =
            Script { lists: Mutex::new(lists.into()), watches: Mutex::new(watches.into()), ..Script::default() };
        let metrics = Arc::new(Metrics::new("test", "test"));
        let store = Store::default();
        let processor = Arc::new(Processor::new(store.clone(), metrics.clone()));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let one = NonZeroUsize::MIN;
        let bounds = Bounds {
            workers: one.saturating_add(1),
            queue: one.saturating_add(3),
            patience: Duration::from_millis(25),
        };
        let dispatch = Dispatch::start(bounds, &processor, &metrics, &mut tasks, &stop);
        let gvk = Gvk { group: "".into(), version: "v1".into(), kind: "Thing".into() };
        let origin = Origin { target: ObjectKey::new(Namespace::new("team"), Name::new("things")), gvk };
        let target = store.register(origin);
        let attribute = Attribute { name: "image".into(), path: "$.image".into(), shape: Shape::Any, optional: false };
        let extractor = Extractor::compile(&[attribute], &[]).unwrap();
        let shared = Shared {
            dispatch,
            processor,
            store,
            health: Health::default(),
            lists: Semaphore::new(4),
            resync: Duration::from_hours(1),
        };
        let resource =
            Resource { group: "".into(), version: "v1".into(), plural: "things".into(), scope: Scope::Namespaced };
        Self {
            script: Arc::new(script),
            shared: Arc::new(shared),
            wanted: Arc::default(),
            target,
            program: Arc::new(Program::new(Filter::default(), extractor)),
            resource: Arc::new(resource),
            metrics,
            tasks,
            _stop: stop.drop_guard(),
        }
    }

    /// Says what the target covers, as the control and the planner would.
    fn cover(&self, namespaces: &[&str]) {
        let namespaces: BTreeMap<Namespace, Terms> =
            namespaces.iter().map(|name| (Namespace::new(*name), Terms::default())).collect();
        self.target.cover(&Coverage::Namespaces(Arc::new(namespaces.keys().cloned().collect())));
        let interest = Interest {
            target: self.target.clone(),
            resource: self.resource.clone(),
            program: self.program.clone(),
            namespaces: Arc::new(namespaces),
        };
        self.shared.processor.watch_for([&Arc::new(interest)]);
    }

    fn drive(&mut self, namespace: Option<&str>) {
        let driver = Driver {
            api: Arc::new(Scripted(self.script.clone())),
            extent: extent(&self.resource, namespace),
            wanted: self.wanted.clone(),
            shared: self.shared.clone(),
            spread: 1.0,
        };
        self.tasks.spawn(driver.run());
    }

    fn rows(&self) -> Vec<String> {
        let table = self.shared.store.table(&Namespace::new("team"));
        let rows = table.rows();
        rows.iter().map(|row| format!("{} {}", row.uid, String::from_utf8_lossy(row.body.attributes()))).collect()
    }

    fn whole(&self) -> bool {
        self.shared.store.table(&Namespace::new("team")).target_counts(&Name::new("things")).whole
    }

    async fn until(&self, rows: &[&str]) {
        for _ in 0..100_000 {
            if self.rows() == rows {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("want {rows:?}, have {:?} after {:?}", self.rows(), self.script.asked.lock());
    }
}

const A1: &str = r#"u1 {"image":"a"}"#;
const B1: &str = r#"u1 {"image":"b"}"#;
const A2: &str = r#"u2 {"image":"a"}"#;
const A3: &str = r#"u3 {"image":"a"}"#;

#[tokio::test(start_paused = true)]
async fn a_list_is_followed_by_a_watch_from_its_version() {
    let watch = Watch::Open(vec![
        event("ADDED", &item("u2", "n", 8, "a")),
        event("MODIFIED", &item("u1", "n", 9, "b")),
        event("BOOKMARK", r#"{"metadata":{"resourceVersion":"12"}}"#),
        event("DELETED", &item("u2", "n", 13, "a")),
    ]);
    let mut stage = Stage::new(vec![Ok(list(7, &[item("u1", "n", 3, "a")]))], vec![watch]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.until(&[B1]).await;
    assert!(stage.whole());
    assert_eq!(*stage.script.asked.lock(), ["list n", "watch 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_from_the_last_version_it_saw() {
    let watches = vec![
        Watch::Closed(vec![event("ADDED", &item("u2", "n", 8, "a"))]),
        Watch::Closed(vec![event("BOOKMARK", r#"{"metadata":{"resourceVersion":"20"}}"#)]),
        Watch::Open(vec![event("ADDED", &item("u3", "n", 21, "a"))]),
    ];
    let mut stage = Stage::new(vec![Ok(list(7, &[]))], watches);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.until(&[A2, A3]).await;
    assert_eq!(*stage.script.asked.lock(), ["list n", "watch 7", "watch 8", "watch 20"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_is_a_mark_and_sweep_relist() {
    for refused in [true, false] {
        let gone = r#"{"kind":"Status","code":410,"message":"too old","reason":"Expired","status":"Failure"}"#;
        let expired = if refused { Watch::Refused(410) } else { Watch::Open(vec![event("ERROR", gone)]) };
        let lists = vec![
            Ok(list(7, &[item("u1", "n", 3, "a"), item("u2", "n", 4, "a")])),
            Ok(list(90, &[item("u1", "n", 3, "a"), item("u3", "n", 80, "a")])),
        ];
        let mut stage = Stage::new(lists, vec![expired]);
        stage.cover(&["n"]);
        stage.drive(Some("n"));
        stage.until(&[A1, A3]).await;
        assert_eq!(*stage.script.asked.lock(), ["list n", "watch 7", "list n", "watch 90"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_list_brings_once_more_and_what_concerns_nobody_is_counted() {
    let watches = vec![
        Watch::Open(vec![event("MODIFIED", &item("u1", "n", 8, "a")), event("ADDED", &item("u3", "n", 9, "a"))]),
        Watch::Open(vec![]),
    ];
    let lists = vec![
        Ok(list(7, &[item("u1", "n", 3, "a"), item("x", "elsewhere", 4, "a")])),
        Ok(list(90, &[item("u1", "n", 8, "a"), item("u2", "n", 80, "a"), item("x", "elsewhere", 4, "a")])),
    ];
    let mut stage = Stage::new(lists, watches);
    stage.cover(&["n"]);
    stage.drive(None);
    stage.until(&[A1, A3]).await;
    let counted = |name: &str, count: u64| {
        let line = format!("{name}{{group=\"\",resource=\"things\",version=\"v1\"}} {count}\n");
        let page = stage.metrics.page().unwrap();
        assert!(page.contains(&line), "{line}{page}");
    };
    counted("kollect_informer_resync_dispatches_total", 0);
    counted("kollect_collect_namespace_mismatch_total", 1);
    stage.wanted.all();
    stage.until(&[A1, A2]).await;
    counted("kollect_informer_resync_dispatches_total", 1);
    counted("kollect_collect_namespace_mismatch_total", 2);
    stage.shared.processor.watch_for([]);
    assert!(!stage.metrics.page().unwrap().contains("things"));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_sweeps_nothing_and_is_tried_again() {
    let broken = r#"{"metadata":{"resourceVersion":"8"},"items":[{"metadata":{"na"#.to_owned();
    let whole = list(7, &[item("u1", "n", 3, "a")]);
    let mut stage = Stage::new(vec![Ok(broken), Err(500), Ok(whole)], vec![]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.until(&[A1]).await;
    assert_eq!(*stage.script.asked.lock(), ["list n", "list n", "list n", "watch 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_listed_again_skips_what_the_watch_says_of_the_time_before() {
    let watch = Watch::Open(vec![]);
    let lists = vec![
        Ok(list(7, &[item("u1", "n", 3, "a")])),
        // Listed at 50: u2 was made at 40 and deleted at 45, u3 is there.
        Ok(list(50, &[item("u3", "m", 41, "a")])),
    ];
    let mut stage = Stage::new(lists, vec![watch]);
    stage.cover(&["n"]);
    stage.drive(None);
    stage.until(&[A1]).await;
    stage.cover(&["n", "m"]);
    stage.wanted.namespaces([Namespace::new("m")]);
    stage.until(&[A1, A3]).await;
    assert!(stage.whole());
    assert_eq!(*stage.script.asked.lock(), ["list *", "watch 7", "list m"]);
}

#[tokio::test(start_paused = true)]
async fn old_events_of_a_namespace_that_was_listed_again_are_skipped() {
    let stage = Stage::new(vec![], vec![]);
    stage.cover(&["m"]);
    let driver = Driver {
        api: Arc::new(Scripted(stage.script.clone())),
        extent: extent(&stage.resource, None),
        wanted: stage.wanted.clone(),
        shared: stage.shared.clone(),
        spread: 1.0,
    };
    let floors = HashMap::from([(Namespace::new("m"), 50)]);
    let mut version = String::new();
    for (uid, seen) in [("u2", 40), ("u3", 51)] {
        let line = event("ADDED", &item(uid, "m", seen, "a")).into();
        driver.line(line, &mut version, 1, &floors).await.unwrap();
    }
    stage.until(&[A3]).await;
    assert_eq!(version, "51");
}

#[tokio::test(start_paused = true)]
async fn a_refused_namespace_is_unknown_and_keeps_its_rows() {
    let lists = vec![Ok(list(7, &[item("u1", "n", 3, "a")])), Err(403), Ok(list(9, &[item("u1", "n", 3, "a")]))];
    let mut stage = Stage::new(lists, vec![Watch::Refused(410)]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    for _ in 0..1000 {
        if stage.script.asked.lock().len() == 3 && !stage.whole() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!stage.whole());
    assert_eq!(stage.rows(), [A1]);
    for _ in 0..100_000 {
        if stage.whole() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a granted right is not used");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_was_forbidden_for_a_moment_is_preceded_by_a_list() {
    let lists = vec![Ok(list(7, &[item("u1", "n", 3, "a")])), Ok(list(9, &[item("u1", "n", 3, "a")]))];
    let mut stage = Stage::new(lists, vec![Watch::Refused(403)]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    for _ in 0..100_000 {
        if stage.script.asked.lock().len() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*stage.script.asked.lock(), ["list n", "watch 7", "list n", "watch 9"]);
    assert!(stage.whole(), "a part that was forbidden stays unknown");
}

#[tokio::test(start_paused = true)]
async fn a_broken_object_costs_its_own_row_and_nothing_else() {
    let broken = r#"{"metadata":{"name":"u1","namespace":"n","uid":"u1","resourceVersion":"9"},"image":{"#;
    let watch = Watch::Open(vec![
        event("MODIFIED", &item("u1", "n", 8, "b")),
        event("ADDED", r#"{"metadata":{"name":"x"},"image":"no uid"}"#),
        event("ADDED", &item("u2", "n", 10, "a")),
    ]);
    let lists = vec![Ok(list(7, &[item("u1", "n", 3, "a")]))];
    let mut stage = Stage::new(lists, vec![watch]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.until(&[B1, A2]).await;
    let event = Event {
        resource: stage.resource.clone(),
        change: Change::Put,
        uid: Uid::new("u1"),
        namespace: Namespace::new("n"),
        mark: 1,
        text: Bytes::from_static(broken.as_bytes()),
    };
    stage.shared.dispatch.push(event).await;
    stage.until(&[A2]).await;
    let counts = stage.shared.store.table(&Namespace::new("team")).target_counts(&Name::new("things"));
    assert_eq!(counts.failing, 1);
}

fn many(count: u32) -> Vec<String> {
    (0..count).map(|index| item(&format!("u{index:04}"), "n", index + 1, "a")).collect()
}

impl Stage {
    /// Waits for that many rows. Returns how long it took.
    async fn counted(&self, rows: usize) -> Duration {
        let started = Instant::now();
        let table = self.shared.store.table(&Namespace::new("team"));
        for _ in 0..10_000 {
            if table.counts().rows == rows {
                return started.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("want {rows} rows, have {} after {:?}", table.counts().rows, self.script.asked.lock());
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_of_many_rows_is_believed_the_second_time() {
    for reach in [Some("n"), None] {
        let deleted = event("DELETED", &item("u0007", "n", 951, "a"));
        let lists = vec![Ok(list(900, &many(150))), Ok(list(950, &[])), Ok(list(960, &[]))];
        let mut stage = Stage::new(lists, vec![Watch::Refused(410), Watch::Open(vec![deleted])]);
        stage.cover(&["n"]);
        stage.drive(reach);
        stage.counted(149).await;
        assert!(stage.whole(), "knowledge stays as it was");
        let waited = stage.counted(0).await;
        assert!(waited >= Duration::from_secs(29) && waited < Duration::from_secs(32), "{waited:?}");
        let name = reach.unwrap_or("*");
        let list = format!("list {name}");
        assert_eq!(*stage.script.asked.lock(), [&list, "watch 900", &list, "watch 950", &list, "watch 960"]);
        assert!(stage.whole());
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_that_is_followed_by_a_full_one_costs_no_row() {
    let lists = vec![Ok(list(900, &many(150))), Ok(list(950, &[])), Ok(list(960, &many(149)))];
    let mut stage = Stage::new(lists, vec![Watch::Refused(410)]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.counted(150).await;
    assert!(stage.counted(149).await >= Duration::from_secs(30), "not swept before the third list");
}

#[tokio::test(start_paused = true)]
async fn listing_again_on_request_does_not_shorten_the_doubt() {
    let lists = vec![Ok(list(900, &many(150))), Ok(list(950, &[])), Ok(list(955, &[])), Ok(list(960, &[]))];
    let mut stage = Stage::new(lists, vec![Watch::Refused(410)]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.counted(150).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.wanted.all();
    assert!(stage.counted(0).await >= Duration::from_secs(19));
    assert_eq!(stage.script.asked.lock().iter().filter(|asked| *asked == "list n").count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_listed_empty_on_request_is_looked_at_again_with_the_rest() {
    let lists = vec![Ok(list(900, &many(150))), Ok(list(950, &[])), Ok(list(960, &[item("x1", "m", 959, "a")]))];
    let mut stage = Stage::new(lists, vec![]);
    stage.cover(&["n", "m"]);
    stage.drive(None);
    stage.counted(150).await;
    stage.wanted.namespaces([Namespace::new("n")]);
    let waited = stage.counted(1).await;
    assert!(waited >= Duration::from_secs(29), "{waited:?}");
    assert_eq!(*stage.script.asked.lock(), ["list *", "watch 900", "list n", "list *", "watch 960"]);
}

#[tokio::test(start_paused = true)]
async fn few_rows_and_a_list_with_something_in_it_are_swept_at_once() {
    for (before, after) in [(100, vec![]), (150, vec![item("other", "n", 940, "a")])] {
        let want = after.len();
        let lists = vec![Ok(list(900, &many(before))), Ok(list(950, &after))];
        let mut stage = Stage::new(lists, vec![Watch::Refused(410)]);
        stage.cover(&["n"]);
        stage.drive(Some("n"));
        for _ in 0..10_000 {
            if stage.script.asked.lock().len() == 4 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(*stage.script.asked.lock(), ["list n", "watch 900", "list n", "watch 950"]);
        assert_eq!(stage.rows().len(), want);
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_was_gone_is_listed_when_it_is_back() {
    let lists = vec![Ok(list(900, &many(3))), Err(404), Ok(list(950, &[item("u1", "n", 940, "a")]))];
    let mut stage = Stage::new(lists, vec![Watch::Refused(404)]);
    stage.cover(&["n"]);
    stage.drive(Some("n"));
    stage.counted(3).await;
    stage.until(&[A1]).await;
    assert_eq!(*stage.script.asked.lock(), ["list n", "watch 900", "list n", "list n", "watch 950"]);
}
