//! What is not known of targets, and why: for the inventories whose documents lack it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{NAMED, some};
use crate::api::v1alpha1::conditions::types;
use crate::control::Control;
use crate::model::{Name, Namespace, ObjectKey, Part, TargetKey};

impl Control {
    /// Names parts that were never listed, with what stands in the way of each. `home` says in which namespace the target
    /// of a part is registered; of several the first tells for all.
    pub(in crate::control) fn unknown(&self, home: impl Fn(&Part) -> Namespace, parts: &[Part]) -> String {
        let mut homes: BTreeMap<&Name, Namespace> = BTreeMap::new();
        let mut targets: BTreeMap<&Name, Vec<&Namespace>> = BTreeMap::new();
        for part in parts {
            homes.entry(&part.target).or_insert_with(|| home(part));
            targets.entry(&part.target).or_default().push(&part.namespace);
        }
        let mut named: Vec<String> = Vec::new();
        for (name, namespaces) in targets.iter().take(NAMED) {
            let place = some(namespaces.iter().copied().filter(|namespace| !namespace.is_empty()));
            let place = if place.is_empty() { String::new() } else { format!(" in {place}") };
            let Some(home) = homes.get(name) else { continue };
            let key = TargetKey::new(home.clone(), (*name).clone());
            named.push(format!("target {:?}{place} ({})", name.as_str(), self.why_unknown(&key, namespaces)));
        }
        let more = targets.len().saturating_sub(NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more target(s)") };
        format!("{}{more}", named.join(", "))
    }

    fn why_unknown(&self, key: &TargetKey, namespaces: &[&Namespace]) -> String {
        let over_budget = |table: &std::sync::Arc<crate::store::Table>| table.target_counts(&key.name).over_budget;
        let over_budget = self.parts.store.existing(&key.namespace).as_ref().map(over_budget).unwrap_or_default();
        if namespaces.iter().any(|namespace| over_budget.contains(namespace)) {
            return "its rows do not fit into the store".to_owned();
        }
        let everywhere = ObjectKey::new(Namespace::new(""), key.name.clone());
        let interest = self.targets.get(key).and_then(|state| state.interest.as_ref());
        let interest = interest.or_else(|| self.cluster_targets.get(&everywhere)?.interest(&key.namespace));
        if let Some(interest) = interest {
            let mut problems = self.parts.watch.problems(interest).into_iter();
            let here = problems.find(|(place, _)| place.is_empty() || namespaces.contains(&place));
            return here.map_or_else(|| "its first list is under way".to_owned(), |(_, problem)| problem.message);
        }
        let own = self.shelves.targets.get(key).map(|object| &object.status);
        let status = own.or_else(|| self.shelves.cluster_targets.get(&everywhere).map(|object| &object.status));
        let conditions = status.and_then(|status| status.get("conditions")).cloned().unwrap_or_default();
        let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
        let degraded = conditions.into_iter().find(|condition| condition.type_ == types::DEGRADED);
        degraded.map_or_else(|| "it does not collect yet".to_owned(), |condition| condition.message)
    }
}
