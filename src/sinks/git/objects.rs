//! New objects: one by one into the mirror, or, when there are many, gathered in memory and written as one pack.

use std::cell::RefCell;
use std::path::PathBuf;

use git2::{ObjectType, Odb, OdbLookupFlags, Oid, Repository, TreeBuilder};

use super::error::GitError;

/// With more new files than this they are written as a pack: a loose object is a file of its own, and costs about 100 µs.
const LOOSE_AT_MOST: usize = 1_000;

/// Above all of libgit2's own stores, which have the priorities 1 and 2.
const FIRST: i32 = 1_000;

/// How many objects a batch makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Volume {
    /// They become files of their own.
    Few,
    /// They become a pack.
    Many,
}

impl Volume {
    /// Judges by the number of new files.
    pub(super) fn of(files: usize) -> Self {
        if files > LOOSE_AT_MOST { Self::Many } else { Self::Few }
    }
}

/// Writes objects of one batch.
pub(super) struct Objects<'r> {
    repository: &'r Repository,
    odb: Odb<'r>,
    /// What was written, where it is gathered in memory.
    gathered: Option<RefCell<Vec<Oid>>>,
}

impl<'r> Objects<'r> {
    /// Prepares for so many.
    pub(super) fn new(repository: &'r Repository, volume: Volume) -> Result<Self, GitError> {
        let odb = repository.odb().map_err(GitError::Mirror)?;
        let gathered = match volume {
            Volume::Few => None,
            Volume::Many => {
                // Belongs to the object database from now on, which outlives this handle.
                odb.add_new_mempack_backend(FIRST).map_err(GitError::Mirror)?;
                Some(RefCell::default())
            }
        };
        Ok(Self { repository, odb, gathered })
    }

    /// Returns the repository.
    pub(super) fn repository(&self) -> &'r Repository {
        self.repository
    }

    /// Tells whether an object is there.
    pub(super) fn has(&self, id: Oid) -> bool {
        self.odb.exists_ext(id, OdbLookupFlags::NO_REFRESH)
    }

    /// Writes a blob whose id is known.
    pub(super) fn blob(&self, id: Oid, bytes: &[u8]) -> Result<(), GitError> {
        if self.has(id) {
            return Ok(());
        }
        let written = self.odb.write(ObjectType::Blob, bytes).map_err(GitError::Mirror)?;
        self.note(written);
        Ok(())
    }

    /// Writes a directory.
    pub(super) fn tree(&self, builder: &TreeBuilder<'_>) -> Result<Oid, GitError> {
        let id = builder.write().map_err(GitError::Mirror)?;
        self.note(id);
        Ok(id)
    }

    /// Says that an object was written.
    pub(super) fn note(&self, id: Oid) {
        if let Some(gathered) = &self.gathered {
            gathered.borrow_mut().push(id);
        }
    }

    /// Brings what was gathered to disk, as one pack.
    pub(super) fn finish(&self) -> Result<(), GitError> {
        let Some(gathered) = &self.gathered else { return Ok(()) };
        let gathered = gathered.take();
        if gathered.is_empty() {
            return Ok(());
        }
        let mut pack = self.repository.packbuilder().map_err(GitError::Mirror)?;
        pack.set_threads(1);
        for id in gathered {
            pack.insert_object(id, None).map_err(GitError::Mirror)?;
        }
        pack.write(&packs(self.repository), 0).map_err(GitError::Mirror)
    }
}

/// Returns where a repository has its packs.
pub(super) fn packs(repository: &Repository) -> PathBuf {
    repository.path().join("objects").join("pack")
}
