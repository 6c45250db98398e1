//! What servers say, and what it means: statuses of HTTP, redirections, and the words with which git refuses a reference.

use http::StatusCode;

use super::saying;
use crate::error::Class;

/// An HTTP status that is no success, and what the server said beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sinks::git) struct Answer {
    pub(in crate::sinks::git) status: StatusCode,
    /// The server says when to come again.
    pub(in crate::sinks::git) retry_after: bool,
    /// The beginning of a plain-text body, scrubbed.
    pub(in crate::sinks::git) words: String,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            StatusCode::NOT_FOUND => f.write_str("repository not found, or no access to it (HTTP 404)")?,
            StatusCode::FORBIDDEN => f.write_str("access denied (HTTP 403)")?,
            StatusCode::TOO_MANY_REQUESTS => f.write_str("too many requests (HTTP 429)")?,
            StatusCode::PAYLOAD_TOO_LARGE => {
                f.write_str("the push is larger than the server takes (HTTP 413); raise its limit on request bodies")?;
            }
            status => write!(f, "the server answered with HTTP {status}")?,
        }
        f.write_str(&saying(&self.words))
    }
}

impl Answer {
    pub(super) fn class(&self) -> Class {
        match self.status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => Class::Transient,
            // GitHub answers so to who asks too often.
            StatusCode::FORBIDDEN if self.retry_after => Class::Transient,
            status if status.is_server_error() => Class::Transient,
            _ => Class::Terminal,
        }
    }
}

/// Why a redirection is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::sinks::git) enum RedirectError {
    #[error("the server redirects more than {0} times")]
    TooMany(usize),
    #[error("the server redirects to {0}, which is no address of a repository; is spec.endpoint one?")]
    Elsewhere(String),
    #[error("the server redirects from https to http")]
    Weaker,
    #[error("the server redirects to an address that cannot be read")]
    Unreadable,
    #[error(
        "the server redirects to {0}, which asks for credentials, and those of the Secret are for the host of \
             spec.endpoint alone; set spec.endpoint to the new address"
    )]
    Stranger(String),
    #[error("the server redirects in the middle of the conversation")]
    Late,
}

/// What a server means by refusing a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The reference is not where the push believes it to be.
    Moved,
    /// The server has trouble of its own: a lock, a disk.
    Trouble,
    /// Another reference of the same push was refused.
    Companion,
    /// A rule forbids it.
    Rule,
}

/// What servers say, in lower case, and what they mean. From git's `builtin/receive-pack.c`, and what its client,
/// libgit2, Gerrit and the large hosts add. Anything else is a rule of the server.
const REFUSALS: &[(&str, Refusal)] = &[
    ("atomic push failure", Refusal::Companion),
    ("atomic push failed", Refusal::Companion),
    ("transaction aborted", Refusal::Companion),
    ("non-fast-forward", Refusal::Moved),
    ("non-fast forward", Refusal::Moved),
    ("fetch first", Refusal::Moved),
    ("stale info", Refusal::Moved),
    ("incorrect old value", Refusal::Moved),
    ("but expected", Refusal::Moved),
    ("reference already exists", Refusal::Moved),
    ("failed to update ref", Refusal::Trouble),
    ("failed to update reference", Refusal::Trouble),
    ("failed to lock", Refusal::Trouble),
    ("cannot lock ref", Refusal::Trouble),
    ("unable to lock", Refusal::Trouble),
    ("lock failure", Refusal::Trouble),
    ("lock error", Refusal::Trouble),
    ("atomic transaction failed", Refusal::Trouble),
    ("transaction failed to start", Refusal::Trouble),
    ("unpacker error", Refusal::Trouble),
    ("missing necessary objects", Refusal::Trouble),
    ("unable to migrate objects", Refusal::Trouble),
    ("bad pack", Refusal::Trouble),
    ("internal server error", Refusal::Trouble),
    ("internal error", Refusal::Trouble),
    ("timeout", Refusal::Trouble),
    ("timed out", Refusal::Trouble),
];

impl Refusal {
    /// Reads the words with which a server refuses a reference.
    pub(super) fn of(words: &str) -> Self {
        let words = words.to_ascii_lowercase();
        REFUSALS.iter().find(|(known, _)| words.contains(known)).map_or(Self::Rule, |(_, refusal)| *refusal)
    }
}
