//! The operator ends, in order or not, and another process goes on.

use std::fs;

use kollect::lab::Operator;
use kollect::lab::load::Load;
use tokio::time::Duration;

use super::Bench;
use crate::faults::moment;
use crate::operator::Job;

/// Kills under churn.
const ROUNDS: u64 = 5;
/// The latest moment of a kill: a start, a list, a comparison and some pushes later.
const LATEST: Duration = Duration::from_secs(2);

#[tokio::test]
async fn another_process_writes_what_changed_while_nobody_looked_and_nothing_else() {
    let Some((bench, load, operator)) = Bench::filled("git-restart", 2, 10).await else { return };
    bench.synced(&operator).await;
    let job = &bench.job;
    let refs = bench.refs();

    // With the mirrors and without, after an end in order and a kill.
    assert!(operator.terminate().await.unwrap().success());
    let operator = bench.operator().await;
    bench.synced(&operator).await;
    assert_eq!(bench.refs(), refs);
    operator.kill9().await.unwrap();
    assert!(fs::read_dir(bench.mirrors()).unwrap().count() > 0);
    fs::remove_dir_all(bench.mirrors()).unwrap();
    let operator = bench.operator().await;
    bench.synced(&operator).await;
    assert_eq!(bench.refs(), refs);
    operator.kill9().await.unwrap();

    // An object that goes while nobody looks.
    let before = bench.both().map(|repository| Bench::log(repository).len());
    bench.delete(&load.object(5));
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;
    bench.synced(&operator).await;
    assert!(!Bench::paths(&bench.tree).unwrap().contains(&Bench::path(&load, 5)));
    assert_eq!(bench.both().map(|repository| Bench::log(repository).len()), before.map(|length| length + 1));

    // The inventory itself.
    operator.terminate().await.unwrap();
    job.kubectl(&["-n", job.namespace(), "delete", "kinv/all", "--wait=false"]);
    let operator = bench.operator().await;
    job.gone("kinv/all").await;
    for repository in bench.both() {
        bench.has_paths(repository, &[]).await;
        bench.has_owners(repository, &[]).await;
    }
    job.rows(0).await;
    sweeps_what_has_no_finalizer(&bench, operator).await.terminate().await.unwrap();
    bench.is_sound();
}

/// Deletes an inventory, finalizer and all, while nobody looks: another one that writes to the same branch brings that to
/// light. Nobody looks after a branch to which no inventory writes any more.
async fn sweeps_what_has_no_finalizer(bench: &Bench, operator: Operator) -> Operator {
    let (job, namespace) = (&bench.job, bench.job.namespace());
    let elsewhere =
        "type: git, cluster: test, layout: {mode: perResource, pathTemplate: 'other/{sourceName}{extension}'}";
    let other = format!(
        "{}---\n{}---\napiVersion: kollect.dev/v1alpha1\nkind: KollectInventory\n\
         metadata: {{name: other, namespace: {namespace}}}\nspec: {{exportMinInterval: 0s, snapshotSinkRefs: [{{name: other}}]}}\n",
        bench.manifests(),
        bench.sink("other", elsewhere, &bench.tree)
    );
    job.apply(&other).unwrap();
    bench.has_owners(&bench.tree, &["test/NS/all", "test/NS/other"]).await;
    bench.has_owners(&bench.document, &["test/NS/all"]).await;
    job.condition("kinv/other", "Ready", "Exported").await;
    operator.terminate().await.unwrap();
    job.patch("kinv/all", r#"{"metadata":{"finalizers":null}}"#);
    job.kubectl(&["-n", namespace, "delete", "kinv/all"]);
    job.annotate("kinv/other", "kollect.dev/audit-now=1");
    let operator = bench.operator().await;
    bench.has_owners(&bench.tree, &["test/NS/other"]).await;
    let paths = Bench::paths(&bench.tree).unwrap();
    assert!(!paths.is_empty() && paths.iter().all(|path| path.starts_with("other/")), "{paths:?}");
    bench.has_owners(&bench.document, &["test/NS/all"]).await;
    operator
}

#[tokio::test]
async fn killed_at_any_moment_the_next_process_makes_the_repositories_equal_the_cluster() {
    let Some(bench) = Bench::new("git-kill").await else { return };
    let load = Load { rate: Some(20.0), ..Job::load(2, 20) };
    load.create(&bench.job.ground.client).await.unwrap();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    for round in 0..ROUNDS {
        let operator = Operator::spawn(&bench.options(), bench.job.ground.lab().guard()).unwrap();
        let killed = async {
            tokio::time::sleep(moment(seed, round, LATEST)).await;
            operator.kill9().await
        };
        let changes = load.patch(&bench.job.ground.client, load.draw(30, load.total()), round);
        let (patched, ended) = tokio::join!(changes, killed);
        patched.unwrap();
        ended.unwrap();
    }
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;
    bench.synced(&operator).await;
    bench.has_owners(&bench.document, &["test/NS/all"]).await;
    bench.has_owners(&bench.tree, &["test/NS/all"]).await;
    bench.is_sound();
    let refs = bench.refs();
    operator.kill9().await.unwrap();
    let operator = bench.operator().await;
    bench.synced(&operator).await;
    assert_eq!(bench.refs(), refs);
    operator.terminate().await.unwrap();
}
