//! Full-jitter exponential backoff.

use std::time::Duration;

/// The first delay is drawn from zero to this.
const BASE: Duration = Duration::from_secs(1);
/// No delay is longer, unless another cap is given.
const CAP: Duration = Duration::from_mins(1);

/// Delays between the tries of one binding: uniform between zero and 1 s, 2 s, 4 s … 60 s.
#[derive(Debug, Clone)]
pub struct Backoff {
    attempt: u32,
    state: u64,
    cap: Duration,
}

impl Backoff {
    /// Starts from the first delay. Different seeds give different jitter.
    pub fn new(seed: u64) -> Self {
        Self::capped(seed, CAP)
    }

    /// The same with another longest delay.
    pub fn capped(seed: u64, cap: Duration) -> Self {
        Self { attempt: 0, state: seed | 1, cap }
    }

    /// Returns the next delay.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = BASE.saturating_mul(1 << self.attempt.min(6)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        // xorshift64* (Vigna 2016): enough to keep two bindings apart, and repeatable in tests.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        ceiling.mul_f64(random as f64 / (1u64 << 53) as f64)
    }

    /// Starts again from the first delay.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Returns how many delays were drawn since the last reset.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_below_a_doubling_ceiling() {
        let mut backoff = Backoff::new(7);
        for ceiling in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert!(backoff.next_delay() <= Duration::from_secs(ceiling));
        }
        backoff.reset();
        assert!(backoff.next_delay() <= BASE);
    }

    #[test]
    fn seeds_keep_bindings_apart() {
        assert_ne!(Backoff::new(2).next_delay(), Backoff::new(4).next_delay());
    }
}
