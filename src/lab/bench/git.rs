//! The git sink alone: the first push of a file for each row, and then small deltas, beside the git command line.
//!
//! No API server and no operator: the sink is driven as the operator drives it, through [`GitRepositories`] and
//! [`RowSink`]. The remote is a bare repository behind `git http-backend` on loopback, for the sink and for the command
//! line alike. The yardstick of a first push is `git fast-import` of the same files into an empty repository and `git
//! push` from there; that of a delta is `git add`, `git commit` and `git push` in a clone with a work tree, in which the
//! files were changed before the clock runs.
//!
//! Memory is the peak that the kernel counts for this process, reset before each measurement, less what was in use then.
//! The front of the git server is part of it, git itself is not.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::git::{HttpServer, Repositories, Repository, Scheme};
use super::super::process;
use super::copy::{row, rows, scope};
use super::report::{self, Report};
use super::{Bench, Values};
use crate::api::v1alpha1::sink::LayoutMode;
use crate::export::layout::{Layout, LayoutSpec};
use crate::export::{Base, Selection};
use crate::model::{Cluster, Family, Name, Namespace, ObjectKey, Row, SinkKey};
use crate::sinks::git::{GitConfig, GitRepositories, MirrorPlaces};
use crate::sinks::netguard::Guard;
use crate::sinks::{Backend, RowSink, contract};

/// Files of a delta, and deltas of a round.
const DELTA_FILES: usize = 100;
const DELTAS: usize = 5;

/// Measures as many rounds as there are runs.
pub(super) async fn run(bench: &Bench) -> Result<Value> {
    ensure!(bench.rows >= DELTA_FILES, "--rows must be at least {DELTA_FILES}");
    let rows = rows(bench.rows)?;
    let mut report = Report::default();
    for round in 1..=bench.runs {
        let repositories = Repositories::new()?;
        let server = HttpServer::start(&repositories, Scheme::Http)?;
        let stage = Stage { repositories, server, rows: &rows };
        let mut measured = Vec::new();
        if round % 2 == 0 {
            measured.push(stage.command_line()?);
        }
        measured.extend(stage.sink().await?);
        if round % 2 == 1 {
            measured.push(stage.command_line()?);
        }
        for values in measured {
            eprintln!("round {round}: {}", report::line(&values));
            report.add(&values);
        }
    }
    Ok(report.finish(&[
        ("bench", json!(bench.name.as_str())),
        ("rows", json!(bench.rows)),
        ("delta_files", json!(DELTA_FILES)),
    ]))
}

struct Stage<'a> {
    repositories: Repositories,
    server: HttpServer,
    rows: &'a [Row],
}

impl Stage<'_> {
    /// Measures a first push, deltas, and a restart that finds nothing to do.
    async fn sink(&self) -> Result<Vec<Values>> {
        let repository = self.repositories.create("sink")?;
        let mirrors = self.repositories.dir().join("mirrors");
        let mut measured = Vec::new();
        let (life, sink) = self.life(&repository, &mirrors)?;
        let before = reset_peak()?;
        let started = Instant::now();
        let held = sink.recover(&scope(), &Selection::All, self.rows).await?;
        ensure!(held.is_empty(), "the repository is not empty");
        let delta = contract::delta(&scope(), Base::Empty, self.rows.to_vec(), Vec::new(), self.rows.len() as u64, 1);
        let receipt = sink.deliver(&delta).await?;
        ensure!(receipt.written == self.rows.len() as u64, "{} files were written", receipt.written);
        drop(delta);
        measured.push(vec![
            ("first_push_seconds", started.elapsed().as_secs_f64()),
            ("first_push_extra_rss_mib", peak_mib()? - before),
        ]);
        for turn in 0..DELTAS {
            let changed = self.changed(turn)?;
            let delta = contract::delta(&scope(), Base::Filled, changed, Vec::new(), self.rows.len() as u64, 2);
            let before = reset_peak()?;
            let started = Instant::now();
            let receipt = sink.deliver(&delta).await?;
            let seconds = started.elapsed().as_secs_f64();
            ensure!(receipt.written == DELTA_FILES as u64, "{} files were written", receipt.written);
            measured.push(vec![("delta_seconds", seconds), ("extra_rss_mib", peak_mib()? - before)]);
        }
        life.close().await;
        measured.push(self.restart(&repository, &mirrors).await?);
        Ok(measured)
    }

    /// Measures what a new process does when nothing changed.
    async fn restart(&self, repository: &Repository, mirrors: &Path) -> Result<Values> {
        let commits = repository.log("main")?.len();
        let (life, sink) = self.life(repository, mirrors)?;
        let last = self.changed(DELTAS - 1)?;
        let started = Instant::now();
        let held = sink.recover(&scope(), &Selection::All, self.rows).await?;
        let seconds = started.elapsed().as_secs_f64();
        let equal = held.iter().filter(|held| held.fingerprint.is_some()).count();
        ensure!(
            held.len() == self.rows.len() && equal > self.rows.len() - DELTAS * last.len() - 1,
            "{equal} are equal"
        );
        life.close().await;
        let commits = repository.log("main")?.len() - commits;
        Ok(vec![("restart_seconds", seconds), ("restart_commits", commits as f64)])
    }

    /// Returns rows spread over all directories, with an image of this turn.
    fn changed(&self, turn: usize) -> Result<Vec<Row>> {
        let (count, step) = (self.rows.len(), self.rows.len() / DELTA_FILES);
        let indexes = (turn % step..count).step_by(step + 1).take(DELTA_FILES);
        let image = format!("registry.k8s.io/pause:r{turn}");
        let mut changed: Vec<Row> = indexes.map(|index| row(index, count, &image)).collect::<Result<_>>()?;
        changed.sort_unstable_by_key(Row::key);
        Ok(changed)
    }

    /// Measures the git command line with the same files.
    fn command_line(&self) -> Result<Values> {
        let remote = self.repositories.create("command-line")?;
        let url = self.server.url(&remote);
        let layout = Layout::new(layout())?;
        let stream = self.repositories.dir().join("fast-import");
        fs::write(&stream, self.stream(&layout)?)?;
        let importing = self.repositories.create("importing")?;

        let started = Instant::now();
        let status = importing.git().args(["fast-import", "--quiet"]).stdin(File::open(&stream)?).status()?;
        ensure!(status.success(), "git fast-import ended with {status}");
        process::run(importing.git().args(["push", "--quiet", &url, "main"]))?;
        let first = started.elapsed().as_secs_f64();

        let clone = self.repositories.dir().join("clone");
        process::run(git(self.repositories.dir()).args(["clone", "--quiet", "--depth=1", &url]).arg(&clone))?;
        let mut paths = Vec::new();
        for row in self.changed(0)? {
            let path = layout.path(&scope().inventory, 1, &row)?;
            fs::write(clone.join(path.as_str()), layout.content(&row)?.bytes)?;
            paths.push(PathBuf::from(path.as_str()));
        }
        let started = Instant::now();
        process::run(git(&clone).arg("add").args(&paths))?;
        process::run(git(&clone).args(["commit", "--quiet", "--message=delta"]))?;
        process::run(git(&clone).args(["push", "--quiet", "origin", "main"]))?;
        let delta = started.elapsed().as_secs_f64();
        Ok(vec![("fast_import_push_seconds", first), ("git_cli_seconds", delta)])
    }

    /// Returns one commit with all files, as `git fast-import` reads it.
    fn stream(&self, layout: &Layout) -> Result<String> {
        let mut stream =
            String::from("commit refs/heads/main\ncommitter k <k@example.com> 1700000000 +0000\ndata 5\nfirst");
        for row in self.rows {
            let (path, text) = (layout.path(&scope().inventory, 1, row)?, layout.content(row)?);
            let text = String::from_utf8(text.bytes)?;
            write!(stream, "\nM 100644 inline {path}\ndata {}\n{text}", text.len())?;
        }
        stream.push('\n');
        Ok(stream)
    }

    /// Makes the sink of a process that was just started.
    fn life(&self, repository: &Repository, mirrors: &Path) -> Result<(GitRepositories, Arc<dyn RowSink>)> {
        let guard = Guard { allow_private: false, allow_loopback: true };
        let mirrors =
            MirrorPlaces { configured: Some(mirrors.to_owned()), cache: None, temporary: std::env::temp_dir() };
        let writer = "bench".to_owned();
        let life = GitRepositories::new(guard, writer, mirrors, jiff::Timestamp::now, CancellationToken::new());
        let sink = match life.sink(&config(self.server.url(repository)))? {
            Backend::Rows(sink) => sink,
            Backend::Documents(_) => bail!("a layout of trees made a sink of documents"),
        };
        Ok((life, sink))
    }
}

fn layout() -> LayoutSpec {
    LayoutSpec { mode: Some(LayoutMode::PerResource), cluster: Cluster::new("bench"), ..LayoutSpec::default() }
}

fn config(endpoint: String) -> GitConfig {
    let object = ObjectKey::new(Namespace::new("team-a"), Name::new("bench"));
    let sink = SinkKey { family: Family::Snapshot, object };
    GitConfig { cluster: Cluster::new("bench"), layout: layout(), prune: true, ..GitConfig::new(sink, endpoint) }
}

fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir).stdin(Stdio::null()).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for name in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"] {
        git.env(name, "k");
    }
    for name in ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"] {
        git.env(name, "k@example.com");
    }
    git
}

/// Makes the kernel count the peak anew, and returns what is in use.
pub(super) fn reset_peak() -> Result<f64> {
    fs::write("/proc/self/clear_refs", "5").context("failed to reset the peak of memory")?;
    status_mib("VmRSS:")
}

pub(super) fn peak_mib() -> Result<f64> {
    status_mib("VmHWM:")
}

fn status_mib(key: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).context("the kernel does not say")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
