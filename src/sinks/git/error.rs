//! What can go wrong with a repository, and what that means for the scheduler.
//!
//! The class comes from the HTTP status, from the kind of TLS failure, or from the variant. There is one exception: why a
//! server refuses a reference it says in words only (`ng <ref> <words>` of the git protocol), so [`Refusal::of`] is a
//! table of such words, the only place where a text decides. No error holds a credential: addresses are normal forms of
//! [`super::endpoint::Endpoint`], and words of a server are scrubbed before they come here.

mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

pub(super) use words::{Answer, RedirectError};

use words::Refusal;

use super::endpoint::EndpointError;
use super::transport::known_hosts::HostKeyError;
use crate::error::{Class, Classify};
use crate::export::FilePath;
use crate::export::layout::LayoutError;
use crate::sinks::mandate::Deposed;
use crate::sinks::netguard::DialError;
use crate::sinks::tls::{TlsError, handshake_class};
use crate::sinks::{Fault, SinkError};

/// A failure of a repository.
#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    #[error(transparent)]
    Endpoint(EndpointError),
    /// The Secret does not fit the address.
    #[error("{0}")]
    Login(Mismatch),
    #[error("failed to set up TLS")]
    Tls(#[source] TlsError),
    /// The HTTP client cannot be built.
    #[error("failed to set up the HTTP client")]
    Client(#[source] reqwest::Error),
    #[error(transparent)]
    Dial(DialError),
    #[error("failed to {doing}{}", advice(.source))]
    Handshake {
        doing: String,
        #[source]
        source: rustls::Error,
    },
    #[error("failed to {doing}")]
    Http {
        doing: String,
        #[source]
        source: reqwest::Error,
    },
    /// A socket of this machine failed.
    #[error("failed to {doing}")]
    Door {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to {doing}: the connection was cut")]
    Cut { doing: String },
    #[error("failed to {doing}: no progress within {} s", .after.as_secs())]
    Silent { doing: String, after: Duration },
    #[error("failed to {doing}: it did not end in time")]
    Late { doing: String },
    #[error("failed to {doing}: it was cancelled")]
    Cancelled { doing: String },
    #[error("failed to {doing}: {answer}")]
    Status { doing: String, answer: Answer },
    #[error("failed to {doing}: the server asks for credentials; name a Secret in spec.secretRef")]
    LoginNeeded { doing: String },
    #[error("failed to {doing}: the server refused the credentials; check user and token or key in the Secret{}", saying(.words))]
    LoginRefused { doing: String, words: String },
    #[error("failed to {doing}: {0}", .reason)]
    Redirect { doing: String, reason: RedirectError },
    #[error("failed to {doing}: the server answered with {kind}, not with git; is spec.endpoint a repository?")]
    NotGit { doing: String, kind: String },
    #[error("failed to {doing}")]
    HostKey {
        doing: String,
        #[source]
        source: HostKeyError,
    },
    #[error(
        "failed to {doing}: the private key of the Secret cannot be used: it must be an OpenSSH or PEM key without \
             passphrase"
    )]
    UnusableKey { doing: String },
    /// An SSH server ran the command and ended it with a message.
    #[error("failed to {doing}: the server says: {words}")]
    Said { doing: String, words: String },
    /// The branch has commits that the push does not contain.
    #[error("{reference} moved on the server while it was written")]
    NonFastForward { reference: String },
    #[error("the server refused {reference}: {words}")]
    Refused { reference: String, words: String },
    #[error("the server could not write {reference}: {words}")]
    Busy { reference: String, words: String },
    /// The server took none of the references because of another one; that one's error is the one to report.
    #[error("the server left {reference} as it was, because another reference was refused")]
    Withheld { reference: String },
    /// libgit2 failed by itself.
    #[error("failed to {doing}{}", saying(.words))]
    Git {
        doing: String,
        words: String,
        #[source]
        source: git2::Error,
    },

    // The mirror, what is written into it, and who writes.
    /// An object or a ref of the mirror cannot be read or written: it is made anew once.
    #[error("failed to use the mirror of the repository")]
    Mirror(#[source] git2::Error),
    #[error("mirror directory {} {problem}", .path.display())]
    Root { path: PathBuf, problem: &'static str },
    #[error("failed to write the mirror in {}: is there room, and is KOLLECT_GIT_MIRROR_DIR writable", .path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Another process or sink works in the mirror for too long.
    #[error("the mirror in {} is in use", .path.display())]
    Locked { path: PathBuf },
    /// There is something of nobody's where a file of ours would have to be.
    #[error("{path:?} cannot be written: there is {there} in the branch")]
    Obstructed { path: String, there: &'static str },
    #[error("{path:?} is not a path that can be written")]
    Unfit { path: String },
    /// Others pushed between each of our tries.
    #[error("branch {branch:?} moved in each of {tries} tries to push")]
    Superseded { branch: String, tries: u32 },
    #[error("failed to push branch {branch:?}")]
    Deposed {
        branch: String,
        #[source]
        source: Deposed,
    },
    /// Two sinks would write the same inventory to the same branch in different ways.
    #[error("sink {first} writes inventory {inventory} to this branch already, with other settings")]
    Occupied { first: String, inventory: String },
    /// The rows cannot become files as the layout says.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Another inventory has a file where a document would be.
    #[error("{path} belongs to inventory {other}; choose another path in spec.pathTemplate")]
    PathConflict { path: FilePath, other: String },
    #[error(
        "inventory {inventory} is written by another operator (UID of its kube-system: {writer}); give each cluster a \
             spec.cluster of its own"
    )]
    ClusterConflict { inventory: String, writer: String },
    /// Nothing is known of what the branch has of the rows: the delivery before this one was not finished.
    #[error("the files have to be compared with the branch first")]
    NotCompared,
    /// The same failure for everybody who waited for one push.
    #[error(transparent)]
    Shared(Arc<Self>),
    /// The process stops, or the work was lost with its thread.
    #[error("the work on the repository was given up")]
    GivenUp,
}

/// Why the Secret of a sink does not fit its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("spec.endpoint is an ssh address, which takes a private key: put it under ssh-privatekey into the Secret")]
    NoKey,
    #[error("spec.endpoint is an http address, which takes a token or a password, and the Secret has a private key")]
    KeyForWeb,
    #[error(
        "the Secret has no known_hosts: put the output of `ssh-keyscan <host>` there after checking it, or set \
             spec.tls.insecureSkipVerify"
    )]
    NoKnownHosts,
}

impl GitError {
    /// Says what a server means by refusing a reference. `status` is what it says of that reference, `words` what it says
    /// beside it, scrubbed both.
    pub(super) fn refused(reference: &str, status: &str, words: &str) -> Self {
        let reference = reference.to_owned();
        let words = if words.is_empty() { status.to_owned() } else { format!("{status} ({words})") };
        match Refusal::of(status) {
            Refusal::Moved => Self::NonFastForward { reference },
            Refusal::Trouble => Self::Busy { reference, words },
            Refusal::Companion => Self::Withheld { reference },
            Refusal::Rule => Self::Refused { reference, words },
        }
    }

    /// Returns what the failure means.
    fn verdict(&self) -> Verdict {
        use Fault::{Delivery, Destination};
        const PROBE: &str = "ConnectionTestFailed";
        const FAILED: &str = "ExportFailed";
        const REFUSED: &str = "ExportTerminal";
        let (class, reason, fault) = match self {
            Self::Shared(error) => return error.verdict(),
            Self::Endpoint(_) | Self::Login(_) | Self::Said { .. } => (Class::Terminal, PROBE, Delivery),
            Self::Tls(_)
            | Self::Client(_)
            | Self::LoginNeeded { .. }
            | Self::LoginRefused { .. }
            | Self::Redirect { .. }
            | Self::NotGit { .. }
            | Self::HostKey { .. }
            | Self::UnusableKey { .. } => (Class::Terminal, PROBE, Destination),
            Self::Dial(error) => (error.class(), PROBE, Destination),
            Self::Handshake { source, .. } => (handshake_class(source), PROBE, Destination),
            // A push that is too large says nothing of the next one.
            Self::Status { answer, .. } if answer.status == StatusCode::PAYLOAD_TOO_LARGE => {
                (answer.class(), REFUSED, Delivery)
            }
            Self::Status { answer, .. } => match answer.class() {
                Class::Terminal => (Class::Terminal, PROBE, Destination),
                class => (class, FAILED, Destination),
            },
            Self::Http { .. } | Self::Cut { .. } | Self::Silent { .. } => (Class::Transient, FAILED, Destination),
            Self::Late { .. }
            | Self::Cancelled { .. }
            | Self::Door { .. }
            | Self::NonFastForward { .. }
            | Self::Busy { .. }
            | Self::Withheld { .. }
            | Self::Git { .. }
            | Self::Mirror(_)
            | Self::Disk { .. }
            | Self::Locked { .. }
            | Self::Superseded { .. }
            | Self::Deposed { .. }
            | Self::NotCompared
            | Self::GivenUp => (Class::Transient, FAILED, Delivery),
            Self::Refused { .. } | Self::Root { .. } | Self::Unfit { .. } | Self::Occupied { .. } => {
                (Class::Terminal, REFUSED, Delivery)
            }
            Self::Layout(error) => (error.class(), REFUSED, Delivery),
            Self::Obstructed { .. } | Self::PathConflict { .. } => (Class::Terminal, "PathConflict", Delivery),
            Self::ClusterConflict { .. } => (Class::Terminal, "ClusterConflict", Delivery),
        };
        Verdict { class, reason, fault }
    }
}

/// What a failure means for the scheduler and for the status.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    class: Class,
    /// Condition reason.
    reason: &'static str,
    fault: Fault,
}

impl From<GitError> for SinkError {
    fn from(error: GitError) -> Self {
        let Verdict { class, reason, fault } = error.verdict();
        let failure = Self::new(class, reason, error);
        match fault {
            Fault::Destination => failure.of_destination(),
            Fault::Delivery => failure,
        }
    }
}

impl Classify for GitError {
    fn class(&self) -> Class {
        self.verdict().class
    }
}

/// Returns the words of a server as the end of a sentence; nothing where there are none.
fn saying(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; it says: {words}") }
}

/// Returns what a person can do about a failed handshake.
fn advice(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            "; if the certificate is the right one, name its authority in spec.tls.caBundle or spec.tls.caSecretRef"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests;
