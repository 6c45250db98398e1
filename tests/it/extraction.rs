//! What is read of objects, from a real API server to a row: Helm releases, copies of objects, Secrets with consent and
//! without, and what somebody who may write objects can do at worst.

mod samples;

use std::io::Write as _;
use std::time::Duration;

use anyhow::ensure;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use kollect::lab::Operator;
use kollect::lab::operator::wait_for_metric;
use kollect::lab::wait::wait_for;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::operator::{Job, PATIENCE, TABLE};
use crate::support::Definition;

/// Far above what any hostile object takes, far below what it would without its bound.
const SOON: Duration = Duration::from_mins(1);

/// What stands in the Secret, as text and as the API server shows it.
const CONTENT: (&str, &str) = ("MARKER", "TUFSS0VS");

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(ByteString(bytes.to_vec())).unwrap().as_str().unwrap().to_owned()
}

/// As Helm stores a release, which the Secret then encodes once more.
fn stored(release: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(release).unwrap();
    base64(&gzip.finish().unwrap()).into_bytes()
}

/// Secrets that Helm did not write, or wrote for something that nobody should unpack, and what each row fails with.
fn broken_releases() -> Vec<(&'static str, &'static str, Vec<u8>, &'static str)> {
    let metadata = |more: &str| stored(format!(r#"{{"name":"x","chart":{{"metadata":{more}}}}}"#).as_bytes());
    let whole = stored(br#"{"name":"x"}"#);
    let mut bomb = b"{\"name\":".to_vec();
    bomb.resize(64 << 20, b' ');
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        ("bomb", "release", stored(&bomb), "release is larger than 16777216 bytes"),
        ("large", "release", metadata(&format!("\"{}\"", "x".repeat(3 << 20))), "release is larger than 2097152 bytes"),
        ("deep", "release", metadata(&deep), "json decode release"),
        ("torn", "release", whole[..whole.len() - 12].to_vec(), "read gzip release"),
        ("text", "release", b"{\"name\":\"\xff\xfe\"}".to_vec(), "json decode release"),
        ("foreign", "other", b"x".to_vec(), "secret data.release not found"),
    ]
}

/// A profile and a target of the same name in the namespace of the test.
fn collected(job: &Job, name: &str, profile: &Value, target: &Value) -> String {
    let metadata = json!({"name": name, "namespace": job.namespace()});
    let mut target = target.clone();
    target["includedNamespaces"] = json!([job.namespace()]);
    if target["profileRef"].is_null() {
        target["profileRef"] = json!(name);
    }
    let object = |kind: &str, spec: &Value| {
        json!({"apiVersion": "kollect.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}).to_string()
    };
    match profile {
        Value::Null => object("KollectTarget", &target),
        profile => format!("{}\n---\n{}", object("KollectProfile", profile), object("KollectTarget", &target)),
    }
}

fn over(kind: &Value, attributes: &[(&str, &str)]) -> Value {
    let attributes: Vec<Value> = attributes.iter().map(|(name, path)| json!({"name": name, "path": path})).collect();
    json!({"targetGVK": kind, "attributes": attributes})
}

impl Job {
    /// Returns the attributes of the rows of a target, by the names of their objects.
    async fn extracted(&self, target: &str) -> Vec<(String, Value)> {
        let query = format!(
            "SELECT payload->>'name', (payload->'attributes')::text FROM {TABLE} WHERE target_name = $1 ORDER BY 1"
        );
        let rows = self.database.query(&query, &[&target]).await.unwrap();
        rows.iter().map(|row| (row.get(0), serde_json::from_str(row.get(1)).unwrap())).collect()
    }

    /// Waits until a target has these rows.
    async fn extracts(&self, target: &str, want: &[(&str, Value)]) {
        let want: Vec<(String, Value)> = want.iter().map(|(name, row)| ((*name).to_owned(), row.clone())).collect();
        let what = format!("the rows of {target}");
        let extracted = wait_for(&what, PATIENCE, || async {
            let have = self.extracted(target).await;
            ensure!(have == want, "want {want:?}\nhave {have:?}");
            Ok(())
        });
        extracted.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
    }

    /// Waits until so many rows have a text somewhere.
    async fn shows(&self, text: &str, want: i64) {
        self.counts(&format!("SELECT count(*) FROM {TABLE} WHERE payload::text LIKE '%{text}%'"), want).await;
    }
}

#[tokio::test]
async fn what_is_extracted_arrives_and_what_cannot_be_costs_its_own_row() {
    let Some(job) = Job::new("extraction").await else { return };
    // Before the first discovery, so that nothing waits for the second.
    let odd = Definition { kind: "Odd", plural: "odds", ..Definition::default() };
    job.apply(&(samples::prerequisites() + &odd.manifest() + MAY_LIST_ODDS)).unwrap();
    let operator = job.operator().await;
    releases(&job, &operator).await;
    copies(&job).await;
    samples::samples(&job).await;
    let operator = consent(&job, operator).await;
    hostile_objects(&job).await;
    operator.terminate().await.unwrap();
}

async fn releases(job: &Job, operator: &Operator) {
    let secret = |name: &str, key: &str, value: &[u8]| {
        let labels = json!({"owner": "helm", "broken": (name != "web").to_string()});
        json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
            "metadata": {"name": name, "namespace": job.namespace(), "labels": labels},
            "data": {(key): base64(value)}})
        .to_string()
    };
    let release = json!({"name": "web", "version": 2, "info": {"status": "deployed"},
        "chart": {"metadata": {"name": "nginx", "version": "14.3.0"}, "templates": [{"data": "TEMPLATE"}]},
        "manifest": "MANIFEST", "config": {"password": "x"}});
    let mut manifests = vec![secret("web", "release", &stored(release.to_string().as_bytes()))];
    let kind = json!({"version": "v1", "kind": "Secret"});
    let profile = over(
        &kind,
        &[
            ("name", "helm:release.releaseName"),
            ("chart", "helm:release.chart.metadata"),
            ("n", "helm:release.revision"),
        ],
    );
    manifests.push(collected(job, "helm", &profile, &json!({"labelSelector": {"matchLabels": {"owner": "helm"}}})));
    let broken = broken_releases();
    for (name, key, value, _) in &broken {
        manifests.push(secret(name, key, value));
        let target = json!({"profileRef": "helm", "names": [name]});
        manifests.push(collected(job, &format!("helm-{name}"), &Value::Null, &target));
    }
    let begun = Instant::now();
    job.apply(&manifests.join("\n---\n")).unwrap();
    for (name, _, _, says) in &broken {
        let message = job.condition(&format!("ktgt/helm-{name}"), "Degraded", "ExtractionFailed").await;
        assert!(message.starts_with("1 resource(s) failed attribute extraction: attribute "), "{message}");
        assert!(message.ends_with(says), "{name}: {message}");
    }
    let want = json!({"name": "web", "chart": {"name": "nginx", "version": "14.3.0"}, "n": 2});
    job.extracts("helm", &[("web", want)]).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    // How many there are is counted, and shown on the target.
    let failures = async |want: usize| {
        wait_for(&format!("{want} failures"), PATIENCE, || async {
            let status = job.status("ktgt/helm");
            let have = status["extractionFailures"].as_u64().unwrap_or_default();
            ensure!(have == u64::try_from(want)?, "{status}");
            ensure!((want == 0) == status["lastExtractionError"].as_str().unwrap_or_default().is_empty(), "{status}");
            Ok(())
        })
        .await
        .unwrap();
    };
    failures(broken.len()).await;
    wait_for_metric(operator, PATIENCE, "failures that are counted", |metrics| {
        metrics.sum("kollect_reconcile_errors_total", &[("kind", "KollectTarget"), ("error_class", "terminal")]) >= 1.0
    })
    .await
    .unwrap();
    let events =
        ["-n", job.namespace(), "get", "events", "-o", "name", "--field-selector=type=Warning,reason=ExtractionFailed"];
    wait_for("an Event", PATIENCE, || async {
        ensure!(!job.kubectl(&events).is_empty(), "there is none");
        Ok(())
    })
    .await
    .unwrap();

    // A failure goes when its object is filtered out, is mended, or is gone.
    job.kubectl(&["-n", job.namespace(), "label", "secret", "bomb", "owner-"]);
    failures(broken.len() - 1).await;
    job.apply(&secret("torn", "release", &stored(br#"{"name":"torn"}"#))).unwrap();
    failures(broken.len() - 2).await;
    job.kubectl(&["-n", job.namespace(), "delete", "secret", "-l", "broken=true"]);
    failures(0).await;
    let message = job.condition("ktgt/helm", "Ready", "Collecting").await;
    assert_eq!(message, "profileRef \"helm\" resolved; collecting 1 resource(s)");

    // What carries the whole release out of the cluster is refused, and so is what holds that.
    let refused = over(&kind, &[("m", "helm:release.manifest")]);
    let error = job.apply(&collected(job, "helm-whole", &refused, &json!({}))).unwrap_err().to_string();
    assert!(error.contains("spec.attributes[0].path") && error.contains("is not exportable"), "{error}");
    let mut ancestor = over(&kind, &[("name", "helm:release.name"), ("all", "helm:release.chart")]);
    // Also where a row could do without it.
    ancestor["attributes"][1]["optional"] = json!(true);
    job.apply(&collected(job, "helm-whole", &ancestor, &json!({"names": ["web"]}))).unwrap();
    let message = job.condition("ktgt/helm-whole", "Degraded", "ProfileInvalid").await;
    assert!(message.contains("spec.attributes[1].path: helm release field \"chart\" is not exportable"), "{message}");
    let allowed = over(&kind, &[("name", "helm:release.name")]);
    job.apply(&collected(job, "helm-whole", &allowed, &json!({"names": ["web"]}))).unwrap();
    job.extracts("helm-whole", &[("web", json!({"name": "web"}))]).await;
    job.shows("TEMPLATE", 0).await;
}

/// A whole object, with what is left out of it.
async fn copies(job: &Job) {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": job.namespace(), "labels": {"app": "x", "hash": "h"},
            "annotations": {"note": "n", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "data": {"keep": "k", "drop": "d", "pin": "p", "password": "p"}});
    let mut profile = over(&json!({"version": "v1", "kind": "ConfigMap"}), &[("dropped", "$.data.drop")]);
    profile["export"] = json!({"mode": "Resource", "as": "copy", "include": "All", "prune": {
        "jsonPointers": ["/data/drop", "/no/such"], "jsonPaths": [".metadata.labels[\"hash\"]"], "scrubKeys": ["pin"]}});
    let target = json!({"names": ["settings"]});
    job.apply(&format!("{object}\n---\n{}", collected(job, "copies", &profile, &target))).unwrap();
    let created =
        ["-n", job.namespace(), "get", "configmap", "settings", "-o", "jsonpath={.metadata.creationTimestamp}"];
    let created = job.kubectl(&created);
    let redacted = json!({"redacted": true, "reason": "sensitive-key"});
    let copy = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"keep": "k", "pin": redacted, "password": redacted},
        "metadata": {"creationTimestamp": created, "labels": {"app": "x"}, "annotations": {"note": "n"}}});
    // Attributes are read of the object as it was.
    job.extracts("copies", &[("settings", json!({"dropped": "d", "copy": copy}))]).await;
    profile["export"] = json!({"mode": "Resource", "include": "MetadataOnly", "dedupeIdentity": false});
    profile["attributes"] = json!([]);
    job.apply(&collected(job, "copies", &profile, &target)).unwrap();
    wait_for("another copy", PATIENCE, || async {
        let rows = job.extracted("copies").await;
        let copy = &rows.first().ok_or_else(|| anyhow::anyhow!("there is no row"))?.1["resource"];
        ensure!(copy["metadata"]["name"] == "settings" && copy["data"].is_null(), "{copy}");
        ensure!(copy["metadata"]["labels"]["hash"] == "h" && copy["metadata"]["managedFields"].is_null(), "{copy}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Secrets are read with the consent of the profile, and rows end when it does.
async fn consent(job: &Job, operator: Operator) -> Operator {
    let copies = json!({"kubectl.kubernetes.io/last-applied-configuration": CONTENT.0, "kapp.k14s.io/original": CONTENT.0,
        "objectset.rio.cattle.io/applied": CONTENT.0, "team": "a"});
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "login", "namespace": job.namespace(), "annotations": copies},
        "stringData": {"user": CONTENT.0, "password": CONTENT.0}});
    let kind = json!({"version": "v1", "kind": "Secret"});
    let target = json!({"names": ["login"]});
    let content = over(&kind, &[("user", "$.data.user"), ("all", "{.data}"), ("notes", "{.metadata.annotations}")]);
    let mut copy = over(&kind, &[]);
    copy["export"] = json!({"mode": "Resource", "include": "All"});
    let whole = over(&kind, &[("keys", "cel:object.map(k, k)"), ("object", "cel:object")]);
    let manifests = [("content", &content), ("copy", &copy), ("whole", &whole)]
        .map(|(name, profile)| collected(job, &format!("secret-{name}"), profile, &target));
    job.apply(&format!("{secret}\n---\n{}", manifests.join("\n---\n"))).unwrap();
    let refused = async || {
        for (name, consent) in
            [("content", "kollect.dev/allow-secret-extraction"), ("copy", "kollect.dev/allow-full-resource-export")]
        {
            let message = job.condition(&format!("ktgt/secret-{name}"), "Degraded", "ProfileInvalid").await;
            assert!(message.contains(&format!("annotate the profile with {consent}: \"true\"")), "{message}");
            assert!(
                message.ends_with("without its consent there are no rows, neither here nor in a sink"),
                "{message}"
            );
            job.extracts(&format!("secret-{name}"), &[]).await;
        }
        // Who asks for nothing by name needs no consent, and sees nothing of it.
        let keys = json!(["apiVersion", "kind", "metadata", "type"]);
        wait_for("a row without content", PATIENCE, || async {
            let rows = job.extracted("secret-whole").await;
            ensure!(rows.len() == 1 && rows[0].1["keys"] == keys, "{rows:?}");
            Ok(())
        })
        .await
        .unwrap();
        job.shows(CONTENT.0, 0).await;
        job.shows(CONTENT.1, 0).await;
    };
    let annotate = |value: &str| {
        for profile in ["secret-content", "secret-copy", "secret-whole"] {
            for consent in ["kollect.dev/allow-secret-extraction", "kollect.dev/allow-full-resource-export"] {
                job.annotate(&format!("kprof/{profile}"), &format!("{consent}{value}"));
            }
        }
    };
    refused().await;

    annotate("=true");
    let redacted = json!({"redacted": true, "reason": "sensitive-key"});
    let withheld = json!({"redacted": true, "reason": "secret-data"});
    let row = json!({"user": CONTENT.1, "all": {"user": CONTENT.1, "password": redacted}, "notes": {"team": "a"}});
    job.extracts("secret-content", &[("login", row.clone())]).await;
    wait_for("a copy without content", PATIENCE, || async {
        let rows = job.extracted("secret-copy").await;
        ensure!(rows.len() == 1, "{rows:?}");
        let copy = &rows[0].1["resource"];
        let hidden = &copy["metadata"]["annotations"]["kapp.k14s.io/original"];
        ensure!((&copy["data"], hidden) == (&withheld, &withheld), "{copy}");
        Ok(())
    })
    .await
    .unwrap();
    // That of the paths and that of the whole object, whose copies in annotations are hidden all the same.
    job.shows(CONTENT.1, 2).await;
    job.shows(CONTENT.0, 0).await;

    annotate("-");
    refused().await;
    annotate("=true");
    job.extracts("secret-content", &[("login", row)]).await;
    job.shows(CONTENT.1, 2).await;

    // Withdrawn while nobody looks.
    operator.terminate().await.unwrap();
    annotate("-");
    let operator = job.operator().await;
    refused().await;
    operator
}

const MAY_LIST_ODDS: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: odds}
rules:
- {apiGroups: [test.kollect.dev], resources: [odds], verbs: [list, watch]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: odds}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: odds}
subjects: [{kind: ServiceAccount, name: kollect-controller-manager, namespace: kollect-system}]
";

async fn hostile_objects(job: &Job) {
    let odd = |name: &str, spec: &str| {
        let metadata = json!({"name": name, "namespace": job.namespace()});
        format!(r#"{{"apiVersion":"test.kollect.dev/v1","kind":"Odd","metadata":{metadata},"spec":{spec}}}"#)
    };
    let list = vec!["1"; 200].join(",");
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let objects = [
        odd("plain", r#"{"l":[1,2]}"#),
        odd("cubed", &format!(r#"{{"l":[{list}]}}"#)),
        odd("huge", &format!(r#"{{"l":[],"any":{}}}"#, "9".repeat(300))),
        odd("exact", r#"{"l":[],"any":9223372036854775807}"#),
        odd("deep", &format!(r#"{{"l":[],"any":{deep}}}"#)),
    ];
    wait_for("the new kind", PATIENCE, || async { job.apply(&objects.join("\n---\n")) }).await.unwrap();
    let cubed = "cel:object.spec.l.map(x, object.spec.l.map(y, object.spec.l.map(z, x + y + z))).size()";
    let kind = json!({"group": "test.kollect.dev", "version": "v1", "kind": "Odd"});
    let profile = over(&kind, &[("cubed", cubed), ("any", "$.spec.any")]);
    let mut manifests = vec![collected(job, "odd", &profile, &json!({}))];
    // Whoever does not read what is too deep has a row of it.
    manifests.push(collected(job, "odd-names", &over(&kind, &[("name", "$.metadata.name")]), &json!({})));
    let failing = [("cubed", "cost budget of 100000 steps exceeded"), ("deep", "recursion limit exceeded")];
    for (name, _) in failing {
        let target = json!({"profileRef": "odd", "names": [name]});
        manifests.push(collected(job, &format!("odd-{name}"), &Value::Null, &target));
    }
    let begun = Instant::now();
    job.apply(&manifests.join("\n---\n")).unwrap();
    for (name, says) in failing {
        let message = job.condition(&format!("ktgt/odd-{name}"), "Degraded", "ExtractionFailed").await;
        assert!(message.starts_with("1 resource(s) failed") && message.contains(says), "{name}: {message}");
    }
    let names = ["cubed", "deep", "exact", "huge", "plain"].map(|name| (name, json!({"name": name})));
    job.extracts("odd-names", &names).await;
    let row = |cubed: u32, any: Value| json!({"cubed": cubed, "any": any});
    let rows = [("exact", row(0, json!(i64::MAX))), ("huge", row(0, json!(1e300))), ("plain", row(2, Value::Null))];
    job.extracts("odd", &rows).await;
    let message = job.condition("ktgt/odd", "Degraded", "ExtractionFailed").await;
    assert!(message.starts_with("2 resource(s) failed"), "{message}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    // A name that the API server takes and nobody should paste anywhere.
    let name = format!("x\"}}],{{'; DROP TABLE {TABLE}; --\n<é>\u{2028}$(id)");
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": [],
        "metadata": {"name": name, "namespace": job.namespace(), "labels": {"odd": "yes"}}});
    let kind = json!({"group": "rbac.authorization.k8s.io", "version": "v1", "kind": "Role"});
    let profile = over(&kind, &[("name", "$.metadata.name")]);
    let target = json!({"labelSelector": {"matchLabels": {"odd": "yes"}}});
    job.apply(&format!("{role}\n---\n{}", collected(job, "named", &profile, &target))).unwrap();
    job.extracts("named", &[(&name, json!({"name": name}))]).await;
}
