//! Roles: what is used, nothing more, and the same as the manifests for kustomize grant.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use kollect::lab::helm::{Chart, NAMESPACE, Objects};
use serde_json::{Value, json};

use super::{Claim, same, set, with_file};
use crate::support::repository_file;

pub(super) const CLAIMS: &[Claim] = &[
    ("the roles are those of config/rbac", as_in_config),
    (
        "nothing but our own kinds, Events, the lease, reviews and the certificate can be written, and nothing by a wildcard",
        least,
    ),
    ("without RBAC there is no role and no binding", off),
    ("in tenant mode nothing is cluster-scoped", tenant),
    ("a tenant may do nothing that the platform may not", tenant_is_less),
    ("rules of the user are added where the operator reads", extra_rules),
    ("the operator may read metrics, then whoever is named, and only where tokens are checked", reader),
    ("Events are core Events", events),
];

/// One thing that a rule permits: group, resource or path, name, verb.
type Right = (String, String, String, String);

/// Spreads the rules of a role.
fn rights(role: &Value) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().context("a role without rules")? {
        let list = |key: &str| -> Vec<String> {
            let all = rule[key].as_array().into_iter().flatten();
            all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let or_empty = |list: Vec<String>| if list.is_empty() { vec![String::new()] } else { list };
        let mut things: Vec<String> = list("resources");
        things.extend(list("nonResourceURLs"));
        for verb in list("verbs") {
            for group in or_empty(list("apiGroups")) {
                for thing in &things {
                    for name in or_empty(list("resourceNames")) {
                        rights.insert((group.clone(), thing.clone(), name, verb.clone()));
                    }
                }
            }
        }
    }
    Ok(rights)
}

fn of_config(file: &str) -> Result<BTreeSet<Right>> {
    let text = std::fs::read_to_string(repository_file("config/rbac").join(file))?;
    rights(&serde_saphyr::from_str(&text)?)
}

fn as_in_config(chart: &Chart) -> Result<()> {
    let objects = set(chart, &[])?;
    for (kind, name, file) in [
        ("ClusterRole", "kollect-manager", "role.yaml"),
        ("Role", "kollect-leader-election", "leader_election_role.yaml"),
        ("ClusterRole", "kollect-metrics-reader", "metrics_reader_role.yaml"),
    ] {
        let (ours, theirs) = (rights(objects.find(kind, name)?)?, of_config(file)?);
        ensure!(
            ours == theirs,
            "{name}: {:?} only in the chart, {:?} only in config/rbac/{file}",
            ours.difference(&theirs).collect::<Vec<_>>(),
            theirs.difference(&ours).collect::<Vec<_>>(),
        );
    }
    let plain = rights(set(chart, &["metrics.secure=false"])?.find("ClusterRole", "kollect-manager")?)?;
    ensure!(!plain.iter().any(|(group, ..)| group.starts_with("auth")), "nobody's token is looked at");
    Ok(())
}

/// Returns all roles, for the cluster and for namespaces.
fn roles(objects: &Objects) -> impl Iterator<Item = &Value> {
    objects.of("Role").chain(objects.of("ClusterRole"))
}

fn least(chart: &Chart) -> Result<()> {
    for values in ["values.yaml", "values-minimal-rbac.yaml"] {
        for role in roles(&with_file(chart, values)?) {
            for (group, resource, name, verb) in rights(role)? {
                let all = [&group, &resource, &name, &verb];
                ensure!(all.iter().all(|part| *part != "*"), "a wildcard: {all:?}");
                let written = match group.as_str() {
                    "kollect.dev" => !resource.contains("scope") && !resource.contains("profile"),
                    "coordination.k8s.io" => resource == "leases",
                    "" if resource == "secrets" => name == "webhook-server-cert" && verb == "update",
                    "" => resource == "events" && matches!(verb.as_str(), "create" | "patch"),
                    "admissionregistration.k8s.io" => {
                        name == "kollect-validating-webhook-configuration" && verb == "patch"
                    }
                    "authentication.k8s.io" => resource == "tokenreviews" && verb == "create",
                    "authorization.k8s.io" => resource == "subjectaccessreviews" && verb == "create",
                    _ => false,
                };
                ensure!(written || matches!(verb.as_str(), "get" | "list" | "watch"), "{values}: {all:?}");
                ensure!(resource != "secrets" || verb != "create", "{all:?}");
            }
        }
    }
    Ok(())
}

fn off(chart: &Chart) -> Result<()> {
    for mode in ["tenantMode=true", "tenantMode=false"] {
        let objects = set(chart, &["rbac.create=false", "metrics.authReviews.create=true", mode])?;
        let left: Vec<_> =
            objects.0.iter().filter(|object| object["apiVersion"] == "rbac.authorization.k8s.io/v1").collect();
        ensure!(left.is_empty(), "{mode}: {left:?}");
    }
    Ok(())
}

/// Kinds of this chart that have no namespace.
const CLUSTER_SCOPED: [&str; 3] = ["ClusterRole", "ClusterRoleBinding", "Namespace"];

fn tenant(chart: &Chart) -> Result<()> {
    for objects in [
        with_file(chart, "values-minimal-rbac.yaml")?,
        with_file(chart, "ci/e2e-tenant-mode-values.yaml")?,
        set(chart, &["tenantMode=true", "metrics.readerRole.create=true", "networkPolicy.enabled=true"])?,
    ] {
        for object in &objects.0 {
            let kind = object["kind"].as_str().unwrap_or_default();
            ensure!(!CLUSTER_SCOPED.contains(&kind), "{kind} {}", object["metadata"]["name"]);
            ensure!(object["metadata"]["namespace"].is_string(), "{kind} names no namespace");
        }
    }
    // Rights in each namespace, the one of the release among them, for the one account.
    let objects = set(chart, &["tenantMode=true", "watchNamespaces={team-a,team-b}"])?;
    for kind in ["Role", "RoleBinding"] {
        let all = objects.of(kind).filter(|role| role["metadata"]["name"] == "kollect-manager");
        let namespaces: BTreeSet<&str> = all.filter_map(|role| role["metadata"]["namespace"].as_str()).collect();
        same(namespaces, BTreeSet::from([NAMESPACE, "team-a", "team-b"]))?;
    }
    for binding in objects.of("RoleBinding") {
        same(&binding["subjects"][0]["namespace"], NAMESPACE)?;
        same(&binding["roleRef"]["kind"], "Role")?;
    }
    // Whoever wants secure metrics in spite of it asks for it.
    let asked = set(chart, &["tenantMode=true", "metrics.authReviews.create=true"])?;
    let cluster: Vec<&Value> = asked.of("ClusterRole").collect();
    same(cluster.len(), 1)?;
    let reviews = ["authentication.k8s.io", "authorization.k8s.io"];
    for right in rights(cluster.first().context("no ClusterRole")?)? {
        ensure!(reviews.contains(&right.0.as_str()) && right.3 == "create", "{right:?}");
    }
    same(asked.of("ClusterRoleBinding").count(), 1)
}

fn tenant_is_less(chart: &Chart) -> Result<()> {
    let platform = rights(set(chart, &[])?.find("ClusterRole", "kollect-manager")?)?;
    let tenant = rights(set(chart, &["tenantMode=true"])?.find("Role", "kollect-manager")?)?;
    ensure!(tenant.is_subset(&platform), "{:?}", tenant.difference(&platform).collect::<Vec<_>>());
    let collected: Vec<&Right> =
        tenant.iter().filter(|(group, ..)| !matches!(group.as_str(), "" | "kollect.dev")).collect();
    ensure!(collected.is_empty(), "{collected:?}");
    ensure!(!tenant.iter().any(|(_, resource, ..)| resource.contains("cluster")), "{tenant:?}");
    // What it is for: to read its namespaces and the Secrets of sinks, and to keep the namespaced kinds.
    for resource in ["namespaces", "secrets", "kollecttargets", "kollectinventories/status", "kollectscopes"] {
        ensure!(tenant.iter().any(|(_, name, ..)| name == resource), "no right on {resource}");
    }
    Ok(())
}

fn extra_rules(chart: &Chart) -> Result<()> {
    let rule = r#"rbac.extraRules=[{"apiGroups":["batch"],"resources":["cronjobs"],"verbs":["list","watch"]}]"#;
    let want: Right = ("batch".into(), "cronjobs".into(), String::new(), "watch".into());
    let platform = chart.objects(&["--set-json", rule])?;
    ensure!(rights(platform.find("ClusterRole", "kollect-manager")?)?.contains(&want), "not for the platform");
    let tenant = chart.objects(&["--set-json", rule, "--set", "tenantMode=true,watchNamespaces={team-a}"])?;
    for role in tenant.of("Role").filter(|role| role["metadata"]["name"] == "kollect-manager") {
        ensure!(rights(role)?.contains(&want), "not in {}", role["metadata"]["namespace"]);
    }
    Ok(())
}

fn reader(chart: &Chart) -> Result<()> {
    let readers = |values: &[&str]| -> Result<Vec<Value>> {
        let objects = set(chart, values)?;
        Ok(objects.0.into_iter().filter(|object| object["metadata"]["name"] == "kollect-metrics-reader").collect())
    };
    let default = readers(&[])?;
    same(default.len(), 2)?;
    same(&default[0]["rules"], &json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]))?;
    let operator = json!({"kind": "ServiceAccount", "name": "kollect-controller-manager", "namespace": NAMESPACE});
    same(&default[1]["subjects"], &json!([operator]))?;
    let extra = json!({"kind": "ServiceAccount", "name": "prometheus-k8s", "namespace": "monitoring"});
    let named = with_file(chart, "ci/monitoring-values.yaml")?;
    same(&named.find("ClusterRoleBinding", "kollect-metrics-reader")?["subjects"], &json!([operator, extra]))?;
    for off in [
        "metrics.secure=false",
        "metrics.enabled=false",
        "metrics.readerRole.create=false",
        "rbac.create=false",
        "tenantMode=true",
    ] {
        same(readers(&[off])?.len(), 0).with_context(|| off)?;
    }
    Ok(())
}

fn events(chart: &Chart) -> Result<()> {
    for (mode, kind) in [("tenantMode=false", "ClusterRole"), ("tenantMode=true", "Role")] {
        let objects = set(chart, &[mode])?;
        let all = rights(objects.find(kind, "kollect-manager")?)?;
        let groups: BTreeSet<&str> =
            all.iter().filter(|(_, resource, ..)| resource == "events").map(|(group, ..)| group.as_str()).collect();
        same(groups, BTreeSet::from([""]))?;
    }
    Ok(())
}
