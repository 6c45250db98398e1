//! The API server is away, forgets, or cuts watches.

use std::time::Duration;

use kollect::lab::load::Load;
use kollect::lab::operator::wait_for_metric;
use kollect::lab::{Operator, Proxy};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Fault, long, writes};
use crate::operator::{Job, PATIENCE};

const REQUESTS: &str = "kollect_api_requests_total";

/// Restarts of the API server under churn; the nightly has some more.
const RESTARTS: (u64, u64) = (2, 12);

/// Returns how often Deployments were listed and watched.
async fn asked(operator: &Operator) -> (f64, f64) {
    let metrics = operator.metrics().await.unwrap();
    let of = |verb| metrics.sum(REQUESTS, &[("verb", verb), ("resource", "deployments")]);
    (of("list"), of("watch"))
}

#[tokio::test]
async fn an_api_server_that_was_away_for_long_and_one_that_restarts_under_churn_lose_no_row() {
    let Some(fault) = Fault::new("api-away").await else { return };
    let load = Load { rate: Some(60.0), ..Job::load(3, 100) };
    load.create(&fault.job.ground.client).await.unwrap();
    let operator = fault.operator().await;
    fault.recovered().await;
    let before = fault.job.writes().await;
    let api = fault.job.ground.api();
    api.stop_api_server().await.unwrap();
    let stopped = Instant::now();
    let length = long(Duration::from_secs(15), Duration::from_mins(2));
    sleep_until(stopped + length).await;
    // The sink goes on with the credentials that it has.
    let metrics = operator.metrics().await.unwrap();
    assert_eq!(metrics.family("kollect_binding_synced").filter(|(_, synced)| *synced > 0.5).count(), 1);
    api.start_api_server().await.unwrap();
    let back = Instant::now();
    load.delete(&fault.job.ground.client, (0..30).collect()).await.unwrap();
    fault.job.rows(270).await;
    fault.recovered().await;
    println!("away for {length:?}, current {:?} after it was back", back.elapsed());
    // An empty or half answer of a server that starts has deleted nothing that is there.
    assert_eq!(fault.job.writes().await.since(before), writes(0, 0, 30));

    // Killed and started again while objects change; what the server does not take, the load tries again.
    for round in 1..=long(RESTARTS.0, RESTARTS.1) {
        let churn = load.patch(&fault.job.ground.client, (30..270).collect(), round);
        let (churned, ()) = tokio::join!(churn, async {
            sleep(Duration::from_millis(500)).await;
            api.stop_api_server().await.unwrap();
            api.start_api_server().await.unwrap();
        });
        println!("round {round}: churn {:?}", churned.map(|(summary, _)| summary));
        fault.recovered().await;
    }
    operator.terminate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletes_that_were_compacted_away_are_found_and_cut_watches_list_nothing_again() {
    let Some(fault) = Fault::new("gone").await else { return };
    let load = Job::load(4, 150);
    load.create(&fault.job.ground.client).await.unwrap();
    let api = fault.job.ground.api();
    let proxy = Proxy::start(api.port()).await.unwrap();
    let mut options = fault.options();
    options.kubeconfig = api.operator_kubeconfig_through(proxy.port()).unwrap();
    let operator = fault.job.ground.start_operator(&options).await;
    fault.job.rows(600).await;
    fault.recovered().await;
    let before = fault.job.writes().await;
    let (lists, _) = asked(&operator).await;

    // Cut off, 500 objects are deleted; etcd forgets them, and so does the API server, whose cache would still know.
    proxy.shut();
    load.delete(&fault.job.ground.client, (0..500).collect()).await.unwrap();
    let revision = api.compact_etcd().await.unwrap();
    api.stop_api_server().await.unwrap();
    api.start_api_server().await.unwrap();
    proxy.open();
    fault.job.rows(100).await;
    fault.logged("watch expired, listing again").await;
    fault.recovered().await;
    let relists = asked(&operator).await.0 - lists;
    println!("compacted at {revision}; Deployments were listed {relists} more time(s), {lists} at the start");
    // One list for each watch, and there is one for each namespace.
    assert!(relists >= 1.0 && relists <= lists, "{relists} lists");
    assert_eq!(fault.job.writes().await.since(before), writes(0, 0, 500));

    // Every connection is cut every 2 s while objects change.
    let (lists, watches) = asked(&operator).await;
    let slow = Load { rate: Some(8.0), ..load.clone() };
    let rest: Vec<usize> = (500..600).collect();
    let objects: Vec<usize> = rest.iter().copied().cycle().take(240).collect();
    let (churned, ()) = tokio::join!(slow.patch(&fault.job.ground.client, objects, 7), async {
        let started = Instant::now();
        for cut in 1..=15 {
            sleep_until(started + Duration::from_secs(2) * cut).await;
            proxy.cut();
        }
    });
    churned.unwrap();
    fault.recovered().await;
    let (lists_after, watches_after) = asked(&operator).await;
    let (relists, rewatches) = (lists_after - lists, watches_after - watches);
    println!("{} connections cut: {rewatches} watches, {relists} lists of Deployments", proxy.traffic().cut);
    // A watch goes on where it broke off; a list is what only a version that is gone costs.
    assert!(relists <= 1.0, "{relists} lists");
    assert!(rewatches >= 14.0, "{rewatches} watches");
    wait_for_metric(&operator, PATIENCE, "every row", |metrics| {
        metrics.get("kollect_collect_items_total") == Some(100.0)
    })
    .await
    .unwrap();
    operator.terminate().await.unwrap();
}
