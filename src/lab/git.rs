//! Git servers of our own: bare repositories, and ways to them over HTTP and SSH.
//!
//! [`Repositories`] keeps bare repositories below one directory; what they refuse is set on each. [`HttpServer`] and
//! [`SshServer`] make all of them reachable on loopback ports, behind the programs that git brings for that. A
//! [`Human`] works in a clone with the git command line, as people do beside the operator.
//!
//! Whatever is asked of a [`Repository`] is answered by the git command line on the server's side, so that a test never
//! believes the code that it looks at.

mod certificates;
mod cgi;
mod faults;
mod http;
mod human;
mod repository;
mod ssh;
mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

pub use certificates::Certificates;
pub use faults::{Counts, Fault, Service, Times};
pub use http::{HttpServer, Scheme};
pub use human::Human;
pub use repository::{Commit, Refusal, Repository};
pub use ssh::SshServer;

use super::process::{self, Guard};

/// The branch that a new repository's HEAD names.
pub const BRANCH: &str = "main";

/// Bare repositories below a temporary directory, which goes with them.
#[derive(Debug)]
pub struct Repositories {
    dir: PathBuf,
    guard: Arc<Guard>,
}

impl Repositories {
    /// Makes the directory, with nothing in it yet.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kollect-git-{}-{number}", std::process::id()));
        let guard = Arc::new(Guard::start()?);
        std::fs::create_dir(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let dir = std::fs::canonicalize(&dir)?;
        guard.remove_at_end(&dir)?;
        Ok(Self { dir, guard })
    }

    /// Creates an empty bare repository `<name>.git`; a name may have slashes.
    pub fn create(&self, name: &str) -> Result<Repository> {
        Repository::create(&self.dir, name)
    }

    /// Creates an empty bare repository on a file system of this size.
    ///
    /// # Errors
    /// When this account may not mount.
    pub fn create_on_small_disk(&self, name: &str, bytes: u64) -> Result<Repository> {
        let path = Repository::place(&self.dir, name);
        std::fs::create_dir_all(&path)?;
        self.guard.mount_memory(&path, bytes)?;
        Repository::create(&self.dir, name)
    }

    /// Returns the directory that holds the repositories.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the guard, for processes that shall not outlive the repositories.
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }
}

/// Returns a git command that knows nothing of the account that runs it.
fn git() -> Command {
    let mut command = Command::new("git");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C.UTF-8");
    command
}

/// Runs a git command and returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    process::run(command).with_context(|| format!("failed to run git {}", arguments.join(" ")))
}
