//! A whole inventory as messages: the envelope of earlier releases, one for each part.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Header, Limit, Message, Operation, Owner, Sequence, SetHeader, Stream};
use crate::canonical;
use crate::export::Document;
use crate::export::envelope::{Checksum, Notation, PartOf, SCHEMA_VERSION, Stamped, TooLarge, cut};
use crate::model::{Digest, Row};

/// A snapshot whose parts are cut; each is written when it is sent.
#[derive(Debug)]
pub struct Rendered {
    stream: Stream,
    owner: Owner,
    stamped: Stamped,
    operation: Operation,
    digest: Digest,
    rows: u64,
    parts: Vec<Vec<Row>>,
    /// Over the checksums of the parts.
    pub checksum: Checksum,
    /// Rows that no message can hold.
    pub refused: Vec<TooLarge>,
}

/// Cuts a document into messages. A part has at most the bytes that the document allows, and a message those of the limit.
pub fn render(document: &Document, owner: Owner, limit: Limit) -> Rendered {
    let (generation, exported_at) = (document.standing.generation, document.exported_at);
    let stamped = Stamped { generation, exported_at };
    let mut digest = Digest::default();
    document.rows.iter().for_each(|row| digest.add(canonical::row_hash(row).0));
    let mut rendered = Rendered {
        stream: Stream::of(&document.scope),
        owner,
        stamped,
        operation: Operation::Snapshot,
        digest,
        rows: document.rows.len() as u64,
        parts: vec![Vec::new()],
        checksum: Checksum::of_set(&[]),
        refused: Vec::new(),
    };
    let room = limit.bytes.saturating_sub(rendered.overhead());
    let ceiling = document.max_part_bytes.min(room);
    let found = cut(stamped, &document.scope.inventory, &document.rows, ceiling);
    let mut sums = Vec::with_capacity(found.parts.len());
    for part in &found.parts {
        sums.push(Checksum::of_items(part.iter().copied()));
    }
    let narrow = room < document.max_part_bytes;
    rendered.refused = found.too_large.into_iter().map(|large| rendered.explained(large, limit, narrow)).collect();
    rendered.rows = found.parts.iter().map(|part| part.len() as u64).sum();
    rendered.parts = found.parts.into_iter().map(|part| part.into_iter().cloned().collect()).collect();
    rendered.checksum = Checksum::of_set(&sums);
    for large in &rendered.refused {
        rendered.digest.remove(canonical::row_hash(&large.row).0);
    }
    rendered
}

impl Rendered {
    /// Makes the last message of an inventory that is deleted: an envelope without rows.
    pub fn farewell(document: &Document, owner: Owner, limit: Limit) -> Self {
        let empty = Document { rows: Arc::default(), scope: Arc::clone(&document.scope), ..document.clone() };
        Self { operation: Operation::Delete, ..render(&empty, owner, limit) }
    }

    /// Returns how many messages it has.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Tells whether there is none; there is at least one.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns the rows in all parts.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes a part, counted from 0, of a snapshot whose first one stands at `first`.
    pub fn message(&self, index: usize, first: Sequence, now: Timestamp) -> Option<Message> {
        let rows: Vec<&Row> = self.parts.get(index)?.iter().collect();
        let total = self.parts.len();
        let part = (total > 1).then_some(PartOf { index: index + 1, total });
        let payload = self.stamped.write(Notation::Json, &rows, part).0.bytes;
        let sequence = Sequence { n: first.n + index as u64, ..first };
        Some(self.wrap(&payload, sequence, index, now))
    }

    fn wrap(&self, payload: &[u8], sequence: Sequence, index: usize, now: Timestamp) -> Message {
        let mut value = Vec::with_capacity(payload.len() + 256);
        value.extend_from_slice(
            format!("{{\"schemaVersion\":\"{SCHEMA_VERSION}\",\"timestamp\":\"{now}\",\"cluster\":").as_bytes(),
        );
        canonical::write_string(self.stream.cluster.as_str(), &mut value);
        value.extend_from_slice(b",\"namespace\":");
        canonical::write_string(self.stream.inventory.namespace.as_str(), &mut value);
        value.extend_from_slice(b",\"payload\":");
        value.extend_from_slice(payload);
        value.push(b'}');
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (part, parts) = (number(index + 1), number(self.parts.len()));
        let header = Header {
            stream: self.stream.clone(),
            owner: self.owner.clone(),
            sequence,
            operation: self.operation,
            digest: self.digest,
            rows: self.rows,
            item: None,
            set: Some(SetHeader { part, parts, checksum: self.checksum.to_string() }),
        };
        Message { key: self.stream.snapshot_key(), header, value: Some(value) }
    }

    /// Returns what a message has beside its payload, at the most.
    fn overhead(&self) -> u64 {
        // No number in it has more digits, and no time more than nine behind the dot.
        const SLACK: u64 = 64;
        let most = Sequence { epoch: u64::MAX, n: u64::MAX };
        self.wrap(&[], most, 0, self.stamped.exported_at).size() + SLACK
    }

    fn explained(&self, large: TooLarge, limit: Limit, narrow: bool) -> TooLarge {
        if !narrow {
            return large;
        }
        let (inventory, ceiling) = (&self.stream.inventory, limit.bytes);
        let bytes = large.bytes + self.overhead();
        let message = format!(
            "one row of inventory {inventory} makes a message of {bytes} bytes, and {ceiling} are the limit ({}); raise it \
             there, or let the profile name fewer attributes",
            limit.setting
        );
        TooLarge { bytes, ceiling, message, ..large }
    }
}
