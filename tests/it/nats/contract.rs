//! Both contracts, on the real server.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kollect::api::v1alpha1::sink::StreamMode;
use kollect::export::Scope;
use kollect::export::event::{Fold, Header, Operation, Sequence, Stream};
use kollect::lab::nats::Somebody;
use kollect::secret::Secret;
use kollect::sinks::contract::document::DocumentSubject;
use kollect::sinks::contract::{Stored, Subject, Tamper};
use kollect::sinks::nats::{NatsConfig, NatsCredentials, NatsServers};
use kollect::sinks::{DocumentSink, RowSink};
use serde_json::Value;

use super::{Ground, STREAM, document_sink, life, row_sink};

struct Bus {
    ground: Ground,
    somebody: Somebody,
    mode: StreamMode,
    /// The process of the documents: a younger one would fence it.
    process: NatsServers,
}

impl Bus {
    async fn new(mode: StreamMode) -> Option<Self> {
        let ground = Ground::with_login().await?;
        let somebody = ground.server.somebody().await.unwrap();
        Some(Self { ground, somebody, mode, process: life("us") })
    }

    fn config(&self) -> NatsConfig {
        self.ground.config(self.mode)
    }

    fn wrong(&self) -> NatsConfig {
        NatsConfig { credentials: NatsCredentials::User("kollect".to_owned(), Secret::new("wrong")), ..self.config() }
    }

    fn nowhere(&self) -> NatsConfig {
        // Nobody listens on port 1.
        NatsConfig { url: "nats://127.0.0.1:1".to_owned(), ..self.config() }
    }

    async fn forge(&self, scope: &Scope, header: Header, value: &[u8]) -> Result<()> {
        self.somebody.send(&subject(scope), &header, value).await
    }
}

fn subject(scope: &Scope) -> String {
    let cluster = if scope.cluster.is_empty() { "_" } else { scope.cluster.as_str() };
    format!("inventory.{cluster}.{}.{}", scope.inventory.namespace, scope.inventory.name)
}

fn next(of: Sequence) -> Sequence {
    Sequence { n: of.n + 1, ..of }
}

impl Subject for Bus {
    fn sink(&self) -> Arc<dyn RowSink> {
        row_sink(&life("us"), &self.config())
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn RowSink>> {
        Some(row_sink(&life("us"), &self.wrong()))
    }

    fn unreachable(&self) -> Arc<dyn RowSink> {
        row_sink(&life("us"), &self.nowhere())
    }

    /// What a reader has who waits for the end of a delivery.
    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        async move {
            let stream = Stream::of(scope);
            let mut messages = self.somebody.of(STREAM, &subject(scope), &stream).await?;
            let closes = |header: &Header| match header.operation {
                Operation::End | Operation::Release => true,
                Operation::Delete => header.item.is_none(),
                Operation::Upsert | Operation::Begin | Operation::Snapshot => false,
            };
            let whole = messages.iter().rposition(|(_, header)| closes(header)).map_or(0, |last| last + 1);
            messages.truncate(whole);
            let mut fold = Fold::default();
            for (message, header) in messages {
                fold.take(0, header, message.at, message.value);
            }
            let Some(held) = fold.get(&stream) else { return Ok(Stored::new()) };
            let item = |value: &[u8]| serde_json::from_slice(value).context("a value that is no JSON");
            held.rows()
                .iter()
                .map(|(key, row)| Ok(((key.target.to_string(), key.uid.to_string()), item(&row.value)?)))
                .collect()
        }
        .boxed()
    }

    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
        async move {
            let messages = self.somebody.of(STREAM, &subject(scope), &Stream::of(scope)).await?;
            let last = messages.last().context("there is no message")?.1.sequence;
            let is_row = |header: &Header| {
                header.item.as_ref().is_some_and(|item| item.there.is_some() && item.key.uid.to_string() == uid)
            };
            let any = messages.iter().rfind(|(_, header)| {
                is_row(header) || deed == Tamper::Add && header.item.as_ref().is_some_and(|item| item.there.is_some())
            });
            match deed {
                Tamper::Edit | Tamper::Move | Tamper::Add => {
                    let (message, mut header) = any.cloned().context("there is no such row")?;
                    header.sequence = next(last);
                    let item = header.item.as_mut().context("there is no row")?;
                    match deed {
                        Tamper::Move => item.namespace = kollect::model::Namespace::new("elsewhere"),
                        Tamper::Add => item.key.uid = kollect::model::Uid::new(uid),
                        _ => item.there.as_mut().context("there is no row")?.hash = [1, 2, 3, 4],
                    }
                    let mut value: Value = serde_json::from_slice(&message.value)?;
                    value["attributes"]["edited"] = true.into();
                    self.forge(scope, header, value.to_string().as_bytes()).await
                }
                Tamper::Delete | Tamper::Forget => {
                    for (message, header) in messages {
                        if is_row(&header) && deed == Tamper::Delete || header.item.is_none() && deed == Tamper::Forget
                        {
                            self.somebody.delete(STREAM, message.seq).await?;
                        }
                    }
                    Ok(())
                }
            }
        }
        .boxed()
    }
}

impl DocumentSubject for Bus {
    fn sink(&self) -> Arc<dyn DocumentSink> {
        document_sink(&self.process, &self.config())
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn DocumentSink>> {
        Some(document_sink(&life("us"), &self.wrong()))
    }

    fn unreachable(&self) -> Arc<dyn DocumentSink> {
        document_sink(&life("us"), &self.nowhere())
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        async move {
            let fold = self.somebody.fold(STREAM, &subject(scope)).await?;
            let mut stored = Stored::new();
            let set = fold.get(&Stream::of(scope)).and_then(|held| held.snapshot());
            for value in set.into_iter().flat_map(|set| set.values.values()) {
                let envelope: Value = serde_json::from_slice(value)?;
                for item in envelope["payload"]["items"].as_array().context("there are no items")? {
                    let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
                    stored.insert((text("targetName"), text("uid")), item.clone());
                }
            }
            Ok(stored)
        }
        .boxed()
    }

    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
        async move {
            let messages = self.somebody.of(STREAM, &subject(scope), &Stream::of(scope)).await?;
            if deed == Tamper::Forget {
                for (message, _) in messages {
                    self.somebody.delete(STREAM, message.seq).await?;
                }
                return Ok(());
            }
            let (message, mut header) = messages.last().cloned().context("there is no message")?;
            header.sequence = next(header.sequence);
            header.set.as_mut().context("it is no snapshot")?.checksum = format!("{deed:?}");
            let mut value: Value = serde_json::from_slice(&message.value)?;
            let items = value["payload"]["items"].as_array_mut().context("there are no items")?;
            match deed {
                Tamper::Delete => items.retain(|item| item["uid"] != uid),
                _ => items[0]["attributes"] = "edited".into(),
            }
            self.forge(scope, header, value.to_string().as_bytes()).await
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_changes_keeps_the_contract_of_rows() {
    let Some(bus) = Bus::new(StreamMode::Changes).await else { return };
    kollect::sinks::contract::run(&bus).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_snapshots_keeps_the_contract_of_documents() {
    let Some(bus) = Bus::new(StreamMode::Snapshot).await else { return };
    kollect::sinks::contract::document::run(&bus).await.unwrap();
}
