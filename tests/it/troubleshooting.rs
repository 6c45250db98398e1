//! The page on troubleshooting and the reasons of conditions: whoever meets a reason finds it there. Only text is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kollect::api::v1alpha1::conditions::reasons;

use crate::support::repository_file;

const PAGE: &str = include_str!("../../docs/operator-manual/troubleshooting.md");
/// Where reasons are declared.
const DECLARED: &str = "src/api/v1alpha1/conditions.rs";

/// Appends the sources below a folder, without the file that declares the reasons.
fn append(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            append(&path, text);
        } else if path != repository_file(DECLARED) {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Returns the reasons that the first column of the tables of the page names.
fn explained() -> BTreeSet<&'static str> {
    let (_, tables) = PAGE.split_once("\n## Reasons of a target\n").unwrap();
    let tables = tables.split("\n## Refused").next().unwrap();
    let cells = tables.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let words = cells.flat_map(|cell| cell.split(['`', ',', ' ']));
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()) && !word.contains('=')).collect()
}

#[test]
fn every_reason_that_is_given_is_explained_on_the_page() {
    let declared = fs::read_to_string(repository_file(DECLARED)).unwrap();
    let constants = declared.lines().filter_map(|line| line.trim().strip_suffix("\";")?.split_once(" = \""));
    let is_constant = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let constants: Vec<(&str, &str)> = constants.filter(|(name, _)| is_constant(name)).collect();
    assert_eq!(constants.iter().map(|(_, reason)| *reason).collect::<Vec<_>>(), reasons::ALL);
    let mut sources = String::new();
    append(&repository_file("src"), &mut sources);
    for (constant, reason) in constants {
        let given = sources.contains(&format!("reasons::{constant}")) || sources.contains(&format!("\"{reason}\""));
        assert!(!given || PAGE.contains(&format!("`{reason}`")), "{reason} is not explained on the page");
    }
}

#[test]
fn the_page_explains_no_reason_that_there_is_not() {
    let explained = explained();
    assert!(explained.len() > 30, "{explained:?}");
    let unknown: Vec<_> = explained.iter().filter(|reason| !reasons::ALL.contains(reason)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
