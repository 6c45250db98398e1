//! The driver's view of the API server: two calls that return a stream of bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use kube::client::Body;

use crate::error::{Class, Classify};
use crate::metrics::{Metrics, Verb};
use crate::model::Namespace;
use crate::watch::discover::Resource;

/// A server encodes a list while it sends it from this minor version on; older ones are asked for pages.
const STREAMS_LISTS_SINCE: u32 = 33;
/// Items of one page from an older server.
const PAGE: u32 = 500;
/// No byte of a list for so long is a failure.
const LIST_IDLE: Duration = Duration::from_mins(1);
/// The server ends a watch after this; bookmarks come about once a minute.
const WATCH_SECONDS: u64 = 290;
/// No byte of a watch for so long, its planned end included, is a failure.
const WATCH_IDLE: Duration = Duration::from_secs(WATCH_SECONDS + 30);
/// The longest error reply that is read.
const MAX_STATUS: usize = 64 * 1024;

/// A reply as it arrives.
pub(super) type Reply = BoxStream<'static, Result<Bytes, ApiError>>;

/// What of a resource to list or to watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) resource: Arc<Resource>,
    /// One namespace, or all.
    pub(super) namespace: Option<Namespace>,
    /// Labels that the objects have, as the server reads them; empty for any.
    pub(super) selector: Arc<str>,
}

impl Extent {
    /// Returns what it covers, whatever the labels.
    pub(super) fn place(&self) -> (&Resource, Option<&Namespace>) {
        (&self.resource, self.namespace.as_ref())
    }

    /// Returns the query that asks for its labels, behind these parameters.
    fn query(&self, parameters: &str) -> String {
        match (parameters, &*self.selector) {
            ("", "") => String::new(),
            (_, "") => format!("?{parameters}"),
            ("", selector) => format!("?labelSelector={}", encoded(selector)),
            (_, selector) => format!("?{parameters}&labelSelector={}", encoded(selector)),
        }
    }
}

/// Writes text as the value of a query parameter.
fn encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            other => {
                encoded.push('%');
                encoded.extend([other >> 4, other & 15].map(|digit| char::from(HEX[usize::from(digit)])));
            }
        }
    }
    encoded
}

/// How much of a list to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page<'a> {
    /// From the start: all of it, or the first page from an older server.
    First,
    /// The page behind this token.
    Next(&'a str),
    /// All of it, from any server.
    Whole,
    /// One object: whether it is permitted.
    Probe,
}

/// Lists and watches. The real one talks to a server; tests script it.
pub(super) trait Api: Send + Sync {
    /// Starts a consistent list.
    fn list<'a>(&'a self, extent: &'a Extent, page: Page<'a>) -> BoxFuture<'a, Result<Reply, ApiError>>;

    /// Starts a watch after `version`.
    fn watch<'a>(&'a self, extent: &'a Extent, version: &'a str) -> BoxFuture<'a, Result<Reply, ApiError>>;
}

/// A failed list or watch.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("API server answered {code}: {message}")]
    Status { code: u16, message: String },
    #[error("no byte from the API server for {} s", .0.as_secs())]
    Idle(Duration),
    #[error("connection to the API server failed")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("unreadable reply of the API server")]
    Reply(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ApiError {
    /// Tells whether the version to watch from is too old.
    pub(super) fn expired(&self) -> bool {
        matches!(self, Self::Status { code: 410, .. })
    }

    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Idle(_) | Self::Connection(_) | Self::Reply(_) => None,
        }
    }
}

impl Classify for ApiError {
    fn class(&self) -> Class {
        match self {
            Self::Status { code: 401 | 403, .. } => Class::Forbidden,
            Self::Status { .. } | Self::Idle(_) | Self::Connection(_) | Self::Reply(_) => Class::Transient,
        }
    }
}

/// The same API server over connections of their own for lists.
///
/// A connection keeps the room that its longest reply took, some 400 KiB for a list; a watch that was opened on it would
/// keep it for as long as it runs.
#[derive(Clone)]
pub struct Clients {
    /// For lists.
    pub lists: kube::Client,
    /// For everything else.
    pub others: kube::Client,
}

/// The API server behind [`Clients`].
#[derive(Clone)]
pub(super) struct KubeApi {
    clients: Clients,
    metrics: Arc<Metrics>,
    paged: bool,
}

impl KubeApi {
    /// Takes the server's minor version to choose between one list and pages.
    pub(super) fn new(clients: Clients, metrics: Arc<Metrics>, minor: u32) -> Self {
        Self { clients, metrics, paged: minor < STREAMS_LISTS_SINCE }
    }

    async fn get(&self, verb: Verb, extent: &Extent, query: &str, idle: Duration) -> Result<Reply, ApiError> {
        let resource = &extent.resource;
        let uri = format!("{}{query}", resource.path(extent.namespace.as_ref()));
        let request = http::Request::get(uri)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| ApiError::Reply(error.into()))?;
        let client = match verb {
            Verb::List => &self.clients.lists,
            _ => &self.clients.others,
        };
        let response = tokio::time::timeout(idle, client.send(request))
            .await
            .map_err(|_| ApiError::Idle(idle))?
            .map_err(|error| ApiError::Connection(error.into()));
        let code = response.as_ref().ok().map(|response| response.status().as_u16());
        self.metrics.api_request(verb, &resource.plural, code);
        let response = response?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let body = response.into_body().into_data_stream().map_err(|error| ApiError::Connection(error.into()));
        Ok(with_idle_limit(body.boxed(), idle))
    }
}

impl Api for KubeApi {
    fn list<'a>(&'a self, extent: &'a Extent, page: Page<'a>) -> BoxFuture<'a, Result<Reply, ApiError>> {
        let page = match page {
            Page::First if self.paged => format!("limit={PAGE}"),
            Page::First | Page::Whole => String::new(),
            Page::Next(token) => format!("limit={PAGE}&continue={token}"),
            Page::Probe => "limit=1".to_owned(),
        };
        let query = extent.query(&page);
        Box::pin(async move { self.get(Verb::List, extent, &query, LIST_IDLE).await })
    }

    fn watch<'a>(&'a self, extent: &'a Extent, version: &'a str) -> BoxFuture<'a, Result<Reply, ApiError>> {
        let query = extent.query(&format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
        ));
        Box::pin(async move { self.get(Verb::Watch, extent, &query, WATCH_IDLE).await })
    }
}

/// Reads the message of an error reply.
async fn refusal(response: http::Response<Body>) -> ApiError {
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), MAX_STATUS);
    let text = match tokio::time::timeout(LIST_IDLE, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    };
    let message = serde_json::from_slice::<kube::core::Status>(&text)
        .map_or_else(|_| String::from_utf8_lossy(&text).trim().to_owned(), |status| status.message);
    ApiError::Status { code, message }
}

fn with_idle_limit(body: Reply, idle: Duration) -> Reply {
    futures::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(idle, body.next()).await {
            Ok(Some(chunk)) => Some((chunk, Some(body))),
            Ok(None) => None,
            Err(_) => Some((Err(ApiError::Idle(idle)), None)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::discover::Scope;

    #[test]
    fn a_selector_stands_behind_whatever_else_is_asked() {
        let resource =
            Resource { group: "".into(), version: "v1".into(), plural: "pods".into(), scope: Scope::Namespaced };
        let query = |selector: &str, parameters: &str| {
            let extent = Extent { resource: Arc::new(resource.clone()), namespace: None, selector: selector.into() };
            extent.query(parameters)
        };
        assert_eq!(query("", ""), "");
        assert_eq!(query("", "limit=1"), "?limit=1");
        assert_eq!(query("app=web", ""), "?labelSelector=app%3Dweb");
        assert_eq!(query("app=web", "limit=1"), "?limit=1&labelSelector=app%3Dweb");
    }

    #[test]
    fn a_selector_survives_the_way_into_a_url() {
        assert_eq!(encoded("app=web,tier notin (x,y),!a.b/c"), "app%3Dweb%2Ctier%20notin%20%28x%2Cy%29%2C%21a.b%2Fc");
    }
}
