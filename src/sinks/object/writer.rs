//! One inventory in one bucket: looked at, written, ended.
//!
//! Each step leaves a bucket that the next one, of this process or another, understands: what a crash interrupts is
//! finished by publishing again.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::error::ObjectError;
use super::gate::Gate;
use super::key;
use super::record::{Object, Record, Set};
use super::render::{Piece, Plan, Recipe};
use super::store::{Condition, Held, Label, Store, Upload, Version, Written};
use crate::export::{Document, Scope};
use crate::model::Cluster;
use crate::sinks::mandate::Mandate;
use crate::sinks::{Leave, Receipt};
use crate::validate::Retention;

/// Requests at a time for one inventory.
const WIDTH: usize = 8;
/// Pieces that wait to be sent.
const QUEUE: usize = 1;
/// Media type of a record and of a manifest.
const JSON: &str = "application/json";

/// What it takes to write to a bucket; shared by all inventories of a sink.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) recipe: Recipe,
    pub(super) retention: Retention,
    /// Who writes: the UID of `kube-system`.
    pub(super) name: String,
    pub(super) mandate: Mandate,
    pub(super) gate: Arc<Gate>,
    /// Clusters of the inventories that come this way: that of the sink, in an operator.
    pub(super) clusters: Mutex<BTreeSet<String>>,
    pub(super) clock: fn() -> Timestamp,
}

/// The record of an inventory as it was read.
struct Known {
    key: String,
    record: Option<Record>,
    version: Option<Version>,
}

/// Objects that are being encoded.
struct Production {
    pieces: mpsc::Receiver<Piece>,
    /// Ends once nobody takes the pieces.
    producer: JoinHandle<Result<(), ObjectError>>,
}

/// A document, what it becomes, and what is there of it.
struct Job {
    document: Arc<Document>,
    plan: Plan,
    wanted: Set,
    labels: Vec<Label>,
    held: Vec<Option<Held>>,
}

impl Writer {
    /// Tells whether publishing would write nothing.
    pub(super) async fn has(self: Arc<Self>, document: Arc<Document>) -> Result<bool, ObjectError> {
        let known = self.known(&document.scope).await?;
        if document.rows.is_empty() && known.record.is_none() {
            return Ok(true);
        }
        let job = self.prepare(document).await?;
        Ok(known.record.is_some_and(|record| record.describes(&job.wanted, &job.plan.keys, &job.held))
            || job.is_there())
    }

    /// Brings the bucket to a document.
    pub(super) async fn publish(self: Arc<Self>, document: Arc<Document>) -> Result<Receipt, ObjectError> {
        let scope = document.scope.clone();
        let _turn = self.gate.turn(&scope).await;
        self.clusters.lock().insert(scope.cluster.as_str().to_owned());
        let mut known = self.known(&scope).await?;
        self.unrivalled(&scope, &known)?;
        let nothing = document.rows.is_empty() && known.record.is_none();
        // Where the record speaks of no such document, it is encoded while its checksum is computed.
        let begun = (!nothing && known.is_new(document.standing.generation)).then(|| self.produce(&document));
        let job = self.prepare(document).await?;
        let checksum = Some(job.wanted.checksum.clone());
        let refused: Vec<_> = job.plan.refused.iter().cloned().map(Into::into).collect();
        let idle = Receipt { refused, checksum, ..Receipt::default() };
        if nothing {
            return Ok(idle);
        }
        let mut record = known.record.clone().unwrap_or_else(|| Record::new(&scope, &self.name, self.recipe.place()));
        let intact = record.describes(&job.wanted, &job.plan.keys, &job.held);
        if intact && record.writer == self.name {
            let deleted = self.tidy(&mut known, record).await?;
            return Ok(Receipt { deleted, ..idle });
        }
        job.unowned()?;
        // Written by us, and the record was not: a crash between the two, or somebody removed it.
        let there = intact || job.is_there() && !job.is_altered(&record);
        let (objects, bytes) = if there {
            (job.found(), 0)
        } else {
            self.claim(&mut known, &mut record, &job).await?;
            let production = begun.unwrap_or_else(|| self.produce(&job.document));
            self.write(&job, production).await?
        };
        let written = if bytes == 0 { 0 } else { objects.len() as u64 };
        self.name.clone_into(&mut record.writer);
        record.inventory_uid = scope.inventory_uid.to_string();
        record.succeed(Set { objects, ..job.wanted }, &self.recipe.place(), self.recipe.archives());
        self.save(&mut known, &record).await?;
        let deleted = self.tidy(&mut known, record).await?;
        Ok(Receipt { written, deleted, bytes, ..idle })
    }

    /// Ends an inventory. What another operator owns is not touched.
    pub(super) async fn leave(self: Arc<Self>, scope: Arc<Scope>, leave: Leave) -> Result<Receipt, ObjectError> {
        let _turn = self.gate.turn(&scope).await;
        let known = self.known(&scope).await?;
        let Some(record) = known.record.filter(|record| record.writer == self.name) else {
            return Ok(Receipt::default());
        };
        let mut deleted = 0;
        if leave == Leave::Delete {
            let keys = record.keys();
            self.check(&known.key)?;
            deleted = self.remove(keys).await?;
        }
        self.check(&known.key)?;
        self.store.delete(&known.key).await?;
        Ok(Receipt { deleted, ..Receipt::default() })
    }

    /// Returns the inventories that this operator has on record.
    pub(super) async fn scopes(&self) -> Result<Vec<Scope>, ObjectError> {
        self.gate.settled().await;
        let ending = format!(".{}.json", self.recipe.encoding.format());
        let clusters = self.clusters.lock().clone();
        let mut scopes = Vec::new();
        for cluster in clusters {
            let keys = self.store.list(&key::records(&Cluster::new(cluster)))?;
            let ours = keys.try_filter(|key| future::ready(key.ends_with(&ending)));
            let read = ours.map(|key| async move { self.store.get(&key?).await });
            let mut read = std::pin::pin!(read.buffered(WIDTH));
            while let Some(found) = read.next().await {
                let record = found?.and_then(|(text, _)| Record::read(&text));
                scopes.extend(record.filter(|record| record.writer == self.name).map(|record| record.scope()));
            }
        }
        Ok(scopes)
    }

    fn check(&self, key: &str) -> Result<(), ObjectError> {
        self.mandate.check().map_err(|source| ObjectError::Deposed { key: key.to_owned(), source })
    }

    async fn known(&self, scope: &Scope) -> Result<Known, ObjectError> {
        let key = key::record(scope, self.recipe.encoding.format());
        let Some((text, version)) = self.store.get(&key).await? else {
            return Ok(Known { key, record: None, version: None });
        };
        match Record::read(&text) {
            Some(record) => Ok(Known { key, record: Some(record), version: Some(version) }),
            None => Err(ObjectError::ForeignRecord { key }),
        }
    }

    /// Checks that no other operator writes this inventory.
    fn unrivalled(&self, scope: &Scope, known: &Known) -> Result<(), ObjectError> {
        match &known.record {
            Some(record) if record.writer != self.name => {
                let stands = known
                    .version
                    .as_ref()
                    .is_some_and(|version| self.gate.has_stood_still(scope, version, Instant::now()));
                if stands {
                    return Ok(());
                }
                Err(ObjectError::ClusterConflict { inventory: key::owner(scope), writer: record.writer.clone() })
            }
            _ => {
                self.gate.forget_rival(scope);
                Ok(())
            }
        }
    }

    /// Looks at what a document becomes, and at what is there of it.
    async fn prepare(self: &Arc<Self>, document: Arc<Document>) -> Result<Job, ObjectError> {
        let (writer, planned) = (Arc::clone(self), Arc::clone(&document));
        let plan = spawn_blocking(move || writer.recipe.plan(&planned)).await;
        let plan = plan.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
        let (owner, appearance) = (key::owner(&document.scope), self.recipe.appearance());
        let checksum = plan.checksum.to_string();
        let total = plan.keys.len();
        let labels = (1..=total)
            .map(|index| Label {
                owner: owner.clone(),
                checksum: checksum.clone(),
                appearance: appearance.clone(),
                part: format!("{index}/{total}"),
            })
            .collect();
        let looks = stream::iter(plan.keys.clone()).map(|key| async move { self.store.head(&key).await });
        let held: Vec<Result<Option<Held>, ObjectError>> = looks.buffered(WIDTH).collect().await;
        let held = held.into_iter().collect::<Result<_, _>>()?;
        let wanted = Set {
            generation: document.standing.generation,
            checksum,
            appearance,
            written_at: (self.clock)(),
            objects: Vec::new(),
        };
        Ok(Job { document, plan, wanted, labels, held })
    }

    /// Writes down which new keys there are going to be.
    async fn claim(&self, known: &mut Known, record: &mut Record, job: &Job) -> Result<(), ObjectError> {
        let before = record.keys();
        let new = job.plan.keys.iter().filter(|key| before.binary_search(key).is_err());
        record.pending.extend(new.cloned());
        if known.version.is_none() || record.keys() != before {
            self.save(known, record).await?;
        }
        Ok(())
    }

    async fn save(&self, known: &mut Known, record: &Record) -> Result<(), ObjectError> {
        self.check(&known.key)?;
        let condition = known.version.as_ref().map_or(Condition::Absent, Condition::Is);
        match self.store.put(&known.key, record.text().into(), JSON, None, condition).await? {
            Written::Done(version) => {
                known.version = Some(version);
                known.record = Some(record.clone());
                Ok(())
            }
            Written::Differs => Err(ObjectError::Superseded { key: known.key.clone() }),
        }
    }

    /// Removes what is superseded, and writes down that it is gone. Returns how many objects that are.
    async fn tidy(&self, known: &mut Known, mut record: Record) -> Result<u64, ObjectError> {
        record.retire(self.retention, (self.clock)());
        if record.pending.is_empty() {
            return Ok(0);
        }
        let keys = record.pending.clone();
        if known.record.as_ref() != Some(&record) {
            self.save(known, &record).await?;
        }
        self.check(&known.key)?;
        let deleted = self.remove(keys).await?;
        record.pending.clear();
        self.save(known, &record).await?;
        Ok(deleted)
    }

    async fn remove(&self, keys: Vec<String>) -> Result<u64, ObjectError> {
        let removals = stream::iter(keys).map(|key| async move { self.store.delete(&key).await });
        let done: Vec<Result<(), ObjectError>> = removals.buffer_unordered(WIDTH).collect().await;
        let count = done.len() as u64;
        done.into_iter().collect::<Result<(), _>>()?;
        Ok(count)
    }

    /// Begins to encode all objects of a document.
    fn produce(self: &Arc<Self>, document: &Arc<Document>) -> Production {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let (writer, document) = (Arc::clone(self), Arc::clone(document));
        Production { pieces, producer: spawn_blocking(move || writer.recipe.produce(&document, sender)) }
    }

    /// Writes all objects of a document. Returns them, and how many bytes that were.
    async fn write(&self, job: &Job, production: Production) -> Result<(Vec<Object>, u64), ObjectError> {
        let Production { mut pieces, producer } = production;
        let mut objects = Vec::with_capacity(job.plan.keys.len());
        let mut upload: Option<Upload> = None;
        let outcome = loop {
            let Some(piece) = pieces.recv().await else { break Ok(()) };
            if let Err(error) = self.take(job, piece, &mut upload, &mut objects).await {
                break Err(error);
            }
        };
        // The producer ends once nobody takes its pieces.
        drop(pieces);
        if let Some(upload) = upload.take() {
            upload.abort().await;
        }
        let encoded = producer.await.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        outcome.and(encoded)?;
        if objects.len() != job.plan.keys.len() {
            return Err(ObjectError::GivenUp);
        }
        let bytes = objects.iter().map(|object: &Object| object.version.bytes).sum();
        Ok((objects, bytes))
    }

    async fn take(
        &self,
        job: &Job,
        piece: Piece,
        upload: &mut Option<Upload>,
        objects: &mut Vec<Object>,
    ) -> Result<(), ObjectError> {
        let (Piece::Bytes(index, bytes) | Piece::Last(index, bytes)) = &piece;
        let (Some(key), Some(label)) = (job.plan.keys.get(*index), job.labels.get(*index)) else {
            return Err(ObjectError::GivenUp);
        };
        self.check(key)?;
        let manifest = *index > 0 && *index + 1 == job.plan.keys.len();
        let content_type = if manifest { JSON } else { key::content_type(&self.recipe.encoding) };
        let version = match (&piece, upload.take()) {
            (Piece::Bytes(..), begun) => {
                let mut begun = match begun {
                    Some(begun) => begun,
                    None => self.store.upload(key, content_type, label).await?,
                };
                let added = begun.add(bytes.clone()).await;
                *upload = Some(begun);
                return added;
            }
            (Piece::Last(..), Some(mut begun)) => {
                if let Err(error) = begun.add(bytes.clone()).await {
                    *upload = Some(begun);
                    return Err(error);
                }
                begun.finish().await?;
                // What a store says of an object in pieces is not the same before and after in all of them.
                let held = self.store.head(key).await?;
                held.ok_or_else(|| ObjectError::Superseded { key: key.clone() })?.version
            }
            (Piece::Last(..), None) => {
                let held = job.held.get(*index).and_then(Option::as_ref);
                self.put(key, bytes.clone(), content_type, label, held).await?
            }
        };
        objects.push(Object { key: key.clone(), version });
        Ok(())
    }

    /// Writes an object in the place of the one that was seen there.
    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        content_type: &'static str,
        label: &Label,
        held: Option<&Held>,
    ) -> Result<Version, ObjectError> {
        let condition = held.map_or(Condition::Absent, |held| Condition::Is(&held.version));
        match self.store.put(key, bytes, content_type, Some(label), condition).await? {
            Written::Done(version) => Ok(version),
            Written::Differs => Err(ObjectError::Superseded { key: key.to_owned() }),
        }
    }
}

impl Known {
    /// Tells whether there cannot be a document like one of this generation, as far as the record goes.
    fn is_new(&self, generation: i64) -> bool {
        let current = self.record.as_ref().and_then(|record| record.current.as_ref());
        current.is_none_or(|current| current.generation != generation)
    }
}

impl Job {
    /// Checks that no object of another inventory stands where one of ours goes.
    fn unowned(&self) -> Result<(), ObjectError> {
        for ((key, label), held) in self.plan.keys.iter().zip(&self.labels).zip(&self.held) {
            let owner = held.as_ref().map(|held| held.label.owner.as_str()).unwrap_or_default();
            // Objects of earlier releases say nothing of themselves.
            if !owner.is_empty() && owner != label.owner {
                return Err(ObjectError::PathConflict { key: key.clone(), other: owner.to_owned() });
            }
        }
        Ok(())
    }

    /// Tells whether each object says of itself that it is what would be written.
    fn is_there(&self) -> bool {
        self.held.iter().zip(&self.labels).all(|(held, label)| held.as_ref().is_some_and(|held| held.label == *label))
    }

    /// Tells whether the record speaks of this very document, so that what differs was changed by somebody else.
    fn is_altered(&self, record: &Record) -> bool {
        record.current.as_ref().is_some_and(|current| {
            current.checksum == self.wanted.checksum
                && current.appearance == self.wanted.appearance
                && current.objects.iter().map(|object| &object.key).eq(&self.plan.keys)
        })
    }

    /// Returns the objects as they are.
    fn found(&self) -> Vec<Object> {
        let there = self.plan.keys.iter().zip(&self.held);
        there
            .filter_map(|(key, held)| Some(Object { key: key.clone(), version: held.as_ref()?.version.clone() }))
            .collect()
    }
}
