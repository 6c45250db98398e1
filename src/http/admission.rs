//! The validating webhooks: an `AdmissionReview` in, a verdict out.
//!
//! Every replica answers, the active one and those that stand by. What a review needs of other objects is asked of the API
//! server at that moment, so that nothing is judged by what was: a manifest that was applied a moment before counts. A
//! review that cannot look something up is a refusal, for a scope that nobody can read must not open what it closes.
//!
//! Bodies, reviews at the same time and the time of each are limited; one that comes too late is refused by the API server.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::lookup::{Lookup, LookupError};
use crate::admission::{self, Decision, Review, Settings};
use crate::api::v1alpha1::Kind;
use crate::error::chain;
use crate::metrics::Metrics;
use crate::model::{Name, Namespace, ObjectKey};

pub mod certificate;
mod lookup;

/// The longest body: an object and what it was, each as large as an API server stores, with some room.
const MAX_BODY_BYTES: usize = 4 << 20;
/// Reviews at the same time; others wait within their deadline.
const REVIEWS: usize = 8;
/// One review, its body and its turn included: less than the 10 s for which the API server waits.
const DEADLINE: Duration = Duration::from_secs(8);

/// What the API server sends, as far as it is read.
#[derive(Debug, Deserialize)]
struct AdmissionReview {
    request: AdmissionRequest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionRequest {
    uid: String,
    operation: String,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

/// Answers reviews.
pub struct Reviewer {
    lookup: Lookup,
    settings: Settings,
    turns: Semaphore,
}

impl Reviewer {
    /// Makes a reviewer that asks through this client.
    pub fn new(client: kube::Client, settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { lookup: Lookup::new(client, metrics), settings, turns: Semaphore::new(REVIEWS) })
    }

    async fn answer(&self, kind: Kind, body: Body) -> Response {
        // The deadline covers a body that does not come and a turn that does not either.
        match timeout(DEADLINE, self.review(kind, body)).await {
            Ok(response) => response,
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the review took too long").into_response(),
        }
    }

    async fn review(&self, kind: Kind, body: Body) -> Response {
        let Ok(_turn) = self.turns.acquire().await else {
            return (StatusCode::SERVICE_UNAVAILABLE, "stopping").into_response();
        };
        let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
            return (StatusCode::PAYLOAD_TOO_LARGE, "the review is too large, or was cut off").into_response();
        };
        match serde_json::from_slice::<AdmissionReview>(&body) {
            Ok(AdmissionReview { request }) => {
                let uid = request.uid.clone();
                verdict(&uid, self.decide(kind, request).await)
            }
            Err(error) => (StatusCode::BAD_REQUEST, format!("not an AdmissionReview: {error}")).into_response(),
        }
    }

    async fn decide(&self, kind: Kind, request: AdmissionRequest) -> Result<Decision, LookupError> {
        // Nothing else is asked for; whoever asks all the same is not held up.
        if !matches!(request.operation.as_str(), "CREATE" | "UPDATE") || !request.sub_resource.is_empty() {
            return Ok(Decision::Allowed(Vec::new()));
        }
        let key = ObjectKey::new(Namespace::new(request.namespace.as_str()), Name::new(request.name.as_str()));
        let old = Some(request.old_object).filter(|old| !old.is_null());
        let review = Review { kind, key: &key, object: &request.object, old: old.as_ref() };
        let around = match self.lookup.find(&admission::needs(&review, &self.settings)).await {
            Ok(around) => around,
            Err(LookupError::Denied(said)) => return Ok(Decision::Refused(admission::refusal(&review, &said))),
            Err(error) => return Err(error),
        };
        let (settings, object) = (self.settings, request.object);
        let decided = tokio::task::spawn_blocking(move || {
            let review = Review { kind, key: &key, object: &object, old: old.as_ref() };
            admission::review(&review, &settings, &around)
        });
        decided.await.map_err(LookupError::Panic)
    }
}

/// Returns the path of the webhook of a kind.
pub fn path(kind: Kind) -> String {
    format!("/validate-kollect-dev-v1alpha1-{}", kind.as_str().to_lowercase())
}

/// Returns one route for each kind.
pub fn router(reviewer: &Arc<Reviewer>) -> Router {
    Kind::ALL.into_iter().fold(Router::new(), |router, kind| {
        let reviewer = reviewer.clone();
        router.route(
            &path(kind),
            post(move |request: Request| async move { reviewer.answer(kind, request.into_body()).await }),
        )
    })
}

/// Writes the answer to a review.
fn verdict(uid: &str, decision: Result<Decision, LookupError>) -> Response {
    let refuse = |code: u16, reason: &str, message: String| {
        let status = json!({"code": code, "reason": reason, "message": message});
        json!({"uid": uid, "allowed": false, "status": status})
    };
    let response = match decision {
        Ok(Decision::Allowed(warnings)) if warnings.is_empty() => json!({"uid": uid, "allowed": true}),
        Ok(Decision::Allowed(warnings)) => json!({"uid": uid, "allowed": true, "warnings": warnings}),
        Ok(Decision::Refused(message)) => refuse(403, "Forbidden", message),
        Err(error) => {
            tracing::warn!(error = chain(&error), "admission review failed");
            refuse(500, "InternalError", chain(&error))
        }
    };
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    ([(header::CONTENT_TYPE, "application/json")], review.to_string()).into_response()
}

#[cfg(test)]
mod tests;
