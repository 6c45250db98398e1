//! The operator is killed.

use std::time::Duration;

use kollect::lab::Operator;

use super::{Fault, setting, whole_parts};
use crate::operator::Job;

/// Rounds of the normal suite; `KOLLECT_KILL_ROUNDS` names another number.
const ROUNDS: u64 = 20;

/// The latest moment of a kill: a start, a list, a comparison and some deliveries later.
const LATEST_MILLIS: u64 = 1_500;

#[tokio::test]
async fn killed_at_any_moment_the_next_process_makes_the_table_equal_the_cluster() {
    let Some(fault) = Fault::new("kill").await else { return };
    let rounds = setting("KOLLECT_KILL_ROUNDS").and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let seed = u64::from(std::process::id());
    println!("seed {seed}, {rounds} rounds");
    let load = kollect::lab::load::Load { rate: Some(60.0), ..Job::load(3, 100) };
    load.create(&fault.job.ground.client).await.unwrap();
    let mut last = None;
    for round in 0..rounds {
        let operator = Operator::spawn(&fault.options(), fault.job.ground.lab().guard()).unwrap();
        // The first rounds die before there is a table: some of these kills hit the start, the first list and the COPY.
        let moment = moment(seed, round);
        let killed = async {
            tokio::time::sleep(moment).await;
            operator.kill9().await
        };
        let changes = load.patch(&fault.job.ground.client, load.draw(30, load.total()), round);
        let (patched, ended) = tokio::join!(changes, killed);
        patched.unwrap();
        ended.unwrap();
        let rows = whole_parts(&fault).await;
        // What a process has written stays.
        assert!(last.is_none_or(|last| rows >= last), "{rows} rows after {last:?}, killed after {moment:?}");
        last = Some(rows);
    }
    let operator = fault.operator().await;
    fault.job.rows(300).await;
    fault.recovered().await;
    let quiet = fault.job.writes().await;
    operator.kill9().await.unwrap();
    let operator = fault.operator().await;
    fault.recovered().await;
    assert_eq!(fault.job.writes().await.since(quiet).total(), 0);
    operator.terminate().await.unwrap();
}

/// Returns when a round's process is killed.
fn moment(seed: u64, round: u64) -> Duration {
    let digest = blake3::hash(&[seed.to_le_bytes(), round.to_le_bytes()].concat());
    let chance = digest.as_bytes().iter().take(8).fold(0u64, |chance, byte| chance << 8 | u64::from(*byte));
    Duration::from_millis(chance % LATEST_MILLIS)
}
