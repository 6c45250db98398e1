//! `git http-backend` at work on one request: the common gateway interface, as far as git needs it.
//!
//! Bodies flow both ways while git works. One that comes in chunks of unknown number is passed on until it ends, and a
//! compressed one as it is: git inflates it.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

/// Bytes of an answer that are on their way at once.
const CHUNK: usize = 32 * 1024;

/// Where git finds the repositories and writes what it complains about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) root: &'a Path,
    pub(super) log: &'a Path,
}

/// A running `git http-backend`. One that is dropped hears the end of the request and then ends by itself.
pub(super) struct Backend {
    child: Child,
    output: BufReader<ChildStdout>,
    // Owns the task that carries the request's body.
    feed: JoinSet<()>,
}

impl Backend {
    /// Starts it for a request, of whose body at most `limit` bytes are passed on.
    pub(super) fn start(place: Place<'_>, request: &Parts, user: &str, body: Body, limit: u64) -> Result<Self> {
        let header = |name: HeaderName| request.headers.get(name).and_then(|value| value.to_str().ok());
        let log = File::options().create(true).append(true).open(place.log)?;
        let mut command = Command::from(super::git());
        command
            .arg("http-backend")
            .current_dir(place.root)
            .env("GIT_PROJECT_ROOT", place.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REQUEST_METHOD", request.method.as_str())
            .env("PATH_INFO", request.uri.path())
            .env("QUERY_STRING", request.uri.query().unwrap_or_default())
            .env("SERVER_PROTOCOL", "HTTP/1.1")
            .env("REMOTE_ADDR", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        for (name, value) in [
            ("REMOTE_USER", Some(user).filter(|user| !user.is_empty())),
            ("CONTENT_TYPE", header(header::CONTENT_TYPE)),
            // Absent for a body in chunks: git then reads until the end.
            ("CONTENT_LENGTH", header(header::CONTENT_LENGTH)),
            ("HTTP_CONTENT_ENCODING", header(header::CONTENT_ENCODING)),
            ("GIT_PROTOCOL", header(HeaderName::from_static("git-protocol"))),
        ] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command.spawn().context("failed to start git http-backend")?;
        let input = child.stdin.take().context("git http-backend has no input")?;
        let output = BufReader::new(child.stdout.take().context("git http-backend has no output")?);
        let mut tasks = JoinSet::new();
        tasks.spawn(feed(body, input, limit));
        Ok(Self { child, output, feed: tasks })
    }

    /// Returns its answer, whose body comes as git writes it.
    pub(super) async fn answer(mut self) -> Result<Response<Body>> {
        let mut response = Response::new(Body::empty());
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).await? == 0 {
                // git has died; its log tells why.
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return Ok(response);
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("status") {
                let code = value.split(' ').next().unwrap_or_default();
                *response.status_mut() = code.parse().context("git http-backend answered with an odd status")?;
            } else {
                response.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
            }
        }
        *response.body_mut() = Body::from_stream(stream::unfold(self, next_chunk));
        Ok(response)
    }

    /// Waits until it has done everything that was asked, and throws its answer away.
    pub(super) async fn finish(mut self) -> Result<()> {
        tokio::io::copy(&mut self.output, &mut tokio::io::sink()).await?;
        self.child.wait().await?;
        Ok(())
    }
}

/// Reads what git says next, until it has ended.
async fn next_chunk(mut backend: Backend) -> Option<(std::io::Result<Bytes>, Backend)> {
    let mut chunk = vec![0; CHUNK];
    match backend.output.read(&mut chunk).await {
        Ok(0) => {
            // What it did is on disk by now; how it ended, it has said itself.
            let _ = backend.child.wait().await;
            // A connection that is closed while the client still sends takes the answer along.
            while backend.feed.join_next().await.is_some() {}
            None
        }
        Ok(read) => {
            chunk.truncate(read);
            Some((Ok(chunk.into()), backend))
        }
        Err(error) => Some((Err(error), backend)),
    }
}

/// Passes a request's body on until it ends, breaks, or has reached the limit.
async fn feed(body: Body, mut input: ChildStdin, limit: u64) {
    let mut chunks = body.into_data_stream();
    let (mut left, mut heard) = (limit, true);
    while let Some(Ok(mut chunk)) = chunks.next().await {
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= chunk.len() as u64;
        // Who refuses early does not listen to the rest. The client may finish its sentence all the same, as with other
        // servers: it would not read the answer before.
        heard = heard && input.write_all(&chunk).await.is_ok();
        if left == 0 {
            return;
        }
    }
}
