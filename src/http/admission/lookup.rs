//! What a review needs of other objects, asked of the API server when it is needed.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::admission::{Needs, Surroundings};
use crate::api::v1alpha1::{GroupVersionKind, Kind};
use crate::metrics::{Metrics, Verb};
use crate::model::{Gvk, Name, Namespace, ObjectKey};
use crate::validate::scope::{self, Denial};

/// One question to the API server.
const DEADLINE: Duration = Duration::from_secs(3);

/// Why a review cannot be finished.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// A scope forbids everything, for it cannot be read.
    #[error("{0}")]
    Denied(String),
    /// The API server refused to answer, or could not be asked.
    #[error("failed to look up {what}, which decides on this object; try again")]
    Api {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server said nothing at all.
    #[error("failed to look up {what}, which decides on this object: no answer within {} s; try again", DEADLINE.as_secs())]
    Silent { what: String },
    /// The review itself broke.
    #[error("the review ended in a panic")]
    Panic(#[source] JoinError),
}

/// Asks the API server.
pub(super) struct Lookup {
    client: kube::Client,
    metrics: Arc<Metrics>,
}

impl Lookup {
    pub(super) fn new(client: kube::Client, metrics: Arc<Metrics>) -> Self {
        Self { client, metrics }
    }

    /// Finds what is needed, and asks for nothing else.
    pub(super) async fn find(&self, needs: &Needs) -> Result<Surroundings, LookupError> {
        let mut around = Surroundings::default();
        if let Some(namespace) = &needs.scope
            && let Some((key, spec)) = self.first(Kind::Scope, namespace).await?
        {
            around.ceiling = understood(Kind::Scope, &key, spec, |spec| scope::scope(&key, spec))?;
        }
        if needs.cluster_scope
            && let Some((key, spec)) = self.first(Kind::ClusterScope, &Namespace::new("")).await?
        {
            around.cluster = understood(Kind::ClusterScope, &key, spec, |spec| scope::cluster_scope(&key, spec))?;
        }
        if let Some(key) = &needs.profile {
            around.profile = self.profile(key).await?;
        }
        Ok(around)
    }

    /// Returns the scope that holds. An API server lists in the order of names, so the first is all that is asked for.
    async fn first(&self, kind: Kind, namespace: &Namespace) -> Result<Option<(ObjectKey, Value)>, LookupError> {
        let (api, first) = (self.api(kind, namespace), ListParams::default().limit(1));
        let what = if namespace.is_empty() {
            kind.plural().to_owned()
        } else {
            format!("{} in namespace {:?}", kind.plural(), namespace.as_str())
        };
        let list = self.call(Verb::List, kind, what, api.list(&first)).await?;
        Ok(list.items.into_iter().next().map(|object| {
            let name = Name::new(object.metadata.name.unwrap_or_default());
            let spec = object.data.get("spec").cloned().unwrap_or_default();
            (ObjectKey::new(namespace.clone(), name), spec)
        }))
    }

    /// Returns the kind that a profile reads; nothing when there is no such profile yet, or none that can be read.
    async fn profile(&self, key: &ObjectKey) -> Result<Option<Gvk>, LookupError> {
        let api = self.api(Kind::Profile, &key.namespace);
        let what = format!("{} {key}", Kind::Profile.as_str());
        let found = self.call(Verb::Get, Kind::Profile, what, api.get_opt(key.name.as_str())).await?;
        let gvk = found.and_then(|object| object.data.get("spec")?.get("targetGVK").cloned());
        Ok(gvk.and_then(|gvk| serde_json::from_value::<GroupVersionKind>(gvk).ok()).map(|gvk| Gvk::from(&gvk)))
    }

    fn api(&self, kind: Kind, namespace: &Namespace) -> Api<DynamicObject> {
        let client = self.client.clone();
        if namespace.is_empty() {
            Api::all_with(client, &kind.resource())
        } else {
            Api::namespaced_with(client, namespace.as_str(), &kind.resource())
        }
    }

    /// Awaits one answer and counts it.
    async fn call<T>(
        &self,
        verb: Verb,
        kind: Kind,
        what: String,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, LookupError> {
        let answer = timeout(DEADLINE, answer).await;
        let code = match &answer {
            Ok(Ok(_)) => Some(200),
            Ok(Err(kube::Error::Api(status))) => Some(status.code),
            Ok(Err(_)) | Err(_) => None,
        };
        self.metrics.api_request(verb, kind.plural(), code);
        match answer {
            Ok(answer) => answer.map_err(|source| LookupError::Api { what, source: Box::new(source) }),
            Err(_) => Err(LookupError::Silent { what }),
        }
    }
}

/// Reads a scope; one that cannot be read allows nothing.
fn understood<S: DeserializeOwned, T, E: Display>(
    kind: Kind,
    key: &ObjectKey,
    spec: Value,
    read: impl FnOnce(&S) -> Result<T, E>,
) -> Result<T, LookupError> {
    let denied = |error: &dyn Display| LookupError::Denied(Denial::unreadable(kind, key, error).message);
    let spec: S = serde_json::from_value(spec).map_err(|error| denied(&error))?;
    read(&spec).map_err(|error| denied(&error))
}
