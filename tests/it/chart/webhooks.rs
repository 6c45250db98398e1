//! The webhooks: what the API server is told of them, and who makes their certificate.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use kollect::api::v1alpha1::Kind;
use kollect::lab::helm::{Chart, NAMESPACE, Objects};
use serde_json::{Value, json};

use super::{Claim, same, set, with_file};

pub(super) const CLAIMS: &[Claim] = &[
    ("every kind has its webhook, in the published order, and none holds up a deletion", registered),
    ("an operator of some namespaces has nothing said about others, nor about kinds without one", bounded),
    ("the certificate of the webhooks is made by one party, which has the rights for that", certificate),
];

const CONFIGURATION: &str = "kollect-validating-webhook-configuration";
/// The published order.
const ORDER: [Kind; 11] = [
    Kind::ClusterInventory,
    Kind::ClusterScope,
    Kind::ClusterTarget,
    Kind::ConnectionTest,
    Kind::DatabaseSink,
    Kind::EventSink,
    Kind::Inventory,
    Kind::Profile,
    Kind::Scope,
    Kind::SnapshotSink,
    Kind::Target,
];

fn configuration(objects: &Objects) -> Result<&Value> {
    objects.find("ValidatingWebhookConfiguration", CONFIGURATION)
}

fn registered(chart: &Chart) -> Result<()> {
    let objects = set(chart, &[])?;
    let webhooks = configuration(&objects)?["webhooks"].as_array().context("no webhooks")?;
    same(webhooks.len(), ORDER.len())?;
    for (webhook, kind) in webhooks.iter().zip(ORDER) {
        let singular = kind.as_str().to_lowercase();
        same(&webhook["name"], &json!(format!("v{singular}.kb.io")))?;
        let path = format!("/validate-kollect-dev-v1alpha1-{singular}");
        let service = json!({"name": "kollect-webhook-service", "namespace": NAMESPACE, "path": path});
        same(&webhook["clientConfig"], &json!({ "service": service }))?;
        same(
            &webhook["rules"],
            &json!([{
                "apiGroups": ["kollect.dev"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
                "resources": [kind.plural()],
            }]),
        )?;
        same((&webhook["failurePolicy"], &webhook["sideEffects"]), (&json!("Fail"), &json!("None")))?;
        same(&webhook["admissionReviewVersions"], &json!(["v1"]))?;
        let conditions = webhook["matchConditions"].as_array().context("no conditions")?;
        let conditions: Vec<&str> = conditions.iter().filter_map(|one| one["expression"].as_str()).collect();
        let account = format!("system:serviceaccount:{NAMESPACE}:kollect-controller-manager");
        same(
            conditions,
            ["!has(object.metadata.deletionTimestamp)".to_owned(), format!("request.userInfo.username != '{account}'")],
        )?;
    }
    let service = &objects.find("Service", "kollect-webhook-service")?["spec"];
    same(&service["ports"], &json!([{"name": "webhook-server", "port": 443, "targetPort": "webhook-server"}]))?;
    same(&service["selector"], &objects.deployment()?["spec"]["selector"]["matchLabels"])?;
    let lenient = set(chart, &["webhooks.failurePolicy=Ignore"])?;
    same(&configuration(&lenient)?["webhooks"][0]["failurePolicy"], "Ignore")?;
    for off in ["webhooks.enabled=false", "tenantMode=true"] {
        let objects = set(chart, &[off])?;
        same(objects.of("ValidatingWebhookConfiguration").count(), 0)?;
        ensure!(objects.find("Service", "kollect-webhook-service").is_err(), "{off}: a Service without a server");
    }
    Ok(())
}

fn bounded(chart: &Chart) -> Result<()> {
    let whole = set(chart, &[])?;
    let everywhere = configuration(&whole)?["webhooks"].as_array().context("no webhooks")?;
    ensure!(everywhere.iter().all(|webhook| webhook.get("namespaceSelector").is_none()), "all namespaces are bound");
    let objects = set(chart, &["watchNamespaces={team-a,team-b}"])?;
    let webhooks = configuration(&objects)?["webhooks"].as_array().context("no webhooks")?;
    let names: Vec<&str> = webhooks.iter().filter_map(|webhook| webhook["name"].as_str()).collect();
    let kinds = ORDER.into_iter().filter(|kind| !kind.as_str().starts_with("KollectCluster"));
    let wanted: Vec<String> = kinds.map(|kind| format!("v{}.kb.io", kind.as_str().to_lowercase())).collect();
    same(names, wanted)?;
    for webhook in webhooks {
        let here = json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "team-b"]});
        same(&webhook["namespaceSelector"], &json!({"matchExpressions": [here]}))?;
    }
    Ok(())
}

fn certificate(chart: &Chart) -> Result<()> {
    let of_webhooks = |objects: &Objects| -> BTreeSet<String> {
        let all = objects.0.iter().filter(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            name.contains("webhook") || name.contains("serving") || name.contains("signed")
        });
        all.map(|object| object["kind"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let kinds = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let registered = ["Service", "ValidatingWebhookConfiguration"];

    let own = set(chart, &[])?;
    let with_rights = ["Secret", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
    same(of_webhooks(&own), kinds(&[&registered[..], &with_rights].concat()))?;
    let secret = own.find("Secret", "webhook-server-cert")?;
    ensure!(secret["data"].is_null() && secret["stringData"].is_null(), "what the operator made would be overwritten");
    same(
        &own.find("Role", "kollect-webhook")?["rules"],
        &json!([{
            "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["webhook-server-cert"],
            "verbs": ["get", "update"],
        }]),
    )?;
    same(
        &own.find("ClusterRole", "kollect-webhook")?["rules"],
        &json!([{
            "apiGroups": ["admissionregistration.k8s.io"], "resources": ["validatingwebhookconfigurations"],
            "resourceNames": [CONFIGURATION], "verbs": ["get", "patch"],
        }]),
    )?;

    let managed = with_file(chart, "ci/e2e-webhook-values.yaml")?;
    same(of_webhooks(&managed), kinds(&[&registered[..], &["Issuer", "Certificate"]].concat()))?;
    let from = &configuration(&managed)?["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    same(from, &json!(format!("{NAMESPACE}/kollect-serving-cert")))?;
    let names = &managed.find("Certificate", "kollect-serving-cert")?["spec"]["dnsNames"];
    let host = format!("kollect-webhook-service.{NAMESPACE}.svc");
    same(names, &json!([host, format!("{host}.cluster.local")]))?;

    let brought = set(chart, &["webhooks.caBundle=pem", "webhooks.certManager.secretName=mine"])?;
    same(of_webhooks(&brought), kinds(&registered))?;
    same(&configuration(&brought)?["webhooks"][10]["clientConfig"]["caBundle"], "cGVt")?;
    for objects in [&managed, &brought] {
        let mounts = objects.container()?["volumeMounts"].as_array().context("no mounts")?;
        let mount = mounts.iter().find(|mount| mount["name"] == "webhook-certs").context("no pair")?;
        same(
            (&mount["mountPath"], &mount["readOnly"]),
            (&json!("/tmp/k8s-webhook-server/serving-certs"), &json!(true)),
        )?;
        let volumes = objects.pod()?["volumes"].as_array().context("no volumes")?;
        let volume = volumes.iter().find(|volume| volume["name"] == "webhook-certs").context("no volume")?;
        same(&volume["secret"]["defaultMode"], 420)?;
    }
    Ok(())
}
