//! The namespaces that the rows of a table are in, by number: a row keeps four bytes of its namespace.

use std::collections::BTreeMap;

use crate::model::Namespace;

/// Stands for a namespace as long as a row is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// Namespaces with a row. A number is used again once nothing is left of its namespace, so that namespaces that come and go
/// take no room.
// INVARIANT: a place is an index of `all`, which never shrinks.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Each with the number of its rows.
    all: Vec<(Namespace, usize)>,
    numbers: BTreeMap<Namespace, Place>,
    free: Vec<Place>,
}

impl Places {
    /// Counts one more row in a namespace.
    pub(super) fn enter(&mut self, namespace: &Namespace) -> Place {
        let place = self.numbers.get(namespace).copied().unwrap_or_else(|| self.open(namespace));
        self.all[place.0 as usize].1 += 1;
        place
    }

    fn open(&mut self, namespace: &Namespace) -> Place {
        let place = if let Some(place) = self.free.pop() {
            self.all[place.0 as usize].0 = namespace.clone();
            place
        } else {
            let place = Place(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
            self.all.push((namespace.clone(), 0));
            place
        };
        self.numbers.insert(namespace.clone(), place);
        place
    }

    /// Counts one row less, and returns where it was.
    pub(super) fn leave(&mut self, place: Place) -> Namespace {
        let (namespace, rows) = &mut self.all[place.0 as usize];
        let namespace = namespace.clone();
        *rows = rows.saturating_sub(1);
        if *rows == 0 {
            self.numbers.remove(&namespace);
            self.free.push(place);
        }
        namespace
    }

    /// Returns the namespace of a row.
    pub(super) fn of(&self, place: Place) -> &Namespace {
        &self.all[place.0 as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_number_while_it_has_rows_and_leaves_it_to_the_next() {
        let mut places = Places::default();
        let names = ["a", "b", "c"].map(Namespace::new);
        let [first, again, other] = [0, 0, 1].map(|index| places.enter(&names[index]));
        assert_eq!((first, places.of(other)), (again, &names[1]));
        assert_ne!(first, other);
        assert_eq!(places.leave(first), names[0]);
        assert_eq!(places.of(again), &names[0]);
        assert_eq!(places.leave(again), names[0]);
        assert_eq!(places.enter(&names[2]), first);
        assert_eq!(places.of(first), &names[2]);
        assert_eq!(places.all.len(), 2);
    }
}
