//! Kinds that this build does not serve, and what is wrong with a sink by itself: they get told.

use serde_json::json;

use super::Control;
use super::shelf::Object;
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::{Kind, KollectDatabaseSinkSpec};
use crate::error::Class;
use crate::model::ObjectKey;
use crate::validate;

impl Control {
    /// Reports what this build does not do for an object. Returns the class of what is wrong.
    pub(super) fn reconcile_unserved(&mut self, kind: Kind, key: &ObjectKey) -> Option<Class> {
        let (current, generation, problem) = match kind {
            // Without a status; targets and inventories of a scope's namespace say so instead.
            Kind::Profile | Kind::Scope | Kind::ClusterScope | Kind::Target | Kind::Inventory => return None,
            Kind::DatabaseSink => {
                let sink = self.shelves.databases.get(key).cloned();
                let Some(sink) = sink else { return self.forgotten(kind, key) };
                (sink.status.clone(), sink.generation(), database_problem(&sink))
            }
            Kind::SnapshotSink
            | Kind::EventSink
            | Kind::ClusterTarget
            | Kind::ClusterInventory
            | Kind::ConnectionTest => {
                let object = self.shelves.others.get(&kind).and_then(|shelf| shelf.get(key)).cloned();
                let Some(object) = object else { return self.forgotten(kind, key) };
                let message = format!("kind {}: not in this build", kind.as_str());
                (object.status.clone(), object.generation(), Some((reasons::NOT_SERVED, message)))
            }
        };
        let found: Vec<Finding> = problem
            .iter()
            .map(|(reason, message)| Finding {
                type_: types::DEGRADED,
                status: ConditionStatus::True,
                reason,
                message: message.clone(),
            })
            .collect();
        let old = current.get("conditions").cloned().unwrap_or_default();
        let old: Vec<_> = serde_json::from_value(old).unwrap_or_default();
        let conditions = merge(&old, &found, generation, &Self::now());
        let status = if conditions.is_empty() { json!({}) } else { json!({"conditions": conditions}) };
        if status != json!({}) || current.get("conditions").is_some() {
            self.report((kind, key.clone()), &current, status.clone(), status, std::time::Duration::ZERO);
        }
        problem.map(|_| Class::Terminal)
    }

    fn forgotten(&mut self, kind: Kind, key: &ObjectKey) -> Option<Class> {
        self.forget(&(kind, key.clone()));
        None
    }
}

fn database_problem(sink: &Object<KollectDatabaseSinkSpec>) -> Option<(&'static str, String)> {
    let spec = match &sink.spec {
        Ok(spec) => spec,
        Err(error) => return Some((reasons::INVALID_SPEC, error.to_string())),
    };
    if let Some(unserved) = validate::not_served::message(&validate::not_served::database_sink(spec)) {
        return Some((reasons::NOT_SERVED, unserved));
    }
    validate::postgres(spec).err().map(|errors| (reasons::INVALID_SPEC, errors.to_string()))
}
