//! What is known of the cluster: for each target, in which namespaces its rows are complete (D4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Name, Namespace, RowKey};

/// So many rows may always be removed at once.
const FEW: usize = 100;

/// Tells whether a removal is so large that it needs a better cause than something being absent (D4): more than half of
/// the rows of a table, and more than 100.
pub fn is_mass_deletion(removed: usize, of: usize) -> bool {
    removed > FEW && removed > of / 2
}

/// Where a target collects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// A namespaced kind, in these namespaces.
    Namespaces(Arc<BTreeSet<Namespace>>),
    /// A cluster-scoped kind: one part with an empty namespace.
    Cluster,
    /// It is not known where: the profile is missing, or the kind is not served. All of it is unknown.
    Unresolved,
}

impl Coverage {
    /// Tells whether the target collects there.
    pub fn contains(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Namespaces(set) => set.contains(namespace),
            Self::Cluster => true,
            Self::Unresolved => false,
        }
    }
}

/// Coverage of one target and the parts of it that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Knowing {
    pub(super) coverage: Coverage,
    pub(super) known: BTreeSet<Namespace>,
}

impl Knowing {
    /// Tells whether the store has all rows of this target in that namespace, or knows that there are none.
    pub(super) fn knows(&self, namespace: &Namespace) -> bool {
        match &self.coverage {
            Coverage::Unresolved => false,
            // A row of a cluster-scoped object is stored by some sinks under the namespace of its inventory.
            Coverage::Cluster => !self.known.is_empty(),
            Coverage::Namespaces(set) => !set.contains(namespace) || self.known.contains(namespace),
        }
    }

    /// Tells whether every part is known.
    pub(super) fn whole(&self) -> bool {
        match &self.coverage {
            Coverage::Unresolved => false,
            Coverage::Cluster => !self.known.is_empty(),
            Coverage::Namespaces(set) => set.is_subset(&self.known),
        }
    }
}

/// The knowledge of one table at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Knowledge {
    /// Every target of the namespace is registered; before that nothing may be called a leftover.
    pub(super) complete: bool,
    pub(super) targets: BTreeMap<Name, Knowing>,
}

impl Knowledge {
    /// Tells whether a row that a sink holds and the store does not have may be deleted.
    pub fn covers(&self, key: &RowKey, namespace: &Namespace) -> bool {
        self.complete && self.targets.get(&key.target).is_none_or(|target| target.knows(namespace))
    }

    /// Tells whether every part of every target is known.
    pub fn whole(&self) -> bool {
        self.complete && self.targets.values().all(Knowing::whole)
    }
}
