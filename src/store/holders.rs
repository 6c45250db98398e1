//! Who holds something of an object: the targets that have a row of it, or failed on it.
//!
//! An event of an object concerns the targets that want it and those that hold something of it, which is as a rule the
//! same few; without this index it would have to look into the rows of every target of its namespace. It is kept exactly
//! in step with rows and failures, by the two places where these come and go.
//!
//! A note is six bytes: 32 bits of a hash of the UID, and a number that stands for the target. Two objects may share a
//! hash, and beyond 65,535 targets two of them share a number: then one target too many is named, never one too few, and
//! whoever asks it finds nothing. Six more bits of the hash choose one of the shards, each a table with linear probing that
//! is at least eight tenths full and grows by an eighth, so that neither its room nor its growth is ever large.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::model::Uid;

/// Tables with a lock of their own.
const SHARDS: usize = 64;
/// Places of the smallest table.
const SMALLEST: usize = 16;

/// Stands for a target that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(NonZeroU16);

impl Holder {
    /// What it counts as in a table, where 0 is a free place.
    const fn tag(self) -> u16 {
        self.0.get()
    }
}

/// The notes of all targets.
#[derive(Debug)]
pub(super) struct Holders {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    named: AtomicU64,
}

impl Default for Holders {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            named: AtomicU64::new(0),
        }
    }
}

/// One table. What belongs to a place stands in two lists, so that no room is lost between them.
#[derive(Debug, Default)]
struct Shard {
    hashes: Vec<u32>,
    /// 0 where the place is free.
    tags: Vec<u16>,
    taken: usize,
}

impl Holders {
    /// Returns the number of one more target.
    pub(super) fn name(&self) -> Holder {
        let number = self.named.fetch_add(1, Ordering::Relaxed) % u64::from(u16::MAX);
        let number = u16::try_from(number).unwrap_or_default();
        Holder(NonZeroU16::MIN.saturating_add(number))
    }

    /// Notes that a target holds one thing more of an object.
    pub(super) fn add(&self, uid: &Uid, holder: Holder) {
        let (shard, hash) = self.place(uid);
        shard.lock().add(hash, holder.tag());
    }

    /// Takes one note back.
    pub(super) fn take(&self, uid: &Uid, holder: Holder) {
        let (shard, hash) = self.place(uid);
        shard.lock().take(hash, holder.tag());
    }

    /// Appends who holds something of an object.
    pub(super) fn of(&self, uid: &Uid, found: &mut Vec<Holder>) {
        let (shard, hash) = self.place(uid);
        found.extend(shard.lock().of(hash).filter_map(NonZeroU16::new).map(Holder));
    }

    fn place(&self, uid: &Uid) -> (&Mutex<Shard>, u32) {
        let hash = self.hasher.hash_one(uid);
        let shard = usize::try_from((hash >> 32) % SHARDS as u64).unwrap_or_default();
        (&self.shards[shard], u32::try_from(hash & u64::from(u32::MAX)).unwrap_or_default())
    }
}

impl Shard {
    fn places(&self) -> usize {
        self.tags.len()
    }

    /// Returns where a hash belongs.
    fn home(&self, hash: u32) -> usize {
        // Scales the hash to the number of places, whatever that is.
        usize::try_from((u64::from(hash) * self.places() as u64) >> 32).unwrap_or_default()
    }

    fn next(&self, place: usize) -> usize {
        if place + 1 == self.places() { 0 } else { place + 1 }
    }

    /// Returns how many steps it is from one place to another.
    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.places() - from }
    }

    /// Returns the taken places from the home of a hash on that bear it.
    fn bearing(&self, hash: u32) -> impl Iterator<Item = usize> {
        let home = (self.taken > 0).then(|| self.home(hash));
        // There is always a free place, at which this ends.
        let run =
            std::iter::successors(home, |place| Some(self.next(*place))).take_while(|place| self.tags[*place] != 0);
        run.filter(move |place| self.hashes[*place] == hash)
    }

    fn of(&self, hash: u32) -> impl Iterator<Item = u16> {
        self.bearing(hash).map(|place| self.tags[place])
    }

    fn add(&mut self, hash: u32, tag: u16) {
        if (self.taken + 1) * 10 > self.places() * 9 {
            self.resize((self.places() * 9 / 8).max(SMALLEST));
        }
        self.put(hash, tag);
        self.taken += 1;
    }

    fn put(&mut self, hash: u32, tag: u16) {
        let mut place = self.home(hash);
        while self.tags[place] != 0 {
            place = self.next(place);
        }
        self.hashes[place] = hash;
        self.tags[place] = tag;
    }

    fn take(&mut self, hash: u32, tag: u16) {
        let Some(mut hole) = self.bearing(hash).find(|place| self.tags[*place] == tag) else { return };
        // What stands behind moves up, unless that is before its home.
        let mut place = self.next(hole);
        while self.tags[place] != 0 {
            let wanted = self.home(self.hashes[place]);
            if self.steps(wanted, place) >= self.steps(hole, place) {
                self.hashes[hole] = self.hashes[place];
                self.tags[hole] = self.tags[place];
                hole = place;
            }
            place = self.next(place);
        }
        self.tags[hole] = 0;
        self.taken -= 1;
        if self.places() > SMALLEST && self.taken * 2 < self.places() {
            self.resize((self.taken * 5 / 4).max(SMALLEST));
        }
    }

    fn resize(&mut self, places: usize) {
        let hashes = std::mem::replace(&mut self.hashes, vec![0; places]);
        let tags = std::mem::replace(&mut self.tags, vec![0; places]);
        for (hash, tag) in hashes.into_iter().zip(tags).filter(|(_, tag)| *tag != 0) {
            self.put(hash, tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Body, Gvk, Name, Namespace, ObjectKey, Origin};
    use crate::store::{Coverage, Store, Target};

    fn of(holders: &Holders, uid: &Uid) -> Vec<Holder> {
        let mut found = Vec::new();
        holders.of(uid, &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn those_who_hold_something_are_found_until_all_of_it_is_taken_back() {
        let holders = Holders::default();
        let (one, two) = (holders.name(), holders.name());
        let (a, b) = (Uid::new("a"), Uid::new("00000000-0000-4000-8000-000000000001"));
        holders.add(&a, two);
        holders.add(&a, one);
        holders.add(&b, two);
        holders.add(&a, one);
        assert_eq!(of(&holders, &a), [one, one, two]);
        holders.take(&a, one);
        holders.take(&b, two);
        // Never noted.
        holders.take(&b, one);
        assert_eq!((of(&holders, &a), of(&holders, &b)), (vec![one, two], vec![]));
    }

    #[test]
    fn numbers_are_given_anew_when_all_are_given() {
        let holders = Holders::default();
        let first = holders.name();
        assert!((1..u16::MAX).all(|_| holders.name() != first));
        assert_eq!(holders.name(), first);
    }

    #[test]
    fn a_note_takes_eight_bytes_at_most_at_any_size() {
        let mut shard = Shard::default();
        for number in 0..20_000_u32 {
            shard.add(number.wrapping_mul(0x9E37_79B1), 1);
            let bytes = shard.hashes.capacity() * 4 + shard.tags.capacity() * 2;
            assert!(number < 200 || bytes <= shard.taken * 8, "{bytes} bytes for {}", shard.taken);
        }
        for number in 0..20_000_u32 {
            shard.take(number.wrapping_mul(0x9E37_79B1), 1);
        }
        assert_eq!((shard.taken, shard.places()), (0, SMALLEST));
    }

    const NAMESPACES: [&str; 2] = ["a", "b"];

    /// What happens to one of two targets.
    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, usize, u8),
        Fail(u8, usize),
        Remove(u8),
        Sweep(usize),
        /// It collects in the first so many namespaces, or nobody knows where.
        Cover(Option<usize>),
        Unregister,
        /// It has another kind from now on.
        Replace,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (uid, place) = (0..6u8, 0..NAMESPACES.len());
        prop_oneof![
            6 => (uid.clone(), place.clone(), 0..3u8).prop_map(|(uid, place, value)| Step::Put(uid, place, value)),
            3 => (uid.clone(), place.clone()).prop_map(|(uid, place)| Step::Fail(uid, place)),
            2 => uid.prop_map(Step::Remove),
            2 => place.prop_map(Step::Sweep),
            2 => prop::option::weighted(0.8, 0..=NAMESPACES.len()).prop_map(Step::Cover),
            1 => Just(Step::Unregister),
            1 => Just(Step::Replace),
        ]
    }

    fn register(store: &Store, target: usize, kind: &'static str) -> Target {
        let gvk = Gvk { group: "".into(), version: "v1".into(), kind: kind.into() };
        let target = ObjectKey::new(Namespace::new("team"), Name::new(["one", "two"][target]));
        store.register(Origin { target, gvk })
    }

    proptest! {
        #[test]
        fn notes_are_in_step_with_rows_and_failures(steps in prop::collection::vec((0..2_usize, step()), 1..60)) {
            // Sooner or later a row has no room.
            let store = Store::new(Some(1200));
            let mut targets = [0, 1].map(|target| register(&store, target, "Thing"));
            let mut mark = 1;
            for (number, step) in steps {
                let target = &mut targets[number];
                let uid = |uid: u8| Uid::new(&format!("uid-{uid}"));
                match step {
                    Step::Put(object, place, value) => {
                        let body = Body::new("name", &vec![b'x'; 40 * usize::from(value)]).unwrap();
                        target.apply(&uid(object), &Namespace::new(NAMESPACES[place]), body, false, mark);
                    }
                    Step::Fail(object, place) => {
                        target.fail(&uid(object), &Namespace::new(NAMESPACES[place]), "no value", mark);
                    }
                    Step::Remove(object) => {
                        target.remove(&uid(object));
                    }
                    Step::Sweep(place) => {
                        mark += 1;
                        target.sweep(|namespace| namespace.as_str() == NAMESPACES[place], mark);
                    }
                    Step::Cover(Some(count)) => {
                        let set = NAMESPACES[..count].iter().map(|name| Namespace::new(*name)).collect();
                        target.cover(&Coverage::Namespaces(std::sync::Arc::new(set)));
                    }
                    Step::Cover(None) => target.cover(&Coverage::Unresolved),
                    Step::Unregister => {
                        let name = target.origin().target.name.clone();
                        store.unregister(&Namespace::new("team"), &name);
                        *target = register(&store, number, "Thing");
                    }
                    Step::Replace => *target = register(&store, number, if mark % 2 == 0 { "Thing" } else { "Other" }),
                }
                let table = store.table(&Namespace::new("team"));
                let failing = targets.iter().map(|target| table.target_counts(&target.origin().target.name).failing);
                let held: usize = failing.sum::<usize>() + table.rows().len();
                prop_assert_eq!(store.shared.holders.shards.iter().map(|shard| shard.lock().taken).sum::<usize>(), held);
                for row in table.rows() {
                    let target = targets.iter().find(|target| *target.origin() == row.origin).unwrap();
                    prop_assert!(of(&store.shared.holders, &row.uid).contains(&target.holder()));
                }
            }
        }

        #[test]
        fn a_shard_is_a_bag(steps in prop::collection::vec((any::<bool>(), 0..40_u32, 1..4_u16), 0..400)) {
            let (mut shard, mut bag) = (Shard::default(), BTreeMap::<(u32, u16), usize>::new());
            for (adds, hash, tag) in steps {
                // Few hashes, at both ends, so that runs are long and go around.
                let hash = if hash < 20 { hash } else { u32::MAX - hash };
                let count = bag.entry((hash, tag)).or_default();
                if adds {
                    shard.add(hash, tag);
                    *count += 1;
                } else {
                    shard.take(hash, tag);
                    *count = count.saturating_sub(1);
                }
                let mut found: Vec<u16> = shard.of(hash).collect();
                found.sort_unstable();
                let of_hash = bag.iter().filter(|((other, _), _)| *other == hash);
                let want: Vec<u16> = of_hash.flat_map(|((_, tag), count)| vec![*tag; *count]).collect();
                prop_assert_eq!(found, want);
            }
            prop_assert_eq!(shard.taken, bag.values().sum::<usize>());
        }
    }
}
