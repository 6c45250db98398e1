//! Other operators that write the same inventory of the same cluster.
//!
//! Two of them would undo each other's work with every write. The ref of an inventory says who wrote last; where that was
//! somebody else, nothing is written until the ref stood still for as long as we looked. That is a rebuilt cluster, whose
//! operator is new and whose inventories are not.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use git2::Oid;

use crate::sinks::git::owner::OwnerName;

/// How long the ref of another operator has to stand still.
const SILENCE: Duration = Duration::from_mins(10);

/// Refs of others, as they were first seen.
#[derive(Debug, Default)]
pub(super) struct Rivals(HashMap<OwnerName, (Oid, Instant)>);

impl Rivals {
    /// Tells whether an inventory may be taken from another operator, whose ref is at this commit.
    pub(super) fn has_gone(&mut self, owner: &OwnerName, commit: Oid, now: Instant) -> bool {
        let seen = self.0.entry(owner.clone()).or_insert((commit, now));
        if seen.0 != commit {
            *seen = (commit, now);
        }
        now.saturating_duration_since(seen.1) >= SILENCE
    }

    /// Says that an inventory is ours.
    pub(super) fn forget(&mut self, owner: &OwnerName) {
        self.0.remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::contract::scope;

    #[test]
    fn an_inventory_is_taken_over_once_its_ref_stood_still() {
        let owner = OwnerName::of(&scope("west", "team-a", "apps"));
        let (start, oid) = (Instant::now(), |byte: u8| Oid::from_bytes(&[byte; 20]).unwrap());
        let mut rivals = Rivals::default();
        let mut look = |minutes: u64, commit| rivals.has_gone(&owner, commit, start + Duration::from_mins(minutes));
        assert!(!look(0, oid(1)));
        assert!(!look(9, oid(1)));
        // It moved: whoever wrote is alive.
        assert!(!look(10, oid(2)));
        assert!(!look(19, oid(2)));
        assert!(look(20, oid(2)));
        rivals.forget(&owner);
        assert!(!rivals.has_gone(&owner, oid(2), start + Duration::from_mins(21)));
    }
}
