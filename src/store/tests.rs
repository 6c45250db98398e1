mod rollup;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::canonical;
use crate::export::Selection;
use crate::model::{Body, Digest, Gvk, ObjectKey, Uid};

fn team() -> Namespace {
    Namespace::new("team-a")
}

fn origin(target: &str, kind: &str) -> Origin {
    let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: kind.into() };
    Origin { target: ObjectKey::new(team(), Name::new(target)), gvk }
}

fn covering(namespaces: &[&str]) -> Coverage {
    Coverage::Namespaces(Arc::new(namespaces.iter().map(|name| Namespace::new(*name)).collect()))
}

/// A complete store with one target over the namespaces `a` and `b`.
fn store() -> (Store, Target) {
    let store = Store::default();
    let target = store.register(origin("deploys", "Deployment"));
    target.cover(&covering(&["a", "b"]));
    store.complete();
    (store, target)
}

fn put(target: &Target, uid: &str, namespace: &str, attributes: &str, mark: u32) -> bool {
    let body = Body::new(uid, attributes.as_bytes()).unwrap();
    target.apply(&Uid::new(uid), &Namespace::new(namespace), body, false, mark)
}

fn learn(target: &Target, namespace: &str, mark: u32) {
    target.sweep(|listed| listed.as_str() == namespace, mark);
}

fn uids(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.uid.to_string()).collect()
}

fn gone(keys: &[RowKey]) -> Vec<String> {
    keys.iter().map(|key| key.uid.to_string()).collect()
}

/// A reader that has compared and acknowledged everything.
fn caught_up(store: &Store) -> Reader {
    let reader = store.table(&team()).reader();
    reader.acknowledge(reader.plan().seq);
    reader
}

#[test]
fn nothing_is_planned_before_the_targets_are_registered_and_a_part_is_known() {
    let store = Store::default();
    let reader = store.table(&team()).reader();
    assert!(reader.plan().is_empty());
    let target = store.register(origin("deploys", "Deployment"));
    target.cover(&covering(&["a"]));
    store.complete();
    put(&target, "u1", "a", "{}", 1);
    assert!(reader.plan().is_empty());
    learn(&target, "a", 1);
    let compare = reader.plan().compare.unwrap();
    assert_eq!((uids(&compare.rows), compare.selection), (vec!["u1".to_owned()], Selection::All));
}

#[test]
fn a_namespace_without_targets_is_known_to_be_empty() {
    let store = Store::default();
    let reader = store.table(&team()).reader();
    store.complete();
    let compare = reader.plan().compare.unwrap();
    let leftover = RowKey { target: Name::new("gone"), uid: Uid::new("u9") };
    assert!(compare.rows.is_empty() && compare.knowledge.covers(&leftover, &Namespace::new("x")));
}

#[test]
fn a_walk_shows_each_row_of_its_target_once_in_steps_of_a_bounded_size() {
    let (store, target) = store();
    let other = store.register(origin("others", "Deployment"));
    other.cover(&covering(&["a"]));
    assert_eq!((target.changed(), target.is_whole()), (Some(Seq(0)), false));
    for index in 0..1_300 {
        put(&target, &format!("u{index}"), "a", "{}", 1);
    }
    put(&other, "u0", "a", "{}", 1);
    let steps: Vec<usize> = target.walk(Seq(0)).map(|step| step.len()).collect();
    assert_eq!((steps.iter().sum::<usize>(), steps.len()), (1_300, 3));

    // Only what changed since is shown, and a removal is a change that shows nothing.
    let before = target.changed().unwrap();
    put(&target, "u7", "a", r#"{"a":1}"#, 1);
    assert_eq!(target.walk(before).flatten().count(), 1);
    let before = target.changed().unwrap();
    target.remove(&Uid::new("u9"));
    assert!(target.changed().unwrap() > before && target.walk(before).flatten().count() == 0);
    let before = target.changed();
    put(&other, "u0", "a", r#"{"a":1}"#, 1);
    assert_eq!(target.changed(), before);

    for namespace in ["a", "b"] {
        learn(&target, namespace, 1);
    }
    assert!(target.is_whole());
    let mut walk = target.walk(Seq(0));
    assert_eq!(walk.next().map(|step| step.len()), Some(512));
    store.unregister(&team(), &Name::new("deploys"));
    assert!(walk.next().is_none() && target.changed().is_none() && !target.is_whole());
}

/// Grace of documents in these tests, and a time at which it is over.
const GRACE: Duration = Duration::from_mins(10);

fn later() -> Instant {
    Instant::now() + 2 * GRACE
}

#[test]
fn a_document_is_complete_or_says_what_it_lacks() {
    let (store, target) = store();
    put(&target, "u1", "a", "{}", 1);
    put(&target, "u2", "b", "{}", 1);
    let reader = store.table(&team()).reader();
    let part =
        |namespace: &str| crate::model::Part { target: Name::new("deploys"), namespace: Namespace::new(namespace) };
    let Whole::Awaited(all) = reader.whole(later(), GRACE) else { panic!("nothing is known") };
    assert_eq!((all.parts, all.until), (vec![part("a"), part("b")], None));
    learn(&target, "a", 1);
    let Whole::Awaited(awaited) = reader.whole(Instant::now(), GRACE) else { panic!("b is not known") };
    assert_eq!((awaited.parts, awaited.until), (vec![part("b")], Some(awaited.since + GRACE)));
    let Whole::Ready(lacking) = reader.whole(later(), GRACE) else { panic!("it waits for ever") };
    assert_eq!((uids(&lacking.rows), lacking.missing), (vec!["u1".to_owned()], vec![part("b")]));
    learn(&target, "b", 1);
    let Whole::Ready(whole) = reader.whole(Instant::now(), GRACE) else { panic!("everything is known") };
    assert_eq!((uids(&whole.rows), whole.missing), (vec!["u1".to_owned(), "u2".to_owned()], vec![]));
}

#[test]
fn a_document_is_asked_for_again_only_after_a_change_that_it_shows() {
    let (store, target) = store();
    learn(&target, "a", 1);
    let reader = store.table(&team()).reader();
    let acknowledge = |reader: &Reader| {
        let Whole::Ready(whole) = reader.whole(later(), GRACE) else { panic!("there is a change") };
        reader.acknowledge(whole.seq);
    };
    acknowledge(&reader);
    assert!(matches!(reader.whole(later(), GRACE), Whole::Nothing));
    // Of a part that was never known.
    put(&target, "u2", "b", "{}", 2);
    assert!(matches!(reader.whole(later(), GRACE), Whole::Nothing));
    put(&target, "u1", "a", "{}", 2);
    acknowledge(&reader);
    assert!(matches!(reader.whole(later(), GRACE), Whole::Nothing));
    learn(&target, "b", 2);
    acknowledge(&reader);
    target.remove(&Uid::new("u1"));
    acknowledge(&reader);
    store.unregister(&team(), &Name::new("deploys"));
    let Whole::Ready(empty) = reader.whole(later(), GRACE) else { panic!("its rows are gone") };
    assert!(empty.rows.is_empty());
}

#[test]
fn what_is_known_no_more_stays_in_a_document() {
    let (store, target) = store();
    put(&target, "u1", "a", "{}", 1);
    put(&target, "u2", "b", "{}", 1);
    target.sweep(|_| true, 1);
    target.forget(&Namespace::new("b"));
    let shown = || {
        let Whole::Ready(whole) = store.table(&team()).reader().whole(Instant::now(), GRACE) else { return Vec::new() };
        uids(&whole.rows)
    };
    assert_eq!(shown(), ["u1", "u2"]);
    // Neither does it go while nobody knows where the target collects.
    target.cover(&Coverage::Unresolved);
    assert_eq!(shown(), ["u1", "u2"]);
    target.cover(&covering(&["a"]));
    assert_eq!(shown(), ["u1"]);
}

#[test]
fn rows_of_unknown_parts_are_not_shown_and_not_deleted() {
    let (store, target) = store();
    put(&target, "u1", "a", "{}", 1);
    put(&target, "u2", "b", "{}", 1);
    learn(&target, "a", 1);
    let compare = store.table(&team()).reader().plan().compare.unwrap();
    assert_eq!(uids(&compare.rows), ["u1"]);
    let key = |uid: &str| RowKey { target: Name::new("deploys"), uid: Uid::new(uid) };
    assert!(compare.knowledge.covers(&key("u8"), &Namespace::new("a")));
    assert!(!compare.knowledge.covers(&key("u8"), &Namespace::new("b")));
    assert!(compare.knowledge.covers(&key("u8"), &Namespace::new("never-covered")));
}

#[test]
fn a_part_that_becomes_known_later_is_compared_by_itself() {
    let (store, target) = store();
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    put(&target, "u2", "b", "{}", 2);
    put(&target, "u1", "a", "{}", 2);
    learn(&target, "b", 2);
    let plan = reader.plan();
    let compare = plan.compare.unwrap();
    let part = crate::model::Part { target: Name::new("deploys"), namespace: Namespace::new("b") };
    assert_eq!(compare.selection, Selection::Parts(vec![part]));
    assert_eq!((uids(&compare.rows), uids(&plan.upserts)), (vec!["u2".to_owned()], vec!["u1".to_owned()]));
}

#[test]
fn each_changed_key_is_planned_once_in_its_newest_state() {
    let (store, target) = store();
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    put(&target, "u1", "a", r#"{"n":1}"#, 1);
    put(&target, "u1", "a", r#"{"n":2}"#, 1);
    put(&target, "u2", "a", "{}", 1);
    target.remove(&Uid::new("u2"));
    put(&target, "u3", "a", "{}", 1);
    target.remove(&Uid::new("u3"));
    put(&target, "u3", "a", r#"{"again":true}"#, 1);
    let plan = reader.plan();
    assert_eq!((uids(&plan.upserts), gone(&plan.deletes)), (vec!["u1".into(), "u3".into()], vec!["u2".to_owned()]));
    assert_eq!(plan.upserts[0].body.attributes(), br#"{"n":2}"#);
    reader.acknowledge(plan.seq);
    assert!(reader.plan().is_empty());
    assert_eq!(store.table(&team()).journal_length(), 0);
}

#[test]
fn an_equal_row_is_no_change() {
    let (store, target) = store();
    put(&target, "u1", "a", "{}", 1);
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    store.drain();
    assert!(!put(&target, "u1", "a", "{}", 2));
    assert!(reader.plan().is_empty() && store.drain().is_empty());
}

#[test]
fn a_sweep_removes_what_its_list_did_not_confirm() {
    let (store, target) = store();
    for uid in ["u1", "u2"] {
        put(&target, uid, "a", "{}", 1);
    }
    put(&target, "other", "b", "{}", 1);
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    put(&target, "u1", "a", "{}", 2);
    learn(&target, "a", 2);
    assert_eq!(gone(&reader.plan().deletes), ["u2"]);
    assert_eq!(store.rows(), 2);
}

#[test]
fn an_event_in_flight_is_not_written_where_the_target_no_longer_collects() {
    let (store, target) = store();
    put(&target, "u1", "b", "{}", 1);
    learn(&target, "b", 1);
    let reader = caught_up(&store);
    target.cover(&covering(&["a"]));
    assert!(!put(&target, "late", "b", "{}", 1));
    let plan = reader.plan();
    assert_eq!((gone(&plan.deletes), store.rows()), (vec!["u1".to_owned()], 0));
    assert!(plan.compare.is_some(), "what the sink has of the part that was left is compared");
}

#[test]
fn a_target_that_is_removed_takes_its_rows_along_and_one_that_is_unresolved_keeps_them() {
    let (store, target) = store();
    put(&target, "u1", "a", "{}", 1);
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    target.cover(&Coverage::Unresolved);
    let plan = reader.plan();
    assert!(plan.deletes.is_empty() && store.rows() == 1);
    store.unregister(&team(), &Name::new("deploys"));
    assert_eq!(store.rows(), 0);
    let compare = reader.plan().compare.unwrap();
    let held = RowKey { target: Name::new("deploys"), uid: Uid::new("u1") };
    assert!(compare.selection == Selection::All && compare.knowledge.covers(&held, &Namespace::new("a")));
    assert!(!put(&target, "late", "a", "{}", 1), "the handle is of a target that is gone");
    drop(reader);
    assert_eq!(store.bytes(), 0);
}

#[test]
fn a_target_of_another_kind_drops_the_rows_of_the_old_one() {
    let (store, target) = store();
    put(&target, "u1", "a", "{}", 1);
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    let replaced = store.register(origin("deploys", "StatefulSet"));
    replaced.cover(&covering(&["a"]));
    assert!(!put(&target, "u1", "a", "{}", 2));
    put(&replaced, "u1", "a", "{}", 2);
    learn(&replaced, "a", 2);
    let compare = reader.plan().compare.unwrap();
    assert_eq!(&*compare.rows[0].origin.gvk.kind, "StatefulSet");
}

#[test]
fn a_forgotten_part_keeps_its_rows_and_is_compared_when_it_is_known_again() {
    let (store, target) = store();
    put(&target, "u1", "a", "{}", 1);
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    target.forget(&Namespace::new("a"));
    put(&target, "u2", "a", "{}", 2);
    assert!(reader.plan().upserts.is_empty());
    reader.acknowledge(reader.plan().seq);
    learn(&target, "a", 2);
    let compare = reader.plan().compare.unwrap();
    assert_eq!(uids(&compare.rows), ["u2"], "u1 was not confirmed by the new list");
}

#[test]
fn a_reader_behind_a_cut_journal_compares_everything() {
    let (store, target) = store();
    learn(&target, "a", 1);
    let reader = caught_up(&store);
    let brisk = caught_up(&store);
    for index in 0..10_000 {
        let uid = index.to_string();
        put(&target, &uid, "a", "{}", 1);
        target.remove(&Uid::new(&uid));
        if index % 1000 == 0 {
            brisk.acknowledge(brisk.plan().seq);
        }
    }
    assert!(store.table(&team()).journal_length() <= 4096);
    assert_eq!(reader.plan().compare.unwrap().selection, Selection::All);
    drop(reader);
    assert!(brisk.plan().compare.is_none());
}

#[test]
fn failures_are_counted_until_the_object_is_well_gone_or_not_seen_again() {
    let (store, target) = store();
    let counts = || store.table(&team()).target_counts(&Name::new("deploys"));
    put(&target, "u1", "a", "{}", 1);
    for uid in ["u1", "u2", "u3"] {
        target.fail(&Uid::new(uid), &Namespace::new("a"), "attribute \"image\": no such key", 1);
    }
    assert_eq!((counts().failing, counts().rows), (3, 0));
    put(&target, "u1", "a", "{}", 2);
    target.remove(&Uid::new("u2"));
    assert_eq!(counts().failing, 1);
    learn(&target, "a", 2);
    assert_eq!((counts().failing, counts().last_failure), (0, None));
}

/// A store with room for that many rows as [`put`] makes them, with one target over `a` and `b`.
fn small(rows: usize) -> (Store, Target) {
    let row = size::row(&Uid::new("u1"), &Body::new("u1", b"{}").unwrap());
    let store = Store::new(Some((rows * row) as u64));
    let target = store.register(origin("deploys", "Deployment"));
    target.cover(&covering(&["a", "b"]));
    store.complete();
    (store, target)
}

#[test]
fn a_row_beyond_the_budget_makes_its_part_unknown_and_removes_nothing() {
    let (store, target) = small(2);
    let counts = || store.table(&team()).target_counts(&Name::new("deploys"));
    let mark = store.next_mark();
    assert!(put(&target, "u1", "a", "{}", mark) && put(&target, "u2", "b", "{}", mark));
    target.sweep(|_| true, mark);
    assert!(counts().whole);
    assert!(!put(&target, "u3", "b", "{}", mark));
    assert_eq!((counts().rows, counts().whole, counts().over_budget), (2, false, vec![Namespace::new("b")]));
    let knowledge = store.table(&team()).knowledge();
    let key = |uid: &str| RowKey { target: Name::new("deploys"), uid: Uid::new(uid) };
    assert!(knowledge.covers(&key("u9"), &Namespace::new("a")));
    assert!(!knowledge.covers(&key("u3"), &Namespace::new("b")), "the sink keeps what it has");
    assert_eq!(store.bytes(), store.budget().unwrap());
}

#[test]
fn what_the_journal_takes_for_a_row_has_to_fit_as_well() {
    let (store, target) = small(2);
    let _reader = caught_up(&store);
    let mark = store.next_mark();
    assert!(put(&target, "u1", "a", "{}", mark) && !put(&target, "u2", "a", "{}", mark));
    assert!(store.bytes() <= store.budget().unwrap());
}

#[test]
fn a_row_that_cannot_grow_stays_as_it_was_and_is_not_swept() {
    let (store, target) = small(1);
    let mark = store.next_mark();
    put(&target, "u1", "a", "{}", mark);
    target.sweep(|_| true, mark);
    let again = store.next_mark();
    assert!(!put(&target, "u1", "a", r#"{"grown":1}"#, again));
    target.sweep(|_| true, again);
    let rows = store.table(&team()).rows();
    assert_eq!((uids(&rows), rows[0].body.attributes()), (vec!["u1".to_owned()], &b"{}"[..]));
    assert!(put(&target, "u1", "a", "[]", again), "a change that takes no more room is made");
}

#[test]
fn a_refused_part_is_known_again_once_a_list_that_began_later_fits() {
    let (store, target) = small(2);
    let counts = || store.table(&team()).target_counts(&Name::new("deploys"));
    let refusing = store.next_mark();
    put(&target, "u1", "a", "{}", refusing);
    put(&target, "u2", "b", "{}", refusing);
    let beside = store.next_mark();
    put(&target, "u3", "b", "{}", refusing);
    for mark in [refusing, beside] {
        put(&target, "u1", "a", "{}", mark);
        put(&target, "u2", "b", "{}", mark);
        target.sweep(|_| true, mark);
        assert_eq!((counts().over_budget, counts().unknown), (vec![Namespace::new("b")], vec![Namespace::new("b")]));
    }
    target.remove(&Uid::new("u2"));
    let later = store.next_mark();
    put(&target, "u1", "a", "{}", later);
    put(&target, "u3", "b", "{}", later);
    target.sweep(|_| true, later);
    assert!(counts().whole && counts().over_budget.is_empty());
}

#[test]
fn what_the_store_counts_is_what_rows_and_journal_take() {
    let (store, target) = store();
    let row = |attributes: &str| size::row(&Uid::new("u1"), &Body::new("u1", attributes.as_bytes()).unwrap());
    learn(&target, "a", 1);
    put(&target, "u1", "a", "{}", 1);
    assert_eq!(store.bytes(), row("{}"));
    let reader = caught_up(&store);
    put(&target, "u1", "a", r#"{"more":true}"#, 1);
    assert_eq!(store.bytes(), row(r#"{"more":true}"#) + size::CHANGE);
    target.remove(&Uid::new("u1"));
    assert_eq!(store.bytes(), size::CHANGE + size::TOMBSTONE);
    reader.acknowledge(reader.plan().seq);
    assert_eq!(store.bytes(), 0);
}

/// One step of the model test.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, bool, u8),
    Remove(u8),
    List(bool, Vec<(u8, u8)>),
    Deliver,
    Fail,
    Forget(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, any::<bool>(), 0..3u8).prop_map(|(uid, place, value)| Step::Put(uid, place, value)),
        2 => (0..6u8).prop_map(Step::Remove),
        2 => (any::<bool>(), prop::collection::vec((0..6u8, 0..3u8), 0..4)).prop_map(|(place, rows)| Step::List(place, rows)),
        3 => Just(Step::Deliver),
        1 => Just(Step::Fail),
        1 => any::<bool>().prop_map(Step::Forget),
    ]
}

proptest! {
    /// A sink that follows the plans has, after each delivery, the store's rows of all known parts; and the digest is
    /// that of the rows, however they came about.
    #[test]
    fn a_sink_that_follows_the_plans_has_the_known_rows(steps in prop::collection::vec(step(), 1..60)) {
        let (store, target) = store();
        let place = |second: bool| if second { "b" } else { "a" };
        let table = store.table(&team());
        let reader = table.reader();
        // What the sink holds: uid → (namespace, attributes). It starts with leftovers of an earlier life.
        let mut sink: std::collections::BTreeMap<String, (String, Vec<u8>)> = std::collections::BTreeMap::new();
        for uid in ["uid-0", "uid-9"] {
            sink.insert(uid.to_owned(), ("a".to_owned(), b"old".to_vec()));
        }
        let mut known: BTreeSet<&str> = BTreeSet::new();
        let mut mark = 1;
        for step in steps {
            match step {
                Step::Put(uid, second, value) => {
                    // An object does not move between namespaces.
                    let (uid, second) = (uid + u8::from(second) * 16, second);
                    put(&target, &format!("uid-{uid}"), place(second), &format!("{{\"v\":{value}}}"), mark);
                }
                Step::Remove(uid) => {
                    target.remove(&Uid::new(&format!("uid-{uid}")));
                }
                Step::List(second, rows) => {
                    mark += 1;
                    for (uid, value) in rows {
                        let uid = uid + u8::from(second) * 16;
                        put(&target, &format!("uid-{uid}"), place(second), &format!("{{\"v\":{value}}}"), mark);
                    }
                    learn(&target, place(second), mark);
                    known.insert(place(second));
                }
                Step::Forget(second) => {
                    target.forget(&Namespace::new(place(second)));
                    known.remove(place(second));
                }
                Step::Fail => {
                    reader.plan();
                }
                Step::Deliver => {
                    let plan = reader.plan();
                    if plan.is_empty() { continue; }
                    if let Some(compare) = plan.compare {
                        let selected = |namespace: &str| match &compare.selection {
                            Selection::All => true,
                            Selection::Parts(parts) => parts.iter().any(|part| part.namespace.as_str() == namespace),
                        };
                        sink.retain(|uid, (namespace, _)| {
                            let key = RowKey { target: Name::new("deploys"), uid: Uid::new(uid) };
                            !selected(namespace) || !compare.knowledge.covers(&key, &Namespace::new(namespace.as_str()))
                        });
                        for row in compare.rows {
                            let there = (row.namespace.to_string(), row.body.attributes().to_vec());
                            sink.insert(row.uid.to_string(), there);
                        }
                    }
                    for key in plan.deletes { sink.remove(&key.uid.to_string()); }
                    for row in plan.upserts {
                        sink.insert(row.uid.to_string(), (row.namespace.to_string(), row.body.attributes().to_vec()));
                    }
                    reader.acknowledge(plan.seq);

                    let whole = table.reader();
                    let rows = whole.plan().compare.map(|compare| compare.rows).unwrap_or_default();
                    let want: Vec<_> = rows.iter()
                        .map(|row| (row.uid.to_string(), (row.namespace.to_string(), row.body.attributes().to_vec())))
                        .collect();
                    let mut have: Vec<_> = sink.iter()
                        .filter(|(_, (namespace, _))| known.contains(namespace.as_str()))
                        .map(|(uid, there)| (uid.clone(), there.clone()))
                        .collect();
                    have.sort();
                    let mut want = want;
                    want.sort();
                    prop_assert_eq!(have, want);
                }
            }
            let mut digest = Digest::default();
            for row in table.rows() {
                digest.add(canonical::row_hash(&row).0);
            }
            prop_assert_eq!(table.counts().digest, digest);
        }
    }
}
