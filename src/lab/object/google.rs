//! What fake-gcs-server lacks of Google's XML protocol, in front of it: an upload without a signature, its answer in
//! headers, and the condition that an object has a generation.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderName, Method, StatusCode, header};
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The largest object that passes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
const GENERATION: HeaderName = HeaderName::from_static("x-goog-generation");
const IF_GENERATION: HeaderName = HeaderName::from_static("x-goog-if-generation-match");

/// A running front. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Front {
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Server {
    http: Client,
    port: u16,
}

impl Front {
    /// Stands on one port in front of another one.
    pub(super) async fn start(http: Client, port: u16, server: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("failed to open the front")?;
        let app = Router::new().fallback(pass).with_state(Arc::new(Server { http, port: server }));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = axum::serve(listener, app).await; // whoever asks finds nobody there
        });
        Ok(Self { _tasks: tasks })
    }
}

async fn pass(State(server): State<Arc<Server>>, request: Request) -> Response {
    server.answer(request).await.unwrap_or_else(|error| {
        let mut response = Response::new(Body::from(format!("{error:#}")));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}

impl Server {
    async fn answer(&self, request: Request) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BYTES).await?;
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let own = path.starts_with("/storage/") || path.starts_with("/upload/") || path.starts_with("/_internal/");
        let put = parts.method == Method::PUT && !own;
        if put && let Some(wanted) = parts.headers.get(&IF_GENERATION) {
            let head = self.http.head(&url).send().await?;
            let there = head.headers().get(&GENERATION).filter(|_| head.status().is_success());
            if there.map_or(b"0".as_slice(), |there| there.as_bytes()) != wanted.as_bytes() {
                return Ok(Response::builder().status(StatusCode::PRECONDITION_FAILED).body(Body::empty())?);
            }
        }
        // The query of a signature, which nobody checks, makes it an upload.
        let url = if put { format!("{url}?X-Goog-Algorithm=none") } else { url };
        let mut headers = parts.headers;
        headers.remove(header::HOST);
        let answer = self.http.request(parts.method, url).headers(headers).body(body).send().await?;
        let (status, headers, content) = (answer.status(), answer.headers().clone(), answer.bytes().await?);
        let mut response = Response::builder().status(status);
        if put && status.is_success() {
            let said: serde_json::Value = serde_json::from_slice(&content)?;
            let text = |field: &str| said[field].as_str().with_context(|| format!("the answer has no {field}"));
            response = response.header(header::ETAG, format!("{:?}", text("etag")?));
            response = response.header(GENERATION, text("generation")?);
            return Ok(response.body(Body::empty())?);
        }
        for (name, value) in &headers {
            if *name != header::TRANSFER_ENCODING && *name != header::CONNECTION {
                response = response.header(name, value);
            }
        }
        Ok(response.body(Body::from(content))?)
    }
}
