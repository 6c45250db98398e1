//! How rows become files of a repository: paths and contents, pure.
//!
//! A [`Layout`] is made from a [`LayoutSpec`] once and asked for one of three things:
//!
//! - **A whole document** ([`Layout::document`]): one file with all rows, its parts and a manifest where one file would be
//!   too long, or, where the sink has no layout block and every row embeds one object of its own kind, a file per row
//!   (the *auto tree*). A tree layout gives all its files this way, too.
//! - **The file of one row** ([`Layout::path`], [`Layout::content`]), for a sink that is given deltas. Two rows of one
//!   path are told apart by [`Places`], which gives every row its path as a function of the set of rows.
//! - **Where a held file came from** ([`Layout::origin`]), for rows that are not known yet.
//!
//! Contents are those of [`crate::canonical`], so an integer stays exact in every format.

mod collide;
mod content;
mod origin;
mod path;
mod template;
mod whole;

use std::num::NonZeroUsize;

use thiserror::Error;

use super::envelope::Notation;
use super::file::{FilePath, PathError};
use crate::api::v1alpha1::SinkCommon;
use crate::api::v1alpha1::sink::{Format, GroupInPath, LayoutContent, LayoutFilename, LayoutMode};
use crate::error::{Class, Classify};
use crate::model::Cluster;

pub use collide::{Moves, Places};
pub use content::Scratch;
pub use origin::Trace;
pub use path::Examples;
pub use template::TemplateError;
pub use whole::{Parts, Rendered};

use template::{Slot, Template};

/// Path of a document where the sink says nothing, and of an index where the layout says nothing.
pub const DOCUMENT_PATH: &str = "inventory/{namespace}/{name}{extension}";
/// Path of a row where the layout says nothing.
pub const ROW_PATH: &str = "{cluster}/{sourceNamespace}/{kind}/{sourceName}{extension}";
/// Longest value in the path of a row where the layout says nothing.
pub const MAX_SEGMENT_BYTES: NonZeroUsize = NonZeroUsize::new(63).unwrap();
/// Attribute with the embedded object, where the rows do not say so themselves.
pub const MANIFEST_KEY: &str = "resource";
/// What stands for a cluster without a name.
pub const DEFAULT_CLUSTER: &str = "default";

/// A layout as a sink describes it, with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutSpec {
    /// One file, one for each row, or both; `None` where the sink has no layout block, so that the rows decide.
    pub mode: Option<LayoutMode>,
    /// What the file of one row holds. A document always holds whole rows.
    pub content: LayoutContent,
    /// What files are written as: json, yaml or ndjson.
    pub format: Format,
    /// `spec.cluster`; empty is shown as `default`.
    pub cluster: Cluster,
    /// Path of a document.
    pub document_path: String,
    /// Path of the file of one row.
    pub row_path: String,
    /// Path of the index.
    pub index_path: String,
    /// Whether `split` writes an index.
    pub index: Index,
    /// Whether the group is part of a path.
    pub group: GroupInPath,
    /// How a kind is written in a path.
    pub kind_case: KindCase,
    /// Longest value in the path of a row, in bytes.
    pub max_segment_bytes: NonZeroUsize,
    /// Attribute with the embedded object, for content `manifest`.
    pub manifest_key: String,
}

/// Whether there is an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Index {
    /// There is, in mode `split`.
    #[default]
    Written,
    /// There is none in any mode.
    Omitted,
}

/// How a kind is written in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KindCase {
    /// `deployment`.
    #[default]
    Lower,
    /// `Deployment`.
    Kept,
}

impl Default for LayoutSpec {
    /// Returns the layout of a git sink that says nothing about it.
    fn default() -> Self {
        Self {
            mode: None,
            content: LayoutContent::default(),
            format: Format::Yaml,
            cluster: Cluster::new(""),
            document_path: DOCUMENT_PATH.to_owned(),
            row_path: ROW_PATH.to_owned(),
            index_path: DOCUMENT_PATH.to_owned(),
            index: Index::default(),
            group: GroupInPath::default(),
            kind_case: KindCase::default(),
            max_segment_bytes: MAX_SEGMENT_BYTES,
            manifest_key: MANIFEST_KEY.to_owned(),
        }
    }
}

impl LayoutSpec {
    /// Reads what a sink of a repository says, with the defaults for what it does not say.
    pub fn of(sink: &SinkCommon) -> Self {
        let mut spec = Self::default();
        let put = |place: &mut String, said: Option<&String>| said.into_iter().for_each(|text| place.clone_from(text));
        spec.cluster = Cluster::new(sink.cluster.clone().unwrap_or_default());
        spec.format = sink.serialization.as_ref().and_then(|said| said.format).unwrap_or(spec.format);
        put(&mut spec.document_path, sink.path_template.as_ref());
        let Some(layout) = &sink.layout else { return spec };
        spec.mode = Some(layout.mode);
        spec.content = layout.content;
        put(&mut spec.row_path, layout.path_template.as_ref());
        if let Some(index) = &layout.index {
            put(&mut spec.index_path, index.path_template.as_ref());
            spec.index = if index.enabled == Some(false) { Index::Omitted } else { Index::Written };
        }
        let LayoutFilename { group_in_path, lowercase_kind, max_segment_length } =
            layout.filename.clone().unwrap_or_default();
        spec.group = group_in_path.unwrap_or_default();
        spec.kind_case = if lowercase_kind == Some(false) { KindCase::Kept } else { KindCase::Lower };
        let length = max_segment_length.and_then(|length| usize::try_from(length).ok()).and_then(NonZeroUsize::new);
        spec.max_segment_bytes = length.unwrap_or(spec.max_segment_bytes);
        spec
    }
}

/// Why rows cannot become files. Each names the field to change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// The format is none of a repository.
    #[error("spec.serialization.format: {0} is not written to a repository; choose yaml, json or ndjson")]
    Format(&'static str),
    /// A template is wrong.
    #[error("{field}: {fault}")]
    Template {
        /// The field with the template.
        field: &'static str,
        /// What is wrong.
        fault: TemplateError,
    },
    /// A template leads to no path.
    #[error("{field}: gives the path {path:?}: {fault}")]
    Path {
        /// The field with the template.
        field: &'static str,
        /// What it gave.
        path: String,
        /// What is wrong with that.
        fault: PathError,
    },
    /// A row has no object to write.
    #[error(
        "spec.layout.content: manifest needs an object in attribute {key:?}, and {object} has none; set export.mode \
         Resource in its profile, or choose content item"
    )]
    NoManifest {
        /// The row.
        object: String,
        /// The attribute that it should have.
        key: String,
    },
    /// The index would overwrite the file of a row.
    #[error("spec.layout.index.pathTemplate: gives {0}, which is the file of a row; choose another path")]
    IndexTaken(FilePath),
}

impl Classify for LayoutError {
    fn class(&self) -> Class {
        match self {
            Self::Format(_)
            | Self::Template { .. }
            | Self::Path { .. }
            | Self::NoManifest { .. }
            | Self::IndexTaken(_) => Class::Terminal,
        }
    }
}

/// A layout that is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    spec: LayoutSpec,
    notation: Notation,
    document: Template,
    row: Template,
    index: Template,
}

const OF_DOCUMENT: &str = "spec.pathTemplate";
const OF_ROW: &str = "spec.layout.pathTemplate";
const OF_INDEX: &str = "spec.layout.index.pathTemplate";

impl Layout {
    /// Checks a layout.
    ///
    /// # Errors
    /// Terminal, with the field that is wrong. A template is tried with the example inventory `team-a/api`.
    pub fn new(spec: LayoutSpec) -> Result<Self, LayoutError> {
        let notation = match spec.format {
            Format::Yaml => Notation::Yaml,
            Format::Json => Notation::Json,
            Format::Ndjson => Notation::Ndjson,
            Format::Parquet => return Err(LayoutError::Format("parquet")),
            Format::Csv => return Err(LayoutError::Format("csv")),
        };
        let wrong = |field| move |fault| LayoutError::Template { field, fault };
        let document = Template::of_inventory(&spec.document_path).map_err(wrong(OF_DOCUMENT))?;
        let row = Template::of_row(&spec.row_path).map_err(wrong(OF_ROW))?;
        let index = Template::of_inventory(&spec.index_path).map_err(wrong(OF_INDEX))?;
        let layout = Self { spec, notation, document, row, index };
        layout.examples()?;
        Ok(layout)
    }

    /// Returns what the sink says about the number of files.
    pub fn mode(&self) -> Option<LayoutMode> {
        self.spec.mode
    }

    /// Tells whether rows are written one by one, so that a sink is given deltas.
    pub fn is_tree(&self) -> bool {
        matches!(self.spec.mode, Some(LayoutMode::PerResource | LayoutMode::Split))
    }

    /// Tells whether there is an index beside the files of the rows.
    pub fn has_index(&self) -> bool {
        self.spec.mode == Some(LayoutMode::Split) && self.spec.index == Index::Written
    }

    /// Tells whether the paths of rows change with the generation of the inventory.
    pub fn follows_generation(&self) -> bool {
        self.row.names(Slot::Generation)
    }

    /// Returns `spec.cluster`, or what stands for it.
    pub fn cluster(&self) -> &str {
        if self.spec.cluster.is_empty() { DEFAULT_CLUSTER } else { self.spec.cluster.as_str() }
    }

    /// Returns the ending of files, with its dot.
    pub fn extension(&self) -> &'static str {
        match self.notation {
            Notation::Yaml => ".yaml",
            Notation::Json => ".json",
            Notation::Ndjson => ".ndjson",
        }
    }
}

#[cfg(test)]
mod tests;
