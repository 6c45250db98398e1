//! What the metrics page shows of targets: who is Ready, and how many rows each profile has.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::metrics::{Collected, Reading, Sizes};
use crate::model::{Gvk, Name, Namespace, TargetKey};
use crate::store::Store;

/// What is remembered of one target.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Profile and kind, once they are resolved.
    pub(super) collects: Option<(Name, Gvk)>,
    pub(super) ready: bool,
    /// Where its rows belong: its own namespace, or each in which a cluster target is registered.
    pub(super) namespaces: Vec<Namespace>,
}

/// All targets.
#[derive(Debug)]
pub struct Overview {
    store: Store,
    targets: Mutex<BTreeMap<TargetKey, Seen>>,
}

impl Overview {
    pub(super) fn new(store: Store) -> Arc<Self> {
        Arc::new(Self { store, targets: Mutex::default() })
    }

    pub(super) fn put(&self, key: &TargetKey, seen: Seen) {
        self.targets.lock().insert(key.clone(), seen);
    }

    pub(super) fn remove(&self, key: &TargetKey) {
        self.targets.lock().remove(key);
    }
}

impl Sizes for Overview {
    fn read(&self, reading: &mut Reading) {
        for (key, seen) in &*self.targets.lock() {
            reading.targets.push((key.clone(), seen.ready));
            if let Some((profile, gvk)) = &seen.collects {
                let tables = seen.namespaces.iter().filter_map(|namespace| self.store.existing(namespace));
                let rows: usize = tables.map(|table| table.target_counts(&key.name).rows).sum();
                reading.collected.push(Collected { profile: profile.clone(), gvk: gvk.clone(), rows: rows as u64 });
            }
        }
    }
}
