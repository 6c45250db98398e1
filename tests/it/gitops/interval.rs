//! `exportMinInterval` on a reference: commits at that pace, while the other sink of the inventory stays fresh.

use kollect::lab::Operator;
use kollect::lab::load::Load;
use tokio::time::{Duration, Instant};

use super::{Bench, run_git};
use crate::operator::Job;

/// The interval of the git references.
const INTERVAL: i64 = 10;
/// How long there are changes all the time.
const CHURN: Duration = Duration::from_secs(40);
/// A row is in the table within this, however busy the machine is.
const FRESH: Duration = Duration::from_secs(5);

#[tokio::test]
async fn commits_keep_their_interval_under_churn_while_the_table_stays_fresh_and_the_last_change_arrives() {
    let Some((bench, _, operator)) = Bench::filled("git-interval", 1, 10).await else { return };
    let job = &bench.job;
    job.patch(
        "kinv/all",
        r#"{"spec":{"snapshotSinkRefs":[{"name":"document","exportMinInterval":"10s"},
            {"name":"tree","exportMinInterval":"10s"}]}}"#,
    );
    job.condition("kinv/all", "Ready", "Exported").await;
    bench.synced(&operator).await;
    let before = bench.both().map(|repository| Bench::log(repository).len());
    let load = Load { rate: Some(5.0), ..Job::load(1, 10) };
    let (start, mut round) = (Instant::now(), 0);
    while start.elapsed() < CHURN {
        load.patch(&job.ground.client, load.draw(20, load.total()), round).await.unwrap();
        round += 1;
        let patched = Instant::now();
        job.equals_the_cluster().await;
        assert!(patched.elapsed() < FRESH, "{:?}", patched.elapsed());
    }
    bench.equals_the_cluster().await;
    let most = usize::try_from(start.elapsed().as_secs()).unwrap() / usize::try_from(INTERVAL).unwrap() + 1;
    for (repository, before) in bench.both().into_iter().zip(before) {
        let times = run_git(repository, &["log", "--reverse", "--format=%ct", "main"]);
        let times: Vec<i64> = times.lines().skip(before).map(|time| time.parse().unwrap()).collect();
        // A commit is stamped before it is pushed, in whole seconds.
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= INTERVAL - 1), "{times:?}");
        assert!((3..=most).contains(&times.len()), "{} commits in {:?}", times.len(), start.elapsed());
    }
    restarts_do_not_shorten_it(&bench, operator).await.terminate().await.unwrap();
    bench.is_sound();
}

/// Kills the operator twice, with a change each time, in the hour after a commit.
async fn restarts_do_not_shorten_it(bench: &Bench, mut operator: Operator) -> Operator {
    let (job, load) = (&bench.job, Job::load(1, 10));
    job.patch(
        "kinv/all",
        r#"{"spec":{"snapshotSinkRefs":[{"name":"document","exportMinInterval":"1h"},
            {"name":"tree","exportMinInterval":"1h"}]}}"#,
    );
    job.condition("kinv/all", "Synced", "Exported").await;
    bench.synced(&operator).await;
    let refs = bench.refs();
    for round in 0..2 {
        operator.kill9().await.unwrap();
        bench.set_image(&load.object(round), &format!("restarted:{round}"));
        operator = bench.operator().await;
        job.equals_the_cluster().await;
        bench.synced(&operator).await;
        job.condition("kinv/all", "Synced", "Debounced").await;
        assert_eq!(bench.refs(), refs, "round {round}");
    }
    let before = bench.both().map(|repository| Bench::log(repository).len());
    job.annotate("kinv/all", "kollect.dev/export-now=1");
    bench.equals_the_cluster().await;
    assert_eq!(bench.both().map(|repository| Bench::log(repository).len()), before.map(|length| length + 1));

    // The same while nobody looks.
    operator.kill9().await.unwrap();
    bench.set_image(&load.object(2), "restarted:2");
    job.annotate("kinv/all", "kollect.dev/export-now=2");
    operator = bench.operator().await;
    bench.equals_the_cluster().await;
    assert_eq!(bench.both().map(|repository| Bench::log(repository).len()), before.map(|length| length + 2));
    operator
}
