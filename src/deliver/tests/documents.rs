//! Documents: when one is written, what it holds, and what it waits for.

use super::archive::{Archive, Items};
use super::*;
use crate::model::Part;

fn part(namespace: &str) -> Part {
    Part { target: Name::new("deploys"), namespace: Namespace::new(namespace) }
}

fn uids(items: &Items) -> Vec<String> {
    items.iter().map(|(key, ..)| key.uid.to_string()).collect()
}

/// Covers two namespaces, of which the first is known.
fn half_known() -> Bench {
    let bench = Bench::start();
    let both = ["a", "b"].map(Namespace::new);
    bench.target.cover(&Coverage::Namespaces(Arc::new(both.into())));
    bench.put("u1", 1);
    bench.target.sweep(|namespace| namespace.as_str() == "a", 1);
    bench
}

impl Bench {
    async fn publish_to(&self, archive: &Arc<Archive>, interval: Duration, revision: &str) {
        self.bind_to(document_key(), Backend::Documents(archive.clone()), interval, revision).await;
    }

    async fn document(&self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        self.until_of(&document_key(), what, condition).await
    }
}

/// Returns how many documents were taken, and how many of them were written.
fn counted(archive: &Archive) -> (usize, usize) {
    let shelves = archive.shelves.lock();
    (shelves.published.len(), shelves.published.iter().filter(|published| published.written).count())
}

#[tokio::test(start_paused = true)]
async fn a_document_has_all_rows_in_their_order_and_is_written_again_only_when_something_changed() {
    let bench = Bench::start();
    let archive = Archive::new(&[]);
    for uid in ["z", "11111111-1111-4111-8111-111111111111", "10"] {
        bench.put(uid, 1);
    }
    bench.learn();
    bench.publish_to(&archive, Duration::from_secs(30), "1").await;
    let report = bench.document("written", |report| report.acknowledged).await;
    assert_eq!((report.rows, report.checksum.as_deref(), report.gap), (3, Some("3 items"), None));
    assert_eq!(uids(&archive.items(&scope()).unwrap()), ["10", "11111111-1111-4111-8111-111111111111", "z"]);
    let written = Instant::now();
    bench.put("z", 2);
    bench.document("waits for the interval", |report| report.debounced).await;
    eventually("written again", || counted(&archive) == (2, 2)).await;
    assert!(written.elapsed() >= Duration::from_secs(29));
    // Nothing changes, and nothing is asked of the sink.
    bench.deliveries.hurry(object("apps")).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(counted(&archive), (2, 2));
    for uid in ["z", "11111111-1111-4111-8111-111111111111", "10"] {
        bench.target.remove(&Uid::new(uid));
    }
    eventually("emptied", || archive.items(&scope()) == Some(Vec::new())).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_looks_at_the_document_and_writes_nothing() {
    let archive = Archive::new(&[]);
    for life in 1..=2 {
        let bench = Bench::start();
        bench.put("u1", 1);
        bench.learn();
        bench.publish_to(&archive, Duration::from_secs(30), "1").await;
        let report = bench.document("acknowledged", |report| report.acknowledged).await;
        assert_eq!((counted(&archive), report.last_write.is_some()), ((life, 1), life == 1));
        if life == 2 {
            // Looking is not writing: no interval begins.
            bench.put("u1", 2);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(counted(&archive), (3, 2));
        }
        bench.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_publishes_again_and_so_does_a_failure() {
    let bench = Bench::start();
    let archive = Archive::new(&[Wrong::Refused(Class::Transient)]);
    bench.put("u1", 1);
    bench.learn();
    bench.publish_to(&archive, Duration::from_secs(30), "1").await;
    bench.document("failed", |report| report.failure.is_some()).await;
    bench.document("written", |report| report.acknowledged && report.failure.is_none()).await;
    bench.publish_to(&archive, Duration::from_secs(30), "2").await;
    eventually("looked at again", || counted(&archive) == (2, 1)).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_document_waits_for_what_is_not_known_and_is_written_the_moment_it_is() {
    let bench = half_known();
    let archive = Archive::new(&[]);
    bench.publish_to(&archive, Duration::from_secs(30), "1").await;
    let report = bench.document("waits", |report| report.gap.is_some()).await;
    let Some(Gap::Awaited(awaited)) = &report.gap else { panic!("{report:?}") };
    assert_eq!(awaited.parts, [part("b")]);
    assert_eq!((report.failure.is_some(), report.debounced, report.is_current()), (false, false, false));
    bench.put("u1", 2);
    tokio::time::sleep(GRACE / 2).await;
    assert_eq!(counted(&archive), (0, 0));
    let known = Instant::now();
    bench.learn();
    let report = bench.document("written", Report::is_current).await;
    assert!(known.elapsed() < Duration::from_secs(1));
    assert_eq!((report.gap, report.rows), (None, 1));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_a_document_is_written_without_what_is_missing_and_says_so() {
    let start = Instant::now();
    let bench = half_known();
    let archive = Archive::new(&[]);
    bench.publish_to(&archive, Duration::from_secs(30), "1").await;
    let report = bench.document("written", |report| report.acknowledged).await;
    assert!(start.elapsed() >= GRACE && start.elapsed() < GRACE + Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(report.gap, Some(Gap::Left(vec![part("b")])));
    assert!(report.is_current());
    // It is not waited for again.
    tokio::time::sleep(Duration::from_mins(1)).await;
    bench.put("u1", 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counted(&archive), (2, 2));
    // Known at last, within the interval.
    bench.target.apply(&Uid::new("u2"), &Namespace::new("b"), Body::new("u2", b"{}").unwrap(), false, 1);
    bench.learn();
    let report = bench.document("whole", |report| report.gap.is_none()).await;
    assert_eq!(report.rows, 2);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_comes_later_is_waited_for_in_its_turn_and_never_longer_than_the_grace_in_all() {
    let bench = Bench::start();
    let archive = Archive::new(&[]);
    bench.put("u1", 1);
    bench.learn();
    bench.publish_to(&archive, Duration::ZERO, "1").await;
    bench.document("written", |report| report.acknowledged).await;
    tokio::time::sleep(2 * GRACE).await;
    let mut covered = vec![Namespace::new("a")];
    let start = Instant::now();
    bench.put("u1", 2);
    // A namespace that cannot be listed is added again and again.
    while counted(&archive).1 == 1 {
        covered.push(Namespace::new(format!("n{}", covered.len())));
        bench.target.cover(&Coverage::Namespaces(Arc::new(covered.iter().cloned().collect())));
        tokio::time::sleep(GRACE / 4).await;
        assert!(start.elapsed() < 2 * GRACE);
    }
    assert!(start.elapsed() >= GRACE && start.elapsed() <= GRACE + GRACE / 4, "{:?}", start.elapsed());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_nothing_at_all_is_known() {
    let bench = Bench::start();
    let archive = Archive::new(&[]);
    bench.put("u1", 1);
    bench.publish_to(&archive, Duration::ZERO, "1").await;
    tokio::time::sleep(3 * GRACE).await;
    assert_eq!(counted(&archive), (0, 0));
    let report = bench.document("waits", |report| report.gap.is_some()).await;
    let Some(Gap::Awaited(awaited)) = report.gap else { panic!("it was written") };
    assert_eq!((awaited.parts, awaited.until), (vec![part("a")], None));
    bench.learn();
    eventually("written", || archive.items(&scope()).is_some_and(|items| items.len() == 1)).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_not_known_any_more_stays_in_the_document_as_it_was() {
    let bench = half_known();
    let archive = Archive::new(&[]);
    bench.target.apply(&Uid::new("u2"), &Namespace::new("b"), Body::new("u2", b"{}").unwrap(), false, 1);
    bench.learn();
    bench.publish_to(&archive, Duration::ZERO, "1").await;
    bench.document("written", |report| report.acknowledged).await;
    bench.target.forget(&Namespace::new("b"));
    bench.put("u1", 2);
    eventually("written again", || counted(&archive) == (2, 2)).await;
    assert_eq!(uids(&archive.items(&scope()).unwrap()), ["u1", "u2"]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn changes_during_a_publication_are_in_the_next_one() {
    let bench = Bench::start();
    let archive = Archive::new(&[]);
    let closed = archive.gate.write().await;
    bench.put("u1", 1);
    bench.learn();
    bench.publish_to(&archive, Duration::ZERO, "1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.put("u2", 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counted(&archive), (0, 0));
    drop(closed);
    eventually("both", || archive.items(&scope()).is_some_and(|items| items.len() == 2)).await;
    let sizes: Vec<usize> = archive.shelves.lock().published.iter().map(|published| published.items.len()).collect();
    assert_eq!(sizes, [1, 2]);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_audit_publishes_again_and_counts_what_somebody_changed() {
    let bench = Bench::start();
    let archive = Archive::new(&[]);
    bench.put("u1", 1);
    bench.learn();
    bench.publish_to(&archive, Duration::ZERO, "1").await;
    bench.document("written", |report| report.acknowledged).await;
    bench.deliveries.audit(object("apps")).await;
    eventually("looked at", || counted(&archive) == (2, 1)).await;
    archive.edit(&scope(), |kept| kept.items.clear());
    bench.deliveries.audit(object("apps")).await;
    eventually("mended", || counted(&archive) == (3, 2)).await;
    assert_eq!(uids(&archive.items(&scope()).unwrap()), ["u1"]);
    let page = bench.metrics.page().unwrap();
    assert!(page.contains("kollect_sink_repairs_total{sink_type=\"git\"} 1"), "{page}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_above_the_limit_of_a_part_is_refused_and_the_document_goes_without() {
    let bench = Bench::start();
    let archive = Archive::new(&[]);
    bench.put("u1", 1);
    let body = Body::new("u2", format!("{{\"v\":\"{}\"}}", "x".repeat(MAX_ROW)).as_bytes()).unwrap();
    bench.target.apply(&Uid::new("u2"), &Namespace::new("a"), body, false, 1);
    bench.learn();
    bench.publish_to(&archive, Duration::ZERO, "1").await;
    let report = bench.document("told", |report| report.refused.is_some()).await;
    let refused = report.refused.unwrap();
    assert_eq!((refused.reason, report.rows), ("PayloadTooLarge", 1));
    assert!(refused.message.contains("more than spec.maxExportBytes (1000)"), "{}", refused.message);
    assert_eq!(archive.shelves.lock().published[0].max_part_bytes, MAX_ROW as u64);
    bench.put("u2", 2);
    bench.document("small again", |report| report.refused.is_none() && report.rows == 2).await;
    bench.end().await;
}
