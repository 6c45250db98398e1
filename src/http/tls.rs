//! TLS of our own servers: the serving pair, its renewal while we serve, and a listener that shakes hands.
//!
//! The pair comes from two PEM files, which are read again when they change, or is made at start and signed by itself. A
//! pair on disk that cannot be used changes nothing: the one in use stays, and the log says so once. Clients speak TLS 1.2
//! or 1.3 and HTTP/1.1.
//!
//! Nobody holds up the others: handshakes run beside the listener, a limited number for a limited time, and a connection on
//! which nothing moves is closed.

mod expiry;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, Sleep, interval_at, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::expiry::Expiry;
use crate::config::ServingPair;
use crate::error::chain;
use crate::metrics::{Metrics, Queue, Reading, Sizes, TlsServer};

/// How often the files of the pair are looked at. The kubelet takes up to a minute to bring a renewed Secret there.
const RENEWAL: Duration = Duration::from_secs(5);
/// A handshake takes two round trips; whoever needs longer does not want to talk.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at the same time; one more ends the oldest of them.
const HANDSHAKES: usize = 32;
/// Open connections to the metrics; one more is closed at once.
const CONNECTIONS: usize = 64;
/// Open connections to the webhooks, more than an API server holds: it opens one for each request in hand, and one that is
/// closed refuses somebody's change.
const WEBHOOK_CONNECTIONS: usize = 256;
/// A connection on which nothing moves for so long is closed: longer than the usual time between two scrapes.
const IDLE: Duration = Duration::from_mins(2);

/// Names in a certificate that we make: nobody can trust it, so they only have to be there.
const OWN_NAMES: [&str; 2] = ["kollect", "localhost"];

/// What a serving pair lacks.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not for us.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or not of that what it should be.
    #[error("{} holds no {what} as PEM", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `unencrypted key`.
        what: &'static str,
        /// What was found.
        #[source]
        source: pem::Error,
    },
    /// The two do not belong together, or are of a kind that is not understood.
    #[error("certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
    /// No certificate could be made.
    #[error("failed to make a certificate")]
    SelfSigned(#[source] rcgen::Error),
    /// The library refuses our settings.
    #[error("failed to set up the cryptography")]
    Provider(#[source] rustls::Error),
}

/// The serving pair of one server.
#[derive(Debug)]
pub struct Serving {
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    files: Option<Files>,
    /// For as long as it is held, the metrics show when the certificate ends.
    _expiry: Option<Arc<Expiry>>,
}

/// Puts another pair in the place of the one that a server uses.
#[derive(Debug, Clone)]
pub struct Exchange(Arc<Current>);

impl Exchange {
    /// Takes a pair of PEM texts for the next handshake on; tells whether it is another one.
    ///
    /// # Errors
    /// What is wrong with it; the former one stays in use.
    pub fn put(&self, certificate: &[u8], key: &[u8]) -> Result<bool, TlsError> {
        let place = Path::new("the Secret");
        let pair = key_pair(certificate, key, place, place)?;
        let other = pair.cert != self.0.0.read().cert;
        *self.0.0.write() = Arc::new(pair);
        Ok(other)
    }
}

/// The pair that the next handshake uses.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl Serving {
    /// Loads or makes the pair.
    pub async fn load(pair: &ServingPair) -> Result<Self, TlsError> {
        let (key, files) = match pair {
            ServingPair::SelfSigned => (self_signed()?, None),
            ServingPair::Files { certificate, key } => {
                let files = Files { certificate: certificate.clone(), key: key.clone() };
                let loaded = files.load().await?;
                (loaded, Some(files))
            }
        };
        let current = Arc::new(Current(RwLock::new(Arc::new(key))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Provider)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { current, config: Arc::new(config), files, _expiry: None })
    }

    /// Shows in the metrics when the certificate of this server ends.
    #[must_use]
    pub fn shown(self, server: TlsServer, metrics: &Metrics) -> Self {
        let expiry = Arc::new(Expiry { server, current: self.current.clone() });
        metrics.read_from(&expiry);
        Self { _expiry: Some(expiry), ..self }
    }

    /// Returns the way to exchange the pair of a server that does not read it from files.
    pub fn exchange(&self) -> Exchange {
        Exchange(self.current.clone())
    }

    /// Returns a listener that shakes hands before it hands a connection on.
    pub(super) fn listen(&self, tcp: TcpListener, places: &Places) -> TlsListener {
        TlsListener {
            tcp,
            acceptor: TlsAcceptor::from(self.config.clone()),
            handshakes: JoinSet::new(),
            begun: VecDeque::new(),
            places: places.free.clone(),
        }
    }

    /// Reads the files again and again. Never ends.
    pub(super) async fn renew(self) -> Infallible {
        let mut complaint = None;
        let mut tick = interval_at(Instant::now() + RENEWAL, RENEWAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look(&mut complaint).await;
        }
    }

    /// Takes what is in the files, if it is new and usable; `complaint` is what was last said against it.
    async fn look(&self, complaint: &mut Option<String>) {
        let Some(files) = &self.files else { return };
        match files.load().await {
            Ok(pair) => {
                *complaint = None;
                // A key alone is not exchanged: it would no longer fit the certificate.
                if pair.cert != self.current.0.read().cert {
                    *self.current.0.write() = Arc::new(pair);
                    tracing::info!(certificate = %files.certificate.display(), "serving certificate renewed");
                }
            }
            // Also when one file was read before its exchange and the other after: the next look finds a pair.
            Err(error) => {
                let text = chain(&error);
                if complaint.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "serving certificate not renewed, the former one stays in use");
                    *complaint = Some(text);
                }
            }
        }
    }
}

/// Where the pair is.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    async fn load(&self) -> Result<CertifiedKey, TlsError> {
        let (certificate, key) = (read(&self.certificate).await?, read(&self.key).await?);
        key_pair(&certificate, &key, &self.certificate, &self.key)
    }
}

/// Reads a pair from PEM texts; the places are for what is said of it.
fn key_pair(certificate: &[u8], key: &[u8], of_certificate: &Path, of_key: &Path) -> Result<CertifiedKey, TlsError> {
    let wrong = |what| {
        let path = if what == CERTIFICATE { of_certificate } else { of_key };
        move |source| TlsError::Pem { path: path.to_owned(), what, source }
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(wrong(CERTIFICATE))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(wrong(KEY))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(TlsError::Pair)
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "unencrypted key";

async fn read(path: &PathBuf) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|source| TlsError::Read { path: path.clone(), source })
}

fn self_signed() -> Result<CertifiedKey, TlsError> {
    let made = rcgen::generate_simple_self_signed(OWN_NAMES.map(str::to_owned)).map_err(TlsError::SelfSigned)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    CertifiedKey::from_der(vec![made.cert.der().clone()], key, &ring::default_provider()).map_err(TlsError::Pair)
}

/// The connections that a server may have open.
#[derive(Debug)]
pub struct Places {
    queue: &'static str,
    limit: usize,
    free: Arc<Semaphore>,
}

impl Places {
    /// Those of the metrics; `metrics` show how many are taken.
    pub fn of_metrics(metrics: &Metrics) -> Arc<Self> {
        Self::new("metrics_connections", CONNECTIONS, metrics)
    }

    /// Those of the webhooks; `metrics` show how many are taken.
    pub fn of_webhooks(metrics: &Metrics) -> Arc<Self> {
        Self::new("webhook_connections", WEBHOOK_CONNECTIONS, metrics)
    }

    fn new(queue: &'static str, limit: usize, metrics: &Metrics) -> Arc<Self> {
        let places = Arc::new(Self { queue, limit, free: Arc::new(Semaphore::new(limit)) });
        metrics.read_from(&places);
        places
    }
}

impl Sizes for Places {
    fn read(&self, reading: &mut Reading) {
        let taken = self.limit - self.free.available_permits();
        let (depth, limit) = (taken as u64, self.limit as u64);
        reading.queues.push(Queue { name: self.queue, depth, limit, bytes: None });
    }
}

/// Accepts connections and hands them on once the handshake is done.
pub(super) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    /// Those under way; `None` is one that failed or took too long.
    handshakes: JoinSet<Option<(Connection, SocketAddr)>>,
    /// The same, oldest first.
    begun: VecDeque<AbortHandle>,
    places: Arc<Semaphore>,
}

impl TlsListener {
    fn greet(&mut self, stream: TcpStream, peer: SocketAddr) {
        // Dropped, the stream is closed: those who are there go first.
        let Ok(place) = self.places.clone().try_acquire_owned() else { return };
        self.begun.retain(|handshake| !handshake.is_finished());
        if self.begun.len() >= HANDSHAKES
            && let Some(oldest) = self.begun.pop_front()
        {
            // An honest handshake takes milliseconds, so this is the one that waits for something else.
            oldest.abort();
        }
        let accept = timeout(HANDSHAKE, self.acceptor.accept(stream));
        self.begun.push_back(self.handshakes.spawn(async move {
            // A scanner, a plain request or a client that does not trust us: not ours to complain about.
            let stream = accept.await.ok()?.ok()?;
            Some((Connection { stream, idle: Box::pin(sleep(IDLE)), _place: place }, peer))
        }));
    }
}

impl Listener for TlsListener {
    type Io = Connection;
    type Addr = SocketAddr;

    /// Cancel-safe: what is under way stays in the set.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(greeted)) = ended {
                        return greeted;
                    }
                }
                (stream, peer) = Listener::accept(&mut self.tcp) => self.greet(stream, peer),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// A connection with its place, closed when nothing moves on it.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Passes a result on, and turns waiting for too long into an error.
    fn limited<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return poll;
        }
        self.idle.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(context, buf);
        self.limited(context, poll)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.limited(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limited(context, poll)
    }
}

#[cfg(test)]
mod tests;
