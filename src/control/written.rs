//! What our objects were last given: their status, and the Events that go with it.
//!
//! A status is written when it differs from the last one, and numbers alone seldom (D14). What was given counts and not
//! what is on the shelf, where a status arrives some time after it was written.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::time::Instant;

use super::Control;
use crate::status::Subject;
use crate::status::events::between;

/// The status that an object was last given.
#[derive(Debug)]
pub(super) struct Written {
    status: Value,
    substance: Value,
    at: Instant,
}

impl Control {
    /// Gives an object a status, if that differs from what it has.
    ///
    /// `substance` is the status without what only counts; a difference there is written at once. Numbers alone are
    /// written when `patience` has passed since the last write (D14).
    pub(super) fn report(
        &mut self,
        subject: Subject,
        current: &Value,
        status: Value,
        substance: Value,
        patience: Duration,
    ) {
        // What was given last counts, not what is on the shelf: a status on its way there would else outlive its time.
        if *self.reported(&subject, current) == status {
            self.deferred.remove(&subject);
            return;
        }
        let now = Instant::now();
        if let Some(written) = self.written.get(&subject) {
            let turn = written.at + patience;
            if written.substance == substance && now < turn {
                self.deferred.insert(subject, turn);
                return;
            }
        }
        self.deferred.remove(&subject);
        self.tell_events(&subject, current, &status);
        self.parts.statuses.put(subject.clone(), status.clone());
        self.written.insert(subject, Written { status, substance, at: now });
    }

    /// Returns the status that an object has or is about to get.
    pub(super) fn reported<'a>(&'a self, subject: &Subject, current: &'a Value) -> &'a Value {
        self.written.get(subject).map_or(current, |written| &written.status)
    }

    /// Asks for the Events of a new status.
    fn tell_events(&self, subject: &Subject, current: &Value, status: &Value) {
        let Some(uid) = self.shelves.uid(subject) else { return };
        let conditions = |status: &Value| {
            let conditions = status.get("conditions").cloned().unwrap_or_default();
            serde_json::from_value::<Vec<_>>(conditions).unwrap_or_default()
        };
        let before = conditions(self.reported(subject, current));
        for happening in between(subject.0, &before, &conditions(status)) {
            self.parts.events.put(subject.clone(), uid, happening);
        }
    }

    /// Forgets what an object that is gone was given.
    pub(super) fn forget(&mut self, subject: &Subject) {
        self.written.remove(subject);
        self.deferred.remove(subject);
        self.measures.remove(subject);
    }

    pub(super) fn now() -> Time {
        Time(Timestamp::now())
    }
}
