//! Who may write a scope: lives of one operator, other operators, and nobody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kollect::error::{Class, Classify, chain};
use kollect::export::{Base, Scope, Selection};
use kollect::model::{Row, Uid};
use kollect::sinks::contract::delta;
use kollect::sinks::mandate::{Mandate, Moment};
use kollect::sinks::postgres::{PostgresConfig, Provisioning};
use kollect::sinks::{Leave, Receipt, RowSink};

use super::{Bench, fixture, life, number, scope, sink, stored};

#[tokio::test]
async fn newer_life_fences_the_older_one() {
    let Some(bench) = Bench::new("fence").await else { return };
    let scope = scope("west", "team-a", "apps");
    let (older, newer) = (sink(&life("us", 4), &bench.config()), sink(&life("us", 4), &bench.config()));
    older.recover(&scope, &Selection::All, &[]).await.unwrap();
    older.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    // Reading back is enough: what the newer one has compared must not change under it.
    newer.recover(&scope, &Selection::All, &[]).await.unwrap();
    let late = delta(&scope, Base::Filled, Vec::new(), fixture().iter().map(Row::key).collect(), 0, 2);
    let error = older.deliver(&late).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Terminal, "Fenced"));
    assert_eq!(
        error.to_string(),
        "a newer instance of this operator (epoch 5, ours is 4) writes inventory team-a/apps in \"public\".\"items\""
    );
    assert_eq!(stored(&bench.connect().await, &scope).await.unwrap().len(), 3);
    newer.deliver(&late).await.unwrap();
}

#[tokio::test]
async fn second_operator_with_the_same_cluster_writes_nothing_until_the_first_is_silent() {
    let Some(bench) = Bench::new("conflict").await else { return };
    let scope = scope("west", "team-a", "apps");
    let (us, them) = (bench.sink(), sink(&life("them", 9), &bench.config()));
    us.recover(&scope, &Selection::All, &[]).await.unwrap();
    us.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();

    let error = them.recover(&scope, &Selection::All, &[]).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Terminal, "ClusterConflict"));
    assert!(error.to_string().contains("set spec.cluster of the sink"), "{error}");
    let wipe = delta(&scope, Base::Filled, Vec::new(), fixture().iter().map(Row::key).collect(), 0, 2);
    assert_eq!(them.deliver(&wipe).await.unwrap_err().reason(), "ClusterConflict");
    let database = bench.connect().await;
    assert_eq!(stored(&database, &scope).await.unwrap().len(), 3);

    let age = "UPDATE items_state SET heartbeat = now() - interval '9 min'";
    database.batch_execute(age).await.unwrap();
    us.heartbeat(&[&scope]).await.unwrap();
    let sql = "SELECT extract(epoch FROM now() - heartbeat)::bigint FROM items_state";
    assert!(database.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < 60);

    database.batch_execute("UPDATE items_state SET heartbeat = now() - interval '11 min'").await.unwrap();
    assert_eq!(them.recover(&scope, &Selection::All, &[]).await.unwrap().len(), 3);
    assert_eq!(us.recover(&scope, &Selection::All, &[]).await.unwrap_err().reason(), "ClusterConflict");
}

#[tokio::test]
async fn heartbeat_leaves_the_rows_of_others_alone() {
    let Some(bench) = Bench::new("heartbeat").await else { return };
    let scope = scope("west", "team-a", "apps");
    let (us, them) = (bench.sink(), sink(&life("them", 9), &bench.config()));
    us.recover(&scope, &Selection::All, &[]).await.unwrap();
    let database = bench.connect().await;
    database.batch_execute("UPDATE items_state SET heartbeat = '2026-01-01Z'").await.unwrap();
    them.heartbeat(&[&scope]).await.unwrap();
    let sql = "SELECT heartbeat = '2026-01-01Z' FROM items_state";
    assert!(database.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_that_start_at_the_same_moment_share_no_epoch() {
    let Some(bench) = Bench::new("epochs").await else { return };
    // On tables that are not there yet, and again on the same ones.
    for round in 0..3 {
        let lives: Vec<_> = (0..6).map(|_| life("us", 7)).collect();
        let sinks: Vec<_> = lives.iter().map(|life| sink(life, &bench.config())).collect();
        let scopes: Vec<_> = (0..6).map(|n| scope("west", "team-a", &format!("inv-{round}-{n}"))).collect();
        let all = Selection::All;
        let starts = sinks.iter().zip(&scopes).map(|(sink, scope)| sink.recover(scope, &all, &[]));
        for outcome in futures::future::join_all(starts).await {
            outcome.unwrap_or_else(|error| panic!("{}", chain(&error)));
        }
        let sql = format!("SELECT epoch FROM items_state WHERE inventory_name LIKE 'inv-{round}-%'");
        let epochs: BTreeSet<i64> =
            bench.connect().await.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let first = 7 + 6 * round;
        assert_eq!(epochs, (first..first + 6).collect());
    }
}

#[tokio::test]
async fn sinks_of_one_life_share_its_epoch() {
    let Some(bench) = Bench::new("one_epoch").await else { return };
    let us = life("us", 0);
    let sinks: Vec<_> = (0..6).map(|_| sink(&us, &bench.config())).collect();
    let scopes: Vec<_> = (0..6).map(|n| scope("west", "team-a", &format!("inv-{n}"))).collect();
    let all = Selection::All;
    let starts = sinks.iter().zip(&scopes).map(|(sink, scope)| sink.recover(scope, &all, &[]));
    for outcome in futures::future::join_all(starts).await {
        outcome.unwrap();
    }
    let database = bench.connect().await;
    assert_eq!(number(&database, "SELECT count(DISTINCT epoch) FROM items_state").await, 1);
    assert_eq!(number(&database, "SELECT max(epoch) FROM items_state").await, 1);
}

#[tokio::test]
async fn refused_first_claim_takes_no_epoch() {
    let Some(bench) = Bench::new("no_epoch").await else { return };
    let (theirs, ours) = (scope("west", "team-a", "theirs"), scope("west", "team-a", "ours"));
    sink(&life("them", 40), &bench.config()).recover(&theirs, &Selection::All, &[]).await.unwrap();
    let us = bench.sink();
    assert_eq!(us.recover(&theirs, &Selection::All, &[]).await.unwrap_err().reason(), "ClusterConflict");
    us.heartbeat(&[&theirs]).await.unwrap();
    us.recover(&ours, &Selection::All, &[]).await.unwrap();
    let sql = "SELECT epoch FROM items_state WHERE inventory_name = 'ours'";
    assert_eq!(number(&bench.connect().await, sql).await, 1);
}

/// Fills a scope.
async fn filled(sink: &Arc<dyn RowSink>, scope: &Arc<Scope>) {
    sink.recover(scope, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
}

#[tokio::test]
async fn scope_of_somebody_else_is_not_touched_by_leaving_it() {
    let Some(bench) = Bench::new("leave_theirs").await else { return };
    let (us, them, scope) = (bench.sink(), sink(&life("them", 9), &bench.config()), scope("west", "team-a", "apps"));
    filled(&them, &scope).await;
    let database = bench.connect().await;
    for age in ["1 s", "1 day"] {
        database.batch_execute(&format!("UPDATE items_state SET heartbeat = now() - interval '{age}'")).await.unwrap();
        for leave in [Leave::Delete, Leave::Orphan] {
            assert_eq!(us.leave(&scope, leave).await.unwrap(), Receipt::default());
        }
        assert_eq!(us.scopes().await.unwrap(), []);
        assert_eq!(stored(&database, &scope).await.unwrap().len(), 3);
        assert_eq!(number(&database, "SELECT count(*) FROM items_state WHERE writer LIKE 'them/%'").await, 1);
    }
    assert_eq!(them.scopes().await.unwrap(), [(*scope).clone()]);
    // A successor of the same name has taken the scope over: what is left is not its.
    let predecessor = Scope { inventory_uid: Uid::new("older"), ..(*scope).clone() };
    assert_eq!(them.leave(&predecessor, Leave::Delete).await.unwrap(), Receipt::default());
    assert_eq!(stored(&database, &scope).await.unwrap().len(), 3);
}

#[tokio::test]
async fn orphan_is_taken_at_once_by_any_operator() {
    let Some(bench) = Bench::new("orphan").await else { return };
    let (us, them, scope) = (bench.sink(), sink(&life("them", 0), &bench.config()), scope("west", "team-a", "apps"));
    filled(&us, &scope).await;
    us.leave(&scope, Leave::Orphan).await.unwrap();
    let database = bench.connect().await;
    assert_eq!(number(&database, "SELECT count(*) FROM items_state WHERE writer = ''").await, 1);
    us.heartbeat(&[&scope]).await.unwrap();
    assert_eq!(them.recover(&scope, &Selection::All, &[]).await.unwrap().len(), 3);
    assert_eq!(us.recover(&scope, &Selection::All, &[]).await.unwrap_err().reason(), "ClusterConflict");
}

#[tokio::test]
async fn older_life_cannot_leave_what_a_newer_one_writes() {
    let Some(bench) = Bench::new("leave_fenced").await else { return };
    let (older, newer, scope) = (bench.sink(), bench.sink(), scope("west", "team-a", "apps"));
    filled(&older, &scope).await;
    newer.recover(&scope, &Selection::All, &[]).await.unwrap();
    for leave in [Leave::Delete, Leave::Orphan] {
        assert_eq!(older.leave(&scope, leave).await.unwrap_err().reason(), "Fenced");
    }
    // A life that has claimed nothing so far may clean up: it is the newest.
    assert_eq!(bench.sink().leave(&scope, Leave::Delete).await.unwrap().deleted, 3);
    assert_eq!(number(&bench.connect().await, "SELECT count(*) FROM items_state").await, 0);
}

#[tokio::test]
async fn leaving_what_is_not_there_makes_nothing() {
    let Some(bench) = Bench::new("leave_nothing").await else { return };
    let nowhere = PostgresConfig { schema: "nowhere".to_owned(), ..bench.config() };
    for config in [bench.config(), nowhere] {
        let sink = sink(&life("us", 0), &config);
        for leave in [Leave::Delete, Leave::Orphan] {
            assert_eq!(sink.leave(&scope("west", "team-a", "apps"), leave).await.unwrap(), Receipt::default());
        }
        assert_eq!(sink.scopes().await.unwrap(), []);
    }
    let database = bench.connect().await;
    assert_eq!(number(&database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);
}

#[tokio::test]
async fn table_of_somebody_without_states_is_left_all_the_same() {
    let Some(bench) = Bench::new("leave_existing").await else { return };
    let (west, east) = (scope("west", "team-a", "apps"), scope("east", "team-a", "apps"));
    bench.sink().recover(&west, &Selection::All, &[]).await.unwrap();
    let database = bench.connect().await;
    database.batch_execute("DROP TABLE items_state").await.unwrap();
    let config = PostgresConfig { provisioning: Provisioning::Existing, ..bench.config() };
    let sink = sink(&life("us", 0), &config);
    filled(&sink, &west).await;
    filled(&sink, &east).await;
    assert_eq!(sink.scopes().await.unwrap(), []);
    assert_eq!(sink.leave(&west, Leave::Orphan).await.unwrap(), Receipt::default());
    assert_eq!(sink.leave(&west, Leave::Delete).await.unwrap().deleted, 3);
    assert_eq!(stored(&database, &west).await.unwrap().len(), 0);
    assert_eq!(stored(&database, &east).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_mandate_that_ends_during_a_delivery_takes_all_of_it_back() {
    let Some(bench) = Bench::new("mandate").await else { return };
    let scope = scope("west", "team-a", "apps");
    let mandate = Mandate::limited(Duration::from_mins(1), Moment::now());
    let deposed = sink(&life("us", 4).under(mandate.clone()), &bench.config());
    deposed.recover(&scope, &Selection::All, &[]).await.unwrap();
    // Held up by a lock, the delivery is in the middle when the mandate ends.
    let blocker = bench.connect().await;
    blocker.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let rows = delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 1);
    let watcher = bench.connect().await;
    let (delivered, ()) = tokio::join!(deposed.deliver(&rows), async {
        kollect::lab::wait::wait_for("the delivery to wait", Duration::from_secs(10), || async {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'kollect' AND wait_event_type = 'Lock'";
            let waiting: i64 = watcher.query_one(sql, &[]).await?.get(0);
            anyhow::ensure!(waiting == 1, "{waiting} wait");
            Ok(())
        })
        .await
        .unwrap();
        mandate.end();
        blocker.batch_execute("COMMIT").await.unwrap();
    });
    let message = "failed to commit to \"public\".\"items\": this replica is no longer the leader";
    assert_eq!(chain(&delivered.unwrap_err()), message);
    assert_eq!(stored(&watcher, &scope).await.unwrap().len(), 0);
    assert_eq!(deposed.deliver(&rows).await.unwrap_err().class(), Class::Transient);
}
