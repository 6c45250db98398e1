//! A broker that goes away, is killed, is cut off, and the lives of the operator beside it.

use std::time::Duration;

use anyhow::ensure;
use kollect::error::{Class, Classify as _};
use kollect::export::Base;
use kollect::lab::kafka::Way;
use kollect::lab::proxy::Cuts;
use kollect::model::Row;
use kollect::sinks::contract::{row, scope};
use kollect::sinks::kafka::{KafkaConfig, Mode};
use tokio::time::{Instant, timeout};

use super::{Ground, bring, life, rows, start};

const ROWS: u32 = 300;

/// The rows of a cluster after so many changes: some are there, each with how often it changed.
fn cluster(round: u32) -> Vec<Row> {
    let there = |n: &u32| !(n + round).is_multiple_of(7);
    let one = |n: u32| {
        let attributes = format!("{{\"round\":{}}}", (round + n) / 3);
        row(
            "deploys",
            &format!("{n:08x}-0000-4000-8000-000000000000"),
            &format!("ns-{}", n % 5),
            &format!("app-{n}"),
            &attributes,
        )
    };
    (0..ROWS).filter(there).map(one).collect::<Result<_, _>>().unwrap()
}

/// The broker is killed and started again, connections are cut at random bytes, and the operator ends at random moments and
/// starts again: a consumer ends with the rows of the cluster, and has seen every key in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_ends_with_the_rows_of_the_cluster() {
    let Some(broker) = crate::support::part_or_skip(start().await) else { return };
    let kafka: &'static super::Broker = Box::leak(Box::new(broker));
    let kafka = &kafka.kafka;
    let topics = kafka.topics();
    topics.create("faults", 3, &[("cleanup.policy", "compact")]).await.unwrap();
    let ground = Ground { kafka, topics, topic: "faults".to_owned() };
    let config = KafkaConfig { brokers: vec![kafka.broker(Way::Proxied)], ..ground.config(Mode::Changes) };
    let scope = scope("west", "team-a", "apps");
    let mut sink = rows(&life("us"), &config);
    let (mut round, mut failures, mut lives) = (0, 0, 1);
    let until = Instant::now() + Duration::from_secs(12);
    kafka.proxy().cut_each(Some(Cuts { seed: 11, up: 60_000, down: 20_000 }));
    while Instant::now() < until || round < 12 {
        round += 1;
        let wanted = cluster(round);
        match round {
            3 => kafka.kill9().await.unwrap(),
            4 => kafka.restart().await.unwrap(),
            // The operator ends somewhere on its way; what it had begun goes on or is undone.
            _ if round % 3 == 0 => {
                let limit = Duration::from_millis(u64::from(round) * 37 % 300);
                let _ = timeout(limit, bring(&sink, &scope, Base::Filled, &wanted)).await;
                (sink, lives) = (rows(&life("us"), &config), lives + 1);
                continue;
            }
            _ => {}
        }
        let attempt =
            timeout(Duration::from_secs(if round == 3 { 2 } else { 20 }), bring(&sink, &scope, Base::Filled, &wanted));
        match attempt.await {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => {
                failures += 1;
                assert!(failure.class() == Class::Transient || failure.reason() == "Fenced", "{failure}");
                sink = rows(&life("us"), &config);
            }
            Err(_) => failures += 1,
        }
    }
    kafka.proxy().cut_each(None);
    let wanted = cluster(round);
    let sink = rows(&life("us"), &config);
    kollect::lab::wait::wait_for("the last delivery", Duration::from_mins(1), || async {
        Ok(bring(&sink, &scope, Base::Filled, &wanted).await?)
    })
    .await
    .unwrap();
    let expected = wanted.iter().map(|row| ("deploys".to_owned(), row.uid.to_string()));
    let items = ground.items(&scope).await.unwrap();
    assert_eq!(items.keys().cloned().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    for row in &wanted {
        let item = &items[&("deploys".to_owned(), row.uid.to_string())];
        let attributes: serde_json::Value = serde_json::from_slice(row.body.attributes()).unwrap();
        assert_eq!(item["attributes"], attributes);
    }
    eprintln!("{round} rounds, {failures} failures, {lives} lives, {:?}", kafka.proxy().traffic());
    in_order(&ground).await.unwrap();

    // Emptied, with the broker away for a while.
    kafka.proxy().shut();
    let failure = bring(&rows(&life("us"), &config), &scope, Base::Filled, &[]).await.unwrap_err();
    assert_eq!(failure.class(), Class::Transient, "{failure}");
    kafka.proxy().open();
    bring(&rows(&life("us"), &config), &scope, Base::Filled, &[]).await.unwrap();
    assert!(ground.items(&scope).await.unwrap().is_empty());
    kafka.kill9().await.unwrap();
}

/// Checks that numbers grow in each partition.
async fn in_order(ground: &Ground) -> anyhow::Result<()> {
    use kollect::export::event::names;
    let mut newest = std::collections::BTreeMap::new();
    for record in ground.records().await {
        let number = |name| record.header(name).and_then(|text| text.parse::<u64>().ok());
        let place = (number(names::EPOCH), number(names::N));
        let before = newest.insert(record.partition, place);
        ensure!(
            before.is_none_or(|before| before < place),
            "{place:?} after {before:?} in partition {}",
            record.partition
        );
    }
    Ok(())
}
