//! The operator is killed under churn, and objects change and go while none runs.

use kollect::lab::Operator;
use kollect::lab::kafka::Way;
use kollect::lab::load::Load;
use tokio::time::Duration;

use super::{Bench, CHANGES, WHOLE};
use crate::faults::{kill_rounds, moment};
use crate::operator::Job;

/// Rounds of the normal suite.
const ROUNDS: u64 = 5;
/// The latest moment of a kill: a start, a list, a comparison and some deliveries later.
const LATEST: Duration = Duration::from_secs(2);
/// Objects that change and that go between two lives.
const BETWEEN: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_the_next_process_brings_streams_and_bucket_to_the_cluster() {
    let Some(bench) = Bench::with_topic("streams-kill", Way::Plain, 3).await else { return };
    let client = &bench.job.ground.client;
    let load = Load { rate: Some(30.0), ..Job::load(3, 20) };
    load.create(client).await.unwrap();
    let (rounds, seed) = (kill_rounds(ROUNDS), u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    let mut gone = Vec::new();
    for round in 0..rounds {
        let operator = Operator::spawn(&bench.options(), bench.job.ground.lab().guard()).unwrap();
        let killed = async {
            tokio::time::sleep(moment(seed, round, LATEST)).await;
            operator.kill9().await
        };
        let there = load.draw(40, load.total()).into_iter().filter(|object| !gone.contains(object));
        let changes = load.patch(client, there.collect(), round);
        let (patched, ended) = tokio::join!(changes, killed);
        patched.unwrap();
        ended.unwrap();
        // While none runs: objects that went come back as others, some change, some go.
        load.create(client).await.unwrap();
        let between = Load { seed: seed + round, rate: None, ..load.clone() }.choose(2 * BETWEEN);
        let (change, go) = between.split_at(BETWEEN);
        load.patch(client, change.to_vec(), rounds + round).await.unwrap();
        load.delete(client, go.to_vec()).await.unwrap();
        gone = go.to_vec();
    }
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;
    bench.synced(&operator).await;
    let settled = bench.written().await;
    for stream in [CHANGES, WHOLE] {
        bench.read(stream).await.unwrap().is_flawless().unwrap();
    }
    bench.read_topic(bench.kafka.as_ref().unwrap()).await.unwrap().is_terse().unwrap();

    // Killed again with nothing to do: the next process looks at all of it, and writes nothing.
    operator.kill9().await.unwrap();
    let operator = bench.operator().await;
    bench.synced(&operator).await;
    assert_eq!(bench.written().await, settled);
    operator.terminate().await.unwrap();
}
