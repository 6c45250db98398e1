//! What is not known is not deleted: a tree keeps the files, a document waits and says for what.

use anyhow::{Context as _, ensure};
use kollect::lab::git::BRANCH;

use super::Bench;

#[tokio::test]
async fn a_kind_that_may_not_be_listed_keeps_its_files_and_holds_up_the_document_alone() {
    let Some(bench) = Bench::new("git-unknown").await else { return };
    let (job, namespace) = (&bench.job, bench.job.namespace().to_owned());
    let load = crate::operator::Job::load(1, 5);
    load.create(&job.ground.client).await.unwrap();
    let account = "--serviceaccount=kollect-system:kollect-controller-manager";
    let grant = ["create", "clusterrolebinding", "accounts", "--clusterrole=accounts", account];
    job.kubectl(&["create", "clusterrole", "accounts", "--verb=list,watch", "--resource=serviceaccounts"]);
    job.kubectl(&grant);
    job.kubectl(&["-n", &namespace, "create", "serviceaccount", "robot"]);
    job.apply(&format!(
        "apiVersion: kollect.dev/v1alpha1\nkind: KollectProfile\nmetadata: {{name: accounts, namespace: {namespace}}}\n\
         spec: {{targetGVK: {{version: v1, kind: ServiceAccount}}, attributes: [{{name: image, path: \"$.metadata.name\"}}]}}\n---\n\
         apiVersion: kollect.dev/v1alpha1\nkind: KollectTarget\nmetadata: {{name: accounts, namespace: {namespace}}}\n\
         spec: {{profileRef: accounts, includedNamespaces: [{namespace}], names: [robot]}}\n"
    ))
    .unwrap();
    let operator = bench.operator().await;
    job.rows(6).await;
    bench.synced(&operator).await;
    let robot = format!("test/{namespace}/serviceaccount/robot.yaml");
    bench
        .becomes("the file of the account", || {
            ensure!(Bench::paths(&bench.tree)?.contains(&robot));
            Ok(())
        })
        .await;
    operator.terminate().await.unwrap();

    // The next process may not list the accounts: their file stays, the others are written.
    job.kubectl(&["delete", "clusterrolebinding", "accounts"]);
    let document = bench.document.tip(BRANCH).unwrap();
    bench.set_image(&load.object(0), "changed:1");
    bench.delete(&load.object(1));
    let operator = bench.operator().await;
    job.condition("ktgt/accounts", "Synced", "ScopeForbidden").await;
    bench
        .becomes("the changes in the tree", || {
            let files = Bench::files(&bench.tree)?;
            let changed = files.get(&Bench::path(&load, 0)).context("the file is gone")?;
            ensure!(changed.contains("changed:1") && !files.contains_key(&Bench::path(&load, 1)), "{:?}", files.keys());
            ensure!(files.contains_key(&robot), "the file of the account is gone");
            Ok(())
        })
        .await;
    bench
        .becomes("what the document waits for", || {
            let exports = job.status("kinv/all")["sinkExports"].as_array().cloned().unwrap_or_default();
            let of = |name: &str| exports.iter().find(|export| export["name"] == name).cloned().unwrap_or_default();
            let (waits, goes_on) = (of("snapshot/document"), of("snapshot/tree"));
            let said = waits["conditions"].to_string();
            ensure!(said.contains("Progressing") && said.contains("accounts"), "{waits}");
            ensure!(goes_on["conditions"].to_string().contains("Exported"), "{goes_on}");
            Ok(())
        })
        .await;
    assert_eq!(bench.document.tip(BRANCH).unwrap(), document);

    // Once they may be listed, the document has all of it.
    job.kubectl(&grant);
    bench
        .becomes("the document of all rows", || {
            let text = Bench::files(&bench.document)?.into_values().collect::<String>();
            ensure!(text.contains("changed:1") && text.contains("robot"), "{text}");
            Ok(())
        })
        .await;
    bench.synced(&operator).await;
    assert!(Bench::paths(&bench.tree).unwrap().contains(&robot));
    operator.terminate().await.unwrap();

    // A process with less patience writes it without the account, says so, and puts that in once it can.
    job.kubectl(&["delete", "clusterrolebinding", "accounts"]);
    bench.set_image(&load.object(2), "changed:2");
    let operator = job.ground.start_operator(&bench.options().arg("--unknown-grace=3s")).await;
    written_without_the_account(&bench).await;
    assert!(Bench::paths(&bench.tree).unwrap().contains(&robot));
    job.kubectl(&grant);
    bench
        .becomes("the document of all rows again", || {
            let text = Bench::files(&bench.document)?.into_values().collect::<String>();
            ensure!(text.contains("changed:2") && text.contains("robot"), "{text}");
            let said = job.status("kinv/all").to_string();
            ensure!(!said.contains("written without"), "{said}");
            Ok(())
        })
        .await;
    bench.synced(&operator).await;
    bench.is_sound();
    operator.terminate().await.unwrap();
}

/// Waits until the document has all but the account, and the status names that.
async fn written_without_the_account(bench: &Bench) {
    bench
        .becomes("a document without the account, and what it lacks", || {
            let text = Bench::files(&bench.document)?.into_values().collect::<String>();
            ensure!(text.contains("changed:2") && !text.contains("robot"), "{text}");
            let status = bench.job.status("kinv/all");
            let exports = status["sinkExports"].as_array().cloned().unwrap_or_default();
            let document = exports.iter().find(|export| export["name"] == "snapshot/document");
            let said = document.context("no export")?["conditions"].to_string();
            for message in [said, status["conditions"].to_string()] {
                let lacks = "written without what was never listed: target \\\"accounts\\\"";
                ensure!(message.contains(lacks), "{message}");
            }
            Ok(())
        })
        .await;
}
