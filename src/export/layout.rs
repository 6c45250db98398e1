//! How rows become files of a repository: paths and contents, pure.

use crate::api::v1alpha1::sink::{Format, LayoutMode};

/// A layout as a sink describes it, checked and with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutSpec {
    /// One file, one for each row, or both; `None` where the sink has no layout block, so that the rows decide.
    pub mode: Option<LayoutMode>,
    /// What files are written as: json, yaml or ndjson.
    pub format: Format,
}
