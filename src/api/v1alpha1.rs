//! The eleven kinds of `kollect.dev/v1alpha1`, as Rust types.
//!
//! The doc comments of fields are the user's reference: they become the descriptions of the schema, the pages under
//! `docs/reference/` and what `kubectl explain` prints. An absent field, an empty one and its default are kept apart
//! only where that makes a difference.

pub mod cluster_inventory;
pub mod cluster_scope;
pub mod cluster_target;
pub mod conditions;
pub mod connection_test;
pub mod database_sink;
mod duration;
pub mod event_sink;
pub mod inventory;
mod kind;
pub mod profile;
mod refs;
mod rules;
pub mod scope;
pub mod sink;
pub mod snapshot_sink;
pub mod target;

pub use cluster_inventory::{
    Dedupe, KollectClusterInventory, KollectClusterInventorySpec, KollectClusterInventoryStatus,
};
pub use cluster_scope::{KollectClusterScope, KollectClusterScopeSpec};
pub use cluster_target::{KollectClusterTarget, KollectClusterTargetSpec, KollectClusterTargetStatus};
pub use connection_test::{KollectConnectionTest, KollectConnectionTestSpec, KollectConnectionTestStatus};
pub use database_sink::{DatabaseSinkType, KollectDatabaseSink, KollectDatabaseSinkSpec};
pub use duration::Duration;
pub use event_sink::{EventSinkType, KollectEventSink, KollectEventSinkSpec};
pub use inventory::{Destination, KollectInventory, KollectInventorySpec, KollectInventoryStatus, SinkExport};
pub use kind::Kind;
pub use profile::{KollectProfile, KollectProfileSpec, KollectProfileStatus};
pub use refs::{
    GroupVersionKind, InventorySinkRef, LabelRequirement, LabelSelector, ObjectRef, ResourceRule, SecretRef,
};
pub use scope::{KollectScope, KollectScopeSpec, ScopeLimits};
pub use sink::{DeletionPolicy, SinkCommon, SinkStatus};
pub use snapshot_sink::{KollectSnapshotSink, KollectSnapshotSinkSpec, SnapshotSinkType};
pub use target::{KollectTarget, KollectTargetSpec, KollectTargetStatus, WatchMode};
