//! Cluster targets on a real API server: the namespaces of many teams, and the inventories of each.

use anyhow::{Result, ensure};
use kollect::lab::wait::wait_for;
use serde_json::json;

use crate::operator::{Job, PATIENCE, TABLE};
use crate::support::Ground;

const TEAMS: [&str; 3] = ["team-a", "team-b", "team-c"];

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
        teams.job.apply(&teams.target("deployments")).unwrap();
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

    fn target(&self, profile: &str) -> String {
        format!(
            r"
apiVersion: kollect.dev/v1alpha1
kind: KollectClusterTarget
metadata: {{name: deployments}}
spec:
  profileRef: {{name: {profile}, namespace: {}}}
  namespaceSelector: {{matchLabels: {{tier: x}}}}
",
            self.job.namespace()
        )
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
        self.job.ground.api().kubectl(&["get", "kctgt,ktgt,kinv", "-A", "-o", "yaml"]).unwrap_or_default()
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
