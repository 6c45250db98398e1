//! What the status of a cluster target says.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::time::Instant;

use super::{Places, State, counts};
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::{Kind, KollectClusterTargetSpec, KollectClusterTargetStatus};
use crate::control::Control;
use crate::control::shelf::Object;
use crate::control::target::room::Fill;
use crate::control::target::{Refusal, STARTING, access, some};
use crate::error::Class;
use crate::model::{Namespace, ObjectKey};
use crate::store::TargetCounts;
use crate::watch::Problem;

/// What a status is made from.
struct View<'a> {
    /// Name and namespace of the profile.
    profile: (&'a str, &'a str),
    counts: &'a TargetCounts,
    problems: &'a BTreeMap<Namespace, Problem>,
    outcome: &'a Result<Places, Refusal>,
    /// What of target and profile has no effect.
    remarks: &'a str,
    fill: Fill,
}

impl Control {
    /// Gives a cluster target its status; returns the class of what is wrong.
    pub(super) fn report_cluster_target(
        &mut self,
        key: &ObjectKey,
        object: &Object<KollectClusterTargetSpec>,
        outcome: &Result<Places, Refusal>,
        state: &mut State,
    ) -> Option<Class> {
        let mut problems = BTreeMap::new();
        for (namespace, registration) in &mut state.registrations {
            let Some(interest) = &registration.interest else { continue };
            registration.reported = counts(&self.parts.store, namespace, &key.name);
            registration.counted |= registration.reported.whole;
            problems.extend(self.parts.watch.problems(interest));
        }
        let before = std::mem::take(&mut state.common.reported);
        let total = total(state.registrations.values().map(|registration| &registration.reported));
        if total.failing > 0 && before.failing == 0 {
            let error = total.last_failure.as_deref().unwrap_or_default();
            tracing::error!(target = %key.name, rows = total.failing, error, "extract attributes");
        }
        state.common.reported = total.clone();
        let starting = *state.common.starting.get_or_insert_with(Instant::now) + STARTING;
        if outcome.is_ok() && problems.is_empty() && !total.whole && Instant::now() < starting {
            self.deferred.insert((Kind::ClusterTarget, key.clone()), starting);
            return None;
        }
        let reference = object.spec.as_ref().map(|spec| &spec.profile_ref);
        let profile = reference.map_or(("", ""), |it| (it.name.as_str(), it.namespace.as_str()));
        let fill = Fill::of(&self.parts.store);
        let remarks = state.common.remarks.as_str();
        let view = View { profile, counts: &total, problems: &problems, outcome, remarks, fill };
        let (findings, class) = findings(&view);
        let before: KollectClusterTargetStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
        let names = |list: &[Namespace]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rules = object.spec.as_ref().map_or(0, |spec| spec.resource_rules.len());
        let (matched, effective) = match outcome {
            Ok(places) => (names(&places.matched), names(&places.effective)),
            // Where it collected is what the next process has to know, too.
            Err(_) => (before.matched_namespaces.clone(), before.effective_namespaces.clone()),
        };
        let ready = class.is_none() && outcome.is_ok();
        let status = KollectClusterTargetStatus {
            conditions: merge(&before.conditions, &findings, object.generation(), &Self::now()),
            observed_generation: if ready { Some(object.generation()) } else { before.observed_generation },
            matched_namespaces: matched,
            effective_namespaces: effective,
            active_resource_rules: i64::try_from(rules).unwrap_or(i64::MAX),
        };
        let substance = substance(&status, &total, remarks);
        let status = serde_json::to_value(&status).unwrap_or_default();
        let patience = self.parts.config.control.count_resync;
        self.report((Kind::ClusterTarget, key.clone()), &object.status, status, substance, patience);
        class
    }
}

/// Adds up what the registrations have.
fn total<'a>(all: impl Iterator<Item = &'a TargetCounts>) -> TargetCounts {
    let mut total = TargetCounts { whole: true, ..TargetCounts::default() };
    for counts in all {
        total.rows += counts.rows;
        total.sanitized += counts.sanitized;
        total.failing += counts.failing;
        total.last_failure = total.last_failure.take().or_else(|| counts.last_failure.clone());
        total.unknown.extend(counts.unknown.iter().cloned());
        total.over_budget.extend(counts.over_budget.iter().cloned());
        total.whole &= counts.whole;
    }
    total
}

/// Decides the conditions, and the class of what is wrong.
fn findings(view: &View<'_>) -> (Vec<Finding>, Option<Class>) {
    let finding = |type_, status, reason, message: String| Finding { type_, status, reason, message };
    if let Some((reason, message, class)) = degraded(view) {
        return (vec![finding(types::DEGRADED, ConditionStatus::True, reason, message)], Some(class));
    }
    let ready = ready(view);
    let synced = if view.problems.is_empty() {
        finding(types::SYNCED, ConditionStatus::True, reasons::COLLECTING, ready.clone())
    } else {
        finding(types::SYNCED, ConditionStatus::True, reasons::SCOPE_FORBIDDEN, access::denied(view.problems))
    };
    (vec![finding(types::READY, ConditionStatus::True, reasons::COLLECTING, ready), synced], None)
}

/// Decides what stands in the way, if anything does. Objects that cannot be extracted do not: one of any team would keep
/// the rows of all of them from every cluster inventory.
fn degraded(view: &View<'_>) -> Option<(&'static str, String, Class)> {
    let places = match view.outcome {
        Err(refusal) => return Some((refusal.reason, refusal.message.clone(), Class::Terminal)),
        Ok(places) => places,
    };
    if !places.taken.is_empty() {
        let message = format!(
            "there is a KollectTarget of this name in {}: its rows have the same place, and it wins there; the other \
             namespaces are collected. Rename one of the two",
            some(places.taken.iter())
        );
        return Some((reasons::NAME_CONFLICT, message, Class::Terminal));
    }
    if !view.counts.over_budget.is_empty() {
        let message = view.fill.message(&view.counts.over_budget);
        return Some((reasons::STORE_BUDGET_EXCEEDED, message, Class::Terminal));
    }
    access::failure(view.problems)
}

fn ready(view: &View<'_>) -> String {
    let (counts, (name, namespace)) = (view.counts, view.profile);
    let matched = view.outcome.as_ref().map_or(0, |places| places.matched.len());
    let resolved = format!("profileRef {name:?} in namespace {namespace:?} resolved");
    let collecting = if counts.whole {
        format!("collecting {} resource(s)", counts.rows)
    } else {
        let unknown = some(counts.unknown.iter());
        let place = if unknown.is_empty() { String::new() } else { format!(" in {unknown}") };
        format!("first list under way{place}")
    };
    let mut parts = vec![resolved, format!("{matched} namespace(s) matched"), collecting];
    if counts.failing > 0 {
        let last = counts.last_failure.as_deref().unwrap_or_default();
        parts.push(format!("{} resource(s) failed attribute extraction: {last}", counts.failing));
    }
    if counts.sanitized > 0 {
        parts.push(format!("U+0000 replaced by U+FFFD in {} of them", counts.sanitized));
    }
    if !view.remarks.is_empty() {
        parts.push(view.remarks.to_owned());
    }
    parts.join("; ")
}

/// Returns the status without what only counts.
fn substance(status: &KollectClusterTargetStatus, counts: &TargetCounts, remarks: &str) -> Value {
    let mut status = status.clone();
    for condition in &mut status.conditions {
        if condition.reason == reasons::COLLECTING {
            let failing = counts.failing > 0;
            condition.message = format!("{} {} {failing} {remarks}", counts.whole, counts.unknown.len());
        }
        if condition.reason == reasons::STORE_BUDGET_EXCEEDED {
            condition.message = some(counts.over_budget.iter());
        }
    }
    serde_json::to_value(&status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::target::Rows;
    use crate::watch::Fault;

    fn names(names: &[&'static str]) -> Vec<Namespace> {
        names.iter().map(|name| Namespace::new(*name)).collect()
    }

    /// Returns the conditions as `Type=Status/Reason: message`, and the class.
    fn said(
        counts: &TargetCounts,
        problems: &[(&'static str, Option<u16>)],
        outcome: &Result<Places, Refusal>,
    ) -> (Vec<String>, Option<Class>) {
        let problem = |(namespace, code): &(&'static str, Option<u16>)| {
            (
                Namespace::new(*namespace),
                Problem { fault: Fault::List, code: *code, message: "the server says no".to_owned() },
            )
        };
        let problems = problems.iter().map(problem).collect();
        let fill = Fill::of(&crate::store::Store::default());
        let (found, class) =
            findings(&View { profile: ("p", "platform"), counts, problems: &problems, outcome, remarks: "", fill });
        let line =
            |found: &Finding| format!("{}={}/{}: {}", found.type_, found.status.as_str(), found.reason, found.message);
        (found.iter().map(line).collect(), class)
    }

    #[test]
    fn registrations_are_added_up() {
        let one = TargetCounts { rows: 3, whole: true, ..TargetCounts::default() };
        let other = TargetCounts {
            rows: 4,
            failing: 1,
            last_failure: Some("it broke".into()),
            unknown: names(&["b"]),
            ..TargetCounts::default()
        };
        let sum = total([&one, &other].into_iter());
        assert_eq!((sum.rows, sum.failing, sum.whole), (7, 1, false));
        assert_eq!((sum.unknown, sum.last_failure.as_deref()), (names(&["b"]), Some("it broke")));
        assert!(total(std::iter::empty()).whole, "what collects nowhere waits for nothing");
    }

    #[test]
    fn conditions_name_the_namespaces_and_what_to_do() {
        let places = |taken| Places { matched: names(&["a", "b"]), effective: names(&["a"]), taken: names(taken) };
        let whole = TargetCounts { rows: 7, whole: true, ..TargetCounts::default() };
        let resolved = "profileRef \"p\" in namespace \"platform\" resolved; 2 namespace(s) matched";

        let (lines, class) = said(&whole, &[], &Ok(places(&[])));
        let collecting = format!("{resolved}; collecting 7 resource(s)");
        assert_eq!(lines, ["Ready", "Synced"].map(|type_| format!("{type_}=True/Collecting: {collecting}")));
        assert_eq!(class, None);

        let starting = TargetCounts { unknown: names(&["b"]), ..TargetCounts::default() };
        let (lines, _) = said(&starting, &[], &Ok(places(&[])));
        assert_eq!(lines[0], format!("Ready=True/Collecting: {resolved}; first list under way in b"));

        // Neither an object that fails nor a namespace that may not be listed stops the others.
        let failing = TargetCounts { failing: 2, last_failure: Some("it broke".into()), ..whole.clone() };
        let (lines, class) = said(&failing, &[("b", Some(403))], &Ok(places(&[])));
        assert!(lines[0].ends_with("collecting 7 resource(s); 2 resource(s) failed attribute extraction: it broke"));
        assert!(
            lines[1].starts_with("Synced=True/ScopeForbidden: may not list in b; rows from there stay"),
            "{lines:?}"
        );
        assert_eq!(class, None);

        for (counts, problems, outcome, expected, class) in [
            (
                &whole,
                vec![],
                Ok(places(&["b"])),
                "NameConflict: there is a KollectTarget of this name in b: ",
                Class::Terminal,
            ),
            (
                &TargetCounts { over_budget: names(&["a"]), ..TargetCounts::default() },
                vec![],
                Ok(places(&[])),
                "StoreBudgetExceeded: rows of a do not fit into the store",
                Class::Terminal,
            ),
            (
                &whole,
                vec![("a", Some(500))],
                Ok(places(&[])),
                "InformerRegistrationFailed: failed to list in namespace \"a\": the server says no",
                Class::Transient,
            ),
            (
                &whole,
                vec![],
                Err(Refusal::new(reasons::PROFILE_NOT_FOUND, "no profile", Rows::Stay)),
                "ProfileNotFound: no profile",
                Class::Terminal,
            ),
        ] {
            let (lines, found) = said(counts, &problems, &outcome);
            assert_eq!((lines.len(), found), (1, Some(class)), "{lines:?}");
            assert!(lines[0].starts_with(&format!("Degraded=True/{expected}")), "{lines:?}");
        }
    }
}
