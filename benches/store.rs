//! What one row costs in memory and in time, beside its name and attributes.
//!
//! `cargo bench --bench store` prints one line of JSON: bytes that the allocator holds for each row beyond its body and for
//! each entry of the journal, and time and allocations of one write. The two sizes are the origin of what the store
//! charges for a row (`src/store/size.rs`).
#![expect(clippy::expect_used, reason = "a bench stops at the first surprise")]

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kollect::model::{Body, Gvk, Name, Namespace, ObjectKey, Origin, Uid};
use kollect::store::{Coverage, Store, Target};
use tikv_jemallocator::Jemalloc;

const ROWS: u32 = 100_000;
/// The attributes of a lean row.
const ATTRIBUTES: &[u8] =
    br#"{"available":"True","image":"registry.example/team/app:1.2.3","ready":3,"replicas":3,"team":"a"}"#;

/// The allocator of the program, with a count of calls and of the bytes that its size classes hold.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator is; each call is handed on unchanged")]
// SAFETY: every call goes to `Jemalloc` with the caller's arguments; `usable_size` is asked of live pointers alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        let pointer = unsafe { Jemalloc.alloc(layout) };
        HELD.fetch_add(unsafe { tikv_jemallocator::usable_size(pointer) } as u64, Ordering::Relaxed);
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(unsafe { tikv_jemallocator::usable_size(pointer) } as u64, Ordering::Relaxed);
        unsafe { Jemalloc.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let store = Store::default();
    let namespace = Namespace::new("team-a");
    let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
    let target = store.register(Origin { target: ObjectKey::new(namespace.clone(), Name::new("deployments")), gvk });
    target.cover(&Coverage::Namespaces(Arc::new(BTreeSet::from([namespace.clone()]))));
    store.complete();

    let empty = held();
    let first = write(&target, &namespace, ATTRIBUTES);
    let rows = held() - empty;
    target.sweep(|_| true, 1);
    let reader = store.table(&namespace).reader();
    reader.acknowledge(reader.plan().seq);
    let quiet = held();
    write(&target, &namespace, &ATTRIBUTES.to_ascii_uppercase());
    let journal = held() - quiet;
    let same = write(&target, &namespace, &ATTRIBUTES.to_ascii_uppercase());
    let bodies = u64::from(ROWS) * body(0, ATTRIBUTES).size() as u64;
    println!(
        r#"{{"row_overhead_bytes":{:.1},"journal_entry_bytes":{:.1},"insert_ns":{:.0},"insert_allocations":{:.2},"unchanged_ns":{:.0},"unchanged_allocations":{:.2}}}"#,
        (rows - bodies) as f64 / f64::from(ROWS),
        journal as f64 / f64::from(ROWS),
        first.0,
        first.1,
        same.0,
        same.1,
    );
}

fn held() -> u64 {
    HELD.load(Ordering::Relaxed)
}

fn body(index: u32, attributes: &[u8]) -> Body {
    Body::new(&format!("application-{index:06}"), attributes).expect("the name is short")
}

/// Writes all rows in an order like that of UIDs. Returns nanoseconds and allocations of one write.
fn write(target: &Target, namespace: &Namespace, attributes: &[u8]) -> (f64, f64) {
    let (mut spent, mut allocated) = (0, 0);
    for index in 0..ROWS {
        // Multiplying by an odd number permutes the 32-bit numbers.
        let uid = Uid::new(&format!("{:08x}-0000-4000-8000-{index:012x}", index.wrapping_mul(0x9E37_79B1)));
        let body = body(index, attributes);
        let (before, started) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
        target.apply(&uid, namespace, body, false, 1);
        spent += started.elapsed().as_nanos();
        allocated += ALLOCATIONS.load(Ordering::Relaxed) - before;
    }
    (spent as f64 / f64::from(ROWS), allocated as f64 / f64::from(ROWS))
}
