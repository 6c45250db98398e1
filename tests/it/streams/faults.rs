//! The brokers and the store die and come back, and the network cuts connections at random bytes, all while objects change.

use kollect::lab::kafka::Way;
use kollect::lab::load::Load;
use kollect::lab::proxy::{Cuts, Proxy};
use tokio::time::{Duration, sleep};

use super::{Bench, CHANGES, WHOLE};
use crate::faults::{long, moment};
use crate::operator::Job;

/// Changes of a round, and per second.
const CHANGED: usize = 340;
const RATE: f64 = 340.0;
/// The latest moment of a fault in its round, and the longest that it lasts.
const LATEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_millis(800);
/// A connection is cut after so many bytes, at the most.
const BYTES: u64 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_topic_and_bucket_converge_though_servers_die_and_connections_are_cut_during_thousands_of_changes() {
    let Some(mut bench) = Bench::with_topic("streams-faults", Way::Proxied, 3).await else { return };
    let load = Load { rate: Some(RATE), ..Job::load(4, 25) };
    load.create(&bench.job.ground.client).await.unwrap();
    let operator = bench.operator().await;
    let (rounds, seed) = (long(6, 30), u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    for round in 0..rounds {
        let draw = Load { seed: seed + round, ..load.clone() }.draw(CHANGED, load.total());
        let changes = load.patch(&bench.job.ground.client, draw, round);
        let (patched, ()) = tokio::join!(changes, bench.break_and_mend(seed, round));
        patched.unwrap();
        bench.hurry();
    }
    println!("{:?}", bench.proxies().map(Proxy::traffic));
    load.delete(&bench.job.ground.client, load.choose(20)).await.unwrap();
    bench.equals_the_cluster().await;
    bench.job.condition("kinv/all", "Ready", "Exported").await;
    for stream in [CHANGES, WHOLE] {
        bench.read(stream).await.unwrap().is_flawless().unwrap();
    }
    bench.read_topic(bench.kafka.as_ref().unwrap()).await.unwrap().is_terse().unwrap();
    operator.terminate().await.unwrap();
}

impl Bench {
    /// What is between the operator and everything that it writes to.
    fn proxies(&self) -> [&Proxy; 3] {
        [&self.to_nats, &self.to_store, self.kafka.as_ref().unwrap().proxy()]
    }

    async fn break_and_mend(&self, seed: u64, round: u64) {
        sleep(moment(seed, 2 * round, LATEST)).await;
        let lasting = sleep(moment(seed, 2 * round + 1, LONGEST));
        match round % 4 {
            0 => {
                self.nats.kill9().await.unwrap();
                lasting.await;
                self.nats.restart().await.unwrap();
            }
            1 => {
                self.store.kill9().await.unwrap();
                lasting.await;
                self.store.restart().await.unwrap();
            }
            2 => {
                let kafka = self.kafka.as_ref().unwrap();
                kafka.kill9().await.unwrap();
                lasting.await;
                kafka.restart().await.unwrap();
            }
            _ => {
                for proxy in self.proxies() {
                    proxy.cut_each(Some(Cuts { seed: seed + round, up: BYTES, down: BYTES }));
                    proxy.cut();
                }
                lasting.await;
                for proxy in self.proxies() {
                    proxy.cut_each(None);
                }
            }
        }
    }
}
