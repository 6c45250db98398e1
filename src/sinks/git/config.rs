//! What a snapshot sink says about its repository, with every Secret resolved.

use std::fmt;
use std::num::NonZeroU32;

use super::mirror::Place;
use crate::export::layout::LayoutSpec;
use crate::metrics::SinkType;
use crate::model::{Cluster, SinkKey};
use crate::secret::Secret;
use crate::sinks::{TlsConfig, digest_of};

/// Settings of one sink of type `git` or `gitlab`.
#[derive(Clone)]
pub struct GitConfig {
    /// The sink object: its name is in commit messages, and two of them do not write one inventory to one branch.
    pub sink: SinkKey,
    /// `git` or `gitlab`.
    pub kind: SinkType,
    /// `spec.cluster`; empty is shown as `default`.
    pub cluster: Cluster,
    /// Address of the repository as it is written: `https://`, `http://`, `ssh://` or `user@host:path`, with
    /// `#branch=<name>` at will. User names and passwords in it are ignored.
    pub endpoint: String,
    /// Branch, which wins over the one in the endpoint; `main` when neither says.
    pub branch: Option<String>,
    /// How the branch is moved.
    pub push: PushPolicy,
    /// How the operator logs in.
    pub credentials: Credentials,
    /// Whether credentials go out with the first request.
    pub challenge: Challenge,
    /// Trust settings.
    pub tls: TlsConfig,
    /// Depth of what is fetched.
    pub depth: NonZeroU32,
    /// Author and committer.
    pub author: Author,
    /// Texts of commits.
    pub message: MessageTemplate,
    /// How rows become files.
    pub layout: LayoutSpec,
    /// Whether files that the inventory wrote earlier and no longer writes are removed: always in tree layouts.
    pub prune: bool,
}

impl fmt::Debug for GitConfig {
    /// Leaves the address out, in which somebody may have written a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sink, kind, branch, credentials, .. } = self;
        f.debug_struct("GitConfig")
            .field("sink", sink)
            .field("kind", kind)
            .field("branch", branch)
            .field("credentials", credentials)
            .finish_non_exhaustive()
    }
}

impl GitConfig {
    /// Returns the settings of a sink that says nothing but where to: no login, one document, everything else as usual.
    pub fn new(sink: SinkKey, endpoint: String) -> Self {
        Self {
            sink,
            kind: SinkType::Git,
            cluster: Cluster::new(""),
            endpoint,
            branch: None,
            push: PushPolicy::default(),
            credentials: Credentials::default(),
            challenge: Challenge::default(),
            tls: TlsConfig::default(),
            depth: NonZeroU32::MIN,
            author: Author::default(),
            message: MessageTemplate::default(),
            layout: LayoutSpec::default(),
            prune: false,
        }
    }

    /// Returns what makes two sinks share a writer: where it leads, by which credential, and how it writes.
    pub(super) fn writer_key(&self, place: &Place) -> [u8; 32] {
        let (user, secret, known_hosts) = match &self.credentials {
            Credentials::Anonymous => (None, None, None),
            Credentials::Basic { user, password } => (Some(user), Some(password), None),
            Credentials::Ssh { user, key, known_hosts } => (Some(user), Some(key), known_hosts.as_ref()),
        };
        let key = self.tls.client_key_pem.as_ref().map(|key| key.expose().as_bytes());
        let parts = [
            Some(place.url.as_bytes()),
            Some(place.branch.as_bytes()),
            user.map(String::as_bytes),
            secret.map(|secret| secret.expose().as_bytes()),
            known_hosts.map(String::as_bytes),
            self.tls.ca_pem.as_deref(),
            self.tls.client_cert_pem.as_deref(),
            key,
            self.tls.insecure_skip_verify.then_some(&[][..]),
            (self.push == PushPolicy::Force).then_some(&[][..]),
            (self.challenge == Challenge::Skipped).then_some(&[][..]),
            Some(&self.depth.get().to_le_bytes()),
            Some(self.author.name.as_bytes()),
            Some(self.author.email.as_bytes()),
        ];
        digest_of(&parts)
    }

    /// Returns a digest of all that decides which files are written.
    pub(super) fn appearance(&self) -> [u8; 32] {
        // Every field of a layout counts, and the form in which it is printed for debugging has them all.
        let layout = format!("{:?}", self.layout);
        digest_of(&[Some(layout.as_bytes()), self.prune.then_some(&[][..])])
    }
}

/// How a branch is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PushPolicy {
    /// Commits go on top of what others pushed.
    #[default]
    Commit,
    /// The branch is overwritten.
    Force,
}

/// When credentials are shown to an HTTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Challenge {
    /// After it asked.
    #[default]
    Awaited,
    /// With the first request.
    Skipped,
}

/// How the operator logs in to a git server.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Not at all.
    #[default]
    Anonymous,
    /// HTTP basic authentication.
    Basic {
        /// User; `x-access-token` where only a token is known.
        user: String,
        /// Token or password.
        password: Secret,
    },
    /// A key over SSH.
    Ssh {
        /// User; `git` when the Secret has none.
        user: String,
        /// Private key, OpenSSH or PEM, without passphrase.
        key: Secret,
        /// Host keys that are believed, in the format of `known_hosts`; `None` where the check is off.
        known_hosts: Option<String>,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic",
            Self::Ssh { .. } => "Ssh",
        })
    }
}

/// Author and committer of commits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Author {
    /// Name in the log.
    pub name: String,
    /// Mail address in the log.
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "kollect".to_owned(), email: "kollect@kollect.dev".to_owned() }
    }
}

/// Texts of a commit before their placeholders are filled in; each part becomes a paragraph of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageTemplate {
    /// First line.
    pub subject: String,
    /// What follows it.
    pub body: Option<String>,
    /// What comes last, a paragraph each.
    pub trailers: Vec<String>,
}

impl Default for MessageTemplate {
    fn default() -> Self {
        let subject = "chore({cluster}/{namespace}/{name}): export {itemCount} items @ {checksumShort}";
        Self { subject: subject.to_owned(), body: None, trailers: Vec::new() }
    }
}
