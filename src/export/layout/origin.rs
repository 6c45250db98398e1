//! Where a held file came from: which target collected its row, in which namespace.
//!
//! After a restart a sink holds files of rows that are not listed yet. Such a file stays until the part it belongs to is
//! known, so the part has to be told from the file alone: from its content where that is the whole row, else from its
//! path where the template puts the target and the namespace into it.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::Layout;
use super::template::{Piece, Slot};
use crate::api::v1alpha1::sink::LayoutContent;
use crate::export::file::FilePath;
use crate::model::{Name, Namespace, Part, Uid};

/// What a held file says of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Target and namespace.
    pub part: Part,
    /// The collected object, where the content tells.
    pub uid: Option<Uid>,
}

/// The fields of an item that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    target_name: String,
    namespace: String,
    uid: String,
}

impl Layout {
    /// Returns where a file came from; `None` where neither content nor path tells.
    ///
    /// A path tells only where target and namespace are segments of their own and nothing else could be meant.
    pub fn origin(&self, path: &FilePath, content: &[u8]) -> Option<Trace> {
        if self.spec.content == LayoutContent::Item
            && let Some(head) = head(content)
        {
            let part = Part { target: Name::new(head.target_name), namespace: Namespace::new(head.namespace) };
            return Some(Trace { part, uid: Some(Uid::new(&head.uid)) });
        }
        let part = self.part_of(path)?;
        Some(Trace { part, uid: None })
    }

    fn part_of(&self, path: &FilePath) -> Option<Part> {
        let stands_alone = |slot| {
            self.row.segments.iter().any(|segment| matches!(segment.as_slice(), [Piece::Slot(only)] if *only == slot))
        };
        if !(stands_alone(Slot::TargetName) && stands_alone(Slot::SourceNamespace)) {
            return None;
        }
        let path: Vec<&str> = path.as_str().split('/').collect();
        let template: Vec<&[Piece]> =
            self.row.segments.iter().map(Vec::as_slice).filter(|segment| !segment.is_empty()).collect();
        let mut found = BTreeSet::new();
        self.follow(&template, &path, ("", ""), &mut found);
        match found.iter().collect::<Vec<_>>().as_slice() {
            [(target, namespace)] => Some(Part { target: Name::new(*target), namespace: Namespace::new(*namespace) }),
            _ => None,
        }
    }

    /// Tells whether a path could be that of a row.
    pub(super) fn may_be_of_row(&self, path: &FilePath) -> bool {
        let path: Vec<&str> = path.as_str().split('/').collect();
        let template: Vec<&[Piece]> =
            self.row.segments.iter().map(Vec::as_slice).filter(|segment| !segment.is_empty()).collect();
        self.fits(&template, &path)
    }

    fn fits(&self, template: &[&[Piece]], path: &[&str]) -> bool {
        let Some((segment, template)) = template.split_first() else { return path.is_empty() };
        let fits =
            path.split_first().is_some_and(|(text, path)| self.may_be(segment, text) && self.fits(template, path));
        fits || is_optional(segment) && self.fits(template, path)
    }

    /// Collects every pair of target and namespace that the template and the path allow.
    fn follow<'p>(
        &self,
        template: &[&[Piece]],
        path: &[&'p str],
        so_far: (&'p str, &'p str),
        found: &mut BTreeSet<(&'p str, &'p str)>,
    ) {
        let Some((segment, template)) = template.split_first() else {
            if path.is_empty() && !so_far.0.is_empty() {
                found.insert(so_far);
            }
            return;
        };
        if is_optional(segment) {
            self.follow(template, path, so_far, found);
        }
        let Some((text, path)) = path.split_first() else { return };
        let so_far = match segment {
            // A value that was cut says nothing.
            [Piece::Slot(Slot::TargetName | Slot::SourceNamespace)]
                if text.len() >= self.spec.max_segment_bytes.get() =>
            {
                return;
            }
            [Piece::Slot(Slot::TargetName)] => (*text, so_far.1),
            [Piece::Slot(Slot::SourceNamespace)] => (so_far.0, *text),
            pieces if self.may_be(pieces, text) => so_far,
            _ => return,
        };
        self.follow(template, path, so_far, found);
    }

    /// Tells whether a segment could say this: the fixed pieces stand in it in their order.
    fn may_be(&self, pieces: &[Piece], text: &str) -> bool {
        let mut rest = text;
        for (index, piece) in pieces.iter().enumerate() {
            let fixed = match piece {
                Piece::Text(fixed) => fixed.as_str(),
                Piece::Slot(Slot::Cluster) if pieces.len() == 1 => {
                    let mut cluster = String::new();
                    super::template::sanitize(self.cluster(), self.spec.max_segment_bytes, &mut cluster);
                    return text == cluster;
                }
                Piece::Slot(Slot::Extension) => self.extension(),
                Piece::Slot(_) => continue,
            };
            let (last, first) = (index + 1 == pieces.len(), index == 0);
            let after = match rest.find(fixed) {
                Some(0) => rest.strip_prefix(fixed),
                Some(_) if first => None,
                Some(_) if last => rest.ends_with(fixed).then_some(""),
                Some(at) => rest.get(at + fixed.len()..),
                None => None,
            };
            let Some(after) = after else { return false };
            rest = after;
        }
        true
    }
}

/// Tells whether a segment may be missing from a path.
fn is_optional(segment: &[Piece]) -> bool {
    segment.iter().all(|piece| matches!(piece, Piece::Slot(Slot::SourceNamespace | Slot::Group)))
}

/// Reads an item in any format: the sink may have said another one when the file was written.
fn head(content: &[u8]) -> Option<Head> {
    if let Ok(head) = serde_json::from_slice(content) {
        return Some(head);
    }
    serde_saphyr::from_str(std::str::from_utf8(content).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::sink::Format;
    use crate::export::layout::LayoutSpec;
    use crate::export::layout::tests::{api, inventory};

    fn layout(row_path: &str, content: LayoutContent, format: Format) -> Layout {
        Layout::new(LayoutSpec { row_path: row_path.to_owned(), content, format, ..LayoutSpec::default() }).unwrap()
    }

    fn told(layout: &Layout, path: &str, content: &[u8]) -> Option<String> {
        let trace = layout.origin(&FilePath::new(path).unwrap(), content)?;
        let uid = trace.uid.map_or(String::new(), |uid| uid.to_string());
        Some(format!("{}|{}|{uid}", trace.part.target, trace.part.namespace))
    }

    #[test]
    fn an_item_tells_by_its_content() {
        for format in [Format::Yaml, Format::Json, Format::Ndjson] {
            let layout = layout("{sourceName}", LayoutContent::Item, format);
            let text = layout.content(&api()).unwrap();
            let told = told(&layout, "x", &text.bytes).unwrap();
            assert_eq!(told, "deploys|team-a|11111111-1111-4111-8111-111111111111");
        }
    }

    #[test]
    fn a_path_tells_where_target_and_namespace_stand_in_it() {
        let template = "c/{targetName}/{group}/{kind}/{sourceNamespace}/{sourceName}-{uid}{extension}";
        let layout = layout(template, LayoutContent::Attributes, Format::Yaml);
        let path = layout.path(&inventory(), 1, &api()).unwrap();
        assert_eq!(told(&layout, path.as_str(), b"x: 1\n").as_deref(), Some("deploys|team-a|"));
        assert_eq!(told(&layout, "c/deploys/role/cr-1.yaml", b"").as_deref(), Some("deploys||"));
        // The third segment may be the group of a thing without a namespace, or the kind of one with a namespace.
        assert_eq!(told(&layout, "c/deploys/apps/deployment/cr-1.yaml", b""), None);
        assert_eq!(told(&layout, "d/deploys/apps/deployment/team-a/cr-1.yaml", b""), None);
        assert_eq!(told(&layout, "c/deploys/apps/deployment/team-a/cr-1.json", b""), None);
    }

    #[test]
    fn other_files_tell_nothing() {
        let layout = layout("{targetName}-{sourceNamespace}/{sourceName}", LayoutContent::Attributes, Format::Yaml);
        assert_eq!(told(&layout, "deploys-team-a/api", b"x: 1\n"), None);
        let layout = self::layout("{sourceName}", LayoutContent::Item, Format::Yaml);
        assert_eq!(told(&layout, "api", b"{{{"), None);
    }
}
