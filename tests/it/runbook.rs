//! What people look for when something is wrong: each line of the log, metric, condition and Event that a runbook names
//! is provoked and found, in the form and on the level that is promised.

use anyhow::{Context as _, ensure};
use kollect::lab::Operator;
use kollect::lab::load::Load;
use kollect::lab::operator::wait_for_metric;
use kollect::lab::wait::wait_for;
use serde_json::Value;

use crate::faults::Fault;
use crate::operator::{Job, PATIENCE};

/// Waits for a line of the log and returns it.
async fn line(fault: &Fault, message: &str, fields: &[(&str, &str)]) -> Value {
    let what = format!("{message:?} in the log, with {fields:?}");
    let found = wait_for(&what, PATIENCE, || async {
        lines(fault, message)
            .into_iter()
            .find(|line| fields.iter().all(|(name, value)| line[name] == *value))
            .context("it is not there")
    });
    found.await.unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", fault.log(), fault.job.describe()))
}

/// Returns every line of the log whose message begins like this.
fn lines(fault: &Fault, message: &str) -> Vec<Value> {
    let lines = fault.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["msg"].as_str().is_some_and(|text| text.starts_with(message))).collect()
}

/// Waits until `kubectl get events` shows a Warning.
async fn warned(fault: &Fault, name: &str, reason: &str) {
    let what = format!("the Event {reason} of {name}");
    let found = wait_for(&what, PATIENCE, || async {
        let events = fault.job.kubectl(&["-n", fault.job.namespace(), "get", "events", "--no-headers"]);
        let there =
            |line: &&str| line.contains("Warning") && line.contains(reason) && line.contains(&format!("/{name} "));
        events.lines().find(there).map(drop).with_context(|| events.clone())
    });
    found.await.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Two large objects, and inventories that can write nowhere, take no large row, and may write rarely.
fn manifests(namespace: &str) -> String {
    let mut all = vec![format!(
        r#"
apiVersion: kollect.dev/v1alpha1
kind: KollectProfile
metadata: {{name: maps, namespace: {namespace}}}
spec:
  targetGVK: {{version: v1, kind: ConfigMap}}
  attributes: [{{name: text, path: "$.data.text"}}]
---
apiVersion: kollect.dev/v1alpha1
kind: KollectTarget
metadata: {{name: maps, namespace: {namespace}}}
spec: {{profileRef: maps, includedNamespaces: [{namespace}], labelSelector: {{matchLabels: {{size: large}}}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: nowhere, namespace: {namespace}}}
stringData: {{dsn: "postgres://kollect:x@127.0.0.1:1/kollect?sslmode=disable"}}
"#
    )];
    let inventories = [
        ("broken", "nowhere", "exportMinInterval: 0s"),
        ("capped", "pg", "exportMinInterval: 0s, maxExportBytes: 100000"),
        ("slow", "pg", "exportMinInterval: 30s"),
    ];
    for (inventory, secret, spec) in inventories {
        all.push(format!(
            r"
apiVersion: kollect.dev/v1alpha1
kind: KollectDatabaseSink
metadata: {{name: {inventory}, namespace: {namespace}}}
spec: {{type: postgres, cluster: test, postgres: {{databaseRef: {{name: {secret}}}, table: {inventory}_items}}}}
---
apiVersion: kollect.dev/v1alpha1
kind: KollectInventory
metadata: {{name: {inventory}, namespace: {namespace}}}
spec: {{{spec}, databaseSinkRefs: [{{name: {inventory}}}]}}
"
        ));
    }
    for number in 1..=2 {
        let map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("large-{number}"), "namespace": namespace, "labels": {"size": "large"}},
            "data": {"text": "x".repeat(600_000)},
        });
        all.push(map.to_string());
    }
    all.join("\n---\n")
}

#[tokio::test]
async fn every_key_of_the_runbook_is_found_in_log_metrics_conditions_and_events() {
    let Some(mut fault) = Fault::new("runbook").await else { return };
    let load = Job::load(3, 120);
    load.create(&fault.job.ground.client).await.unwrap();
    // 1,800 rows of 360 objects, and two of more than half a MiB each.
    fault.select_by(5);
    fault.job.apply(&manifests(fault.job.namespace())).unwrap();
    let options = fault
        .options()
        .arg("--zap-log-level=debug")
        .arg("--collect-dispatch-queue-size=1")
        .arg("--collect-dispatch-workers=1")
        .arg("--collect-dispatch-enqueue-wait=0s");
    let operator = fault.job.ground.start_operator(&options).await;
    fault.job.rows(1_802).await;

    what_is_refused_or_large(&fault).await;
    what_waits_for_a_worker(&fault, &operator).await;
    what_waits_for_an_interval(&fault, &load).await;
    what_is_counted(&operator).await;
    what_is_well_again(&fault).await;
    what_targets_do(&fault, &operator).await;
    operator.terminate().await.unwrap();
}

async fn what_is_refused_or_large(fault: &Fault) {
    let namespace = fault.job.namespace();
    let failed = line(fault, "export failed", &[("inventory", &format!("{namespace}/broken"))]).await;
    assert_eq!([&failed["level"], &failed["sink"], &failed["error_class"]], ["error", "database/broken", "transient"]);
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("127.0.0.1")), "{failed}");

    // The two large rows are refused, all others are there.
    let refused = line(fault, "PayloadTooLarge", &[("inventory", &format!("{namespace}/capped"))]).await;
    assert_eq!([&refused["level"], &refused["sink"]], ["info", "database/capped"]);
    assert!(refused["object"].as_str().is_some_and(|object| object.contains("ConfigMap")), "{refused}");
    assert!(refused["bytes"].as_u64() > refused["cap"].as_u64() && refused["cap"].is_u64(), "{refused}");
    let message = fault.job.condition("kinv/capped", "Degraded", "PayloadTooLarge").await;
    assert!(message.contains("2 row(s) refused, all others were delivered"), "{message}");
    fault.at_least(1_800, "SELECT count(*) FROM capped_items").await;
    assert_eq!(fault.number("SELECT count(*) FROM capped_items WHERE payload->>'kind' = 'ConfigMap'").await, 0);
    warned(fault, "capped", "PayloadTooLarge").await;

    let spilled = line(fault, "export payload exceeds spill warn threshold", &[("sink", "database/pg")]).await;
    assert_eq!((&spilled["level"], &spilled["threshold"]), (&"info".into(), &1_048_576.into()));
    assert!(spilled["bytes"].as_u64().is_some_and(|bytes| bytes >= 1_200_000), "{spilled}");

    let message = fault.job.condition("kinv/all", "ExportShardWarning", "ApproachingExportCap").await;
    assert!(message.starts_with("1802 rows"), "{message}");
    warned(fault, "all", "ApproachingExportCap").await;
}

async fn what_waits_for_a_worker(fault: &Fault, operator: &Operator) {
    // The queue of one was full again and again; that is said once in ten seconds.
    let pressed = line(fault, "dispatch sync fallback", &[]).await;
    assert_eq!(pressed["level"], "info");
    assert!(pressed["depth"].is_u64() && pressed["waited_ms"].is_u64(), "{pressed}");
    let ran = operator.started().elapsed().as_secs();
    let said = lines(fault, "dispatch sync fallback").len() as u64;
    assert!(said <= ran / 10 + 1, "{said} lines in {ran} s");
}

async fn what_waits_for_an_interval(fault: &Fault, load: &Load) {
    let namespace = fault.job.namespace();
    // A change right after a delivery waits for the interval.
    fault.job.condition("kinv/slow", "Ready", "Exported").await;
    for round in 1..=2 {
        load.patch(&fault.job.ground.client, vec![0], round).await.unwrap();
        let image = format!("pause:r{round}-0");
        fault.at_least(5, &format!("SELECT count(*) FROM inventory_items WHERE payload::text LIKE '%{image}%'")).await;
    }
    let waits = line(fault, "debounced", &[("inventory", &format!("{namespace}/slow"))]).await;
    assert_eq!([&waits["level"], &waits["sink"], &waits["interval"]], ["debug", "database/slow", "30s"]);
    assert!(waits["due_ms"].as_u64().is_some_and(|due| (1..=30_000).contains(&due)), "{waits}");
}

async fn what_is_counted(operator: &Operator) {
    wait_for_metric(operator, PATIENCE, "what a runbook asks for", |metrics| {
        [
            (r#"kollect_sink_errors_total{reason="payload_too_large"}"#, 1.0),
            (r#"kollect_sink_errors_total{reason="transient"}"#, 1.0),
            (r#"kollect_export_debounced_total{controller="KollectInventory"}"#, 1.0),
            ("kollect_export_spill_warn_total", 1.0),
            ("kollect_export_shard_warn_total", 1.0),
            ("kollect_collect_dispatch_backpressure_total", 1.0),
            ("kollect_collect_dispatch_sync_fallback_total", 1.0),
        ]
        .iter()
        .all(|(sample, least)| metrics.get(sample).is_some_and(|value| value >= *least))
    })
    .await
    .unwrap();
}

async fn what_is_well_again(fault: &Fault) {
    let namespace = fault.job.namespace();
    // A smaller row is taken, and the warning about the number of rows goes with the rows.
    for number in 1..=2 {
        let name = format!("large-{number}");
        fault.job.kubectl(&["-n", namespace, "patch", "configmap", &name, "-p", r#"{"data":{"text":"short"}}"#]);
    }
    fault.job.condition("kinv/capped", "Ready", "Exported").await;
    fault.at_least(1_802, "SELECT count(*) FROM capped_items").await;
    fault.job.kubectl(&["-n", namespace, "delete", "ktgt", "more-1"]);
    fault.job.rows(1_442).await;
    wait_for("an inventory without the warning", PATIENCE, || async {
        let conditions =
            fault.job.kubectl(&["-n", namespace, "get", "kinv", "all", "-o", "jsonpath={.status.conditions[*].type}"]);
        ensure!(!conditions.contains("ExportShardWarning"), "{conditions}");
        Ok(())
    })
    .await
    .unwrap();
}

async fn what_targets_do(fault: &Fault, operator: &Operator) {
    let namespace = fault.job.namespace();
    let target = format!("{namespace}/maps");
    assert_eq!(line(fault, "registered collection target", &[("target", &target)]).await["level"], "debug");

    let attributes = r#"{"spec":{"attributes":[{"name":"text","path":"cel:object.data.absent"}]}}"#;
    fault.job.kubectl(&["-n", namespace, "patch", "kprof", "maps", "--type=merge", "-p", attributes]);
    let failed = line(fault, "extract attributes", &[("target", &target)]).await;
    assert_eq!(failed["level"], "error");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("text")), "{failed}");

    let ready = format!(r#"kollect_target_ready{{target_namespace="{namespace}",target_name="maps"}}"#);
    wait_for_metric(operator, PATIENCE, "a target that fails", |metrics| metrics.get(&ready) == Some(0.0))
        .await
        .unwrap();
    fault.job.kubectl(&[
        "-n",
        namespace,
        "patch",
        "ktgt",
        "maps",
        "--type=merge",
        "-p",
        r#"{"spec":{"suspend":true}}"#,
    ]);
    assert_eq!(line(fault, "target suspended", &[("target", &target)]).await["level"], "info");
    // What its owner wants is nothing to be alarmed about.
    wait_for_metric(operator, PATIENCE, "no more of it", |metrics| metrics.get(&ready).is_none()).await.unwrap();
}
