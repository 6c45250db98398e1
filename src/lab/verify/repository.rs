//! What the repository says: the files that each inventory owns, what is in them, and how often they were committed.
//!
//! Asked by the git command line on the server's side, so that the code that wrote is not the code that reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Held;
use super::cluster::Files;
use super::item::{self, Item};
use crate::lab::git::Repository;
use crate::lab::process;
use crate::model::ObjectKey;

/// A commit is stamped before it is pushed, in whole seconds; the interval counts from the push.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Commits of a path that a problem names.
const MAX_SHOWN: usize = 5;

/// What stands for a cluster without a name.
pub(super) const UNNAMED: &str = "default";

/// The files of the inventories.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Files that the inventories own.
    pub(super) files: usize,
    /// Rows in them.
    pub(super) items: usize,
    /// The rows by inventory and key. Missing are inventories whose files say nothing but attributes.
    pub(super) held: Held,
    /// Rows of those: one file, one row.
    pub(super) bare: BTreeMap<ObjectKey, usize>,
    /// Files on the branches that no inventory of any cluster owns.
    pub(super) unowned: usize,
    pub(super) commits: usize,
    /// Most commits that touched one path within its interval.
    pub(super) commits_per_interval: usize,
    /// What is wrong, each in a sentence.
    pub(super) problems: Vec<String>,
}

/// Reads the files of these inventories; `asked` commits of each may come sooner than its interval.
pub(super) fn read(dir: &Path, cluster: &str, inventories: &BTreeMap<ObjectKey, Files>, asked: usize) -> Result<Tree> {
    let repository = Repository::open(dir);
    refresh(&repository)?;
    let refs = repository.refs()?;
    let (mut tree, mut owners) = (Tree::default(), BTreeMap::<&str, BTreeMap<String, &ObjectKey>>::new());
    let cluster = if cluster.is_empty() { UNNAMED } else { cluster };
    for (key, files) in inventories {
        let reference = format!("refs/kollect/{cluster}/{}/{}", key.namespace, key.name);
        let owned = owners.entry(&files.branch).or_default();
        if !refs.contains_key(&reference) {
            tree.problems.push(format!("{key}: the repository has no {reference}"));
            continue;
        }
        for path in tree.add(&repository, key, &reference)? {
            owned.insert(path, key);
        }
    }
    for (branch, owned) in &owners {
        if !refs.contains_key(&format!("refs/heads/{branch}")) {
            tree.problems.push(format!("the repository has no branch {branch}"));
            continue;
        }
        tree.compare(&repository, branch, owned, &refs, cluster)?;
        let intervals = owned.iter().map(|(path, key)| (path.as_str(), interval(inventories, key))).collect();
        tree.count_commits(&repository, branch, &intervals, asked)?;
    }
    Ok(tree)
}

fn interval(inventories: &BTreeMap<ObjectKey, Files>, key: &ObjectKey) -> Duration {
    inventories.get(key).map(|files| files.interval).unwrap_or_default()
}

impl Tree {
    /// Adds what an inventory owns and returns the paths.
    fn add(&mut self, repository: &Repository, key: &ObjectKey, reference: &str) -> Result<Vec<String>> {
        let files = repository.files(reference)?;
        self.files += files.len();
        let (mut rows, mut bare) = (HashMap::new(), 0);
        for (path, content) in &files {
            let found = item::items(content).with_context(|| format!("failed to read {path} of {key}"))?;
            let Some(found) = found else {
                bare += 1;
                continue;
            };
            for json in found {
                self.items += 1;
                match Item::read(json) {
                    Ok(item) => {
                        if rows.insert(item.key.clone(), item.said).is_some() {
                            self.problems.push(format!("{key}: {} is in two files, one of them {path}", item.key.uid));
                        }
                    }
                    Err(error) => self.problems.push(format!("{key}: {path}: {error:#}")),
                }
            }
        }
        if rows.is_empty() && bare > 0 {
            self.items += bare;
            self.bare.insert(key.clone(), bare);
        } else {
            self.held.insert(key.clone(), rows);
        }
        Ok(files.into_keys().collect())
    }

    /// Compares the owned files with what is on the branch, and counts the files that nobody owns.
    fn compare(
        &mut self,
        repository: &Repository,
        branch: &str,
        owned: &BTreeMap<String, &ObjectKey>,
        refs: &BTreeMap<String, String>,
        cluster: &str,
    ) -> Result<()> {
        let mut rest = blobs(repository, &format!("refs/heads/{branch}"))?;
        let owners: BTreeSet<&ObjectKey> = owned.values().copied().collect();
        for key in owners {
            let reference = format!("refs/kollect/{cluster}/{}/{}", key.namespace, key.name);
            for (path, blob) in blobs(repository, &reference)? {
                match rest.remove(&path) {
                    Some(there) if there == blob => {}
                    Some(_) => self.problems.push(format!("{key}: {path} on {branch} is not the file that is owned")),
                    None => self.problems.push(format!("{key}: {path} is not on {branch}")),
                }
            }
        }
        for reference in refs.keys().filter(|name| name.starts_with("refs/kollect/")) {
            for path in blobs(repository, reference)?.keys() {
                rest.remove(path);
            }
        }
        self.unowned += rest.keys().filter(|path| !path.starts_with(".kollect/")).count();
        Ok(())
    }

    fn count_commits(
        &mut self,
        repository: &Repository,
        branch: &str,
        intervals: &HashMap<&str, Duration>,
        asked: usize,
    ) -> Result<()> {
        let log = ["-c", "core.quotePath=false", "log", "--format=tformat:%x01%ct %h %s", "--name-only", branch, "--"];
        let log = process::run(repository.git().args(log)).context("failed to read the commits")?;
        let mut commits: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
        let mut commit = (0, "");
        for line in log.lines().filter(|line| !line.is_empty()) {
            if let Some(line) = line.strip_prefix('\x01') {
                let (time, rest) = line.split_once(' ').context("a commit without a time")?;
                commit = (time.parse().context("a commit without a time")?, rest);
                self.commits += 1;
            } else if intervals.contains_key(line) {
                commits.entry(line).or_default().push(commit);
            }
        }
        for (path, commits) in commits {
            let interval = intervals.get(path).copied().unwrap_or_default();
            let times = commits.iter().map(|(time, _)| *time).collect();
            let most = most_within(times, interval.saturating_sub(TOLERANCE));
            self.commits_per_interval = self.commits_per_interval.max(most);
            if !interval.is_zero() && most > 1 + asked {
                let shown: Vec<String> =
                    commits.iter().take(MAX_SHOWN).map(|(time, commit)| format!("at {time} {commit}")).collect();
                let shown = shown.join(", ");
                self.problems.push(format!("{path} was committed {most} times within {interval:?}; the last: {shown}"));
            }
        }
        Ok(())
    }
}

/// Brings a mirror up to date, so that who waits sees what is pushed meanwhile.
fn refresh(repository: &Repository) -> Result<()> {
    let remotes = process::run(repository.git().arg("remote")).context("failed to read the remotes")?;
    if !remotes.trim().is_empty() {
        process::run(repository.git().args(["remote", "update", "--prune"])).context("failed to update the mirror")?;
    }
    Ok(())
}

/// Returns the blobs of a revision by path.
fn blobs(repository: &Repository, revision: &str) -> Result<BTreeMap<String, String>> {
    let list = ["ls-tree", "-r", "-z", "--format=%(objectname) %(path)", revision];
    let list = process::run(repository.git().args(list)).with_context(|| format!("failed to list {revision}"))?;
    let entry = |entry: &str| entry.split_once(' ').map(|(blob, path)| (path.to_owned(), blob.to_owned()));
    Ok(list.split_terminator('\0').filter_map(entry).collect())
}

/// Returns the largest number of moments that are less than this apart.
fn most_within(mut seconds: Vec<u64>, interval: Duration) -> usize {
    seconds.sort_unstable();
    let mut most = 0;
    let mut first = seconds.iter().peekable();
    for (index, last) in seconds.iter().enumerate() {
        while first.peek().is_some_and(|first| *last - **first >= interval.as_secs().max(1)) {
            first.next();
        }
        most = most.max(index + 1 - (seconds.len() - first.len()));
    }
    most
}

#[cfg(test)]
mod tests;
