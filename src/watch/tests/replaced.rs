//! Streams that are replaced while they are in the middle of a step, which no abort cuts short.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, future, stream};
use parking_lot::Condvar;
use tokio::time::timeout;

use super::*;
use crate::watch::api::{ApiError, Reply};

/// Longer than anything takes that happens at all.
const LONG: Duration = Duration::from_secs(10);
/// Long enough for a list that is not to come.
const SHORT: Duration = Duration::from_millis(300);

/// An API server that keeps the first stream busy until it is let go, and then refuses it. Others list nothing.
#[derive(Default)]
struct Stuck {
    /// The labels of the lists that were asked for, in order.
    asked: Mutex<Vec<String>>,
    changed: Condvar,
    free: Mutex<bool>,
    freed: Condvar,
}

impl Stuck {
    /// Waits for a list of these labels; tells whether it came.
    fn listed(&self, labels: &str, patience: Duration) -> bool {
        let mut asked = self.asked.lock();
        let came = |asked: &mut Vec<String>| !asked.iter().any(|asked| asked == labels);
        !self.changed.wait_while_for(&mut asked, came, patience).timed_out()
    }

    fn free(&self) {
        *self.free.lock() = true;
        self.freed.notify_all();
    }
}

impl Api for Stuck {
    fn list<'a>(&'a self, extent: &'a Extent, _: Page<'a>) -> BoxFuture<'a, Result<Reply, ApiError>> {
        let labels = extent.selector.to_string();
        async move {
            self.asked.lock().push(labels.clone());
            self.changed.notify_all();
            if labels == "app=0" {
                self.freed.wait_while(&mut self.free.lock(), |free| !*free);
                return Err(ApiError::Status { code: 403, message: "no".to_owned() });
            }
            let empty = r#"{"kind":"List","metadata":{"resourceVersion":"1"},"items":[]}"#;
            Ok(stream::iter([Ok(empty.into())]).boxed())
        }
        .boxed()
    }

    fn watch<'a>(&'a self, _: &'a Extent, _: &'a str) -> BoxFuture<'a, Result<Reply, ApiError>> {
        future::pending().boxed()
    }
}

/// The only target asks for these labels from now on.
fn want(watch: &WatchSet, store: &Store, app: u8) -> Interest {
    let wish = Wish { app: Some(app), ..Wish::default() };
    let resource =
        Resource { group: "".into(), version: "v1".into(), plural: "things".into(), scope: Scope::Namespaced };
    let gvk = Gvk { group: "".into(), version: "v1".into(), kind: "Thing".into() };
    let interest = Interest {
        target: store.register(Origin { target: key(0), gvk }),
        resource: Arc::new(resource),
        program: Arc::new(wish.compile(Edition::Value)),
        namespaces: Arc::new(BTreeMap::from([(Namespace::new("a"), Terms::default())])),
    };
    watch.set(interest.clone());
    interest
}

/// Waits until a stream with these labels is planned.
async fn planned(watch: &WatchSet, labels: &str) {
    let there = async {
        while !watch.open.lock().iter().any(|extent| &*extent.selector == labels) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, there).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_last_of_a_chain_waits_for_all_before_it_and_what_they_say_at_the_end_is_not_heard() {
    let (store, metrics, stop) = (Store::default(), Arc::new(Metrics::new("test", "test")), CancellationToken::new());
    let bounds = Bounds {
        workers: NonZeroUsize::new(1).unwrap(),
        queue: NonZeroUsize::new(4).unwrap(),
        patience: Duration::from_millis(25),
    };
    let settings = Settings {
        dispatch: bounds,
        max_namespaced: 5,
        max_connections: 5,
        resync: Duration::from_hours(1),
        server_minor: 34,
        cluster_wide: ClusterWide::Never,
    };
    let api = Arc::new(Stuck::default());
    let watch = WatchSet::over(api.clone(), store.clone(), &metrics, settings, &stop);
    let mut tasks = JoinSet::new();
    let running = watch.clone().run(stop.clone());
    tasks.spawn(async move { running.await.unwrap() });

    want(&watch, &store, 0);
    assert!(api.listed("app=0", LONG), "the first stream lists");
    want(&watch, &store, 1);
    planned(&watch, "app=1").await;
    let interest = want(&watch, &store, 2);
    planned(&watch, "app=2").await;
    let early = api.listed("app=2", SHORT);
    api.free();
    assert!(api.listed("app=2", LONG), "the last stream lists");
    assert!(!early, "it listed while the first one was not done");
    assert!(!api.listed("app=1", Duration::ZERO), "the one between had no time to");

    let quiet = async {
        while !watch.problems(&interest).is_empty() {
            watch.health_changed().await;
        }
    };
    timeout(LONG, quiet).await.expect("a stream that is gone is still complained about");
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}
