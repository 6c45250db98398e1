//! The rows of each place beside the objects of the cluster, and beside the rows of the other places.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::item::{Difference, Said};
use super::{Held, Sum, Verdict, cluster};
use crate::model::{Digest, ObjectKey, RowKey};

/// A sink with what it holds.
#[derive(Debug)]
pub(super) struct Place {
    /// With its article, for sentences.
    pub(super) name: String,
    /// The inventories that it has to have.
    pub(super) inventories: BTreeSet<ObjectKey>,
    pub(super) held: Held,
}

/// Rows of one inventory.
type Rows = HashMap<RowKey, Said>;

impl Place {
    /// Returns the rows of an inventory; nothing where it need not be here.
    fn rows(&self, inventory: &ObjectKey) -> Option<&Rows> {
        static NONE: std::sync::LazyLock<Rows> = std::sync::LazyLock::new(Rows::new);
        self.inventories.contains(inventory).then(|| self.held.get(inventory).unwrap_or(&NONE))
    }
}

/// Compares the rows of a place with the objects, of all inventories.
pub(super) fn compare_keys(verdict: &mut Verdict, place: &Place, found: &cluster::Found) {
    for (key, inventory) in &found.inventories {
        if let Some(rows) = place.rows(key) {
            compare_rows(verdict, &place.name, key, inventory, rows);
        }
    }
    let strangers = place.held.iter().filter(|(key, rows)| !rows.is_empty() && !found.inventories.contains_key(key));
    for (key, rows) in strangers {
        verdict.problem(format!("{} has {} rows of {key}, which is no inventory here", place.name, rows.len()));
    }
}

/// Compares the rows of a place with the objects, of one inventory.
fn compare_rows(verdict: &mut Verdict, place: &str, key: &ObjectKey, inventory: &cluster::Inventory, rows: &Rows) {
    let missing = || inventory.wanted.iter().filter(|row| !rows.contains_key(row));
    if let Some(example) = missing().min() {
        let (target, uid) = (&example.target, &example.uid);
        let count = missing().count();
        verdict.problem(format!("{key}: {place} lacks {count} objects, for example {uid} of target {target}"));
    }
    let surplus = || rows.iter().filter(|(row, _)| !inventory.wanted.contains(row));
    if let Some((example, said)) = surplus().min_by_key(|(row, _)| *row) {
        let (target, uid, object) = (&example.target, &example.uid, said.object());
        let count = surplus().count();
        verdict.problem(format!(
            "{key}: {place} has {count} rows of no object, for example {uid} of target {target}, {object}"
        ));
    }
}

/// Compares what the places hold of each inventory: by digest, and by row where the digests differ.
pub(super) fn compare_places(verdict: &mut Verdict, places: &[Place]) {
    if places.len() < 2 {
        return;
    }
    let inventories: BTreeSet<&ObjectKey> = places.iter().flat_map(|place| &place.inventories).collect();
    let mut equal = 0;
    for key in inventories {
        let mut held = places.iter().filter_map(|place| Some((place, place.rows(key)?)));
        let Some((first, rows)) = held.next() else { continue };
        let wanted = sum(rows);
        let mut sums = BTreeMap::from([(first.name.clone(), wanted.clone())]);
        for (other, others) in held {
            let found = sum(others);
            // A row that one of them lacks was named when its keys were compared.
            if found != wanted {
                verdict.problems.extend(difference(key, (first, rows), (other, others)));
            }
            sums.insert(other.name.clone(), found);
        }
        equal += usize::from(sums.values().all(|sum| *sum == wanted));
        verdict.digests.insert(key.to_string(), sums);
    }
    verdict.equal_inventories = Some(equal);
}

fn sum(rows: &Rows) -> Sum {
    let mut digest = Digest::default();
    for said in rows.values() {
        digest.add(said.hash);
    }
    Sum { rows: rows.len(), digest: digest.to_string() }
}

/// Says how many rows that both places have differ, and how the first of them does.
fn difference(key: &ObjectKey, (one, rows): (&Place, &Rows), (other, others): (&Place, &Rows)) -> Option<String> {
    let pairs = rows.iter().filter_map(|(row, here)| Some((row, here, others.get(row)?)));
    let mut differ: Vec<_> = pairs.filter(|(_, here, there)| here != there).collect();
    differ.sort_by_key(|(row, ..)| *row);
    let (row, here, there) = differ.first()?;
    let Difference { field, values } = here.difference(there)?;
    let [in_one, in_other] = values;
    let (count, object, one, other) = (differ.len(), here.object(), &one.name, &other.name);
    Some(format!(
        "{key}: {count} rows differ between {one} and {other}, for example {} of target {}, {object}: {field} is {in_one} \
         in {one} and {in_other} in {other}",
        row.uid, row.target
    ))
}
