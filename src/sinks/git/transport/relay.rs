//! The door through which libssh2 reaches its server.
//!
//! libgit2 opens the socket of an SSH connection by itself, from a name and a port, and waits on it without an end. So it
//! is given a port on loopback, where a task of ours takes its connection and carries the bytes to the one that the dial
//! guard made. That one is then subject to all that holds for HTTP: it goes to a checked address, and silence, the
//! deadline or the cancellation cut it at once, which wakes libssh2 up. The bytes are those of SSH, end to end encrypted.

use std::future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::super::error::GitError;
use super::ssh::Origin;
use super::{SILENCE, Talk};

/// What is done, for people.
const DOING: &str = "talk to";

/// Bytes in hand for each direction.
const BUFFER: usize = 32 << 10;

/// A port on loopback that leads to one server, until it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    traffic: Arc<Traffic>,
    /// Ends with this.
    _served: JoinSet<()>,
}

/// What went through.
#[derive(Debug, Default)]
struct Traffic {
    /// Bytes from libssh2.
    sent: AtomicU64,
    /// The server hung up while libssh2 was still there.
    cut: AtomicBool,
    moved: Notify,
}

impl Relay {
    /// Opens a port that leads to the server of a repository.
    pub(super) fn open(talk: &Arc<Talk>, origin: &Arc<Origin>) -> Result<Self, GitError> {
        let bound = talk.wait(&origin.handle, DOING, SILENCE, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let failed = |source: io::Error| GitError::Door { doing: talk.doing(DOING), source };
        let listener = bound.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let traffic = Arc::new(Traffic::default());
        let door = Door { listener, origin: Arc::clone(origin), traffic: Arc::clone(&traffic) };
        let mut served = JoinSet::new();
        served.spawn_on(door.keep(Arc::clone(talk)), &origin.handle);
        Ok(Self { port, traffic, _served: served })
    }

    /// Returns the port on 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns how many bytes libssh2 has sent to the server. All that the server has answered to are counted.
    pub(super) fn sent(&self) -> u64 {
        self.traffic.sent.load(Ordering::Acquire)
    }

    /// Tells whether the server hung up first.
    pub(super) fn is_cut(&self) -> bool {
        self.traffic.cut.load(Ordering::Acquire)
    }
}

struct Door {
    listener: TcpListener,
    origin: Arc<Origin>,
    traffic: Arc<Traffic>,
}

impl Door {
    /// Serves one connection after another, as long as the session may last.
    async fn keep(self, talk: Arc<Talk>) {
        // Dropped after the failure is kept: libssh2 must not wake up before its cause is known.
        let mut serving = pin!(self.serve(&talk));
        let ended = talk.cancel.run_until_cancelled(timeout_at(talk.deadline, serving.as_mut())).await;
        let doing = talk.doing(DOING);
        talk.keep(match ended {
            None => GitError::Cancelled { doing },
            Some(Err(_)) => GitError::Late { doing },
            Some(Ok(source)) => GitError::Door { doing, source },
        });
    }

    /// Ends only when connections cannot be taken any more.
    async fn serve(&self, talk: &Talk) -> io::Error {
        loop {
            let near = match self.listener.accept().await {
                Ok((near, _)) => near,
                Err(error) => return error,
            };
            let Origin { guard, place, .. } = &*self.origin;
            match guard.connect(&place.host, place.port, talk.deadline).await {
                Ok(far) => self.carry(near, far, talk).await,
                Err(error) => talk.keep(GitError::Dial(error)),
            }
        }
    }

    /// Carries bytes both ways until libssh2 hangs up, or nothing moves.
    async fn carry(&self, mut near: TcpStream, mut far: TcpStream, talk: &Talk) {
        let traffic = &*self.traffic;
        let (mut near_read, mut near_write) = near.split();
        let (mut far_read, mut far_write) = far.split();
        let out = async {
            let count = |bytes| {
                traffic.sent.fetch_add(bytes, Ordering::Release);
                traffic.moved.notify_one();
            };
            if copy(&mut near_read, &mut far_write, count).await.is_err() {
                traffic.cut.store(true, Ordering::Release);
            }
        };
        let back = async {
            // An error is libssh2 hanging up, which ends the other way too.
            if copy(&mut far_read, &mut near_write, |_| traffic.moved.notify_one()).await.is_ok() {
                // Before libssh2 can see it.
                traffic.cut.store(true, Ordering::Release);
                let _ = near_write.shutdown().await; // it may be gone
            }
            future::pending::<()>().await;
        };
        let silence = async { while timeout(SILENCE, traffic.moved.notified()).await.is_ok() {} };
        tokio::select! {
            () = out => {}
            () = back => {}
            () = silence => talk.keep(GitError::Silent { doing: talk.doing(DOING), after: SILENCE }),
        }
    }
}

/// Copies until the reader ends, however it does; an error is one of the writer.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        // Counted before it is passed on, so that an answer finds it counted.
        moved(bytes.len() as u64);
        to.write_all(bytes).await?;
    }
}
