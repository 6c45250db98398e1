//! The samples that people copy, over objects of their kinds as an API server keeps them: what arrives is what the page says.

use serde_json::{Value, json};

use super::stored;
use crate::operator::Job;
use crate::support::{Definition, repository_file};

/// Each sample; its objects are in `tests/fixtures/objects`, but for the release, which is on the page.
const SAMPLES: [&str; 8] = [
    "argocd-applications",
    "certificates",
    "deployment-images",
    "helm-releases",
    "ingress-hosts",
    "namespace-owners",
    "pod-images",
    "service-endpoints",
];

const MAY_LIST_THEM: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: samples}
rules:
- apiGroups: ['', apps, argoproj.io, cert-manager.io, discovery.k8s.io, networking.k8s.io]
  resources: [applications, certificates, deployments, endpointslices, ingresses, namespaces, pods, secrets]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: samples}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: samples}
subjects: [{kind: ServiceAccount, name: kollect-controller-manager, namespace: kollect-system}]
---
";

/// Returns the kinds that others define, and the rights to read all.
pub(super) fn prerequisites() -> String {
    let application =
        Definition { group: "argoproj.io", kind: "Application", plural: "applications", ..Definition::default() };
    let certificate =
        Definition { group: "cert-manager.io", kind: "Certificate", plural: "certificates", ..Definition::default() };
    let application = application.manifest().replace(r#""name":"v1""#, r#""name":"v1alpha1""#);
    [&application, &certificate.manifest(), MAY_LIST_THEM].concat()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository_file(path)).unwrap()
}

/// Returns the first block of JSON below a heading of the page.
fn block(heading: &str) -> Value {
    let page = read("docs/expressions.md");
    let (_, below) = page.split_once(&format!("\n{heading}")).unwrap_or_else(|| panic!("no heading {heading}"));
    let (_, block) = below.split_once("```json\n").unwrap();
    serde_json::from_str(block.split("```").next().unwrap()).unwrap()
}

/// Returns an object of a sample as somebody would create it, and the status that it comes to.
fn object(job: &Job, sample: &str, kind: &Value) -> (Value, Value) {
    let mut object = if sample == "helm-releases" {
        let release = super::base64(&stored(block("## Helm releases").to_string().as_bytes()));
        json!({"type": "helm.sh/release.v1", "data": {"release": release},
            "metadata": {"name": "sh.helm.release.v1.my-app.v2", "labels": {"owner": "helm", "status": "deployed"}}})
    } else {
        serde_json::from_str(&read(&format!("tests/fixtures/objects/{sample}.json"))).unwrap()
    };
    let (group, version) = (kind["group"].as_str().unwrap_or_default(), kind["version"].as_str().unwrap());
    object["apiVersion"] = if group.is_empty() { json!(version) } else { json!(format!("{group}/{version}")) };
    object["kind"] = kind["kind"].clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for of_server in ["uid", "resourceVersion", "generation", "generateName", "creationTimestamp", "finalizers"] {
        metadata.remove(of_server);
    }
    if sample != "namespace-owners" {
        metadata.insert("namespace".to_owned(), json!(job.namespace()));
    }
    // Kinds that others define have no status beside the object here.
    let beside = !["argocd-applications", "certificates", "namespace-owners"].contains(&sample);
    let status = object.as_object_mut().unwrap().get_mut("status").filter(|_| beside).map(Value::take);
    if status.is_some() {
        object.as_object_mut().unwrap().remove("status");
    }
    (object, status.unwrap_or_default())
}

/// Creates the owner of the Pod, without which it would be collected as garbage; returns its UID.
fn owned(job: &Job, name: &str) -> String {
    let template =
        json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "shop", "image": "i"}]}});
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": job.namespace()},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "shop"}}, "template": template}});
    job.apply(&owner.to_string()).unwrap();
    job.kubectl(&["-n", job.namespace(), "get", "replicaset", name, "-o=jsonpath={.metadata.uid}"])
}

/// Applies each sample with an object of its kind, and waits for its row.
pub(super) async fn samples(job: &Job) {
    let mut manifests = vec![format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: {}}}}}",
        job.namespace()
    )];
    let (mut names, mut statuses) = (Vec::new(), Vec::new());
    for sample in SAMPLES {
        let text = read(&format!("config/samples/profiles/{sample}.yaml"));
        let (profile, target) = text.split_once("\n---\n").unwrap();
        let [mut profile, mut target]: [Value; 2] = [profile, target].map(|text| serde_saphyr::from_str(text).unwrap());
        let (mut object, status) = object(job, sample, &profile["spec"]["targetGVK"]);
        if let Some(owner) = object.pointer_mut("/metadata/ownerReferences/0") {
            owner["uid"] = json!(owned(job, owner["name"].as_str().unwrap()));
        }
        for ours in [&mut profile, &mut target] {
            ours["metadata"]["namespace"] = json!(job.namespace());
        }
        // Other parts of this test have objects of these kinds.
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if sample != "helm-releases" {
            target["spec"]["names"] = json!([name]);
        }
        if !status.is_null() {
            statuses.push((format!("{}/{name}", object["kind"].as_str().unwrap().to_lowercase()), status));
        }
        manifests.extend([object, profile, target].map(|object| object.to_string()));
        names.push(name);
    }
    job.apply(&manifests.join("\n---\n")).unwrap();
    for (object, status) in statuses {
        let patch = format!("--patch={}", json!({ "status": status }));
        job.kubectl(&["-n", job.namespace(), "patch", &object, "--subresource=status", "--type=merge", &patch]);
    }
    for (sample, name) in SAMPLES.into_iter().zip(&names) {
        let mut want = block(&format!("### [{sample}]"));
        if sample == "namespace-owners" {
            want["created"] =
                json!(job.kubectl(&["get", "namespace", name, "-o=jsonpath={.metadata.creationTimestamp}"]));
        }
        job.extracts(sample, &[(name, want)]).await;
    }
}
