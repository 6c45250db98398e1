//! The way to a remote: what libgit2 is told to talk through.
//!
//! libgit2 blocks, so everything here runs on a blocking thread, and drives its I/O on the runtime. A [`Session`] lasts
//! for one conversation (list, fetch or push); its deadline and its cancellation end every read and write at once.
//!
//! - [`http`]: a smart sub-transport of ours over reqwest and rustls. libgit2's own knows neither the dial guard nor the
//!   authorities of a sink nor a deadline.
//! - [`ssh`]: libgit2's own transport over libssh2, which is led through a relay of ours to the guarded connection.
//!
//! libgit2 reports a failure as a text. What really happened is kept in the [`Talk`] of the session, and
//! [`Session::explain`] gives that back.

mod http;
pub(super) mod known_hosts;
mod protocol;
mod relay;
mod sha1;
mod ssh;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use git2::{ErrorCode, RemoteCallbacks, Repository};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::protocol::Words;
use super::config::{Credentials, GitConfig};
use super::endpoint::{Address, Endpoint};
use super::error::{GitError, Mismatch};
use crate::secret::Secret;
use crate::sinks::netguard::Guard;

/// A connection on which nothing moves for this long is given up.
const SILENCE: Duration = Duration::from_mins(1);

/// What libgit2 is told about a failure; the failure itself is in the [`Talk`].
const EXPLAINED: &str = "the wire failed";

/// The way to one remote with one credential.
#[derive(Debug)]
pub(super) enum Wire {
    /// A directory of this machine.
    #[cfg(test)]
    Local(std::path::PathBuf),
    /// A server.
    Server(Server),
}

/// A server, and how to talk to it.
#[derive(Debug)]
pub(super) struct Server {
    origin: Origin,
    /// What is reached, for people.
    shown: String,
    secret: Option<Secret>,
}

#[derive(Debug)]
enum Origin {
    Http(Arc<http::Origin>),
    Ssh(Arc<ssh::Origin>),
}

/// One conversation with a remote. Belongs to the thread that began it.
pub(super) struct Session {
    talk: Arc<Talk>,
    line: Line,
}

/// What a session holds while it lasts.
enum Line {
    #[cfg(test)]
    Local(std::path::PathBuf),
    Http {
        _entered: http::Entered,
    },
    Ssh(ssh::Conversation),
}

/// What happens on the wire during one session.
#[derive(Debug)]
struct Talk {
    deadline: Instant,
    cancel: CancellationToken,
    shown: String,
    secret: Option<Secret>,
    /// The first failure, which is the cause of all others.
    failure: Mutex<Option<GitError>>,
    /// What the server says beside the data.
    words: Mutex<Words>,
}

impl Wire {
    /// Prepares the way to the repository of a sink. Nothing is connected yet.
    pub(super) fn new(config: &GitConfig, guard: Guard, handle: Handle) -> Result<Self, GitError> {
        let endpoint = Endpoint::parse(&config.endpoint).map_err(GitError::Endpoint)?;
        let (origin, secret) = match (endpoint.address(), &config.credentials) {
            (Address::Web(_), Credentials::Ssh { .. }) => return Err(GitError::Login(Mismatch::KeyForWeb)),
            (Address::Ssh { .. }, Credentials::Anonymous | Credentials::Basic { .. }) => {
                return Err(GitError::Login(Mismatch::NoKey));
            }
            (Address::Web(url), Credentials::Anonymous) => {
                (Origin::Http(Arc::new(http::Origin::new(url.clone(), None, config, guard, handle))), None)
            }
            (Address::Web(url), Credentials::Basic { user, password }) => {
                let login = Some((user.clone(), password.clone()));
                let origin = http::Origin::new(url.clone(), login, config, guard, handle);
                (Origin::Http(Arc::new(origin)), Some(password.clone()))
            }
            (Address::Ssh { host, port, path }, Credentials::Ssh { user, key, known_hosts }) => {
                let hosts = match known_hosts {
                    _ if config.tls.insecure_skip_verify => ssh::HostCheck::Nothing,
                    Some(text) => ssh::HostCheck::Known(text.clone()),
                    None => return Err(GitError::Login(Mismatch::NoKnownHosts)),
                };
                let place = ssh::Place { host: host.clone(), port: *port, path: path.clone() };
                let login = ssh::Login { user: user.clone(), key: key.clone() };
                (Origin::Ssh(Arc::new(ssh::Origin { place, login, hosts, guard, handle })), None)
            }
        };
        Ok(Self::Server(Server { origin, shown: endpoint.to_string(), secret }))
    }

    /// Begins a conversation that ends at the deadline, or when it is cancelled. Must be called on a thread that may
    /// block.
    pub(super) fn session(&self, deadline: Instant, cancel: &CancellationToken) -> Result<Session, GitError> {
        let (shown, secret) = match self {
            #[cfg(test)]
            Self::Local(path) => (path.display().to_string(), None),
            Self::Server(server) => (server.shown.clone(), server.secret.clone()),
        };
        let talk = Arc::new(Talk {
            deadline,
            cancel: cancel.clone(),
            shown,
            secret,
            failure: Mutex::new(None),
            words: Mutex::new(Words::default()),
        });
        // Also where no HTTP is spoken: the list of transports must not change while another thread reads it.
        http::register().map_err(|error| talk.libgit2("prepare the connection to", error))?;
        let line = match self {
            #[cfg(test)]
            Self::Local(path) => Line::Local(path.clone()),
            Self::Server(Server { origin: Origin::Http(origin), .. }) => {
                Line::Http { _entered: http::Entered::new(origin, &talk)? }
            }
            Self::Server(Server { origin: Origin::Ssh(origin), .. }) => {
                Line::Ssh(ssh::Conversation::new(origin, &talk))
            }
        };
        Ok(Session { talk, line })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("remote", &self.talk.shown).finish_non_exhaustive()
    }
}

impl Session {
    /// Makes the remote that libgit2 talks to; valid as long as the session.
    pub(super) fn remote<'r>(&self, repository: &'r Repository) -> Result<git2::Remote<'r>, GitError> {
        let url = match &self.line {
            #[cfg(test)]
            Line::Local(path) => path.to_string_lossy().into_owned(),
            Line::Http { .. } => http::URL.to_owned(),
            Line::Ssh(conversation) => conversation.url()?,
        };
        repository.remote_anonymous(&url).map_err(|error| self.explain(error))
    }

    /// Returns callbacks that log in, and that hear what the server says; the caller adds its own.
    pub(super) fn callbacks(&self) -> RemoteCallbacks<'_> {
        let mut callbacks = RemoteCallbacks::new();
        callbacks.sideband_progress(|text| {
            self.talk.words.lock().hear(text);
            true
        });
        if let Line::Ssh(conversation) = &self.line {
            conversation.log_in(&mut callbacks);
        }
        callbacks
    }

    /// Turns libgit2's error into ours: what really happened on the wire is known here, libgit2 only has a text.
    pub(super) fn explain(&self, error: git2::Error) -> GitError {
        if let Some(failure) = self.talk.failure.lock().take() {
            return failure;
        }
        match &self.line {
            _ if error.code() == ErrorCode::NotFastForward => {
                GitError::NonFastForward { reference: self.talk.shown.clone() }
            }
            Line::Ssh(conversation) => conversation.explain(error),
            #[cfg(test)]
            Line::Local(_) => self.talk.libgit2("talk to", error),
            Line::Http { .. } => self.talk.libgit2("talk to", error),
        }
    }

    /// Says why the server refused a reference, from the status that it gives for it.
    pub(super) fn refused(&self, reference: &str, status: &str) -> GitError {
        let status = protocol::scrub(status.as_bytes(), self.talk.secret.as_ref());
        GitError::refused(reference, &status, &self.talk.heard())
    }
}

impl Talk {
    /// Drives I/O to its end, until nothing moved for `patience`, the deadline, or the cancellation.
    fn wait<T>(
        &self,
        handle: &Handle,
        doing: &str,
        patience: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, GitError> {
        let doing = || self.doing(doing);
        handle.block_on(async {
            let patient = Instant::now().checked_add(patience);
            let end = patient.map_or(self.deadline, |patient| patient.min(self.deadline));
            match self.cancel.run_until_cancelled(timeout_at(end, work)).await {
                None => Err(GitError::Cancelled { doing: doing() }),
                Some(Ok(done)) => Ok(done),
                Some(Err(_)) if end == self.deadline => Err(GitError::Late { doing: doing() }),
                Some(Err(_)) => Err(GitError::Silent { doing: doing(), after: patience }),
            }
        })
    }

    /// Completes what was being done by where.
    fn doing(&self, doing: &str) -> String {
        format!("{doing} {}", self.shown)
    }

    /// Keeps a failure for [`Session::explain`].
    fn keep(&self, failure: GitError) {
        self.failure.lock().get_or_insert(failure);
    }

    /// Keeps a failure, and returns what libgit2 is told instead.
    fn fail(&self, failure: GitError) -> io::Error {
        self.keep(failure);
        io::Error::other(EXPLAINED)
    }

    /// Returns what the server said beside the data, fit to be shown.
    fn heard(&self) -> String {
        protocol::scrub(self.words.lock().as_bytes(), self.secret.as_ref())
    }

    fn libgit2(&self, doing: &str, source: git2::Error) -> GitError {
        GitError::Git { doing: self.doing(doing), words: self.heard(), source }
    }
}

/// Returns words of a server as they come into errors.
#[cfg(test)]
pub(super) fn scrubbed(words: &[u8], secret: &Secret) -> String {
    protocol::scrub(words, Some(secret))
}

#[cfg(test)]
mod tests;
