//! Servers of our own: probes and profiles in plain HTTP/1.1, metrics and webhooks over TLS.
//!
//! A server is bound first, so that a wrong address stops the start-up with a message, and serves until its token is
//! cancelled. Then it takes no more connections and gives those in hand [`DRAIN`] to end. Requests are read for [`HEAD`] at
//! most, and only those to the webhooks have bodies.

pub mod admission;
pub mod auth;
pub mod health;
pub mod metrics;
pub mod pprof;
mod timely;
pub mod tls;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::timely::Timely;
use crate::config::BindAddress;
use tls::{Places, Serving, TlsError};

/// How long requests in hand may take after the end was called.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);

/// What a server could not do.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is taken, not ours, or not an address.
    #[error("failed to listen on {address} (--{flag})")]
    Bind {
        /// The flag that named the address.
        flag: &'static str,
        /// The address.
        address: BindAddress,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The serving pair cannot be used.
    #[error("failed to load the serving certificate (--{flag})")]
    Certificate {
        /// The flag that named the directory.
        flag: &'static str,
        /// What is wrong with it.
        #[source]
        source: TlsError,
    },
    /// Accepting connections failed for good.
    #[error("failed to serve on {address}")]
    Serve {
        /// The address in use.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A server that holds its address and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    tls: Option<(Serving, Arc<Places>)>,
}

impl Server {
    /// Takes the address that `flag` names.
    ///
    /// An empty host is all interfaces, of IPv6 and IPv4 where the system has both.
    pub async fn bind(flag: &'static str, address: &BindAddress, router: Router) -> Result<Self, HttpError> {
        let wrong = |source| HttpError::Bind { flag, address: address.clone(), source };
        let listener = listen(address).await.map_err(wrong)?;
        let local = listener.local_addr().map_err(wrong)?;
        Ok(Self { listener, address: local, router, tls: None })
    }

    /// Speaks TLS with this pair and nothing else, on so many connections.
    #[must_use]
    pub fn over_tls(self, serving: Serving, places: Arc<Places>) -> Self {
        Self { tls: Some((serving, places)), ..self }
    }

    /// Returns the address in use: with port 0 asked for, the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), HttpError> {
        let Self { listener, address, router, tls } = self;
        let served = match tls {
            None => answer(Timely::new(listener, HEAD), router, &stop).await,
            Some((serving, places)) => {
                let listener = serving.listen(listener, &places);
                tokio::select! {
                    served = answer(listener, router, &stop) => served,
                    never = serving.renew() => match never {},
                }
            }
        };
        served.map_err(|source| HttpError::Serve { address, source })
    }
}

/// Answers until `stop` is cancelled, and a little longer for those in hand.
async fn answer<L>(listener: L, router: Router, stop: &CancellationToken) -> io::Result<()>
where
    L: Listener<Addr = SocketAddr>,
{
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let deadline = async {
        stop.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving.into_future() => served,
        // Whoever still talks to us is cut off.
        () = deadline => Ok(()),
    }
}

async fn listen(address: &BindAddress) -> io::Result<TcpListener> {
    if !address.host.is_empty() {
        return TcpListener::bind((address.host.as_str(), address.port)).await;
    }
    match TcpListener::bind(("::", address.port)).await {
        // A system without IPv6.
        Err(error) if matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port)).await
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
