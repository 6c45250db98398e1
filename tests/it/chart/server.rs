//! What the API server says: every set of values, and the manifests for kustomize, are taken field by field.

use anyhow::Result;
use kollect::lab::ControlPlane;
use kollect::lab::helm::{Chart, Objects};
use kollect::lab::wait::wait_for;
use serde_json::{Value, json};

use super::with_file;
use crate::operator::PATIENCE;
use crate::support::{Definition, Ground, repository_file};

/// Kinds of the Prometheus operator and of cert-manager, with the fields that the chart uses and no others.
const FOREIGN: [Definition<'_>; 4] = [
    Definition {
        group: "monitoring.coreos.com",
        kind: "ServiceMonitor",
        plural: "servicemonitors",
        scope: "Namespaced",
        schema: r"
type: object
properties:
  spec:
    type: object
    required: [endpoints, selector]
    properties:
      selector: {type: object, properties: {matchLabels: {type: object, additionalProperties: {type: string}}}}
      endpoints:
        type: array
        items:
          type: object
          properties:
            port: {type: string}
            path: {type: string}
            scheme: {type: string, enum: [http, https]}
            interval: {type: string, pattern: '^[0-9]+(ms|s|m|h)$'}
            scrapeTimeout: {type: string, pattern: '^[0-9]+(ms|s|m|h)$'}
            bearerTokenFile: {type: string}
            tlsConfig:
              type: object
              properties:
                insecureSkipVerify: {type: boolean}
                serverName: {type: string}
                ca:
                  type: object
                  properties:
                    secret:
                      type: object
                      required: [key]
                      properties: {name: {type: string}, key: {type: string}}
",
    },
    Definition {
        group: "monitoring.coreos.com",
        kind: "PrometheusRule",
        plural: "prometheusrules",
        scope: "Namespaced",
        schema: r"
type: object
properties:
  spec:
    type: object
    properties:
      groups:
        type: array
        items:
          type: object
          required: [name]
          properties:
            name: {type: string}
            interval: {type: string}
            rules:
              type: array
              items:
                type: object
                required: [expr]
                properties:
                  alert: {type: string}
                  record: {type: string}
                  expr: {x-kubernetes-int-or-string: true}
                  for: {type: string, pattern: '^[0-9]+(ms|s|m|h)$'}
                  keep_firing_for: {type: string}
                  labels: {type: object, additionalProperties: {type: string}}
                  annotations: {type: object, additionalProperties: {type: string}}
",
    },
    Definition {
        group: "cert-manager.io",
        kind: "Issuer",
        plural: "issuers",
        scope: "Namespaced",
        schema: r"
type: object
properties:
  spec: {type: object, properties: {selfSigned: {type: object}}}
",
    },
    Definition {
        group: "cert-manager.io",
        kind: "Certificate",
        plural: "certificates",
        scope: "Namespaced",
        schema: r"
type: object
properties:
  spec:
    type: object
    required: [secretName, issuerRef]
    properties:
      secretName: {type: string}
      dnsNames: {type: array, items: {type: string}}
      issuerRef: {type: object, required: [name], properties: {name: {type: string}, kind: {type: string}}}
",
    },
];

async fn dry_run(api: &ControlPlane, manifests: &str) -> Result<String> {
    // What was just created may not be known to every part of the API server yet.
    wait_for("an answer to a dry run", PATIENCE, || async { api.dry_run(manifests) }).await
}

#[tokio::test]
async fn every_set_of_values_is_taken_by_the_api_server() {
    let Some(ground) = Ground::shared("chart").await else { return };
    let api = ground.api();
    api.apply(&FOREIGN.map(|definition| definition.manifest()).concat()).unwrap();
    for namespace in ["team-a", "kollect-tenant-ops"] {
        ground.create_namespace(namespace).await.unwrap();
    }
    let chart = Chart::own();
    let mut sets = vec!["values.yaml".to_owned(), "values-minimal-rbac.yaml".to_owned()];
    for entry in std::fs::read_dir(chart.file("ci")).unwrap() {
        sets.push(format!("ci/{}", entry.unwrap().file_name().to_string_lossy()));
    }
    assert!(sets.len() >= 8, "{sets:?}");
    let mut taken = 0;
    for values in sets {
        let values_file = chart.file(&values).display().to_string();
        let rendered = chart.render(&["--values", &values_file]).unwrap();
        let answer = dry_run(api, &rendered).await.unwrap_or_else(|error| panic!("{values}: {error:#}"));
        let objects = Objects::parse(&rendered).unwrap().0.len();
        assert_eq!(
            answer.lines().filter(|line| line.contains("(server dry run)")).count(),
            objects,
            "{values}: {answer}"
        );
        taken += objects;

        // A Deployment is taken whatever its pods are; Pod Security speaks when there is one.
        let pod = pod(&with_file(&chart, &values).unwrap(), &ground.namespace).unwrap();
        restrict(&ground);
        let answer = dry_run(api, &pod.to_string()).await.unwrap_or_else(|error| panic!("{values}: {error:#}"));
        assert!(answer.contains("pod/kollect created"), "{answer}");
    }
    assert!(taken > 60, "{taken}");

    // The level that lets the pod pass lets no other pass.
    let mut pod = pod(&with_file(&chart, "values.yaml").unwrap(), &ground.namespace).unwrap();
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let refused = api.dry_run(&pod.to_string()).unwrap_err();
    assert!(format!("{refused:#}").contains("violates PodSecurity"), "{refused:#}");
}

fn restrict(ground: &Ground) {
    let label = "pod-security.kubernetes.io/enforce=restricted";
    ground.api().kubectl(&["label", "--overwrite", "namespace", &ground.namespace, label]).unwrap();
}

/// Returns the pod that a Deployment would make. Classes and accounts are of the cluster, so it goes without.
fn pod(objects: &Objects, namespace: &str) -> Result<Value> {
    let mut spec = objects.pod()?.clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("priorityClassName");
        fields.remove("serviceAccountName");
        fields.insert("automountServiceAccountToken".into(), json!(false));
    }
    Ok(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kollect", "namespace": namespace}, "spec": spec}),
    )
}

#[tokio::test]
async fn manifests_for_kustomize_are_taken_and_grant_what_the_chart_grants() {
    let Some(ground) = Ground::shared("kustomize").await else { return };
    let api = ground.api();
    let build = |dir: &str| api.kubectl(&["kustomize", repository_file(dir).to_str().unwrap()]).unwrap();
    for dir in ["config/default", "config/overlays/dev"] {
        let rendered = build(dir);
        let answer = dry_run(api, &rendered).await.unwrap_or_else(|error| panic!("{dir}: {error:#}"));
        let objects = Objects::parse(&rendered).unwrap();
        let taken = answer.lines().filter(|line| line.contains("(server dry run)")).count();
        assert_eq!(taken, objects.0.len(), "{answer}");
        assert_eq!(objects.of("CustomResourceDefinition").count(), kollect::api::crds().len());
        // Three roles for people for each of six kinds.
        let helpers = |role: &&Value| role["metadata"]["name"].as_str().is_some_and(|name| name.ends_with("-role"));
        assert_eq!(objects.of("ClusterRole").filter(helpers).count(), 18);
    }
    let base = Objects::parse(&build("config/default")).unwrap();
    assert!(base.0.iter().all(|object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        name.starts_with("kollect-") || name.ends_with(".kollect.dev")
    }));
    let chart = Chart::own().objects(&[]).unwrap();
    for (ours, theirs) in [(&base, &chart)] {
        let (ours, theirs) = (ours.container().unwrap(), theirs.container().unwrap());
        for field in ["command", "livenessProbe", "readinessProbe", "securityContext", "volumeMounts", "image"] {
            assert_eq!(ours[field], theirs[field], "{field}");
        }
    }
    let args = base.args().unwrap();
    let of_chart = chart.args().unwrap();
    // Webhooks are registered by the chart alone.
    let common = |arg: &&String| *arg != "--validating-webhooks-enabled=false";
    assert!(args.iter().filter(common).all(|arg| of_chart.contains(arg)), "{args:?} are not all in {of_chart:?}");
    assert!(args.contains(&"--metrics-bind-address=:8443".to_owned()));
    assert_eq!(
        base.container().unwrap()["resources"],
        json!({
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "128Mi", "ephemeral-storage": "1Gi"},
        })
    );
    assert!(build("config/overlays/dev").contains("--enable-pprof"));
}
