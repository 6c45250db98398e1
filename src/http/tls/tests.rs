use std::path::Path;

use axum::Router;
use axum::routing::get;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::BindAddress;
use crate::http::{HttpError, Server};

/// A server with one page.
struct Running {
    address: SocketAddr,
    metrics: Metrics,
    stop: CancellationToken,
    task: JoinHandle<Result<(), HttpError>>,
}

#[expect(clippy::disallowed_methods, reason = "the handle is held, and each test awaits it")]
async fn start(serving: Serving) -> Running {
    let address = BindAddress { host: "127.0.0.1".to_owned(), port: 0 };
    let router = Router::new().route("/", get(|| async { "page" }));
    let metrics = Metrics::new("dev", "unknown");
    let server = Server::bind("metrics-bind-address", &address, router)
        .await
        .unwrap()
        .over_tls(serving, Places::of_metrics(&metrics));
    let (address, stop) = (server.address(), CancellationToken::new());
    Running { address, metrics, stop: stop.clone(), task: tokio::spawn(server.serve(stop)) }
}

impl Running {
    async fn connect(&self, trusted: &CertificateDer<'static>) -> io::Result<ClientStream<TcpStream>> {
        connect(self.address, trusted, rustls::DEFAULT_VERSIONS).await
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> io::Result<ClientStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

async fn page(mut stream: ClientStream<TcpStream>) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: kollect\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    // The server may end the connection without a farewell.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn certificate(serving: &Serving) -> CertificateDer<'static> {
    serving.current.0.read().cert[0].clone()
}

/// A directory of this test alone, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kollect-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn pair(&self) -> ServingPair {
        ServingPair::Files { certificate: self.0.join("tls.crt"), key: self.0.join("tls.key") }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Writes a new pair.
fn renew(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(OWN_NAMES.map(str::to_owned)).unwrap();
    std::fs::write(directory.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn a_certificate_of_our_own_serves_both_versions_of_tls_and_http_1() {
    let serving = Serving::load(&ServingPair::SelfSigned).await.unwrap();
    let trusted = certificate(&serving);
    let server = start(serving).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = connect(server.address, &trusted, &[version]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = page(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("page"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_renewed_pair_is_taken_and_an_unusable_one_is_not() {
    let directory = Directory::new("renewed");
    renew(&directory.0);
    let serving = Serving::load(&directory.pair()).await.unwrap();
    let first = certificate(&serving);
    let mut complaint = None;
    serving.look(&mut complaint).await;
    assert_eq!((certificate(&serving), &complaint), (first.clone(), &None));

    renew(&directory.0);
    serving.look(&mut complaint).await;
    let second = certificate(&serving);
    assert_ne!(second, first);

    let metrics = Metrics::new("dev", "unknown");
    let serving = serving.shown(crate::metrics::TlsServer::Webhooks, &metrics);
    let ends = "kollect_certificate_expiry_timestamp_seconds{server=\"webhooks\"} 67090";
    assert!(metrics.page().unwrap().contains(ends), "{}", metrics.page().unwrap());

    let key = std::fs::read(directory.0.join("tls.key")).unwrap();
    renew(&directory.0);
    std::fs::write(directory.0.join("tls.key"), key).unwrap();
    serving.look(&mut complaint).await;
    assert!(complaint.as_ref().unwrap().starts_with("certificate and key cannot be used together"), "{complaint:?}");
    for (file, said) in [("tls.key", "holds no unencrypted key as PEM"), ("tls.crt", "holds no certificate as PEM")] {
        std::fs::write(directory.0.join(file), "nonsense").unwrap();
        serving.look(&mut complaint).await;
        assert!(complaint.as_ref().unwrap().contains(&format!("{file} {said}")), "{complaint:?}");
    }
    std::fs::remove_file(directory.0.join("tls.crt")).unwrap();
    serving.look(&mut complaint).await;
    assert!(complaint.as_ref().unwrap().starts_with("failed to read"), "{complaint:?}");
    assert_eq!(certificate(&serving), second);

    renew(&directory.0);
    serving.look(&mut complaint).await;
    assert_ne!(certificate(&serving), second);
    assert_eq!(complaint, None);
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_stops_the_start() {
    let directory = Directory::new("missing");
    let error = Serving::load(&directory.pair()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("failed to read {}", directory.0.join("tls.crt").display()));
}

#[tokio::test]
async fn a_pair_that_somebody_brings_serves_from_the_next_handshake_on() {
    let serving = Serving::load(&ServingPair::SelfSigned).await.unwrap();
    let (exchange, first) = (serving.exchange(), certificate(&serving));
    let server = start(serving).await;
    assert!(page(server.connect(&first).await.unwrap()).await.ends_with("page"));
    let made = rcgen::generate_simple_self_signed(OWN_NAMES.map(str::to_owned)).unwrap();
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    assert!(exchange.put(pem.as_bytes(), key.as_bytes()).unwrap());
    assert!(!exchange.put(pem.as_bytes(), key.as_bytes()).unwrap(), "the same once more");
    let error = exchange.put(b"nonsense", key.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "the Secret holds no certificate as PEM");
    assert!(server.connect(&first).await.is_err());
    assert!(page(server.connect(made.cert.der()).await.unwrap()).await.ends_with("page"));
    server.stop().await;
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_hold_up_others() {
    let serving = Serving::load(&ServingPair::SelfSigned).await.unwrap();
    let trusted = certificate(&serving);
    let server = start(serving).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(page(server.connect(&trusted).await.unwrap()).await.ends_with("page"));
    // The first of them had to go for the last.
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0);
    server.stop().await;
}

#[tokio::test]
async fn one_connection_more_than_there_are_places_for_is_closed() {
    let serving = Serving::load(&ServingPair::SelfSigned).await.unwrap();
    let trusted = certificate(&serving);
    let server = start(serving).await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        open.push(server.connect(&trusted).await.unwrap());
    }
    let taken = format!("kollect_queue_depth{{queue=\"metrics_connections\"}} {CONNECTIONS}\n");
    assert!(server.metrics.page().unwrap().contains(&taken));
    assert!(server.connect(&trusted).await.is_err());
    assert!(page(open.remove(0)).await.ends_with("page"));
    drop(open);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let serving = Serving::load(&ServingPair::SelfSigned).await.unwrap();
    let trusted = certificate(&serving);
    let server = start(serving).await;
    let mut idle = server.connect(&trusted).await.unwrap();
    tokio::time::pause();
    let since = Instant::now();
    let _ = idle.read(&mut [0]).await;
    assert!(since.elapsed() >= IDLE, "{:?}", since.elapsed());
    server.stop().await;
}
