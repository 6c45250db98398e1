//! Who writes which inventory to which branch in this process.
//!
//! The name of an inventory in a repository does not say by which sink it came. Two sinks that would lay the same
//! inventory out in different ways undo each other's work with every write; the second is told so instead. A sink that
//! was changed succeeds itself, and sinks with the same settings do no harm.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

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
}

/// The right of one sink to write one inventory to one branch, until it is dropped.
#[derive(Debug)]
pub(super) struct Residence {
    residents: Residents,
    door: Door,
}

impl Residents {
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
            None => drop(residents.insert(door.clone(), Resident { sink: sink.clone(), settings, count: 1 })),
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
