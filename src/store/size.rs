//! What rows and journal take of the memory: the bytes that `--store-budget` bounds.
//!
//! Names and attributes are counted as they are. What stands around them (tree nodes, reference counts, the allocator's
//! size classes) is a constant for each, measured by `cargo bench --bench store` over 100,000 rows of 127 bytes with
//! jemalloc: 151.5 bytes for a row, of which 7.8 say who holds it, and 88.4 for an entry of the journal.

use crate::model::{Body, Uid};

/// One row, without its body.
const ROW: usize = 152;
/// One change in the journal.
pub(super) const CHANGE: usize = 88;
/// The second place of a key that is gone: 41 bytes in a hash table that is half to nine tenths full.
pub(super) const TOMBSTONE: usize = 64;

/// Returns what a row takes.
pub(super) fn row(uid: &Uid, body: &Body) -> usize {
    let text = match uid {
        Uid::Uuid(_) => 0,
        Uid::Other(text) => text.len(),
    };
    ROW + text + body.size()
}
