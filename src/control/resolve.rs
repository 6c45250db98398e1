//! From a sink object and the Secrets that it points at to the settings of its backend.
//!
//! Inventories, sinks and connection tests resolve a sink here, so that all of them see the same settings and say the
//! same about what is wrong. What is read are shelves and Secrets that are known already; a Secret that is not yet known
//! is read beside, and its news queue whoever asked.

mod git;
mod kafka;
mod nats;
mod object;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Control;
use super::family::{Checked, SinkObject, check};
use super::secrets::{Content, Lookup, SHARED_WITH};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::sink::{ProvisioningMode, Tls};
use crate::api::v1alpha1::{Destination, Kind, SecretRef};
use crate::config::CrossNamespaceSecrets;
use crate::error::{Class, Classify, chain};
use crate::metrics::SinkType;
use crate::model::{Cluster, Name, Namespace, ObjectKey, SinkKey};
use crate::sinks::git::GitConfig;
use crate::sinks::kafka::KafkaConfig;
use crate::sinks::nats::NatsConfig;
use crate::sinks::object::ObjectConfig;
use crate::sinks::postgres::{PostgresConfig, Provisioning};
use crate::sinks::{Backend, SinkError, TlsConfig};
use crate::validate::{Encoding, ValidatedPostgres};

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

/// A sink with everything that its spec points at.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) settings: Settings,
    pub(super) cluster: Cluster,
    /// Versions of the Secrets, in the order in which they were read.
    pub(super) versions: String,
}

/// The settings of one backend.
#[derive(Debug)]
pub(super) enum Settings {
    Postgres(Box<PostgresConfig>),
    Git(Box<GitConfig>),
    Object(Box<ObjectConfig>),
    Nats(Box<NatsConfig>),
    Kafka(Box<KafkaConfig>),
}

impl Settings {
    /// Notes in a record of a place what it takes to find that place again.
    pub(super) fn note(&self, place: &mut Destination) {
        match self {
            Self::Postgres(config) => {
                place.schema.clone_from(&config.schema);
                place.table.clone_from(&config.table);
                place.state_table = config.state_table.clone().unwrap_or_default();
            }
            Self::Git(config) => place.branch = config.branch.clone().unwrap_or_default(),
            Self::Object(config) => config.encoding.format().clone_into(&mut place.format),
            Self::Kafka(config) => place.table.clone_from(&config.topic),
            Self::Nats(config) => {
                place.schema.clone_from(&config.subject);
                place.table.clone_from(&config.stream);
            }
        }
    }

    /// Points the settings at a place on record, with the connection that they have; `None` where it is none of theirs.
    pub(super) fn pointed_at(mut self, place: &Destination) -> Option<Self> {
        let types: &[SinkType] = match &mut self {
            Self::Postgres(config) => {
                config.schema.clone_from(&place.schema);
                config.table.clone_from(&place.table);
                config.state_table = Some(place.state_table.clone());
                &[SinkType::Postgres]
            }
            Self::Git(config) => {
                config.branch = Some(place.branch.clone());
                &[SinkType::Git, SinkType::Gitlab]
            }
            Self::Object(config) => {
                config.encoding = Encoding::named(&place.format)?;
                &[SinkType::S3, SinkType::Gcs]
            }
            Self::Nats(config) => {
                config.subject.clone_from(&place.schema);
                config.stream.clone_from(&place.table);
                &[SinkType::Nats]
            }
            Self::Kafka(config) => {
                config.topic.clone_from(&place.table);
                &[SinkType::Kafka]
            }
        };
        types.iter().any(|kind| kind.as_str() == place.type_).then_some(self)
    }
}

impl Obstacle {
    pub(super) fn refused(reason: &'static str, message: String) -> Self {
        Self::Refused(Failing { reason, class: Class::Terminal, message })
    }
}

impl Control {
    /// Resolves a sink with its Secrets.
    pub(super) fn resolve(&self, key: &SinkKey, sink: &SinkObject) -> Result<Resolved, Obstacle> {
        let kind = Kind::of_family(key.family).as_str();
        let checked = check(sink).map_err(|failing| {
            let message = format!("{kind} {:?}: {}", key.object.name.as_str(), failing.message);
            Obstacle::Refused(Failing { message, ..failing })
        })?;
        let spec = sink.spec.as_ref().map_err(|error| Obstacle::refused(reasons::INVALID_SPEC, error.to_string()))?;
        let mut secrets = SecretReader { control: self, sink: key, versions: Vec::new() };
        let (settings, cluster) = match checked {
            Checked::Postgres(postgres) => {
                let config = secrets.postgres(&postgres)?;
                (Settings::Postgres(Box::new(config)), postgres.cluster)
            }
            Checked::Git(git) => (Settings::Git(Box::new(secrets.git(&git, spec.common())?)), git.cluster),
            Checked::Object(object) => (Settings::Object(Box::new(secrets.object(&object)?)), object.cluster),
            Checked::Kafka(kafka) => (Settings::Kafka(Box::new(secrets.kafka(&kafka)?)), kafka.cluster),
            Checked::Nats(nats) => (Settings::Nats(Box::new(secrets.nats(&nats)?)), nats.cluster),
        };
        Ok(Resolved { settings, cluster, versions: secrets.versions.join(",") })
    }

    /// Opens the backend of a sink. Nothing is connected yet.
    pub(super) fn open(&self, settings: &Settings) -> Result<Backend, Obstacle> {
        let registry = &self.parts.registry;
        let opened = match settings {
            Settings::Postgres(config) => registry.postgres(config),
            Settings::Git(config) => registry.git(config),
            Settings::Object(config) => registry.object(config),
            Settings::Kafka(config) => registry.kafka(config),
            Settings::Nats(config) => registry.nats(config),
        };
        opened.map_err(|error| Obstacle::Refused(Failing::from(&error)))
    }

    /// Lets go of Secrets that no sink points at any more.
    pub(super) fn forget_secrets(&self) {
        let mut wanted = BTreeSet::new();
        for (key, sink) in self.shelves.sinks.iter() {
            let Ok(spec) = &sink.spec else { continue };
            wanted.extend(spec.secret_refs().into_iter().map(|secret| secret_key(&key.object.namespace, secret)));
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
        let kind = Kind::of_family(self.sink.family).as_str();
        let message = format!("{kind} {:?}: {field}: {what}", self.sink.object.name.as_str());
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

    fn postgres(&mut self, postgres: &ValidatedPostgres) -> Result<PostgresConfig, Obstacle> {
        let content = self.read("spec.postgres.databaseRef", &postgres.database_ref)?;
        let keys = ["dsn", "url", "connectionString", "DATABASE_URL"];
        let dsn = self.value("spec.postgres.databaseRef", &postgres.database_ref, &content, &keys)?;
        Ok(PostgresConfig {
            dsn,
            schema: postgres.schema.clone(),
            table: postgres.table.clone(),
            state_table: Some(postgres.state_table.clone()),
            provisioning: match postgres.provisioning {
                ProvisioningMode::Ensure => Provisioning::Ensure,
                ProvisioningMode::Existing => Provisioning::Existing,
            },
            tls: self.tls(&postgres.tls)?,
            statement_timeout: postgres.statement_timeout,
            lock_timeout: postgres.lock_timeout,
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
pub(super) fn points_at(key: &ObjectKey, sink: &SinkObject, secrets: &BTreeSet<ObjectKey>) -> bool {
    let Ok(spec) = &sink.spec else { return false };
    spec.secret_refs().into_iter().any(|secret| secrets.contains(&secret_key(&key.namespace, secret)))
}

fn secret_key(own: &Namespace, secret: &SecretRef) -> ObjectKey {
    let namespace =
        if secret.namespace.trim().is_empty() { own.clone() } else { Namespace::new(secret.namespace.trim()) };
    ObjectKey::new(namespace, Name::new(secret.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::secret::Secret;

    fn git(branch: &str) -> Settings {
        let object = ObjectKey::new(Namespace::new("team-a"), Name::new("repository"));
        let sink = SinkKey { family: Family::Snapshot, object };
        let config = GitConfig::new(sink, "https://git.example.com/x".to_owned());
        Settings::Git(Box::new(GitConfig { branch: Some(branch.to_owned()), ..config }))
    }

    fn postgres(table: &str) -> Settings {
        Settings::Postgres(Box::new(PostgresConfig {
            dsn: Secret::new("postgres://h/d"),
            schema: "public".to_owned(),
            table: table.to_owned(),
            state_table: Some(format!("{table}_state")),
            provisioning: Provisioning::Ensure,
            tls: TlsConfig::default(),
            statement_timeout: None,
            lock_timeout: None,
        }))
    }

    #[test]
    fn a_place_on_record_is_found_again_with_the_connection_of_today() {
        let recorded = |settings: &Settings, type_: &str| {
            let mut place = Destination { type_: type_.to_owned(), ..Destination::default() };
            settings.note(&mut place);
            place
        };
        let of_branch = recorded(&git("main"), "gitlab");
        assert_eq!((of_branch.branch.as_str(), of_branch.table.as_str()), ("main", ""));
        let of_table = recorded(&postgres("rows"), "postgres");
        assert_eq!((of_table.schema.as_str(), of_table.table.as_str()), ("public", "rows"));
        assert_eq!((of_table.state_table.as_str(), of_table.branch.as_str()), ("rows_state", ""));

        for (today, place) in [(git("other"), &of_branch), (postgres("other"), &of_table)] {
            let again = recorded(&today.pointed_at(place).unwrap(), &place.type_);
            assert_eq!(again, *place);
        }
        assert!(git("main").pointed_at(&of_table).is_none());
        assert!(postgres("rows").pointed_at(&of_branch).is_none());
    }
}
