//! A server that goes away, is full, forgets, and asks for another password; a writer that dies. Whatever happens, a
//! reader who folds the stream ends with the rows of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kollect::api::v1alpha1::sink::StreamMode;
use kollect::error::{Class, Classify as _};
use kollect::export::event::{Header, Operation, Stream};
use kollect::export::{Base, Difference, Scope, Selection, compare};
use kollect::lab::Proxy;
use kollect::lab::proxy::Cuts;
use kollect::model::{Row, RowKey};
use kollect::secret::Secret;
use kollect::sinks::contract::{delta, row, scope};
use kollect::sinks::nats::{NatsConfig, NatsCredentials, NatsServers};
use kollect::sinks::{Leave, RowSink, SinkError};
use serde_json::json;

use super::{Ground, PASSWORD, STREAM, config, life, row_sink};

const FILTER: &str = "inventory.*.*.*";

/// A cluster whose rows change, and one life of an operator that sends them.
struct Cluster {
    rows: BTreeMap<u32, Row>,
    scope: Arc<Scope>,
    round: u32,
}

impl Cluster {
    fn new() -> Self {
        Self { rows: BTreeMap::new(), scope: scope("west", "team-a", "apps"), round: 0 }
    }

    /// Changes half of the rows, and takes some away.
    fn change(&mut self, count: u32) {
        self.round += 1;
        let round = self.round;
        for n in (0..count).filter(|n| (n + round).is_multiple_of(2)) {
            let uid = format!("{n:08x}-0000-4000-8000-000000000000");
            let attributes = format!("{{\"round\":{round},\"image\":\"registry.example/team/app:{n}\"}}");
            self.rows.insert(n, row("deploys", &uid, "ns", &format!("app-{n}"), &attributes).unwrap());
        }
        self.rows.retain(|n, _| !(n + round).is_multiple_of(7));
    }

    /// Delivers as the caller of a sink does after a start or a failure.
    async fn deliver(&self, sink: &Arc<dyn RowSink>) -> Result<u64, SinkError> {
        let rows: Vec<Row> = self.rows.values().cloned().collect();
        let held = sink.recover(&self.scope, &Selection::All, &rows).await?;
        let count = rows.len() as u64;
        let Difference { upserts, deletes, .. } =
            compare(rows, held, |_, _| true, |row| sink.fingerprint(&self.scope, row));
        let deletes: Vec<RowKey> = deletes;
        let receipt = sink.deliver(&delta(&self.scope, Base::Filled, upserts, deletes, count, 1)).await?;
        Ok(receipt.written + receipt.deleted)
    }

    /// Checks what a reader has, and that each key came in order.
    async fn check(&self, ground: &Ground) -> Result<()> {
        let somebody = ground.server.somebody().await?;
        let stream = Stream::of(&self.scope);
        let mut newest: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (_, header) in somebody.of(STREAM, FILTER, &stream).await? {
            let Header { sequence, item: Some(item), .. } = header else { continue };
            let before = newest.insert(item.key.uid.to_string(), (sequence.epoch, sequence.n));
            ensure!(before < Some((sequence.epoch, sequence.n)), "{} came out of order", item.key.uid);
        }
        let fold = somebody.fold(STREAM, FILTER).await?;
        let held = fold.get(&stream).context("nothing is there")?;
        let mut digest = kollect::model::Digest::default();
        self.rows.values().for_each(|row| digest.add(kollect::canonical::row_hash(row).0));
        ensure!(held.rows().len() == self.rows.len(), "{} rows of {}", held.rows().len(), self.rows.len());
        ensure!(held.digest() == digest && held.is_sound() && held.is_closed(), "the digest is another one");
        Ok(())
    }
}

/// Tries until it gets through.
async fn at_last(cluster: &Cluster, sink: &Arc<dyn RowSink>) {
    for _ in 0..40 {
        match cluster.deliver(sink).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.class(), Class::Transient, "{error}"),
        }
    }
    panic!("no delivery gets through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_ends_with_the_rows_of_the_cluster_whatever_happens() {
    let Some(mut ground) = Ground::with_login().await else { return };
    let proxy = Proxy::start(ground.server.port()).await.unwrap();
    let through = config(&format!("nats://127.0.0.1:{}", proxy.port()), StreamMode::Changes);
    let mut cluster = Cluster::new();
    let mut process: NatsServers = life("us");
    let mut sink = row_sink(&process, &through);
    cluster.change(400);
    cluster.deliver(&sink).await.unwrap();
    cluster.check(&ground).await.unwrap();

    // The network cuts every connection somewhere, then the server dies in the middle.
    for seed in 0..4 {
        proxy.cut_each(Some(Cuts { seed, up: 120_000, down: 120_000 }));
        proxy.cut();
        cluster.change(400);
        let _ = cluster.deliver(&sink).await; // cut or not
        proxy.cut_each(None);
        at_last(&cluster, &sink).await;
        cluster.check(&ground).await.unwrap();
    }
    cluster.change(2_000);
    let (killed, _) = tokio::join!(ground.server.kill9(), cluster.deliver(&sink));
    killed.unwrap();
    let away = cluster.deliver(&sink).await.unwrap_err();
    assert_eq!(away.class(), Class::Transient, "{away}");
    ground.server.restart().await.unwrap();
    at_last(&cluster, &sink).await;
    cluster.check(&ground).await.unwrap();

    // A process that dies half way, with changes while none runs; one that finds nothing to do sends nothing.
    for limit_ms in [1, 7, 20] {
        cluster.change(400);
        let cut = std::time::Duration::from_millis(limit_ms);
        let _ = tokio::time::timeout(cut, cluster.deliver(&sink)).await; // what it was doing ends with the process
        proxy.cut();
        cluster.change(400);
        process = life("us");
        sink = row_sink(&process, &through);
        at_last(&cluster, &sink).await;
        cluster.check(&ground).await.unwrap();
    }
    let before = ground.server.somebody().await.unwrap().messages(STREAM, FILTER).await.unwrap().len();
    process = life("us");
    sink = row_sink(&process, &through);
    assert_eq!(cluster.deliver(&sink).await.unwrap(), 0);
    let after = ground.server.somebody().await.unwrap().messages(STREAM, FILTER).await.unwrap().len();
    assert_eq!(after, before, "a restart sends nothing");

    // A stream that is full says what to do, and goes on once there is room.
    let somebody = ground.server.somebody().await.unwrap();
    let bounded = |bytes: i64| {
        let mut config = json!({"name": STREAM, "subjects": [FILTER], "discard": "new"});
        config["max_bytes"] = bytes.into();
        config
    };
    let bytes = somebody.api(&format!("STREAM.INFO.{STREAM}"), &json!(null)).await.unwrap()["state"]["bytes"].clone();
    let update = format!("STREAM.UPDATE.{STREAM}");
    somebody.api(&update, &bounded(bytes.as_i64().unwrap() + 2_000)).await.unwrap();
    cluster.change(400);
    let full = cluster.deliver(&sink).await.unwrap_err();
    assert!(full.class() == Class::Transient && full.to_string().contains("raise max_bytes"), "{full}");
    somebody.api(&update, &bounded(-1)).await.unwrap();
    at_last(&cluster, &sink).await;
    cluster.check(&ground).await.unwrap();

    // A stream that is deleted is made again and gets everything.
    somebody.api(&format!("STREAM.DELETE.{STREAM}"), &json!(null)).await.unwrap();
    cluster.change(400);
    at_last(&cluster, &sink).await;
    cluster.check(&ground).await.unwrap();

    // Another password: the old one is refused for good, the new one goes on where the other was.
    ground.server.rotate("kollect", "another").await.unwrap();
    cluster.change(400);
    let refused = cluster.deliver(&sink).await.unwrap_err();
    assert!(refused.class() == Class::Terminal && refused.to_string().contains("check the Secret"), "{refused}");
    let credentials = NatsCredentials::User("kollect".to_owned(), Secret::new("another"));
    sink = row_sink(&process, &NatsConfig { credentials, ..through.clone() });
    cluster.deliver(&sink).await.unwrap();
    cluster.check(&ground).await.unwrap();

    // Emptied, then deleted: tombstones and no record.
    cluster.rows.clear();
    cluster.deliver(&sink).await.unwrap();
    cluster.check(&ground).await.unwrap();
    sink.leave(&cluster.scope, Leave::Delete).await.unwrap();
    let last = ground.server.somebody().await.unwrap().messages(STREAM, FILTER).await.unwrap().pop().unwrap();
    assert_eq!(last.header.map(|header| header.operation), Some(Operation::Delete));
    assert!(last.value.is_empty());
    assert_ne!(PASSWORD, "another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_operator_is_in_the_way_and_a_stream_of_others_is_left_alone() {
    let Some(ground) = Ground::with_login().await else { return };
    let through = ground.config(StreamMode::Changes);
    let mut cluster = Cluster::new();
    cluster.change(10);
    let (us, them) = (life("us"), life("them"));
    cluster.deliver(&row_sink(&us, &through)).await.unwrap();
    let conflict = cluster.deliver(&row_sink(&them, &through)).await.unwrap_err();
    assert_eq!((conflict.class(), conflict.reason()), (Class::Terminal, "ClusterConflict"), "{conflict}");
    // A younger life fences the older one.
    let younger = life("us");
    cluster.change(10);
    cluster.deliver(&row_sink(&younger, &through)).await.unwrap();
    let fenced = cluster.deliver(&row_sink(&us, &through)).await.unwrap_err();
    assert_eq!(fenced.reason(), "Fenced", "{fenced}");
    // A stream that somebody made for something else is not changed.
    let other = NatsConfig { subject: "elsewhere.{name}".to_owned(), ..through.clone() };
    let uncovered = row_sink(&us, &other).probe().await.unwrap_err();
    assert!(uncovered.to_string().contains("add it to the stream"), "{uncovered}");
    let missing =
        NatsConfig { stream: "absent".to_owned(), create: kollect::sinks::nats::Creation::Existing, ..through.clone() };
    let missing = row_sink(&us, &missing).probe().await.unwrap_err();
    assert!(missing.to_string().contains("there is no stream \"absent\""), "{missing}");
    // One that somebody made with other settings takes the rows, and stays as it is.
    let somebody = ground.server.somebody().await.unwrap();
    let settings = json!({
        "name": "theirs", "subjects": ["theirs.>"], "storage": "memory", "max_msgs_per_subject": 1,
        "max_msg_size": 65_536, "description": "of somebody else",
    });
    let before = somebody.api("STREAM.CREATE.theirs", &settings).await.unwrap()["config"].clone();
    let theirs = NatsConfig { stream: "theirs".to_owned(), subject: "theirs.{uid}".to_owned(), ..through.clone() };
    for _ in 0..2 {
        cluster.change(10);
        cluster.deliver(&row_sink(&younger, &theirs)).await.unwrap();
    }
    assert_eq!(cluster.deliver(&row_sink(&life("us"), &theirs)).await.unwrap(), 0, "a restart sends nothing");
    let after = somebody.api("STREAM.INFO.theirs", &json!(null)).await.unwrap();
    assert_eq!(after["config"], before);
    // A message for each row that is there or went, and the last `end`.
    assert_eq!(after["state"]["messages"], 11);
    let said = row_sink(&us, &through).probe().await.unwrap();
    assert!(said.starts_with("NATS JetStream account info request succeeded"), "{said}");
}
