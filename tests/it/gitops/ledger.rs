//! A server that takes no refs of ours: files in the branch say what is ours.

use std::fs;

use kollect::lab::git::Refusal;

use super::{Bench, DOCUMENT, touched};
use crate::operator::Job;

/// Tells the repository from others; it stays.
const IDENTITY: &str = ".kollect/repository";

#[tokio::test]
async fn where_refs_are_refused_files_say_what_is_ours_and_all_else_is_as_ever() {
    let Some(bench) = Bench::new("git-ledger").await else { return };
    let (job, namespace) = (&bench.job, bench.job.namespace().to_owned());
    for repository in bench.both() {
        repository.refuse(&Refusal::OwnershipRefs, "no such refs here").unwrap();
    }
    let load = Job::load(1, 5);
    load.create(&job.ground.client).await.unwrap();
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;
    let listing = format!(".kollect/test/{namespace}/all");
    let document = format!("inventory/{namespace}/{DOCUMENT}");
    let mut paths = vec![IDENTITY.to_owned(), listing.clone()];
    bench.has_paths(&bench.document, &[&paths[..], std::slice::from_ref(&document)].concat()).await;
    paths.extend((0..5).map(|index| Bench::path(&load, index)));
    bench.has_paths(&bench.tree, &paths).await;
    for repository in bench.both() {
        bench.has_owners(repository, &[]).await;
    }

    // A change of what is in a file is one of that file; a file less is one of the list as well.
    bench.set_image(&load.object(0), "changed:1");
    bench.equals_the_cluster().await;
    assert_eq!(touched(&bench.tree, "main"), [Bench::path(&load, 0)]);
    bench.delete(&load.object(1));
    bench.equals_the_cluster().await;
    assert_eq!(touched(&bench.tree, "main"), [listing, Bench::path(&load, 1)]);
    bench.hand_edits_are_undone(&load).await;
    bench.synced(&operator).await;

    // Another process, with the mirrors and without.
    let refs = bench.refs();
    operator.kill9().await.unwrap();
    let operator = bench.operator().await;
    bench.synced(&operator).await;
    assert_eq!(bench.refs(), refs);
    operator.kill9().await.unwrap();
    fs::remove_dir_all(bench.mirrors()).unwrap();
    bench.delete(&load.object(2));
    let operator = bench.operator().await;
    bench.equals_the_cluster().await;

    job.kubectl(&["-n", &namespace, "delete", "kinv/all", "--timeout=60s"]);
    for repository in bench.both() {
        bench.has_paths(repository, &[IDENTITY.to_owned()]).await;
        bench.has_owners(repository, &[]).await;
    }
    bench.is_sound();
    operator.terminate().await.unwrap();
}
