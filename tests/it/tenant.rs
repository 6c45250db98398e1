//! An operator with rights in a few namespaces: as the chart renders it for a team, and as one that may list a kind in some
//! places and not in others.

use std::time::Duration;

use anyhow::{Result, ensure};
use kollect::lab::helm::{Chart, NAMESPACE, Objects};
use kollect::lab::operator::OperatorOptions;
use kollect::lab::wait::wait_for;
use kollect::lab::{Operator, process};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::operator::{Job, PATIENCE, TABLE};

/// Takes the rights away that the lab gives every operator, and installs the chart for a team instead. Returns how to run
/// what was rendered.
async fn install(job: &Job, namespaces: &[&str]) -> OperatorOptions {
    let chart = Chart::own();
    let (metrics, probes) = (process::free_port().unwrap(), process::free_port().unwrap());
    let rendered = chart
        .render(&[
            "--values",
            &chart.file("values-minimal-rbac.yaml").display().to_string(),
            "--set",
            &format!("watchNamespaces={{{}}}", namespaces.join(",")),
            "--set",
            &format!("metrics.bindAddress=:{metrics}"),
            "--set",
            &format!("extraArgs={{--allow-loopback-sinks,--zap-devel=false,--health-probe-bind-address=:{probes}}}"),
        ])
        .unwrap();
    job.kubectl(&["delete", "-k", "config/rbac"]);
    wait_for("the namespace of the release", PATIENCE, || async { job.apply(&namespace(NAMESPACE)) }).await.unwrap();
    wait_for("the release", PATIENCE, || async { job.apply(&rendered) }).await.unwrap();
    let objects = Objects::parse(&rendered).unwrap();
    let cluster_scoped: Vec<_> = objects.0.iter().filter(|object| object["metadata"]["namespace"].is_null()).collect();
    assert!(cluster_scoped.is_empty(), "{cluster_scoped:?}");
    let account = objects.pod().unwrap()["serviceAccountName"].as_str().unwrap().to_owned();
    let kubeconfig = job.ground.api().service_account_kubeconfig(NAMESPACE, &account).await.unwrap();
    let log = job.ground.lab().dir().join("tenant.log");
    let options = objects.run_options(env!("CARGO_BIN_EXE_kollect").as_ref(), &kubeconfig, &log).unwrap();
    assert_eq!(options.args, objects.args().unwrap());
    options
}

fn namespace(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string()
}

async fn run(job: &Job, options: &OperatorOptions) -> Operator {
    let mut operator = Operator::spawn_container(options, job.ground.lab().guard()).unwrap();
    operator.ready(Duration::from_secs(30)).await.unwrap();
    operator
}

fn target(job: &Job, spec: &str) -> String {
    format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\n\
         metadata: {{name: deployments, namespace: {}}}\nspec: {spec}\n",
        job.namespace()
    )
}

/// Fails if the operator was refused anything, or asked for anything outside of its namespaces.
fn asked_for_nothing_else(job: &Job, operator: &Operator, namespaces: &[&str]) {
    let requests = job.ground.api().operator_requests().unwrap();
    assert!(requests.iter().any(|request| request.verb == "list" && request.resource == "deployments"), "{requests:?}");
    let refused: Vec<_> = requests.iter().filter(|request| request.code == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
    // What is no resource has no name: discovery and the version.
    let elsewhere = requests.iter().filter(|request| !request.resource.is_empty());
    let elsewhere: Vec<_> = elsewhere.filter(|request| !namespaces.contains(&request.namespace.as_str())).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let log = operator.log().unwrap();
    assert!(!log.contains("orbidden") && !log.contains("403"), "{log}");
}

#[tokio::test]
async fn a_team_by_itself_collects_with_rights_in_its_namespaces_and_asks_for_nothing_else() {
    let Some(job) = Job::new("tenant").await else { return };
    let load = Job::load(3, 10);
    load.create(&job.ground.client).await.unwrap();
    let (first, second, foreign) = (load.namespace(0), load.namespace(1), load.namespace(2));
    job.kubectl(&["label", "namespace", &first, "team=a"]);
    let own = [job.namespace(), &first, &second];
    let options = install(&job, &own).await;
    // Without a namespace, and therefore not for a team.
    job.apply(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectClusterScope\nmetadata: {name: any}\nspec: {allowedNamespaces: [x]}\n",
    )
    .unwrap();
    job.apply(&format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: all, namespace: {0}}}\n\
         spec: {{targetGVK: {{version: v1, kind: Namespace}}, attributes: [{{name: a, path: \"$.metadata.name\"}}]}}\n---\n\
         apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: all, namespace: {0}}}\n\
         spec: {{profileRef: all}}\n",
        job.namespace()
    ))
    .unwrap();

    let operator = run(&job, &options).await;
    job.rows(20).await;
    job.condition("ktgt/deployments", "Ready", "Collecting").await;
    job.condition("kinv/all", "Ready", "Exported").await;
    let status = job.kubectl(&["-n", job.namespace(), "get", "ktgt/deployments", "-o", "jsonpath={.status}"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let mut sorted = own;
    sorted.sort_unstable();
    assert_eq!(status["effectiveNamespaces"], json!(sorted), "the outermost filter");
    let message = job.condition("ktgt/all", "Degraded", "NotServed").await;
    assert!(message.contains("this operator looks at namespaces only"), "{message}");
    assert!(operator.log().unwrap().contains("kind ignored"), "{}", operator.log_tail(20));

    // Changes arrive, those elsewhere do not, and labels of namespaces are known.
    for namespace in [&first, &foreign] {
        job.kubectl(&["-n", namespace, "set", "image", "deployment", "--all", "*=changed:1"]);
    }
    let changed = format!("SELECT count(*) FROM {TABLE} WHERE payload->'attributes'->>'image' = 'changed:1'");
    wait_for("ten changed rows", PATIENCE, || async {
        let count: i64 = job.database.query_one(&changed, &[]).await?.get(0);
        ensure!(count == 10, "{count} rows changed");
        Ok(())
    })
    .await
    .unwrap();
    job.apply(&target(&job, "{profileRef: deployments, namespaceSelector: {matchLabels: {team: a}}}")).unwrap();
    job.rows(10).await;
    asked_for_nothing_else(&job, &operator, &[job.namespace(), &first, &second, NAMESPACE]);
    let metrics = operator.metrics().await.unwrap();
    assert!(metrics.sum("kollect_api_requests_total", &[("code", "403")]) < 0.5);

    // The next process is the same writer, by the lease, and writes nothing.
    assert!(operator.terminate().await.unwrap().success());
    let before = job.writes().await;
    let operator = run(&job, &options).await;
    wait_for("the second life has compared", PATIENCE, || async {
        let epoch: i64 = job.database.query_one(&format!("SELECT epoch FROM {TABLE}_state"), &[]).await?.get(0);
        ensure!(epoch >= 2, "epoch {epoch}");
        Ok(())
    })
    .await
    .unwrap();
    job.condition("kinv/all", "Ready", "Exported").await;
    job.rows(10).await;
    assert_eq!(job.writes().await.since(before).total(), 0);
    asked_for_nothing_else(&job, &operator, &[job.namespace(), &first, &second, NAMESPACE]);
    operator.terminate().await.unwrap();
}

/// Takes the right to list Deployments everywhere away from the operator, so that it may where it is told so.
fn restrict(job: &Job) -> Result<()> {
    let role = job.ground.api().kubectl(&["get", "clusterrole", "kollect-manager", "-o", "json"])?;
    let mut role: Value = serde_json::from_str(&role)?;
    let rules = role["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"] != json!(["deployments"]));
    job.ground.api().kubectl(&[
        "patch",
        "clusterrole",
        "kollect-manager",
        "--type=merge",
        "-p",
        &json!({"rules": rules}).to_string(),
    ])?;
    let reader = ["create", "clusterrole", "reader", "--verb=get,list,watch", "--resource=deployments.apps"];
    job.ground.api().kubectl(&reader)?;
    Ok(())
}

fn grant(job: &Job, namespace: &str) {
    let account = "--serviceaccount=kollect-system:kollect-controller-manager";
    job.kubectl(&["-n", namespace, "create", "rolebinding", "reader", "--clusterrole=reader", account]);
}

#[tokio::test]
async fn a_kind_that_may_be_listed_in_two_of_three_namespaces_is_collected_there_and_in_the_third_once_it_may() {
    let Some(job) = Job::new("forbidden").await else { return };
    let load = Job::load(3, 10);
    load.create(&job.ground.client).await.unwrap();
    restrict(&job).unwrap();
    let namespaces: Vec<String> = (0..3).map(|index| load.namespace(index)).collect();
    for namespace in &namespaces {
        grant(&job, namespace);
    }
    let third = &namespaces[2];
    job.apply(&target(&job, &format!("{{profileRef: deployments, includedNamespaces: [{}]}}", namespaces.join(", "))))
        .unwrap();
    // One stream over all namespaces is what it begins with, and what it may not have.
    let wide = job.ground.operator_options().arg("--max-namespaced-watches=1");
    let operator = job.ground.start_operator(&wide).await;
    job.rows(30).await;
    job.condition("ktgt/deployments", "Synced", "Collecting").await;
    operator.terminate().await.unwrap();

    job.kubectl(&["-n", third, "delete", "rolebinding", "reader"]);
    load.delete(&job.ground.client, vec![0]).await.unwrap();
    job.kubectl(&["-n", third, "delete", "deployment", &lowest(&job, third)]);
    let operator = job.ground.start_operator(&wide).await;
    job.rows(29).await;
    says(&job, "Synced", "ScopeForbidden", &format!("may not list in {third}; rows from there stay as they are")).await;
    job.condition("ktgt/deployments", "Ready", "Collecting").await;
    assert_eq!(rows_of(&job, third).await, 10, "the old rows stay");

    let granted = Instant::now();
    grant(&job, third);
    job.rows(28).await;
    job.condition("ktgt/deployments", "Synced", "Collecting").await;
    assert!(granted.elapsed() < Duration::from_mins(1), "{:?}", granted.elapsed());
    job.equals_the_cluster().await;
    operator.terminate().await.unwrap();

    // Two connections for three namespaces.
    let operator = job.ground.start_operator(&wide.arg("--max-watch-connections=2")).await;
    says(&job, "Degraded", "InformerRegistrationFailed", "all 2 watch connections are in use").await;
    says(&job, "Degraded", "InformerRegistrationFailed", &format!("nothing is collected in {third}: ")).await;
    job.rows(28).await;
    operator.terminate().await.unwrap();
}

/// Waits until the target says something under a reason.
async fn says(job: &Job, kind: &str, reason: &str, text: &str) {
    wait_for(text, PATIENCE, || async {
        let message = job.condition("ktgt/deployments", kind, reason).await;
        ensure!(message.contains(text), "{message}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Returns the name of the first Deployment of a namespace.
fn lowest(job: &Job, namespace: &str) -> String {
    job.kubectl(&["-n", namespace, "get", "deployments", "-o", "jsonpath={.items[0].metadata.name}"])
}

async fn rows_of(job: &Job, namespace: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {TABLE} WHERE payload->>'namespace' = $1");
    job.database.query_one(&query, &[&namespace]).await.unwrap().get(0)
}
