//! From rows to what is handed to a sink: pure, no I/O, no store.
//!
//! A row sink receives a [`Delta`]: the rows that differ and the keys that are gone. What differs is known either from
//! the journal of the store, or, where a sink was not compared yet, from [`compare`] with what the sink [holds](Held).
//! A document sink receives a [`Document`]: all rows in their order.

pub mod document;
pub mod envelope;
pub mod event;
pub mod file;
pub(crate) mod json;
pub mod layout;
mod yaml;

use std::collections::HashMap;
use std::sync::Arc;

pub use document::Document;
pub use envelope::{Checksum, TooLarge};
pub use file::{File, FilePath, Text};

use crate::model::{Cluster, Digest, Fingerprint, InventoryKey, Namespace, Part, Row, RowKey, Seq, Uid};

/// Whose rows these are in a store that many operators and inventories share. Every write and delete stays inside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// `spec.cluster` of the sink.
    pub cluster: Cluster,
    /// The inventory; namespace `cluster` for a cluster inventory.
    pub inventory: InventoryKey,
    /// UID of the inventory object: tells a re-created inventory from its predecessor in the state table.
    pub inventory_uid: Uid,
}

/// What a sink knows about the whole inventory once a delivery is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Rows of the inventory in the store.
    pub rows: u64,
    /// Order-free digest of these rows.
    pub digest: Digest,
    /// `metadata.generation` of the inventory.
    pub generation: i64,
    /// Journal position that the delivery brings the sink to.
    pub seq: Seq,
}

/// Changed rows and keys that are gone. The rows are shared with the store, not copied.
#[derive(Debug, Clone)]
pub struct Delta {
    /// Whose rows.
    pub scope: Arc<Scope>,
    /// Rows to insert or to replace, ascending by key.
    pub upserts: Vec<Row>,
    /// Keys to delete, ascending.
    pub deletes: Vec<RowKey>,
    /// Where the sink stands afterwards.
    pub standing: Standing,
    /// What the sink is known to hold of this scope before the delivery.
    pub base: Base,
}

/// What is known about a scope in the sink before a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The sink was compared as a whole and holds no row of this scope: rows can be streamed in directly.
    Empty,
    /// The sink holds rows.
    Filled,
    /// The sink holds rows that were not as the last delivery left them; the delta mends all of them, and the sink's own
    /// record is made anew from what it then holds.
    Drifted,
    /// The sink holds rows of which some were not as they should be, and others, in parts that are unknown or in columns
    /// that were not compared, may be wrong as well: the sink's own record is void until all are looked at.
    Doubtful,
}

impl Delta {
    /// Tells whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }

    /// Tells whether a row is written or deleted.
    pub fn touches(&self, key: &RowKey) -> bool {
        self.deletes.binary_search(key).is_ok() || self.upserts.binary_search_by_key(key, Row::key).is_ok()
    }

    /// Returns the number of rows written and deleted.
    pub fn changes(&self) -> usize {
        self.upserts.len() + self.deletes.len()
    }
}

/// Which rows of a scope to read back from a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// Only these parts. The namespace of a part of a cluster-scoped kind is empty.
    Parts(Vec<Part>),
}

/// A row as a sink has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Target and UID.
    pub key: RowKey,
    /// Namespace of the collected object as the sink stores it.
    pub namespace: Namespace,
    /// Fingerprint stored with the row; `None` for rows written before fingerprints existed.
    pub fingerprint: Option<Fingerprint>,
}

/// What a sink lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Rows to write, ascending by key.
    pub upserts: Vec<Row>,
    /// Keys to delete, ascending.
    pub deletes: Vec<RowKey>,
    /// How many of the upserts replace a row that the sink holds otherwise.
    pub replaced: usize,
}

/// Compares what the store has with what a sink holds.
///
/// `rows` are the rows of all known parts in the compared selection. A held row that is not among them is deleted only
/// if `known` says so of its target and namespace: what is not known keeps what the sink has (D4).
pub fn compare(
    rows: Vec<Row>,
    held: Vec<Held>,
    known: impl Fn(&RowKey, &Namespace) -> bool,
    fingerprint: impl Fn(&Row) -> Fingerprint,
) -> Difference {
    let mut held: HashMap<RowKey, Held> = held.into_iter().map(|row| (row.key.clone(), row)).collect();
    let mut difference = Difference::default();
    for row in rows {
        match held.remove(&row.key()) {
            Some(there) if there.fingerprint == Some(fingerprint(&row)) => continue,
            Some(_) => difference.replaced += 1,
            None => {}
        }
        difference.upserts.push(row);
    }
    let leftover = held.into_values().filter(|row| known(&row.key, &row.namespace));
    difference.deletes.extend(leftover.map(|row| row.key));
    difference.upserts.sort_unstable_by_key(Row::key);
    difference.deletes.sort_unstable();
    difference
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Body, Gvk, Name, ObjectKey, Origin};

    fn row(target: &str, uid: &str, namespace: &str) -> Row {
        let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let target = ObjectKey::new(Namespace::new("team-a"), Name::new(target));
        Row {
            origin: Arc::new(Origin { target, gvk }),
            uid: Uid::new(uid),
            namespace: Namespace::new(namespace),
            body: Body::new("web", b"{}").unwrap(),
        }
    }

    fn held(target: &str, uid: &str, namespace: &str, byte: u8) -> Held {
        Held {
            key: RowKey { target: Name::new(target), uid: Uid::new(uid) },
            namespace: Namespace::new(namespace),
            fingerprint: Some(Fingerprint([byte; 16])),
        }
    }

    #[test]
    fn equal_rows_are_not_written_and_unknown_rows_are_not_deleted() {
        let rows = vec![row("t", "same", "a"), row("t", "changed", "a"), row("t", "new", "a")];
        let there = vec![
            held("t", "same", "a", 1),
            held("t", "changed", "a", 2),
            held("t", "gone", "a", 1),
            held("t", "dark", "b", 1),
        ];
        let found = compare(rows, there, |_, namespace| namespace.as_str() == "a", |_| Fingerprint([1; 16]));
        assert_eq!(found.upserts.iter().map(|row| row.uid.to_string()).collect::<Vec<_>>(), ["changed", "new"]);
        assert_eq!(found.deletes.iter().map(|key| key.uid.to_string()).collect::<Vec<_>>(), ["gone"]);
        assert_eq!(found.replaced, 1);
    }
}
