//! Credentials that change, servers that go and come back, and sinks of other types.

use anyhow::ensure;
use kollect::lab::wait::wait_for;
use tokio::time::{Duration, Instant};

use super::{Bench, TOKEN, USER};
use crate::operator::PATIENCE;

#[tokio::test]
async fn a_rotated_token_a_wrong_one_and_a_server_that_is_away_cost_no_file() {
    let Some((bench, load, operator)) = Bench::filled("git-access", 1, 5).await else { return };
    let job = &bench.job;

    // Rotated on both sides.
    bench.server.require_login(USER, "glpat-rotated").unwrap();
    job.apply(&bench.secret("glpat-rotated")).unwrap();
    let rotated = Instant::now();
    bench.set_image(&load.object(0), "rotated:1");
    bench.equals_the_cluster().await;
    assert!(rotated.elapsed() < Duration::from_secs(20), "{:?}", rotated.elapsed());
    assert!(!operator.log().unwrap().contains("have to be compared"), "{}", operator.log_tail(20));

    // A wrong one: sink and inventory say so, and the table goes on.
    job.apply(&bench.secret("glpat-wrong")).unwrap();
    let message = job.condition("ksnap/tree", "ConnectionVerified", "ConnectionTestFailed").await;
    assert!(message.contains("check user and token or key in the Secret") && !message.contains("glpat-"), "{message}");
    bench.set_image(&load.object(1), "wrong:1");
    job.equals_the_cluster().await;
    let message = job.condition("kinv/all", "Synced", "PartiallySynced").await;
    assert!(message.contains("snapshot/tree: ") && !message.contains("glpat-"), "{message}");
    assert!(bench.compare().is_err());
    job.apply(&bench.secret("glpat-rotated")).unwrap();
    bench.equals_the_cluster().await;
    job.condition("ksnap/tree", "ConnectionVerified", "ConnectionOK").await;
    job.condition("kinv/all", "Ready", "Exported").await;

    // A server that is away.
    bench.server.stop().await;
    bench.set_image(&load.object(2), "away:1");
    bench.delete(&load.object(3));
    job.equals_the_cluster().await;
    job.condition("kinv/all", "Synced", "PartiallySynced").await;
    bench.server.restart().unwrap();
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    bench.is_sound();
    let log = operator.log().unwrap();
    assert!(!log.contains("glpat-") && !log.contains(TOKEN), "a credential in the log");
    operator.terminate().await.unwrap();
}

#[tokio::test]
async fn gitlab_is_written_directly_and_what_is_not_served_says_so_beside_sinks_that_go_on() {
    let Some((bench, load, operator)) = Bench::filled("git-types", 1, 5).await else { return };
    let (job, namespace) = (&bench.job, bench.job.namespace());
    let lab = bench.repositories.create("team/lab").unwrap();
    let request = "type: gitlab, gitlab: {mergeRequest: {mode: merge_request, targetBranch: main}}";
    let bucket = format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectSnapshotSink\n\
         metadata: {{name: bucket, namespace: {namespace}}}\nspec: {{type: s3, endpoint: 's3://bucket', serialization: {{format: csv}}}}\n"
    );
    let sinks = [bench.sink("lab", "type: gitlab, cluster: test", &lab), bench.sink("request", request, &lab), bucket];
    job.apply(&sinks.join("---\n")).unwrap();
    job.condition("ksnap/lab", "ConnectionVerified", "ConnectionOK").await;
    job.condition("ksnap/request", "Degraded", "NotServed").await;
    job.patch(
        "kinv/all",
        r#"{"spec":{"snapshotSinkRefs":
            [{"name":"document"},{"name":"tree"},{"name":"lab"},{"name":"request"},{"name":"bucket"}]}}"#,
    );
    let message = job.condition("kinv/all", "Degraded", "NotServed").await;
    assert!(message.contains("snapshot/request: ") && message.contains("snapshot/bucket: "), "{message}");
    bench.set_image(&load.object(0), "beside:1");
    bench.equals_the_cluster().await;
    bench
        .becomes("the document in GitLab", || {
            let files = Bench::files(&lab)?;
            ensure!(files.len() == 1 && files.values().any(|text| text.contains("beside:1")), "{files:?}");
            Ok(())
        })
        .await;

    // A connection test and a preview of a sink.
    job.apply(&format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectConnectionTest\nmetadata: {{name: once, namespace: {namespace}}}\n\
         spec: {{sinkRef: {{snapshotSinkRef: lab}}}}\n"
    ))
    .unwrap();
    let message = job.condition("kconntest/once", "Ready", "ProbeSucceeded").await;
    assert!(!message.contains(TOKEN), "{message}");
    job.annotate("ksnap/lab", "kollect.dev/preview=true");
    let preview = wait_for("a preview", PATIENCE, || async {
        let preview = job.status("ksnap/lab")["preview"].clone();
        ensure!(preview.is_object(), "there is none");
        Ok(preview)
    });
    let preview = preview.await.unwrap();
    assert_eq!(preview["objectPath"], "inventory/team-a/api.yaml");
    assert!(preview["git"]["sampleCommitSubject"].is_string(), "{preview}");
    operator.terminate().await.unwrap();
}
