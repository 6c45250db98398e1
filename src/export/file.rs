//! What a sink of files is given: a path, and a text that knows which of its bytes are no news.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

/// A path in a repository or below a prefix: relative, in UTF-8, without empty segments. Ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Arc<str>);

/// Why a text is no path of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing is left.
    #[error("it is empty")]
    Empty,
    /// It starts or ends with a slash, or has two in a row.
    #[error("it has an empty segment; remove the slash that is too many")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("it has a segment '.' or '..'; write a path below the root")]
    Dots,
    /// The first segment belongs to git, or to the record of what we own.
    #[error("it leads into '.git' or '.kollect', which are not for files; choose another folder")]
    Reserved,
    /// It has a line break or the like.
    #[error("it has a control character; remove it")]
    Control,
}

impl FilePath {
    /// Checks a path.
    pub fn new(path: &str) -> Result<Self, PathError> {
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if path.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        for (index, segment) in path.split('/').enumerate() {
            match segment {
                "" => return Err(PathError::EmptySegment),
                "." | ".." => return Err(PathError::Dots),
                // git refuses the first at any depth.
                _ if segment.eq_ignore_ascii_case(".git") => return Err(PathError::Reserved),
                ".kollect" if index == 0 => return Err(PathError::Reserved),
                _ => {}
            }
        }
        Ok(Self(path.into()))
    }

    /// Makes a path below `.kollect`, which is for the record of what we own and for no file of a row.
    pub fn of_record(below: &str) -> Self {
        Self(format!(".kollect/{below}").into())
    }

    /// Tells whether the path is for the record of what we own.
    pub fn is_of_record(&self) -> bool {
        self.0.starts_with(".kollect/")
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Splits the path before the extension of its last segment; a path without one has an empty second half.
    pub(super) fn split_extension(&self) -> (&str, &str) {
        let name = self.0.rfind('/').map_or(0, |slash| slash + 1);
        let dot = self.0.rfind('.').filter(|&dot| dot >= name);
        let known = dot.filter(|&dot| {
            let extension = self.0.get(dot..).unwrap_or_default();
            [".yaml", ".yml", ".json", ".ndjson"].contains(&extension)
        });
        self.0.split_at(known.unwrap_or(self.0.len()))
    }
}

impl Borrow<str> for FilePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it goes.
    pub path: FilePath,
    /// What it says.
    pub text: Text,
}

/// A rendered file. It knows where in it the time of the export and the generation of the inventory stand, which are
/// no change by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The content.
    pub bytes: Vec<u8>,
    /// Ascending, without overlap.
    stamps: Vec<Stamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    span: Range<usize>,
    shape: Shape,
}

/// What may stand in the place of a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A time in quotes.
    Time,
    /// A number.
    Number,
    /// The field `"generation":4,` of an envelope, or nothing.
    Generation,
}

/// Key of the field that an envelope has only where there is a generation.
pub(super) const GENERATION: &[u8] = b"\"generation\":";

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, stamps: Vec::new() }
    }
}

impl Text {
    /// Tells whether some of it is no news.
    pub fn has_stamps(&self) -> bool {
        !self.stamps.is_empty()
    }

    /// Tells whether a held file says the same: equal but for the time of the export and the generation.
    pub fn says_the_same(&self, held: &[u8]) -> bool {
        let mut rest = held;
        let mut from = 0;
        for stamp in &self.stamps {
            let fixed = self.bytes.get(from..stamp.span.start).unwrap_or_default();
            let Some(after) = rest.strip_prefix(fixed) else { return false };
            let Some(after) = stamp.shape.skip(after) else { return false };
            rest = after;
            from = stamp.span.end;
        }
        self.bytes.get(from..) == Some(rest)
    }

    /// Marks a stretch that is no news. Stretches are marked in ascending order.
    pub(super) fn stamp(&mut self, span: Range<usize>, shape: Shape) {
        debug_assert!(self.stamps.last().is_none_or(|last| last.span.end <= span.start), "stamps ascend");
        self.stamps.push(Stamp { span, shape });
    }

    /// Marks the value that follows the first appearance of a mark, if there is one.
    pub(super) fn stamp_after(&mut self, mark: &[u8], shape: Shape) {
        let Some(at) = memchr::memmem::find(&self.bytes, mark) else { return };
        let start = at + mark.len();
        let rest = self.bytes.get(start..).unwrap_or_default();
        if let Some(after) = shape.skip(rest) {
            self.stamp(start..start + rest.len() - after.len(), shape);
        }
    }
}

impl Shape {
    /// Returns what follows the stamp that a text begins with; `None` where it begins with something else.
    fn skip(self, text: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Time => {
                let text = text.strip_prefix(b"\"")?;
                let end = text.iter().position(|byte| !(byte.is_ascii_digit() || b"TZ:.+-".contains(byte)))?;
                text.get(end..)?.strip_prefix(b"\"")
            }
            Self::Number => {
                let text = text.strip_prefix(b"-").unwrap_or(text);
                let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
                text.get(end..).filter(|_| end > 0)
            }
            Self::Generation => match text.strip_prefix(GENERATION) {
                Some(number) => Self::Number.skip(number)?.strip_prefix(b","),
                None => Some(text),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, error) in [
            ("", PathError::Empty),
            ("/a", PathError::EmptySegment),
            ("a//b", PathError::EmptySegment),
            ("a/", PathError::EmptySegment),
            ("a/../b", PathError::Dots),
            ("./b", PathError::Dots),
            (".git/config", PathError::Reserved),
            ("a/.GIT", PathError::Reserved),
            (".kollect/x", PathError::Reserved),
            ("a\nb", PathError::Control),
        ] {
            assert_eq!(FilePath::new(path), Err(error), "{path:?}");
        }
        for path in ["a", "a/b.yaml", ".github/a", "ä/ö", "a/.kollect", "..a/b..c"] {
            assert_eq!(FilePath::new(path).unwrap().as_str(), path);
        }
    }

    #[test]
    fn an_extension_is_one_that_we_write() {
        let split = |path| {
            let path = FilePath::new(path).unwrap();
            let (stem, extension) = path.split_extension();
            format!("{stem}|{extension}")
        };
        assert_eq!(split("a.b/c.yaml"), "a.b/c|.yaml");
        assert_eq!(split("a/v1.2"), "a/v1.2|");
        assert_eq!(split("a.yaml/b"), "a.yaml/b|");
        assert_eq!(split("a/.ndjson"), "a/|.ndjson");
    }
}
