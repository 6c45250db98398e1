//! `/metrics` for Prometheus: open, or for those alone whom the API server permits it.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::auth::Gate;
use crate::error::chain;
use crate::metrics::Metrics;

/// The path, which is also what a role has to permit.
pub const PATH: &str = "/metrics";
/// The text format that every Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the route without any check, for a listener that only those reach who may read.
pub fn open(metrics: Arc<Metrics>) -> Router {
    Router::new().route(PATH, get(move || async move { page(&metrics) }))
}

/// Returns the route behind a gate.
pub fn guarded(metrics: Arc<Metrics>, gate: Arc<Gate>) -> Router {
    let answer = async move |headers: HeaderMap| match gate.admit(&headers).await {
        Ok(()) => page(&metrics),
        Err(refusal) => refusal.into_response(),
    };
    Router::new().route(PATH, get(answer))
}

fn page(metrics: &Metrics) -> Response {
    match metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, TEXT)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, chain(&error)).into_response(),
    }
}
