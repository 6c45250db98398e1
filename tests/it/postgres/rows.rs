//! What is stored of rows, and what a delivery costs.

use kollect::export::{Base, Difference, Selection, compare};
use kollect::model::{Name, Namespace, Part, Row};
use kollect::sinks::contract::{self, delta, rows};

use super::{Bench, Contract, U1, U2, U3, audit, fixture, gvk, one, scope, stored};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_passes_the_contract() {
    let Some(bench) = Bench::new("contract").await else { return };
    contract::run(&Contract(&bench)).await.unwrap();
}

#[tokio::test]
async fn rows_are_those_of_the_specification() {
    let Some(bench) = Bench::new("e22").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
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
        sink.recover(&scope, &Selection::All, &[]).await.unwrap();
        sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    }
    let west = scope("west", "team-a", "apps");
    let held = sink.recover(&west, &Selection::All, &[]).await.unwrap();
    let Difference { upserts, deletes, .. } =
        compare(Vec::new(), held, |_, _| true, |row| sink.fingerprint(&west, row));
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
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    let role = one("roles", gvk("rbac.authorization.k8s.io", "ClusterRole"), U1, "", "cr", "{}");
    sink.deliver(&delta(&scope, Base::Empty, vec![role], Vec::new(), 1, 1)).await.unwrap();
    let sql = "SELECT inventory_namespace, inventory_name, resource_namespace FROM items";
    let row = bench.connect().await.query_one(sql, &[]).await.unwrap();
    assert_eq!([row.get::<_, &str>(0), row.get(1), row.get(2)], ["cluster", "fleet", "cluster"]);

    let part = Part { target: Name::new("roles"), namespace: Namespace::new("") };
    let held = sink.recover(&scope, &Selection::Parts(vec![part]), &[]).await.unwrap();
    assert_eq!(held.len(), 1);
}

#[tokio::test]
async fn large_integers_stay_exact() {
    let Some(bench) = Bench::new("e26").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
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
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
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
    again.recover(&scope, &Selection::All, &[]).await.unwrap();
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
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    let receipt = sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 2)).await.unwrap();
    assert_eq!(receipt.written, 0);
}

#[tokio::test]
async fn row_that_is_equal_is_not_even_locked() {
    let Some(bench) = Bench::new("unlocked").await else { return };
    let (sink, scope) = (bench.sink(), scope("west", "team-a", "apps"));
    sink.recover(&scope, &Selection::All, &[]).await.unwrap();
    sink.deliver(&delta(&scope, Base::Empty, fixture(), Vec::new(), 3, 1)).await.unwrap();
    let somebody = bench.connect().await;
    somebody.batch_execute("BEGIN; SELECT FROM items FOR UPDATE").await.unwrap();
    let receipt = sink.deliver(&delta(&scope, Base::Filled, fixture(), Vec::new(), 3, 2)).await.unwrap();
    assert_eq!(receipt.written, 0);
}
