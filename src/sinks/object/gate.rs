//! Who may write what at the moment: one at a time for each inventory, one sink for each inventory and place, and nobody
//! while another operator does.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

use super::error::ObjectError;
use super::key;
use super::store::Version;
use crate::export::Scope;
use crate::model::SinkKey;
use crate::sinks::shared;

/// How long the record of another operator has to stand still before its inventory is taken over.
const SILENCE: Duration = Duration::from_mins(10);

/// The gate of one destination.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Held by all who write, so that who reads all records can wait for them.
    writing: Arc<RwLock<()>>,
    turns: Mutex<HashMap<Scope, Weak<Turn<()>>>>,
    /// Records of others, as they were first seen.
    rivals: Mutex<HashMap<Scope, (Version, Instant)>>,
    residents: Mutex<HashMap<Scope, (SinkKey, String)>>,
}

/// The right to write one inventory, until it is dropped.
#[derive(Debug)]
pub(super) struct Passage {
    _turn: OwnedMutexGuard<()>,
    _writing: OwnedRwLockReadGuard<()>,
}

impl Gate {
    /// Waits until nobody else writes an inventory. These locks are made to be held while a bucket answers.
    pub(super) async fn turn(&self, scope: &Scope) -> Passage {
        let turn = shared(&self.turns, scope.clone(), Turn::default);
        let writing = Arc::clone(&self.writing).read_owned().await;
        Passage { _turn: turn.lock_owned().await, _writing: writing }
    }

    /// Waits until what is being written now is done.
    pub(super) async fn settled(&self) {
        drop(self.writing.write().await);
    }

    /// Tells whether an inventory may be taken from another operator, whose record is at this version.
    pub(super) fn has_stood_still(&self, scope: &Scope, version: &Version, now: Instant) -> bool {
        let mut rivals = self.rivals.lock();
        let seen = rivals.entry(scope.clone()).or_insert_with(|| (version.clone(), now));
        if seen.0 != *version {
            *seen = (version.clone(), now);
        }
        now.saturating_duration_since(seen.1) >= SILENCE
    }

    /// Says that an inventory is ours.
    pub(super) fn forget_rival(&self, scope: &Scope) {
        self.rivals.lock().remove(scope);
    }

    /// Moves a sink in. A sink that was changed succeeds itself, and sinks with the same settings do no harm.
    ///
    /// # Errors
    /// Terminal when another sink with other settings writes this inventory here.
    pub(super) fn settle(&self, scope: &Scope, sink: &SinkKey, settings: &str) -> Result<(), ObjectError> {
        let mut residents = self.residents.lock();
        match residents.get_mut(scope) {
            Some((first, there)) if first != sink && there != settings => {
                Err(ObjectError::Occupied { first: first.to_string(), inventory: key::owner(scope) })
            }
            Some((first, there)) => {
                if first == sink {
                    settings.clone_into(there);
                }
                Ok(())
            }
            None => {
                residents.insert(scope.clone(), (sink.clone(), settings.to_owned()));
                Ok(())
            }
        }
    }

    /// Moves a sink out, if it is the one that is there.
    pub(super) fn move_out(&self, scope: &Scope, sink: &SinkKey) {
        let mut residents = self.residents.lock();
        if residents.get(scope).is_some_and(|(there, _)| there == sink) {
            residents.remove(scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cluster, Family, InventoryKey, Name, Namespace, ObjectKey, Uid};

    fn scope() -> Scope {
        Scope {
            cluster: Cluster::new("west"),
            inventory: InventoryKey::new(Namespace::new("team-a"), Name::new("apps")),
            inventory_uid: Uid::new("u"),
        }
    }

    fn sink(name: &str) -> SinkKey {
        SinkKey { family: Family::Snapshot, object: ObjectKey::new(Namespace::new("team-a"), Name::new(name)) }
    }

    #[test]
    fn an_inventory_is_taken_over_once_its_record_stood_still() {
        let (gate, start) = (Gate::default(), Instant::now());
        let version = |tag: &str| Version { e_tag: Some(tag.to_owned()), generation: None, bytes: 1 };
        let look =
            |minutes: u64, tag| gate.has_stood_still(&scope(), &version(tag), start + Duration::from_mins(minutes));
        assert!(!look(0, "a"));
        assert!(!look(9, "a"));
        assert!(!look(10, "b"));
        assert!(!look(19, "b"));
        assert!(look(20, "b"));
        gate.forget_rival(&scope());
        assert!(!look(21, "b"));
    }

    #[test]
    fn two_sinks_with_other_settings_do_not_write_one_inventory() {
        let gate = Gate::default();
        gate.settle(&scope(), &sink("a"), "x").unwrap();
        gate.settle(&scope(), &sink("a"), "y").unwrap();
        gate.settle(&scope(), &sink("b"), "y").unwrap();
        let error = gate.settle(&scope(), &sink("b"), "z").unwrap_err();
        assert!(
            error.to_string().starts_with("sink snapshot/team-a/a writes")
                || error.to_string().contains("with other settings")
        );
        gate.move_out(&scope(), &sink("b"));
        assert!(gate.settle(&scope(), &sink("b"), "z").is_err());
        gate.move_out(&scope(), &sink("a"));
        gate.settle(&scope(), &sink("b"), "z").unwrap();
    }

    #[tokio::test]
    async fn who_reads_all_records_waits_for_those_who_write() {
        let gate = Gate::default();
        let passage = gate.turn(&scope()).await;
        assert!(tokio::time::timeout(Duration::from_millis(5), gate.settled()).await.is_err());
        drop(passage);
        gate.settled().await;
    }
}
