//! The NATS sinks against a real server: the contracts, logins, faults.

mod contract;
mod faults;
mod login;

use std::sync::Arc;

use kollect::api::v1alpha1::sink::StreamMode;
use kollect::export::event::Life;
use kollect::lab::nats::{NatsOptions, NatsServer};
use kollect::lab::{Lab, LabOptions};
use kollect::secret::Secret;
use kollect::sinks::nats::{Creation, NatsConfig, NatsCredentials, NatsServers};
use kollect::sinks::netguard::Guard;
use kollect::sinks::{Backend, DocumentSink, RowSink, TlsConfig};
use tokio_util::sync::CancellationToken;

const USER: &str = "kollect";
const PASSWORD: &str = "0123456789";
const STREAM: &str = "kollect_events";

/// A server of one test, and the lab that it belongs to.
struct Ground {
    server: NatsServer,
    _lab: Lab,
}

impl Ground {
    async fn new(options: NatsOptions) -> Option<Self> {
        let parts = LabOptions { control_plane: false, postgres: false, ..LabOptions::default() };
        let lab = crate::support::lab_or_skip(parts).await?;
        let server = NatsServer::start(lab.dir(), options, lab.guard()).await;
        Some(Self { server: crate::support::part_or_skip(server)?, _lab: lab })
    }

    /// A server that asks for user and password.
    async fn with_login() -> Option<Self> {
        let login = Some((USER.to_owned(), PASSWORD.to_owned()));
        Self::new(NatsOptions { login, ..NatsOptions::default() }).await
    }

    fn config(&self, mode: StreamMode) -> NatsConfig {
        config(&self.server.url(), mode)
    }
}

fn config(url: &str, mode: StreamMode) -> NatsConfig {
    NatsConfig {
        url: url.to_owned(),
        stream: STREAM.to_owned(),
        subject: "inventory.{cluster}.{namespace}.{name}".to_owned(),
        mode,
        create: Creation::Ensure,
        credentials: NatsCredentials::User(USER.to_owned(), Secret::new(PASSWORD)),
        tls: TlsConfig::default(),
    }
}

/// One life of an operator.
fn life(process: &str) -> NatsServers {
    let guard = Guard { allow_private: false, allow_loopback: true };
    let life = Life { process: process.to_owned(), lease_transitions: 0 };
    NatsServers::new(guard, life, jiff::Timestamp::now, CancellationToken::new())
}

fn row_sink(life: &NatsServers, config: &NatsConfig) -> Arc<dyn RowSink> {
    match life.sink(config).unwrap() {
        Backend::Rows(sink) => sink,
        Backend::Documents(_) => panic!("the sink takes documents"),
    }
}

fn document_sink(life: &NatsServers, config: &NatsConfig) -> Arc<dyn DocumentSink> {
    match life.sink(config).unwrap() {
        Backend::Documents(sink) => sink,
        Backend::Rows(_) => panic!("the sink takes rows"),
    }
}
