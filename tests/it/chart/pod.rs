//! The pod: image, names, resources, volumes, security.

use anyhow::{Context as _, Result, ensure};
use kollect::lab::helm::{Chart, Objects};
use serde_json::{Value, json};

use super::{Claim, same, set};

pub(super) const CLAIMS: &[Claim] = &[
    ("the image is tagged with the version, and can be any other", image),
    ("names follow the release, and never grow too long for a Service", names),
    ("two releases in one namespace select different pods", selectors),
    ("the pod is as restricted as Pod Security asks for", restricted),
    ("probes, grace and the only writable mount are those of the process", process),
    ("each profile asks for what it says, and values count before it", resources),
    ("ports follow the address of the metrics, and no Service leads to profiles", ports),
    ("mirrors of git have a volume only when asked for", git_mirror),
    ("variables and accounts of the user reach the pod", from_the_user),
    ("two pods never work at the same time", strategy),
];

const NAME: &str = "kollect-controller-manager";

fn image(chart: &Chart) -> Result<()> {
    let image = |values: &[&str]| -> Result<Value> { Ok(set(chart, values)?.container()?["image"].clone()) };
    let default = image(&[])?;
    let tag = default.as_str().and_then(|image| image.strip_prefix("ghcr.io/platformrelay/kollect:v"));
    let numbers: Vec<&str> = tag.with_context(|| default.to_string())?.split('.').collect();
    ensure!(numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()), "{default}");
    same(tag, Some(env!("CARGO_PKG_VERSION")))?;
    same(image(&["image.tag=main"])?, "ghcr.io/platformrelay/kollect:main")?;
    same(image(&["image.repository=registry.example.com/k", "image.tag=v9"])?, "registry.example.com/k:v9")?;
    same(image(&["image.digest=sha256:ab12", "image.tag=v9"])?, "ghcr.io/platformrelay/kollect@sha256:ab12")?;
    let pull = set(chart, &["image.pullPolicy=Always", "imagePullSecrets[0].name=registry"])?;
    same(&pull.container()?["imagePullPolicy"], "Always")?;
    same(&pull.pod()?["imagePullSecrets"], &json!([{"name": "registry"}]))
}

/// Returns the names of Deployment, Service and ServiceAccount, which are one.
fn name(objects: &Objects) -> Result<String> {
    let name = objects.deployment()?["metadata"]["name"].as_str().context("it has no name")?;
    objects.find("Service", name)?;
    objects.find("ServiceAccount", name)?;
    same(&objects.pod()?["serviceAccountName"], name)?;
    Ok(name.to_owned())
}

fn names(chart: &Chart) -> Result<()> {
    let named = |release: &str, values: &[&str]| name(&Objects::parse(&chart.render_as(release, values)?)?);
    same(named("kollect", &[])?, NAME)?;
    same(named("my-kollect", &[])?, "my-kollect-controller-manager")?;
    same(named("fleet", &[])?, "fleet-kollect-controller-manager")?;
    same(named("fleet", &["--set", "nameOverride=rows"])?, "fleet-rows-controller-manager")?;
    same(named("fleet", &["--set", "fullnameOverride=rows"])?, "rows-controller-manager")?;
    let long = named(&"r".repeat(53), &[])?;
    ensure!(long.len() <= 63, "{long} has {} characters", long.len());
    Ok(())
}

fn selectors(chart: &Chart) -> Result<()> {
    let selector = |release: &str| -> Result<Value> {
        let objects = Objects::parse(&chart.render_as(release, &[])?)?;
        let selector = objects.deployment()?["spec"]["selector"]["matchLabels"].clone();
        same(&objects.of("Service").next().context("no Service")?["spec"]["selector"], &selector)?;
        let labels = &objects.deployment()?["spec"]["template"]["metadata"]["labels"];
        ensure!(contains(labels, &selector), "{labels} without {selector}");
        Ok(selector)
    };
    let ours = selector("kollect")?;
    same(&ours["app.kubernetes.io/name"], "kollect")?;
    same(&ours["control-plane"], "controller-manager")?;
    ensure!(ours != selector("kollect-2")?, "{ours} selects both");
    let labels = set(chart, &[])?.deployment()?["metadata"]["labels"].clone();
    for label in ["helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"] {
        ensure!(labels[label].is_string(), "{label} is not among {labels}");
    }
    Ok(())
}

/// Tells whether an object has all fields of another.
fn contains(all: &Value, some: &Value) -> bool {
    some.as_object().is_some_and(|fields| fields.iter().all(|(key, value)| all[key] == *value))
}

fn restricted(chart: &Chart) -> Result<()> {
    let objects = set(chart, &[])?;
    same(
        &objects.pod()?["securityContext"],
        &json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}),
    )?;
    same(
        &objects.container()?["securityContext"],
        &json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        }),
    )
}

fn process(chart: &Chart) -> Result<()> {
    let objects = set(chart, &[])?;
    let (pod, container) = (objects.pod()?, objects.container()?);
    same(&container["name"], "manager")?;
    same(&container["command"], &json!(["/manager"]))?;
    let annotations = &objects.deployment()?["spec"]["template"]["metadata"]["annotations"];
    same(&annotations["kubectl.kubernetes.io/default-container"], "manager")?;
    same(&pod["terminationGracePeriodSeconds"], 45)?;
    same(&set(chart, &["terminationGracePeriodSeconds=90"])?.pod()?["terminationGracePeriodSeconds"], 90)?;
    let probe = |path, delay, period| {
        json!({
            "httpGet": {"path": path, "port": "health"}, "initialDelaySeconds": delay, "periodSeconds": period,
        })
    };
    same(&container["livenessProbe"], &probe("/healthz", 15, 20))?;
    same(&container["readinessProbe"], &probe("/readyz", 5, 10))?;
    same(&container["volumeMounts"], &json!([{"name": "tmp", "mountPath": "/tmp"}]))?;
    same(&pod["volumes"], &json!([{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]))
}

fn resources(chart: &Chart) -> Result<()> {
    let resources = |values: &[&str]| -> Result<Value> { Ok(set(chart, values)?.container()?["resources"].clone()) };
    same(
        resources(&[])?,
        json!({
            "requests": {"cpu": "10m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
        }),
    )?;
    same(
        resources(&["resourcesProfile=large"])?,
        json!({
            "requests": {"cpu": "500m", "memory": "2Gi"},
            "limits": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "4Gi"},
        }),
    )?;
    let small = resources(&["resourcesProfile=small"])?;
    same(&small["limits"]["memory"], "192Mi")?;
    same(&small["limits"]["ephemeral-storage"], "1Gi")?;
    for profile in ["default", "small", "large"] {
        let profile = format!("resourcesProfile={profile}");
        let values = [&profile, "resources.limits.ephemeral-storage=9Gi", "resources.limits.cpu=null"];
        let objects = set(chart, &values)?;
        let limits = &objects.container()?["resources"]["limits"];
        same(&limits["ephemeral-storage"], "9Gi")?;
        ensure!(limits["cpu"].is_null() && limits["memory"].is_string(), "{profile}: {limits}");
        same(&objects.pod()?["volumes"][0]["emptyDir"]["sizeLimit"], "9Gi")?;
    }
    let large = resources(&["resourcesProfile=large", "largeCluster.resources.limits.memory=8Gi"])?;
    same(&large["limits"]["memory"], "8Gi")
}

fn ports(chart: &Chart) -> Result<()> {
    let ports = |values: &[&str]| -> Result<(Value, Value)> {
        let objects = set(chart, values)?;
        Ok((objects.container()?["ports"].clone(), objects.find("Service", NAME)?["spec"]["ports"].clone()))
    };
    let service = |metrics: u16| {
        json!([
            {"name": "health", "port": 8081, "targetPort": "health"},
            {"name": "metrics", "port": metrics, "targetPort": "metrics"},
        ])
    };
    let container = |metrics: u16| {
        json!([
            {"name": "health", "containerPort": 8081},
            {"name": "metrics", "containerPort": metrics},
            {"name": "webhook-server", "containerPort": 9443},
        ])
    };
    same(ports(&[])?, (container(8443), service(8443)))?;
    same(ports(&["metrics.bindAddress=0.0.0.0:9100"])?, (container(9100), service(9100)))?;
    let (of_container, of_service) = ports(&["metrics.enabled=false"])?;
    same((of_container.as_array().map(Vec::len), of_service.as_array().map(Vec::len)), (Some(2), Some(1)))?;
    let (of_container, of_service) = ports(&["pprof.enabled=true"])?;
    same(&of_container[2], &json!({"name": "pprof", "containerPort": 6060}))?;
    same(of_service, service(8443))
}

fn git_mirror(chart: &Chart) -> Result<()> {
    let without = chart.render(&[])?;
    ensure!(!without.contains("KOLLECT_GIT_MIRROR_DIR") && !without.contains("PersistentVolumeClaim"), "by default");
    let objects = set(chart, &["gitMirror.enabled=true", "gitMirror.size=3Gi", "gitMirror.storageClass=fast"])?;
    let claim = &objects.find("PersistentVolumeClaim", "kollect-git-mirror")?["spec"];
    same(
        claim,
        &json!({
            "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "3Gi"}},
        }),
    )?;
    let env = objects.env()?;
    let dir = env.iter().find(|(name, _)| name == "KOLLECT_GIT_MIRROR_DIR").context("no variable")?.1.clone();
    let mounts = objects.container()?["volumeMounts"].as_array().context("no mounts")?;
    let mount = mounts.iter().find(|mount| mount["name"] == "git-mirror").context("no mount")?;
    let path = mount["mountPath"].as_str().context("no path")?;
    // The volume belongs to root; what the operator makes in it belongs to the operator alone.
    ensure!(dir.strip_prefix(path).is_some_and(|below| below.len() > 1), "{dir} is not below {path}");
    let context = &objects.pod()?["securityContext"];
    ensure!(contains(context, &json!({"fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"})), "{context}");
    same(&objects.pod()?["volumes"][1]["persistentVolumeClaim"]["claimName"], "kollect-git-mirror")?;
    let existing = set(chart, &["gitMirror.enabled=true", "gitMirror.existingClaim=mine"])?;
    same(&existing.pod()?["volumes"][1]["persistentVolumeClaim"]["claimName"], "mine")?;
    same(existing.of("PersistentVolumeClaim").count(), 0)
}

fn from_the_user(chart: &Chart) -> Result<()> {
    let objects = set(
        chart,
        &[
            "extraEnv[0].name=KOLLECT_GIT_FORCE_BASIC_AUTH",
            "extraEnv[0].value=yes",
            "nodeSelector.disk=fast",
            "tolerations[0].key=platform",
            "affinity.nodeAffinity.a=b",
            "priorityClassName=high",
            "podLabels.tier=platform",
            "podAnnotations.owner=me",
            "serviceAccount.annotations.role=reader",
        ],
    )?;
    same(objects.env()?, [("KOLLECT_GIT_FORCE_BASIC_AUTH".to_owned(), "yes".to_owned())])?;
    let pod = objects.pod()?;
    same(&pod["nodeSelector"]["disk"], "fast")?;
    same(&pod["tolerations"][0]["key"], "platform")?;
    same(&pod["affinity"]["nodeAffinity"]["a"], "b")?;
    same(&pod["priorityClassName"], "high")?;
    let metadata = &objects.deployment()?["spec"]["template"]["metadata"];
    same((&metadata["labels"]["tier"], &metadata["annotations"]["owner"]), (&json!("platform"), &json!("me")))?;
    same(&objects.find("ServiceAccount", NAME)?["metadata"]["annotations"]["role"], "reader")?;
    let foreign = set(chart, &["serviceAccount.create=false", "serviceAccount.name=theirs"])?;
    same(foreign.of("ServiceAccount").count(), 0)?;
    same(&foreign.pod()?["serviceAccountName"], "theirs")?;
    let subject = &foreign.find("ClusterRoleBinding", "kollect-manager")?["subjects"][0]["name"];
    same(subject, "theirs")?;
    same(&set(chart, &["serviceAccount.create=false"])?.pod()?["serviceAccountName"], "default")
}

fn strategy(chart: &Chart) -> Result<()> {
    let strategy =
        |values: &[&str]| -> Result<Value> { Ok(set(chart, values)?.deployment()?["spec"]["strategy"].clone()) };
    same(strategy(&[])?, Value::Null)?;
    same(strategy(&["leaderElection.enabled=false"])?, json!({"type": "Recreate"}))?;
    same(strategy(&["gitMirror.enabled=true"])?, json!({"type": "Recreate"}))?;
    same(strategy(&["gitMirror.enabled=true", "gitMirror.accessMode=ReadWriteMany"])?, Value::Null)?;
    same(&set(chart, &["replicaCount=3"])?.deployment()?["spec"]["replicas"], 3)
}
