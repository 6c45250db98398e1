//! New objects: one by one into the mirror, or, when there are many, gathered in memory and written as packs.
//!
//! Files come first and are never read again while a batch is built, so those of a large batch go to disk in packs of a
//! few MiB while the next ones are rendered. Directories and commits are read again, and stay in memory until the end.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Once;

use git2::{Indexer, ObjectType, Odb, OdbLookupFlags, Oid, PackBuilder, Repository, TreeBuilder};

use super::error::GitError;

/// With more new files than this they are written as packs: a loose object is a file of its own, and costs about 100 µs.
const LOOSE_AT_MOST: usize = 1_000;

/// So many bytes of files are gathered for one pack.
const GATHERED: usize = 4 << 20;

/// Size of the pieces in which a pack is indexed: libgit2 maps the whole of it anew for each piece.
const PIECE: usize = 1 << 20;

/// Above all of libgit2's own stores, which have the priorities 1 and 2.
const FIRST: i32 = 1_000;

/// How many objects a batch makes, as far as that is known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Volume {
    /// They become files of their own, until they turn out to be many.
    Few,
    /// They become packs.
    Many,
}

/// Writes objects of one batch.
pub(super) struct Objects<'r> {
    repository: &'r Repository,
    odb: Odb<'r>,
    /// Files written one by one.
    loose: Cell<usize>,
    /// What was written, where it is gathered in memory.
    many: RefCell<Option<Many>>,
}

/// Objects that are not on disk yet.
struct Many {
    /// Directories and commits; they are in the object database of the mirror.
    others: Vec<Oid>,
    /// A second handle of the mirror, whose object database has the files of the next pack and nothing else.
    memory: Repository,
    files: Vec<Oid>,
    bytes: usize,
    /// Files that came before, in this pack or an earlier one.
    seen: HashSet<Oid>,
    before: Before,
}

/// What the mirror had before the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Objects,
}

impl<'r> Objects<'r> {
    /// Prepares for so many.
    pub(super) fn new(repository: &'r Repository, volume: Volume) -> Result<Self, GitError> {
        // Files that wait for their pack are not found yet when a directory names them. That everything is there is what
        // the server checks.
        static TRUST: Once = Once::new();
        TRUST.call_once(|| git2::opts::strict_object_creation(false));
        let odb = repository.odb().map_err(GitError::Mirror)?;
        let objects = Self { repository, odb, loose: Cell::new(0), many: RefCell::new(None) };
        if volume == Volume::Many {
            objects.gather()?;
        }
        Ok(objects)
    }

    /// Gathers from now on.
    fn gather(&self) -> Result<(), GitError> {
        let before = what_is_there(self.repository);
        // Belongs to the object database from now on, which outlives this handle.
        self.odb.add_new_mempack_backend(FIRST).map_err(GitError::Mirror)?;
        let memory = Repository::open_bare(self.repository.path()).map_err(GitError::Mirror)?;
        empty(&memory)?;
        let (others, files, seen) = (Vec::new(), Vec::new(), HashSet::new());
        *self.many.borrow_mut() = Some(Many { others, memory, files, bytes: 0, seen, before });
        Ok(())
    }

    /// Returns the repository.
    pub(super) fn repository(&self) -> &'r Repository {
        self.repository
    }

    /// Tells whether an object is there.
    pub(super) fn has(&self, id: Oid) -> bool {
        self.odb.exists_ext(id, OdbLookupFlags::NO_REFRESH)
    }

    /// Writes the blob of a file, and returns its id. It may be on disk later than directories that name it.
    pub(super) fn file(&self, bytes: &[u8]) -> Result<Oid, GitError> {
        if self.loose.get() >= LOOSE_AT_MOST && self.many.borrow().is_none() {
            self.gather()?;
        }
        if let Some(many) = &mut *self.many.borrow_mut() {
            return self.gathered(many, bytes);
        }
        let id = hash(bytes)?;
        if !self.has(id) {
            self.odb.write(ObjectType::Blob, bytes).map_err(GitError::Mirror)?;
            self.loose.set(self.loose.get() + 1);
        }
        Ok(id)
    }

    fn gathered(&self, many: &mut Many, bytes: &[u8]) -> Result<Oid, GitError> {
        if many.before == Before::Objects {
            let id = hash(bytes)?;
            if self.has(id) {
                return Ok(id);
            }
        }
        let odb = many.memory.odb().map_err(GitError::Mirror)?;
        let id = odb.write(ObjectType::Blob, bytes).map_err(GitError::Mirror)?;
        drop(odb);
        if many.seen.insert(id) {
            many.files.push(id);
            many.bytes += bytes.len();
            if many.bytes >= GATHERED {
                many.pack_files(self.repository)?;
            }
        }
        Ok(id)
    }

    /// Writes a blob that is read again, and returns its id.
    pub(super) fn record(&self, bytes: &[u8]) -> Result<Oid, GitError> {
        let id = self.odb.write(ObjectType::Blob, bytes).map_err(GitError::Mirror)?;
        self.note(id);
        Ok(id)
    }

    /// Returns the content of a file, whether it is on disk or not.
    pub(super) fn content(&self, id: Oid) -> Result<Vec<u8>, GitError> {
        if let Some(many) = &*self.many.borrow()
            && let Ok(blob) = many.memory.find_blob(id)
        {
            return Ok(blob.content().to_vec());
        }
        Ok(self.repository.find_blob(id).map_err(GitError::Mirror)?.content().to_vec())
    }

    /// Writes a directory.
    pub(super) fn tree(&self, builder: &TreeBuilder<'_>) -> Result<Oid, GitError> {
        let id = builder.write().map_err(GitError::Mirror)?;
        self.note(id);
        Ok(id)
    }

    /// Says that an object was written that is read again.
    pub(super) fn note(&self, id: Oid) {
        if let Some(many) = &mut *self.many.borrow_mut() {
            many.others.push(id);
        }
    }

    /// Brings what was gathered to disk.
    pub(super) fn finish(&self) -> Result<(), GitError> {
        let Some(many) = &mut *self.many.borrow_mut() else { return Ok(()) };
        many.pack_files(self.repository)?;
        pack(self.repository, &std::mem::take(&mut many.others), &packs(self.repository))
    }
}

impl Many {
    /// Writes the files as a pack of the mirror, and forgets their contents.
    fn pack_files(&mut self, mirror: &Repository) -> Result<(), GitError> {
        pack(&self.memory, &std::mem::take(&mut self.files), &packs(mirror))?;
        self.bytes = 0;
        empty(&self.memory)
    }
}

/// Gives a handle an object database that is empty and in memory.
fn empty(memory: &Repository) -> Result<(), GitError> {
    let odb = Odb::new().map_err(GitError::Mirror)?;
    odb.add_new_mempack_backend(FIRST).map_err(GitError::Mirror)?;
    memory.set_odb(&odb).map_err(GitError::Mirror)
}

fn hash(bytes: &[u8]) -> Result<Oid, GitError> {
    Oid::hash_object(ObjectType::Blob, bytes).map_err(GitError::Mirror)
}

/// Looks whether a mirror has any objects; what cannot be read is taken for some.
fn what_is_there(repository: &Repository) -> Before {
    let filled = |path: &Path, count: &dyn Fn(&str) -> bool| {
        fs::read_dir(path).map_or(true, |mut entries| {
            entries.any(|entry| entry.map_or(true, |entry| entry.file_name().to_str().is_none_or(count)))
        })
    };
    let loose = filled(&repository.path().join("objects"), &|name| name.len() == 2);
    if loose || filled(&packs(repository), &|_| true) { Before::Objects } else { Before::Nothing }
}

/// Writes objects as a pack; no objects are no pack.
fn pack(from: &Repository, ids: &[Oid], into: &Path) -> Result<(), GitError> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut pack = from.packbuilder().map_err(GitError::Mirror)?;
    for id in ids {
        pack.insert_object(*id, None).map_err(GitError::Mirror)?;
    }
    write_pack(pack, into).map(drop)
}

/// Writes a pack and its index, and returns its name.
///
/// libgit2 can do both at once, but then takes most of the time for mapping the pack anew after each object.
pub(super) fn write_pack(mut pack: PackBuilder<'_>, into: &Path) -> Result<String, GitError> {
    pack.set_threads(1);
    let index = Indexer::new(None, into, 0, false).map_err(GitError::Mirror)?;
    let mut index = BufWriter::with_capacity(PIECE, index);
    let mut failure = None;
    let built = pack.foreach(|bytes| index.write_all(bytes).map_err(|error| failure = Some(error)).is_ok());
    if let Some(failure) = failure {
        return Err(cause(failure));
    }
    built.map_err(GitError::Mirror)?;
    index.into_inner().map_err(|error| cause(error.into_error()))?.commit().map_err(GitError::Mirror)
}

/// Returns libgit2's own error, which an indexer wraps.
fn cause(error: io::Error) -> GitError {
    let text = error.to_string();
    let inner = error.into_inner().and_then(|inner| inner.downcast::<git2::Error>().ok());
    GitError::Mirror(inner.map_or_else(|| git2::Error::from_str(&text), |inner| *inner))
}

/// Returns where a repository has its packs.
pub(super) fn packs(repository: &Repository) -> PathBuf {
    repository.path().join("objects").join("pack")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::git::testing::Scratch;

    fn count(repository: &Repository, below: &str, wanted: impl Fn(&str) -> bool) -> usize {
        let entries = fs::read_dir(repository.path().join("objects").join(below)).unwrap();
        entries.filter(|entry| wanted(entry.as_ref().unwrap().file_name().to_str().unwrap())).count()
    }

    fn packs_of(repository: &Repository) -> usize {
        // Each has an index beside it.
        count(repository, "pack", |_| true) / 2
    }

    #[test]
    fn files_of_a_large_batch_go_to_disk_while_it_is_built() {
        let scratch = Scratch::new();
        let repository = Repository::init_bare(scratch.path()).unwrap();
        let objects = Objects::new(&repository, Volume::Many).unwrap();
        let large: Vec<u8> = (0..=GATHERED / 4).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
        let mut written = Vec::new();
        for n in 0..5_u8 {
            let text = [&[n], large.as_slice()].concat();
            written.push((objects.file(&text).unwrap(), text));
        }
        assert_eq!(packs_of(&repository), 1, "four of them; the last one waits");
        // The same again is nothing more.
        objects.file(&written[0].1).unwrap();
        for (id, text) in &written {
            assert_eq!(objects.content(*id).unwrap(), *text);
        }
        let record = objects.record(b"read again").unwrap();
        objects.finish().unwrap();
        assert_eq!(packs_of(&repository), 3);
        assert_eq!(count(&repository, "", |name| name.len() == 2), 0);
        let repository = Repository::open_bare(scratch.path()).unwrap();
        for (id, text) in &written {
            assert_eq!(repository.find_blob(*id).unwrap().content(), text);
        }
        assert_eq!(repository.find_blob(record).unwrap().content(), b"read again");
    }

    #[test]
    fn a_batch_that_turns_out_to_be_large_goes_on_with_packs() {
        let scratch = Scratch::new();
        let repository = Repository::init_bare(scratch.path()).unwrap();
        let objects = Objects::new(&repository, Volume::Few).unwrap();
        let texts = 0..LOOSE_AT_MOST + 10;
        let ids: Vec<Oid> = texts.map(|n| objects.file(n.to_string().as_bytes()).unwrap()).collect();
        // What is there already is not written once more.
        assert_eq!(objects.file(b"7").unwrap(), ids[7]);
        objects.finish().unwrap();
        assert_eq!(packs_of(&repository), 1);
        let repository = Repository::open_bare(scratch.path()).unwrap();
        assert!(ids.iter().all(|id| repository.find_blob(*id).is_ok()));
    }
}
