//! The lease on the API server: four calls, each with a deadline.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{PostParams, WatchEvent, WatchParams};

use super::NAME;
use crate::metrics::{Metrics, Verb};

/// The server ends a watch after this; it is opened again at the next look.
const WATCH_SECONDS: u32 = 290;
/// The field manager of the lease.
const FIELD_MANAGER: &str = "kollect";
/// Plural of the resource, for metrics.
const LEASES: &str = "leases";

/// The lease as it changes; `None` is its removal. Ends when the connection does.
pub(super) type Changes = BoxStream<'static, Option<Lease>>;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("failed to {doing} lease {NAME}")]
    Refused {
        doing: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("failed to {doing} lease {NAME}: no answer within {} s", .after.as_secs_f64())]
    Silent { doing: &'static str, after: Duration },
}

impl ApiError {
    /// Tells whether the lease is no longer as we knew it: changed, made by somebody else, or deleted.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Self::Refused { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if matches!(status.code, 404 | 409))
            }
            Self::Silent { .. } => false,
        }
    }
}

/// Where the lease is. The real one is a server; tests script it.
pub(super) trait Leases: Send + Sync {
    /// Reads the lease; `None` when there is none.
    fn read(&self) -> BoxFuture<'_, Result<Option<Lease>, ApiError>>;

    /// Creates the lease, or replaces the version that it carries and no other.
    fn write(&self, lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>>;

    /// Follows the lease, beginning with what it is now.
    fn watch(&self) -> BoxFuture<'_, Result<Changes, ApiError>>;
}

/// The lease behind a [`kube::Client`].
pub(super) struct KubeLeases {
    api: Api<Lease>,
    metrics: Arc<Metrics>,
    deadline: Duration,
}

impl KubeLeases {
    pub(super) fn new(client: kube::Client, namespace: &str, metrics: Arc<Metrics>, deadline: Duration) -> Self {
        Self { api: Api::namespaced(client, namespace), metrics, deadline }
    }

    /// Awaits one answer and counts it.
    async fn call<T>(
        &self,
        verb: Verb,
        doing: &'static str,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        let answer = tokio::time::timeout(self.deadline, answer).await;
        let code = match &answer {
            Ok(Ok(_)) => Some(200),
            Ok(Err(kube::Error::Api(status))) => Some(status.code),
            Ok(Err(_)) | Err(_) => None,
        };
        self.metrics.api_request(verb, LEASES, code);
        match answer {
            Ok(answer) => answer.map_err(|source| ApiError::Refused { doing, source: Box::new(source) }),
            Err(_) => Err(ApiError::Silent { doing, after: self.deadline }),
        }
    }
}

impl Leases for KubeLeases {
    fn read(&self) -> BoxFuture<'_, Result<Option<Lease>, ApiError>> {
        Box::pin(self.call(Verb::Get, "read", self.api.get_opt(NAME)))
    }

    fn write(&self, lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>> {
        Box::pin(async move {
            let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            if lease.metadata.resource_version.is_none() {
                self.call(Verb::Create, "create", self.api.create(&parameters, &lease)).await
            } else {
                self.call(Verb::Update, "replace", self.api.replace(NAME, &parameters, &lease)).await
            }
        })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Changes, ApiError>> {
        Box::pin(async move {
            // The role permits one name, and the server takes it from this selector.
            let parameters = WatchParams::default().fields(&format!("metadata.name={NAME}")).timeout(WATCH_SECONDS);
            // Without a version the watch begins with the present.
            let events = self.call(Verb::Watch, "watch", self.api.watch(&parameters, "")).await?;
            let changes = events.try_filter_map(|event| async {
                Ok(match event {
                    WatchEvent::Added(lease) | WatchEvent::Modified(lease) => Some(Some(lease)),
                    WatchEvent::Deleted(_) => Some(None),
                    WatchEvent::Bookmark(_) => None,
                    WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                })
            });
            // Whatever breaks it, the next look at the lease opens it again.
            Ok(changes.take_while(|change| std::future::ready(change.is_ok())).filter_map(async |c| c.ok()).boxed())
        })
    }
}
