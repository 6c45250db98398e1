//! Somebody who reads a stream from its beginning and knows no more than the page `docs/sinks/nats.md` tells: the last
//! message of a key counts, one without a value takes the row away, and what is not repeated between `begin` and `end` is
//! gone. Reading checks what the page promises beside that.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use kollect::export::event::{Header, Operation, Sequence};
use kollect::model::Digest;
use serde_json::Value;

use super::same;

/// Target and UID.
type Key = (String, String);

/// What a reader of one inventory has.
#[derive(Default)]
pub(super) struct Reader {
    rows: BTreeMap<Key, Vec<u8>>,
    /// The newest message of each key, and of the inventory as a whole.
    newest: BTreeMap<Option<Key>, Sequence>,
    /// What was repeated since `begin`.
    round: Option<BTreeSet<Key>>,
    digest: Digest,
    parts: Vec<Vec<u8>>,
    snapshot: Vec<Value>,
    last: Option<(Operation, Digest)>,
    /// Messages outside of a round that tell of a row what was known of it.
    idle: usize,
    /// Messages outside of a round whose digest is not that of the rows.
    unsound: usize,
}

impl Reader {
    /// Reads messages in the order in which they are stored.
    pub(super) fn of(messages: impl IntoIterator<Item = (Header, Vec<u8>)>) -> Result<Self> {
        let mut reader = Self::default();
        for (header, value) in messages {
            reader.take(header, value)?;
        }
        Ok(reader)
    }

    fn take(&mut self, header: Header, value: Vec<u8>) -> Result<()> {
        let Header { sequence, operation, digest, item, set, .. } = header;
        let key = item.map(|item| (item.key.target.to_string(), item.key.uid.to_string()));
        let before = self.newest.insert(key.clone(), sequence);
        ensure!(before < Some(sequence), "{operation:?} of {key:?} stands at {sequence:?}, behind {before:?}");
        self.last = Some((operation, digest));
        match (operation, key) {
            (Operation::Upsert, Some(key)) => self.upsert(key, value),
            (Operation::Delete, Some(key)) => self.delete(&key),
            (Operation::Delete, None) => {
                self.rows.clear();
                self.snapshot.clear();
                self.digest = Digest::default();
            }
            (Operation::Begin, _) => self.round = Some(BTreeSet::new()),
            (Operation::End, _) => self.end(),
            (Operation::Snapshot, _) => {
                let set = set.context("a snapshot without a number")?;
                return self.part(set.part, set.parts, value);
            }
            (Operation::Upsert, None) => anyhow::bail!("a row without a key"),
            (Operation::Release, _) => {}
        }
        self.unsound += usize::from(self.round.is_none() && digest != self.digest);
        Ok(())
    }

    fn upsert(&mut self, key: Key, value: Vec<u8>) {
        self.digest.add(lanes(&value));
        let repeated = self.round.as_mut().is_some_and(|round| round.insert(key.clone()));
        if let Some(before) = self.rows.get(&key) {
            self.digest.remove(lanes(before));
            self.idle += usize::from(*before == value && !repeated);
        }
        self.rows.insert(key, value);
    }

    fn delete(&mut self, key: &Key) {
        match self.rows.remove(key) {
            Some(before) => self.digest.remove(lanes(&before)),
            None => self.idle += usize::from(self.round.is_none()),
        }
    }

    fn end(&mut self) {
        let Some(round) = self.round.take() else { return };
        let gone: Vec<Key> = self.rows.keys().filter(|key| !round.contains(*key)).cloned().collect();
        for key in &gone {
            self.delete(key);
        }
    }

    /// Takes a part of a snapshot; it counts once all of them are there.
    fn part(&mut self, part: u32, parts: u32, value: Vec<u8>) -> Result<()> {
        if part == 1 {
            self.parts.clear();
        }
        self.parts.push(value);
        if part < parts || self.parts.len() != parts as usize {
            return Ok(());
        }
        self.snapshot.clear();
        for part in self.parts.drain(..) {
            let envelope: Value = serde_json::from_slice(&part)?;
            let items = envelope["payload"]["items"].as_array().context("an envelope without items")?;
            self.snapshot.extend(items.iter().cloned());
        }
        Ok(())
    }

    /// Compares what is there with these lines: UID, name and image of each row, ascending.
    pub(super) fn has(&self, want: &[String]) -> Result<()> {
        let mut items = self.snapshot.clone();
        for value in self.rows.values() {
            items.push(serde_json::from_slice(value)?);
        }
        same(want, &lines(&items))
    }

    /// Fails where the last message tells of other rows than there are.
    pub(super) fn ends_sound(&self) -> Result<()> {
        ensure!(self.last == Some((Operation::End, self.digest)), "it ends with {:?}", self.last);
        Ok(())
    }

    /// Tells whether the last message was about the end of the inventory.
    pub(super) fn is_deleted(&self) -> bool {
        self.last.is_some_and(|(operation, _)| operation == Operation::Delete) && self.rows.is_empty()
    }

    /// Fails where a message told nothing.
    pub(super) fn is_terse(&self) -> Result<()> {
        ensure!(self.idle == 0, "{} idle messages", self.idle);
        ensure!(self.round.is_none() && self.parts.is_empty(), "a delivery without an end");
        Ok(())
    }

    /// Fails where a message told nothing, or another digest than that of the rows. A stream that was never cut short has
    /// none of these, whatever became of the operator and the broker. Partitions are read one after the other, so that
    /// digests of a topic are right only where it has one.
    pub(super) fn is_flawless(&self) -> Result<()> {
        ensure!(self.unsound == 0, "{} messages with another digest", self.unsound);
        self.is_terse()
    }
}

/// Returns UID, name and image of items, ascending.
pub(super) fn lines(items: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line =
        |item: &Value| format!("{} {} {}", text(&item["uid"]), text(&item["name"]), text(&item["attributes"]["image"]));
    let mut lines: Vec<String> = items.iter().map(line).collect();
    lines.sort();
    lines
}

/// Returns the BLAKE3-256 of a value as four numbers.
fn lanes(value: &[u8]) -> [u64; 4] {
    let hash = blake3::hash(value);
    let mut lanes = [0; 4];
    for (lane, bytes) in lanes.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
        *lane = u64::from_be_bytes(*bytes);
    }
    lanes
}
