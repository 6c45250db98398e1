//! Paths of documents, indexes and rows.

use std::sync::Arc;

use super::template::{Piece, Slot, Template, sanitize};
use super::{Index, KindCase, Layout, LayoutError, OF_DOCUMENT, OF_INDEX, OF_ROW};
use crate::api::v1alpha1::sink::{GroupInPath, LayoutMode};
use crate::export::file::FilePath;
use crate::model::{Body, Gvk, InventoryKey, Name, Namespace, ObjectKey, Origin, Row, Uid};

/// Paths of the example inventory `team-a/api`, generation 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examples {
    /// Path of the document.
    pub document: FilePath,
    /// The files that the layout writes, at most three.
    pub files: Vec<FilePath>,
}

impl Layout {
    /// Returns the path of the one file of a document.
    pub fn document_path(&self, inventory: &InventoryKey, generation: i64) -> Result<FilePath, LayoutError> {
        self.inventory_path(&self.document, OF_DOCUMENT, inventory, inventory.name.as_str(), generation)
    }

    /// Fills in a path whose values are inserted as they are.
    pub(super) fn inventory_path(
        &self,
        template: &Template,
        field: &'static str,
        inventory: &InventoryKey,
        name: &str,
        generation: i64,
    ) -> Result<FilePath, LayoutError> {
        let mut path = String::with_capacity(64);
        for (index, segment) in template.segments.iter().enumerate() {
            if index > 0 {
                path.push('/');
            }
            for piece in segment {
                match piece {
                    Piece::Text(text) => path.push_str(text),
                    Piece::Slot(Slot::Cluster) => path.push_str(self.cluster()),
                    Piece::Slot(Slot::Namespace) => path.push_str(inventory.namespace.as_str()),
                    Piece::Slot(Slot::Name) => path.push_str(name),
                    Piece::Slot(Slot::Generation) => path.push_str(&generation.to_string()),
                    Piece::Slot(Slot::Extension) => path.push_str(self.extension()),
                    Piece::Slot(_) => {} // no template of an inventory has it
                }
            }
        }
        FilePath::new(&path).map_err(|fault| LayoutError::Path { field, path, fault })
    }

    /// Returns the path of a row's file, before two rows of one path are told apart.
    pub fn path(&self, inventory: &InventoryKey, generation: i64, row: &Row) -> Result<FilePath, LayoutError> {
        let mut path = String::with_capacity(96);
        for segment in &self.row.segments {
            let start = path.len();
            if start > 0 {
                path.push('/');
            }
            let empty = path.len();
            for piece in segment {
                match piece {
                    Piece::Text(text) => path.push_str(text),
                    Piece::Slot(slot) => self.fill(*slot, inventory, generation, row, &mut path),
                }
            }
            if path.len() == empty {
                path.truncate(start);
            }
        }
        FilePath::new(&path).map_err(|fault| LayoutError::Path { field: OF_ROW, path, fault })
    }

    fn fill(&self, slot: Slot, inventory: &InventoryKey, generation: i64, row: &Row, path: &mut String) {
        let (target, gvk) = (&row.origin.target, &row.origin.gvk);
        let (uid, number, lower);
        let value = match slot {
            Slot::Cluster => self.cluster(),
            Slot::Namespace => inventory.namespace.as_str(),
            Slot::Name => inventory.name.as_str(),
            Slot::TargetNamespace => target.namespace.as_str(),
            Slot::TargetName => target.name.as_str(),
            Slot::SourceNamespace => row.namespace.as_str(),
            Slot::SourceName => row.body.name(),
            Slot::Group if self.spec.group == GroupInPath::Never => "",
            Slot::Group => &gvk.group,
            Slot::Kind if self.spec.kind_case == KindCase::Lower => {
                lower = gvk.kind.to_lowercase();
                &lower
            }
            Slot::Kind => &gvk.kind,
            Slot::Uid => {
                uid = row.uid.to_string();
                &uid
            }
            Slot::Generation => {
                number = generation.to_string();
                &number
            }
            Slot::Extension => {
                path.push_str(self.extension());
                return;
            }
        };
        sanitize(value, self.spec.max_segment_bytes, path);
    }

    /// Returns the path of the index.
    pub fn index_path(&self, inventory: &InventoryKey, generation: i64) -> Result<FilePath, LayoutError> {
        self.inventory_path(&self.index, OF_INDEX, inventory, inventory.name.as_str(), generation)
    }

    /// Returns the path of a row's file where another row has the one that it would have: `-<first 8 of uid>` before
    /// the extension, or `-<targetName>` where the other row is the same object. [`Places`](super::Places) looks after
    /// those of which even that is taken.
    pub fn unique_path(
        &self,
        inventory: &InventoryKey,
        generation: i64,
        row: &Row,
        against: &Row,
    ) -> Result<FilePath, LayoutError> {
        let mark = if row.uid == against.uid { Mark::Target } else { Mark::Uid };
        self.marked(&self.path(inventory, generation, row)?, row, mark)
    }

    /// Puts a mark before the extension of a path.
    pub(super) fn marked(&self, path: &FilePath, row: &Row, mark: Mark) -> Result<FilePath, LayoutError> {
        let (stem, extension) = path.split_extension();
        let mut marked = format!("{stem}-");
        let uid = row.uid.to_string();
        let short = uid.get(..uid.floor_char_boundary(8)).unwrap_or_default();
        let limit = self.spec.max_segment_bytes;
        match mark {
            Mark::Uid => sanitize(short, limit, &mut marked),
            Mark::Target => sanitize(row.origin.target.name.as_str(), limit, &mut marked),
            Mark::Both | Mark::Counted(_) => {
                sanitize(if mark == Mark::Both { short } else { &uid }, limit, &mut marked);
                marked.push('-');
                sanitize(row.origin.target.name.as_str(), limit, &mut marked);
            }
        }
        if let Mark::Counted(number @ 1..) = mark {
            marked.push('-');
            marked.push_str(&number.to_string());
        }
        marked.push_str(extension);
        FilePath::new(&marked).map_err(|fault| LayoutError::Path { field: OF_ROW, path: marked, fault })
    }

    /// Returns example paths, for a preview of the sink.
    pub fn examples(&self) -> Result<Examples, LayoutError> {
        let inventory = InventoryKey::new(Namespace::new("team-a"), Name::new("api"));
        let document = self.document_path(&inventory, 1)?;
        let mut rows = Vec::new();
        for row in example_rows() {
            rows.push(self.path(&inventory, 1, &row)?);
        }
        let index = self.index_path(&inventory, 1)?;
        let files = match self.spec.mode {
            None | Some(LayoutMode::Document) => vec![document.clone()],
            Some(LayoutMode::Split) if self.spec.index == Index::Written => {
                rows.pop();
                rows.push(index);
                rows
            }
            Some(LayoutMode::Split | LayoutMode::PerResource) => rows,
        };
        Ok(Examples { document, files })
    }
}

/// What tells two rows of one path apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// The first 8 characters of the UID.
    Uid,
    /// The name of the target.
    Target,
    /// Both.
    Both,
    /// The whole UID, the name of the target, and from 1 on a number.
    Counted(usize),
}

/// Three rows as a target over Deployments might give them.
fn example_rows() -> impl Iterator<Item = Row> {
    let gvk = Gvk { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
    let target = ObjectKey::new(Namespace::new("team-a"), Name::new("deployments"));
    let origin = Arc::new(Origin { target, gvk });
    ["api", "web", "worker"].into_iter().enumerate().filter_map(move |(index, name)| {
        Some(Row {
            origin: origin.clone(),
            uid: Uid::new(&format!("{index}0000000-0000-4000-8000-000000000000")),
            namespace: Namespace::new("team-a"),
            body: Body::new(name, b"{}")?,
        })
    })
}
