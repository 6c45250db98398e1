//! The server dies, restarts, may not write, or is full.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use kollect::lab::Proxy;
use kollect::lab::operator::wait_for_metric;
use kollect::lab::wait::wait_for;
use tokio::time::{Instant, sleep_until};

use super::{Fault, row_count, writes};
use crate::operator::{Job, PATIENCE, TABLE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_the_middle_of_the_first_copy_gets_all_of_it_later_and_restarts_lose_nothing() {
    let Some(mut fault) = Fault::new("copy").await else { return };
    let load = Job::load(4, 600);
    load.create(&fault.job.ground.client).await.unwrap();
    fault.select_by(5);
    let proxy = Proxy::start(fault.job.ground.postgres().port()).await.unwrap();
    // Slow enough to be looked at: some two hundred chunks.
    proxy.delay(Duration::from_millis(8));
    // Without a way to the server until everything is collected, so that the first delivery is one COPY.
    fault.connect_by("");
    let operator = fault.operator().await;
    wait_for_metric(&operator, PATIENCE, "12,000 rows", |metrics| {
        metrics.get("kollect_collect_items_total") == Some(12_000.0)
    })
    .await
    .unwrap();
    fault.connect_through(&proxy);
    let progress = "SELECT coalesce(max(tuples_processed), 0) FROM pg_stat_progress_copy WHERE command = 'COPY FROM'";
    fault.at_least(1, progress).await;
    proxy.freeze();
    let copied = fault.number(progress).await;
    assert!((1..12_000).contains(&copied), "{copied} rows of the COPY had arrived");
    fault.job.ground.postgres().kill9().await.unwrap();
    proxy.thaw();
    proxy.delay(Duration::ZERO);
    fault.job.condition("kinv/all", "Degraded", "Progressing").await;
    fault.job.ground.postgres().restart().await.unwrap();
    fault.reconnect().await;
    println!("killed after {copied} of 12,000 rows; {} rows when it was back", row_count(&fault).await);
    fault.job.rows(12_000).await;
    fault.recovered().await;
    // Recovery from the kill takes the counters back to zero: these are the rows of the COPY that was committed.
    assert_eq!(fault.job.writes().await, writes(12_000, 0, 0));

    // Three fast restarts while objects change.
    let load = kollect::lab::load::Load { rate: Some(60.0), ..load };
    let (churn, ()) = tokio::join!(load.patch(&fault.job.ground.client, load.draw(480, 400), 1), async {
        for _ in 0..3 {
            let ground = &fault.job.ground;
            let fresh = ground.postgres().connect_admin(&ground.database).await.unwrap();
            wait_for("the operator's connection", PATIENCE, || async {
                let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kollect'";
                let count: i64 = fresh.query_one(query, &[]).await?.get(0);
                ensure!(count > 0, "there is none");
                Ok(())
            })
            .await
            .unwrap();
            ground.postgres().stop_fast().await.unwrap();
            ground.postgres().restart().await.unwrap();
        }
    });
    churn.unwrap();
    fault.reconnect().await;
    fault.hurry();
    fault.recovered().await;
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn a_server_that_may_not_write_or_has_no_room_gets_every_row_once_it_can() {
    let Some(mut fault) = Fault::new("no-room").await else { return };
    let load = Job::load(3, 100);
    load.create(&fault.job.ground.client).await.unwrap();
    let operator = fault.operator().await;
    fault.recovered().await;
    let before = fault.job.writes().await;

    // Read-only for 20 s, as after a failover that went to the wrong server.
    let started = Instant::now();
    read_only(&fault, "on").await;
    load.patch(&fault.job.ground.client, (0..100).collect(), 1).await.unwrap();
    let message = fault.job.condition("kinv/all", "Degraded", "Progressing").await;
    assert!(message.contains("read-only"), "{message}");
    sleep_until(started + Duration::from_secs(20)).await;
    read_only(&fault, "off").await;
    let back = Instant::now();
    fault.recovered().await;
    println!("read-only: {} failed tries, current {:?} after its end", fault.count("export failed"), back.elapsed());
    // A transaction that may not write has written nothing: each row is counted once.
    assert_eq!(fault.job.writes().await.since(before), writes(0, 100, 0));

    let path = match fault.job.ground.postgres().small_tablespace("small", 1 << 20) {
        Ok(path) => path,
        Err(error) => {
            eprintln!("SKIPPED the full disk, because no file system could be mounted: {error:#}");
            return;
        }
    };
    let sql = format!("CREATE TABLESPACE small LOCATION '{}'", path.display());
    fault.job.database.batch_execute(&sql).await.unwrap();
    fault.job.database.batch_execute(&format!("ALTER TABLE {TABLE} SET TABLESPACE small")).await.unwrap();
    fill(&path.join("ballast"));
    // All rows in new versions: more than the pages have room for.
    load.patch(&fault.job.ground.client, (0..300).collect(), 2).await.unwrap();
    fault.logged("SQLSTATE 53100").await;
    let message = fault.job.condition("kinv/all", "Degraded", "Progressing").await;
    assert!(message.contains("the server's disk is full"), "{message}");
    assert_eq!(row_count(&fault).await, 300);
    std::fs::remove_file(path.join("ballast")).unwrap();
    fault.hurry();
    fault.recovered().await;
    operator.terminate().await.unwrap();
}

/// Makes the whole server read-only or not, and waits until that is so.
async fn read_only(fault: &Fault, value: &str) {
    let sql = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
    // The setting would hold for the statement that takes it back, too.
    fault.job.database.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    fault.job.database.batch_execute(&sql).await.unwrap();
    fault.job.database.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    wait_for("the setting", PATIENCE, || async {
        let fresh = fault.job.ground.postgres().connect_admin(&fault.job.ground.database).await?;
        let now: String = fresh.query_one("SHOW default_transaction_read_only", &[]).await?.get(0);
        ensure!(now == value, "it is {now}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Writes a file until the file system has no room left.
fn fill(path: &Path) {
    use std::io::Write as _;

    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}
