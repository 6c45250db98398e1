//! What is in a topic, byte by byte, and what a restart, a stranger and a lost beginning do to it.

use anyhow::Result;
use jiff::Timestamp;
use kollect::export::event::{Operation, Stream, names};
use kollect::export::{Base, Selection};
use kollect::lab::kafka::Record;
use kollect::model::Cluster;
use kollect::sinks::contract::document::document;
use kollect::sinks::contract::{delta, row, rows as some, scope};
use kollect::sinks::kafka::{Compression, KafkaConfig, Mode, Provisioning};
use kollect::sinks::{Audit, Leave};

use super::{Ground, bring, documents, life, rows};

fn operations(records: &[Record]) -> Vec<&str> {
    records.iter().filter_map(|record| record.header(names::OPERATION)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_wait_for_a_topic_share_a_transaction() {
    let Some(ground) = Ground::new("group", 1).await else { return };
    let sink = rows(&life("us"), &ground.config(Mode::Changes));
    let scopes: Vec<_> = (0..20).map(|n| scope("west", "group", &n.to_string())).collect();
    for scope in &scopes {
        assert!(sink.recover(scope, &Selection::All, &[]).await.unwrap().is_empty());
    }
    let all = some(3, |n| format!("{{\"n\":{n}}}")).unwrap();
    let deltas: Vec<_> = scopes.iter().map(|scope| delta(scope, Base::Empty, all.clone(), Vec::new(), 3, 1)).collect();
    let receipts = futures::future::join_all(deltas.iter().map(|delta| sink.deliver(delta))).await;
    for (receipt, scope) in receipts.into_iter().zip(&scopes) {
        let receipt = receipt.unwrap();
        assert_eq!((receipt.written, receipt.deleted), (3, 0));
        assert!(receipt.bytes > 0);
        assert_eq!(ground.items(scope).await.unwrap().len(), 3);
    }
    // The first may have set out before the others came.
    let ends = ground.kafka.ends(&ground.topic).unwrap();
    assert!((1..=3).contains(&ends.len()), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_the_envelopes_of_earlier_releases() {
    let Some(ground) = Ground::new("snapshots", 0).await else { return };
    ground.topics.create(&ground.topic, 1, &[]).await.unwrap();
    let sink = documents(&life("us"), &ground.config(Mode::Snapshot));
    let scope = scope("west", "team-a", "apps");
    let all = some(3, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    let whole = document(&scope, all.clone(), 1_572_864, 4);
    let receipt = sink.publish(&whole).await.unwrap();
    let records = ground.records().await;
    assert_eq!((records.len(), receipt.written), (1, 1));
    assert_eq!(records[0].key, "west/team-a");
    let value = String::from_utf8(records[0].value.clone().unwrap()).unwrap();
    let (head, rest) = value.split_once(",\"timestamp\":\"").unwrap();
    let (time, rest) = rest.split_once("\",").unwrap();
    assert_eq!(head, "{\"schemaVersion\":\"kollect.dev/v1alpha1\"");
    assert!(time.parse::<Timestamp>().is_ok(), "{time}");
    assert!(
        rest.starts_with(
            "\"cluster\":\"west\",\"namespace\":\"team-a\",\"payload\":{\"schemaVersion\":\"kollect.dev/v1alpha1\",\"checksum\":\""
        ),
        "{rest}"
    );

    // In parts: one message each, with one key.
    sink.publish(&document(&scope, all, 500, 5)).await.unwrap();
    let records = ground.records().await;
    let parts: Vec<_> = records.iter().skip(1).map(|record| record.header(names::PART).unwrap()).collect();
    assert_eq!(parts, ["1", "2", "3"]);
    assert!(records.iter().all(|record| record.key == "west/team-a"));
    let second = String::from_utf8(records[2].value.clone().unwrap()).unwrap();
    assert!(second.contains("\"partIndex\":2,\"partTotal\":3,\"itemCount\":1,"), "{second}");

    // An inventory that ends says so once.
    sink.leave(&scope, Leave::Delete).await.unwrap();
    let records = ground.records().await;
    let last = String::from_utf8(records.last().unwrap().value.clone().unwrap()).unwrap();
    assert!(last.contains("\"itemCount\":0") && last.contains("\"items\":[]"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_one_message_each_and_a_restart_sends_nothing() {
    let Some(ground) = Ground::new("changes", 0).await else { return };
    let scope = scope("west", "team-a", "apps");
    let config = KafkaConfig {
        provisioning: Provisioning::Ensure,
        compression: Compression::Zstd,
        ..ground.config(Mode::Changes)
    };
    let first = rows(&life("us"), &config);
    assert!(first.probe().await.unwrap().ends_with(&format!("; topic \"{}\" will be created", ground.topic)));
    assert_eq!(first.identity().await.unwrap(), None);
    let all = some(30, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    let receipt = bring(&first, &scope, Base::Filled, &all).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted), (30, 0));
    // It was made for changes, as the broker makes topics.
    assert_eq!(ground.topics.settings(&ground.topic).await.unwrap()["cleanup.policy"], "compact");
    assert_eq!(first.probe().await.unwrap(), "Kafka broker metadata request succeeded");
    assert!(first.identity().await.unwrap().unwrap().ends_with(&ground.topic));
    let records = ground.records().await;
    let (ends, rest): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.header(names::OPERATION) == Some(Operation::End.as_str()));
    assert_eq!((ends.len(), rest.len()), (1, 30));
    assert_eq!(ends[0].key, "west/team-a/apps");
    let keys = rest.iter().map(|record| record.key.as_str());
    assert!(keys.clone().all(|key| key.starts_with("west/team-a/apps/deploys/0000")), "{:?}", keys.collect::<Vec<_>>());
    // Where a key goes is what Java's own producer does with it, seen with the broker's tools.
    let partitions: std::collections::BTreeSet<i32> = rest.iter().map(|record| record.partition).collect();
    assert_eq!(partitions.len(), 3);

    // The next life reads what is there and has nothing to say, in three partitions as in one.
    let second = rows(&life("us"), &config);
    let receipt = bring(&second, &scope, Base::Filled, &all).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted), (0, 0));
    assert_eq!(second.audit(&scope).await.unwrap(), Audit::Intact);
    assert_eq!(ground.records().await, records);

    // The first one is fenced by it, and other operators keep away.
    let change = delta(&scope, Base::Filled, vec![all[0].clone()], vec![all[1].key()], 29, 2);
    assert_eq!(first.deliver(&change).await.unwrap_err().reason(), "Fenced");
    let stranger = rows(&life("them"), &config);
    assert_eq!(bring(&stranger, &scope, Base::Filled, &all).await.unwrap_err().reason(), "ClusterConflict");
    assert_eq!(ground.records().await, records);

    // A tombstone has no value, and no row is left.
    second.deliver(&change).await.unwrap();
    let records = ground.records().await;
    let tombstone = records.iter().find(|record| record.value.is_none()).unwrap();
    assert_eq!(tombstone.key, "west/team-a/apps/deploys/00000001-0000-4000-8000-000000000000");
    let left = second.leave(&scope, Leave::Delete).await.unwrap();
    assert_eq!(left.deleted, 29);
    assert!(ground.items(&scope).await.unwrap().is_empty());
    assert!(second.scopes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wrote_and_what_was_lost_is_mended() {
    let Some(ground) = Ground::new("mended", 0).await else { return };
    ground.topics.create(&ground.topic, 1, &[]).await.unwrap();
    let scope = scope("west", "team-a", "apps");
    let sink = rows(&life("us"), &KafkaConfig { cluster: Cluster::new("west"), ..ground.config(Mode::Changes) });
    let said = sink.probe().await.unwrap();
    assert!(said.contains("cleanup.policy of the topic is delete"), "{said}");
    let all = some(20, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    bring(&sink, &scope, Base::Filled, &all).await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
    let wanted = ground.items(&scope).await.unwrap();

    // A row that was edited by hand in the name of the next writer.
    let mut forged = ground.records().await.remove(7);
    for (name, value) in &mut forged.headers {
        if name == names::N {
            "9999".clone_into(value);
        }
    }
    forged.value = Some(b"{\"attributes\":{\"replicas\":77}}".to_vec());
    ground.topics.write(&ground.topic, forged).await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);
    mend(&ground, &sink, &scope, &all).await.unwrap();
    assert_eq!(ground.items(&scope).await.unwrap(), wanted);
    assert_eq!(operations(&ground.records().await).iter().filter(|operation| **operation == "begin").count(), 1);

    // A topic that was deleted and made again.
    ground.topics.delete(&ground.topic).await.unwrap();
    kollect::lab::wait::wait_for("the topic to be made again", std::time::Duration::from_secs(20), || {
        ground.topics.create(&ground.topic, 1, &[])
    })
    .await
    .unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);
    mend(&ground, &sink, &scope, &all).await.unwrap();
    assert_eq!(ground.items(&scope).await.unwrap(), wanted);

    // A row that no message can hold is refused, and all others are there.
    let large = row(
        "deploys",
        "ffffffff-0000-4000-8000-000000000000",
        "ns-1",
        "large",
        &format!("{{\"x\":\"{}\"}}", "x".repeat(1_100_000)),
    );
    let receipt = bring(&sink, &scope, Base::Filled, &[all, vec![large.unwrap()]].concat()).await.unwrap();
    assert_eq!(receipt.refused.len(), 1, "{receipt:?}");
    assert!(receipt.refused[0].message.contains("max.message.bytes of the topic"), "{receipt:?}");
    assert_eq!(ground.items(&scope).await.unwrap(), wanted);
    let fold = ground.fold().await.unwrap();
    assert!(fold.get(&Stream::of(&scope)).unwrap().is_sound());
}

/// Mends as the caller of a sink does after an audit.
async fn mend(
    ground: &Ground,
    sink: &std::sync::Arc<dyn kollect::sinks::RowSink>,
    scope: &std::sync::Arc<kollect::export::Scope>,
    all: &[kollect::model::Row],
) -> Result<()> {
    kollect::sinks::contract::mend(sink, scope, all).await?;
    anyhow::ensure!(sink.audit(scope).await? == Audit::Intact, "{:?}", operations(&ground.records().await));
    Ok(())
}
