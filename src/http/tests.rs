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
        String::from_utf8_lossy(&self.get_bytes(path).await).into_owned()
    }

    async fn get_bytes(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: kollect\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
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
        readiness.awaits_certificate();
        assert!(server.get(path).await.contains("the webhooks have no certificate"), "{path}");
        readiness.certificate_loaded();
        assert!(server.get(path).await.ends_with("\r\n\r\nok"), "{path}");
    }
    assert!(server.get("/").await.starts_with("HTTP/1.1 404"));
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let server = start(metrics::open(Arc::new(Metrics::new("v1.2.3", "abc")))).await;
    let answer = server.get("/metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains(r#"kollect_build_info{commit="abc",version="v1.2.3"} 1"#), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_cpu_profile_is_a_compressed_file_and_nobody_else_gets_one_meanwhile() {
    let server = start(pprof::router(CancellationToken::new())).await;
    let get = || server.get_bytes("/debug/pprof/profile?seconds=1");
    let answer = loop {
        let (one, other) = tokio::join!(get(), get());
        let (refused, answer) = if one.starts_with(b"HTTP/1.1 409") { (one, other) } else { (other, one) };
        assert!(refused.starts_with(b"HTTP/1.1 409"), "both were served");
        // Another test of this process may hold the timer.
        if !answer.starts_with(b"HTTP/1.1 409") {
            break answer;
        }
    };
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    assert!(answer[head + 4..].starts_with(&[0x1f, 0x8b]), "no gzip");
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_profiled_says_why_and_what_can() {
    let server = start(pprof::router(CancellationToken::new())).await;
    assert!(server.get("/debug/pprof/").await.contains("heap  "));
    assert!(server.get("/debug/pprof").await.starts_with("HTTP/1.1 308"));
    assert!(server.get("/debug/pprof/symbol").await.ends_with("num_symbols: 0\n"));
    for (path, status, words) in [
        ("/debug/pprof/profile?seconds=0", 400, "from 1 to 120"),
        // Tests run with the allocator of the system.
        ("/debug/pprof/heap", 501, "MALLOC_CONF"),
        ("/debug/pprof/goroutine?debug=2", 501, "goroutine: not in this build; there are profile (CPU) and heap"),
        ("/debug/pprof/trace", 501, "trace: not in this build"),
    ] {
        let answer = server.get(path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(words), "{path}: {answer}");
        assert!(answer.contains("x-go-pprof: 1"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_profile() {
    let stop = CancellationToken::new();
    let server = start(pprof::router(stop.clone())).await;
    let answer = async {
        loop {
            let answer = server.get("/debug/pprof/profile?seconds=120").await;
            if !answer.starts_with("HTTP/1.1 409") {
                return answer;
            }
        }
    };
    let ((), answer) = tokio::join!(async { stop.cancel() }, answer);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("about to end"), "{answer}");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_head_does_not_come_is_closed() {
    let server = start(health::router(Readiness::new())).await;
    for part in ["", "GET /healthz HTTP/1.1\r\nHost: k\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let since = tokio::time::Instant::now();
        stream.write_all(part.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await; // closed, or reset
        assert!((HEAD..HEAD * 2).contains(&since.elapsed()), "{part:?}: {:?}", since.elapsed());
    }
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
