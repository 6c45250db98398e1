//! Rows that the server takes in no case, among others that it does.

use std::time::Duration;

use kollect::error::{Class, Classify, chain};
use kollect::export::{Base, Selection};
use kollect::model::Row;
use kollect::sinks::Audit;
use kollect::sinks::contract::{delta, rows};

use super::{Bench, U1, fixture, gvk, number, one, scope};

#[tokio::test]
async fn row_that_a_check_refuses_is_named_and_all_others_are_written() {
    let Some(bench) = Bench::new("check").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let check =
        "ALTER TABLE items ADD CONSTRAINT lucky CHECK (payload #>> '{attributes,replicas}' NOT IN ('13', '1300'))";
    database.batch_execute(check).await.unwrap();
    let all = rows(3_000, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    // Once by COPY and once by arrays, the second time with keys to delete, too.
    let receipt = sink.deliver(&delta(&scope, Base::Empty, all.clone(), Vec::new(), 3_000, 1)).await.unwrap();
    assert_eq!((receipt.written, receipt.refused.len()), (2_998, 2));
    let first = &receipt.refused[0];
    assert_eq!(first.key, all[13].key());
    assert_eq!((first.object.as_str(), first.reason), ("apps/v1 Deployment ns-6/app-13", "ExportTerminal"));
    assert_eq!(first.message, "new row for relation \"items\" violates check constraint \"lucky\" (SQLSTATE 23514)");
    assert_eq!(receipt.refused[1].key, all[1_300].key());
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);

    let gone: Vec<_> = all[2_000..].iter().map(Row::key).collect();
    let second = delta(&scope, Base::Filled, all[..2_000].to_vec(), gone, 2_000, 2);
    let receipt = sink.deliver(&second).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted, receipt.refused.len()), (0, 1_000, 2));
    assert_eq!(number(&database, "SELECT count(*) FROM items").await, 1_998);
    assert_eq!(number(&database, "SELECT rows FROM items_state").await, 1_998);
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);

    database.batch_execute("ALTER TABLE items DROP CONSTRAINT lucky").await.unwrap();
    let receipt = sink.deliver(&second).await.unwrap();
    assert_eq!((receipt.written, receipt.refused.len()), (2, 0));
}

#[tokio::test]
async fn what_a_trigger_raises_and_what_is_too_long_for_the_index_is_refused_alone() {
    let Some(bench) = Bench::new("trigger").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let function = "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                    IF NEW.payload ->> 'name' = 'api' THEN RAISE EXCEPTION 'no api here'; END IF; RETURN NEW; END $$; ";
    // Deferred: it would be raised by the commit.
    let trigger = "CREATE CONSTRAINT TRIGGER judge AFTER INSERT OR UPDATE ON items DEFERRABLE INITIALLY DEFERRED \
                   FOR EACH ROW EXECUTE FUNCTION judge()";
    database.batch_execute(&format!("{function}{trigger}")).await.unwrap();
    // Too long for a page of the index, and too random to be compressed.
    let words: Vec<String> = (0..1_500_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
    let uid = words.concat();
    let mut rows = fixture();
    rows.push(one("deploys", gvk("apps", "Deployment"), &uid, "team-a", "long", "{}"));
    for base in [Base::Empty, Base::Filled] {
        let receipt = sink.deliver(&delta(&scope, base, rows.clone(), Vec::new(), 4, 1)).await.unwrap();
        let messages: Vec<&str> = receipt.refused.iter().map(|refused| refused.message.as_str()).collect();
        assert_eq!(receipt.refused[0].key.uid.to_string(), U1);
        assert_eq!(messages[0], "no api here (SQLSTATE P0001)");
        assert!(messages[1].ends_with("(SQLSTATE 54000)"), "{messages:?}");
        assert_eq!(number(&database, "SELECT count(*) FROM items").await, 2);
        assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
    }
}

#[tokio::test]
async fn unique_index_of_somebody_is_named_with_the_statement_that_drops_it() {
    let Some(bench) = Bench::new("unique").await else { return };
    let (sink, west, east) = (bench.sink(), scope("west", "team-a", "apps"), scope("east", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&west, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(&west, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    database.batch_execute("CREATE UNIQUE INDEX odd ON items (source_uid)").await.unwrap();
    // A row that moves from one target to another needs its old key to go first.
    let old = &fixture()[1];
    let moved = one("other", gvk("apps", "Deployment"), U1, "team-a", "api", "{}");
    let change = delta(&west, Base::Filled, vec![moved], vec![old.key()], 3, 2);
    let receipt = sink.deliver(&change).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted, receipt.refused.len()), (1, 1, 0));

    sink.recover(&east, &Selection::All, &[]).await.unwrap();
    let attempt = delta(&east, Base::Filled, fixture(), Vec::new(), 3, 1);
    let receipt = sink.deliver(&attempt).await.unwrap();
    assert_eq!((receipt.written, receipt.refused.len()), (0, 3));
    let message = &receipt.refused[0].message;
    assert_eq!(
        message,
        "duplicate key value violates unique constraint \"odd\" (SQLSTATE 23505); this unique index is none of ours and \
         refuses rows that differ; run: DROP INDEX CONCURRENTLY \"public\".\"odd\""
    );
    database.batch_execute(message.split_once("run: ").unwrap().1).await.unwrap();
    assert_eq!(sink.deliver(&attempt).await.unwrap().written, 3);
}

#[tokio::test]
async fn too_many_refused_rows_are_a_failure_and_write_nothing() {
    let Some(bench) = Bench::new("too_many").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let check = "ALTER TABLE items ADD CONSTRAINT none CHECK (payload #>> '{attributes,replicas}' = '0')";
    database.batch_execute(check).await.unwrap();
    let attempt = |count: u32| {
        let all = rows(count, |n| format!("{{\"replicas\":{n}}}")).unwrap();
        delta(&scope, Base::Filled, all, Vec::new(), u64::from(count), 1)
    };
    let error = sink.deliver(&attempt(1_002)).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Terminal, "ExportTerminal"));
    assert!(chain(&error).contains("violates check constraint \"none\""), "{}", chain(&error));
    assert_eq!(number(&database, "SELECT count(*) FROM items").await, 0);
    let receipt = sink.deliver(&attempt(1_001)).await.unwrap();
    assert_eq!((receipt.written, receipt.refused.len()), (1, 1_000));
}

#[tokio::test]
async fn delete_that_is_refused_fails_the_delivery() {
    let Some(bench) = Bench::new("kept").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    let trigger = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'kept'; END $$; \
                   CREATE TRIGGER keep BEFORE DELETE ON items FOR EACH ROW EXECUTE FUNCTION keep()";
    database.batch_execute(trigger).await.unwrap();
    let mut rows = fixture();
    let gone = vec![rows.remove(0).key()];
    rows.push(one("deploys", gvk("apps", "Deployment"), "new", "team-a", "new", "{}"));
    let error = sink.deliver(&delta(&scope, Base::Filled, rows, gone, 3, 2)).await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert_eq!(number(&database, "SELECT count(*) FROM items").await, 3);
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
}

#[tokio::test]
async fn careful_delivery_that_is_dropped_is_all_or_nothing() {
    let Some(bench) = Bench::new("careful_cut").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let check =
        "ALTER TABLE items ADD CONSTRAINT lucky CHECK (payload #>> '{attributes,replicas}' NOT IN ('13', '1300'))";
    database.batch_execute(check).await.unwrap();
    let all = rows(2_000, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    let attempt = delta(&scope, Base::Empty, all, Vec::new(), 2_000, 1);
    let mut limit = Duration::from_millis(1);
    while tokio::time::timeout(limit, sink.deliver(&attempt)).await.is_err() {
        assert!(limit < Duration::from_mins(1), "no delivery gets through");
        // Cut while the commit was under way, it may have happened, or happen now.
        sink.recover(&scope, &Selection::All, &[]).await.unwrap();
        let there = number(&database, "SELECT count(*) FROM items").await;
        assert!(there == 0 || there == 1_998, "cut after {limit:?} there are {there} rows");
        limit += Duration::from_millis(5) + limit / 10;
    }
    assert_eq!(number(&database, "SELECT count(*) FROM items").await, 1_998);
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
}
