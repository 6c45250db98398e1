//! The operator is killed.

use std::time::Duration;

use kollect::lab::Operator;

use super::{Fault, kill_rounds, moment, whole_parts};
use crate::operator::Job;

/// Rounds of the normal suite.
const ROUNDS: u64 = 20;

/// The latest moment of a kill: a start, a list, a comparison and some deliveries later.
const LATEST: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn killed_at_any_moment_the_next_process_makes_the_table_equal_the_cluster() {
    let Some(fault) = Fault::new("kill").await else { return };
    let rounds = kill_rounds(ROUNDS);
    let seed = u64::from(std::process::id());
    println!("seed {seed}, {rounds} rounds");
    let load = kollect::lab::load::Load { rate: Some(60.0), ..Job::load(3, 100) };
    load.create(&fault.job.ground.client).await.unwrap();
    let mut last = None;
    for round in 0..rounds {
        let operator = Operator::spawn(&fault.options(), fault.job.ground.lab().guard()).unwrap();
        // The first rounds die before there is a table: some of these kills hit the start, the first list and the COPY.
        let moment = moment(seed, round, LATEST);
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
