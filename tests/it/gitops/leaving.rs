//! What an inventory leaves in a repository when it, its references or its sinks change or go.

use super::{Bench, DOCUMENT};

#[tokio::test]
async fn what_is_left_in_a_repository_is_cleaned_up() {
    let Some((bench, load, operator)) = Bench::filled("git-places", 1, 5).await else { return };
    let (job, namespace) = (&bench.job, bench.job.namespace().to_owned());
    let paths = |front: &str| -> Vec<String> {
        (0..5).map(|index| Bench::path(&load, index).replacen("test/", front, 1)).collect()
    };
    let document = |front: &str| vec![format!("{front}/{namespace}/{DOCUMENT}")];

    // Another cluster: the files of the tree move, the document stays where it is and has another owner.
    job.patch("ksnap/tree", r#"{"spec":{"cluster":"renamed"}}"#);
    job.patch("ksnap/document", r#"{"spec":{"cluster":"renamed"}}"#);
    bench.has_paths(&bench.tree, &paths("renamed/")).await;
    for repository in bench.both() {
        bench.has_owners(repository, &["renamed/NS/all"]).await;
    }
    bench.has_paths(&bench.document, &document("inventory")).await;
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    job.places(3).await;

    // Other paths.
    job.patch(
        "ksnap/tree",
        r#"{"spec":{"layout":{"mode":"perResource","pathTemplate":"elsewhere/{sourceNamespace}/{kind}/{sourceName}{extension}"}}}"#,
    );
    bench.has_paths(&bench.tree, &paths("elsewhere/")).await;
    job.patch(
        "ksnap/document",
        r#"{"spec":{"pathTemplate":"documents/{namespace}/{name}{extension}","git":{"prune":true}}}"#,
    );
    bench.has_paths(&bench.document, &document("documents")).await;
    bench.equals_the_cluster().await;
    job.places(3).await;

    another_sink_takes_over(&bench).await;

    // No reference any more; and back again.
    job.patch("kinv/all", r#"{"spec":{"snapshotSinkRefs":[]}}"#);
    for repository in bench.both() {
        bench.has_paths(repository, &[]).await;
        bench.has_owners(repository, &[]).await;
    }
    job.places(1).await;
    job.patch("kinv/all", r#"{"spec":{"snapshotSinkRefs":[{"name":"document"},{"name":"tree"}]}}"#);
    bench.equals_the_cluster().await;
    job.places(3).await;

    // Orphaned files stay, nobody owns them, and whoever comes next takes them as they are.
    for sink in ["ksnap/document", "ksnap/tree"] {
        job.patch(sink, r#"{"spec":{"deletionPolicy":"Orphan"}}"#);
    }
    job.condition("kinv/all", "Ready", "Exported").await;
    job.kubectl(&["-n", &namespace, "delete", "kinv/all", "--timeout=60s"]);
    for repository in bench.both() {
        bench.has_owners(repository, &[]).await;
    }
    bench.has_paths(&bench.tree, &paths("elsewhere/")).await;
    bench.has_paths(&bench.document, &document("documents")).await;
    let before = bench.both().map(|repository| Bench::log(repository).len());
    let inventory = bench.manifests();
    let (_, inventory) = inventory.rsplit_once("---\n").unwrap();
    job.apply(inventory).unwrap();
    for repository in bench.both() {
        bench.has_owners(repository, &["renamed/NS/all"]).await;
    }
    bench.equals_the_cluster().await;
    assert_eq!(bench.both().map(|repository| Bench::log(repository).len()), before);
    bench.is_sound();
    operator.terminate().await.unwrap();
}

/// Names a second sink of the same branch that would lay the inventory out in another way: it has to wait for the first
/// one, and for no longer than that.
async fn another_sink_takes_over(bench: &Bench) {
    let (job, before) = (&bench.job, Bench::paths(&bench.tree).unwrap());
    let twin = "type: git, cluster: renamed, layout: {mode: perResource, pathTemplate: 'twin/{sourceName}{extension}'}";
    job.apply(&bench.sink("twin", twin, &bench.tree)).unwrap();
    let refs = |names: &str| format!(r#"{{"spec":{{"snapshotSinkRefs":[{{"name":"document"}},{names}]}}}}"#);
    job.patch("kinv/all", &refs(r#"{"name":"tree"},{"name":"twin"}"#));
    let message = job.condition("kinv/all", "Synced", "PartiallySynced").await;
    assert!(message.contains("snapshot/twin: sink snapshot/"), "{message}");
    bench.has_paths(&bench.tree, &before).await;
    job.patch("kinv/all", &refs(r#"{"name":"twin"}"#));
    let paths: Vec<String> = before.iter().map(|path| format!("twin/{}", path.rsplit('/').next().unwrap())).collect();
    bench.has_paths(&bench.tree, &paths).await;
    job.places(3).await;
    job.patch("kinv/all", &refs(r#"{"name":"tree"}"#));
    bench.has_paths(&bench.tree, &before).await;
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
}

#[tokio::test]
async fn a_deleted_inventory_takes_its_files_along_whatever_went_first() {
    let Some((bench, _, operator)) = Bench::filled("git-deletion", 1, 5).await else { return };
    let (job, namespace) = (&bench.job, bench.job.namespace().to_owned());
    let delete_inventory = ["-n", &namespace, "delete", "kinv/all", "--timeout=60s"];

    // The plain case.
    job.kubectl(&delete_inventory);
    for repository in bench.both() {
        bench.has_paths(repository, &[]).await;
        bench.has_owners(repository, &[]).await;
    }

    // Sinks and Secrets go first.
    job.apply(&bench.manifests()).unwrap();
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    job.kubectl(&["-n", &namespace, "delete", "secret/bot", "secret/authority", "ksnap/tree", "ksnap/document"]);
    job.condition("kinv/all", "SinkReachable", "SinkNotFound").await;
    bench.equals_the_cluster().await;
    job.kubectl(&delete_inventory);
    for repository in bench.both() {
        bench.has_paths(repository, &[]).await;
        bench.has_owners(repository, &[]).await;
    }

    // A server that is away keeps the deletion waiting, and says so, until it is back.
    job.apply(&bench.manifests()).unwrap();
    bench.equals_the_cluster().await;
    job.condition("kinv/all", "Ready", "Exported").await;
    bench.server.stop().await;
    job.kubectl(&["-n", &namespace, "delete", "kinv/all", "--wait=false"]);
    let message = job.condition("kinv/all", "Degraded", "CleanupTerminal").await;
    assert!(message.starts_with("failed to clean up https://127.0.0.1:"), "{message}");
    bench.server.restart().unwrap();
    job.gone("kinv/all").await;
    for repository in bench.both() {
        bench.has_paths(repository, &[]).await;
        bench.has_owners(repository, &[]).await;
    }
    bench.is_sound();
    operator.terminate().await.unwrap();
}
