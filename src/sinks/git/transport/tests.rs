//! The wire against the git servers of the lab, whose faults happen on command.

#![cfg(feature = "lab")]

mod http;
mod ssh;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use git2::{Direction, FetchOptions, Oid, PushOptions, Repository as Mirror, Signature};
use tokio::time::Instant;

use super::*;
use crate::error::{Classify, chain};
use crate::lab::git::{Repositories, Repository};
use crate::model::{Family, Name, Namespace, ObjectKey, SinkKey};
use crate::sinks::TlsConfig;
use crate::sinks::git::Challenge;

const LOOPBACK: Guard = Guard { allow_private: false, allow_loopback: true };

/// Long enough for anything that ends by itself.
const PATIENCE: Duration = Duration::from_mins(1);

fn config(endpoint: String) -> GitConfig {
    let object = ObjectKey::new(Namespace::new("team-a"), Name::new("sink"));
    GitConfig::new(SinkKey { family: Family::Snapshot, object }, endpoint)
}

/// What a session is allowed.
struct Terms {
    guard: Guard,
    time: Duration,
    cancel: CancellationToken,
}

impl Default for Terms {
    fn default() -> Self {
        Self { guard: LOOPBACK, time: PATIENCE, cancel: CancellationToken::new() }
    }
}

/// Does something in one session, on a thread that may block, beside a new mirror.
async fn during<T: Send + 'static>(
    repositories: &Repositories,
    config: &GitConfig,
    terms: Terms,
    work: impl FnOnce(&Session, &Mirror) -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let path = repositories.dir().join(format!("mirror-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let wire = Wire::new(config, terms.guard, Handle::current())?;
    tokio::task::spawn_blocking(move || {
        let mirror = Mirror::init_bare(path).unwrap();
        let session = wire.session(Instant::now() + terms.time, &terms.cancel)?;
        work(&session, &mirror)
    })
    .await
    .unwrap()
}

/// Returns the names of the references of the remote.
fn list(session: &Session, mirror: &Mirror) -> Result<Vec<String>, GitError> {
    let mut remote = session.remote(mirror)?;
    let connection = remote.connect_auth(Direction::Fetch, Some(session.callbacks()), None);
    let connection = connection.map_err(|error| session.explain(error))?;
    let heads = connection.list().map_err(|error| session.explain(error))?;
    Ok(heads.iter().map(|head| head.name().to_owned()).collect())
}

fn fetch(session: &Session, mirror: &Mirror) -> Result<Oid, GitError> {
    let mut options = FetchOptions::new();
    options.remote_callbacks(session.callbacks()).depth(1);
    let mut remote = session.remote(mirror)?;
    let fetched = remote.fetch(&["+refs/heads/main:refs/heads/main"], Some(&mut options), None);
    fetched.map_err(|error| session.explain(error))?;
    Ok(mirror.refname_to_id("refs/heads/main").unwrap())
}

/// Pushes a new commit to some references; it holds one file with so many bytes that cannot be compressed.
fn push(session: &Session, mirror: &Mirror, bytes: usize, references: &[&str]) -> Result<Oid, GitError> {
    let commit = commit(mirror, bytes);
    let specs: Vec<_> = references.iter().map(|reference| format!("{commit}:{reference}")).collect();
    let refused = Mutex::new(None);
    let mut callbacks = session.callbacks();
    callbacks.push_update_reference(|reference, status| {
        if let Some(status) = status {
            refused.lock().get_or_insert((reference.to_owned(), status.to_owned()));
        }
        Ok(())
    });
    let mut options = PushOptions::new();
    options.remote_callbacks(callbacks);
    let pushed = session.remote(mirror)?.push(&specs, Some(&mut options));
    drop(options);
    pushed.map_err(|error| session.explain(error))?;
    match refused.into_inner() {
        Some((reference, status)) => Err(session.refused(&reference, &status)),
        None => Ok(commit),
    }
}

fn commit(mirror: &Mirror, bytes: usize) -> Oid {
    // The constants of Knuth's generator; no two calls give the same bytes.
    static SEED: AtomicU32 = AtomicU32::new(1);
    let mut state = u64::from(SEED.fetch_add(1, Ordering::Relaxed));
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(bytes)
    .collect();
    let mut tree = mirror.treebuilder(None).unwrap();
    tree.insert("file", mirror.blob(&content).unwrap(), 0o100_644).unwrap();
    let tree = mirror.find_tree(tree.write().unwrap()).unwrap();
    let somebody = Signature::now("kollect", "kollect@kollect.dev").unwrap();
    mirror.commit(None, &somebody, &somebody, "export", &tree, &[]).unwrap()
}

/// Puts a first commit into a repository of the lab, without the wire.
fn fill(repositories: &Repositories, repository: &Repository) -> Oid {
    let mirror = Mirror::init_bare(repositories.dir().join(format!("{}-first", repository.name()))).unwrap();
    let commit = commit(&mirror, 100);
    let mut remote = mirror.remote_anonymous(&repository.path().to_string_lossy()).unwrap();
    remote.push(&[format!("{commit}:refs/heads/main")], None).unwrap();
    commit
}

#[track_caller]
fn assert_failure(error: &GitError, class: crate::error::Class, words: &str) {
    let text = chain(error);
    assert_eq!(error.class(), class, "{text}");
    assert!(text.contains(words), "{text}");
}

#[test]
fn directory_of_this_machine_is_a_remote() {
    let repositories = Repositories::new().unwrap();
    let repository = repositories.create("inventory").unwrap();
    let first = fill(&repositories, &repository);
    let mirror = Mirror::init_bare(repositories.dir().join("mirror")).unwrap();
    let wire = Wire::Local(repository.path().to_owned());
    let session = wire.session(Instant::now() + PATIENCE, &CancellationToken::new()).unwrap();
    let mut remote = session.remote(&mirror).unwrap();
    remote.fetch(&["+refs/heads/main:refs/heads/main"], None, None).unwrap();
    assert_eq!(mirror.refname_to_id("refs/heads/main").unwrap(), first);
    let missing = Wire::Local(repositories.dir().join("missing"));
    let session = missing.session(Instant::now() + PATIENCE, &CancellationToken::new()).unwrap();
    assert_failure(&list(&session, &mirror).unwrap_err(), crate::error::Class::Transient, "failed to talk to /");
}
