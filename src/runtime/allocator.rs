//! What the allocator holds, read from it on each scrape.
//!
//! Memory of the process grows and shrinks with what the allocator keeps for later; whether the program itself keeps ever
//! more is seen in `allocated`.

use tikv_jemalloc_ctl::{Error, epoch, stats};

use crate::metrics::{Reading, Sizes};

/// jemalloc, from which the libraries in C have their memory as well.
#[derive(Debug)]
pub(super) struct Allocator;

impl Sizes for Allocator {
    fn read(&self, reading: &mut Reading) {
        // A build of jemalloc without statistics has none of these, and then the page has none.
        reading.allocator.extend(sizes().into_iter().flatten());
    }
}

fn sizes() -> Result<[(&'static str, u64); 3], Error> {
    // The numbers are those of the last epoch.
    epoch::advance()?;
    let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    Ok([
        ("allocated", bytes(stats::allocated::read()?)),
        ("active", bytes(stats::active::read()?)),
        ("resident", bytes(stats::resident::read()?)),
    ])
}
