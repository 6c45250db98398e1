//! KollectInventory: which sinks get the rows of a namespace.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use report::{SinkState, SinkView, degraded, findings, substance};

use super::Control;
use super::secrets::{Content, Lookup, SHARED_WITH};
use super::shelf::Object;
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::sink::{ProvisioningMode, Tls};
use crate::api::v1alpha1::{
    Destination, InventorySinkRef, Kind, KollectDatabaseSinkSpec, KollectInventorySpec, KollectInventoryStatus,
    SecretRef,
};
use crate::config::CrossNamespaceSecrets;
use crate::deliver::Binding;
use crate::error::{Class, Classify, chain};
use crate::export::Scope;
use crate::model::{BindingKey, Cluster, Family, InventoryKey, Name, Namespace, ObjectKey, SinkKey, Uid};
use crate::sinks::Sink;
use crate::sinks::postgres::{PostgresConfig, Provisioning, TlsConfig};
use crate::validate;

/// From so many rows on, splitting an inventory is advised.
const SHARD_WARNING_ROWS: usize = 1800;
/// A write that is older than this by the clock of the status is taken over after a restart.
const REMEMBERED_INTERVAL: Duration = Duration::from_mins(1);
/// What is said of a binding between its resolution and its first delivery.
const STARTING: &str = "the first delivery is being prepared: Secrets, lists, the destination";
/// A waiting change is not behind before its interval is over by this.
const SYNC_GRACE: Duration = Duration::from_secs(30);

/// What is remembered of an inventory between two reconciles.
#[derive(Debug, Default)]
pub(super) struct State {
    bindings: BTreeMap<BindingKey, Bound>,
    warned: bool,
}

/// A binding that the delivery stage has been told of.
#[derive(Debug)]
struct Bound {
    /// What it was bound with; empty until the destination is on record.
    revision: String,
    destination: Destination,
}

/// A reference that cannot be bound, or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Obstacle {
    /// Something is wrong, and this is what to do.
    Refused(Failing),
    /// It takes another round: a Secret is being read, or the destination recorded.
    Wait(&'static str),
}

/// What is wrong with a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failing {
    reason: &'static str,
    class: Class,
    message: String,
}

impl Obstacle {
    fn refused(reason: &'static str, message: String) -> Self {
        Self::Refused(Failing { reason, class: Class::Terminal, message })
    }
}

/// One reference of the spec, resolved as far as it goes.
struct Ref {
    sink: SinkKey,
    outcome: Result<(), Obstacle>,
    interval: Duration,
}

impl Control {
    pub(super) async fn reconcile_inventory(&mut self, key: &InventoryKey) -> Option<Class> {
        let Some(object) = self.shelves.inventories.get(key).cloned() else {
            if let Some(state) = self.inventories.remove(key) {
                self.unbind(state.bindings.into_keys()).await;
            }
            self.forget(&(Kind::Inventory, key.clone()));
            self.forget_secrets();
            return None;
        };
        let mut state = self.inventories.remove(key).unwrap_or_default();
        let refs = self.bind_refs(key, &object, &mut state).await;
        let class = self.report_inventory(key, &object, &refs, &mut state);
        self.inventories.insert(key.clone(), state);
        class
    }

    async fn unbind(&self, keys: impl IntoIterator<Item = BindingKey>) {
        for key in keys {
            self.parts.deliveries.unbind(key).await;
        }
    }

    /// Resolves every reference and binds what can be bound. An inventory that cannot export keeps its rows in the
    /// sinks, and has a reason instead.
    async fn bind_refs(
        &mut self,
        key: &InventoryKey,
        object: &Object<KollectInventorySpec>,
        state: &mut State,
    ) -> Result<Vec<Ref>, Failing> {
        let failing = |reason, message: String| Failing { reason, class: Class::Terminal, message };
        let refused = match &object.spec {
            Err(error) => Some(failing(reasons::INVALID_SPEC, error.to_string())),
            Ok(spec) if spec.suspend => Some(failing(
                reasons::SUSPENDED,
                "spec.suspend is true: nothing is exported and the rows stay in every sink".to_owned(),
            )),
            Ok(_) => self
                .shelves
                .scopes
                .within(&key.namespace)
                .next()
                .map(|(scope, _)| failing(reasons::NOT_SERVED, validate::not_served::scope(scope).to_string())),
        };
        let spec = match (refused, &object.spec) {
            (None, Ok(spec)) => spec,
            (Some(refused), _) => {
                self.unbind(std::mem::take(&mut state.bindings).into_keys()).await;
                return Err(refused);
            }
            (None, Err(error)) => return Err(failing(reasons::INVALID_SPEC, error.to_string())),
        };
        let mut refs = Vec::new();
        for (family, list) in [
            (Family::Snapshot, &spec.snapshot_sink_refs),
            (Family::Database, &spec.database_sink_refs),
            (Family::Event, &spec.event_sink_refs),
        ] {
            for (index, sink) in list.iter().enumerate() {
                refs.push(self.bind_ref(key, object, spec, (family, index, sink), state).await);
            }
        }
        let named: BTreeSet<&SinkKey> = refs.iter().map(|sink| &sink.sink).collect();
        let removed: Vec<BindingKey> =
            state.bindings.keys().filter(|binding| !named.contains(&binding.sink)).cloned().collect();
        for binding in removed {
            state.bindings.remove(&binding);
            self.parts.deliveries.unbind(binding).await;
        }
        Ok(refs)
    }

    async fn bind_ref(
        &self,
        key: &InventoryKey,
        object: &Object<KollectInventorySpec>,
        spec: &KollectInventorySpec,
        (family, index, sink): (Family, usize, &InventorySinkRef),
        state: &mut State,
    ) -> Ref {
        let sink_key = SinkKey { family, object: ObjectKey::new(key.namespace.clone(), Name::new(sink.name.as_str())) };
        let mut interval = sink.export_min_interval.unwrap_or(spec.export_min_interval).get();
        let outcome = match family {
            Family::Snapshot | Family::Event => {
                let message = format!("spec.{}SinkRefs[{index}]: not in this build", family.as_str());
                Err(Obstacle::refused(reasons::NOT_SERVED, message))
            }
            Family::Database => match self.shelves.databases.get(&sink_key.object) {
                None => Err(Obstacle::refused(
                    reasons::SINK_NOT_FOUND,
                    format!(
                        "spec.databaseSinkRefs[{index}]: there is no KollectDatabaseSink {:?} in namespace {:?}; \
                         create it or remove the reference",
                        sink.name,
                        key.namespace.as_str()
                    ),
                )),
                Some(database) => {
                    let own = database.spec.as_ref().ok().and_then(|spec| spec.common.export_min_interval);
                    interval = sink.export_min_interval.or(own).unwrap_or(spec.export_min_interval).get();
                    let binding = BindingKey { inventory: key.clone(), sink: sink_key.clone() };
                    self.bind_database(binding, object, &database.clone(), interval, state).await
                }
            },
        };
        if let Err(Obstacle::Refused(_)) = &outcome {
            let binding = BindingKey { inventory: key.clone(), sink: sink_key.clone() };
            if state.bindings.remove(&binding).is_some() {
                self.parts.deliveries.unbind(binding).await;
            }
        }
        Ref { sink: sink_key, outcome, interval }
    }

    async fn bind_database(
        &self,
        key: BindingKey,
        inventory: &Object<KollectInventorySpec>,
        sink: &Object<KollectDatabaseSinkSpec>,
        interval: Duration,
        state: &mut State,
    ) -> Result<(), Obstacle> {
        let (config, cluster, versions) = self.postgres_config(&key.sink, sink)?;
        let revision =
            format!("{}/{}/{}/{}/{versions}", inventory.uid(), inventory.generation(), sink.uid(), sink.generation());
        if state.bindings.get(&key).is_some_and(|bound| bound.revision == revision) {
            return Ok(());
        }
        let opened = self.parts.registry.postgres(&config).map_err(|error| {
            Obstacle::Refused(Failing { reason: error.reason(), class: error.class(), message: chain(&error) })
        })?;
        // Where rows go is on record before the first one goes there (D7): it can then be found again.
        let recorded: KollectInventoryStatus = serde_json::from_value(inventory.status.clone()).unwrap_or_default();
        let destination = destination(&key, &cluster, &config, &*opened);
        if !recorded.destinations.iter().any(|there| same_place(there, &destination)) {
            state.bindings.insert(key, Bound { revision: String::new(), destination });
            return Err(Obstacle::Wait(STARTING));
        }
        let scope = Scope { cluster, inventory: key.inventory.clone(), inventory_uid: Uid::new(inventory.uid()) };
        let idle_for = recorded
            .sink_exports
            .iter()
            .find(|export| export.name == key.sink.to_string())
            .and_then(|export| export.last_export_time.as_ref())
            .filter(|_| interval >= REMEMBERED_INTERVAL)
            .map(|last| Timestamp::now().duration_since(last.0).unsigned_abs());
        let binding = Binding {
            key: key.clone(),
            sink: opened,
            scope: Arc::new(scope),
            interval,
            generation: inventory.generation(),
            max_row_bytes: None,
            revision: revision.clone(),
        };
        self.parts.deliveries.bind(binding, idle_for).await;
        state.bindings.insert(key, Bound { revision, destination });
        Ok(())
    }

    /// Resolves a Postgres sink with its Secrets; returns its cluster and the versions of the Secrets as well.
    fn postgres_config(
        &self,
        key: &SinkKey,
        sink: &Object<KollectDatabaseSinkSpec>,
    ) -> Result<(PostgresConfig, Cluster, String), Obstacle> {
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
        Ok((config, postgres.cluster, secrets.versions.join(",")))
    }

    /// Lets go of Secrets that no sink points at any more.
    fn forget_secrets(&self) {
        let mut wanted = BTreeSet::new();
        for (key, sink) in self.shelves.databases.iter() {
            let Ok(spec) = &sink.spec else { continue };
            wanted.extend(secret_refs(spec).map(|secret| secret_key(&key.namespace, secret)));
        }
        self.secrets.retain(&wanted);
    }

    fn report_inventory(
        &mut self,
        key: &InventoryKey,
        object: &Object<KollectInventorySpec>,
        refs: &Result<Vec<Ref>, Failing>,
        state: &mut State,
    ) -> Option<Class> {
        let table = self.parts.store.existing(&key.namespace);
        let rows = table.as_ref().map_or(0, |table| table.counts().rows);
        let whole = table.is_none_or(|table| table.knowledge().whole());
        self.parts.metrics.inventory_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        let before: KollectInventoryStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
        let now = Self::now();
        let generation = object.generation();
        let views: Vec<SinkView> = refs.iter().flatten().map(|sink| self.view(key, sink)).collect();
        let (mut findings, class) = match refs {
            Err(failing) => degraded(failing),
            Ok(_) => findings(&views, rows, whole),
        };
        if rows >= SHARD_WARNING_ROWS {
            if !std::mem::replace(&mut state.warned, true) {
                self.parts.metrics.shard_warnings.inc();
            }
            findings.push(Finding {
                type_: types::EXPORT_SHARD_WARNING,
                status: ConditionStatus::True,
                reason: reasons::APPROACHING_EXPORT_CAP,
                message: format!("{rows} rows; from {SHARD_WARNING_ROWS} on, more and smaller inventories are advised"),
            });
        } else {
            state.warned = false;
        }
        let sink_exports = match refs {
            Err(_) => before.sink_exports.clone(),
            Ok(_) => views.iter().map(|view| view.export(&before, generation, &now)).collect(),
        };
        let last_export_time = sink_exports.iter().filter_map(|export| export.last_export_time.clone()).max();
        let mut destinations = before.destinations.clone();
        for bound in state.bindings.values() {
            if !destinations.iter().any(|known| same_place(known, &bound.destination)) {
                destinations.push(bound.destination.clone());
            }
        }
        // A process that has just started knows less than what the last one reported: that stands until it knows better.
        let starting = class.is_none() && views.iter().any(|view| matches!(view.state, SinkState::Pending(_)));
        let conditions = if starting && !before.conditions.is_empty() && before.observed_generation == Some(generation)
        {
            before.conditions.clone()
        } else {
            merge(&before.conditions, &findings, generation, &now)
        };
        let status = KollectInventoryStatus {
            conditions,
            observed_generation: Some(generation),
            item_count: if whole { i64::try_from(rows).unwrap_or(i64::MAX) } else { before.item_count },
            last_export_time: last_export_time.or_else(|| before.last_export_time.clone()),
            sink_exports,
            destinations,
        };
        let substance = substance(&status);
        let status = serde_json::to_value(&status).unwrap_or_default();
        let patience = self.parts.config.control.status_min_interval;
        self.report((Kind::Inventory, key.clone()), &object.status, status, substance, patience);
        class
    }

    fn view(&self, key: &InventoryKey, sink: &Ref) -> SinkView {
        let binding = BindingKey { inventory: key.clone(), sink: sink.sink.clone() };
        let report = self.parts.deliveries.reports().get(&binding).unwrap_or_default();
        let state = match &sink.outcome {
            Err(Obstacle::Refused(failing)) => SinkState::Failing(failing.clone()),
            Err(Obstacle::Wait(why)) => SinkState::Pending((*why).to_owned()),
            Ok(()) => match &report.failure {
                Some(failure) => SinkState::Failing(Failing {
                    reason: failure.reason,
                    class: failure.class,
                    message: failure.message.clone(),
                }),
                None if !report.acknowledged => SinkState::Pending(STARTING.to_owned()),
                None if report.debounced && report.lag() <= sink.interval + SYNC_GRACE => SinkState::Debounced,
                None => SinkState::Exported,
            },
        };
        SinkView { name: sink.sink.to_string(), state, report, interval: sink.interval }
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

/// Returns what is put on record of a place before it is written to.
fn destination(key: &BindingKey, cluster: &Cluster, config: &PostgresConfig, sink: &dyn Sink) -> Destination {
    let there = sink.destination();
    Destination {
        id: there.id.clone(),
        cluster: cluster.to_string(),
        sink: key.sink.to_string(),
        sink_namespace: String::new(),
        type_: sink.kind().as_str().to_owned(),
        description: there.description.clone(),
        schema: config.schema.clone(),
        table: config.table.clone(),
        state_table: config.state_table.clone().unwrap_or_default(),
    }
}

/// Tells whether two entries of `status.destinations` have one key.
fn same_place(one: &Destination, other: &Destination) -> bool {
    one.id == other.id && one.cluster == other.cluster
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
