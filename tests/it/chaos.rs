//! Random edits while the network and the API server fail: at the end the table equals the cluster, and no row was deleted
//! and added again. Takes minutes, so it runs with `KOLLECT_LONG=1`; `KOLLECT_CHAOS_OBJECTS` and `KOLLECT_CHAOS_SEED` choose
//! another number of objects, and a run once more.

use std::collections::BTreeSet;
use std::time::Duration;

use kollect::lab::Proxy;
use kollect::lab::load::Load;
use tokio::time::{Instant, sleep_until};

use crate::operator::{Job, TABLE};

/// Watches are cut at this interval.
const CUT: Duration = Duration::from_secs(3);
/// Rounds of edits, one after each cut. After a third and after two thirds of them the API server is killed.
const ROUNDS: u64 = 30;

/// Notes every row that is written, so that one that goes and comes back is seen.
const NOTES: &str = "
CREATE TABLE notes (id bigserial, uid text, what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
  $$ BEGIN INSERT INTO notes (uid, what) VALUES (coalesce(NEW.source_uid, OLD.source_uid), TG_OP); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON inventory_items FOR EACH ROW EXECUTE FUNCTION note();
";

#[expect(clippy::disallowed_methods, reason = "tests are no part of the operator whose environment config reads")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_edits_cut_watches_and_two_restarts_of_the_api_server_lose_and_repeat_nothing() {
    if setting("KOLLECT_LONG") != Some(1) {
        eprintln!("SKIPPED: minutes of chaos take KOLLECT_LONG=1");
        return;
    }
    let Some(mut job) = Job::new("chaos").await else { return };
    job.database = job.ground.postgres().connect_admin(&job.ground.database).await.unwrap();
    let objects = usize::try_from(setting("KOLLECT_CHAOS_OBJECTS").unwrap_or(5000)).unwrap();
    let seed = setting("KOLLECT_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {objects} objects");
    let load = Job::load(10, objects / 10);
    load.create(&job.ground.client).await.unwrap();

    let proxy = Proxy::start(job.ground.api().port()).await.unwrap();
    let mut options = job.ground.operator_options().arg("--sink-audit-interval=0");
    options.kubeconfig = job.ground.api().operator_kubeconfig_through(proxy.port()).unwrap();
    let operator = job.ground.start_operator(&options).await;
    job.rows(i64::try_from(load.total()).unwrap()).await;
    job.database.batch_execute(NOTES).await.unwrap();

    let (mut alive, mut created, mut deleted, mut patched): (BTreeSet<usize>, _, _, _) =
        ((0..load.total()).collect(), 0, 0, 0);
    let started = Instant::now();
    for round in 1..=ROUNDS {
        let chance = Load { seed: seed.wrapping_mul(1000).wrapping_add(round), ..load.clone() };
        let chosen: Vec<usize> = chance.choose(load.total() / 20).into_iter().filter(|at| alive.contains(at)).collect();
        let (gone, changed) = chosen.split_at(chosen.len() / 4);
        load.patch(&job.ground.client, changed.to_vec(), round).await.unwrap();
        load.delete(&job.ground.client, gone.to_vec()).await.unwrap();
        patched += changed.len();
        deleted += gone.len();
        for at in gone {
            alive.remove(at);
        }
        if round % 4 == 0 {
            load.create(&job.ground.client).await.unwrap();
            created += load.total() - alive.len();
            alive = (0..load.total()).collect();
        }
        if [ROUNDS / 3, 2 * ROUNDS / 3].contains(&round) {
            job.ground.api().stop_api_server().await.unwrap();
            job.ground.api().start_api_server().await.unwrap();
        }
        sleep_until(started + CUT * u32::try_from(round).unwrap()).await;
        proxy.cut();
    }
    println!("{} cuts in {:?}", proxy.traffic().cut, started.elapsed());

    job.equals_the_cluster().await;
    let written = async |what: &str| -> usize {
        let count = format!("SELECT count(*) FROM notes WHERE what = '{what}'");
        let count: i64 = job.database.query_one(&count, &[]).await.unwrap().get(0);
        usize::try_from(count).unwrap()
    };
    let (inserts, updates, erasures) = (written("INSERT").await, written("UPDATE").await, written("DELETE").await);
    println!("objects: {created} created, {patched} changed, {deleted} deleted");
    println!("rows: {inserts} inserted, {updates} updated, {erasures} deleted");
    let again = "SELECT count(*) FROM notes a JOIN notes b USING (uid) WHERE a.what = 'DELETE' AND b.what = 'INSERT' AND a.id < b.id";
    let again: i64 = job.database.query_one(again, &[]).await.unwrap().get(0);
    assert_eq!(again, 0, "rows that went and came back");
    // An object that came and went between two deliveries has no row at all, and two changes may be one.
    assert!(inserts <= created && updates <= patched && erasures <= deleted);
    let rows = job.ground.postgres().count(&job.database, TABLE).await.unwrap();
    assert_eq!(rows, i64::try_from(alive.len()).unwrap());
    operator.terminate().await.unwrap();
}
