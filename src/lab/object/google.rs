//! What fake-gcs-server lacks of Google's XML protocol, in front of it: an upload without a signature, its answer in
//! headers, the condition that an object has a generation, and uploads in parts, which are held here until they are
//! complete.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use parking_lot::Mutex;
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The largest object that passes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What all parts of an upload but the last have at least.
const MIN_PART_BYTES: usize = 5 * 1024 * 1024;
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
    uploads: Mutex<HashMap<String, Upload>>,
    begun: AtomicU64,
}

/// An upload that is not complete.
#[derive(Debug)]
struct Upload {
    path: String,
    headers: HeaderMap,
    parts: BTreeMap<u32, Bytes>,
}

impl Front {
    /// Stands on one port in front of another one.
    pub(super) async fn start(http: Client, port: u16, server: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("failed to open the front")?;
        let app = Router::new().fallback(pass).with_state(Arc::new(Server {
            http,
            port: server,
            uploads: Mutex::default(),
            begun: AtomicU64::default(),
        }));
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
        let path = parts.uri.path();
        let own = path.starts_with("/storage/") || path.starts_with("/upload/") || path.starts_with("/_internal/");
        if own {
            return self.pass(parts, body).await;
        }
        let query: HashMap<&str, &str> =
            parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        match (&parts.method, query.get("uploadId"), query.get("partNumber")) {
            (&Method::POST, None, _) if query.contains_key("uploads") => Ok(self.begin(&parts)),
            (&Method::PUT, Some(id), Some(number)) => self.add(id, number.parse()?, body),
            (&Method::POST, Some(id), _) => self.complete(id).await,
            (&Method::DELETE, Some(id), _) => {
                self.uploads.lock().remove(*id);
                Ok(Response::builder().status(StatusCode::NO_CONTENT).body(Body::empty())?)
            }
            (&Method::PUT, ..) => self.put(path, parts.headers.clone(), body).await,
            _ => self.pass(parts, body).await,
        }
    }

    fn begin(&self, parts: &Parts) -> Response {
        let upload =
            Upload { path: parts.uri.path().to_owned(), headers: parts.headers.clone(), parts: BTreeMap::new() };
        let id = format!("upload-{}", self.begun.fetch_add(1, Ordering::Relaxed));
        let said = format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
        self.uploads.lock().insert(id, upload);
        Response::new(Body::from(said))
    }

    fn add(&self, id: &str, number: u32, content: Bytes) -> Result<Response> {
        let mut uploads = self.uploads.lock();
        let upload = uploads.get_mut(id).context("there is no such upload")?;
        upload.parts.insert(number, content);
        Ok(Response::builder().header(header::ETAG, format!("\"{number}\"")).body(Body::empty())?)
    }

    async fn complete(&self, id: &str) -> Result<Response> {
        let upload = self.uploads.lock().remove(id).context("there is no such upload")?;
        let mut sizes = upload.parts.values().rev().skip(1).map(Bytes::len);
        ensure!(sizes.all(|bytes| bytes >= MIN_PART_BYTES), "a part is too small");
        let content: Vec<u8> = upload.parts.into_values().flatten().collect();
        let mut headers = upload.headers;
        headers.remove(header::CONTENT_LENGTH);
        let mut response = self.put(&upload.path, headers, content.into()).await?;
        let tag = response.headers_mut().remove(header::ETAG).context("the answer has no tag")?;
        let tag = tag.to_str()?;
        let said = format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>");
        *response.body_mut() = Body::from(said);
        Ok(response)
    }

    /// Uploads an object if its condition is true.
    async fn put(&self, path: &str, mut headers: HeaderMap, content: Bytes) -> Result<Response> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        if let Some(wanted) = headers.get(&IF_GENERATION) {
            let head = self.http.head(&url).send().await?;
            let there = head.headers().get(&GENERATION).filter(|_| head.status().is_success());
            if there.map_or(b"0".as_slice(), |there| there.as_bytes()) != wanted.as_bytes() {
                return Ok(Response::builder().status(StatusCode::PRECONDITION_FAILED).body(Body::empty())?);
            }
        }
        headers.remove(header::HOST);
        // The query of a signature, which nobody checks, makes it an upload.
        let answer =
            self.http.put(format!("{url}?X-Goog-Algorithm=none")).headers(headers).body(content).send().await?;
        let (status, content) = (answer.status(), answer.bytes().await?);
        if !status.is_success() {
            return Ok(Response::builder().status(status).body(Body::from(content))?);
        }
        let said: serde_json::Value = serde_json::from_slice(&content)?;
        let text = |field: &str| said[field].as_str().with_context(|| format!("the answer has no {field}"));
        let response = Response::builder().status(status).header(header::ETAG, format!("{:?}", text("etag")?));
        Ok(response.header(GENERATION, text("generation")?).body(Body::empty())?)
    }

    /// Asks the server as it is.
    async fn pass(&self, parts: Parts, body: Bytes) -> Result<Response> {
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut headers = parts.headers;
        headers.remove(header::HOST);
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = self.http.request(parts.method, url).headers(headers).body(body).send().await?;
        let (status, headers, content) = (answer.status(), answer.headers().clone(), answer.bytes().await?);
        let mut response = Response::builder().status(status);
        for (name, value) in &headers {
            if *name != header::TRANSFER_ENCODING && *name != header::CONNECTION {
                response = response.header(name, value);
            }
        }
        Ok(response.body(Body::from(content))?)
    }
}
