//! KollectScope and KollectClusterScope: the limits that hold, from what is on the shelves.
//!
//! Scopes have no status. What they refuse is said by the targets and inventories below them, which are looked at again
//! whenever a scope comes, changes or goes; what one scope does not do because another one holds is an Event on it.

use super::{Control, Shelves};
use crate::api::v1alpha1::Kind;
use crate::model::{Namespace, ObjectKey};
use crate::status::events::{Happening, Severity};
use crate::validate::scope::{self, Ceiling, ClusterCeiling, Denial};

/// The reason of the Event on a scope that limits nothing because another one sorts before it.
const SCOPE_NOT_USED: &str = "ScopeNotUsed";

impl Shelves {
    /// Returns the limits of a namespace.
    ///
    /// # Errors
    /// `ScopeLookupFailed`: the scope that holds cannot be read. A later one does not take its place.
    pub(super) fn ceiling(&self, namespace: &Namespace) -> Result<Ceiling, Denial> {
        let Some((key, object)) = scope::first(self.scopes.within(namespace)) else { return Ok(Ceiling::default()) };
        let spec = object.spec.as_ref().map_err(|error| Denial::unreadable(Kind::Scope, key, error))?;
        scope::scope(key, spec).map_err(|errors| Denial::unreadable(Kind::Scope, key, errors))
    }

    /// Returns the limits of the cluster.
    ///
    /// # Errors
    /// `ScopeLookupFailed`: the scope that holds cannot be read. A later one does not take its place.
    pub(super) fn cluster_ceiling(&self) -> Result<ClusterCeiling, Denial> {
        let Some((key, object)) = scope::first(self.cluster_scopes.iter()) else {
            return Ok(ClusterCeiling::default());
        };
        let spec = object.spec.as_ref().map_err(|error| Denial::unreadable(Kind::ClusterScope, key, error))?;
        scope::cluster_scope(key, spec).map_err(|errors| Denial::unreadable(Kind::ClusterScope, key, errors))
    }

    /// Returns the scopes beside this one, itself included, in the order in which they hold.
    fn rivals(&self, kind: Kind, key: &ObjectKey) -> Vec<(ObjectKey, String)> {
        let with_uid = |key: &ObjectKey, uid: &str| (key.clone(), uid.to_owned());
        match kind {
            Kind::Scope => {
                self.scopes.within(&key.namespace).map(|(key, object)| with_uid(key, object.uid())).collect()
            }
            _ => self.cluster_scopes.iter().map(|(key, object)| with_uid(key, object.uid())).collect(),
        }
    }
}

impl Control {
    /// Tells of the scopes that limit nothing because another one holds. `key` is what is new.
    pub(super) fn tell_unused_scopes(&self, kind: Kind, key: &ObjectKey) {
        let rivals = self.shelves.rivals(kind, key);
        let Some(((holds, _), others)) = rivals.split_first() else { return };
        // A new first one puts all others out of use, a new other one is news of its own.
        for (unused, uid) in others.iter().filter(|(other, _)| key == holds || key == other) {
            tracing::warn!(
                kind = kind.as_str(),
                namespace = %unused.namespace,
                name = %unused.name,
                "scope is not used, the first by name holds"
            );
            // After a start nothing is new.
            if self.ready {
                let message = format!(
                    "limits nothing: of several scopes the first by name holds, which is {:?}; put the limits there and \
                     delete this one",
                    holds.name
                );
                let happening = Happening { severity: Severity::Warning, reason: SCOPE_NOT_USED.to_owned(), message };
                self.parts.events.put((kind, unused.clone()), uid, happening);
            }
        }
    }
}
