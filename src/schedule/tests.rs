use super::*;
use crate::model::{Family, Name, Namespace, ObjectKey, SinkKey};

const INTERVAL: Duration = Duration::from_secs(30);

fn key(name: &str) -> BindingKey {
    let object = |name: &str| ObjectKey::new(Namespace::new("team-a"), Name::new(name));
    BindingKey { inventory: object(name), sink: SinkKey { family: Family::Database, object: object("pg") } }
}

fn schedule() -> Schedule {
    Schedule::new(Limits { total: 8, per_destination: 2 }, 1)
}

/// Binds one and runs its first delivery to the end.
fn delivered(schedule: &mut Schedule, name: &str, now: Instant) -> BindingKey {
    let key = key(name);
    schedule.bind(&key, "pg", INTERVAL, None, now);
    assert_eq!(schedule.start_due(now + GATHER), std::slice::from_ref(&key));
    schedule.finished(&key, Outcome::Written, now + GATHER);
    key
}

#[test]
fn the_first_change_after_a_quiet_interval_is_delivered_after_a_gather() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", start);
    let quiet = start + 2 * INTERVAL;
    schedule.changed(&key, quiet);
    assert_eq!(schedule.next_wakeup(quiet), Some(quiet + GATHER));
    assert!(schedule.start_due(quiet + GATHER / 2).is_empty());
    assert_eq!(schedule.start_due(quiet + GATHER), [key]);
}

#[test]
fn a_change_within_the_interval_waits_for_its_end() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", start);
    let soon = start + Duration::from_secs(5);
    schedule.changed(&key, soon);
    schedule.changed(&key, soon + Duration::from_secs(10));
    let due = start + GATHER + INTERVAL;
    assert_eq!(schedule.next_wakeup(soon), Some(due));
    assert_eq!(schedule.behind_since(&key), Some(soon));
    assert_eq!(schedule.start_due(due), [key]);
}

#[test]
fn a_newly_known_part_and_an_edit_do_not_wait_for_the_interval() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", start);
    let soon = start + Duration::from_secs(1);
    schedule.learned(&key, soon);
    assert_eq!(schedule.start_due(soon + GATHER), std::slice::from_ref(&key));
    schedule.finished(&key, Outcome::Written, soon + GATHER);
    let later = soon + Duration::from_secs(1);
    schedule.bind(&key, "pg", INTERVAL, None, later);
    assert_eq!(schedule.start_due(later + GATHER), [key]);
}

#[test]
fn a_delivery_without_a_write_does_not_start_the_interval() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", start);
    let quiet = start + 2 * INTERVAL;
    schedule.changed(&key, quiet);
    schedule.start_due(quiet + GATHER);
    schedule.finished(&key, Outcome::Unchanged, quiet + GATHER);
    let next = quiet + Duration::from_secs(1);
    schedule.changed(&key, next);
    assert_eq!(schedule.next_wakeup(next), Some(next + GATHER));
}

#[test]
fn at_most_one_delivery_is_in_flight_and_what_comes_meanwhile_runs_after_it() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = key("apps");
    schedule.bind(&key, "pg", Duration::ZERO, None, start);
    assert_eq!(schedule.start_due(start + GATHER), std::slice::from_ref(&key));
    schedule.changed(&key, start + GATHER);
    assert!(schedule.start_due(start + 10 * GATHER).is_empty());
    schedule.finished(&key, Outcome::Written, start + 10 * GATHER);
    assert_eq!(schedule.start_due(start + 11 * GATHER), [key]);
}

#[test]
fn a_transient_failure_is_tried_again_with_backoff_and_new_rows_do_not_hurry_it() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = key("apps");
    schedule.bind(&key, "pg", INTERVAL, None, start);
    let mut now = start + GATHER;
    for ceiling in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(schedule.start_due(now), std::slice::from_ref(&key));
        schedule.finished(&key, Outcome::Failed(Class::Transient), now);
        let due = schedule.next_wakeup(now).unwrap_or(now);
        schedule.changed(&key, now);
        schedule.learned(&key, now);
        assert_eq!(schedule.next_wakeup(now).unwrap_or(now), due);
        assert!(due - now <= Duration::from_secs(ceiling));
        now = due;
    }
}

#[test]
fn a_terminal_failure_waits_five_minutes_or_for_an_edit() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = key("apps");
    schedule.bind(&key, "pg", INTERVAL, None, start);
    schedule.start_due(start + GATHER);
    let failed = start + GATHER;
    schedule.finished(&key, Outcome::Failed(Class::Terminal), failed);
    assert_eq!(schedule.next_wakeup(failed), Some(failed + REPROBE));
    schedule.bind(&key, "pg", INTERVAL, None, failed + GATHER);
    assert_eq!(schedule.start_due(failed + 2 * GATHER), [key]);
}

#[test]
fn an_edit_during_a_failing_delivery_is_tried_at_once() {
    let (mut schedule, start) = (schedule(), Instant::now());
    let key = key("apps");
    schedule.bind(&key, "pg", INTERVAL, None, start);
    schedule.start_due(start + GATHER);
    schedule.bind(&key, "pg", INTERVAL, None, start + GATHER);
    schedule.finished(&key, Outcome::Failed(Class::Terminal), start + GATHER);
    assert_eq!(schedule.start_due(start + 2 * GATHER), [key]);
}

#[test]
fn limits_hold_per_destination_and_in_total_and_nobody_starves() {
    let (mut schedule, start) = (Schedule::new(Limits { total: 3, per_destination: 2 }, 1), Instant::now());
    for name in ["a", "b", "c"] {
        schedule.bind(&key(name), "one", INTERVAL, None, start);
    }
    for name in ["d", "e"] {
        schedule.bind(&key(name), "two", INTERVAL, None, start);
    }
    let now = start + GATHER;
    assert_eq!(schedule.start_due(now), [key("a"), key("b"), key("d")]);
    assert!(schedule.start_due(now).is_empty());
    schedule.finished(&key("a"), Outcome::Written, now);
    assert_eq!(schedule.start_due(now), [key("c")]);
    schedule.unbind(&key("d"));
    assert_eq!(schedule.start_due(now), [key("e")]);
    assert_eq!(schedule.running(), 3);
}

#[test]
fn a_restarted_process_waits_for_the_rest_of_the_interval() {
    let (mut schedule, start) = (schedule(), Instant::now() + INTERVAL);
    schedule.bind(&key("apps"), "pg", INTERVAL, Some(Duration::from_secs(10)), start);
    assert_eq!(schedule.next_wakeup(start), Some(start + Duration::from_secs(20)));
}
