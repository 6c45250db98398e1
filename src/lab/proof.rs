//! The proof: one cluster, PostgreSQL and git, from nothing to a report, with everything asserted (`kollect-lab proof`).
//!
//! Objects are written, the operator is started on them, they change for as long as the soak lasts, then the operator is
//! killed and the API server and PostgreSQL are taken away for a while; at last the operator is started again on a world
//! that has not changed. After each of these everything is compared with the cluster. What has to be so is a claim with a
//! limit; what was seen of it is in the report, and one that fails is the exit code.
//!
//! A claim that fails does not end the run. What ends it, such as an operator that is gone or a phase beyond its bound, is
//! in the report too. Nothing here waits without a bound.
//!
//! A repository is written once in its interval, which is longer than a fault. To see that git is reached again too, an
//! export of every inventory is asked for after a fault (`kollect.dev/export-now`).

mod cadence;
mod cage;
mod claim;
mod faults;
mod manifests;
mod options;
mod report;
mod sample;
mod sampler;
mod site;
mod soak;
mod stats;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

pub use options::{Options, Tier};

use self::claim::Claims;
use self::report::Report;
use self::sample::rounded;
use self::sampler::Sampler;
use self::site::Site;
use super::load::RawList;
use super::wait::wait_for;

/// Most rows of an inventory that does not warn.
const QUIET_ROWS: usize = 1_799;

/// From the start of the operator on a cluster that it has never seen until all is verified.
const CONVERGE_LIMIT: f64 = 120.0;

/// From the end of a fault, or of all changes, until all is verified.
const RECOVERY_LIMIT: f64 = 60.0;

/// How long something that is measured against a limit may take before the run goes on without it.
const PATIENCE: Duration = Duration::from_mins(5);

/// What bounds a phase beyond what it waits for by itself.
const BOUND: Duration = Duration::from_mins(20);

/// A phase that is over.
#[derive(Debug, Clone, serde::Serialize)]
struct Phase {
    name: &'static str,
    seconds: f64,
    said: String,
}

/// A run in progress.
struct Proof<'a> {
    options: &'a Options,
    site: Site,
    sampler: Sampler,
    claims: Claims,
    phases: Vec<Phase>,
    /// Figures by phase.
    figures: Map<String, Value>,
    floor: RawList,
    current: &'static str,
}

/// Runs a proof and writes its report. Returns the figures that matter as one JSON object.
///
/// # Errors
/// When a claim fails, when a phase could not be done, or when not even that could be written down.
pub async fn run(options: &Options) -> Result<Value> {
    options.check()?;
    std::fs::create_dir_all(&options.out).with_context(|| format!("failed to make {}", options.out.display()))?;
    let report = Report::begin(options)?;
    eprintln!("phase start begins");
    let started = Instant::now();
    let site = timeout(BOUND, Site::start(options)).await.context("the servers are not ready")??;
    let sampler = Sampler::start(site.lab().clone(), site.repository().clone());
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("phase start done in {seconds:.1} s: all servers are ready");
    let mut proof = Proof {
        options,
        site,
        sampler,
        claims: Claims::default(),
        phases: vec![Phase { name: "start", seconds, said: "all servers are ready".to_owned() }],
        figures: Map::new(),
        floor: RawList { seconds: 0.0, bytes: 0 },
        current: "start",
    };
    if let Err(error) = proof.all_phases().await {
        proof.claims.failed(proof.current, "the phase is done", "done", &format!("{error:#}"));
    }
    proof.sampler.stop().await;
    let outcome = report.write(&proof);
    proof.site.clear().await?;
    let summary = outcome?;
    let failures: Vec<String> = proof
        .claims
        .failures()
        .iter()
        .map(|claim| format!("{}: {}: expected {}, seen {}", claim.phase, claim.what, claim.limit, claim.measured))
        .collect();
    ensure!(failures.is_empty(), "{} of the claims fail: {}", failures.len(), failures.join("; "));
    Ok(summary)
}

impl Proof<'_> {
    async fn all_phases(&mut self) -> Result<()> {
        self.phase("load", BOUND, Self::load).await?;
        self.phase("floor", BOUND, Self::floor).await?;
        self.phase("converge", BOUND, Self::converge).await?;
        self.phase("soak", BOUND + self.options.soak(), Self::soak).await?;
        self.phase("settle", BOUND, Self::settle).await?;
        self.phase("operator-killed", BOUND, Self::operator_killed).await?;
        self.phase("api-server-restarted", BOUND, Self::api_server_restarted).await?;
        self.phase("postgres-restarted", BOUND, Self::postgres_restarted).await?;
        self.phase("restart", BOUND, Self::restart).await?;
        self.phase("verify", BOUND, Self::verify).await
    }

    /// Runs a phase within its bound, and says when it is done.
    async fn phase(
        &mut self,
        name: &'static str,
        bound: Duration,
        work: impl AsyncFnOnce(&mut Self) -> Result<String>,
    ) -> Result<()> {
        eprintln!("phase {name} begins, at most {} min", bound.as_secs() / 60);
        self.current = name;
        self.sampler.enter(name);
        let started = Instant::now();
        let done = timeout(bound, work(self)).await.with_context(|| format!("it is not done after {bound:?}"));
        let said = done.and_then(|outcome| outcome).inspect_err(|error| eprintln!("phase {name} failed: {error:#}"))?;
        let seconds = started.elapsed().as_secs_f64();
        eprintln!("phase {name} done in {seconds:.1} s: {said}");
        self.phases.push(Phase { name, seconds, said });
        Ok(())
    }

    fn figure(&mut self, name: &str, value: Value) {
        self.figures.insert(name.to_owned(), value);
    }

    async fn load(&mut self) -> Result<String> {
        let summary = self.site.fill().await?;
        self.figure("load", json!(summary));
        Ok(format!("{} objects, {:.0} a second", self.site.rows(), summary.per_second))
    }

    /// Measures what a plain client needs for the same list.
    async fn floor(&mut self) -> Result<String> {
        // The API server fills its watch cache in the background, and a list before that is another measurement.
        self.site.raw_list().await?;
        self.floor = self.site.raw_list().await?;
        let RawList { seconds, bytes } = self.floor;
        let mib = bytes as f64 / f64::from(1 << 20);
        self.figure("floor", json!({"raw_list_seconds": rounded(seconds), "raw_list_mib": rounded(mib)}));
        Ok(format!("a raw list of {mib:.0} MiB takes {seconds:.2} s"))
    }

    async fn converge(&mut self) -> Result<String> {
        let started = self.site.spawn_operator(&self.sampler)?;
        let ready = self.site.ready().await?;
        let converged = self.site.converged(started, PATIENCE).await?;
        let process = self.site.operator()?.process();
        let (cpu, peak) = (process.cpu_seconds()?, process.peak_rss_mib()?);
        let what = "from the start of the operator until all is verified in PostgreSQL and git";
        self.claims.at_most("converge", what, CONVERGE_LIMIT, converged.verified_seconds, "s");
        self.warnings().await?;
        let said = format!(
            "ready after {ready:.2} s, PostgreSQL {:.1} s, git {:.1} s, verified {:.1} s; {cpu:.1} CPU s, {peak:.0} MiB",
            converged.postgres_seconds, converged.synced_seconds, converged.verified_seconds
        );
        self.figure(
            "converge",
            json!({
                "ready_seconds": rounded(ready),
                "postgres_seconds": rounded(converged.postgres_seconds),
                "synced_seconds": rounded(converged.synced_seconds),
                "verified_seconds": rounded(converged.verified_seconds),
                "cpu_seconds": rounded(cpu),
                "peak_rss_mib": rounded(peak),
                "verdict": converged.verdict,
            }),
        );
        Ok(said)
    }

    /// Claims that every inventory from 1,800 rows on warns of its size, and no smaller one.
    async fn warnings(&mut self) -> Result<()> {
        let large = self.site.rows() / self.site.inventories() > QUIET_ROWS;
        let expected = if large { self.site.inventories() } else { 0 };
        let seen = wait_for("the warnings of large inventories", Duration::from_secs(30), || async {
            let warned = self.site.warned().await?;
            ensure!(warned == expected, "{warned} of {expected}");
            Ok(())
        });
        // Judged by what is there at the end, in time or not.
        let _ = seen.await;
        let warned = self.site.warned().await?;
        self.claims.equals("converge", "inventories that warn of 1,800 rows and more", expected, warned);
        Ok(())
    }

    /// Ends with the world as it should be after all changes of the soak.
    async fn settle(&mut self) -> Result<String> {
        self.site.export_now().await?;
        let what = "from the end of the changes until all is verified";
        self.recovered("settle", what, Instant::now()).await
    }

    /// Compares everything once more.
    async fn verify(&mut self) -> Result<String> {
        let converged = self.site.converged(Instant::now(), PATIENCE).await;
        let (problems, said) = match converged {
            Ok(converged) => {
                let verdict = converged.verdict;
                let said = format!("{} objects, {} inventories", verdict.objects, verdict.inventories);
                self.figure("verify", json!(verdict));
                (Vec::new(), said)
            }
            Err(error) => (vec![format!("{error:#}")], "not all is where it belongs".to_owned()),
        };
        self.claims.none("verify", "differences between cluster, store, inventories, table and files", &problems);
        Ok(said)
    }

    /// Claims that everything is verified in time after something that ended at a moment.
    async fn recovered(&mut self, phase: &'static str, what: &str, since: Instant) -> Result<String> {
        match self.site.converged(since, PATIENCE).await {
            Ok(converged) => {
                self.claims.at_most(phase, what, RECOVERY_LIMIT, converged.verified_seconds, "s");
                let said = format!(
                    "PostgreSQL after {:.1} s, git after {:.1} s, verified after {:.1} s",
                    converged.postgres_seconds, converged.synced_seconds, converged.verified_seconds
                );
                let mut figures = json!(converged);
                figures["errors"] = json!(soak::new_errors(&self.sampler.of(phase)));
                self.figure(phase, figures);
                Ok(said)
            }
            Err(error) => {
                // A process that is gone ends the run; one that is late does not.
                self.site.still_runs()?;
                self.claims.failed(phase, what, &format!("≤ {RECOVERY_LIMIT} s"), &format!("{error:#}"));
                Ok("not all is where it belongs".to_owned())
            }
        }
    }
}
