//! What the operator may delete, and what it keeps because it does not know: kinds and profiles that go and come back, and
//! rows that do not fit into its memory.

use std::fmt::Write as _;

use kollect::lab::Operator;
use kollect::lab::wait::wait_for;

use crate::operator::{Job, PATIENCE};
use crate::support::Definition;

/// A job that collects custom resources besides, 150 of them.
struct Widgets {
    job: Job,
}

impl Widgets {
    const COUNT: i64 = 150;

    async fn new(name: &str) -> Option<Self> {
        let job = Job::new(name).await?;
        let namespace = job.namespace();
        job.apply(&format!(
            r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: widgets}}
rules: [{{apiGroups: [test.kollect.dev], resources: [widgets], verbs: [get, list, watch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: widgets}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: widgets}}
subjects: [{{kind: ServiceAccount, name: kollect-controller-manager, namespace: kollect-system}}]
---
apiVersion: kollect.dev/v1alpha1
kind: KollectProfile
metadata: {{name: widgets, namespace: {namespace}}}
spec:
  targetGVK: {{group: test.kollect.dev, version: v1, kind: Widget}}
  attributes: [{{name: size, path: "$.spec.size"}}]
---
apiVersion: kollect.dev/v1alpha1
kind: KollectTarget
metadata: {{name: widgets, namespace: {namespace}}}
spec: {{profileRef: widgets, includedNamespaces: [{namespace}]}}
"#
        ))
        .unwrap();
        let widgets = Self { job };
        widgets.install().await;
        Some(widgets)
    }

    /// Installs the definition and creates the objects.
    async fn install(&self) {
        let definition = Definition { kind: "Widget", plural: "widgets", ..Definition::default() };
        self.job.apply(&definition.manifest()).unwrap();
        let mut objects = String::new();
        for index in 0..Self::COUNT {
            write!(
                objects,
                "apiVersion: test.kollect.dev/v1\nkind: Widget\nmetadata: {{name: w{index}, namespace: {}}}\nspec: {{size: {index}}}\n---\n",
                self.job.namespace()
            )
            .unwrap();
        }
        wait_for("the new kind", PATIENCE, || async { self.job.apply(&objects) }).await.unwrap();
    }

    fn uninstall(&self) {
        self.job.kubectl(&["delete", "crd", "widgets.test.kollect.dev", "--wait=true"]);
    }
}

#[tokio::test]
async fn a_kind_that_is_removed_takes_its_rows_along_and_is_collected_again_when_it_is_back() {
    let Some(widgets) = Widgets::new("crd-removed").await else { return };
    let job = &widgets.job;
    let operator = job.operator().await;
    job.rows(Widgets::COUNT).await;
    job.condition("ktgt/widgets", "Ready", "Collecting").await;
    // The objects of the kind are deleted one by one: each has its event, and nothing is held.
    widgets.uninstall();
    job.rows(0).await;
    let message = job.condition("ktgt/widgets", "Degraded", "KindNotFound").await;
    assert!(message.contains("has no Widget in test.kollect.dev/v1 to list"), "{message}");
    widgets.install().await;
    job.rows(Widgets::COUNT).await;
    job.condition("ktgt/widgets", "Ready", "Collecting").await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn rows_of_a_kind_that_went_while_nobody_looked_are_held_until_an_annotation_lets_them_go() {
    let Some(widgets) = Widgets::new("crd-held").await else { return };
    let job = &widgets.job;
    let namespace = job.namespace();
    let annotate = |value: &str| {
        let annotation = format!("kollect.dev/allow-mass-deletion={value}");
        job.kubectl(&["-n", namespace, "annotate", "--overwrite", "kinv/all", &annotation]);
    };
    let operator = job.operator().await;
    job.rows(Widgets::COUNT).await;
    job.condition("ktgt/widgets", "Ready", "Collecting").await;
    operator.terminate().await.unwrap();
    widgets.uninstall();
    // A permission from an earlier time is none.
    annotate("old");
    let before = job.writes().await;
    let operator = job.operator().await;
    let message = job.condition("ktgt/widgets", "Degraded", "MassDeletionHeld").await;
    assert!(message.contains("150 of the 150 rows of this namespace would be removed"), "{message}");
    assert!(message.contains("kollect.dev/allow-mass-deletion"), "{message}");
    job.condition("kinv/all", "Degraded", "MassDeletionHeld").await;
    assert_eq!(job.writes().await.since(before).total(), 0);
    annotate("2026-01-01");
    job.rows(0).await;
    job.condition("ktgt/widgets", "Degraded", "KindNotFound").await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_group_whose_own_server_is_down_is_not_taken_for_a_removed_one() {
    let Some(widgets) = Widgets::new("group-down").await else { return };
    let job = &widgets.job;
    let operator = job.operator().await;
    job.rows(Widgets::COUNT).await;
    job.condition("ktgt/widgets", "Ready", "Collecting").await;
    let before = job.writes().await;
    operator.terminate().await.unwrap();
    // The group is handed to a server that does not exist.
    let away = r#"{"metadata": {"labels": {"kube-aggregator.kubernetes.io/automanaged": null}},
        "spec": {"service": {"name": "nowhere", "namespace": "default"}, "insecureSkipTLSVerify": true}}"#;
    job.kubectl(&["patch", "apiservice", "v1.test.kollect.dev", "--type=merge", "-p", away]);
    job.kubectl(&["wait", "apiservice/v1.test.kollect.dev", "--for=condition=Available=false", "--timeout=60s"]);
    let operator = job.operator().await;
    let message = job.condition("ktgt/widgets", "Degraded", "KindNotFound").await;
    assert!(message.contains("the server of that group does not answer"), "{message}");
    // Deleted, the entry is made anew by the API server, for its own definition.
    job.kubectl(&["delete", "apiservice", "v1.test.kollect.dev"]);
    job.condition("ktgt/widgets", "Ready", "Collecting").await;
    job.rows(Widgets::COUNT).await;
    assert_eq!(job.writes().await.since(before).total(), 0);
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_profile_that_is_applied_again_within_seconds_costs_no_write() {
    let Some(job) = Job::new("profile-back").await else { return };
    let load = Job::load(2, 60);
    load.create(&job.ground.client).await.unwrap();
    let operator = job.operator().await;
    job.rows(120).await;
    job.condition("ktgt/deployments", "Ready", "Collecting").await;
    let before = job.writes().await;
    let profile = ["-n", job.namespace(), "get", "kprof/deployments", "-o", "yaml"];
    let profile = job.kubectl(&profile);
    job.kubectl(&["-n", job.namespace(), "delete", "kprof/deployments"]);
    job.condition("ktgt/deployments", "Degraded", "ProfileNotFound").await;
    // Created anew, so that it has another identity than the one that was deleted.
    let identity = |line: &str| ["uid:", "resourceVersion:", "creationTimestamp:"].iter().any(|key| line.contains(key));
    let profile: Vec<&str> = profile.lines().filter(|line| !identity(line)).collect();
    job.apply(&profile.join("\n")).unwrap();
    job.condition("ktgt/deployments", "Ready", "Collecting").await;
    load.delete(&job.ground.client, vec![0]).await.unwrap();
    job.rows(119).await;
    let since = job.writes().await.since(before);
    assert_eq!((since.inserted, since.updated, since.deleted), (0, 0, 1));
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_too_small_keeps_the_rows_of_the_sink_and_one_that_has_room_completes_them() {
    let Some(job) = Job::new("budget").await else { return };
    let load = Job::load(2, 150);
    load.create(&job.ground.client).await.unwrap();
    let operator = job.operator().await;
    job.rows(300).await;
    operator.terminate().await.unwrap();
    let before = job.writes().await;

    let small = job.ground.operator_options().arg("--store-budget=64Ki");
    let operator: Operator = job.ground.start_operator(&small).await;
    let message = job.condition("ktgt/deployments", "Degraded", "StoreBudgetExceeded").await;
    assert!(message.contains("1 of 1 MiB are in use") && message.contains("Raise --store-budget"), "{message}");
    let metrics = operator.metrics().await.unwrap();
    assert_eq!(metrics.get("kollect_store_budget_bytes"), Some(65_536.0));
    // What is left free is less than what a row and its journal take; the journal goes with the next delivery.
    let bytes = metrics.get("kollect_store_bytes").unwrap_or_default();
    assert!((50_000.0..=65_536.0).contains(&bytes), "{bytes}");
    job.rows(300).await;
    assert_eq!(job.writes().await.since(before).total(), 0);
    // What is deleted makes room, and what did not fit is listed again.
    load.delete(&job.ground.client, (0..220).collect()).await.unwrap();
    job.condition("ktgt/deployments", "Ready", "Collecting").await;
    job.rows(80).await;
    job.equals_the_cluster().await;
    operator.terminate().await.unwrap();

    load.create(&job.ground.client).await.unwrap();
    let operator = job.ground.start_operator(&small).await;
    job.condition("ktgt/deployments", "Degraded", "StoreBudgetExceeded").await;
    operator.terminate().await.unwrap();
    let operator = job.ground.start_operator(&job.ground.operator_options().arg("--store-budget=64Mi")).await;
    job.condition("ktgt/deployments", "Ready", "Collecting").await;
    job.rows(300).await;
    job.equals_the_cluster().await;
    operator.terminate().await.unwrap();
}
