use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::sinks::git::objects::Volume;
use crate::sinks::git::testing::Scratch;

fn path(path: &str) -> FilePath {
    FilePath::new(path).unwrap()
}

fn repository(scratch: &Scratch) -> Repository {
    Repository::init_bare(scratch.path()).unwrap()
}

type Files = BTreeMap<FilePath, String>;

fn written(repository: &Repository, base: Option<Oid>, edits: &[(&str, Option<&str>)]) -> Result<Oid, GitError> {
    let edits = edits.iter().map(|(name, content)| {
        let put = content.map(|content| Action::Put(repository.blob(content.as_bytes()).unwrap()));
        (path(name), put.unwrap_or(Action::Remove))
    });
    let edits: Edits = edits.collect();
    Ok(apply(&Objects::new(repository, Volume::Few).unwrap(), base, &edits)?.tree)
}

fn names(files: Vec<(FilePath, Oid)>) -> Vec<String> {
    files.into_iter().map(|(path, _)| path.to_string()).collect()
}

#[test]
fn a_directory_that_becomes_empty_vanishes() {
    let scratch = Scratch::new();
    let repository = repository(&scratch);
    let base = written(&repository, None, &[("a/b/c", Some("1")), ("d", Some("2"))]).unwrap();
    let left = written(&repository, Some(base), &[("a/b/c", None)]).unwrap();
    assert_eq!(left, written(&repository, None, &[("d", Some("2"))]).unwrap());
    let nothing = written(&repository, Some(left), &[("d", None)]).unwrap();
    assert_eq!(nothing.to_string(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
}

#[test]
fn a_directory_of_nobody_is_not_overwritten() {
    let scratch = Scratch::new();
    let repository = repository(&scratch);
    let base = written(&repository, None, &[("a/b", Some("1"))]).unwrap();
    for (edits, path) in [(vec![("a", Some("2"))], "a"), (vec![("a/b/c/d", Some("2"))], "a/b/c/d")] {
        let error = written(&repository, Some(base), &edits).unwrap_err();
        assert!(matches!(error, GitError::Obstructed { path: ref there, .. } if there == path), "{error}");
    }
    let swapped = written(&repository, Some(base), &[("a/b", None), ("a", Some("2"))]).unwrap();
    assert_eq!(names(list(&repository, swapped).unwrap()), ["a"]);
    let back = written(&repository, Some(swapped), &[("a", None), ("a/b", Some("1"))]).unwrap();
    assert_eq!(back, base);
}

#[test]
fn what_git_does_not_take_is_an_error_of_the_path() {
    let scratch = Scratch::new();
    let repository = repository(&scratch);
    let error = written(&repository, None, &[("a/git~1", Some("1"))]);
    assert!(matches!(error, Ok(_) | Err(GitError::Unfit { .. })), "{error:?}");
    assert!(FilePath::new("a/.git/b").is_err());
}

#[test]
fn only_what_differs_is_missing() {
    let scratch = Scratch::new();
    let repository = repository(&scratch);
    let ours = written(&repository, None, &[("a/1", Some("1")), ("a/2", Some("2")), ("b/3", Some("3"))]).unwrap();
    let theirs = [("a/2", Some("other")), ("b/3", None), ("c", Some("theirs"))];
    let theirs = written(&repository, Some(ours), &theirs).unwrap();
    assert_eq!(names(missing(&repository, ours, Some(theirs)).unwrap()), ["a/2", "b/3"]);
    assert_eq!(names(missing(&repository, ours, Some(ours)).unwrap()), Vec::<String>::new());
    let asked = [path("a"), path("a/1"), path("b/3"), path("c")];
    let found = Paths::new(&asked).among(&repository, Some(theirs)).unwrap();
    assert_eq!(found.into_iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["a/1", "c"]);
}

/// Tells whether a file is where a directory must be.
fn clashes(files: &Files) -> bool {
    files.keys().any(|path| {
        let below = format!("{path}/");
        files.keys().any(|other| other.as_str().starts_with(&below))
    })
}

fn some_path() -> impl Strategy<Value = FilePath> {
    proptest::collection::vec("[ab.0-]{1,2}", 1..4)
        .prop_filter_map("a path that git takes", |segments| FilePath::new(&segments.join("/")).ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn editing_a_tree_is_editing_a_map(
        base in proptest::collection::btree_map(some_path(), "[xyz]", 0..12),
        edits in proptest::collection::btree_map(some_path(), proptest::option::of("[xyz]"), 0..12),
        touched in 0_usize..6,
    ) {
        let mut files = Files::new();
        for (path, content) in base {
            files.insert(path.clone(), content);
            if clashes(&files) {
                files.remove(&path);
            }
        }
        let mut edits = edits;
        edits.extend(files.keys().take(touched).map(|path| (path.clone(), None)));

        let scratch = Scratch::new();
        let repository = repository(&scratch);
        let objects = Objects::new(&repository, Volume::Few).unwrap();
        let blob = |content: &String| repository.blob(content.as_bytes()).unwrap();
        let all = |files: &Files| -> Edits {
            files.iter().map(|(path, content)| (path.clone(), Action::Put(blob(content)))).collect()
        };
        let before = apply(&objects, None, &all(&files)).unwrap().tree;

        let (old, mut after) = (files.clone(), files);
        for (path, content) in &edits {
            match content {
                Some(content) => drop(after.insert(path.clone(), content.clone())),
                None => drop(after.remove(path)),
            }
        }
        let actions: Edits = edits.iter().map(|(path, content)| {
            (path.clone(), content.as_ref().map_or(Action::Remove, |content| Action::Put(blob(content))))
        }).collect();
        match apply(&objects, Some(before), &actions) {
            Err(GitError::Obstructed { .. }) => prop_assert!(clashes(&after)),
            Err(error) => panic!("{error}"),
            Ok(Applied { tree, changed }) => {
                prop_assert!(!clashes(&after));
                prop_assert_eq!(tree, apply(&objects, None, &all(&after)).unwrap().tree);
                let changed: BTreeSet<&FilePath> = changed.into_iter().map(|(path, _)| path).collect();
                let differ = |path: &&FilePath| old.get(*path) != after.get(*path);
                prop_assert_eq!(changed, edits.keys().filter(differ).collect());
                let listed: Files = list(&repository, tree).unwrap().into_iter().map(|(path, id)| {
                    (path, String::from_utf8(repository.find_blob(id).unwrap().content().to_vec()).unwrap())
                }).collect();
                prop_assert_eq!(listed, after);
            }
        }
    }
}

#[test]
fn git_itself_finds_nothing_wrong_with_the_trees() {
    let scratch = Scratch::new();
    let repository = repository(&scratch);
    let files = [("a", Some("1")), ("a.b", Some("1")), ("a-b/c", Some("1")), ("a0/c", Some("1")), ("b/a", Some("1"))];
    let tree = written(&repository, None, &files).unwrap();
    written(&repository, Some(tree), &[("a", None), ("a/x", Some("2")), ("b/a", None), ("b", Some("3"))]).unwrap();
    let checked = Command::new("git").arg("-C").arg(scratch.path()).args(["fsck", "--strict"]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
