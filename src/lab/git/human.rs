//! Somebody who works in the same repository, with the git command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use super::{Repository, git, run};

/// How often somebody rebases and pushes again before giving up.
const TRIES: u32 = 50;

/// Somebody with a clone of a repository, on one branch of it.
#[derive(Debug)]
pub struct Human {
    name: String,
    branch: String,
    dir: PathBuf,
}

impl Human {
    /// Clones straight from the directory, past all servers, so that a fault of these does not hit people.
    pub(super) fn clone(repository: &Repository, name: &str, branch: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        // Beside the repository and not in it, whose disk may be small; both go with the directory.
        let dir = repository.path().with_file_name(format!("{name}-{number}"));
        run(git().args(["clone", "--quiet", "--no-checkout"]).arg(repository.path()).arg(&dir))?;
        let this = Self { name: name.to_owned(), branch: branch.to_owned(), dir };
        if repository.tip(branch)?.is_some() {
            this.git(&["checkout", "--quiet", "-B", branch, &this.upstream()])?;
        } else {
            this.git(&["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")])?;
            this.git(&["read-tree", "--empty"])?;
        }
        Ok(this)
    }

    /// Returns the clone's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file into the work tree.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))
    }

    /// Removes a file from the work tree.
    pub fn remove(&self, path: &str) -> Result<()> {
        fs::remove_file(self.dir.join(path)).with_context(|| format!("failed to remove {path}"))
    }

    /// Commits all changes and returns the commit, which nobody else has yet.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Pushes the branch, after a rebase whenever somebody else was faster, and returns the tries that it took.
    pub fn push(&self) -> Result<u32> {
        let branch = format!("HEAD:refs/heads/{}", self.branch);
        for attempt in 1..=TRIES {
            match self.git(&["push", "--quiet", "origin", &branch]) {
                Ok(_) => return Ok(attempt),
                // The one who lost the race, whether it was seen before or after the objects were sent.
                Err(error) if behind(&format!("{error:#}")) => self.rebase()?,
                Err(error) => return Err(error),
            }
        }
        bail!("{} lost {TRIES} races for {}", self.name, self.branch)
    }

    /// Writes a file, commits and pushes it.
    pub fn edit(&self, path: &str, content: impl AsRef<[u8]>, message: &str) -> Result<()> {
        self.write(path, content)?;
        self.commit(message)?;
        self.push().map(drop)
    }

    /// Gets what others pushed and puts own commits on top of it.
    pub fn rebase(&self) -> Result<()> {
        self.git(&["fetch", "--quiet", "origin"])?;
        self.git(&["rebase", "--quiet", &self.upstream()]).map(drop)
    }

    /// Makes the branch on the server what it is here, whatever others pushed.
    pub fn force_push(&self) -> Result<()> {
        self.git(&["push", "--quiet", "--force", "origin", &format!("HEAD:refs/heads/{}", self.branch)]).map(drop)
    }

    /// Deletes the branch on the server.
    pub fn delete_branch(&self) -> Result<()> {
        self.git(&["push", "--quiet", "origin", &format!(":refs/heads/{}", self.branch)]).map(drop)
    }

    /// Runs git in the clone and returns what it printed.
    pub fn git(&self, args: &[&str]) -> Result<String> {
        run(self.command().args(args))
    }

    fn command(&self) -> Command {
        let mut command = git();
        let address = format!("{}@example.com", self.name);
        command
            .arg("-C")
            .arg(&self.dir)
            .envs([("GIT_AUTHOR_NAME", &self.name), ("GIT_COMMITTER_NAME", &self.name)])
            .envs([("GIT_AUTHOR_EMAIL", &address), ("GIT_COMMITTER_EMAIL", &address)]);
        command
    }

    fn upstream(&self) -> String {
        format!("refs/remotes/origin/{}", self.branch)
    }
}

/// Tells whether a push failed only because the branch had moved.
fn behind(error: &str) -> bool {
    ["non-fast-forward", "fetch first", "cannot lock ref", "failed to update ref", "incorrect old value"]
        .iter()
        .any(|words| error.contains(words))
}
