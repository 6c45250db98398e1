//! The connection of one login, shared by all sinks that have it: opened when it is needed, closed when it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::client::{Client, Connector, Way};
use super::config::{Checked, NatsConfig, NatsCredentials, Server};
use super::error::NatsError;
use crate::sinks::TlsConfig;
use crate::sinks::netguard::Guard;
use crate::sinks::tls::{Roots, TlsError, Verify, client_config, verifier};

/// An idle connection is closed after this.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// One login at one set of servers.
#[derive(Debug)]
pub(super) struct Link {
    guard: Guard,
    servers: Vec<Server>,
    tls_wanted: bool,
    credentials: NatsCredentials,
    tls: TlsConfig,
    connector: OnceCell<Connector>,
    open: Mutex<Option<Open>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Open {
    client: Arc<Client>,
    used: Instant,
}

impl Link {
    pub(super) fn new(guard: Guard, checked: &Checked, config: &NatsConfig, tasks: TaskTracker) -> Self {
        Self {
            guard,
            servers: checked.servers.clone(),
            tls_wanted: checked.tls,
            credentials: config.credentials.clone(),
            tls: config.tls.clone(),
            connector: OnceCell::new(),
            open: Mutex::new(None),
            tasks,
        }
    }

    /// Returns the connection, and opens one where there is none.
    pub(super) async fn client(&self) -> Result<Arc<Client>, NatsError> {
        let mut open = self.open.lock().await;
        if let Some(there) = open.as_mut().filter(|open| open.client.is_open()) {
            there.used = Instant::now();
            return Ok(Arc::clone(&there.client));
        }
        *open = None;
        let (servers, credentials, tls_wanted) = (&self.servers[..], &self.credentials, self.tls_wanted);
        let way = Way { guard: self.guard, servers, credentials, tls_wanted, tls: self.connector().await? };
        let client = Arc::new(Client::connect(&way, &self.tasks).await?);
        *open = Some(Open { client: Arc::clone(&client), used: Instant::now() });
        Ok(client)
    }

    /// Gives a connection up after a failure: what it has in hand is not to arrive later.
    pub(super) async fn give_up(&self, client: &Arc<Client>) {
        let mut open = self.open.lock().await;
        client.close();
        open.take_if(|open| Arc::ptr_eq(&open.client, client));
    }

    /// Closes the connection if nobody has used it for a while.
    pub(super) fn close_idle(&self) {
        // One that is being opened is not idle.
        if let Ok(mut open) = self.open.try_lock() {
            open.take_if(|open| Arc::strong_count(&open.client) == 1 && open.used.elapsed() >= IDLE_LIMIT);
        }
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        if let Some(open) = self.open.lock().await.take() {
            open.client.close();
        }
    }

    /// Builds the TLS settings at first use, off the async threads: the certificates of the system are files.
    async fn connector(&self) -> Result<Connector, NatsError> {
        let build = || async {
            let tls = self.tls.clone();
            let verify = if tls.insecure_skip_verify { Verify::Nothing } else { Verify::Full };
            let built = tokio::task::spawn_blocking(move || -> Result<Connector, TlsError> {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let verifier = verifier(verify, &tls, Roots::Given, provider)?;
                Ok(Connector { config: client_config(verify, &tls, Roots::Given, &[])?, verifier })
            });
            match built.await {
                Ok(connector) => connector.map_err(|error| NatsError::Tls(Arc::new(error))),
                Err(_) => Err(NatsError::Closed { server: "the local cryptography".to_owned() }),
            }
        };
        self.connector.get_or_try_init(build).await.cloned()
    }
}
