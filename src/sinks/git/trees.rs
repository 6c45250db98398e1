//! A file for each row: the sink of the layouts `perResource` and `split`.
//!
//! After a restart nothing is read back but ids: each row is rendered, and either the branch has its text at its path or
//! it does not. Files of ours that no row has are leftovers. Which part a leftover came from is read from the file or its
//! path; where neither tells, it goes only when everything is known.
//!
//! Between two comparisons the rows that were delivered are kept, shared with the store, so that the path of a key that goes
//! is known. What a delivery moves is kept with them until the branch has it: whether a delivery that failed or was dropped
//! came through nobody knows, and the next one sends its files again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::resume_unwind;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use git2::{ObjectType, Oid};
use parking_lot::Mutex;

use super::actor::{Change, Edit, Holding, State};
use super::error::GitError;
use super::{GitSink, refused_by};
use crate::api::v1alpha1::conditions::reasons;
use crate::canonical;
use crate::error::chain;
use crate::export::layout::{Layout, Moves, Places, Scratch};
use crate::export::{Delta, File, FilePath, Held, Scope, Selection};
use crate::model::{Fingerprint, InventoryKey, Name, Namespace, Part, Row, RowKey, Uid};
use crate::sinks::{Audit, Receipt, Refused, RowSink, SinkError};

/// Front of the UID by which a leftover is known; the rest is its path.
const LEFTOVER: &str = "file:";

/// What the branch has of an inventory.
#[derive(Debug)]
pub(super) struct Standing {
    places: Places,
    generation: i64,
    /// What the branch may not have yet.
    pending: Moves,
    /// Rows that have no file, because they were refused.
    absent: HashSet<RowKey>,
    /// Files of ours that no known row has.
    strange: HashSet<FilePath>,
    /// Whether the index is among the files.
    indexed: bool,
    /// How many files the branch had when it last answered.
    files: usize,
}

/// Rows beside what the branch has.
struct Comparison {
    layout: Arc<Layout>,
    inventory: InventoryKey,
    selection: Selection,
    rows: Vec<Row>,
    holdings: Vec<Holding>,
}

/// What a comparison comes to.
struct Compared {
    held: Vec<Held>,
    /// Files that no row has.
    leftovers: Vec<(FilePath, Oid)>,
}

/// A delivery in paths.
#[derive(Default)]
struct Files {
    put: Vec<File>,
    remove: Vec<FilePath>,
    /// The row of each file.
    keys: HashMap<FilePath, RowKey>,
    /// Where the index is.
    index: Option<FilePath>,
    refused: Vec<Refused>,
}

/// Works on a standing off the async threads. What was dropped before its turn came is not done any more: something newer
/// may have been.
async fn beside<T: Send + 'static>(
    standing: &Arc<Mutex<Standing>>,
    work: impl FnOnce(&mut Standing) -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    let (standing, waiting) = (standing.clone(), Arc::new(()));
    let waits = Arc::downgrade(&waiting);
    let done = tokio::task::spawn_blocking(move || {
        let mut standing = standing.lock();
        if waits.strong_count() == 0 { Err(GitError::GivenUp) } else { work(&mut standing) }
    });
    let done = done.await.unwrap_or_else(|error| resume_unwind(error.into_panic()));
    drop(waiting);
    done
}

impl GitSink {
    /// Compares rows with what the branch has, and keeps where each row is from now on.
    async fn compare(&self, scope: &Scope, selection: &Selection, rows: &[Row]) -> Result<Vec<Held>, GitError> {
        self.settle(scope)?;
        let holdings = self.actor.owned(Arc::new(scope.clone())).await?;
        let known = match selection {
            Selection::All => None,
            Selection::Parts(_) => self.standings.lock().get(scope).cloned(),
        };
        let standing = known.unwrap_or_else(|| Arc::new(Mutex::new(Standing::new(&self.layout, scope))));
        let comparison = Comparison {
            layout: self.layout.clone(),
            inventory: scope.inventory.clone(),
            selection: selection.clone(),
            rows: rows.to_vec(),
            holdings,
        };
        let Compared { mut held, leftovers } = beside(&standing, move |standing| comparison.run(standing)).await?;
        held.extend(self.leftovers(selection, leftovers).await?);
        self.standings.lock().insert(scope.clone(), standing);
        Ok(held)
    }

    /// Says of each leftover which part it came from; of a selection of parts, those of other parts are left out.
    async fn leftovers(&self, selection: &Selection, files: Vec<(FilePath, Oid)>) -> Result<Vec<Held>, GitError> {
        let contents = self.actor.blobs(files.iter().map(|(_, blob)| *blob).collect()).await?;
        let mut held = Vec::with_capacity(files.len());
        for ((path, _), content) in files.iter().zip(contents) {
            let part = self.layout.origin(path, &content).map(|trace| trace.part);
            let wanted = match (selection, &part) {
                (Selection::All, _) => true,
                (Selection::Parts(parts), Some(part)) => parts.contains(part),
                (Selection::Parts(_), None) => false,
            };
            if wanted {
                let part = part.unwrap_or_else(|| Part { target: Name::new(""), namespace: Namespace::new("") });
                let key = RowKey { target: part.target, uid: Uid::new(&format!("{LEFTOVER}{path}")) };
                held.push(Held { key, namespace: part.namespace, fingerprint: None });
            }
        }
        Ok(held)
    }

    async fn write(&self, delta: &Delta) -> Result<Receipt, GitError> {
        let standing = self.standings.lock().get(&*delta.scope).cloned().ok_or(GitError::NotCompared)?;
        self.settle(&delta.scope)?;
        let (layout, sent, now) = (self.layout.clone(), delta.clone(), (self.clock)());
        let Files { put, remove, keys, index, mut refused } =
            beside(&standing, move |standing| standing.deliver(&layout, sent, now)).await?;
        let facts = self.facts(&delta.scope, &delta.standing, delta.standing.digest.to_string(), now)?;
        let edit = Edit { scope: delta.scope.clone(), change: Change::Part { put, remove }, facts };
        let outcome = self.actor.submit(edit).await?;
        let mut standing = standing.lock();
        standing.pending = Moves::default();
        let mut of_index = None;
        for (path, other) in outcome.conflicts {
            if let Some(row) = keys.get(&path).and_then(|key| standing.places.row(key)).cloned() {
                let message = format!(
                    "the file {path} belongs to inventory {other}; choose another path in spec.layout.pathTemplate"
                );
                refused.push(refused_by(&row, reasons::PATH_CONFLICT, message));
                standing.absent.insert(row.key());
            } else if index.as_ref() == Some(&path) {
                standing.indexed = false;
                of_index = Some(GitError::PathConflict { path, other });
            }
        }
        standing.files = standing.count();
        of_index.map_or(Ok(()), Err)?;
        Ok(Receipt {
            written: outcome.written,
            deleted: outcome.deleted,
            bytes: outcome.bytes,
            refused,
            checksum: None,
        })
    }

    async fn look(&self, scope: &Scope) -> Result<Audit, GitError> {
        let holdings = self.actor.owned(Arc::new(scope.clone())).await?;
        let Some(standing) = self.standings.lock().get(scope).cloned() else { return Ok(Audit::Drifted) };
        let all = standing.lock().may_be(holdings.len());
        let intact = all && holdings.iter().all(|holding| holding.state == State::Intact);
        Ok(if intact { Audit::Intact } else { Audit::Drifted })
    }
}

impl Standing {
    fn new(layout: &Arc<Layout>, scope: &Scope) -> Self {
        Self {
            places: Places::new(layout.clone(), scope.inventory.clone(), 0),
            generation: 0,
            pending: Moves::default(),
            absent: HashSet::new(),
            strange: HashSet::new(),
            indexed: false,
            files: 0,
        }
    }

    /// Returns how many files there are once the branch has what is pending.
    fn count(&self) -> usize {
        (self.places.len() + self.strange.len() + usize::from(self.indexed)).saturating_sub(self.absent.len())
    }

    /// Tells whether the branch may have so many files: whether it has what is pending nobody knows.
    fn may_be(&self, files: usize) -> bool {
        let pending = !(self.pending.put.is_empty() && self.pending.remove.is_empty());
        files == self.files || pending && files == self.count()
    }

    /// Takes a delta in, and returns which files that means.
    fn deliver(&mut self, layout: &Arc<Layout>, delta: Delta, now: jiff::Timestamp) -> Result<Files, GitError> {
        let (inventory, generation) = (delta.scope.inventory.clone(), delta.standing.generation);
        let mut files = Files::default();
        let mut deletes = Vec::with_capacity(delta.deletes.len());
        for key in delta.deletes {
            match leftover(&key) {
                Some(path) => files.remove.push(path),
                None => deletes.push(key),
            }
        }
        let mut upserts = Vec::with_capacity(delta.upserts.len());
        for row in delta.upserts {
            match layout.path(&inventory, generation, &row) {
                Ok(_) => upserts.push(row),
                Err(error) => {
                    files.refused.push(refused_by(&row, reasons::EXPORT_TERMINAL, chain(&error)));
                    deletes.push(row.key());
                }
            }
        }
        for key in deletes.iter().cloned().chain(upserts.iter().map(Row::key)) {
            self.absent.remove(&key);
        }
        let moves = self.places.apply(upserts, &deletes)?;
        self.pend(moves);
        if layout.follows_generation() && generation != self.generation {
            self.renumber(layout, inventory.clone(), generation)?;
        }
        self.generation = generation;
        for path in &files.remove {
            self.strange.remove(path);
        }
        self.strange.retain(|path| !self.pending.put.contains_key(path));
        files.remove.extend(self.pending.remove.iter().cloned());
        files.remove.retain(|path| !self.pending.put.contains_key(path));
        self.absent.extend(files.render(layout, &self.pending.put));
        // Rows that are not known cannot be listed.
        if layout.has_index() && self.strange.is_empty() {
            let index = self.index(layout, &inventory, now)?;
            files.index = Some(index.path.clone());
            files.put.push(index);
            self.indexed = true;
        }
        Ok(files)
    }

    /// Adds to what the branch may not have yet.
    fn pend(&mut self, moves: Moves) {
        let Moves { put, remove } = &mut self.pending;
        for path in &moves.remove {
            put.remove(path);
        }
        put.extend(moves.put);
        remove.extend(moves.remove);
        remove.retain(|path| !put.contains_key(path));
        remove.sort_unstable();
        remove.dedup();
    }

    /// Moves all files to the paths of another generation.
    fn renumber(&mut self, layout: &Arc<Layout>, inventory: InventoryKey, generation: i64) -> Result<(), GitError> {
        let all = self.places.in_order()?;
        let (remove, rows): (Vec<_>, Vec<_>) = all.into_iter().map(|(path, row)| (path, row.clone())).unzip();
        let mut places = Places::new(layout.clone(), inventory, generation);
        let put = places.apply(rows, &[])?.put;
        self.places = places;
        self.pend(Moves { put: BTreeMap::new(), remove });
        self.pend(Moves { put, remove: Vec::new() });
        Ok(())
    }

    fn index(&self, layout: &Layout, inventory: &InventoryKey, now: jiff::Timestamp) -> Result<File, GitError> {
        let mut all = self.places.in_order()?;
        all.retain(|(_, row)| !self.absent.contains(&row.key()));
        let items = crate::export::Checksum::of_items(all.iter().map(|(_, row)| *row));
        let paths = all.iter().map(|(path, _)| path);
        Ok(layout.index(inventory, self.generation, items, now, paths)?)
    }
}

impl Files {
    /// Renders files. A row that has no text is refused, leaves no older text behind, and is returned.
    fn render(&mut self, layout: &Layout, rows: &BTreeMap<FilePath, Row>) -> Vec<RowKey> {
        let mut scratch = Scratch::default();
        let mut absent = Vec::new();
        for (path, row) in rows {
            match layout.content_with(row, &mut scratch) {
                Ok(text) => {
                    self.keys.insert(path.clone(), row.key());
                    self.put.push(File { path: path.clone(), text });
                }
                Err(error) => {
                    self.refused.push(refused_by(row, reasons::EXPORT_TERMINAL, chain(&error)));
                    self.remove.push(path.clone());
                    absent.push(row.key());
                }
            }
        }
        absent
    }
}

impl Comparison {
    fn run(mut self, standing: &mut Standing) -> Result<Compared, GitError> {
        // A row without a path has no file; it is refused when it is delivered.
        let (layout, inventory, generation) = (&self.layout, &self.inventory, standing.generation);
        self.rows.retain(|row| layout.path(inventory, generation, row).is_ok());
        let keys: HashSet<RowKey> = self.rows.iter().map(Row::key).collect();
        let gone = self.gone(standing, &keys)?;
        let mut moves = standing.places.apply(self.rows.clone(), &gone)?;
        if self.selection != Selection::All {
            // The rows themselves come back with the delivery, if they differ.
            moves.put.retain(|_, row| !keys.contains(&row.key()));
            standing.pend(moves);
        }
        standing.absent.retain(|key| !keys.contains(key) && standing.places.row(key).is_some());
        let there: HashMap<&FilePath, &Holding> =
            self.holdings.iter().map(|holding| (&holding.path, holding)).collect();
        let mut held = Vec::new();
        let mut scratch = Scratch::default();
        for row in &self.rows {
            let key = row.key();
            let Some(path) = standing.places.path(&key)? else { continue };
            let Some(holding) = there.get(&path) else { continue };
            let text = self.layout.content_with(row, &mut scratch);
            let blob = text.map(|text| Oid::hash_object(ObjectType::Blob, &text.bytes));
            let same = holding.state == State::Intact && matches!(blob, Ok(Ok(blob)) if blob == holding.blob);
            held.push(Held { key, namespace: row.namespace.clone(), fingerprint: same.then(|| fingerprint(row)) });
        }
        let leftovers = self.leftovers(standing)?;
        standing.files = self.holdings.len();
        Ok(Compared { held, leftovers })
    }

    /// Returns rows of the selection that are no more.
    fn gone(&self, standing: &Standing, keys: &HashSet<RowKey>) -> Result<Vec<RowKey>, GitError> {
        let Selection::Parts(parts) = &self.selection else { return Ok(Vec::new()) };
        let parts: BTreeSet<(&Name, &Namespace)> = parts.iter().map(|part| (&part.target, &part.namespace)).collect();
        let all = standing.places.in_order()?;
        let rows = all.into_iter().map(|(_, row)| row);
        let gone =
            rows.filter(|row| parts.contains(&(&row.origin.target.name, &row.namespace)) && !keys.contains(&row.key()));
        Ok(gone.map(Row::key).collect())
    }

    /// Returns the files that no row has, and notes them.
    fn leftovers(&self, standing: &mut Standing) -> Result<Vec<(FilePath, Oid)>, GitError> {
        let all = standing.places.in_order()?;
        let mut used: HashSet<&FilePath> = all.iter().map(|(path, _)| path).collect();
        let index = standing.places.index_path()?;
        used.extend(index.as_ref());
        let mut leftovers: Vec<(FilePath, Oid)> = Vec::new();
        let mut indexed = false;
        for holding in &self.holdings {
            indexed |= index.as_ref() == Some(&holding.path);
            if !used.contains(&holding.path) {
                leftovers.push((holding.path.clone(), holding.blob));
            }
        }
        // What is to be removed with the next delivery is no stranger.
        let pending: HashSet<&FilePath> = standing.pending.remove.iter().collect();
        let strange = leftovers.iter().map(|(path, _)| path).filter(|path| !pending.contains(path));
        let strange = strange.cloned().collect();
        (standing.strange, standing.indexed) = (strange, indexed);
        Ok(leftovers)
    }
}

/// Returns the path of a leftover.
fn leftover(key: &RowKey) -> Option<FilePath> {
    let Uid::Other(text) = &key.uid else { return None };
    FilePath::new(text.strip_prefix(LEFTOVER)?).ok()
}

/// Equal rows are equal files, so the fingerprint of the row stands for that of the file.
fn fingerprint(row: &Row) -> Fingerprint {
    let mut item = Vec::with_capacity(256 + row.body.size());
    canonical::write_item(row, &mut item);
    canonical::fingerprint(&[&item])
}

impl RowSink for GitSink {
    fn fingerprint(&self, _: &Scope, row: &Row) -> Fingerprint {
        fingerprint(row)
    }

    fn recover<'a>(
        &'a self,
        scope: &'a Scope,
        selection: &'a Selection,
        rows: &'a [Row],
    ) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        async move { Ok(self.compare(scope, selection, rows).await?) }.boxed()
    }

    /// Where each row is follows from all of them.
    fn remembers(&self) -> bool {
        true
    }

    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        async move { Ok(self.write(delta).await?) }.boxed()
    }

    fn audit<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Audit, SinkError>> {
        async move { Ok(self.look(scope).await?) }.boxed()
    }

    fn verify<'a>(&'a self, scope: &'a Scope, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        async move { Ok(self.compare(scope, &Selection::All, rows).await?) }.boxed()
    }
}
