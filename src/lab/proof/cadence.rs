//! How often the files of a repository were committed.

use std::collections::BTreeMap;

use anyhow::Result;

use super::super::git::{BRANCH, Repository};
use super::super::process;

/// Returns the times of the commits of each path, in seconds since 1970, ascending.
pub(super) fn commits_of_paths(repository: &Repository) -> Result<BTreeMap<String, Vec<i64>>> {
    let mut command = repository.git();
    command.args(["log", "--reverse", "--format=%x00%ct", "--name-only", BRANCH, "--"]);
    Ok(parse(&process::run(&mut command)?))
}

fn parse(log: &str) -> BTreeMap<String, Vec<i64>> {
    let mut paths: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in log.split('\0').skip(1) {
        let mut lines = record.lines().filter(|line| !line.is_empty());
        let Some(Ok(time)) = lines.next().map(str::parse) else { continue };
        for path in lines {
            paths.entry(path.to_owned()).or_default().push(time);
        }
    }
    for times in paths.values_mut() {
        times.sort_unstable();
    }
    paths
}

/// Returns the most commits of one path within one interval. A commit is stamped before it is pushed, and in whole
/// seconds, so an interval counts as a second less.
pub(super) fn most_within(paths: &BTreeMap<String, Vec<i64>>, seconds: u64) -> usize {
    let window = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_sub(1);
    let most = |times: &Vec<i64>| {
        let from = |(index, first): (usize, &i64)| {
            times.iter().skip(index).take_while(|time| **time - first < window.max(1)).count()
        };
        times.iter().enumerate().map(from).max().unwrap_or_default()
    };
    paths.values().map(most).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\u{0}100\n\na/i.json\n\u{0}101\n\nb/i.json\n\u{0}3700\n\na/i.json\nb/i.json\n";

    #[test]
    fn commits_are_told_apart_by_path() {
        let paths = parse(LOG);
        assert_eq!(paths["a/i.json"], [100, 3700]);
        assert_eq!(paths["b/i.json"], [101, 3700]);
    }

    #[test]
    fn one_commit_in_an_interval_is_the_cadence() {
        let paths = parse(LOG);
        assert_eq!(most_within(&paths, 3_600), 1, "3,599 seconds apart by their stamps");
        assert_eq!(most_within(&paths, 3_700), 2);
        assert_eq!(most_within(&BTreeMap::new(), 3_600), 0);
    }
}
