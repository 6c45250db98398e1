//! Whether a destination answers at all: after [`THRESHOLD`] failures in a row that blame the destination, its jobs wait
//! and one cheap probe at a time looks after it.
//!
//! ```text
//!            5th failure in a row             due                    it answers
//!   Closed ──────────────────────► Open(at) ──────► Probing ─────────────────────► Closed
//!                                     ▲                │
//!                                     └── silent, ≤ 10 s
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;

/// Failures in a row that open the breaker.
pub(super) const THRESHOLD: u32 = 5;
/// The longest pause between two probes.
pub(super) const PROBE_CAP: Duration = Duration::from_secs(10);

/// The breaker of one destination.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    failures: u32,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { probe_at: Instant },
    Probing,
}

impl Breaker {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: State::Closed, failures: 0, backoff: Backoff::capped(seed, PROBE_CAP) }
    }

    /// Tells whether jobs may start.
    pub(super) fn closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Returns when the next probe starts, while one is due or waits.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe_at } => Some(probe_at),
            State::Closed | State::Probing => None,
        }
    }

    /// Notes a failure that blames the destination.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.closed() && self.failures >= THRESHOLD {
            self.state = State::Open { probe_at: now + self.backoff.next_delay() };
        }
    }

    /// Notes an answer of the destination, good or bad. Tells whether jobs were waiting for one.
    pub(super) fn answered(&mut self) -> bool {
        let waited = !self.closed();
        self.state = State::Closed;
        self.failures = 0;
        self.backoff.reset();
        waited
    }

    /// Probes at once: a person has just changed something.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let State::Open { probe_at } = &mut self.state {
            *probe_at = now.min(*probe_at);
        }
    }

    /// Notes that a probe is under way.
    pub(super) fn probe(&mut self) {
        self.state = State::Probing;
    }

    /// Notes that a probe had no answer.
    pub(super) fn silent(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Open { probe_at: now + self.backoff.next_delay() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(1);
        (0..THRESHOLD).for_each(|_| breaker.failed(now));
        breaker
    }

    #[test]
    fn an_answer_between_failures_starts_the_count_again() {
        let (mut breaker, now) = (Breaker::new(1), Instant::now());
        (1..THRESHOLD).for_each(|_| breaker.failed(now));
        assert!(!breaker.answered());
        (1..THRESHOLD).for_each(|_| breaker.failed(now));
        assert!(breaker.closed());
        breaker.failed(now);
        assert!(!breaker.closed());
    }

    #[test]
    fn probes_of_a_silent_destination_are_never_far_apart_and_an_answer_closes_the_breaker() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for _ in 0..20 {
            let due = breaker.due().unwrap();
            assert!(due - now <= PROBE_CAP);
            now = due;
            breaker.probe();
            assert_eq!(breaker.due(), None);
            breaker.silent(now);
        }
        breaker.probe();
        assert!(breaker.answered());
        assert!(breaker.closed());
    }

    #[test]
    fn an_edit_does_not_wait_for_the_next_probe() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.hurry(now);
        assert_eq!(breaker.due(), Some(now));
    }
}
