//! One bare repository: what it refuses, and what is in it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{BRANCH, Human, git, run};

/// A commit as `git log` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its name in hex.
    pub id: String,
    /// The names of its parents.
    pub parents: Vec<String>,
    /// Who wrote it: `name <address>`.
    pub author: String,
    /// Who committed it: `name <address>`.
    pub committer: String,
    /// The whole message, without white space at its end.
    pub message: String,
}

/// What a hook of the server refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Every push as a whole, by a `pre-receive` hook.
    Everything,
    /// Refs below `refs/kollect/`, one by one, by an `update` hook.
    OwnershipRefs,
    /// This branch, as a protected one, by an `update` hook.
    Branch(String),
}

/// A bare repository on the server.
#[derive(Debug, Clone)]
pub struct Repository {
    name: String,
    path: PathBuf,
}

impl Repository {
    /// Returns the directory of a repository.
    pub(super) fn place(root: &Path, name: &str) -> PathBuf {
        root.join(format!("{name}.git"))
    }

    pub(super) fn create(root: &Path, name: &str) -> Result<Self> {
        let path = Self::place(root, name);
        run(git().args(["init", "--quiet", "--bare", "--template=", "-b", BRANCH]).arg(&path))?;
        let this = Self { name: name.to_owned(), path };
        for (key, value) in [
            ("http.receivepack", "true"),
            // Nothing runs behind a push: what a test looks at does not change any more.
            ("receive.autogc", "false"),
            ("gc.auto", "0"),
            // Hosts let the branch go that HEAD names; git by itself does not.
            ("receive.denyDeleteCurrent", "ignore"),
        ] {
            this.configure(key, value)?;
        }
        Ok(this)
    }

    /// Returns a repository that is there already.
    pub fn open(path: &Path) -> Self {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, path: path.to_owned() }
    }

    /// Returns its name, without `.git`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its directory, which is also a URL that git takes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets a key of its configuration, in force from the next request on: `http.receivepack false` makes it read-only
    /// over HTTP, `receive.denyNonFastForwards true` refuses forced pushes.
    pub fn configure(&self, key: &str, value: &str) -> Result<()> {
        run(self.git().args(["config", key, value])).map(drop)
    }

    /// No longer offers to take all refs of a push or none.
    pub fn without_atomic(&self) -> Result<()> {
        self.configure("receive.advertiseAtomic", "false")
    }

    /// Refuses pushes from now on; the client is shown the message. Replaces what it refused before.
    pub fn refuse(&self, what: &Refusal, message: &str) -> Result<()> {
        self.accept()?;
        let refuse = format!("printf '%s\\n' {} >&2; exit 1", quoted(message));
        match what {
            Refusal::Everything => self.install_hook("pre-receive", &refuse),
            Refusal::OwnershipRefs => {
                self.install_hook("update", &format!("case $1 in refs/kollect/*) {refuse} ;; esac"))
            }
            Refusal::Branch(branch) => {
                let name = quoted(&format!("refs/heads/{branch}"));
                self.install_hook("update", &format!("case $1 in {name}) {refuse} ;; esac"))
            }
        }
    }

    /// Accepts all pushes again.
    pub fn accept(&self) -> Result<()> {
        let hooks = self.path.join("hooks");
        if hooks.exists() { fs::remove_dir_all(&hooks).context("failed to remove the hooks") } else { Ok(()) }
    }

    /// Installs a hook: the lines of a shell script.
    pub fn install_hook(&self, hook: &str, script: &str) -> Result<()> {
        let hooks = self.path.join("hooks");
        fs::create_dir_all(&hooks)?;
        let (path, draft) = (hooks.join(hook), self.path.join("hook.draft"));
        // Moved into place: a program that is open for writing cannot be run.
        fs::write(&draft, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&draft, Permissions::from_mode(0o755))?;
        fs::rename(&draft, &path).with_context(|| format!("failed to install {}", path.display()))
    }

    /// Returns all refs with the objects that they name.
    pub fn refs(&self) -> Result<BTreeMap<String, String>> {
        let text = run(self.git().args(["for-each-ref", "--format=%(refname) %(objectname)"]))?;
        let pair = |line: &str| line.split_once(' ').map(|(name, id)| (name.to_owned(), id.to_owned()));
        Ok(text.lines().filter_map(pair).collect())
    }

    /// Returns the object that a branch names, or `None` where there is no such branch.
    pub fn tip(&self, branch: &str) -> Result<Option<String>> {
        Ok(self.refs()?.remove(&format!("refs/heads/{branch}")))
    }

    /// Returns the commits of a branch, the newest first. A branch that does not exist has none.
    pub fn log(&self, branch: &str) -> Result<Vec<Commit>> {
        match self.tip(branch)? {
            Some(tip) => self.history(&tip),
            None => Ok(Vec::new()),
        }
    }

    /// Returns the commits behind any revision, the newest first.
    pub fn history(&self, revision: &str) -> Result<Vec<Commit>> {
        let format = "--format=tformat:%H%x1f%P%x1f%an <%ae>%x1f%cn <%ce>%x1f%B";
        let text = run(self.git().args(["log", "-z", "--topo-order", format, revision, "--"]))?;
        text.split_terminator('\0').map(commit).collect()
    }

    /// Returns the files of a revision (a branch, a ref, a commit) with their content.
    pub fn files(&self, revision: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let listed = run(self.git().args(["ls-tree", "-r", "-z", "--format=%(objectname) %(path)", revision]))?;
        let entries: Vec<(&str, &str)> =
            listed.split_terminator('\0').filter_map(|entry| entry.split_once(' ')).collect();
        let wanted = entries.iter().map(|(id, _)| *id).collect::<Vec<_>>().join("\n") + "\n";
        let mut child =
            self.git().args(["cat-file", "--batch"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut questions = child.stdin.take().context("git cat-file has no input")?;
        let output = std::thread::scope(|scope| {
            // Beside the reader: git answers before it has heard all.
            scope.spawn(move || questions.write_all(wanted.as_bytes()));
            child.wait_with_output()
        })?;
        ensure!(output.status.success(), "git cat-file ended with {}", output.status);
        let mut rest = output.stdout.as_slice();
        entries.iter().map(|(_, path)| Ok(((*path).to_owned(), next_blob(&mut rest)?))).collect()
    }

    /// Checks every object and every ref.
    ///
    /// # Errors
    /// When something is broken or missing, with what git says of it.
    pub fn fsck(&self) -> Result<()> {
        run(self.git().args(["fsck", "--full", "--strict", "--no-dangling"])).map(drop)
    }

    /// Tells whether no commit of a branch is a merge.
    pub fn is_linear(&self, branch: &str) -> Result<bool> {
        Ok(self.log(branch)?.iter().all(|commit| commit.parents.len() <= 1))
    }

    /// Returns somebody with a clone of their own, on a branch that need not exist yet.
    pub fn human(&self, name: &str, branch: &str) -> Result<Human> {
        Human::clone(self, name, branch)
    }

    /// Returns a git command inside this repository.
    pub fn git(&self) -> Command {
        let mut command = git();
        command.arg("--git-dir").arg(&self.path);
        command
    }
}

/// Reads one record of `git log` as [`Repository::history`] asks for it.
fn commit(record: &str) -> Result<Commit> {
    let mut fields = record.splitn(5, '\x1f');
    let mut field = || fields.next().with_context(|| format!("an odd record of git log: {record:?}"));
    Ok(Commit {
        id: field()?.to_owned(),
        parents: field()?.split_whitespace().map(str::to_owned).collect(),
        author: field()?.to_owned(),
        committer: field()?.to_owned(),
        message: field()?.trim_end().to_owned(),
    })
}

/// Takes one answer off the output of `git cat-file --batch`: `<id> blob <size>`, the content, a line feed.
fn next_blob(rest: &mut &[u8]) -> Result<Vec<u8>> {
    let odd = "an odd answer of git cat-file";
    let end = rest.iter().position(|byte| *byte == b'\n').context(odd)?;
    let (head, tail) = rest.split_at(end);
    let head = std::str::from_utf8(head).context(odd)?;
    let size: usize = head.rsplit(' ').next().and_then(|size| size.parse().ok()).with_context(|| odd.to_owned())?;
    let content = tail.get(1..=size).context(odd)?.to_vec();
    *rest = tail.get(size + 2..).context(odd)?;
    Ok(content)
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
