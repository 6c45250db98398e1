//! What can go wrong with a repository, and what that means for the scheduler.
//!
//! The class comes from the HTTP status, from the kind of TLS failure, or from the variant. There is one exception: why a
//! server refuses a reference it says in words only (`ng <ref> <words>` of the git protocol), so [`Refusal::of`] is a
//! table of such words, the only place where a text decides. No error holds a credential: addresses are normal forms of
//! [`super::endpoint::Endpoint`], and words of a server are scrubbed before they come here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

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

/// An HTTP status that is no success, and what the server said beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The server says when to come again.
    pub(super) retry_after: bool,
    /// The beginning of a plain-text body, scrubbed.
    pub(super) words: String,
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
    fn class(&self) -> Class {
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
pub(super) enum RedirectError {
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

    /// Returns where the failure lies.
    fn fault(&self) -> Fault {
        match self {
            Self::Shared(error) => error.fault(),
            // A push that is too large says nothing of the next one.
            Self::Status { answer, .. } if answer.status == StatusCode::PAYLOAD_TOO_LARGE => Fault::Delivery,
            Self::Tls(_)
            | Self::Client(_)
            | Self::Dial(_)
            | Self::Handshake { .. }
            | Self::Http { .. }
            | Self::Status { .. }
            | Self::Cut { .. }
            | Self::Silent { .. }
            | Self::LoginNeeded { .. }
            | Self::LoginRefused { .. }
            | Self::Redirect { .. }
            | Self::NotGit { .. }
            | Self::HostKey { .. }
            | Self::UnusableKey { .. } => Fault::Destination,
            Self::Endpoint(_)
            | Self::Login(_)
            | Self::Late { .. }
            | Self::Cancelled { .. }
            | Self::Door { .. }
            | Self::Said { .. }
            | Self::NonFastForward { .. }
            | Self::Refused { .. }
            | Self::Busy { .. }
            | Self::Withheld { .. }
            | Self::Git { .. }
            | Self::Mirror(_)
            | Self::Root { .. }
            | Self::Disk { .. }
            | Self::Locked { .. }
            | Self::Obstructed { .. }
            | Self::Unfit { .. }
            | Self::Superseded { .. }
            | Self::Deposed { .. }
            | Self::Occupied { .. }
            | Self::Layout(_)
            | Self::PathConflict { .. }
            | Self::ClusterConflict { .. }
            | Self::NotCompared
            | Self::GivenUp => Fault::Delivery,
        }
    }

    /// Returns the condition reason.
    fn reason(&self) -> &'static str {
        match self {
            Self::Shared(error) => error.reason(),
            Self::Obstructed { .. } | Self::PathConflict { .. } => "PathConflict",
            Self::ClusterConflict { .. } => "ClusterConflict",
            Self::Endpoint(_)
            | Self::Login(_)
            | Self::Tls(_)
            | Self::Client(_)
            | Self::Dial(_)
            | Self::Handshake { .. }
            | Self::LoginNeeded { .. }
            | Self::LoginRefused { .. }
            | Self::Redirect { .. }
            | Self::NotGit { .. }
            | Self::HostKey { .. }
            | Self::UnusableKey { .. }
            | Self::Said { .. } => "ConnectionTestFailed",
            Self::Status { answer, .. } if answer.status == StatusCode::PAYLOAD_TOO_LARGE => "ExportTerminal",
            Self::Status { answer, .. } if answer.class() == Class::Terminal => "ConnectionTestFailed",
            Self::Refused { .. } | Self::Root { .. } | Self::Unfit { .. } | Self::Occupied { .. } | Self::Layout(_) => {
                "ExportTerminal"
            }
            Self::Status { .. }
            | Self::Http { .. }
            | Self::Cut { .. }
            | Self::Silent { .. }
            | Self::Late { .. }
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
            | Self::GivenUp => "ExportFailed",
        }
    }
}

impl From<GitError> for SinkError {
    fn from(error: GitError) -> Self {
        let (fault, failure) = (error.fault(), Self::new(error.class(), error.reason(), error));
        match fault {
            Fault::Destination => failure.of_destination(),
            Fault::Delivery => failure,
        }
    }
}

impl Classify for GitError {
    fn class(&self) -> Class {
        match self {
            Self::Shared(error) => error.class(),
            Self::Endpoint(_)
            | Self::Login(_)
            | Self::Tls(_)
            | Self::Client(_)
            | Self::LoginNeeded { .. }
            | Self::LoginRefused { .. }
            | Self::Redirect { .. }
            | Self::NotGit { .. }
            | Self::HostKey { .. }
            | Self::UnusableKey { .. }
            | Self::Said { .. }
            | Self::Refused { .. }
            | Self::Root { .. }
            | Self::Obstructed { .. }
            | Self::Unfit { .. }
            | Self::Occupied { .. }
            | Self::PathConflict { .. }
            | Self::ClusterConflict { .. } => Class::Terminal,
            Self::Layout(error) => error.class(),
            Self::Dial(error) => error.class(),
            Self::Handshake { source, .. } => handshake_class(source),
            Self::Status { answer, .. } => answer.class(),
            Self::Http { .. }
            | Self::Cut { .. }
            | Self::Silent { .. }
            | Self::Late { .. }
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
            | Self::GivenUp => Class::Transient,
        }
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
mod tests {
    use std::io;

    use rustls::CertificateError;

    use super::*;
    use crate::error::chain;
    use crate::sinks::netguard::Guard;

    const TERMINAL: (Class, &str) = (Class::Terminal, "ConnectionTestFailed");
    const TRANSIENT: (Class, &str) = (Class::Transient, "ExportFailed");

    fn doing() -> String {
        "push to https://git.example.com/inv".to_owned()
    }

    fn status(status: u16) -> GitError {
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), retry_after: false, words: String::new() };
        GitError::Status { doing: doing(), answer }
    }

    fn refused(status: &str) -> GitError {
        GitError::refused("refs/heads/main", status, "")
    }

    /// An error of each variant, with what it means.
    fn all() -> Vec<(GitError, (Class, &'static str), Fault)> {
        use Fault::{Delivery, Destination};
        let host = || "git.example.com".to_owned();
        let dial = Guard::default().check_literal("127.0.0.1").unwrap_err();
        let away = DialError::Connect { host: host(), port: 22, source: io::ErrorKind::ConnectionRefused.into() };
        let certificate = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let client = || reqwest::Request::try_from(http::Request::builder().uri("/").body("").unwrap()).unwrap_err();
        vec![
            (GitError::Endpoint(EndpointError::Form), TERMINAL, Delivery),
            (GitError::Login(Mismatch::NoKey), TERMINAL, Delivery),
            (GitError::Tls(TlsError::HalfClient), TERMINAL, Destination),
            (GitError::Client(client()), TERMINAL, Destination),
            (GitError::Dial(dial.into()), TERMINAL, Destination),
            (GitError::Dial(away), (Class::Transient, "ConnectionTestFailed"), Destination),
            (GitError::Handshake { doing: doing(), source: certificate }, TERMINAL, Destination),
            (
                GitError::Handshake { doing: doing(), source: rustls::Error::HandshakeNotComplete },
                (Class::Transient, "ConnectionTestFailed"),
                Destination,
            ),
            (GitError::Http { doing: doing(), source: client() }, TRANSIENT, Destination),
            (GitError::Door { doing: doing(), source: io::ErrorKind::AddrInUse.into() }, TRANSIENT, Delivery),
            (GitError::Cut { doing: doing() }, TRANSIENT, Destination),
            (GitError::Silent { doing: doing(), after: Duration::from_mins(1) }, TRANSIENT, Destination),
            (GitError::Late { doing: doing() }, TRANSIENT, Delivery),
            (GitError::Cancelled { doing: doing() }, TRANSIENT, Delivery),
            (status(404), TERMINAL, Destination),
            (status(503), TRANSIENT, Destination),
            (status(413), (Class::Terminal, "ExportTerminal"), Delivery),
            (GitError::LoginNeeded { doing: doing() }, TERMINAL, Destination),
            (GitError::LoginRefused { doing: doing(), words: String::new() }, TERMINAL, Destination),
            (GitError::Redirect { doing: doing(), reason: RedirectError::Weaker }, TERMINAL, Destination),
            (GitError::NotGit { doing: doing(), kind: "text/html".to_owned() }, TERMINAL, Destination),
            (GitError::HostKey { doing: doing(), source: HostKeyError::Unknown(host()) }, TERMINAL, Destination),
            (GitError::UnusableKey { doing: doing() }, TERMINAL, Destination),
            (GitError::Said { doing: doing(), words: "not found".to_owned() }, TERMINAL, Delivery),
            (refused("non-fast-forward"), TRANSIENT, Delivery),
            (refused("pre-receive hook declined"), (Class::Terminal, "ExportTerminal"), Delivery),
            (refused("unpacker error"), TRANSIENT, Delivery),
            (refused("atomic push failure"), TRANSIENT, Delivery),
            (
                GitError::Git { doing: doing(), words: String::new(), source: git2::Error::from_str("odd") },
                TRANSIENT,
                Delivery,
            ),
        ]
    }

    #[test]
    fn every_error_has_class_reason_and_fault() {
        for (error, (class, reason), fault) in all() {
            let text = format!("{error:?}");
            let error = SinkError::from(error);
            assert_eq!((error.class(), error.reason(), error.fault()), (class, reason, fault), "{text}");
        }
    }

    #[test]
    fn status_decides_the_class() {
        for (code, class) in [
            (400, Class::Terminal),
            (403, Class::Terminal),
            (404, Class::Terminal),
            (408, Class::Transient),
            (410, Class::Terminal),
            (413, Class::Terminal),
            (425, Class::Transient),
            (429, Class::Transient),
            (500, Class::Transient),
            (502, Class::Transient),
            (503, Class::Transient),
            (504, Class::Transient),
            (304, Class::Terminal),
        ] {
            assert_eq!(status(code).class(), class, "{code}");
        }
        let answer = Answer { status: StatusCode::FORBIDDEN, retry_after: true, words: String::new() };
        assert_eq!(GitError::Status { doing: doing(), answer }.class(), Class::Transient);
    }

    #[test]
    fn words_of_a_server_are_understood() {
        for (words, refusal) in [
            ("non-fast-forward", Refusal::Moved),
            ("fetch first", Refusal::Moved),
            ("stale info", Refusal::Moved),
            ("cannot lock ref 'refs/heads/main': is at 1111 but expected 2222", Refusal::Moved),
            ("cannot lock ref 'refs/heads/main': Unable to create 'main.lock': File exists.", Refusal::Trouble),
            ("failed to update ref", Refusal::Trouble),
            ("unpacker error", Refusal::Trouble),
            ("Internal Server Error", Refusal::Trouble),
            ("atomic push failure", Refusal::Companion),
            ("atomic transaction failed", Refusal::Trouble),
            ("protected branch hook declined", Refusal::Rule),
            ("pre-receive hook declined", Refusal::Rule),
            ("hook declined", Refusal::Rule),
            ("deny updating a hidden ref", Refusal::Rule),
            ("push declined due to repository rule violations", Refusal::Rule),
            ("prohibited by Gerrit: not permitted: update", Refusal::Rule),
            ("branch is currently checked out", Refusal::Rule),
            ("permission denied", Refusal::Rule),
            ("", Refusal::Rule),
        ] {
            assert_eq!(Refusal::of(words), refusal, "{words}");
        }
    }

    #[test]
    fn message_says_what_was_done_and_what_to_do() {
        let declined = GitError::refused("refs/heads/main", "hook declined", "GitLab: You are not allowed to push.");
        assert_eq!(
            chain(&declined),
            "the server refused refs/heads/main: hook declined (GitLab: You are not allowed to push.)"
        );
        let refused = GitError::LoginRefused { doing: doing(), words: "token expired".to_owned() };
        assert_eq!(
            chain(&refused),
            "failed to push to https://git.example.com/inv: the server refused the credentials; check user and token or key \
             in the Secret; it says: token expired"
        );
        let source = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(
            chain(&GitError::Handshake { doing: doing(), source }),
            "failed to push to https://git.example.com/inv; if the certificate is the right one, name its authority in \
             spec.tls.caBundle or spec.tls.caSecretRef: invalid peer certificate: UnknownIssuer"
        );
    }

    /// No variant has a place for a credential but the words of a server, and those are scrubbed where they come in.
    #[test]
    fn no_error_holds_a_credential() {
        let secret = crate::secret::Secret::new("hunter2");
        let words = || super::super::transport::scrubbed(b"no hunter2 here", &secret);
        let endpoint = super::super::endpoint::Endpoint::parse("https://u:hunter2@git.example.com/inv").unwrap();
        let place = || format!("push to {endpoint}");
        let answer = Answer { status: StatusCode::FORBIDDEN, retry_after: false, words: words() };
        let mut errors: Vec<GitError> = all().into_iter().map(|(error, ..)| error).collect();
        errors.extend([
            GitError::Status { doing: place(), answer },
            GitError::LoginRefused { doing: place(), words: words() },
            GitError::Said { doing: place(), words: words() },
            GitError::NotGit { doing: place(), kind: words() },
            GitError::Git { doing: place(), words: words(), source: git2::Error::from_str("odd") },
            GitError::refused("refs/heads/main", &words(), &words()),
            GitError::refused("refs/heads/main", "unpacker error", &words()),
        ]);
        for error in errors {
            let shown = format!("{error:?} {}", chain(&error));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
