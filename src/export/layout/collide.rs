//! Which row has which path, where two would have the same.
//!
//! Of the rows that a template gives one path, the first in canonical order has it. Each later one has
//! `-<first 8 of uid>` before the extension, or `-<targetName>` where an earlier one is the same object seen by another
//! target. Where that is somebody's path as well, both marks are put, then the whole UID with the target, then a number.
//! A path that the template gives to any row is never taken as such a substitute.
//!
//! So the path of a row is a function of the set of rows: whoever holds the same rows gives the same paths, in whatever
//! order they came. Rows that share no path, which is nearly all of them, cost a look into a table.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::path::Mark;
use super::{Layout, LayoutError};
use crate::export::document::canonical_order;
use crate::export::file::FilePath;
use crate::model::{InventoryKey, Row, RowKey};

/// The rows of an inventory, each with its path.
#[derive(Debug, Clone)]
pub struct Places {
    layout: Arc<Layout>,
    inventory: InventoryKey,
    generation: i64,
    rows: HashMap<RowKey, Row>,
    /// Who would have each path.
    seats: HashMap<Spot, Seat>,
    /// Paths of the rows that do not have the one that the template gives.
    moved: HashMap<RowKey, FilePath>,
    /// Paths that several rows would have.
    contested: HashSet<Spot>,
    /// Paths that were looked at for `moved`. While nothing of it changes, `moved` stays as it is.
    watched: HashSet<Spot>,
}

/// BLAKE3-128 of a path: the paths themselves would be the larger part of the table. Two paths of one spot, which
/// nobody will see, would be told apart without need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Spot([u8; 16]);

#[derive(Debug, Clone)]
enum Seat {
    One(RowKey),
    /// Two or more, in no order.
    Many(Vec<RowKey>),
}

/// What a change of rows means for files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moves {
    /// Files to write: of the changed rows, and of others whose path they changed. Ascending by path.
    pub put: BTreeMap<FilePath, Row>,
    /// Files that are nobody's any more, ascending.
    pub remove: Vec<FilePath>,
}

impl Places {
    /// Returns a table without rows. The generation matters where the layout [follows](Layout::follows_generation) it.
    pub fn new(layout: Arc<Layout>, inventory: InventoryKey, generation: i64) -> Self {
        Self {
            layout,
            inventory,
            generation,
            rows: HashMap::new(),
            seats: HashMap::new(),
            moved: HashMap::new(),
            contested: HashSet::new(),
            watched: HashSet::new(),
        }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tells whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns a row by its key.
    pub fn row(&self, key: &RowKey) -> Option<&Row> {
        self.rows.get(key)
    }

    /// Returns the path of a row; `None` where there is no such row.
    pub fn path(&self, key: &RowKey) -> Result<Option<FilePath>, LayoutError> {
        self.rows.get(key).map(|row| self.path_of(key, row)).transpose()
    }

    /// Returns the paths of all rows, in no order.
    pub fn paths(&self) -> impl Iterator<Item = Result<FilePath, LayoutError>> {
        self.rows.iter().map(|(key, row)| self.path_of(key, row))
    }

    /// Returns all rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// Checks whether a row that is to be taken in has a path.
    pub fn place(&self, row: &Row) -> Result<(), LayoutError> {
        match self.rows.get(&row.key()) {
            Some(known) if same_path(known, row) => Ok(()),
            _ => self.layout.path(&self.inventory, self.generation, row).map(drop),
        }
    }

    /// Returns the path of the index, where there is one.
    pub fn index_path(&self) -> Result<Option<FilePath>, LayoutError> {
        let wanted = self.layout.has_index();
        wanted.then(|| self.layout.index_path(&self.inventory, self.generation)).transpose()
    }

    /// Returns all rows with their paths, in canonical order.
    pub fn in_order(&self) -> Result<Vec<(FilePath, &Row)>, LayoutError> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_unstable_by(|(_, left), (_, right)| canonical_order(left, right));
        rows.into_iter().map(|(key, row)| Ok((self.path_of(key, row)?, row))).collect()
    }

    /// Takes in many rows, where nobody asks what moves. Those without a path are left out.
    pub fn fill(&mut self, rows: Vec<Row>) -> Result<(), LayoutError> {
        self.rows.reserve(rows.len());
        self.seats.reserve(rows.len());
        let mut change = Change::default();
        for row in rows {
            let key = row.key();
            if self.rows.contains_key(&key) {
                self.take_out(&key, &mut change)?;
            }
            if let Ok(path) = self.layout.path(&self.inventory, self.generation, &row) {
                self.put_in(key, row, &path, &mut change);
            }
        }
        if change.unsettled {
            self.settle()?;
        }
        Ok(())
    }

    /// Takes in rows that changed and keys that are gone; of a key in both the row counts.
    ///
    /// # Errors
    /// Terminal where a row has no path. The table is then not fit for use.
    pub fn apply(&mut self, upserts: Vec<Row>, deletes: &[RowKey]) -> Result<Moves, LayoutError> {
        let mut change = Change::default();
        for key in deletes {
            self.take_out(key, &mut change)?;
        }
        for row in upserts {
            let key = row.key();
            match self.rows.get_mut(&key) {
                // Nothing moves, which is so with nearly all that changes.
                Some(known) if same_path(known, &row) => *known = row,
                _ => {
                    self.take_out(&key, &mut change)?;
                    let path = self.layout.path(&self.inventory, self.generation, &row)?;
                    self.put_in(key.clone(), row, &path, &mut change);
                }
            }
            change.write.push(key);
        }
        if change.unsettled {
            let moved = self.settle()?;
            self.find_moved(&moved, &mut change)?;
        }
        let mut put = Vec::with_capacity(change.write.len());
        for key in &change.write {
            if let Some(row) = self.rows.get(key) {
                put.push((self.path_of(key, row)?, row.clone()));
            }
        }
        // A map that is made at once has no gaps, which one that grows has for nearly half of it.
        let mut moves = Moves { put: put.into_iter().collect(), remove: Vec::new() };
        moves.remove = change.before.into_iter().filter(|path| !moves.put.contains_key(path)).collect();
        moves.remove.sort_unstable();
        Ok(moves)
    }

    fn take_out(&mut self, key: &RowKey, change: &mut Change) -> Result<(), LayoutError> {
        let first = change.touched.insert(key.clone());
        let Some(row) = self.rows.remove(key) else { return Ok(()) };
        let path = self.layout.path(&self.inventory, self.generation, &row)?;
        let spot = Spot::of(&path);
        match self.seats.get_mut(&spot) {
            Some(Seat::Many(keys)) => {
                keys.retain(|other| other != key);
                if let [last] = keys.as_slice() {
                    let last = Seat::One(last.clone());
                    self.seats.insert(spot, last);
                    self.contested.remove(&spot);
                }
                change.unsettled = true;
            }
            Some(Seat::One(_)) | None => {
                self.seats.remove(&spot);
                change.unsettled |= self.watched.contains(&spot);
            }
        }
        if first {
            change.before.push(self.moved.get(key).cloned().unwrap_or(path));
        }
        Ok(())
    }

    fn put_in(&mut self, key: RowKey, row: Row, path: &FilePath, change: &mut Change) {
        let spot = Spot::of(path);
        match self.seats.entry(spot) {
            Entry::Vacant(seat) => {
                seat.insert(Seat::One(key.clone()));
                change.unsettled |= self.watched.contains(&spot);
            }
            Entry::Occupied(mut seat) => {
                match seat.get_mut() {
                    Seat::Many(keys) => keys.push(key.clone()),
                    Seat::One(other) => {
                        let other = other.clone();
                        seat.insert(Seat::Many(vec![other, key.clone()]));
                        self.contested.insert(spot);
                    }
                }
                change.unsettled = true;
            }
        }
        self.rows.insert(key, row);
    }

    /// Finds the paths of all rows that do not have the one that the template gives, and returns those of before.
    fn settle(&mut self) -> Result<HashMap<RowKey, FilePath>, LayoutError> {
        let before = std::mem::take(&mut self.moved);
        let mut watched = HashSet::new();
        let mut later = self.later_ones();
        later.sort_unstable_by(|left, right| canonical_order(left.row, right.row));
        let (mut moved, mut taken) = (HashMap::with_capacity(later.len()), HashSet::new());
        for Later { row, mark } in later {
            let path = self.layout.path(&self.inventory, self.generation, row)?;
            for mark in [mark, Mark::Both].into_iter().chain((0..).map(Mark::Counted)) {
                let path = self.layout.marked(&path, row, mark)?;
                let spot = Spot::of(&path);
                watched.insert(spot);
                if !self.seats.contains_key(&spot) && taken.insert(spot) {
                    moved.insert(row.key(), path);
                    break;
                }
            }
        }
        self.moved = moved;
        self.watched = watched;
        Ok(before)
    }

    /// Returns all rows but the first of each contested path.
    fn later_ones(&self) -> Vec<Later<'_>> {
        let mut later = Vec::new();
        for spot in &self.contested {
            let Some(Seat::Many(keys)) = self.seats.get(spot) else { continue };
            let mut rows: Vec<&Row> = keys.iter().filter_map(|key| self.rows.get(key)).collect();
            rows.sort_unstable_by(|left, right| canonical_order(left, right));
            let mut seen = HashSet::new();
            for (index, row) in rows.into_iter().enumerate() {
                let mark = if seen.insert(&row.uid) { Mark::Uid } else { Mark::Target };
                if index > 0 {
                    later.push(Later { row, mark });
                }
            }
        }
        later
    }

    /// Adds the rows that were not changed themselves, but have another path now.
    fn find_moved(&self, before: &HashMap<RowKey, FilePath>, change: &mut Change) -> Result<(), LayoutError> {
        for key in before.keys().chain(self.moved.keys()) {
            let (then, now) = (before.get(key), self.moved.get(key));
            let Some(row) = self.rows.get(key).filter(|_| then != now) else { continue };
            if change.touched.insert(key.clone()) {
                change.write.push(key.clone());
                change.before.push(match then {
                    Some(path) => path.clone(),
                    None => self.layout.path(&self.inventory, self.generation, row)?,
                });
            }
        }
        Ok(())
    }

    fn path_of(&self, key: &RowKey, row: &Row) -> Result<FilePath, LayoutError> {
        match self.moved.get(key) {
            Some(path) => Ok(path.clone()),
            None => self.layout.path(&self.inventory, self.generation, row),
        }
    }
}

/// Tells whether two rows of one key have the same path, before two rows of one path are told apart.
fn same_path(left: &Row, right: &Row) -> bool {
    let origin = Arc::ptr_eq(&left.origin, &right.origin) || left.origin == right.origin;
    origin && left.namespace == right.namespace && left.body.name() == right.body.name()
}

/// What is known of a change while it is taken in.
#[derive(Default)]
struct Change {
    /// Rows that changed themselves, and those that were found to have moved.
    touched: HashSet<RowKey>,
    /// Where the files of these were.
    before: Vec<FilePath>,
    /// Rows to write.
    write: Vec<RowKey>,
    /// Whether rows that share a path may have another one now.
    unsettled: bool,
}

/// A row that does not have the path that the template gives.
struct Later<'a> {
    row: &'a Row,
    mark: Mark,
}

impl Spot {
    fn of(path: &FilePath) -> Self {
        let mut spot = [0; 16];
        blake3::Hasher::new().update(path.as_str().as_bytes()).finalize_xof().fill(&mut spot);
        Self(spot)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::export::layout::LayoutSpec;
    use crate::export::layout::tests::row;
    use crate::model::{Name, Namespace};

    const A: &str = "aaaaaaaa-1111-4111-8111-111111111111";
    const B: &str = "bbbbbbbb-2222-4222-8222-222222222222";
    const B2: &str = "bbbbbbbb-3333-4222-8222-222222222222";

    fn places() -> Places {
        let spec = LayoutSpec { row_path: "{sourceName}{extension}".to_owned(), ..LayoutSpec::default() };
        let inventory = InventoryKey::new(Namespace::new("team-a"), Name::new("apps"));
        Places::new(Arc::new(Layout::new(spec).unwrap()), inventory, 1)
    }

    fn one(target: &str, uid: &str, name: &str) -> Row {
        row(target, ("apps", "Deployment"), uid, "team-a", name, "{}")
    }

    fn paths(places: &Places) -> Vec<String> {
        places.in_order().unwrap().into_iter().map(|(path, _)| path.to_string()).collect()
    }

    fn put(moves: &Moves) -> Vec<String> {
        moves.put.iter().map(|(path, row)| format!("{path} {}/{}", row.origin.target.name, row.uid)).collect()
    }

    #[test]
    fn the_later_row_is_marked_with_its_uid_and_the_same_object_with_its_target() {
        let mut places = places();
        places.apply(vec![one("zz", A, "api"), one("deploys", B, "api"), one("deploys", A, "api")], &[]).unwrap();
        assert_eq!(paths(&places), ["api.yaml", "api-bbbbbbbb.yaml", "api-zz.yaml"]);
    }

    #[test]
    fn a_mark_that_does_not_tell_apart_is_made_longer() {
        let mut places = places();
        let rows = vec![one("a", A, "x"), one("a", B, "x"), one("a", B2, "x"), one("z", A, "x"), one("z", B, "x")];
        places.apply(rows, &[]).unwrap();
        let expected = ["x.yaml", "x-bbbbbbbb.yaml", "x-bbbbbbbb-a.yaml", "x-z.yaml", "x-bbbbbbbb-z.yaml"];
        assert_eq!(paths(&places), expected);
    }

    #[test]
    fn a_path_of_the_template_is_never_taken_as_a_substitute() {
        let mut places = places();
        places.apply(vec![one("t", A, "x"), one("t", B, "x")], &[]).unwrap();
        let moves = places.apply(vec![one("t", "u", "x-bbbbbbbb")], &[]).unwrap();
        assert_eq!(put(&moves), [format!("x-bbbbbbbb-t.yaml t/{B}"), "x-bbbbbbbb.yaml t/u".to_owned()]);
        assert_eq!(moves.remove, []);
        let moves = places.apply(Vec::new(), &[one("t", "u", "x-bbbbbbbb").key()]).unwrap();
        assert_eq!(put(&moves), [format!("x-bbbbbbbb.yaml t/{B}")]);
        assert_eq!(moves.remove, [FilePath::new("x-bbbbbbbb-t.yaml").unwrap()]);
    }

    #[test]
    fn the_next_row_takes_the_path_of_one_that_goes() {
        let mut places = places();
        places.apply(vec![one("t", A, "x"), one("t", B, "x")], &[]).unwrap();
        let moves = places.apply(Vec::new(), &[one("t", A, "x").key()]).unwrap();
        assert_eq!(put(&moves), [format!("x.yaml t/{B}")]);
        assert_eq!(moves.remove, [FilePath::new("x-bbbbbbbb.yaml").unwrap()]);
        let moves = places.apply(vec![one("t", B, "y")], &[]).unwrap();
        assert_eq!(
            (put(&moves), moves.remove),
            (vec![format!("y.yaml t/{B}")], vec![FilePath::new("x.yaml").unwrap()])
        );
    }

    fn small_row() -> impl Strategy<Value = Row> {
        let uid = prop::sample::select(vec![A, B, B2, "bbbbbbbb"]);
        let name = prop::sample::select(vec!["x", "x:", "x-bbbbbbbb", "x-t", "x-bbbbbbbb-t", "y"]);
        (prop::sample::select(vec!["t", "s"]), uid, name).prop_map(|(target, uid, name)| one(target, uid, name))
    }

    proptest! {
        #[test]
        fn paths_are_a_function_of_the_set_of_rows(
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec(small_row(), 1..4)), 1..8)
        ) {
            let mut grown = places();
            let mut files: BTreeMap<FilePath, Row> = BTreeMap::new();
            for (goes, mut rows) in steps {
                rows.sort_by_key(Row::key);
                rows.dedup_by_key(|row| row.key());
                let keys: Vec<RowKey> = if goes { rows.iter().map(Row::key).collect() } else { Vec::new() };
                let moves = grown.apply(if goes { Vec::new() } else { rows }, &keys).unwrap();
                for path in &moves.remove {
                    prop_assert!(!moves.put.contains_key(path));
                    prop_assert!(files.remove(path).is_some(), "{} was not there", path);
                }
                files.extend(moves.put);
                let mut fresh = places();
                fresh.fill(grown.rows().cloned().collect()).unwrap();
                let expected: BTreeMap<FilePath, Row> =
                    fresh.in_order().unwrap().into_iter().map(|(path, row)| (path, row.clone())).collect();
                prop_assert_eq!(expected.len(), fresh.len());
                prop_assert_eq!(&files, &expected);
            }
        }
    }
}
