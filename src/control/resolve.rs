//! From a sink object and the Secrets that it points at to the settings of its backend.
//!
//! Inventories, sinks and connection tests resolve a sink here, so that all of them see the same settings and say the
//! same about what is wrong. What is read are shelves and Secrets that are known already; a Secret that is not yet known
//! is read beside, and its news queue whoever asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Control;
use super::secrets::{Content, Lookup, SHARED_WITH};
use super::shelf::Object;
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::sink::{ProvisioningMode, Tls};
use crate::api::v1alpha1::{KollectDatabaseSinkSpec, SecretRef};
use crate::config::CrossNamespaceSecrets;
use crate::error::{Class, Classify, chain};
use crate::model::{Cluster, Name, Namespace, ObjectKey, SinkKey};
use crate::sinks::postgres::{PostgresConfig, Provisioning};
use crate::sinks::{SinkError, TlsConfig};
use crate::validate;

/// What is said of a binding between its resolution and its first delivery.
pub(super) const STARTING: &str = "the first delivery is being prepared: Secrets, lists, the destination";

/// A sink that cannot be used, or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Something is wrong, and this is what to do.
    Refused(Failing),
    /// It takes another round: a Secret is being read, or the destination recorded.
    Wait(&'static str),
}

/// What is wrong with a sink or a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failing {
    pub(super) reason: &'static str,
    pub(super) class: Class,
    pub(super) message: String,
}

impl From<&SinkError> for Failing {
    fn from(error: &SinkError) -> Self {
        Self { reason: error.reason(), class: error.class(), message: chain(error) }
    }
}

/// A Postgres sink with everything that its spec points at.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) config: PostgresConfig,
    pub(super) cluster: Cluster,
    /// Versions of the Secrets, in the order in which they were read.
    pub(super) versions: String,
}

impl Obstacle {
    pub(super) fn refused(reason: &'static str, message: String) -> Self {
        Self::Refused(Failing { reason, class: Class::Terminal, message })
    }
}

impl Control {
    /// Resolves a Postgres sink with its Secrets.
    pub(super) fn postgres_config(
        &self,
        key: &SinkKey,
        sink: &Object<KollectDatabaseSinkSpec>,
    ) -> Result<Resolved, Obstacle> {
        let kind = "KollectDatabaseSink";
        let name = key.object.name.as_str();
        let spec = sink
            .spec
            .as_ref()
            .map_err(|error| Obstacle::refused(reasons::INVALID_SPEC, format!("{kind} {name:?}: {error}")))?;
        if let Some(unserved) = validate::not_served::message(&validate::not_served::database_sink(spec)) {
            return Err(Obstacle::refused(reasons::NOT_SERVED, format!("{kind} {name:?}: {unserved}")));
        }
        let postgres = validate::postgres(spec)
            .map_err(|errors| Obstacle::refused(reasons::INVALID_SPEC, format!("{kind} {name:?}: {errors}")))?;
        let mut secrets = SecretReader { control: self, sink: key, versions: Vec::new() };
        let content = secrets.read("spec.postgres.databaseRef", &postgres.database_ref)?;
        let keys = ["dsn", "url", "connectionString", "DATABASE_URL"];
        let dsn = secrets.value("spec.postgres.databaseRef", &postgres.database_ref, &content, &keys)?;
        let tls = secrets.tls(&postgres.tls)?;
        let config = PostgresConfig {
            dsn,
            schema: postgres.schema,
            table: postgres.table,
            state_table: Some(postgres.state_table),
            provisioning: match postgres.provisioning {
                ProvisioningMode::Ensure => Provisioning::Ensure,
                ProvisioningMode::Existing => Provisioning::Existing,
            },
            tls,
            statement_timeout: postgres.statement_timeout,
            lock_timeout: postgres.lock_timeout,
        };
        Ok(Resolved { config, cluster: postgres.cluster, versions: secrets.versions.join(",") })
    }

    /// Lets go of Secrets that no sink points at any more.
    pub(super) fn forget_secrets(&self) {
        let mut wanted = BTreeSet::new();
        for (key, sink) in self.shelves.databases.iter() {
            let Ok(spec) = &sink.spec else { continue };
            wanted.extend(secret_refs(spec).map(|secret| secret_key(&key.namespace, secret)));
        }
        self.secrets.retain(&wanted);
    }
}

/// Reads the Secrets of one sink, and notes their versions.
struct SecretReader<'a> {
    control: &'a Control,
    sink: &'a SinkKey,
    versions: Vec<String>,
}

impl SecretReader<'_> {
    fn failed(&self, field: &str, what: &str) -> Obstacle {
        let message = format!("KollectDatabaseSink {:?}: {field}: {what}", self.sink.object.name.as_str());
        Obstacle::refused(reasons::SECRET_RESOLVE_FAILED, message)
    }

    fn read(&mut self, field: &str, secret: &SecretRef) -> Result<Arc<Content>, Obstacle> {
        let own = &self.sink.object.namespace;
        let key = secret_key(own, secret);
        match self.control.secrets.get(&key) {
            Lookup::Pending => Err(Obstacle::Wait(STARTING)),
            Lookup::Missing => Err(self.failed(field, &format!("there is no Secret {key}; create it"))),
            Lookup::Failed(error) => Err(self.failed(field, &format!("failed to read Secret {key}: {error}"))),
            Lookup::Found(content) => {
                let any = self.control.parts.config.network.cross_namespace_secrets == CrossNamespaceSecrets::Any;
                if key.namespace != *own && !any && !content.shared_with(own) {
                    let what = format!(
                        "Secret {key} is not shared with namespace {:?}; annotate it with {SHARED_WITH}: {:?}",
                        own.as_str(),
                        own.as_str()
                    );
                    return Err(self.failed(field, &what));
                }
                self.versions.push(content.version.clone());
                Ok(content)
            }
        }
    }

    fn value(
        &self,
        field: &str,
        secret: &SecretRef,
        content: &Content,
        keys: &[&str],
    ) -> Result<crate::secret::Secret, Obstacle> {
        content.first(keys).ok_or_else(|| {
            let what = format!("Secret {:?} has none of the keys {}", secret.name, keys.join(", "));
            self.failed(field, &what)
        })
    }

    fn tls(&mut self, tls: &Tls) -> Result<TlsConfig, Obstacle> {
        let mut config = TlsConfig { insecure_skip_verify: tls.insecure_skip_verify, ..TlsConfig::default() };
        if let Some(bundle) = &tls.ca_bundle {
            config.ca_pem = Some(bundle.0.clone());
        } else if let Some(secret) = &tls.ca_secret_ref {
            let content = self.read("spec.tls.caSecretRef", secret)?;
            let keys = ["tls.crt", "ca.crt", "ca.pem"];
            let pem = self.value("spec.tls.caSecretRef", secret, &content, &keys)?;
            config.ca_pem = Some(pem.expose().as_bytes().to_vec());
        }
        if let Some(secret) = &tls.client_secret_ref {
            let content = self.read("spec.tls.clientSecretRef", secret)?;
            let certificate = self.value("spec.tls.clientSecretRef", secret, &content, &["tls.crt"])?;
            config.client_cert_pem = Some(certificate.expose().as_bytes().to_vec());
            config.client_key_pem = Some(self.value("spec.tls.clientSecretRef", secret, &content, &["tls.key"])?);
        }
        Ok(config)
    }
}

/// Tells whether a sink points at one of these Secrets.
pub(super) fn points_at(
    key: &ObjectKey,
    sink: &Object<KollectDatabaseSinkSpec>,
    secrets: &BTreeSet<ObjectKey>,
) -> bool {
    let Ok(spec) = &sink.spec else { return false };
    secret_refs(spec).any(|secret| secrets.contains(&secret_key(&key.namespace, secret)))
}

fn secret_key(own: &Namespace, secret: &SecretRef) -> ObjectKey {
    let namespace =
        if secret.namespace.trim().is_empty() { own.clone() } else { Namespace::new(secret.namespace.trim()) };
    ObjectKey::new(namespace, Name::new(secret.name.as_str()))
}

/// Returns every Secret that a sink points at.
fn secret_refs(spec: &KollectDatabaseSinkSpec) -> impl Iterator<Item = &SecretRef> {
    let tls = spec.common.tls.iter();
    let own = spec.postgres.iter().map(|postgres| &postgres.database_ref);
    own.chain(tls.flat_map(|tls| tls.ca_secret_ref.iter().chain(tls.client_secret_ref.iter())))
}
