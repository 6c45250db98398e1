//! One delivery as messages: what differs from what the stream holds, in order, and the message that closes it.
//!
//! A [`Plan`] is made from what is held at the moment; its messages are encoded one by one while they are sent, and what is
//! held is brought up to date when all of them are acknowledged.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;

use super::header::There;
use super::{Header, HeldRow, Holdings, ItemHeader, Message, Operation, Owner, Sequence, Stream};
use crate::canonical;
use crate::export::envelope::{SCHEMA_VERSION, TooLarge};
use crate::export::{Base, Delta, Scope};
use crate::model::{Digest, Gvk, Namespace, Row, RowKey};

/// No key and no headers of ours are longer: names have at most 253 bytes, and three for each when encoded.
const HEADER_BYTES: u64 = 8192;

/// No item has more beside its attributes: eight names, and six bytes for each of theirs when escaped.
const ITEM_BYTES: u64 = 16_384;

/// How large a message may be, by [`Message::size`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit in bytes.
    pub bytes: u64,
    /// Whose it is, for people: `max_payload of the server`.
    pub setting: &'static str,
}

/// What a delivery sends.
#[derive(Debug)]
pub struct Plan {
    stream: Stream,
    owner: Owner,
    generation: i64,
    /// Everything is sent, between `begin` and `end`.
    marked: bool,
    steps: Vec<Step>,
    closing: Option<Operation>,
    /// Digest and number of rows before it.
    digest: Digest,
    rows: u64,
    /// Rows that no message can hold.
    pub refused: Vec<TooLarge>,
    /// Rows that are sent.
    pub written: u64,
    /// Rows that are taken back.
    pub deleted: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Upsert { row: Row, hash: Hash, before: Option<[u64; 4]> },
    Delete { key: RowKey, namespace: Namespace, kind: Arc<Gvk>, before: [u64; 4] },
}

/// The hash of a row. It is taken when the row is written as a message, unless the plan had to know it.
type Hash = OnceLock<[u64; 4]>;

/// The messages of a plan, one by one.
#[derive(Debug)]
pub struct Messages {
    plan: Arc<Plan>,
    next: usize,
    sequence: Sequence,
    digest: Digest,
    rows: u64,
}

impl Plan {
    /// Plans a delivery: rows that the stream holds otherwise, keys that it holds, and an `end`; nothing where all of it is
    /// there. Rows above the limit are refused, and what is held of them is taken back.
    ///
    /// A stream that has lost messages is sent everything between `begin` and `end`, as soon as the delta is all there is.
    pub fn deliver<V>(delta: &Delta, held: &Holdings<V>, owner: Owner, limit: Limit) -> Self {
        let marked = !held.is_sound() && delta.base == Base::Drifted;
        let mut plan = Self::new(&delta.scope, held, owner, delta.standing.generation, marked);
        for row in &delta.upserts {
            let before = held.rows.get(&row.key());
            if before.is_none() && row.body.attributes().len() as u64 + ITEM_BYTES + HEADER_BYTES <= limit.bytes {
                plan.written += 1;
                plan.steps.push(Step::Upsert { row: row.clone(), hash: Hash::new(), before: None });
                continue;
            }
            let (hash, bytes) = canonical::row_hash(row);
            let equal = before.is_some_and(|before| before.hash == hash && before.namespace == row.namespace);
            if equal && !marked {
                continue;
            }
            if bytes as u64 + HEADER_BYTES > limit.bytes
                && let Some(large) = plan.too_large(row, hash, limit)
            {
                plan.refused.push(large);
                if !marked && let Some(before) = before {
                    plan.delete(row.key(), before);
                }
                continue;
            }
            plan.written += u64::from(!equal);
            let before = before.map(|before| before.hash);
            plan.steps.push(Step::Upsert { row: row.clone(), hash: hash.into(), before });
        }
        for key in &delta.deletes {
            // In a round, what is not repeated is gone already; a tombstone is for those who look at keys alone.
            if let Some(before) = held.rows.get(key) {
                plan.delete(key.clone(), before);
            }
        }
        let changed = !plan.steps.is_empty() || marked;
        let unclaimed = held.owner != plan.owner && !held.rows.is_empty();
        if changed || held.open || unclaimed {
            plan.closing = Some(Operation::End);
        }
        plan
    }

    /// Plans the end of an inventory: a tombstone for each row, and one for the inventory.
    pub fn delete_all<V>(scope: &Scope, held: &Holdings<V>, owner: Owner) -> Self {
        let mut plan = Self::new(scope, held, owner, 0, false);
        let mut rows: Vec<_> = held.rows.iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        for (key, row) in rows {
            plan.delete(key.clone(), row);
        }
        plan.closing = Some(Operation::Delete);
        plan
    }

    /// Plans that the rows stay and are nobody's.
    pub fn release<V>(scope: &Scope, held: &Holdings<V>) -> Self {
        let mut plan = Self::new(scope, held, Owner::default(), 0, false);
        plan.closing = Some(Operation::Release);
        plan
    }

    /// Plans a sign of life.
    pub fn alive<V>(scope: &Scope, held: &Holdings<V>, owner: Owner) -> Self {
        let mut plan = Self::new(scope, held, owner, 0, false);
        plan.closing = Some(Operation::End);
        plan
    }

    fn new<V>(scope: &Scope, held: &Holdings<V>, owner: Owner, generation: i64, marked: bool) -> Self {
        // What was lost stays lost in what is told, so that the next life sees it as well.
        let (digest, rows) = if marked { (Digest::default(), 0) } else { (held.told, held.rows.len() as u64) };
        Self {
            stream: Stream::of(scope),
            owner,
            generation,
            marked,
            steps: Vec::new(),
            closing: None,
            digest,
            rows,
            refused: Vec::new(),
            written: 0,
            deleted: 0,
        }
    }

    fn delete<V>(&mut self, key: RowKey, held: &HeldRow<V>) {
        let (namespace, kind, before) = (held.namespace.clone(), Arc::clone(&held.kind), held.hash);
        self.deleted += 1;
        self.steps.push(Step::Delete { key, namespace, kind, before });
    }

    /// Measures a row that is near the limit.
    fn too_large(&self, row: &Row, hash: [u64; 4], limit: Limit) -> Option<TooLarge> {
        let sequence = Sequence { epoch: u64::MAX, n: u64::MAX };
        let step = Step::Upsert { row: row.clone(), hash: hash.into(), before: None };
        let bytes = self.row_message(&step, step.value(), sequence, Digest::default()).size();
        (bytes > limit.bytes).then(|| {
            let (inventory, ceiling) = (&self.stream.inventory, limit.bytes);
            let message = format!(
                "one row of inventory {inventory} makes a message of {bytes} bytes, and {ceiling} are the limit ({}); raise \
                 it there, or let the profile name fewer attributes",
                limit.setting
            );
            TooLarge { row: row.clone(), bytes, ceiling, message }
        })
    }

    /// Returns how many messages it has.
    pub fn len(&self) -> usize {
        usize::from(self.marked) + self.steps.len() + usize::from(self.closing.is_some())
    }

    /// Tells whether nothing is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the messages; the first one stands at `first`.
    pub fn messages(self: &Arc<Self>, first: Sequence) -> Messages {
        Messages { plan: Arc::clone(self), next: 0, sequence: first, digest: self.digest, rows: self.rows }
    }

    /// Notes that all messages are in the stream, the first one at `first`.
    pub fn commit(&self, held: &mut Holdings<()>, first: Sequence, now: Timestamp) {
        if self.is_empty() {
            return;
        }
        if self.marked {
            held.clear();
        }
        for step in &self.steps {
            match step {
                Step::Upsert { row, hash, .. } => {
                    held.insert(row.key(), &row.namespace, row.origin.gvk.clone(), known(hash, row), ());
                }
                Step::Delete { key, .. } => held.remove(key),
            }
        }
        match self.closing {
            Some(Operation::Delete) => held.clear(),
            Some(Operation::End) => held.close(),
            _ => {}
        }
        let n = first.n.saturating_add(self.len() as u64).saturating_sub(1);
        held.owner = if self.closing == Some(Operation::Delete) { Owner::default() } else { self.owner.clone() };
        held.sequence = Sequence { n, ..first };
        held.at = now;
        held.told = self.last_digest();
    }

    /// Returns the digest that the last message tells.
    fn last_digest(&self) -> Digest {
        if self.closing == Some(Operation::Delete) {
            return Digest::default();
        }
        let mut digest = self.digest;
        self.steps.iter().for_each(|step| step.count(self.marked, &mut digest, &mut 0));
        digest
    }

    fn header(&self, operation: Operation, sequence: Sequence, digest: Digest, rows: u64) -> Header {
        let (stream, owner) = (self.stream.clone(), self.owner.clone());
        Header { stream, owner, sequence, operation, digest, rows, item: None, set: None }
    }

    fn row_message(&self, step: &Step, value: Option<Vec<u8>>, sequence: Sequence, digest: Digest) -> Message {
        let (operation, key, namespace, gvk) = match step {
            Step::Upsert { row, .. } => (Operation::Upsert, row.key(), row.namespace.clone(), row.origin.gvk.clone()),
            Step::Delete { key, namespace, kind, .. } => {
                (Operation::Delete, key.clone(), namespace.clone(), Gvk::clone(kind))
            }
        };
        let there = match step {
            Step::Delete { .. } => None,
            Step::Upsert { row, hash, .. } => Some(There { name: row.body.name().to_owned(), hash: known(hash, row) }),
        };
        let text = self.stream.row_key(&key);
        let item = Some(ItemHeader { key, namespace, gvk, there });
        Message { key: text, header: Header { item, ..self.header(operation, sequence, digest, 0) }, value }
    }

    /// Returns a message about the inventory as a whole.
    fn whole_message(&self, operation: Operation, sequence: Sequence, digest: Digest, rows: u64) -> Message {
        let mut text = format!("{{\"schemaVersion\":\"{SCHEMA_VERSION}\",\"operation\":\"{}\"", operation.as_str());
        let _ = write!(text, ",\"rows\":{rows},\"digest\":\"{digest}\""); // a String takes everything
        if self.generation != 0 {
            let _ = write!(text, ",\"generation\":{}", self.generation); // as above
        }
        text.push('}');
        // A compacted topic keeps the last word about an inventory, but of one that is gone nothing is to be kept.
        let value = (operation != Operation::Delete).then(|| text.into_bytes());
        Message { key: self.stream.key(), header: self.header(operation, sequence, digest, rows), value }
    }
}

impl Iterator for Messages {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let plan = Arc::clone(&self.plan);
        let (at, sequence) = (self.next, self.sequence);
        let begin = usize::from(plan.marked);
        let message = if at < begin {
            plan.whole_message(Operation::Begin, sequence, self.digest, self.rows)
        } else if let Some(step) = plan.steps.get(at - begin) {
            let value = step.value();
            step.count(plan.marked, &mut self.digest, &mut self.rows);
            plan.row_message(step, value, sequence, self.digest)
        } else if at - begin == plan.steps.len() {
            let closing = plan.closing?;
            if closing == Operation::Delete {
                (self.digest, self.rows) = (Digest::default(), 0);
            }
            plan.whole_message(closing, sequence, self.digest, self.rows)
        } else {
            return None;
        };
        self.next += 1;
        self.sequence.n += 1;
        Some(message)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.plan.len().saturating_sub(self.next);
        (left, Some(left))
    }
}

/// Returns a hash, and takes it where nobody has yet.
fn known(hash: &Hash, row: &Row) -> [u64; 4] {
    *hash.get_or_init(|| canonical::row_hash(row).0)
}

impl Step {
    /// Writes the value of the message, which gives the hash on the way.
    fn value(&self) -> Option<Vec<u8>> {
        let Self::Upsert { row, hash, .. } = self else { return None };
        let mut text = Vec::with_capacity(256 + row.body.size());
        canonical::write_item(row, &mut text);
        hash.get_or_init(|| canonical::text_hash(&text));
        Some(text)
    }

    /// Counts the change into digest and number of rows; in a round only what is repeated counts.
    fn count(&self, marked: bool, digest: &mut Digest, rows: &mut u64) {
        match self {
            Self::Upsert { row, hash, before } => {
                match before.filter(|_| !marked) {
                    Some(before) => digest.remove(before),
                    None => *rows += 1,
                }
                digest.add(known(hash, row));
            }
            Self::Delete { before, .. } if !marked => {
                digest.remove(*before);
                *rows = rows.saturating_sub(1);
            }
            Self::Delete { .. } => {}
        }
    }
}
