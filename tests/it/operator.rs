//! The operator as a process on a real API server and a real PostgreSQL: the main job, what happens to it when the
//! parts or the process fail, and what users read when they wrote something wrong.

use std::time::Duration;

use anyhow::{Result, ensure};
use kollect::lab::Operator;
use kollect::lab::load::{Kind, Load};
use kollect::lab::operator::wait_for_metric;
use kollect::lab::postgres::{Database, RowWrites};
use kollect::lab::wait::wait_for;
use serde_json::Value;

use crate::support::Ground;

/// A condition or a row count has this long to come true: longer than the longest pause between two tries.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
pub(crate) const TABLE: &str = "inventory_items";

/// A namespace with a profile, a target over the load namespaces, a Postgres sink and an inventory.
pub(crate) struct Job {
    pub(crate) ground: Ground,
    pub(crate) database: Database,
}

impl Job {
    pub(crate) async fn new(name: &str) -> Option<Self> {
        let ground = Ground::own(name).await?;
        let database = ground.connect().await;
        let job = Self { ground, database };
        job.apply(&job.manifests()).expect("the manifests are accepted");
        Some(job)
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.ground.namespace
    }

    pub(crate) fn manifests(&self) -> String {
        let (namespace, dsn) = (self.namespace(), self.ground.dsn());
        format!(
            r#"
apiVersion: v1
kind: Secret
metadata: {{name: pg, namespace: {namespace}}}
stringData: {{dsn: "{dsn}"}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectProfile
metadata: {{name: deployments, namespace: {namespace}}}
spec:
  targetGVK: {{group: apps, version: v1, kind: Deployment}}
  attributes:
  - {{name: image, path: "$.spec.template.spec.containers[0].image"}}
  - {{name: replicas, path: "$.spec.replicas"}}
  - {{name: fullName, path: "cel:object.metadata.namespace + '/' + object.metadata.name"}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectTarget
metadata: {{name: deployments, namespace: {namespace}}}
spec: {{profileRef: deployments, excludedNamespaces: [kube-system]}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectDatabaseSink
metadata: {{name: pg, namespace: {namespace}}}
spec: {{type: postgres, cluster: test, postgres: {{databaseRef: {{name: pg}}, table: {TABLE}}}}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectInventory
metadata: {{name: all, namespace: {namespace}}}
spec: {{exportMinInterval: 0s, databaseSinkRefs: [{{name: pg}}]}}
"#
        )
    }

    pub(crate) fn apply(&self, manifests: &str) -> Result<String> {
        self.ground.api().apply(manifests)
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.ground.api().kubectl(args).expect("kubectl fails")
    }

    pub(crate) async fn operator(&self) -> Operator {
        self.ground.start_operator(&self.ground.operator_options()).await
    }

    pub(crate) fn load(namespaces: usize, each: usize) -> Load {
        Load { namespaces, per_namespace: each, kind: Kind::Deployment, ..Load::default() }
    }

    pub(crate) async fn rows(&self, want: i64) {
        let what = format!("{want} rows");
        let counted = wait_for(&what, PATIENCE, || async {
            let exists: bool = self.database.query_one("SELECT to_regclass($1) IS NOT NULL", &[&TABLE]).await?.get(0);
            ensure!(exists, "there is no table yet");
            let have = self.ground.postgres().count(&self.database, TABLE).await?;
            ensure!(have == want, "the table has {have} rows");
            Ok(())
        });
        counted.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    pub(crate) async fn writes(&self) -> RowWrites {
        self.ground.postgres().row_writes(&self.database, TABLE).await.expect("no statistics")
    }

    /// Waits until an object has a condition with that reason, and returns its message.
    pub(crate) async fn condition(&self, object: &str, kind: &str, reason: &str) -> String {
        let what = format!("{kind} {reason} on {object}");
        let found = wait_for(&what, PATIENCE, || async {
            let text = self.ground.api().kubectl(&["-n", self.namespace(), "get", object, "-o", "json"])?;
            let json: Value = serde_json::from_str(&text)?;
            let conditions = json["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let there = conditions.iter().find(|condition| condition["type"] == kind && condition["reason"] == reason);
            there
                .map(|condition| condition["message"].as_str().unwrap_or_default().to_owned())
                .ok_or_else(|| anyhow::anyhow!("its conditions are {conditions:?}"))
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) fn describe(&self) -> String {
        let all = ["-n", self.namespace(), "get", "ktgt,kinv,kdb,ksnap,kevt", "-o", "yaml"];
        self.ground.api().kubectl(&all).unwrap_or_default()
    }

    /// Returns UID, name and image of every Deployment, ascending.
    pub(crate) fn objects(&self) -> Result<Vec<String>> {
        let columns = "-o=custom-columns=U:.metadata.uid,N:.metadata.name,I:.spec.template.spec.containers[0].image";
        let list = self.ground.api().kubectl(&["get", "deployments", "-A", "--no-headers", columns])?;
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines: Vec<String> = list.lines().map(words).collect();
        lines.sort();
        Ok(lines)
    }

    /// Waits until an operator has brought everything to all of these sinks of the inventory `all`, by what it says itself.
    pub(crate) async fn synced(&self, operator: &Operator, sinks: &[&str]) {
        let namespace = self.namespace();
        let synced = wait_for_metric(operator, PATIENCE, "all bindings are synced", |metrics| {
            sinks.iter().all(|sink| {
                let labels = format!(r#"inventory_namespace="{namespace}",inventory_name="all",sink="{sink}""#);
                metrics.get(&format!("kollect_binding_synced{{{labels}}}")) == Some(1.0)
            })
        });
        synced.await.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", self.describe(), operator.log_tail(20)));
    }

    /// Compares the table with the cluster, by name and image.
    pub(crate) async fn equals_the_cluster(&self) {
        self.equals_the_cluster_times(1).await;
    }

    /// The same where each object has so many rows, one of each target that selects it.
    pub(crate) async fn equals_the_cluster_times(&self, times: usize) {
        let matches = wait_for("the table equals the cluster", PATIENCE, || async {
            let objects = self.objects()?;
            let mut want: Vec<&String> = objects.iter().flat_map(|line| std::iter::repeat_n(line, times)).collect();
            let query = format!(
                "SELECT source_uid || ' ' || (payload->>'name') || ' ' || (payload->'attributes'->>'image') FROM {TABLE}"
            );
            let mut have: Vec<String> = self.database.query(&query, &[]).await?.iter().map(|row| row.get(0)).collect();
            want.sort();
            have.sort();
            ensure!(want.into_iter().eq(&have), "{} objects, {} rows", objects.len() * times, have.len());
            Ok(())
        });
        matches.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }
}

#[tokio::test]
async fn five_hundred_objects_become_rows_and_only_changes_are_written() {
    let Some(job) = Job::new("main-job").await else { return };
    let load = Job::load(5, 100);
    load.create(&job.ground.client).await.unwrap();
    let operator = job.operator().await;
    job.rows(500).await;
    job.condition("ktgt/deployments", "Ready", "Collecting").await;
    job.condition("kinv/all", "Ready", "Exported").await;
    let filled = job.writes().await;
    assert_eq!((filled.inserted, filled.updated, filled.deleted), (500, 0, 0));
    let metrics = operator.metrics().await.unwrap();
    assert_eq!(metrics.get("kollect_collect_items_total"), Some(500.0));
    assert_eq!(
        metrics.get(r#"kollect_collected_objects{profile="deployments",gvk="apps/v1/Deployment"}"#),
        Some(500.0)
    );
    let of = |family: &str, labels: &str| metrics.get(&format!("{family}{{{labels}}}"));
    let namespace = job.namespace();
    let target = format!(r#"target_namespace="{namespace}",target_name="deployments""#);
    assert_eq!(of("kollect_target_ready", &target), Some(1.0));
    let binding = format!(r#"inventory_namespace="{namespace}",inventory_name="all",sink="database/pg""#);
    assert_eq!(of("kollect_binding_synced", &binding), Some(1.0));

    job.kubectl(&["-n", &load.namespace(0), "set", "image", "deployment", "--all", "*=changed:1"]);
    load.delete(&job.ground.client, vec![499]).await.unwrap();
    job.rows(499).await;
    job.equals_the_cluster().await;
    let changed = job.writes().await.since(filled);
    assert_eq!((changed.inserted, changed.updated, changed.deleted), (0, 100, 1));

    // The end, the start of another process, and a kill: nothing changed, nothing is written.
    assert!(operator.terminate().await.unwrap().success());
    let before = job.writes().await;
    let operator = job.operator().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    wait_for("the second life has compared", PATIENCE, || async {
        let epoch: i64 = job.database.query_one(&format!("SELECT epoch FROM {TABLE}_state"), &[]).await?.get(0);
        ensure!(epoch >= 2, "epoch {epoch}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(job.writes().await.since(before).total(), 0);

    // Changes made while nobody looked, the last object of a namespace included.
    operator.kill9().await.unwrap();
    load.delete(&job.ground.client, (400..499).collect()).await.unwrap();
    job.kubectl(&["-n", &load.namespace(1), "set", "image", "deployment", "--all", "*=while-down:1"]);
    let operator = job.operator().await;
    job.rows(400).await;
    job.equals_the_cluster().await;
    let changed = format!("SELECT count(*) FROM {TABLE} WHERE payload->'attributes'->>'image' = 'while-down:1'");
    let changed: i64 = job.database.query_one(&changed, &[]).await.unwrap().get(0);
    let caught_up = job.writes().await.since(before);
    assert_eq!((caught_up.inserted, caught_up.updated, caught_up.deleted), (0, changed, 99));

    // An inventory whose last object is deleted ends with 0 rows.
    job.kubectl(&["delete", "deployments", "--all", "--all-namespaces", "--wait=false"]);
    job.rows(0).await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn rows_arrive_after_postgres_was_away_and_an_empty_store_empties_no_table() {
    let Some(job) = Job::new("outage").await else { return };
    let load = Job::load(2, 50);
    load.create(&job.ground.client).await.unwrap();
    let operator = job.operator().await;
    job.rows(100).await;

    job.ground.postgres().stop().await.unwrap();
    let stopped = tokio::time::Instant::now();
    load.delete(&job.ground.client, vec![0, 1, 2]).await.unwrap();
    let message = job.condition("kinv/all", "Degraded", "Progressing").await;
    assert!(message.contains("database/pg: failed to"), "{message}");
    tokio::time::sleep_until(stopped + Duration::from_mins(1)).await;
    job.ground.postgres().restart().await.unwrap();
    let job = Job { database: job.ground.connect().await, ground: job.ground };
    job.rows(97).await;
    job.condition("kinv/all", "Ready", "Exported").await;
    operator.terminate().await.unwrap();

    // Without the right to list, the operator knows nothing, and the rows stay.
    job.kubectl(&["delete", "clusterrolebinding", "--selector=app.kubernetes.io/name=kollect", "--ignore-not-found"]);
    let before = job.writes().await;
    let mut operator = Operator::spawn(&job.ground.operator_options(), job.ground.lab().guard()).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(operator.exited().unwrap().is_none(), "{}", operator.log_tail(20));
    job.rows(97).await;
    assert_eq!(job.writes().await.since(before).total(), 0);
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_field_and_costs_nobody_else() {
    let Some(job) = Job::new("wrong").await else { return };
    let load = Job::load(1, 10);
    load.create(&job.ground.client).await.unwrap();
    let operator = job.operator().await;
    job.rows(10).await;
    let namespace = job.namespace().to_owned();
    let profile = |name: &str, gvk: &str, attributes: &str| {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{targetGVK: {gvk}, attributes: [{attributes}]}}\n---\n\
             apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{profileRef: {name}}}\n---\n"
        )
    };
    let inventory = |name: &str, sink: &str| {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectDatabaseSink\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {sink}\n---\n\
             apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{databaseSinkRefs: [{{name: {name}}}]}}\n---\n"
        )
    };
    let secret = |name: &str, dsn: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData: {{dsn: \"{dsn}\"}}\n---\n"
        )
    };
    let dsn = job.ground.dsn();
    let deployment = "{group: apps, version: v1, kind: Deployment}";
    let mut manifests = String::new();
    manifests += &profile("unparsable", deployment, r#"{name: bad, path: "{.metadata.name"}"#);
    manifests += &profile("unknown-kind", "{group: apps, version: v1, kind: Deploymnet}", r#"{name: a, path: "$.a"}"#);
    manifests += &profile("secret-content", "{version: v1, kind: Secret}", r#"{name: a, path: "{.data.dsn}"}"#);
    let orphan = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: no-profile, namespace: {namespace}}}\n\
         spec: {{profileRef: nobody}}\n---\n"
    );
    manifests += &orphan;
    manifests += &inventory("no-secret", "{type: postgres, postgres: {databaseRef: {name: nobody}, table: t}}");
    manifests += &secret("wrong-password", &dsn.replacen("postgres://kollect:", "postgres://kollect:x", 1));
    manifests +=
        &inventory("wrong-password", "{type: postgres, postgres: {databaseRef: {name: wrong-password}, table: t}}");
    manifests += &secret("unreachable", "postgres://kollect:x@127.0.0.1:1/kollect?sslmode=disable");
    manifests += &inventory("unreachable", "{type: postgres, postgres: {databaseRef: {name: unreachable}, table: t}}");
    manifests += &secret("private", "postgres://kollect:x@10.0.0.1:5432/kollect?sslmode=disable");
    manifests += &inventory("private", "{type: postgres, postgres: {databaseRef: {name: private}, table: t}}");
    let admin = job.ground.postgres().connect_admin(&job.ground.database).await.unwrap();
    admin.batch_execute("CREATE ROLE reader LOGIN PASSWORD 'reading'").await.unwrap();
    let reader = format!("postgres://reader:reading@{}", dsn.split('@').next_back().unwrap_or_default());
    manifests += &secret("no-rights", &reader);
    let rights = format!("{{type: postgres, postgres: {{databaseRef: {{name: no-rights}}, table: {TABLE}}}}}");
    manifests += &inventory("no-rights", &rights);
    manifests += &inventory(
        "existing",
        "{type: postgres, provisioning: {mode: existing}, postgres: {databaseRef: {name: pg}, table: nobodys}}",
    );
    manifests +=
        &inventory("not-served", "{type: mongodb, mongodb: {databaseRef: {name: pg}, database: a, collection: b}}");
    let two = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\nmetadata: {{name: two, namespace: {namespace}}}\n\
         spec: {{databaseSinkRefs: [{{name: pg}}, {{name: nobody}}]}}\n"
    );
    manifests += &two;
    job.apply(&manifests).unwrap();

    let cases = [
        ("ktgt/unparsable", "ProfileInvalid", "spec.attributes[0].path"),
        ("ktgt/unknown-kind", "KindNotFound", "spec.targetGVK"),
        ("ktgt/secret-content", "ProfileInvalid", "kollect.dev/allow-secret-extraction"),
        ("ktgt/no-profile", "ProfileNotFound", "spec.profileRef"),
        ("kinv/no-secret", "SecretResolveFailed", "spec.postgres.databaseRef"),
        ("kinv/wrong-password", "ExportTerminal", "password authentication failed"),
        ("kinv/unreachable", "Progressing", "127.0.0.1"),
        ("kinv/private", "ExportTerminal", "--allow-private-sinks"),
        ("kinv/no-rights", "ExportTerminal", "GRANT "),
        ("kinv/existing", "ExportTerminal", "nobodys"),
        ("kinv/not-served", "NotServed", "spec.type"),
        ("kdb/not-served", "NotServed", "not in this build"),
    ];
    for (object, reason, text) in cases {
        let message = job.condition(object, "Degraded", reason).await;
        assert!(message.contains(text), "{object}: {message}");
        assert!(!message.contains(dsn.split('@').next().unwrap_or_default()), "a credential in {message}");
    }
    // One of two sinks is missing: the other has the rows all the same.
    let message = job.condition("kinv/two", "Synced", "PartiallySynced").await;
    assert!(message.contains("spec.databaseSinkRefs[1]: there is no KollectDatabaseSink \"nobody\""), "{message}");
    job.rows(20).await;
    job.kubectl(&["-n", &namespace, "delete", "kinv", "two"]);

    // Put right, each of them goes on by itself.
    job.apply(&secret("wrong-password", &dsn)).unwrap();
    job.condition("kinv/wrong-password", "Ready", "Exported").await;
    job.apply(&secret("nobody", &dsn)).unwrap();
    job.condition("kinv/no-secret", "Ready", "Exported").await;
    job.apply(&profile("unparsable", deployment, r#"{name: good, path: "{.metadata.name}"}"#)).unwrap();
    job.condition("ktgt/unparsable", "Ready", "Collecting").await;
    assert!(!operator.log().unwrap().contains(dsn.split('@').next().unwrap_or_default()), "a credential in the log");
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_large_object_a_nul_character_and_a_failing_attribute_cost_their_own_row_at_most() {
    let Some(job) = Job::new("objects").await else { return };
    let namespace = job.namespace().to_owned();
    let manifests = format!(
        r#"
apiVersion: kollect.dev/v1alpha1
kind: KollectProfile
metadata: {{name: maps, namespace: {namespace}}}
spec:
  targetGVK: {{version: v1, kind: ConfigMap}}
  attributes:
  - {{name: text, path: "$.data.text"}}
  - {{name: number, path: "cel:int(object.data.number)"}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectTarget
metadata: {{name: maps, namespace: {namespace}}}
spec: {{profileRef: maps, includedNamespaces: [{namespace}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: nul, namespace: {namespace}}}
data: {{text: "a\0b", number: "1"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: broken, namespace: {namespace}}}
data: {{text: "x", number: "none"}}
"#
    );
    job.apply(&manifests).unwrap();
    let container = serde_json::json!({
        "name": "large", "image": "large:1", "env": [{"name": "TEXT", "value": "x".repeat(1_400_000)}],
    });
    let object = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "large", "namespace": namespace},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "large"}},
            "template": {"metadata": {"labels": {"app": "large"}}, "spec": {"containers": [container]}},
        },
    });
    job.apply(&object.to_string()).unwrap();
    let operator = job.operator().await;
    let message = job.condition("ktgt/maps", "Degraded", "ExtractionFailed").await;
    assert!(message.starts_with("1 resource(s) failed attribute extraction: attribute \"number\""), "{message}");
    job.rows(2).await;
    let text: String = job
        .database
        .query_one(&format!("SELECT payload->'attributes'->>'text' FROM {TABLE} WHERE payload->>'name' = 'nul'"), &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(text, "a\u{fffd}b");
    job.kubectl(&["-n", &namespace, "patch", "configmap", "broken", "-p", r#"{"data":{"number":"3"}}"#]);
    job.rows(3).await;
    let message = job.condition("ktgt/maps", "Ready", "Collecting").await;
    assert!(message.contains("U+0000"), "{message}");
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn filters_profiles_and_namespaces_are_re_evaluated_when_they_change() {
    let Some(job) = Job::new("filters").await else { return };
    let namespace = job.namespace().to_owned();
    let load = Job::load(4, 10);
    load.create(&job.ground.client).await.unwrap();
    for index in 0..2 {
        job.kubectl(&["label", "namespace", &load.namespace(index), "team=a"]);
    }
    let target = |spec: &str| {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\n\
             metadata: {{name: deployments, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let first = load.object(0).1;
    job.apply(&target("{profileRef: deployments, namespaceSelector: {matchLabels: {team: a}}}")).unwrap();
    let operator = job.operator().await;
    job.rows(20).await;
    // A namespace gains the label, another loses it.
    job.kubectl(&["label", "namespace", &load.namespace(2), "team=a"]);
    job.rows(30).await;
    job.kubectl(&["label", "namespace", &load.namespace(0), "team-"]);
    job.rows(20).await;
    // A new namespace whose objects come with it.
    job.kubectl(&["create", "namespace", "late"]);
    let image = ["-n", "late", "create", "deployment", "late", "--image=late:1", "--replicas=0"];
    job.kubectl(&image);
    job.kubectl(&["label", "namespace", "late", "team=a"]);
    job.rows(21).await;
    // Names, labels and the watch label.
    job.apply(&target(&format!("{{profileRef: deployments, names: [{first}, late]}}"))).unwrap();
    job.rows(5).await;
    job.apply(&target("{profileRef: deployments, labelSelector: {matchLabels: {app: late}}}")).unwrap();
    job.rows(1).await;
    job.kubectl(&["-n", "late", "label", "deployment", "late", "kollect.dev/watch=disabled"]);
    job.rows(0).await;
    job.kubectl(&["-n", "late", "label", "deployment", "late", "kollect.dev/watch-"]);
    job.rows(1).await;
    // Another attribute: the row is made anew.
    let profile = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: deployments, namespace: {namespace}}}\n\
         spec: {{targetGVK: {{group: apps, version: v1, kind: Deployment}}, attributes: [{{name: other, path: \"$.metadata.name\"}}]}}\n"
    );
    job.apply(&profile).unwrap();
    wait_for("the new attribute", PATIENCE, || async {
        let query = format!("SELECT count(*) FROM {TABLE} WHERE payload->'attributes' = '{{\"other\": \"late\"}}'");
        let count: i64 = job.database.query_one(&query, &[]).await?.get(0);
        ensure!(count == 1, "{count} rows have it");
        Ok(())
    })
    .await
    .unwrap();
    // Suspended, a target loses its rows; an inventory keeps them.
    job.apply(&target("{profileRef: deployments, suspend: true}")).unwrap();
    job.condition("ktgt/deployments", "Degraded", "Suspended").await;
    job.rows(0).await;
    job.apply(&target("{profileRef: deployments, includedNamespaces: [late]}")).unwrap();
    job.rows(1).await;
    job.kubectl(&["-n", &namespace, "patch", "kinv", "all", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    job.condition("kinv/all", "Degraded", "Suspended").await;
    job.kubectl(&["-n", "late", "delete", "deployment", "late"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    job.rows(1).await;
    // A namespace that goes takes its rows along.
    job.kubectl(&["-n", &namespace, "patch", "kinv", "all", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    job.rows(0).await;
    // An object that does not decode has a condition that names the field.
    let loose = r#"[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/suspend",
        "value": {"x-kubernetes-preserve-unknown-fields": true}}]"#;
    job.kubectl(&["patch", "crd", "kollecttargets.kollect.dev", "--type=json", "-p", loose]);
    wait_for("an object of the loose schema", PATIENCE, || async {
        job.apply(&target("{profileRef: deployments, suspend: perhaps}"))
    })
    .await
    .unwrap();
    let message = job.condition("ktgt/deployments", "Degraded", "InvalidSpec").await;
    assert!(message.starts_with("spec.suspend: invalid type: string \"perhaps\", expected a boolean"), "{message}");
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn an_api_server_that_was_away_is_followed_again_and_a_granted_right_is_used() {
    let Some(job) = Job::new("api-outage").await else { return };
    let load = Job::load(3, 30);
    load.create(&job.ground.client).await.unwrap();
    let operator = job.operator().await;
    job.rows(90).await;
    let before = job.writes().await;
    job.ground.api().stop_api_server().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    job.ground.api().start_api_server().await.unwrap();
    load.delete(&job.ground.client, (0..10).collect()).await.unwrap();
    job.rows(80).await;
    job.equals_the_cluster().await;
    let since = job.writes().await.since(before);
    assert_eq!((since.inserted, since.updated, since.deleted), (0, 0, 10));

    // A kind that may not be listed is named; once it may, it is collected without a restart.
    let namespace = job.namespace().to_owned();
    job.apply(&format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: accounts, namespace: {namespace}}}\n\
         spec: {{targetGVK: {{version: v1, kind: ServiceAccount}}, attributes: [{{name: a, path: \"$.metadata.name\"}}]}}\n---\n\
         apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: accounts, namespace: {namespace}}}\n\
         spec: {{profileRef: accounts, includedNamespaces: [{namespace}]}}\n"
    ))
    .unwrap();
    let message = job.condition("ktgt/accounts", "Synced", "ScopeForbidden").await;
    assert!(message.contains(&format!("may not list in {namespace}")), "{message}");
    job.kubectl(&["create", "clusterrole", "accounts", "--verb=list,watch", "--resource=serviceaccounts"]);
    let account = "--serviceaccount=kollect-system:kollect-controller-manager";
    job.kubectl(&["create", "clusterrolebinding", "accounts", "--clusterrole=accounts", account]);
    job.condition("ktgt/accounts", "Synced", "Collecting").await;
    job.rows(81).await;
    operator.terminate().await.unwrap();
}
