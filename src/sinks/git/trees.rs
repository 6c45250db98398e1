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

use super::actor::{Change, Edit, Holding, Puts, Rows, State};
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
    pending: Pending,
    /// Rows that have no file, because they were refused.
    absent: HashSet<RowKey>,
    /// Files of ours that no known row has.
    strange: HashSet<FilePath>,
    /// Whether the index is among the files.
    indexed: bool,
    /// How many files the branch had when it last answered.
    files: usize,
}

/// Moves whose files may not be in the branch yet.
#[derive(Debug, Clone, Default)]
struct Pending {
    /// Shared with the writer, who renders them.
    put: Rows,
    remove: Vec<FilePath>,
}

/// Rows beside what the branch has.
struct Comparison {
    layout: Arc<Layout>,
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
    rows: Rows,
    index: Option<File>,
    remove: Vec<FilePath>,
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
        let comparison =
            Comparison { layout: self.layout.clone(), selection: selection.clone(), rows: rows.to_vec(), holdings };
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
        let Files { rows, index, remove, mut refused } =
            beside(&standing, move |standing| standing.deliver(&layout, sent, now)).await?;
        let index_path = index.as_ref().map(|index| index.path.clone());
        let put = Puts::of_rows(self.layout.clone(), rows.clone(), index.into_iter().collect());
        let facts = self.facts(&delta.scope, &delta.standing, delta.standing.digest.to_string(), now)?;
        let edit = Edit { scope: delta.scope.clone(), change: Change::Part { put, remove }, facts };
        let outcome = self.actor.submit(edit).await?;
        let mut standing = standing.lock();
        standing.pending = Pending::default();
        let mut of_index = None;
        for (path, other) in outcome.conflicts {
            if let Some(row) = rows.get(&path) {
                let message = format!(
                    "the file {path} belongs to inventory {other}; choose another path in spec.layout.pathTemplate"
                );
                refused.push(refused_by(row, reasons::PATH_CONFLICT, message));
                standing.absent.insert(row.key());
            } else if index_path.as_ref() == Some(&path) {
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
            pending: Pending::default(),
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
        let mut upserts = delta.upserts;
        upserts.retain(|row| {
            let error = self.places.place(row).err();
            if let Some(error) = &error {
                files.refused.push(refused_by(row, reasons::EXPORT_TERMINAL, chain(error)));
                deletes.push(row.key());
            }
            error.is_none()
        });
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
        self.absent.extend(files.take(layout, &self.pending.put));
        // Rows that are not known cannot be listed.
        if layout.has_index() && self.strange.is_empty() {
            files.index = Some(self.index(layout, &inventory, now)?);
            self.indexed = true;
        }
        Ok(files)
    }

    /// Adds to what the branch may not have yet.
    fn pend(&mut self, moves: Moves) {
        let Pending { put, remove } = &mut self.pending;
        let put = Arc::make_mut(put);
        for path in &moves.remove {
            put.remove(path);
        }
        if put.is_empty() {
            *put = moves.put;
        } else {
            put.extend(moves.put);
        }
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
    /// Takes the rows to write. One that has no text is refused, leaves no older text behind, and is returned.
    fn take(&mut self, layout: &Layout, rows: &Rows) -> Vec<RowKey> {
        self.rows = rows.clone();
        let mut scratch = Scratch::default();
        let mut absent = Vec::new();
        for (path, row) in &**rows {
            if let Err(error) = layout.check(row, &mut scratch) {
                self.refused.push(refused_by(row, reasons::EXPORT_TERMINAL, chain(&error)));
                self.remove.push(path.clone());
                absent.push(row.key());
                Arc::make_mut(&mut self.rows).remove(path);
            }
        }
        absent
    }
}

impl Comparison {
    fn run(mut self, standing: &mut Standing) -> Result<Compared, GitError> {
        standing.files = self.holdings.len();
        let rows = std::mem::take(&mut self.rows);
        let rows = match &self.selection {
            Selection::All if self.holdings.is_empty() => {
                standing.places.fill(rows)?;
                return Ok(Compared { held: Vec::new(), leftovers: Vec::new() });
            }
            Selection::All => {
                standing.places.fill(rows.clone())?;
                rows
            }
            Selection::Parts(parts) => take_in(standing, parts, rows)?,
        };
        let mut there: HashMap<&FilePath, &Holding> =
            self.holdings.iter().map(|holding| (&holding.path, holding)).collect();
        let index = standing.places.index_path()?;
        standing.indexed = index.as_ref().is_some_and(|index| there.contains_key(index));
        let mut held = Vec::new();
        let mut scratch = Scratch::default();
        for row in &rows {
            let key = row.key();
            let Some(path) = standing.places.path(&key)? else { continue };
            let Some(holding) = there.remove(&path) else { continue };
            let text = self.layout.content_with(row, &mut scratch);
            let blob = text.map(|text| Oid::hash_object(ObjectType::Blob, &text.bytes));
            let same = holding.state != State::Altered && matches!(blob, Ok(Ok(blob)) if blob == holding.blob);
            held.push(Held { key, namespace: row.namespace.clone(), fingerprint: same.then(|| fingerprint(row)) });
        }
        if self.selection != Selection::All {
            for path in standing.places.paths() {
                there.remove(&path?);
            }
        }
        there.retain(|path, _| index.as_ref() != Some(*path));
        Ok(Compared { held, leftovers: self.leftovers(standing, &there) })
    }

    /// Returns the files that no row has, and notes them.
    fn leftovers(&self, standing: &mut Standing, nobodys: &HashMap<&FilePath, &Holding>) -> Vec<(FilePath, Oid)> {
        let leftovers = self.holdings.iter().filter(|holding| nobodys.contains_key(&holding.path));
        let leftovers: Vec<_> = leftovers.map(|holding| (holding.path.clone(), holding.blob)).collect();
        // What is to be removed with the next delivery is no stranger.
        let pending: HashSet<&FilePath> = standing.pending.remove.iter().collect();
        let strange = leftovers.iter().map(|(path, _)| path).filter(|path| !pending.contains(path));
        standing.strange = strange.cloned().collect();
        leftovers
    }
}

/// Takes the rows of some parts in, and returns them but for those without a path: they have no file, and are refused
/// when they are delivered.
fn take_in(standing: &mut Standing, parts: &[Part], mut rows: Vec<Row>) -> Result<Vec<Row>, GitError> {
    rows.retain(|row| standing.places.place(row).is_ok());
    let keys: HashSet<RowKey> = rows.iter().map(Row::key).collect();
    let asked: BTreeSet<(&Name, &Namespace)> = parts.iter().map(|part| (&part.target, &part.namespace)).collect();
    let gone = standing
        .places
        .rows()
        .filter(|row| asked.contains(&(&row.origin.target.name, &row.namespace)) && !keys.contains(&row.key()));
    let gone: Vec<RowKey> = gone.map(Row::key).collect();
    let mut moves = standing.places.apply(rows.clone(), &gone)?;
    // The rows themselves come back with the delivery, if they differ.
    moves.put.retain(|_, row| !keys.contains(&row.key()));
    standing.pend(moves);
    standing.absent.retain(|key| !keys.contains(key) && standing.places.row(key).is_some());
    Ok(rows)
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
