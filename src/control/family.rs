//! Sink objects of all families that are served, as one: what control does with a sink does not depend on its family.

use std::sync::Arc;

use super::resolve::Failing;
use super::shelf::{Object, Shelf};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::sink::DeletionPolicy;
use crate::api::v1alpha1::{
    DatabaseSinkType, EventSinkType, KollectDatabaseSinkSpec, KollectEventSinkSpec, KollectSnapshotSinkSpec, SecretRef,
    SinkCommon, SnapshotSinkType,
};
use crate::error::Class;
use crate::metrics::SinkType;
use crate::model::{Family, Namespace, SinkKey};
use crate::sinks::Leave;
use crate::sinks::netguard::Guard;
use crate::validate::{
    self, FieldPath, Probe, ValidatedGit, ValidatedKafka, ValidatedNats, ValidatedObject, ValidatedPostgres,
};

/// A sink object of either family.
pub(super) type SinkObject = Object<SinkSpec>;

/// The spec of a sink.
#[derive(Debug)]
pub(super) enum SinkSpec {
    Snapshot(Box<KollectSnapshotSinkSpec>),
    Database(Box<KollectDatabaseSinkSpec>),
    Event(Box<KollectEventSinkSpec>),
}

impl From<KollectSnapshotSinkSpec> for SinkSpec {
    fn from(spec: KollectSnapshotSinkSpec) -> Self {
        Self::Snapshot(Box::new(spec))
    }
}

impl From<KollectDatabaseSinkSpec> for SinkSpec {
    fn from(spec: KollectDatabaseSinkSpec) -> Self {
        Self::Database(Box::new(spec))
    }
}

impl From<KollectEventSinkSpec> for SinkSpec {
    fn from(spec: KollectEventSinkSpec) -> Self {
        Self::Event(Box::new(spec))
    }
}

/// A spec that is understood.
#[derive(Debug)]
pub(super) enum Checked {
    Postgres(Box<ValidatedPostgres>),
    Git(Box<ValidatedGit>),
    Object(Box<ValidatedObject>),
    Nats(Box<ValidatedNats>),
    Kafka(Box<ValidatedKafka>),
}

impl Checked {
    /// Returns when the sink is probed.
    pub(super) fn probe(&self) -> Probe {
        match self {
            Self::Postgres(postgres) => postgres.probe,
            Self::Git(git) => git.probe,
            Self::Object(object) => object.probe,
            Self::Nats(nats) => nats.probe,
            Self::Kafka(kafka) => kafka.probe,
        }
    }
}

impl SinkSpec {
    /// Returns what sinks of all types have.
    pub(super) fn common(&self) -> &SinkCommon {
        match self {
            Self::Snapshot(spec) => &spec.common,
            Self::Database(spec) => &spec.common,
            Self::Event(spec) => &spec.common,
        }
    }

    /// Returns the `sink_type` of metrics; nothing for a type that has none.
    pub(super) fn kind(&self) -> Option<SinkType> {
        match self {
            Self::Snapshot(spec) => Some(match spec.type_ {
                SnapshotSinkType::Git => SinkType::Git,
                SnapshotSinkType::Gitlab => SinkType::Gitlab,
                SnapshotSinkType::S3 => SinkType::S3,
                SnapshotSinkType::Gcs => SinkType::Gcs,
            }),
            Self::Database(spec) => (spec.type_ == DatabaseSinkType::Postgres).then_some(SinkType::Postgres),
            Self::Event(spec) => Some(match spec.type_ {
                EventSinkType::Nats => SinkType::Nats,
                EventSinkType::Kafka => SinkType::Kafka,
            }),
        }
    }

    /// Returns what is to become of the rows of an inventory that goes: databases and repositories are cleaned up,
    /// object stores are archives.
    pub(super) fn leave(&self) -> Leave {
        let (wanted, archive) = match self {
            Self::Snapshot(spec) => {
                (spec.deletion_policy, matches!(spec.type_, SnapshotSinkType::S3 | SnapshotSinkType::Gcs))
            }
            Self::Database(spec) => (spec.deletion_policy, false),
            // Readers of a stream are told.
            Self::Event(_) => (None, false),
        };
        match wanted {
            Some(DeletionPolicy::Orphan) => Leave::Orphan,
            None if archive => Leave::Orphan,
            Some(DeletionPolicy::Delete) | None => Leave::Delete,
        }
    }

    /// Returns every Secret that the sink points at.
    pub(super) fn secret_refs(&self) -> Vec<&SecretRef> {
        let mut all: Vec<&SecretRef> = match self {
            Self::Snapshot(spec) => {
                let auth = spec.git.iter().filter_map(|git| git.auth.as_ref()?.secret_ref.as_ref());
                spec.common.secret_ref.iter().chain(auth).collect()
            }
            Self::Database(spec) => spec.postgres.iter().map(|postgres| &postgres.database_ref).collect(),
            Self::Event(spec) => {
                let nats = spec.nats.iter().filter_map(|nats| nats.secret_ref.as_ref());
                let kafka = spec.kafka.iter().filter_map(|kafka| kafka.secret_ref.as_ref());
                spec.common.secret_ref.iter().chain(nats).chain(kafka).collect()
            }
        };
        if let Some(tls) = &self.common().tls {
            all.extend(tls.ca_secret_ref.iter().chain(&tls.client_secret_ref));
        }
        all
    }

    /// Returns the hosts that it names, each with its place. Those of a database are in a Secret.
    fn hosts(&self) -> Vec<(FieldPath, String)> {
        match self {
            Self::Snapshot(spec) => validate::admitted::snapshot_hosts(spec),
            Self::Database(_) => Vec::new(),
            Self::Event(spec) => validate::admitted::event_hosts(spec),
        }
    }

    /// Returns what this build does not serve of it.
    fn unserved(&self) -> Option<String> {
        validate::not_served::message(&match self {
            Self::Snapshot(spec) => validate::not_served::snapshot_sink(spec),
            Self::Database(spec) => validate::not_served::database_sink(spec),
            Self::Event(_) => Vec::new(),
        })
    }

    fn validate(&self) -> Result<Checked, validate::FieldErrors> {
        match self {
            Self::Snapshot(spec) => match spec.type_ {
                SnapshotSinkType::Git | SnapshotSinkType::Gitlab => {
                    validate::git(spec).map(|git| Checked::Git(Box::new(git)))
                }
                SnapshotSinkType::S3 | SnapshotSinkType::Gcs => {
                    validate::object(spec).map(|object| Checked::Object(Box::new(object)))
                }
            },
            Self::Database(spec) => validate::postgres(spec).map(|postgres| Checked::Postgres(Box::new(postgres))),
            Self::Event(spec) => match spec.type_ {
                EventSinkType::Nats => validate::nats(spec).map(|nats| Checked::Nats(Box::new(nats))),
                EventSinkType::Kafka => validate::kafka(spec).map(|kafka| Checked::Kafka(Box::new(kafka))),
            },
        }
    }
}

/// Checks what can be checked without Secrets.
pub(super) fn check(sink: &SinkObject) -> Result<Checked, Failing> {
    let failing = |reason, message| Failing { reason, class: Class::Terminal, message };
    let spec = sink.spec.as_ref().map_err(|error| failing(reasons::INVALID_SPEC, error.to_string()))?;
    if let Some(unserved) = spec.unserved() {
        return Err(failing(reasons::NOT_SERVED, unserved));
    }
    spec.validate().map_err(|errors| failing(reasons::INVALID_SPEC, errors.to_string()))
}

/// Refuses a sink that names a host which no connection goes to. Who connects finds out as well, and may not for long.
pub(super) fn check_hosts(sink: &SinkObject, guard: Guard) -> Result<(), Failing> {
    let hosts = sink.spec.as_ref().map(SinkSpec::hosts).unwrap_or_default();
    let refused = hosts.iter().find_map(|(path, host)| Some((path, guard.check_literal(host).err()?)));
    refused.map_or(Ok(()), |(path, refusal)| {
        let message = format!("{path}: {refusal}; name another host");
        Err(Failing { reason: reasons::INVALID_SPEC, class: Class::Terminal, message })
    })
}

/// The sink objects of all families.
#[derive(Debug, Default)]
pub(super) struct SinkShelves {
    pub(super) snapshots: Shelf<SinkSpec>,
    pub(super) databases: Shelf<SinkSpec>,
    pub(super) events: Shelf<SinkSpec>,
}

impl SinkShelves {
    /// Returns the shelf of a family.
    pub(super) fn of(&self, family: Family) -> &Shelf<SinkSpec> {
        match family {
            Family::Snapshot => &self.snapshots,
            Family::Database => &self.databases,
            Family::Event => &self.events,
        }
    }

    pub(super) fn get(&self, key: &SinkKey) -> Option<&Arc<SinkObject>> {
        self.of(key.family).get(&key.object)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SinkKey, &SinkObject)> {
        let shelves =
            [(Family::Snapshot, &self.snapshots), (Family::Database, &self.databases), (Family::Event, &self.events)];
        shelves.into_iter().flat_map(|(family, shelf)| {
            shelf.iter().map(move |(object, sink)| (SinkKey { family, object: object.clone() }, &**sink))
        })
    }

    /// Returns the sinks of one namespace.
    pub(super) fn within(&self, namespace: &Namespace) -> Vec<SinkKey> {
        let mut keys = Vec::new();
        for (family, shelf) in
            [(Family::Database, &self.databases), (Family::Snapshot, &self.snapshots), (Family::Event, &self.events)]
        {
            let here = shelf.within(namespace).map(|(object, _)| SinkKey { family, object: object.clone() });
            keys.extend(here);
        }
        keys
    }

    /// Tells whether the first lists are complete.
    pub(super) fn synced(&self) -> bool {
        self.snapshots.synced() && self.databases.synced() && self.events.synced()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn snapshot(spec: Value) -> SinkSpec {
        SinkSpec::from(serde_json::from_value::<KollectSnapshotSinkSpec>(spec).unwrap())
    }

    fn database(spec: Value) -> SinkSpec {
        SinkSpec::from(serde_json::from_value::<KollectDatabaseSinkSpec>(spec).unwrap())
    }

    #[test]
    fn object_stores_alone_keep_what_an_inventory_leaves_unless_told_otherwise() {
        for (spec, want) in [
            (snapshot(json!({"type": "git"})), Leave::Delete),
            (snapshot(json!({"type": "gitlab"})), Leave::Delete),
            (snapshot(json!({"type": "git", "deletionPolicy": "Orphan"})), Leave::Orphan),
            (snapshot(json!({"type": "s3"})), Leave::Orphan),
            (snapshot(json!({"type": "gcs", "deletionPolicy": "Delete"})), Leave::Delete),
            (database(json!({"type": "postgres"})), Leave::Delete),
            (database(json!({"type": "postgres", "deletionPolicy": "Orphan"})), Leave::Orphan),
        ] {
            assert_eq!(spec.leave(), want, "{spec:?}");
        }
    }

    #[test]
    fn every_secret_of_a_sink_is_known() {
        let tls = json!({"caSecretRef": {"name": "ca"}, "clientSecretRef": {"name": "client"}});
        let names = |spec: &SinkSpec| -> Vec<String> {
            spec.secret_refs().into_iter().map(|secret| secret.name.clone()).collect()
        };
        let git = json!({
            "type": "git", "secretRef": {"name": "a"}, "git": {"auth": {"secretRef": {"name": "b"}}}, "tls": tls,
        });
        assert_eq!(names(&snapshot(git)), ["a", "b", "ca", "client"]);
        let postgres =
            json!({"type": "postgres", "postgres": {"databaseRef": {"name": "d"}, "table": "t"}, "tls": tls});
        assert_eq!(names(&database(postgres)), ["d", "ca", "client"]);
    }
}
