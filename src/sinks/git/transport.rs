//! The way to a remote: what libgit2 is told to talk through.
//!
//! libgit2 blocks, so everything here runs on a blocking thread. A [`Session`] lasts for one conversation (list, fetch or
//! push); its deadline and its cancellation end every read and write.

use std::path::PathBuf;

use git2::{RemoteCallbacks, Repository};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::GitError;

/// The way to one remote with one credential.
#[derive(Debug)]
pub(super) enum Wire {
    /// A directory of this machine; the laboratory alone uses it.
    Local(PathBuf),
}

/// One conversation with a remote.
#[derive(Debug)]
pub(super) struct Session<'w> {
    wire: &'w Wire,
}

impl Wire {
    /// Begins a conversation that ends at the deadline, or when it is cancelled.
    pub(super) fn session(&self, _deadline: Instant, _cancel: &CancellationToken) -> Result<Session<'_>, GitError> {
        Ok(Session { wire: self })
    }
}

impl Session<'_> {
    /// Makes the remote that libgit2 talks to; valid as long as the session.
    pub(super) fn remote<'r>(&self, repository: &'r Repository) -> Result<git2::Remote<'r>, GitError> {
        match self.wire {
            Wire::Local(path) => {
                repository.remote_anonymous(&path.to_string_lossy()).map_err(|error| self.explain(error))
            }
        }
    }

    /// Returns callbacks that log in; the caller adds its own.
    pub(super) fn callbacks(&self) -> RemoteCallbacks<'_> {
        RemoteCallbacks::new()
    }

    /// Turns libgit2's error into ours: what really happened on the wire is known here, libgit2 only has a text.
    pub(super) fn explain(&self, error: git2::Error) -> GitError {
        GitError::Git(error)
    }
}
