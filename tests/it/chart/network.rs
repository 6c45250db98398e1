//! Who may reach the pod, whom it may reach, and how many stay through a drain.

use anyhow::{Context as _, Result, ensure};
use kollect::lab::helm::{Chart, Objects};
use serde_json::{Value, json};

use super::{Claim, same, set, with_file};

pub(super) const CLAIMS: &[Claim] = &[
    ("the policy lets in scrapes, probes and reviews, and out what is named", policy),
    ("there is no policy by default", no_policy),
    ("replicas are kept only where there are several", budget),
];

fn policy(chart: &Chart) -> Result<()> {
    let objects = chart.objects(&[
        "--set",
        "networkPolicy.enabled=true",
        "--set-json",
        r#"networkPolicy.sinks=[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"],"ports":[5432,443]},{"cidr":"192.0.2.1/32"}]"#,
    ])?;
    let policy = &objects.find("NetworkPolicy", "kollect-controller-manager")?["spec"];
    same(&policy["podSelector"]["matchLabels"], &objects.deployment()?["spec"]["selector"]["matchLabels"])?;
    same(&policy["policyTypes"], &json!(["Ingress", "Egress"]))?;
    let port = |port: u16, protocol: &str| json!({"port": port, "protocol": protocol});
    same(
        &policy["ingress"],
        &json!([
            {"ports": [port(8081, "TCP")]},
            {
                "from": [{"namespaceSelector": {"matchLabels": {"metrics": "enabled"}}}],
                "ports": [port(8443, "TCP")],
            },
            {"ports": [port(9443, "TCP")]},
        ]),
    )?;
    same(
        &policy["egress"],
        &json!([
            {"ports": [port(53, "UDP"), port(53, "TCP")]},
            {"ports": [port(443, "TCP"), port(6443, "TCP")]},
            {
                "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [port(5432, "TCP"), port(443, "TCP")],
            },
            {"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}]},
        ]),
    )?;
    let ingress = |values: &[&str]| -> Result<Value> {
        let objects: Objects = set(chart, values)?;
        Ok(objects.of("NetworkPolicy").next().context("no policy")?["spec"]["ingress"].clone())
    };
    let moved = ingress(&["networkPolicy.enabled=true", "metrics.bindAddress=:9100"])?;
    same(&moved[1]["ports"][0]["port"], 9100)?;
    let off = ingress(&["networkPolicy.enabled=true", "metrics.enabled=false", "webhooks.enabled=false"])?;
    same(off.as_array().map(Vec::len), Some(1))
}

fn no_policy(chart: &Chart) -> Result<()> {
    same(set(chart, &[])?.of("NetworkPolicy").count(), 0)
}

fn budget(chart: &Chart) -> Result<()> {
    same(set(chart, &["replicaCount=2"])?.of("PodDisruptionBudget").count(), 0)?;
    same(set(chart, &["podDisruptionBudget.enabled=true"])?.of("PodDisruptionBudget").count(), 0)?;
    let objects = with_file(chart, "ci/full-values.yaml")?;
    let budget = &objects.of("PodDisruptionBudget").next().context("no budget")?["spec"];
    same(&budget["minAvailable"], 1)?;
    let selector = &objects.deployment()?["spec"]["selector"];
    ensure!(budget["selector"] == *selector, "{budget}");
    let half = ["podDisruptionBudget.enabled=true", "replicaCount=4", "podDisruptionBudget.minAvailable=50%"];
    same(&set(chart, &half)?.of("PodDisruptionBudget").next().context("no budget")?["spec"]["minAvailable"], "50%")
}
