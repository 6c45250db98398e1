//! The headers of a message: as a reader of the stream sees them, and as this operator reads them back.

use std::fmt::{self, Write as _};

use super::{Encoder, Operation, Owner, Sequence, Stream, decode};
use crate::export::envelope::SCHEMA_VERSION;
use crate::model::{Cluster, Digest, Gvk, Name, Namespace, ObjectKey, RowKey, Uid};

/// Names of the headers.
pub mod names {
    /// Always `kollect.dev/v1alpha1`. A message without it is none of ours.
    pub const SCHEMA_VERSION: &str = "kollect-schema-version";
    /// `upsert`, `delete`, `begin`, `end`, `snapshot` or `release`.
    pub const OPERATION: &str = "kollect-operation";
    /// `spec.cluster` of the sink; may be empty.
    pub const CLUSTER: &str = "kollect-cluster";
    /// Namespace of the inventory.
    pub const INVENTORY_NAMESPACE: &str = "kollect-inventory-namespace";
    /// Name of the inventory.
    pub const INVENTORY_NAME: &str = "kollect-inventory-name";
    /// Operator and inventory object that sent it; empty for nobody.
    pub const WRITER: &str = "kollect-writer";
    /// Life of the writer.
    pub const EPOCH: &str = "kollect-epoch";
    /// Number in that life.
    pub const N: &str = "kollect-n";
    /// Order-free digest of the rows that a reader has after the message.
    pub const DIGEST: &str = "kollect-digest";
    /// Number of these rows; on messages about the inventory as a whole.
    pub const ROWS: &str = "kollect-rows";
    /// Target of the row.
    pub const TARGET: &str = "kollect-target";
    /// UID of the collected object.
    pub const UID: &str = "kollect-uid";
    /// Namespace of the collected object.
    pub const NAMESPACE: &str = "kollect-namespace";
    /// Name of the collected object; not on a tombstone.
    pub const NAME: &str = "kollect-name";
    /// `group/version/Kind` of the collected object.
    pub const KIND: &str = "kollect-kind";
    /// BLAKE3-256 of the value; not on a tombstone.
    pub const HASH: &str = "kollect-hash";
    /// Which part of a snapshot, from 1.
    pub const PART: &str = "kollect-part";
    /// How many parts it has.
    pub const PARTS: &str = "kollect-parts";
    /// Checksum of the set of parts.
    pub const CHECKSUM: &str = "kollect-checksum";
}

/// What a message says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose.
    pub stream: Stream,
    /// From whom.
    pub owner: Owner,
    /// Where it stands.
    pub sequence: Sequence,
    /// What it does.
    pub operation: Operation,
    /// Digest of the rows after it; between `begin` and `end`, of those that were repeated.
    pub digest: Digest,
    /// Number of rows after it; 0 in messages about one row.
    pub rows: u64,
    /// The row that it is about.
    pub item: Option<ItemHeader>,
    /// The part of a snapshot that it is.
    pub set: Option<SetHeader>,
}

/// What a message says of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemHeader {
    /// Target and UID.
    pub key: RowKey,
    /// Namespace of the collected object.
    pub namespace: Namespace,
    /// Its kind.
    pub gvk: Gvk,
    /// Name and hash; missing on a tombstone.
    pub there: Option<There>,
}

/// What is said of a row that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct There {
    /// Name of the collected object.
    pub name: String,
    /// BLAKE3-256 of the item.
    pub hash: [u64; 4],
}

/// What a message says of the set that it is a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetHeader {
    /// Which, from 1.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// Checksum of the set.
    pub checksum: String,
}

/// The headers of one message as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// All values, one behind the other: there is a message for each row, and a dozen headers on each.
    text: String,
    /// The names, and where the value of each ends.
    ends: Vec<(&'static str, usize)>,
}

impl Fields {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Goes through names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.ends.iter().scan(0, |begin, &(name, end)| {
            let value = self.text.get(*begin..end)?;
            *begin = end;
            Some((name, value))
        })
    }

    fn put(&mut self, name: &'static str, value: impl fmt::Display) {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
        let _ = write!(Encoder { out: &mut self.text, plain }, "{value}"); // a String takes everything
        self.ends.push((name, self.text.len()));
    }
}

/// Why headers are none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Somebody else's message.
    #[error("the message has no header {}, or another version in it", names::SCHEMA_VERSION)]
    Foreign,
    /// One that says it is ours.
    #[error("header {0} of the message is missing or cannot be read")]
    Broken(&'static str),
}

impl Header {
    /// Returns names and values, in a fixed order. Values have printable ASCII alone.
    pub fn fields(&self) -> Fields {
        let (Sequence { epoch, n }, Stream { cluster, inventory }) = (self.sequence, &self.stream);
        let mut fields = Fields { text: String::with_capacity(640), ends: Vec::with_capacity(16) };
        fields.put(names::SCHEMA_VERSION, SCHEMA_VERSION);
        fields.put(names::OPERATION, self.operation.as_str());
        fields.put(names::CLUSTER, cluster);
        fields.put(names::INVENTORY_NAMESPACE, &inventory.namespace);
        fields.put(names::INVENTORY_NAME, &inventory.name);
        fields.put(names::WRITER, &self.owner);
        fields.put(names::EPOCH, epoch);
        fields.put(names::N, n);
        fields.put(names::DIGEST, self.digest);
        if let Some(item) = &self.item {
            fields.put(names::TARGET, &item.key.target);
            fields.put(names::UID, &item.key.uid);
            fields.put(names::NAMESPACE, &item.namespace);
            fields.put(names::KIND, &item.gvk);
            if let Some(there) = &item.there {
                fields.put(names::NAME, &there.name);
                fields.put(names::HASH, Digest(there.hash));
            }
        } else {
            fields.put(names::ROWS, self.rows);
        }
        if let Some(set) = &self.set {
            fields.put(names::PART, set.part);
            fields.put(names::PARTS, set.parts);
            fields.put(names::CHECKSUM, &set.checksum);
        }
        fields
    }

    /// Reads headers back.
    ///
    /// # Errors
    /// They are none of ours, or broken.
    pub fn read<'m>(get: impl Fn(&'static str) -> Option<&'m str>) -> Result<Self, HeaderError> {
        if get(names::SCHEMA_VERSION) != Some(SCHEMA_VERSION) {
            return Err(HeaderError::Foreign);
        }
        let plain = |name| get(name).ok_or(HeaderError::Broken(name));
        let string = |name| decode(plain(name)?).ok_or(HeaderError::Broken(name));
        let number = |name| plain(name)?.parse::<u64>().map_err(|_| HeaderError::Broken(name));
        let lanes = |name| lanes(plain(name)?).ok_or(HeaderError::Broken(name));
        let operation = Operation::parse(plain(names::OPERATION)?).ok_or(HeaderError::Broken(names::OPERATION))?;
        let inventory = ObjectKey::new(
            Namespace::new(string(names::INVENTORY_NAMESPACE)?),
            Name::new(string(names::INVENTORY_NAME)?),
        );
        let gvk = || {
            let kind = string(names::KIND)?;
            let mut words = kind.splitn(3, '/');
            let mut word = || words.next().unwrap_or_default();
            Ok(Gvk { group: word().into(), version: word().into(), kind: word().into() })
        };
        let there = || Ok(There { name: string(names::NAME)?, hash: lanes(names::HASH)? });
        let item = match get(names::UID) {
            None => None,
            Some(_) => Some(ItemHeader {
                key: RowKey { target: Name::new(string(names::TARGET)?), uid: Uid::new(&string(names::UID)?) },
                namespace: Namespace::new(string(names::NAMESPACE)?),
                gvk: gvk()?,
                there: (operation == Operation::Upsert).then(there).transpose()?,
            }),
        };
        if operation == Operation::Upsert && item.is_none() {
            return Err(HeaderError::Broken(names::UID));
        }
        let small = |name| number(name).and_then(|n| u32::try_from(n).map_err(|_| HeaderError::Broken(name)));
        let set = match operation {
            Operation::Snapshot => Some(SetHeader {
                part: small(names::PART)?,
                parts: small(names::PARTS)?,
                checksum: plain(names::CHECKSUM)?.to_owned(),
            }),
            _ => None,
        };
        Ok(Self {
            stream: Stream { cluster: Cluster::new(string(names::CLUSTER)?), inventory },
            owner: Owner::parse(&string(names::WRITER)?),
            sequence: Sequence { epoch: number(names::EPOCH)?, n: number(names::N)? },
            operation,
            digest: Digest(lanes(names::DIGEST)?),
            rows: if item.is_none() { number(names::ROWS)? } else { 0 },
            item,
            set,
        })
    }
}

/// Reads 64 hex digits.
fn lanes(text: &str) -> Option<[u64; 4]> {
    let digits = text.as_bytes().as_chunks::<16>();
    let [a, b, c, d] = digits.0 else { return None };
    let lane = |lane: &[u8; 16]| u64::from_str_radix(std::str::from_utf8(lane).ok()?, 16).ok();
    digits.1.is_empty().then_some([lane(a)?, lane(b)?, lane(c)?, lane(d)?])
}
