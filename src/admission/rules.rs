//! What is said of each kind, in the words of those who would say it later.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Findings, Surroundings};
use crate::api::v1alpha1::inventory::DEFAULT_EXPORT_MIN_INTERVAL;
use crate::api::v1alpha1::{
    Duration, InventorySinkRef, KollectClusterInventorySpec, KollectClusterScopeSpec, KollectClusterTargetSpec,
    KollectConnectionTestSpec, KollectDatabaseSinkSpec, KollectEventSinkSpec, KollectInventorySpec, KollectProfileSpec,
    KollectScopeSpec, KollectSnapshotSinkSpec, KollectTargetSpec, SinkCommon,
};
use crate::config::Permission;
use crate::model::{Family, Name, Namespace, ObjectKey};
use crate::sinks::netguard::Guard;
use crate::validate::not_served::{self, NotServed};
use crate::validate::scope::{Ceiling, StaticRef};
use crate::validate::{self, FieldPath};

/// Refuses the kinds without a namespace where they are not served.
pub(super) fn served_for_all(cluster_kinds: Permission) -> Result<(), String> {
    match cluster_kinds {
        Permission::Allowed => Ok(()),
        Permission::Denied => {
            Err("needs rights in the whole cluster, which this operator does not have (--tenant-mode); \
                                   use the kind with a namespace instead"
                .to_owned())
        }
    }
}

/// What is not in this build is legal, and said all the same.
fn unserved(what: &[NotServed], to: &mut Findings) {
    to.warnings.extend(what.iter().map(ToString::to_string));
}

/// Whether a change touches the spec, or only what stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spec {
    Written,
    Kept,
}

pub(super) fn profile(spec: &KollectProfileSpec, of_spec: Spec, annotations: &Value, to: &mut Findings) {
    let mut annotations: BTreeMap<String, String> = serde_json::from_value(annotations.clone()).unwrap_or_default();
    // Whoever withdraws a consent need not rewrite the paths first: the rows go, which is what the consent was about.
    if of_spec == Spec::Kept
        && let Err(missing) = validate::secret_consent(spec, Some(&annotations))
    {
        let said = missing.iter().map(|missing| format!("{missing}; without its consent there are no rows"));
        to.warnings.extend(said);
        for consent in [validate::ALLOW_SECRET_EXTRACTION, validate::ALLOW_FULL_RESOURCE_EXPORT] {
            annotations.insert(consent.to_owned(), "true".to_owned());
        }
    }
    if let Some(profile) = to.take(validate::profile(spec, Some(&annotations))) {
        to.warnings.extend(profile.warnings().iter().cloned());
    }
    let Err(errors) = validate::profile_expressions(spec) else { return };
    for error in errors.iter() {
        // A path with its own complaint, such as one without a prefix, does not need that of the compiler.
        let field = format!("{}: ", error.path);
        if !to.errors.iter().any(|said| said.starts_with(&field)) {
            to.errors.push(error.to_string());
        }
    }
}

pub(super) fn target(spec: &KollectTargetSpec, around: &Surroundings, to: &mut Findings) {
    let target = to.take(validate::target(spec));
    if let (Some(target), Some(kind)) = (target, &around.profile) {
        to.warnings.extend(target.remarks(kind));
    }
    to.deny(around.ceiling.allows_kinds(&spec.resource_rules, around.profile.as_ref()));
    included(&around.ceiling, &spec.included_namespaces, to);
}

pub(super) fn cluster_target(spec: &KollectClusterTargetSpec, around: &Surroundings, to: &mut Findings) {
    let target = to.take(validate::cluster_target(spec));
    if let (Some(target), Some(kind)) = (target, &around.profile) {
        to.warnings.extend(target.intent().remarks(kind));
    }
    to.deny(around.cluster.limits().allows_kinds(&spec.resource_rules, around.profile.as_ref()));
    included(around.cluster.limits(), &spec.included_namespaces, to);
    let path = FieldPath::spec().field("profileRef").field("namespace");
    let namespace = Namespace::new(spec.profile_ref.namespace.as_str());
    to.deny(around.cluster.allows_static_ref(&path, StaticRef::Profile, &namespace));
}

/// What is named has to be allowed; what only a selector finds is judged when it is found.
fn included(ceiling: &Ceiling, names: &[String], to: &mut Findings) {
    let names: Vec<Namespace> = names.iter().map(|name| Namespace::new(name.as_str())).collect();
    to.deny(ceiling.allows_namespaces(&FieldPath::spec().field("includedNamespaces"), &names));
}

pub(super) fn inventory(spec: &KollectInventorySpec, max_export_bytes: u64, around: &Surroundings, to: &mut Findings) {
    let _ = to.take(validate::inventory(spec, max_export_bytes)); // what it made is for those who export
    own_interval(&around.ceiling, spec.export_min_interval, to);
    for (_, path, reference) in refs(&spec.snapshot_sink_refs, &spec.database_sink_refs, &spec.event_sink_refs) {
        ref_interval(&around.ceiling, &path, reference, to);
    }
}

pub(super) fn cluster_inventory(
    spec: &KollectClusterInventorySpec,
    max_export_bytes: u64,
    around: &Surroundings,
    to: &mut Findings,
) {
    let _ = to.take(validate::cluster_inventory(spec, max_export_bytes)); // what it made is for those who export
    let root = FieldPath::spec();
    own_interval(&around.ceiling, spec.export_min_interval, to);
    if let Some(profile) = &spec.profile_ref {
        let path = root.field("profileRef").field("namespace");
        let namespace = Namespace::new(profile.namespace.as_str());
        to.deny(around.cluster.allows_static_ref(&path, StaticRef::Profile, &namespace));
    }
    for (family, path, reference) in refs(&spec.snapshot_sink_refs, &spec.database_sink_refs, &spec.event_sink_refs) {
        ref_interval(&around.ceiling, &path, reference, to);
        let namespace = Namespace::new(spec.namespace_of(reference));
        to.deny(around.cluster.allows_static_ref(&path, StaticRef::Sink, &namespace));
        to.deny(around.cluster.limits().allows_sink(&path, family, &Name::new(reference.name.as_str())));
    }
}

/// Refuses an interval below the floor, unless it is the one that the schema writes into an inventory that says nothing:
/// that may be nobody's wish. It is raised like any other that is too short, and whoever writes it is told.
fn own_interval(ceiling: &Ceiling, interval: Duration, to: &mut Findings) {
    let path = FieldPath::spec().field("exportMinInterval");
    if interval == DEFAULT_EXPORT_MIN_INTERVAL {
        let raised = ceiling.raise(interval.get());
        to.warnings.extend(raised.map(|raised| format!("{path}: {}", raised.why)));
    } else {
        to.deny(ceiling.allows_interval(path, interval.get()));
    }
}

/// Returns all references of an inventory, each with its family and place.
fn refs<'a>(
    snapshot: &'a [InventorySinkRef],
    database: &'a [InventorySinkRef],
    event: &'a [InventorySinkRef],
) -> impl Iterator<Item = (Family, FieldPath, &'a InventorySinkRef)> {
    let lists = [(Family::Snapshot, snapshot), (Family::Database, database), (Family::Event, event)];
    lists.into_iter().flat_map(|(family, list)| {
        let path = FieldPath::spec().field(&format!("{}SinkRefs", family.as_str()));
        list.iter().enumerate().map(move |(index, reference)| (family, path.index(index), reference))
    })
}

fn ref_interval(ceiling: &Ceiling, path: &FieldPath, reference: &InventorySinkRef, to: &mut Findings) {
    if let Some(interval) = reference.export_min_interval {
        to.deny(ceiling.allows_interval(path.field("exportMinInterval"), interval.get()));
    }
}

pub(super) fn scope(key: &ObjectKey, spec: &KollectScopeSpec, to: &mut Findings) {
    let _ = to.take(validate::scope::scope(key, spec)); // nothing is limited by it yet
}

pub(super) fn cluster_scope(key: &ObjectKey, spec: &KollectClusterScopeSpec, to: &mut Findings) {
    let _ = to.take(validate::scope::cluster_scope(key, spec)); // nothing is limited by it yet
}

pub(super) fn snapshot_sink(spec: &KollectSnapshotSinkSpec, guard: Guard, around: &Surroundings, to: &mut Findings) {
    let remarks = to.take(validate::admitted::snapshot_sink(spec));
    to.warnings.extend(remarks.unwrap_or_default());
    unserved(&not_served::snapshot_sink(spec), to);
    hosts(&validate::admitted::snapshot_hosts(spec), guard, to);
    sink_interval(&spec.common, around, to);
}

pub(super) fn database_sink(spec: &KollectDatabaseSinkSpec, around: &Surroundings, to: &mut Findings) {
    let remarks = to.take(validate::admitted::database_sink(spec));
    to.warnings.extend(remarks.unwrap_or_default());
    unserved(&not_served::database_sink(spec), to);
    sink_interval(&spec.common, around, to);
}

pub(super) fn event_sink(spec: &KollectEventSinkSpec, guard: Guard, around: &Surroundings, to: &mut Findings) {
    let remarks = to.take(validate::admitted::event_sink(spec));
    to.warnings.extend(remarks.unwrap_or_default());
    hosts(&validate::admitted::event_hosts(spec), guard, to);
    sink_interval(&spec.common, around, to);
}

fn hosts(named: &[(FieldPath, String)], guard: Guard, to: &mut Findings) {
    for (path, host) in named {
        to.deny(guard.check_literal(host).map_err(|refusal| format!("{path}: {refusal}; name another host")));
    }
}

fn sink_interval(common: &SinkCommon, around: &Surroundings, to: &mut Findings) {
    if let Some(interval) = common.export_min_interval {
        to.deny(around.ceiling.allows_interval(FieldPath::spec().field("exportMinInterval"), interval.get()));
    }
}

pub(super) fn connection_test(spec: &KollectConnectionTestSpec, to: &mut Findings) {
    let _ = to.take(validate::connection_test(spec)); // what it made is for those who probe
}
