//! Many inventories in one branch.

use std::sync::Arc;

use futures::future::join_all;
use kollect::api::v1alpha1::sink::LayoutMode;
use kollect::export::{Scope, Selection};
use kollect::sinks::contract::scope;

use super::{Remote, apps, bring, change, document_of, documents, examples, row, rows};

const MANY: usize = 50;

fn scopes() -> Vec<Arc<Scope>> {
    (0..MANY).map(|n| scope("west", "team-a", &format!("apps-{n}"))).collect()
}

#[tokio::test]
async fn what_many_inventories_deliver_together_is_one_push() {
    let remote = Remote::new("together");
    let mut config = remote.config(LayoutMode::PerResource);
    config.layout.row_path = "{name}/{sourceName}{extension}".to_owned();
    let (sink, scopes) = (rows(&remote.life("us"), &config), scopes());
    for scope in &scopes {
        sink.recover(scope, &Selection::All, &[]).await.unwrap();
    }
    let before = remote.server.counts();
    let all = join_all(scopes.iter().map(|scope| change(&sink, scope, examples(), Vec::new(), 3))).await;
    assert!(all.into_iter().all(|receipt| receipt.unwrap().written == 3));
    let asked = remote.server.counts().since(before);
    assert_eq!((asked.receive_pack, asked.upload_pack), (1, 0), "{asked:?}");
    assert_eq!((remote.commits(), remote.repository.refs().unwrap().len()), (MANY, MANY + 1));
    remote.check();
}

#[tokio::test]
async fn documents_that_are_published_together_are_two_pushes_at_most() {
    let remote = Remote::new("papers");
    let sink = documents(&remote.life("us"), &remote.config(LayoutMode::Document));
    let papers: Vec<_> = scopes().iter().map(|scope| document_of(scope, examples(), 1_572_864, 1)).collect();
    join_all(papers.iter().map(|paper| sink.publish(paper)))
        .await
        .into_iter()
        .for_each(|receipt| drop(receipt.unwrap()));
    let asked = remote.server.counts();
    assert!(asked.receive_pack <= 2 && asked.fetch_refs <= 6, "{asked:?}");
    assert_eq!(remote.commits(), MANY);
    // The same once more: a look, and no push.
    join_all(papers.iter().map(|paper| sink.publish(paper)))
        .await
        .into_iter()
        .for_each(|receipt| drop(receipt.unwrap()));
    assert_eq!(remote.server.counts().since(asked).receive_pack, 0);
    remote.check();
}

#[tokio::test]
async fn two_inventories_share_a_directory() {
    let remote = Remote::new("neighbours");
    let (sink, other) =
        (rows(&remote.life("us"), &remote.config(LayoutMode::PerResource)), scope("west", "team-b", "web"));
    bring(&sink, &apps(), &[row("a", 1), row("b", 1)]).await.unwrap();
    bring(&sink, &other, &[row("c", 1)]).await.unwrap();
    change(&sink, &apps(), Vec::new(), vec![row("a", 1).key()], 1).await.unwrap();
    assert_eq!(remote.paths("main"), ["west/team-a/deployment/b.yaml", "west/team-a/deployment/c.yaml"]);
    sink.leave(&apps(), kollect::sinks::Leave::Delete).await.unwrap();
    assert_eq!(remote.paths("main"), ["west/team-a/deployment/c.yaml"]);
}

#[tokio::test]
async fn a_path_of_another_inventory_is_refused_and_all_else_is_written() {
    let remote = Remote::new("conflict");
    let (sink, other) =
        (rows(&remote.life("us"), &remote.config(LayoutMode::PerResource)), scope("west", "team-b", "web"));
    bring(&sink, &apps(), &[row("a", 1)]).await.unwrap();
    let receipt = bring(&sink, &other, &[row("a", 2), row("b", 2)]).await.unwrap();
    assert_eq!(receipt.written, 1);
    let [refused] = receipt.refused.as_slice() else { panic!("{receipt:?}") };
    assert_eq!((refused.reason, &refused.key), ("PathConflict", &row("a", 2).key()));
    assert!(refused.message.contains("west/team-a/apps"), "{}", refused.message);
    assert!(remote.content("west/team-a/deployment/a.yaml").contains("replicas: 1"));
    assert!(remote.content("west/team-a/deployment/b.yaml").contains("replicas: 2"));
    // Nor is it deleted; and once it is free it is taken.
    change(&sink, &other, Vec::new(), vec![row("a", 2).key()], 1).await.unwrap();
    assert_eq!(remote.paths("main").len(), 2);
    sink.leave(&apps(), kollect::sinks::Leave::Delete).await.unwrap();
    let receipt = change(&sink, &other, vec![row("a", 3)], Vec::new(), 2).await.unwrap();
    assert_eq!((receipt.written, receipt.refused.len()), (1, 0));

    // A document has no rows to refuse.
    let mut config = remote.config(LayoutMode::Document);
    config.layout.document_path = "west/{namespace}/deployment/{name}{extension}".to_owned();
    let paper = document_of(&scope("west", "team-a", "a"), examples(), 1_572_864, 1);
    let error = documents(&remote.life("us"), &config).publish(&paper).await.unwrap_err();
    assert_eq!(error.reason(), "PathConflict");
}
