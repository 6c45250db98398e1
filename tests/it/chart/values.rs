//! Values: what is refused, what is warned of, and that nothing is forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kollect::lab::helm::{Chart, Objects};
use kollect::lab::process::Guard;
use serde_json::{Map, Value};

use super::{Claim, refusal, same};

pub(super) const CLAIMS: &[Claim] = &[
    ("a value of a wrong type is refused by the schema, by name", schema),
    ("what is not served is refused by name", not_served),
    ("values that cannot work together are refused by name", contradictions),
    ("what has no effect is warned of", warnings),
    ("every value has its place in the schema, and the other way round", schema_is_complete),
    ("every value at the top is known to the notes", known),
    ("the chart has the version of the program", version),
    ("the definitions lie in the chart", definitions),
];

fn schema(chart: &Chart) -> Result<()> {
    for (value, names) in [
        ("resourcesProfile=huge", "/resourcesProfile"),
        ("mode=fleet", "/mode"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("featureGates.inventoryHttp.authMode=basic", "/featureGates/inventoryHttp/authMode"),
        ("featureGates.inventoryHttp.port=0", "/featureGates/inventoryHttp/port"),
        ("featureGates.inventoryHttp.port=65536", "/featureGates/inventoryHttp/port"),
        ("watchNamespaces={team-a,}", "/watchNamespaces/1"),
        ("watchNamespaces=team-a", "/watchNamespaces"),
        ("scrubKeys={a b}", "/scrubKeys/0"),
        ("defaultExcludedNamespaces={7}", "/defaultExcludedNamespaces/0"),
        ("replicaCount=two", "/replicaCount"),
        ("tenantMode=perhaps", "/tenantMode"),
        ("allowPrivateSinks=1", "/allowPrivateSinks"),
        ("collect.dispatchWorkers=0", "/collect/dispatchWorkers"),
        ("controller.informerResyncPeriod=12 hours", "/controller/informerResyncPeriod"),
        ("metrics.bindAddress=8443", "/metrics/bindAddress"),
        ("metrics.bindAddress=everywhere", "/metrics/bindAddress"),
        ("rbac.extraRules[0].verbs={*}", "/rbac/extraRules/0"),
        ("rbac.extraRules[0].verbs={list,delete}", "/rbac/extraRules/0/verbs/1"),
        ("podDisruptionBudget.enabled=7", "/podDisruptionBudget/enabled"),
        ("gitMirror.accessMode=Write", "/gitMirror/accessMode"),
        ("networkPolicy.sinks[0].ports={99999}", "/networkPolicy/sinks/0"),
    ] {
        let said = refusal(chart, &[value])?;
        ensure!(said.contains("schema") && said.contains(&format!("'{names}'")), "{value}: {said}");
    }
    Ok(())
}

fn not_served(chart: &Chart) -> Result<()> {
    for value in ["featureGates.inventoryHttp.enabled", "oauth2Proxy.enabled", "ui.enabled", "ui.ingress.enabled"] {
        let said = refusal(chart, &[&format!("{value}=true")])?;
        ensure!(said.contains(value), "{value}: {said}");
    }
    let said = refusal(chart, &["controller.reconcileRateLimit=5s"])?;
    ensure!(said.contains("controller.reconcileRateLimit: "), "{said}");
    Ok(())
}

fn contradictions(chart: &Chart) -> Result<()> {
    let said = refusal(chart, &["replicaCount=2", "leaderElection.enabled=false"])?;
    ensure!(said.contains("replicaCount: "), "{said}");
    let said = refusal(chart, &["webhooks.certManager.create=true", "webhooks.caBundle=pem"])?;
    ensure!(said.contains("webhooks.caBundle: "), "{said}");
    let said = refusal(chart, &["replicaCount=2", "gitMirror.enabled=true"])?;
    ensure!(said.contains("gitMirror.accessMode: "), "{said}");
    Ok(())
}

/// Renders the notes, which Helm shows only when it installs, by way of an object.
fn notes(chart: &Chart, values: &[&str]) -> Result<String> {
    let guard = Arc::new(Guard::start()?);
    let copy = chart.copy(&guard)?;
    fs::copy(copy.file("templates/NOTES.txt"), copy.file("notes.txt"))?;
    fs::write(
        copy.file("templates/notes.yaml"),
        "kind: Notes\ntext: {{ tpl (.Files.Get \"notes.txt\") . | toJson }}\n",
    )?;
    let options: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    let objects = Objects::parse(&copy.render(&options)?)?;
    let text = &objects.of("Notes").next().context("no notes")?["text"];
    Ok(text.as_str().context("the notes are no text")?.to_owned())
}

fn warnings(chart: &Chart) -> Result<()> {
    let default = notes(chart, &[])?;
    ensure!(!default.contains("WARNING"), "{default}");
    ensure!(
        default.contains("delete kollectinventories,kollectclusterinventories --all --all-namespaces"),
        "{default}"
    );
    ensure!(default.contains("https://kollect-controller-manager.kollect-system.svc:8443/metrics"), "{default}");
    let team = notes(chart, &["tenantMode=true", "watchNamespaces={team-a,team-b}"])?;
    ensure!(team.contains("--all --namespace team-a\n") && team.contains("--all --namespace team-b\n"), "{team}");
    ensure!(!team.contains("all-namespaces"), "{team}");
    ensure!(team.contains("In tenant mode there are no webhooks") && !default.contains("In tenant mode"), "{team}");
    let monitor = "metrics.serviceMonitor.enabled=true";
    let reader = "metrics.readerRole.extraSubjects[0].kind=ServiceAccount,metrics.readerRole.extraSubjects[0].name=p";
    let cases: [(&[&str], &str, bool); 12] = [
        (&["colect.dispatchWorkers=8"], "\"colect\"", true),
        (&["collect.dispatchWorkers=8", "global.a=b"], "\"", false),
        (&["createNamespace=true"], "--create-namespace", true),
        (&["podDisruptionBudget.enabled=true"], "podDisruptionBudget", true),
        (&[monitor], "metrics.readerRole.extraSubjects", true),
        (&[monitor, reader], "metrics.readerRole.extraSubjects", false),
        (&[monitor, "metrics.secure=false"], "metrics.readerRole.extraSubjects", false),
        (&[monitor, "metrics.enabled=false"], "metrics are off", true),
        (&["rbac.create=false"], "webhooks.enabled=false", true),
        (&["rbac.create=false", "webhooks.enabled=false"], "webhooks.enabled=false", false),
        (&["tenantMode=true"], "metrics.authReviews.create", true),
        (&["tenantMode=true", "metrics.authReviews.create=true"], "metrics.authReviews.create", false),
    ];
    for (values, what, warned) in cases {
        let notes = notes(chart, values)?;
        let found = notes.split("WARNING").skip(1).any(|warning| warning.contains(what));
        ensure!(found == warned, "{values:?}: {notes}");
    }
    Ok(())
}

/// Collects the paths of all values. What has fields only by example, such as labels, is a value.
fn paths(prefix: &str, values: &Map<String, Value>, schema: &Value, all: &mut BTreeSet<String>) {
    for (key, value) in values {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let schema = &schema["properties"][key];
        match value.as_object() {
            Some(fields) if schema["properties"].is_object() && !fields.is_empty() => paths(&path, fields, schema, all),
            _ => {
                all.insert(path);
            }
        }
    }
}

/// Collects the paths of all properties.
fn properties(prefix: &str, schema: &Value, all: &mut BTreeSet<String>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        // An object that is empty by default has its fields from the user.
        if property["properties"].is_object() && path != "metrics.serviceMonitor.caSecret" {
            properties(&path, property, all);
        } else {
            all.insert(path);
        }
    }
}

fn schema_is_complete(chart: &Chart) -> Result<()> {
    let values: Value = serde_saphyr::from_str(&chart.read("values.yaml")?)?;
    let schema: Value = serde_json::from_str(&chart.read("values.schema.json")?)?;
    let (mut have, mut want) = (BTreeSet::new(), BTreeSet::new());
    paths("", values.as_object().context("no values")?, &schema, &mut have);
    properties("", &schema, &mut want);
    let difference: Vec<&String> = have.symmetric_difference(&want).collect();
    ensure!(difference.is_empty(), "in one of values.yaml and values.schema.json alone: {difference:?}");
    Ok(())
}

fn known(chart: &Chart) -> Result<()> {
    let values: Value = serde_saphyr::from_str(&chart.read("values.yaml")?)?;
    let mut want: BTreeSet<&str> = values.as_object().context("no values")?.keys().map(String::as_str).collect();
    want.insert("global");
    let checks = chart.read("templates/_checks.tpl")?;
    let (_, list) = checks.split_once("define \"kollect.knownValues\" -}}").context("no list")?;
    let (list, _) = list.split_once("{{-").context("no end of the list")?;
    same(list.split_whitespace().collect::<BTreeSet<_>>(), want)
}

fn version(chart: &Chart) -> Result<()> {
    let about: Value = serde_saphyr::from_str(&chart.read("Chart.yaml")?)?;
    same(
        (&about["version"], &about["appVersion"]),
        (&env!("CARGO_PKG_VERSION").into(), &env!("CARGO_PKG_VERSION").into()),
    )?;
    same(&about["kubeVersion"], ">=1.28.0-0")
}

fn definitions(chart: &Chart) -> Result<()> {
    let objects = chart.objects(&["--include-crds"])?;
    same(objects.of("CustomResourceDefinition").count(), kollect::api::crds().len())?;
    same(chart.objects(&[])?.of("CustomResourceDefinition").count(), 0)
}
