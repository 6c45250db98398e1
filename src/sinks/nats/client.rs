//! One connection: to a checked address, and never opened again by itself.
//!
//! A message that a broken connection had in hand is gone or stored, and whoever sent it finds out which before anything
//! else is sent. The library would connect again and send on; a second login is refused to it, whereupon it gives up.
//! What is in flight is bounded by bytes: who wants to send more waits for acknowledgements.

use std::collections::HashMap;
use std::error::Error as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{
    AuthError, ConnectError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerError, ServerInfo, Subscriber,
};
use futures::StreamExt as _;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::config::{NatsCredentials, Server};
use super::error::{Complaint, NatsError};
use super::{nkey, tls};
use crate::sinks::netguard::Guard;

/// From the first look-up to the end of the login, over all servers.
const CONNECT_BUDGET: Duration = Duration::from_secs(20);
/// Limit of one request.
const REQUEST: Duration = Duration::from_secs(10);
/// Bytes that wait to be acknowledged.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// Messages on their way to the socket.
const QUEUE_MESSAGES: usize = 256;
/// What a message takes beside its payload, with headers of some hundred bytes.
const HEAD_BYTES: usize = 1024;

/// A message that came.
pub(super) type Incoming = async_nats::Message;

/// TLS settings, and what checks certificates in them.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) config: ClientConfig,
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
}

/// How to reach a server.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) guard: Guard,
    pub(super) servers: &'a [Server],
    pub(super) credentials: &'a NatsCredentials,
    /// TLS is asked for.
    pub(super) tls_wanted: bool,
    pub(super) tls: Connector,
}

/// A connection that is logged in.
pub(super) struct Client {
    server: String,
    pub(super) info: ServerInfo,
    inbox: String,
    next: AtomicU64,
    outgoing: async_nats::Client,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    reader: AbortHandle,
}

#[derive(Default)]
struct Shared {
    waiters: Mutex<HashMap<u64, Waiter>>,
    /// Why the connection ended.
    end: Mutex<Option<NatsError>>,
}

/// Who waits for an answer, with the room that the question takes until then.
struct Waiter {
    whose: Whose,
    _room: OwnedSemaphorePermit,
}

/// Who is told of an answer.
enum Whose {
    One(oneshot::Sender<Incoming>),
    Crowd(Arc<dyn Crowd>),
}

/// Sends many messages, and is told of the answer to each as it comes.
pub(super) trait Crowd: Send + Sync {
    /// Takes an answer. Called by the reader of the connection, so it does not wait.
    fn answered(&self, answer: &Incoming);

    /// Hears that the connection ended before an answer.
    fn bereft(&self);
}

/// An answer that is awaited.
#[derive(Debug)]
pub(super) struct Pending {
    answer: oneshot::Receiver<Incoming>,
}

/// Answers to one question that come one after the other. They have a subscription of their own, for a stored message
/// comes under the subject that it was stored under.
#[derive(Debug)]
pub(super) struct Many {
    answers: Subscriber,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

/// Returns the status that a server sends instead of a message: 404, 408, 503.
pub(super) fn status(message: &Incoming) -> Option<u16> {
    message.status.map(|status| status.as_u16())
}

/// Returns the value of a header.
pub(super) fn value<'m>(message: &'m Incoming, name: &'static str) -> Option<&'m str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}

impl Client {
    /// Connects to the first server that takes us.
    pub(super) async fn connect(way: &Way<'_>, tasks: &TaskTracker) -> Result<Self, NatsError> {
        let deadline = Instant::now() + CONNECT_BUDGET;
        let mut failure = None;
        for (index, server) in way.servers.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(way.servers.len() - index).unwrap_or(1).max(1);
            let late = || NatsError::Timeout { doing: format!("connect to {server}"), after: share };
            match timeout(share, Self::open(way, server, Instant::now() + share, tasks)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => failure = failure.or(Some(error)),
                Err(_) => failure = failure.or(Some(late())),
            }
        }
        // INVARIANT: a configuration without servers is refused, so there was a first failure.
        Err(failure.unwrap_or_else(|| NatsError::Closed { server: String::new() }))
    }

    async fn open(way: &Way<'_>, server: &Server, deadline: Instant, tasks: &TaskTracker) -> Result<Self, NatsError> {
        let addresses = way.guard.resolve(&server.host, server.port, deadline).await;
        let addresses = addresses.map_err(|error| NatsError::Dial(Arc::new(error)))?;
        let mut failure = None;
        for (index, address) in addresses.iter().enumerate() {
            // A silent address must not eat the time of those after it.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(1).max(1);
            match Self::log_in(way, server, *address, share, tasks).await {
                Ok(client) => return Ok(client),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| NatsError::Closed { server: server.to_string() }))
    }

    async fn log_in(
        way: &Way<'_>,
        server: &Server,
        address: SocketAddr,
        share: Duration,
        tasks: &TaskTracker,
    ) -> Result<Self, NatsError> {
        let shown = server.to_string();
        let shared = Arc::new(Shared::default());
        let (told, host) = (Arc::clone(&shared), shown.clone());
        let options = once(way.credentials.clone())
            .name("kollect")
            .ignore_discovered_servers()
            .max_reconnects(1)
            .reconnect_delay_callback(|_| Duration::ZERO)
            .connection_timeout(share)
            .request_timeout(None)
            .client_capacity(QUEUE_MESSAGES)
            .require_tls(way.tls_wanted)
            .tls_client_config(way.config(server)?)
            .event_callback(move |event| {
                told.hear(&event, &host);
                std::future::ready(())
            });
        let connected = options.connect(format!("nats://{address}")).await;
        let client = connected.map_err(|error| refused(&shown, error))?;
        let random = || RandomState::new().build_hasher().finish();
        let inbox = format!("_INBOX.{:016x}{:016x}", random(), random());
        let answers = client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|_| NatsError::Closed { server: shown.clone() })?;
        let reader = tasks.spawn(read(answers, Arc::clone(&shared), shown.clone())).abort_handle();
        let (info, room) = (client.server_info(), Arc::new(Semaphore::new(QUEUE_BYTES)));
        Ok(Self { server: shown, info, inbox, next: AtomicU64::new(1), outgoing: client, shared, room, reader })
    }

    /// Tells whether it can still be used.
    pub(super) fn is_open(&self) -> bool {
        self.shared.end.lock().is_none()
    }

    /// Ends it for everybody.
    pub(super) fn close(&self) {
        self.reader.abort();
        self.shared.finish(NatsError::Closed { server: self.server.clone() });
    }

    /// Returns host and port.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Returns why the connection ended.
    pub(super) fn closed(&self) -> NatsError {
        let end = self.shared.end.lock().clone();
        end.unwrap_or_else(|| NatsError::Closed { server: self.server.clone() })
    }

    /// Sends a message whose answer is awaited later; waits while too much is in flight.
    pub(super) async fn ask(&self, subject: &str, headers: HeaderMap, payload: Vec<u8>) -> Result<Pending, NatsError> {
        let (sender, answer) = oneshot::channel();
        self.put(Whose::One(sender), subject.to_owned(), headers, payload).await?;
        Ok(Pending { answer })
    }

    /// Sends one message of many; waits while too much is in flight.
    pub(super) async fn send(
        &self,
        crowd: Arc<dyn Crowd>,
        subject: String,
        headers: HeaderMap,
        payload: Vec<u8>,
    ) -> Result<(), NatsError> {
        self.put(Whose::Crowd(crowd), subject, headers, payload).await
    }

    async fn put(&self, whose: Whose, subject: String, headers: HeaderMap, payload: Vec<u8>) -> Result<(), NatsError> {
        let bytes = u32::try_from((payload.len() + HEAD_BYTES).min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| self.closed())?;
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.shared.waiters.lock().insert(token, Waiter { whose, _room: room });
        let reply = format!("{}.{token}", self.inbox);
        let sent = if !self.is_open() {
            false
        } else if headers.is_empty() {
            self.outgoing.publish_with_reply(subject, reply, payload.into()).await.is_ok()
        } else {
            self.outgoing.publish_with_reply_and_headers(subject, reply, headers, payload.into()).await.is_ok()
        };
        if sent {
            return Ok(());
        }
        self.shared.waiters.lock().remove(&token);
        Err(self.closed())
    }

    /// Awaits an answer.
    pub(super) async fn answer(
        &self,
        pending: Pending,
        deadline: Instant,
        doing: impl Fn() -> String,
    ) -> Result<Incoming, NatsError> {
        let begin = Instant::now();
        match timeout_at(deadline, pending.answer).await {
            Ok(Ok(answer)) if status(&answer) == Some(503) => Err(NatsError::NoResponders { doing: doing() }),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.closed()),
            Err(_) => Err(NatsError::Timeout { doing: doing(), after: begin.elapsed() }),
        }
    }

    /// Sends a question and awaits its answer.
    pub(super) async fn request(
        &self,
        subject: &str,
        payload: Vec<u8>,
        doing: impl Fn() -> String,
    ) -> Result<Incoming, NatsError> {
        let deadline = Instant::now() + REQUEST;
        let pending = timeout_at(deadline, self.ask(subject, HeaderMap::new(), payload)).await;
        let pending = pending.map_err(|_| NatsError::Timeout { doing: doing(), after: REQUEST })??;
        self.answer(pending, deadline, doing).await
    }

    /// Sends a question that has several answers.
    pub(super) async fn ask_many(&self, subject: &str, payload: Vec<u8>) -> Result<Many, NatsError> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        // Beside the inbox of single answers, whose subscription would take these as well.
        let inbox = format!("{}m.{token}", self.inbox);
        let answers = self.outgoing.subscribe(inbox.clone()).await.map_err(|_| self.closed())?;
        let asked = self.outgoing.publish_with_reply(subject.to_owned(), inbox, payload.into()).await;
        if asked.is_ok() && self.is_open() { Ok(Many { answers }) } else { Err(self.closed()) }
    }

    /// Awaits the next of several answers.
    pub(super) async fn next(&self, many: &mut Many, doing: impl Fn() -> String) -> Result<Incoming, NatsError> {
        match timeout(REQUEST, many.answers.next()).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.closed()),
            Err(_) if !self.is_open() => Err(self.closed()),
            Err(_) => Err(NatsError::Timeout { doing: doing(), after: REQUEST }),
        }
    }
}

impl Way<'_> {
    /// Returns the TLS settings for a server, which is dialled by number.
    fn config(&self, server: &Server) -> Result<ClientConfig, NatsError> {
        let name = ServerName::try_from(server.host.clone()).map_err(|_| NatsError::Setting {
            field: "spec.nats.url",
            what: "names a host that is no name and no address".to_owned(),
        })?;
        Ok(tls::named(self.tls.config.clone(), Arc::clone(&self.tls.verifier), name))
    }
}

/// Returns options that log in once.
fn once(credentials: NatsCredentials) -> ConnectOptions {
    let used = Arc::new(AtomicBool::new(false));
    ConnectOptions::with_auth_callback(move |nonce| {
        let again = used.swap(true, Ordering::Relaxed);
        let answer = if again {
            Err(AuthError::new("this connection is not opened again"))
        } else {
            nkey::login(&credentials, &nonce).map_err(AuthError::new)
        };
        std::future::ready(answer)
    })
}

/// Finds out why a server did not take us.
fn refused(server: &str, error: ConnectError) -> NatsError {
    let server = server.to_owned();
    if error.kind() == ConnectErrorKind::AuthorizationViolation {
        return complaint(server, "Authorization Violation");
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        let tls = inner.downcast_ref::<io::Error>().and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
        match tls {
            // What came was no TLS at all.
            Some(rustls::Error::InvalidMessage(_)) => return NatsError::NoTls { server },
            Some(source) => return NatsError::Handshake { server, source: source.clone() },
            None => {}
        }
        if let Some(ServerError::Other(text)) = inner.downcast_ref() {
            return complaint(server, text);
        }
        cause = inner.source();
    }
    NatsError::Connect { server, source: Arc::new(error) }
}

fn complaint(server: String, text: &str) -> NatsError {
    let text = text.trim().trim_matches('\'').to_owned();
    NatsError::Server { server, complaint: Complaint::of(&text), text }
}

impl Shared {
    /// Takes in what happened to the connection.
    fn hear(&self, event: &Event, server: &str) {
        let server = || server.to_owned();
        match event {
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.finish(complaint(server(), "Authorization Violation"));
            }
            Event::ServerError(ServerError::Other(text)) => self.finish(complaint(server(), text)),
            // The library drops what a subscription does not take in time, and an answer may be among it.
            Event::ServerError(ServerError::SlowConsumer(_))
            | Event::SlowConsumer(_)
            | Event::Disconnected
            | Event::Closed => self.finish(NatsError::Closed { server: server() }),
            Event::Connected | Event::LameDuckMode | Event::Draining | Event::ClientError(_) => {}
        }
    }

    /// Ends the connection for all that wait.
    fn finish(&self, error: NatsError) {
        self.end.lock().get_or_insert(error);
        let waiters = std::mem::take(&mut *self.waiters.lock());
        for waiter in waiters.into_values() {
            if let Whose::Crowd(crowd) = waiter.whose {
                crowd.bereft();
            }
        }
    }

    fn deliver(&self, message: Incoming) {
        let Some(token) = message.subject.rsplit('.').next().and_then(|token| token.parse().ok()) else { return };
        let waiter = self.waiters.lock().remove(&token);
        match waiter.map(|waiter| waiter.whose) {
            Some(Whose::Crowd(crowd)) => crowd.answered(&message),
            Some(Whose::One(answer)) => {
                let _ = answer.send(message); // nobody waits any more
            }
            None => {}
        }
    }
}

/// Gives what comes to those who wait for it.
async fn read(mut answers: Subscriber, shared: Arc<Shared>, server: String) {
    while let Some(message) = answers.next().await {
        shared.deliver(message);
    }
    shared.finish(NatsError::Closed { server });
}
