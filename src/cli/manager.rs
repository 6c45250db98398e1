//! `kollect manager`: settings, logging, signals, then the operator until one of them ends it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::version;
use crate::config::{Config, Environment, Logging, ManagerArgs, Permission};
use crate::metrics::Metrics;
use crate::{runtime, telemetry};

/// How long blocking work may hold up the exit once everything else has ended.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// Runs the operator. Exit code 0 after a signal and an orderly end, 1 after a failure or a second signal.
pub fn run(args: ManagerArgs) -> ExitCode {
    if args.version {
        super::print(&version::line());
        return ExitCode::SUCCESS;
    }
    telemetry::start(Logging::from(&args));
    let config = match Config::new(args, Environment::read()) {
        Ok(config) => config,
        Err(error) => {
            error!(error = %error, "invalid settings");
            return ExitCode::FAILURE;
        }
    };
    match operate(config) {
        Ok(code) => code,
        Err(error) => {
            error!(error = format!("{error:#}"), "stopped by a failure");
            ExitCode::FAILURE
        }
    }
}

fn operate(config: Config) -> anyhow::Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the threads of the process")?;
    let code = tokio.block_on(until_signal(config));
    tokio.shutdown_timeout(LEFTOVERS);
    code
}

/// Runs until the operator ends by itself (a failure), or ends after the first signal, or a second signal arrives.
async fn until_signal(config: Config) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    announce(&config);
    let metrics = Arc::new(Metrics::new(version::VERSION, version::COMMIT));
    let stop = CancellationToken::new();
    let mut running = std::pin::pin!(runtime::run(config, metrics, stop.clone()));
    tokio::select! {
        ended = &mut running => return ended.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
        signal = next() => info!(signal, "stopping"),
    }
    stop.cancel();
    tokio::select! {
        ended = &mut running => {
            ended?;
            info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        signal = next() => {
            warn!(signal, "stopped at once by a second signal");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Says once what runs and what is out of the ordinary.
fn announce(config: &Config) {
    info!(version = version::VERSION, commit = version::COMMIT, "Starting manager");
    if config.servers.webhooks.is_none() {
        info!("Validating webhooks disabled");
    }
    if config.network.loopback_sinks == Permission::Allowed {
        warn!("--allow-loopback-sinks lets sinks reach what listens inside this pod; it is meant for tests");
    }
}
