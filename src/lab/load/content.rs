//! What the objects of a load look like: a function of names and one number.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::{mix, reduce};

/// The image of every Deployment until it is patched; nothing ever pulls it.
pub const IMAGE: &str = "registry.k8s.io/pause:3.9";

/// The label of objects that the targets of a load test leave out.
pub const FILTERED_LABEL: &str = "loadtest-filtered";

/// The kind of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Single {
    Deployment,
    ConfigMap,
}

impl Single {
    /// Returns what stands before the number in a name.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Deployment => "dep",
            Self::ConfigMap => "cm",
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        ApiResource::from_gvk(&match self {
            Self::Deployment => GroupVersionKind::gvk("apps", "v1", "Deployment"),
            Self::ConfigMap => GroupVersionKind::gvk("", "v1", "ConfigMap"),
        })
    }

    /// Returns the path of the objects of a namespace.
    pub(super) fn collection(self, namespace: &str) -> String {
        match self {
            Self::Deployment => format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
            Self::ConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
        }
    }

    /// Returns a strategic merge patch that changes one collected value.
    pub(super) fn patch(self, revision: &str) -> Value {
        match self {
            Self::Deployment => json!({"spec": {"template": {"spec": {"containers": [
                {"name": "app", "image": format!("registry.k8s.io/pause:{revision}")},
            ]}}}}),
            Self::ConfigMap => json!({"data": {"revision": revision}}),
        }
    }
}

/// What decides about the content of one object.
pub(super) struct Content<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Chooses among the values.
    pub(super) chance: u64,
    pub(super) replicas: u32,
    /// Labels beside those that every object has.
    pub(super) labels: &'static [(&'static str, &'static str)],
}

impl Content<'_> {
    pub(super) fn of(&self, kind: Single) -> Value {
        let mut object = match kind {
            Single::Deployment => deployment(self),
            Single::ConfigMap => config_map(self),
        };
        if let Some(labels) = object.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.extend(self.labels.iter().map(|(label, value)| ((*label).to_owned(), json!(value))));
        }
        object
    }
}

const TEAMS: [&str; 8] = ["payments", "search", "identity", "checkout", "catalog", "billing", "insights", "platform"];
const TIERS: [&str; 3] = ["frontend", "backend", "batch"];
const LANGUAGES: [&str; 4] = ["go", "java", "rust", "node"];

fn pick<'a>(from: &[&'a str], chance: u64) -> &'a str {
    from[reduce(chance, from.len())]
}

/// A Deployment as teams write them: two containers, probes, resources, environment. About 5 KB in the API server.
fn deployment(content: &Content<'_>) -> Value {
    let Content { namespace, name, chance, replicas, .. } = *content;
    let team = pick(&TEAMS, chance);
    let tier = pick(&TIERS, chance >> 8);
    let language = pick(&LANGUAGES, chance >> 16);
    let version = format!("{}.{}.{}", chance >> 24 & 7, chance >> 32 & 31, chance >> 40 & 63);
    let memory = 64 << (chance >> 48 & 3);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "app": "loadtest",
                "app.kubernetes.io/name": name,
                "app.kubernetes.io/version": version,
                "app.kubernetes.io/component": tier,
                "app.kubernetes.io/part-of": team,
            },
            "annotations": {
                "kollect.dev/owner": format!("team-{team}@example.com"),
                "kollect.dev/description": format!("The {tier} of {team}, written in {language}; restarts are harmless."),
                "checksum/config": format!("{:016x}{:016x}", mix(chance), mix(!chance)),
            },
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": {"app": "loadtest", "dep": name}},
            "template": {
                "metadata": {
                    "labels": {"app": "loadtest", "dep": name, "tier": tier, "team": team},
                    "annotations": {"prometheus.io/scrape": "true"},
                },
                "spec": {
                    "serviceAccountName": "default",
                    "containers": [
                        {
                            "name": "app",
                            "image": IMAGE,
                            "imagePullPolicy": "IfNotPresent",
                            "args": ["--listen=:8080", "--metrics=:9090", format!("--team={team}")],
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "env": [
                                {"name": "LANGUAGE", "value": language},
                                {"name": "TEAM", "value": team},
                                {"name": "LOG_LEVEL", "value": "info"},
                                {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                            ],
                            "resources": {
                                "requests": {"cpu": "100m", "memory": format!("{memory}Mi")},
                                "limits": {"memory": format!("{}Mi", memory * 2)},
                            },
                            "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 20},
                            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5},
                            "volumeMounts": [{"name": "config", "mountPath": "/etc/app", "readOnly": true}],
                        },
                        {
                            "name": "proxy",
                            "image": "registry.example.com/mesh/proxy:1.27.3",
                            "env": [{"name": "UPSTREAM", "value": "127.0.0.1:8080"}],
                            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                        },
                    ],
                    "volumes": [{"name": "config", "configMap": {"name": format!("{name}-config")}}],
                },
            },
        },
    })
}

fn config_map(content: &Content<'_>) -> Value {
    let Content { namespace, name, chance, .. } = *content;
    let team = pick(&TEAMS, chance);
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app": "loadtest", "app.kubernetes.io/part-of": team},
        },
        "data": {
            "team": team,
            "revision": "r0",
            "application.properties": format!("server.port=8080\nteam={team}\nid={chance:016x}\n").repeat(6),
        },
    })
}
