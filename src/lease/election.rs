//! Who may lead: decided from what the lease says and when we saw it change. Pure.
//!
//! Clocks of different machines are never compared. Another holder's time runs out when *we* have seen its record
//! unchanged for as long as the record says, by our own steady clock; the times written into the lease are for people.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

use crate::sinks::mandate::Moment;

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// Who holds it; empty when it was released.
    pub(super) holder: String,
    /// How long others wait for a renewal, in whole seconds as the API has it.
    pub(super) duration_seconds: i32,
    /// How often it changed hands.
    pub(super) transitions: i32,
    pub(super) acquired: Option<Timestamp>,
    pub(super) renewed: Option<Timestamp>,
}

/// What to do about the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is free: write this to take it.
    Claim(Record),
    /// It is ours: write this to keep it.
    Renew(Record),
    /// Somebody else has it, at least until then.
    Wait(Instant),
}

/// One candidate's view of the lease.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    duration: Duration,
    /// The record as last seen, and when it was first seen like that.
    seen: Option<(Record, Instant)>,
}

impl Election {
    /// Starts without having seen anything.
    pub(super) fn new(identity: String, duration: Duration) -> Self {
        Self { identity, duration, seen: None }
    }

    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes in what the lease says now (`None`: there is none) and decides.
    pub(super) fn consider(&mut self, found: Option<&Record>, now: Moment) -> Verdict {
        let Some(found) = found else {
            // Deleted by hand: our own count goes on, so that our epoch never falls.
            let transitions = match &self.seen {
                Some((last, _)) if last.holder == self.identity => last.transitions,
                Some((last, _)) => last.transitions.saturating_add(1),
                None => 0,
            };
            return Verdict::Claim(self.claim(transitions, now));
        };
        let since = match &self.seen {
            Some((last, since)) if last == found => *since,
            Some(_) | None => now.steady,
        };
        self.seen = Some((found.clone(), since));
        if found.holder == self.identity {
            return Verdict::Renew(self.renewal(found, now));
        }
        let until = since + self.patience(found);
        if found.holder.is_empty() || now.steady >= until {
            Verdict::Claim(self.claim(found.transitions.saturating_add(1), now))
        } else {
            Verdict::Wait(until)
        }
    }

    /// Returns the record that keeps our lease.
    pub(super) fn renewal(&self, held: &Record, now: Moment) -> Record {
        Record { duration_seconds: self.seconds(), renewed: Some(now.wall), ..held.clone() }
    }

    fn claim(&self, transitions: i32, now: Moment) -> Record {
        let (acquired, renewed) = (Some(now.wall), Some(now.wall));
        Record { holder: self.identity.clone(), duration_seconds: self.seconds(), transitions, acquired, renewed }
    }

    /// The holder says how long it may be silent; one that says nothing gets our own patience.
    fn patience(&self, found: &Record) -> Duration {
        u64::try_from(found.duration_seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map_or(self.duration, Duration::from_secs)
    }

    /// Rounded up: others may wait longer than we need, never shorter.
    fn seconds(&self) -> i32 {
        let whole = self.duration.as_secs() + u64::from(self.duration.subsec_nanos() > 0);
        i32::try_from(whole).unwrap_or(i32::MAX)
    }
}

impl From<&LeaseSpec> for Record {
    fn from(spec: &LeaseSpec) -> Self {
        let time = |time: &Option<MicroTime>| time.as_ref().map(|time| time.0);
        Self {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            duration_seconds: spec.lease_duration_seconds.unwrap_or_default(),
            transitions: spec.lease_transitions.unwrap_or_default(),
            acquired: time(&spec.acquire_time),
            renewed: time(&spec.renew_time),
        }
    }
}

impl Record {
    /// Returns the record that gives the lease away: anybody may take it at once.
    pub(super) fn released(&self, now: Moment) -> Self {
        let (acquired, renewed) = (Some(now.wall), Some(now.wall));
        Self { holder: String::new(), duration_seconds: 1, acquired, renewed, ..self.clone() }
    }

    /// Writes the record into a spec; what it does not know stays.
    pub(super) fn write_to(&self, spec: &mut LeaseSpec) {
        spec.holder_identity = Some(self.holder.clone());
        spec.lease_duration_seconds = Some(self.duration_seconds);
        spec.lease_transitions = Some(self.transitions);
        spec.acquire_time = self.acquired.map(MicroTime);
        spec.renew_time = self.renewed.map(MicroTime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_mins(1);

    struct Clock(Moment);

    impl Clock {
        fn new() -> Self {
            Self(Moment::now())
        }

        fn at(&self, seconds: u64) -> Moment {
            let wall = self.0.wall + jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap());
            Moment { steady: self.0.steady + Duration::from_secs(seconds), wall }
        }
    }

    fn record(holder: &str, transitions: i32, renewed: &str) -> Record {
        let renewed = Some(renewed.parse().unwrap());
        Record { holder: holder.into(), duration_seconds: 60, transitions, acquired: renewed, renewed }
    }

    fn election() -> Election {
        Election::new("me".into(), LEASE)
    }

    fn claimed(verdict: Verdict) -> (String, i32) {
        match verdict {
            Verdict::Claim(record) => (record.holder, record.transitions),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lease_that_is_absent_or_released_is_taken_at_once() {
        let clock = Clock::new();
        assert_eq!(claimed(election().consider(None, clock.at(0))), ("me".into(), 0));
        let released = record("", 4, "2026-01-01T00:00:00Z");
        assert_eq!(claimed(election().consider(Some(&released), clock.at(0))), ("me".into(), 5));
    }

    #[test]
    fn a_lease_expires_by_when_we_saw_it_change_and_not_by_what_it_says() {
        let clock = Clock::new();
        // Written by a clock that is years behind or ahead of ours.
        for renewed in ["2000-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
            let mut election = election();
            let other = record("other", 7, renewed);
            let wait = |seconds: u64| Verdict::Wait(clock.at(seconds).steady);
            assert_eq!(election.consider(Some(&other), clock.at(0)), wait(60));
            assert_eq!(election.consider(Some(&other), clock.at(59)), wait(60));
            let renewed_once = Record { renewed: other.renewed.map(|at| at + LEASE), ..other.clone() };
            assert_eq!(election.consider(Some(&renewed_once), clock.at(59)), wait(119));
            assert_eq!(election.consider(Some(&renewed_once), clock.at(118)), wait(119));
            assert_eq!(claimed(election.consider(Some(&renewed_once), clock.at(119))), ("me".into(), 8));
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_takes_no_lease() {
        let clock = Clock::new();
        let mut election = election();
        let other = record("other", 7, "2026-01-01T00:00:00Z");
        election.consider(Some(&other), clock.at(0));
        let jumped = Moment { wall: clock.at(9999).wall, ..clock.at(1) };
        assert!(matches!(election.consider(Some(&other), jumped), Verdict::Wait(_)));
    }

    #[test]
    fn the_holder_says_how_long_it_may_be_silent() {
        let clock = Clock::new();
        for (seconds, patience) in [(15, 15), (120, 120), (0, 60), (-1, 60)] {
            let other = Record { duration_seconds: seconds, ..record("other", 0, "2026-01-01T00:00:00Z") };
            let verdict = election().consider(Some(&other), clock.at(0));
            assert_eq!(verdict, Verdict::Wait(clock.at(patience).steady), "{seconds}");
        }
    }

    #[test]
    fn our_own_lease_is_renewed_without_a_transition() {
        let clock = Clock::new();
        let ours = record("me", 3, "2026-01-01T00:00:00Z");
        let Verdict::Renew(renewed) = election().consider(Some(&ours), clock.at(9)) else { panic!("not renewed") };
        assert_eq!(renewed, Record { renewed: Some(clock.at(9).wall), ..ours });
    }

    #[test]
    fn a_deleted_lease_comes_back_with_its_count() {
        let clock = Clock::new();
        for (holder, transitions) in [("me", 3), ("other", 4)] {
            let mut election = election();
            election.consider(Some(&record(holder, 3, "2026-01-01T00:00:00Z")), clock.at(0));
            assert_eq!(claimed(election.consider(None, clock.at(1))), ("me".into(), transitions), "{holder}");
        }
    }

    #[test]
    fn a_released_lease_keeps_its_count_and_names_nobody() {
        let clock = Clock::new();
        let released = record("me", 3, "2026-01-01T00:00:00Z").released(clock.at(5));
        assert_eq!((released.holder.as_str(), released.duration_seconds, released.transitions), ("", 1, 3));
        assert_eq!(claimed(Election::new("next".into(), LEASE).consider(Some(&released), clock.at(5))).1, 4);
    }

    #[test]
    fn parts_of_a_second_are_rounded_up() {
        let election = Election::new("me".into(), Duration::from_millis(6001));
        assert_eq!(election.seconds(), 7);
        assert_eq!(super::Election::new("me".into(), Duration::from_secs(6)).seconds(), 6);
    }

    #[test]
    fn a_record_survives_the_api() {
        let ours = record("me", 3, "2026-01-01T00:00:00.123456Z");
        let mut spec = LeaseSpec { strategy: Some("kept".into()), ..LeaseSpec::default() };
        ours.write_to(&mut spec);
        assert_eq!(Record::from(&spec), ours);
        assert_eq!(spec.strategy.as_deref(), Some("kept"));
    }
}
