//! Kinds that this build does not serve: they get told.

use serde_json::json;

use super::Control;
use crate::api::v1alpha1::Kind;
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::error::Class;
use crate::model::ObjectKey;

impl Control {
    /// Reports that this build does nothing for an object. Returns the class of what is wrong.
    pub(super) fn reconcile_unserved(&mut self, kind: Kind, key: &ObjectKey) -> Option<Class> {
        // Without a status; what a scope refuses is said by what is below it.
        if matches!(kind, Kind::Profile | Kind::Scope | Kind::ClusterScope) {
            return None;
        }
        let subject = (kind, key.clone());
        let Some(object) = self.shelves.others.get(&kind).and_then(|shelf| shelf.get(key)).cloned() else {
            self.forget(&subject);
            return None;
        };
        let found = Finding {
            type_: types::DEGRADED,
            status: ConditionStatus::True,
            reason: reasons::NOT_SERVED,
            message: format!("kind {}: not in this build", kind.as_str()),
        };
        let old = object.status.get("conditions").cloned().unwrap_or_default();
        let old: Vec<_> = serde_json::from_value(old).unwrap_or_default();
        let conditions = merge(&old, &[found], object.generation(), &Self::now());
        let status = json!({"conditions": conditions});
        self.report(subject, &object.status, status.clone(), status, std::time::Duration::ZERO);
        Some(Class::Terminal)
    }
}
