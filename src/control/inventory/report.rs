//! What the status of an inventory says: pure, from how each sink stands to conditions.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

use super::{Failing, REMEMBERED_INTERVAL, SYNC_GRACE};
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::{KollectInventoryStatus, SinkExport};
use crate::deliver::Report;
use crate::error::Class;

/// Goes before what a scope made of the interval.
const RAISED: &str = "; interval ";
/// Goes before what a document lacks.
const WITHOUT: &str = "; written without what was never listed: ";

/// How one sink stands, for the status.
#[derive(Debug, Clone)]
pub(super) struct SinkView {
    pub(super) name: String,
    /// Of the sink, where it is not that of the inventory.
    pub(super) namespace: String,
    pub(super) state: SinkState,
    pub(super) report: Report,
    pub(super) interval: Duration,
    /// Why the interval is another one than was asked for.
    pub(super) raised: Option<String>,
    /// What a document was written without, and why.
    pub(super) lacks: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SinkState {
    Exported,
    /// A change waits for the interval.
    Debounced,
    /// A change waits although its interval is over, and nothing failed.
    Late(String),
    /// Nothing has been delivered yet, and nothing is wrong.
    Pending(String),
    /// A document waits for what is not known yet, and nothing is wrong.
    Awaiting(String),
    Failing(Failing),
}

impl SinkView {
    /// Returns after how long the change that waits is late.
    pub(super) fn late_in(&self) -> Option<Duration> {
        let left = (self.interval + SYNC_GRACE).saturating_sub(self.report.lag());
        (!self.report.lag().is_zero() && matches!(self.state, SinkState::Exported | SinkState::Debounced))
            .then_some(left)
    }

    pub(super) fn export(&self, before: &KollectInventoryStatus, generation: i64, now: &Time) -> SinkExport {
        let old = before.sink_exports.iter().find(|export| export.name == self.name);
        if let (SinkState::Pending(_), Some(old)) = (&self.state, old) {
            return old.clone();
        }
        let interval = crate::api::v1alpha1::Duration::from(self.interval);
        let notes = format!("{}{}", raised(self.raised.as_deref()), without(self.lacks.as_deref()));
        let (status, reason, message) = match &self.state {
            SinkState::Exported => (
                ConditionStatus::True,
                reasons::EXPORTED,
                format!("{} row(s), all changes are in the sink{notes}", self.report.rows),
            ),
            SinkState::Debounced => {
                let message = format!("a change waits for the interval of {interval}{notes}");
                (ConditionStatus::True, reasons::DEBOUNCED, message)
            }
            SinkState::Pending(why) | SinkState::Awaiting(why) | SinkState::Late(why) => {
                (ConditionStatus::False, reasons::PROGRESSING, why.clone())
            }
            SinkState::Failing(failing) => {
                let reason = match failing.reason {
                    reasons::NOT_SERVED
                    | reasons::SCOPE_SINK_DENIED
                    | reasons::SINK_NAMESPACE_DENIED
                    | reasons::SINK_NOT_FOUND
                    | reasons::CLUSTER_CONFLICT
                    | reasons::PATH_CONFLICT
                    | reasons::PAYLOAD_TOO_LARGE => failing.reason,
                    _ => reasons::EXPORT_FAILED,
                };
                (ConditionStatus::False, reason, failing.message.clone())
            }
        };
        let finding = Finding { type_: types::SYNCED, status, reason, message };
        let conditions = old.map(|old| old.conditions.as_slice()).unwrap_or_default();
        let last_write = self.report.last_write.map(Time);
        let lag = Duration::from_secs(self.report.lag().as_secs());
        let behind = !matches!(self.state, SinkState::Exported | SinkState::Debounced) && !lag.is_zero();
        SinkExport {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            last_export_time: last_write.or_else(|| old.and_then(|old| old.last_export_time.clone())),
            last_checksum: self
                .report
                .checksum
                .clone()
                .or_else(|| old.map(|old| old.last_checksum.clone()))
                .unwrap_or_default(),
            lag: behind.then(|| lag.into()),
            next_due: self.report.next_due.map(Time),
            conditions: merge(conditions, &[finding], generation, now),
        }
    }
}

/// Decides the conditions of an inventory that may export, and the class of what is wrong.
pub(super) fn findings(views: &[SinkView], rows: usize, whole: bool) -> (Vec<Finding>, Option<Class>) {
    let finding = |type_, status, reason, message: &str| Finding { type_, status, reason, message: message.to_owned() };
    let failing: Vec<(&str, &Failing)> = views
        .iter()
        .filter_map(|view| match &view.state {
            SinkState::Failing(failing) => Some((view.name.as_str(), failing)),
            _ => None,
        })
        .collect();
    let pending: Vec<&SinkView> =
        views.iter().filter(|view| matches!(view.state, SinkState::Pending(_) | SinkState::Awaiting(_))).collect();
    let good = views.len() - failing.len() - pending.len();
    let terminal = failing.iter().all(|(_, failing)| failing.class != Class::Transient);
    let messages: Vec<String> = failing.iter().map(|(name, failing)| format!("{name}: {}", failing.message)).collect();
    let message = messages.join("; ");
    // Of these a person hears even while other sinks are current.
    let severe = [reasons::SINK_NAMESPACE_DENIED, reasons::SCOPE_SINK_DENIED, reasons::NOT_SERVED];
    let severe = severe.into_iter().find(|reason| failing.iter().any(|(_, failing)| failing.reason == *reason));
    let clamped = views.iter().find(|view| view.raised.is_some());
    let clamped = clamped.map_or_else(String::new, |view| raised(view.raised.as_deref()));
    let unfinished = match views.iter().find_map(|view| view.lacks.as_deref()) {
        None if whole => String::new(),
        None => "; parts of the targets are not listed yet".to_owned(),
        lacks => without(lacks),
    };

    let mut found = Vec::new();
    if views.is_empty() {
        let nothing = "spec names no sink";
        found.push(finding(types::READY, ConditionStatus::True, reasons::NO_EXPORT, nothing));
        found.push(finding(types::SYNCED, ConditionStatus::True, reasons::NO_EXPORT, nothing));
        found.push(finding(types::SINK_REACHABLE, ConditionStatus::True, reasons::NO_SINKS_CONFIGURED, nothing));
        return (found, None);
    }
    if failing.is_empty() && pending.is_empty() {
        let exported = format!("exported {rows} item(s) across {good} sink(s){clamped}{unfinished}");
        found.push(finding(types::READY, ConditionStatus::True, reasons::EXPORTED, &exported));
        found.push(synced(views));
        let reachable = "the last delivery to every sink succeeded";
        found.push(finding(types::SINK_REACHABLE, ConditionStatus::True, reasons::EXPORT_SUCCEEDED, reachable));
        return (found, None);
    }
    if failing.is_empty() {
        let (what, why) = match &pending.first().map(|view| &view.state) {
            Some(SinkState::Pending(why)) => ("have had no delivery yet", why.as_str()),
            Some(SinkState::Awaiting(why)) => ("wait", why.as_str()),
            _ => ("wait", ""),
        };
        let message = format!("{} of {} sink(s) {what}: {why}", pending.len(), views.len());
        found.push(finding(types::SYNCED, ConditionStatus::False, reasons::PROGRESSING, &message));
        return (found, None);
    }
    if good > 0 {
        let ready = format!("exported {rows} item(s) across {good} of {} sink(s){unfinished}", views.len());
        found.push(finding(types::READY, ConditionStatus::True, reasons::PARTIALLY_SYNCED, &ready));
        found.push(finding(types::SYNCED, ConditionStatus::False, reasons::PARTIALLY_SYNCED, &message));
        if let Some(reason) = severe {
            found.push(finding(types::DEGRADED, ConditionStatus::True, reason, &message));
        }
    } else {
        let reason = match failing.as_slice() {
            [(_, only)] if keeps_its_reason(only.reason) => only.reason,
            _ if let Some(severe) = severe => severe,
            _ if terminal => reasons::EXPORT_TERMINAL,
            _ => reasons::PROGRESSING,
        };
        found.push(finding(types::DEGRADED, ConditionStatus::True, reason, &message));
        found.push(finding(types::SYNCED, ConditionStatus::False, reason, &message));
    }
    let reason = if failing.iter().any(|(_, failing)| failing.reason == reasons::SINK_NOT_FOUND) {
        reasons::SINK_NOT_FOUND
    } else if terminal {
        reasons::EXPORT_TERMINAL
    } else {
        reasons::EXPORT_FAILED
    };
    found.push(finding(types::SINK_REACHABLE, ConditionStatus::False, reason, &message));
    let class = if terminal { Class::Terminal } else { Class::Transient };
    (found, Some(class))
}

/// Says whether sinks that all take what they are given are up to date.
fn synced(views: &[SinkView]) -> Finding {
    let late = views.iter().find_map(|view| match &view.state {
        SinkState::Late(why) => Some(format!("{}: {why}", view.name)),
        _ => None,
    });
    let waits = views.iter().any(|view| view.state == SinkState::Debounced);
    let (status, reason, message) = match late {
        Some(late) => (ConditionStatus::False, reasons::PROGRESSING, late),
        None if waits => (ConditionStatus::True, reasons::DEBOUNCED, "a change waits for its interval".to_owned()),
        None => (ConditionStatus::True, reasons::EXPORTED, format!("exported to {} sink(s)", views.len())),
    };
    Finding { type_: types::SYNCED, status, reason, message }
}

/// Returns what is added to a message where a scope raised the interval.
fn raised(why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| format!("{RAISED}{why}"))
}

/// Returns what is added to a message of what was written.
fn without(lacks: Option<&str>) -> String {
    lacks.map_or_else(String::new, |lacks| format!("{WITHOUT}{lacks}"))
}

/// Tells whether a reason says more than "the export failed".
fn keeps_its_reason(reason: &str) -> bool {
    [
        reasons::NOT_SERVED,
        reasons::SCOPE_SINK_DENIED,
        reasons::SINK_NAMESPACE_DENIED,
        reasons::SINK_NOT_FOUND,
        reasons::SECRET_RESOLVE_FAILED,
        reasons::INVALID_SPEC,
        reasons::CLUSTER_CONFLICT,
        reasons::PATH_CONFLICT,
        reasons::PAYLOAD_TOO_LARGE,
    ]
    .contains(&reason)
}

/// Turns the conditions of an inventory into those of a cluster inventory: it is not Ready beside Degraded, has rolled up
/// where there is no sink, and remembers that it was exported once.
pub(super) fn rolled_up(findings: &mut Vec<Finding>, before: &[Condition]) {
    if findings.iter().any(|found| found.type_ == types::DEGRADED) {
        findings.retain(|found| found.type_ != types::READY);
    }
    for found in findings.iter_mut().filter(|found| found.reason == reasons::NO_EXPORT) {
        found.reason = reasons::ROLLED_UP;
    }
    let exported = findings.iter().find(|found| found.type_ == types::READY && found.reason != reasons::ROLLED_UP);
    let exported = exported.map(|ready| Finding { type_: types::EXPORT_SUCCEEDED, ..ready.clone() });
    let earlier = before.iter().find(|condition| condition.type_ == types::EXPORT_SUCCEEDED).map(|condition| Finding {
        type_: types::EXPORT_SUCCEEDED,
        status: ConditionStatus::True,
        reason: if condition.reason == reasons::EXPORTED { reasons::EXPORTED } else { reasons::PARTIALLY_SYNCED },
        message: condition.message.clone(),
    });
    findings.extend(exported.or(earlier));
}

/// The conditions of an inventory that may not export at all.
pub(super) fn degraded(failing: &Failing) -> (Vec<Finding>, Option<Class>) {
    let finding = |type_, status| Finding { type_, status, reason: failing.reason, message: failing.message.clone() };
    let findings =
        vec![finding(types::DEGRADED, ConditionStatus::True), finding(types::SYNCED, ConditionStatus::False)];
    (findings, (failing.reason != reasons::SUSPENDED).then_some(failing.class))
}

/// Returns the status without what only counts. A write whose interval outlives the process is more than a number: the next
/// process waits for its end.
pub(super) fn substance(status: &KollectInventoryStatus, views: &[SinkView]) -> Value {
    let remembered = |name: &str| views.iter().any(|view| view.name == name && view.interval >= REMEMBERED_INTERVAL);
    let mut status = status.clone();
    status.item_count = 0;
    status.last_export_time = None;
    for export in &mut status.sink_exports {
        if !remembered(&export.name) {
            export.last_export_time = None;
        }
        export.last_checksum = String::new();
        export.lag = None;
        export.next_due = None;
        quiet(&mut export.conditions);
    }
    quiet(&mut status.conditions);
    serde_json::to_value(&status).unwrap_or_default()
}

/// Takes the counting messages out, and does not tell a waiting change from a delivered one: that is no event.
fn quiet(conditions: &mut [Condition]) {
    for condition in conditions {
        if [reasons::EXPORTED, reasons::DEBOUNCED, reasons::APPROACHING_EXPORT_CAP].contains(&condition.reason.as_str())
        {
            let notes = [RAISED, WITHOUT].into_iter().filter_map(|note| condition.message.find(note));
            let notes = notes.min().unwrap_or(condition.message.len());
            condition.message.drain(..notes);
            reasons::EXPORTED.clone_into(&mut condition.reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const NOW: Time = Time(jiff::Timestamp::UNIX_EPOCH);

    fn view(name: &str, state: SinkState) -> SinkView {
        SinkView {
            name: name.to_owned(),
            namespace: String::new(),
            state,
            report: Report::default(),
            interval: Duration::from_secs(30),
            raised: None,
            lacks: None,
        }
    }

    fn failing(reason: &'static str, class: Class) -> SinkState {
        SinkState::Failing(Failing { reason, class, message: "it broke".to_owned() })
    }

    /// Returns the conditions as `Type=Status/Reason`.
    fn said(views: &[SinkView]) -> Vec<String> {
        let (found, _) = findings(views, 7, true);
        found.iter().map(|found| format!("{}={}/{}", found.type_, found.status.as_str(), found.reason)).collect()
    }

    #[test]
    fn conditions_follow_from_how_the_sinks_stand() {
        let good = || view("database/a", SinkState::Exported);
        let waits = || view("database/b", SinkState::Debounced);
        let broken = || view("database/c", failing("ExportFailed", Class::Transient));
        let stuck = || view("database/d", failing("ExportFailed", Class::Terminal));
        let unserved = || view("snapshot/e", failing("NotServed", Class::Terminal));
        let denied = || view("snapshot/d", failing("ScopeSinkDenied", Class::Terminal));
        let cases: &[(&[SinkView], &[&str])] = &[
            (&[], &["Ready=True/NoExport", "Synced=True/NoExport", "SinkReachable=True/NoSinksConfigured"]),
            (&[good()], &["Ready=True/Exported", "Synced=True/Exported", "SinkReachable=True/ExportSucceeded"]),
            (
                &[good(), waits()],
                &["Ready=True/Exported", "Synced=True/Debounced", "SinkReachable=True/ExportSucceeded"],
            ),
            (
                &[waits(), view("database/h", SinkState::Late("it takes long".into()))],
                &["Ready=True/Exported", "Synced=False/Progressing", "SinkReachable=True/ExportSucceeded"],
            ),
            (
                &[good(), broken()],
                &["Ready=True/PartiallySynced", "Synced=False/PartiallySynced", "SinkReachable=False/ExportFailed"],
            ),
            (
                &[broken()],
                &["Degraded=True/Progressing", "Synced=False/Progressing", "SinkReachable=False/ExportFailed"],
            ),
            (
                &[stuck()],
                &["Degraded=True/ExportTerminal", "Synced=False/ExportTerminal", "SinkReachable=False/ExportTerminal"],
            ),
            (
                &[good(), unserved()],
                &[
                    "Ready=True/PartiallySynced",
                    "Synced=False/PartiallySynced",
                    "Degraded=True/NotServed",
                    "SinkReachable=False/ExportTerminal",
                ],
            ),
            (
                &[good(), unserved(), denied()],
                &[
                    "Ready=True/PartiallySynced",
                    "Synced=False/PartiallySynced",
                    "Degraded=True/ScopeSinkDenied",
                    "SinkReachable=False/ExportTerminal",
                ],
            ),
            (
                &[denied()],
                &[
                    "Degraded=True/ScopeSinkDenied",
                    "Synced=False/ScopeSinkDenied",
                    "SinkReachable=False/ExportTerminal",
                ],
            ),
            (
                &[denied(), broken()],
                &["Degraded=True/ScopeSinkDenied", "Synced=False/ScopeSinkDenied", "SinkReachable=False/ExportFailed"],
            ),
            (&[view("database/f", SinkState::Pending("soon".into()))], &["Synced=False/Progressing"]),
            (&[good(), view("snapshot/g", SinkState::Awaiting("x".into()))], &["Synced=False/Progressing"]),
        ];
        for (views, want) in cases {
            assert_eq!(said(views), *want);
        }
    }

    #[test]
    fn a_cluster_inventory_is_not_ready_beside_degraded_and_remembers_that_it_was_exported() {
        let rolled = |views: &[SinkView], before: &[Condition]| {
            let (mut found, _) = findings(views, 7, true);
            rolled_up(&mut found, before);
            merge(before, &found, 1, &NOW)
        };
        let said = |conditions: &[Condition]| {
            let line = |found: &Condition| format!("{}={}/{}", found.type_, found.status, found.reason);
            conditions.iter().map(line).collect::<Vec<_>>()
        };
        let none = ["Ready=True/RolledUp", "Synced=True/RolledUp", "SinkReachable=True/NoSinksConfigured"];
        assert_eq!(said(&rolled(&[], &[])), none);
        let good = || view("database/a", SinkState::Exported);
        let exported = rolled(&[good()], &[]);
        assert_eq!(said(&exported)[3..], ["ExportSucceeded=True/Exported"]);
        let denied = view("database/b", failing("SinkNamespaceDenied", Class::Terminal));
        let degraded = rolled(&[good(), denied], &exported);
        let want = [
            "Synced=False/PartiallySynced",
            "Degraded=True/SinkNamespaceDenied",
            "SinkReachable=False/ExportTerminal",
            "ExportSucceeded=True/Exported",
        ];
        assert_eq!(said(&degraded), want);
    }

    #[test]
    fn a_change_is_late_half_a_minute_after_its_interval() {
        let waiting = |seconds| {
            let behind_since = Instant::now().checked_sub(Duration::from_secs(seconds));
            SinkView { report: Report { behind_since, ..Report::default() }, ..view("a", SinkState::Debounced) }
        };
        let left = waiting(20).late_in().unwrap();
        assert!(left <= Duration::from_secs(40) && left > Duration::from_secs(35), "{left:?}");
        assert_eq!(waiting(70).late_in(), Some(Duration::ZERO));
        assert_eq!(view("a", SinkState::Exported).late_in(), None);
    }

    #[test]
    fn what_a_document_waits_for_and_what_it_lacks_is_said_at_the_sink_and_above() {
        let status = |view: &SinkView, before: &KollectInventoryStatus| {
            let (found, _) = findings(std::slice::from_ref(view), 7, false);
            KollectInventoryStatus {
                conditions: merge(&[], &found, 1, &NOW),
                sink_exports: vec![view.export(before, 1, &NOW)],
                ..KollectInventoryStatus::default()
            }
        };
        let said = |status: &KollectInventoryStatus| {
            let of_sink = status.sink_exports.iter().flat_map(|export| &export.conditions);
            let all = of_sink.chain(&status.conditions).map(|found| format!("{}: {}", found.reason, found.message));
            all.collect::<Vec<_>>()
        };
        let good = status(&view("snapshot/g", SinkState::Exported), &KollectInventoryStatus::default());
        let waits = status(&view("snapshot/g", SinkState::Awaiting("the document waits for b".into())), &good);
        assert_eq!(
            said(&waits),
            ["Progressing: the document waits for b", "Progressing: 1 of 1 sink(s) wait: the document waits for b"]
        );
        let lacking = |lacks: &str| {
            let view = SinkView { lacks: Some(lacks.to_owned()), ..view("snapshot/g", SinkState::Exported) };
            status(&view, &good)
        };
        let without = "written without what was never listed: target \"t\" in b (denied)";
        let lacks = lacking("target \"t\" in b (denied)");
        assert_eq!(
            said(&lacks)[..2],
            [
                format!("Exported: 0 row(s), all changes are in the sink; {without}"),
                format!("Exported: exported 7 item(s) across 1 sink(s); {without}"),
            ]
        );
        assert_ne!(substance(&good, &[]), substance(&lacks, &[]));
        assert_ne!(substance(&lacking("target \"t\" in c (denied)"), &[]), substance(&lacks, &[]));
    }

    #[test]
    fn an_interval_that_a_scope_raised_is_said_and_is_news() {
        let of = |raised: Option<&str>, rows: u32| {
            let mut view = view("database/a", SinkState::Exported);
            view.raised = raised.map(str::to_owned);
            view.report.rows = rows.into();
            let export = view.export(&KollectInventoryStatus::default(), 1, &NOW);
            let (found, _) = findings(&[view], rows as usize, true);
            KollectInventoryStatus {
                conditions: merge(&[], &found, 1, &NOW),
                sink_exports: vec![export],
                ..KollectInventoryStatus::default()
            }
        };
        let why = "raised from 0s to 1m0s, spec.minExportInterval of S";
        let clamped = of(Some(why), 7);
        let note = format!("; interval {why}");
        assert_eq!(clamped.conditions[0].message, format!("exported 7 item(s) across 1 sink(s){note}"));
        let of_sink = &clamped.sink_exports[0].conditions[0].message;
        assert_eq!(*of_sink, format!("7 row(s), all changes are in the sink{note}"));
        assert_ne!(substance(&clamped, &[]), substance(&of(None, 7), &[]));
        assert_eq!(substance(&clamped, &[]), substance(&of(Some(why), 8), &[]));
    }

    #[test]
    fn a_waiting_change_and_new_numbers_are_no_news() {
        let conditions = |reason: &str, message: &str| {
            let finding = Finding {
                type_: types::SYNCED,
                status: ConditionStatus::True,
                reason: if reason == "Exported" { reasons::EXPORTED } else { reasons::DEBOUNCED },
                message: message.to_owned(),
            };
            merge(&[], &[finding], 1, &NOW)
        };
        let one = KollectInventoryStatus {
            conditions: conditions("Exported", "1 row"),
            item_count: 1,
            ..KollectInventoryStatus::default()
        };
        let other = KollectInventoryStatus {
            conditions: conditions("Debounced", "a change waits"),
            item_count: 2,
            ..KollectInventoryStatus::default()
        };
        assert_eq!(substance(&one, &[]), substance(&other, &[]));
    }

    #[test]
    fn a_write_is_news_where_the_next_process_has_to_know_of_it() {
        for (interval, news) in [(Duration::from_secs(59), false), (Duration::from_mins(1), true)] {
            let views = [SinkView { interval, ..view("snapshot/g", SinkState::Exported) }];
            let written = |second: i64| {
                let last_export_time = Some(Time(jiff::Timestamp::from_second(second).unwrap()));
                let export =
                    SinkExport { last_export_time, ..views[0].export(&KollectInventoryStatus::default(), 1, &NOW) };
                KollectInventoryStatus { sink_exports: vec![export], ..KollectInventoryStatus::default() }
            };
            let differs = substance(&written(1), &views) != substance(&written(2), &views);
            assert_eq!(differs, news, "{interval:?}");
        }
    }
}
