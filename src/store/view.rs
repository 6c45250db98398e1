//! Which rows a reader is shown: everything of one namespace, or what some targets collect in many.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{Name, Namespace};

/// The namespace that objects count for which live in none.
pub const HOME: &str = "default";
/// The inventory namespace of all roll-ups. Some sinks store under it what lives in no namespace.
pub const CLUSTER: &str = "cluster";

/// Which rows an inventory has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// Everything of the targets of one namespace.
    Namespace(Namespace),
    /// Some targets, in many namespaces.
    RollUp(RollUp),
}

/// The rows of some targets in some namespaces (docs/adr/0008).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollUp {
    /// Whose tables are read.
    pub namespaces: Arc<BTreeSet<Namespace>>,
    /// Which of their rows are shown.
    pub pick: Arc<Pick>,
}

/// A selection of the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    /// Whose rows are shown.
    pub targets: BTreeSet<Name>,
    /// What has a row.
    pub each: Each,
}

/// What has a row in a selection, where several targets collect one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Each {
    /// Each target of each object.
    Row,
    /// Each object, by the last of its targets in the order of their names.
    Object,
}

impl View {
    /// Tells whether the table of a namespace is read.
    pub fn reads(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Namespace(own) => own == namespace,
            Self::RollUp(RollUp { namespaces, .. }) => namespaces.contains(namespace),
        }
    }

    /// Returns the selection; nothing where everything is shown.
    pub(super) fn pick(&self) -> Option<&Arc<Pick>> {
        match self {
            Self::Namespace(_) => None,
            Self::RollUp(RollUp { pick, .. }) => Some(pick),
        }
    }
}
