//! KollectConnectionTest: one probe of one sink for each generation, after which the object deletes itself.
//!
//! What is over is on record in the status and nowhere else, so that the next process deletes what this one has probed.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::Preconditions;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Control;
use super::errand::Errand;
use super::probe::{Order, Probed, Verdict, of_connection};
use super::resolve::{Failing, Obstacle};
use super::shelf::Object;
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::{Kind, KollectConnectionTestSpec, KollectConnectionTestStatus};
use crate::error::Class;
use crate::metrics::{Outcome, SinkType};
use crate::model::{Family, Name, ObjectKey, SinkKey};
use crate::status::Subject;
use crate::validate;

/// A sink or a Secret that was made a moment before its test may be seen a moment after it.
const GRACE: Duration = Duration::from_secs(2);

type Test = Object<KollectConnectionTestSpec>;

/// What is remembered of a test until it is over.
#[derive(Debug)]
pub(super) struct State {
    uid: String,
    generation: i64,
    /// When this generation was first seen.
    since: Instant,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    New,
    Probing,
    Over(Verdict, Duration),
}

impl Control {
    /// Probes, reports, and ends what is over. Returns the class of what is wrong.
    pub(super) fn reconcile_connection_test(&mut self, key: &ObjectKey) -> Option<Class> {
        let subject = (Kind::ConnectionTest, key.clone());
        let Some(object) = self.shelves.tests.get(key).cloned() else {
            self.tests.remove(key);
            self.probes.cancel(&subject);
            self.alarms.remove(&subject);
            self.forget(&subject);
            return None;
        };
        if object.meta.deletion_timestamp.is_some() {
            return None;
        }
        let mut state = match self.tests.remove(key) {
            Some(state) if state.uid == object.uid() && state.generation == object.generation() => state,
            known => {
                if known.is_some_and(|known| known.uid != object.uid()) {
                    self.forget(&subject);
                }
                let (uid, generation) = (object.uid().to_owned(), object.generation());
                State { uid, generation, since: Instant::now(), phase: Phase::New }
            }
        };
        let class = self.advance(&subject, &object, &mut state);
        self.tests.insert(key.clone(), state);
        class
    }

    fn advance(&mut self, subject: &Subject, object: &Test, state: &mut State) -> Option<Class> {
        // The status as the API server has it: what watches the object has seen the result before it goes.
        let recorded: KollectConnectionTestStatus = serde_json::from_value(object.status.clone()).unwrap_or_default();
        if let (Ok(spec), Some(end)) = (&object.spec, end(&recorded, object)) {
            let left = end.duration_since(Timestamp::now());
            if !left.is_positive() {
                let uid = object.meta.uid.clone();
                let resource_version = object.meta.resource_version.clone();
                self.send(subject.clone(), Errand::Delete(Preconditions { uid, resource_version }));
                return None;
            }
            self.alarms.insert(subject.clone(), Instant::now() + left.unsigned_abs());
            if let Ok(named) = validate::connection_test(spec) {
                self.adopt(subject, object, spec, &sink_key(subject, named));
            }
            return None;
        }
        if let Phase::New = state.phase {
            state.phase = self.begin(subject, object, state.since);
        }
        let Phase::Over(verdict, elapsed) = &state.phase else { return None };
        let (verdict, elapsed) = (verdict.clone(), *elapsed);
        let class = verdict.as_ref().err().map(|failing| failing.class);
        self.report_test(subject.clone(), object, &verdict, elapsed);
        class
    }

    /// Resolves the sink and orders the probe.
    fn begin(&mut self, subject: &Subject, object: &Test, since: Instant) -> Phase {
        match self.resolve_test(subject, object) {
            Ok(order) => {
                self.probes.order(order);
                Phase::Probing
            }
            Err(Obstacle::Wait(_)) => Phase::New,
            Err(Obstacle::Refused(failing)) => {
                let late = [reasons::SINK_NOT_FOUND, reasons::SECRET_RESOLVE_FAILED].contains(&failing.reason);
                if late && since.elapsed() < GRACE {
                    self.alarms.insert(subject.clone(), since + GRACE);
                    return Phase::New;
                }
                // Without a sink there is no type to count it under.
                if matches!(failing.reason, reasons::SECRET_RESOLVE_FAILED | reasons::CONNECTION_TEST_FAILED)
                    && let Some(kind) = self.tested_type(subject, object)
                {
                    self.parts.metrics.probed(kind, Outcome::Failure);
                }
                tell(subject, object, &failing);
                Phase::Over(Err(failing), Duration::ZERO)
            }
        }
    }

    fn resolve_test(&mut self, subject: &Subject, object: &Test) -> Result<Order, Obstacle> {
        let invalid = |message: String| Obstacle::refused(reasons::INVALID_SINK_REF, message);
        let spec = object.spec.as_ref().map_err(|error| invalid(error.to_string()))?;
        let named = validate::connection_test(spec).map_err(|errors| invalid(errors.to_string()))?;
        let key = sink_key(subject, named);
        let field = format!("spec.sinkRef.{}SinkRef", key.family.as_str());
        let Some(sink) = self.shelves.sinks.get(&key).cloned() else {
            let message = format!(
                "{field}: there is no {} {:?} in namespace {:?}; create it or name another",
                Kind::of_family(key.family).as_str(),
                key.object.name.as_str(),
                key.object.namespace.as_str()
            );
            return Err(Obstacle::refused(reasons::SINK_NOT_FOUND, message));
        };
        self.adopt(subject, object, spec, &key);
        let resolved = self.resolve(&key, &sink).map_err(of_sink)?;
        let sink = self.open(&resolved.settings).map_err(of_sink)?;
        let revision = revision(object.uid(), object.generation());
        Ok(Order { subject: subject.clone(), revision, sink: sink.sink() })
    }

    /// Returns the type of the sink that a test names.
    fn tested_type(&self, subject: &Subject, object: &Test) -> Option<SinkType> {
        let named = validate::connection_test(object.spec.as_ref().ok()?).ok()?;
        self.shelves.sinks.get(&sink_key(subject, named))?.spec.as_ref().ok()?.kind()
    }

    /// Makes the sink the owner of the test, unless it is or shall not be.
    fn adopt(&mut self, subject: &Subject, object: &Test, spec: &KollectConnectionTestSpec, key: &SinkKey) {
        if spec.owner_sink == Some(false) {
            return;
        }
        let Some(sink) = self.shelves.sinks.get(key) else { return };
        if let Some(patch) = adoption(&object.meta, key.family, &sink.meta) {
            self.send(subject.clone(), Errand::Merge(patch));
        }
    }

    /// Takes the result of a probe.
    pub(super) fn take_test_probe(&mut self, probed: Probed) {
        let key = &probed.subject.1;
        let (Some(state), Some(object)) = (self.tests.get_mut(key), self.shelves.tests.get(key)) else { return };
        if revision(&state.uid, state.generation) != probed.revision {
            return;
        }
        if let Err(failing) = &probed.verdict {
            tell(&probed.subject, object, failing);
        }
        state.phase = Phase::Over(probed.verdict, probed.elapsed);
        self.work.insert(probed.subject);
    }

    fn report_test(&mut self, subject: Subject, object: &Test, verdict: &Verdict, elapsed: Duration) {
        let reported = self.reported(&subject, &object.status).clone();
        let before: KollectConnectionTestStatus = serde_json::from_value(reported).unwrap_or_default();
        let (now, generation) = (Self::now(), object.generation());
        if before.completed && before.observed_generation == Some(generation) {
            return;
        }
        let status = KollectConnectionTestStatus {
            conditions: merge(&before.conditions, &findings(verdict, elapsed), generation, &now),
            observed_generation: Some(generation),
            latency_ms: i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX),
            completed: true,
            completed_at: Some(now),
        };
        let status = serde_json::to_value(&status).unwrap_or_default();
        self.report(subject, &object.status, status.clone(), status, Duration::ZERO);
    }
}

/// Returns the sink that a test names: it is in the namespace of the test.
fn sink_key(subject: &Subject, (family, name): (Family, Name)) -> SinkKey {
    SinkKey { family, object: ObjectKey::new(subject.1.namespace.clone(), name) }
}

fn revision(uid: &str, generation: i64) -> String {
    format!("{uid}/{generation}")
}

/// Says the same of a sink as a probe of it would.
fn of_sink(obstacle: Obstacle) -> Obstacle {
    match obstacle {
        Obstacle::Refused(failing) => Obstacle::Refused(of_connection(failing)),
        wait @ Obstacle::Wait(_) => wait,
    }
}

fn tell(subject: &Subject, object: &Test, failing: &Failing) {
    let named = object.spec.as_ref().ok().and_then(|spec| validate::connection_test(spec).ok());
    let (family, sink) = named.unwrap_or((Family::Database, Name::new("")));
    tracing::error!(
        namespace = %subject.1.namespace,
        name = %subject.1.name,
        sink = %sink,
        family = family.as_str(),
        error_class = failing.class.as_str(),
        error = failing.message,
        "connection test failed"
    );
}

/// Returns when a test is to be deleted, if this generation of it is over. Pure.
fn end(status: &KollectConnectionTestStatus, object: &Test) -> Option<Timestamp> {
    let spec = object.spec.as_ref().ok()?;
    let over = status.completed && status.observed_generation == Some(object.generation());
    let at = status.completed_at.as_ref().filter(|_| over)?;
    at.0.checked_add(i64::from(spec.ttl_seconds_after_finished.max(0)).seconds()).ok()
}

/// Returns the patch that makes a sink the owner of a test: none where it is, or where another controller owns it.
fn adoption(test: &ObjectMeta, family: Family, sink: &ObjectMeta) -> Option<Value> {
    let mut owners = test.owner_references.clone().unwrap_or_default();
    let uid = sink.uid.clone().unwrap_or_default();
    let known = owners.iter().any(|owner| owner.uid == uid || owner.controller == Some(true));
    if known || uid.is_empty() {
        return None;
    }
    let resource = Kind::of_family(family).resource();
    owners.push(OwnerReference {
        api_version: resource.api_version,
        kind: resource.kind,
        name: sink.name.clone().unwrap_or_default(),
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    });
    // The version guards owners that somebody else adds at the same moment.
    Some(json!({"metadata": {"resourceVersion": test.resource_version, "ownerReferences": owners}}))
}

/// Decides the conditions of a test that is over.
fn findings(verdict: &Verdict, elapsed: Duration) -> Vec<Finding> {
    let finding = |type_, status, reason, message: &str| Finding { type_, status, reason, message: message.to_owned() };
    let (verified, ready) = (types::CONNECTION_VERIFIED, types::READY);
    match verdict {
        Ok(sentence) => {
            let took = format!("the probe passed in {} ms", elapsed.as_millis());
            vec![
                finding(verified, ConditionStatus::True, reasons::CONNECTION_OK, sentence),
                finding(ready, ConditionStatus::True, reasons::PROBE_SUCCEEDED, &took),
            ]
        }
        Err(Failing { reason, message, .. }) => vec![
            finding(verified, ConditionStatus::False, reason, message),
            finding(ready, ConditionStatus::False, reason, message),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn test(spec: Value, owners: &[OwnerReference]) -> Test {
        let meta = ObjectMeta {
            generation: Some(2),
            uid: Some("test".to_owned()),
            resource_version: Some("7".to_owned()),
            owner_references: Some(owners.to_vec()),
            ..ObjectMeta::default()
        };
        Object { meta, spec: Ok(serde_json::from_value(spec).unwrap()), status: Value::Null }
    }

    fn sink() -> ObjectMeta {
        ObjectMeta { name: Some("pg".to_owned()), uid: Some("sink".to_owned()), ..ObjectMeta::default() }
    }

    #[test]
    fn a_finished_generation_ends_when_its_time_to_live_has_passed() {
        let status = |generation, completed| KollectConnectionTestStatus {
            observed_generation: Some(generation),
            completed,
            completed_at: Some(Time(Timestamp::from_second(1000).unwrap())),
            ..KollectConnectionTestStatus::default()
        };
        let with_ttl =
            |ttl: i32| test(json!({"sinkRef": {"databaseSinkRef": "pg"}, "ttlSecondsAfterFinished": ttl}), &[]);
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        assert_eq!(end(&status(2, true), &with_ttl(5)), at(1005));
        assert_eq!(end(&status(2, true), &with_ttl(0)), at(1000));
        assert_eq!(end(&status(2, true), &test(json!({"sinkRef": {"databaseSinkRef": "pg"}}), &[])), at(1300));
        assert_eq!(end(&status(1, true), &with_ttl(5)), None, "the spec has changed since");
        assert_eq!(end(&status(2, false), &with_ttl(5)), None);
        assert_eq!(end(&KollectConnectionTestStatus::default(), &with_ttl(5)), None);
    }

    #[test]
    fn the_sink_becomes_the_owner_once_and_takes_nothing_from_another() {
        let spec = || json!({"sinkRef": {"databaseSinkRef": "pg"}});
        let owner = |uid: &str, controller| OwnerReference {
            uid: uid.to_owned(),
            controller: Some(controller),
            ..OwnerReference::default()
        };
        let adopted = |owners: &[OwnerReference]| adoption(&test(spec(), owners).meta, Family::Database, &sink());
        let patch = adopted(&[owner("other", false)]).unwrap();
        let metadata = &patch["metadata"];
        assert_eq!(metadata["resourceVersion"], "7");
        assert_eq!(metadata["ownerReferences"][0]["uid"], "other");
        assert_eq!(
            metadata["ownerReferences"][1],
            json!({
                "apiVersion": "kollect.dev/v1alpha1", "kind": "KollectDatabaseSink", "name": "pg", "uid": "sink",
                "controller": true,
            })
        );
        assert_eq!(adopted(&[owner("sink", true)]), None);
        assert_eq!(adopted(&[owner("other", true)]), None);
    }

    #[test]
    fn both_conditions_say_what_the_probe_found() {
        let said = |verdict: Verdict| {
            let found = findings(&verdict, Duration::from_millis(12));
            let words: Vec<String> =
                found.iter().map(|f| format!("{}={}/{}", f.type_, f.status.as_str(), f.reason)).collect();
            words.join(" ")
        };
        assert_eq!(said(Ok("fine".to_owned())), "ConnectionVerified=True/ConnectionOK Ready=True/ProbeSucceeded");
        let failing = |reason| Failing { reason, class: Class::Terminal, message: "it broke".to_owned() };
        for reason in [reasons::SINK_NOT_FOUND, reasons::NOT_SERVED, reasons::INVALID_SINK_REF] {
            let want = format!("ConnectionVerified=False/{reason} Ready=False/{reason}");
            assert_eq!(said(Err(failing(reason))), want);
        }
    }
}
