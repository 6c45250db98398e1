//! Topics end to end: the operator as a process, a real API server and a broker that asks for a login.

use anyhow::{Result, ensure};
use kollect::export::event::Stream;
use kollect::lab::kafka::{USER, Way};
use kollect::lab::wait::wait_for;
use kollect::sinks::contract::scope;
use serde_json::Value;

use super::{Ground, fold};
use crate::operator::{Job, PATIENCE};

struct Bench {
    job: Job,
    /// The topic of changes. That of snapshots has `-whole` behind it.
    ground: Ground,
}

impl Bench {
    fn secret(&self, password: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: login, namespace: {}}}\n\
             stringData: {{username: {USER}, password: '{password}'}}\n",
            self.job.namespace()
        )
    }

    fn sink(&self, name: &str, way: &str, rest: &str) -> String {
        format!(
            "apiVersion: kollect.dev/v1alpha1\nkind: KollectEventSink\nmetadata: {{name: {name}, namespace: {}}}\n\
             spec: {{type: kafka, cluster: test, kafka: {{brokers: ['{way}'], {rest}\n",
            self.job.namespace()
        )
    }

    fn manifests(&self) -> String {
        let (namespace, kafka, topic) = (self.job.namespace(), self.ground.kafka, &self.ground.topic);
        let ca = kafka.certificates().ca.replace('\n', "\n    ");
        let login = "mode: Changes, saslMechanism: SCRAM-SHA-512, secretRef: {name: login}}";
        let trust = "tls: {caSecretRef: {name: authority}}, provisioning: {mode: ensure}}";
        [
            self.secret(kafka.password()),
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: authority, namespace: {namespace}}}\n\
                 stringData:\n  ca.crt: |\n    {ca}\n"
            ),
            self.sink("rows", &kafka.broker(Way::Sasl), &format!("topic: {topic}, {login}, {trust}")),
            self.sink("whole", &kafka.broker(Way::Plain), &format!("topic: {topic}-whole}}}}")),
            self.sink("lost", "kafka.invalid:9092", &format!("topic: {topic}}}}}")),
            format!(
                "apiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\n\
                 metadata: {{name: all, namespace: {namespace}}}\n\
                 spec: {{exportMinInterval: 0s, eventSinkRefs: [{{name: rows}}, {{name: whole}}]}}\n"
            ),
        ]
        .join("---\n")
    }

    fn stream(&self) -> Stream {
        Stream::of(&scope("test", self.job.namespace(), "all"))
    }

    /// Returns `uid image` of each row that a consumer of changes has.
    async fn rows(&self) -> Result<Vec<String>> {
        let fold = self.ground.fold().await?;
        let held = fold.get(&self.stream());
        let line = |value: &Vec<u8>| {
            let item: Value = serde_json::from_slice(value).unwrap();
            format!("{} {}", item["uid"].as_str().unwrap(), item["attributes"]["image"].as_str().unwrap())
        };
        let mut lines: Vec<String> =
            held.into_iter().flat_map(|held| held.rows().values()).map(|row| line(&row.value)).collect();
        lines.sort();
        Ok(lines)
    }

    /// Returns how many rows the last snapshot has.
    async fn snapshot(&self) -> Result<u64> {
        let fold = fold(&self.ground.topics, &format!("{}-whole", self.ground.topic)).await?;
        Ok(fold.get(&self.stream()).and_then(|held| held.snapshot()).map_or(0, |set| set.rows))
    }

    /// Waits until both topics equal the cluster.
    async fn equals_the_cluster(&self) {
        let equal = wait_for("the topics equal the cluster", PATIENCE, || async {
            let columns = "-o=custom-columns=U:.metadata.uid,I:.spec.template.spec.containers[0].image";
            let list = self.job.ground.api().kubectl(&["get", "deployments", "-A", "--no-headers", columns])?;
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut want: Vec<String> = list.lines().map(words).collect();
            want.sort();
            let (have, whole) = (self.rows().await?, self.snapshot().await?);
            ensure!(want == have, "{} objects, {} rows", want.len(), have.len());
            ensure!(want.len() as u64 == whole, "{} objects, {whole} in the snapshot", want.len());
            Ok(())
        });
        equal.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.job.describe()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_follow_the_cluster_and_a_restart_writes_nothing() {
    let Some(ground) = Ground::new("operator", 0).await else { return };
    ground.topics.create(&format!("{}-whole", ground.topic), 1, &[]).await.unwrap();
    let Some(job) = Job::new("topics").await else { return };
    let bench = Bench { job, ground };
    let (job, ground) = (&bench.job, &bench.ground);
    let load = Job::load(2, 10);
    load.create(&job.ground.client).await.unwrap();
    job.apply(&bench.manifests()).unwrap();
    let operator = job.operator().await;
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    for sink in ["rows", "whole"] {
        let message = job.condition(&format!("kevt/{sink}"), "ConnectionVerified", "ConnectionOK").await;
        assert!(message.starts_with("Kafka broker metadata request succeeded"), "{message}");
    }
    let message = job.condition("kevt/lost", "ConnectionVerified", "ConnectionTestFailed").await;
    assert!(message.contains("correct the host names in spec.kafka.brokers"), "{message}");

    // What was written where is on record, and a preview shows the topic.
    let text = job.kubectl(&["-n", job.namespace(), "get", "kinv/all", "-o", "json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    let places = status["status"]["destinations"].as_array().unwrap();
    assert!(places.iter().any(|place| place["type"] == "kafka" && place["table"] == ground.topic), "{places:?}");
    job.kubectl(&["-n", job.namespace(), "annotate", "kevt/rows", "kollect.dev/preview=true"]);
    wait_for("a preview", PATIENCE, || async {
        let args = ["-n", job.namespace(), "get", "kevt/rows", "-o", "jsonpath={.status.preview.kafka.topic}"];
        let topic = job.ground.api().kubectl(&args)?;
        ensure!(topic == ground.topic, "it is {topic:?}");
        Ok(())
    })
    .await
    .unwrap();

    // Changed, and killed: the next life writes what changed meanwhile, one message for each and one that closes them.
    let (namespace, name) = load.object(0);
    job.kubectl(&["-n", &namespace, "set", "image", &format!("deployment/{name}"), "*=changed:1"]);
    bench.equals_the_cluster().await;
    operator.kill9().await.unwrap();
    let before = ground.records().await;
    let (namespace, name) = load.object(1);
    job.kubectl(&["-n", &namespace, "delete", &format!("deployment/{name}")]);
    let operator = job.operator().await;
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    let after = ground.records().await;
    assert_eq!(after.len(), before.len() + 2, "{:?}", &after);
    assert_eq!(after.iter().filter(|record| record.value.is_none()).count(), 1);

    // A wrong password is said, and the right one is taken within seconds.
    job.apply(&bench.secret("wrong")).unwrap();
    let message = job.condition("kevt/rows", "ConnectionVerified", "ConnectionTestFailed").await;
    assert!(message.contains("check username and password") && !message.contains("wrong"), "{message}");
    job.apply(&bench.secret(ground.kafka.password())).unwrap();
    job.condition("kevt/rows", "ConnectionVerified", "ConnectionOK").await;

    // Deleted: readers are told of every row.
    job.kubectl(&["-n", job.namespace(), "delete", "kinv/all"]);
    assert_eq!((bench.rows().await.unwrap().len(), bench.snapshot().await.unwrap()), (0, 0));
    let log = operator.log().unwrap();
    assert!(!log.contains(ground.kafka.password()), "a credential in the log");
    operator.terminate().await.unwrap();
}
