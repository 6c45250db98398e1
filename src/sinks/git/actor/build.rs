//! From edits to commits on top of a tip: everything between two conversations with the remote.
//!
//! Edits are applied one after another, each on what the one before left. What an edit does not change makes no commit. An
//! edit that cannot be done leaves no trace, and the others go on.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectType, Oid, Repository, Signature, Time};
use jiff::Timestamp;

use super::{Change, Edit, Outcome};
use crate::export::{FilePath, Text};
use crate::model::Uid;
use crate::sinks::Leave;
use crate::sinks::git::config::Author;
use crate::sinks::git::error::GitError;
use crate::sinks::git::mirror::{Lease, Ledger, Mirror, Place, Update};
use crate::sinks::git::objects::{Objects, Volume};
use crate::sinks::git::owner::{self, Claim, FILES, Note, OwnerName, REFS};
use crate::sinks::git::tree::{self, Action, Applied, Changed, Edits, Paths};

/// A branch and its owners as edits build upon it.
pub(super) struct Building<'r> {
    objects: Objects<'r>,
    place: Place,
    ledger: Ledger,
    signature: Signature<'static>,
    writer: String,
    /// Where the branch was.
    base: Option<Oid>,
    /// Where it is by now.
    branch: Tip,
    /// What the refs say; those of other branches as well.
    claims: BTreeMap<OwnerName, Claim>,
    /// Refs as the remote has them, where an edit moved them.
    moved: BTreeMap<OwnerName, Option<Oid>>,
    /// What tells the repository from others.
    identity: String,
}

/// A commit of the branch and its tree; both absent while there is no branch.
#[derive(Debug, Clone, Copy, Default)]
struct Tip {
    commit: Option<Oid>,
    tree: Option<Oid>,
}

/// What an inventory owns, and where that is written.
pub(super) struct Owned {
    /// The owned subtree.
    pub(super) tree: Option<Oid>,
    /// Files of which a push that may have been lost should have removed them.
    leftover: Vec<(FilePath, Oid)>,
    /// The file in the branch that says so, where no ref does.
    pub(super) listed: Option<Oid>,
}

/// What an edit comes to in paths, before anything is written.
#[derive(Default)]
struct Plan {
    /// To the branch.
    branch: Edits,
    /// To the owned subtree.
    owned: Edits,
    /// Paths of other inventories, with their names.
    conflicts: Vec<(FilePath, String)>,
    /// Sizes of what is put.
    bytes: BTreeMap<FilePath, u64>,
}

impl<'r> Building<'r> {
    /// Begins with what the mirror knows of the remote.
    pub(super) fn new(
        mirror: &'r Mirror,
        place: &Place,
        author: &Author,
        writer: &str,
        now: Timestamp,
        ledger: Ledger,
        volume: Volume,
    ) -> Result<Self, GitError> {
        let repository = mirror.repository();
        let base = mirror.tip(&place.reference())?;
        let mut claims = BTreeMap::new();
        for (reference, commit) in mirror.references(REFS)? {
            if let Some(owner) = OwnerName::from_reference(&reference) {
                claims.insert(owner, owner::read_claim(repository, commit)?);
            }
        }
        let time = Time::new(now.as_second(), 0);
        let signature = Signature::new(&word(&author.name), &word(&author.email), &time).map_err(GitError::Mirror)?;
        let tree = base.map(|commit| tree_of(repository, commit)).transpose()?;
        let objects = Objects::new(repository, volume)?;
        let identity = match identity(repository, claims.values(), tree)? {
            Some(known) => known,
            None => mint(place, base, now),
        };
        let (place, writer, moved) = (place.clone(), writer.to_owned(), BTreeMap::new());
        let branch = Tip { commit: base, tree };
        Ok(Self { objects, place, ledger, signature, writer, base, branch, claims, moved, identity })
    }

    /// Returns the objects written so far.
    pub(super) fn objects(&self) -> &Objects<'r> {
        &self.objects
    }

    /// Returns what is to be pushed; nothing when no edit changed anything.
    pub(super) fn updates(&self, lease: Lease) -> Vec<Update> {
        let mut updates = Vec::new();
        // Refs that the server refuses are not offered to it.
        for (owner, from) in self.moved.iter().filter(|_| self.ledger == Ledger::Refs) {
            let to = self.claims.get(owner).map(|claim| claim.commit);
            if to != *from {
                updates.push(Update { reference: owner.reference(), from: *from, to, lease: Lease::Held });
            }
        }
        if self.branch.commit != self.base {
            let (reference, to) = (self.place.reference(), self.branch.commit);
            updates.push(Update { reference, from: self.base, to, lease });
        }
        updates
    }

    fn repository(&self) -> &'r Repository {
        self.objects.repository()
    }

    /// Returns what an inventory owns in the branch as it is by now.
    pub(super) fn owned(&self, owner: &OwnerName) -> Result<Owned, GitError> {
        let repository = self.repository();
        if let Some(listed) = self.listed(owner)? {
            let paths = owner::read_listing(repository, listed)?;
            let edits = owner::subtree(repository, self.branch.tree, &paths)?;
            let tree = tree::apply(&self.objects, None, &edits)?.tree;
            return Ok(Owned { tree: Some(tree), leftover: Vec::new(), listed: Some(listed) });
        }
        let Some(claim) = self.claim(owner) else {
            return Ok(Owned { tree: None, leftover: Vec::new(), listed: None });
        };
        Ok(Owned { tree: Some(claim.tree), leftover: self.leftover(claim)?, listed: None })
    }

    /// Returns the ref of an inventory, if it is about our branch.
    fn claim(&self, owner: &OwnerName) -> Option<&Claim> {
        self.claims.get(owner).filter(|claim| claim.note.branch == self.place.branch)
    }

    /// Returns who wrote the ref of an inventory, and its commit; an older release did not say.
    pub(super) fn writer_of(&self, owner: &OwnerName) -> Option<(&str, Oid)> {
        let claim = self.claim(owner).filter(|claim| !claim.note.writer.is_empty())?;
        Some((&claim.note.writer, claim.commit))
    }

    /// Returns the file that stands for the ref of an inventory, if there is one.
    fn listed(&self, owner: &OwnerName) -> Result<Option<Oid>, GitError> {
        let file = owner.file();
        Ok(Paths::new([&file]).among(self.repository(), self.branch.tree)?.first().map(|(_, blob)| *blob))
    }

    /// Returns files that the write of a ref removed, and that are still as they were in the branch, where the branch does
    /// not have the commit that the ref names: the ref arrived and the branch did not, or the branch was set back.
    fn leftover(&self, claim: &Claim) -> Result<Vec<(FilePath, Oid)>, GitError> {
        let (Some(tip), Some(at), Some(before)) = (self.branch.commit, claim.note.at, claim.before) else {
            return Ok(Vec::new());
        };
        let repository = self.repository();
        let arrived = tip == at || (self.objects.has(at) && repository.graph_descendant_of(tip, at).unwrap_or(false));
        if arrived || !self.objects.has(before) {
            return Ok(Vec::new());
        }
        let gone = tree::missing(repository, before, Some(claim.tree))?;
        let now = Paths::new(gone.iter().map(|(path, _)| path)).among(repository, Some(claim.tree))?;
        let now: BTreeSet<&FilePath> = now.into_iter().map(|(path, _)| path).collect();
        let gone: Vec<_> = gone.iter().filter(|(path, _)| !now.contains(path)).cloned().collect();
        let there = Paths::new(gone.iter().map(|(path, _)| path)).among(repository, self.branch.tree)?;
        let there: BTreeSet<(&FilePath, Oid)> = there.into_iter().collect();
        Ok(gone.iter().filter(|(path, blob)| there.contains(&(path, *blob))).cloned().collect())
    }

    /// Returns which of the paths other inventories own, with their names.
    fn foreign<'p>(
        &self,
        owner: &OwnerName,
        paths: impl Iterator<Item = &'p FilePath>,
    ) -> Result<BTreeMap<FilePath, String>, GitError> {
        let repository = self.repository();
        let mut listings = self.listings()?;
        let counts = |other: &OwnerName, claim: &Claim| {
            other != owner && claim.note.branch == self.place.branch && !listings.contains_key(other)
        };
        let claims: Vec<_> = self.claims.iter().filter(|(other, claim)| counts(other, claim)).collect();
        listings.remove(owner);
        let mut found = BTreeMap::new();
        if claims.is_empty() && listings.is_empty() {
            return Ok(found);
        }
        let paths: BTreeSet<&FilePath> = paths.collect();
        let asked = Paths::new(paths.iter().copied());
        for (other, claim) in claims {
            for (path, _) in asked.among(repository, Some(claim.tree))? {
                found.insert(path.clone(), other.to_string());
            }
        }
        for (other, blob) in &listings {
            for path in owner::read_listing(repository, *blob)? {
                if paths.contains(&path) {
                    found.insert(path, other.to_string());
                }
            }
        }
        Ok(found)
    }

    /// Returns the files that stand for refs.
    pub(super) fn listings(&self) -> Result<BTreeMap<OwnerName, Oid>, GitError> {
        let Some(tree) = self.branch.tree else { return Ok(BTreeMap::new()) };
        let repository = self.repository();
        let tree = repository.find_tree(tree).map_err(GitError::Mirror)?;
        let entry = tree.get_name(FILES);
        let Some(files) = entry.filter(|entry| entry.kind() == Some(ObjectType::Tree)) else {
            return Ok(BTreeMap::new());
        };
        let mut found = BTreeMap::new();
        for (path, blob) in tree::list(repository, files.id())? {
            found.extend(OwnerName::from_file(&path).map(|owner| (owner, blob)));
        }
        Ok(found)
    }

    /// Returns what the refs say.
    pub(super) fn claims(&self) -> &BTreeMap<OwnerName, Claim> {
        &self.claims
    }

    /// Returns what tells the repository from others, if something in it does.
    pub(super) fn identity(&self) -> Result<Option<String>, GitError> {
        identity(self.repository(), self.claims.values(), self.branch.tree)
    }

    /// Returns the tree of the branch.
    pub(super) fn tree(&self) -> Option<Oid> {
        self.branch.tree
    }

    /// Does one edit: objects, a commit of the branch and one of the ref, whichever differ.
    pub(super) fn edit(&mut self, edit: &Edit) -> Result<Outcome, GitError> {
        let whose = OwnerName::of(&edit.scope);
        let owned = self.owned(&whose)?;
        let Plan { mut branch, owned: edits, conflicts, bytes } = self.plan(&whose, &owned, &edit.change)?;
        let (ledger, applied) = match &edit.change {
            Change::End(_) => (None, None),
            Change::Whole(_) | Change::Successor { .. } | Change::Part { .. } => {
                let applied = tree::apply(&self.objects, owned.tree, &edits)?;
                let anything = owned.tree.is_some() || edits.values().any(|action| matches!(action, Action::Put(_)));
                (Some(self.ledger_of(&whose)), anything.then_some(applied))
            }
        };
        let new_owned = applied.as_ref().map(|applied| applied.tree);
        self.book(&whose, &owned, ledger, new_owned, &mut branch)?;

        let before = self.branch;
        // Where nobody else has files in the branch, it is the owned subtree.
        let same = self.branch.tree == owned.tree && branch == edits;
        let applied = match applied.filter(|_| same) {
            Some(applied) => applied,
            None => tree::apply(&self.objects, self.branch.tree, &branch)?,
        };
        let mut outcome = self.commit(edit, &branch, &applied)?;
        if outcome.commit.is_some() {
            outcome.count(&applied.changed, &bytes);
        }
        if let Err(error) = self.claim_anew(&whose, &edit.scope.inventory_uid, ledger, new_owned) {
            self.branch = before;
            return Err(error);
        }
        outcome.conflicts = conflicts;
        Ok(outcome)
    }

    /// Says where an inventory's ownership is to be written: a ref of another branch is not ours to move.
    fn ledger_of(&self, owner: &OwnerName) -> Ledger {
        match self.claims.get(owner) {
            Some(claim) if claim.note.branch != self.place.branch => Ledger::Files,
            _ => self.ledger,
        }
    }

    /// Adds to the edits of the branch what happens to the file that stands for the ref.
    fn book(
        &self,
        whose: &OwnerName,
        owned: &Owned,
        ledger: Option<Ledger>,
        tree: Option<Oid>,
        branch: &mut Edits,
    ) -> Result<(), GitError> {
        let file = whose.file();
        match (ledger, tree) {
            (Some(Ledger::Files), Some(tree)) => {
                let text = owner::listing(&tree::list(self.repository(), tree)?);
                branch.insert(file, Action::Put(self.objects.record(&text)?));
                let text = format!("{}\n", self.identity);
                branch.insert(owner::identity_file(), Action::Put(self.objects.record(text.as_bytes())?));
            }
            _ if owned.listed.is_some() => drop(branch.insert(file, Action::Remove)),
            _ => {}
        }
        Ok(())
    }

    /// Says which path comes to what.
    fn plan(&self, whose: &OwnerName, owned: &Owned, change: &Change) -> Result<Plan, GitError> {
        let repository = self.repository();
        let held: BTreeMap<FilePath, Oid> = match (owned.tree, change) {
            (Some(tree), Change::Whole(_) | Change::Successor { .. } | Change::End(_)) => {
                tree::list(repository, tree)?.into_iter().collect()
            }
            (Some(tree), Change::Part { put, remove }) => {
                let paths = Paths::new(put.paths().chain(remove));
                paths.among(repository, Some(tree))?.into_iter().map(|(path, blob)| (path.clone(), blob)).collect()
            }
            (None, _) => BTreeMap::new(),
        };
        let mut plan = Plan::default();
        let removes: Vec<&FilePath> = match change {
            Change::Whole(files) | Change::Successor { files, .. } => {
                let kept: BTreeSet<&FilePath> = files.iter().map(|file| &file.path).collect();
                held.keys().filter(|path| !kept.contains(path)).collect()
            }
            Change::Part { remove, .. } => remove.iter().filter(|path| held.contains_key(*path)).collect(),
            Change::End(Leave::Delete) => held.keys().collect(),
            Change::End(Leave::Orphan) => return Ok(plan),
        };
        (plan.owned, plan.bytes) = self.put_all(change, &held, &removes)?;

        // What is owned and not in the branch as such is restored, before anything is deleted.
        if let Some(tree) = owned.tree {
            let mended = tree::missing(repository, tree, self.branch.tree)?;
            plan.branch.extend(mended.into_iter().map(|(path, blob)| (path, Action::Put(blob))));
        }
        plan.branch.extend(owned.leftover.iter().map(|(path, _)| (path.clone(), Action::Remove)));
        if plan.branch.is_empty() {
            plan.branch = plan.owned.clone();
        } else {
            plan.branch.extend(plan.owned.iter().map(|(path, action)| (path.clone(), *action)));
        }
        if let Change::Successor { released, .. } = change {
            let written = |path: &FilePath| matches!(plan.owned.get(path), Some(Action::Put(_)));
            plan.branch.retain(|path, _| written(path) || !released.contains(path));
        }

        let same = |path: &FilePath, action: &Action| {
            matches!(action, Action::Put(_)) && held.contains_key(path) && plan.owned.contains_key(path)
        };
        let asked = plan.branch.iter().filter(|(path, action)| !same(path, action)).map(|(path, _)| path);
        let foreign = self.foreign(whose, asked)?;
        for (path, other) in foreign {
            plan.branch.remove(&path);
            // It is not ours, whatever we believed.
            plan.owned.insert(path.clone(), Action::Remove);
            plan.bytes.remove(&path);
            plan.conflicts.push((path, other));
        }
        Ok(plan)
    }

    /// Writes the blobs of a change, and returns what becomes of the owned files and the sizes of those that are put.
    fn put_all(
        &self,
        change: &Change,
        held: &BTreeMap<FilePath, Oid>,
        removes: &[&FilePath],
    ) -> Result<(Edits, BTreeMap<FilePath, u64>), GitError> {
        let mut actions: Vec<_> = removes.iter().map(|path| ((*path).clone(), Action::Remove)).collect();
        let (mut bytes, mut same) = (Vec::new(), Vec::new());
        change.for_each_put(|path, text| {
            let held = held.get(path).copied();
            let blob = self.put(text, held)?;
            if held == Some(blob) {
                same.push(path.clone());
            } else {
                actions.push((path.clone(), Action::Put(blob)));
                bytes.push((path.clone(), u64::try_from(text.bytes.len()).unwrap_or(u64::MAX)));
            }
            Ok(())
        })?;
        // Maps that are made at once have no gaps. Of a path that is in both, the file counts.
        let mut actions: Edits = actions.into_iter().collect();
        for path in &same {
            actions.remove(path);
        }
        Ok((actions, bytes.into_iter().collect()))
    }

    /// Writes a file's blob and returns its id; where the file that is held says the same, that one stays.
    fn put(&self, text: &Text, held: Option<Oid>) -> Result<Oid, GitError> {
        if let Some(held) = held {
            let id = Oid::hash_object(ObjectType::Blob, &text.bytes).map_err(GitError::Mirror)?;
            if id == held || text.has_stamps() && text.says_the_same(&self.objects.content(held)?) {
                return Ok(held);
            }
        }
        self.objects.file(&text.bytes)
    }

    /// Commits what came of the edits to the branch, if they changed its tree.
    fn commit(&mut self, edit: &Edit, edits: &Edits, applied: &Applied<'_>) -> Result<Outcome, GitError> {
        let tree = applied.tree;
        let nothing = self.branch.tree.is_none() && !edits.values().any(|action| matches!(action, Action::Put(_)));
        if nothing || self.branch.tree == Some(tree) {
            return Ok(Outcome::default());
        }
        let message = edit.facts.message(&edit.scope);
        let commit = self.write_commit(self.branch.commit, tree, &message)?;
        self.branch = Tip { commit: Some(commit), tree: Some(tree) };
        Ok(Outcome { commit: Some(commit), ..Outcome::default() })
    }

    /// Moves the ref to a new owned subtree, or says that it goes.
    fn claim_anew(
        &mut self,
        owner: &OwnerName,
        inventory_uid: &Uid,
        ledger: Option<Ledger>,
        tree: Option<Oid>,
    ) -> Result<(), GitError> {
        let old = self.claim(owner).cloned();
        let new = match (ledger, tree) {
            (Some(Ledger::Refs), Some(tree)) if old.as_ref().is_none_or(|old| old.tree != tree) => {
                let note = Note {
                    branch: self.place.branch.clone(),
                    at: self.branch.commit,
                    inventory_uid: inventory_uid.clone(),
                    writer: self.writer.clone(),
                    repository: self.identity.clone(),
                };
                let parent = old.as_ref().map(|old| old.commit);
                let commit = self.write_commit(parent, tree, &note.message(owner))?;
                Some(Claim { commit, tree, before: old.as_ref().map(|old| old.tree), note })
            }
            (None, _) if old.is_some() => None,
            _ => return Ok(()),
        };
        self.moved.entry(owner.clone()).or_insert(old.map(|old| old.commit));
        match new {
            Some(claim) => drop(self.claims.insert(owner.clone(), claim)),
            None => drop(self.claims.remove(owner)),
        }
        Ok(())
    }

    fn write_commit(&self, parent: Option<Oid>, tree: Oid, message: &str) -> Result<Oid, GitError> {
        let repository = self.repository();
        let parent = parent.map(|id| repository.find_commit(id)).transpose().map_err(GitError::Mirror)?;
        let tree = repository.find_tree(tree).map_err(GitError::Mirror)?;
        let parents: Vec<_> = parent.iter().collect();
        let commit = repository
            .commit(None, &self.signature, &self.signature, message, &tree, &parents)
            .map_err(GitError::Mirror)?;
        self.objects.note(commit);
        Ok(commit)
    }
}

impl Outcome {
    /// Counts what an edit changed in the branch, but for our records.
    fn count(&mut self, changed: &Changed<'_>, bytes: &BTreeMap<FilePath, u64>) {
        for (path, action) in changed.iter().filter(|(path, _)| !path.is_of_record()) {
            match action {
                Action::Put(_) => {
                    self.written += 1;
                    self.bytes += bytes.get(*path).copied().unwrap_or_default();
                }
                Action::Remove => self.deleted += 1,
            }
        }
    }
}

/// Returns what tells the repository from others: what the first ref says, or a file of the branch.
fn identity<'a>(
    repository: &Repository,
    mut claims: impl Iterator<Item = &'a Claim>,
    tree: Option<Oid>,
) -> Result<Option<String>, GitError> {
    if let Some(claim) = claims.find(|claim| !claim.note.repository.is_empty()) {
        return Ok(Some(claim.note.repository.clone()));
    }
    let path = owner::identity_file();
    let Some((_, blob)) = Paths::new([&path]).among(repository, tree)?.pop() else { return Ok(None) };
    let blob = repository.find_blob(blob).map_err(GitError::Mirror)?;
    Ok(Some(String::from_utf8_lossy(blob.content()).trim().to_owned()).filter(|identity| !identity.is_empty()))
}

/// Makes an identity for a repository that has none: address, tip and time together do not repeat.
fn mint(place: &Place, base: Option<Oid>, now: Timestamp) -> String {
    let text = format!("{}\n{base:?}\n{}", place.url, now.as_nanosecond());
    blake3::hash(text.as_bytes()).to_hex().chars().take(32).collect()
}

fn tree_of(repository: &Repository, commit: Oid) -> Result<Oid, GitError> {
    repository.find_commit(commit).map(|commit| commit.tree_id()).map_err(GitError::Mirror)
}

/// Returns what git takes as a name or an address in a commit.
fn word(text: &str) -> String {
    let word = text.replace(['<', '>', '\n', '\r', '\0'], " ");
    if word.trim().is_empty() { "kollect".to_owned() } else { word }
}
