//! How long a cluster target over many namespaces takes until every row is in the store.
//!
//! The operator runs and has nothing to do; then a KollectClusterTarget is created that selects all namespaces of the load.
//! `seconds` is from that request until the store has a row for each object (`kollect_collect_items_total`), `ready_seconds`
//! until its status says Ready and names every namespace. Then the operator is killed: `start_seconds` is from the start of
//! the next process until the store has all rows again. There are no sinks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::load::NAMESPACE_LABEL;
use super::super::wait::wait_for;
use super::stage::Stage;
use super::{Bench, Values};
use crate::api::v1alpha1::KollectClusterTarget;
use crate::api::v1alpha1::conditions::types;

/// What is not there by then never will be.
const LIMIT: Duration = Duration::from_mins(5);

const NAME: &str = "bench";

/// Returns the profile, in one of the namespaces.
pub(super) fn profile(namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "kollect.dev/v1alpha1",
        "kind": "KollectProfile",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": spec,
    })
}

pub(super) async fn run(bench: &Bench, stage: &mut Stage) -> Result<Values> {
    let before = stage.raw_list().await?;
    stage.start().await?;
    let (label, value) = NAMESPACE_LABEL;
    let target: KollectClusterTarget = serde_json::from_value(json!({
        "apiVersion": "kollect.dev/v1alpha1",
        "kind": "KollectClusterTarget",
        "metadata": {"name": NAME},
        "spec": {
            "profileRef": {"name": NAME, "namespace": stage.load().namespace(0)},
            "namespaceSelector": {"matchLabels": {label: value}},
        },
    }))?;
    let targets: Api<KollectClusterTarget> = Api::all(stage.client().clone());
    let started = Instant::now();
    targets.create(&PostParams::default(), &target).await.context("failed to create the cluster target")?;
    rows(bench, stage).await?;
    let seconds = started.elapsed().as_secs_f64();
    ready(bench, &targets).await?;
    let ready_seconds = started.elapsed().as_secs_f64();

    stage.kill().await?;
    stage.start().await?;
    rows(bench, stage).await?;
    let start_seconds = stage.operator()?.started().elapsed().as_secs_f64();
    let after = stage.raw_list().await?;
    // The machine has good and bad moments; the better one is the harder yardstick.
    let raw_list_seconds = before.seconds.min(after.seconds);
    Ok(vec![
        ("seconds", seconds),
        ("ready_seconds", ready_seconds),
        ("start_seconds", start_seconds),
        ("raw_list_seconds", raw_list_seconds),
        ("ratio", seconds / raw_list_seconds),
        ("peak_rss_mib", stage.operator()?.process().peak_rss_mib()?),
    ])
}

/// Waits until the store has all rows.
async fn rows(bench: &Bench, stage: &Stage) -> Result<()> {
    wait_for("all rows to be in the store", LIMIT, || async {
        let rows = stage.operator()?.metrics().await?.sum("kollect_collect_items_total", &[]);
        ensure!(rows >= bench.rows as f64, "{rows} of {} rows", bench.rows);
        Ok(())
    })
    .await
}

/// Waits until the status says that everything is collected.
async fn ready(bench: &Bench, targets: &Api<KollectClusterTarget>) -> Result<()> {
    wait_for("the cluster target to be ready", LIMIT, || async {
        let status = targets.get(NAME).await?.status.unwrap_or_default();
        let holds = |kind: &str| {
            let mut conditions = status.conditions.iter();
            conditions.any(|condition| condition.type_ == kind && condition.status == "True")
        };
        let namespaces = status.effective_namespaces.len();
        ensure!(holds(types::READY) && namespaces == bench.namespaces, "{:?}", status.conditions);
        Ok(())
    })
    .await
}
