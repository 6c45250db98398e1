use serde_json::json;

use super::*;
use crate::lab::git::{Human, Repositories};
use crate::model::{Name, Namespace};

const OWNER: &str = "refs/kollect/west/team-a/inventory";

/// A repository in which somebody does what the operator does.
struct Site {
    repository: Repository,
    human: Human,
    _repositories: Repositories,
}

impl Site {
    fn new() -> Self {
        let repositories = Repositories::new().unwrap();
        let repository = repositories.create("inventory").unwrap();
        let human = repository.human("operator", "main").unwrap();
        Self { repository, human, _repositories: repositories }
    }

    /// Commits these files, on the branch and as what the inventory owns.
    fn commit(&self, files: &[(&str, String)]) {
        for (path, content) in files {
            self.human.write(path, content).unwrap();
        }
        self.human.commit("export").unwrap();
        self.human.git(&["push", "--quiet", "origin", "HEAD:refs/heads/main", &format!("+HEAD:{OWNER}")]).unwrap();
    }

    fn read(&self, interval: Duration) -> Tree {
        let files = Files { branch: "main".to_owned(), interval };
        read(self.repository.path(), "west", &[(key(), files)].into(), 0).unwrap()
    }
}

fn key() -> ObjectKey {
    ObjectKey::new(Namespace::new("team-a"), Name::new("inventory"))
}

fn item(uid: &str) -> String {
    json!({
        "targetNamespace": "team-a", "targetName": "t", "namespace": "team-a", "name": uid,
        "version": "v1", "kind": "ConfigMap", "uid": uid, "attributes": {"a": 1},
    })
    .to_string()
}

#[test]
fn a_file_for_each_object_counts_as_a_row_each() {
    let site = Site::new();
    site.commit(&[("west/a.json", item("1")), ("west/b.json", item("2"))]);
    let tree = site.read(Duration::ZERO);
    assert_eq!((tree.files, tree.items, tree.unowned, tree.commits), (2, 2, 0, 1));
    assert_eq!(tree.held[&key()].len(), 2);
    assert!(tree.problems.is_empty(), "{:?}", tree.problems);
}

#[test]
fn parts_and_their_manifest_are_one_document() {
    let site = Site::new();
    let part = |uid: &str| format!(r#"{{"schemaVersion":"v1","items":[{}]}}"#, item(uid));
    let manifest = r#"{"schemaVersion":"v1","parts":[]}"#.to_owned();
    site.commit(&[("a.part-0001-of-0002.json", part("1")), ("a.part-0002-of-0002.json", part("2"))]);
    site.commit(&[("a.manifest.json", manifest)]);
    let tree = site.read(Duration::ZERO);
    assert_eq!((tree.files, tree.items, tree.bare.len()), (3, 2, 0));
}

#[test]
fn files_of_attributes_alone_are_counted() {
    let site = Site::new();
    site.commit(&[("west/a.yaml", "image: a\n".to_owned()), ("west/b.yaml", "image: b\n".to_owned())]);
    let tree = site.read(Duration::ZERO);
    assert_eq!((tree.items, tree.bare.get(&key())), (2, Some(&2)));
    assert!(!tree.held.contains_key(&key()));
}

#[test]
fn one_object_in_two_files_is_named() {
    let site = Site::new();
    site.commit(&[("west/a.json", item("1")), ("west/b.json", item("1"))]);
    assert_eq!(site.read(Duration::ZERO).problems, ["team-a/inventory: 1 is in two files, one of them west/b.json"]);
}

#[test]
fn what_is_owned_and_what_is_on_the_branch_have_to_be_one() {
    let site = Site::new();
    site.commit(&[("west/a.json", item("1")), ("west/b.json", item("2"))]);
    site.human.write("README.md", "ours").unwrap();
    site.human.remove("west/a.json").unwrap();
    site.human.edit("west/b.json", item("3"), "by hand").unwrap();
    let tree = site.read(Duration::ZERO);
    assert_eq!(tree.unowned, 1);
    assert_eq!(
        tree.problems,
        [
            "team-a/inventory: west/a.json is not on main",
            "team-a/inventory: west/b.json on main is not the file that is owned",
        ]
    );
}

#[test]
fn inventory_without_a_ref_is_named() {
    let site = Site::new();
    let problems = site.read(Duration::ZERO).problems;
    assert_eq!(
        problems,
        [format!("team-a/inventory: the repository has no {OWNER}"), "the repository has no branch main".to_owned()]
    );
}

#[test]
fn commits_that_come_too_soon_are_named() {
    let site = Site::new();
    site.commit(&[("west/a.json", item("1"))]);
    site.commit(&[("west/b.json", item("2"))]);
    site.commit(&[("west/a.json", item("3"))]);
    let hour = Duration::from_hours(1);
    let tree = site.read(hour);
    assert_eq!((tree.commits, tree.commits_per_interval), (3, 2));
    let [problem] = &tree.problems[..] else { panic!("{:?}", tree.problems) };
    assert!(problem.starts_with("west/a.json was committed 2 times within 3600s; the last: at 1"), "{problem}");
}

#[test]
fn commits_are_counted_in_every_window_of_an_interval() {
    let minute = Duration::from_mins(1);
    assert_eq!(most_within(vec![], minute), 0);
    assert_eq!(most_within(vec![60, 0, 120], minute), 1);
    assert_eq!(most_within(vec![0, 59, 61, 121], minute), 2);
    assert_eq!(most_within(vec![0, 50, 55, 59, 110, 200], minute), 4);
    assert_eq!(most_within(vec![7, 7, 8], Duration::ZERO), 2);
}
