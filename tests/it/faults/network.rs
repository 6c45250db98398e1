//! The network between the operator and PostgreSQL.

use std::time::Duration;

use anyhow::{bail, ensure};
use kollect::lab::Operator;
use kollect::lab::proxy::Cuts;
use kollect::lab::wait::wait_for;
use tokio::time::Instant;

use super::{Fault, row_count, whole_parts, writes};
use crate::operator::{Job, PATIENCE, TABLE};

/// Cuts of each kind: while the table is filled for the first time, and while changes are written.
const ROUNDS: u64 = 13;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_any_byte_tear_nothing() {
    let Some(mut fault) = Fault::new("cuts").await else { return };
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let load = Job::load(3, 100);
    load.create(&fault.job.ground.client).await.unwrap();
    let proxy = fault.proxy().await;

    // A first delivery has about 170 KB up and 3 KB down.
    proxy.cut_each(Some(Cuts { seed, up: 200_000, down: 3_000 }));
    let mut operator = Some(fault.operator().await);
    let mut fills = 0;
    while proxy.traffic().cut < ROUNDS {
        let before = proxy.traffic().cut;
        let filled = wait_for("a cut or a full table", PATIENCE, || async {
            let cut = proxy.traffic().cut > before;
            match whole_parts(&fault).await {
                300 => Ok(true),
                _ if cut => Ok(false),
                rows => bail!("{rows} rows, and no cut"),
            }
        });
        if filled.await.unwrap() {
            fills += 1;
            begin_again(&fault, &mut operator).await;
        } else {
            fault.hurry();
        }
    }
    println!("{} cuts while the table was filled, {fills} times it was full", proxy.traffic().cut);
    proxy.cut_each(None);
    fault.hurry();
    fault.recovered().await;

    // Changes of 60 rows have about 30 KB up and 3 KB down.
    let before = proxy.traffic().cut;
    proxy.cut_each(Some(Cuts { seed: seed + 1, up: 40_000, down: 4_000 }));
    proxy.cut();
    let mut round = 0;
    while proxy.traffic().cut < before + ROUNDS {
        round += 1;
        load.patch(&fault.job.ground.client, load.draw(60, 300), round).await.unwrap();
        fault.hurry();
        let patched = format!("SELECT count(*) FROM {TABLE} WHERE payload::text LIKE '%pause:r{round}-%'");
        let cut = proxy.traffic().cut;
        wait_for("a cut or a delivery", PATIENCE, || async {
            let rows = row_count(&fault).await;
            assert_eq!(rows, 300, "a row is missing");
            ensure!(proxy.traffic().cut > cut || fault.number(&patched).await > 0, "neither");
            Ok(())
        })
        .await
        .unwrap();
    }
    println!("{} cuts in {round} rounds of changes", proxy.traffic().cut - before);
    proxy.cut_each(None);
    proxy.cut();
    fault.hurry();
    fault.recovered().await;
    // How often rows were written and rolled back is not known here; that nothing is written once all is well, is.
    let quiet = fault.job.writes().await;
    fault.hurry();
    assert_eq!(fault.job.writes().await.since(quiet), writes(0, 0, 0));
    operator.take().unwrap().terminate().await.unwrap();
}

/// Drops the tables while no operator runs, and starts one.
async fn begin_again(fault: &Fault, operator: &mut Option<Operator>) {
    operator.take().unwrap().kill9().await.unwrap();
    fault.job.database.batch_execute(&format!("DROP TABLE IF EXISTS {TABLE}, {TABLE}_state")).await.unwrap();
    *operator = Some(fault.operator().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_of_200_ms_costs_time_and_no_rows() {
    let Some(fault) = Fault::new("far").await else { return };
    let load = Job::load(2, 100);
    load.create(&fault.job.ground.client).await.unwrap();
    let proxy = fault.proxy().await;
    proxy.delay(Duration::from_millis(100));
    let started = Instant::now();
    let operator = fault.operator().await;
    fault.job.rows(200).await;
    println!("200 rows from nothing: {:?}, {:?}", started.elapsed(), proxy.traffic());
    fault.recovered().await;
    let before = fault.job.writes().await;

    for round in 1..=3 {
        // The first one may need a new connection: what was idle for 30 s has been closed.
        let (traffic, started) = (proxy.traffic(), Instant::now());
        load.patch(&fault.job.ground.client, (0..20).collect(), round).await.unwrap();
        let patched = format!("SELECT count(*) FROM {TABLE} WHERE payload::text LIKE '%pause:r{round}-%'");
        fault.at_least(20, &patched).await;
        let now = proxy.traffic();
        let (trips, elapsed) = (now.round_trips - traffic.round_trips, started.elapsed());
        println!(
            "20 changed rows: {elapsed:?}, {trips} round trips, {} connections",
            now.connections - traffic.connections
        );
        assert!(elapsed < Duration::from_secs(15), "{elapsed:?}");
    }
    fault.recovered().await;
    assert_eq!(fault.job.writes().await.since(before), writes(0, 60, 0));
    operator.terminate().await.unwrap();
}
