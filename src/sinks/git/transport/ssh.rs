//! Git over SSH: libgit2's own transport over libssh2, through a [`Relay`], with host keys and login of the sink.
//!
//! libgit2 checks host keys against a file in the home of the process, and takes keys from files; neither is there. So
//! the host key is checked in the callback, under the name and port of the address, and the private key is handed over
//! from memory. The types of host keys that libssh2 asks for cannot be set through libgit2: where the server shows one
//! that `known_hosts` does not have, the error names the type to add.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::sync::Arc;

use git2::cert::Cert;
use git2::{CertificateCheckStatus, Cred, CredentialType, ErrorClass, ErrorCode, RemoteCallbacks};
use tokio::runtime::Handle;

use super::super::error::GitError;
use super::known_hosts::{self, HostKeyError};
use super::protocol;
use super::relay::Relay;
use super::{EXPLAINED, Talk};
use crate::secret::Secret;
use crate::sinks::netguard::Guard;

/// What the login is, for people.
const LOGIN: &str = "log in to";

/// What everything after it is, for people.
const TALK: &str = "talk to";

/// One repository behind an SSH server, and how to log in to it.
pub(super) struct Origin {
    pub(super) place: Place,
    pub(super) login: Login,
    pub(super) hosts: HostCheck,
    pub(super) guard: Guard,
    pub(super) handle: Handle,
}

/// Where a repository is.
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    /// Without a slash in front it begins at the home of the user.
    pub(super) path: String,
}

/// Who logs in.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) key: Secret,
}

/// Which host keys are believed.
pub(super) enum HostCheck {
    /// All.
    Nothing,
    /// Those of a text in the format of `known_hosts`.
    Known(String),
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("host", &self.place.host).field("port", &self.place.port).finish_non_exhaustive()
    }
}

/// What a session knows of its remote.
pub(super) struct Conversation {
    origin: Arc<Origin>,
    talk: Arc<Talk>,
    relay: OnceCell<Relay>,
    /// What libssh2 had sent when it was given the key.
    offered: Cell<Option<u64>>,
}

impl Conversation {
    pub(super) fn new(origin: &Arc<Origin>, talk: &Arc<Talk>) -> Self {
        Self { origin: Arc::clone(origin), talk: Arc::clone(talk), relay: OnceCell::new(), offered: Cell::new(None) }
    }

    /// Returns the address for libgit2: that of the relay, opened at first use. In the form of scp, whose path may begin
    /// at the home of the user.
    pub(super) fn url(&self) -> Result<String, GitError> {
        let place = &self.origin.place;
        let relay = if let Some(relay) = self.relay.get() {
            relay
        } else {
            let relay = Relay::open(&self.talk, &self.origin)?;
            self.relay.get_or_init(|| relay)
        };
        Ok(format!("[127.0.0.1:{}]:{}", relay.port(), place.path))
    }

    /// Adds the callbacks that check the host key and log in.
    pub(super) fn log_in<'c>(&'c self, callbacks: &mut RemoteCallbacks<'c>) {
        callbacks.certificate_check(|certificate, _| self.check_host(certificate));
        callbacks.credentials(|_, _, allowed| self.credentials(allowed));
    }

    fn check_host(&self, certificate: &Cert<'_>) -> Result<CertificateCheckStatus, git2::Error> {
        let place = &self.origin.place;
        let checked = match &self.origin.hosts {
            HostCheck::Nothing => Ok(()),
            HostCheck::Known(known) => match certificate.as_hostkey().and_then(git2::cert::CertHostkey::hostkey) {
                Some(key) => known_hosts::check(known, &place.host, place.port, key),
                None => Err(HostKeyError::NoKey(place.host.clone())),
            },
        };
        checked.map(|()| CertificateCheckStatus::CertificateOk).map_err(|source| {
            self.talk.keep(GitError::HostKey { doing: self.talk.doing("trust"), source });
            git2::Error::new(ErrorCode::Certificate, ErrorClass::Ssh, EXPLAINED)
        })
    }

    fn credentials(&self, allowed: CredentialType) -> Result<Cred, git2::Error> {
        let Login { user, key } = &self.origin.login;
        if allowed.contains(CredentialType::USERNAME) {
            // The first question on each connection of the session.
            self.offered.set(None);
            return Cred::username(user);
        }
        // Asked again, it was refused; and a server that takes no keys refuses it too.
        if self.offered.get().is_some() || !allowed.contains(CredentialType::SSH_MEMORY) {
            self.talk.keep(self.login_refused());
            return Err(git2::Error::new(ErrorCode::Auth, ErrorClass::Ssh, EXPLAINED));
        }
        self.offered.set(self.relay.get().map(Relay::sent));
        Cred::ssh_key_from_memory(user, None, key.expose(), None)
    }

    fn login_refused(&self) -> GitError {
        GitError::LoginRefused { doing: self.talk.doing(LOGIN), words: String::new() }
    }

    /// Explains an error of libgit2 that has no other explanation.
    pub(super) fn explain(&self, error: git2::Error) -> GitError {
        let relay = self.relay.get();
        let doing = || self.talk.doing(TALK);
        match (error.class(), error.code()) {
            _ if relay.is_some_and(Relay::is_cut) => GitError::Cut { doing: doing() },
            (_, ErrorCode::Auth) => self.login_refused(),
            // libgit2 reports so what the command of the server writes to its standard error, and nothing else.
            (ErrorClass::Ssh, ErrorCode::Eof) => {
                let words = protocol::scrub(error.message().as_bytes(), None);
                GitError::Said { doing: doing(), words }
            }
            // A key that was given and never shown to the server was not understood.
            (ErrorClass::Ssh, _) if self.offered.get().is_some() && self.offered.get() == relay.map(Relay::sent) => {
                GitError::UnusableKey { doing: self.talk.doing(LOGIN) }
            }
            _ => self.talk.libgit2(TALK, error),
        }
    }
}
