use super::*;

const INTERVAL: Duration = Duration::from_secs(30);
const AUDIT: Duration = Duration::from_hours(1);

type Key = &'static str;

fn schedule() -> Schedule<Key> {
    Schedule::new(Limits { total: 8, per_destination: 2, audit_interval: None }, 1)
}

fn own(destination: &str) -> Route<'_> {
    Route { destination, lane: Lane::Own }
}

/// Starts what is due and returns the jobs that deliver.
fn start(schedule: &mut Schedule<Key>, now: Instant) -> Vec<Key> {
    let started = schedule.start_due(now).into_iter();
    started
        .filter_map(|start| match start {
            Start::Run(key, Purpose::Deliver) => Some(key),
            _ => None,
        })
        .collect()
}

/// Binds one and runs its first delivery to the end.
fn delivered(schedule: &mut Schedule<Key>, key: Key, now: Instant) -> Key {
    schedule.bind(&key, own("pg"), INTERVAL, None, now);
    assert_eq!(start(schedule, now + GATHER), [key]);
    schedule.finished(&key, Outcome::Written, now + GATHER);
    key
}

#[test]
fn the_first_change_after_a_quiet_interval_is_delivered_after_a_gather() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", begin);
    let quiet = begin + 2 * INTERVAL;
    schedule.changed(&key, quiet);
    assert_eq!(schedule.next_wakeup(quiet), Some(quiet + GATHER));
    assert!(start(&mut schedule, quiet + GATHER / 2).is_empty());
    assert_eq!(start(&mut schedule, quiet + GATHER), [key]);
}

#[test]
fn a_change_within_the_interval_waits_for_its_end() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", begin);
    let soon = begin + Duration::from_secs(5);
    schedule.changed(&key, soon);
    schedule.changed(&key, soon + Duration::from_secs(10));
    let due = begin + GATHER + INTERVAL;
    assert_eq!(schedule.next_wakeup(soon), Some(due));
    assert_eq!(schedule.behind_since(&key), Some(soon));
    assert_eq!(start(&mut schedule, due), [key]);
}

#[test]
fn a_newly_known_part_and_an_edit_do_not_wait_for_the_interval() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", begin);
    let soon = begin + Duration::from_secs(1);
    schedule.learned(&key, soon);
    assert_eq!(start(&mut schedule, soon + GATHER), [key]);
    schedule.finished(&key, Outcome::Written, soon + GATHER);
    let later = soon + Duration::from_secs(1);
    schedule.bind(&key, own("pg"), INTERVAL, None, later);
    assert_eq!(start(&mut schedule, later + GATHER), [key]);
}

#[test]
fn a_delivery_without_a_write_does_not_start_the_interval() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", begin);
    let quiet = begin + 2 * INTERVAL;
    schedule.changed(&key, quiet);
    start(&mut schedule, quiet + GATHER);
    schedule.finished(&key, Outcome::Unchanged, quiet + GATHER);
    let next = quiet + Duration::from_secs(1);
    schedule.changed(&key, next);
    assert_eq!(schedule.next_wakeup(next), Some(next + GATHER));
}

#[test]
fn at_most_one_delivery_is_in_flight_and_what_comes_meanwhile_runs_after_it() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = "apps";
    schedule.bind(&key, own("pg"), Duration::ZERO, None, begin);
    assert_eq!(start(&mut schedule, begin + GATHER), [key]);
    schedule.changed(&key, begin + GATHER);
    assert!(start(&mut schedule, begin + 10 * GATHER).is_empty());
    schedule.finished(&key, Outcome::Written, begin + 10 * GATHER);
    assert_eq!(start(&mut schedule, begin + 11 * GATHER), [key]);
}

#[test]
fn a_transient_failure_is_tried_again_with_backoff_and_new_rows_do_not_hurry_it() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = "apps";
    schedule.bind(&key, own("pg"), INTERVAL, None, begin);
    let mut now = begin + GATHER;
    for ceiling in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(start(&mut schedule, now), [key]);
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
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = "apps";
    schedule.bind(&key, own("pg"), INTERVAL, None, begin);
    start(&mut schedule, begin + GATHER);
    let failed = begin + GATHER;
    schedule.finished(&key, Outcome::Failed(Class::Terminal), failed);
    assert_eq!(schedule.next_wakeup(failed), Some(failed + REPROBE));
    schedule.bind(&key, own("pg"), INTERVAL, None, failed + GATHER);
    assert_eq!(start(&mut schedule, failed + 2 * GATHER), [key]);
}

#[test]
fn an_edit_during_a_failing_delivery_is_tried_at_once() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = "apps";
    schedule.bind(&key, own("pg"), INTERVAL, None, begin);
    start(&mut schedule, begin + GATHER);
    schedule.bind(&key, own("pg"), INTERVAL, None, begin + GATHER);
    schedule.finished(&key, Outcome::Failed(Class::Terminal), begin + GATHER);
    assert_eq!(start(&mut schedule, begin + 2 * GATHER), [key]);
}

#[test]
fn limits_hold_per_destination_and_in_total_and_nobody_starves() {
    let limits = Limits { total: 3, per_destination: 2, audit_interval: None };
    let (mut schedule, begin) = (Schedule::new(limits, 1), Instant::now());
    for key in ["a", "b", "c"] {
        schedule.bind(&key, own("one"), INTERVAL, None, begin);
    }
    for key in ["d", "e"] {
        schedule.bind(&key, own("two"), INTERVAL, None, begin);
    }
    let now = begin + GATHER;
    assert_eq!(start(&mut schedule, now), ["a", "b", "d"]);
    assert!(start(&mut schedule, now).is_empty());
    schedule.finished(&"a", Outcome::Written, now);
    assert_eq!(start(&mut schedule, now), ["c"]);
    schedule.unbind(&"d");
    assert_eq!(start(&mut schedule, now), ["e"]);
    assert_eq!(schedule.running(), 3);
}

#[test]
fn a_restarted_process_looks_at_once_and_writes_when_the_interval_of_the_earlier_one_is_over() {
    let (mut schedule, begin) = (schedule(), Instant::now() + INTERVAL);
    let (key, end) = ("apps", begin + Duration::from_secs(20));
    schedule.bind(&key, own("pg"), INTERVAL, Some(Duration::from_secs(10)), begin);
    // Each part that becomes known is looked at; none of them is a reason to write.
    for seconds in 1..4 {
        let now = begin + Duration::from_secs(seconds);
        schedule.learned(&key, now);
        assert_eq!(start(&mut schedule, now + GATHER), [key]);
        assert_eq!(schedule.held_until(&key, now + GATHER), Some(end));
        schedule.finished(&key, Outcome::Held(end), now + GATHER);
        assert_eq!(schedule.behind_since(&key), Some(begin));
    }
    assert_eq!(schedule.next_wakeup(begin + GATHER), Some(end));
    assert_eq!((start(&mut schedule, end), schedule.held_until(&key, end)), (vec![key], None));
    schedule.finished(&key, Outcome::Written, end);
    // From then on as ever.
    schedule.learned(&key, end + GATHER);
    assert_eq!(start(&mut schedule, end + 2 * GATHER), [key]);
    assert_eq!(schedule.held_until(&key, end + 2 * GATHER), None);
}

#[test]
fn an_edit_ends_what_an_earlier_process_began_and_so_does_a_comparison_of_everything() {
    for edited in [true, false] {
        let (mut schedule, begin) = (schedule(), Instant::now() + INTERVAL);
        let key = "apps";
        schedule.bind(&key, own("pg"), INTERVAL, Some(Duration::from_secs(10)), begin);
        schedule.learned(&key, begin);
        start(&mut schedule, begin + GATHER);
        schedule.finished(&key, Outcome::Unchanged, begin + GATHER);
        assert!(schedule.held_until(&key, begin + GATHER).is_some(), "not everything was known");
        if edited {
            schedule.hurry(&key, begin + GATHER);
        } else {
            schedule.settled(&key);
            schedule.learned(&key, begin + GATHER);
        }
        assert_eq!(start(&mut schedule, begin + 2 * GATHER), [key]);
        assert_eq!(schedule.held_until(&key, begin + 2 * GATHER), None);
    }
}

#[test]
fn a_clock_that_was_set_back_or_forward_delays_the_first_write_by_one_interval_at_most() {
    let begin = Instant::now();
    // What wall clocks make of the last write of an earlier process: just now, long ago, or beyond all reason.
    let century = Duration::from_hours(100 * 365 * 24);
    for idle_for in [Duration::ZERO, GATHER, INTERVAL, century, Duration::MAX] {
        let mut schedule = schedule();
        schedule.bind(&"apps", own("pg"), INTERVAL, Some(idle_for), begin);
        assert_eq!(start(&mut schedule, begin + GATHER), ["apps"]);
        let held = schedule.held_until(&"apps", begin + GATHER);
        assert!(held.is_none_or(|until| until <= begin + INTERVAL), "{idle_for:?}");
    }
}

#[test]
fn a_destination_that_does_not_answer_blocks_its_own_jobs_only_and_releases_them_together() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    for key in ["a", "b", "c"] {
        schedule.bind(&key, own("down"), INTERVAL, None, begin);
    }
    let mut now = begin + GATHER;
    while !schedule.blocked(&"a") {
        for key in start(&mut schedule, now) {
            schedule.finished(&key, Outcome::Silent, now);
        }
        now = schedule.next_wakeup(now).unwrap_or(now);
    }
    schedule.bind(&"d", own("up"), INTERVAL, None, now);
    let mut probes = 0;
    for _ in 0..12 {
        let due = schedule.next_wakeup(now).unwrap_or(now);
        assert!(due - now <= breaker::PROBE_CAP);
        now = due;
        for started in schedule.start_due(now) {
            match started {
                Start::Probe(destination) => {
                    assert_eq!(destination, "down");
                    probes += 1;
                    schedule.probed("down", false, now);
                }
                Start::Run(key, _) => {
                    assert_eq!(key, "d");
                    schedule.finished(&key, Outcome::Written, now);
                }
            }
        }
    }
    assert!(probes >= 3);
    now = schedule.next_wakeup(now).unwrap_or(now);
    assert_eq!(schedule.start_due(now), [Start::Probe("down".to_owned())]);
    schedule.probed("down", true, now);
    let mut released = Vec::new();
    let end = now + RELEASE;
    while now <= end {
        for key in start(&mut schedule, now) {
            schedule.finished(&key, Outcome::Written, now);
            released.push(key);
        }
        now += GATHER;
    }
    released.sort_unstable();
    assert_eq!(released, ["a", "b", "c"]);
}

#[test]
fn a_terminal_failure_is_an_answer_and_blocks_nobody() {
    let (mut schedule, mut now) = (schedule(), Instant::now());
    schedule.bind(&"good", own("pg"), Duration::ZERO, None, now);
    schedule.bind(&"bad", own("pg"), Duration::ZERO, None, now);
    for _ in 0..2 * breaker::THRESHOLD {
        now += GATHER;
        for key in start(&mut schedule, now) {
            let outcome = if key == "bad" { Outcome::Failed(Class::Terminal) } else { Outcome::Written };
            schedule.finished(&key, outcome, now);
        }
        schedule.hurry(&"bad", now);
        schedule.changed(&"good", now);
    }
    assert!(!schedule.blocked(&"good"));
}

#[test]
fn audits_come_once_in_their_interval_spread_over_it_and_leave_a_waiting_change_alone() {
    let limits = Limits { total: 8, per_destination: 8, audit_interval: Some(AUDIT) };
    let (mut schedule, begin) = (Schedule::new(limits, 1), Instant::now());
    let keys = ["a", "b", "c", "d"];
    for key in keys {
        schedule.bind(&key, own("pg"), 2 * AUDIT, None, begin);
        assert_eq!(schedule.start_due(begin + GATHER), [Start::Run(key, Purpose::Deliver)]);
        schedule.finished(&key, Outcome::Written, begin + GATHER);
        schedule.changed(&key, begin + 2 * GATHER);
    }
    let mut audits = BTreeMap::new();
    let mut now = begin + GATHER;
    while let Some(due) = schedule.next_wakeup(now).filter(|due| *due < begin + 2 * AUDIT) {
        now = due;
        for started in schedule.start_due(now) {
            let Start::Run(key, Purpose::Audit) = started else { panic!("{started:?}") };
            audits.entry(key).or_insert_with(Vec::new).push(now);
            schedule.finished(&key, Outcome::Intact, now);
            assert_eq!(schedule.phase(&key), Some(Phase::Waiting(begin + GATHER + 2 * AUDIT)));
        }
    }
    assert_eq!(audits.keys().copied().collect::<Vec<_>>(), keys);
    assert!(audits.values().all(|times| times.len() == 2 && times[1] - times[0] == AUDIT));
    let firsts: std::collections::BTreeSet<Instant> = audits.values().map(|times| times[0]).collect();
    assert_eq!(firsts.len(), keys.len());
}

#[test]
fn an_audit_that_is_asked_for_starts_at_once_and_one_that_repairs_counts_as_a_write() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", begin);
    let later = begin + 2 * INTERVAL;
    schedule.audit_by(&key, later);
    assert_eq!(schedule.start_due(later), [Start::Run(key, Purpose::Audit)]);
    schedule.finished(&key, Outcome::Written, later);
    schedule.changed(&key, later);
    assert_eq!(schedule.next_wakeup(later), Some(later + INTERVAL));
}

#[test]
fn a_write_whose_answer_was_lost_starts_the_interval_when_it_is_found() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", begin);
    let later = begin + 2 * INTERVAL;
    schedule.changed(&key, later);
    start(&mut schedule, later + GATHER);
    schedule.finished(&key, Outcome::Silent, later + GATHER);
    let retry = schedule.next_wakeup(later + GATHER).unwrap_or(later + GATHER);
    assert_eq!(start(&mut schedule, retry), [key]);
    schedule.finished(&key, Outcome::Unchanged, retry);
    schedule.changed(&key, retry);
    assert_eq!(schedule.next_wakeup(retry), Some(retry + INTERVAL));
}

#[test]
fn joined_jobs_that_are_due_at_once_are_all_in_flight_and_take_no_place_of_others() {
    let limits = Limits { total: 3, per_destination: 2, audit_interval: None };
    let (mut schedule, begin) = (Schedule::new(limits, 1), Instant::now());
    let git = Route { destination: "git", lane: Lane::Joined };
    let joined: Vec<String> = (0..300).map(|number| format!("git-{number:03}")).collect();
    for key in &joined {
        schedule.bind(key, git, INTERVAL, None, begin);
    }
    let own = ["x", "y", "z"].map(str::to_owned);
    for key in &own {
        schedule.bind(key, Route { destination: "pg", lane: Lane::Own }, INTERVAL, None, begin);
    }
    let now = begin + GATHER;
    let started = |schedule: &mut Schedule<String>| {
        let runs = schedule.start_due(now).into_iter();
        runs.filter_map(|start| if let Start::Run(key, _) = start { Some(key) } else { None }).collect::<Vec<_>>()
    };
    let first = started(&mut schedule);
    assert_eq!(first.iter().filter(|key| key.starts_with("git")).count(), JOINED);
    assert_eq!(first.iter().filter(|key| !key.starts_with("git")).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(schedule.running(), JOINED + 2);
    // A place that is given back is taken by one that waits for such a place.
    schedule.finished(&own[0], Outcome::Written, now);
    assert_eq!(started(&mut schedule), ["z"]);
    schedule.finished(&joined[0], Outcome::Written, now);
    schedule.unbind(&joined[1]);
    assert_eq!(started(&mut schedule), [joined[JOINED].clone(), joined[JOINED + 1].clone()]);
    // One that moves to a lane of its own counts there.
    schedule.bind(&joined[2], Route { destination: "git", lane: Lane::Own }, INTERVAL, None, now);
    assert_eq!(started(&mut schedule), [joined[JOINED + 2].clone()]);
    assert_eq!(schedule.running(), JOINED + 3);
}

#[test]
fn a_postponed_job_stays_behind_and_looks_again_with_the_next_change() {
    let (mut schedule, begin) = (schedule(), Instant::now());
    let key = delivered(&mut schedule, "apps", begin);
    let changed = begin + 2 * INTERVAL;
    schedule.changed(&key, changed);
    assert_eq!(start(&mut schedule, changed + GATHER), [key]);
    let until = changed + Duration::from_mins(10);
    schedule.finished(&key, Outcome::Postponed(until), changed + GATHER);
    assert_eq!((schedule.phase(&key), schedule.behind_since(&key)), (Some(Phase::Waiting(until)), Some(changed)));
    let later = changed + INTERVAL;
    schedule.learned(&key, later);
    assert_eq!(start(&mut schedule, later + GATHER), [key]);
    schedule.finished(&key, Outcome::Postponed(until), later + GATHER);
    assert_eq!(start(&mut schedule, until), [key]);
    schedule.finished(&key, Outcome::Written, until);
    assert_eq!(schedule.behind_since(&key), None);
}
