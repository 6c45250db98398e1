//! The promises that every sink keeps, kept by both git sinks.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use kollect::api::v1alpha1::sink::{Format, LayoutMode};
use kollect::export::Scope;
use kollect::lab::git::Human;
use kollect::model::Cluster;
use kollect::secret::Secret;
use kollect::sinks::contract::document::{self, DocumentSubject};
use kollect::sinks::contract::{self, Stored, Subject, Tamper};
use kollect::sinks::git::{Credentials, GitConfig};
use kollect::sinks::{DocumentSink, RowSink};
use serde_json::Value;

use super::{Remote, documents, rows};

/// What every row of a file says, by the path of its file.
type Items = Vec<(String, Value)>;

struct Bench {
    remote: Remote,
    config: GitConfig,
}

impl Bench {
    fn new(name: &str, mode: LayoutMode) -> Self {
        let remote = Remote::new(name);
        let mut config = remote.config(mode);
        config.layout.format = Format::Json;
        // The inventory is part of the path, for the contract has several of them.
        config.layout.row_path = "{cluster}/{namespace}/{name}/{targetName}/{uid}{extension}".to_owned();
        config.layout.document_path = "{cluster}/{namespace}/{name}{extension}".to_owned();
        let mut bench = Self { remote, config };
        bench.config = bench.of("contract");
        bench
    }

    /// Returns the configuration of a sink with this `spec.cluster`.
    fn of(&self, cluster: &str) -> GitConfig {
        let mut config = self.config.clone();
        config.cluster = Cluster::new(cluster);
        config.layout.cluster = Cluster::new(cluster);
        config
    }

    fn wrong(&self) -> GitConfig {
        let password = Secret::new("glpat-wrong");
        GitConfig { credentials: Credentials::Basic { user: "kollect".to_owned(), password }, ..self.config.clone() }
    }

    fn nowhere(&self) -> GitConfig {
        GitConfig { endpoint: "https://127.0.0.1:9/inventory.git".to_owned(), ..self.config.clone() }
    }

    /// Returns with what the paths of an inventory begin, before a slash or a dot.
    fn stem(scope: &Scope) -> String {
        let cluster = match scope.cluster.as_str() {
            "" => "default",
            "elsewhere" => "elsewhere",
            _ => "contract",
        };
        format!("{cluster}/{}/{}", scope.inventory.namespace, scope.inventory.name)
    }

    /// Returns the items in the files of an inventory.
    fn items(&self, scope: &Scope) -> Result<Items> {
        let (stem, mut items) = (Self::stem(scope), Items::new());
        if self.remote.repository.tip("main")?.is_none() {
            return Ok(items);
        }
        for (path, text) in self.remote.repository.files("main")? {
            let ours = path.strip_prefix(&stem).is_some_and(|rest| rest.starts_with(['/', '.']));
            if ours && !path.ends_with(".manifest.json") {
                match serde_json::from_slice(&text).with_context(|| path.clone())? {
                    Value::Object(mut envelope) if envelope.contains_key("items") => {
                        let all = envelope["items"].as_array_mut().into_iter().flat_map(std::mem::take);
                        items.extend(all.map(|item| (path.clone(), item)));
                    }
                    item => items.push((path, item)),
                }
            }
        }
        Ok(items)
    }

    fn stored(&self, scope: &Scope) -> Result<Stored> {
        let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let items = self.items(scope)?.into_iter();
        Ok(items.map(|(_, item)| ((text(&item, "targetName"), text(&item, "uid")), item)).collect())
    }

    fn tamper(&self, scope: &Scope, uid: &str, deed: Tamper) -> Result<()> {
        if deed == Tamper::Forget {
            let reference =
                format!("refs/kollect/{}/{}/{}", scope.cluster, scope.inventory.namespace, scope.inventory.name);
            ensure!(self.remote.repository.refs()?.contains_key(&reference), "there is no {reference}");
            let mut git = self.remote.repository.git();
            ensure!(git.args(["update-ref", "-d", &reference]).status()?.success());
            return Ok(());
        }
        let items = self.items(scope)?;
        let path = items.iter().find(|(_, item)| item["uid"] == uid).map(|(path, _)| path.as_str());
        let path = path.with_context(|| format!("there is no file of {uid}"))?;
        let human: Human = self.remote.repository.human("somebody", "main")?;
        if deed == Tamper::Delete {
            human.remove(path)?;
            human.commit("remove")?;
            human.push()?;
        } else {
            let text = std::fs::read_to_string(human.dir().join(path))?;
            human.edit(path, text.replace("app-7", "app-8"), "edit")?;
        }
        Ok(())
    }
}

struct Trees(Bench);

impl Subject for Trees {
    fn sink(&self) -> Arc<dyn RowSink> {
        rows(&self.0.remote.life("us"), &self.0.config)
    }

    fn sink_of(&self, cluster: &Cluster) -> Arc<dyn RowSink> {
        rows(&self.0.remote.life("us"), &self.0.of(cluster.as_str()))
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn RowSink>> {
        Some(rows(&self.0.remote.life("us"), &self.0.wrong()))
    }

    fn unreachable(&self) -> Arc<dyn RowSink> {
        rows(&self.0.remote.life("us"), &self.0.nowhere())
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        Box::pin(async { self.0.stored(scope) })
    }

    fn deeds(&self) -> &[Tamper] {
        &[Tamper::Edit, Tamper::Delete, Tamper::Forget]
    }

    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.tamper(scope, uid, deed) })
    }
}

struct Documents(Bench);

impl DocumentSubject for Documents {
    fn sink(&self) -> Arc<dyn DocumentSink> {
        documents(&self.0.remote.life("us"), &self.0.config)
    }

    fn wrong_credentials(&self) -> Option<Arc<dyn DocumentSink>> {
        Some(documents(&self.0.remote.life("us"), &self.0.wrong()))
    }

    fn unreachable(&self) -> Arc<dyn DocumentSink> {
        documents(&self.0.remote.life("us"), &self.0.nowhere())
    }

    fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
        Box::pin(async { self.0.stored(scope) })
    }

    fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.tamper(scope, uid, deed) })
    }
}

#[tokio::test]
async fn a_tree_keeps_the_contract_of_rows() {
    let bench = Bench::new("trees", LayoutMode::PerResource);
    contract::run(&Trees(bench)).await.unwrap();
}

#[tokio::test]
async fn a_document_keeps_the_contract_of_documents() {
    let bench = Bench::new("documents", LayoutMode::Document);
    document::run(&Documents(bench)).await.unwrap();
}
