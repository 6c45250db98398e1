//! Tables that are missing, wrong, or somebody else's.

use kollect::error::{Class, Classify, chain};
use kollect::export::{Base, Selection};
use kollect::sinks::contract::{self, delta};
use kollect::sinks::postgres::{PostgresConfig, Provisioning};
use kollect::sinks::{Audit, Fault, Leave};

use super::{Bench, config, fixture, life, refused, scope, sink, stored};
use crate::support::repository_file;

#[tokio::test]
async fn ensured_tables_are_made_once_by_many_at_the_same_moment() {
    let Some(bench) = Bench::new("ensure").await else { return };
    let probed = bench.sink().probe().await.unwrap();
    assert!(probed.starts_with("PostgreSQL 15."), "{probed}");
    assert!(probed.ends_with("role \"kollect\": table \"public\".\"items\" will be created"), "{probed}");
    let attempts = (0..8).map(|n| {
        let (bench, scope) = (&bench, scope("west", "team-a", &format!("inv-{n}")));
        async move {
            let sink = bench.sink();
            sink.recover(&scope, &Selection::All, &[]).await.map(drop)
        }
    });
    for outcome in futures::future::join_all(attempts).await {
        outcome.unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
    assert!(bench.sink().probe().await.unwrap().ends_with("is ready"));
}

#[tokio::test]
async fn tables_that_are_right_need_no_right_to_create() {
    let Some(bench) = Bench::new("least").await else { return };
    bench.sink().recover(&scope("west", "team-a", "apps"), &Selection::All, &[]).await.unwrap();
    let admin = bench.server.connect_admin(&bench.database).await.unwrap();
    let role = "CREATE ROLE writer LOGIN PASSWORD 'w'; REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
                GRANT SELECT, INSERT, UPDATE, DELETE ON items, items_state TO writer";
    admin.batch_execute(role).await.unwrap();
    let dsn = format!("host=127.0.0.1 port={} user=writer password=w dbname=least", bench.server.port());
    for provisioning in [Provisioning::Ensure, Provisioning::Existing] {
        let config = PostgresConfig { provisioning, ..config(&dsn) };
        let sink = sink(&life("us", 0), &config);
        let scope = scope("west", "team-a", "apps");
        sink.recover(&scope, &Selection::All, &[]).await.unwrap();
        sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
        assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
        contract::mend(&sink, &scope, &fixture()).await.unwrap();
        sink.heartbeat(&[&scope]).await.unwrap();
        assert_eq!(sink.scopes().await.unwrap().len(), 1);
        assert_eq!(sink.leave(&scope, Leave::Delete).await.unwrap().deleted, 3);
    }
    admin.batch_execute("REVOKE DELETE, UPDATE ON items FROM writer").await.unwrap();
    let sink = sink(&life("us", 0), &config(&dsn));
    let error = refused(&sink).await;
    assert_eq!(
        (error.class(), error.to_string().as_str()),
        (
            Class::Terminal,
            "role \"writer\" lacks UPDATE, DELETE on table \"public\".\"items\"; run: GRANT UPDATE, DELETE ON \
             \"public\".\"items\" TO \"writer\""
        )
    );
    // The statement that the message names mends it, without a restart.
    admin.batch_execute("GRANT UPDATE, DELETE ON \"public\".\"items\" TO \"writer\"").await.unwrap();
    sink.recover(&scope("west", "team-a", "apps"), &Selection::All, &[]).await.unwrap();
    // A right that goes away while the sink runs is named as well.
    admin.batch_execute("REVOKE INSERT ON items FROM writer").await.unwrap();
    let scope = scope("west", "team-a", "fresh");
    let error = sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 1)).await.unwrap_err();
    assert!(error.to_string().ends_with("run: GRANT INSERT ON \"public\".\"items\" TO \"writer\""), "{error}");
}

#[tokio::test]
async fn each_fault_of_a_table_is_named_with_what_mends_it() {
    let Some(bench) = Bench::new("faults").await else { return };
    let database = bench.connect().await;
    let good = "inventory_namespace text NOT NULL, inventory_name text NOT NULL, target_name text NOT NULL, source_uid \
                text NOT NULL, cluster text NOT NULL DEFAULT '', resource_namespace text NOT NULL DEFAULT '', payload \
                jsonb NOT NULL, exported_at timestamptz NOT NULL, fingerprint bytea";
    let key = "PRIMARY KEY (cluster, inventory_namespace, inventory_name, target_name, source_uid)";
    let cases = [
        (String::new(), "does not exist, and provisioning.mode is existing; run: CREATE TABLE IF NOT EXISTS"),
        ("CREATE VIEW items AS SELECT 1".to_owned(), "is not a table that rows can be written to"),
        (
            format!("CREATE TABLE items ({}, {key})", good.replace(", fingerprint bytea", "")),
            "lacks column fingerprint; run: ALTER TABLE \"public\".\"items\" ADD COLUMN fingerprint bytea",
        ),
        (
            format!("CREATE TABLE items ({}, {key})", good.replace("jsonb", "json")),
            "column payload of table \"public\".\"items\" is of type json, not jsonb; run: ALTER TABLE \
             \"public\".\"items\" ALTER COLUMN payload TYPE jsonb USING payload::jsonb",
        ),
        (
            format!("CREATE TABLE items ({good}, extra int NOT NULL, {key})"),
            "column \"extra\" of table \"public\".\"items\" is NOT NULL and has no default; run: ALTER TABLE",
        ),
        (
            format!("CREATE TABLE items ({good})"),
            "has no unique index on exactly (cluster, inventory_namespace, inventory_name, target_name, source_uid); run: \
             CREATE UNIQUE INDEX CONCURRENTLY ON \"public\".\"items\" (cluster, inventory_namespace, inventory_name, \
             target_name, source_uid)",
        ),
        (
            format!("CREATE TABLE items ({good}, {key}); CREATE UNIQUE INDEX narrow ON items (cluster, source_uid)"),
            "unique index \"narrow\" of table \"public\".\"items\" is narrower than the key of the rows, (cluster, \
             source_uid), and would refuse some; run: DROP INDEX CONCURRENTLY \"public\".\"narrow\"",
        ),
        (
            format!("CREATE TABLE items ({good}) PARTITION BY LIST (cluster)"),
            "run: CREATE UNIQUE INDEX ON \"public\".\"items\" (cluster,",
        ),
        (
            format!("CREATE TABLE items ({good}, {key}, CONSTRAINT one UNIQUE (source_uid))"),
            "run: ALTER TABLE \"public\".\"items\" DROP CONSTRAINT \"one\"",
        ),
    ];
    let existing = PostgresConfig { provisioning: Provisioning::Existing, ..bench.config() };
    for (make, message) in cases {
        database.batch_execute("DROP VIEW IF EXISTS items").await.ok();
        database.batch_execute("DROP TABLE IF EXISTS items").await.ok();
        database.batch_execute(&make).await.unwrap();
        let sink = sink(&life("us", 0), &existing);
        let error = sink.probe().await.unwrap_err();
        assert_eq!(error.class(), Class::Terminal);
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(refused(&sink).await.to_string(), error.to_string());
    }
    database.batch_execute("DROP TABLE items").await.unwrap();

    // What is wider, partial or nullable is none of our business, and so is the key of earlier releases.
    let tolerated = format!(
        "CREATE TABLE items ({good}, id bigserial UNIQUE, note text, PRIMARY KEY (inventory_namespace, inventory_name, \
         target_name, source_uid)); CREATE UNIQUE INDEX ON items (cluster, inventory_namespace, inventory_name, \
         target_name, source_uid); CREATE UNIQUE INDEX ON items (source_uid) WHERE note IS NOT NULL"
    );
    database.batch_execute(&tolerated).await.unwrap();
    let (sink, scope) = (sink(&life("us", 0), &existing), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    // Without a state table rows are written all the same.
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    assert_eq!(stored(&database, &scope).await.unwrap().len(), 3);
    let other = contract::scope("east", "team-a", "apps");
    let receipt = sink.deliver(&delta(&other, Base::Filled, fixture(), Vec::new(), 3, 1)).await.unwrap();
    let message = &receipt.refused[0].message;
    assert!(message.ends_with("run: ALTER TABLE \"public\".\"items\" DROP CONSTRAINT \"items_pkey\""), "{message}");
}

#[tokio::test]
async fn dropped_table_is_made_again() {
    let Some(bench) = Bench::new("dropped").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    bench.connect().await.batch_execute("DROP TABLE items, items_state").await.unwrap();
    let error = sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 2)).await.unwrap_err();
    assert!(error.to_string().starts_with("failed to"), "{error}");
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 2)).await.unwrap();
    assert_eq!(stored(&bench.connect().await, &scope).await.unwrap().len(), 3);
}

#[tokio::test]
async fn missing_database_and_missing_schema_are_named() {
    let Some(bench) = Bench::new("missing").await else { return };
    let nowhere = sink(&life("us", 0), &config(&bench.server.dsn("no_such_database")));
    let error = refused(&nowhere).await;
    assert_eq!((error.class(), error.fault()), (Class::Terminal, Fault::Destination));
    assert!(
        chain(&error).contains("database \"no_such_database\" does not exist (SQLSTATE 3D000)"),
        "{}",
        chain(&error)
    );
    let schema = PostgresConfig { schema: "Reports".to_owned(), ..bench.config() };
    let error = refused(&sink(&life("us", 0), &schema)).await;
    assert_eq!(error.fault(), Fault::Delivery);
    assert_eq!(error.to_string(), "schema \"Reports\" does not exist; run: CREATE SCHEMA \"Reports\"");
    bench.connect().await.batch_execute("CREATE SCHEMA \"Reports\"").await.unwrap();
    sink(&life("us", 0), &schema).recover(&scope("w", "a", "b"), &Selection::All, &[]).await.unwrap();
}

#[tokio::test]
async fn statements_of_the_page_of_this_sink_work_as_they_stand() {
    let Some(bench) = Bench::new("page").await else { return };
    let page = std::fs::read_to_string(repository_file("docs/sinks/postgres.md")).unwrap();
    let blocks: Vec<&str> =
        page.split("```sql\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(sql, _)| sql).collect();
    let [role, tables, queries @ ..] = blocks.as_slice() else { panic!("{} blocks of SQL", blocks.len()) };
    let admin = bench.server.connect_admin(&bench.database).await.unwrap();
    let dsn = format!("host=127.0.0.1 port={} user=kollect_writer password=change-me dbname=page", bench.server.port());
    let config = |provisioning, table: &str| {
        let (schema, table) = ("inventory".to_owned(), table.to_owned());
        PostgresConfig { provisioning, schema, table, ..config(&dsn) }
    };
    admin.batch_execute(role).await.unwrap();
    let made = config(Provisioning::Ensure, "made");
    sink(&life("us", 0), &made).recover(&scope("west", "team-a", "apps"), &Selection::All, &[]).await.unwrap();

    admin.batch_execute("REVOKE CREATE ON SCHEMA inventory FROM kollect_writer").await.unwrap();
    admin.batch_execute(tables).await.unwrap();
    let existing = sink(&life("us", 0), &config(Provisioning::Existing, "kollect_rows"));
    assert!(existing.probe().await.unwrap().ends_with("is ready"));
    let scope = scope("eu-west-1", "demo", "demo");
    existing.recover(&scope, &Selection::All, &[]).await.unwrap();
    existing.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    let found = [3, 1];
    assert_eq!(queries.len(), found.len());
    for (query, rows) in queries.iter().zip(found) {
        assert_eq!(admin.query(*query, &[]).await.unwrap().len(), rows, "{query}");
    }
    // What is made by hand is what would be made.
    let columns = "SELECT array_agg(column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(collation_name, \
                   '') || coalesce(column_default, '') ORDER BY ordinal_position)::text FROM information_schema.columns \
                   WHERE table_name = $1";
    for (by_hand, by_us) in [("kollect_rows", "made"), ("kollect_rows_state", "made_state")] {
        let shape = async |table: &str| -> String { admin.query_one(columns, &[&table]).await.unwrap().get(0) };
        assert_eq!(shape(by_hand).await, shape(by_us).await);
    }
}
