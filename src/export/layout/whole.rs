//! All files of an inventory at once.

use std::io::Write as _;
use std::sync::Arc;

use super::{Layout, LayoutError, OF_DOCUMENT, Places, Scratch};
use crate::api::v1alpha1::sink::{LayoutContent, LayoutMode};
use crate::canonical;
use crate::export::Document;
use crate::export::envelope::{self, Checksum, Cut, PartOf, SCHEMA_VERSION, Stamped, TooLarge};
use crate::export::file::{File, FilePath, Shape, Text};
use crate::export::json::{self, Kind, Tape};
use crate::model::{InventoryKey, Row};

/// The files of an inventory, and no others are its.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// What to write, a manifest or an index last.
    pub files: Vec<File>,
    /// Over the items of all rows in canonical order.
    pub checksum: Checksum,
    /// Over the checksums of the parts; a document that is not cut has one part.
    pub set_checksum: Checksum,
    /// Path of the document, also where files of rows are written instead.
    pub path: FilePath,
    /// Rows that are in none of the files, because no part can hold them.
    pub refused: Vec<TooLarge>,
}

fn manifest_path(document: &FilePath) -> String {
    format!("{}.manifest.json", document.split_extension().0)
}

/// Returns what stands for the name of an inventory in the path of a part.
fn part_name(inventory: &InventoryKey, index: usize, total: usize) -> String {
    format!("{}.part-{index:04}-of-{total:04}", inventory.name)
}

/// Reads which part a path is of, if it is one.
fn part_numbers(path: &FilePath) -> Option<(usize, usize)> {
    let (index, rest) = path.as_str().rsplit_once(".part-")?.1.split_once("-of-")?;
    let total = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    Some((index.parse().ok()?, total.parse().ok()?))
}

impl Layout {
    /// Returns the files of an inventory.
    ///
    /// A document is one file, `[]` without rows. Where its envelope is longer than `max_part_bytes` it is cut: the parts
    /// come first, then a manifest at the path of the document with the ending `.manifest.json`. Without a layout block, a
    /// file for each row is written where each has exactly one attribute that holds an object of the row's own kind, the
    /// same attribute in all. A file for each row is never cut.
    ///
    /// # Errors
    /// Terminal, with the field to change.
    pub fn document(&self, document: &Document) -> Result<Rendered, LayoutError> {
        match self.spec.mode {
            Some(LayoutMode::PerResource | LayoutMode::Split) => self.tree(document),
            Some(LayoutMode::Document) => self.parts(document),
            None => match manifest_key(&document.rows) {
                Some(key) => self.as_manifests(key).tree(document),
                None => self.parts(document),
            },
        }
    }

    /// Tells whether a file is one that this layout writes for an inventory of this generation, with whatever rows and
    /// limits: the document, its manifest and parts, or the file of a row.
    pub fn writes(&self, inventory: &InventoryKey, generation: i64, path: &FilePath) -> Result<bool, LayoutError> {
        if self.is_tree() {
            return Ok(true);
        }
        let document = self.document_path(inventory, generation)?;
        if *path == document || path.as_str() == manifest_path(&document) {
            return Ok(true);
        }
        if let Some((index, total)) = part_numbers(path) {
            let name = part_name(inventory, index, total);
            return Ok(self.inventory_path(&self.document, OF_DOCUMENT, inventory, &name, generation)? == *path);
        }
        Ok(self.spec.mode.is_none() && self.may_be_of_row(path))
    }

    /// Returns the layout of the auto tree.
    fn as_manifests(&self, key: String) -> Self {
        let mut layout = self.clone();
        layout.spec.mode = Some(LayoutMode::PerResource);
        layout.spec.content = LayoutContent::Manifest;
        layout.spec.manifest_key = key;
        layout
    }

    fn parts(&self, document: &Document) -> Result<Rendered, LayoutError> {
        let parts = self.cut(document)?;
        let mut files = Vec::with_capacity(parts.len() + 1);
        for index in 0..parts.len() {
            files.extend(parts.render(index));
        }
        files.extend(parts.manifest()?);
        let (checksum, set_checksum) = (parts.checksum(), parts.set_checksum());
        Ok(Rendered { files, checksum, set_checksum, path: parts.path, refused: parts.cut.too_large })
    }

    /// Cuts a document into the parts that it is written in; they are rendered one at a time.
    ///
    /// # Errors
    /// Terminal, with the field to change.
    pub fn cut<'a>(&'a self, document: &'a Document) -> Result<Parts<'a>, LayoutError> {
        let (inventory, generation) = (&document.scope.inventory, document.standing.generation);
        let stamped = Stamped { generation, exported_at: document.exported_at };
        let path = self.document_path(inventory, generation)?;
        let cut = envelope::cut(stamped, inventory, &document.rows, document.max_part_bytes);
        let total = cut.parts.len();
        let mut paths = Vec::with_capacity(total);
        if total == 1 {
            paths.push(path.clone());
        } else {
            for index in 1..=total {
                let name = part_name(inventory, index, total);
                paths.push(self.inventory_path(&self.document, OF_DOCUMENT, inventory, &name, generation)?);
            }
        }
        let checksums = cut.parts.iter().map(|rows| Checksum::of_items(rows.iter().copied())).collect();
        Ok(Parts { layout: self, inventory, stamped, path, paths, checksums, cut })
    }

    /// Returns the file that names the parts of a set.
    fn manifest(
        &self,
        document: &FilePath,
        inventory: &InventoryKey,
        stamped: Stamped,
        parts: &[FilePath],
    ) -> Result<File, LayoutError> {
        let mut paths: Vec<&FilePath> = parts.iter().collect();
        paths.sort_unstable();
        let mut text =
            format!("{{\"kind\":\"KollectExportSetManifest\",\"schemaVersion\":\"{SCHEMA_VERSION}\"").into_bytes();
        let (namespace, name) = (inventory.namespace.as_str(), inventory.name.as_str());
        for (key, value) in [("cluster", self.cluster()), ("namespace", namespace), ("name", name)] {
            let _ = write!(text, ",\"{key}\":"); // a Vec takes everything
            canonical::write_string(value, &mut text);
        }
        let _ = write!(text, ",\"generation\":{},\"partTotal\":{}", stamped.generation, parts.len()); // as above
        list(&mut text, "parts", 1..=parts.len(), |part, out| {
            let _ = write!(out, "{part}"); // as above
        });
        let _ = write!(text, ",\"exportedAt\":\"{:.0}\"", stamped.exported_at); // as above
        list(&mut text, "paths", paths, |path, out| canonical::write_string(path.as_str(), out));
        text.push(b'}');
        let mut indented = Vec::with_capacity(2 * text.len());
        json::indent(&text, &mut indented);
        indented.push(b'\n');
        let mut text = Text::from(indented);
        text.stamp_after(b"\n  \"generation\": ", Shape::Number);
        text.stamp_after(b"\n  \"exportedAt\": ", Shape::Time);
        let path = manifest_path(document);
        let path = FilePath::new(&path).map_err(|fault| LayoutError::Path { field: OF_DOCUMENT, path, fault })?;
        Ok(File { path, text })
    }

    fn tree(&self, document: &Document) -> Result<Rendered, LayoutError> {
        let (inventory, generation) = (&document.scope.inventory, document.standing.generation);
        let (mut refused, mut kept, mut item) = (Vec::new(), Vec::with_capacity(document.rows.len()), Vec::new());
        for row in document.rows.iter() {
            item.clear();
            canonical::write_item(row, &mut item);
            let bytes = item.len() as u64;
            if bytes > document.max_part_bytes {
                refused.push(TooLarge::new(inventory, row, bytes, document.max_part_bytes));
            } else {
                kept.push(row.clone());
            }
        }
        let checksum = Checksum::of_items(&kept);
        let mut places = Places::new(Arc::new(self.clone()), inventory.clone(), generation);
        let mut files = Vec::with_capacity(kept.len() + 1);
        let mut scratch = Scratch::default();
        places.apply(kept, &[])?;
        for (path, row) in places.in_order()? {
            files.push(File { path, text: self.content_with(row, &mut scratch)? });
        }
        if self.has_index() {
            let paths = files.iter().map(|file| &file.path);
            files.push(self.index(inventory, generation, checksum, document.exported_at, paths)?);
        }
        let path = self.document_path(inventory, generation)?;
        Ok(Rendered { files, checksum, set_checksum: Checksum::of_set(&[checksum]), path, refused })
    }
}

/// A document in the parts that it is written in: one, or several and a manifest.
#[derive(Debug)]
pub struct Parts<'a> {
    layout: &'a Layout,
    inventory: &'a InventoryKey,
    stamped: Stamped,
    path: FilePath,
    /// One for each part.
    paths: Vec<FilePath>,
    /// Over the items of each part.
    checksums: Vec<Checksum>,
    cut: Cut<'a>,
}

impl Parts<'_> {
    /// Returns how many parts there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Returns the paths of the parts in their order.
    pub fn paths(&self) -> &[FilePath] {
        &self.paths
    }

    /// Returns the checksum over the items of all rows in canonical order.
    pub fn checksum(&self) -> Checksum {
        // Where there is one part, its own is that of all.
        self.cut.checksum.or(self.checksums.first().copied()).unwrap_or_else(|| self.set_checksum())
    }

    /// Returns the checksum over the checksums of the parts.
    pub fn set_checksum(&self) -> Checksum {
        Checksum::of_set(&self.checksums)
    }

    /// Returns the rows that no part can hold.
    pub fn refused(&self) -> &[TooLarge] {
        &self.cut.too_large
    }

    /// Renders one part, counted from 0; nothing where there is none.
    pub fn render(&self, index: usize) -> Option<File> {
        let (rows, path) = (self.cut.parts.get(index)?, self.paths.get(index)?);
        let total = self.len();
        let part = (total > 1).then_some(PartOf { index: index + 1, total });
        let (text, _) = self.stamped.write(self.layout.notation, rows, part);
        Some(File { path: path.clone(), text })
    }

    /// Renders the file that names the parts; nothing where there is one part only.
    ///
    /// # Errors
    /// Terminal, with the field to change.
    pub fn manifest(&self) -> Result<Option<File>, LayoutError> {
        if self.len() == 1 {
            return Ok(None);
        }
        self.layout.manifest(&self.path, self.inventory, self.stamped, &self.paths).map(Some)
    }
}

/// Appends a field with a list.
fn list<T>(out: &mut Vec<u8>, key: &str, items: impl IntoIterator<Item = T>, write: impl Fn(T, &mut Vec<u8>)) {
    let _ = write!(out, ",\"{key}\":["); // a Vec takes everything
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// Returns the attribute that holds an embedded object in every row; `None` where a row has none, or two, or another one.
fn manifest_key(rows: &[Row]) -> Option<String> {
    let mut tape = Tape::default();
    let mut common: Option<String> = None;
    for row in rows {
        let key = own_manifest(row, &mut tape)?;
        match &common {
            None => common = Some(key),
            Some(common) if *common == key => {}
            Some(_) => return None,
        }
    }
    common
}

/// Returns the one attribute of a row that holds an object of the row's own kind.
fn own_manifest(row: &Row, tape: &mut Tape) -> Option<String> {
    let json = row.body.attributes();
    tape.read(json);
    if tape.node(0).kind != Kind::Map {
        return None;
    }
    let text = |map, key| {
        let node = tape.node(tape.find(json, map, key)?);
        let text = node.text(json, &mut Vec::new()).to_vec();
        matches!(node.kind, Kind::Text | Kind::Escaped).then_some(text).filter(|text| !text.is_empty())
    };
    let own = |value| {
        text(value, "apiVersion").is_some()
            && text(value, "kind").is_some_and(|kind| kind.eq_ignore_ascii_case(row.origin.gvk.kind.as_bytes()))
    };
    let mut found = tape.children(0).filter(|&key| own(key + 1));
    let key = found.next()?;
    if found.next().is_some() {
        return None;
    }
    String::from_utf8(tape.node(key).text(json, &mut Vec::new()).to_vec()).ok()
}
