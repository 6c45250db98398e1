//! KollectClusterInventory: which cluster targets and namespaces it has, and what of its status an inventory has not.
//!
//! While one of its targets is not Ready nothing is bound: the sinks keep what they have, for nobody can tell what is missing
//! from what is gone. An inventory that is new and has no target yet may be the first manifest of several, and is silent.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use sha2::{Digest as _, Sha256};

use super::{Control, Failing, Inventory, InventorySpec, State};
use crate::api::v1alpha1::cluster_inventory::{Dedupe, NamespaceShard};
use crate::api::v1alpha1::conditions::{reasons, types};
use crate::api::v1alpha1::{
    Kind, KollectClusterInventorySpec, KollectClusterInventoryStatus, KollectInventoryStatus, SinkExport,
};
use crate::control::target::some_names;
use crate::error::Class;
use crate::model::{Name, Namespace, ObjectKey};
use crate::status::Subject;
use crate::store::{Each, Pick, Reader, RollUp, Shard, View};
use crate::validate::scope::StaticRef;
use crate::validate::{self, FieldPath};

/// So long after an inventory was made, that no target is there is nothing to speak of.
const YOUNG: Duration = Duration::from_mins(5);
/// How soon one that is silent is looked at again.
const AGAIN: Duration = Duration::from_secs(30);
/// So many namespaces are listed in a status.
const MAX_SHARDS: usize = 1_000;

/// Why an inventory has no rows to export.
#[derive(Debug)]
pub(super) enum Unfit {
    /// Something is wrong, and this is what to do.
    Failing(Failing),
    /// It is too early to tell.
    Silent(Duration),
}

impl Control {
    /// Decides which rows an inventory has.
    pub(super) fn choose(&self, it: Inventory<'_>, state: &mut State) -> Result<View, Unfit> {
        let failing = |reason, message| Unfit::Failing(Failing { reason, class: Class::Terminal, message });
        let invalid = |message| failing(reasons::INVALID_SPEC, message);
        let cap = self.parts.config.delivery.max_export_bytes.get();
        let spec = match it.object.spec.as_ref().map_err(|error| invalid(error.to_string()))? {
            InventorySpec::Cluster(spec) => spec,
            InventorySpec::Namespaced(spec) => {
                validate::inventory(spec, cap).map_err(|errors| invalid(errors.to_string()))?;
                return Ok(View::Namespace(it.key.namespace.clone()));
            }
        };
        let wanted = validate::cluster_inventory(spec, cap).map_err(|errors| invalid(errors.to_string()))?;
        self.allows_profile(spec).map_err(Unfit::Failing)?;
        let namespaces = self.shelves.namespaces.iter();
        let namespaces = namespaces.filter(|(name, facts)| wanted.asks_for_namespace(name, &facts.labels));
        let namespaces: BTreeSet<Namespace> = namespaces.map(|(name, _)| name.clone()).collect();
        let targets = self.shelves.cluster_targets.iter().filter(|(key, object)| {
            let labels = object.meta.labels.clone().unwrap_or_default();
            // The rows of one that is deleted go on purpose.
            object.meta.deletion_timestamp.is_none()
                && wanted.asks_for_target(&key.name, &labels)
                && self.meets(&key.name, &namespaces)
        });
        let targets: BTreeSet<Name> = targets.map(|(key, _)| key.name.clone()).collect();
        state.targets = Some(targets.len());
        if targets.is_empty() {
            state.reading = None;
            let pause = young(&it.object.meta, Timestamp::now());
            let complaint = || failing(reasons::NO_TARGETS, no_targets(spec, &namespaces));
            return Err(pause.map_or_else(complaint, Unfit::Silent));
        }
        let each = match spec.dedupe {
            Dedupe::KeepAll => Each::Row,
            Dedupe::ByResourceUid => Each::Object,
        };
        let pick = Arc::new(Pick { targets, each });
        let view = View::RollUp(RollUp { namespaces: Arc::new(namespaces), pick: pick.clone() });
        self.read(state, &view);
        match self.degraded_target(&pick.targets) {
            Some(message) => Err(failing(reasons::TARGET_DEGRADED, message)),
            None => Ok(view),
        }
    }

    /// Counts what the view shows from now on.
    fn read(&self, state: &mut State, view: &View) {
        if state.reading.as_ref().is_none_or(|reading| reading.view() != view) {
            // The old one goes last: what both count is not counted again.
            let _before = state.reading.replace(self.parts.store.reader(view));
            state.turns += 1;
        }
    }

    /// Lets a cluster inventory name a profile, which has no other effect.
    fn allows_profile(&self, spec: &KollectClusterInventorySpec) -> Result<(), Failing> {
        let Some(profile) = &spec.profile_ref else { return Ok(()) };
        let path = FieldPath::spec().field("profileRef").field("namespace");
        let namespace = Namespace::new(profile.namespace.as_str());
        let ceiling = self.shelves.cluster_ceiling();
        let allowed = ceiling.and_then(|ceiling| ceiling.allows_static_ref(&path, StaticRef::Profile, &namespace));
        allowed.map_err(|denial| Failing { reason: denial.reason, class: Class::Terminal, message: denial.message })
    }

    /// Tells whether a cluster target asks for one of these namespaces. One that cannot be read might.
    fn meets(&self, target: &Name, namespaces: &BTreeSet<Namespace>) -> bool {
        let key = ObjectKey::new(Namespace::new(""), target.clone());
        let spec = self.shelves.cluster_targets.get(&key).and_then(|object| object.spec.as_ref().ok());
        let Some(Ok(target)) = spec.map(validate::cluster_target) else { return true };
        let filter = self.asked_for(target.intent().namespaces());
        let facts = |name: &Namespace| self.shelves.namespaces.get(name);
        namespaces.iter().any(|name| facts(name).is_some_and(|facts| filter.matches(name, &facts.labels)))
    }

    /// Says which of these targets are not Ready, and why the first is not.
    fn degraded_target(&self, targets: &BTreeSet<Name>) -> Option<String> {
        let key = |name: &Name| ObjectKey::new(Namespace::new(""), name.clone());
        let unfit: Vec<&Name> = targets.iter().filter(|name| !self.is_ready(&key(name))).collect();
        let first = unfit.first()?;
        let subject = (Kind::ClusterTarget, key(first));
        let status = self.shelves.cluster_targets.get(&subject.1).map(|object| self.reported(&subject, &object.status));
        let conditions = status.and_then(|status| status.get("conditions")).cloned().unwrap_or_default();
        let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
        let why = conditions.into_iter().find(|condition| condition.type_ == types::DEGRADED);
        let why = why.map_or_else(String::new, |why| format!(": {}: {}", why.reason, why.message));
        Some(format!(
            "KollectClusterTarget {} not Ready: nothing is exported and the sinks keep what they have; mend it, or leave it \
             out by spec.targetRefs or spec.targetSelector{why}",
            some_names(unfit.iter().map(|name| name.as_str()))
        ))
    }

    /// Queues the cluster inventories that may have rows of these namespaces.
    pub(in crate::control) fn readers_among(&self, namespaces: &BTreeSet<Namespace>) -> Vec<ObjectKey> {
        let reads = |state: &State| {
            let view = state.reading.as_ref().map(Reader::view);
            view.is_some_and(|view| namespaces.iter().any(|namespace| view.reads(namespace)))
        };
        let all = self.inventories.iter().filter(|((kind, _), state)| *kind == Kind::ClusterInventory && reads(state));
        all.map(|((_, key), _)| key.clone()).collect()
    }

    /// Queues the cluster inventories whose spec can be read, by subject and spec.
    pub(in crate::control) fn queue_cluster_inventories(
        &mut self,
        which: impl Fn(&Subject, &KollectClusterInventorySpec) -> bool,
    ) {
        let all = self.shelves.cluster_inventories.iter();
        let subjects = all.filter_map(|(key, object)| match &object.spec {
            Ok(super::InventorySpec::Cluster(spec)) => {
                Some((Kind::ClusterInventory, key.clone())).filter(|it| which(it, spec))
            }
            _ => None,
        });
        self.work.extend(subjects);
    }

    /// Queues the cluster inventories that name a sink of these namespaces.
    pub(in crate::control) fn queue_users_of_sinks(&mut self, namespaces: &BTreeSet<Namespace>) {
        self.queue_cluster_inventories(|_, spec| {
            let all = [&spec.snapshot_sink_refs, &spec.database_sink_refs, &spec.event_sink_refs];
            all.into_iter().flatten().any(|sink| namespaces.contains(spec.namespace_of(sink)))
        });
    }

    /// Lets the rows of the inventory's targets go that are held now, in all its namespaces.
    pub(super) fn release_roll_up(&mut self, state: &State) {
        let Some(View::RollUp(RollUp { namespaces, pick })) = state.reading.as_ref().map(Reader::view) else { return };
        for target in &pick.targets {
            self.release_cluster_target(target, namespaces);
        }
    }
}

/// Returns when to look again at an inventory that is too new to complain.
fn young(meta: &ObjectMeta, now: Timestamp) -> Option<Duration> {
    let age = now.duration_since(meta.creation_timestamp.as_ref()?.0);
    (age.unsigned_abs() < YOUNG).then_some(AGAIN)
}

fn no_targets(spec: &KollectClusterInventorySpec, namespaces: &BTreeSet<Namespace>) -> String {
    let among = if !spec.target_refs.is_empty() {
        "is named by spec.targetRefs"
    } else if spec.target_selector.is_some() {
        "has the labels of spec.targetSelector"
    } else {
        "is there"
    };
    format!(
        "no KollectClusterTarget {among} that selects one of the {} namespace(s) of spec.namespaceSelector and \
         spec.namespaces; create one, or correct these fields",
        namespaces.len()
    )
}

/// Returns the checksum of a roll-up: SHA-256 over namespace and digest of each of its namespaces, ascending.
pub(super) fn checksum(shards: &[Shard]) -> String {
    let mut hasher = Sha256::new();
    for shard in shards {
        hasher.update(format!("{}:{}\n", shard.namespace, shard.digest));
    }
    hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // into memory
        text
    })
}

/// Completes the status of a cluster inventory. What is not known in full stays as it was.
pub(super) fn complete(
    common: KollectInventoryStatus,
    before: &KollectClusterInventoryStatus,
    targets: Option<usize>,
    shards: Option<&[Shard]>,
) -> KollectClusterInventoryStatus {
    let (namespace_shard_count, namespace_shards) = match shards {
        Some(shards) => (count(shards.len()), shards.iter().take(MAX_SHARDS).map(listed).collect()),
        None => (before.namespace_shard_count, before.namespace_shards.clone()),
    };
    let rows = shards.map(|shards| count(shards.iter().map(|shard| shard.rows).sum()));
    let KollectInventoryStatus {
        conditions,
        observed_generation,
        item_count: _,
        last_export_time,
        sink_exports,
        destinations,
    } = common;
    KollectClusterInventoryStatus {
        conditions,
        observed_generation,
        item_count: rows.unwrap_or(before.item_count),
        target_count: targets.map_or(before.target_count, count),
        namespace_shard_count,
        namespace_shards,
        last_export_time,
        sink_exports,
        destinations,
    }
}

fn listed(shard: &Shard) -> NamespaceShard {
    NamespaceShard {
        namespace: shard.namespace.to_string(),
        item_count: count(shard.rows),
        target_count: count(shard.targets),
        checksum: shard.digest.to_string(),
    }
}

/// Shows the checksum of the roll-up where a sink has all of its rows. Until a sink has them, its checksum is the one that
/// it had; documents have one of their own.
pub(super) fn stamp(exports: &mut [SinkExport], before: &[SinkExport], digest: &str, checksum: &str) {
    for export in exports.iter_mut().filter(|export| export.name.starts_with("database/")) {
        export.last_checksum = if export.last_checksum == digest {
            checksum.to_owned()
        } else {
            let old = before.iter().find(|old| old.name == export.name);
            old.map(|old| old.last_checksum.clone()).unwrap_or_default()
        };
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::model::Digest;

    fn shard(namespace: &str, rows: usize) -> Shard {
        let digest = Digest([rows as u64, 0, 0, 0]);
        Shard { namespace: Namespace::new(namespace), rows, targets: 1, digest }
    }

    #[test]
    fn an_inventory_without_targets_is_silent_for_its_first_five_minutes() {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let made = |time: &str| {
            let time = Time(time.parse().unwrap());
            young(&ObjectMeta { creation_timestamp: Some(time), ..ObjectMeta::default() }, now)
        };
        assert_eq!(made("2026-03-01T09:55:01Z"), Some(AGAIN));
        assert_eq!(made("2026-03-01T09:55:00Z"), None);
        assert_eq!(young(&ObjectMeta::default(), now), None);
    }

    #[test]
    fn the_checksum_is_that_of_the_namespaces_in_their_order() {
        let text = format!("a:{}\nb:{}\n", Digest([1, 0, 0, 0]), Digest([2, 0, 0, 0]));
        let want = Sha256::digest(text).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        assert_eq!(checksum(&[shard("a", 1), shard("b", 2)]), want);
    }

    #[test]
    fn a_status_lists_a_thousand_namespaces_and_counts_all() {
        let shards: Vec<Shard> = (0..1_200).map(|number| shard(&format!("n{number:04}"), 1)).collect();
        let before = KollectClusterInventoryStatus::default();
        let status = complete(KollectInventoryStatus::default(), &before, Some(3), Some(&shards));
        assert_eq!(
            (status.target_count, status.namespace_shard_count, status.namespace_shards.len()),
            (3, 1_200, 1_000)
        );
        let kept = complete(KollectInventoryStatus::default(), &status, None, None);
        assert_eq!(kept, status, "what is not known in full stays as it was");
    }

    #[test]
    fn a_sink_that_lags_behind_keeps_the_checksum_that_it_had() {
        let export = |name: &str, checksum: &str| SinkExport {
            name: name.to_owned(),
            last_checksum: checksum.to_owned(),
            ..SinkExport::default()
        };
        let before = [export("database/late", "old sum")];
        let mut now =
            [export("database/current", "digest"), export("database/late", "other"), export("snapshot/s", "own")];
        stamp(&mut now, &before, "digest", "sum");
        let checksums: Vec<&str> = now.iter().map(|export| export.last_checksum.as_str()).collect();
        assert_eq!(checksums, ["sum", "old sum", "own"]);
    }
}
