//! The validating webhooks: an `AdmissionReview` in, a verdict out.
//!
//! Every replica answers, the active one and those that stand by. What a review needs of other objects is asked of the API
//! server at that moment, so that nothing is judged by what was: a manifest that was applied a moment before counts. A
//! review that cannot look something up is a refusal, for a scope that nobody can read must not open what it closes.
//!
//! Bodies, reviews at the same time and the time of each are limited. Whoever finds no place, or takes too long, gets an
//! error of HTTP and no verdict: what becomes of the object is then for the `failurePolicy` of the registration to say.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

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
/// Reviews at the same time; one takes milliseconds, unless the API server is slow to answer its questions.
const REVIEWS: usize = 8;
/// So long another one waits for its turn. Then it is told that there is none, while the API server still listens.
const TURN: Duration = Duration::from_secs(2);
/// So long a body may take: the API server has all of it before it calls.
const BODY: Duration = Duration::from_secs(2);
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
    metrics: Arc<Metrics>,
    turns: Arc<Semaphore>,
}

impl Reviewer {
    /// Makes a reviewer that asks through this client.
    pub fn new(client: kube::Client, settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        for kind in Kind::ALL {
            metrics.reviews(&path(kind));
        }
        let (lookup, turns) = (Lookup::new(client, metrics.clone()), Arc::new(Semaphore::new(REVIEWS)));
        Arc::new(Self { lookup, settings, metrics, turns })
    }

    async fn answer(&self, kind: Kind, body: Body) -> Response {
        let started = Instant::now();
        let response = match timeout(DEADLINE, self.review(kind, body)).await {
            Ok(response) => response,
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the review took too long, try again").into_response(),
        };
        self.metrics.reviewed(&path(kind), response.status().as_u16(), started.elapsed());
        response
    }

    async fn review(&self, kind: Kind, body: Body) -> Response {
        let Ok(Ok(turn)) = timeout(TURN, self.turns.clone().acquire_owned()).await else {
            let busy = format!("{REVIEWS} other reviews are under way, try again in a moment");
            return (StatusCode::SERVICE_UNAVAILABLE, busy).into_response();
        };
        let body = match timeout(BODY, to_bytes(body, MAX_BODY_BYTES)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                return (StatusCode::PAYLOAD_TOO_LARGE, "the review is too large, or was cut off").into_response();
            }
            Err(_) => return (StatusCode::REQUEST_TIMEOUT, "the review did not arrive in time").into_response(),
        };
        match serde_json::from_slice::<AdmissionReview>(&body) {
            Ok(AdmissionReview { request }) => {
                let uid = request.uid.clone();
                verdict(&uid, self.decide(kind, request, turn).await)
            }
            Err(error) => (StatusCode::BAD_REQUEST, format!("not an AdmissionReview: {error}")).into_response(),
        }
    }

    async fn decide(
        &self,
        kind: Kind,
        request: AdmissionRequest,
        turn: OwnedSemaphorePermit,
    ) -> Result<Decision, LookupError> {
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
            // Whether or not anybody waits for it: what is being compiled takes a place until it is done.
            let _turn = turn;
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
