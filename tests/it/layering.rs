//! Data travels down the list of modules and never turns back: which module may name which, and who may name the crates
//! of vendors. Only text is read; nothing is started.
//!
//! Tests inside `src` are left out: a test may use what stands above it to set a stage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, iter};

/// All modules in the order of `src/lib.rs`, grouped by rank. A module may use those before it, and [`SHARED`].
///
/// The pure ones stand above those that talk to the world (`docs/adr/0006-module-order.md`).
const RANKS: &[&[&str]] = &[
    &["error", "secret", "model", "duration", "canonical", "expr", "metrics"],
    &["api", "validate", "config"],
    &["extract"],
    &["export", "store"],
    &["schedule"],
    &["watch"],
    &["sinks"],
    &["deliver"],
    &["admission", "lease", "status", "control"],
    &["http", "telemetry", "runtime", "cli"],
    &["lab"],
];

/// What everybody may use.
const SHARED: &[&str] = &["error", "secret", "model", "metrics"];

/// What the order would permit and the design does not: the first never sees the second.
const NEVER: &[(&str, &str)] =
    &[("schedule", "store"), ("sinks", "store"), ("sinks", "schedule"), ("sinks", "watch"), ("deliver", "watch")];

/// Who may talk to the API server, or name its types.
const CLUSTER: &[&str] = &[
    "api",
    "validate",
    "watch",
    "deliver",
    "lease",
    "status",
    "control",
    "http/auth",
    "http/admission",
    "runtime",
    "bin/",
    "lab",
];

/// Crates of vendors, and the files that may name them: a module (`sinks/postgres`), or a folder with a slash at its end.
const VENDORS: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["sinks/postgres", "lab"]),
    ("deadpool_postgres", &["sinks/postgres"]),
    ("tokio_postgres_rustls", &["sinks/postgres"]),
    ("rdkafka", &["sinks/kafka", "lab"]),
    ("object_store", &["sinks/object"]),
    ("parquet", &["sinks/object", "lab"]),
    ("async_nats", &["sinks/nats", "lab"]),
    ("nkeys", &["sinks/nats", "lab"]),
    ("axum", &["http", "lab"]),
    ("prometheus", &["metrics"]),
    ("cel", &["expr"]),
    ("clap", &["config", "cli", "main", "bin/", "lab"]),
    ("tikv_jemallocator", &["main", "bin/"]),
    ("tikv_jemalloc_ctl", &["runtime/allocator"]),
    ("jemalloc_pprof", &["http/pprof"]),
    ("libc", &["http/pprof", "sinks/kafka/native"]),
    ("backtrace", &["http/pprof"]),
    ("tracing_subscriber", &["telemetry", "bin/", "lab"]),
    ("kube", CLUSTER),
    ("k8s_openapi", CLUSTER),
    ("rcgen", &["http/tls", "http/admission", "lab"]),
    ("anyhow", &["main", "cli", "bin/", "lab", "sinks/contract"]),
];

#[test]
fn every_module_has_its_rank() {
    let known: BTreeSet<&str> = RANKS.concat().into_iter().collect();
    let found = sources().into_iter().map(|source| source.module()).collect::<BTreeSet<_>>();
    let strangers: Vec<_> = found
        .iter()
        .filter(|module| !matches!(module.as_str(), "lib" | "main" | "bin") && !known.contains(module.as_str()))
        .collect();
    assert!(strangers.is_empty(), "give these modules their place in RANKS: {strangers:?}");
}

#[test]
fn the_list_in_lib_is_in_the_order_of_the_ranks() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let rank = |module: &str| RANKS.iter().position(|rank| rank.contains(&module));
    let ranks: Vec<_> = modules.map(rank).collect();
    assert!(ranks.is_sorted(), "{ranks:?}");
}

#[test]
fn modules_use_only_what_stands_above_them() {
    let wrong: Vec<String> = sources().iter().flat_map(upward_uses).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn vendor_crates_stay_in_their_folder() {
    let wrong: Vec<String> = sources().iter().flat_map(stray_vendors).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_scan_sees_what_it_should() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: strip(text) };
    let named = |text: &str| crate_paths(&strip(text)).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(named("use crate::store::Store;\nfn f() { crate::watch::go() }"), "store watch");
    assert_eq!(
        named("use crate::{\n    error::{Class, Classify},\n    store, // crate::lab\n    sinks as s,\n};"),
        "error sinks store"
    );
    assert_eq!(named("// crate::store\n/// [`crate::watch`]\n#[cfg(test)]\nmod tests { use crate::cli; }"), "");

    assert_eq!(upward_uses(&source("store/table.rs", "use crate::watch::X;")).len(), 1);
    assert_eq!(upward_uses(&source("store/table.rs", "use crate::{extract, metrics, store::Y};")).len(), 0);
    assert_eq!(upward_uses(&source("sinks/postgres.rs", "use crate::store::X;")).len(), 1);
    assert_eq!(upward_uses(&source("model.rs", "use crate::metrics::X;")).len(), 0);

    assert_eq!(stray_vendors(&source("store.rs", "use kube::Client;")).len(), 1);
    assert_eq!(stray_vendors(&source("watch.rs", "let c: kube::Client = make(tokio_postgres::NoTls);")).len(), 1);
    assert_eq!(stray_vendors(&source("sinks/postgres/write.rs", "use tokio_postgres::Row;")).len(), 0);
    assert_eq!(stray_vendors(&source("sinks/postgresql.rs", "use tokio_postgres::Row;")).len(), 1);
    assert_eq!(stray_vendors(&source("extract.rs", "use crate::expr::cel::Program; let kube = 1;")).len(), 0);
}

/// One file of `src`, without comments and tests.
struct Source {
    /// Relative to `src`, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Returns the top-level module.
    fn module(&self) -> String {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
    }

    /// Tells whether the file belongs to a module such as `sinks/postgres`, or to a folder such as `bin/`.
    fn is_in(&self, place: &str) -> bool {
        self.path.strip_prefix(place).is_some_and(|rest| place.ends_with('/') || rest == ".rs" || rest.starts_with('/'))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "found almost nothing in {}", root.display());
    files.sort();
    let read = |file: &PathBuf| Source {
        path: file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/"),
        text: strip(&fs::read_to_string(file).unwrap()),
    };
    files.iter().filter(|file| file.file_name().is_some_and(|name| name != "tests.rs")).map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "tests") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Takes away line comments, and the tests at the foot of a file.
fn strip(text: &str) -> String {
    let code = text.lines().take_while(|line| *line != "#[cfg(test)]" && !line.starts_with("#[cfg(all(test"));
    code.map(|line| line.split_once("//").map_or(line, |(code, _)| code)).flat_map(|line| [line, "\n"]).collect()
}

fn upward_uses(source: &Source) -> Vec<String> {
    let order = RANKS.concat();
    let module = source.module();
    let Some(own) = order.iter().position(|name| *name == module) else { return Vec::new() };
    let wrong = |used: &String| {
        let Some(theirs) = order.iter().position(|name| name == used) else { return false };
        let never = NEVER.contains(&(module.as_str(), used.as_str()));
        never || (theirs > own && !SHARED.contains(&used.as_str()))
    };
    let used = crate_paths(&source.text);
    used.iter().filter(|used| wrong(used)).map(|used| format!("src/{}: must not use `{used}`", source.path)).collect()
}

/// Returns the top-level modules that the text names after `crate::`.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, start) in text.match_indices("crate::") {
        let (before, path) = around(text, at, start);
        if before.ends_with(is_word) || before.ends_with('$') {
            continue;
        }
        match path.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(iter::once(head(path))),
        }
    }
    found
}

/// Returns the first names of a group `{a::b, c::{d, e}, f}`, of which the brace is already read.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut expected) = (0_u32, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && is_word(c) => {
                heads.push(head(group.split_at(at).1));
                expected = false;
            }
            _ => {}
        }
    }
    heads
}

/// Returns what stands before and after `found`, which starts at a byte of the text.
fn around<'a>(text: &'a str, at: usize, found: &str) -> (&'a str, &'a str) {
    (text.split_at(at).0, text.split_at(at + found.len()).1)
}

fn head(path: &str) -> String {
    path.chars().take_while(|c| is_word(*c)).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn stray_vendors(source: &Source) -> Vec<String> {
    let stray = |(vendor, places): &&(&str, &[&str])| {
        names_crate(&source.text, vendor) && !places.iter().any(|place| source.is_in(place))
    };
    VENDORS.iter().filter(stray).map(|(vendor, _)| format!("src/{}: must not name `{vendor}`", source.path)).collect()
}

/// Tells whether the text uses `vendor::` as a crate, and not as the end of a longer path or name.
fn names_crate(text: &str, vendor: &str) -> bool {
    text.match_indices(vendor).any(|(at, _)| {
        let (before, after) = around(text, at, vendor);
        let starts = !before.ends_with(is_word) && (!before.ends_with("::") || before.ends_with(" ::"));
        let imported = before.ends_with("use ") && after.starts_with([';', ' ']);
        starts && (after.starts_with("::") || imported)
    })
}
