//! Two replicas, one lease: who delivers, how fast the other takes over, and what one that lost the lease can still do.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kollect::lab::Operator;
use kollect::lab::operator::{http_get, wait_for_metric};
use kollect::lab::process::Signal;
use kollect::lab::wait::wait_for;
use serde_json::Value;

use crate::operator::{Job, PATIENCE, TABLE};

const LEASE: &str = "3274ac8a.kollect.dev";
/// Short enough for a test, long enough for a loaded machine.
const LEASE_DURATION: Duration = Duration::from_secs(6);
const TIMINGS: [&str; 3] =
    ["--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s", "--leader-elect-retry-period=1s"];

/// Starts a replica with a log of its own.
async fn replica(job: &Job, name: &str, timings: &[&str]) -> Operator {
    let mut options = job.ground.operator_options().arg("--leader-elect");
    options.log = job.ground.lab().dir().join(format!("replica-{name}.log"));
    for timing in timings {
        options = options.arg(*timing);
    }
    job.ground.start_operator(&options).await
}

/// Starts two replicas of which the first leads.
async fn two(job: &Job) -> (Operator, Operator) {
    let leader = replica(job, "a", &TIMINGS).await;
    leads(&leader, PATIENCE).await;
    (leader, replica(job, "b", &TIMINGS).await)
}

/// Waits until a replica leads, and returns how long that took.
async fn leads(replica: &Operator, limit: Duration) -> Duration {
    let since = Instant::now();
    let status = format!("leader_election_master_status{{name=\"{LEASE}\"}}");
    let waited = wait_for_metric(replica, limit, "leadership", |metrics| metrics.get(&status) == Some(1.0)).await;
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}", replica.log_tail(20)));
    since.elapsed()
}

async fn ended(replica: &mut Operator, limit: Duration) -> ExitStatus {
    let status = wait_for("the replica to end", limit, || {
        let status = replica.exited();
        async move { status?.context("it still runs") }
    });
    status.await.unwrap()
}

fn lease(job: &Job) -> Value {
    let text = job.kubectl(&["-n", "kollect-system", "get", "lease", LEASE, "-o", "json"]);
    serde_json::from_str::<Value>(&text).unwrap()["spec"].take()
}

async fn epoch(job: &Job) -> Result<i64> {
    Ok(job.database.query_one(&format!("SELECT epoch FROM {TABLE}_state"), &[]).await?.get(0))
}

/// Waits until a new leader has made itself known to the database.
async fn epoch_above(job: &Job, before: i64) -> i64 {
    let taken = wait_for("the epoch of the new leader", PATIENCE, || async {
        let epoch = epoch(job).await?;
        ensure!(epoch > before, "epoch {epoch}");
        Ok(epoch)
    });
    taken.await.unwrap()
}

#[tokio::test]
async fn one_of_two_replicas_delivers_and_the_other_takes_over_when_it_is_killed() {
    let Some(job) = Job::new("failover").await else { return };
    let load = Job::load(3, 30);
    load.create(&job.ground.client).await.unwrap();
    let (leader, standby) = two(&job).await;
    job.rows(90).await;

    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let holder = lease(&job)["holderIdentity"].as_str().unwrap_or_default().to_owned();
    assert!(holder.starts_with(&format!("{}_", hostname.trim())), "{holder}");
    assert_eq!(lease(&job)["leaseDurationSeconds"], 6);
    // The standby is ready, and asks for nothing but the lease.
    assert_eq!(http_get(standby.probe_address(), "/readyz").await.unwrap(), "ok");
    let metrics = standby.metrics().await.unwrap();
    assert_eq!(metrics.get(&format!("leader_election_master_status{{name=\"{LEASE}\"}}")), Some(0.0));
    let asked: Vec<_> = metrics.family("kollect_api_requests_total").map(|(sample, _)| sample).collect();
    assert!(!asked.is_empty() && asked.iter().all(|sample| sample.contains("resource=\"leases\"")), "{asked:?}");
    assert_eq!(metrics.family("kollect_watch_streams").count(), 0);

    let (before, first) = (job.writes().await, epoch(&job).await.unwrap());
    leader.kill9().await.unwrap();
    let (took, changed) = tokio::join!(
        leads(&standby, LEASE_DURATION + Duration::from_secs(5)),
        load.delete(&job.ground.client, (0..5).collect())
    );
    changed.unwrap();
    eprintln!("MEASURED: after kill -9 of the leader another led within {:.1} s", took.as_secs_f64());
    job.rows(85).await;
    job.equals_the_cluster().await;
    epoch_above(&job, first).await;
    let since = job.writes().await.since(before);
    assert_eq!((since.inserted, since.updated, since.deleted), (0, 0, 5));
    assert_eq!(lease(&job)["leaseTransitions"], 1);
    standby.terminate().await.unwrap();
}

#[tokio::test]
async fn a_leader_that_ends_hands_over_at_once_and_all_end_well() {
    let Some(job) = Job::new("handover").await else { return };
    let load = Job::load(2, 20);
    load.create(&job.ground.client).await.unwrap();
    let (leader, standby) = two(&job).await;
    job.rows(40).await;
    let (before, first) = (job.writes().await, epoch(&job).await.unwrap());

    let asked = Instant::now();
    let (status, _) = tokio::join!(leader.terminate(), leads(&standby, Duration::from_secs(10)));
    let took = asked.elapsed();
    eprintln!("MEASURED: after SIGTERM to the leader another led within {:.2} s", took.as_secs_f64());
    assert!(status.unwrap().success());
    assert!(took < Duration::from_secs(3), "{took:?}");
    epoch_above(&job, first).await;
    assert_eq!(job.writes().await.since(before).total(), 0);

    let third = replica(&job, "c", &TIMINGS).await;
    let (one, other) = tokio::join!(standby.terminate(), third.terminate());
    assert!(one.unwrap().success() && other.unwrap().success());
    let left = lease(&job);
    assert_eq!(left["holderIdentity"].as_str().unwrap_or_default(), "", "{left}");
    assert_eq!(left["leaseDurationSeconds"], 1);
}

#[tokio::test]
async fn a_leader_that_was_paused_past_its_lease_ends_and_writes_nothing() {
    let Some(job) = Job::new("paused").await else { return };
    let load = Job::load(3, 100);
    load.create(&job.ground.client).await.unwrap();
    let (mut leader, standby) = two(&job).await;
    job.rows(300).await;
    let first = epoch(&job).await.unwrap();

    // Paused with work in hand and more to come.
    let changes = load.patch(&job.ground.client, load.draw(200, load.total()), 1);
    let paused = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        leader.process().signal(Signal::Stop)
    };
    let (patched, stopped) = tokio::join!(changes, paused);
    patched.unwrap();
    stopped.unwrap();
    let took = leads(&standby, LEASE_DURATION + Duration::from_secs(5)).await;
    eprintln!("MEASURED: after SIGSTOP of the leader another led within {:.1} s", took.as_secs_f64());
    job.equals_the_cluster().await;
    let second = epoch_above(&job, first).await;

    // The server ends a transaction in which the paused leader is silent; until then its counters are not reported.
    wait_for("the end of the paused transaction", PATIENCE, || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
        let open: i64 = job.database.query_one(sql, &[]).await?.get(0);
        ensure!(open == 0, "{open} are open");
        Ok(())
    })
    .await
    .unwrap();

    // One more change that only the new leader may write: one row, written once.
    let before = job.writes().await;
    let (namespace, name) = load.object(0);
    leader.process().signal(Signal::Cont).unwrap();
    job.kubectl(&["-n", &namespace, "set", "image", "deployment", &name, "*=after-the-pause:1"]);
    let status = ended(&mut leader, Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(1), "{}", leader.log_tail(20));
    let log = leader.log().unwrap();
    assert!(log.contains("leader election lost"), "{}", leader.log_tail(20));
    job.equals_the_cluster().await;
    assert_eq!(epoch(&job).await.unwrap(), second);
    let since = job.writes().await.since(before);
    assert_eq!((since.inserted, since.updated, since.deleted), (0, 1, 0));
    standby.terminate().await.unwrap();
}

#[tokio::test]
async fn an_api_server_that_is_away_for_fifteen_seconds_ends_no_leader() {
    let Some(job) = Job::new("lease-outage").await else { return };
    let load = Job::load(2, 20);
    load.create(&job.ground.client).await.unwrap();
    let mut leader = replica(&job, "a", &[]).await;
    let standby = replica(&job, "b", &[]).await;
    leads(&leader, PATIENCE).await;
    job.rows(40).await;
    let before = lease(&job);

    job.ground.api().stop_api_server().await.unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    job.ground.api().start_api_server().await.unwrap();
    wait_for("a renewal after the outage", PATIENCE, || async {
        let text = job.ground.api().kubectl(&["-n", "kollect-system", "get", "lease", LEASE, "-o", "json"])?;
        let now: Value = serde_json::from_str(&text)?;
        ensure!(now["spec"]["renewTime"] != before["renewTime"], "not renewed yet");
        Ok(())
    })
    .await
    .unwrap();
    assert!(leader.exited().unwrap().is_none(), "{}", leader.log_tail(20));
    let after = lease(&job);
    assert_eq!(
        (&after["holderIdentity"], &after["leaseTransitions"]),
        (&before["holderIdentity"], &before["leaseTransitions"])
    );
    load.delete(&job.ground.client, vec![0]).await.unwrap();
    job.rows(39).await;
    leader.terminate().await.unwrap();
    standby.terminate().await.unwrap();
}
