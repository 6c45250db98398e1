//! Connections to the HTTP server, each of which can be cut from inside.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a client may take to agree on a key.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that were accepted and that nobody serves yet.
pub(super) const WAITING: usize = 64;

/// What cuts one connection.
#[derive(Debug, Clone)]
pub(super) struct Connection(CancellationToken);

impl Connection {
    /// Breaks the connection: from now on nothing is read or written.
    pub(super) fn cut(&self) {
        self.0.cancel();
    }
}

/// A connection with its cutter.
pub(super) struct Wire {
    stream: Pin<Box<dyn Stream>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

impl Wire {
    fn whole(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.whole(context)?;
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.whole(context)?;
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole(context)?;
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A connection that is cut takes no leave: neither TLS nor TCP says good-bye in order.
        self.whole(context)?;
        self.stream.as_mut().poll_shutdown(context)
    }
}

/// Hands out the connections that [`accept`] made ready.
pub(super) struct Ready(pub(super) mpsc::Receiver<(Wire, Connection)>);

impl Listener for Ready {
    type Io = Wire;
    type Addr = Connection;

    async fn accept(&mut self) -> (Wire, Connection) {
        match self.0.recv().await {
            Some(accepted) => accepted,
            // The server is being stopped, and the task that serves with it.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Connection> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, Ready>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Ready>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Accepts connections until it is aborted. `end` cuts all of them.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
    ready: mpsc::Sender<(Wire, Connection)>,
    end: CancellationToken,
) {
    let mut handshakes = JoinSet::new();
    loop {
        // Both branches are cancel-safe.
        tokio::select! {
            Some(_) = handshakes.join_next(), if !handshakes.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (tls, ready, connection) = (tls.lock().clone(), ready.clone(), end.child_token());
                    handshakes.spawn(greet(stream, tls, ready, connection));
                }
                // No file descriptors are left; some come back.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

/// Makes one connection ready. A client that cannot agree on TLS is gone by then, and nobody misses it.
async fn greet(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    ready: mpsc::Sender<(Wire, Connection)>,
    connection: CancellationToken,
) {
    let _ = stream.set_nodelay(true); // without it everything arrives, only later
    let stream: Pin<Box<dyn Stream>> = match tls {
        None => Box::pin(stream),
        Some(config) => match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => Box::pin(stream),
            _ => return,
        },
    };
    let wire = Wire { stream, cut: Box::pin(connection.clone().cancelled_owned()) };
    let _ = ready.send((wire, Connection(connection))).await; // a server that is being stopped takes none
}
