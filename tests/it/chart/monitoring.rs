//! What Prometheus and Grafana get.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kollect::lab::helm::Chart;
use kollect::lab::process::Guard;
use serde_json::{Value, json};

use super::{Claim, same, set, with_file};

pub(super) const CLAIMS: &[Claim] = &[
    ("nothing of monitoring is there by default, or without metrics", absent),
    ("the ServiceMonitor finds the Service and comes with a token", service_monitor),
    ("a ServiceMonitor of plain metrics has no TLS and no token", plain),
    ("an authority of the user is verified", authority),
    ("the alerts are those of the file, and rules of the user follow", alerts),
    ("each dashboard is a key of the ConfigMap that Grafana finds", dashboards),
];

const NAME: &str = "kollect-controller-manager";
const MONITORING: &str = "ci/monitoring-values.yaml";

fn absent(chart: &Chart) -> Result<()> {
    let all = ["metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true", "metrics.enabled=false"];
    for objects in [set(chart, &[])?, set(chart, &all)?] {
        let found: Vec<&Value> =
            objects.0.iter().filter(|object| object["apiVersion"] == "monitoring.coreos.com/v1").collect();
        ensure!(found.is_empty(), "{found:?}");
        same(objects.of("ConfigMap").count(), 0)?;
    }
    Ok(())
}

fn service_monitor(chart: &Chart) -> Result<()> {
    let objects = with_file(chart, MONITORING)?;
    let monitor = objects.find("ServiceMonitor", NAME)?;
    same(&monitor["metadata"]["namespace"], "kollect-system")?;
    same(&monitor["metadata"]["labels"]["release"], "kube-prometheus-stack")?;
    same(
        &monitor["spec"]["endpoints"],
        &json!([{
            "port": "metrics", "path": "/metrics", "scheme": "https", "interval": "30s", "scrapeTimeout": "10s",
            "bearerTokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "tlsConfig": {"insecureSkipVerify": true},
        }]),
    )?;
    let service = objects.find("Service", NAME)?;
    let selector = monitor["spec"]["selector"]["matchLabels"].as_object().context("no selector")?;
    ensure!(
        selector.len() == 3 && selector.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value),
        "{selector:?}"
    );
    let ports = service["spec"]["ports"].as_array().context("no ports")?;
    ensure!(ports.iter().any(|port| port["name"] == "metrics"), "{ports:?}");
    let slow = [
        "metrics.serviceMonitor.enabled=true",
        "metrics.serviceMonitor.interval=2m",
        "metrics.serviceMonitor.scrapeTimeout=1m",
    ];
    let slow = set(chart, &slow)?;
    let endpoint = &slow.find("ServiceMonitor", NAME)?["spec"]["endpoints"][0];
    same((&endpoint["interval"], &endpoint["scrapeTimeout"]), (&json!("2m"), &json!("1m")))
}

fn plain(chart: &Chart) -> Result<()> {
    let objects = set(chart, &["metrics.serviceMonitor.enabled=true", "metrics.secure=false"])?;
    let endpoint = &objects.find("ServiceMonitor", NAME)?["spec"]["endpoints"][0];
    same(&endpoint["scheme"], "http")?;
    ensure!(endpoint["tlsConfig"].is_null() && endpoint["bearerTokenFile"].is_null(), "{endpoint}");
    Ok(())
}

fn authority(chart: &Chart) -> Result<()> {
    let values = [
        "metrics.serviceMonitor.enabled=true",
        "metrics.certSecret=pair",
        "metrics.serviceMonitor.caSecret.name=pair",
        "metrics.serviceMonitor.caSecret.key=ca.crt",
    ];
    let objects = set(chart, &values)?;
    same(
        &objects.find("ServiceMonitor", NAME)?["spec"]["endpoints"][0]["tlsConfig"],
        &json!({
            "ca": {"secret": {"name": "pair", "key": "ca.crt"}},
            "serverName": "kollect-controller-manager.kollect-system.svc",
        }),
    )?;
    // The other half: what the operator serves with.
    let path = objects.args()?.into_iter().find_map(|arg| arg.strip_prefix("--metrics-cert-path=").map(str::to_owned));
    let mounts = &objects.container()?["volumeMounts"];
    let mount = mounts.as_array().and_then(|all| all.iter().find(|mount| mount["name"] == "metrics-certs"));
    same(mount, Some(&json!({"name": "metrics-certs", "mountPath": path, "readOnly": true})))?;
    let volume = json!({"name": "metrics-certs", "secret": {"secretName": "pair", "defaultMode": 420}});
    same(&objects.pod()?["volumes"][1], &volume)
}

/// The alerts that are published.
const ALERTS: [&str; 6] = [
    "KollectReconcileErrors",
    "KollectInventoryExportErrors",
    "KollectSinkExportErrors",
    "KollectSinkConnectionTestFailures",
    "KollectExportLatencyHigh",
    "KollectWorkqueueBacklog",
];

fn alerts(chart: &Chart) -> Result<()> {
    let objects = with_file(chart, MONITORING)?;
    let rule = objects.find("PrometheusRule", NAME)?;
    same(&rule["metadata"]["labels"]["release"], "kube-prometheus-stack")?;
    let file: Value = serde_saphyr::from_str(&chart.read("files/rules.yaml")?)?;
    same(&rule["spec"]["groups"], &file["groups"])?;
    let groups = rule["spec"]["groups"].as_array().context("no groups")?;
    let group = groups.iter().find(|group| group["name"] == "kollect.rules").context("no group kollect.rules")?;
    let rules = group["rules"].as_array().context("no rules")?;
    let names: Vec<&str> = rules.iter().filter_map(|rule| rule["alert"].as_str()).collect();
    for alert in ALERTS {
        ensure!(names.contains(&alert), "{alert} is not among {names:?}");
    }
    for rule in rules.iter().filter(|rule| !rule["alert"].is_null()) {
        same(&rule["labels"]["severity"], "warning").with_context(|| rule["alert"].to_string())?;
    }
    let mine = r#"metrics.prometheusRule.additionalRules=[{"alert":"Mine","expr":"up{a=\"{{ .b }}\"} == 0"}]"#;
    let more = chart.objects(&["--set", "metrics.prometheusRule.enabled=true", "--set-json", mine])?;
    let groups = more.find("PrometheusRule", NAME)?["spec"]["groups"].as_array().context("no groups")?;
    let group = groups.iter().find(|group| group["name"] == "kollect.rules").context("no group kollect.rules")?;
    let more = group["rules"].as_array().context("no rules")?;
    same(more.len(), rules.len() + 1)?;
    same(more.last(), Some(&json!({"alert": "Mine", "expr": "up{a=\"{{ .b }}\"} == 0"})))
}

fn dashboards(chart: &Chart) -> Result<()> {
    // One more, with what a template would trip over.
    let guard = Arc::new(Guard::start()?);
    let chart = &chart.copy(&guard)?;
    fs::create_dir_all(chart.file("files/dashboards"))?;
    fs::write(chart.file("files/dashboards/another.json"), r#"{"legend": "{{ instance }}", "lines": ["a\nb"]}"#)?;
    let objects = set(chart, &["metrics.dashboards.enabled=true"])?;
    let map = objects.find("ConfigMap", "kollect-dashboards")?;
    same(&map["metadata"]["labels"]["grafana_dashboard"], "1")?;
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(chart.file("files/dashboards"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let rendered = map["data"][&name].as_str().with_context(|| format!("{name} is missing"))?;
        let file: Value = serde_json::from_str(&chart.read(&format!("files/dashboards/{name}"))?)?;
        same(serde_json::from_str::<Value>(rendered)?, file)?;
        files.insert(name);
    }
    let keys: BTreeSet<String> = map["data"].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
    same(keys, files)
}
