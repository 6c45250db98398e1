//! Who may read `/metrics`: the API server decides.
//!
//! A bearer token goes into a `TokenReview`, and whoever it belongs to into a `SubjectAccessReview` for the verb `get` on
//! the path. Decisions, good and bad ones, are remembered for a minute by the SHA-256 of the token, so that a scrape costs
//! the API server nothing; an API server that does not answer is no decision. Clients learn nothing of its errors.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::error::chain;
use crate::metrics::{Cached, Metrics, Queue, Reading, Sizes, Verb};

/// How long a decision holds.
const HOLDS: Duration = Duration::from_mins(1);
/// Decisions that are remembered; one more drops the oldest.
const DECISIONS: usize = 1024;
/// Questions to the API server at the same time; others wait within their deadline.
const QUESTIONS: usize = 4;
/// Both answers of the API server, the wait for a turn included: less than the 10 s of a scrape.
const DEADLINE: Duration = Duration::from_secs(8);
/// Plurals of what is asked, for metrics and errors.
const TOKEN_REVIEWS: &str = "tokenreviews";
const ACCESS_REVIEWS: &str = "subjectaccessreviews";

/// Lets those read a path whom the API server permits it.
pub struct Gate {
    judge: Box<dyn Judge>,
    path: &'static str,
    metrics: Arc<Metrics>,
    decisions: Mutex<Decisions>,
    turns: Semaphore,
    /// The last question was answered.
    answered: AtomicBool,
}

/// Decides on a token. The real one is the API server; tests script it.
trait Judge: Send + Sync {
    /// Tells whether the owner of the token may get the path.
    fn judge<'a>(&'a self, token: &'a str, path: &'a str) -> BoxFuture<'a, Result<Decision, ReviewError>>;
}

/// What the API server said of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Allowed,
    Denied,
    /// It belongs to nobody.
    Unknown,
}

/// Why somebody is sent away; the text is all that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No credentials.
    #[error("missing Authorization header")]
    NoHeader,
    /// Credentials of another kind.
    #[error("expected Bearer token")]
    NotBearer,
    /// `Bearer` and nothing else.
    #[error("empty bearer token")]
    NoToken,
    /// A token of nobody.
    #[error("unauthorized")]
    Unauthorized,
    /// A token of somebody who may not.
    #[error("forbidden")]
    Forbidden,
    /// The API server does not answer.
    #[error("authorization is not available at the moment")]
    Unavailable,
    /// The API server refuses to answer us.
    #[error("authorization check failed")]
    Failed,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoHeader | Self::NotBearer | Self::NoToken | Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = (status, self.to_string()).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// No decision.
#[derive(Debug, thiserror::Error)]
enum ReviewError {
    #[error("failed to create {what}")]
    Refused {
        what: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("no answer of the API server within {} s", DEADLINE.as_secs())]
    Silent,
}

impl ReviewError {
    fn refusal(&self) -> Refusal {
        match self {
            // Rights that the operator lacks: nothing that waiting would mend.
            Self::Refused { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code < 429) => {
                Refusal::Failed
            }
            Self::Refused { .. } | Self::Silent => Refusal::Unavailable,
        }
    }
}

impl Gate {
    /// Makes a gate before a path.
    pub fn new(client: kube::Client, path: &'static str, metrics: Arc<Metrics>) -> Arc<Self> {
        let reviews = Reviews { client, metrics: metrics.clone() };
        Self::with_judge(Box::new(reviews), path, metrics)
    }

    fn with_judge(judge: Box<dyn Judge>, path: &'static str, metrics: Arc<Metrics>) -> Arc<Self> {
        let gate = Arc::new(Self {
            judge,
            path,
            metrics,
            decisions: Mutex::default(),
            turns: Semaphore::new(QUESTIONS),
            answered: AtomicBool::new(true),
        });
        gate.metrics.read_from(&gate);
        gate
    }

    /// Returns whether a request with these headers may pass.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.decide(bearer(headers)?).await? {
            Decision::Allowed => Ok(()),
            Decision::Denied => Err(Refusal::Forbidden),
            Decision::Unknown => Err(Refusal::Unauthorized),
        }
    }

    async fn decide(&self, token: &str) -> Result<Decision, Refusal> {
        let key = Sha256::digest(token.as_bytes()).into();
        let known = self.decisions.lock().get(&key, Instant::now());
        self.metrics.access_checked(if known.is_some() { Cached::Hit } else { Cached::Miss });
        if let Some(decision) = known {
            return Ok(decision);
        }
        let asked = async {
            // Never closed, so a turn comes, or the deadline.
            let _turn = self.turns.acquire().await;
            self.judge.judge(token, self.path).await
        };
        match timeout(DEADLINE, asked).await.unwrap_or(Err(ReviewError::Silent)) {
            Ok(decision) => {
                self.decisions.lock().put(key, decision, Instant::now());
                if !self.answered.swap(true, Ordering::Relaxed) {
                    tracing::info!(path = self.path, "access is checked again");
                }
                Ok(decision)
            }
            Err(error) => {
                // Once, and not with every scrape.
                if self.answered.swap(false, Ordering::Relaxed) {
                    tracing::warn!(path = self.path, error = chain(&error), "access cannot be checked, nobody gets in");
                }
                Err(error.refusal())
            }
        }
    }
}

impl Sizes for Gate {
    fn read(&self, reading: &mut Reading) {
        let depth = self.decisions.lock().known.len() as u64;
        reading.queues.push(Queue { name: "metrics_decisions", depth, limit: DECISIONS as u64, bytes: None });
    }
}

/// Takes the token out of the headers.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let header = headers.get(header::AUTHORIZATION).ok_or(Refusal::NoHeader)?;
    let (scheme, token) = match header.to_str().map_err(|_| Refusal::NotBearer)?.split_once(' ') {
        Some((scheme, token)) => (scheme, token.trim()),
        None => (header.to_str().unwrap_or_default(), ""),
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::NotBearer);
    }
    if token.is_empty() { Err(Refusal::NoToken) } else { Ok(token) }
}

/// The SHA-256 of a token: the map is no place to find tokens in.
type TokenDigest = [u8; 32];

/// Decisions of the last minute.
#[derive(Debug, Default)]
struct Decisions {
    known: HashMap<TokenDigest, (Decision, Instant)>,
    /// In the order in which they were made, which is also that in which they end.
    order: VecDeque<TokenDigest>,
}

impl Decisions {
    fn get(&self, token: &TokenDigest, now: Instant) -> Option<Decision> {
        self.known.get(token).filter(|(_, until)| *until > now).map(|(decision, _)| *decision)
    }

    fn put(&mut self, token: TokenDigest, decision: Decision, now: Instant) {
        while let Some(oldest) = self.order.front() {
            let over = self.known.get(oldest).is_none_or(|(_, until)| *until <= now);
            if !over && self.order.len() < DECISIONS {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(token, (decision, now + HOLDS));
        self.order.push_back(token);
    }
}

/// The API server behind a [`kube::Client`].
struct Reviews {
    client: kube::Client,
    metrics: Arc<Metrics>,
}

impl Reviews {
    /// Creates a review and returns it with the server's answer in its status.
    async fn create<K>(&self, what: &'static str, review: &K) -> Result<K, ReviewError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let answer = Api::<K>::all(self.client.clone()).create(&PostParams::default(), review).await;
        let code = match &answer {
            Ok(_) => Some(StatusCode::CREATED.as_u16()),
            Err(kube::Error::Api(status)) => Some(status.code),
            Err(_) => None,
        };
        self.metrics.api_request(Verb::Create, what, code);
        answer.map_err(|source| ReviewError::Refused { what, source: Box::new(source) })
    }
}

impl Judge for Reviews {
    fn judge<'a>(&'a self, token: &'a str, path: &'a str) -> BoxFuture<'a, Result<Decision, ReviewError>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
            let review = self.create(TOKEN_REVIEWS, &TokenReview { spec, ..TokenReview::default() }).await?;
            let owner =
                review.status.filter(|status| status.authenticated == Some(true)).and_then(|status| status.user);
            let Some(owner) = owner else { return Ok(Decision::Unknown) };
            let review = self.create(ACCESS_REVIEWS, &question(owner, path)).await?;
            let allowed = review.status.is_some_and(|status| status.allowed);
            Ok(if allowed { Decision::Allowed } else { Decision::Denied })
        })
    }
}

/// Asks whether somebody may get a path.
fn question(owner: UserInfo, path: &str) -> SubjectAccessReview {
    let what = NonResourceAttributes { path: Some(path.to_owned()), verb: Some("get".to_owned()) };
    let spec = SubjectAccessReviewSpec {
        non_resource_attributes: Some(what),
        user: owner.username,
        groups: owner.groups,
        uid: owner.uid,
        extra: owner.extra,
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::http::HeaderValue;
    use kube::core::Status;

    use super::*;

    /// Answers by what the token says, and counts the questions.
    #[derive(Default)]
    struct Scripted(Arc<AtomicUsize>);

    impl Judge for Scripted {
        fn judge<'a>(&'a self, token: &'a str, _path: &'a str) -> BoxFuture<'a, Result<Decision, ReviewError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let refused = |code| {
                let status = Status { code, message: "secret text of the server".to_owned(), ..Status::default() };
                let source = Box::new(kube::Error::Api(Box::new(status)));
                ReviewError::Refused { what: TOKEN_REVIEWS, source }
            };
            Box::pin(async move {
                match token {
                    "reader" => Ok(Decision::Allowed),
                    "visitor" => Ok(Decision::Denied),
                    "silence" => std::future::pending().await,
                    "no-rights" => Err(refused(403)),
                    "overload" => Err(refused(503)),
                    _ => Ok(Decision::Unknown),
                }
            })
        }
    }

    fn gate() -> (Arc<Gate>, Arc<AtomicUsize>) {
        let judge = Scripted::default();
        let asked = judge.0.clone();
        (Gate::with_judge(Box::new(judge), "/metrics", Arc::new(Metrics::new("dev", "unknown"))), asked)
    }

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_of_the_api_server_has_its_status_and_none_of_its_text() {
        let (gate, _) = gate();
        assert_eq!(gate.admit(&headers("Bearer reader")).await, Ok(()));
        assert_eq!(gate.admit(&HeaderMap::new()).await, Err(Refusal::NoHeader));
        for (authorization, status, text) in [
            ("Basic cmVhZGVy", 401, "expected Bearer token"),
            ("reader", 401, "expected Bearer token"),
            ("Bearer", 401, "empty bearer token"),
            ("bearer  ", 401, "empty bearer token"),
            ("Bearer stranger", 401, "unauthorized"),
            ("Bearer visitor", 403, "forbidden"),
            ("Bearer no-rights", 500, "authorization check failed"),
            ("Bearer overload", 503, "authorization is not available at the moment"),
            ("Bearer silence", 503, "authorization is not available at the moment"),
        ] {
            let refusal = gate.admit(&headers(authorization)).await.unwrap_err();
            assert_eq!(refusal.to_string(), text, "{authorization}");
            let response = refusal.into_response();
            assert_eq!(response.status().as_u16(), status, "{authorization}");
            assert_eq!(response.headers().contains_key(header::WWW_AUTHENTICATE), status == 401, "{authorization}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_decision_holds_for_a_minute_whichever_it_is() {
        let (gate, asked) = gate();
        for token in ["reader", "visitor", "stranger"] {
            let before = asked.load(Ordering::Relaxed);
            let headers = headers(&format!("Bearer {token}"));
            let first = gate.admit(&headers).await;
            tokio::time::advance(HOLDS / 2).await;
            assert_eq!(gate.admit(&headers).await, first);
            assert_eq!(asked.load(Ordering::Relaxed), before + 1, "{token}");
            tokio::time::advance(HOLDS / 2).await;
            assert_eq!(gate.admit(&headers).await, first);
            assert_eq!(asked.load(Ordering::Relaxed), before + 2, "{token}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_decision_is_not_remembered() {
        let (gate, asked) = gate();
        for _ in 0..2 {
            assert_eq!(gate.admit(&headers("Bearer overload")).await, Err(Refusal::Unavailable));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_questions_are_asked_at_once_than_there_are_turns() {
        let (gate, asked) = gate();
        let (silent, reader) = (headers("Bearer silence"), headers("Bearer reader"));
        let crowd = futures::future::join_all((0..QUESTIONS).map(|_| gate.admit(&silent)));
        let late = timeout(DEADLINE / 2, gate.admit(&reader));
        let (_, late) = tokio::join!(crowd, late);
        assert!(late.is_err(), "{late:?}");
        assert_eq!(asked.load(Ordering::Relaxed), QUESTIONS);
        assert_eq!(gate.admit(&reader).await, Ok(()));
    }

    #[test]
    fn no_more_decisions_are_remembered_than_there_is_room_for() {
        let mut decisions = Decisions::default();
        let now = Instant::now();
        let digest = |number: usize| Sha256::digest(number.to_le_bytes()).into();
        for number in 0..DECISIONS + 10 {
            decisions.put(digest(number), Decision::Unknown, now);
        }
        assert_eq!((decisions.known.len(), decisions.order.len()), (DECISIONS, DECISIONS));
        assert_eq!(decisions.get(&digest(9), now), None);
        assert_eq!(decisions.get(&digest(10), now), Some(Decision::Unknown));
        decisions.put(digest(0), Decision::Allowed, now + HOLDS);
        assert_eq!(decisions.known.len(), 1, "what is over goes with the next one");
    }

    #[test]
    fn the_question_names_everything_that_is_known_of_the_owner() {
        let owner: UserInfo = serde_json::from_value(serde_json::json!({
            "username": "u", "uid": "1", "groups": ["g"], "extra": {"pod": ["p"]},
        }))
        .unwrap();
        let asked = serde_json::to_value(question(owner, "/metrics").spec).unwrap();
        let want = serde_json::json!({
            "user": "u", "uid": "1", "groups": ["g"], "extra": {"pod": ["p"]},
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        });
        assert_eq!(asked, want);
    }
}
