//! Texts with placeholders: paths of files and objects, and messages of commits.
//!
//! The rules of the schemas say the same in their own words, and speak first.

use super::{FieldPath, Findings};

/// Placeholders of a path that an inventory has.
const OF_INVENTORIES: [&str; 5] = ["cluster", "namespace", "name", "generation", "extension"];
/// Placeholders of a path that a row has.
const OF_ROWS: [&str; 12] = [
    "cluster",
    "namespace",
    "name",
    "targetNamespace",
    "targetName",
    "sourceNamespace",
    "sourceName",
    "group",
    "kind",
    "uid",
    "generation",
    "extension",
];
/// Placeholders of the texts of a commit.
const OF_COMMITS: [&str; 11] = [
    "cluster",
    "namespace",
    "name",
    "generation",
    "exportGeneration",
    "itemCount",
    "checksum",
    "checksumShort",
    "exportedAt",
    "sink",
    "path",
];

/// Checks the path of a document. Placeholders with an upper-case letter are not ours and stay as they are.
pub(super) fn document_path(findings: &mut Findings, path: &FieldPath, template: &str) {
    if template.starts_with('/') || template.contains("..") {
        findings.add(path.clone(), "must be relative and without '..'; remove the slash in front and the dots");
    }
    let names: Vec<&str> = placeholders(template).collect();
    if !names.contains(&"namespace") || !names.contains(&"name") {
        findings.add(path.clone(), "must contain {namespace} and {name}, else two inventories write to one file");
    }
    let ours = names.into_iter().filter(|name| !name.contains(|c: char| c.is_ascii_uppercase()));
    known(findings, path, ours, &OF_INVENTORIES);
}

/// Checks the path of the file of one row.
pub(super) fn row_path(findings: &mut Findings, path: &FieldPath, template: &str) {
    if template.contains("..") {
        findings.add(path.clone(), "must not contain '..'; remove it");
    }
    let names: Vec<&str> = placeholders(template).collect();
    if !["sourceName", "name", "uid"].iter().any(|name| names.contains(name)) {
        findings.add(path.clone(), "must contain {sourceName}, {name} or {uid}, else all rows share one file");
    }
    known(findings, path, names.into_iter(), &OF_ROWS);
}

/// Checks a text of a commit. Braces around anything but a word are text.
pub(super) fn commit_text(findings: &mut Findings, path: &FieldPath, template: &str) {
    if template.contains('\0') {
        findings.add(path.clone(), "has a zero character; remove it");
    }
    let word = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
    known(findings, path, placeholders(template).filter(word), &OF_COMMITS);
}

/// Names every placeholder that nobody fills in, and those that there are.
fn known<'a>(findings: &mut Findings, path: &FieldPath, names: impl Iterator<Item = &'a str>, all: &[&str]) {
    let unknown: Vec<String> = names.filter(|name| !all.contains(name)).map(|name| format!("{{{name}}}")).collect();
    if !unknown.is_empty() {
        let all: Vec<String> = all.iter().map(|name| format!("{{{name}}}")).collect();
        findings.add(path.clone(), format!("has unknown {}; use {}", unknown.join(", "), all.join(", ")));
    }
}

/// Returns what stands between braces that hold no others.
fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template.split('}').filter_map(|before| before.rsplit_once('{').map(|(_, name)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(check: fn(&mut Findings, &FieldPath, &str), template: &str) -> Option<String> {
        let mut findings = Findings::default();
        check(&mut findings, &FieldPath::spec().field("p"), template);
        findings.give(()).err().map(|errors| errors.to_string())
    }

    #[test]
    fn a_document_has_the_inventory_in_its_path() {
        for good in ["inventory/{namespace}/{name}{extension}", "{cluster}/{namespace}-{name}.{generation}{Custom}"] {
            assert_eq!(said(document_path, good), None, "{good}");
        }
        for (wrong, want) in [
            ("/{namespace}/{name}", "spec.p: must be relative and without '..'"),
            ("a/../{namespace}/{name}", "spec.p: must be relative and without '..'"),
            ("{namespace}/all", "spec.p: must contain {namespace} and {name}"),
            ("{namespace}/{name}/{uid}", "spec.p: has unknown {uid}; use {cluster}, {namespace}"),
        ] {
            let message = said(document_path, wrong).unwrap();
            assert!(message.starts_with(want), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_row_has_itself_in_its_path() {
        for good in ["{cluster}/{sourceNamespace}/{kind}/{sourceName}{extension}", "/{uid}", "{group}/{name}"] {
            assert_eq!(said(row_path, good), None, "{good}");
        }
        for (wrong, want) in [
            ("{kind}{extension}", "spec.p: must contain {sourceName}, {name} or {uid}"),
            ("{uid}/..", "spec.p: must not contain '..'"),
            ("{uid}/{Kind}/{labels}", "spec.p: has unknown {Kind}, {labels}; use {cluster}"),
        ] {
            let message = said(row_path, wrong).unwrap();
            assert!(message.starts_with(want), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_commit_names_what_it_does_not_know() {
        assert_eq!(said(commit_text, "{cluster}: {itemCount} {checksumShort} {} {a b} {\"json\": 1}"), None);
        let message = said(commit_text, "{items} of {cluster} by {user}").unwrap();
        assert!(message.starts_with("spec.p: has unknown {items}, {user}; use {cluster}, {namespace}"), "{message}");
    }
}
