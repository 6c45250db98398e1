//! The HTTP client of one destination, and what its errors mean.

use reqwest::Client;

use super::super::super::error::GitError;
use crate::sinks::TlsConfig;
use crate::sinks::netguard::{DialError, Guard, Refusal};
use crate::sinks::outbound::{self, cause};

/// Some servers know a git client by the beginning of its name.
const USER_AGENT: &str = concat!("git/2.0 (kollect ", env!("CARGO_PKG_VERSION"), ")");

/// Builds the client. Reads the authorities of the system from disk.
pub(super) fn build(guard: Guard, tls: &TlsConfig) -> Result<Client, GitError> {
    let client = outbound::client(guard, tls).map_err(GitError::Tls)?;
    client.user_agent(USER_AGENT).pool_max_idle_per_host(1).build().map_err(GitError::Client)
}

/// Sorts an error of the client by its cause.
pub(super) fn sort(doing: String, error: reqwest::Error) -> GitError {
    if let Some(DialError::Refused(refusal)) = cause::<DialError>(&error) {
        return refused(refusal.clone());
    }
    if let Some(source) = cause::<rustls::Error>(&error).cloned() {
        return GitError::Handshake { doing, source };
    }
    // The address may be one that a server chose.
    GitError::Http { doing, source: error.without_url() }
}

pub(super) fn refused(refusal: Refusal) -> GitError {
    GitError::Dial(DialError::Refused(refusal))
}
