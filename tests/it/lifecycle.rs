//! Whose rows these are, from the first write to the last: what an inventory leaves when it, its references or its sinks
//! change or go, and what an audit mends.

use anyhow::{Result, ensure};
use kollect::lab::Operator;
use kollect::lab::load::Load;
use kollect::lab::wait::wait_for;
use serde_json::Value;

use crate::operator::{Job, PATIENCE, TABLE};

impl Job {
    async fn filled(name: &str, rows: usize) -> Option<(Self, Load, Operator)> {
        let job = Self::new(name).await?;
        let load = Self::load(1, rows);
        load.create(&job.ground.client).await.unwrap();
        let operator = job.operator().await;
        job.rows(i64::try_from(rows).unwrap()).await;
        job.condition("kinv/all", "Ready", "Exported").await;
        Some((job, load, operator))
    }

    /// Waits until a query has this one number as its answer.
    pub(crate) async fn counts(&self, query: &str, want: i64) {
        let counted = wait_for(&format!("{want} from {query}"), PATIENCE, || async {
            let have: i64 = self.database.query_one(query, &[]).await?.get(0);
            ensure!(have == want, "it is {have}");
            Ok(())
        })
        .await;
        counted.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone(&self, object: &str) {
        let gone = wait_for(&format!("{object} is gone"), PATIENCE, || async {
            let there = self.kubectl(&["-n", self.namespace(), "get", object, "--ignore-not-found", "-o", "name"]);
            ensure!(there.trim().is_empty(), "it is there");
            Ok(())
        })
        .await;
        gone.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    pub(crate) fn patch(&self, object: &str, patch: &str) {
        self.kubectl(&["-n", self.namespace(), "patch", object, "--type=merge", "-p", patch]);
    }

    pub(crate) fn annotate(&self, object: &str, annotation: &str) {
        self.kubectl(&["-n", self.namespace(), "annotate", "--overwrite", object, annotation]);
    }

    pub(crate) fn status(&self, object: &str) -> Value {
        let text = self.kubectl(&["-n", self.namespace(), "get", object, "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
    }

    /// Waits until the status of the inventory has so many places on record.
    pub(crate) async fn places(&self, want: usize) {
        let recorded = wait_for(&format!("{want} places on record"), PATIENCE, || async {
            let have = self.status("kinv/all")["destinations"].as_array().map_or(0, Vec::len);
            ensure!(have == want, "there are {have}");
            Ok(())
        })
        .await;
        recorded.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    async fn sql(&self, statement: &str) {
        self.database.batch_execute(statement).await.unwrap();
    }
}

fn state() -> String {
    format!("SELECT count(*) FROM {TABLE}_state")
}

#[tokio::test]
async fn a_place_that_is_left_is_cleaned_up() {
    let Some((job, _, operator)) = Job::filled("places", 20).await else { return };
    job.places(1).await;
    let finalizers = job.kubectl(&["-n", job.namespace(), "get", "kinv/all", "-o", "jsonpath={.metadata.finalizers}"]);
    assert!(finalizers.contains("kollect.dev/inventory-cleanup"), "{finalizers}");

    // Another cluster: the rows stand under the new name, and no longer under the old one.
    job.patch("kdb/pg", r#"{"spec":{"cluster":"renamed"}}"#);
    job.counts(&format!("SELECT count(*) FROM {TABLE} WHERE cluster = 'renamed'"), 20).await;
    job.counts(&format!("SELECT count(*) FROM {TABLE} WHERE cluster = 'test'"), 0).await;
    job.places(1).await;
    job.counts(&state(), 1).await;

    // Another table.
    job.patch("kdb/pg", r#"{"spec":{"postgres":{"table":"elsewhere"}}}"#);
    job.counts("SELECT count(*) FROM elsewhere", 20).await;
    job.rows(0).await;
    job.places(1).await;

    // The same table by another address is the same place: nothing is deleted, nothing is written.
    let before = job.ground.postgres().row_writes(&job.database, "elsewhere").await.unwrap();
    let renamed = job.ground.dsn().replace("127.0.0.1", "localhost");
    job.patch("secret/pg", &format!(r#"{{"stringData":{{"dsn":"{renamed}"}}}}"#));
    let moved = wait_for("the new address on record", PATIENCE, || async {
        let recorded = job.status("kinv/all")["destinations"].to_string();
        ensure!(recorded.contains("localhost") && !recorded.contains("127.0.0.1"), "{recorded}");
        Ok(())
    });
    moved.await.unwrap();
    let after = job.ground.postgres().row_writes(&job.database, "elsewhere").await.unwrap();
    assert_eq!(after.since(before).total(), 0);

    // No reference any more; and back again.
    job.patch("kinv/all", r#"{"spec":{"databaseSinkRefs":[]}}"#);
    job.counts("SELECT count(*) FROM elsewhere", 0).await;
    job.places(0).await;
    job.patch("kinv/all", r#"{"spec":{"databaseSinkRefs":[{"name":"pg"}]}}"#);
    job.counts("SELECT count(*) FROM elsewhere", 20).await;

    // Orphaned rows stay, nobody owns them, and whoever comes next may have them.
    job.patch("kdb/pg", r#"{"spec":{"deletionPolicy":"Orphan"}}"#);
    job.condition("kinv/all", "Ready", "Exported").await;
    job.kubectl(&["-n", job.namespace(), "delete", "kinv/all", "--timeout=60s"]);
    job.counts("SELECT count(*) FROM elsewhere", 20).await;
    job.counts("SELECT count(*) FROM elsewhere_state WHERE writer = ''", 1).await;
    job.apply(&job.manifests()).unwrap();
    job.patch("kdb/pg", r#"{"spec":{"cluster":"renamed","postgres":{"table":"elsewhere"}}}"#);
    job.condition("kinv/all", "Ready", "Exported").await;
    job.counts("SELECT count(*) FROM elsewhere_state WHERE writer <> ''", 1).await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_deleted_inventory_takes_its_rows_along_whatever_went_first() {
    let Some((job, _, operator)) = Job::filled("deletion", 20).await else { return };
    let namespace = job.namespace().to_owned();

    // The plain case.
    job.kubectl(&["-n", &namespace, "delete", "kinv/all", "--timeout=60s"]);
    job.rows(0).await;
    job.counts(&state(), 0).await;

    // The sink and its Secret go first.
    job.apply(&job.manifests()).unwrap();
    job.rows(20).await;
    job.condition("kinv/all", "Ready", "Exported").await;
    job.kubectl(&["-n", &namespace, "delete", "secret/pg", "kdb/pg"]);
    job.condition("kinv/all", "Degraded", "SinkNotFound").await;
    job.rows(20).await;
    job.kubectl(&["-n", &namespace, "delete", "kinv/all", "--timeout=60s"]);
    job.rows(0).await;

    // A server that is away keeps the deletion waiting, and says so, until it is back.
    job.apply(&job.manifests()).unwrap();
    job.rows(20).await;
    job.condition("kinv/all", "Ready", "Exported").await;
    job.ground.postgres().stop().await.unwrap();
    job.kubectl(&["-n", &namespace, "delete", "kinv/all", "--wait=false"]);
    let message = job.condition("kinv/all", "Degraded", "CleanupTerminal").await;
    assert!(message.starts_with("failed to clean up postgres://127.0.0.1:"), "{message}");
    job.ground.postgres().restart().await.unwrap();
    job.gone("kinv/all").await;
    let job = Job { database: job.ground.connect().await, ground: job.ground };
    job.rows(0).await;

    // The whole namespace.
    job.apply(&job.manifests()).unwrap();
    job.rows(20).await;
    job.condition("kinv/all", "Ready", "Exported").await;
    job.kubectl(&["delete", "namespace", &namespace, "--timeout=120s"]);
    job.rows(0).await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn an_inventory_deleted_while_nobody_looked_leaves_nothing() {
    let Some((job, _, operator)) = Job::filled("sweep", 20).await else { return };
    let namespace = job.namespace().to_owned();
    let other = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\nmetadata: {{name: other, namespace: {namespace}}}\n\
         spec: {{exportMinInterval: 0s, databaseSinkRefs: [{{name: pg}}]}}\n"
    );
    job.apply(&other).unwrap();
    job.rows(40).await;
    job.condition("kinv/other", "Ready", "Exported").await;
    operator.terminate().await.unwrap();

    // With its finalizer, the deletion waits for the operator.
    job.kubectl(&["-n", &namespace, "delete", "kinv/all", "--wait=false"]);
    let operator = job.operator().await;
    job.gone("kinv/all").await;
    job.rows(20).await;

    // Without, an audit of the same table finds what is left; it may be asked for while nobody looks.
    job.apply(&job.manifests()).unwrap();
    job.rows(40).await;
    operator.terminate().await.unwrap();
    job.patch("kinv/all", r#"{"metadata":{"finalizers":null}}"#);
    job.kubectl(&["-n", &namespace, "delete", "kinv/all"]);
    job.annotate("kinv/other", "kollect.dev/audit-now=1");
    let operator = job.operator().await;
    job.rows(20).await;
    job.counts(&state(), 1).await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn an_audit_mends_what_was_changed_by_hand_and_touches_nothing_else() {
    let Some((job, _, operator)) = Job::filled("drift", 50).await else { return };
    job.condition("kinv/all", "Ready", "Exported").await;
    let mut asked = 0;
    let one = format!("(SELECT source_uid FROM {TABLE} ORDER BY source_uid LIMIT 1)");
    for (change, mended) in [
        (format!("UPDATE {TABLE} SET payload = payload || '{{\"name\": \"forged\"}}' WHERE source_uid = {one}"), 1),
        (format!("DELETE FROM {TABLE} WHERE source_uid = {one}"), 1),
        (
            format!(
                "INSERT INTO {TABLE} SELECT inventory_namespace, inventory_name, target_name, 'stranger', cluster, \
                 resource_namespace, payload, exported_at, fingerprint FROM {TABLE} LIMIT 1"
            ),
            1,
        ),
        (format!("UPDATE {TABLE} SET resource_namespace = 'forged' WHERE source_uid = {one}"), 1),
        (format!("TRUNCATE {TABLE}"), 50),
    ] {
        job.sql(&change).await;
        let before = job.writes().await;
        let counted = repairs(&operator).await.unwrap();
        asked += 1;
        job.annotate("kinv/all", &format!("kollect.dev/audit-now={asked}"));
        wait_for(&format!("repair of: {change}"), PATIENCE, || async {
            let now = repairs(&operator).await?;
            ensure!((now - counted - f64::from(mended)).abs() < 0.5, "{} repaired", now - counted);
            Ok(())
        })
        .await
        .unwrap();
        job.rows(50).await;
        job.equals_the_cluster().await;
        assert_eq!(job.writes().await.since(before).total(), i64::from(mended), "{change}");
    }
    // An audit of what is as it should be writes nothing, and the same value asks for nothing.
    let before = job.writes().await;
    job.annotate("kinv/all", "kollect.dev/audit-now=again");
    job.annotate("kinv/all", "kollect.dev/audit-now=again");
    job.sql(&format!("SELECT pg_sleep(2) FROM {TABLE} LIMIT 1")).await;
    assert_eq!(job.writes().await.since(before).total(), 0);
    operator.terminate().await.unwrap();
}

async fn repairs(operator: &Operator) -> Result<f64> {
    Ok(operator.metrics().await?.sum("kollect_sink_repairs_total", &[("sink_type", "postgres")]))
}

#[tokio::test]
async fn what_waits_is_exported_when_somebody_asks_for_it() {
    let Some((job, load, operator)) = Job::filled("export-now", 10).await else { return };
    job.patch("kinv/all", r#"{"spec":{"exportMinInterval":"1h"}}"#);
    job.condition("kinv/all", "Ready", "Exported").await;
    let before = job.writes().await;
    load.delete(&job.ground.client, vec![0, 1]).await.unwrap();
    job.condition("kinv/all", "Synced", "Debounced").await;
    assert_eq!(job.writes().await.since(before).total(), 0);
    job.annotate("kinv/all", "kollect.dev/export-now=please");
    job.rows(8).await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn an_inventory_with_the_key_of_a_cluster_inventory_steps_back() {
    let Some((job, _, operator)) = Job::filled("conflict", 5).await else { return };
    job.kubectl(&["create", "namespace", "cluster"]);
    let manifests = job.manifests().replace(&format!("namespace: {}", job.namespace()), "namespace: cluster");
    job.apply("apiVersion: kollect.dev/v1alpha1\nkind: KollectClusterInventory\nmetadata: {name: all}\nspec: {namespaceSelector: {matchLabels: {team: a}}}\n")
        .unwrap();
    job.apply(&manifests).unwrap();
    let refused = wait_for("NameConflict", PATIENCE, || async {
        let text = job.kubectl(&["-n", "cluster", "get", "kinv/all", "-o", "jsonpath={.status.conditions}"]);
        ensure!(text.contains("NameConflict"), "{text}");
        Ok(())
    });
    refused.await.unwrap();
    job.rows(5).await;
    job.kubectl(&["delete", "kollectclusterinventory/all"]);
    job.rows(10).await;
    operator.terminate().await.unwrap();
}
