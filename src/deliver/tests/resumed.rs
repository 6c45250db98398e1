//! What a process does that takes over the interval of an earlier one.

use super::archive::Archive;
use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// A sink of rows and one of documents, over many lives.
struct Sinks {
    rows: Arc<Memory>,
    documents: Arc<Archive>,
    written: Option<Instant>,
}

impl Sinks {
    fn new() -> Self {
        Self { rows: Memory::new(&[]), documents: Archive::new(&[]), written: None }
    }

    /// Begins a life whose target collects there; none of it is known yet.
    async fn life(&self, namespaces: &[&str]) -> Bench {
        let bench = Bench::start();
        bench.cover(namespaces);
        let idle_for = self.written.map(|written| written.elapsed());
        bench.resume(binding_key(), Backend::Rows(self.rows.clone()), HOUR, "1", idle_for).await;
        bench.resume(document_key(), Backend::Documents(self.documents.clone()), HOUR, "1", idle_for).await;
        bench
    }

    /// Returns how often each was written to.
    fn writes(&self) -> (usize, usize) {
        let taken = self.rows.deliveries().into_iter().filter(|delivery| *delivery != (0, 0)).count();
        (taken, self.documents.shelves.lock().published.iter().filter(|published| published.written).count())
    }
}

impl Bench {
    fn cover(&self, namespaces: &[&str]) {
        let namespaces = namespaces.iter().copied().map(Namespace::new).collect();
        self.target.cover(&Coverage::Namespaces(Arc::new(namespaces)));
    }

    async fn both(&self, what: &str, condition: impl Fn(&Report) -> bool) {
        self.until(what, &condition).await;
        self.until_of(&document_key(), what, &condition).await;
    }
}

#[tokio::test(start_paused = true)]
async fn quick_restarts_with_a_change_in_each_write_once_in_an_interval() {
    let mut sinks = Sinks::new();
    for life in 0..5 {
        let bench = sinks.life(&["a"]).await;
        bench.put("u1", life);
        bench.learn();
        bench.both("acknowledged", |report| report.acknowledged && report.debounced == (life > 0)).await;
        sinks.written.get_or_insert_with(Instant::now);
        assert_eq!(sinks.writes(), (1, 1), "life {life}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        bench.end().await;
    }
    let bench = sinks.life(&["a"]).await;
    bench.put("u1", 9);
    bench.learn();
    let began = sinks.written.unwrap();
    tokio::time::sleep_until(began + HOUR - Duration::from_mins(1)).await;
    assert_eq!(sinks.writes(), (1, 1));
    bench.both("written", |report| report.last_write.is_some()).await;
    assert_eq!(sinks.writes(), (2, 2));
    let waited = began.elapsed();
    assert!(waited >= HOUR && waited < HOUR + Duration::from_secs(2), "{waited:?}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_listed_late_after_a_restart_waits_and_a_new_one_does_not() {
    let mut sinks = Sinks::new();
    let bench = sinks.life(&["a", "b"]).await;
    bench.put("u1", 1);
    bench.learn();
    bench.both("written", |report| report.last_write.is_some()).await;
    sinks.written = Some(Instant::now());
    bench.end().await;

    // The part that is known first is as it was, the other one is not.
    let bench = sinks.life(&["a", "b"]).await;
    bench.put("u1", 1);
    bench.target.sweep(|namespace| namespace.as_str() == "a", 1);
    bench.until("compared", |report| report.acknowledged).await;
    bench.put_in("b", "u2", 1);
    bench.learn();
    bench.both("waits", |report| report.debounced).await;
    assert_eq!(sinks.writes(), (1, 1));
    bench.end().await;

    // Everything is as it was; then somebody collects more.
    let bench = sinks.life(&["a", "b"]).await;
    bench.put("u1", 1);
    bench.learn();
    bench.both("compared", |report| report.acknowledged && report.behind_since.is_none()).await;
    bench.cover(&["a", "b", "c"]);
    bench.put_in("c", "u3", 1);
    bench.learn();
    bench.both("written", |report| report.last_write.is_some()).await;
    assert!(sinks.written.unwrap().elapsed() < HOUR / 2);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_earlier_life_is_written_when_somebody_asks_for_it_and_not_by_an_audit() {
    let mut sinks = Sinks::new();
    for life in 0..2 {
        let bench = sinks.life(&["a"]).await;
        bench.put("u1", life);
        bench.learn();
        bench.both("acknowledged", |report| report.acknowledged).await;
        if life == 0 {
            sinks.written = Some(Instant::now());
        } else {
            bench.deliveries.audit(object("apps")).await;
            tokio::time::sleep(Duration::from_mins(1)).await;
            assert_eq!(sinks.writes(), (1, 1));
            bench.deliveries.hurry(object("apps")).await;
            bench.both("written", |report| report.last_write.is_some()).await;
        }
        bench.end().await;
    }
}
