//! Cluster targets and cluster inventories on a real API server: the namespaces of many teams, the inventories of each, and
//! one of all.

use anyhow::{Result, ensure};
use kollect::lab::wait::wait_for;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::operator::{Job, PATIENCE, TABLE};
use crate::support::Ground;

const TEAMS: [&str; 3] = ["team-a", "team-b", "team-c"];
/// The table of the cluster inventory.
const FLEET: &str = "fleet";

/// Two teams with the label, one without, each with two Deployments, an inventory and a sink; the profile is elsewhere.
struct Teams {
    job: Job,
}

impl Teams {
    async fn new(name: &str) -> Option<Self> {
        let ground = Ground::own(name).await?;
        let database = ground.connect().await;
        let teams = Self { job: Job { ground, database } };
        for team in TEAMS {
            teams.create(team).unwrap();
        }
        teams.label("team-c", "tier-");
        teams.job.apply(&teams.profile()).unwrap();
        teams.job.apply(&teams.target("deployments", "deployments")).unwrap();
        Some(teams)
    }

    /// Creates a namespace, and what is in it.
    fn create(&self, team: &str) -> Result<String> {
        let dsn = self.job.ground.dsn();
        let deployments = ["web", "api"].map(|name| deployment(team, name)).join("---\n");
        self.job.apply(&format!(
            r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {team}, labels: {{tier: x}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: pg, namespace: {team}}}
stringData: {{dsn: "{dsn}"}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectDatabaseSink
metadata: {{name: pg, namespace: {team}}}
spec: {{type: postgres, cluster: test, postgres: {{databaseRef: {{name: pg}}, table: {TABLE}}}}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectInventory
metadata: {{name: all, namespace: {team}}}
spec: {{exportMinInterval: 0s, databaseSinkRefs: [{{name: pg}}]}}
---
{deployments}"#
        ))
    }

    fn profile(&self) -> String {
        profile(self.job.namespace(), "deployments", "everywhere")
    }

    fn target(&self, name: &str, profile: &str) -> String {
        format!(
            r"
apiVersion: kollect.dev/v1alpha1
kind: KollectClusterTarget
metadata: {{name: {name}}}
spec:
  profileRef: {{name: {profile}, namespace: {}}}
  namespaceSelector: {{matchLabels: {{tier: x}}}}
",
            self.job.namespace()
        )
    }

    /// Creates a cluster inventory with a sink beside the profile, and one in the namespace of a team.
    fn fleet(&self) -> Result<String> {
        let (home, dsn) = (self.job.namespace(), self.job.ground.dsn());
        self.job.apply(&format!(
            r#"
apiVersion: v1
kind: Secret
metadata: {{name: pg, namespace: {home}}}
stringData: {{dsn: "{dsn}"}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectDatabaseSink
metadata: {{name: warehouse, namespace: {home}}}
spec: {{type: postgres, cluster: test, postgres: {{databaseRef: {{name: pg}}, table: {FLEET}}}}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectClusterInventory
metadata: {{name: fleet}}
spec:
  namespaceSelector: {{matchLabels: {{tier: x}}}}
  sinkNamespace: {home}
  databaseSinkRefs: [{{name: warehouse}}, {{name: pg, namespace: team-a}}]
  exportMinInterval: 0s
"#
        ))
    }

    /// Waits until the table of the cluster inventory has these rows: how many of which namespace through which target.
    async fn fleet_has(&self, want: &[(&str, &str, i64)]) {
        let matches = wait_for(&format!("rows {want:?}"), PATIENCE, || async {
            let exists: bool =
                self.job.database.query_one("SELECT to_regclass($1) IS NOT NULL", &[&FLEET]).await?.get(0);
            ensure!(exists, "there is no table yet");
            let query = format!(
                "SELECT payload->>'targetNamespace', target_name, count(*) FROM {FLEET} \
                 WHERE inventory_namespace = 'cluster' AND inventory_name = 'fleet' GROUP BY 1, 2 ORDER BY 1, 2"
            );
            let rows = self.job.database.query(query.as_str(), &[]).await?;
            let have: Vec<(String, String, i64)> =
                rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
            let same = have.iter().map(|(namespace, target, count)| (namespace.as_str(), target.as_str(), *count));
            ensure!(same.eq(want.iter().copied()), "there are {have:?}");
            Ok(())
        })
        .await;
        matches.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    /// Returns the transaction that wrote the newest row of the cluster inventory.
    async fn newest(&self) -> i64 {
        let query = format!("SELECT coalesce(max(xmin::text::bigint), 0) FROM {FLEET}");
        self.job.database.query_one(query.as_str(), &[]).await.unwrap().get(0)
    }

    /// Counts the rows that were written after a transaction.
    async fn written_since(&self, newest: i64) -> i64 {
        let query = format!("SELECT count(*) FROM {FLEET} WHERE xmin::text::bigint > $1");
        self.job.database.query_one(query.as_str(), &[&newest]).await.unwrap().get(0)
    }

    /// Waits until the status of the cluster inventory has so many rows of so many targets from these namespaces.
    async fn fleet_says(&self, items: i64, targets: i64, shards: &[(&str, i64, i64)]) -> Value {
        let mut status = Value::Null;
        let said = wait_for(&format!("{items} items from {shards:?} in the status"), PATIENCE, || {
            status = self.job.status("kcinv/fleet");
            let shard = |shard: &Value| {
                let number = |field: &str| shard[field].as_i64().unwrap_or_default();
                let namespace = shard["namespace"].as_str().unwrap_or_default().to_owned();
                (namespace, number("itemCount"), number("targetCount"))
            };
            let listed: Vec<_> = status["namespaceShards"].as_array().into_iter().flatten().map(shard).collect();
            let want = shards.iter().map(|(name, items, targets)| ((*name).to_owned(), *items, *targets));
            let counted = (&status["itemCount"], &status["targetCount"], &status["namespaceShardCount"])
                == (&json!(items), &json!(targets), &json!(shards.len()));
            let result =
                if counted && listed.iter().cloned().eq(want) { Ok(()) } else { Err(anyhow::anyhow!("{status}")) };
            async move { result }
        })
        .await;
        said.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
        status
    }

    fn label(&self, namespace: &str, label: &str) {
        self.job.kubectl(&["label", "namespace", namespace, "--overwrite", label]);
    }

    /// Waits until the inventories of the teams have so many rows, as the table has them.
    async fn rows(&self, want: [i64; 3]) {
        let counted = wait_for(&format!("rows {want:?}"), PATIENCE, || async {
            let mut have = [0; 3];
            for (count, team) in have.iter_mut().zip(TEAMS) {
                let query = format!("SELECT count(*) FROM {TABLE} WHERE inventory_namespace = $1");
                *count = self.job.database.query_one(query.as_str(), &[&team]).await?.get(0);
            }
            ensure!(have == want, "there are {have:?}");
            Ok(())
        })
        .await;
        counted.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    /// Waits until so many rows of a team have that value of the attribute `by`.
    async fn made_by(&self, team: &str, by: &str, want: i64) {
        let of_team = format!("inventory_namespace = '{team}' AND target_name = 'deployments'");
        let made = format!("payload->>'targetNamespace' = '{team}' AND payload->'attributes'->>'by' = '{by}'");
        self.job.counts(&format!("SELECT count(*) FROM {TABLE} WHERE {of_team} AND {made}"), want).await;
    }

    /// Waits until the status has these namespaces, those that are asked for and those that are collected from.
    async fn namespaces(&self, matched: &[&str], effective: &[&str]) {
        let listed = wait_for(&format!("{matched:?} and {effective:?} in the status"), PATIENCE, || async {
            let status = self.job.status("kctgt/deployments");
            let have = (&status["matchedNamespaces"], &status["effectiveNamespaces"]);
            ensure!(have == (&json!(matched), &json!(effective)), "{have:?}");
            Ok(())
        })
        .await;
        listed.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    /// Waits until the message of a condition has a text.
    async fn says(&self, kind: &str, text: &str) {
        let said = wait_for(&format!("{text:?} in {kind}"), PATIENCE, || async {
            let status = self.job.status("kctgt/deployments");
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let there = conditions.iter().find(|condition| condition["type"] == kind);
            let message = there.and_then(|condition| condition["message"].as_str()).unwrap_or_default();
            ensure!(message.contains(text), "{conditions:?}");
            Ok(())
        })
        .await;
        said.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    fn describe(&self) -> String {
        self.job.ground.api().kubectl(&["get", "kctgt,ktgt,kinv,kcinv", "-A", "-o", "yaml"]).unwrap_or_default()
    }
}

fn deployment(namespace: &str, name: &str) -> String {
    format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: 0
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: main, image: 'registry.example/{name}:1'}}]}}
"
    )
}

fn profile(namespace: &str, name: &str, by: &str) -> String {
    format!(
        r#"
apiVersion: kollect.dev/v1alpha1
kind: KollectProfile
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  targetGVK: {{group: apps, version: v1, kind: Deployment}}
  attributes:
  - {{name: by, path: "cel:'{by}'"}}
  - {{name: image, path: "$.spec.template.spec.containers[0].image"}}
  - {{name: ready, path: "{{.status.conditions[?(@.type=='Available')].status}}", optional: true}}
"#
    )
}

/// What earlier releases put on cluster targets.
const LEFT: &str = r#"{"metadata":{"finalizers":["kollect.dev/cluster-target-cleanup"]}}"#;

/// Waits until no finalizer holds an object up.
async fn freed(job: &Job, object: &[&str]) {
    let freed = wait_for("an object without finalizers", PATIENCE, || async {
        let left = job.kubectl(&[object, &["-o", "jsonpath={.metadata.finalizers}"]].concat());
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
    freed.await.unwrap();
}

#[tokio::test]
async fn a_cluster_target_is_a_target_in_each_namespace_that_it_selects() {
    let Some(teams) = Teams::new("cluster-target").await else { return };
    let job = &teams.job;
    let operator = job.operator().await;
    teams.rows([2, 2, 0]).await;
    teams.made_by("team-a", "everywhere", 2).await;
    let resolved = format!("profileRef \"deployments\" in namespace {:?} resolved", job.namespace());
    teams.says("Ready", &format!("{resolved}; 2 namespace(s) matched; collecting 4 resource(s)")).await;
    teams.says("Ready", "; KollectProfile \"deployments\": spec.attributes[2].path: a comparison in a filter").await;
    job.condition("kctgt/deployments", "Synced", "Collecting").await;
    teams.namespaces(&["team-a", "team-b"], &["team-a", "team-b"]).await;

    // Objects and labels come and go.
    job.apply(&deployment("team-a", "worker")).unwrap();
    teams.label("team-c", "tier=x");
    teams.rows([3, 2, 2]).await;
    teams.label("team-b", "tier-");
    teams.rows([3, 0, 2]).await;
    teams.namespaces(&["team-a", "team-c"], &["team-a", "team-c"]).await;
    teams.label("team-b", "tier=x");
    teams.rows([3, 2, 2]).await;

    // A target of the same name wins in its namespace, for as long as it is there.
    job.apply(&profile("team-c", "own", "team")).unwrap();
    let own = "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\n\
               metadata: {name: deployments, namespace: team-c, finalizers: [kollect.dev/target-cleanup]}\n\
               spec: {profileRef: own, includedNamespaces: [team-c]}\n";
    job.apply(own).unwrap();
    teams.made_by("team-c", "team", 2).await;
    freed(job, &["-n", "team-c", "get", "ktgt/deployments"]).await;
    let message = job.condition("kctgt/deployments", "Degraded", "NameConflict").await;
    assert!(message.starts_with("there is a KollectTarget of this name in team-c: "), "{message}");
    teams.namespaces(&["team-a", "team-b", "team-c"], &["team-a", "team-b"]).await;
    teams.rows([3, 2, 2]).await;
    job.kubectl(&["-n", "team-c", "delete", "ktgt/deployments"]);
    teams.made_by("team-c", "everywhere", 2).await;
    job.condition("kctgt/deployments", "Ready", "Collecting").await;

    // A cluster scope takes namespaces away.
    let scope = "apiVersion: kollect.dev/v1alpha1\nkind: KollectClusterScope\nmetadata: {name: limits}\n\
                 spec: {deniedNamespaces: [team-a]}\n";
    job.apply(scope).unwrap();
    teams.rows([0, 2, 2]).await;
    teams.namespaces(&["team-a", "team-b", "team-c"], &["team-b", "team-c"]).await;
    job.kubectl(&["delete", "kollectclusterscope/limits"]);
    teams.rows([3, 2, 2]).await;

    // Rows stay while the profile is away; they do so for a process that has never seen it, too.
    job.kubectl(&["-n", job.namespace(), "delete", "kprof/deployments"]);
    job.condition("kctgt/deployments", "Degraded", "ProfileNotFound").await;
    let before = job.writes().await;
    operator.terminate().await.unwrap();
    job.kubectl(&["patch", "kctgt/deployments", "--type=merge", "-p", LEFT]);
    let operator = job.operator().await;
    freed(job, &["get", "kctgt/deployments"]).await;
    job.condition("kctgt/deployments", "Degraded", "ProfileNotFound").await;
    job.apply(&teams.profile()).unwrap();
    teams.says("Ready", "3 namespace(s) matched; collecting 7 resource(s)").await;
    assert_eq!(job.writes().await.since(before).total(), 0, "nothing was deleted, and nothing written again");

    // They go when their owner says so.
    job.kubectl(&["patch", "kctgt/deployments", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    teams.rows([0, 0, 0]).await;
    job.condition("kctgt/deployments", "Degraded", "Suspended").await;
    job.kubectl(&["patch", "kctgt/deployments", "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    teams.rows([3, 2, 2]).await;
    job.kubectl(&["patch", "kctgt/deployments", "--type=merge", "-p", LEFT]);
    job.kubectl(&["delete", "kctgt/deployments", "--timeout=60s"]);
    teams.rows([0, 0, 0]).await;
    operator.terminate().await.unwrap();
}

/// Returns the checksum of a roll-up with these namespaces.
fn checksum(status: &Value) -> String {
    let mut hasher = Sha256::new();
    for shard in status["namespaceShards"].as_array().into_iter().flatten() {
        let text = |field: &str| shard[field].as_str().unwrap_or_default().to_owned();
        hasher.update(format!("{}:{}\n", text("namespace"), text("checksum")));
    }
    hasher.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn a_cluster_inventory_has_the_rows_of_cluster_targets_under_its_own_name() {
    let Some(teams) = Teams::new("cluster-inventory").await else { return };
    let job = &teams.job;
    teams.fleet().unwrap();
    let operator = job.operator().await;
    teams.fleet_has(&[("team-a", "deployments", 2), ("team-b", "deployments", 2)]).await;
    teams.rows([2, 2, 0]).await;
    job.condition("kcinv/fleet", "Ready", "Exported").await;
    job.condition("kcinv/fleet", "ExportSucceeded", "Exported").await;
    let status = teams.fleet_says(4, 1, &[("team-a", 2, 1), ("team-b", 2, 1)]).await;
    let exports: Vec<_> = [0, 1].map(|index| &status["sinkExports"][index]).to_vec();
    assert_eq!((&exports[0]["namespace"], &exports[1]["namespace"]), (&json!(job.namespace()), &json!("team-a")));
    assert_eq!(exports[0]["lastChecksum"], json!(checksum(&status)), "{status}");
    let beside = format!("SELECT count(*) FROM {TABLE} WHERE inventory_namespace = 'cluster'");
    job.counts(&beside, 4).await;
    let of_binding = r#"inventory_namespace="cluster",inventory_name="fleet",sink="database/warehouse""#;
    let metrics = operator.metrics().await.unwrap();
    assert_eq!(metrics.get(&format!("kollect_binding_synced{{{of_binding}}}")), Some(1.0));

    // One change is one row, and what a team collects for itself is none of it.
    let filled = teams.newest().await;
    job.apply(&profile("team-a", "own", "team")).unwrap();
    let own = "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {name: own, namespace: team-a}\n\
               spec: {profileRef: own, includedNamespaces: [team-a]}\n";
    job.apply(own).unwrap();
    job.kubectl(&["-n", "team-a", "set", "image", "deployment/web", "*=changed:1"]);
    job.counts(&format!("SELECT count(*) FROM {FLEET} WHERE payload->'attributes'->>'image' = 'changed:1'"), 1).await;
    assert_eq!(teams.written_since(filled).await, 1);

    // Namespaces come, and leave the selection.
    teams.label("team-c", "tier=x");
    let all = [("team-a", "deployments", 2), ("team-b", "deployments", 2), ("team-c", "deployments", 2)];
    teams.fleet_has(&all).await;
    let before = teams.newest().await;
    job.patch("kcinv/fleet", r#"{"spec":{"namespaces":["team-a","team-c"]}}"#);
    teams.fleet_has(&[all[0], all[2]]).await;
    assert_eq!(teams.written_since(before).await, 0, "what stays is not written again");
    teams.fleet_says(4, 1, &[("team-a", 2, 1), ("team-c", 2, 1)]).await;

    // Two targets of one kind: a row of each, or the last one of each object.
    job.apply(&teams.target("more", "deployments")).unwrap();
    teams.fleet_has(&[all[0], ("team-a", "more", 2), all[2], ("team-c", "more", 2)]).await;
    job.patch("kcinv/fleet", r#"{"spec":{"dedupe":"byResourceUID"}}"#);
    teams.fleet_has(&[("team-a", "more", 2), ("team-c", "more", 2)]).await;
    teams.fleet_says(4, 2, &[("team-a", 2, 1), ("team-c", 2, 1)]).await;
    let before = teams.newest().await;
    job.kubectl(&["-n", "team-c", "set", "image", "deployment/web", "*=changed:2"]);
    job.counts(&format!("SELECT count(*) FROM {FLEET} WHERE payload->'attributes'->>'image' = 'changed:2'"), 1).await;
    assert_eq!(teams.written_since(before).await, 1);

    // A target that is not Ready freezes the inventory; nothing is written when it is back, nor by another process.
    let before = teams.newest().await;
    job.patch("kctgt/more", r#"{"spec":{"suspend":true}}"#);
    let message = job.condition("kcinv/fleet", "Degraded", "TargetDegraded").await;
    assert!(message.starts_with("KollectClusterTarget more not Ready: nothing is exported"), "{message}");
    teams.rows([4, 2, 2]).await;
    assert_eq!(job.status("kcinv/fleet")["itemCount"], 4, "what was exported is still said");
    job.patch("kctgt/more", r#"{"spec":{"suspend":false}}"#);
    job.condition("kcinv/fleet", "Ready", "Exported").await;
    operator.terminate().await.unwrap();
    let operator = job.operator().await;
    job.counts(&format!("SELECT count(*) FROM {FLEET}_state WHERE epoch >= 2"), 1).await;
    job.condition("kcinv/fleet", "Ready", "Exported").await;
    assert_eq!(teams.written_since(before).await, 0);

    // What is behind the last one is shown when that goes.
    job.kubectl(&["delete", "kctgt/more", "--timeout=60s"]);
    teams.fleet_has(&[all[0], all[2]]).await;

    // A scope of the cluster may keep it from the sinks of a team.
    let scope = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectClusterScope\nmetadata: {{name: limits}}\n\
         spec: {{allowedStaticRefNamespaces: [{}]}}\n",
        job.namespace()
    );
    job.apply(&scope).unwrap();
    let message = job.condition("kcinv/fleet", "Degraded", "SinkNamespaceDenied").await;
    assert!(message.contains("spec.databaseSinkRefs[1]: namespace \"team-a\" is not allowed"), "{message}");

    // Its rows go with it, from all its sinks; those of the teams stay.
    job.kubectl(&["delete", "kcinv/fleet", "--timeout=60s"]);
    teams.fleet_has(&[]).await;
    job.counts(&beside, 0).await;
    teams.rows([4, 2, 2]).await;
    operator.terminate().await.unwrap();
}
