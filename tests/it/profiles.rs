//! The operator looked at from inside: profiles that the real `go tool pprof` opens, and the memory limit of a container.

use std::process::Command;

use anyhow::Result;
use kollect::lab::cgroup::MemoryGroup;
use kollect::lab::operator::wait_for_metric;
use kollect::lab::process::{free_port, run};

use crate::operator::{Job, PATIENCE};
use crate::support::part_or_skip;

/// Returns the table of functions of a profile, as a user would ask for it.
fn top(profile: &str, address: &str) -> Result<String> {
    let url = format!("http://{address}/debug/pprof/{profile}");
    // With the callers: what runs at the moment of a sample may well be a library.
    let arguments = ["tool", "pprof", "-top", "-cum", "-nodecount=400", "-nodefraction=0", &url];
    // It keeps a copy of what it fetched.
    let scratch = std::env::temp_dir().join(format!("kollect-pprof-{}", std::process::id()));
    let printed = run(Command::new("go").args(arguments).env("PPROF_TMPDIR", &scratch));
    let _ = std::fs::remove_dir_all(&scratch); // not there when nothing was fetched
    printed
}

#[tokio::test]
async fn go_tool_pprof_opens_both_profiles_and_finds_our_functions() {
    if part_or_skip(run(Command::new("go").arg("version"))).is_none() {
        return;
    }
    let Some(job) = Job::new("profiles").await else { return };
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let mut options =
        job.ground.operator_options().arg("--enable-pprof").arg(format!("--pprof-bind-address={address}"));
    // A thousand rows are less than a handful of samples otherwise.
    options.env.push(("MALLOC_CONF".to_owned(), "lg_prof_sample:12".to_owned()));
    let operator = job.ground.start_operator(&options).await;
    assert!(operator.log().unwrap().contains(&format!(r#""msg":"pprof enabled","bindAddress":"{address}""#)));
    Job::load(4, 250).create(&job.ground.client).await.unwrap();
    job.rows(1_000).await;
    let allocated = async || {
        let metrics = operator.metrics().await.unwrap();
        metrics.sum("kollect_allocator_bytes", &[("kind", "allocated")])
    };
    let before = allocated().await;

    let heap = top("heap", &address).unwrap();
    assert!(heap.contains("Type: inuse_space") && heap.contains(" kollect::"), "{heap}");

    let cpu = tokio::task::spawn_blocking({
        let address = address.clone();
        move || top("profile?seconds=3", &address)
    });
    // Something to see, for as long as the profile takes.
    while !cpu.is_finished() {
        operator.metrics().await.unwrap();
    }
    let cpu = cpu.await.unwrap().unwrap();
    assert!(cpu.contains("Type: cpu") && cpu.contains(" kollect::"), "{cpu}");
    // What was read of the program for the names is tens of megabytes.
    let after = allocated().await;
    assert!(after < before + f64::from(8 << 20), "{before} bytes before the profiles, {after} behind them");
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn in_a_memory_group_the_budget_is_a_share_of_its_limit() {
    if !MemoryGroup::hierarchy_exists() {
        eprintln!("SKIPPED, because there are no memory control groups of version 1 here");
        return;
    }
    let Some(job) = Job::new("small").await else { return };
    let mut options = job.ground.operator_options();
    options.memory_limit_mib = Some(192);
    let guard = job.ground.lab().guard();
    if part_or_skip(MemoryGroup::new(192, guard)).is_none() {
        return;
    }
    let operator = job.ground.start_operator(&options).await;
    Job::load(2, 10).create(&job.ground.client).await.unwrap();
    job.rows(20).await;

    let budget = f64::from((192 << 20) / 100 * 60);
    wait_for_metric(&operator, PATIENCE, "the budget", |metrics| {
        metrics.get("kollect_store_budget_bytes") == Some(budget)
    })
    .await
    .unwrap();
    let metrics = operator.metrics().await.unwrap();
    let [allocated, resident] =
        ["allocated", "resident"].map(|kind| metrics.sum("kollect_allocator_bytes", &[("kind", kind)]));
    assert!(allocated > f64::from(1 << 20) && allocated < resident, "{allocated} {resident}");

    let group = operator.memory().unwrap();
    assert_eq!(group.members().unwrap(), [operator.process().pid()]);
    let used = group.usage().unwrap();
    assert!(used.peak_mib > 1.0 && used.peak_mib <= 192.0 && used.oom_kills == 0, "{used:?}");
    let dir = group.dir().to_owned();
    operator.terminate().await.unwrap();
    assert!(!dir.exists());
}
