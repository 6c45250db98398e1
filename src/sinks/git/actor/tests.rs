use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use futures::future::join_all;

use super::*;
use crate::error::{Class, Classify as _};
use crate::model::{InventoryKey, Name, Namespace, Uid};
use crate::sinks::git::config::MessageTemplate;

use crate::sinks::git::testing::{Remote, Scratch, human_commit};
use crate::sinks::mandate::Moment;

/// One operator with a mirror of its own.
struct Operator {
    scratch: Scratch,
    around: Surroundings,
}

impl Operator {
    fn new() -> Self {
        let scratch = Scratch::new();
        let around = Surroundings {
            places: scratch.mirrors(),
            writer: "us".to_owned(),
            mandate: Mandate::unlimited(),
            residents: Residents::default(),
            clock: || jiff::Timestamp::from_second(1_772_360_430).unwrap(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self { scratch, around }
    }

    fn actor(&self, remote: &Remote) -> Actor {
        self.actor_of(remote, "main", PushPolicy::Commit)
    }

    fn actor_of(&self, remote: &Remote, branch: &str, push: PushPolicy) -> Actor {
        let settings = Settings {
            place: Place { url: remote.path().display().to_string(), branch: branch.to_owned() },
            push,
            depth: NonZeroU32::MIN,
            author: Author::default(),
        };
        Actor::start(settings, Arc::new(remote.wire()), &self.around)
    }

    /// Returns the directory of the only mirror.
    fn mirror(&self) -> PathBuf {
        let entries = fs::read_dir(self.scratch.path().join("mirrors")).unwrap();
        let mut mirrors = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        mirrors.next().unwrap()
    }
}

fn scope(name: &str) -> Arc<Scope> {
    Arc::new(Scope {
        cluster: Cluster::new("west"),
        inventory: InventoryKey::new(Namespace::new("team-a"), Name::new(name)),
        inventory_uid: Uid::new("uid-1"),
    })
}

fn file(path: &str, text: &str) -> File {
    File { path: FilePath::new(path).unwrap(), text: text.as_bytes().to_vec().into() }
}

fn files(files: &[(&str, &str)]) -> Vec<File> {
    files.iter().map(|(path, text)| file(path, text)).collect()
}

fn edit(name: &str, change: Change) -> Edit {
    let facts = Facts {
        template: Arc::new(MessageTemplate::default()),
        sink: Name::new("git"),
        generation: 1,
        item_count: 3,
        checksum: "2074c303768e472b".to_owned(),
        exported_at: jiff::Timestamp::UNIX_EPOCH,
        path: String::new(),
    };
    Edit { scope: scope(name), change, facts }
}

fn whole(name: &str, contents: &[(&str, &str)]) -> Edit {
    edit(name, Change::Whole(files(contents)))
}

fn part(name: &str, put: &[(&str, &str)], remove: &[&str]) -> Edit {
    let remove = remove.iter().map(|path| FilePath::new(path).unwrap()).collect();
    edit(name, Change::Part { put: files(put).into(), remove })
}

const APPS: &str = "refs/kollect/west/team-a/apps";

/// Checks what must hold whatever happened: history is a line, and git finds nothing wrong.
fn sound(remote: &Remote) {
    remote.fsck();
    assert_eq!(remote.git(&["rev-list", "--min-parents=2", "--count", "--all"]), "0", "no merges");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_export_makes_branch_and_ref() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    assert_eq!(actor.probe().await.unwrap(), None);
    assert_eq!(actor.identity().await.unwrap(), None);
    let outcome = actor.submit(whole("apps", &[("a/1", "one"), ("b", "two")])).await.unwrap();
    assert_eq!((outcome.written, outcome.deleted, outcome.bytes), (2, 0, 6));
    let tip = remote.git(&["rev-parse", "main"]);
    assert_eq!(outcome.commit.unwrap().to_string(), tip);
    assert_eq!(remote.git(&["rev-parse", "main^{tree}"]), remote.git(&["rev-parse", &format!("{APPS}^{{tree}}")]));
    assert_eq!(
        remote.git(&["log", "-1", "--format=%an <%ae> %cn %ct %B", "main"]),
        "kollect <kollect@kollect.dev> kollect 1772360430 chore(west/team-a/apps): export 3 items @ 2074c303768e"
    );
    let note = remote.git(&["log", "-1", "--format=%B", APPS]);
    assert!(note.contains("Branch: main") && note.contains(&format!("Commit: {tip}")), "{note}");
    assert_eq!(actor.probe().await.unwrap(), outcome.commit);
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_written_and_not_asked_for_again() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    let conversations = remote.conversations();
    let outcome = actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    assert_eq!(outcome, Outcome::default());
    assert_eq!(remote.conversations(), conversations);
    // Another process, with or without the mirror of the first.
    for restarted in [operator.actor(&remote), Operator::new().actor(&remote)] {
        assert_eq!(restarted.submit(whole("apps", &[("a", "1")])).await.unwrap(), Outcome::default());
    }
    assert_eq!((remote.commits("main"), remote.commits(APPS), remote.pushes()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_one_moment_are_commits_of_their_own_and_one_push() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    actor.submit(whole("first", &[("first", "1")])).await.unwrap();
    let names: Vec<String> = (0..50).map(|number| format!("inv-{number}")).collect();
    let edits = names.iter().map(|name| actor.submit(whole(name, &[(name, "1")])));
    let outcomes: Vec<Outcome> = join_all(edits).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().map(|outcome| outcome.commit).collect::<BTreeSet<_>>().len(), 50);
    assert_eq!((remote.commits("main"), remote.pushes()), (51, 2));
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_others_stay_and_ours_go_on_top() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    remote.commit("main", &[("README", Some("hello")), ("a/other", Some("x"))]);
    actor.submit(whole("apps", &[("a/1", "1"), ("a/2", "2")])).await.unwrap();
    remote.commit("main", &[("README", Some("hello again"))]);
    let outcome = actor.submit(part("apps", &[("a/3", "3")], &["a/1"])).await.unwrap();
    assert_eq!((outcome.written, outcome.deleted), (1, 1));
    assert_eq!(remote.files("main"), ["README", "a/2", "a/3", "a/other"]);
    assert_eq!(remote.content("main", "README"), "hello again");
    assert_eq!((remote.commits("main"), remote.files(APPS)), (4, vec!["a/2".to_owned(), "a/3".to_owned()]));
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_did_to_our_files_is_undone_with_the_next_write() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &[("a", "1"), ("b", "2"), ("c", "3")])).await.unwrap();
    remote.commit("main", &[("a", Some("edited")), ("b", None), ("d", Some("theirs"))]);
    let held = actor.owned(scope("apps")).await.unwrap();
    let states: Vec<_> = held.iter().map(|held| (held.path.as_str(), held.state)).collect();
    assert_eq!(states, [("a", State::Altered), ("b", State::Altered), ("c", State::Intact)]);
    assert_eq!(actor.blobs(vec![held[0].blob]).await.unwrap(), [b"1"]);
    let outcome = actor.submit(part("apps", &[], &["c"])).await.unwrap();
    assert_eq!((outcome.written, outcome.deleted), (2, 1));
    assert_eq!(remote.files("main"), ["a", "b", "d"]);
    assert_eq!(remote.content("main", "a"), "1");
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_another_inventory_is_neither_written_nor_deleted() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &[("shared", "1"), ("own", "1")])).await.unwrap();
    let outcome = actor.submit(whole("other", &[("shared", "2"), ("more", "2")])).await.unwrap();
    assert_eq!(outcome.conflicts, [(FilePath::new("shared").unwrap(), "west/team-a/apps".to_owned())]);
    assert_eq!((outcome.written, remote.content("main", "shared")), (1, "1".to_owned()));
    actor.submit(edit("other", Change::End(Leave::Delete))).await.unwrap();
    assert_eq!(remote.files("main"), ["own", "shared"]);
    // Gone from the first, the path is free.
    actor.submit(part("apps", &[], &["shared"])).await.unwrap();
    let outcome = actor.submit(whole("other", &[("shared", "2")])).await.unwrap();
    assert_eq!((outcome.written, outcome.conflicts), (1, vec![]));
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_nobody_is_adopted_where_we_want_it_and_stays_elsewhere() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    remote.commit("main", &[("a", Some("1")), ("b", Some("old")), ("c", Some("theirs"))]);
    let outcome = actor.submit(whole("apps", &[("a", "1"), ("b", "2")])).await.unwrap();
    assert_eq!((outcome.written, remote.files(APPS)), (1, vec!["a".to_owned(), "b".to_owned()]));
    actor.submit(part("apps", &[], &["c", "a"])).await.unwrap();
    assert_eq!(remote.files("main"), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_set_back_or_deleted_is_filled_again() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    let human = remote.commit("main", &[("README", Some("hello"))]);
    actor.submit(whole("apps", &[("a", "1"), ("gone", "1")])).await.unwrap();
    let before = remote.git(&["rev-parse", "main"]);
    actor.submit(part("apps", &[("b", "2")], &["gone"])).await.unwrap();
    // To before the removal: what was removed is removed again.
    remote.git(&["update-ref", "refs/heads/main", &before]);
    actor.submit(part("apps", &[("c", "3")], &[])).await.unwrap();
    assert_eq!(remote.files("main"), ["README", "a", "b", "c"]);
    remote.git(&["update-ref", "refs/heads/main", &human.to_string()]);
    let restarted = Operator::new();
    restarted.actor(&remote).submit(part("apps", &[], &["b"])).await.unwrap();
    assert_eq!(remote.files("main"), ["README", "a", "c"]);
    remote.git(&["update-ref", "-d", "refs/heads/main"]);
    actor.submit(part("apps", &[("d", "4")], &[])).await.unwrap();
    assert_eq!(remote.files("main"), ["a", "c", "d"]);
    remote.git(&["update-ref", "-d", APPS]);
    actor.submit(part("apps", &[("d", "5")], &[])).await.unwrap();
    assert_eq!((remote.files("main").len(), remote.files(APPS)), (3, vec!["d".to_owned()]));
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_deletes_the_files_or_lets_them_stay() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    remote.commit("main", &[("README", Some("hello"))]);
    for (leave, left) in [(Leave::Delete, vec!["README"]), (Leave::Orphan, vec!["README", "a/1", "a/2"])] {
        actor.submit(whole("apps", &[("a/1", "1"), ("a/2", "2")])).await.unwrap();
        assert_eq!(actor.scopes(Cluster::new("")).await.unwrap(), [(*scope("apps")).clone()]);
        actor.submit(edit("apps", Change::End(leave))).await.unwrap();
        assert_eq!(remote.files("main"), left);
        assert!(!remote.has(APPS));
        // A second time there is nothing to do.
        assert_eq!(actor.submit(edit("apps", Change::End(leave))).await.unwrap(), Outcome::default());
    }
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_cannot_be_done_fails_alone() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    remote.commit("main", &[("dir/file", Some("theirs"))]);
    let (blocked, fine) =
        tokio::join!(actor.submit(whole("blocked", &[("dir", "1")])), actor.submit(whole("apps", &[("a", "1")])));
    let error = blocked.unwrap_err();
    assert_eq!(error.class(), Class::Terminal, "{error}");
    assert_eq!(fine.unwrap().written, 1);
    assert_eq!(remote.files("main"), ["a", "dir/file"]);
    assert!(!remote.has("refs/kollect/west/team-a/blocked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_branch_is_said_in_the_words_of_the_server() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    for hook in ["pre-receive", "update"] {
        remote.hook(hook, "echo 'main is frozen' >&2; exit 1");
        let error = actor.submit(whole("apps", &[("a", "1")])).await.unwrap_err();
        assert_eq!(error.class(), Class::Terminal, "{error}");
        assert!(error.to_string().contains("declined"), "{error}");
        assert!(!remote.has("refs/heads/main"));
        remote.hook(hook, "exit 0");
    }
    // Update hooks run for each ref, and only the branch was refused: the ref went ahead.
    actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    assert!(!remote.files("main").iter().any(|path| path.starts_with(".kollect")), "refs are still tried");
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_refs_are_refused_a_file_takes_their_place() {
    let list = ".kollect/west/team-a/apps";
    for (hook, script) in [
        ("update", "case \"$1\" in refs/kollect/*) exit 1;; esac"),
        ("pre-receive", "while read old new ref; do case \"$ref\" in refs/kollect/*) exit 1;; esac; done"),
    ] {
        let (remote, operator) = (Remote::new(), Operator::new());
        remote.hook(hook, script);
        let actor = operator.actor(&remote);
        let outcome = actor.submit(whole("apps", &[("a", "1"), ("b", "2")])).await.unwrap();
        assert_eq!((outcome.written, outcome.bytes), (2, 2), "{hook}");
        assert_eq!(remote.files("main"), [".kollect/repository", list, "a", "b"]);
        assert_eq!(remote.content("main", list), "a\nb");
        assert!(!remote.has(APPS));
        let (pushes, commits) = (remote.pushes(), remote.commits("main"));
        assert_eq!(actor.submit(whole("apps", &[("a", "1"), ("b", "2")])).await.unwrap(), Outcome::default());
        actor.submit(part("apps", &[("c", "3")], &["a"])).await.unwrap();
        assert_eq!((remote.pushes(), remote.commits("main")), (pushes + 1, commits + 1), "it is remembered: {hook}");
        let conflict = actor.submit(whole("other", &[("b", "x")])).await.unwrap();
        assert_eq!(conflict.conflicts.len(), 1);
        // The file does not say who wrote it, so nobody takes it for a stray of his own.
        assert_eq!(actor.scopes(Cluster::new("")).await.unwrap(), []);
        let identity = actor.identity().await.unwrap();
        assert!(identity.is_some());
        let held = actor.owned(scope("apps")).await.unwrap();
        assert_eq!(held.iter().map(|held| held.path.as_str()).collect::<Vec<_>>(), ["b", "c"]);

        // With a new mirror the refs are tried again; once they are taken, the file goes.
        remote.hook(hook, "exit 0");
        let restarted = Operator::new();
        let actor = restarted.actor(&remote);
        actor.submit(part("apps", &[("d", "4")], &[])).await.unwrap();
        assert_eq!(remote.files("main"), [".kollect/repository", "b", "c", "d"]);
        assert_eq!(remote.files(APPS), ["b", "c", "d"]);
        assert_eq!(actor.identity().await.unwrap(), identity);
        actor.submit(edit("apps", Change::End(Leave::Delete))).await.unwrap();
        assert_eq!(remote.files("main"), [".kollect/repository"]);
        sound(&remote);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_refs_are_hidden_a_file_takes_their_place() {
    for key in ["uploadpack.hideRefs", "transfer.hideRefs"] {
        let (remote, operator) = (Remote::new(), Operator::new());
        operator.actor(&remote).submit(whole("apps", &[("a", "1")])).await.unwrap();
        remote.git(&["config", key, "refs/kollect"]);
        let restarted = Operator::new();
        let actor = restarted.actor(&remote);
        actor.submit(whole("apps", &[("a", "2"), ("b", "2")])).await.unwrap();
        assert_eq!(remote.content("main", ".kollect/west/team-a/apps"), "a\nb", "{key}");
        actor.submit(part("apps", &[], &["a"])).await.unwrap();
        assert_eq!(remote.content("main", ".kollect/west/team-a/apps"), "b", "{key}");
        sound(&remote);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ref_of_another_branch_is_left_alone() {
    let (remote, operator) = (Remote::new(), Operator::new());
    operator.actor(&remote).submit(whole("apps", &[("a", "1")])).await.unwrap();
    let reference = remote.git(&["rev-parse", APPS]);
    let second = operator.actor_of(&remote, "second", PushPolicy::Commit);
    second.submit(whole("apps", &[("b", "2")])).await.unwrap();
    assert_eq!(remote.files("second"), [".kollect/repository", ".kollect/west/team-a/apps", "b"]);
    assert_eq!(remote.git(&["rev-parse", APPS]), reference);
    second.submit(edit("apps", Change::End(Leave::Delete))).await.unwrap();
    assert_eq!(remote.files("second"), [".kollect/repository"]);
    assert_eq!((remote.files("main"), remote.git(&["rev-parse", APPS])), (vec!["a".to_owned()], reference));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_answer_was_lost_is_not_repeated() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    remote.lose_answers(1);
    let error = actor.submit(whole("apps", &[("a", "2")])).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert_eq!(actor.submit(whole("apps", &[("a", "2")])).await.unwrap(), Outcome::default());
    assert_eq!((remote.commits("main"), remote.commits(APPS)), (2, 2));
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_building_and_pushing_leaves_nothing_that_matters() {
    let (remote, operator) = (Remote::new(), Operator::new());
    operator.actor(&remote).submit(whole("apps", &[("a", "1")])).await.unwrap();
    let actor = operator.actor(&remote);
    assert_eq!(actor.owned(scope("apps")).await.unwrap().len(), 1);
    let (from, to) = (remote.path().to_owned(), remote.path().with_extension("away"));
    fs::rename(&from, &to).unwrap();
    let error = actor.submit(whole("apps", &[("a", "2"), ("b", "2")])).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    drop(actor);
    fs::rename(&to, &from).unwrap();
    let restarted = operator.actor(&remote);
    let held = restarted.owned(scope("apps")).await.unwrap();
    assert_eq!(held.len(), 1, "the refs of the mirror did not move");
    assert_eq!(restarted.submit(whole("apps", &[("a", "2"), ("b", "2")])).await.unwrap().written, 2);
    assert_eq!(remote.commits("main"), 2);
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_the_leader_does_not_push() {
    let remote = Remote::new();
    let mut operator = Operator::new();
    let mandate = Mandate::limited(Duration::from_hours(1), Moment::now());
    operator.around.mandate = mandate.clone();
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    // It ends while the push is on its way: the last look is after that.
    let ending = mandate.clone();
    remote.before_push(move || ending.end());
    for _ in 0..2 {
        let error = actor.submit(whole("apps", &[("a", "2")])).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert!(crate::error::chain(&error).contains("no longer the leader"), "{}", crate::error::chain(&error));
    }
    assert_eq!(remote.commits("main"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_always_late_is_given_up_for_a_while() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    let path = remote.path().to_owned();
    let mut round = 0;
    remote.before_push(move || {
        round += 1;
        human_commit(&path, "main", &[("human", Some(&format!("{round}")))]);
    });
    let error = actor.submit(whole("apps", &[("a", "2")])).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert_eq!(remote.pushes(), 6);
    remote.before_push(|| {});
    actor.submit(whole("apps", &[("a", "2")])).await.unwrap();
    assert_eq!((remote.content("main", "human"), remote.content("main", "a")), ("5".to_owned(), "2".to_owned()));
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn force_overwrites_what_came_in_between_and_keeps_what_was_there() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor_of(&remote, "main", PushPolicy::Force);
    actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    remote.commit("main", &[("kept", Some("x"))]);
    let path = remote.path().to_owned();
    remote.before_push(move || {
        human_commit(&path, "main", &[("lost", Some("x"))]);
    });
    actor.submit(whole("apps", &[("a", "2"), ("b", "2")])).await.unwrap();
    remote.before_push(|| {});
    assert_eq!(remote.files("main"), ["a", "b", "kept"]);
    assert_eq!(remote.files(APPS), ["a", "b"]);
    actor.submit(part("apps", &[], &["a"])).await.unwrap();
    assert_eq!(remote.files("main"), ["b", "kept"]);
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_lose_nothing_of_each_other() {
    let remote = Remote::new();
    let operators = [Operator::new(), Operator::new()];
    let actors = operators.each_ref().map(|operator| operator.actor(&remote));
    let write = async |actor: &Actor, name: &str| {
        for round in 0..8 {
            let (path, text) = (format!("{name}/{round}"), format!("{round}"));
            let mut tries = 0;
            while let Err(error) =
                actor.submit(part(name, &[(&path, &text), (name.to_uppercase().as_str(), &text)], &[])).await
            {
                assert_eq!(error.class(), Class::Transient, "{}", crate::error::chain(&error));
                tries += 1;
                assert!(tries < 20, "{}", crate::error::chain(&error));
            }
        }
    };
    let people = tokio::task::spawn_blocking({
        let path = remote.path().to_owned();
        move || {
            let repository = git2::Repository::open_bare(&path).unwrap();
            (0..10).filter(|round| human_push(&repository, *round)).count()
        }
    });
    tokio::join!(write(&actors[0], "one"), write(&actors[1], "two"));
    let pushed = people.await.unwrap();
    let files = remote.files("main");
    assert_eq!(files.iter().filter(|path| path.starts_with("one/") || path.starts_with("two/")).count(), 16);
    assert_eq!(files.iter().filter(|path| path.starts_with("human/")).count(), pushed);
    assert_eq!((remote.content("main", "ONE"), remote.content("main", "TWO")), ("7".to_owned(), "7".to_owned()));
    assert_eq!(remote.files("refs/kollect/west/team-a/one").len(), 9);
    sound(&remote);
}

/// Commits a file beside the branch and moves the branch only from where it was, as a push does.
fn human_push(repository: &git2::Repository, round: u32) -> bool {
    let Ok(found) = repository.find_reference("refs/heads/main") else { return false };
    let parent = found.peel_to_commit().unwrap();
    let path = FilePath::new(&format!("human/{round}")).unwrap();
    let blob = repository.blob(b"x").unwrap();
    let objects =
        crate::sinks::git::objects::Objects::new(repository, crate::sinks::git::objects::Volume::Few).unwrap();
    let edits = [(path, crate::sinks::git::tree::Action::Put(blob))].into();
    let tree = crate::sinks::git::tree::apply(&objects, Some(parent.tree_id()), &edits).unwrap().tree;
    let tree = repository.find_tree(tree).unwrap();
    let signature = git2::Signature::now("human", "human@example.com").unwrap();
    let commit = repository.commit(None, &signature, &signature, "by hand", &tree, &[&parent]).unwrap();
    repository.reference_matching("refs/heads/main", commit, true, parent.id(), "").is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_mirror_is_fetched_anew() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let contents: Vec<(String, String)> = (0..20).map(|n| (format!("d{n}/f"), format!("{n}"))).collect();
    let contents: Vec<(&str, &str)> = contents.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &contents)).await.unwrap();
    for (round, ruin) in ["objects", "HEAD", "refs"].into_iter().enumerate() {
        let path = operator.mirror().join(ruin);
        match ruin {
            "HEAD" => fs::write(path, "nonsense").unwrap(),
            "refs" => fs::write(path.join("heads/main"), format!("{:040x}\n", 7)).unwrap(),
            _ => {
                fs::remove_dir_all(&path).unwrap();
                fs::create_dir_all(path.join("pack")).unwrap();
            }
        }
        let text = format!("round {round}");
        let outcome = actor.submit(part("apps", &[("d7/f", &text)], &[])).await.unwrap();
        assert_eq!(outcome.written, 1, "{ruin}");
        assert_eq!(remote.content("main", "d7/f"), text);
    }
    assert_eq!(remote.files("main").len(), 20);
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_push_writes_packs_and_no_loose_objects() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    let contents: Vec<(String, String)> = (0..5_000).map(|n| (format!("d{}/f{n}", n % 50), format!("{n}"))).collect();
    let contents: Vec<(&str, &str)> = contents.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    assert_eq!(actor.submit(whole("apps", &contents)).await.unwrap().written, 5_000);
    let objects = operator.mirror().join("objects");
    let loose = fs::read_dir(&objects).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().len() == 2).count();
    let packs = fs::read_dir(objects.join("pack")).unwrap().count();
    assert_eq!((loose, packs), (0, 4), "two packs and their indexes: files, and everything else");
    assert_eq!(remote.files("main").len(), 5_000);
    // A small edit on top of it is a few objects.
    actor.submit(part("apps", &[("d1/f1", "changed")], &["d2/f2"])).await.unwrap();
    let sent: usize = remote.git(&["rev-list", "--objects", "--count", "main~1..main"]).parse().unwrap();
    assert!(sent < 10, "{sent}");
    sound(&remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_before_it_begins_wants_nothing() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    actor.submit(whole("apps", &[("a", "1")])).await.unwrap();
    let mut gone = Box::pin(actor.submit(whole("gone", &[("gone", "1")])));
    assert!(futures::poll!(&mut gone).is_pending());
    drop(gone);
    actor.submit(whole("apps", &[("a", "2")])).await.unwrap();
    assert_eq!(remote.files("main"), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_the_same_by_any_address() {
    let (remote, operator) = (Remote::new(), Operator::new());
    operator.actor(&remote).submit(whole("apps", &[("a", "1")])).await.unwrap();
    let other = Operator::new();
    let actor = other.actor(&remote);
    let identity = actor.identity().await.unwrap();
    assert!(identity.is_some());
    actor.submit(whole("other", &[("b", "1")])).await.unwrap();
    operator.actor(&remote).submit(edit("apps", Change::End(Leave::Delete))).await.unwrap();
    assert_eq!(actor.identity().await.unwrap(), identity);
    let elsewhere = Remote::new();
    let twin = operator.actor(&elsewhere);
    twin.submit(whole("apps", &[("a", "1")])).await.unwrap();
    assert_ne!(twin.identity().await.unwrap(), identity);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_actor_answers_that_it_gave_up() {
    let (remote, operator) = (Remote::new(), Operator::new());
    let actor = operator.actor(&remote);
    operator.around.stop.cancel();
    operator.around.tasks.close();
    operator.around.tasks.wait().await;
    let error = actor.submit(whole("apps", &[("a", "1")])).await.unwrap_err();
    assert!(matches!(error, GitError::GivenUp));
}
