//! What the scope of its namespace leaves of a target.
//!
//! It refuses a target that reaches beyond it, as a whole: its rows are removed, here and in the sinks, since that is what
//! whoever wrote the scope asked for. The scope of the cluster is about the kinds of the cluster, and says nothing here.

use std::collections::BTreeMap;

use super::{Refusal, Rows};
use crate::api::v1alpha1::conditions::reasons;
use crate::api::v1alpha1::{KollectProfileSpec, KollectTargetSpec};
use crate::control::Shelves;
use crate::model::{Gvk, Namespace, TargetKey};
use crate::validate::scope::{Ceiling, Denial};

/// The limits of one target.
#[derive(Debug)]
pub(super) struct Limits(Ceiling);

impl Limits {
    /// Returns the limits of a target that may collect its kinds.
    pub(super) fn of(
        shelves: &Shelves,
        key: &TargetKey,
        spec: &KollectTargetSpec,
        profile: Option<&KollectProfileSpec>,
    ) -> Result<Self, Refusal> {
        let limits = shelves.ceiling(&key.namespace)?;
        let kind = profile.map(|profile| Gvk::from(&profile.target_gvk));
        limits.allows_kinds(&spec.resource_rules, kind.as_ref())?;
        Ok(Self(limits))
    }

    /// Checks the namespaces that a target asks for.
    pub(super) fn allow<V>(
        &self,
        key: &TargetKey,
        spec: &KollectTargetSpec,
        matched: &BTreeMap<Namespace, V>,
    ) -> Result<(), Refusal> {
        Ok(self.0.allows_reach(&key.namespace, &spec.included_namespaces, matched.keys())?)
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        // A scope that cannot be read says nothing of what should be there.
        let rows = if denial.reason == reasons::SCOPE_LOOKUP_FAILED { Rows::Stay } else { Rows::Go };
        Self::new(denial.reason, denial.message, rows)
    }
}
