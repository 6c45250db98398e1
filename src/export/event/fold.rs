//! What a stream adds up to: the rows of each inventory after all its messages.
//!
//! The operator folds headers alone to learn what it need not send again; a consumer, a test and the lab fold values with
//! them. Messages of one partition come in order; a message that is no newer than what its partition had of the same
//! writer is a late one, and changes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::{ABANDONED, Header, ItemHeader, Life, Operation, Owner, Sequence, Stream, There};
use crate::export::{Held, Selection};
use crate::model::{Digest, Fingerprint, Gvk, Name, Namespace, RowKey};

/// All streams of a broker's stream or topic, each with what it holds. `V` is what is kept of a value.
#[derive(Debug)]
pub struct Fold<V> {
    streams: HashMap<Stream, Holdings<V>>,
    /// Highest epoch of each operator, whatever became of what it wrote.
    epochs: BTreeMap<String, u64>,
}

/// What one inventory holds.
#[derive(Debug)]
pub struct Holdings<V> {
    pub(super) owner: Owner,
    pub(super) sequence: Sequence,
    /// When the last message was stored.
    pub(super) at: Timestamp,
    pub(super) rows: HashMap<RowKey, HeldRow<V>>,
    pub(super) digest: Digest,
    /// Digest of what was repeated since `begin`.
    pub(super) round: Option<Digest>,
    /// Digest that the last message told. It is ours, unless the stream has lost messages.
    pub(super) told: Digest,
    /// The last message about rows. Partitions are read one after the other, so an `end` may be seen before rows that it
    /// closes.
    opened: Sequence,
    /// The last `end`.
    closed: Sequence,
    pub(super) set: Option<PartSet<V>>,
    building: Option<PartSet<V>>,
    /// The newest message of each partition, from whom.
    newest: BTreeMap<i32, (String, Sequence)>,
    names: HashSet<Arc<str>>,
    kinds: HashSet<Arc<Gvk>>,
}

/// A row that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRow<V> {
    /// Namespace of the collected object.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: Arc<Gvk>,
    /// BLAKE3-256 of the item.
    pub hash: [u64; 4],
    /// What is kept of the value.
    pub value: V,
    /// It was repeated since `begin`.
    pub(super) fresh: bool,
}

/// A snapshot, as far as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSet<V> {
    /// Where its first part stands.
    first: Sequence,
    /// How many parts it has.
    pub parts: u32,
    /// Checksum of the set.
    pub checksum: String,
    /// Rows in all parts.
    pub rows: u64,
    /// The parts, by number.
    pub values: BTreeMap<u32, V>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It counts.
    Applied,
    /// A newer one was there before.
    Late,
}

/// Whose an inventory in a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Ours, or whoever comes first has it.
    Free,
    /// A younger life of this operator is at work, with this epoch.
    Fenced(u64),
    /// Another operator's, which said something so many seconds ago.
    Theirs(Owner, u64),
}

impl<V> Default for Fold<V> {
    fn default() -> Self {
        Self { streams: HashMap::new(), epochs: BTreeMap::new() }
    }
}

impl<V> Default for Holdings<V> {
    fn default() -> Self {
        Self {
            owner: Owner::default(),
            sequence: Sequence::default(),
            at: Timestamp::UNIX_EPOCH,
            rows: HashMap::new(),
            digest: Digest::default(),
            round: None,
            told: Digest::default(),
            opened: Sequence::default(),
            closed: Sequence::default(),
            set: None,
            building: None,
            newest: BTreeMap::new(),
            names: HashSet::new(),
            kinds: HashSet::new(),
        }
    }
}

impl<V> Fold<V> {
    /// Takes the next message of a partition, stored at this time.
    pub fn take(&mut self, partition: i32, header: Header, at: Timestamp, value: V) -> Taken {
        let epoch = self.epochs.entry(header.owner.process.clone()).or_default();
        *epoch = header.sequence.epoch.max(*epoch);
        self.streams.entry(header.stream.clone()).or_default().take(partition, header, at, value)
    }

    /// Returns what an inventory holds; nothing where no message of it is.
    pub fn get(&self, stream: &Stream) -> Option<&Holdings<V>> {
        self.streams.get(stream)
    }

    /// Returns what an inventory holds, to note what was sent.
    pub fn entry(&mut self, stream: &Stream) -> &mut Holdings<V> {
        self.streams.entry(stream.clone()).or_default()
    }

    /// Iterates over all inventories that were ever spoken of.
    pub fn iter(&self) -> impl Iterator<Item = (&Stream, &Holdings<V>)> {
        self.streams.iter()
    }

    /// Returns the highest epoch that any message of an operator has.
    pub fn highest_epoch(&self, process: &str) -> Option<u64> {
        self.epochs.get(process).copied()
    }
}

impl<V> Holdings<V> {
    fn take(&mut self, partition: i32, header: Header, at: Timestamp, value: V) -> Taken {
        let process = &header.owner.process;
        if let Some((writer, newest)) = self.newest.get(&partition)
            && (writer == process || process.is_empty())
            && header.sequence <= *newest
        {
            return Taken::Late;
        }
        let writer = if process.is_empty() { self.owner.process.clone() } else { process.clone() };
        self.newest.insert(partition, (writer, header.sequence));
        // Partitions are read one after the other: what stands highest has the last word about the whole.
        let last =
            if self.owner.process == header.owner.process { header.sequence >= self.sequence } else { at >= self.at };
        if last && self.owner.process != header.owner.process {
            (self.opened, self.closed) = (Sequence::default(), Sequence::default());
        }
        let (operation, ends) = (header.operation, header.operation == Operation::Delete && header.item.is_none());
        match (operation, header.item) {
            (Operation::Upsert, Some(ItemHeader { key, namespace, gvk, there })) => {
                if let Some(There { hash, .. }) = there {
                    self.insert(key, &namespace, gvk, hash, value);
                }
                self.opened = header.sequence.max(self.opened);
            }
            (Operation::Delete, Some(item)) => {
                self.remove(&item.key);
                self.opened = header.sequence.max(self.opened);
            }
            (Operation::Delete, None) => self.clear(),
            (Operation::Begin, _) => {
                self.rows.values_mut().for_each(|row| row.fresh = false);
                (self.round, self.opened) = (Some(Digest::default()), header.sequence.max(self.opened));
            }
            (Operation::End, _) => {
                self.end_round();
                self.closed = header.sequence.max(self.closed);
            }
            (Operation::Snapshot, _) => {
                if let Some(set) = header.set {
                    let before = u64::from(set.part.saturating_sub(1));
                    let first = Sequence { n: header.sequence.n.saturating_sub(before), ..header.sequence };
                    let (parts, checksum, values) = (set.parts, set.checksum, BTreeMap::new());
                    self.add_part(PartSet { first, parts, checksum, rows: header.rows, values }, set.part, value);
                }
            }
            (Operation::Release | Operation::Upsert, _) => {}
        }
        if last {
            if self.round.is_none() && operation != Operation::Snapshot {
                self.told = header.digest;
            }
            self.owner = if ends { Owner::default() } else { header.owner };
            (self.sequence, self.at) = (header.sequence, at);
        }
        Taken::Applied
    }

    pub(super) fn insert(&mut self, key: RowKey, namespace: &Namespace, gvk: Gvk, hash: [u64; 4], value: V) {
        let key = RowKey { target: Name::new(self.name(key.target.as_str())), uid: key.uid };
        let (namespace, kind) = (Namespace::new(self.name(namespace.as_str())), self.kind(gvk));
        let before = self.rows.insert(key, HeldRow { namespace, kind, hash, value, fresh: true });
        if let Some(round) = &mut self.round {
            if let Some(before) = before.as_ref().filter(|before| before.fresh) {
                round.remove(before.hash);
            }
            round.add(hash);
        }
        if let Some(before) = before {
            self.digest.remove(before.hash);
        }
        self.digest.add(hash);
    }

    /// Returns a name that is kept once: a hundred thousand rows share those of their targets and namespaces.
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(there) = self.names.get(text) {
            return Arc::clone(there);
        }
        let first: Arc<str> = text.into();
        self.names.insert(Arc::clone(&first));
        first
    }

    fn kind(&mut self, gvk: Gvk) -> Arc<Gvk> {
        if let Some(there) = self.kinds.get(&gvk) {
            return Arc::clone(there);
        }
        let first = Arc::new(gvk);
        self.kinds.insert(Arc::clone(&first));
        first
    }

    pub(super) fn remove(&mut self, key: &RowKey) {
        let Some(before) = self.rows.remove(key) else { return };
        self.digest.remove(before.hash);
        if let Some(round) = self.round.as_mut().filter(|_| before.fresh) {
            round.remove(before.hash);
        }
    }

    /// Ends the last delivery.
    pub(super) fn close(&mut self) {
        self.end_round();
        self.closed = self.opened;
    }

    /// After a round, what was not repeated is gone.
    fn end_round(&mut self) {
        if let Some(digest) = self.round.take() {
            self.rows.retain(|_, row| row.fresh);
            self.digest = digest;
        }
    }

    /// Forgets all rows and parts.
    pub(super) fn clear(&mut self) {
        (self.rows, self.digest, self.told) = (HashMap::new(), Digest::default(), Digest::default());
        self.round = None;
        (self.opened, self.closed) = (Sequence::default(), Sequence::default());
        (self.set, self.building) = (None, None);
    }

    /// Adds a part to the set that it belongs to; a set that is whole takes the place of the one before.
    fn add_part(&mut self, new: PartSet<V>, part: u32, value: V) {
        let mut set = match self.building.take() {
            Some(set) if set.first == new.first && set.checksum == new.checksum && set.parts == new.parts => set,
            _ => new,
        };
        set.values.insert(part, value);
        if set.is_whole() {
            self.set = Some(set);
        } else {
            self.building = Some(set);
        }
    }

    /// Returns who wrote last.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns where the last message stands.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Returns when the last message was stored.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns the digest of the rows.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the rows by key.
    pub fn rows(&self) -> &HashMap<RowKey, HeldRow<V>> {
        &self.rows
    }

    /// Returns the last snapshot that is whole.
    pub fn snapshot(&self) -> Option<&PartSet<V>> {
        self.set.as_ref()
    }

    /// Tells whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.set.is_none() && self.building.is_none()
    }

    /// Tells whether all is there that the writer sent: the last message told the digest that the rows have. When it is
    /// not, the stream has lost messages, or somebody else wrote some.
    pub fn is_sound(&self) -> bool {
        self.told == self.digest && self.round.is_none()
    }

    /// Tells whether the last delivery came to its end.
    pub fn is_closed(&self) -> bool {
        self.opened <= self.closed && self.building.is_none()
    }

    /// Says whether this life may write, at this time, under the epoch that it has taken.
    pub fn judge(&self, life: &Life, epoch: u64, now: Timestamp) -> Verdict {
        if self.owner.is_nobody() {
            return Verdict::Free;
        }
        if self.owner.process == life.process {
            let theirs = self.sequence.epoch;
            return if theirs > epoch { Verdict::Fenced(theirs) } else { Verdict::Free };
        }
        let silent = u64::try_from(now.duration_since(self.at).as_secs()).unwrap_or_default();
        if silent >= ABANDONED.as_secs() { Verdict::Free } else { Verdict::Theirs(self.owner.clone(), silent) }
    }

    /// Returns the rows of a selection as a sink reports them. Rows of a stream that is not sound are held without a
    /// fingerprint, so that all of them are sent again.
    pub fn held(&self, selection: &Selection) -> Vec<Held> {
        let wanted = |key: &RowKey, namespace: &Namespace| match selection {
            Selection::All => true,
            Selection::Parts(parts) => {
                parts.iter().any(|part| part.target == key.target && part.namespace == *namespace)
            }
        };
        let rows = self.rows.iter().filter(|(key, row)| wanted(key, &row.namespace));
        rows.map(|(key, row)| Held {
            key: key.clone(),
            namespace: row.namespace.clone(),
            fingerprint: self.is_sound().then(|| fingerprint(row.hash)),
        })
        .collect()
    }
}

impl<V> PartSet<V> {
    fn is_whole(&self) -> bool {
        u32::try_from(self.values.len()).is_ok_and(|count| count == self.parts)
    }
}

/// Returns the fingerprint of a row with this hash: its first half.
pub fn fingerprint(hash: [u64; 4]) -> Fingerprint {
    let [high, low, ..] = hash.map(u64::to_be_bytes);
    let mut bytes = [0; 16];
    for (byte, from) in bytes.iter_mut().zip(high.into_iter().chain(low)) {
        *byte = from;
    }
    Fingerprint(bytes)
}
