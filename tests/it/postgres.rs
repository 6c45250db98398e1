//! The PostgreSQL sink against a real server: rows, states, faults, schemas and TLS.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use kollect::error::{Class, Classify, chain};
use kollect::export::{Base, Scope, Selection, compare};
use kollect::lab::postgres::Database;
use kollect::lab::{Lab, LabOptions, Postgres};
use kollect::model::{Body, Gvk, Name, Namespace, ObjectKey, Origin, Part, Row, Uid};
use kollect::secret::Secret;
use kollect::sinks::contract::{self, Stored, Subject, delta, rows};
use kollect::sinks::mandate::{Mandate, Moment};
use kollect::sinks::netguard::Guard;
use kollect::sinks::postgres::{PostgresConfig, PostgresPools, Provisioning, TlsConfig, Writer};
use kollect::sinks::{Sink, SinkError};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::support::lab_or_skip;

static SERVER: OnceCell<Option<Lab>> = OnceCell::const_new();

/// A database of one test on the server that all tests of this module share.
struct Bench {
    server: &'static Postgres,
    database: String,
}

impl Bench {
    async fn new(database: &str) -> Option<Self> {
        let lab = SERVER.get_or_init(|| lab_or_skip(only_postgres())).await.as_ref()?;
        lab.postgres().create_database(database).await.unwrap();
        Some(Self { server: lab.postgres(), database: database.to_owned() })
    }

    async fn connect(&self) -> Database {
        self.server.connect(&self.database).await.unwrap()
    }

    fn config(&self) -> PostgresConfig {
        config(&self.server.dsn(&self.database))
    }

    fn sink(&self) -> Arc<dyn Sink> {
        sink(&life("us", 0), &self.config())
    }
}

fn only_postgres() -> LabOptions {
    LabOptions { control_plane: false, ..LabOptions::default() }
}

fn config(dsn: &str) -> PostgresConfig {
    PostgresConfig {
        dsn: Secret::new(dsn),
        schema: "public".to_owned(),
        table: "items".to_owned(),
        state_table: None,
        provisioning: Provisioning::Ensure,
        tls: TlsConfig::default(),
        statement_timeout: None,
        lock_timeout: Some(Duration::from_secs(2)),
    }
}

/// One life of an operator.
fn life(process: &str, lease_transitions: i64) -> PostgresPools {
    let guard = Guard { allow_private: false, allow_loopback: true };
    let writer = Writer { process: process.to_owned(), lease_transitions };
    PostgresPools::new(guard, writer, || "2026-03-01T10:20:31Z".parse().unwrap(), CancellationToken::new())
}

fn sink(pools: &PostgresPools, config: &PostgresConfig) -> Arc<dyn Sink> {
    Arc::new(pools.sink(config).unwrap())
}

fn scope(cluster: &str, namespace: &str, name: &str) -> Arc<Scope> {
    contract::scope(cluster, namespace, name)
}

fn one(target: &str, gvk: Gvk, uid: &str, namespace: &str, name: &str, attributes: &str) -> Row {
    let target = ObjectKey::new(Namespace::new("team-a"), Name::new(target));
    Row {
        origin: Arc::new(Origin { target, gvk }),
        uid: Uid::new(uid),
        namespace: Namespace::new(namespace),
        body: Body::new(name, attributes.as_bytes()).unwrap(),
    }
}

fn gvk(group: &str, kind: &str) -> Gvk {
    Gvk { group: group.into(), version: "v1".into(), kind: kind.into() }
}

const U1: &str = "11111111-1111-4111-8111-111111111111";
const U2: &str = "22222222-2222-4222-8222-222222222222";
const U3: &str = "33333333-3333-4333-8333-333333333333";

/// The three rows of the specification, ascending by key.
fn fixture() -> Vec<Row> {
    let configs = r#"{"immutable":false,"owner":null,"ratio":0.25,"version":"7"}"#;
    let web = r#"{"image":"ghcr.io/acme/web:2.0.0","note":"a\u003cb \u0026 c\u003ed","ports":[80,8443],"replicas":2}"#;
    let deployment = || gvk("apps", "Deployment");
    vec![
        one("configs", gvk("", "ConfigMap"), U3, "team-a", "feature-flags", configs),
        one("deploys", deployment(), U1, "team-a", "api", r#"{"image":"ghcr.io/acme/api:1.4.2","replicas":3}"#),
        one("deploys", deployment(), U2, "team-a", "web", web),
    ]
}

async fn refused(sink: &Arc<dyn Sink>) -> SinkError {
    sink.recover(&scope("west", "team-a", "apps"), &Selection::All).await.unwrap_err()
}

async fn stored(database: &Database, scope: &Scope) -> Result<Stored> {
    let sql = "SELECT target_name, source_uid, payload::text FROM items \
               WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3";
    let (cluster, inventory) = (scope.cluster.as_str(), &scope.inventory);
    let rows = match database.query(sql, &[&cluster, &inventory.namespace.as_str(), &inventory.name.as_str()]).await {
        Ok(rows) => rows,
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    rows.into_iter().map(|row| Ok(((row.get(0), row.get(1)), serde_json::from_str(row.get(2))?))).collect()
}

/// What the audit compares: the kept count and hash, and the same as computed from the rows.
async fn audit(database: &Database, scope: &Scope) -> ((i64, Option<i64>), (i64, Option<i64>)) {
    let state = database
        .query_one(
            "SELECT rows, hash FROM items_state \
             WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3",
            &[&scope.cluster.as_str(), &scope.inventory.namespace.as_str(), &scope.inventory.name.as_str()],
        )
        .await
        .unwrap();
    let table = database
        .query_one(
            "SELECT count(*), coalesce(bit_xor(hashtextextended(concat_ws('|', cluster, inventory_namespace, \
             inventory_name, target_name, source_uid, resource_namespace, payload, encode(fingerprint, 'hex')), 0)), 0) \
             FROM items WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3",
            &[&scope.cluster.as_str(), &scope.inventory.namespace.as_str(), &scope.inventory.name.as_str()],
        )
        .await
        .unwrap();
    ((state.get(0), state.get(1)), (table.get(0), table.get(1)))
}

struct Contract<'a>(&'a Bench);

impl Subject for Contract<'_> {
    fn sink(&self) -> Arc<dyn Sink> {
        self.0.sink()
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn Sink>> {
        let dsn = self.0.server.dsn(&self.0.database);
        let (login, rest) = dsn.split_once('@').unwrap();
        let (login, _) = login.rsplit_once(':').unwrap();
        Some(sink(&life("us", 0), &config(&format!("{login}:wrong@{rest}"))))
    }

    fn unreachable(&self) -> Arc<dyn Sink> {
        let port = kollect::lab::process::free_port().unwrap();
        sink(&life("us", 0), &config(&format!("postgres://kollect:secret@127.0.0.1:{port}/nowhere")))
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        Box::pin(async { stored(&self.0.connect().await, scope).await })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_passes_the_contract() {
    let Some(bench) = Bench::new("contract").await else { return };
    contract::run(&Contract(&bench)).await.unwrap();
}

#[tokio::test]
async fn rows_are_those_of_the_specification() {
    let Some(bench) = Bench::new("e22").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All).await.unwrap();
    // Once by COPY and once by arrays: both write the same.
    for base in [Base::Empty, Base::Filled] {
        bench.connect().await.batch_execute("TRUNCATE items").await.unwrap();
        sink.deliver(&delta(&scope, base, fixture(), Vec::new(), 3, 1)).await.unwrap();
        let seen = bench
            .connect()
            .await
            .query(
                "SELECT concat_ws('|', inventory_namespace, inventory_name, target_name, source_uid, cluster, \
                 resource_namespace, payload::text, exported_at AT TIME ZONE 'UTC') FROM items ORDER BY target_name, \
                 source_uid",
                &[],
            )
            .await
            .unwrap();
        let seen: Vec<String> = seen.iter().map(|row| row.get(0)).collect();
        assert_eq!(
            seen,
            [
                format!(
                    r#"team-a|apps|configs|{U3}|west|team-a|{{"uid": "{U3}", "kind": "ConfigMap", "name": "feature-flags", "version": "v1", "namespace": "team-a", "attributes": {{"owner": null, "ratio": 0.25, "version": "7", "immutable": false}}, "targetName": "configs", "targetNamespace": "team-a"}}|2026-03-01 10:20:31"#
                ),
                format!(
                    r#"team-a|apps|deploys|{U1}|west|team-a|{{"uid": "{U1}", "kind": "Deployment", "name": "api", "group": "apps", "version": "v1", "namespace": "team-a", "attributes": {{"image": "ghcr.io/acme/api:1.4.2", "replicas": 3}}, "targetName": "deploys", "targetNamespace": "team-a"}}|2026-03-01 10:20:31"#
                ),
                format!(
                    r#"team-a|apps|deploys|{U2}|west|team-a|{{"uid": "{U2}", "kind": "Deployment", "name": "web", "group": "apps", "version": "v1", "namespace": "team-a", "attributes": {{"note": "a<b & c>d", "image": "ghcr.io/acme/web:2.0.0", "ports": [80, 8443], "replicas": 2}}, "targetName": "deploys", "targetNamespace": "team-a"}}|2026-03-01 10:20:31"#
                ),
            ]
        );
    }
}

#[tokio::test]
async fn emptied_inventory_leaves_rows_of_other_clusters() {
    let Some(bench) = Bench::new("e24").await else { return };
    let sink = bench.sink();
    for cluster in ["west", "east"] {
        let scope = scope(cluster, "team-a", "apps");
        sink.recover(&scope, &Selection::All).await.unwrap();
        sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    }
    let west = scope("west", "team-a", "apps");
    let held = sink.recover(&west, &Selection::All).await.unwrap();
    let (upserts, deletes) = compare(Vec::new(), held, |_, _| true, |row| sink.fingerprint(&west, row));
    sink.deliver(&delta(&west, Base::Filled, upserts, deletes, 0, 2)).await.unwrap();
    let database = bench.connect().await;
    assert_eq!(stored(&database, &west).await.unwrap().len(), 0);
    assert_eq!(stored(&database, &scope("east", "team-a", "apps")).await.unwrap().len(), 3);
    let state = database.query_one("SELECT rows, hash FROM items_state WHERE cluster = 'west'", &[]).await.unwrap();
    assert_eq!((state.get::<_, i64>(0), state.get::<_, i64>(1)), (0, 0));
}

#[tokio::test]
async fn cluster_scoped_object_counts_to_the_namespace_of_its_inventory() {
    let Some(bench) = Bench::new("e25").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "cluster", "fleet"));
    sink.recover(&scope, &Selection::All).await.unwrap();
    let role = one("roles", gvk("rbac.authorization.k8s.io", "ClusterRole"), U1, "", "cr", "{}");
    sink.deliver(&delta(&scope, Base::Empty, vec![role], Vec::new(), 1, 1)).await.unwrap();
    let sql = "SELECT inventory_namespace, inventory_name, resource_namespace FROM items";
    let row = bench.connect().await.query_one(sql, &[]).await.unwrap();
    assert_eq!([row.get::<_, &str>(0), row.get(1), row.get(2)], ["cluster", "fleet", "cluster"]);

    let part = Part { target: Name::new("roles"), namespace: Namespace::new("") };
    let held = sink.recover(&scope, &Selection::Parts(vec![part])).await.unwrap();
    assert_eq!(held.len(), 1);
}

#[tokio::test]
async fn large_integers_stay_exact() {
    let Some(bench) = Bench::new("e26").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All).await.unwrap();
    let row = one("deploys", gvk("apps", "Deployment"), U1, "team-a", "api", r#"{"n":9007199254740993}"#);
    sink.deliver(&delta(&scope, Base::Empty, vec![row], Vec::new(), 1, 1)).await.unwrap();
    let sql = "SELECT payload #>> '{attributes,n}' FROM items";
    assert_eq!(bench.connect().await.query_one(sql, &[]).await.unwrap().get::<_, &str>(0), "9007199254740993");
}

#[tokio::test]
async fn equal_rows_cost_no_write_and_the_state_follows_each_delivery() {
    let Some(bench) = Bench::new("writes").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    let database = bench.connect().await;
    sink.recover(&scope, &Selection::All).await.unwrap();
    let first = rows(3_000, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    sink.deliver(&delta(&scope, Base::Empty, first.clone(), Vec::new(), 3_000, 1)).await.unwrap();
    let (kept, computed) = audit(&database, &scope).await;
    assert_eq!((kept, kept.0), (computed, 3_000));

    let before = bench.server.row_writes(&database, "items").await.unwrap();
    let changed = rows(3_000, |n| format!("{{\"replicas\":{}}}", if n % 100 == 0 { 1 } else { n })).unwrap();
    let gone: Vec<_> = changed.iter().skip(2_990).map(Row::key).collect();
    let kept_rows = changed.into_iter().take(2_990).collect();
    sink.deliver(&delta(&scope, Base::Filled, kept_rows, gone, 2_990, 2)).await.unwrap();
    let writes = bench.server.row_writes(&database, "items").await.unwrap().since(before);
    assert_eq!((writes.inserted, writes.updated, writes.deleted), (0, 30, 10));
    let (kept, computed) = audit(&database, &scope).await;
    assert_eq!((kept, kept.0), (computed, 2_990));

    let again = bench.sink();
    again.recover(&scope, &Selection::All).await.unwrap();
    again.deliver(&delta(&scope, Base::Filled, first, Vec::new(), 3_000, 3)).await.unwrap();
    let (kept, computed) = audit(&database, &scope).await;
    assert_eq!((kept, kept.0), (computed, 3_000));
    database.batch_execute("UPDATE items SET payload = '{}' WHERE source_uid LIKE '00000007%'").await.unwrap();
    let (kept, computed) = audit(&database, &scope).await;
    assert_ne!(kept.1, computed.1, "an edited payload shows");
}

#[tokio::test]
async fn empty_base_that_turns_out_filled_is_merged() {
    let Some(bench) = Bench::new("merge").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    let receipt = sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 2)).await.unwrap();
    assert_eq!(receipt.written, 0);
}

#[tokio::test]
async fn newer_life_fences_the_older_one() {
    let Some(bench) = Bench::new("fence").await else { return };
    let scope = scope("west", "team-a", "apps");
    let (older, newer) = (sink(&life("us", 4), &bench.config()), sink(&life("us", 4), &bench.config()));
    older.recover(&scope, &Selection::All).await.unwrap();
    older.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    // Reading back is enough: what the newer one has compared must not change under it.
    newer.recover(&scope, &Selection::All).await.unwrap();
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
async fn a_mandate_that_ends_during_a_delivery_takes_all_of_it_back() {
    let Some(bench) = Bench::new("mandate").await else { return };
    let scope = scope("west", "team-a", "apps");
    let mandate = Mandate::limited(Duration::from_mins(1), Moment::now());
    let deposed = sink(&life("us", 4).under(mandate.clone()), &bench.config());
    deposed.recover(&scope, &Selection::All).await.unwrap();
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

#[tokio::test]
async fn second_operator_with_the_same_cluster_writes_nothing_until_the_first_is_silent() {
    let Some(bench) = Bench::new("conflict").await else { return };
    let scope = scope("west", "team-a", "apps");
    let (us, them) = (bench.sink(), sink(&life("them", 9), &bench.config()));
    us.recover(&scope, &Selection::All).await.unwrap();
    us.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();

    let error = them.recover(&scope, &Selection::All).await.unwrap_err();
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
    assert_eq!(them.recover(&scope, &Selection::All).await.unwrap().len(), 3);
    assert_eq!(us.recover(&scope, &Selection::All).await.unwrap_err().reason(), "ClusterConflict");
}

#[tokio::test]
async fn heartbeat_leaves_the_rows_of_others_alone() {
    let Some(bench) = Bench::new("heartbeat").await else { return };
    let scope = scope("west", "team-a", "apps");
    let (us, them) = (bench.sink(), sink(&life("them", 9), &bench.config()));
    us.recover(&scope, &Selection::All).await.unwrap();
    let database = bench.connect().await;
    database.batch_execute("UPDATE items_state SET heartbeat = '2026-01-01Z'").await.unwrap();
    them.heartbeat(&[&scope]).await.unwrap();
    let sql = "SELECT heartbeat = '2026-01-01Z' FROM items_state";
    assert!(database.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn server_that_was_away_is_found_again() {
    let Some(lab) = lab_or_skip(only_postgres()).await else { return };
    let server = lab.postgres();
    server.create_database("away").await.unwrap();
    let (sink, scope) = (sink(&life("us", 0), &config(&server.dsn("away"))), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All).await.unwrap();
    server.stop().await.unwrap();
    for _ in 0..3 {
        let error = sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{}", chain(&error));
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
    sink.recover(&scope, &Selection::All).await.unwrap();
    let many = rows(60_000, |n| format!("{{\"replicas\":{n}}}")).unwrap();
    let attempt = delta(&scope, Base::Empty, many, Vec::new(), 60_000, 1);
    let (outcome, ()) = tokio::join!(sink.deliver(&attempt), async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        server.stop().await.unwrap();
    });
    assert_eq!(outcome.unwrap_err().class(), Class::Transient);
    server.restart().await.unwrap();
    assert_eq!(sink.recover(&scope, &Selection::All).await.unwrap().len(), 0);
    sink.deliver(&attempt).await.unwrap();
    assert_eq!(sink.recover(&scope, &Selection::All).await.unwrap().len(), 60_000);
}

#[tokio::test]
async fn lock_that_somebody_holds_is_waited_for_and_then_transient() {
    let Some(bench) = Bench::new("locks").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All).await.unwrap();
    let database = bench.connect().await;
    database.batch_execute("BEGIN; LOCK TABLE items IN EXCLUSIVE MODE").await.unwrap();
    let error = sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 1)).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
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
    sink.recover(&scope("west", "team-a", "apps"), &Selection::All).await.unwrap();
    let name = &bench.database;
    let admin = bench.server.connect_admin("postgres").await.unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await.unwrap();
    let fresh = bench.sink();
    let error = fresh.probe().await.unwrap_err();
    assert_eq!((error.class(), error.to_string().contains("read-only")), (Class::Transient, true), "{error}");
}

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
            sink.recover(&scope, &Selection::All).await.map(drop)
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
    bench.sink().recover(&scope("west", "team-a", "apps"), &Selection::All).await.unwrap();
    let admin = bench.server.connect_admin(&bench.database).await.unwrap();
    let role = "CREATE ROLE writer LOGIN PASSWORD 'w'; REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
                GRANT SELECT, INSERT, UPDATE, DELETE ON items, items_state TO writer";
    admin.batch_execute(role).await.unwrap();
    let dsn = format!("host=127.0.0.1 port={} user=writer password=w dbname=least", bench.server.port());
    for provisioning in [Provisioning::Ensure, Provisioning::Existing] {
        let config = PostgresConfig { provisioning, ..config(&dsn) };
        let sink = sink(&life("us", 0), &config);
        let scope = scope("west", "team-a", "apps");
        sink.recover(&scope, &Selection::All).await.unwrap();
        sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 1)).await.unwrap();
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
    sink.recover(&scope("west", "team-a", "apps"), &Selection::All).await.unwrap();
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
    sink.recover(&scope, &Selection::All).await.unwrap();
    // Without a state table rows are written all the same.
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    assert_eq!(stored(&database, &scope).await.unwrap().len(), 3);
    let other = contract::scope("east", "team-a", "apps");
    let error = sink.deliver(&delta(&other, Base::Filled, fixture(), Vec::new(), 3, 1)).await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(chain(&error).contains("the constraint \"items_pkey\" is narrower than the key"), "{}", chain(&error));
}

#[tokio::test]
async fn dropped_table_is_made_again() {
    let Some(bench) = Bench::new("dropped").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    bench.connect().await.batch_execute("DROP TABLE items, items_state").await.unwrap();
    let error = sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 2)).await.unwrap_err();
    assert!(error.to_string().starts_with("failed to"), "{error}");
    sink.recover(&scope, &Selection::All).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 2)).await.unwrap();
    assert_eq!(stored(&bench.connect().await, &scope).await.unwrap().len(), 3);
}

#[tokio::test]
async fn missing_database_and_missing_schema_are_named() {
    let Some(bench) = Bench::new("missing").await else { return };
    let nowhere = sink(&life("us", 0), &config(&bench.server.dsn("no_such_database")));
    let error = refused(&nowhere).await;
    assert_eq!(error.class(), Class::Terminal);
    assert!(
        chain(&error).contains("database \"no_such_database\" does not exist (SQLSTATE 3D000)"),
        "{}",
        chain(&error)
    );
    let schema = PostgresConfig { schema: "Reports".to_owned(), ..bench.config() };
    let error = refused(&sink(&life("us", 0), &schema)).await;
    assert_eq!(error.to_string(), "schema \"Reports\" does not exist; run: CREATE SCHEMA \"Reports\"");
    bench.connect().await.batch_execute("CREATE SCHEMA \"Reports\"").await.unwrap();
    sink(&life("us", 0), &schema).recover(&scope("w", "a", "b"), &Selection::All).await.unwrap();
}

#[tokio::test]
async fn errors_show_no_password() {
    let Some(bench) = Bench::new("secrets").await else { return };
    let wrong = bench.server.dsn(&bench.database).replace("kollect:", "kollect:hunter2");
    let config = config(&wrong);
    let sink = sink(&life("us", 0), &config);
    let error = refused(&sink).await;
    let shown = format!("{error:?} {} {sink:?} {config:?}", chain(&error));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(chain(&error).contains("SQLSTATE 28P01"), "{shown}");
}

#[tokio::test]
async fn loopback_is_refused_without_the_flag() {
    let writer = Writer { process: "us".to_owned(), lease_transitions: 0 };
    let pools = PostgresPools::new(Guard::default(), writer, jiff::Timestamp::now, CancellationToken::new());
    let sink = pools.sink(&config("postgres://u:p@127.0.0.1:1/d")).unwrap();
    let error = sink.probe().await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert_eq!(error.to_string(), "host \"127.0.0.1\" is a loopback address, which sinks may not reach");
    pools.close().await;
}

#[tokio::test]
async fn sinks_of_one_destination_share_two_connections() {
    let Some(bench) = Bench::new("pool").await else { return };
    let pools = life("us", 0);
    let sinks: Vec<_> = (0..6).map(|_| sink(&pools, &bench.config())).collect();
    let scopes: Vec<_> = (0..6).map(|n| scope("west", "team-a", &format!("inv-{n}"))).collect();
    let all = Selection::All;
    let work = sinks.iter().zip(&scopes).map(|(sink, scope)| sink.recover(scope, &all));
    for outcome in futures::future::join_all(work).await {
        outcome.unwrap();
    }
    let database = bench.connect().await;
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kollect'";
    assert_eq!(database.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 2);
    pools.close().await;
    kollect::lab::wait::wait_for("the connections to close", Duration::from_secs(10), || async {
        let open: i64 = database.query_one(sql, &[]).await?.get(0);
        anyhow::ensure!(open == 0, "{open} are open");
        Ok(())
    })
    .await
    .unwrap();
}

/// A certificate authority and what it signed, as PEM.
struct Certificates {
    ca: String,
    server: String,
    server_key: String,
    client: String,
    client_key: String,
}

fn certificates(names: &[&str]) -> Certificates {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    // OpenSSL takes a certificate with the name of its issuer for self-signed.
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let sign = |names: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        (CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let ((server, server_key), (client, client_key)) = (sign(names), sign(&["kollect"]));
    Certificates { ca: ca.pem(), server, server_key, client, client_key }
}

#[tokio::test]
async fn client_certificate_is_shown_to_a_server_that_asks_for_it() {
    let Some(lab) = lab_or_skip(only_postgres()).await else { return };
    let server = lab.postgres();
    server.create_database("client").await.unwrap();
    let (ours, foreign) = (certificates(&["localhost"]), certificates(&["localhost"]));
    server.enable_tls(&ours.server, &ours.server_key).await.unwrap();
    let admin = server.connect_admin("postgres").await.unwrap();
    let rules = "hostssl client kollect all scram-sha-256 clientcert=verify-ca\nhost all postgres all scram-sha-256\n";
    for (file, text) in [("clients.crt", ours.ca.as_str()), ("pg_hba.conf", rules)] {
        let object = admin.query_one("SELECT lo_from_bytea(0, convert_to($1, 'UTF8'))", &[&text]).await.unwrap();
        let write = "SELECT lo_export($1, current_setting('data_directory') || '/' || $2)";
        admin.query_one(write, &[&object.get::<_, u32>(0), &file]).await.unwrap();
    }
    admin.batch_execute("ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").await.unwrap();
    server.stop().await.unwrap();
    server.restart().await.unwrap();

    let dsn = server.dsn("client").replace("sslmode=disable", "sslmode=verify-full").replace("127.0.0.1", "localhost");
    let with = |client: Option<&Certificates>| {
        let tls = TlsConfig {
            ca_pem: Some(ours.ca.clone().into_bytes()),
            client_cert_pem: client.map(|signed| signed.client.clone().into_bytes()),
            client_key_pem: client.map(|signed| Secret::new(signed.client_key.clone())),
            ..TlsConfig::default()
        };
        sink(&life("us", 0), &PostgresConfig { tls, ..config(&dsn) })
    };
    with(Some(&ours)).probe().await.unwrap();
    for refused in [with(None), with(Some(&foreign))] {
        let error = refused.probe().await.unwrap_err();
        assert_eq!(error.class(), Class::Terminal, "{}", chain(&error));
    }
}

#[tokio::test]
async fn tls_is_checked_as_sslmode_says() {
    let Some(lab) = lab_or_skip(only_postgres()).await else { return };
    let server = lab.postgres();
    server.create_database("tls").await.unwrap();
    let plain = server.dsn("tls");
    let with = |mode: &str, host: &str, ca: Option<&str>, skip: bool| {
        let dsn = plain.replace("sslmode=disable", &format!("sslmode={mode}")).replace("127.0.0.1", host);
        let ca_pem = ca.map(|ca| ca.as_bytes().to_vec());
        let tls = TlsConfig { insecure_skip_verify: skip, ca_pem, ..TlsConfig::default() };
        sink(&life("us", 0), &PostgresConfig { tls, ..config(&dsn) })
    };
    // Before the server speaks TLS.
    let error = with("require", "127.0.0.1", None, false).probe().await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(chain(&error).ends_with("server does not support TLS"), "{}", chain(&error));
    with("prefer", "127.0.0.1", None, false).probe().await.unwrap();

    let (ours, foreign) = (certificates(&["localhost"]), certificates(&["localhost"]));
    server.enable_tls(&ours.server, &ours.server_key).await.unwrap();
    let (good, bad) = (Some(ours.ca.as_str()), Some(foreign.ca.as_str()));
    for (mode, host, ca, skip, encrypted) in [
        ("disable", "localhost", None, false, Some(false)),
        ("allow", "localhost", None, false, Some(false)),
        ("prefer", "localhost", None, false, Some(true)),
        ("prefer", "localhost", bad, false, Some(false)),
        ("require", "127.0.0.1", None, false, Some(true)),
        ("require", "127.0.0.1", good, false, Some(true)),
        ("require", "127.0.0.1", bad, false, None),
        ("verify-ca", "127.0.0.1", good, false, Some(true)),
        ("verify-ca", "localhost", bad, false, None),
        ("verify-full", "localhost", good, false, Some(true)),
        ("verify-full", "127.0.0.1", good, false, None),
        ("verify-full", "localhost", bad, false, None),
        ("verify-full", "127.0.0.1", bad, true, Some(true)),
    ] {
        let case = format!("{mode} to {host}, ca {:?}, skip {skip}", ca.map(|ca| ca == ours.ca));
        let sink = with(mode, host, ca, skip);
        match (sink.probe().await, encrypted) {
            (Ok(_), Some(expected)) => {
                let admin = server.connect_admin("tls").await.unwrap();
                let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                           WHERE application_name = 'kollect' AND datname = 'tls' ORDER BY backend_start DESC LIMIT 1";
                assert_eq!(admin.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), expected, "{case}");
            }
            (Err(error), None) => {
                assert_eq!(error.class(), Class::Terminal, "{case}: {}", chain(&error));
                assert!(chain(&error).contains("invalid peer certificate"), "{case}: {}", chain(&error));
            }
            (outcome, _) => panic!("{case}: {outcome:?}"),
        }
    }
}
