//! The values of labels that are closed sets. A name that is not here cannot become a label by accident.

use crate::error::Class;

/// Declares a closed set of label values.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns the label value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

labels! {
    /// A server of ours that speaks TLS.
    TlsServer {
        /// The metrics.
        Metrics = "metrics",
        /// The webhooks.
        Webhooks = "webhooks",
    }
}

labels! {
    /// What reconciles a kind of ours: the lower-case kind.
    Controller {
        /// `KollectTarget`.
        Target = "kollecttarget",
        /// `KollectInventory`.
        Inventory = "kollectinventory",
        /// `KollectClusterTarget`.
        ClusterTarget = "kollectclustertarget",
        /// `KollectClusterInventory`.
        ClusterInventory = "kollectclusterinventory",
        /// `KollectConnectionTest`.
        ConnectionTest = "kollectconnectiontest",
        /// `KollectSnapshotSink`.
        SnapshotSink = "kollectsnapshotsink",
        /// `KollectDatabaseSink`.
        DatabaseSink = "kollectdatabasesink",
        /// `KollectEventSink`.
        EventSink = "kollecteventsink",
    }
}

impl Controller {
    /// Returns the kind as users write it.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Target => "KollectTarget",
            Self::Inventory => "KollectInventory",
            Self::ClusterTarget => "KollectClusterTarget",
            Self::ClusterInventory => "KollectClusterInventory",
            Self::ConnectionTest => "KollectConnectionTest",
            Self::SnapshotSink => "KollectSnapshotSink",
            Self::DatabaseSink => "KollectDatabaseSink",
            Self::EventSink => "KollectEventSink",
        }
    }
}

labels! {
    /// What a sink writes to.
    SinkType {
        /// A git repository.
        Git = "git",
        /// A GitLab project.
        Gitlab = "gitlab",
        /// An S3 bucket.
        S3 = "s3",
        /// A Google Cloud Storage bucket.
        Gcs = "gcs",
        /// A PostgreSQL table.
        Postgres = "postgres",
        /// A Kafka topic.
        Kafka = "kafka",
        /// A NATS JetStream stream.
        Nats = "nats",
    }
}

labels! {
    /// How something ended.
    Outcome {
        /// Well.
        Success = "success",
        /// Not.
        Failure = "failure",
    }
}

labels! {
    /// Why a sink did not take a delivery.
    Fault {
        /// Tried again.
        Transient = "transient",
        /// Waits for a change.
        Terminal = "terminal",
        /// A part was refused.
        Forbidden = "forbidden",
        /// One thing that cannot be split is above the ceiling.
        PayloadTooLarge = "payload_too_large",
    }
}

impl From<Class> for Fault {
    fn from(class: Class) -> Self {
        match class {
            Class::Transient => Self::Transient,
            Class::Terminal => Self::Terminal,
            Class::Forbidden => Self::Forbidden,
        }
    }
}

labels! {
    /// Whether a remembered answer was still good.
    Cached {
        /// It was.
        Hit = "hit",
        /// It had to be made anew.
        Miss = "miss",
    }
}

labels! {
    /// What a watch mapping was looking for.
    Mapping {
        /// Inventories of a sink.
        Sink = "sink",
        /// Inventories of a changed namespace of the store.
        Store = "store",
    }
}

labels! {
    /// What a reference points to.
    Reference {
        /// A profile.
        Profile = "profile",
        /// A snapshot sink.
        Snapshot = "snapshot",
        /// A database sink.
        Database = "database",
        /// An event sink.
        Event = "event",
    }
}

labels! {
    /// What came of following a reference.
    Resolution {
        /// It is there.
        Ok = "ok",
        /// It is not.
        NotFound = "not_found",
        /// It may not be used.
        Forbidden = "forbidden",
    }
}

labels! {
    /// What is asked of the API server.
    Verb {
        /// One object.
        Get = "get",
        /// Many objects.
        List = "list",
        /// A stream of changes.
        Watch = "watch",
        /// A new object.
        Create = "create",
        /// An object replaced.
        Update = "update",
        /// An object changed in part.
        Patch = "patch",
        /// An object removed.
        Delete = "delete",
    }
}

impl Verb {
    /// Returns the method of HTTP.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Get | Self::List | Self::Watch => "GET",
            Self::Create => "POST",
            Self::Update => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}
