//! What is known of the cluster: for each target, in which namespaces its rows are complete (D4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::view::HOME;
use crate::model::{Name, Namespace, RowKey};

/// So many rows may always be removed at once.
const FEW: usize = 100;

/// Tells whether a removal is so large that it needs a better cause than something being absent (D4): more than half of
/// the rows of a table, and more than 100.
pub fn is_mass_deletion(removed: usize, of: usize) -> bool {
    removed > FEW && removed > of / 2
}

/// Where a target collects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// A namespaced kind, in these namespaces.
    Namespaces(Arc<BTreeSet<Namespace>>),
    /// A cluster-scoped kind: one part with an empty namespace.
    Cluster,
    /// It is not known where: the profile is missing, or the kind is not served. All of it is unknown.
    Unresolved,
}

impl Coverage {
    /// Tells whether the target collects there.
    pub fn contains(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Namespaces(set) => set.contains(namespace),
            Self::Cluster => true,
            Self::Unresolved => false,
        }
    }
}

/// Coverage of one target and the parts of it that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Knowing {
    pub(super) coverage: Coverage,
    pub(super) known: BTreeSet<Namespace>,
}

impl Knowing {
    /// Tells whether the store has all rows of this target in that namespace, or knows that there are none.
    pub(super) fn knows(&self, namespace: &Namespace) -> bool {
        match &self.coverage {
            Coverage::Unresolved => false,
            // A row of a cluster-scoped object is stored by some sinks under the namespace of its inventory.
            Coverage::Cluster => !self.known.is_empty(),
            Coverage::Namespaces(set) => !set.contains(namespace) || self.known.contains(namespace),
        }
    }

    /// Tells whether every part is known.
    pub(super) fn whole(&self) -> bool {
        match &self.coverage {
            Coverage::Unresolved => false,
            Coverage::Cluster => !self.known.is_empty(),
            Coverage::Namespaces(set) => set.is_subset(&self.known),
        }
    }
}

/// Which parts of a target were listed to their end at least once in this process. Documents are made of these, and wait
/// for the others: what is known no more stays in them as it was, like in every sink.
#[derive(Debug)]
pub(super) struct Met {
    parts: BTreeSet<Namespace>,
    /// The other parts, and since when they are missing; one empty name for a target of which nothing is resolved.
    missing: BTreeMap<Namespace, Instant>,
}

impl Met {
    pub(super) fn new(now: Instant) -> Self {
        Self { parts: BTreeSet::new(), missing: BTreeMap::from([(Namespace::new(""), now)]) }
    }

    /// Takes over where the target collects from now on.
    pub(super) fn cover(&mut self, coverage: &Coverage, now: Instant) {
        let before = std::mem::take(&mut self.missing);
        let whole = Namespace::new("");
        let wanted: Vec<&Namespace> = match coverage {
            Coverage::Namespaces(set) => set.iter().collect(),
            Coverage::Cluster => vec![&whole],
            // What was met stays good for as long as nobody knows better.
            Coverage::Unresolved if self.parts.is_empty() => vec![&whole],
            Coverage::Unresolved => return,
        };
        self.parts.retain(|part| coverage.contains(part));
        let missing = wanted.into_iter().filter(|part| !self.parts.contains(*part));
        self.missing = missing.map(|part| (part.clone(), before.get(part).copied().unwrap_or(now))).collect();
    }

    /// Notes that a part was listed to its end.
    pub(super) fn meet(&mut self, part: &Namespace) {
        self.missing.remove(part);
        self.parts.insert(part.clone());
    }

    /// Tells whether rows of a part may be shown.
    pub(super) fn has(&self, part: &Namespace) -> bool {
        self.parts.contains(part)
    }

    /// Tells whether any part was met.
    pub(super) fn any(&self) -> bool {
        !self.parts.is_empty()
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = (&Namespace, Instant)> {
        self.missing.iter().map(|(part, since)| (part, *since))
    }
}

/// What has to be known of each target for its rows to be complete: its own parts, and where one row of an object is shown
/// those of the targets that may show it instead.
pub(super) type Targets = BTreeMap<Name, Vec<Knowing>>;

/// What is known of the rows that a reader is shown, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Knowledge {
    /// Every target is registered; before that nothing may be called a leftover.
    complete: bool,
    of: Of,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    /// The targets of one namespace, wherever they collect.
    Table(Targets),
    /// What some targets collect in each of these namespaces. Elsewhere there is nothing of theirs, on purpose.
    RollUp(BTreeMap<Namespace, Targets>),
}

impl Default for Of {
    fn default() -> Self {
        Self::Table(Targets::new())
    }
}

impl Knowledge {
    /// Returns what is known of everything in one table.
    pub(super) fn of_table(complete: bool, targets: Targets) -> Self {
        Self { complete, of: Of::Table(targets) }
    }

    /// Returns what is known of a selection of many tables.
    pub(super) fn of_tables(complete: bool, tables: BTreeMap<Namespace, Targets>) -> Self {
        Self { complete, of: Of::RollUp(tables) }
    }

    /// Tells whether a row that a sink holds and the store does not have may be deleted. One without a target may be of
    /// any, so everything has to be known.
    pub fn covers(&self, key: &RowKey, namespace: &Namespace) -> bool {
        if key.target.is_empty() {
            return self.whole();
        }
        let knows = |targets: &Targets| {
            targets.get(&key.target).is_none_or(|all| all.iter().all(|target| target.knows(namespace)))
        };
        self.complete
            && match &self.of {
                Of::Table(targets) => knows(targets),
                // What lives in no namespace is stored by some sinks under that of the inventory: whatever the name, the
                // table that would have it is asked as well.
                Of::RollUp(tables) => {
                    [namespace.as_str(), HOME].into_iter().filter_map(|name| tables.get(name)).all(knows)
                }
            }
    }

    /// Tells whether every part of every target is known.
    pub fn whole(&self) -> bool {
        let whole = |targets: &Targets| targets.values().flatten().all(Knowing::whole);
        self.complete
            && match &self.of {
                Of::Table(targets) => whole(targets),
                Of::RollUp(tables) => tables.values().all(whole),
            }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Uid;

    fn covering(names: &[&'static str]) -> Coverage {
        Coverage::Namespaces(Arc::new(names.iter().map(|name| Namespace::new(*name)).collect()))
    }

    #[test]
    fn what_came_from_nobody_knows_where_goes_only_when_everything_is_known() {
        let (a, b) = (Namespace::new("a"), Namespace::new("b"));
        let of = |target: &'static str| RowKey { target: Name::new(target), uid: Uid::new("u") };
        let knowing = |known: &[&Namespace]| Knowing {
            coverage: covering(&["a", "b"]),
            known: known.iter().map(|part| (*part).clone()).collect(),
        };
        let knowledge =
            |known: &[&Namespace]| Knowledge::of_table(true, [(Name::new("t"), vec![knowing(known)])].into());
        let part = knowledge(&[&a]);
        assert!(part.covers(&of("t"), &a) && !part.covers(&of("t"), &b));
        assert!(part.covers(&of("gone"), &b), "a target that is no more");
        assert!(!part.covers(&of(""), &a) && !part.covers(&of(""), &Namespace::new("")));
        assert!(knowledge(&[&a, &b]).covers(&of(""), &Namespace::new("")));
    }

    #[test]
    fn a_part_is_missing_from_when_it_was_covered_until_its_first_list_and_never_again() {
        let start = Instant::now();
        let later = start + Duration::from_mins(1);
        let missing = |met: &Met| met.missing().map(|(part, since)| (part.to_string(), since)).collect::<Vec<_>>();
        let mut met = Met::new(start);
        assert_eq!(missing(&met), [(String::new(), start)]);
        met.cover(&covering(&["a", "b"]), start);
        met.cover(&covering(&["a", "b", "c"]), later);
        met.meet(&Namespace::new("a"));
        assert_eq!(missing(&met), [("b".to_owned(), start), ("c".to_owned(), later)]);
        // Nobody knows where the target collects: what was met is still good, and nothing is waited for.
        met.cover(&Coverage::Unresolved, later);
        assert!(met.has(&Namespace::new("a")) && missing(&met).is_empty());
        met.cover(&covering(&["a", "b"]), later);
        assert_eq!(missing(&met), [("b".to_owned(), later)]);
        met.cover(&covering(&["b"]), later);
        assert!(!met.any());
        met.cover(&Coverage::Cluster, later);
        met.meet(&Namespace::new(""));
        assert!(met.has(&Namespace::new("")) && missing(&met).is_empty());
    }
}
