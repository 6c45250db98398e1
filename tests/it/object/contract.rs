//! The promises that every sink of documents keeps, kept by both protocols.

use std::io::Read as _;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use kollect::export::Scope;
use kollect::lab::object::{ObjectServer, Protocol};
use kollect::model::Cluster;
use kollect::secret::Secret;
use kollect::sinks::DocumentSink;
use kollect::sinks::contract::document::{self, DocumentSubject};
use kollect::sinks::contract::{Stored, Tamper};
use kollect::sinks::object::{Credentials, ObjectConfig};
use kollect::validate::{Encoding, Packing, Scheme, Server};
use serde_json::Value;

use super::{BUCKET, config, sink, store};

struct Subject {
    protocol: Protocol,
    server: ObjectServer,
    config: ObjectConfig,
}

impl Subject {
    async fn new(protocol: Protocol, encoding: Encoding) -> Option<Self> {
        let server = store(protocol).await?;
        let mut config = config(protocol, &server, server.port());
        config.cluster = Cluster::new("contract");
        config.encoding = encoding;
        config.path_template = Some("{cluster}/{namespace}/{name}{extension}".to_owned());
        Some(Self { protocol, server, config })
    }

    /// Returns the documents of an inventory by their keys, unpacked.
    async fn documents(&self, scope: &Scope) -> Result<Vec<(String, String)>> {
        let stem = format!("prod/contract/{}/{}.", scope.inventory.namespace, scope.inventory.name);
        let mut documents = Vec::new();
        for (key, content) in self.server.objects(BUCKET).await? {
            if !key.starts_with(&stem) || key.ends_with(".manifest.json") {
                continue;
            }
            let mut text = String::new();
            if key.strip_suffix(".gz").is_some() {
                flate2::read::GzDecoder::new(content.as_slice()).read_to_string(&mut text)?;
            } else {
                text = String::from_utf8(content)?;
            }
            documents.push((key, text));
        }
        Ok(documents)
    }

    fn items(text: &str) -> Result<Vec<Value>> {
        if text.starts_with("{\"schemaVersion\"") {
            let envelope: Value = serde_json::from_str(text)?;
            return Ok(envelope["items"].as_array().cloned().unwrap_or_default());
        }
        text.lines().map(|line| serde_json::from_str(line).context("a line is no item")).collect()
    }
}

impl DocumentSubject for Subject {
    fn sink(&self) -> Arc<dyn DocumentSink> {
        sink(&self.config)
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn DocumentSink>> {
        // The other one asks nobody for a login.
        (self.protocol == Protocol::S3).then(|| {
            let id = "kollect-lab".to_owned();
            let credentials = Credentials::Keys { id, secret: Secret::new("wrong"), session: None };
            sink(&ObjectConfig { credentials, ..self.config.clone() })
        })
    }

    fn unreachable(&self) -> Arc<dyn DocumentSink> {
        let mut config = self.config.clone();
        config.bucket.server = Server::Other { scheme: Scheme::Https, authority: "127.0.0.1:9".to_owned() };
        sink(&config)
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        Box::pin(async move {
            let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
            let mut stored = Stored::new();
            for (_, document) in self.documents(scope).await? {
                for item in Self::items(&document)? {
                    stored.insert((text(&item, "targetName"), text(&item, "uid")), item);
                }
            }
            Ok(stored)
        })
    }

    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if deed == Tamper::Forget {
                let format = self.config.encoding.format();
                let (namespace, name) = (&scope.inventory.namespace, &scope.inventory.name);
                let record = format!("prod/.kollect/contract/{namespace}/{name}.{format}.json");
                return self.server.remove(BUCKET, &record).await;
            }
            let documents = self.documents(scope).await?;
            let (key, text) = documents.iter().find(|(_, text)| text.contains(uid)).context("it is nowhere")?;
            match deed {
                Tamper::Delete => self.server.remove(BUCKET, key).await,
                _ => self.server.replace(BUCKET, key, text.replace("app-7", "app-8").into_bytes()).await,
            }
        })
    }
}

#[tokio::test]
async fn s3_keeps_the_contract_of_documents() {
    let Some(subject) = Subject::new(Protocol::S3, Encoding::Json(Packing::Plain)).await else { return };
    document::run(&subject).await.unwrap();
}

#[tokio::test]
async fn lines_in_gzip_keep_the_contract_of_documents() {
    let Some(subject) = Subject::new(Protocol::S3, Encoding::Ndjson(Packing::Gzip)).await else { return };
    document::run(&subject).await.unwrap();
}

#[tokio::test]
async fn google_keeps_the_contract_of_documents() {
    let Some(subject) = Subject::new(Protocol::Google, Encoding::Json(Packing::Plain)).await else { return };
    document::run(&subject).await.unwrap();
}
