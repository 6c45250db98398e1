//! Inventories of both kinds, as one: what control does with a binding does not depend on the kind.

use crate::api::v1alpha1::{InventorySinkRef, Kind, KollectClusterInventorySpec, KollectInventorySpec};
use crate::control::shelf::Object;
use crate::model::{Family, InventoryKey, Name, Namespace, ObjectKey, SinkKey};
use crate::status::Subject;
use crate::store::CLUSTER;

/// The spec of an inventory.
#[derive(Debug)]
pub(in crate::control) enum InventorySpec {
    /// Of one namespace.
    Namespaced(Box<KollectInventorySpec>),
    /// Of many.
    Cluster(Box<KollectClusterInventorySpec>),
}

impl From<KollectInventorySpec> for InventorySpec {
    fn from(spec: KollectInventorySpec) -> Self {
        Self::Namespaced(Box::new(spec))
    }
}

impl From<KollectClusterInventorySpec> for InventorySpec {
    fn from(spec: KollectClusterInventorySpec) -> Self {
        Self::Cluster(Box::new(spec))
    }
}

impl InventorySpec {
    /// Returns the references to sinks, by family.
    pub(in crate::control) fn refs(&self) -> [(Family, &[InventorySinkRef]); 3] {
        let (snapshots, databases, events) = match self {
            Self::Namespaced(spec) => (&spec.snapshot_sink_refs, &spec.database_sink_refs, &spec.event_sink_refs),
            Self::Cluster(spec) => (&spec.snapshot_sink_refs, &spec.database_sink_refs, &spec.event_sink_refs),
        };
        [(Family::Snapshot, snapshots), (Family::Database, databases), (Family::Event, events)]
    }

    /// Returns the sink that a reference of an inventory in that namespace means.
    pub(in crate::control) fn sink(&self, own: &Namespace, family: Family, sink: &InventorySinkRef) -> SinkKey {
        let namespace = match self {
            Self::Namespaced(_) => own.clone(),
            Self::Cluster(spec) => Namespace::new(spec.namespace_of(sink)),
        };
        SinkKey { family, object: ObjectKey::new(namespace, Name::new(sink.name.as_str())) }
    }

    /// Tells whether nothing is to be exported.
    pub(super) fn suspend(&self) -> bool {
        match self {
            Self::Namespaced(spec) => spec.suspend,
            Self::Cluster(spec) => spec.suspend,
        }
    }

    /// Returns the least time between two writes where neither reference nor sink says otherwise.
    pub(super) fn interval(&self) -> std::time::Duration {
        match self {
            Self::Namespaced(spec) => spec.export_min_interval.get(),
            Self::Cluster(spec) => spec.export_min_interval.get(),
        }
    }

    /// Returns the limit of a document where the reference names none.
    pub(super) fn max_export_bytes(&self) -> Option<i64> {
        match self {
            Self::Namespaced(spec) => spec.max_export_bytes,
            Self::Cluster(_) => None,
        }
    }
}

/// An inventory, and the name that its rows have outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inventory<'a> {
    pub(super) subject: &'a Subject,
    pub(super) key: &'a InventoryKey,
    pub(super) object: &'a Object<InventorySpec>,
}

impl Inventory<'_> {
    /// Tells whether it is of many namespaces.
    pub(super) fn is_roll_up(&self) -> bool {
        self.subject.0 == Kind::ClusterInventory
    }

    /// Keeps a deleted inventory until its places are left.
    pub(super) fn finalizer(&self) -> &'static str {
        if self.is_roll_up() { "kollect.dev/cluster-inventory-cleanup" } else { "kollect.dev/inventory-cleanup" }
    }
}

/// Returns the name that the rows of an inventory have outside.
pub(in crate::control) fn outside((kind, key): &Subject) -> InventoryKey {
    match kind {
        Kind::ClusterInventory => InventoryKey::new(Namespace::new(CLUSTER), key.name.clone()),
        _ => key.clone(),
    }
}
