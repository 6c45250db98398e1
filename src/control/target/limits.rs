//! What the scopes leave of a target.
//!
//! The KollectScope of its namespace refuses a target that reaches beyond it, as a whole: its rows are removed, here and
//! in the sinks, since that is what whoever wrote the scope asked for. The KollectClusterScope refuses kinds in the same
//! way, and takes namespaces away without a word: a platform may say `kube-system` once for everybody.

use std::collections::BTreeMap;

use super::{Refusal, Rows};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{KollectProfileSpec, KollectTargetSpec};
use crate::control::Shelves;
use crate::model::{Gvk, Namespace, TargetKey};
use crate::validate::FieldPath;
use crate::validate::scope::{Ceiling, ClusterCeiling, Denial};

/// The limits of one target.
#[derive(Debug)]
pub(super) struct Limits {
    scope: Ceiling,
    cluster: ClusterCeiling,
}

impl Limits {
    /// Returns the limits of a target that may collect its kinds.
    pub(super) fn of(
        shelves: &Shelves,
        key: &TargetKey,
        spec: &KollectTargetSpec,
        profile: Option<&KollectProfileSpec>,
    ) -> Result<Self, Refusal> {
        let limits = Self { scope: shelves.ceiling(&key.namespace)?, cluster: shelves.cluster_ceiling()? };
        let kind = profile.map(|profile| Gvk::from(&profile.target_gvk));
        limits.scope.allows_kinds(&spec.resource_rules, kind.as_ref())?;
        limits.cluster.limits().allows_kinds(&spec.resource_rules, kind.as_ref())?;
        Ok(limits)
    }

    /// Returns those of the namespaces asked for that may be collected from. Where nothing is asked for by name, as by a
    /// target of a cluster-scoped kind, its own namespace stands for it.
    pub(super) fn effective<V: Clone>(
        &self,
        key: &TargetKey,
        spec: &KollectTargetSpec,
        matched: &BTreeMap<Namespace, V>,
    ) -> Result<BTreeMap<Namespace, V>, Refusal> {
        let root = FieldPath::spec();
        if matched.is_empty() {
            self.scope.allows_namespaces(&root, [&key.namespace])?;
        } else if spec.included_namespaces.is_empty() {
            self.scope.allows_namespaces(&root.field("namespaceSelector"), matched.keys())?;
        } else {
            self.scope.allows_namespaces(&root.field("includedNamespaces"), matched.keys())?;
        }
        Ok(self.cluster.limits().narrow(matched))
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        // A scope that cannot be read says nothing of what should be there.
        let rows = if denial.reason == reasons::SCOPE_LOOKUP_FAILED { Rows::Stay } else { Rows::Go };
        Self::new(denial.reason, denial.message, rows)
    }
}
