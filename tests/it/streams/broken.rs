//! What stays broken until a person mends it: a stream, a topic or a bucket that was deleted, a full stream, another password. And
//! inventories that are emptied.

use anyhow::{Context as _, ensure};
use kollect::lab::kafka::Way;
use kollect::lab::load::Load;
use kollect::lab::object::{ACCESS_KEY, SECRET_KEY};
use serde_json::{Value, json};

use super::{BUCKET, Bench, CHANGES, PASSWORD, USER, WHOLE};
use crate::operator::Job;

impl Bench {
    /// Changes some objects.
    async fn change(&mut self, load: &Load) {
        self.rounds += 1;
        load.patch(&self.job.ground.client, load.choose(10), self.rounds).await.unwrap();
    }

    /// Waits until the inventory says something of its sinks: all of it in a condition, and in an Event what came first.
    async fn tells(&self, words: &[&str]) {
        let has = |text: &Value, word: &str| text.as_str().is_some_and(|text| text.contains(word));
        self.becomes(&format!("{words:?} in a condition and an Event"), async || {
            let status = self.job.status("kinv/all");
            let conditions = status["conditions"].as_array().context("it has no conditions")?;
            let synced = conditions.iter().find(|condition| condition["type"] == "Synced").context("not yet")?;
            let said = words.iter().all(|word| has(&synced["message"], word));
            ensure!(synced["status"] == "False" && said, "{synced}");
            let args =
                ["-n", self.job.namespace(), "get", "events", "--field-selector=involvedObject.name=all", "-o=json"];
            let events: Value = serde_json::from_str(&self.job.kubectl(&args))?;
            let warns =
                |event: &&Value| event["type"] == "Warning" && words.iter().any(|word| has(&event["message"], word));
            events["items"].as_array().into_iter().flatten().find(warns).context("no Event")?;
            Ok(())
        })
        .await;
    }

    async fn delete_stream(&self, stream: &str) {
        self.somebody().await.api(&format!("STREAM.DELETE.{stream}"), &Value::Null).await.unwrap();
    }

    /// Waits until streams and bucket have no row, in a cluster that has objects.
    async fn becomes_empty(&self) {
        self.becomes("no row anywhere", async || self.compare(&[]).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_is_told_with_its_fix_and_what_is_mended_converges() {
    let Some(mut bench) = Bench::new("streams-broken").await else { return };
    let load = Job::load(2, 15);
    load.create(&bench.job.ground.client).await.unwrap();
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;

    // A stream that is deleted is made again, and gets everything; also where somebody else is faster.
    bench.delete_stream(CHANGES).await;
    bench.delete_stream(WHOLE).await;
    bench.change(&load).await;
    bench.equals_the_cluster().await;
    let config = bench.info(CHANGES).await["config"].clone();
    bench.delete_stream(CHANGES).await;
    bench.somebody().await.api(&format!("STREAM.CREATE.{CHANGES}"), &config).await.unwrap();
    bench.change(&load).await;
    bench.equals_the_cluster().await;

    // One that the operator may not make is asked for.
    bench.job.patch("kevt/whole", r#"{"spec":{"provisioning":{"mode":"existing"}}}"#);
    bench.equals_the_cluster().await;
    bench.delete_stream(WHOLE).await;
    bench.change(&load).await;
    bench.tells(&["event/whole: ", "there is no stream \"whole\"; create it", "provisioning.mode"]).await;
    let config = json!({"name": WHOLE, "subjects": [WHOLE]});
    bench.somebody().await.api(&format!("STREAM.CREATE.{WHOLE}"), &config).await.unwrap();
    bench.hurry();
    bench.equals_the_cluster().await;

    // So is a bucket, which it never makes.
    bench.store.delete_bucket(BUCKET).unwrap();
    bench.change(&load).await;
    let create = "there is no such bucket; create it, or correct spec.endpoint";
    bench.tells(&["snapshot/json: ", "snapshot/columns: ", create]).await;
    bench.store.create_bucket(BUCKET).await.unwrap();
    bench.hurry();
    bench.equals_the_cluster().await;

    // Another password: the Secret is named, and the new one is taken without being asked to.
    bench.nats.rotate(USER, "rotated").await.unwrap();
    bench.store.kill9().await.unwrap();
    bench.store.restart_with(ACCESS_KEY, "rotated-secret").await.unwrap();
    bench.change(&load).await;
    bench.tells(&["check the Secret of spec.nats.secretRef", "check accessKeyID and secretAccessKey"]).await;
    bench.job.apply(&bench.secrets("rotated", "rotated-secret")).unwrap();
    bench.equals_the_cluster().await;
    let log = operator.log().unwrap();
    for secret in [PASSWORD, SECRET_KEY, "rotated-secret"] {
        assert!(!log.contains(secret) && !bench.job.describe().contains(secret), "{secret} is shown");
    }

    // Full: the other stream goes on.
    let somebody = bench.somebody().await;
    let bytes = bench.info(CHANGES).await["state"]["bytes"].as_i64().unwrap();
    let mut config = json!({"name": CHANGES, "subjects": [CHANGES], "discard": "new", "max_bytes": bytes + 2_000});
    somebody.api(&format!("STREAM.UPDATE.{CHANGES}"), &config).await.unwrap();
    bench.change(&load).await;
    bench.tells(&["event/changes: ", "the stream is full: raise max_bytes"]).await;
    let want = bench.job.objects().unwrap();
    bench.becomes("the other stream is current", async || bench.read(WHOLE).await?.has(&want)).await;
    config["max_bytes"] = (-1).into();
    somebody.api(&format!("STREAM.UPDATE.{CHANGES}"), &config).await.unwrap();
    bench.hurry();
    bench.equals_the_cluster().await;
    bench.job.condition("kinv/all", "Ready", "Exported").await;
    // What was lost on the way, a reader of digests learns with the next audit.
    bench.job.annotate("kinv/all", "kollect.dev/audit-now=1");
    bench.becomes("a digest that is right", async || bench.read(CHANGES).await?.ends_sound()).await;
    bench.equals_the_cluster().await;
    operator.terminate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_deleted_and_another_password_are_told_with_their_fix_and_what_is_mended_converges() {
    let Some(mut bench) = Bench::with_topic("streams-topic", Way::Sasl, 1).await else { return };
    let load = Job::load(2, 15);
    load.create(&bench.job.ground.client).await.unwrap();
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;

    // The operator makes no topic unless it is told to.
    let topics = bench.kafka.as_ref().unwrap().topics();
    topics.delete(CHANGES).await.unwrap();
    bench.change(&load).await;
    let missing = format!("topic \"{CHANGES}\" of spec.kafka.topic does not exist; create it");
    bench.tells(&["event/topic: ", &missing, "spec.provisioning.mode: ensure"]).await;
    topics.create(CHANGES, 1, &[("cleanup.policy", "compact")]).await.unwrap();
    bench.hurry();
    bench.equals_the_cluster().await;

    // Who is logged in stays so until the broker goes.
    let kafka = bench.kafka.as_ref().unwrap();
    let first = kafka.password().to_owned();
    kafka.alter("rotated-login").unwrap();
    kafka.kill9().await.unwrap();
    kafka.restart().await.unwrap();
    bench.change(&load).await;
    let check = "check username and password in the Secret of spec.kafka.secretRef";
    bench.tells(&["event/topic: ", check]).await;
    // The new one is taken without being asked to.
    bench.job.apply(&bench.topic_login("rotated-login")).unwrap();
    bench.equals_the_cluster().await;
    bench.job.condition("kinv/all", "Ready", "Exported").await;
    bench.read_topic(bench.kafka.as_ref().unwrap()).await.unwrap().is_flawless().unwrap();
    let log = operator.log().unwrap();
    for secret in [first.as_str(), "rotated-login"] {
        assert!(!log.contains(secret) && !bench.job.describe().contains(secret), "{secret} is shown");
    }
    operator.terminate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inventory_that_is_emptied_or_deleted_leaves_no_row_to_readers() {
    let Some(bench) = Bench::with_topic("streams-emptied", Way::Plain, 1).await else { return };
    let (job, load) = (&bench.job, Job::load(2, 15));
    load.create(&job.ground.client).await.unwrap();
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;

    // All objects go, and come back.
    load.delete(&job.ground.client, (0..load.total()).collect()).await.unwrap();
    bench.becomes_empty().await;
    load.create(&job.ground.client).await.unwrap();
    bench.equals_the_cluster().await;

    // The target goes, and comes back.
    let namespace = job.namespace();
    job.kubectl(&["-n", namespace, "delete", "ktgt/deployments"]);
    bench.becomes_empty().await;
    job.apply(&format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: deployments, namespace: {namespace}}}\n\
         spec: {{profileRef: deployments, excludedNamespaces: [kube-system]}}\n"
    ))
    .unwrap();
    bench.equals_the_cluster().await;

    // The inventory goes: streams say so, the document goes with it, and the file is an archive.
    let file = bench.columns().await.unwrap();
    job.kubectl(&["-n", namespace, "delete", "kinv/all", "--timeout=60s"]);
    let [changes, whole] = [bench.read(CHANGES).await, bench.read(WHOLE).await];
    let topic = bench.read_topic(bench.kafka.as_ref().unwrap()).await;
    for (place, reader) in [("changes", changes), ("whole", whole), ("topic", topic)] {
        let reader = reader.unwrap();
        reader.has(&[]).unwrap();
        reader.is_flawless().unwrap();
        assert!(reader.is_deleted(), "{place}");
    }
    assert_eq!(bench.document().await.unwrap(), None);
    assert_eq!(bench.columns().await.unwrap(), file);
    operator.terminate().await.unwrap();
}
