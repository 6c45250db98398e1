//! What a reader over many tables is shown, against an evaluation from scratch.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::Part;

const SPACES: [&str; 3] = ["a", "b", HOME];
/// Two that collect one kind, one that collects what lives in no namespace, and one that is not selected.
const TARGETS: [&str; 4] = ["deploys", "more", "nodes", "others"];

fn register(store: &Store, space: &str, target: &str) -> Target {
    let (kind, coverage) = match target {
        "nodes" => ("Node", Coverage::Cluster),
        _ => ("Deployment", covering(&[space])),
    };
    let origin = Origin { target: ObjectKey::new(Namespace::new(space), Name::new(target)), ..origin(target, kind) };
    let target = store.register(origin);
    target.cover(&coverage);
    target
}

fn view(spaces: &[&str], each: Each) -> View {
    let namespaces = Arc::new(spaces.iter().map(|space| Namespace::new(*space)).collect());
    let targets = TARGETS[..3].iter().map(|target| Name::new(*target)).collect();
    View::RollUp(RollUp { namespaces, pick: Arc::new(Pick { targets, each }) })
}

/// A complete store with `deploys` and `more` in the namespaces `a` and `b`, all of which is known to be empty.
fn teams(each: Each) -> (Store, BTreeMap<(&'static str, &'static str), Target>, Reader) {
    let store = Store::default();
    let places = ["a", "b"].into_iter().flat_map(|space| ["deploys", "more"].map(|target| (space, target)));
    let targets: BTreeMap<_, _> =
        places.map(|(space, target)| ((space, target), register(&store, space, target))).collect();
    store.complete();
    for target in targets.values() {
        target.sweep(|_| true, 1);
    }
    let reader = store.reader(&view(&["a", "b"], each));
    reader.acknowledge(reader.plan().seq);
    (store, targets, reader)
}

fn keys(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| format!("{}/{}/{}", row.origin.target.name, row.namespace, row.uid)).collect()
}

fn gone_keys(keys: &[RowKey]) -> Vec<String> {
    keys.iter().map(|key| format!("{}/{}", key.target, key.uid)).collect()
}

#[test]
fn one_change_is_one_row_and_other_targets_are_none_of_it() {
    let (store, targets, reader) = teams(Each::Row);
    let others = register(&store, "a", "others");
    put(&others, "u9", "a", "{}", 1);
    assert!(reader.plan().is_empty());
    put(&targets[&("a", "deploys")], "u1", "a", "{}", 1);
    put(&targets[&("b", "more")], "u2", "b", "{}", 1);
    let plan = reader.plan();
    assert!(plan.compare.is_none());
    assert_eq!(keys(&plan.upserts), ["deploys/a/u1", "more/b/u2"]);
    assert_eq!((plan.counts.rows, store.rows()), (2, 3));
    reader.acknowledge(plan.seq);
    assert!(reader.plan().is_empty());
    let journals = ["a", "b"].map(|space| store.table(&Namespace::new(space)).journal_length());
    assert_eq!(journals, [0, 0]);
}

#[test]
fn the_last_target_by_name_shows_an_object_and_what_is_in_its_shadow_is_no_change() {
    let (_, targets, reader) = teams(Each::Object);
    let (first, last) = (&targets[&("a", "deploys")], &targets[&("a", "more")]);
    let deliver = || {
        let plan = reader.plan();
        reader.acknowledge(plan.seq);
        (keys(&plan.upserts), gone_keys(&plan.deletes), plan.counts.rows)
    };
    put(first, "u1", "a", "{}", 1);
    assert_eq!(deliver(), (vec!["deploys/a/u1".to_owned()], vec![], 1));
    put(last, "u1", "a", "{}", 1);
    assert_eq!(deliver(), (vec!["more/a/u1".to_owned()], vec!["deploys/u1".to_owned()], 1));
    put(first, "u1", "a", r#"{"n":1}"#, 1);
    assert!(reader.plan().is_empty(), "it is in the shadow");
    assert_eq!(deliver(), (vec![], vec![], 1));
    last.remove(&Uid::new("u1"));
    assert_eq!(deliver(), (vec!["deploys/a/u1".to_owned()], vec!["more/u1".to_owned()], 1));
    first.remove(&Uid::new("u1"));
    assert_eq!(deliver(), (vec![], vec!["deploys/u1".to_owned()], 0));
}

#[test]
fn a_row_is_not_taken_for_the_only_one_before_those_that_could_shadow_it_are_known() {
    let (store, targets, reader) = teams(Each::Object);
    let home = Namespace::new("a");
    put(&targets[&("a", "more")], "u1", "a", "{}", 1);
    reader.acknowledge(reader.plan().seq);
    targets[&("a", "more")].forget(&home);
    put(&targets[&("a", "deploys")], "u2", "a", "{}", 1);
    let plan = reader.plan();
    assert!(plan.is_empty(), "{plan:?}");
    reader.acknowledge(plan.seq);
    put(&targets[&("a", "more")], "u1", "a", "{}", 2);
    targets[&("a", "more")].sweep(|_| true, 2);
    let compare = reader.plan().compare.unwrap();
    let parts = ["deploys", "more"].map(|target| Part { target: Name::new(target), namespace: home.clone() });
    assert_eq!(compare.selection, Selection::Parts(parts.into()));
    assert_eq!(keys(&compare.rows), ["deploys/a/u2", "more/a/u1"]);
    drop(store);
}

#[test]
fn a_namespace_that_comes_or_goes_is_compared_and_no_other() {
    let (store, targets, reader) = teams(Each::Row);
    for space in ["a", "b"] {
        put(&targets[&(space, "deploys")], &format!("u-{space}"), space, "{}", 1);
    }
    let plan = reader.plan();
    reader.acknowledge(plan.seq);
    let before = plan.seq;

    let reader = reader.turn(&store, &view(&["a"], Each::Row));
    let plan = reader.plan();
    let compare = plan.compare.unwrap();
    let Selection::Parts(parts) = &compare.selection else { panic!("{:?}", compare.selection) };
    assert!(parts.iter().all(|part| part.namespace.as_str() == "b") && compare.rows.is_empty());
    let held = RowKey { target: Name::new("deploys"), uid: Uid::new("u-b") };
    assert!(compare.knowledge.covers(&held, &Namespace::new("b")), "it was left out on purpose");
    assert!(plan.seq >= before && plan.counts.rows == 1);
    reader.acknowledge(plan.seq);
    assert!(reader.plan().is_empty());
    put(&targets[&("b", "deploys")], "u-late", "b", "{}", 1);
    assert!(reader.plan().is_empty(), "nobody reads that table any more");

    let reader = reader.turn(&store, &view(&["a", "b"], Each::Row));
    let plan = reader.plan();
    assert_eq!(keys(&plan.compare.unwrap().rows), ["deploys/b/u-b", "deploys/b/u-late"]);
    let other = reader.turn(&store, &view(&["a", "b"], Each::Object));
    assert_eq!(other.plan().compare.unwrap().selection, Selection::All, "another selection");
}

#[test]
fn a_document_waits_for_the_parts_of_all_namespaces() {
    let (store, targets, _) = teams(Each::Row);
    put(&targets[&("a", "deploys")], "u1", "a", "{}", 1);
    let late = register(&store, "b", "nodes");
    let reader = store.reader(&view(&["a", "b"], Each::Row));
    let Whole::Awaited(awaited) = reader.whole(Instant::now(), GRACE) else { panic!("nodes are not known") };
    assert_eq!(awaited.parts, [Part { target: Name::new("nodes"), namespace: Namespace::new("") }]);
    late.sweep(|_| true, 2);
    let Whole::Ready(whole) = reader.whole(Instant::now(), GRACE) else { panic!("everything is known") };
    assert_eq!((keys(&whole.rows), whole.counts.rows), (vec!["deploys/a/u1".to_owned()], 1));
    reader.acknowledge(whole.seq);
    assert!(matches!(reader.whole(Instant::now(), GRACE), Whole::Nothing));
    let reader = reader.turn(&store, &view(&["b"], Each::Row));
    let Whole::Ready(rest) = reader.whole(Instant::now(), GRACE) else { panic!("a namespace left") };
    assert!(rest.rows.is_empty());
}

#[test]
fn an_account_lasts_as_long_as_somebody_reads_it() {
    let (store, targets, reader) = teams(Each::Row);
    put(&targets[&("a", "deploys")], "u1", "a", "{}", 1);
    let shard = |reader: &Reader| {
        reader
            .shards()
            .into_iter()
            .map(|shard| (shard.namespace.to_string(), shard.rows, shard.targets))
            .collect::<Vec<_>>()
    };
    let second = store.reader(&view(&["a", "b"], Each::Row));
    drop(reader);
    put(&targets[&("a", "more")], "u1", "a", "{}", 1);
    assert_eq!(shard(&second), [("a".to_owned(), 2, 2)]);
    let one_each = store.reader(&view(&["a", "b"], Each::Object));
    assert_eq!(shard(&one_each), [("a".to_owned(), 1, 1)]);
    drop((second, one_each));
    assert_eq!(store.table(&Namespace::new("a")).accounts(), 0);
}

/// One step of the model test.
#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize, u8, u8),
    Remove(usize, usize, u8),
    List(usize, usize, Vec<(u8, u8)>),
    Forget(usize, usize),
    Unregister(usize, usize),
    Register(usize, usize),
    Turn(u8),
    Deliver,
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SPACES.len(), 0..TARGETS.len());
    prop_oneof![
        6 => (place(), 0..3u8, 0..3u8).prop_map(|((space, target), uid, value)| Step::Put(space, target, uid, value)),
        2 => (place(), 0..3u8).prop_map(|((space, target), uid)| Step::Remove(space, target, uid)),
        5 => (place(), prop::collection::vec((0..3u8, 0..3u8), 0..4)).prop_map(|((space, target), rows)| Step::List(space, target, rows)),
        1 => place().prop_map(|(space, target)| Step::Forget(space, target)),
        1 => place().prop_map(|(space, target)| Step::Unregister(space, target)),
        1 => place().prop_map(|(space, target)| Step::Register(space, target)),
        1 => (1..8u8).prop_map(Step::Turn),
        4 => Just(Step::Deliver),
        1 => Just(Step::Fail),
    ]
}

/// The store as it is, and everything that the test knows of it by itself.
struct World {
    store: Store,
    each: Each,
    targets: BTreeMap<(usize, usize), Target>,
    known: BTreeSet<(usize, usize)>,
    selected: u8,
    mark: u32,
    /// By target and UID: the namespace as the sink has it, and the attributes.
    sink: BTreeMap<RowKey, (String, Vec<u8>)>,
}

impl World {
    fn new(each: Each) -> Self {
        let store = Store::default();
        let mut targets = BTreeMap::new();
        for (space, namespace) in SPACES.iter().enumerate() {
            for (target, name) in TARGETS.iter().enumerate() {
                if *name != "nodes" || *namespace == HOME {
                    targets.insert((space, target), register(&store, namespace, name));
                }
            }
        }
        store.complete();
        let leftover = |target: &'static str, space: &str| {
            (RowKey { target: Name::new(target), uid: Uid::new("old") }, (space.to_owned(), b"old".to_vec()))
        };
        let sink = [leftover("deploys", "a"), leftover("nodes", CLUSTER), leftover("gone", "b")].into();
        Self { store, each, targets, known: BTreeSet::new(), selected: 7, mark: 1, sink }
    }

    fn spaces(&self) -> Vec<usize> {
        (0..SPACES.len()).filter(|space| self.selected & (1 << space) != 0).collect()
    }

    fn view(&self) -> View {
        let spaces: Vec<&str> = self.spaces().into_iter().map(|space| SPACES[space]).collect();
        view(&spaces, self.each)
    }

    fn put(&self, place: (usize, usize), uid: u8, value: u8) {
        let Some(target) = self.targets.get(&place) else { return };
        let (space, nodes) = (SPACES[place.0], TARGETS[place.1] == "nodes");
        let uid = if nodes { format!("node-{uid}") } else { format!("{space}-{uid}") };
        put(target, &uid, if nodes { "" } else { space }, &format!("{{\"v\":{value}}}"), self.mark);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(space, target, uid, value) => self.put((space, target), uid, value),
            Step::Remove(space, target, uid) => {
                if let Some(there) = self.targets.get(&(space, target)) {
                    there.remove(&Uid::new(&format!("{}-{uid}", SPACES[space])));
                    there.remove(&Uid::new(&format!("node-{uid}")));
                }
            }
            Step::List(space, target, rows) => {
                self.mark += 1;
                for (uid, value) in rows {
                    self.put((space, target), uid, value);
                }
                if let Some(there) = self.targets.get(&(space, target)) {
                    there.sweep(|_| true, self.mark);
                    self.known.insert((space, target));
                }
            }
            Step::Forget(space, target) => {
                if let Some(there) = self.targets.get(&(space, target)) {
                    there.forget(&Namespace::new(if TARGETS[target] == "nodes" { "" } else { SPACES[space] }));
                    self.known.remove(&(space, target));
                }
            }
            Step::Unregister(space, target) => {
                self.store.unregister(&Namespace::new(SPACES[space]), &Name::new(TARGETS[target]));
                self.targets.remove(&(space, target));
                self.known.remove(&(space, target));
            }
            Step::Register(space, target) => {
                if TARGETS[target] != "nodes" || SPACES[space] == HOME {
                    let target_there = register(&self.store, SPACES[space], TARGETS[target]);
                    self.targets.insert((space, target), target_there);
                }
            }
            Step::Turn(selected) => self.selected = selected,
            Step::Deliver | Step::Fail => {}
        }
    }

    /// Returns the rows that are shown, known or not.
    fn shown(&self) -> Vec<Row> {
        let mut shown: BTreeMap<(usize, String), Row> = BTreeMap::new();
        for space in self.spaces() {
            for row in self.store.table(&Namespace::new(SPACES[space])).rows() {
                let target = TARGETS.iter().position(|target| *target == row.origin.target.name.as_str()).unwrap();
                let whose = if self.each == Each::Row { target } else { 0 };
                if target < 3 {
                    let there = shown.entry((whose, row.uid.to_string())).or_insert_with(|| row.clone());
                    if there.origin.target.name <= row.origin.target.name {
                        *there = row;
                    }
                }
            }
        }
        shown.into_values().collect()
    }

    /// Tells whether it is known which rows of a target a namespace adds.
    fn knows(&self, space: usize, target: usize) -> bool {
        let known = |target| !self.targets.contains_key(&(space, target)) || self.known.contains(&(space, target));
        let shadowed =
            self.each == Each::Object && TARGETS[target] == "deploys" && self.targets.contains_key(&(space, target));
        known(target) && (!shadowed || known(1))
    }

    /// Puts a plan into the sink, as a real one would.
    fn deliver(&mut self, plan: Plan) {
        let stored =
            |namespace: &Namespace| if namespace.is_empty() { CLUSTER.to_owned() } else { namespace.to_string() };
        let there = |row: &Row| (stored(&row.namespace), row.body.attributes().to_vec());
        if let Some(Compare { selection, rows, knowledge }) = plan.compare {
            let selected = |key: &RowKey, namespace: &str| match &selection {
                Selection::All => true,
                Selection::Parts(parts) => {
                    parts.iter().any(|part| part.target == key.target && stored(&part.namespace) == namespace)
                }
            };
            self.sink.retain(|key, (namespace, _)| {
                !selected(key, namespace) || !knowledge.covers(key, &Namespace::new(namespace.as_str()))
            });
            self.sink.extend(rows.iter().map(|row| (row.key(), there(row))));
        }
        for key in plan.deletes {
            self.sink.remove(&key);
        }
        self.sink.extend(plan.upserts.iter().map(|row| (row.key(), there(row))));
    }

    /// Compares the sink with what it should have, as far as that is known.
    fn check(&self) -> Result<(), TestCaseError> {
        let position = |target: &Name| TARGETS.iter().position(|name| *name == target.as_str());
        let known = |target: &Name, namespace: &str| {
            let home = if namespace.is_empty() || namespace == CLUSTER { HOME } else { namespace };
            let space = SPACES.iter().position(|space| *space == home).unwrap();
            let left = !self.spaces().contains(&space);
            left || position(target).is_none_or(|target| self.knows(space, target))
        };
        let want: BTreeMap<RowKey, Vec<u8>> = self
            .shown()
            .into_iter()
            .filter(|row| known(&row.origin.target.name, row.namespace.as_str()))
            .map(|row| (row.key(), row.body.attributes().to_vec()))
            .collect();
        let have: BTreeMap<RowKey, Vec<u8>> = self
            .sink
            .iter()
            .filter(|(key, (namespace, _))| known(&key.target, namespace))
            .map(|(key, (_, attributes))| (key.clone(), attributes.clone()))
            .collect();
        prop_assert_eq!(have, want);
        Ok(())
    }
}

proptest! {
    /// A sink that follows the plans over many tables has, after each delivery, what an evaluation from scratch shows of the
    /// known parts; and the digest is that of all rows that are shown, however they came about.
    #[test]
    fn a_roll_up_is_what_an_evaluation_from_scratch_shows(
        one_each in any::<bool>(), steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(if one_each { Each::Object } else { Each::Row });
        let mut reader = world.store.reader(&world.view());
        for step in steps {
            let kind = step.clone();
            world.take(step);
            match kind {
                Step::Turn(_) => reader = reader.turn(&world.store, &world.view()),
                Step::Fail => {
                    reader.plan();
                    if world.mark.is_multiple_of(2) { reader.restart(); }
                }
                Step::Deliver => {
                    let plan = reader.plan();
                    if plan.is_empty() { continue; }
                    let seq = plan.seq;
                    world.deliver(plan);
                    reader.acknowledge(seq);
                    world.check()?;
                }
                _ => {}
            }
            let mut digest = Digest::default();
            let shown = world.shown();
            for row in &shown {
                digest.add(canonical::row_hash(row).0);
            }
            let counts = reader.counts();
            prop_assert_eq!((counts.rows, counts.digest), (shown.len(), digest));
        }
    }
}
