//! Trees of a repository without a work tree: edit, compare, search and list.
//!
//! Only the directories on the way to something that changes are read and written; everything beside them is taken over
//! by its id. A directory that becomes empty is no longer there. Nothing here touches refs or the network.

use std::collections::BTreeMap;

use git2::{ObjectType, Oid, Repository, Tree};

use super::error::GitError;
use super::objects::Objects;
use crate::export::FilePath;

/// Mode of the files that we write.
const FILE: i32 = 0o100_644;

/// Mode of a directory.
const DIRECTORY: i32 = 0o040_000;

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The blob is there, whatever file was there before.
    Put(Oid),
    /// No file is there.
    Remove,
}

/// What becomes of which path.
pub(super) type Edits = BTreeMap<FilePath, Action>;

/// Paths as directories: what is said about a path, and what is below it.
#[derive(Debug)]
struct Node<'a, T> {
    here: Option<(&'a FilePath, T)>,
    below: BTreeMap<&'a str, Node<'a, T>>,
}

impl<'a, T> Node<'a, T> {
    fn new() -> Self {
        Self { here: None, below: BTreeMap::new() }
    }

    fn of(paths: impl IntoIterator<Item = (&'a FilePath, T)>) -> Self {
        let mut root = Self::new();
        for (path, value) in paths {
            let mut node = &mut root;
            for segment in path.as_str().split('/') {
                node = node.below.entry(segment).or_insert_with(Self::new);
            }
            node.here = Some((path, value));
        }
        root
    }
}

/// What came of edits.
#[derive(Debug)]
pub(super) struct Applied<'a> {
    /// The tree.
    pub(super) tree: Oid,
    /// The edits that changed something: another file is there, or none.
    pub(super) changed: Changed<'a>,
}

/// Edits that changed something, by directory.
pub(super) type Changed<'a> = Vec<(&'a FilePath, Action)>;

/// Returns the tree that comes of a base (`None`: nothing) by the edits.
///
/// A removal where there is no file does nothing. A file gives way to a directory, and a directory to a file, only where
/// the same edits remove all that is there.
pub(super) fn apply<'a>(objects: &Objects<'_>, base: Option<Oid>, edits: &'a Edits) -> Result<Applied<'a>, GitError> {
    let root = Node::of(edits.iter().map(|(path, action)| (path, *action)));
    let mut changed = Vec::new();
    let tree = match edit(objects, base, &root, &mut changed)? {
        Some(tree) => tree,
        None => objects.tree(&objects.repository().treebuilder(None).map_err(GitError::Mirror)?)?,
    };
    Ok(Applied { tree, changed })
}

/// Edits one directory; `None` when nothing is left in it.
fn edit<'a>(
    objects: &Objects<'_>,
    base: Option<Oid>,
    node: &Node<'a, Action>,
    changed: &mut Changed<'a>,
) -> Result<Option<Oid>, GitError> {
    let repository = objects.repository();
    let tree = base.map(|id| repository.find_tree(id)).transpose().map_err(GitError::Mirror)?;
    let mut builder = repository.treebuilder(tree.as_ref()).map_err(GitError::Mirror)?;
    for (name, child) in &node.below {
        let there = tree.as_ref().and_then(|tree| tree.get_name(name));
        let there = there.map(|entry| (entry.kind(), entry.id()));
        let change = child_of(objects, there, child, changed)?;
        if let Some((path, action)) = child.here
            && change.changes(there)
        {
            changed.push((path, action));
        }
        match change {
            Change::Keep => {}
            Change::Gone => builder.remove(name).map_err(GitError::Mirror)?,
            Change::File(path, blob) => {
                let unfit = |_| GitError::Unfit { path: path.as_str().to_owned() };
                builder.insert(name, blob, FILE).map(drop).map_err(unfit)?;
            }
            Change::Directory(id) => {
                let unfit = |_| GitError::Unfit { path: (*name).to_owned() };
                builder.insert(name, id, DIRECTORY).map(drop).map_err(unfit)?;
            }
        }
    }
    if builder.is_empty() { Ok(None) } else { objects.tree(&builder).map(Some) }
}

/// What becomes of one name of a directory.
enum Change<'a> {
    Keep,
    Gone,
    File(&'a FilePath, Oid),
    Directory(Oid),
}

impl Change<'_> {
    /// Tells whether another file, or none, is there now. A directory is no file.
    fn changes(&self, there: Option<(Option<ObjectType>, Oid)>) -> bool {
        let file = there.filter(|(kind, _)| *kind != Some(ObjectType::Tree)).map(|(_, id)| id);
        match self {
            Self::Keep => false,
            Self::File(_, blob) => file != Some(*blob),
            Self::Gone | Self::Directory(_) => file.is_some(),
        }
    }
}

fn child_of<'a>(
    objects: &Objects<'_>,
    there: Option<(Option<ObjectType>, Oid)>,
    node: &Node<'a, Action>,
    changed: &mut Changed<'a>,
) -> Result<Change<'a>, GitError> {
    let directory = match there {
        Some((Some(ObjectType::Tree), id)) => Some(id),
        _ => None,
    };
    let file = there.is_some() && directory.is_none();
    // What is below comes first: it may clear the way for a file of this name.
    let left = if node.below.is_empty() { directory } else { edit(objects, directory, node, changed)? };
    match (node.here, left) {
        (Some((path, Action::Put(_))), Some(_)) => Err(obstructed(path, "a directory")),
        (Some((path, Action::Put(blob))), None) => match there {
            Some((Some(ObjectType::Blob | ObjectType::Tree), _)) | None => Ok(Change::File(path, blob)),
            Some(_) => Err(obstructed(path, "a submodule")),
        },
        (None, Some(_)) if file => Err(obstructed(&first(node), "a file of the name of its directory")),
        (Some((_, Action::Remove)) | None, Some(id)) => {
            Ok(if directory == Some(id) { Change::Keep } else { Change::Directory(id) })
        }
        (Some((_, Action::Remove)), None) => Ok(match there {
            Some((Some(ObjectType::Blob | ObjectType::Tree), _)) => Change::Gone,
            _ => Change::Keep,
        }),
        (None, None) => Ok(if directory.is_some() { Change::Gone } else { Change::Keep }),
    }
}

fn obstructed(path: &impl ToString, there: &'static str) -> GitError {
    GitError::Obstructed { path: path.to_string(), there }
}

/// Returns the first path that is put below a node, for people.
fn first(node: &Node<'_, Action>) -> String {
    let put = |node: &Node<'_, Action>| match node.here {
        Some((path, Action::Put(_))) => Some(path.to_string()),
        _ => None,
    };
    let mut open: Vec<&Node<'_, Action>> = node.below.values().collect();
    while let Some(node) = open.pop() {
        if let Some(path) = put(node) {
            return path;
        }
        open.extend(node.below.values().rev());
    }
    String::new()
}

/// Returns the files of one tree that another (`None`: nothing) does not have as such, in the order of their directories.
pub(super) fn missing(
    repository: &Repository,
    ours: Oid,
    theirs: Option<Oid>,
) -> Result<Vec<(FilePath, Oid)>, GitError> {
    let mut found = Vec::new();
    differ(repository, ours, theirs, &mut String::new(), &mut found)?;
    Ok(found)
}

/// Returns all files of a tree, in the order of their directories.
pub(super) fn list(repository: &Repository, tree: Oid) -> Result<Vec<(FilePath, Oid)>, GitError> {
    missing(repository, tree, None)
}

fn differ(
    repository: &Repository,
    ours: Oid,
    theirs: Option<Oid>,
    prefix: &mut String,
    found: &mut Vec<(FilePath, Oid)>,
) -> Result<(), GitError> {
    if theirs == Some(ours) {
        return Ok(());
    }
    let read = |id| repository.find_tree(id).map_err(GitError::Mirror);
    let (ours, theirs) = (read(ours)?, theirs.map(read).transpose()?);
    for entry in &ours {
        let Some(name) = entry.name() else { continue };
        let other = theirs.as_ref().and_then(|tree| tree.get_name(name));
        let length = prefix.len();
        prefix.push_str(name);
        if entry.kind() == Some(ObjectType::Tree) {
            let other = other.filter(|other| other.kind() == Some(ObjectType::Tree)).map(|other| other.id());
            prefix.push('/');
            differ(repository, entry.id(), other, prefix, found)?;
        } else if other.is_none_or(|other| (other.id(), other.filemode()) != (entry.id(), entry.filemode())) {
            found.extend(FilePath::new(prefix).ok().map(|path| (path, entry.id())));
        }
        prefix.truncate(length);
    }
    Ok(())
}

/// Paths to look for, arranged once for many trees.
#[derive(Debug)]
pub(super) struct Paths<'a>(Node<'a, ()>);

impl<'a> Paths<'a> {
    /// Arranges the paths.
    pub(super) fn new(paths: impl IntoIterator<Item = &'a FilePath>) -> Self {
        Self(Node::of(paths.into_iter().map(|path| (path, ()))))
    }

    /// Returns which of the paths are files of a tree (`None`: nothing is there), and their blobs.
    pub(super) fn among(
        &self,
        repository: &Repository,
        tree: Option<Oid>,
    ) -> Result<Vec<(&'a FilePath, Oid)>, GitError> {
        let mut found = Vec::new();
        if let Some(tree) = tree
            && !self.0.below.is_empty()
        {
            let tree = repository.find_tree(tree).map_err(GitError::Mirror)?;
            search(repository, &tree, &self.0, &mut found)?;
        }
        Ok(found)
    }
}

fn search<'a>(
    repository: &Repository,
    tree: &Tree<'_>,
    node: &Node<'a, ()>,
    found: &mut Vec<(&'a FilePath, Oid)>,
) -> Result<(), GitError> {
    for (name, child) in &node.below {
        let Some(entry) = tree.get_name(name) else { continue };
        if entry.kind() == Some(ObjectType::Tree) {
            if !child.below.is_empty() {
                let tree = repository.find_tree(entry.id()).map_err(GitError::Mirror)?;
                search(repository, &tree, child, found)?;
            }
        } else if let Some((path, ())) = child.here {
            found.push((path, entry.id()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
