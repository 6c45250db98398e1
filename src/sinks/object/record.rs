//! What the operator remembers in a bucket of each inventory: a small object that says which objects are whose.
//!
//! The record is what makes deletion safe: an object that no record of ours names is never removed. It is written before
//! an object gets a new name, and again when that is there, so that whatever happens between is found by whoever comes
//! next. See `docs/adr/0010-object-stores.md`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::store::{Held, Version};
use crate::export::Scope;
use crate::model::{Cluster, InventoryKey, Name, Namespace, Uid};
use crate::validate::Retention;

/// What a record says it is.
const KIND: &str = "KollectObjectRecord";
/// Earlier generations that are remembered; older ones stay in the bucket and are nobody's.
const MAX_PAST: usize = 1_000;

/// The objects of one inventory in one format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    kind: String,
    /// Who writes: the UID of `kube-system` of the cluster.
    pub(super) writer: String,
    cluster: String,
    namespace: String,
    name: String,
    pub(super) inventory_uid: String,
    /// What decides where objects go.
    pub(super) place: String,
    /// What was written last, once it was there as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<Set>,
    /// Keys that may be there and are to go, or to be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pending: Vec<String>,
    /// Earlier generations, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) past: Vec<Set>,
}

/// The objects of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Set {
    pub(super) generation: i64,
    /// Over the checksums of the parts.
    pub(super) checksum: String,
    /// What decides the bytes besides the rows.
    pub(super) appearance: String,
    pub(super) written_at: Timestamp,
    pub(super) objects: Vec<Object>,
}

/// One object as it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    pub(super) key: String,
    #[serde(flatten)]
    pub(super) version: Version,
}

impl Record {
    /// Begins the record of an inventory.
    pub(super) fn new(scope: &Scope, writer: &str, place: String) -> Self {
        Self {
            kind: KIND.to_owned(),
            writer: writer.to_owned(),
            cluster: scope.cluster.as_str().to_owned(),
            namespace: scope.inventory.namespace.as_str().to_owned(),
            name: scope.inventory.name.as_str().to_owned(),
            inventory_uid: scope.inventory_uid.to_string(),
            place,
            current: None,
            pending: Vec::new(),
            past: Vec::new(),
        }
    }

    /// Reads a record; nothing where the text is none.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().filter(|record: &Self| record.kind == KIND)
    }

    /// Writes it down.
    pub(super) fn text(&self) -> Vec<u8> {
        // Strings and numbers alone: there is nothing in it that could not be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns whose record it is.
    pub(super) fn scope(&self) -> Scope {
        Scope {
            cluster: Cluster::new(self.cluster.as_str()),
            inventory: InventoryKey::new(Namespace::new(self.namespace.as_str()), Name::new(self.name.as_str())),
            inventory_uid: Uid::new(&self.inventory_uid),
        }
    }

    /// Returns every key that the inventory has or may have.
    pub(super) fn keys(&self) -> Vec<String> {
        let sets = self.past.iter().chain(&self.current);
        let mut keys: Vec<String> = sets.flat_map(|set| set.objects.iter().map(|object| object.key.clone())).collect();
        keys.extend(self.pending.iter().cloned());
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Tells whether the record speaks of these objects, and they are as it says.
    pub(super) fn describes(&self, wanted: &Set, keys: &[String], held: &[Option<Held>]) -> bool {
        let Some(current) = &self.current else { return false };
        current.checksum == wanted.checksum
            && current.appearance == wanted.appearance
            && current.objects.len() == keys.len()
            && current.objects.iter().zip(keys).zip(held).all(|((object, key), held)| {
                object.key == *key && held.as_ref().is_some_and(|held| held.version == object.version)
            })
    }

    /// Puts a set in the place of the one before: that one is kept where each generation has its own, else what is not
    /// written any more is to go.
    pub(super) fn succeed(&mut self, set: Set, place: &str, archives: bool) {
        let before = self.current.replace(set);
        let same_place = self.place == place;
        place.clone_into(&mut self.place);
        let Some(current) = &self.current else { return };
        let stays = |key: &String| current.objects.iter().any(|object| object.key == *key);
        if !same_place {
            // Another place is another matter: what is there stays, and nobody owns it.
            self.past.clear();
            self.pending.clear();
            return;
        }
        if let Some(before) = before {
            if archives && before.generation != current.generation {
                self.past.push(before);
                let surplus = self.past.len().saturating_sub(MAX_PAST);
                self.past.drain(..surplus);
            } else {
                self.pending.extend(before.objects.into_iter().map(|object| object.key));
            }
        }
        self.pending.retain(|key| !stays(key));
        self.pending.sort_unstable();
        self.pending.dedup();
        // A generation may come back, with a restored inventory.
        self.past.retain(|set| !set.objects.iter().any(|object| stays(&object.key)));
    }

    /// Moves the sets that are not to be kept any longer to what is to go.
    pub(super) fn retire(&mut self, retention: Retention, now: Timestamp) {
        let surplus = retention.generations.map_or(0, |kept| self.past.len().saturating_sub(kept));
        let mut index = 0;
        let old = |set: &Set| {
            let age = now.duration_since(set.written_at);
            retention.max_age.is_some_and(|limit| std::time::Duration::try_from(age).is_ok_and(|age| age > limit))
        };
        let gone = self.past.extract_if(.., |set| {
            index += 1;
            index <= surplus || old(set)
        });
        let keys: Vec<String> = gone.flat_map(|set| set.objects.into_iter().map(|object| object.key)).collect();
        self.pending.extend(keys);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::SignedDuration;

    use super::*;

    fn scope() -> Scope {
        Scope {
            cluster: Cluster::new("west"),
            inventory: InventoryKey::new(Namespace::new("team-a"), Name::new("apps")),
            inventory_uid: Uid::new("11111111-2222-4333-8444-5555555555ff"),
        }
    }

    fn set(generation: i64, keys: &[&str]) -> Set {
        let version = Version { e_tag: Some(format!("\"{generation}\"")), generation: None, bytes: 7 };
        let objects = keys.iter().map(|key| Object { key: (*key).to_owned(), version: version.clone() }).collect();
        let written_at = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(generation);
        Set { generation, checksum: "c".to_owned(), appearance: "a".to_owned(), written_at, objects }
    }

    fn record() -> Record {
        Record::new(&scope(), "us", "json x".to_owned())
    }

    #[test]
    fn a_record_reads_what_it_wrote() {
        let mut record = record();
        record.succeed(set(4, &["a"]), "json x", false);
        assert_eq!(Record::read(&record.text()), Some(record.clone()));
        assert_eq!(record.scope(), scope());
        assert_eq!(Record::read(b"{\"kind\":\"other\"}"), None);
        assert_eq!(Record::read(b""), None);
    }

    #[test]
    fn parts_that_are_not_written_any_more_are_to_go() {
        let mut record = record();
        record.succeed(set(1, &["a.1", "a.2", "m"]), "json x", false);
        assert!(record.pending.is_empty());
        record.succeed(set(2, &["a"]), "json x", false);
        assert_eq!(record.pending, ["a.1", "a.2", "m"]);
        assert_eq!(record.keys(), ["a", "a.1", "a.2", "m"]);
        record.succeed(set(2, &["a.1"]), "json x", false);
        assert_eq!(record.pending, ["a", "a.2", "m"]);
    }

    #[test]
    fn what_was_written_to_another_place_stays_there() {
        let mut record = record();
        record.succeed(set(1, &["a"]), "json x", false);
        record.succeed(set(1, &["b"]), "json y", false);
        assert_eq!(record.keys(), ["b"]);
    }

    #[test]
    fn generations_are_kept_as_long_as_both_limits_say() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(10);
        let kept = |generations, hours: Option<u64>| {
            let mut record = record();
            for generation in 1..=5 {
                record.succeed(set(generation, &[format!("g{generation}").as_str()]), "parquet ", true);
            }
            record.retire(Retention { generations, max_age: hours.map(Duration::from_hours) }, now);
            let kept: Vec<i64> = record.past.iter().map(|set| set.generation).collect();
            assert_eq!(record.pending.len() + kept.len(), 4);
            kept
        };
        assert_eq!(kept(None, None), [1, 2, 3, 4]);
        assert_eq!(kept(Some(2), None), [3, 4]);
        assert_eq!(kept(Some(0), None), Vec::<i64>::new());
        assert_eq!(kept(None, Some(7)), [3, 4]);
        assert_eq!(kept(Some(1), Some(7)), [4]);
        assert_eq!(kept(None, Some(1)), Vec::<i64>::new());
    }

    #[test]
    fn the_same_generation_supersedes_itself() {
        let mut record = record();
        record.succeed(set(4, &["g4"]), "parquet ", true);
        record.succeed(set(4, &["g4"]), "parquet ", true);
        assert!(record.past.is_empty() && record.pending.is_empty());
        record.succeed(set(5, &["g5"]), "parquet ", true);
        record.succeed(set(4, &["g4"]), "parquet ", true);
        assert_eq!(record.past.iter().map(|set| set.generation).collect::<Vec<_>>(), [5]);
    }
}
