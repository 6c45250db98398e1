//! HTTP to a destination: through the dial guard, with the certificates of the sink, and to no other place.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, redirect};
use tokio::time::Instant;

use super::TlsConfig;
use super::netguard::{DIAL_BUDGET, Guard};
use super::tls::{Roots, TlsError, Verify, client_config};

/// An idle connection is closed after this; long enough for the fetch and the push of one round.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Begins a client that follows no redirect, tries nothing again and asks no proxy. Reads the authorities of the system
/// from disk. A numeric host is never resolved, so that the caller has to show it to the guard.
pub(super) fn client(guard: Guard, tls: &TlsConfig) -> Result<ClientBuilder, TlsError> {
    let verify = if tls.insecure_skip_verify { Verify::Nothing } else { Verify::Full };
    let tls = client_config(verify, tls, Roots::Given, &[b"http/1.1"])?;
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Guarded(guard))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .connect_timeout(DIAL_BUDGET)
        .pool_idle_timeout(IDLE_LIMIT))
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

/// Finds the first cause of a type. An [`io::Error`] leaves out of its causes the error that it wraps.
pub(super) fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
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
