//! A sink in memory: what a well-behaved destination does, and a script of what goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Class;
use crate::export::{Base, Delta, Held, Scope, Selection};
use crate::metrics::SinkType;
use crate::model::{Fingerprint, Namespace, Row, RowKey};
use crate::sinks::{Audit, Destination, Leave, Receipt, Refused, RowSink, Sink, SinkError};

/// A row as the sink stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) namespace: Namespace,
    pub(super) content: Vec<u8>,
    fingerprint: Fingerprint,
}

/// A delivery that was taken.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) at: Instant,
    pub(super) upserts: Vec<RowKey>,
    pub(super) deletes: Vec<RowKey>,
    pub(super) rows: u64,
    /// Whether the answer arrived.
    pub(super) heard: bool,
}

#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) rows: BTreeMap<RowKey, Cell>,
    /// Number and order-free hash of what the last delivery left; nothing while that is in doubt.
    record: Option<(u64, u64)>,
    pub(super) taken: Vec<Taken>,
    /// Failures of the next deliveries, the last one first.
    pub(super) failures: Vec<Wrong>,
    /// Rows that are never taken.
    pub(super) poison: BTreeSet<RowKey>,
    pub(super) scopes: Vec<Scope>,
    pub(super) left: Vec<(Scope, Leave)>,
    pub(super) probes: usize,
}

/// How a delivery fails.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wrong {
    /// Before anything was taken.
    Refused(Class),
    /// The destination does not answer.
    Silent,
    /// Everything was taken, and the answer was lost.
    Unheard,
}

#[derive(Debug)]
pub(super) struct Memory {
    pub(super) destination: Destination,
    /// What it is, whatever its address.
    pub(super) identity: Mutex<String>,
    pub(super) remembers: AtomicBool,
    pub(super) stored: Mutex<Stored>,
}

impl Memory {
    pub(super) fn new(failures: &[Wrong]) -> Arc<Self> {
        Self::at("memory", failures)
    }

    pub(super) fn at(id: &str, failures: &[Wrong]) -> Arc<Self> {
        let stored = Stored { failures: failures.to_vec(), ..Stored::default() };
        Arc::new(Self {
            destination: Destination { id: id.into(), description: id.into() },
            identity: Mutex::new(id.into()),
            remembers: AtomicBool::new(false),
            stored: Mutex::new(stored),
        })
    }

    /// Returns the number of upserts and deletes of each delivery that was taken.
    pub(super) fn deliveries(&self) -> Vec<(usize, usize)> {
        self.stored.lock().taken.iter().map(|taken| (taken.upserts.len(), taken.deletes.len())).collect()
    }

    /// Changes a row as a person with a client would.
    pub(super) fn edit(&self, change: impl FnOnce(&mut BTreeMap<RowKey, Cell>)) {
        change(&mut self.stored.lock().rows);
    }
}

fn print(row: &Row) -> Fingerprint {
    crate::canonical::fingerprint(&[row.namespace.as_str().as_bytes(), row.body.attributes()])
}

fn hash(key: &RowKey, content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, content).hash(&mut hasher);
    hasher.finish()
}

impl Stored {
    pub(super) fn contents(&self) -> BTreeMap<RowKey, Vec<u8>> {
        self.rows.iter().map(|(key, cell)| (key.clone(), cell.content.clone())).collect()
    }

    fn sum(&self) -> (u64, u64) {
        (self.rows.len() as u64, self.rows.iter().fold(0, |all, (key, cell)| all ^ hash(key, &cell.content)))
    }

    fn take(&mut self, delta: &Delta) -> Receipt {
        let mut receipt = Receipt::default();
        let (mut change, mut added) = (0, 0);
        for key in &delta.deletes {
            if let Some(gone) = self.rows.remove(key) {
                change ^= hash(key, &gone.content);
                receipt.deleted += 1;
            }
        }
        for row in &delta.upserts {
            let cell = Cell {
                namespace: row.namespace.clone(),
                content: row.body.attributes().to_vec(),
                fingerprint: print(row),
            };
            if self.poison.contains(&row.key()) {
                let (reason, object, message) = ("ExportTerminal", "v1 Thing a/b".to_owned(), "no".to_owned());
                receipt.refused.push(Refused { key: row.key(), object, reason, message, excess: None });
            } else if self.rows.get(&row.key()) != Some(&cell) {
                change ^= hash(&row.key(), &cell.content);
                match self.rows.insert(row.key(), cell) {
                    Some(before) => change ^= hash(&row.key(), &before.content),
                    None => added += 1,
                }
                receipt.written += 1;
            }
        }
        self.record = match delta.base {
            Base::Filled => {
                self.record.map(|(rows, hash)| (rows.wrapping_add(added).wrapping_sub(receipt.deleted), hash ^ change))
            }
            Base::Empty | Base::Drifted => Some(self.sum()),
            Base::Doubtful => None,
        };
        self.taken.push(Taken {
            at: Instant::now(),
            upserts: delta.upserts.iter().map(Row::key).collect(),
            deletes: delta.deletes.clone(),
            rows: receipt.written + receipt.deleted,
            heard: true,
        });
        receipt
    }

    fn held(&self, fingerprint: impl Fn(&RowKey, &Cell) -> Option<Fingerprint>) -> Vec<Held> {
        let held = |(key, cell): (&RowKey, &Cell)| Held {
            key: key.clone(),
            namespace: cell.namespace.clone(),
            fingerprint: fingerprint(key, cell),
        };
        self.rows.iter().map(held).collect()
    }
}

impl Sink for Memory {
    fn kind(&self) -> SinkType {
        SinkType::Postgres
    }

    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn identity(&self) -> BoxFuture<'_, Result<Option<String>, SinkError>> {
        Box::pin(async { Ok(Some(self.identity.lock().clone())) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, SinkError>> {
        Box::pin(async {
            let mut stored = self.stored.lock();
            stored.probes += 1;
            match stored.failures.pop() {
                Some(wrong) => Err(wrong.error()),
                None => Ok(String::new()),
            }
        })
    }

    fn leave<'a>(&'a self, scope: &'a Scope, leave: Leave) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mut stored = self.stored.lock();
            if let Some(wrong) = stored.failures.pop() {
                return Err(wrong.error());
            }
            let deleted = if leave == Leave::Delete { std::mem::take(&mut stored.rows).len() as u64 } else { 0 };
            stored.left.push((scope.clone(), leave));
            Ok(Receipt { deleted, ..Receipt::default() })
        })
    }

    fn scopes(&self) -> BoxFuture<'_, Result<Vec<Scope>, SinkError>> {
        Box::pin(async { Ok(self.stored.lock().scopes.clone()) })
    }

    fn heartbeat<'a>(&'a self, _: &'a [&'a Scope]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

impl RowSink for Memory {
    fn fingerprint(&self, _: &Scope, row: &Row) -> Fingerprint {
        print(row)
    }

    fn recover<'a>(
        &'a self,
        _: &'a Scope,
        selection: &'a Selection,
        _: &'a [Row],
    ) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        let mut held = self.stored.lock().held(|_, cell| Some(cell.fingerprint));
        if let Selection::Parts(parts) = selection {
            let selected = |held: &Held| {
                parts.iter().any(|part| part.target == held.key.target && part.namespace == held.namespace)
            };
            held.retain(selected);
        }
        Box::pin(async { Ok(held) })
    }

    fn remembers(&self) -> bool {
        self.remembers.load(Ordering::Relaxed)
    }

    fn deliver<'a>(&'a self, delta: &'a Delta) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mut stored = self.stored.lock();
            match stored.failures.pop() {
                Some(Wrong::Unheard) => {
                    stored.take(delta);
                    stored.taken.iter_mut().next_back().into_iter().for_each(|taken| taken.heard = false);
                    Err(Wrong::Unheard.error())
                }
                Some(wrong) => Err(wrong.error()),
                None => Ok(stored.take(delta)),
            }
        })
    }

    fn audit<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Audit, SinkError>> {
        let stored = self.stored.lock();
        let audit = if stored.record == Some(stored.sum()) { Audit::Intact } else { Audit::Drifted };
        Box::pin(async move { Ok(audit) })
    }

    fn verify<'a>(&'a self, _: &'a Scope, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Held>, SinkError>> {
        let wanted: BTreeMap<RowKey, &[u8]> = rows.iter().map(|row| (row.key(), row.body.attributes())).collect();
        let equal = |key: &RowKey, cell: &Cell| wanted.get(key).is_some_and(|content| **content == cell.content);
        let held = self.stored.lock().held(|key, cell| equal(key, cell).then_some(cell.fingerprint));
        Box::pin(async { Ok(held) })
    }
}

impl Wrong {
    pub(super) fn error(self) -> SinkError {
        match self {
            Self::Refused(class) => SinkError::new(class, "ExportFailed", "scripted"),
            Self::Silent | Self::Unheard => {
                SinkError::new(Class::Transient, "ExportFailed", "no answer").of_destination()
            }
        }
    }
}
