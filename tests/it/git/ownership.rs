//! What others do to the branch: what is ours is mended, what is not is left alone.

use std::sync::Arc;

use kollect::api::v1alpha1::sink::{Format, LayoutMode};
use kollect::error::{Class, Classify as _};
use kollect::export::Scope;
use kollect::lab::git::{Human, Refusal};
use kollect::sinks::contract::{mend, scope};
use kollect::sinks::{Audit, RowSink};

use super::{Remote, apps, bring, change, document_of, documents, examples, row, rows, sink_key};

const API: &str = "west/team-a/deployment/api.yaml";

/// A tree that was written on top of what somebody has in the branch.
struct Written {
    remote: Remote,
    sink: Arc<dyn RowSink>,
    scope: Arc<Scope>,
    human: Human,
}

impl Written {
    async fn new(name: &str) -> Self {
        let remote = Remote::new(name);
        let human = remote.human("ann");
        human.edit("README.md", "mine\n", "begin").unwrap();
        human.edit("README.md", "all mine\n", "go on").unwrap();
        let (sink, scope) = (rows(&remote.life("us"), &remote.config(LayoutMode::PerResource)), apps());
        bring(&sink, &scope, &examples()).await.unwrap();
        Self { remote, sink, scope, human }
    }

    /// Lets an audit find the damage and mend it.
    async fn mended(&self) {
        let audit = self.sink.audit(&self.scope).await.unwrap();
        assert_eq!(audit, Audit::Drifted);
        mend(&self.sink, &self.scope, &examples()).await.unwrap();
        assert_eq!(self.sink.audit(&self.scope).await.unwrap(), Audit::Intact);
        assert_eq!(self.remote.paths("refs/kollect/west/team-a/apps").len(), 3);
        assert!(self.remote.content(API).contains("ghcr.io/acme/api:1.4.2"));
        self.remote.check();
    }
}

#[tokio::test]
async fn a_hand_edit_is_undone_and_a_deleted_file_comes_back() {
    let written = Written::new("edited").await;
    let human = written.remote.human("ben");
    human.edit(API, "edited: true\n", "edit").unwrap();
    written.mended().await;
    human.rebase().unwrap();
    human.remove(API).unwrap();
    human.edit("docs/a", "a\n", "delete").unwrap();
    written.mended().await;
    // Without an audit, with the next change.
    human.rebase().unwrap();
    human.edit(API, "edited: true\n", "edit").unwrap();
    change(&written.sink, &written.scope, vec![row("new", 1)], Vec::new(), 4).await.unwrap();
    assert!(written.remote.content(API).contains("ghcr.io/acme/api:1.4.2"));
    assert_eq!(written.remote.content("docs/a"), "a\n");
    assert_eq!(written.remote.content("README.md"), "all mine\n");
}

#[tokio::test]
async fn a_hand_edit_is_undone_by_an_audit_where_refs_are_refused() {
    let remote = Remote::new("listed");
    remote.repository.refuse(&Refusal::OwnershipRefs, "no such refs here").unwrap();
    let (sink, scope) = (rows(&remote.life("us"), &remote.config(LayoutMode::PerResource)), apps());
    bring(&sink, &scope, &examples()).await.unwrap();
    remote.human("ann").edit(API, "edited: true\n", "edit").unwrap();
    let commits = remote.commits();
    for _ in 0..2 {
        // The list has paths alone, so that the contents are compared each time.
        assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Drifted);
        mend(&sink, &scope, &examples()).await.unwrap();
        assert!(remote.content(API).contains("ghcr.io/acme/api:1.4.2"));
        assert_eq!(remote.commits(), commits + 1);
    }
    remote.check();
}

#[tokio::test]
async fn a_deleted_ref_is_written_again_without_a_commit_of_the_branch() {
    let written = Written::new("unclaimed").await;
    let tip = written.remote.repository.tip("main").unwrap();
    let mut git = written.remote.repository.git();
    assert!(git.args(["update-ref", "-d", "refs/kollect/west/team-a/apps"]).status().unwrap().success());
    written.mended().await;
    assert_eq!(written.remote.repository.tip("main").unwrap(), tip);
}

#[tokio::test]
async fn a_branch_that_was_reset_or_replaced_is_built_upon() {
    let written = Written::new("reset").await;
    // To what it was before our commit.
    written.human.force_push().unwrap();
    written.mended().await;
    assert_eq!(written.remote.commits(), 3);
    // To a history of its own.
    written.human.git(&["checkout", "--quiet", "--orphan", "other"]).unwrap();
    written.human.write("other.md", "other\n").unwrap();
    written.human.commit("another history").unwrap();
    written.human.force_push().unwrap();
    written.mended().await;
    assert_eq!((written.remote.commits(), written.remote.content("other.md").as_str()), (2, "other\n"));
}

#[tokio::test]
async fn a_branch_that_was_deleted_comes_back_with_what_is_ours() {
    let written = Written::new("deleted").await;
    written.human.delete_branch().unwrap();
    written.mended().await;
    assert_eq!((written.remote.commits(), written.remote.paths("main").len()), (1, 3));
}

#[tokio::test]
async fn a_file_of_nobody_is_taken_over_and_one_in_the_way_is_named() {
    let remote = Remote::new("adopted");
    remote.human("ann").edit(API, "mine\n", "begin").unwrap();
    let sink = rows(&remote.life("us"), &remote.config(LayoutMode::PerResource));
    bring(&sink, &apps(), &examples()).await.unwrap();
    assert!(remote.content(API).contains("ghcr.io/acme/api:1.4.2"));
    remote.human("ben").edit("west/team-b", "a file\n", "obstruct").unwrap();
    let mut config = remote.config(LayoutMode::Document);
    config.layout.document_path = "west/{namespace}/{name}{extension}".to_owned();
    let paper = document_of(&scope("west", "team-b", "all"), examples(), 1_572_864, 1);
    let error = documents(&remote.life("us"), &config).publish(&paper).await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(error.to_string().contains("west/team-b"), "{error}");
}

#[tokio::test]
async fn a_second_sink_with_other_settings_does_not_write_the_same_inventory() {
    let remote = Remote::new("two-sinks");
    let (life, config) = (remote.life("us"), remote.config(LayoutMode::PerResource));
    let first = rows(&life, &config);
    bring(&first, &apps(), &examples()).await.unwrap();
    let mut other = config.clone();
    other.sink = sink_key("git-other");
    bring(&rows(&life, &other), &apps(), &examples()).await.unwrap();
    other.layout.format = Format::Json;
    let second = rows(&life, &other);
    let error = bring(&second, &apps(), &examples()).await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
    assert!(error.to_string().contains("snapshot/git-audit"), "{error}");
    assert_eq!(remote.paths("main").len(), 3);
    first.leave(&apps(), kollect::sinks::Leave::Orphan).await.unwrap();
    bring(&second, &apps(), &examples()).await.unwrap();
    assert_eq!(remote.paths("main").len(), 6);
}

#[tokio::test]
async fn another_operator_of_the_same_name_is_told_from_us() {
    let remote = Remote::new("rivals");
    let config = remote.config(LayoutMode::PerResource);
    bring(&rows(&remote.life("us"), &config), &apps(), &examples()).await.unwrap();
    let before = remote.repository.refs().unwrap();
    let error = bring(&rows(&remote.life("them"), &config), &apps(), &[row("a", 1)]).await.unwrap_err();
    assert_eq!(error.reason(), "ClusterConflict");
    assert_eq!(remote.repository.refs().unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_and_a_person_lose_nothing_of_each_other() {
    const ROUNDS: u32 = 12;
    let remote = Remote::new("churn");
    let human = remote.human("ann");
    human.edit("README.md", "mine\n", "begin").unwrap();
    let operator = |cluster: &'static str| {
        let mut config = remote.config(LayoutMode::PerResource);
        config.cluster = kollect::model::Cluster::new(cluster);
        config.layout.cluster = config.cluster.clone();
        let sink = rows(&remote.life(cluster), &config);
        async move {
            let scope = scope(cluster, "team-a", "apps");
            bring(&sink, &scope, &[]).await.unwrap();
            for round in 0..ROUNDS {
                let changed = vec![row(&format!("app-{round}"), round), row("app-0", round)];
                let gone = if round > 1 { vec![row(&format!("app-{}", round - 1), 0).key()] } else { Vec::new() };
                // Who lost all races tries again, as the scheduler does.
                while let Err(error) = change(&sink, &scope, changed.clone(), gone.clone(), 2).await {
                    assert_eq!(error.class(), Class::Transient, "{error}");
                }
            }
            assert_eq!(sink.audit(&scope).await.unwrap(), Audit::Intact);
        }
    };
    let person = tokio::task::spawn_blocking(move || {
        for round in 0..ROUNDS {
            human.edit(&format!("docs/{round}"), "x\n", "write").unwrap();
        }
    });
    let ((), (), person) = tokio::join!(operator("east"), operator("west"), person);
    person.unwrap();
    let last = ROUNDS - 1;
    for cluster in ["east", "west"] {
        let dir = format!("{cluster}/team-a/deployment");
        let ours: Vec<String> = remote.paths("main").into_iter().filter(|path| path.starts_with(&dir)).collect();
        assert_eq!(ours, [format!("{dir}/app-0.yaml"), format!("{dir}/app-{last}.yaml")]);
        assert!(remote.content(&format!("{dir}/app-0.yaml")).contains(&format!("replicas: {last}")));
    }
    assert_eq!(remote.paths("main").iter().filter(|path| path.starts_with("docs/")).count(), 12);
    assert_eq!(u32::try_from(remote.commits()).unwrap(), 1 + 3 * ROUNDS);
    remote.check();
}
