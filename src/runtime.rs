//! The task tree: what is started, who waits for whom, and the order of the end.

use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::version;
use crate::config::{Config, Servers};
use crate::http::health::Readiness;
use crate::http::{self, HttpError, Server};
use crate::metrics::Metrics;

/// Why the operator ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A server could not start or go on.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A task panicked.
    #[error("a task ended in a panic")]
    Panic(#[source] JoinError),
    /// A task that runs as long as the process ended before it.
    #[error("a task ended before it was told to")]
    Ended,
}

/// Runs the operator until `stop` is cancelled, then ends it in order.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RuntimeError> {
    let metrics = Arc::new(Metrics::new(version::VERSION, version::COMMIT));
    let readiness = Readiness::new();
    // The servers outlive the work, so that the end can be observed.
    let serving = CancellationToken::new();
    let mut tasks = serve(&config.servers, &metrics, &readiness, &serving).await?;
    readiness.ready();
    let early = stop.run_until_cancelled(tasks.join_next()).await;
    readiness.stopping();
    serving.cancel();
    let mut verdict = match early {
        Some(Some(ended)) => flatten(ended).and(Err(RuntimeError::Ended)),
        // No task at all (both servers off), or told to stop.
        Some(None) => {
            stop.cancelled().await;
            Ok(())
        }
        None => Ok(()),
    };
    while let Some(ended) = tasks.join_next().await {
        verdict = verdict.and(flatten(ended));
    }
    verdict
}

/// Starts the servers that have an address.
async fn serve(
    servers: &Servers,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<JoinSet<Result<(), HttpError>>, RuntimeError> {
    let mut tasks = JoinSet::new();
    let wanted = [
        ("health-probe-bind-address", &servers.health, http::health::router(readiness.clone())),
        ("metrics-bind-address", &servers.metrics, http::metrics::router(metrics.clone())),
    ];
    for (flag, address, router) in wanted {
        let Some(address) = address else { continue };
        let server = Server::bind(flag, address, router).await?;
        info!(flag, address = %server.address(), "listening");
        tasks.spawn(server.serve(stop.clone()));
    }
    Ok(tasks)
}

fn flatten(ended: Result<Result<(), HttpError>, JoinError>) -> Result<(), RuntimeError> {
    Ok(ended.map_err(RuntimeError::Panic)??)
}
