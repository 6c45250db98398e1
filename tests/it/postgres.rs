//! The PostgreSQL sink against a real server: rows, states, faults, schemas and TLS.

mod audit;
mod connection;
mod old_table;
mod outage;
mod refused;
mod rows;
mod schema;
mod writers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use kollect::export::{Scope, Selection};
use kollect::lab::postgres::Database;
use kollect::lab::{Lab, LabOptions, Postgres};
use kollect::model::{Body, Gvk, Name, Namespace, ObjectKey, Origin, Row, Uid};
use kollect::secret::Secret;
use kollect::sinks::TlsConfig;
use kollect::sinks::contract::{self, Stored, Subject, Tamper};
use kollect::sinks::netguard::Guard;
use kollect::sinks::postgres::{PostgresConfig, PostgresPools, Provisioning, Writer};
use kollect::sinks::{RowSink, SinkError};
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

    fn sink(&self) -> Arc<dyn RowSink> {
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

fn sink(pools: &PostgresPools, config: &PostgresConfig) -> Arc<dyn RowSink> {
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

async fn refused(sink: &Arc<dyn RowSink>) -> SinkError {
    sink.recover(&scope("west", "team-a", "apps"), &Selection::All, &[]).await.unwrap_err()
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
            "SELECT count(*), coalesce(bit_xor(jsonb_hash_extended(payload, hashtextextended(concat_ws('|', target_name, \
             source_uid, resource_namespace, encode(fingerprint, 'hex')), 0))), 0) FROM items \
             WHERE cluster = $1 AND inventory_namespace = $2 AND inventory_name = $3",
            &[&scope.cluster.as_str(), &scope.inventory.namespace.as_str(), &scope.inventory.name.as_str()],
        )
        .await
        .unwrap();
    ((state.get(0), state.get(1)), (table.get(0), table.get(1)))
}

/// The condition for the rows of a scope.
fn of(scope: &Scope) -> String {
    let (cluster, inventory) = (&scope.cluster, &scope.inventory);
    let (namespace, name) = (&inventory.namespace, &inventory.name);
    format!("cluster = '{cluster}' AND inventory_namespace = '{namespace}' AND inventory_name = '{name}'")
}

/// Returns one number.
async fn number(database: &Database, sql: &str) -> i64 {
    database.query_one(sql, &[]).await.unwrap().get(0)
}

struct Contract<'a>(&'a Bench);

impl Subject for Contract<'_> {
    fn sink(&self) -> Arc<dyn RowSink> {
        self.0.sink()
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn RowSink>> {
        let dsn = self.0.server.dsn(&self.0.database);
        let (login, rest) = dsn.split_once('@').unwrap();
        let (login, _) = login.rsplit_once(':').unwrap();
        Some(sink(&life("us", 0), &config(&format!("{login}:wrong@{rest}"))))
    }

    fn unreachable(&self) -> Arc<dyn RowSink> {
        let port = kollect::lab::process::free_port().unwrap();
        sink(&life("us", 0), &config(&format!("postgres://kollect:secret@127.0.0.1:{port}/nowhere")))
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        Box::pin(async { stored(&self.0.connect().await, scope).await })
    }

    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
        let row = format!("{} AND source_uid = '{uid}'", of(scope));
        let sql = match deed {
            Tamper::Edit => {
                let payload = "jsonb_set(payload, '{attributes,replicas}', '77')";
                format!("UPDATE items SET payload = {payload} WHERE {row}")
            }
            Tamper::Move => format!("UPDATE items SET resource_namespace = 'elsewhere' WHERE {row}"),
            Tamper::Delete => format!("DELETE FROM items WHERE {row}"),
            Tamper::Add => format!(
                "INSERT INTO items SELECT inventory_namespace, inventory_name, target_name, '{uid}', cluster, \
                 resource_namespace, payload, now(), fingerprint FROM items WHERE {} LIMIT 1",
                of(scope)
            ),
            Tamper::Forget => format!("DELETE FROM items_state WHERE {}", of(scope)),
        };
        Box::pin(async move {
            let rows = self.0.connect().await.execute(&sql, &[]).await?;
            anyhow::ensure!(rows == 1, "{rows} rows were tampered with");
            Ok(())
        })
    }
}
