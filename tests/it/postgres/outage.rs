//! Servers that go away, lock or refuse to be written to.

use std::time::Duration;

use kollect::error::{Class, Classify, chain};
use kollect::export::{Base, Selection};
use kollect::sinks::Fault;
use kollect::sinks::contract::{delta, rows};
use kollect::sinks::postgres::PostgresConfig;

use super::{Bench, config, fixture, life, only_postgres, scope, sink};
use crate::support::lab_or_skip;

#[tokio::test]
async fn server_that_was_away_is_found_again() {
    let Some(lab) = lab_or_skip(only_postgres()).await else { return };
    let server = lab.postgres();
    server.create_database("away").await.unwrap();
    let (sink, scope) = (sink(&life("us", 0), &config(&server.dsn("away"))), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    server.stop().await.unwrap();
    for _ in 0..3 {
        let error = sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap_err();
        assert_eq!((error.class(), error.fault()), (Class::Transient, Fault::Destination), "{}", chain(&error));
    }
    server.restart().await.unwrap();
    let receipt = sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    assert_eq!(receipt.written, 3);
}

#[tokio::test]
async fn server_killed_while_rows_stream_in_keeps_none_of_them() {
    let Some(lab) = lab_or_skip(only_postgres()).await else { return };
    let server = lab.postgres();
    server.create_database("killed").await.unwrap();
    let (sink, scope) = (sink(&life("us", 0), &config(&server.dsn("killed"))), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let many = rows(60_000, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    let attempt = delta(&scope, Base::Empty, many, Vec::new(), 60_000, 1);
    let (outcome, ()) = tokio::join!(sink.deliver(&attempt), async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        server.stop().await.unwrap();
    });
    let error = outcome.unwrap_err();
    assert_eq!((error.class(), error.fault()), (Class::Transient, Fault::Destination), "{}", chain(&error));
    server.restart().await.unwrap();
    assert_eq!(sink.recover(&scope, &Selection::All, &[]).await.unwrap().len(), 0);
    sink.deliver(&attempt).await.unwrap();
    assert_eq!(sink.recover(&scope, &Selection::All, &[]).await.unwrap().len(), 60_000);
}

#[tokio::test]
async fn lock_that_somebody_holds_is_waited_for_and_then_transient() {
    let Some(bench) = Bench::new("locks").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let database = bench.connect().await;
    database.batch_execute("BEGIN; LOCK TABLE items IN EXCLUSIVE MODE").await.unwrap();
    let error = sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 1)).await.unwrap_err();
    assert_eq!((error.class(), error.fault()), (Class::Transient, Fault::Delivery));
    assert_eq!(
        chain(&error),
        "failed to write 3 rows of inventory team-a/apps to \"public\".\"items\": canceling statement due to lock timeout \
         (SQLSTATE 55P03)"
    );
    database.batch_execute("ROLLBACK").await.unwrap();
    sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 1)).await.unwrap();
}

#[tokio::test]
async fn read_only_server_is_transient() {
    let Some(bench) = Bench::new("read_only").await else { return };
    let sink = bench.sink();
    sink.recover(&scope("west", "team-a", "apps"), &Selection::All, &[]).await.unwrap();
    let name = &bench.database;
    let admin = bench.server.connect_admin("postgres").await.unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await.unwrap();
    let fresh = bench.sink();
    let error = fresh.probe().await.unwrap_err();
    assert_eq!((error.class(), error.to_string().contains("read-only")), (Class::Transient, true), "{error}");
    assert_eq!(error.fault(), Fault::Destination);
}

#[tokio::test]
async fn statement_that_takes_too_long_is_ended_by_the_server_and_transient() {
    let Some(bench) = Bench::new("slow").await else { return };
    let config = PostgresConfig { statement_timeout: Some(Duration::from_millis(200)), ..bench.config() };
    let (sink, scope) = (sink(&life("us", 0), &config), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; \
                END $$; CREATE TRIGGER slow BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION slow()";
    bench.connect().await.batch_execute(slow).await.unwrap();
    for base in [Base::Empty, Base::Filled] {
        let error = sink.deliver(&delta(&scope, base, fixture(), Vec::new(), 3, 1)).await.unwrap_err();
        assert_eq!((error.class(), error.fault()), (Class::Transient, Fault::Delivery), "{}", chain(&error));
        assert!(chain(&error).ends_with("canceling statement due to statement timeout (SQLSTATE 57014)"));
    }
}
