//! The numbers that profiles ask for: sums over the rows of all targets of a profile.
//!
//! What a target adds is kept, so that a refresh reads the rows of those targets alone that changed since. It reads them
//! off the async threads, in steps that never hold a table for long, and ends when the process does. A target is added up
//! as soon as all of it is known, later ones at most once per `--collect-metrics-sample-interval` and as long as there is
//! a change that is not in the sums: what is shown is at most that old. Series go with the last target of their profile.

mod sums;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Control;
use crate::api::v1alpha1::profile::ProfileMetric;
use crate::config::Collection;
use crate::metrics::{Metrics, ProfileSeries, Queue, Reading, Sizes};
use crate::model::{Gvk, Name, ObjectKey};
use crate::status::Subject;
use crate::store::Target;
use sums::{Partial, Room, Sums, TUPLE_BYTES, add_up};
use wanted::Wanted;

/// How often the positions of the targets are looked at.
const POLL: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, whatever the sample interval is.
const SHORTEST_POLL: Duration = Duration::from_millis(100);
/// What the label tuples of all targets may take; beyond it they count as left out by the cap.
const ROOM_BYTES: usize = 8 << 20;

/// Whose series these are on the page: a profile's name and kind.
type Group = (Name, Gvk);

/// The sums of all profiles.
#[derive(Debug)]
pub(super) struct Measures {
    metrics: Arc<Metrics>,
    interval: Duration,
    cap: usize,
    /// Locked before a table, never after one.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    subjects: BTreeMap<Subject, Measured>,
    /// Groups whose series are not those of their parts any more.
    stale: BTreeSet<Group>,
    published: BTreeMap<Group, Published>,
}

/// What one object collects.
#[derive(Debug)]
struct Measured {
    profile: Name,
    wanted: Arc<Wanted>,
    parts: Vec<Part>,
}

/// The rows of one target in the store.
#[derive(Debug, Clone)]
struct Part {
    target: Target,
    partial: Option<Arc<Partial>>,
    /// When it was added up last; before that, when it was registered.
    since: Instant,
}

/// Work of one refresh.
#[derive(Debug)]
struct Due {
    subject: Subject,
    wanted: Arc<Wanted>,
    target: Target,
    previous: Option<Arc<Partial>>,
}

/// What the page shows of a group.
#[derive(Debug, Default)]
struct Published {
    series: Vec<ProfileSeries>,
    /// Names of those with labels.
    labeled: BTreeSet<Arc<str>>,
}

impl Control {
    /// Adds up from now on what these targets of an object collect, in the way that its profile says; without a profile,
    /// nothing any more.
    pub(super) fn measure<'a>(
        &self,
        subject: Subject,
        profile: Option<ObjectKey>,
        targets: impl IntoIterator<Item = &'a Target>,
    ) {
        let Some(profile) = profile else { return self.measures.remove(&subject) };
        let spec = self.shelves.profiles.get(&profile).and_then(|profile| profile.spec.as_ref().ok());
        let metrics = spec.map(|spec| spec.metrics.as_slice()).unwrap_or_default();
        self.measures.put(subject, &profile.name, metrics, targets.into_iter().cloned().collect());
    }
}

impl Measures {
    pub(super) fn new(metrics: Arc<Metrics>, settings: &Collection) -> Arc<Self> {
        let (interval, cap) = (settings.metrics_sample_interval, settings.labeled_series_cap.get());
        Arc::new(Self { metrics, interval, cap, inner: Mutex::default() })
    }

    /// Says what an object collects and what is wanted of it. Sums of what stays are kept.
    fn put(&self, subject: Subject, profile: &Name, metrics: &[ProfileMetric], targets: Vec<Target>) {
        let wanted = Wanted::new(metrics);
        let mut inner = self.inner.lock();
        let before = inner.subjects.remove(&subject);
        let groups = before.as_ref().map(Measured::groups).unwrap_or_default();
        let before = before.filter(|before| before.profile == *profile && *before.wanted == wanted);
        let known = before.is_some();
        let (wanted, old) =
            before.map_or_else(|| (Arc::new(wanted), Vec::new()), |before| (before.wanted, before.parts));
        let parts = targets.into_iter().map(|target| match old.iter().find(|part| part.is(&target)) {
            Some(part) => part.clone(),
            None => Part { target, partial: None, since: Instant::now() },
        });
        let measured = Measured { profile: profile.clone(), wanted, parts: parts.collect() };
        let same = old.len() == measured.parts.len() && old.iter().zip(&measured.parts).all(|(a, b)| a.is(&b.target));
        if !measured.parts.is_empty() {
            inner.subjects.insert(subject, measured);
        }
        if !(known && same) {
            self.spoil(&mut inner, groups);
        }
    }

    /// Forgets an object that is gone.
    pub(super) fn remove(&self, subject: &Subject) {
        let mut inner = self.inner.lock();
        if let Some(before) = inner.subjects.remove(subject) {
            self.spoil(&mut inner, before.groups());
        }
    }

    /// Notes that parts of these groups are gone; the series of a group without any go with them.
    fn spoil(&self, inner: &mut Inner, groups: Vec<Group>) {
        for group in groups {
            if inner.is_alive(&group) {
                inner.stale.insert(group);
                continue;
            }
            inner.stale.remove(&group);
            if let Some(published) = inner.published.remove(&group) {
                self.forget(&group, published.labeled.iter());
            }
        }
    }

    fn forget<'a>(&self, (profile, gvk): &Group, labeled: impl Iterator<Item = &'a Arc<str>>) {
        let gvk = gvk.to_string();
        for series in labeled {
            self.metrics.forget_labeled_series(profile.as_str(), &gvk, series);
        }
    }

    /// Refreshes until `stop` is cancelled.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), JoinError> {
        let mut poll = tokio::time::interval(self.interval.clamp(SHORTEST_POLL, POLL));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(poll.tick()).await.is_some() {
            let now = Instant::now();
            let due = self.due(now);
            if due.is_empty() && self.inner.lock().stale.is_empty() {
                continue;
            }
            let (this, stop) = (self.clone(), stop.clone());
            spawn_blocking(move || this.refresh(due, now, &stop)).await?;
        }
        Ok(())
    }

    /// Returns what has to be added up.
    fn due(&self, now: Instant) -> Vec<Due> {
        let inner = self.inner.lock();
        let all = inner.subjects.iter().flat_map(|(subject, of)| of.parts.iter().map(move |part| (subject, of, part)));
        let due = all.filter(|(_, _, part)| part.is_due(now, self.interval)).map(|(subject, of, part)| Due {
            subject: subject.clone(),
            wanted: of.wanted.clone(),
            target: part.target.clone(),
            previous: part.partial.clone(),
        });
        due.collect()
    }

    /// Adds up what is due, and shows it. Blocks for as long as that takes.
    fn refresh(&self, due: Vec<Due>, now: Instant, stop: &CancellationToken) {
        for Due { subject, wanted, target, previous } in due {
            let own = previous.as_ref().map_or(0, |previous| previous.bytes);
            let others = self.inner.lock().bytes().saturating_sub(own);
            let room = Room(ROOM_BYTES.saturating_sub(others));
            let partial = add_up(&target, &wanted, previous.as_deref(), self.cap, room, stop);
            if stop.is_cancelled() {
                return;
            }
            if let Some(partial) = partial {
                self.inner.lock().settle(&subject, &wanted, &target, Arc::new(partial), now);
            }
        }
        let stale = std::mem::take(&mut self.inner.lock().stale);
        for group in &stale {
            self.publish(group);
        }
    }

    /// Puts the sums of a group on the page.
    fn publish(&self, group: &Group) {
        let partials = self.inner.lock().partials(group);
        let mut sums = Sums::default();
        for partial in &partials {
            sums.merge(&partial.sums, self.cap);
        }
        let published = Published { series: series(group, &sums), labeled: sums.labeled.keys().cloned().collect() };
        let mut inner = self.inner.lock();
        if partials.is_empty() || !inner.is_alive(group) {
            return;
        }
        let gvk = group.1.to_string();
        for (series, tuples) in &sums.labeled {
            self.metrics.labeled_series_capped(group.0.as_str(), &gvk, series, tuples.left_out() as u64);
        }
        let labeled = published.labeled.clone();
        if let Some(before) = inner.published.insert(group.clone(), published) {
            self.forget(group, before.labeled.difference(&labeled));
        }
    }
}

impl Measured {
    fn groups(&self) -> Vec<Group> {
        self.parts.iter().map(|part| (self.profile.clone(), part.target.origin().gvk.clone())).collect()
    }

    fn is_of(&self, part: &Part, (profile, gvk): &Group) -> bool {
        self.profile == *profile && part.target.origin().gvk == *gvk
    }
}

impl Part {
    /// Tells whether that is the same registration of the same target.
    fn is(&self, target: &Target) -> bool {
        Arc::ptr_eq(self.target.origin(), target.origin())
    }

    fn is_due(&self, now: Instant, interval: Duration) -> bool {
        let waited = now >= self.since + interval;
        match &self.partial {
            Some(partial) => waited && self.target.changed().is_some_and(|changed| changed != partial.changed),
            // Half a list says less than nothing, unless it stays that way.
            None => waited || self.target.is_whole(),
        }
    }
}

impl Inner {
    fn is_alive(&self, group: &Group) -> bool {
        self.subjects.values().any(|of| of.parts.iter().any(|part| of.is_of(part, group)))
    }

    /// Returns what the tuples of all targets take.
    fn bytes(&self) -> usize {
        self.all().map(|partial| partial.bytes).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Partial>> {
        self.subjects.values().flat_map(|of| &of.parts).filter_map(|part| part.partial.as_ref())
    }

    fn partials(&self, group: &Group) -> Vec<Arc<Partial>> {
        let parts = self.subjects.values().flat_map(|of| of.parts.iter().filter(|part| of.is_of(part, group)));
        parts.filter_map(|part| part.partial.clone()).collect()
    }

    /// Takes the sums of a target in, unless something else is wanted of it by now.
    fn settle(
        &mut self,
        subject: &Subject,
        wanted: &Arc<Wanted>,
        target: &Target,
        partial: Arc<Partial>,
        now: Instant,
    ) {
        let Some(of) = self.subjects.get_mut(subject).filter(|of| Arc::ptr_eq(&of.wanted, wanted)) else { return };
        let profile = of.profile.clone();
        let Some(part) = of.parts.iter_mut().find(|part| part.is(target)) else { return };
        part.partial = Some(partial);
        part.since = now;
        self.stale.insert((profile, target.origin().gvk.clone()));
    }
}

impl Sizes for Measures {
    fn read(&self, reading: &mut Reading) {
        let inner = self.inner.lock();
        reading.profile_series.extend(inner.published.values().flat_map(|published| published.series.iter().cloned()));
        let tuples: usize = inner.all().flat_map(|partial| partial.sums.labeled.values()).map(|of| of.sums.len()).sum();
        reading.queues.push(Queue {
            name: "profile_series",
            depth: tuples as u64,
            limit: (ROOM_BYTES / TUPLE_BYTES) as u64,
            bytes: Some((inner.bytes() as u64, ROOM_BYTES as u64)),
        });
    }
}

/// Returns the series of a group as the page takes them.
fn series((profile, gvk): &Group, sums: &Sums) -> Vec<ProfileSeries> {
    let one = |series: &Arc<str>, labels, value| ProfileSeries {
        profile: profile.clone(),
        gvk: gvk.clone(),
        series: series.clone(),
        labels,
        value,
    };
    let plain = sums.plain.iter().map(|(series, sum)| one(series, Vec::new(), *sum));
    let labeled = sums.labeled.iter().flat_map(|(series, tuples)| {
        tuples.sums.iter().map(move |(tuple, sum)| {
            let pairs = tuple.split_terminator('\0').filter_map(|pair| pair.split_once('='));
            one(series, pairs.map(|(name, value)| (name.into(), value.into())).collect(), *sum)
        })
    });
    plain.chain(labeled).collect()
}

#[cfg(test)]
mod tests;
