//! The proof of a size, whole and small; and the page about performance.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kollect::lab::proof::{self, Options, Tier};
use kollect::lab::{LabOptions, tools};
use serde_json::Value;

use crate::faults::long;
use crate::support::{self, repository_file};

/// A directory of its own that is removed at the end.
struct Out(PathBuf);

impl Drop for Out {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // the test's verdict is in already
    }
}

fn options(out: &Out) -> Options {
    Options {
        tier: Tier::TwoThousand,
        namespaces: Some(5),
        per_namespace: Some(20),
        advised: false,
        soak: Some(Duration::from_secs(15)),
        churn: 60.0,
        interval: Duration::from_secs(2),
        git_interval: Duration::from_secs(5),
        outage: Duration::from_secs(2),
        limit_memory: None,
        kollect: Some(env!("CARGO_BIN_EXE_kollect").into()),
        crds: None,
        out: out.0.clone(),
        operator_args: Vec::new(),
    }
}

#[tokio::test]
async fn a_small_proof_holds_and_reports_every_claim() {
    if !long(false, true) {
        return;
    }
    // Says why, where there is no lab.
    let nothing = LabOptions { control_plane: false, postgres: false, ..LabOptions::default() };
    let Some(lab) = support::lab_or_skip(nothing).await else { return };
    if support::part_or_skip(tools::Tool::KubeApiserver.path()).is_none() {
        return;
    }
    drop(lab);
    let out = Out(std::env::temp_dir().join(format!("kollect-proof-{}", std::process::id())));

    let outcome = proof::run(&options(&out)).await;

    let text = std::fs::read_to_string(out.0.join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    outcome.unwrap_or_else(|error| panic!("{error:#}\n{:#}", report["claims"]));
    assert_eq!(report["holds"], true);
    let phases: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    let wanted = [
        "start",
        "load",
        "floor",
        "converge",
        "soak",
        "settle",
        "operator-killed",
        "api-server-restarted",
        "postgres-restarted",
        "restart",
        "verify",
    ];
    assert_eq!(phases, wanted);
    let outcomes: Vec<&str> =
        report["claims"].as_array().unwrap().iter().map(|claim| claim["outcome"].as_str().unwrap()).collect();
    let not_judged = outcomes.iter().filter(|outcome| **outcome == "not-judged").count();
    assert_eq!((outcomes.len(), not_judged), (19, 2), "a short soak says nothing of growth: {:#}", report["claims"]);
    assert!(report["changes"]["created"].as_u64() > Some(0), "{}", report["changes"]);
    assert!(report["figures"]["soak"]["export_seconds"]["postgres"]["count"].as_f64() > Some(0.0));
    let gate = report["status"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(gate["executed"], "no", "what was not run is said: {gate}");
    let page = std::fs::read_to_string(out.0.join("report.md")).unwrap();
    assert!(page.contains("| restart | rows written | 0 | 0 | holds |"), "{page}");
    let table = std::fs::read_to_string(out.0.join("samples.csv")).unwrap();
    assert!(table.lines().count() > 5, "{table}");
}

/// Compares a line of the bench with the stored baseline.
fn compare(line: &str) -> Output {
    let mut script = Command::new(repository_file("hack/perf-report.sh"))
        .arg("--compare")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    script.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    script.wait_with_output().unwrap()
}

fn bench_line(path: u32, allocations: u32) -> String {
    format!(
        "{{\"path_objects_per_second\":{path},\"cel_objects_per_second\":{path},\
         \"ignored_any_objects_per_second\":293020,\"allocations_per_object\":{allocations},\
         \"cel_allocations_per_object\":15}}"
    )
}

#[test]
fn growth_of_time_or_allocations_by_more_than_a_quarter_fails() {
    for (path, allocations, holds) in
        [(175_000, 17, true), (150_000, 21, true), (135_000, 17, false), (175_000, 22, false)]
    {
        let output = compare(&bench_line(path, allocations));
        let table = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), holds, "{table}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(table.contains("grew by more than 25 %"), !holds, "{table}");
    }
    assert!(!compare("no figures").status.success());
}
