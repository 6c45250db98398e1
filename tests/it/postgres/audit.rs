//! Tables that somebody changed behind the operator's back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kollect::export::{Base, Selection};
use kollect::lab::postgres::Database;
use kollect::sinks::contract::{delta, mend, rows};
use kollect::sinks::{Audit, Leave};

use super::{Bench, config, fixture, life, number, scope, sink};

/// Which version of each row is there.
async fn versions(database: &Database) -> BTreeMap<String, String> {
    let rows = database.query("SELECT source_uid, xmin::text || ctid::text FROM items", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn audit_of_tables_that_are_not_there_is_drift_and_makes_none() {
    let Some(bench) = Bench::new("audit_absent").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);
    assert_eq!(number(&database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);

    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted, "nothing was delivered so far");
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
    database.batch_execute("DELETE FROM items_state").await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted, "rows without a record");
    database.batch_execute("DELETE FROM items").await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact, "no rows, no record");
    database.batch_execute("DROP TABLE items_state").await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);
}

#[tokio::test]
async fn audit_reads_and_claims_nothing() {
    let Some(bench) = Bench::new("audit_reads").await else { return };
    let (us, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    us.recover(&scope, &Selection::All, &[]).await.unwrap();
    us.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    let admin = bench.server.connect_admin(&bench.database).await.unwrap();
    let role = "CREATE ROLE auditor LOGIN PASSWORD 'a'; GRANT SELECT ON items, items_state TO auditor";
    admin.batch_execute(role).await.unwrap();
    let dsn = format!("host=127.0.0.1 port={} user=auditor password=a dbname=audit_reads", bench.server.port());
    let auditor = sink(&life("them", 9), &config(&dsn));
    let sql = "SELECT xmin::text::bigint FROM items_state";
    let before = number(&admin, sql).await;
    assert_eq!(auditor.audit(&scope).await.unwrap(), Audit::Intact);
    assert_eq!(auditor.scopes().await.unwrap(), []);
    assert_eq!(number(&admin, sql).await, before);
}

#[tokio::test]
async fn each_edited_column_is_mended_and_no_other_row_is_touched() {
    let Some(bench) = Bench::new("edits").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let all = rows(2_500, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    sink.deliver(&delta(&scope, Base::Empty, all.clone(), Vec::new(), 2_500, 1)).await.unwrap();
    let victim = "0000052a-0000-4000-8000-000000000000";
    for (edit, written) in [
        ("payload = jsonb_set(payload, '{attributes,replicas}', '-1')", 1),
        ("payload = payload - 'kind'", 1),
        ("resource_namespace = 'elsewhere'", 1),
        // Nothing that a reader sees changed.
        ("fingerprint = NULL", 0),
        ("fingerprint = '\\x00'", 0),
    ] {
        database.batch_execute(&format!("UPDATE items SET {edit} WHERE source_uid = '{victim}'")).await.unwrap();
        assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted, "{edit}");
        let before = versions(&database).await;
        assert_eq!(mend(&sink, &scope, &all).await.unwrap().written, written, "{edit}");
        let touched: Vec<String> = versions(&database)
            .await
            .into_iter()
            .filter(|(uid, version)| before.get(uid) != Some(version))
            .map(|(uid, _)| uid)
            .collect();
        assert!(touched.iter().all(|uid| uid == victim), "{edit}: {touched:?}");
        assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact, "{edit}");
    }
    database.batch_execute("UPDATE items SET exported_at = now()").await.unwrap();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact, "the time is not compared");
}

#[tokio::test]
async fn edited_row_is_mended_by_a_delivery_that_has_it() {
    let Some(bench) = Bench::new("edited").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    database.batch_execute("UPDATE items SET payload = '{}' WHERE target_name = 'configs'").await.unwrap();
    let before = versions(&database).await;
    let receipt = sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 2)).await.unwrap();
    assert_eq!(receipt.written, 1);
    let after = versions(&database).await;
    assert_eq!(after.iter().filter(|(uid, version)| before.get(*uid) != Some(version)).count(), 1);
    assert_eq!(number(&database, "SELECT count(*) FROM items WHERE payload = '{}'").await, 0);
}

#[tokio::test]
async fn hundred_thousand_rows_are_audited_changed_and_left_in_little_time() {
    let Some(bench) = Bench::new("large").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let attributes =
        |n: u32, round: u32| format!("{{\"image\":\"registry.example/team/app:{n}\",\"replicas\":{round}}}");
    let all = rows(100_000, |n| attributes(n, 0)).unwrap();
    sink.deliver(&delta(&scope, Base::Empty, all.clone(), Vec::new(), 100_000, 1)).await.unwrap();
    let mut fastest = Duration::MAX;
    // Right after the first delivery, when the planner has no statistics.
    for round in 1..=5 {
        let some = rows(100_000, |n| attributes(n, round)).unwrap().into_iter().step_by(100).collect();
        let change = delta(&scope, Base::Filled, some, Vec::new(), 100_000, u64::from(round) + 1);
        let began = Instant::now();
        assert_eq!(sink.deliver(&change).await.unwrap().written, 1_000);
        fastest = fastest.min(began.elapsed());
    }
    eprintln!("a delta of 1,000 in 100,000 rows: {fastest:?} at best");
    let current: Vec<_> = all
        .iter()
        .zip(rows(100_000, |n| attributes(n, 5)).unwrap())
        .enumerate()
        .map(|(n, (old, new))| if n % 100 == 0 { new } else { old.clone() })
        .collect();
    let began = Instant::now();
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
    eprintln!("audit: {:?}", began.elapsed());
    let began = Instant::now();
    let held = sink.verify(&scope, &current).await.unwrap();
    eprintln!("verify: {:?}", began.elapsed());
    assert_eq!(held.iter().filter(|row| row.fingerprint.is_some()).count(), 100_000);
    let began = Instant::now();
    assert_eq!(sink.leave(&scope, Leave::Delete).await.unwrap().deleted, 100_000);
    eprintln!("leave: {:?}", began.elapsed());
    assert!(fastest < Duration::from_millis(300), "a delta of 1,000 took {fastest:?}");
}
