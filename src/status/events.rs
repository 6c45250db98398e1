//! Events of our own objects: one for each change of state that a person wants to hear of, none for anything else.
//!
//! [`between`] decides by comparing the conditions that an object has with those that it is about to get, so a restart
//! without a change says nothing. What it decides waits in a bounded queue and is written one by one, as core/v1 Events,
//! which `kubectl describe` shows below the object. An Event is news, not state: one that cannot be written is given up
//! after a few tries, and the condition still tells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as KubeEvent, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Subject;
use crate::api::v1alpha1::Kind;
use crate::api::v1alpha1::conditions::{reasons, types};
use crate::metrics::{Metrics, Queue, Reading, Sizes, Verb};
use crate::model::ObjectKey;
use crate::schedule::backoff::Backoff;

/// Events that may wait. One that finds no place is counted and dropped: the conditions say the same.
const LIMIT: usize = 1024;
/// Dropped Events are told of no more often than this.
const QUIET: Duration = Duration::from_secs(10);
/// The API server cuts nothing: it refuses a longer message.
const MAX_MESSAGE_BYTES: usize = 1024;
/// How often one Event is tried.
const TRIES: u32 = 4;
/// Deadline of one try.
const DEADLINE: Duration = Duration::from_secs(10);
/// What still waits when the process ends has this long.
const FAREWELL: Duration = Duration::from_secs(5);
/// Who says it.
const COMPONENT: &str = "kollect";
/// Where Events of objects go that live in no namespace, as for those of Kubernetes.
const CLUSTER_NAMESPACE: &str = "default";

/// Whether an Event is about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something went well.
    Normal,
    /// Something needs a look.
    Warning,
}

impl Severity {
    /// Returns the word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Normal or Warning.
    pub severity: Severity,
    /// A condition reason.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// Decides what happened to an object whose conditions go from `before` to `after`. Pure.
pub fn between(kind: Kind, before: &[Condition], after: &[Condition]) -> Vec<Happening> {
    let mut happened: Vec<Happening> = Vec::new();
    let mut say = |severity, reason: &str, message: &str| {
        // Two conditions with one reason are one piece of news.
        if !happened.iter().any(|said| said.reason == reason) {
            happened.push(Happening { severity, reason: reason.to_owned(), message: message.to_owned() });
        }
    };
    for condition in after {
        let old = find(before, &condition.type_);
        let flipped = old.is_none_or(|old| old.status != condition.status);
        let renamed = old.is_none_or(|old| old.reason != condition.reason);
        let (reason, message) = (condition.reason.as_str(), condition.message.as_str());
        match (condition.type_.as_str(), condition.status.as_str()) {
            (types::DEGRADED, "True") if flipped || renamed => say(Severity::Warning, reason, message),
            // Progressing alone is a start; a failure that is being retried is Degraded as well.
            (types::SYNCED, "False") if (flipped || renamed) && reason != reasons::PROGRESSING => {
                say(Severity::Warning, reason, message);
            }
            (types::CONNECTION_VERIFIED, "True") if flipped => say(Severity::Normal, reason, message),
            (types::CONNECTION_VERIFIED, "False") | (types::EXPORT_SHARD_WARNING, "True") if flipped => {
                say(Severity::Warning, reason, message);
            }
            _ => {}
        }
    }
    if matches!(kind, Kind::Inventory | Kind::ClusterInventory) && exported(after) && !exported(before) {
        let message = find(after, types::READY).map(|ready| ready.message.as_str()).unwrap_or_default();
        say(Severity::Normal, reasons::EXPORT_SUCCEEDED, message);
    }
    happened
}

/// Tells whether every sink has the rows. A change that waits for its interval does not alter that.
fn exported(conditions: &[Condition]) -> bool {
    let synced = find(conditions, types::SYNCED);
    synced.is_some_and(|synced| {
        synced.status == "True" && [reasons::EXPORTED, reasons::DEBOUNCED].contains(&synced.reason.as_str())
    })
}

fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// An Event that waits.
#[derive(Debug, Clone)]
struct Waiting {
    subject: Subject,
    uid: String,
    happening: Happening,
    first: Timestamp,
    last: Timestamp,
    count: i32,
}

/// The queue of Events. Cheap to clone.
#[derive(Clone)]
pub struct EventWriter {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    metrics: Arc<Metrics>,
    backlog: Mutex<Backlog>,
    wake: Notify,
}

/// What waits, and what found no place.
#[derive(Debug, Default)]
struct Backlog {
    waiting: VecDeque<Waiting>,
    dropped: u64,
    told: Option<Instant>,
}

impl Backlog {
    /// Takes an Event in. One for the same object and reason that still waits takes it up. Returns how many have been
    /// dropped since that was last told, when it is time to tell.
    fn put(&mut self, event: Waiting) -> Option<u64> {
        let same = |other: &&mut Waiting| {
            other.subject == event.subject && other.uid == event.uid && other.happening.reason == event.happening.reason
        };
        if let Some(there) = self.waiting.iter_mut().find(same) {
            there.happening = event.happening;
            there.last = event.last;
            there.count = there.count.saturating_add(1);
            return None;
        }
        if self.waiting.len() < LIMIT {
            self.waiting.push_back(event);
            return None;
        }
        self.dropped += 1;
        let now = Instant::now();
        if self.told.is_some_and(|told| now < told + QUIET) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }
}

/// What came of one try.
enum Tried {
    /// It is written, or never will be.
    Done,
    /// It may work later.
    Failed,
}

impl EventWriter {
    /// Makes the queue; [`EventWriter::run`] empties it.
    pub fn new(client: kube::Client, metrics: Arc<Metrics>) -> Self {
        Self { inner: Arc::new(Inner { client, metrics, backlog: Mutex::default(), wake: Notify::new() }) }
    }

    /// Asks for an Event about the object with that UID.
    pub fn put(&self, subject: Subject, uid: &str, happening: Happening) {
        let now = Timestamp::now();
        let event = Waiting { subject, uid: uid.to_owned(), happening, first: now, last: now, count: 1 };
        let dropped = self.inner.backlog.lock().put(event);
        if let Some(dropped) = dropped {
            tracing::warn!(dropped, limit = LIMIT, "events dropped, the queue is full");
        }
        self.inner.wake.notify_one();
    }

    /// Returns what shows the queue's depth on the metrics page.
    pub fn sizes(&self) -> Arc<impl Sizes + use<>> {
        self.inner.clone()
    }

    /// Writes until `cancel` is cancelled, then for a moment what still waits.
    ///
    /// # Errors
    /// None; the signature is that of its neighbours.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), tokio::task::JoinError> {
        let mut refused = false;
        while !cancel.is_cancelled() {
            let next = self.inner.backlog.lock().waiting.pop_front();
            match next {
                Some(event) => self.inner.write(&event, &cancel, &mut refused).await,
                None => {
                    cancel.run_until_cancelled(self.inner.wake.notified()).await;
                }
            }
        }
        // Past the time that is left, what waits is given up: the conditions tell it to the next process.
        let _ = tokio::time::timeout(FAREWELL, async {
            loop {
                let Some(event) = self.inner.backlog.lock().waiting.pop_front() else { return };
                self.inner.try_write(&event, &mut refused).await;
            }
        })
        .await;
        Ok(())
    }
}

impl Inner {
    async fn write(&self, event: &Waiting, cancel: &CancellationToken, refused: &mut bool) {
        let mut backoff = Backoff::new(1);
        while let Tried::Failed = self.try_write(event, refused).await {
            let delay = backoff.next_delay();
            if backoff.attempt() >= TRIES {
                let (kind, key) = &event.subject;
                tracing::debug!(
                    kind = kind.as_str(),
                    namespace = %key.namespace,
                    name = %key.name,
                    attempt = backoff.attempt(),
                    "event not written, giving up"
                );
                return;
            }
            if cancel.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    async fn try_write(&self, event: &Waiting, refused: &mut bool) -> Tried {
        let event = render(event);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<KubeEvent> = Api::namespaced(self.client.clone(), &namespace);
        let result = tokio::time::timeout(DEADLINE, api.create(&PostParams::default(), &event)).await;
        let code = match &result {
            Ok(Ok(_)) => Some(201),
            Ok(Err(kube::Error::Api(answer))) => Some(answer.code),
            Ok(Err(_)) | Err(_) => None,
        };
        self.metrics.api_request(Verb::Create, "events", code);
        match result {
            Ok(Ok(_)) => Tried::Done,
            // No right to, a namespace that is going or gone, or an Event that the server finds wrong: it stays so.
            Ok(Err(kube::Error::Api(answer))) if (400..500).contains(&answer.code) && answer.code != 429 => {
                if !std::mem::replace(refused, true) {
                    tracing::debug!(namespace, code = answer.code, error = answer.message, "events are refused");
                }
                Tried::Done
            }
            Ok(Err(_)) | Err(_) => Tried::Failed,
        }
    }
}

impl Sizes for Inner {
    fn read(&self, reading: &mut Reading) {
        let depth = self.backlog.lock().waiting.len() as u64;
        reading.queues.push(Queue { name: "events", depth, limit: LIMIT as u64, bytes: None });
    }
}

/// Returns the Event as the API wants it.
fn render(event: &Waiting) -> KubeEvent {
    let (kind, ObjectKey { namespace, name }) = &event.subject;
    let own = (!namespace.is_empty()).then(|| namespace.to_string());
    let resource = kind.resource();
    KubeEvent {
        metadata: ObjectMeta {
            namespace: Some(own.clone().unwrap_or_else(|| CLUSTER_NAMESPACE.to_owned())),
            // The time makes the name unique, as in Kubernetes' own recorder; two of one nanosecond differ in reason.
            name: Some(event_name(name.as_str(), &event.happening.reason, event.first)),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            namespace: own,
            name: Some(name.to_string()),
            uid: Some(event.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(event.happening.severity.as_str().to_owned()),
        reason: Some(event.happening.reason.clone()),
        message: Some(cut(&event.happening.message).to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        first_timestamp: Some(Time(event.first)),
        last_timestamp: Some(Time(event.last)),
        count: Some(event.count),
        ..KubeEvent::default()
    }
}

/// The longest name of an object that leaves room for the rest of an Event's name.
const MAX_NAME_BYTES: usize = 200;

fn event_name(object: &str, reason: &str, first: Timestamp) -> String {
    let object = object.get(..MAX_NAME_BYTES).unwrap_or(object).trim_end_matches(['.', '-']);
    format!("{object}.{:x}.{}", first.as_nanosecond(), reason.to_lowercase())
}

/// Cuts a message at the limit, between two characters.
fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::conditions::{ConditionStatus, Finding, merge};
    use crate::model::{Name, Namespace};

    /// Reads `Type=Status/Reason` words.
    fn conditions(words: &str) -> Vec<Condition> {
        let one = |word: &str| {
            let (type_, rest) = word.split_once('=').unwrap();
            let (status, reason) = rest.split_once('/').unwrap();
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message: format!("about {type_}"),
                observed_generation: Some(1),
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            }
        };
        words.split_whitespace().map(one).collect()
    }

    fn said(kind: Kind, before: &str, after: &str) -> String {
        let happened = between(kind, &conditions(before), &conditions(after));
        let lines: Vec<String> =
            happened.iter().map(|event| format!("{} {}", event.severity.as_str(), event.reason)).collect();
        lines.join(", ")
    }

    #[test]
    fn only_a_change_of_state_is_an_event() {
        let good = "Ready=True/Exported Synced=True/Exported SinkReachable=True/ExportSucceeded";
        let waits = "Ready=True/Exported Synced=True/Debounced SinkReachable=True/ExportSucceeded";
        let starts = "Synced=False/Progressing";
        let broken = "Degraded=True/Progressing Synced=False/Progressing SinkReachable=False/ExportFailed";
        let stuck = "Degraded=True/ExportTerminal Synced=False/ExportTerminal SinkReachable=False/ExportTerminal";
        let partly = "Ready=True/PartiallySynced Synced=False/PartiallySynced SinkReachable=False/ExportFailed";
        let large = "Ready=True/Exported Synced=True/Exported ExportShardWarning=True/ApproachingExportCap";
        let cases = [
            // A start that goes well, and what it is followed by: nothing.
            ("", starts, ""),
            (starts, good, "Normal ExportSucceeded"),
            (good, good, ""),
            (good, waits, ""),
            (waits, good, ""),
            // Faults, each once, and their end.
            (good, broken, "Warning Progressing"),
            (broken, broken, ""),
            (broken, stuck, "Warning ExportTerminal"),
            (stuck, good, "Normal ExportSucceeded"),
            (good, partly, "Warning PartiallySynced"),
            (partly, good, "Normal ExportSucceeded"),
            ("", "Degraded=True/Suspended Synced=False/Suspended", "Warning Suspended"),
            // Size.
            (good, large, "Warning ApproachingExportCap"),
            (large, large, ""),
            (large, good, ""),
            ("", large, "Warning ApproachingExportCap, Normal ExportSucceeded"),
            // An inventory without sinks exports nothing.
            ("", "Ready=True/NoExport Synced=True/NoExport", ""),
        ];
        for (before, after, want) in cases {
            assert_eq!(said(Kind::Inventory, before, after), want, "{before} -> {after}");
        }
        let collecting = "Ready=True/Collecting Synced=True/Collecting";
        assert_eq!(said(Kind::Target, "", collecting), "");
        assert_eq!(said(Kind::Target, collecting, "Degraded=True/ProfileNotFound"), "Warning ProfileNotFound");
        assert_eq!(said(Kind::Target, "Degraded=True/ProfileNotFound", collecting), "");
    }

    #[test]
    fn a_connection_is_news_when_it_flips() {
        let good = "ConnectionVerified=True/ConnectionOK";
        let bad = "ConnectionVerified=False/ConnectionTestFailed Degraded=True/ConnectionTestFailed";
        let secret = "ConnectionVerified=False/SecretResolveFailed Degraded=True/SecretResolveFailed";
        let cases = [
            ("", good, "Normal ConnectionOK"),
            (good, good, ""),
            (good, bad, "Warning ConnectionTestFailed"),
            (bad, secret, "Warning SecretResolveFailed"),
            (secret, good, "Normal ConnectionOK"),
            ("", "ConnectionVerified=True/ConnectionOK TLSInsecure=True/InsecureSkipVerify", "Normal ConnectionOK"),
        ];
        for (before, after, want) in cases {
            assert_eq!(said(Kind::DatabaseSink, before, after), want, "{before} -> {after}");
        }
    }

    #[test]
    fn the_message_is_that_of_the_condition_and_ends_between_two_characters() {
        let finding = Finding {
            type_: types::DEGRADED,
            status: ConditionStatus::True,
            reason: reasons::INVALID_SPEC,
            message: "ä".repeat(MAX_MESSAGE_BYTES),
        };
        let after = merge(&[], &[finding], 1, &Time(Timestamp::UNIX_EPOCH));
        let happened = between(Kind::Target, &[], &after);
        let shown = cut(&happened[0].message);
        assert_eq!((shown.len(), shown.chars().count()), (1024, 512));
        assert_eq!(cut("a€"), "a€");
        assert_eq!(cut(&format!("a{}", "ä".repeat(1024))).len(), 1023);
    }

    fn waiting(name: &str, reason: &str) -> Waiting {
        let happening =
            Happening { severity: Severity::Warning, reason: reason.to_owned(), message: "it broke".to_owned() };
        let subject = (Kind::Target, ObjectKey::new(Namespace::new("team-a"), Name::new(name)));
        let at = Timestamp::UNIX_EPOCH;
        Waiting { subject, uid: "u".to_owned(), happening, first: at, last: at, count: 1 }
    }

    #[test]
    fn an_event_names_its_object_as_kubectl_describe_looks_for_it() {
        let event = render(&waiting("web", "ExportFailed"));
        assert_eq!(event.metadata.name.as_deref(), Some("web.0.exportfailed"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("team-a"));
        let object = event.involved_object;
        assert_eq!(
            (object.api_version.as_deref(), object.kind.as_deref(), object.uid.as_deref()),
            (Some("kollect.dev/v1alpha1"), Some("KollectTarget"), Some("u"))
        );
        assert_eq!(object.resource_version, None);
        let mut clusterwide = waiting("web", "ExportFailed");
        clusterwide.subject.1 = ObjectKey::new(Namespace::new(""), Name::new("web"));
        let event = render(&clusterwide);
        assert_eq!((event.metadata.namespace.as_deref(), event.involved_object.namespace), (Some("default"), None));
        assert!(event_name(&"n".repeat(253), "ApproachingExportCap", Timestamp::MAX).len() <= 253);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_counts_what_it_drops_and_tells_of_it_every_ten_seconds() {
        let mut backlog = Backlog::default();
        for index in 0..LIMIT {
            assert_eq!(backlog.put(waiting(&format!("t{index}"), "ExportFailed")), None);
        }
        assert_eq!(backlog.put(waiting("t7", "ExportFailed")), None, "this one is taken up by the one that waits");
        assert_eq!(backlog.waiting[7].count, 2);
        assert_eq!(backlog.put(waiting("t7", "Other")), Some(1));
        for _ in 0..3 {
            assert_eq!(backlog.put(waiting("t7", "Other")), None);
        }
        tokio::time::advance(QUIET).await;
        assert_eq!(backlog.put(waiting("t7", "Other")), Some(4));
        assert_eq!(backlog.waiting.len(), LIMIT);
    }
}
