//! What is written: files, messages, and nothing twice.

use std::fmt::Write as _;

use kollect::api::v1alpha1::sink::LayoutMode;
use kollect::model::Row;
use kollect::sinks::git::MessageTemplate;

use super::{Remote, apps, bring, change, document, documents, examples, life, row, rows};

/// Returns path and blob of each file of the branch.
fn blobs(remote: &Remote) -> Vec<String> {
    let output = remote.repository.git().args(["ls-tree", "-r", "main"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_document_and_its_commit_are_those_of_the_specification() {
    let remote = Remote::new("e4");
    let mut config = remote.config(LayoutMode::Document);
    config.message = MessageTemplate {
        body: Some("gen {generation} items {itemCount}".to_owned()),
        trailers: vec!["Kollect-Checksum: {checksum}".to_owned(), "Kollect-Sink: {sink}".to_owned()],
        ..MessageTemplate::default()
    };
    let life = remote.life("us");
    let receipt = documents(&life, &config).publish(&document(examples())).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted, receipt.refused.len()), (1, 0, 0));
    assert_eq!(blobs(&remote), ["100644 blob 1144acd4a734c17bccf832024e42561f7678fe17\tinventory/team-a/apps.yaml"]);
    let commit = remote.repository.log("main").unwrap().remove(0);
    assert_eq!(commit.author, "kollect <kollect@kollect.dev>");
    assert_eq!(
        commit.message,
        "chore(west/team-a/apps): export 3 items @ 2074c303768e\n\ngen 4 items 3\n\nKollect-Checksum: \
         2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4\n\nKollect-Sink: git-audit"
    );
    remote.check();

    // Elsewhere by another template: without pruning the earlier file stays, and is nobody's.
    config.layout.document_path = "clusters/{cluster}/{namespace}/{name}{extension}".to_owned();
    config.prune = false;
    documents(&life, &config).publish(&document(examples())).await.unwrap();
    assert_eq!(remote.paths("main"), ["clusters/west/team-a/apps.yaml", "inventory/team-a/apps.yaml"]);
    assert_eq!(remote.paths("refs/kollect/west/team-a/apps"), ["clusters/west/team-a/apps.yaml"]);
    config.layout.document_path = "flat/{namespace}-{name}{extension}".to_owned();
    config.prune = true;
    documents(&life, &config).publish(&document(examples())).await.unwrap();
    assert_eq!(remote.paths("main"), ["flat/team-a-apps.yaml", "inventory/team-a/apps.yaml"]);
}

#[tokio::test]
async fn parts_that_are_no_more_go_even_where_nothing_else_is_pruned() {
    let remote = Remote::new("parts");
    let mut config = remote.config(LayoutMode::Document);
    config.prune = false;
    let sink = documents(&remote.life("us"), &config);
    let all: Vec<Row> = (0..30).map(|n| row(&format!("app-{n}"), n)).collect();
    let mut cut = document(all.clone());
    cut.max_part_bytes = 2_000;
    sink.publish(&cut).await.unwrap();
    let parts = remote.paths("main");
    assert!(parts.len() > 3 && parts.contains(&"inventory/team-a/apps.manifest.json".to_owned()), "{parts:?}");
    sink.publish(&document(all)).await.unwrap();
    assert_eq!(remote.paths("main"), ["inventory/team-a/apps.yaml"]);
    sink.publish(&cut).await.unwrap();
    assert_eq!(remote.paths("main"), parts);
}

#[tokio::test]
async fn a_tree_is_that_of_the_specification_and_leaves_nothing_behind() {
    let remote = Remote::new("e9");
    let (life, scope, all) = (remote.life("us"), apps(), examples());
    let sink = rows(&life, &remote.config(LayoutMode::PerResource));
    bring(&sink, &scope, &all).await.unwrap();
    let tree = [
        "100644 blob 781197a12ecb63459b9ae5d9210229fcc6bf57cd\twest/team-a/configmap/feature-flags.yaml",
        "100644 blob 203a7d4ac023e4222461e2c4a5ec589cd38c060f\twest/team-a/deployment/api.yaml",
        "100644 blob 60eeb2e2af3dcec788dd445ead53b004fe181ba4\twest/team-a/deployment/web.yaml",
    ];
    assert_eq!(blobs(&remote), tree);

    // An index beside it; and without one it goes.
    let split = rows(&life, &remote.config(LayoutMode::Split));
    bring(&split, &scope, &all).await.unwrap();
    assert_eq!(
        remote.content("inventory/team-a/apps.yaml"),
        "checksum: 2074c303768e472bddd7fac391fc2eca8e05e72048af071600a33fc9443486f4\ncluster: west\n\
         exportedAt: \"2026-03-01T10:20:30Z\"\nitemCount: 3\npaths:\n\
         - west/team-a/configmap/feature-flags.yaml\n- west/team-a/deployment/api.yaml\n\
         - west/team-a/deployment/web.yaml\nschemaVersion: kollect.dev/v1alpha1\n"
    );
    let sink = rows(&life, &remote.config(LayoutMode::PerResource));
    bring(&sink, &scope, &all).await.unwrap();
    assert_eq!(blobs(&remote), tree);

    // Rows go, with their directories, until nothing is left.
    change(&sink, &scope, Vec::new(), vec![all[1].key()], 2).await.unwrap();
    assert_eq!(blobs(&remote), [tree[0], tree[1]]);
    change(&sink, &scope, Vec::new(), vec![all[2].key()], 1).await.unwrap();
    assert_eq!(blobs(&remote), [tree[1]]);
    let receipt = change(&sink, &scope, Vec::new(), vec![all[0].key()], 0).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted), (0, 1));
    assert!(blobs(&remote).is_empty());
    remote.check();
}

#[tokio::test]
async fn a_restart_commits_nothing_with_a_mirror_and_without_one() {
    for mode in [LayoutMode::PerResource, LayoutMode::Split] {
        let remote = Remote::new("restart");
        let (config, mirrors) = (remote.config(mode), remote.mirrors());
        let first = life("us", &mirrors);
        bring(&rows(&first, &config), &apps(), &examples()).await.unwrap();
        first.close().await;
        let before = remote.repository.refs().unwrap();
        for mirrors in [mirrors, remote.mirrors()] {
            let next = life("us", &mirrors);
            let receipt = bring(&rows(&next, &config), &apps(), &examples()).await.unwrap();
            assert_eq!((receipt.written, receipt.deleted), (0, 0));
            next.close().await;
            assert_eq!(remote.repository.refs().unwrap(), before);
        }
    }
}

#[tokio::test]
async fn rows_that_are_listed_later_cost_no_commit_after_a_restart() {
    use kollect::export::Selection;
    use kollect::model::Part;

    let remote = Remote::new("slowly");
    let (config, all, scope) = (remote.config(LayoutMode::Split), examples(), apps());
    bring(&rows(&remote.life("us"), &config), &scope, &all).await.unwrap();
    let before = remote.repository.refs().unwrap();
    let sink = rows(&remote.life("us"), &config);
    // First the Deployments are known, then the ConfigMap.
    for (known, target) in [(&all[..2], "deploys"), (&all[2..], "configs")] {
        let part = Part { target: kollect::model::Name::new(target), namespace: known[0].namespace.clone() };
        let held = sink.recover(&scope, &Selection::Parts(vec![part]), known).await.unwrap();
        assert!(held.len() == known.len() && held.iter().all(|row| row.fingerprint.is_some()), "{held:?}");
        change(&sink, &scope, Vec::new(), Vec::new(), known.len()).await.unwrap();
        assert_eq!(remote.repository.refs().unwrap(), before);
    }
    assert_eq!(sink.audit(&scope).await.unwrap(), kollect::sinks::Audit::Intact);
}

#[tokio::test]
async fn what_is_unchanged_is_not_even_asked_for() {
    let remote = Remote::new("idle");
    let (sink, scope) = (rows(&remote.life("us"), &remote.config(LayoutMode::PerResource)), apps());
    bring(&sink, &scope, &examples()).await.unwrap();
    let before = remote.server.counts();
    let receipt = change(&sink, &scope, examples(), Vec::new(), 3).await.unwrap();
    assert_eq!((receipt.written, receipt.deleted, receipt.bytes), (0, 0, 0));
    assert_eq!(remote.server.counts().since(before).total(), 0);
}

#[tokio::test]
async fn a_sink_shows_no_credential_and_keeps_none() {
    let remote = Remote::new("quiet");
    let mut config = remote.config(LayoutMode::Document);
    config.endpoint = config.endpoint.replace("https://", &format!("https://{}:{}@", super::USER, super::TOKEN));
    let mirrors = remote.mirrors();
    let life = life("us", &mirrors);
    let sink = documents(&life, &config);
    sink.publish(&document(examples())).await.unwrap();
    let mut shown = format!("{config:?} {sink:?} {life:?} {:?}", sink.destination());
    remote.server.require_login(super::USER, "another").unwrap();
    let error = sink.publish(&document(examples())).await.unwrap_err();
    write!(shown, "{error:?} {error}").unwrap();
    let mirror = std::process::Command::new("grep").args(["-rc", super::TOKEN]).arg(&mirrors).output().unwrap();
    let mirror = String::from_utf8(mirror.stdout).unwrap();
    assert!(mirror.lines().count() > 5 && mirror.lines().all(|line| line.ends_with(":0")), "{mirror}");
    assert!(!shown.contains(super::TOKEN), "{shown}");
}
