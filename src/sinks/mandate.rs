//! Whether this process may still write: the question that every sink asks right before what cannot be taken back.
//!
//! With several replicas only the holder of the lease writes, and only while it can prove to itself that nobody else may
//! have taken over. A process that was paused finds out here, before it has read anything: a mandate ends by the clock,
//! not by a message. Without election there is no limit.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A moment by two clocks.
///
/// The steady one stops while the machine sleeps or its virtual machine is frozen; the wall clock is put right after
/// that, and may be set at any other time. The longer of both distances is what may have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the steady clock.
    pub steady: Instant,
    /// By the wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// Returns the present.
    pub fn now() -> Self {
        Self { steady: Instant::now(), wall: Timestamp::now() }
    }

    /// Returns how much time may have passed since `earlier`.
    pub fn since(self, earlier: Self) -> Duration {
        let steady = self.steady.saturating_duration_since(earlier.steady);
        let wall = Duration::try_from(self.wall.duration_since(earlier.wall)).unwrap_or_default();
        steady.max(wall)
    }
}

/// The right to write, as long as it lasts; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Mandate(Option<Arc<Term>>);

#[derive(Debug)]
struct Term {
    limit: Duration,
    /// When the right was last known to be ours; `None` when it was given up.
    confirmed: Mutex<Option<Moment>>,
}

/// The right to write has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica is no longer the leader")]
pub struct Deposed;

impl Mandate {
    /// Returns a right that does not end.
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// Returns a right that ends `limit` after the last confirmation.
    pub fn limited(limit: Duration, confirmed: Moment) -> Self {
        Self(Some(Arc::new(Term { limit, confirmed: Mutex::new(Some(confirmed)) })))
    }

    /// Confirms the right as of `at`; one that was given up stays given up.
    pub fn confirm(&self, at: Moment) {
        if let Some(term) = &self.0
            && let Some(confirmed) = &mut *term.confirmed.lock()
        {
            *confirmed = at;
        }
    }

    /// Gives the right up.
    pub fn end(&self) {
        if let Some(term) = &self.0 {
            *term.confirmed.lock() = None;
        }
    }

    /// Returns how long the right lasts without another confirmation.
    ///
    /// # Errors
    /// The right has ended.
    pub fn remaining(&self, now: Moment) -> Result<Duration, Deposed> {
        let Some(term) = &self.0 else { return Ok(Duration::MAX) };
        let confirmed = (*term.confirmed.lock()).ok_or(Deposed)?;
        term.limit.checked_sub(now.since(confirmed)).filter(|rest| !rest.is_zero()).ok_or(Deposed)
    }

    /// Asks whether the right lasts at this moment.
    ///
    /// # Errors
    /// It has ended, and nothing may be written any more.
    pub fn check(&self) -> Result<(), Deposed> {
        self.remaining(Moment::now()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(from: Moment, steady: u64, wall: i64) -> Moment {
        Moment {
            steady: from.steady + Duration::from_secs(steady),
            wall: from.wall + jiff::SignedDuration::from_secs(wall),
        }
    }

    #[test]
    fn a_mandate_ends_by_the_clock_that_ran_further() {
        let start = Moment::now();
        let mandate = Mandate::limited(Duration::from_secs(40), start);
        for (steady, wall, rest) in [
            (0, 0, Some(40)),
            (39, 39, Some(1)),
            (40, 0, None),
            // The machine slept: its steady clock stood still.
            (1, 3600, None),
            // The wall clock was set back.
            (10, -3600, Some(30)),
        ] {
            let rest = rest.map(Duration::from_secs).ok_or(Deposed);
            assert_eq!(mandate.remaining(later(start, steady, wall)), rest, "{steady} {wall}");
        }
    }

    #[test]
    fn confirming_extends_it_and_giving_it_up_is_final() {
        let start = Moment::now();
        let mandate = Mandate::limited(Duration::from_secs(40), start);
        mandate.clone().confirm(later(start, 30, 30));
        assert_eq!(mandate.remaining(later(start, 50, 50)), Ok(Duration::from_secs(20)));
        mandate.end();
        mandate.confirm(later(start, 60, 60));
        assert_eq!(mandate.remaining(later(start, 61, 61)), Err(Deposed));
        assert_eq!(mandate.check(), Err(Deposed));
    }

    #[test]
    fn without_election_it_does_not_end() {
        let start = Moment::now();
        let mandate = Mandate::unlimited();
        mandate.end();
        assert_eq!(mandate.remaining(later(start, 1 << 32, 0)), Ok(Duration::MAX));
        assert_eq!(mandate.check(), Ok(()));
    }
}
