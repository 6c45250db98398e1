//! Connections that have to say what they want: one that does not send the head of a request in time is closed.
//!
//! The time runs from the moment of the connection, and for each further request from its first byte. A connection that
//! says nothing between two requests is left alone.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

/// Accepts connections that have a limit.
pub(super) struct Timely {
    listener: TcpListener,
    limit: Duration,
}

impl Timely {
    pub(super) fn new(listener: TcpListener, limit: Duration) -> Self {
        Self { listener, limit }
    }
}

impl Listener for Timely {
    type Io = Connection<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection<TcpStream>, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Connection::new(stream, self.limit), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that is closed when a head does not come in time.
pub(super) struct Connection<S> {
    stream: S,
    limit: Duration,
    head: Head,
}

impl<S> Connection<S> {
    fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, head: Head::awaited(limit) }
    }
}

/// How far the head of a request is.
enum Head {
    /// It is there, or nothing of it yet.
    Done,
    /// The empty line at its end has not come.
    Awaited { deadline: Pin<Box<Sleep>>, line: Line },
}

/// Whether anything was read of the current line.
#[derive(Clone, Copy)]
enum Line {
    Empty,
    Begun,
}

impl Head {
    fn awaited(limit: Duration) -> Self {
        // The first line of a request is not empty; an empty one before it is no end of a head.
        Self::Awaited { deadline: Box::pin(sleep(limit)), line: Line::Begun }
    }

    /// Looks for the empty line at the end; what comes behind it begins the next head.
    fn read(&mut self, bytes: &[u8], limit: Duration) {
        for byte in bytes {
            if matches!(self, Self::Done) {
                *self = Self::awaited(limit);
            }
            let Self::Awaited { line, .. } = self else { continue };
            *line = match (byte, *line) {
                (b'\n', Line::Empty) => {
                    *self = Self::Done;
                    continue;
                }
                (b'\n', Line::Begun) => Line::Empty,
                (b'\r', line) => line,
                _ => Line::Begun,
            };
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Head::Awaited { deadline, .. } = &mut this.head
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.head.read(buffer.filled().get(before..).unwrap_or_default(), this.limit);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn pair() -> (DuplexStream, Connection<DuplexStream>) {
        let (client, server) = duplex(1_024);
        (client, Connection::new(server, LIMIT))
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_in_time_ends_the_connection() {
        for begun in ["", "G", "GET / HTTP/1.1\r\nHost: k\r\n", "GET / HTTP/1.1\r\nHost: k\r\n\r\nGET"] {
            let (mut client, mut server) = pair();
            client.write_all(begun.as_bytes()).await.unwrap();
            let since = Instant::now();
            let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!((error.kind(), since.elapsed().as_secs()), (io::ErrorKind::TimedOut, 10), "{begun:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_between_two_requests_may_be_silent() {
        let (mut client, mut server) = pair();
        for request in ["GET / HTTP/1.1\r\nHost: k\r\n\r\n", "GET / HTTP/1.1\n\n"] {
            let mut read = vec![0; request.len()];
            for half in request.as_bytes().chunks(request.len() - 1) {
                client.write_all(half).await.unwrap();
            }
            server.read_exact(&mut read).await.unwrap();
            assert_eq!(read, request.as_bytes());
            let silence = tokio::time::timeout(LIMIT * 6, server.read(&mut [0])).await;
            assert!(silence.is_err(), "{silence:?}");
        }
    }
}
