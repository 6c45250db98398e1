//! What was found, as figures and sentences.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Inventories whose digests are printed; the object in JSON has those of all.
const PRINTED: usize = 3;

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
    /// Objects that the inventories have in the bucket.
    pub bucket_objects: Option<usize>,
    /// Rows in those objects.
    pub bucket_rows: Option<usize>,
    /// Objects in the bucket that no inventory owns.
    pub bucket_unowned_objects: Option<usize>,
    /// Messages of the inventories in the stream of NATS.
    pub stream_messages: Option<usize>,
    /// Rows that those messages add up to.
    pub stream_rows: Option<usize>,
    /// Messages of the inventories in the topic of Kafka.
    pub topic_messages: Option<usize>,
    /// Rows that those messages add up to.
    pub topic_rows: Option<usize>,
    /// Inventories whose rows have one digest in all sinks that were looked at.
    pub equal_inventories: Option<usize>,
    /// What each sink holds of each inventory, where several were looked at.
    pub digests: BTreeMap<String, BTreeMap<String, Sum>>,
    /// How long looking took.
    pub seconds: f64,
}

/// Number and order-free digest of the rows of an inventory in one sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// How many.
    pub rows: usize,
    /// 64 hex digits.
    pub digest: String,
}

impl Verdict {
    /// Tells whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn problem(&mut self, problem: impl Into<String>) {
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
            ("objects of the inventories", count(self.bucket_objects)),
            ("rows in them", count(self.bucket_rows)),
            ("objects of nobody", count(self.bucket_unowned_objects)),
            ("messages in the stream", count(self.stream_messages)),
            ("rows that they add up to", count(self.stream_rows)),
            ("messages in the topic", count(self.topic_messages)),
            ("rows that they add up to", count(self.topic_rows)),
            ("inventories equal in all sinks", count(self.equal_inventories)),
        ];
        for (name, figure) in lines {
            writeln!(f, "{name:<32} {figure:>10}")?;
        }
        for (inventory, sums) in self.digests.iter().take(PRINTED) {
            for (place, Sum { rows, digest }) in sums {
                writeln!(f, "{:<32} {rows:>10} {digest}", format!("{inventory} in {place}"))?;
            }
        }
        if self.digests.len() > PRINTED {
            writeln!(f, "and {} more inventories", self.digests.len() - PRINTED)?;
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
