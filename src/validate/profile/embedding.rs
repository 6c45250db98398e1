//! `spec.export`: which parts of an object are embedded, and what is taken out of them.

use crate::api::v1alpha1::profile::{ExportInclude, ExportPrune, ProfileExport};

/// What every row has beside its attributes.
const IDENTITY: [&str; 3] = ["/metadata/name", "/metadata/namespace", "/metadata/uid"];

/// What changes without anybody's doing, or repeats the object.
const DEFAULTS: [&str; 5] = [
    "/metadata/managedFields",
    "/metadata/resourceVersion",
    "/metadata/generation",
    "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
    "/metadata/annotations/argocd.argoproj.io~1tracking-id",
];

/// The embedded copy of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding {
    /// Key of the row that receives it.
    pub key: String,
    /// Which sections it has besides `apiVersion` and `kind`.
    pub include: ExportInclude,
    /// What is taken out: keys of maps and places in lists, from the root; never empty.
    pub removed: Vec<Vec<String>>,
}

impl Embedding {
    pub(super) fn new(export: &ProfileExport) -> Self {
        let none = ExportPrune::default();
        let prune = export.prune.as_ref().unwrap_or(&none);
        let identity: &[&str] = if export.dedupe_identity.unwrap_or(true) { &IDENTITY } else { &[] };
        let defaults: &[&str] = if prune.defaults.unwrap_or(true) { &DEFAULTS } else { &[] };
        let pointers = prune.json_pointers.iter().map(String::as_str);
        let removed = identity.iter().chain(defaults).copied().chain(pointers).filter_map(pointed);
        let removed = removed.chain(prune.json_paths.iter().filter_map(|path| walked(path))).collect();
        Self { key: export.embed_as.clone(), include: export.include, removed }
    }
}

/// Tells whether the text is an RFC 6901 pointer to something below the root.
pub(super) fn is_pointer(text: &str) -> bool {
    let mut escapes = text.split('~');
    escapes.next().is_some_and(|start| start.starts_with('/')) && escapes.all(|rest| rest.starts_with(['0', '1']))
}

/// Reads a pointer; `None` for what points to nothing.
fn pointed(pointer: &str) -> Option<Vec<String>> {
    let rest = pointer.trim().strip_prefix('/').filter(|rest| !rest.is_empty())?;
    Some(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

/// Reads a path of dots and brackets such as `$.metadata.labels["pod-template-hash"]`; `None` for anything else, such as a
/// wildcard, a filter or braces.
pub(super) fn walked(path: &str) -> Option<Vec<String>> {
    let path = path.trim();
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut keys = Vec::new();
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let (key, behind) = in_brackets(bracket)?;
            keys.push(key.to_owned());
            rest = behind;
            continue;
        }
        // The first name may stand without its dot.
        let name = rest.strip_prefix('.').or_else(|| keys.is_empty().then_some(rest))?;
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (key, behind) = name.split_at(end);
        if key.is_empty() || key.contains(['*', '?', '{', '}', ']']) {
            return None;
        }
        keys.push(key.to_owned());
        rest = behind;
    }
    (!keys.is_empty()).then_some(keys)
}

/// Reads a quoted key or a number up to the closing bracket; returns what is behind it too.
fn in_brackets(text: &str) -> Option<(&str, &str)> {
    for quote in ["'", "\""] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let (key, behind) = quoted.split_once(quote)?;
            return Some((key, behind.strip_prefix(']')?));
        }
    }
    let (index, behind) = text.split_once(']')?;
    let is_index = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    is_index.then_some((index, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_that_point_to_nothing_are_ignored() {
        for pointer in ["", "/", " ", "relative/path", "#/a"] {
            assert_eq!(pointed(pointer), None, "{pointer:?}");
        }
        assert_eq!(pointed(" /metadata/labels/a~1b~01 ").unwrap(), ["metadata", "labels", "a/b~1"]);
        assert_eq!(pointed("/spec//0").unwrap(), ["spec", "", "0"]);
    }

    #[test]
    fn paths_with_wildcards_filters_or_braces_are_ignored() {
        for path in [
            "$.a[*]",
            "$.*",
            "$.a.*.b",
            "$.a[?(@.b)]",
            "$.a[0",
            "{.a}",
            "$",
            ".",
            "",
            "$.a..b",
            "$.a.",
            "$.a['b",
            "$.a['b'",
            "$.a[-1]",
            "$.a[b]",
            "$.a[]",
            "$['a']b",
            "$.a]",
        ] {
            assert_eq!(walked(path), None, "{path:?}");
        }
        assert_eq!(
            walked(r#"$.metadata.labels["pod-template-hash"]"#).unwrap(),
            ["metadata", "labels", "pod-template-hash"]
        );
        assert_eq!(walked("spec.l[0]['a.b'].c").unwrap(), ["spec", "l", "0", "a.b", "c"]);
        assert_eq!(walked(".status.conditions").unwrap(), ["status", "conditions"]);
    }
}
