//! Tables of an earlier release: eight columns, a key without the cluster, rows without fingerprints, and its writers.

use std::time::Duration;

use kollect::error::{Class, Classify, chain};
use kollect::export::{Base, Difference, Selection, compare};
use kollect::lab::postgres::Database;
use kollect::sinks::contract::{self, delta, mend};
use kollect::sinks::postgres::{PostgresConfig, Provisioning};
use kollect::sinks::{Audit, Fault};

use super::{Bench, U2, config, fixture, life, number, refused, scope, sink};

const OLD_TABLE: &str = "CREATE TABLE items (inventory_namespace TEXT NOT NULL, inventory_name TEXT NOT NULL, target_name TEXT \
                         NOT NULL, source_uid TEXT NOT NULL, cluster TEXT NOT NULL DEFAULT '', resource_namespace TEXT NOT \
                         NULL DEFAULT '', payload JSONB NOT NULL, exported_at TIMESTAMPTZ NOT NULL, PRIMARY KEY \
                         (inventory_namespace, inventory_name, target_name, source_uid))";

/// Writes the fixture as an earlier release does: stamped anew, whether it changed or not.
async fn old_writer(database: &Database, stamp: &str) {
    for row in fixture() {
        let mut payload = Vec::new();
        kollect::canonical::write_item(&row, &mut payload);
        let sql = format!(
            "INSERT INTO items (inventory_namespace, inventory_name, target_name, source_uid, cluster, resource_namespace, \
             payload, exported_at) VALUES ('team-a', 'apps', $1, $2, 'west', 'team-a', $3::text::jsonb, '{stamp}') \
             ON CONFLICT (inventory_namespace, inventory_name, target_name, source_uid) DO UPDATE SET payload = \
             excluded.payload, exported_at = excluded.exported_at, cluster = excluded.cluster, resource_namespace = \
             excluded.resource_namespace"
        );
        let (target, uid) = (row.origin.target.name.to_string(), row.uid.to_string());
        let payload = String::from_utf8(payload).unwrap();
        database.execute(&sql, &[&target, &uid, &payload]).await.unwrap();
    }
}

#[tokio::test]
async fn old_table_is_brought_up_to_date_beside_its_writers() {
    let Some(bench) = Bench::new("old").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    database.batch_execute(OLD_TABLE).await.unwrap();
    old_writer(&database, "2025-01-01Z").await;
    // One row is stale.
    let stale = format!("UPDATE items SET payload = '{{}}' WHERE source_uid = '{U2}'");
    database.batch_execute(&stale).await.unwrap();
    let probed = sink.probe().await.unwrap();
    assert!(probed.ends_with("is of an earlier release and will be brought up to date"), "{probed}");
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);

    let held = sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    assert!(held.len() == 3 && held.iter().all(|row| row.fingerprint.is_none()), "{held:?}");
    let Difference { upserts, deletes, .. } =
        compare(fixture(), held, |_, _| true, |row| sink.fingerprint(&scope, row));
    assert_eq!((upserts.len(), deletes.len()), (3, 0));
    let receipt = sink.deliver(&delta(&scope, Base::Filled, upserts, deletes, 3, 1)).await.unwrap();
    assert_eq!(receipt.written, 1, "the other two are equal");
    let untouched = "SELECT count(*) FROM items WHERE exported_at = '2025-01-01Z'";
    assert_eq!(number(&database, untouched).await, 2);
    assert_eq!(number(&database, "SELECT count(*) FROM items WHERE fingerprint IS NULL").await, 0);
    // Nobody vouches for what another writer left before it was looked at as a whole.
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);
    assert_eq!(mend(&sink, &scope, &fixture()).await.unwrap().written, 0);
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
    assert!(sink.probe().await.unwrap().ends_with("is ready"));

    // The old writer goes on, with a row that it deleted and made again.
    database.batch_execute(&format!("DELETE FROM items WHERE source_uid = '{U2}'")).await.unwrap();
    old_writer(&database, "2025-01-02Z").await;
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);
    assert_eq!(mend(&sink, &scope, &fixture()).await.unwrap().written, 0);
    assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
    assert_eq!(number(&database, "SELECT count(*) FROM items WHERE exported_at = '2025-01-02Z'").await, 3);

    // A second cluster does not fit under the old key. Which says so, and the statement that it names helps.
    let east = contract::scope("east", "team-a", "apps");
    let attempt = delta(&east, Base::Filled, fixture(), Vec::new(), 3, 1);
    let receipt = sink.deliver(&attempt).await.unwrap();
    assert_eq!((receipt.written, receipt.refused.len()), (0, 3));
    let message = &receipt.refused[0].message;
    assert_eq!(
        message,
        "duplicate key value violates unique constraint \"items_pkey\" (SQLSTATE 23505); the key of earlier releases does \
         not know the cluster; once none of them writes here, run: ALTER TABLE \"public\".\"items\" DROP CONSTRAINT \
         \"items_pkey\""
    );
    database.batch_execute(message.split_once("run: ").unwrap().1).await.unwrap();
    assert_eq!(sink.deliver(&attempt).await.unwrap().written, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_table_is_brought_up_to_date_once_by_many_at_the_same_moment() {
    let Some(bench) = Bench::new("old_many").await else { return };
    let database = bench.connect().await;
    let fill = "INSERT INTO items SELECT 'team-a', 'apps', 'old', n::text, 'west', 'team-a', '{}', now() \
                FROM generate_series(1, 50000) n";
    database.batch_execute(&format!("{OLD_TABLE}; {fill}")).await.unwrap();
    let starts = (0..6).map(|n| {
        let (bench, scope) = (&bench, scope("west", "team-a", &format!("inv-{n}")));
        async move {
            let sink = bench.sink();
            // As the caller does, without its backoff.
            while let Err(error) = sink.recover(&scope, &Selection::All, &[]).await {
                assert_eq!(error.class(), Class::Transient, "{}", chain(&error));
            }
        }
    });
    tokio::time::timeout(Duration::from_mins(1), futures::future::join_all(starts)).await.unwrap();
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'items'::regclass";
    assert_eq!(number(&database, indexes).await, 2);
    assert_eq!(number(&database, &format!("{indexes} AND indisvalid")).await, 2);
}

#[tokio::test]
async fn index_that_was_never_finished_is_built_again() {
    let Some(bench) = Bench::new("ruin").await else { return };
    let database = bench.connect().await;
    let index = "CREATE UNIQUE INDEX items_kollect_key ON items (cluster, inventory_namespace, inventory_name, \
                 target_name, source_uid)";
    database.batch_execute(&format!("{OLD_TABLE}; {index}")).await.unwrap();
    let admin = bench.server.connect_admin(&bench.database).await.unwrap();
    let ruin = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'items_kollect_key'::regclass";
    admin.batch_execute(ruin).await.unwrap();
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    // Somebody who builds an index holds this lock.
    database.batch_execute("BEGIN; LOCK TABLE items IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let error = sink.recover(&scope, &Selection::All, &[]).await.unwrap_err();
    assert_eq!((error.class(), error.fault()), (Class::Transient, Fault::Delivery), "{}", chain(&error));
    database.batch_execute("ROLLBACK").await.unwrap();
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let valid = "SELECT count(*) FROM pg_index WHERE indrelid = 'items'::regclass AND indisvalid";
    assert_eq!(number(&database, valid).await, 2);
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
}

#[tokio::test]
async fn old_table_is_left_alone_where_we_may_not_change_it() {
    let Some(bench) = Bench::new("not_ours").await else { return };
    let database = bench.connect().await;
    database.batch_execute(OLD_TABLE).await.unwrap();
    let admin = bench.server.connect_admin(&bench.database).await.unwrap();
    let role = "CREATE ROLE guest LOGIN PASSWORD 'g'; GRANT CREATE ON SCHEMA public TO guest; \
                GRANT SELECT, INSERT, UPDATE, DELETE ON items TO guest";
    admin.batch_execute(role).await.unwrap();
    let dsn = format!("host=127.0.0.1 port={} user=guest password=g dbname=not_ours", bench.server.port());
    let existing = PostgresConfig { provisioning: Provisioning::Existing, ..bench.config() };
    for config in [config(&dsn), existing] {
        let error = refused(&sink(&life("us", 0), &config)).await;
        assert_eq!(error.class(), Class::Terminal);
        assert_eq!(
            error.to_string(),
            "table \"public\".\"items\" lacks column fingerprint; run: ALTER TABLE \"public\".\"items\" ADD COLUMN \
             fingerprint bytea"
        );
    }
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'items'";
    assert_eq!(number(&database, columns).await, 8);
}
