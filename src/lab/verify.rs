//! Whether everything is where it belongs, said by the parts themselves: the API server, the operator's metrics and
//! status, the table, the repository.
//!
//! The claim that is checked: objects that the filters accept = rows in the store = rows of the inventories = rows of the
//! table = items in files, by number and by UID; the digest of the rows as they are stored is the one that the operator
//! keeps beside them and shows; no key is there twice; somebody still watches; nobody commits more often than allowed.
//! Nothing is written anywhere.
//!
//! The filters are read again from the targets, by other code than the operator's, and so are the scopes of their
//! namespaces. What else narrows a target from outside (flags of the operator, the label `kollect.dev/watch`) is not looked at.
//!
//! What is compared has to be at rest. While objects change, or a change waits for its interval, numbers differ and the
//! verdict says so; whoever wants to know asks again.

mod cluster;
mod item;
mod repository;
mod scope;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::operator::{Metrics, http_get};
use crate::model::{ObjectKey, RowKey};

/// An inventory whose last heartbeat is older is watched by nobody; what `docs/sinks/postgres.md` tells readers.
const SILENCE: Duration = Duration::from_mins(5);

/// More problems are only counted.
const PROBLEMS: usize = 50;

/// Between two looks of somebody who waits.
const PAUSE: Duration = Duration::from_secs(1);

/// What a sink holds of each inventory: the hash of each row.
type Held = BTreeMap<ObjectKey, HashMap<RowKey, [u64; 4]>>;

/// Where to look.
#[derive(Clone)]
pub struct Sources {
    /// A client that may list the collected kinds, namespaces, and the kinds of Kollect.
    pub client: Client,
    /// Address of the operator's metrics endpoint without TLS, for example `http://127.0.0.1:8080/metrics`. Without it
    /// the store is not part of the comparison.
    pub metrics: Option<String>,
    /// Connection string of the database, without TLS. Without it no table is looked at.
    pub database: Option<String>,
    /// The table of rows; that of states has `_state` behind it.
    pub table: String,
    /// Directory of the bare repository; one that is a mirror is brought up to date first. Without it no files are looked at.
    pub git: Option<PathBuf>,
    /// The `spec.cluster` of the sinks.
    pub cluster: String,
    /// Label selector of the namespaces whose inventories are looked at, for example `kollect.dev/loadtest=100k`.
    pub namespaces: String,
    /// Commits of an inventory that were asked for (`kollect.dev/export-now`), beyond what its interval allows.
    pub commits_asked: usize,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// What is wrong, each in a sentence. Empty: everything is where it belongs.
    pub problems: Vec<String>,
    /// Namespaces looked at.
    pub namespaces: usize,
    /// Inventories looked at.
    pub inventories: usize,
    /// Objects at the API server that the targets' filters accept; one that two targets collect counts twice.
    pub objects: usize,
    /// The gauge `kollect_collect_items_total`.
    pub store_rows: Option<usize>,
    /// Sum of `status.itemCount` over the inventories.
    pub inventory_rows: usize,
    /// Bindings (inventory and sink) that say that they are synced.
    pub synced_bindings: usize,
    /// Rows of the table.
    pub table_rows: Option<usize>,
    /// Inventories whose digest is the same in the rows themselves, in the state table and in their status.
    pub table_digests: Option<usize>,
    /// Seconds since the oldest heartbeat of the inventories.
    pub heartbeat_seconds: Option<f64>,
    /// Seconds since the newest write to the table.
    pub write_seconds: Option<f64>,
    /// Files that the inventories own.
    pub git_files: Option<usize>,
    /// Rows in those files.
    pub git_items: Option<usize>,
    /// Files on the branch that no inventory owns.
    pub git_unowned_files: Option<usize>,
    /// Commits on the branch of the repository.
    pub git_commits: Option<usize>,
    /// Most commits that touched one path within one interval.
    pub git_commits_per_interval: Option<usize>,
    /// How long looking took.
    pub seconds: f64,
}

impl Verdict {
    /// Tells whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }
}

impl fmt::Display for Verdict {
    /// Prints a line for each figure and each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |figure: Option<usize>| figure.map_or("-".to_owned(), |figure| figure.to_string());
        let age = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
        let lines = [
            ("namespaces", self.namespaces.to_string()),
            ("inventories", self.inventories.to_string()),
            ("objects that the filters accept", self.objects.to_string()),
            ("rows in the store", count(self.store_rows)),
            ("items of the inventories", self.inventory_rows.to_string()),
            ("bindings that are synced", self.synced_bindings.to_string()),
            ("rows in the table", count(self.table_rows)),
            ("inventories with equal digests", count(self.table_digests)),
            ("oldest heartbeat", age(self.heartbeat_seconds)),
            ("last write to the table", age(self.write_seconds)),
            ("files of the inventories", count(self.git_files)),
            ("items in them", count(self.git_items)),
            ("files of nobody", count(self.git_unowned_files)),
            ("commits", count(self.git_commits)),
            ("most commits in one interval", count(self.git_commits_per_interval)),
        ];
        for (name, figure) in lines {
            writeln!(f, "{name:<32} {figure:>10}")?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM {problem}")?;
        }
        if self.is_ok() {
            writeln!(f, "Everything is where it belongs ({:.1} s).", self.seconds)?;
        }
        Ok(())
    }
}

/// Looks everywhere and compares. What is wrong in the cluster is part of the verdict.
///
/// # Errors
/// When a source cannot be read.
pub async fn verify(sources: &Sources) -> Result<Verdict> {
    let started = Instant::now();
    let mut verdict = Verdict::default();
    let found = cluster::read(&sources.client, &sources.namespaces, &sources.cluster).await?;
    look_at_status(&mut verdict, &found);
    if let Some(url) = &sources.metrics {
        look_at_metrics(&mut verdict, url).await?;
    }
    let table = look_at_table(&mut verdict, sources, &found).await?;
    let files = look_at_files(&mut verdict, sources, &found).await?;
    if let (Some(table), Some(files)) = (&table, &files) {
        compare_contents(&mut verdict, table, files);
    }
    let more = verdict.problems.len().saturating_sub(PROBLEMS);
    verdict.problems.truncate(PROBLEMS);
    if more > 0 {
        verdict.problem(format!("and {more} more"));
    }
    verdict.seconds = started.elapsed().as_secs_f64();
    Ok(verdict)
}

/// Looks again and again until nothing is wrong, for so long, and returns the last verdict. A source that cannot be read
/// is waited for, too.
///
/// # Errors
/// When a source cannot be read in the end.
pub async fn verified_within(sources: &Sources, limit: Duration) -> Result<Verdict> {
    let deadline = Instant::now() + limit;
    loop {
        let verdict = verify(sources).await;
        if Instant::now() >= deadline || verdict.as_ref().is_ok_and(Verdict::is_ok) {
            return verdict;
        }
        sleep(PAUSE).await;
    }
}

/// Compares what the inventories say of themselves with the objects.
fn look_at_status(verdict: &mut Verdict, found: &cluster::Found) {
    verdict.namespaces = found.namespaces;
    verdict.inventories = found.inventories.len();
    verdict.objects = found.objects;
    if found.inventories.is_empty() {
        verdict.problem("there is no inventory in these namespaces");
    }
    for (key, inventory) in &found.inventories {
        let items = usize::try_from(inventory.status.item_count).unwrap_or_default();
        verdict.inventory_rows += items;
        if items != inventory.wanted.len() {
            verdict.problem(format!("{key}: its status has {items} items of {} objects", inventory.wanted.len()));
        }
        for sink in &inventory.sinks {
            let export = inventory.status.sink_exports.iter().find(|export| export.name == *sink);
            let synced = export.and_then(|export| export.conditions.iter().find(|one| one.type_ == "Synced"));
            match (export, synced) {
                (Some(export), Some(synced)) if synced.status == "True" && export.lag.is_none() => {
                    verdict.synced_bindings += 1;
                }
                (_, Some(synced)) => {
                    verdict.problem(format!("{key}: {sink} is not up to date: {}: {}", synced.reason, synced.message));
                }
                (_, None) => verdict.problem(format!("{key}: nothing is said of {sink}")),
            }
        }
    }
}

/// Compares the store with the objects.
async fn look_at_metrics(verdict: &mut Verdict, url: &str) -> Result<()> {
    let address = url.strip_prefix("http://").with_context(|| format!("{url} does not begin with http://"))?;
    let (address, path) = address.split_once('/').unwrap_or((address, "metrics"));
    let metrics = Metrics::parse(&http_get(address, &format!("/{path}")).await?);
    let rows = metrics.get("kollect_collect_items_total").context("there is no kollect_collect_items_total")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let rows = rows as usize;
    verdict.store_rows = Some(rows);
    if rows != verdict.objects {
        verdict.problem(format!("the store has {rows} rows of {} objects", verdict.objects));
    }
    Ok(())
}

/// Compares the table with the objects, and with what is said of it.
async fn look_at_table(
    verdict: &mut Verdict,
    sources: &Sources,
    found: &cluster::Found,
) -> Result<Option<table::Table>> {
    let Some(dsn) = &sources.database else { return Ok(None) };
    let Some(table) = table::read(dsn, &sources.table, &sources.cluster).await? else {
        verdict.problem(format!("there is no table {}", sources.table));
        return Ok(None);
    };
    verdict.table_rows = Some(table.rows);
    if table.duplicates > 0 {
        verdict.problem(format!("{} rows of the table have the key of another", table.duplicates));
    }
    if let Some(odd) = table.odd.first() {
        verdict.problem(format!("{} rows of the table are odd, for example {odd}", table.odd.len()));
    }
    compare_keys(verdict, "the table", found, &table.held);
    let mut equal = 0;
    for (key, inventory) in &found.inventories {
        if compare_digests(verdict, key, inventory, &table) {
            equal += 1;
        }
    }
    verdict.table_digests = Some(equal);
    for key in table.states.keys().filter(|key| !found.inventories.contains_key(key)) {
        verdict.problem(format!("the table has a state of {key}, which is no inventory here"));
    }
    let states = || table.states.values();
    verdict.heartbeat_seconds = states().map(|state| state.heartbeat_seconds).reduce(f64::max);
    verdict.write_seconds = states().filter_map(|state| state.write_seconds).reduce(f64::min);
    Ok(Some(table))
}

/// Compares the digest of the rows as they are stored with the one in the state and the one in the status.
fn compare_digests(
    verdict: &mut Verdict,
    key: &ObjectKey,
    inventory: &cluster::Inventory,
    table: &table::Table,
) -> bool {
    let Some(state) = table.states.get(key) else {
        verdict.problem(format!("{key}: the table has no state of it"));
        return false;
    };
    let before = verdict.problems.len();
    if state.heartbeat_seconds > SILENCE.as_secs_f64() {
        verdict.problem(format!("{key}: its last heartbeat is {:.0} s old", state.heartbeat_seconds));
    }
    let rows = table.held.get(key).map_or(0, HashMap::len);
    if usize::try_from(state.rows).ok() != Some(rows) {
        verdict.problem(format!("{key}: the table has {rows} rows, its state says {}", state.rows));
    }
    let digest = table.digests.get(key).copied().unwrap_or_default().to_string();
    if state.digest != digest {
        verdict.problem(format!("{key}: the digest of the rows is {digest}, that of the state {}", state.digest));
    }
    let exports = inventory.status.sink_exports.iter().filter(|export| export.name.starts_with("database/"));
    for export in exports.filter(|export| export.last_checksum != digest) {
        let (sink, shown) = (&export.name, &export.last_checksum);
        verdict.problem(format!("{key}: the digest of the rows is {digest}, the status of {sink} has {shown}"));
    }
    verdict.problems.len() == before
}

/// Compares the files with the objects.
async fn look_at_files(
    verdict: &mut Verdict,
    sources: &Sources,
    found: &cluster::Found,
) -> Result<Option<repository::Tree>> {
    let Some(dir) = sources.git.clone() else { return Ok(None) };
    let places: BTreeMap<ObjectKey, cluster::Files> =
        found.inventories.iter().filter_map(|(key, one)| Some((key.clone(), one.files.clone()?))).collect();
    let (cluster, asked) = (sources.cluster.clone(), sources.commits_asked);
    let read = move || repository::read(&dir, &cluster, &places, asked);
    let mut tree = tokio::task::spawn_blocking(read).await.context("the repository could not be read")??;
    verdict.problems.append(&mut tree.problems);
    verdict.git_files = Some(tree.files);
    verdict.git_items = Some(tree.items);
    verdict.git_unowned_files = Some(tree.unowned);
    verdict.git_commits = Some(tree.commits);
    verdict.git_commits_per_interval = Some(tree.commits_per_interval);
    let with_files = found.inventories.iter().filter(|(_, inventory)| inventory.files.is_some());
    for (key, inventory) in with_files {
        match tree.bare.get(key) {
            Some(files) if *files == inventory.wanted.len() => {}
            Some(files) => {
                verdict
                    .problem(format!("{key}: the repository has {files} files of {} objects", inventory.wanted.len()));
            }
            None => compare_rows(verdict, "the repository", key, inventory, tree.held.get(key)),
        }
    }
    Ok(Some(tree))
}

/// Compares the rows of a place with the objects, of all inventories.
fn compare_keys(verdict: &mut Verdict, place: &str, found: &cluster::Found, held: &Held) {
    for (key, inventory) in &found.inventories {
        compare_rows(verdict, place, key, inventory, held.get(key));
    }
    for (key, rows) in held.iter().filter(|(key, _)| !found.inventories.contains_key(key)) {
        verdict.problem(format!("{place} has {} rows of {key}, which is no inventory here", rows.len()));
    }
}

/// Compares the rows of a place with the objects, of one inventory.
fn compare_rows(
    verdict: &mut Verdict,
    place: &str,
    key: &ObjectKey,
    inventory: &cluster::Inventory,
    held: Option<&HashMap<RowKey, [u64; 4]>>,
) {
    let missing = || inventory.wanted.iter().filter(|row| !held.is_some_and(|held| held.contains_key(row)));
    if let Some(example) = missing().min() {
        let (target, uid) = (&example.target, &example.uid);
        let count = missing().count();
        verdict.problem(format!("{key}: {place} lacks {count} objects, for example {uid} of target {target}"));
    }
    let surplus = || held.into_iter().flat_map(HashMap::keys).filter(|row| !inventory.wanted.contains(row));
    if let Some(example) = surplus().min() {
        let (target, uid) = (&example.target, &example.uid);
        let count = surplus().count();
        verdict.problem(format!("{key}: {place} has {count} rows of no object, for example {uid} of target {target}"));
    }
}

/// Compares the rows of the table with those in the files, where both have them.
fn compare_contents(verdict: &mut Verdict, table: &table::Table, tree: &repository::Tree) {
    for (key, files) in &tree.held {
        let Some(rows) = table.held.get(key) else { continue };
        let differ = || files.iter().filter(|(row, hash)| rows.get(*row).is_some_and(|other| other != *hash));
        if let Some((example, _)) = differ().min() {
            let count = differ().count();
            verdict.problem(format!("{key}: {count} rows differ between table and files, for example {}", example.uid));
        }
    }
}

#[cfg(test)]
mod tests;
