//! A sink of documents in memory: it keeps one document of each scope and writes what differs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::memory::Wrong;
use crate::export::{Document, Scope};
use crate::metrics::SinkType;
use crate::model::{Row, RowKey};
use crate::sinks::{Destination, DocumentSink, Leave, Receipt, Sink, SinkError};

/// Rows of a document by key: names and attributes.
pub(super) type Items = Vec<(RowKey, String, Vec<u8>)>;

/// What is kept of one scope.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    scope: Scope,
    /// On record as ours.
    pub(super) owned: bool,
    pub(super) items: Items,
}

/// A document that was taken.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) at: Instant,
    pub(super) items: Items,
    pub(super) max_part_bytes: u64,
    /// It differed from what was there.
    pub(super) written: bool,
    /// Whether the answer arrived.
    pub(super) heard: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shelves {
    pub(super) kept: BTreeMap<String, Kept>,
    pub(super) published: Vec<Published>,
    /// Failures of the next publications, the last one first.
    pub(super) failures: Vec<Wrong>,
}

#[derive(Debug)]
pub(super) struct Archive {
    destination: Destination,
    pub(super) shelves: Mutex<Shelves>,
    /// Whoever holds it for writing keeps publications waiting.
    pub(super) gate: tokio::sync::RwLock<()>,
}

fn name(scope: &Scope) -> String {
    format!("{}/{}", scope.cluster, scope.inventory)
}

fn item(row: &Row) -> (RowKey, String, Vec<u8>) {
    (row.key(), row.body.name().to_owned(), row.body.attributes().to_vec())
}

impl Archive {
    pub(super) fn new(failures: &[Wrong]) -> Arc<Self> {
        let shelves = Shelves { failures: failures.to_vec(), ..Shelves::default() };
        let destination = Destination { id: "archive".into(), description: "archive".into() };
        Arc::new(Self { destination, shelves: Mutex::new(shelves), gate: tokio::sync::RwLock::default() })
    }

    /// Returns what is kept of a scope.
    pub(super) fn items(&self, scope: &Scope) -> Option<Items> {
        self.shelves.lock().kept.get(&name(scope)).map(|kept| kept.items.clone())
    }

    /// Changes what is kept of a scope as a person would.
    pub(super) fn edit(&self, scope: &Scope, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.shelves.lock().kept.get_mut(&name(scope)) {
            change(kept);
        }
    }
}

impl Shelves {
    fn take(&mut self, document: &Document, heard: bool) -> Receipt {
        let items: Items = document.rows.iter().map(item).collect();
        let there = self.kept.get(&name(&document.scope));
        let written = there.map_or(!items.is_empty(), |kept| kept.items != items);
        if written || there.is_some() {
            let kept = Kept { scope: (*document.scope).clone(), owned: true, items: items.clone() };
            self.kept.insert(name(&document.scope), kept);
        }
        let max_part_bytes = document.max_part_bytes;
        let checksum = Some(format!("{} items", items.len()));
        self.published.push(Published { at: Instant::now(), items, max_part_bytes, written, heard });
        Receipt { written: written.into(), checksum, ..Receipt::default() }
    }

    fn fails(&mut self) -> Option<Wrong> {
        self.failures.pop()
    }
}

impl Sink for Archive {
    fn kind(&self) -> SinkType {
        SinkType::Git
    }

    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        Box::pin(async { Ok(Some(self.destination.id.clone())) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        let failure = self.shelves.lock().fails();
        Box::pin(async move { failure.map_or(Ok(String::new()), |wrong| Err(wrong.error())) })
    }

    fn leave<'a>(&'a self, scope: &'a Scope, leave: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let mut receipt = Receipt::default();
        let kept = &mut self.shelves.lock().kept;
        if kept.get(&name(scope)).is_some_and(|kept| kept.owned) {
            match leave {
                Leave::Delete => receipt.deleted = u64::from(kept.remove(&name(scope)).is_some()),
                Leave::Orphan => {
                    kept.values_mut().filter(|kept| kept.scope == *scope).for_each(|kept| kept.owned = false);
                }
            }
        }
        Box::pin(async move { Ok(receipt) })
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        let shelves = self.shelves.lock();
        let scopes = shelves.kept.values().filter(|kept| kept.owned).map(|kept| kept.scope.clone()).collect();
        Box::pin(async move { Ok(scopes) })
    }

    fn heartbeat<'a>(&'a self, _: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

impl DocumentSink for Archive {
    fn has<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<bool, SinkError>> {
        let items: Items = document.rows.iter().map(item).collect();
        let has = self.items(&document.scope).map_or(items.is_empty(), |there| there == items);
        Box::pin(async move { Ok(has) })
    }

    fn publish<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let _open = self.gate.read().await;
            let mut shelves = self.shelves.lock();
            match shelves.fails() {
                Some(Wrong::Unheard) => {
                    shelves.take(document, false);
                    Err(Wrong::Unheard.error())
                }
                Some(wrong) => Err(wrong.error()),
                None => Ok(shelves.take(document, true)),
            }
        })
    }
}

#[cfg(feature = "lab")]
mod contract {
    use anyhow::{Context, Result};

    use super::*;
    use crate::error::Class;
    use crate::sinks::contract::document::{self, DocumentSubject};
    use crate::sinks::contract::{Stored, Tamper};

    struct Subject(Arc<Archive>);

    impl DocumentSubject for Subject {
        fn sink(&self) -> Arc<dyn DocumentSink> {
            self.0.clone()
        }

        fn wrong_credentials(&self) -> Option<Arc<dyn DocumentSink>> {
            None
        }

        fn unreachable(&self) -> Arc<dyn DocumentSink> {
            Archive::new(&[Wrong::Silent; 9])
        }

        fn stored<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Stored>> {
            let items = self.0.items(scope).unwrap_or_default();
            Box::pin(async move {
                let item = |(key, name, attributes): (RowKey, String, Vec<u8>)| {
                    let attributes: serde_json::Value = serde_json::from_slice(&attributes)?;
                    let item = serde_json::json!({"name": name, "attributes": attributes});
                    Ok(((key.target.to_string(), key.uid.to_string()), item))
                };
                items.into_iter().map(item).collect()
            })
        }

        fn tamper<'a>(&'a self, scope: &'a Scope, uid: &'a str, deed: Tamper) -> BoxFuture<'a, Result<()>> {
            self.0.edit(scope, |kept| match deed {
                Tamper::Delete => kept.items.retain(|(key, ..)| key.uid.to_string() != uid),
                Tamper::Forget => kept.owned = false,
                Tamper::Edit | Tamper::Move | Tamper::Add => {
                    let edited = kept.items.iter_mut().filter(|(key, ..)| key.uid.to_string() == uid);
                    edited.for_each(|(_, _, attributes)| *attributes = b"{\"replicas\":77}".to_vec());
                }
            });
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn the_archive_keeps_the_contract_of_documents() {
        document::run(&Subject(Archive::new(&[]))).await.unwrap();
    }

    #[tokio::test]
    async fn the_contract_sees_a_sink_that_answers_wrongly() {
        let failing = Archive::new(&[Wrong::Refused(Class::Transient)]);
        let broken = document::run(&Subject(failing)).await.context("broken").unwrap_err();
        assert!(format!("{broken:#}").contains("scripted"), "{broken:#}");
    }
}
