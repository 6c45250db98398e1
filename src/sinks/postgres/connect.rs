//! Connections: at most two for each destination, dialled through the guard, given back only when they are clean.
//!
//! A [`Lease`] is a connection in use. Whoever finishes its work says so with [`Lease::give_back`]; a lease that is
//! dropped without (an error, a cancelled task) takes its connection down, and with it the transaction that was open: no
//! half-written state can leak into the next delivery.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_postgres::config::{LoadBalanceHosts, SslMode as DriverMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::config::{Checked, PostgresConfig};
use super::dsn::{Dsn, Host, Session, SslMode};
use super::error::PostgresError;
use super::tls::verify;
use crate::sinks::TlsConfig;
use crate::sinks::netguard::Guard;
use crate::sinks::tls::{Roots, TlsError, client_config};

/// Connections of one pool. Two let a slow delivery and a probe go side by side.
const CONNECTIONS: usize = 2;

/// From the first look-up to the end of the login, over all hosts.
const CONNECT_BUDGET: Duration = Duration::from_secs(30);

/// The longest wait for one of the two connections; longer than the longest delivery ought to take.
const WAIT_BUDGET: Duration = Duration::from_mins(5);

/// An idle connection is closed after this.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// The connections of one destination and one login.
pub(super) struct Pool {
    guard: Guard,
    dsn: Dsn,
    ssl_mode: SslMode,
    tls: TlsConfig,
    driver: tokio_postgres::Config,
    connector: OnceCell<MakeRustlsConnect>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    tasks: TaskTracker,
}

struct Idle {
    session: Open,
    since: Instant,
}

/// A connection and the task that carries its bytes.
struct Open {
    client: Client,
    task: AbortHandle,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("hosts", &self.dsn.hosts).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(guard: Guard, checked: &Checked, config: &PostgresConfig, tasks: TaskTracker) -> Self {
        let dsn = checked.dsn.clone();
        let mut driver = tokio_postgres::Config::new();
        driver
            .user(&dsn.user)
            .dbname(&dsn.database)
            .application_name(dsn.application_name.as_deref().unwrap_or("kollect"))
            .ssl_negotiation(dsn.ssl_negotiation)
            .channel_binding(dsn.channel_binding);
        if let Some(password) = &dsn.password {
            driver.password(password.expose());
        }
        if let Some(options) = &dsn.options {
            driver.options(options);
        }
        Self {
            guard,
            dsn,
            ssl_mode: checked.ssl_mode,
            tls: config.tls.clone(),
            driver,
            connector: OnceCell::new(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::new(Vec::with_capacity(CONNECTIONS)),
            tasks,
        }
    }

    /// Returns a connection, waiting for one that is in use, or opening one.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, PostgresError> {
        let busy = || PostgresError::Timeout { doing: "wait for a free connection".to_owned(), after: WAIT_BUDGET };
        let permit = timeout(WAIT_BUDGET, Arc::clone(&self.permits).acquire_owned()).await.map_err(|_| busy())?;
        let permit = permit.map_err(|_| PostgresError::Closed { doing: "connect".to_owned() })?;
        let reused = std::iter::from_fn(|| self.idle.lock().pop()).map(|idle| idle.session).find(Open::is_usable);
        let session = match reused {
            Some(session) => session,
            None => self.open().await.map_err(|error| PostgresError::Connect(Box::new(error)))?,
        };
        Ok(Lease { session: Some(session), pool: Arc::clone(self), _permit: permit })
    }

    /// Closes connections that were idle for longer than [`IDLE_LIMIT`].
    pub(super) fn close_idle(&self) {
        self.idle.lock().retain(|idle| idle.since.elapsed() < IDLE_LIMIT);
    }

    /// Closes all that is idle, and refuses to open more.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }

    /// Opens a connection to the first host that will do.
    async fn open(&self) -> Result<Open, PostgresError> {
        let deadline =
            Instant::now() + self.dsn.connect_timeout.map_or(CONNECT_BUDGET, |limit| limit.min(CONNECT_BUDGET));
        let count = self.dsn.hosts.len();
        let first = match self.dsn.load_balance {
            LoadBalanceHosts::Random => usize::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0),
            _ => 0,
        };
        let mut failure = None;
        for turn in 0..count {
            let host = &self.dsn.hosts[(first + turn) % count];
            match self.open_host(host, deadline).await {
                Ok(session) => return Ok(session),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // INVARIANT: a connection string without hosts is refused, so there was a first failure.
        Err(failure.unwrap_or(PostgresError::Closed { doing: "connect".to_owned() }))
    }

    async fn open_host(&self, host: &Host, deadline: Instant) -> Result<Open, PostgresError> {
        let session = self.log_in(host, deadline).await?;
        if self.dsn.session == Session::ReadWrite {
            let doing = || format!("ask {} whether it can be written", shown(host));
            let query = session.client.query_typed_one("SHOW transaction_read_only", &[]);
            let row = in_time(deadline, doing, query).await?;
            if row.try_get::<_, &str>(0).is_ok_and(|answer| answer == "on") {
                return Err(PostgresError::ReadOnly { server: format!("host {}", shown(host)) });
            }
        }
        Ok(session)
    }

    /// Logs in to a host, falling back between plain text and TLS as `sslmode` allows.
    async fn log_in(&self, host: &Host, deadline: Instant) -> Result<Open, PostgresError> {
        let (first, second) = match self.ssl_mode {
            SslMode::Disable => (DriverMode::Disable, None),
            SslMode::Allow => (DriverMode::Disable, Some(DriverMode::Require)),
            SslMode::Prefer if self.dsn.ssl_negotiation == SslNegotiation::Postgres => {
                (DriverMode::Prefer, Some(DriverMode::Disable))
            }
            SslMode::Prefer | SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (DriverMode::Require, None),
        };
        let error = match self.attempt(host, first, deadline).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        // Only what the other kind of connection may cure is tried again: never an address or a password.
        let curable = match &error {
            PostgresError::Handshake { .. } | PostgresError::Driver { .. } => true,
            other => other.state() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
        };
        match second {
            Some(second) if curable => self.attempt(host, second, deadline).await.map_err(|_| error),
            _ => Err(error),
        }
    }

    async fn attempt(&self, host: &Host, mode: DriverMode, deadline: Instant) -> Result<Open, PostgresError> {
        let dialled = host.address.as_deref().unwrap_or(&host.name);
        // The name is checked too, so that `hostaddr` is no way around the rules for names.
        self.guard.check_literal(&host.name).map_err(|refusal| PostgresError::Dial(refusal.into()))?;
        let stream = self.guard.connect(dialled, host.port, deadline).await.map_err(PostgresError::Dial)?;
        let mut connector = self.connector().await?;
        let tls = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::make_tls_connect(&mut connector, &host.name)
            .unwrap_or_else(|never| match never {});
        let mut driver = self.driver.clone();
        driver.ssl_mode(mode);
        let doing = || format!("log in to {}", shown(host));
        let (client, connection) = in_time(deadline, doing, driver.connect_raw(stream, tls)).await?;
        let task = self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                debug!(error = &error as &dyn std::error::Error, "connection to PostgreSQL ended");
            }
        });
        Ok(Open { client, task: task.abort_handle() })
    }

    /// Builds the TLS settings at first use, off the async threads: the certificates of the system are files.
    async fn connector(&self) -> Result<MakeRustlsConnect, PostgresError> {
        let build = || async {
            let (verify, tls) = (verify(self.ssl_mode, &self.tls), self.tls.clone());
            let roots = if self.dsn.system_roots { Roots::System } else { Roots::Given };
            let alpn: &'static [&'static [u8]] = match self.dsn.ssl_negotiation {
                SslNegotiation::Direct => &[b"postgresql"],
                _ => &[],
            };
            let built: Result<Result<ClientConfig, TlsError>, _> =
                tokio::task::spawn_blocking(move || client_config(verify, &tls, roots, alpn)).await;
            match built {
                Ok(config) => config.map(MakeRustlsConnect::new).map_err(PostgresError::Tls),
                Err(_) => Err(PostgresError::Closed { doing: "set up TLS".to_owned() }),
            }
        };
        self.connector.get_or_try_init(build).await.cloned()
    }
}

impl Open {
    fn is_usable(&self) -> bool {
        !self.client.is_closed()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Closes the socket: the server rolls back what was open. Without this, the task would wait for an answer.
        self.task.abort();
    }
}

/// A connection in use.
pub(super) struct Lease {
    session: Option<Open>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Returns the connection for the next one; only for one without an open transaction.
    pub(super) fn give_back(mut self) {
        if let Some(session) = self.session.take() {
            self.pool.idle.lock().push(Idle { session, since: Instant::now() });
        }
    }

    pub(super) fn client(&self) -> &Client {
        // INVARIANT: only `give_back` takes the session, and it consumes the lease.
        #[expect(clippy::expect_used, reason = "the session is there until the lease is consumed")]
        let session = self.session.as_ref().expect("a lease holds its session");
        &session.client
    }
}

/// Awaits an answer of the server up to a deadline.
pub(super) async fn in_time<T>(
    deadline: Instant,
    doing: impl Fn() -> String,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PostgresError> {
    let begin = Instant::now();
    match timeout_at(deadline, answer).await {
        Ok(answer) => answer.map_err(|error| PostgresError::driver(doing(), error)),
        Err(_) => Err(PostgresError::Timeout { doing: doing(), after: begin.elapsed() }),
    }
}

fn shown(host: &Host) -> String {
    format!("{}:{}", host.name, host.port)
}
