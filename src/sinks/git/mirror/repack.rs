//! Keeps a mirror small: one pack with what its refs show, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use git2::Oid;

use super::{Mirror, disk};
use crate::sinks::git::error::GitError;
use crate::sinks::git::objects::{packs, write_pack};

/// Loose objects from which on a mirror is packed, as `git gc --auto` has it; estimated by one of 256 directories.
const LOOSE: usize = 6_700;

/// Packs from which on they are joined, as `git gc --auto` has it.
const PACKS: usize = 50;

/// The directory of loose objects that is counted, as `git gc --auto` does.
const SAMPLE: &str = "17";

/// The key by which libgit2 also decides how large an object may be to be compared with others.
const DELTA_LIMIT: &str = "pack.deltaCacheSize";

/// With this nothing is compared. The search costs minutes for 100,000 files, and most of the time of a small push: of two
/// directories, which are lists of hashes, there is nothing to be found in common.
const NOTHING: i64 = 1;

impl Mirror {
    /// Lets libgit2's packs do without the search for what objects have in common.
    pub(super) fn without_deltas(&self) -> Result<(), GitError> {
        let mut config = self.repository.config().map_err(GitError::Mirror)?;
        if config.get_i64(DELTA_LIMIT).is_ok_and(|limit| limit == NOTHING) {
            return Ok(());
        }
        config.set_i64(DELTA_LIMIT, NOTHING).map_err(GitError::Mirror)
    }

    /// Packs the mirror when much has gathered in it. History goes: a mirror needs the tips alone.
    pub(in crate::sinks::git) fn tidy(&mut self) -> Result<(), GitError> {
        let loose = count(&self.repository.path().join("objects").join(SAMPLE), "");
        if loose * 256 <= LOOSE && count(&packs(&self.repository), "pack") <= PACKS {
            return Ok(());
        }
        self.repack()
    }

    /// Packs what the refs show, and removes everything else.
    pub(super) fn repack(&mut self) -> Result<(), GitError> {
        let tips: BTreeSet<Oid> = self.references("refs/")?.into_iter().map(|(_, id)| id).collect();
        if tips.is_empty() {
            return Ok(());
        }
        let name = self.pack(&tips)?;
        self.cut(&tips)?;
        self.reopen()?;
        self.drop_all_but(&name)?;
        self.reopen()
    }

    fn pack(&self, tips: &BTreeSet<Oid>) -> Result<String, GitError> {
        let mut pack = self.repository.packbuilder().map_err(GitError::Mirror)?;
        for tip in tips {
            pack.insert_commit(*tip).map_err(GitError::Mirror)?;
        }
        write_pack(pack, &packs(&self.repository))
    }

    /// Says that history ends with these commits. Comes before their parents go.
    fn cut(&self, tips: &BTreeSet<Oid>) -> Result<(), GitError> {
        let mut ends = String::new();
        for tip in tips {
            // The object itself, since libgit2 hides the parents of a commit that is an end already.
            let odb = self.repository.odb().map_err(GitError::Mirror)?;
            let commit = odb.read(*tip).map_err(GitError::Mirror)?;
            if commit.data().split(|byte| *byte == b'\n').take(2).any(|line| line.starts_with(b"parent ")) {
                ends.push_str(&tip.to_string());
                ends.push('\n');
            }
        }
        let (path, fresh) = (self.repository.path().join("shallow"), self.repository.path().join("shallow.new"));
        fs::write(&fresh, ends).map_err(disk(&path))?;
        fs::rename(&fresh, &path).map_err(disk(&path))
    }

    fn drop_all_but(&self, name: &str) -> Result<(), GitError> {
        let kept = format!("pack-{name}");
        let objects = self.repository.path().join("objects");
        let keep = [kept.clone() + ".pack", kept + ".idx"];
        if name.is_empty() || !keep.iter().all(|file| objects.join("pack").join(file).is_file()) {
            return Ok(());
        }
        for entry in fs::read_dir(objects.join("pack")).map_err(disk(&objects))? {
            let entry = entry.map_err(disk(&objects))?;
            if !keep.iter().any(|file| entry.file_name() == file.as_str()) {
                fs::remove_file(entry.path()).map_err(disk(&objects))?;
            }
        }
        for entry in fs::read_dir(&objects).map_err(disk(&objects))? {
            let entry = entry.map_err(disk(&objects))?;
            if entry.file_name().len() == 2 {
                fs::remove_dir_all(entry.path()).map_err(disk(&objects))?;
            }
        }
        Ok(())
    }
}

/// Counts the files of a directory with this ending; 0 when there is no directory.
fn count(directory: &Path, ending: &str) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let matches = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.ends_with(ending));
    entries.flatten().filter(|entry| matches(&entry.file_name())).count()
}
