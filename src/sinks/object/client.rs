//! The HTTP under the client of a store: through the dial guard, with the certificates of the sink, with a deadline, and
//! with refusals in a form that has a class.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::{Body, Client};
use tokio::time::timeout;

use super::error::{Answer, ObjectError};
use crate::sinks::TlsConfig;
use crate::sinks::netguard::{DialError, Guard};
use crate::sinks::outbound::{self, cause};

/// One request with its answer: enough for one piece over a slow line.
const REQUEST_LIMIT: Duration = Duration::from_mins(2);
/// The longest answer: a list of 1,000 keys of 1 KB has less.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Makes the HTTP clients of one sink.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    guard: Guard,
    client: Client,
}

/// What stood in the way of an answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Obstacle {
    #[error(transparent)]
    Dial(Arc<DialError>),
    #[error("{0}")]
    Http(Arc<reqwest::Error>),
    #[error("the answer is longer than expected")]
    Long,
    #[error("no answer in time")]
    Late,
    #[error("{0}")]
    Answer(Answer),
}

impl Connector {
    /// Builds a client. Reads the authorities of the system from disk.
    pub(super) fn new(guard: Guard, tls: &TlsConfig) -> Result<Self, ObjectError> {
        let client = outbound::client(guard, tls).map_err(ObjectError::Tls)?;
        let client = client.user_agent(concat!("kollect/", env!("CARGO_PKG_VERSION")));
        let client = client.build().map_err(ObjectError::Client)?;
        Ok(Self { guard, client })
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, Obstacle> {
        let (parts, body) = request.into_parts();
        // A numeric host is never resolved, so that the resolver does not see it.
        let literal = self.guard.check_literal(parts.uri.host().unwrap_or_default());
        literal.map_err(|refusal| Obstacle::Dial(Arc::new(DialError::Refused(refusal))))?;
        let request = self.client.request(parts.method, parts.uri.to_string()).headers(parts.headers);
        let response = request.body(Body::wrap(body)).send().await.map_err(sort)?;
        let (parts, body) = http::Response::<Body>::from(response).into_parts();
        let body = match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => match error.downcast::<reqwest::Error>() {
                Ok(error) => return Err(sort(*error)),
                Err(_) => return Err(Obstacle::Long),
            },
        };
        if is_refusal(parts.status, &body) {
            let region = parts.headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
            return Err(Obstacle::Answer(Answer::read(parts.status, region.map(str::to_owned), &body)));
        }
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(Full::new(body).map_err(|never| match never {}))))
    }
}

/// Tells whether an answer ends what was asked for. What the client of the store understands by itself does not: an
/// object that is not there, or not as a condition says.
fn is_refusal(status: StatusCode, body: &[u8]) -> bool {
    match status {
        StatusCode::NOT_FOUND => !matches!(Answer::read(status, None, body).code.as_str(), "" | "NoSuchKey"),
        StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => false,
        status => !status.is_success(),
    }
}

impl HttpService for Connector {
    fn call<'a, 'f>(&'a self, request: HttpRequest) -> BoxFuture<'f, Result<HttpResponse, HttpError>>
    where
        'a: 'f,
        Self: 'f,
    {
        async move {
            let outcome = timeout(REQUEST_LIMIT, self.exchange(request)).await.unwrap_or(Err(Obstacle::Late));
            // The kind decides about retries, of which there are none.
            outcome.map_err(|obstacle| HttpError::new(HttpErrorKind::Unknown, obstacle))
        }
        .boxed()
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

fn sort(error: reqwest::Error) -> Obstacle {
    if let Some(DialError::Refused(refusal)) = cause::<DialError>(&error) {
        return Obstacle::Dial(Arc::new(DialError::Refused(refusal.clone())));
    }
    // The address has the signature of a request where it is in the query.
    Obstacle::Http(Arc::new(error.without_url()))
}

/// Says what went wrong, from what the client of the store makes of it.
pub(super) fn explain(doing: &str, error: object_store::Error) -> ObjectError {
    let doing = doing.to_owned();
    match cause::<Obstacle>(&error).cloned() {
        Some(Obstacle::Dial(source)) => ObjectError::Dial { doing, source },
        Some(Obstacle::Http(source)) => match cause::<rustls::Error>(&*source).cloned() {
            Some(source) => ObjectError::Handshake { doing, source },
            None => ObjectError::Http { doing, source },
        },
        Some(Obstacle::Late) => ObjectError::Late { doing, after: REQUEST_LIMIT },
        Some(Obstacle::Answer(answer)) => ObjectError::Answer { doing, answer },
        Some(Obstacle::Long) | None => ObjectError::Store { doing, source: Box::new(error) },
    }
}
