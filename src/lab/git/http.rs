//! git over HTTP: `git http-backend` behind a front that takes bodies in chunks, asks for a login, and fails on command.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use futures::StreamExt as _;
use k8s_openapi::ByteString;
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::process::free_port;
use super::cgi::{Backend, Place};
use super::faults::{Counts, Fault, Faults, Service, Times};
use super::wire::{self, Connection, Ready};
use super::{Certificates, Repositories, Repository};

/// What the server calls the place that wants a login.
const REALM: &str = "Basic realm=\"kollect lab\"";

/// How the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS, with a certificate for `localhost` and 127.0.0.1 by an authority of its own.
    Https,
}

/// A server for all repositories of a directory. Dropping it ends it.
///
/// It has a thread of its own, so that a test may block while it waits for git.
#[derive(Debug)]
pub struct HttpServer {
    site: Arc<Site>,
    scheme: Scheme,
    port: u16,
    ca_pem: Mutex<String>,
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
    running: Mutex<Option<Running>>,
    runtime: Option<Runtime>,
}

/// The tasks of a server that has been started.
#[derive(Debug)]
struct Running {
    tasks: JoinSet<()>,
    /// Cuts every connection.
    end: CancellationToken,
}

/// What requests have to do with.
#[derive(Debug)]
struct Site {
    root: PathBuf,
    log: PathBuf,
    login: Mutex<Option<Login>>,
    faults: Mutex<Faults>,
    counts: Mutex<Counts>,
}

/// Who is let in.
#[derive(Debug)]
struct Login {
    user: String,
    /// The header that proves it.
    authorization: String,
}

impl HttpServer {
    /// Starts a server that lets everybody in and does everything right.
    pub fn start(repositories: &Repositories, scheme: Scheme) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("lab-git").enable_all().build()?;
        let site = Site {
            root: repositories.dir().to_owned(),
            log: repositories.dir().join("http.log"),
            login: Mutex::default(),
            faults: Mutex::default(),
            counts: Mutex::default(),
        };
        let server = Self {
            site: Arc::new(site),
            scheme,
            port: free_port()?,
            ca_pem: Mutex::default(),
            tls: Arc::default(),
            running: Mutex::default(),
            runtime: Some(runtime),
        };
        if scheme == Scheme::Https {
            server.use_certificates(&Certificates::new(repositories.dir(), &["DNS:localhost", "IP:127.0.0.1"])?)?;
        }
        server.restart()?;
        Ok(server)
    }

    /// Returns the URL of a repository.
    pub fn url(&self, repository: &Repository) -> String {
        self.url_at("127.0.0.1", self.port, repository)
    }

    /// Returns the URL of a repository behind another address of this server, as a proxy has one.
    pub fn url_at(&self, host: &str, port: u16, repository: &Repository) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{scheme}://{host}:{port}/{}.git", repository.name())
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the authority behind the server's certificate; empty without TLS.
    pub fn ca_pem(&self) -> String {
        self.ca_pem.lock().clone()
    }

    /// Shows another certificate to new connections.
    pub fn use_certificates(&self, certificates: &Certificates) -> Result<()> {
        *self.tls.lock() = Some(certificates.config()?);
        self.ca_pem.lock().clone_from(&certificates.ca);
        Ok(())
    }

    /// Lets in only who logs in as this user with this token, from the next request on.
    pub fn require_login(&self, user: &str, token: &str) -> Result<()> {
        let base64 = serde_json::to_value(ByteString(format!("{user}:{token}").into_bytes()))?;
        let authorization = format!("Basic {}", base64.as_str().unwrap_or_default());
        *self.site.login.lock() = Some(Login { user: user.to_owned(), authorization });
        Ok(())
    }

    /// Lets everybody in again.
    pub fn require_nothing(&self) {
        *self.site.login.lock() = None;
    }

    /// Lets a fault happen to requests for this service, or for any. Of several, the first that applies happens.
    pub fn fail(&self, service: Option<Service>, times: Times, fault: Fault) {
        self.site.faults.lock().push(service, times, fault);
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.site.faults.lock().clear();
    }

    /// Returns what was asked for so far.
    pub fn counts(&self) -> Counts {
        *self.site.counts.lock()
    }

    /// Ends the server: every connection is cut, new ones are refused. Its port stays reserved for [`Self::restart`].
    pub async fn stop(&self) {
        let running = self.running.lock().take();
        if let Some(mut running) = running {
            running.end.cancel();
            running.tasks.shutdown().await;
        }
    }

    /// Starts the server on its port again.
    pub fn restart(&self) -> Result<()> {
        let runtime = self.runtime.as_ref().context("the server has no runtime")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).context("failed to start the git server")?;
        listener.set_nonblocking(true)?;
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (end, (ready, accepted)) = (CancellationToken::new(), mpsc::channel(wire::WAITING));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self.site));
        let serve = axum::serve(Ready(accepted), router.into_make_service_with_connect_info::<Connection>());
        let mut tasks = JoinSet::new();
        tasks.spawn(wire::accept(listener, Arc::clone(&self.tls), ready, end.clone()));
        tasks.spawn(async move {
            let _ = serve.await; // never ends by itself
        });
        *self.running.lock() = Some(Running { tasks, end });
        Ok(())
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.lock().take() {
            running.end.cancel();
        }
        if let Some(runtime) = self.runtime.take() {
            // Without a wait: we may be inside another runtime, which must not block.
            runtime.shutdown_background();
        }
    }
}

/// Answers one request, or does not.
async fn answer(
    State(site): State<Arc<Site>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let service = Service::of(head.uri.path(), head.uri.query().unwrap_or_default());
    site.counts.lock().add(service);
    let (delay, fault) = site.faults.lock().next(service);
    tokio::time::sleep(delay).await;
    if let Some(Fault::Answer { status, headers, body: text }) = fault {
        drain(body).await;
        return made_up(status, headers, text);
    }
    let sent = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(user) = site.admit(sent) else {
        site.counts.lock().unauthorized += 1;
        drain(body).await;
        return made_up(401, vec![("www-authenticate", REALM.to_owned())], "who are you?\n".to_owned());
    };
    let limit = if let Some(Fault::CutRequest(bytes)) = fault { bytes } else { u64::MAX };
    let place = Place { root: &site.root, log: &site.log };
    let outcome = match Backend::start(place, &head, &user, body, limit) {
        Ok(backend) if fault.is_none() => backend.answer().await,
        Ok(backend) => {
            let finished = backend.finish().await;
            connection.cut();
            // Never seen: the connection is gone.
            finished.map(|()| Response::default())
        }
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| made_up(500, Vec::new(), format!("{error:#}\n")))
}

impl Site {
    /// Returns the name of the one who asks, empty where nobody is asked for one, or `None` for a stranger.
    fn admit(&self, sent: Option<&str>) -> Option<String> {
        match &*self.login.lock() {
            None => Some(String::new()),
            Some(login) => (sent == Some(&login.authorization)).then(|| login.user.clone()),
        }
    }
}

/// Reads a body that nobody wants: a client that is still sending when the connection closes never sees the answer.
async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    while let Some(Ok(_)) = chunks.next().await {}
}

fn made_up(status: u16, headers: Vec<(&'static str, String)>, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
