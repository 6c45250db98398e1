//! What one object costs, from its text to the attributes of its row.
//!
//! `cargo bench --bench extract` shows the times with their spread; with `-- --json` it prints one line of JSON for
//! `hack/bench/bench.sh extract`, objects a second on one core and allocations per object.
#![expect(clippy::expect_used, reason = "a bench stops at the first surprise")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use kollect::expr::Shape;
use kollect::extract::{Attribute, Extractor, Plan, TypeMeta, decode, peek};

/// A Deployment of 5 KB as a typed list has it: no `apiVersion`, no `kind`, `managedFields` and all.
const DEPLOYMENT: &str = include_str!("fixtures/deployment.json");

const TYPE: TypeMeta<'static> = TypeMeta { api_version: "apps/v1", kind: "Deployment" };

const PATHS: [(&str, &str); 6] = [
    ("image", "$.spec.template.spec.containers[0].image"),
    ("replicas", "$.spec.replicas"),
    ("ready", "$.status.readyReplicas"),
    ("team", "$.metadata.labels.team"),
    ("version", "$.metadata.labels['app.kubernetes.io/version']"),
    ("available", "$.status.conditions[?(@.type==\"Available\")].status"),
];

/// Takes the place of `available`.
const CEL: (&str, &str) =
    ("settled", "cel:has(object.status.readyReplicas) && object.status.readyReplicas == object.spec.replicas");

/// Counts allocations; the rest is the system's.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator is; each call is handed on unchanged")]
// SAFETY: every call goes to `System` with the caller's arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An extractor with the plan that a watch would make of it.
struct Pipeline {
    extractor: Extractor,
    plan: Plan,
    out: Vec<u8>,
}

impl Pipeline {
    fn new(paths: &[(&str, &str)]) -> Self {
        let attributes: Vec<_> = paths
            .iter()
            .map(|(name, path)| Attribute {
                name: (*name).to_owned(),
                path: (*path).to_owned(),
                shape: Shape::Any,
                optional: false,
            })
            .collect();
        let extractor = Extractor::compile(&attributes, &[]).expect("the paths are right");
        let plan = Plan::new([extractor.prefixes()]);
        Self { extractor, plan, out: Vec::new() }
    }

    fn six_paths() -> Self {
        Self::new(&PATHS)
    }

    fn five_paths_and_cel() -> Self {
        Self::new(&[PATHS[0], PATHS[1], PATHS[2], PATHS[3], PATHS[4], CEL])
    }

    fn run(&mut self) {
        let object = decode(black_box(DEPLOYMENT.as_bytes()), &self.plan, TYPE).expect("the object is right");
        self.out.clear();
        self.extractor.extract(&object, &mut self.out).expect("each path has a value");
        black_box(&self.out);
    }
}

fn ignored_any() {
    let _: serde::de::IgnoredAny = serde_json::from_str(black_box(DEPLOYMENT)).expect("the object is right");
}

fn shown_times(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("extract");
    group.throughput(Throughput::Bytes(DEPLOYMENT.len() as u64));
    group.bench_function("ignored_any", |bencher| bencher.iter(ignored_any));
    group.bench_function("peek", |bencher| bencher.iter(|| peek(black_box(DEPLOYMENT.as_bytes())).is_ok()));
    let mut paths = Pipeline::six_paths();
    group.bench_function("path6", |bencher| bencher.iter(|| paths.run()));
    let mut cel = Pipeline::five_paths_and_cel();
    group.bench_function("path5_cel1", |bencher| bencher.iter(|| cel.run()));
    let whole = Plan::whole();
    group
        .bench_function("decode_whole", |bencher| bencher.iter(|| decode(DEPLOYMENT.as_bytes(), &whole, TYPE).is_ok()));
    group.finish();
}

criterion_group!(benches, shown_times);

fn main() {
    if std::env::args().any(|argument| argument == "--json") {
        print_json();
    } else {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}

/// Prints medians of seven runs of half a second each; the four kinds take turns, so that a busy moment hits them all.
fn print_json() {
    let (mut paths, mut cel) = (Pipeline::six_paths(), Pipeline::five_paths_and_cel());
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..7 {
        rates[0].push(rate(|| paths.run()));
        rates[1].push(rate(|| cel.run()));
        rates[2].push(rate(ignored_any));
        rates[3].push(rate(|| {
            black_box(peek(black_box(DEPLOYMENT.as_bytes())).is_ok());
        }));
    }
    let names = ["path", "cel", "ignored_any", "peek"];
    let mut fields = Vec::new();
    for (name, runs) in names.iter().zip(&mut rates) {
        runs.sort_by(f64::total_cmp);
        let runs_text: Vec<_> = runs.iter().map(|run| format!("{run:.0}")).collect();
        fields.push(format!("\"{name}_objects_per_second\":{:.0}", runs[runs.len() / 2]));
        fields.push(format!("\"{name}_objects_per_second_runs\":[{}]", runs_text.join(",")));
    }
    fields.push(format!("\"allocations_per_object\":{}", allocations(|| paths.run())));
    fields.push(format!("\"cel_allocations_per_object\":{}", allocations(|| cel.run())));
    println!("{{{}}}", fields.join(","));
}

/// Returns calls a second of time that this thread was running, which neighbours on the machine do not change.
fn rate(mut work: impl FnMut()) -> f64 {
    let (started, ran_before) = (Instant::now(), time_on_core());
    let mut calls = 0_u32;
    while started.elapsed() < Duration::from_millis(500) {
        for _ in 0..100 {
            work();
        }
        calls += 100;
    }
    let ran = ran_before.and_then(|before| time_on_core()?.checked_sub(before)).filter(|ran| !ran.is_zero());
    f64::from(calls) / ran.unwrap_or_else(|| started.elapsed()).as_secs_f64()
}

/// Returns how long this thread has run, from the first number of its `schedstat`; Linux only.
fn time_on_core() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Returns the allocations of one call, once buffers have their size.
fn allocations(mut work: impl FnMut()) -> u64 {
    work();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}
