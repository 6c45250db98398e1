//! A target whose profile or kind is gone: its rows stay at first, for what is missing may come back; then they go, unless
//! they are so many that somebody has to say so (D4).

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Gvk;
use crate::store::is_mass_deletion;

/// How long a profile may be gone before its rows are taken for deliberately removed.
const PROFILE_GRACE: Duration = Duration::from_mins(5);
/// Discoveries this far apart have to agree that a kind is gone.
const KIND_GRACE: Duration = Duration::from_mins(1);
/// The annotation on an inventory that lets held rows go.
pub(in crate::control) const ALLOW_MASS_DELETION: &str = "kollect.dev/allow-mass-deletion";

/// What is missing, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Missing {
    Profile(Instant),
    /// By a discovery of that moment.
    Kind(Gvk, Instant),
}

/// Whether what is missing is gone for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may come back.
    Open,
    /// Its removal is deliberate.
    Final,
}

/// What is remembered of an absence.
#[derive(Debug, Default)]
pub(super) struct Absence {
    missing: Option<Missing>,
    held: Option<Held>,
    /// Somebody has let the rows go.
    released: bool,
}

/// Rows that stay because too many would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    loss: Loss,
    what: &'static str,
}

/// Rows that would go with everything that is missing in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Loss {
    pub(super) rows: usize,
    /// Rows that the namespace has.
    pub(super) of: usize,
}

/// What goes with one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Going {
    /// Its rows in the store.
    pub(super) stored: usize,
    /// Its rows by its status, unless this process has once had all of them and knows better.
    pub(super) told: Option<usize>,
}

impl Loss {
    /// Adds up what goes at once. After a restart the store has less than the sinks, so the numbers in the statuses
    /// count too: `told` is what the inventories of the namespace say they have.
    pub(super) fn new(stored: usize, told: usize, going: &[Going]) -> Self {
        let mut loss = Self { rows: 0, of: stored };
        for target in going {
            let rows = target.stored.max(target.told.unwrap_or_default());
            loss.rows += rows;
            loss.of += rows - target.stored;
        }
        if going.iter().any(|target| target.told.is_some()) {
            loss.of = loss.of.max(told);
        }
        loss
    }
}

impl Absence {
    /// Nothing is missing: a later absence starts from the beginning.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes that the profile is missing.
    pub(super) fn profile(&mut self, now: Instant) -> Verdict {
        let since = match &self.missing {
            Some(Missing::Profile(since)) => *since,
            Some(Missing::Kind(..)) | None => {
                self.clear();
                self.missing = Some(Missing::Profile(now));
                now
            }
        };
        if now.saturating_duration_since(since) < PROFILE_GRACE { Verdict::Open } else { Verdict::Final }
    }

    /// Notes that a discovery of that moment did not have the kind.
    pub(super) fn kind(&mut self, gvk: &Gvk, polled: Instant) -> Verdict {
        let since = match &self.missing {
            Some(Missing::Kind(missing, since)) if missing == gvk => *since,
            Some(Missing::Kind(..) | Missing::Profile(_)) | None => {
                self.clear();
                self.missing = Some(Missing::Kind(gvk.clone(), polled));
                polled
            }
        };
        if polled.saturating_duration_since(since) < KIND_GRACE { Verdict::Open } else { Verdict::Final }
    }

    /// Takes over what another one misses; what was held or released for something else is forgotten.
    pub(super) fn follow(&mut self, other: &Self) {
        if self.missing != other.missing {
            *self = Self { missing: other.missing.clone(), ..Self::default() };
        }
    }

    /// Tells whether something is missing.
    pub(super) fn is_open(&self) -> bool {
        self.missing.is_some()
    }

    /// Tells whether the next discovery can decide something.
    pub(super) fn awaits_discovery(&self) -> bool {
        matches!(self.missing, Some(Missing::Kind(..))) && self.held.is_none()
    }

    /// Tells whether the time of a missing profile is over, so that there is something to decide.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let over = |since| now.saturating_duration_since(since) >= PROFILE_GRACE;
        matches!(self.missing, Some(Missing::Profile(since)) if over(since)) && self.held.is_none()
    }

    /// Decides whether rows may go. Once held they stay so until they are released, or what is missing is back.
    pub(super) fn brake(&mut self, loss: Loss) -> Option<Held> {
        if self.released {
            self.held = None;
        } else if self.held.is_none() && is_mass_deletion(loss.rows, loss.of) {
            let what = match &self.missing {
                Some(Missing::Profile(_)) => "profile",
                Some(Missing::Kind(..)) | None => "kind",
            };
            self.held = Some(Held { loss, what });
        }
        self.held.clone()
    }

    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Lets held rows go; tells whether there were any.
    pub(super) fn release(&mut self) -> bool {
        let held = self.held.is_some();
        self.released |= held;
        held
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { rows, of } = self.loss;
        write!(
            f,
            "with the {} that is gone, {rows} of the {of} rows of this namespace would be removed; they are held, here and \
             in every sink. Put it back, or give an inventory of this namespace the annotation {ALLOW_MASS_DELETION} \
             with a new value to let them go",
            self.what
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gvk(kind: &str) -> Gvk {
        Gvk { group: "x.io".into(), version: "v1".into(), kind: kind.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_profile_is_gone_for_good_after_five_minutes() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        assert_eq!(absence.profile(start), Verdict::Open);
        assert_eq!(absence.profile(start + PROFILE_GRACE.checked_sub(Duration::from_secs(1)).unwrap()), Verdict::Open);
        assert!(!absence.is_due(start));
        assert!(absence.is_due(start + PROFILE_GRACE));
        assert_eq!(absence.profile(start + PROFILE_GRACE), Verdict::Final);
        absence.clear();
        assert_eq!(absence.profile(start + PROFILE_GRACE * 2), Verdict::Open, "it was back in between");
    }

    #[tokio::test(start_paused = true)]
    async fn two_discoveries_a_minute_apart_decide_about_a_kind() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        assert_eq!(absence.kind(&gvk("Thing"), start), Verdict::Open);
        assert_eq!(absence.kind(&gvk("Thing"), start), Verdict::Open, "the same discovery once more");
        assert_eq!(absence.kind(&gvk("Thing"), start + Duration::from_secs(30)), Verdict::Open);
        assert_eq!(absence.kind(&gvk("Other"), start + KIND_GRACE), Verdict::Open, "another kind counts anew");
        assert_eq!(absence.kind(&gvk("Other"), start + KIND_GRACE * 2), Verdict::Final);
    }

    #[tokio::test(start_paused = true)]
    async fn many_rows_are_held_until_they_are_released_or_the_cause_is_back() {
        let (mut absence, now) = (Absence::default(), Instant::now());
        let many = Loss { rows: 101, of: 201 };
        for few in [Loss { rows: 100, of: 100 }, Loss { rows: 101, of: 202 }] {
            absence.profile(now);
            assert_eq!(absence.brake(few), None, "{few:?}");
        }
        assert!(!absence.release(), "nothing is held");
        let held = absence.brake(many).unwrap();
        assert!(held.to_string().starts_with("with the profile that is gone, 101 of the 201 rows"), "{held}");
        assert!(absence.brake(Loss { rows: 101, of: 1000 }).is_some(), "what is held stays held");
        assert!(!absence.is_due(now + PROFILE_GRACE * 2) && !absence.awaits_discovery());
        assert!(absence.release());
        assert_eq!(absence.brake(many), None);
        absence.clear();
        absence.kind(&gvk("Thing"), now);
        assert!(absence.brake(many).is_some(), "a permission is for one absence");
    }

    #[tokio::test(start_paused = true)]
    async fn each_namespace_of_a_cluster_target_holds_its_own_rows_for_one_absence() {
        let (mut missing, mut large, mut small) = (Absence::default(), Absence::default(), Absence::default());
        let (now, many) = (Instant::now(), Loss { rows: 101, of: 101 });
        missing.profile(now);
        large.follow(&missing);
        small.follow(&missing);
        assert!(large.brake(many).is_some());
        assert_eq!(small.brake(Loss { rows: 5, of: 5 }), None);
        large.follow(&missing);
        assert!(large.held().is_some(), "the same absence goes on");
        assert!(large.release());
        assert_eq!(large.brake(many), None);
        missing.kind(&gvk("Thing"), now);
        large.follow(&missing);
        assert!(large.brake(many).is_some(), "a permission is for one absence");
        missing.clear();
        large.follow(&missing);
        assert!(!large.is_open() && large.held().is_none());
    }

    #[test]
    fn what_vanishes_together_is_counted_together_with_what_only_the_statuses_know() {
        let known = |stored| Going { stored, told: None };
        let restarted = |stored, told| Going { stored, told: Some(told) };
        for (stored, told, going, rows, of) in [
            // Two targets of 40 % each are more than half.
            (500, 900, vec![known(200), known(200)], 400, 500),
            // Every object of the kind was deleted by an event before: the status is behind.
            (300, 450, vec![known(0)], 0, 300),
            // After a restart nothing is stored of what is missing, and others are still being listed.
            (0, 300, vec![restarted(0, 150)], 150, 300),
            (250, 300, vec![restarted(0, 150)], 150, 400),
            (0, 0, vec![restarted(0, 0)], 0, 0),
        ] {
            assert_eq!(Loss::new(stored, told, &going), Loss { rows, of }, "{stored} {told} {going:?}");
        }
    }
}
