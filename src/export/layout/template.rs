//! Templates of paths: what they are made of, and what a value looks like in a path.

use std::fmt;
use std::num::NonZeroUsize;

use thiserror::Error;

/// What a template may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Cluster,
    Namespace,
    Name,
    TargetNamespace,
    TargetName,
    SourceNamespace,
    SourceName,
    Group,
    Kind,
    Uid,
    Generation,
    Extension,
}

/// Placeholders of the path of a document or an index.
pub(super) const OF_INVENTORY: &[(&str, Slot)] = &[
    ("cluster", Slot::Cluster),
    ("namespace", Slot::Namespace),
    ("name", Slot::Name),
    ("generation", Slot::Generation),
    ("extension", Slot::Extension),
];

/// Placeholders of the path of a row.
pub(super) const OF_ROW: &[(&str, Slot)] = &[
    ("cluster", Slot::Cluster),
    ("namespace", Slot::Namespace),
    ("name", Slot::Name),
    ("targetNamespace", Slot::TargetNamespace),
    ("targetName", Slot::TargetName),
    ("sourceNamespace", Slot::SourceNamespace),
    ("sourceName", Slot::SourceName),
    ("group", Slot::Group),
    ("kind", Slot::Kind),
    ("uid", Slot::Uid),
    ("generation", Slot::Generation),
    ("extension", Slot::Extension),
];

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Nothing is written.
    #[error("is blank; remove it or write a path")]
    Blank,
    /// It would leave the repository.
    #[error("must be a relative path without '..'")]
    Outside,
    /// It names what there is not.
    #[error("has the unknown placeholder {{{name}}}; it may use {}", Listed(.known))]
    Unknown {
        /// What stands between the braces.
        name: String,
        /// What may stand there.
        known: Vec<&'static str>,
    },
    /// Two inventories would share one file.
    #[error("must contain {{namespace}} and {{name}}, else two inventories would write to one place")]
    Inventory,
    /// All rows would share one file.
    #[error("must contain {{sourceName}}, {{name}} or {{uid}}, else all rows would share one file")]
    Row,
}

struct Listed<'a>(&'a [&'static str]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let joint = if index == 0 { "" } else { ", " };
            write!(f, "{joint}{{{name}}}")?;
        }
        Ok(())
    }
}

/// A piece of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Slot(Slot),
}

/// A template, cut at its slashes and its braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) segments: Vec<Vec<Piece>>,
}

impl Template {
    /// Reads the path of a document or an index.
    pub(super) fn of_inventory(text: &str) -> Result<Self, TemplateError> {
        if text.starts_with('/') {
            return Err(TemplateError::Outside);
        }
        let template = Self::parse(text, OF_INVENTORY)?;
        if !(template.names(Slot::Namespace) && template.names(Slot::Name)) {
            return Err(TemplateError::Inventory);
        }
        Ok(template)
    }

    /// Reads the path of a row.
    pub(super) fn of_row(text: &str) -> Result<Self, TemplateError> {
        let template = Self::parse(text, OF_ROW)?;
        if ![Slot::SourceName, Slot::Name, Slot::Uid].iter().any(|&slot| template.names(slot)) {
            return Err(TemplateError::Row);
        }
        Ok(template)
    }

    fn parse(text: &str, known: &[(&'static str, Slot)]) -> Result<Self, TemplateError> {
        if text.trim().is_empty() {
            return Err(TemplateError::Blank);
        }
        if text.contains("..") {
            return Err(TemplateError::Outside);
        }
        let segments = text.split('/').map(|segment| pieces(segment, known)).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }

    /// Tells whether the template has a placeholder.
    pub(super) fn names(&self, slot: Slot) -> bool {
        self.segments.iter().flatten().any(|piece| *piece == Piece::Slot(slot))
    }
}

fn pieces(segment: &str, known: &[(&'static str, Slot)]) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = segment;
    while let Some((before, name, after)) = rest
        .split_once('{')
        .and_then(|(before, braced)| braced.split_once('}').map(|(name, after)| (before, name, after)))
    {
        let Some((_, slot)) = known.iter().find(|(known, _)| *known == name) else {
            let known = known.iter().map(|(name, _)| *name).collect();
            return Err(TemplateError::Unknown { name: name.to_owned(), known });
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Slot(*slot));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Appends a value in a form that is safe inside a segment: runs of `/`, `\`, `:` and runs of two or more dots become
/// one dash, dots and dashes at the ends go, and at most `limit` bytes stay.
pub(super) fn sanitize(value: &str, limit: NonZeroUsize, out: &mut String) {
    let value = value.trim();
    let ends = ['.', '-'];
    if value.len() <= limit.get()
        && !value.contains(['/', '\\', ':'])
        && !value.contains("..")
        && !value.starts_with(ends)
        && !value.ends_with(ends)
    {
        out.push_str(value);
        return;
    }
    let mut clean = String::with_capacity(value.len());
    let mut rest = value.chars().peekable();
    while let Some(next) = rest.next() {
        let is_separator = |c: &char| matches!(c, '/' | '\\' | ':');
        if is_separator(&next) {
            while rest.next_if(is_separator).is_some() {}
            clean.push('-');
        } else if next == '.' && rest.peek() == Some(&'.') {
            while rest.next_if_eq(&'.').is_some() {}
            clean.push('-');
        } else {
            clean.push(next);
        }
    }
    let trimmed = clean.trim_matches(ends);
    let end = trimmed.floor_char_boundary(limit.get());
    out.push_str(trimmed.get(..end).unwrap_or_default().trim_matches(ends));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(value: &str, limit: usize) -> String {
        let mut out = String::new();
        sanitize(value, NonZeroUsize::new(limit).unwrap(), &mut out);
        out
    }

    // E17.
    #[test]
    fn values_are_safe_inside_a_segment() {
        for (value, expected) in [
            ("system:node:a/b", "system-node-a-b"),
            ("..", ""),
            ("a..b", "a-b"),
            (".hidden", "hidden"),
            (" a ", "a"),
            ("a://b\\c", "a-b-c"),
            ("a...b.c", "a-b.c"),
            ("-.a.-", "a"),
            ("", ""),
        ] {
            assert_eq!(clean(value, 63), expected, "{value:?}");
        }
    }

    #[test]
    fn long_values_are_cut_and_trimmed_again() {
        assert_eq!(clean("abcdef", 3), "abc");
        assert_eq!(clean("ab-def", 3), "ab");
        assert_eq!(clean("aäö", 2), "a");
    }

    #[test]
    fn a_template_says_what_is_wrong_with_it() {
        for (template, expected) in [
            (" ", "is blank; remove it or write a path"),
            ("/{namespace}/{name}", "must be a relative path without '..'"),
            ("{namespace}/../{name}", "must be a relative path without '..'"),
            ("{namespace}/x", "must contain {namespace} and {name}, else two inventories would write to one place"),
            (
                "{namespace}/{name}{ext}",
                "has the unknown placeholder {ext}; it may use {cluster}, {namespace}, {name}, {generation}, {extension}",
            ),
        ] {
            assert_eq!(Template::of_inventory(template).unwrap_err().to_string(), expected);
        }
        let error = Template::of_row("{kind}").unwrap_err().to_string();
        assert_eq!(error, "must contain {sourceName}, {name} or {uid}, else all rows would share one file");
        assert!(Template::of_row("{kind}/{sourceName}-{uid}{extension}").is_ok());
    }
}
