//! Buckets end to end: the operator as a process, a real API server, S3 and Google's store, in two formats at once.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use kollect::lab::Operator;
use kollect::lab::object::{ACCESS_KEY, ObjectServer, Protocol, SECRET_KEY, SERVICE_ACCOUNT};
use kollect::lab::wait::wait_for;
use serde_json::Value;

use super::{BUCKET, store, writes};
use crate::operator::{Job, PATIENCE};

struct Bench {
    job: Job,
    s3: ObjectServer,
    google: ObjectServer,
}

impl Bench {
    fn secret(&self, key: &str) -> String {
        let namespace = self.job.namespace();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: {namespace}}}\n\
             stringData: {{accessKeyID: {ACCESS_KEY}, secretAccessKey: {key}}}\n"
        )
    }

    fn sink(&self, name: &str, spec: &str) -> String {
        let namespace = self.job.namespace();
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectSnapshotSink\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}, cluster: test}}\n"
        )
    }

    fn manifests(&self) -> String {
        let (namespace, ca) = (self.job.namespace(), self.s3.ca_pem().replace('\n', "\n    "));
        let (s3, google) = (self.s3.url(BUCKET), self.google.url(BUCKET));
        let own = "secretRef: {name: keys}, tls: {caSecretRef: {name: authority}}";
        let path = "pathTemplate: 'clusters/{cluster}/{namespace}/{name}{extension}'";
        [
            self.secret(SECRET_KEY),
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: account, namespace: {namespace}}}\n\
                 stringData:\n  credentials.json: '{SERVICE_ACCOUNT}'\n"
            ),
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: authority, namespace: {namespace}}}\n\
                 stringData:\n  ca.crt: |\n    {ca}\n"
            ),
            self.sink("json", &format!("type: s3, endpoint: '{s3}/prod', {own}, {path}, deletionPolicy: Delete")),
            self.sink("columns", &format!("type: s3, endpoint: '{s3}/prod', {own}, objectStore: {{format: parquet}}")),
            self.sink("google", &format!("type: gcs, endpoint: '{google}', secretRef: {{name: account}}, {path}")),
            format!(
                "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\n\
                 metadata: {{name: all, namespace: {namespace}}}\n\
                 spec: {{exportMinInterval: 0s, databaseSinkRefs: [{{name: pg}}], \
                 snapshotSinkRefs: [{{name: json}}, {{name: columns}}, {{name: google}}]}}\n"
            ),
        ]
        .join("---\n")
    }

    async fn operator(&self) -> Operator {
        let options = self.job.ground.operator_options().arg("--sink-audit-interval=0");
        self.job.ground.start_operator(&options).await
    }

    fn key(&self) -> String {
        format!("clusters/test/{}/all.json", self.job.namespace())
    }

    /// Returns `uid image` of each item of a document.
    async fn items(&self, server: &ObjectServer, key: &str) -> Result<Vec<String>> {
        let content = server.objects(BUCKET).await?.remove(key).with_context(|| format!("there is no {key}"))?;
        let envelope: Value = serde_json::from_slice(&content)?;
        let items = envelope["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut lines: Vec<String> =
            items.iter().map(|item| format!("{} {}", text(&item["uid"]), text(&item["attributes"]["image"]))).collect();
        lines.sort();
        Ok(lines)
    }

    /// Waits until both documents equal the cluster.
    async fn equals_the_cluster(&self) {
        let equal = wait_for("the buckets equal the cluster", PATIENCE, || async {
            let columns = "-o=custom-columns=U:.metadata.uid,I:.spec.template.spec.containers[0].image";
            let list = self.job.ground.api().kubectl(&["get", "deployments", "-A", "--no-headers", columns])?;
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut want: Vec<String> = list.lines().map(words).collect();
            want.sort();
            for (server, key) in [(&self.s3, format!("prod/{}", self.key())), (&self.google, self.key())] {
                let have = self.items(server, &key).await?;
                ensure!(want == have, "{} objects, {} items in {key}", want.len(), have.len());
            }
            Ok(())
        });
        equal.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.job.describe()));
    }

    /// Waits until this process has looked at all three destinations, and owes none of them anything.
    async fn looked(&self, operator: &Operator) {
        let labels = [("inventory_namespace", self.job.namespace()), ("inventory_name", "all")];
        let looked = wait_for("a look at every bucket", PATIENCE, || async {
            let metrics = operator.metrics().await?;
            for (kind, least) in [("s3", 2.0), ("gcs", 1.0)] {
                let count = metrics.sum("kollect_export_duration_seconds_count", &[("sink_type", kind)]);
                ensure!(count >= least, "{count} deliveries to {kind}");
            }
            let synced = metrics.sum("kollect_binding_synced", &labels);
            let lag = metrics.sum("kollect_export_lag_seconds", &labels);
            ensure!(synced >= 4.0 && lag <= 0.0, "{synced} of 4 are synced, {lag} s behind");
            Ok(())
        });
        looked.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.job.describe()));
    }

    /// Returns what distinguishes each object from any that is written after it, by server and key.
    async fn versions(&self) -> [BTreeMap<String, String>; 2] {
        [self.s3.versions(BUCKET).await.unwrap(), self.google.versions(BUCKET).await.unwrap()]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_follow_the_cluster_and_a_restart_writes_nothing() {
    let (Some(s3), Some(google)) = (store(Protocol::S3).await, store(Protocol::Google).await) else { return };
    let Some(job) = Job::new("buckets").await else { return };
    let bench = Bench { job, s3, google };
    let job = &bench.job;
    let load = Job::load(2, 10);
    load.create(&job.ground.client).await.unwrap();
    job.apply(&bench.manifests()).unwrap();
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    for (sink, says) in [("json", "S3 bucket HeadBucket"), ("columns", "S3 bucket"), ("google", "GCS bucket")] {
        let message = job.condition(&format!("ksnap/{sink}"), "ConnectionVerified", "ConnectionOK").await;
        assert!(message.starts_with(says), "{message}");
    }

    // What was written where is on record.
    let text = job.kubectl(&["-n", job.namespace(), "get", "kinv/all", "-o", "json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    let places = status["status"]["destinations"].as_array().unwrap();
    let formats: Vec<&str> = places.iter().filter_map(|place| place["format"].as_str()).collect();
    assert_eq!(formats.iter().filter(|format| **format == "json").count(), 2, "{places:?}");
    assert_eq!(formats.iter().filter(|format| **format == "parquet").count(), 1, "{places:?}");

    // A preview shows the key.
    job.kubectl(&["-n", job.namespace(), "annotate", "ksnap/json", "kollect.dev/preview=true"]);
    wait_for("a preview", PATIENCE, || async {
        let args = ["-n", job.namespace(), "get", "ksnap/json", "-o", "jsonpath={.status.preview.objectPath}"];
        let path = job.ground.api().kubectl(&args)?;
        ensure!(path == "prod/clusters/test/team-a/api.json", "it is {path:?}");
        Ok(())
    })
    .await
    .unwrap();

    // A change reaches all three; killed and started again, the operator writes nothing.
    let (namespace, name) = load.object(0);
    job.kubectl(&["-n", &namespace, "set", "image", &format!("deployment/{name}"), "*=changed:1"]);
    bench.equals_the_cluster().await;
    job.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    bench.looked(&operator).await;
    operator.kill9().await.unwrap();
    let (requests, written) = (bench.s3.requests().unwrap().len(), writes(&bench.s3));
    let versions = bench.versions().await;
    assert!(written.iter().any(|request| request.starts_with("PutObject ")), "{written:?}");
    let operator = bench.operator().await;
    bench.looked(&operator).await;
    assert!(bench.s3.requests().unwrap().len() > requests, "it did not look");
    assert_eq!(writes(&bench.s3), written);
    assert_eq!(bench.versions().await, versions);

    // The next change moves the documents and their records, and not the name of the bucket.
    let (namespace, name) = load.object(1);
    job.kubectl(&["-n", &namespace, "delete", &format!("deployment/{name}")]);
    bench.equals_the_cluster().await;
    let identity = "prod/.kollect/identity";
    assert_eq!(bench.versions().await[0][identity], versions[0][identity]);

    // A wrong key is said, and the right one is taken within seconds.
    job.apply(&bench.secret("wrong")).unwrap();
    let message = job.condition("ksnap/json", "ConnectionVerified", "ConnectionTestFailed").await;
    assert!(message.contains("check accessKeyID and secretAccessKey") && !message.contains("wrong"), "{message}");
    job.apply(&bench.secret(SECRET_KEY)).unwrap();
    job.condition("ksnap/json", "ConnectionVerified", "ConnectionOK").await;

    // Deleted: the sink that says so is cleaned up, the others keep what they have.
    job.kubectl(&["-n", job.namespace(), "delete", "kinv/all"]);
    let prod = bench.s3.objects(BUCKET).await.unwrap();
    assert!(!prod.contains_key(&format!("prod/{}", bench.key())), "{:?}", prod.keys());
    assert!(prod.keys().any(|key| key.strip_suffix(".parquet").is_some()), "{:?}", prod.keys());
    assert!(bench.google.objects(BUCKET).await.unwrap().contains_key(&bench.key()));
    let log = operator.log().unwrap();
    assert!(!log.contains(SECRET_KEY), "a credential in the log");
    operator.terminate().await.unwrap();
}
