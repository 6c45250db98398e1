//! The kinds by name, for code that handles all of them alike.

use kube::api::ApiResource;

use crate::model::Family;

/// One of the eleven kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// KollectProfile.
    Profile,
    /// KollectTarget.
    Target,
    /// KollectClusterTarget.
    ClusterTarget,
    /// KollectScope.
    Scope,
    /// KollectClusterScope.
    ClusterScope,
    /// KollectSnapshotSink.
    SnapshotSink,
    /// KollectDatabaseSink.
    DatabaseSink,
    /// KollectEventSink.
    EventSink,
    /// KollectInventory.
    Inventory,
    /// KollectClusterInventory.
    ClusterInventory,
    /// KollectConnectionTest.
    ConnectionTest,
}

impl Kind {
    /// All of them, in the order in which they are resolved.
    pub const ALL: [Self; 11] = [
        Self::Profile,
        Self::Target,
        Self::ClusterTarget,
        Self::Scope,
        Self::ClusterScope,
        Self::SnapshotSink,
        Self::DatabaseSink,
        Self::EventSink,
        Self::Inventory,
        Self::ClusterInventory,
        Self::ConnectionTest,
    ];

    /// Returns the kind as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "KollectProfile",
            Self::Target => "KollectTarget",
            Self::ClusterTarget => "KollectClusterTarget",
            Self::Scope => "KollectScope",
            Self::ClusterScope => "KollectClusterScope",
            Self::SnapshotSink => "KollectSnapshotSink",
            Self::DatabaseSink => "KollectDatabaseSink",
            Self::EventSink => "KollectEventSink",
            Self::Inventory => "KollectInventory",
            Self::ClusterInventory => "KollectClusterInventory",
            Self::ConnectionTest => "KollectConnectionTest",
        }
    }

    /// Returns the plural of URLs.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Profile => "kollectprofiles",
            Self::Target => "kollecttargets",
            Self::ClusterTarget => "kollectclustertargets",
            Self::Scope => "kollectscopes",
            Self::ClusterScope => "kollectclusterscopes",
            Self::SnapshotSink => "kollectsnapshotsinks",
            Self::DatabaseSink => "kollectdatabasesinks",
            Self::EventSink => "kollecteventsinks",
            Self::Inventory => "kollectinventories",
            Self::ClusterInventory => "kollectclusterinventories",
            Self::ConnectionTest => "kollectconnectiontests",
        }
    }

    /// Returns how a client addresses the kind.
    pub fn resource(self) -> ApiResource {
        ApiResource {
            group: crate::api::GROUP.to_owned(),
            version: "v1alpha1".to_owned(),
            api_version: format!("{}/v1alpha1", crate::api::GROUP),
            kind: self.as_str().to_owned(),
            plural: self.plural().to_owned(),
        }
    }

    /// Returns the family of the kind, if it is one of sinks.
    pub const fn family(self) -> Option<Family> {
        match self {
            Self::SnapshotSink => Some(Family::Snapshot),
            Self::DatabaseSink => Some(Family::Database),
            Self::EventSink => Some(Family::Event),
            _ => None,
        }
    }

    /// Returns the kind of the sinks of a family.
    pub const fn of_family(family: Family) -> Self {
        match family {
            Family::Snapshot => Self::SnapshotSink,
            Family::Database => Self::DatabaseSink,
            Family::Event => Self::EventSink,
        }
    }
}
