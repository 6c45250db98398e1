use futures::future::BoxFuture;

use super::*;
use crate::api::v1alpha1::Kind;
use crate::export::Scope;
use crate::model::{Name, Namespace, ObjectKey};
use crate::sinks::{Destination, Leave, Receipt, SinkError};

/// What a sink answers to a probe.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Passes,
    Fails(&'static str),
    /// Never.
    Hangs,
}

/// Fails the test: whoever probes a sink asks it for nothing else.
fn only_probed<T>() -> T {
    panic!("a probe asked for more than an answer")
}

/// A sink that can be probed and nothing else.
#[derive(Debug)]
struct Scripted(Destination, Answer);

impl Sink for Scripted {
    fn kind(&self) -> SinkType {
        SinkType::Postgres
    }

    fn destination(&self) -> &Destination {
        &self.0
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        only_probed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        Box::pin(async {
            match self.1 {
                Answer::Passes => Ok("it is ready".to_owned()),
                Answer::Fails(reason) => Err(SinkError::new(Class::Terminal, reason, "it broke")),
                Answer::Hangs => std::future::pending().await,
            }
        })
    }

    fn leave<'a>(&'a self, _: &'a Scope, _: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        only_probed()
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        only_probed()
    }

    fn heartbeat<'a>(&'a self, _: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        only_probed()
    }
}

fn order(name: &str, revision: &str, answer: Answer) -> Order {
    let there = Destination { id: name.to_owned(), description: format!("postgres://{name}") };
    Order {
        subject: (Kind::DatabaseSink, ObjectKey::new(Namespace::new("team-a"), Name::new(name))),
        revision: revision.to_owned(),
        sink: Arc::new(Scripted(there, answer)),
    }
}

fn probes() -> (Probes, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new("0", "0"));
    (Probes::new(metrics.clone()), metrics)
}

#[tokio::test(start_paused = true)]
async fn four_run_at_once_and_the_newest_order_of_an_object_is_the_one_that_counts() {
    let (mut probes, _) = probes();
    for name in ["a", "b", "c", "d", "e"] {
        probes.order(order(name, "1", Answer::Hangs));
    }
    probes.order(order("e", "2", Answer::Passes));
    probes.order(order("f", "1", Answer::Passes));
    probes.cancel(&order("f", "1", Answer::Passes).subject);
    assert_eq!((probes.running.len(), probes.waiting.len()), (PARALLEL, 1));
    let mut ended = Vec::new();
    for _ in 0..5 {
        let over = probes.next().await.unwrap();
        ended.push(format!("{}{}", over.subject.1.name, over.revision));
    }
    ended.sort();
    assert_eq!(ended, ["a1", "b1", "c1", "d1", "e2"]);
    assert!(probes.running.is_empty() && probes.waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_does_not_answer_has_failed_after_fifteen_seconds() {
    let (mut probes, metrics) = probes();
    let since = Instant::now();
    probes.order(order("slow", "1", Answer::Hangs));
    let over = probes.next().await.unwrap();
    let failing = over.verdict.unwrap_err();
    assert_eq!((since.elapsed(), over.elapsed), (DEADLINE, DEADLINE));
    assert_eq!((failing.reason, failing.class), (reasons::CONNECTION_TEST_FAILED, Class::Transient));
    assert!(failing.message.starts_with("no answer from postgres://slow within 15 s;"), "{}", failing.message);
    let counted = "kollect_sink_connection_test_total{result=\"failure\",type=\"postgres\"} 1";
    assert!(metrics.page().unwrap().contains(counted));
}

#[tokio::test(start_paused = true)]
async fn the_reason_is_one_of_a_connection() {
    for (reason, want) in [
        ("ExportFailed", "ConnectionTestFailed"),
        ("ExportTerminal", "ConnectionTestFailed"),
        ("ConnectionTestFailed", "ConnectionTestFailed"),
        ("SecretResolveFailed", "SecretResolveFailed"),
        ("ClusterConflict", "ClusterConflict"),
    ] {
        let (mut probes, _) = probes();
        probes.order(order("pg", "1", Answer::Fails(reason)));
        assert_eq!(probes.next().await.unwrap().verdict.unwrap_err().reason, want);
    }
    let (mut probes, _) = probes();
    probes.order(order("pg", "1", Answer::Passes));
    assert_eq!(probes.next().await.unwrap().verdict.unwrap(), "it is ready");
}
