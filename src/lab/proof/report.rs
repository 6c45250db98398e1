//! What is left of a run: `report.json`, `report.md`, `samples.csv`, plots, and the operator's log.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::process;
use super::super::tools;
use super::Proof;
use super::claim::Claim;
use super::options::Options;
use super::sample::{self, rounded};

/// Where and with what a run was done; known when it begins.
pub(super) struct Report {
    began: jiff::Timestamp,
    machine: Value,
    commit: String,
}

/// What a figure of the report is called on its page, and where it is in the JSON.
const FIGURES: [(&str, &str); 24] = [
    ("raw list, s", "/floor/raw_list_seconds"),
    ("raw list, MiB", "/floor/raw_list_mib"),
    ("start → ready, s", "/converge/ready_seconds"),
    ("start → all rows in PostgreSQL, s", "/converge/postgres_seconds"),
    ("start → all files in git, s", "/converge/synced_seconds"),
    ("start → verified, s", "/converge/verified_seconds"),
    ("CPU until verified, s", "/converge/cpu_seconds"),
    ("peak memory until verified, MiB", "/converge/peak_rss_mib"),
    ("soak: changes a minute", "/soak/operations_per_minute"),
    ("soak: memory, MiB", "/soak/rss_mib"),
    ("soak: allocated, MiB", "/soak/allocated_mib"),
    ("soak: growth of allocated, MiB/h", "/soak/allocated_mib_per_hour"),
    ("soak: CPU, s", "/soak/cpu_seconds"),
    ("soak: rows", "/soak/rows"),
    ("soak: lag, s", "/soak/lag_seconds"),
    ("soak: exports, s", "/soak/export_seconds"),
    ("soak: API requests", "/soak/api_requests"),
    ("soak: rows written", "/soak/rows_written"),
    ("soak: WAL, bytes", "/soak/wal_bytes"),
    ("soak: WAL for a row written, bytes", "/soak/wal_bytes_per_row_written"),
    ("soak: commits", "/soak/commits"),
    ("restart: ready, s", "/restart/ready_seconds"),
    ("restart: acknowledged, s", "/restart/acknowledged_seconds"),
    ("restart: raw list, s", "/restart/raw_list_seconds"),
];

impl Report {
    /// Takes note of the machine and the source tree.
    pub(super) fn begin(options: &Options) -> Result<Self> {
        // Fails here and not after an hour.
        fs::write(options.out.join("report.json"), "{}\n")
            .with_context(|| format!("failed to write into {}", options.out.display()))?;
        Ok(Self { began: jiff::Timestamp::now(), machine: machine(), commit: commit() })
    }

    /// Writes everything, and returns the figures that matter.
    pub(super) fn write(&self, proof: &Proof) -> Result<Value> {
        let out = &proof.options.out;
        let samples = proof.sampler.all();
        let table = out.join("samples.csv");
        fs::write(&table, sample::csv(&samples)).with_context(|| format!("failed to write {}", table.display()))?;
        // An operator that never started has no log.
        let _ = fs::copy(proof.site.log(), out.join("kollect.log"));
        let plots = plot(&table, out);
        if let Err(error) = &plots {
            eprintln!("WARNING: the report has no plots: {error:#}");
        }
        let report = self.json(proof, &plots, samples.len());
        fs::write(out.join("report.json"), format!("{report:#}\n"))?;
        fs::write(out.join("report.md"), self.page(proof, &report, &plots))?;
        eprintln!("report: {}", out.join("report.md").display());
        Ok(json!({
            "holds": report["holds"],
            "tier": report["setting"]["tier"],
            "objects": report["setting"]["objects"],
            "claims": proof.claims.iter().count(),
            "verified_seconds": report.pointer("/figures/converge/verified_seconds"),
            "acknowledged_seconds": report.pointer("/figures/restart/acknowledged_seconds"),
            "report": out,
        }))
    }

    fn json(&self, proof: &Proof, plots: &Result<Vec<String>>, samples: usize) -> Value {
        let (options, load) = (proof.options, proof.options.load());
        json!({
            "holds": proof.claims.failures().is_empty(),
            "began": stamp(self.began),
            "ended": stamp(jiff::Timestamp::now()),
            "commit": self.commit,
            "build": if cfg!(debug_assertions) { "debug" } else { "release" },
            "machine": self.machine,
            "setting": {
                "tier": options.tier.as_str(),
                "objects": load.total(),
                "namespaces": load.namespaces,
                "per_namespace": load.per_namespace,
                "soak_seconds": options.soak().as_secs(),
                "churn_percent_per_minute": options.churn,
                "interval_seconds": options.interval.as_secs(),
                "git_interval_seconds": options.git_interval.as_secs(),
                "outage_seconds": options.outage.as_secs(),
                "memory_limit_mib": options.limit_memory,
                "operator_args": options.operator_args,
                "sample_seconds": super::sampler::PACE.as_secs(),
            },
            "phases": proof.phases,
            "claims": proof.claims,
            "figures": proof.figures,
            "changes": proof.site.churned(),
            "samples": samples,
            "plots": match plots {
                Ok(files) => json!({"files": files}),
                Err(error) => json!({"missing": format!("{error:#}")}),
            },
            "status": status(proof),
        })
    }

    fn page(&self, proof: &Proof, report: &Value, plots: &Result<Vec<String>>) -> String {
        let (options, load) = (proof.options, proof.options.load());
        let text = |pointer: &str| plain(report.pointer(pointer).unwrap_or(&Value::Null));
        let verdict = match proof.claims.failures().len() {
            0 => "Everything that was claimed holds.".to_owned(),
            failures => format!("**{failures} claims fail.**"),
        };
        let mut page = format!(
            "# Proof at {} objects\n\n{verdict} Begun {}, ended {}, commit `{}`, {} build. {} cores ({}), {}, {}.\n\n\
             {} namespaces of {} Deployments of 5 KB, each with its profile of 6 attributes, target, inventory, a shared table \
             in PostgreSQL (interval {} s) and a document in a shared git repository (interval {} s). Memory limit of the \
             operator: {}. Further flags: {}. Spread is least, median and greatest of the samples of one run.\n\n",
            load.total(),
            text("/began"),
            text("/ended"),
            self.commit,
            text("/build"),
            text("/machine/cores"),
            text("/machine/cpu"),
            text("/machine/memory"),
            text("/machine/kernel"),
            load.namespaces,
            load.per_namespace,
            options.interval.as_secs(),
            options.git_interval.as_secs(),
            options.limit_memory.map_or("none".to_owned(), |mib| format!("{mib} MiB")),
            if options.operator_args.is_empty() { "none".to_owned() } else { options.operator_args.join(" ") },
        );
        page.push_str("## Status\n\n| What | Executed | Where | When |\n| --- | --- | --- | --- |\n");
        for line in report["status"].as_array().into_iter().flatten() {
            let cells = ["what", "executed", "where", "when"].map(|key| plain(&line[key]));
            table_line(&mut page, &cells);
        }
        page.push_str(
            "\n## Claims\n\n| Phase | What | Limit | Measured | Verdict |\n| --- | --- | --- | --- | --- |\n",
        );
        for claim in proof.claims.iter() {
            table_line(&mut page, &claim_cells(claim));
        }
        page.push_str("\n## Phases\n\n| Phase | Seconds | |\n| --- | --- | --- |\n");
        for phase in &proof.phases {
            table_line(&mut page, &[phase.name.to_owned(), rounded(phase.seconds).to_string(), phase.said.clone()]);
        }
        page.push_str("\n## Figures\n\n| What | Measured |\n| --- | --- |\n");
        for (name, pointer) in FIGURES {
            if let Some(value) = report["figures"].pointer(pointer) {
                table_line(&mut page, &[name.to_owned(), plain(value)]);
            }
        }
        page.push_str("\n## Plots\n\n");
        match plots {
            Ok(files) => {
                for file in files {
                    let _ = writeln!(page, "![{}]({file})", file.trim_end_matches(".png")); // a String takes all
                }
            }
            Err(error) => {
                let _ = writeln!(page, "**There are none**: {error:#}"); // a String takes all
            }
        }
        page.push_str("\nAll samples are in [samples.csv](samples.csv), all figures in [report.json](report.json).\n");
        page
    }
}

fn stamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Names the proof of the lab and the gate of the cloud apart.
fn status(proof: &Proof) -> Value {
    let done = |name: &str| proof.phases.iter().any(|phase| phase.name == name);
    let (objects, minutes) = (proof.options.load().total(), proof.options.soak().as_secs_f64() / 60.0);
    let executed = |what: &str| if done(what) { "yes" } else { "no" };
    let here = "this machine, one lab control plane without nodes";
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    json!([
        {"what": format!("lab proof: {objects} objects, PostgreSQL and git, converge and verify"),
            "executed": executed("converge"), "where": here, "when": day},
        {"what": format!("lab proof: soak of {} min under churn", rounded(minutes)),
            "executed": executed("soak"), "where": here, "when": day},
        {"what": "lab proof: operator killed, API server and PostgreSQL restarted, restart without changes",
            "executed": executed("restart"), "where": here, "when": day},
        {"what": "cloud gate: 100,000 objects in each of two public-cloud clusters with nodes, soak of 4 h",
            "executed": "no", "where": "", "when": ""},
    ])
}

fn claim_cells(claim: &Claim) -> [String; 5] {
    let verdict = claim.outcome.as_str();
    let verdict = if verdict == "FAILS" { "**FAILS**".to_owned() } else { verdict.to_owned() };
    [claim.phase.to_owned(), claim.what.clone(), claim.limit.clone(), claim.measured.clone(), verdict]
}

fn table_line(page: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    let _ = writeln!(page, "| {} |", cells.join(" | ")); // a String takes all that is written
}

/// Shows a value of JSON to people.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |value| rounded(value).to_string()),
        Value::Object(fields) => {
            let each: Vec<String> = fields.iter().map(|(key, value)| format!("{key} {}", inner(value))).collect();
            each.join(", ")
        }
        other => other.to_string(),
    }
}

fn inner(value: &Value) -> String {
    if value.is_object() { format!("({})", plain(value)) } else { plain(value) }
}

/// Draws the samples, and returns the names of the pictures.
fn plot(table: &Path, out: &Path) -> Result<Vec<String>> {
    let script = tools::repository_file("hack/lib/plots.py");
    let drawn = process::run(Command::new(tools::python()?).arg(script).arg(table).arg(out))?;
    Ok(drawn.lines().map(str::to_owned).collect())
}

fn machine() -> Value {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let kib: f64 = after(&file("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    json!({
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get),
        "cpu": after(&file("/proc/cpuinfo"), "model name"),
        "memory": format!("{:.0} GiB", kib / 1_048_576.0),
        "kernel": format!("Linux {}", file("/proc/sys/kernel/osrelease").trim()),
        "load_before": file("/proc/loadavg").split_whitespace().next().unwrap_or_default(),
    })
}

/// Returns the commit of the source tree, and whether there is more in it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        process::run(Command::new("git").arg("-C").arg(tools::repository_file(".")).args(arguments))
    };
    match git(&["rev-parse", "--short=10", "HEAD"]) {
        Ok(commit) => {
            let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|text| !text.is_empty());
            format!("{}{}", commit.trim(), if dirty { " with changes" } else { "" })
        }
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_in_one_line() {
        let value = json!({"postgres": {"p50": 1.000_04, "max": null}, "git": 3});
        assert_eq!(plain(&value), "git 3, postgres (max –, p50 1)");
    }

    #[test]
    fn cell_cannot_break_its_table() {
        let mut page = String::new();
        table_line(&mut page, &["a|b".to_owned(), "c\nd".to_owned()]);
        assert_eq!(page, "| a\\|b | c d |\n");
    }

    #[test]
    fn machine_is_known() {
        assert!(machine()["cores"].as_u64() > Some(0));
    }
}
