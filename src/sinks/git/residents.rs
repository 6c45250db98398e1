//! Who writes which inventory to which branch in this process.
//!
//! The name of an inventory in a repository does not say by which sink it came. Two sinks that would lay the same
//! inventory out in different ways undo each other's work with every write; the second is told so instead. A sink that
//! was changed succeeds itself, and sinks with the same settings do no harm.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::GitError;
use super::mirror::Place;
use super::owner::OwnerName;
use crate::export::Scope;
use crate::model::SinkKey;

/// All residents of a process; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Residents(Arc<Mutex<HashMap<Door, Resident>>>);

/// An inventory in a branch.
type Door = (Place, OwnerName);

#[derive(Debug)]
struct Resident {
    sink: SinkKey,
    settings: [u8; 32],
    /// How many residences there are of it.
    count: usize,
    /// When it moved in.
    since: Instant,
}

/// The right of one sink to write one inventory to one branch, until it is dropped.
#[derive(Debug)]
pub(super) struct Residence {
    residents: Residents,
    door: Door,
}

impl Residents {
    /// Returns how many inventories are written to a branch; nothing where that is not known: while nobody said so, or
    /// when one moved in so short a time ago that others may be on their way.
    pub(super) fn of(&self, place: &Place, settled_for: Duration) -> Option<NonZeroUsize> {
        let residents = self.0.lock();
        let mut count = 0;
        for (_, resident) in residents.iter().filter(|((there, _), _)| there == place) {
            if resident.since.elapsed() < settled_for {
                return None;
            }
            count += 1;
        }
        NonZeroUsize::new(count)
    }

    /// Moves a sink in. `settings` is a digest of all that decides which files are written.
    ///
    /// # Errors
    /// Terminal when another sink with other settings is there.
    pub(super) fn settle(
        &self,
        place: &Place,
        scope: &Scope,
        sink: &SinkKey,
        settings: [u8; 32],
    ) -> Result<Residence, GitError> {
        let door = (place.clone(), OwnerName::of(scope));
        let mut residents = self.0.lock();
        match residents.get_mut(&door) {
            Some(there) if there.sink != *sink && there.settings != settings => {
                return Err(GitError::Occupied { first: there.sink.to_string(), inventory: door.1.to_string() });
            }
            Some(there) => {
                if there.sink == *sink {
                    there.settings = settings;
                }
                there.count += 1;
            }
            None => {
                let resident = Resident { sink: sink.clone(), settings, count: 1, since: Instant::now() };
                residents.insert(door.clone(), resident);
            }
        }
        Ok(Residence { residents: self.clone(), door })
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        let mut residents = self.residents.0.lock();
        if let Some(there) = residents.get_mut(&self.door) {
            there.count -= 1;
            if there.count == 0 {
                residents.remove(&self.door);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, Classify as _};
    use crate::model::{Cluster, Family, InventoryKey, Name, Namespace, ObjectKey, Uid};

    fn sink(name: &str) -> SinkKey {
        SinkKey { family: Family::Snapshot, object: ObjectKey::new(Namespace::new("team-a"), Name::new(name)) }
    }

    #[tokio::test(start_paused = true)]
    async fn residents_are_counted_once_they_have_settled() {
        let (residents, wait) = (Residents::default(), Duration::from_millis(100));
        let place = |branch: &str| Place { url: "https://example.com/r".to_owned(), branch: branch.to_owned() };
        let settle = |branch: &str, name: &str| {
            let scope = crate::sinks::contract::scope("west", "team-a", name);
            residents.settle(&place(branch), &scope, &sink("one"), [1; 32]).unwrap()
        };
        let count = |branch: &str| residents.of(&place(branch), wait).map(NonZeroUsize::get);
        assert_eq!(count("main"), None);
        let first = settle("main", "apps");
        assert_eq!(count("main"), None, "others may be on their way");
        tokio::time::advance(wait).await;
        let _other = settle("other", "apps");
        assert_eq!(count("main"), Some(1));
        let second = settle("main", "jobs");
        assert_eq!(count("main"), None);
        tokio::time::advance(wait).await;
        assert_eq!((count("main"), count("other")), (Some(2), Some(1)));
        drop((first, second));
        assert_eq!(count("main"), None);
    }

    #[test]
    fn a_second_sink_with_other_settings_is_told_of_the_first() {
        let residents = Residents::default();
        let place = Place { url: "https://example.com/r".to_owned(), branch: "main".to_owned() };
        let scope = |cluster: &str| Scope {
            cluster: Cluster::new(cluster),
            inventory: InventoryKey::new(Namespace::new("team-a"), Name::new("apps")),
            inventory_uid: Uid::new("u"),
        };
        let settle = |cluster: &str, name: &str, settings: u8| {
            residents.settle(&place, &scope(cluster), &sink(name), [settings; 32])
        };
        let first = settle("west", "one", 1).unwrap();
        let error = settle("west", "two", 2).unwrap_err();
        assert_eq!(error.class(), Class::Terminal);
        assert!(error.to_string().contains("snapshot/one"), "{error}");
        let twin = settle("west", "two", 1).unwrap();
        settle("east", "two", 2).unwrap();
        // The first one was changed.
        let successor = settle("west", "one", 3).unwrap();
        drop((first, twin));
        assert!(settle("west", "two", 2).is_err());
        drop(successor);
        settle("west", "two", 2).unwrap();
    }
}
