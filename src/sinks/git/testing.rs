//! A bare repository on disk behind git's own server programs, and what can go wrong on the way to it.
//!
//! libgit2's transport for local paths neither runs hooks nor compares ids; `git receive-pack` behind a pipe does both.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use git2::{Oid, Repository, Signature};
use parking_lot::Mutex;

use super::mirror::Places;
use super::objects::{Objects, Volume};
use super::transport::Wire;
use super::tree::{self, Action, Edits};
use crate::export::FilePath;

/// A directory that goes when it is dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("kollect-git-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A place for mirrors inside.
    pub(super) fn mirrors(&self) -> Places {
        Places { configured: Some(self.0.join("mirrors")), cache: None, temporary: self.0.clone() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What happens on the way to a repository.
#[derive(Default)]
struct Road {
    before_push: Option<Box<dyn FnMut() + Send>>,
    answers_to_lose: usize,
    fetches: usize,
    pushes: usize,
}

static ROADS: LazyLock<Mutex<HashMap<PathBuf, Road>>> = LazyLock::new(Mutex::default);

/// A remote repository.
#[derive(Debug)]
pub(super) struct Remote(Scratch);

impl Remote {
    pub(super) fn new() -> Self {
        let scratch = Scratch::new();
        let remote = Self(scratch);
        remote.git(&["init", "--quiet", "--bare", "--initial-branch=main", "."]);
        remote
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn wire(&self) -> Wire {
        Wire::Local(PathBuf::from(format!("kollectpipe://{}", self.path().display())))
    }

    /// Runs something before each push reaches the repository.
    pub(super) fn before_push(&self, what: impl FnMut() + Send + 'static) {
        ROADS.lock().entry(self.path().to_owned()).or_default().before_push = Some(Box::new(what));
    }

    /// Loses the server's answers to so many pushes.
    pub(super) fn lose_answers(&self, count: usize) {
        ROADS.lock().entry(self.path().to_owned()).or_default().answers_to_lose = count;
    }

    pub(super) fn pushes(&self) -> usize {
        ROADS.lock().get(self.path()).map_or(0, |road| road.pushes)
    }

    pub(super) fn conversations(&self) -> usize {
        ROADS.lock().get(self.path()).map_or(0, |road| road.pushes + road.fetches)
    }

    /// Makes the server run a script before it takes a push.
    pub(super) fn hook(&self, name: &str, script: &str) {
        let path = self.path().join("hooks").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs git in the repository and returns what it says.
    pub(super) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git").arg("-C").arg(self.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits as a person would, on top of a branch; no content is a removal.
    pub(super) fn commit(&self, branch: &str, files: &[(&str, Option<&str>)]) -> Oid {
        human_commit(self.path(), branch, files)
    }

    /// Returns the files below a ref, but those that stand for refs.
    pub(super) fn files(&self, revision: &str) -> Vec<String> {
        self.git(&["ls-tree", "-r", "--name-only", revision]).lines().map(str::to_owned).collect()
    }

    pub(super) fn content(&self, revision: &str, path: &str) -> String {
        self.git(&["show", &format!("{revision}:{path}")])
    }

    /// Returns how many commits a branch has.
    pub(super) fn commits(&self, branch: &str) -> usize {
        self.git(&["rev-list", "--count", branch]).parse().unwrap()
    }

    pub(super) fn has(&self, reference: &str) -> bool {
        Repository::open_bare(self.path()).unwrap().refname_to_id(reference).is_ok()
    }

    /// Lets git check everything.
    pub(super) fn fsck(&self) {
        self.git(&["fsck", "--full", "--strict"]);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        ROADS.lock().remove(self.path());
    }
}

pub(super) fn human_commit(path: &Path, branch: &str, files: &[(&str, Option<&str>)]) -> Oid {
    let repository = Repository::open_bare(path).unwrap();
    let reference = format!("refs/heads/{branch}");
    let parent = repository.find_reference(&reference).ok().map(|found| found.peel_to_commit().unwrap());
    let mut edits = Edits::new();
    for (path, content) in files {
        let action = content.map_or(Action::Remove, |text| Action::Put(repository.blob(text.as_bytes()).unwrap()));
        edits.insert(FilePath::new(path).unwrap(), action);
    }
    let objects = Objects::new(&repository, Volume::Few).unwrap();
    let tree = tree::apply(&objects, parent.as_ref().map(git2::Commit::tree_id), &edits).unwrap().tree;
    let signature = Signature::now("human", "human@example.com").unwrap();
    let tree = repository.find_tree(tree).unwrap();
    let parents: Vec<_> = parent.iter().collect();
    repository.commit(Some(&reference), &signature, &signature, "by hand", &tree, &parents).unwrap()
}

/// Gives libgit2 the transport; called where the program's own are registered.
#[expect(unsafe_code, reason = "the only way to give libgit2 a transport")]
pub(super) fn register() -> Result<(), git2::Error> {
    // SAFETY: the caller sees to it that nothing else uses the list of transports at that time.
    unsafe { git2::transport::register("kollectpipe", |remote| Transport::smart(remote, false, Pipe)) }
}

struct Pipe;

impl SmartSubtransport for Pipe {
    fn action(&self, url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        let path = PathBuf::from(url.strip_prefix("kollectpipe://").unwrap());
        let push = matches!(service, Service::ReceivePackLs | Service::ReceivePack);
        let mut roads = ROADS.lock();
        let road = roads.entry(path.clone()).or_default();
        let mut hook = if push { road.before_push.take() } else { None };
        let lose = push && road.answers_to_lose > 0;
        if push {
            road.pushes += 1;
            road.answers_to_lose -= usize::from(lose);
        } else {
            road.fetches += 1;
        }
        drop(roads);
        let program = if push { "receive-pack" } else { "upload-pack" };
        if !path.exists() {
            return Err(git2::Error::from_str("no such repository"));
        }
        if let Some(hook) = &mut hook {
            hook();
        }
        if let Some(hook) = hook {
            ROADS.lock().entry(path.clone()).or_default().before_push.get_or_insert(hook);
        }
        let mut child = Command::new("git")
            .arg(program)
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Ok(Box::new(Stream { child, input, written: false, lose }))
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

struct Stream {
    child: Child,
    input: Option<ChildStdin>,
    written: bool,
    lose: bool,
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let output = self.child.stdout.as_mut().unwrap();
        if self.lose && self.written {
            // The server does all of it, and nobody hears.
            let _ = self.input.take();
            output.read_to_end(&mut Vec::new()).unwrap();
            self.child.wait().unwrap();
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        output.read(buffer)
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written = true;
        self.input.as_mut().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.as_mut().unwrap().flush()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.input.take();
        let _ = self.child.wait();
    }
}
