//! `/healthz` and `/readyz`.
//!
//! Liveness is a ping: neither an API server nor a sink that is away gets the process killed. Readiness says that the
//! process is configured, has the certificate of its webhooks and does its work; it does not wait for collected lists, which
//! may take minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

/// Whether the process is ready; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    working: AtomicBool,
    awaits_certificate: AtomicBool,
}

impl Readiness {
    /// Starts as not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that configuration is loaded and the work has begun.
    pub fn ready(&self) {
        self.0.working.store(true, Ordering::Relaxed);
    }

    /// Says that the webhooks have no certificate yet that the API server believes.
    pub fn awaits_certificate(&self) {
        self.0.awaits_certificate.store(true, Ordering::Relaxed);
    }

    /// Says that they have one.
    pub fn certificate_loaded(&self) {
        self.0.awaits_certificate.store(false, Ordering::Relaxed);
    }

    /// Says that the process is on its way out.
    pub fn stopping(&self) {
        self.0.working.store(false, Ordering::Relaxed);
    }

    fn probe(&self) -> (StatusCode, &'static str) {
        if !self.0.working.load(Ordering::Relaxed) {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or stopping")
        } else if self.0.awaits_certificate.load(Ordering::Relaxed) {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: the webhooks have no certificate, see the log")
        } else {
            (StatusCode::OK, "ok")
        }
    }
}

/// Returns the routes, each also under the doubled path that earlier releases had.
pub fn router(readiness: Readiness) -> Router {
    let alive = || async { "ok" };
    let ready = move || async move { readiness.probe() };
    Router::new()
        .route("/healthz", get(alive))
        .route("/healthz/healthz", get(alive))
        .route("/readyz", get(ready.clone()))
        .route("/readyz/readyz", get(ready))
}
