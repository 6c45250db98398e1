//! What a server does to single transactions, tables and logins.

use std::time::Duration;

use tokio::time::Instant;

use super::{Fault, row_count, writes};
use crate::operator::{Job, TABLE};

#[tokio::test]
async fn a_transaction_that_the_server_gives_up_is_done_again() {
    let Some(fault) = Fault::new("given-up").await else { return };
    let load = Job::load(2, 100);
    load.create(&fault.job.ground.client).await.unwrap();
    let operator = fault.operator().await;
    fault.recovered().await;

    // A foreign writer has the last row and wants the first; the operator comes from the other side. Theirs has the
    // longer patience, so that ours is the victim.
    let order = format!("SELECT source_uid FROM {TABLE} ORDER BY target_name, source_uid");
    let uids: Vec<String> = fault.job.database.query(&order, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let foreign = fault.job.ground.postgres().connect_admin(&fault.job.ground.database).await.unwrap();
    foreign.batch_execute("SET deadlock_timeout = '60s'; BEGIN").await.unwrap();
    let lock = format!("SELECT 1 FROM {TABLE} WHERE source_uid = $1 FOR UPDATE");
    foreign.query(&lock, &[uids.last().unwrap()]).await.unwrap();
    // Suspended meanwhile, so that all of it is one delivery.
    suspend(&fault, true);
    fault.job.condition("kinv/all", "Degraded", "Suspended").await;
    load.patch(&fault.job.ground.client, (0..200).collect(), 1).await.unwrap();
    suspend(&fault, false);
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kollect' AND wait_event_type = 'Lock'";
    fault.at_least(1, waiting).await;
    // Ends when the operator's transaction is given up.
    foreign.query(&lock, &[uids.first().unwrap()]).await.unwrap();
    foreign.batch_execute("COMMIT").await.unwrap();
    fault.logged("SQLSTATE 40P01").await;
    fault.recovered().await;

    // The first three tries fail to serialize; a sequence counts them, for it is not rolled back.
    let before = fault.job.writes().await;
    fault
        .job
        .database
        .batch_execute(&format!(
            "CREATE SEQUENCE tries; GRANT USAGE ON SEQUENCE tries TO kollect;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF nextval('tries') <= 3 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END IF;
               RETURN NULL;
             END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON {TABLE} FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        ))
        .await
        .unwrap();
    load.patch(&fault.job.ground.client, (0..50).collect(), 2).await.unwrap();
    fault.recovered().await;
    assert_eq!(fault.count("SQLSTATE 40001"), 3);
    // The statement is refused before it writes a row, so that nothing rolled back is among these.
    assert_eq!(fault.job.writes().await.since(before), writes(0, 50, 0));
    operator.terminate().await.unwrap();
}

fn suspend(fault: &Fault, suspended: bool) {
    let patch = format!(r#"{{"spec":{{"suspend":{suspended}}}}}"#);
    fault.job.kubectl(&["-n", fault.job.namespace(), "patch", "kinv", "all", "--type=merge", "-p", &patch]);
}

#[tokio::test]
async fn a_table_that_is_dropped_or_emptied_is_filled_again() {
    let Some(fault) = Fault::new("dropped").await else { return };
    let load = Job::load(2, 100);
    load.create(&fault.job.ground.client).await.unwrap();
    let operator = fault.operator().await;
    fault.recovered().await;

    for (round, tables) in
        [(1, format!("{TABLE}, {TABLE}_state")), (2, TABLE.to_owned()), (3, format!("{TABLE}_state"))]
    {
        fault.job.database.batch_execute(&format!("DROP TABLE {tables}")).await.unwrap();
        let dropped = Instant::now();
        load.patch(&fault.job.ground.client, vec![0, 1, 2], round).await.unwrap();
        fault.recovered().await;
        println!("{tables} made again {:?} after the next change", dropped.elapsed());
        assert!(dropped.elapsed() < Duration::from_mins(1), "{tables}: {:?}", dropped.elapsed());
    }

    // Nothing tells a writer that a table was emptied behind its back; an audit or the next start finds it.
    fault.job.database.batch_execute(&format!("TRUNCATE {TABLE}")).await.unwrap();
    load.patch(&fault.job.ground.client, vec![0, 1, 2], 4).await.unwrap();
    fault.at_least(3, &format!("SELECT count(*) FROM {TABLE}")).await;
    assert_eq!(row_count(&fault).await, 3);
    operator.kill9().await.unwrap();
    let operator = fault.operator().await;
    fault.recovered().await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_rotated_password_and_a_name_that_does_not_resolve_cost_no_row() {
    let Some(mut fault) = Fault::new("login").await else { return };
    let database = fault.job.ground.database.clone();
    let load = Job::load(2, 50);
    load.create(&fault.job.ground.client).await.unwrap();
    let sql = format!(
        "CREATE ROLE rotating LOGIN PASSWORD 'one'; GRANT ALL ON DATABASE {database} TO rotating; \
                       GRANT ALL ON SCHEMA public TO rotating"
    );
    fault.job.database.batch_execute(&sql).await.unwrap();
    let port = fault.job.ground.postgres().port();
    let unresolved =
        |password: &str| format!("postgres://rotating:{password}@database.invalid:{port}/{database}?sslmode=disable");
    let dsn = |password: &str| format!("{}&hostaddr=127.0.0.1", unresolved(password));

    // At first nobody knows the name of the server; then the Secret says where it is.
    fault.connect_by(&unresolved("one"));
    let operator = fault.operator().await;
    let message = fault.job.condition("kinv/all", "Degraded", "Progressing").await;
    assert!(message.contains("database.invalid"), "{message}");
    fault.connect_by(&dsn("one"));
    let corrected = Instant::now();
    fault.recovered().await;
    println!("current {:?} after the name was corrected", corrected.elapsed());
    let before = fault.job.writes().await;

    // The server first, then the Secret: sessions go on, new logins fail until the Secret is there.
    let end_sessions = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'rotating'";
    fault.job.database.batch_execute("ALTER ROLE rotating PASSWORD 'two'").await.unwrap();
    fault.number(end_sessions).await;
    load.patch(&fault.job.ground.client, (0..50).collect(), 1).await.unwrap();
    let message = fault.job.condition("kinv/all", "Degraded", "ExportTerminal").await;
    assert!(message.contains("password authentication failed"), "{message}");
    fault.connect_by(&dsn("two"));
    fault.recovered().await;

    // The Secret first, then the server: nobody tells the operator about the server.
    fault.connect_by(&dsn("three"));
    load.patch(&fault.job.ground.client, (0..50).collect(), 2).await.unwrap();
    fault.job.condition("kinv/all", "Degraded", "ExportTerminal").await;
    fault.job.database.batch_execute("ALTER ROLE rotating PASSWORD 'three'").await.unwrap();
    fault.hurry();
    fault.recovered().await;
    // A login that fails writes nothing, but a session may be ended after it wrote: rows are counted twice then.
    let since = fault.job.writes().await.since(before);
    assert!(since.inserted == 0 && since.deleted == 0 && (100..=150).contains(&since.updated), "{since:?}");
    for password in ["one", "two", "three"] {
        assert!(!fault.log().contains(&format!("rotating:{password}")), "a password in the log");
    }
    operator.terminate().await.unwrap();
}
