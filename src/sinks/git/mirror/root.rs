//! The directory of mirrors: found, made, and checked before anything is written there.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::disk;
use crate::sinks::git::error::GitError;

/// Only we.
const MODE: u32 = 0o700;

/// What others must not be able to do.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A file that is written and removed to see whether the disk takes anything: more than a file system keeps in an inode.
const TRIAL: &str = ".kollect-trial";
const TRIAL_BYTES: usize = 16 * 1024;

/// Where mirrors may be kept. They are a cache: what is lost is fetched again.
#[derive(Debug, Clone)]
pub struct Places {
    /// `KOLLECT_GIT_MIRROR_DIR`: this and nothing else.
    pub configured: Option<PathBuf>,
    /// The user's cache directory.
    pub cache: Option<PathBuf>,
    /// The directory of temporary files.
    pub temporary: PathBuf,
}

impl Places {
    /// Returns the directory of mirrors, made where there was none.
    ///
    /// # Errors
    /// Terminal when it is a symbolic link, not a directory, somebody else's, or writable by others; transient when the
    /// disk refuses.
    pub(in crate::sinks::git) fn root(&self) -> Result<PathBuf, GitError> {
        if let Some(configured) = &self.configured {
            return ready(configured).map(|()| configured.clone());
        }
        if let Some(cache) = &self.cache {
            let root = cache.join("kollect").join("git-mirrors");
            match ready(&root) {
                Ok(()) => return Ok(root),
                // A home directory that cannot be written is usual in a container.
                Err(GitError::Disk { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let root = self.temporary.join("kollect-git-mirrors");
        ready(&root).map(|()| root)
    }
}

/// Makes the directory if it is not there, and checks it.
fn ready(root: &Path) -> Result<(), GitError> {
    let refuse = |problem| Err(GitError::Root { path: root.to_owned(), problem });
    let found = match fs::symlink_metadata(root) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(MODE).create(root).map_err(disk(root))?;
            fs::symlink_metadata(root).map_err(disk(root))?
        }
        Err(error) => return Err(disk(root)(error)),
    };
    if found.is_symlink() {
        return refuse("is a symbolic link");
    }
    if !found.is_dir() {
        return refuse("is not a directory");
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return refuse("can be written by others: its mode must be 0700");
    }
    if found.uid() != own_uid(root)? {
        return refuse("belongs to another user");
    }
    Ok(())
}

/// Returns who we are, as the owner of a file of ours says.
fn own_uid(root: &Path) -> Result<u32, GitError> {
    fs::metadata("/proc/self").map(|own| own.uid()).or_else(|_| {
        let path = root.join(format!("{TRIAL}-{}", std::process::id()));
        let owner = File::create(&path).and_then(|file| file.metadata()).map(|own| own.uid());
        let _ = fs::remove_file(&path); // an empty file that is overwritten the next time
        owner.map_err(disk(root))
    })
}

/// Writes something into a directory and takes it away again.
pub(super) fn trial(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!("{TRIAL}-{}", std::process::id()));
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[0xA5; TRIAL_BYTES])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    written.and(removed)
}
