//! Bare copies of remote branches on the local disk, one for each address and branch.
//!
//! A mirror is a cache: the remote is the truth. Whatever is wrong with a mirror (a torn object, another remote, refs that
//! point nowhere) is mended by removing it and fetching anew. It has no work tree; its refs are named as those of the
//! remote and move only after the remote moved.
//!
//! Two processes, or two sinks of one process, may share a mirror: whoever works in it holds its lock, a file beside it.
//! In the root there may be anything else; only directories with our marker in them are ever removed.

mod remote;
mod repack;
mod root;

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use git2::{Oid, Repository, RepositoryOpenFlags};
use sha2::{Digest as _, Sha256};

pub(super) use remote::{Lease, Pushed, Update};
pub use root::Places;

use super::error::GitError;

/// What a mirror has inside, so that nothing else is taken for one: says of which remote it is.
const MARKER: &str = "kollect-mirror";

/// Between two looks at a lock that somebody else holds.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Where the mirror says that the server refuses refs of ours.
const REFUSED: &str = "kollect.refsrefused";

/// Where a branch lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// Address of the repository, without user and password.
    pub(super) url: String,
    /// Short name of the branch.
    pub(super) branch: String,
}

impl Place {
    /// Returns the full name of the branch.
    pub(super) fn reference(&self) -> String {
        format!("refs/heads/{}", self.branch)
    }

    /// Returns the name of the mirror's directory.
    pub(super) fn directory(&self) -> String {
        let hash = Sha256::new().chain_update(&self.url).chain_update([0]).chain_update(&self.branch).finalize();
        let head = hash.iter().take(16).fold(0_u128, |head, byte| head << 8 | u128::from(*byte));
        format!("{head:032x}")
    }

    /// Returns what the marker says.
    fn marker(&self) -> String {
        format!("{}\n{}\n", self.url, self.branch)
    }
}

/// Where what an inventory owns is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ledger {
    /// In refs.
    Refs,
    /// In files of the branch: the server does not take the refs.
    Files,
}

/// A mirror, and the lock on it.
pub(super) struct Mirror {
    path: PathBuf,
    place: Place,
    repository: Repository,
    /// Held until the mirror is dropped.
    _lock: File,
}

impl Mirror {
    /// Opens the mirror of a place, or makes an empty one; waits for its lock until the deadline.
    pub(super) fn open(places: &Places, place: &Place, deadline: Instant) -> Result<Self, GitError> {
        let root = places.root()?;
        let path = root.join(place.directory());
        let lock = lock(&path, deadline)?;
        let repository = match Self::existing(&path, place)? {
            Some(repository) => repository,
            None => Self::create(&path, place)?,
        };
        let mut mirror = Self { path, place: place.clone(), repository, _lock: lock };
        mirror.touch()?;
        match mirror.without_deltas().map_err(|error| mirror.diagnose(error)) {
            Err(GitError::Mirror(_)) => mirror.renew()?,
            done => done?,
        }
        Ok(mirror)
    }

    /// Returns what is there, if it is sound at first sight.
    fn existing(path: &Path, place: &Place) -> Result<Option<Repository>, GitError> {
        if !fs::exists(path).map_err(disk(path))? {
            return Ok(None);
        }
        let marker = fs::read_to_string(path.join(MARKER));
        if marker.is_ok_and(|marker| marker == place.marker())
            && let Ok(repository) = open(path)
        {
            return Ok(Some(repository));
        }
        remove(path)?;
        Ok(None)
    }

    fn create(path: &Path, place: &Place) -> Result<Repository, GitError> {
        fs::create_dir(path).map_err(disk(path))?;
        fs::write(path.join(MARKER), place.marker()).map_err(disk(path))?;
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).external_template(false).initial_head(&place.branch);
        Repository::init_opts(path, &options).map_err(|error| fault(path, error))?;
        let repository = open(path).map_err(|error| fault(path, error))?;
        let mut config = repository.config().map_err(|error| fault(path, error))?;
        config.set_bool("core.logAllRefUpdates", false).map_err(|error| fault(path, error))?;
        Ok(repository)
    }

    /// Throws the mirror away and begins with an empty one, under the same lock.
    pub(super) fn renew(&mut self) -> Result<(), GitError> {
        remove(&self.path)?;
        self.repository = Self::create(&self.path, &self.place)?;
        self.without_deltas()
    }

    /// Opens the repository again: what others, or packs written by hand, added to it is seen.
    fn reopen(&mut self) -> Result<(), GitError> {
        self.repository = open(&self.path).map_err(GitError::Mirror)?;
        Ok(())
    }

    /// Says that the mirror is in use today.
    fn touch(&self) -> Result<(), GitError> {
        let marker = File::options().append(true).open(self.path.join(MARKER)).map_err(disk(&self.path))?;
        marker.set_modified(SystemTime::now()).map_err(disk(&self.path))
    }

    /// Returns the repository.
    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns the commit of a ref of the mirror.
    pub(super) fn tip(&self, reference: &str) -> Result<Option<Oid>, GitError> {
        match self.repository.refname_to_id(reference) {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(error) => Err(GitError::Mirror(error)),
        }
    }

    /// Moves or removes a ref of the mirror, after the remote did.
    pub(super) fn record(&self, reference: &str, to: Option<Oid>) -> Result<(), GitError> {
        match to {
            Some(id) => self.repository.reference(reference, id, true, "").map(drop).map_err(GitError::Mirror),
            None => match self.repository.find_reference(reference) {
                Ok(mut found) => found.delete().map_err(GitError::Mirror),
                Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(()),
                Err(error) => Err(GitError::Mirror(error)),
            },
        }
    }

    /// Returns all refs of the mirror with this beginning.
    pub(super) fn references(&self, prefix: &str) -> Result<Vec<(String, Oid)>, GitError> {
        let mut found = Vec::new();
        for reference in self.repository.references_glob(&format!("{prefix}*")).map_err(GitError::Mirror)? {
            let reference = reference.map_err(GitError::Mirror)?;
            if let (Some(name), Some(id)) = (reference.name(), reference.target()) {
                found.push((name.to_owned(), id));
            }
        }
        Ok(found)
    }

    /// Returns where ownership is written down, as far as this mirror knows.
    pub(super) fn ledger(&self) -> Result<Ledger, GitError> {
        let config = self.repository.config().map_err(GitError::Mirror)?;
        Ok(if config.get_bool(REFUSED).unwrap_or(false) { Ledger::Files } else { Ledger::Refs })
    }

    /// Remembers that the server refuses refs, as long as this mirror lives.
    pub(super) fn refs_are_refused(&self) -> Result<(), GitError> {
        let mut config = self.repository.config().map_err(GitError::Mirror)?;
        config.set_bool(REFUSED, true).map_err(GitError::Mirror)
    }

    /// Tells what a failure is about: a disk that takes nothing more, or the mirror itself.
    pub(super) fn diagnose(&self, error: GitError) -> GitError {
        match error {
            GitError::Mirror(error) => fault(&self.path, error),
            other => other,
        }
    }
}

/// Opens a repository. `Repository::open_bare` will not do: it does not read where a shallow history ends, and every
/// walk then runs into commits that are not there.
fn open(path: &Path) -> Result<Repository, git2::Error> {
    let flags = RepositoryOpenFlags::BARE | RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::NO_DOTGIT;
    Repository::open_ext(path, flags, &[] as &[&OsStr])
}

/// Removes mirrors that nobody has used for so long, but for those of these places.
///
/// What is locked, or has no marker of ours, stays. Returns how many went.
pub(super) fn evict(places: &Places, keep: &[Place], older_than: Duration) -> Result<usize, GitError> {
    let root = places.root()?;
    let keep: Vec<String> = keep.iter().map(Place::directory).collect();
    let mut removed = 0;
    for entry in fs::read_dir(&root).map_err(disk(&root))? {
        let path = entry.map_err(disk(&root))?.path();
        let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.len() == 32
                && name.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !keep.iter().any(|kept| kept == name)
        });
        let used = fs::symlink_metadata(path.join(MARKER)).and_then(|marker| marker.modified());
        let idle = used.is_ok_and(|used| used.elapsed().is_ok_and(|idle| idle >= older_than));
        if !named || !idle || fs::symlink_metadata(&path).is_ok_and(|path| path.is_symlink()) {
            continue;
        }
        // The lock file stays: who waits for it would hold a lock that nobody else sees.
        if let Ok(_lock) = lock(&path, Instant::now()) {
            remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Takes the lock of a mirror.
fn lock(path: &Path, deadline: Instant) -> Result<File, GitError> {
    let beside = path.with_extension("lock");
    let file = File::options().create(true).append(true).open(&beside).map_err(disk(&beside))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => return Err(GitError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(GitError::Disk { path: beside, source }),
        }
    }
}

/// Removes a mirror; the marker goes last, so that what a kill leaves behind is still known as ours.
fn remove(path: &Path) -> Result<(), GitError> {
    let entries = fs::read_dir(path).map_err(disk(path))?.collect::<Result<Vec<_>, _>>().map_err(disk(path))?;
    if !entries.is_empty() && !entries.iter().any(|entry| entry.file_name() == MARKER) {
        return Err(GitError::Root { path: path.to_owned(), problem: "is not a mirror of ours" });
    }
    for entry in entries.iter().filter(|entry| entry.file_name() != MARKER) {
        let directory = entry.file_type().map_err(disk(path))?.is_dir();
        let removed = if directory { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.map_err(disk(path))?;
    }
    match fs::remove_file(path.join(MARKER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(path)(error)),
        _ => {}
    }
    fs::remove_dir(path).map_err(disk(path))
}

/// Names the directory in an error of the disk.
fn disk(path: &Path) -> impl Fn(io::Error) -> GitError {
    move |source| GitError::Disk { path: path.to_owned(), source }
}

/// Explains a failure of libgit2 in the mirror. It has no code for a full disk, so the disk is asked.
fn fault(path: &Path, error: git2::Error) -> GitError {
    match root::trial(path) {
        Ok(()) => GitError::Mirror(error),
        Err(source) => GitError::Disk { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests;
