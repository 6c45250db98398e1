//! A sink by itself, whatever its family: whether it can be reached, and what it would write.
//!
//! A sink is probed when its spec or one of its Secrets changes, once after a start, and after a failure again. The
//! verdict is for people: deliveries never wait for it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde_json::json;
use tokio::time::Instant;

use super::Control;
use super::errand::Errand;
use super::family::{SinkObject, SinkSpec, check, check_hosts};
use super::preview::render;
use super::probe::{Order, Probed, Verdict, of_connection};
use super::resolve::{Failing, Obstacle, Resolved};
use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge, reasons, types};
use crate::api::v1alpha1::sink::Preview;
use crate::api::v1alpha1::{Kind, SinkStatus};
use crate::error::Class;
use crate::metrics::Outcome;
use crate::model::SinkKey;
use crate::schedule::backoff::Backoff;
use crate::sinks::netguard::Guard;
use crate::status::Subject;
use crate::validate::Probe;

/// Asks for a probe of a sink that is not probed by itself.
const TEST_CONNECTION: &str = "kollect.dev/test-connection";
/// Asks for `status.preview`.
const PREVIEW: &str = "kollect.dev/preview";
/// A failure that waits for a change is looked at this often all the same.
const TERMINAL_PAUSE: Duration = Duration::from_mins(5);

/// What is remembered of a sink between two reconciles.
#[derive(Debug)]
pub(super) struct State {
    uid: String,
    generation: i64,
    tried: Option<Tried>,
    backoff: Backoff,
    /// The failure that the log has been told of.
    logged: Option<Failing>,
}

impl State {
    fn new(object: &SinkObject) -> Self {
        Self {
            uid: object.uid().to_owned(),
            generation: object.generation(),
            tried: None,
            backoff: Backoff::new(seed(object.uid())),
            logged: None,
        }
    }
}

/// Keeps the retries of two sinks apart.
fn seed(uid: &str) -> u64 {
    uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A probe that was ordered, and what came of it.
#[derive(Debug, Clone)]
struct Tried {
    /// Spec and Secrets of then.
    revision: String,
    /// Whether the annotation was there.
    asked: bool,
    outcome: Tries,
}

#[derive(Debug, Clone)]
enum Tries {
    UnderWay,
    Passed(String),
    Failed(Failing, Instant),
}

/// Who wants a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nobody,
    /// The spec.
    Spec,
    /// The annotation alone.
    Annotation,
    Both,
}

impl Wish {
    fn of(probe: Probe, meta: &ObjectMeta) -> Self {
        match (probe, is_true(meta, TEST_CONNECTION)) {
            (Probe::OnRequest, false) => Self::Nobody,
            (Probe::OnRequest, true) => Self::Annotation,
            (Probe::OnChange, false) => Self::Spec,
            (Probe::OnChange, true) => Self::Both,
        }
    }

    fn asked(self) -> bool {
        matches!(self, Self::Annotation | Self::Both)
    }
}

/// Tells whether an annotation says `true`.
fn is_true(meta: &ObjectMeta, annotation: &str) -> bool {
    let value = meta.annotations.as_ref().and_then(|annotations| annotations.get(annotation));
    value.is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
}

/// Tells whether a probe is due. Pure.
fn due(tried: Option<&Tried>, revision: &str, wish: Wish, now: Instant) -> bool {
    let Some(tried) = tried else { return true };
    tried.revision != revision
        || wish.asked() && !tried.asked
        || matches!(&tried.outcome, Tries::Failed(_, again) if *again <= now)
}

/// How a sink stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It cannot be used as it is written.
    Unusable(Failing),
    /// Nobody asks: an earlier verdict on this generation stays.
    Unasked,
    /// The verdict is not there yet: the earlier one stays.
    UnderWay,
    Judged(Verdict),
}

impl Standing {
    fn failing(&self) -> Option<&Failing> {
        match self {
            Self::Unusable(failing) | Self::Judged(Err(failing)) => Some(failing),
            Self::Unasked | Self::UnderWay | Self::Judged(Ok(_)) => None,
        }
    }
}

impl Control {
    /// Probes the sink if that is due, and reports how it stands. Returns the class of what is wrong.
    pub(super) fn reconcile_sink(&mut self, key: &SinkKey) -> Option<Class> {
        let subject = (Kind::of_family(key.family), key.object.clone());
        let Some(object) = self.shelves.sinks.get(key).cloned() else {
            self.sinks.remove(&subject);
            self.probes.cancel(&subject);
            self.alarms.remove(&subject);
            self.forget(&subject);
            self.forget_secrets();
            return None;
        };
        let mut state = match self.sinks.remove(&subject) {
            Some(state) if state.uid == object.uid() => state,
            Some(_) => {
                self.forget(&subject);
                State::new(&object)
            }
            None => State::new(&object),
        };
        if state.generation != object.generation() {
            // It may have pointed at other Secrets.
            self.forget_secrets();
            state.generation = object.generation();
        }
        let (standing, preview) = self.judge(key, &subject, &object, &mut state);
        let class = standing.failing().map(|failing| failing.class);
        self.tell(key, &object, &standing, &mut state);
        self.sinks.insert(subject.clone(), state);
        self.report_sink(subject, &object, &standing, preview);
        class
    }

    fn judge(
        &mut self,
        key: &SinkKey,
        subject: &Subject,
        object: &SinkObject,
        state: &mut State,
    ) -> (Standing, Option<Preview>) {
        let checked = match check(object) {
            Ok(checked) => checked,
            Err(failing) => {
                state.tried = None;
                return (Standing::Unusable(failing), None);
            }
        };
        let wish = Wish::of(checked.probe(), &object.meta);
        // A probe would say so.
        if wish == Wish::Nobody
            && let Err(failing) = check_hosts(object, Guard::from(&self.parts.config.network))
        {
            state.tried = None;
            return (Standing::Unusable(failing), None);
        }
        let shown = is_true(&object.meta, PREVIEW);
        if wish == Wish::Nobody && !shown {
            state.tried = None;
            return (Standing::Unasked, None);
        }
        let resolved = self.resolve(key, object);
        let before = self.sink_status(subject, object).preview;
        let spec = object.spec.as_ref().ok().filter(|_| shown);
        let preview = spec.and_then(|spec| render((&key.object.name, spec), &checked, &resolved, before));
        (self.verify(subject, object, wish, resolved, state), preview)
    }

    /// Returns the verdict on the sink; orders a probe if there is none, or a new one is due.
    fn verify(
        &mut self,
        subject: &Subject,
        object: &SinkObject,
        wish: Wish,
        resolved: Result<Resolved, Obstacle>,
        state: &mut State,
    ) -> Standing {
        if wish == Wish::Nobody {
            state.tried = None;
            return Standing::Unasked;
        }
        let opened = resolved.and_then(|resolved| Ok((self.open(&resolved.settings)?, resolved.versions)));
        let (sink, versions) = match opened {
            Ok(opened) => opened,
            Err(Obstacle::Wait(_)) => return Standing::UnderWay,
            // Only another spec or Secret helps, and either queues the sink.
            Err(Obstacle::Refused(failing)) => {
                state.tried = None;
                return Standing::Judged(Err(of_connection(failing)));
            }
        };
        let revision = format!("{}/{}/{versions}", object.uid(), object.generation());
        if due(state.tried.as_ref(), &revision, wish, Instant::now()) {
            self.alarms.remove(subject);
            self.probes.order(Order { subject: subject.clone(), revision: revision.clone(), sink: sink.sink() });
            state.tried = Some(Tried { revision, asked: wish.asked(), outcome: Tries::UnderWay });
            return Standing::UnderWay;
        }
        let Some(tried) = &mut state.tried else { return Standing::UnderWay };
        tried.asked = wish.asked();
        match &tried.outcome {
            Tries::UnderWay => Standing::UnderWay,
            Tries::Failed(failing, _) => Standing::Judged(Err(failing.clone())),
            Tries::Passed(sentence) => {
                if wish == Wish::Annotation {
                    let patch = json!({"metadata": {"annotations": {TEST_CONNECTION: null}}});
                    self.send(subject.clone(), Errand::Merge(patch));
                }
                Standing::Judged(Ok(sentence.clone()))
            }
        }
    }

    /// Takes the result of a probe.
    pub(super) fn take_sink_probe(&mut self, probed: Probed) {
        let Some(state) = self.sinks.get_mut(&probed.subject) else { return };
        let Some(tried) = state.tried.as_mut().filter(|tried| tried.revision == probed.revision) else { return };
        tried.outcome = match probed.verdict {
            Ok(sentence) => {
                state.backoff.reset();
                Tries::Passed(sentence)
            }
            Err(failing) => {
                let pause = match failing.class {
                    Class::Transient => state.backoff.next_delay(),
                    Class::Terminal | Class::Forbidden => TERMINAL_PAUSE,
                };
                let again = Instant::now() + pause;
                self.alarms.insert(probed.subject.clone(), again);
                Tries::Failed(failing, again)
            }
        };
        self.work.insert(probed.subject);
    }

    /// Writes a new failure, and its end, to the log.
    fn tell(&mut self, key: &SinkKey, object: &SinkObject, standing: &Standing, state: &mut State) {
        match standing {
            Standing::Judged(Err(failing)) if state.logged.as_ref() != Some(failing) => {
                if state.tried.is_none()
                    && let Some(kind) = object.spec.as_ref().ok().and_then(SinkSpec::kind)
                {
                    // It did not come to a probe.
                    self.parts.metrics.probed(kind, Outcome::Failure);
                }
                tracing::error!(
                    sink = %key.object,
                    family = key.family.as_str(),
                    generation = object.generation(),
                    error_class = failing.class.as_str(),
                    error = failing.message,
                    "sink connection test failed"
                );
                state.logged = Some(failing.clone());
            }
            Standing::Judged(Ok(_)) if state.logged.take().is_some() => {
                tracing::info!(sink = %key.object, family = key.family.as_str(), "sink connection verified");
            }
            _ => {}
        }
    }

    /// Returns the status as it will be once everything that was reported is written.
    fn sink_status(&self, subject: &Subject, object: &SinkObject) -> SinkStatus {
        serde_json::from_value(self.reported(subject, &object.status).clone()).unwrap_or_default()
    }

    fn report_sink(&mut self, subject: Subject, object: &SinkObject, standing: &Standing, preview: Option<Preview>) {
        let before = self.sink_status(&subject, object);
        let generation = object.generation();
        let mut conditions = kept(&before.conditions, generation, standing);
        let found = findings(object, standing);
        conditions.extend(merge(&before.conditions, &found, generation, &Self::now()));
        let status = SinkStatus { conditions, preview };
        let nothing = SinkStatus::default();
        if status == nothing && before == nothing {
            return;
        }
        let status = serde_json::to_value(&status).unwrap_or_default();
        self.report(subject, &object.status, status.clone(), status, Duration::ZERO);
    }
}

/// Returns the conditions of an earlier verdict that still stand.
fn kept(before: &[Condition], generation: i64, standing: &Standing) -> Vec<Condition> {
    let verdict = |condition: &&Condition| match condition.type_.as_str() {
        types::CONNECTION_VERIFIED => true,
        types::DEGRADED => ![reasons::NOT_SERVED, reasons::INVALID_SPEC].contains(&condition.reason.as_str()),
        _ => false,
    };
    let earlier = before.iter().filter(verdict);
    match standing {
        Standing::UnderWay => earlier.cloned().collect(),
        // Nobody has tried what is written now.
        Standing::Unasked => {
            earlier.filter(|condition| condition.observed_generation == Some(generation)).cloned().collect()
        }
        Standing::Unusable(_) | Standing::Judged(_) => Vec::new(),
    }
}

/// Decides the conditions that follow from how a sink stands.
fn findings(object: &SinkObject, standing: &Standing) -> Vec<Finding> {
    let finding = |type_, status, reason, message: &str| Finding { type_, status, reason, message: message.to_owned() };
    let mut found = Vec::new();
    match standing {
        Standing::Unasked | Standing::UnderWay => {}
        Standing::Unusable(failing) => {
            found.push(finding(types::DEGRADED, ConditionStatus::True, failing.reason, &failing.message));
        }
        Standing::Judged(Ok(sentence)) => {
            let (type_, reason) = (types::CONNECTION_VERIFIED, reasons::CONNECTION_OK);
            found.push(finding(type_, ConditionStatus::True, reason, sentence));
        }
        Standing::Judged(Err(Failing { reason, message, .. })) => {
            found.push(finding(types::CONNECTION_VERIFIED, ConditionStatus::False, reason, message));
            found.push(finding(types::DEGRADED, ConditionStatus::True, reason, message));
        }
    }
    let insecure = |spec: &&SinkSpec| spec.common().tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify);
    if !matches!(standing, Standing::Unusable(_))
        && let Some(spec) = object.spec.as_ref().ok().filter(insecure)
    {
        let what = match spec {
            SinkSpec::Snapshot(_) => "certificate or host key",
            SinkSpec::Database(_) | SinkSpec::Event(_) => "certificate",
        };
        let message = format!("spec.tls.insecureSkipVerify is true: the server's {what} is not checked; remove it");
        let (type_, reason) = (types::TLS_INSECURE, reasons::INSECURE_SKIP_VERIFY);
        found.push(finding(type_, ConditionStatus::True, reason, &message));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::KollectDatabaseSinkSpec;
    use crate::control::shelf::Object;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::Value;

    fn object(spec: Value, annotations: &[(&str, &str)]) -> SinkObject {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let meta = ObjectMeta {
            generation: Some(3),
            uid: Some("u".to_owned()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        let spec = SinkSpec::from(serde_json::from_value::<KollectDatabaseSinkSpec>(spec).unwrap());
        Object { meta, spec: Ok(spec), status: Value::Null }
    }

    fn postgres(more: &Value) -> Value {
        let mut spec = json!({"type": "postgres", "postgres": {"databaseRef": {"name": "s"}, "table": "rows"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    }

    fn failing(reason: &'static str) -> Failing {
        Failing { reason, class: Class::Terminal, message: "it broke".to_owned() }
    }

    fn words(conditions: &[Condition]) -> String {
        let words: Vec<String> = conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect();
        words.join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_follows_a_change_a_failure_and_a_request() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let tried = |asked, outcome| Tried { revision: "1".to_owned(), asked, outcome };
        let passed = || Tries::Passed("ok".to_owned());
        let failed = |again| Tries::Failed(failing("ConnectionTestFailed"), again);
        let cases = [
            ("never probed", None, "1", Wish::Spec, true),
            ("another spec or Secret", Some(tried(false, passed())), "2", Wish::Spec, true),
            ("nothing new", Some(tried(false, passed())), "1", Wish::Spec, false),
            ("still under way", Some(tried(false, Tries::UnderWay)), "1", Wish::Spec, false),
            ("changed under way", Some(tried(false, Tries::UnderWay)), "2", Wish::Spec, true),
            ("failed, too early", Some(tried(false, failed(later))), "1", Wish::Spec, false),
            ("failed, time is up", Some(tried(false, failed(now))), "1", Wish::Spec, true),
            ("asked beside the spec", Some(tried(false, passed())), "1", Wish::Both, true),
            ("asked and answered", Some(tried(true, passed())), "1", Wish::Both, false),
            ("asked alone and answered", Some(tried(true, passed())), "1", Wish::Annotation, false),
            ("the question was withdrawn", Some(tried(true, passed())), "1", Wish::Spec, false),
        ];
        for (what, tried, revision, wish, want) in cases {
            assert_eq!(due(tried.as_ref(), revision, wish, now), want, "{what}");
        }
    }

    #[test]
    fn the_annotation_asks_where_the_spec_does_not() {
        let cases = [
            (json!({}), None, Wish::Spec),
            (json!({"connectionTest": true}), Some("true"), Wish::Both),
            (json!({"connectionTest": false}), None, Wish::Nobody),
            (json!({"connectionTest": false}), Some(" True "), Wish::Annotation),
            (json!({"connectionTest": false}), Some("yes"), Wish::Nobody),
        ];
        for (spec, annotation, want) in cases {
            let annotations: Vec<(&str, &str)> = annotation.map(|value| (TEST_CONNECTION, value)).into_iter().collect();
            let object = object(postgres(&spec), &annotations);
            assert_eq!(Wish::of(check(&object).unwrap().probe(), &object.meta), want, "{spec} {annotation:?}");
        }
    }

    #[test]
    fn conditions_follow_from_the_verdict() {
        let plain = object(postgres(&json!({})), &[]);
        let insecure = object(postgres(&json!({"tls": {"insecureSkipVerify": true}})), &[]);
        let broken = || Standing::Judged(Err(failing("ConnectionTestFailed")));
        let cases = [
            (&plain, Standing::Judged(Ok("ok".to_owned())), "ConnectionVerified=True/ConnectionOK"),
            (
                &insecure,
                Standing::Judged(Ok("ok".to_owned())),
                "ConnectionVerified=True/ConnectionOK TLSInsecure=True/InsecureSkipVerify",
            ),
            (&plain, broken(), "ConnectionVerified=False/ConnectionTestFailed Degraded=True/ConnectionTestFailed"),
            (&insecure, Standing::UnderWay, "TLSInsecure=True/InsecureSkipVerify"),
            (&insecure, Standing::Unusable(failing("InvalidSpec")), "Degraded=True/InvalidSpec"),
            (&plain, Standing::Unasked, ""),
        ];
        for (object, standing, want) in cases {
            let found = merge(&[], &findings(object, &standing), 3, &Time(jiff::Timestamp::UNIX_EPOCH));
            assert_eq!(words(&found), want, "{standing:?}");
        }
    }

    #[test]
    fn an_earlier_verdict_stays_until_there_is_a_new_one_and_a_wrong_spec_is_forgotten_at_once() {
        let at = |generation, reason| {
            let found = [
                Finding {
                    type_: types::CONNECTION_VERIFIED,
                    status: ConditionStatus::False,
                    reason,
                    message: String::new(),
                },
                Finding { type_: types::DEGRADED, status: ConditionStatus::True, reason, message: String::new() },
            ];
            merge(&[], &found, generation, &Time(jiff::Timestamp::UNIX_EPOCH))
        };
        let failed = |generation| at(generation, reasons::CONNECTION_TEST_FAILED);
        let both = "ConnectionVerified=False/ConnectionTestFailed Degraded=True/ConnectionTestFailed";
        assert_eq!(words(&kept(&failed(2), 3, &Standing::UnderWay)), both);
        assert_eq!(words(&kept(&failed(3), 3, &Standing::Unasked)), both);
        assert_eq!(words(&kept(&failed(2), 3, &Standing::Unasked)), "");
        assert_eq!(words(&kept(&failed(3), 3, &Standing::Judged(Ok(String::new())))), "");
        let invalid = at(3, reasons::INVALID_SPEC);
        assert_eq!(words(&kept(&invalid, 3, &Standing::UnderWay)), "ConnectionVerified=False/InvalidSpec");
    }

    #[test]
    fn what_cannot_be_used_is_named_by_its_field() {
        let mongodb = object(json!({"type": "mongodb"}), &[]);
        assert_eq!(check(&mongodb).unwrap_err().reason, reasons::NOT_SERVED);
        let credential = object(postgres(&json!({"options": {"password": "x"}})), &[]);
        let failing = check(&credential).unwrap_err();
        assert_eq!(failing.reason, reasons::INVALID_SPEC);
        assert!(failing.message.starts_with("spec.options.password: looks like a credential"), "{}", failing.message);
    }
}
