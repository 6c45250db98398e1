//! The same over SSH: a key and the host keys in a Secret.

use kollect::lab::git::{BRANCH, Repository, SshServer};

use super::{Bench, touched};
use crate::operator::Job;
use crate::support::part_or_skip;

/// Returns the Secret of both sinks.
fn secret(bench: &Bench, server: &SshServer, known_hosts: &str) -> String {
    let indented = |text: &str| text.trim_end().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: key, namespace: {}}}\nstringData:\n  username: {}\n  \
         ssh-privatekey: |\n    {}\n  known_hosts: |\n    {}\n",
        bench.job.namespace(),
        server.user(),
        indented(&server.private_key().unwrap()),
        indented(known_hosts),
    )
}

fn sink(bench: &Bench, server: &SshServer, name: &str, layout: &str, repository: &Repository) -> String {
    let (namespace, url) = (bench.job.namespace(), server.url(repository));
    format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectSnapshotSink\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{type: git, cluster: test, endpoint: '{url}', secretRef: {{name: key}}{layout}}}\n"
    )
}

#[tokio::test]
async fn a_key_writes_over_ssh_and_a_host_that_is_not_known_is_not_written_to() {
    let Some(bench) = Bench::new("git-ssh").await else { return };
    let Some(server) = part_or_skip(SshServer::start(&bench.repositories).await) else { return };
    let (job, known) = (&bench.job, server.known_hosts().unwrap());
    let manifests = [
        secret(&bench, &server, &known),
        sink(&bench, &server, "document", "", &bench.document),
        sink(&bench, &server, "tree", ", layout: {mode: perResource}", &bench.tree),
    ];
    job.apply(&manifests.join("---\n")).unwrap();
    let load = Job::load(1, 5);
    load.create(&job.ground.client).await.unwrap();
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;
    bench.synced(&operator).await;
    bench.set_image(&load.object(0), "changed:1");
    bench.equals_the_cluster().await;
    assert_eq!(touched(&bench.tree, BRANCH), [Bench::path(&load, 0)]);
    bench.has_owners(&bench.tree, &["test/NS/all"]).await;
    assert_eq!(bench.server.counts().total(), 0, "something went over HTTP");

    // Another host answers.
    job.apply(&secret(&bench, &server, &server.other_known_hosts().unwrap())).unwrap();
    let message = job.condition("ksnap/tree", "ConnectionVerified", "ConnectionTestFailed").await;
    assert!(message.contains("known_hosts of the Secret"), "{message}");
    bench.set_image(&load.object(1), "changed:2");
    job.equals_the_cluster().await;
    assert!(bench.compare().is_err());
    job.apply(&secret(&bench, &server, &known)).unwrap();
    bench.equals_the_cluster().await;

    // None does, for a while.
    server.stop().await.unwrap();
    bench.delete(&load.object(2));
    job.condition("kinv/all", "Synced", "PartiallySynced").await;
    server.restart().await.unwrap();
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    bench.is_sound();
    assert!(!operator.log().unwrap().contains("PRIVATE KEY"), "a credential in the log");
    operator.terminate().await.unwrap();
}
