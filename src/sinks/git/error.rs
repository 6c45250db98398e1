//! What can go wrong with a repository, and what it means.

use crate::error::{Class, Classify};

/// A failure of a repository.
#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    /// libgit2 failed by itself.
    #[error("git failed")]
    Git(#[source] git2::Error),
}

impl Classify for GitError {
    fn class(&self) -> Class {
        match self {
            Self::Git(_) => Class::Transient,
        }
    }
}
