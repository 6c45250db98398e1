//! The HTTP client of one destination, and what its errors mean.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, redirect};
use tokio::time::Instant;

use super::super::super::error::GitError;
use crate::sinks::TlsConfig;
use crate::sinks::netguard::{DIAL_BUDGET, DialError, Guard, Refusal};
use crate::sinks::tls::{Roots, Verify, client_config};

/// An idle connection is closed after this; long enough for the fetch and the push of one round.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Some servers know a git client by the beginning of its name.
const USER_AGENT: &str = concat!("git/2.0 (kollect ", env!("CARGO_PKG_VERSION"), ")");

/// Builds the client. Reads the authorities of the system from disk.
pub(super) fn build(guard: Guard, tls: &TlsConfig) -> Result<Client, GitError> {
    let verify = if tls.insecure_skip_verify { Verify::Nothing } else { Verify::Full };
    let tls = client_config(verify, tls, Roots::Given, &[b"http/1.1"]).map_err(GitError::Tls)?;
    Client::builder()
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(tls)
        .dns_resolver(Guarded(guard))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .connect_timeout(DIAL_BUDGET)
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(1)
        .build()
        .map_err(GitError::Client)
}

/// Resolves names to addresses that the guard has checked, and connections go to no others.
#[derive(Debug)]
struct Guarded(Guard);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0;
        Box::pin(async move {
            // The client puts the port of the address in the place of 0.
            let addresses = guard.resolve(name.as_str(), 0, Instant::now() + DIAL_BUDGET).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
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

/// Finds the first cause of a type. An [`io::Error`] leaves out of its causes the error that it wraps.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}
