//! A cluster inventory in the branches that a team writes as well: each has files, commits and a ref of its own.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{Bench, DOCUMENT, items, touched};

/// The files of the cluster inventory in the tree are below this.
const ROOT: &str = "fleet";

#[tokio::test]
async fn a_cluster_inventory_has_files_of_its_own_and_takes_them_along() {
    let Some((bench, load, operator)) = Bench::filled("git-roll-up", 2, 3).await else { return };
    let (job, home) = (&bench.job, bench.job.namespace());
    let objects: Vec<(String, String)> = (0..load.total()).map(|index| load.object(index)).collect();
    for (namespace, _) in &objects {
        job.kubectl(&["label", "namespace", namespace, "--overwrite", "tier=x"]);
    }
    let of_team = Bench::paths(&bench.tree).unwrap();
    let layout =
        format!("{{mode: perResource, pathTemplate: '{ROOT}/{{sourceNamespace}}/{{sourceName}}{{extension}}'}}");
    job.apply(&bench.sink("roll-up", &format!("type: git, cluster: test, layout: {layout}"), &bench.tree)).unwrap();
    let selector = json!({"matchLabels": {"tier": "x"}});
    let object = |kind: &str, spec: serde_json::Value| {
        json!({"apiVersion": "kollect.dev/v1alpha1", "kind": kind, "metadata": {"name": "fleet"}, "spec": spec})
            .to_string()
    };
    let profile = json!({"name": "deployments", "namespace": home});
    let target = object("KollectClusterTarget", json!({"profileRef": profile, "namespaceSelector": selector}));
    let refs = json!([{"name": "document"}, {"name": "roll-up"}]);
    let inventory = json!({
        "namespaceSelector": selector, "sinkNamespace": home, "snapshotSinkRefs": refs, "exportMinInterval": "0s",
    });
    job.apply(&format!("{target}\n---\n{}", object("KollectClusterInventory", inventory))).unwrap();

    let path = |(namespace, name): &(String, String)| format!("{ROOT}/{namespace}/{name}.yaml");
    let mut both: Vec<String> = objects.iter().map(path).chain(of_team.iter().cloned()).collect();
    both.sort();
    bench.has_paths(&bench.tree, &both).await;
    let documents = ["inventory/cluster/fleet.yaml".to_owned(), format!("inventory/{home}/{DOCUMENT}")];
    bench.has_paths(&bench.document, &documents).await;
    for repository in bench.both() {
        bench.has_owners(repository, &["test/cluster/fleet", "test/NS/all"]).await;
    }
    job.condition("kcinv/fleet", "Ready", "Exported").await;

    // One change is one commit of each inventory, which touches its own file.
    let before = bench.both().map(|repository| Bench::log(repository).len());
    bench.set_image(&objects[0], "changed:1");
    bench
        .becomes("the change in document and tree", || {
            let document = Bench::files(&bench.document)?;
            let mut have = items(document.get(&documents[0]).context("no document")?)?;
            have.sort();
            let want = bench.job.objects()?;
            ensure!(have == want, "want {want:?}\nhave {have:?}");
            for (repository, before) in bench.both().into_iter().zip(before) {
                let log = Bench::log(repository).len() - before;
                ensure!(log == 2, "{log} commits in {}", repository.name());
            }
            Ok(())
        })
        .await;
    for (repository, own) in bench.both().into_iter().zip([documents[0].clone(), path(&objects[0])]) {
        let log = Bench::log(repository);
        let files: Vec<Vec<String>> = log[..2].iter().map(|commit| touched(repository, &commit.id)).collect();
        assert!(files.iter().all(|files| files.len() == 1) && files.contains(&vec![own]), "{files:?}");
    }

    // A namespace that leaves the selection takes its files out of the roll-up, not out of the team's.
    let (gone, _) = &objects[objects.len() - 1];
    job.kubectl(&["label", "namespace", gone, "tier-"]);
    both.retain(|path| !path.starts_with(&format!("{ROOT}/{gone}/")));
    bench.has_paths(&bench.tree, &both).await;

    // Its files and refs go with it, and nobody else's.
    job.kubectl(&["delete", "kcinv/fleet", "--timeout=60s"]);
    bench.has_paths(&bench.tree, &of_team).await;
    bench.has_paths(&bench.document, &documents[1..]).await;
    for repository in bench.both() {
        bench.has_owners(repository, &["test/NS/all"]).await;
    }
    bench.is_sound();
    operator.terminate().await.unwrap();
}
