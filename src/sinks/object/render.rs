//! From a document to the objects that it becomes: what they are called and what is in them, in pieces.
//!
//! A document is looked at twice. The [`Plan`] says what the objects are called and what they say, by checksum, which is
//! enough to see that they are there already. Only then are they [produced](produce): one after the other, in pieces, so
//! that what is in memory does not grow with the number of rows.

use std::io::{self, Write};
use std::mem;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;

use super::error::ObjectError;
use super::key;
use super::parquet::Table;
use crate::api::v1alpha1::sink::Format;
use crate::export::layout::{DEFAULT_CLUSTER, Layout, LayoutSpec};
use crate::export::{Checksum, Document, TooLarge};
use crate::model::{Cluster, InventoryKey};
use crate::validate::{Encoding, Packing};

/// Bytes of one piece: above what stores ask of a part (5 MiB), and few of them are in memory at a time.
pub(super) const PIECE_BYTES: usize = 6 * 1024 * 1024;
/// Goes into what says how objects are written: raise it when the bytes of an unchanged document change.
const RENDERING: u32 = 1;

/// How documents become objects.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) encoding: Encoding,
    pub(super) cluster: Cluster,
    template: String,
    layout: Option<Layout>,
}

/// What the objects of a document are called, and what they say.
#[derive(Debug)]
pub(super) struct Plan {
    /// Keys below the prefix, a manifest last.
    pub(super) keys: Vec<String>,
    /// Over the checksums of the parts.
    pub(super) checksum: Checksum,
    /// Rows that no part can hold.
    pub(super) refused: Vec<TooLarge>,
}

/// A piece of what is written, in order.
#[derive(Debug)]
pub(super) enum Piece {
    /// The first or next bytes of the object at this place of the plan.
    Bytes(usize, Bytes),
    /// The last bytes of it, perhaps all.
    Last(usize, Bytes),
}

impl Recipe {
    /// Checks how a sink wants its objects.
    ///
    /// # Errors
    /// Terminal, with the field to change.
    pub(super) fn new(encoding: Encoding, cluster: Cluster, path_template: Option<&str>) -> Result<Self, ObjectError> {
        let mut spec = LayoutSpec { cluster: cluster.clone(), ..LayoutSpec::default() };
        spec.format = match encoding {
            Encoding::Json(_) | Encoding::Parquet { .. } => Format::Json,
            Encoding::Ndjson(_) => Format::Ndjson,
        };
        if let Some(template) = path_template {
            template.clone_into(&mut spec.document_path);
        }
        let parquet = matches!(encoding, Encoding::Parquet { .. });
        let template = if parquet { String::new() } else { spec.document_path.clone() };
        let layout = if parquet { None } else { Some(Layout::new(spec)?) };
        Ok(Self { encoding, cluster, template, layout })
    }

    /// Returns what decides where objects go: while it stays, an object that is no longer written is superseded.
    pub(super) fn place(&self) -> String {
        format!("{} {}", self.encoding.format(), self.template)
    }

    /// Returns what decides the bytes of an object besides the rows.
    pub(super) fn appearance(&self) -> String {
        let how = format!("{RENDERING} {:?} {:?}", self.encoding, self.cluster);
        blake3::hash(how.as_bytes()).to_hex().chars().take(16).collect()
    }

    /// Tells whether each generation of an inventory has objects of its own.
    pub(super) fn archives(&self) -> bool {
        self.layout.is_none() || self.template.contains("{generation}")
    }

    fn cluster(&self) -> &str {
        if self.cluster.is_empty() { DEFAULT_CLUSTER } else { self.cluster.as_str() }
    }

    /// Returns the key of a document that is not cut.
    pub(super) fn key(&self, inventory: &InventoryKey, generation: i64) -> Result<String, ObjectError> {
        Ok(match &self.layout {
            None => key::parquet(self.cluster(), inventory, generation),
            Some(layout) => self.ended(layout.document_path(inventory, generation)?.as_str()),
        })
    }

    fn ended(&self, path: &str) -> String {
        format!("{path}{}", key::ending(&self.encoding))
    }

    /// Says what a document becomes. Takes as long as encoding all rows.
    pub(super) fn plan(&self, document: &Document) -> Result<Plan, ObjectError> {
        let Some(layout) = &self.layout else {
            let keys = vec![self.key(&document.scope.inventory, document.standing.generation)?];
            let checksum = Checksum::of_set(&[Checksum::of_items(&*document.rows)]);
            return Ok(Plan { keys, checksum, refused: Vec::new() });
        };
        let parts = layout.cut(document)?;
        let manifest = parts.manifest()?.map(|file| file.path);
        let mut keys: Vec<String> = parts.paths().iter().map(|path| self.ended(path.as_str())).collect();
        keys.extend(manifest.map(|path| path.to_string()));
        Ok(Plan { keys, checksum: parts.set_checksum(), refused: parts.refused().to_vec() })
    }

    /// Writes the objects of the plan, in its order. Ends early where nobody takes the pieces any more.
    pub(super) fn produce(&self, document: &Document, pieces: mpsc::Sender<Piece>) -> Result<(), ObjectError> {
        match (&self.layout, &self.encoding) {
            (None, Encoding::Parquet { codec, hot }) => {
                let out = Pieces::new(0, pieces);
                match Table::new(*codec, hot).write(document, self.cluster(), out) {
                    Ok(out) => out.end(),
                    Err(error) => return Err(ObjectError::Encode(Box::new(error))),
                }
                Ok(())
            }
            (Some(layout), encoding) => {
                let parts = layout.cut(document)?;
                for index in 0..parts.len() {
                    let Some(file) = parts.render(index) else { break };
                    let out = Pieces::new(index, pieces.clone());
                    write_text(encoding, &file.text.bytes, out)
                        .map_err(|error| ObjectError::Encode(Box::new(error)))?;
                }
                if let Some(file) = parts.manifest()? {
                    let _ = pieces.blocking_send(Piece::Last(parts.len(), file.text.bytes.into())); // nobody takes it
                }
                Ok(())
            }
            (None, Encoding::Json(_) | Encoding::Ndjson(_)) => Ok(()), // a text has a layout
        }
    }
}

/// Writes a text as it is or compressed.
fn write_text(encoding: &Encoding, text: &[u8], mut out: Pieces) -> io::Result<()> {
    match encoding {
        Encoding::Json(Packing::Gzip) | Encoding::Ndjson(Packing::Gzip) => {
            let mut packed = GzEncoder::new(out, Compression::default());
            packed.write_all(text)?;
            packed.finish()?.end();
        }
        Encoding::Json(Packing::Plain) | Encoding::Ndjson(Packing::Plain) | Encoding::Parquet { .. } => {
            out.write_all(text)?;
            out.end();
        }
    }
    Ok(())
}

/// Cuts what is written into pieces.
struct Pieces {
    object: usize,
    buffer: Vec<u8>,
    out: mpsc::Sender<Piece>,
}

impl Pieces {
    fn new(object: usize, out: mpsc::Sender<Piece>) -> Self {
        Self { object, buffer: Vec::new(), out }
    }

    fn end(self) {
        let _ = self.out.blocking_send(Piece::Last(self.object, self.buffer.into())); // nobody takes it
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.out.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = PIECE_BYTES.saturating_sub(self.buffer.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() >= PIECE_BYTES {
            let piece = Bytes::from(mem::take(&mut self.buffer));
            let sent = self.out.blocking_send(Piece::Bytes(self.object, piece));
            sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
