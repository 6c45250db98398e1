//! The contracts of rows and of documents.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kollect::export::Scope;
use kollect::export::event::{Sequence, Stream, names};
use kollect::lab::kafka::{Record, USER, Way};
use kollect::lab::process::free_port;
use kollect::model::Cluster;
use kollect::secret::Secret;
use kollect::sinks::contract::document::DocumentSubject;
use kollect::sinks::contract::{Stored, Subject, Tamper, document, run};
use kollect::sinks::kafka::{KafkaConfig, KafkaTopics, Login, Mechanism, Mode};
use kollect::sinks::{DocumentSink, RowSink, TlsConfig};

use super::{Ground, documents, life, rows};

impl Ground {
    fn wrong(&self, mode: Mode) -> KafkaConfig {
        let ca_pem = Some(self.kafka.certificates().ca.clone().into_bytes());
        KafkaConfig {
            brokers: vec![self.kafka.broker(Way::Sasl)],
            login: Some(Login {
                mechanism: Mechanism::ScramSha256,
                user: USER.to_owned(),
                password: Secret::new("wrong"),
            }),
            tls: Some(TlsConfig { ca_pem, ..TlsConfig::default() }),
            ..self.config(mode)
        }
    }

    fn nowhere(&self, mode: Mode) -> KafkaConfig {
        KafkaConfig { brokers: vec![format!("127.0.0.1:{}", free_port().unwrap())], ..self.config(mode) }
    }
}

struct Rows(Ground);

impl Subject for Rows {
    fn sink(&self) -> Arc<dyn RowSink> {
        rows(&life("us"), &self.0.config(Mode::Changes))
    }

    fn sink_of(&self, cluster: &Cluster) -> Arc<dyn RowSink> {
        rows(&life("us"), &KafkaConfig { cluster: cluster.clone(), ..self.0.config(Mode::Changes) })
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn RowSink>> {
        Some(rows(&life("us"), &self.0.wrong(Mode::Changes)))
    }

    fn unreachable(&self) -> Arc<dyn RowSink> {
        rows(&life("us"), &self.0.nowhere(Mode::Changes))
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        self.0.items(scope).boxed()
    }

    /// Whatever is written by hand stays: it is mended by saying everything again, which is looked at elsewhere.
    fn deeds(&self) -> &[Tamper] {
        &[]
    }

    fn tamper<'a>(&'a self, _: &'a Scope, _: &'a str, _: Tamper) -> BoxFuture<'a, Result<()>> {
        futures::future::ready(Ok(())).boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sink_of_changes_passes_the_contract() {
    let Some(ground) = Ground::new("contract", 3).await else { return };
    run(&Rows(ground)).await.unwrap();
}

struct Documents(Ground, KafkaTopics);

impl Documents {
    /// Says something by hand in the name of the writer.
    async fn say(&self, scope: &Scope, deed: Tamper) -> Result<()> {
        let stream = Stream::of(scope);
        let Sequence { epoch, n } = self.0.fold().await?.get(&stream).context("nothing is there")?.sequence();
        let last = self.0.records().await.into_iter().rfind(|record| {
            record.header(names::N) == Some(&n.to_string()) && record.header(names::EPOCH) == Some(&epoch.to_string())
        });
        let mut forged: Record = last.context("the last message is not there")?;
        for (name, value) in &mut forged.headers {
            match (name.as_str(), deed) {
                (names::N, _) => *value = (n + 1).to_string(),
                (names::CHECKSUM, Tamper::Edit) => *value = value.chars().rev().collect(),
                (names::OPERATION, Tamper::Delete) => "delete".clone_into(value),
                (names::OPERATION, Tamper::Forget) => "release".clone_into(value),
                (names::WRITER, Tamper::Forget) => value.clear(),
                _ => {}
            }
        }
        self.0.topics.write(&self.0.topic, forged).await
    }
}

impl DocumentSubject for Documents {
    /// All of one life: a second one would fence the first.
    fn sink(&self) -> Arc<dyn DocumentSink> {
        documents(&self.1, &self.config())
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn DocumentSink>> {
        Some(documents(&self.1, &self.0.wrong(Mode::Snapshot)))
    }

    fn unreachable(&self) -> Arc<dyn DocumentSink> {
        documents(&self.1, &self.0.nowhere(Mode::Snapshot))
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        async move {
            let fold = self.0.fold().await?;
            let Some(set) = fold.get(&Stream::of(scope)).and_then(|held| held.snapshot()) else {
                return Ok(Stored::new());
            };
            let mut stored = Stored::new();
            for value in set.values.values() {
                let envelope: serde_json::Value = serde_json::from_slice(value)?;
                for item in envelope["payload"]["items"].as_array().context("there are no items")? {
                    let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
                    stored.insert((text("targetName"), text("uid")), item.clone());
                }
            }
            Ok(stored)
        }
        .boxed()
    }

    fn tamper<'a>(&'a self, scope: &'a Scope, _: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
        self.say(scope, deed).boxed()
    }
}

impl Documents {
    fn config(&self) -> KafkaConfig {
        KafkaConfig { cluster: Cluster::new("contract"), ..self.0.config(Mode::Snapshot) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sink_of_snapshots_passes_the_contract() {
    let Some(ground) = Ground::new("documents", 0).await else { return };
    ground.topics.create(&ground.topic, 2, &[("cleanup.policy", "delete")]).await.unwrap();
    document::run(&Documents(ground, life("us"))).await.unwrap();
}
