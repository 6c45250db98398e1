use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::health::Readiness;
use super::*;
use crate::metrics::Metrics;

/// A server on a free port of this machine.
struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), HttpError>>,
}

fn loopback(port: u16) -> BindAddress {
    BindAddress { host: "127.0.0.1".to_owned(), port }
}

#[expect(clippy::disallowed_methods, reason = "the handle is held, and each test awaits it")]
async fn start(router: Router) -> Running {
    let server = Server::bind("health-probe-bind-address", &loopback(0), router).await.unwrap();
    let (address, stop) = (server.address(), CancellationToken::new());
    Running { address, stop: stop.clone(), task: tokio::spawn(server.serve(stop)) }
}

impl Running {
    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: kollect\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn liveness_is_a_ping_and_readiness_follows_its_handle() {
    let readiness = Readiness::new();
    let server = start(health::router(readiness.clone())).await;
    for path in ["/healthz", "/healthz/healthz"] {
        assert!(server.get(path).await.starts_with("HTTP/1.1 200 OK"), "{path}");
    }
    for path in ["/readyz", "/readyz/readyz"] {
        readiness.stopping();
        assert!(server.get(path).await.starts_with("HTTP/1.1 503"), "{path}");
        readiness.ready();
        assert!(server.get(path).await.ends_with("\r\n\r\nok"), "{path}");
    }
    assert!(server.get("/").await.starts_with("HTTP/1.1 404"));
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let server = start(metrics::router(Arc::new(Metrics::new("v1.2.3", "abc")))).await;
    let answer = server.get("/metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains(r#"kollect_build_info{commit="abc",version="v1.2.3"} 1"#), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_taken_address_names_flag_and_address() {
    let server = start(Router::new()).await;
    let taken = loopback(server.address.port());
    let error = Server::bind("metrics-bind-address", &taken, Router::new()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("failed to listen on {taken} (--metrics-bind-address)"));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_ends_is_cut_off() {
    let server = start(health::router(Readiness::new())).await;
    let mut stuck = TcpStream::connect(server.address).await.unwrap();
    stuck.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    server.stop().await;
}
