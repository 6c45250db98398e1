//! `docs/guarantees.md` names the tests that prove what it promises: each of them has to exist, and each promise has one.
//! Only text is read; nothing is started.

use std::fs;

use crate::support::repository_file;

const PAGE: &str = "docs/guarantees.md";

/// A line of the page: the name of a test as `cargo test` prints it, and the file that it is said to be in.
struct Proof {
    test: String,
    file: String,
}

#[test]
fn every_test_that_is_named_exists() {
    let page = fs::read_to_string(repository_file(PAGE)).unwrap();
    let proofs: Vec<Proof> = page.lines().filter_map(proof).collect();
    let wrong: Vec<String> = proofs.iter().filter_map(fault).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(proofs.len() > 50, "only {} lines were understood", proofs.len());
    // A list item that is no proof is one that this test cannot read.
    let unread: Vec<&str> = page.lines().filter(|line| line.starts_with("- ") && proof(line).is_none()).collect();
    assert!(unread.is_empty(), "\n{}\n", unread.join("\n"));
}

#[test]
fn every_promise_has_a_proof() {
    let page = fs::read_to_string(repository_file(PAGE)).unwrap();
    let bare: Vec<&str> = page
        .split("\n## ")
        .skip(1)
        .filter(|section| !section.lines().any(|line| proof(line).is_some()))
        .filter_map(|section| section.lines().next())
        .collect();
    assert!(bare.is_empty(), "no test is named under {bare:?}");
}

#[test]
fn names_that_are_wrong_are_found() {
    let fault_of = |line: &str| fault(&proof(line).unwrap());
    let here = "guarantees::names_that_are_wrong_are_found";
    assert_eq!(fault_of(&format!("- [`{here}`](../tests/it/guarantees.rs): this one")), None);
    for (test, file) in [
        ("guarantees::there_is_no_such_test", "tests/it/guarantees.rs"),
        ("guarantees::fault", "tests/it/guarantees.rs"),
        ("elsewhere::names_that_are_wrong_are_found", "tests/it/guarantees.rs"),
        (here, "tests/it/nowhere.rs"),
    ] {
        assert!(fault_of(&format!("- [`{test}`](../{file})")).is_some(), "{test} in {file}");
    }
    assert!(proof("- Some other item").is_none());
}

/// Reads a line of the form ``- [`module::test`](../file)``.
fn proof(line: &str) -> Option<Proof> {
    let (test, rest) = line.strip_prefix("- [`")?.split_once("`](../")?;
    let (file, _) = rest.split_once(')')?;
    Some(Proof { test: test.to_owned(), file: file.to_owned() })
}

/// Returns what is wrong with a proof.
fn fault(proof: &Proof) -> Option<String> {
    let Proof { test, file } = proof;
    let Ok(text) = fs::read_to_string(repository_file(file)) else {
        return Some(format!("{test}: there is no {file}"));
    };
    let (module, name) = test.rsplit_once("::").unwrap_or(("", test));
    let of_file =
        file.trim_start_matches("src/").trim_start_matches("tests/it/").trim_end_matches(".rs").replace('/', "::");
    if module != of_file && module != format!("{of_file}::tests") {
        return Some(format!("{test}: the tests of {file} are called {of_file}::…"));
    }
    (!is_test(&text, name)).then(|| format!("{test}: {file} has no such test"))
}

/// Tells whether a file has a function of this name with the attribute of a test above it.
fn is_test(text: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    lines.iter().enumerate().any(|(at, line)| {
        line.strip_prefix("async ").unwrap_or(line).starts_with(&head)
            && lines[..at]
                .iter()
                .rev()
                .take_while(|line| line.starts_with("#["))
                .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}
